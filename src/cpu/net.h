/*
 * The text model as the CPU back end runs it: matrices where the files are
 * mapped, norm weights as floats, the KV cache, and the thread pool with the
 * kernels that work on them. A target and a draft head are one net each.
 */
#ifndef CPU_NET_H
#define CPU_NET_H

#include "backend/backend.h"
#include "cpu/kernel.h"
#include "cpu/pool.h"
#include "model/model.h"

struct net_mlp { struct matrix w1, w2, w3; };

struct net_layer {
    float *attention_norm, *ffn_norm;   /* [dim] */
    float *q_a_norm, *kv_a_norm;        /* [q_rank], [kv_rank] */
    struct matrix wq_a, wq_b, wkv_a, wkv_b, wo;
    bool is_moe;
    struct matrix gate;
    struct net_mlp *expert;             /* [n_experts] */
    struct net_mlp shared, dense;
};

struct net {
    struct model_text_params p;
    const struct kernels *k;
    struct pool *pool;          /* borrowed */
    struct matrix embeddings, output, eagle_linear;
    float *norm;                /* [dim] */
    struct net_layer *layer;    /* [n_layers] */
    float *freq;                /* [rope / 2] */
    float score_scale;
    bool expanded;              /* attention: K and V per head, not absorbed */

    /* [n_layers][n_blocks][KV_BLOCK][kv_width]: the normed latent, then the
     * rotated rope key. Borrowed. */
    float *kv;
    uint32_t n_blocks;
    int kv_width;               /* kv_rank + rope */
};

/* Resolves every weight of m into memory and reads it through once, so that
 * the first step does not wait for the disk. m must outlive the net. progress
 * may be NULL. Returns 0, ERR_NOMEM or ERR_IO; net_free is due in any case. */
int net_load(struct net *n, struct model *m, const struct kernels *k,
             struct pool *pool, backend_progress_fn progress, void *arg,
             struct err *e);
void net_free(struct net *n);

/* Bytes of the KV rows of one block over all layers. */
uint64_t net_block_bytes(const struct model_text_params *p);
/* Bytes of the text model's weights as stored, and of what net_load allocates
 * besides (norms, tables). */
uint64_t net_weight_bytes(const struct model *m);
uint64_t net_table_bytes(const struct model_text_params *p);

static inline float *
net_kv_row(const struct net *n, int layer, uint32_t block, uint32_t row)
{
    return n->kv + (((size_t)layer * n->n_blocks + block) * KV_BLOCK + row)
                   * (size_t)n->kv_width;
}

/* A weight as a matrix where its file is mapped, and a norm's weight as floats
 * that the caller frees. Return 0, ERR_NOMEM or ERR_IO. */
int net_matrix(struct model *m, const struct weight *w, struct matrix *out,
               struct err *e);
int net_vector(struct model *m, const struct tensor *t, float **out,
               struct err *e);
/* Bytes of a weight as stored. */
uint64_t weight_bytes(const struct weight *w);

/* Rows [first, first + n) of w as a matrix of their own. */
struct matrix matrix_rows(const struct matrix *w, int64_t first, int64_t n);

#endif
