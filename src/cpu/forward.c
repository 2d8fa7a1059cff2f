#include "config.h"

#include "cpu/forward.h"

#include <math.h>
#include <string.h>

/*
 * The pass in the order a reader expects:
 *
 *   x += wo . attention(norm(x));  x += experts(norm(x));  h = norm(x)
 *
 * All arithmetic is fp32. The cache row of a token (normed latent, rotated
 * rope key) is written before any token of the pass reads it, so tokens of one
 * sequence may follow each other in a pass; the causal limit is by position.
 */

/* Hands out 64-byte aligned parts of a memory, or only adds them up. */
struct carver {
    char *base;
    size_t used;
};

static void *
carve(struct carver *c, size_t n, size_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (n * size + 63) / 64 * 64;
    return p;
}

static size_t
max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t
work_layout(struct work *w, const struct net *net,
            const struct model_text_params *p, int cap, int threads,
            void *memory)
{
    struct carver c = {memory, 0};
    size_t n = (size_t)cap, f = sizeof(float);
    size_t dim = (size_t)p->dim, heads = (size_t)p->n_heads;
    size_t choices = n * (size_t)p->top_k, hidden = (size_t)p->expert_hidden;
    size_t common = max_size((size_t)p->n_shared * hidden,
                             p->n_experts == 0 || p->n_dense > 0
                             ? (size_t)p->hidden : 0);
    size_t widest = max_size(max_size(2 * dim, (size_t)p->q_rank),
                             max_size(heads * (size_t)p->v_head,
                                      max_size(common, hidden)));
    widest = max_size(widest, (size_t)p->kv_rank + (size_t)p->rope);
    memset(w, 0, sizeof *w);
    w->cap = cap;
    w->net = net;
    w->x = carve(&c, n * dim, f);
    w->h = carve(&c, n * dim, f);
    w->q_latent = carve(&c, n * (size_t)p->q_rank, f);
    w->ckv = carve(&c, n * (size_t)(p->kv_rank + p->rope), f);
    w->heads = carve(&c, n * heads * (size_t)(p->nope + p->rope), f);
    w->mixed = carve(&c, n * heads * (size_t)p->v_head, f);
    w->cos = carve(&c, n * (size_t)p->rope / 2, f);
    w->sin = carve(&c, n * (size_t)p->rope / 2, f);
    w->router = carve(&c, n * (size_t)p->n_experts, f);
    w->expert = carve(&c, choices, sizeof *w->expert);
    w->expert_weight = carve(&c, choices, f);
    w->place = carve(&c, choices, sizeof *w->place);
    w->start = carve(&c, (size_t)p->n_experts + 1, sizeof *w->start);
    w->gated = carve(&c, choices * hidden, f);
    w->up = carve(&c, choices * hidden, f);
    w->down = carve(&c, choices * dim, f);
    w->shared_gated = carve(&c, n * common, f);
    w->shared_up = carve(&c, n * common, f);
    w->shared_down = carve(&c, n * dim, f);
    w->job = carve(&c, (size_t)p->n_experts + 8, sizeof *w->job);
    w->in = carve(&c, 2 * n + choices, sizeof *w->in);
    w->out = carve(&c, 2 * n + choices, sizeof *w->out);
    w->out2 = carve(&c, 2 * n + choices, sizeof *w->out2);
    w->tile = carve(&c, n, sizeof *w->tile);
    w->scratch_size = (KERNEL_PANEL * widest + attention_scratch(p) + 31)
                      / 16 * 16;
    w->scratch = carve(&c, (size_t)threads * w->scratch_size, f);
    return c.used;
}

void
forward_embed(const struct net *net, const int32_t *id, int n, float *x)
{
    const struct matrix *m = &net->embeddings;
    for (int t = 0; t < n; t++, x += m->cols) {
        net->k->decode(m, id[t], x);
        if (m->scale != 1)
            for (int64_t k = 0; k < m->cols; k++)
                x[k] *= m->scale;
    }
}

struct pass {
    struct work *w;
    int layer, chunk;
};

/* Runs fn over chunks of tokens; small passes stay on this thread. */
static void
each_token(struct pass *p, pool_fn fn)
{
    int n = p->w->n, threads = pool_size(p->w->net->pool);
    p->chunk = n < 8 ? n : (n + threads - 1) / threads;
    pool_run(p->w->net->pool, (n + p->chunk - 1) / p->chunk, fn, p);
}

static int
chunk_end(const struct pass *p, int task)
{
    int end = (task + 1) * p->chunk;
    return end < p->w->n ? end : p->w->n;
}

static void
angles_task(void *arg, int task, int worker)
{
    struct pass *p = arg;
    struct work *w = p->w;
    size_t half = (size_t)w->net->p.rope / 2;
    for (int t = task * p->chunk; t < chunk_end(p, task); t++)
        for (size_t i = 0; i < half; i++) {
            float a = (float)w->q[t].pos * w->net->freq[i];
            w->cos[(size_t)t * half + i] = (float)cos((double)a);
            w->sin[(size_t)t * half + i] = (float)sin((double)a);
        }
}

static void
norm_task(void *arg, int task, int worker)
{
    struct pass *p = arg;
    struct work *w = p->w;
    const struct net *net = w->net;
    size_t dim = (size_t)net->p.dim;
    int n = net->p.n_layers;
    const float *weight = p->layer < n
        ? net->layer[p->layer].attention_norm
        : p->layer < 2 * n ? net->layer[p->layer - n].ffn_norm : net->norm;
    for (int t = task * p->chunk; t < chunk_end(p, task); t++)
        norm_rms(net->k, w->h + (size_t)t * dim, w->x + (size_t)t * dim,
                 weight, (int)dim, net->p.norm_eps);
}

/* h = norm(x) with the attention norm of a layer (which = layer), its MLP norm
 * (n_layers + layer) or the last norm (2 n_layers). */
static void
norm_all(struct work *w, int which)
{
    struct pass p = {w, which, 0};
    each_token(&p, norm_task);
}

/* Norms both latents, rotates the rope key and writes the cache rows. */
static void
latents_task(void *arg, int task, int worker)
{
    struct pass *p = arg;
    struct work *w = p->w;
    const struct net *net = w->net;
    const struct net_layer *l = &net->layer[p->layer];
    size_t half = (size_t)net->p.rope / 2;
    for (int t = task * p->chunk; t < chunk_end(p, task); t++) {
        const struct query *q = &w->q[t];
        float *latent = w->q_latent + (size_t)t * (size_t)net->p.q_rank;
        float *ckv = w->ckv + (size_t)t * (size_t)net->kv_width;
        norm_rms(net->k, latent, latent, l->q_a_norm, net->p.q_rank,
                 net->p.norm_eps);
        norm_rms(net->k, ckv, ckv, l->kv_a_norm, net->p.kv_rank,
                 net->p.norm_eps);
        norm_rotate(ckv + net->p.kv_rank, w->cos + (size_t)t * half,
                    w->sin + (size_t)t * half, (int)half);
        memcpy(net_kv_row(net, p->layer, q->block[q->pos / KV_BLOCK],
                          q->pos % KV_BLOCK),
               ckv, (size_t)net->kv_width * sizeof *ckv);
    }
}

static void
attention_part(struct work *w, int layer)
{
    const struct net *net = w->net;
    const struct model_text_params *p = &net->p;
    const struct net_layer *l = &net->layer[layer];
    size_t dim = (size_t)p->dim, n = (size_t)w->n;
    struct pass pass = {w, layer, 0};
    float **out2 = w->out + w->n;
    norm_all(w, layer);
    rows_in(w->in, w->h, dim, w->n);
    rows_out(w->out, w->q_latent, (size_t)p->q_rank, w->n);
    rows_out(out2, w->ckv, (size_t)net->kv_width, w->n);
    struct job latents[2] = {
        {.w = &l->wq_a, .x = w->in, .y = w->out, .n = w->n},
        {.w = &l->wkv_a, .x = w->in, .y = out2, .n = w->n}};
    matmul_run(w, latents, 2);
    each_token(&pass, latents_task);

    rows_in(w->in, w->q_latent, (size_t)p->q_rank, w->n);
    rows_out(w->out, w->heads,
             (size_t)p->n_heads * (size_t)(p->nope + p->rope), w->n);
    struct job queries = {.w = &l->wq_b, .x = w->in, .y = w->out, .n = w->n};
    matmul_run(w, &queries, 1);
    attention_run(w, layer);

    rows_in(w->in, w->mixed, (size_t)p->n_heads * (size_t)p->v_head, w->n);
    rows_out(w->out, w->h, dim, w->n);
    struct job output = {.w = &l->wo, .x = w->in, .y = w->out, .n = w->n};
    matmul_run(w, &output, 1);
    for (size_t i = 0; i < n * dim; i++)
        w->x[i] += w->h[i];
}

void
forward_run(struct work *w, const struct query *q, int n)
{
    const struct net *net = w->net;
    struct pass pass = {w, 0, 0};
    w->q = q;
    w->n = n;
    each_token(&pass, angles_task);
    for (int i = 0; i < net->p.n_layers; i++) {
        const struct net_layer *l = &net->layer[i];
        attention_part(w, i);
        norm_all(w, net->p.n_layers + i);
        if (l->is_moe)
            moe_run(w, l);
        else
            mlp_run(w, l);
    }
    norm_all(w, 2 * net->p.n_layers);
}
