#include "config.h"

#include "cpu/forward.h"

#include <math.h>
#include <string.h>

/*
 * Multi-head latent attention over the block cache, in two forms that are the
 * same algebra (model/README has the names):
 *
 *   absorbed   qa_h = Uk_h^T q_nope_h, score = (qa_h . c + q_rope_h . kr);
 *              the cache row is the key and its latent the value:
 *              o_h = Uv_h sum p c. What runs by default.
 *   expanded   k_h = [Uk_h c | kr], v_h = Uv_h c made for each cache row,
 *              then ordinary attention. The check of the first.
 *
 * A task is some tokens of one sequence times some heads; each (token, head)
 * is a column with a running softmax over the blocks of the cache, in the
 * order of positions from 0. The blocks are those of the cache, not of the
 * step, so a column's sums do not depend on how its sequence was cut into
 * steps.
 */

#define TILE_TOKENS 4
#define TILE_HEADS 4

/* Scratch of a task, cut from the thread's. */
struct columns {
    int n;                  /* columns in use */
    int key_width, value_width;
    float *query;           /* [16][key_width] */
    float *score;           /* [16][KV_BLOCK] */
    float *value;           /* [16][value_width] running sum */
    float top[ATTENTION_COLUMNS], sum[ATTENTION_COLUMNS];
    uint32_t pos[ATTENTION_COLUMNS]; /* last position a column sees */
    float *uk;              /* absorbed: [nope][kv_rank] of one head */
    float *key_rows, *value_rows; /* expanded: [KV_BLOCK][width] */
    float *panel;           /* for products */
};

struct run {
    struct work *w;
    int layer, n_tiles, tile_heads;
};

static int
max_int(int a, int b)
{
    return a > b ? a : b;
}

size_t
attention_scratch(const struct model_text_params *p)
{
    size_t key = (size_t)max_int(p->kv_rank, p->nope) + (size_t)p->rope;
    size_t value = (size_t)max_int(p->kv_rank, p->v_head);
    return ATTENTION_COLUMNS * (key + KV_BLOCK + value)
           + (size_t)p->nope * (size_t)p->kv_rank
           + KV_BLOCK * (key + value) + 8 * 16;
}

static float *
cut(float **at, size_t n)
{
    float *p = *at;
    *at += (n + 15) / 16 * 16;
    return p;
}

static void
columns_init(struct columns *c, struct work *w, int worker, int key_width,
             int value_width)
{
    const struct model_text_params *p = &w->net->p;
    float *at = w->scratch + (size_t)worker * w->scratch_size;
    c->n = 0;
    c->key_width = key_width;
    c->value_width = value_width;
    c->query = cut(&at, ATTENTION_COLUMNS * (size_t)key_width);
    c->score = cut(&at, ATTENTION_COLUMNS * KV_BLOCK);
    c->value = cut(&at, ATTENTION_COLUMNS * (size_t)value_width);
    c->uk = cut(&at, (size_t)p->nope * (size_t)p->kv_rank);
    c->key_rows = cut(&at, KV_BLOCK * (size_t)key_width);
    c->value_rows = cut(&at, KV_BLOCK * (size_t)value_width);
    c->panel = at;
}

/* Appends a column for a token and head with its rotated, scaled query in
 * `q` [nope + rope]; returns it. */
static int
columns_add(struct columns *c, const struct work *w, int token, int head,
            float *q)
{
    const struct model_text_params *p = &w->net->p;
    int width = p->nope + p->rope, i = c->n++;
    const float *from = w->heads + ((size_t)token * (size_t)p->n_heads
                                    + (size_t)head) * (size_t)width;
    size_t half = (size_t)p->rope / 2;
    memcpy(q, from, (size_t)width * sizeof *q);
    norm_rotate(q + p->nope, w->cos + (size_t)token * half,
                w->sin + (size_t)token * half, p->rope / 2);
    c->pos[i] = w->q[token].pos;
    float scale = model_query_scale(p, c->pos[i]);
    for (int k = 0; k < width; k++)
        q[k] *= scale;
    c->top[i] = -INFINITY;
    c->sum[i] = 0;
    memset(c->value + (size_t)i * (size_t)c->value_width, 0,
           (size_t)c->value_width * sizeof(float));
    return i;
}

/* Turns the scores of a column into weights against its running maximum;
 * returns how many of the rows it sees. */
static int
columns_softmax(struct columns *c, const struct kernels *k, int i,
                uint32_t first_pos, int rows)
{
    if (c->pos[i] < first_pos)
        return 0;
    int n = (int)(c->pos[i] - first_pos) + 1;
    n = n < rows ? n : rows;
    float *s = c->score + (size_t)i * KV_BLOCK;
    float *v = c->value + (size_t)i * (size_t)c->value_width;
    float top = k->max(s, n);
    if (top > c->top[i]) {
        float shrink = expf(c->top[i] - top);
        for (int j = 0; j < c->value_width; j++)
            v[j] *= shrink;
        c->sum[i] *= shrink;
        c->top[i] = top;
    }
    c->sum[i] += k->exp_sum(s, n, c->top[i]);
    return n;
}

/* Folds one block of keys and values into the columns. Rows are their stride
 * apart, in floats. */
static void
columns_block(struct columns *c, const struct net *net, uint32_t first_pos,
              int rows, const float *key, size_t key_stride,
              const float *value, size_t value_stride)
{
    const struct kernels *k = net->k;
    struct matrix m = {.format = MATRIX_F32, .rows = rows,
                       .cols = c->key_width, .scale = net->score_scale,
                       .data = (const uint8_t *)(const void *)key,
                       .stride = key_stride * sizeof(float)};
    const float *in[ATTENTION_COLUMNS];
    float *out[ATTENTION_COLUMNS];
    rows_in(in, c->query, (size_t)c->key_width, c->n);
    rows_out(out, c->score, KV_BLOCK, c->n);
    k->dot(&m, 0, rows, in, c->n, out, c->panel);
    int n[ATTENTION_COLUMNS];
    bool whole = true;
    for (int i = 0; i < c->n; i++) {
        n[i] = columns_softmax(c, k, i, first_pos, rows);
        whole = whole && n[i] == rows;
    }
    rows_in(in, c->score, KV_BLOCK, c->n);
    rows_out(out, c->value, (size_t)c->value_width, c->n);
    if (whole) /* all but the last block */
        k->mix(value, value_stride, rows, in, c->n, out, c->value_width);
    for (int i = 0; i < c->n && !whole; i++)
        k->mix(value, value_stride, n[i], in + i, 1, out + i,
               c->value_width);
}

static void
columns_finish(struct columns *c)
{
    for (int i = 0; i < c->n; i++) {
        float *v = c->value + (size_t)i * (size_t)c->value_width;
        float scale = 1 / c->sum[i];
        for (int j = 0; j < c->value_width; j++)
            v[j] *= scale;
    }
}

static struct matrix
head_rows(const struct run *r, int head, bool value)
{
    const struct model_text_params *p = &r->w->net->p;
    const struct matrix *m = &r->w->net->layer[r->layer].wkv_b;
    int64_t first = (int64_t)head * (p->nope + p->v_head);
    return value ? matrix_rows(m, first + p->nope, p->v_head)
                 : matrix_rows(m, first, p->nope);
}

static float *
mixed_at(const struct work *w, int token, int head)
{
    const struct model_text_params *p = &w->net->p;
    return w->mixed + ((size_t)token * (size_t)p->n_heads + (size_t)head)
                      * (size_t)p->v_head;
}

/* Adds the columns of one head: nope lanes go through Uk, rope lanes stay. */
static void
absorb(const struct run *r, struct columns *c, const struct span *t, int head)
{
    const struct work *w = r->w;
    const struct model_text_params *p = &w->net->p;
    struct matrix uk = head_rows(r, head, false);
    float *q = c->key_rows; /* free in this form */
    for (int i = 0; i < p->nope; i++)
        w->net->k->decode(&uk, i, c->uk + (size_t)i * (size_t)p->kv_rank);
    for (int i = 0; i < t->n; i++) {
        int k = columns_add(c, w, t->first + i, head, q);
        float *query = c->query + (size_t)k * (size_t)c->key_width;
        const float *in = q;
        memset(query, 0, (size_t)p->kv_rank * sizeof *query);
        w->net->k->mix(c->uk, (size_t)p->kv_rank, p->nope, &in, 1, &query,
                       p->kv_rank);
        for (int j = 0; j < p->kv_rank; j++)
            query[j] *= uk.scale;
        memcpy(query + p->kv_rank, q + p->nope,
               (size_t)p->rope * sizeof *query);
    }
}

static void
absorbed_task(void *arg, int task, int worker)
{
    const struct run *r = arg;
    struct work *w = r->w;
    const struct net *net = w->net;
    const struct span *t = &w->tile[task % r->n_tiles];
    int head = task / r->n_tiles * r->tile_heads;
    int end = head + r->tile_heads;
    if (end > net->p.n_heads)
        end = net->p.n_heads;
    struct columns c;
    columns_init(&c, w, worker, net->kv_width, net->p.kv_rank);
    for (int h = head; h < end; h++)
        absorb(r, &c, t, h);
    uint32_t last = w->q[t->first + t->n - 1].pos;
    const uint32_t *block = w->q[t->first].block;
    for (uint32_t b = 0; b <= last / KV_BLOCK; b++) {
        uint32_t left = last + 1 - b * KV_BLOCK;
        const float *rows = net_kv_row(net, r->layer, block[b], 0);
        columns_block(&c, net, b * KV_BLOCK,
                      (int)(left < KV_BLOCK ? left : KV_BLOCK), rows,
                      (size_t)net->kv_width, rows, (size_t)net->kv_width);
    }
    columns_finish(&c);
    for (int h = head; h < end; h++) {
        const float *in[TILE_TOKENS];
        float *out[TILE_TOKENS];
        struct matrix uv = head_rows(r, h, true);
        rows_in(in, c.value + (size_t)(h - head) * (size_t)t->n
                    * (size_t)c.value_width, (size_t)c.value_width, t->n);
        for (int i = 0; i < t->n; i++)
            out[i] = mixed_at(w, t->first + i, h);
        net->k->dot(&uv, 0, uv.rows, in, t->n, out, c.panel);
    }
}

/* Makes the keys and values of a block of cache rows for one head. */
static void
expand(const struct run *r, struct columns *c, int head, const float *rows,
       int n)
{
    const struct net *net = r->w->net;
    const struct model_text_params *p = &net->p;
    struct matrix uk = head_rows(r, head, false);
    struct matrix uv = head_rows(r, head, true);
    const float *in[KV_BLOCK];
    float *keys[KV_BLOCK], *values[KV_BLOCK];
    rows_in(in, rows, (size_t)net->kv_width, n);
    rows_out(keys, c->key_rows, (size_t)c->key_width, n);
    rows_out(values, c->value_rows, (size_t)c->value_width, n);
    net->k->dot(&uk, 0, uk.rows, in, n, keys, c->panel);
    net->k->dot(&uv, 0, uv.rows, in, n, values, c->panel);
    for (int i = 0; i < n; i++)
        memcpy(keys[i] + p->nope, in[i] + p->kv_rank,
               (size_t)p->rope * sizeof(float));
}

static void
expanded_task(void *arg, int task, int worker)
{
    const struct run *r = arg;
    struct work *w = r->w;
    const struct net *net = w->net;
    const struct span *t = &w->tile[task % r->n_tiles];
    int head = task / r->n_tiles;
    struct columns c;
    columns_init(&c, w, worker, net->p.nope + net->p.rope, net->p.v_head);
    for (int i = 0; i < t->n; i++)
        columns_add(&c, w, t->first + i, head,
                    c.query + (size_t)i * (size_t)c.key_width);
    uint32_t last = w->q[t->first + t->n - 1].pos;
    const uint32_t *block = w->q[t->first].block;
    for (uint32_t b = 0; b <= last / KV_BLOCK; b++) {
        uint32_t left = last + 1 - b * KV_BLOCK;
        int n = (int)(left < KV_BLOCK ? left : KV_BLOCK);
        expand(r, &c, head, net_kv_row(net, r->layer, block[b], 0), n);
        columns_block(&c, net, b * KV_BLOCK, n, c.key_rows,
                      (size_t)c.key_width, c.value_rows,
                      (size_t)c.value_width);
    }
    columns_finish(&c);
    for (int i = 0; i < t->n; i++)
        memcpy(mixed_at(w, t->first + i, head),
               c.value + (size_t)i * (size_t)c.value_width,
               (size_t)net->p.v_head * sizeof(float));
}

/* Cuts the tokens into runs of one sequence, at most `most` long. */
static int
make_tiles(struct work *w, int most)
{
    int n_tiles = 0;
    for (int i = 0; i < w->n; i++) {
        struct span *t = n_tiles > 0 ? &w->tile[n_tiles - 1] : NULL;
        if (t != NULL && t->n < most && w->q[i].block == w->q[i - 1].block
            && w->q[i].pos == w->q[i - 1].pos + 1)
            t->n++;
        else
            w->tile[n_tiles++] = (struct span){i, 1};
    }
    return n_tiles;
}

void
attention_run(struct work *w, int layer)
{
    const struct net *net = w->net;
    struct run r = {.w = w, .layer = layer, .tile_heads = TILE_HEADS};
    if (net->expanded) {
        r.n_tiles = make_tiles(w, ATTENTION_COLUMNS);
        pool_run(net->pool, r.n_tiles * net->p.n_heads, expanded_task, &r);
        return;
    }
    r.n_tiles = make_tiles(w, TILE_TOKENS);
    int groups = (net->p.n_heads + TILE_HEADS - 1) / TILE_HEADS;
    pool_run(net->pool, r.n_tiles * groups, absorbed_task, &r);
}
