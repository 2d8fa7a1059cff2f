/*
 * One token through the whole model in one launch (sm_90a): the decoder's
 * layers, the final norm and the head. For the shape of the release, bf16
 * attention and head, NVFP4 experts; other models take the kernels of ops.h.
 */
#ifndef CUDA_DECODE_ONE_H
#define CUDA_DECODE_ONE_H

#include "cuda/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ONE_CTAS 128   /* blocks, one an SM, all resident */
#define ONE_DIM 4096
#define ONE_HEADS 32
#define ONE_Q_RANK 1024
#define ONE_EXPERTS 128
#define ONE_TOP_K 4
#define ONE_HIDDEN 2048
#define ONE_VOCAB_STEP 4096  /* the vocabulary is a multiple of it */
/* Most keys: a block walks at most 32 cache blocks of 64. */
#define ONE_CONTEXT (ONE_CTAS * 64 * 32)

/* Rows as the other kernels would leave them, for the self-test. */
struct decode_one_trace {
    const unsigned *on;   /* device word: 0, nothing is written */
    void *a, *qn, *q, *o; /* as in struct latent and attn_decode */
    float *router;
    void *h;              /* [5, hidden] bf16: experts in slot order */
    struct moe_route route;
};

struct decode_one_map;    /* of the cache, for bulk tensor copies */

/* All pointers device memory. */
struct decode_one {
    /* Of the first layer; those of layer i lie i * stride bytes behind. */
    const void *attention_norm, *ffn_norm, *q_norm, *kv_norm;
    const void *wqkv_a;   /* q_a rows, then kv_a rows */
    const void *wq_b, *uk_t, *uv, *wo, *gate;
    const void *w13, *w2; /* units; the shared expert is number 128 */
    const float *scale13, *scale2;
    uint64_t stride, stride13, stride2;

    const void *embeddings, *norm, *head;
    const float *freq;
    int n_layers, vocab;
    float eps, score_scale, routed_scale;

    /* One value each: the token, and where it stands. */
    const int *token, *slot, *last, *pos, *kv_row, *length, *table_row;
    const int *table;
    const float *l4;
    void *cache;
    int cache_rows;       /* rows of a layer */

    void *board;          /* cuda_decode_one_bytes(), zero at first */
    float *x;             /* [dim] the last layer's output */
    float *logits;        /* [vocab]; NULL: no head */
    unsigned *distinct;   /* as in struct moe_route */
    uint64_t *begin;      /* gets the device's clock, or NULL */
    struct decode_one_trace trace;
};

/* Bytes through which the blocks exchange values; a launch leaves it as the
 * next one expects. */
uint64_t cuda_decode_one_bytes(void);
/* Map of the whole cache of `rows` rows; NULL where there is none. Freed by
 * cuda_decode_one_unmap. */
struct decode_one_map *cuda_decode_one_map(void *cache, uint64_t rows);
void cuda_decode_one_unmap(struct decode_one_map *m);
/* Launches cooperatively. 0 or a cudaError_t. */
int cuda_decode_one(const struct decode_one *a,
                    const struct decode_one_map *map, cudaStream_t s);

#ifdef ONE_PROFILE
#define ONE_STAMPS 24
/* [64][ONE_CTAS][ONE_STAMPS] clocks by layer and block, to the host. */
int cuda_decode_one_stamps(long long *out);
#endif

#ifdef __cplusplus
}
#endif

#endif
