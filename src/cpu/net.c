#include "config.h"

#include "cpu/net.h"

#include <stdlib.h>
#include <string.h>

struct matrix
matrix_rows(const struct matrix *w, int64_t first, int64_t n)
{
    struct matrix m = *w;
    m.rows = n;
    m.data += (size_t)first * w->stride;
    if (m.block != NULL)
        m.block += (size_t)first * w->block_stride;
    return m;
}

struct loader {
    struct net *n;
    struct model *m;
    struct err *e;
    int code;       /* first failure */
    uint64_t done;  /* bytes read through */
};

/* Reads a byte of every page. */
static void
touch(struct loader *l, const uint8_t *p, uint64_t n)
{
    volatile const uint8_t *at = p;
    for (uint64_t i = 0; i < n; i += 4096)
        (void)at[i];
    l->done += n;
}

int
net_matrix(struct model *m, const struct weight *w, struct matrix *out,
           struct err *e)
{
    *out = (struct matrix){.rows = w->rows, .cols = w->cols,
                           .scale = w->scale};
    const uint8_t *data = model_data(m, w->data, e);
    if (data == NULL)
        return e ? e->code : ERR_IO;
    if (w->format == WEIGHT_NVFP4) {
        out->format = MATRIX_NVFP4;
        out->data = data;
        out->stride = (size_t)w->cols / 2;
        out->block = model_data(m, w->block, e);
        out->block_stride = (size_t)w->cols / 16;
        return out->block ? 0 : e ? e->code : ERR_IO;
    }
    switch (w->data->dtype) {
    case DTYPE_F8_E4M3: out->format = MATRIX_FP8; break;
    case DTYPE_BF16: out->format = MATRIX_BF16; break;
    case DTYPE_F16: out->format = MATRIX_F16; break;
    default: out->format = MATRIX_F32;
    }
    out->stride = (size_t)w->cols * dtype_size(w->data->dtype);
    out->data = data + w->first * dtype_size(w->data->dtype);
    return 0;
}

int
net_vector(struct model *m, const struct tensor *t, float **out,
           struct err *e)
{
    struct weight w = {.rows = 1, .cols = t->shape[0], .data = t, .scale = 1};
    const void *data = model_data(m, t, e);
    if (data == NULL)
        return e ? e->code : ERR_IO;
    *out = malloc((size_t)w.cols * sizeof **out);
    if (*out == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %.200s", t->name);
    weight_row(&w, data, NULL, 0, *out);
    return 0;
}

static struct matrix
resolve(struct loader *l, const struct weight *w)
{
    struct matrix m = {.rows = w->rows, .cols = w->cols, .scale = w->scale};
    if (w->data == NULL || l->code != 0)
        return m;
    l->code = net_matrix(l->m, w, &m, l->e);
    if (l->code == 0)
        touch(l, m.data, (uint64_t)m.rows * m.stride);
    if (l->code == 0 && m.block != NULL)
        touch(l, m.block, (uint64_t)m.rows * m.block_stride);
    return m;
}

static struct net_mlp
resolve_mlp(struct loader *l, const struct mlp_weights *w)
{
    return (struct net_mlp){resolve(l, &w->w1), resolve(l, &w->w2),
                            resolve(l, &w->w3)};
}

/* A norm's weight as floats; owned by the net. */
static float *
vector(struct loader *l, const struct tensor *t)
{
    float *out = NULL;
    if (l->code == 0)
        l->code = net_vector(l->m, t, &out, l->e);
    return out;
}

static void
resolve_layer(struct loader *l, const struct layer_weights *w,
              struct net_layer *out)
{
    int n_experts = l->n->p.n_experts;
    out->attention_norm = vector(l, w->attention_norm);
    out->ffn_norm = vector(l, w->ffn_norm);
    out->q_a_norm = vector(l, w->q_a_norm);
    out->kv_a_norm = vector(l, w->kv_a_norm);
    out->wq_a = resolve(l, &w->wq_a);
    out->wq_b = resolve(l, &w->wq_b);
    out->wkv_a = resolve(l, &w->wkv_a);
    out->wkv_b = resolve(l, &w->wkv_b);
    out->wo = resolve(l, &w->wo);
    out->is_moe = w->is_moe;
    if (!w->is_moe) {
        out->dense = resolve_mlp(l, &w->dense);
        return;
    }
    out->gate = resolve(l, &w->gate);
    if (l->n->p.n_shared > 0)
        out->shared = resolve_mlp(l, &w->shared);
    out->expert = calloc((size_t)n_experts, sizeof *out->expert);
    if (out->expert == NULL) {
        l->code = err_set(l->e, ERR_NOMEM, "no memory for the experts");
        return;
    }
    for (int i = 0; i < n_experts; i++)
        out->expert[i] = resolve_mlp(l, &w->expert[i]);
}

int
net_load(struct net *n, struct model *m, const struct kernels *k,
         struct pool *pool, backend_progress_fn progress, void *arg,
         struct err *e)
{
    const struct text_weights *w = model_text(m);
    struct err local = {0};
    struct loader l = {n, m, e ? e : &local, 0, 0};
    memset(n, 0, sizeof *n);
    n->p = model_params(m)->text;
    n->k = k;
    n->pool = pool;
    n->kv_width = n->p.kv_rank + n->p.rope;
    n->score_scale = model_score_scale(&n->p);
    n->freq = malloc((size_t)n->p.rope / 2 * sizeof *n->freq);
    n->layer = calloc((size_t)n->p.n_layers, sizeof *n->layer);
    if (n->freq == NULL || n->layer == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the layers");
    model_rope_freqs(&n->p, n->freq);
    n->embeddings = resolve(&l, &w->embeddings);
    n->output = resolve(&l, &w->output);
    n->eagle_linear = resolve(&l, &w->eagle_linear);
    n->norm = vector(&l, w->norm);
    uint64_t total = progress ? net_weight_bytes(m) : 0;
    for (int i = 0; i < n->p.n_layers && l.code == 0; i++) {
        resolve_layer(&l, &w->layer[i], &n->layer[i]);
        if (progress != NULL)
            progress(arg, l.done < total ? l.done : total, total);
    }
    return l.code;
}

void
net_free(struct net *n)
{
    for (int i = 0; n->layer != NULL && i < n->p.n_layers; i++) {
        struct net_layer *l = &n->layer[i];
        free(l->attention_norm);
        free(l->ffn_norm);
        free(l->q_a_norm);
        free(l->kv_a_norm);
        free(l->expert);
    }
    free(n->layer);
    free(n->norm);
    free(n->freq);
    memset(n, 0, sizeof *n);
}

uint64_t
net_block_bytes(const struct model_text_params *p)
{
    return (uint64_t)p->n_layers * KV_BLOCK
           * (uint64_t)(p->kv_rank + p->rope) * sizeof(float);
}

uint64_t
weight_bytes(const struct weight *w)
{
    if (w->data == NULL)
        return 0;
    uint64_t n = (uint64_t)w->rows * (uint64_t)w->cols;
    return w->format == WEIGHT_NVFP4 ? n / 2 + n / 16
                                     : n * dtype_size(w->data->dtype);
}

static uint64_t
mlp_bytes(const struct mlp_weights *m)
{
    return weight_bytes(&m->w1) + weight_bytes(&m->w2) + weight_bytes(&m->w3);
}

uint64_t
net_weight_bytes(const struct model *m)
{
    const struct text_weights *w = model_text(m);
    const struct model_text_params *p = &model_params(m)->text;
    uint64_t sum = weight_bytes(&w->embeddings)
                   + weight_bytes(&w->eagle_linear) + w->norm->size;
    if (w->output.data != w->embeddings.data)
        sum += weight_bytes(&w->output);
    for (int i = 0; i < p->n_layers; i++) {
        const struct layer_weights *l = &w->layer[i];
        sum += l->attention_norm->size + l->ffn_norm->size
               + l->q_a_norm->size + l->kv_a_norm->size
               + weight_bytes(&l->wq_a) + weight_bytes(&l->wq_b)
               + weight_bytes(&l->wkv_a) + weight_bytes(&l->wkv_b)
               + weight_bytes(&l->wo) + weight_bytes(&l->gate)
               + mlp_bytes(&l->shared) + mlp_bytes(&l->dense);
        for (int k = 0; l->is_moe && k < p->n_experts; k++)
            sum += mlp_bytes(&l->expert[k]);
    }
    return sum;
}

uint64_t
net_table_bytes(const struct model_text_params *p)
{
    uint64_t a_layer = (2 * (uint64_t)p->dim + (uint64_t)p->q_rank
                        + (uint64_t)p->kv_rank) * sizeof(float)
                       + sizeof(struct net_layer)
                       + (uint64_t)p->n_experts * sizeof(struct net_mlp);
    return (uint64_t)p->n_layers * a_layer
           + ((uint64_t)p->dim + (uint64_t)p->rope / 2) * sizeof(float);
}
