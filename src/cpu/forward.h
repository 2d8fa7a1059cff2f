/*
 * The forward pass over some tokens, and the parts it is made of. One thread
 * calls; the parts spread their loops over the net's pool. Results of a token
 * do not depend, bit for bit, on the tokens beside it.
 */
#ifndef CPU_FORWARD_H
#define CPU_FORWARD_H

#include "cpu/net.h"

#define FORWARD_MAX 256  /* tokens a pass; a step may take several */
#define ATTENTION_COLUMNS 16 /* queries (token and head) of an attention task */

/* A token to run: where it stands and where its sequence's rows are. */
struct query {
    uint32_t pos;
    const uint32_t *block;  /* block ids of the sequence */
};

/* A run of tokens of one sequence at successive positions. */
struct span {
    int first, n;
};

/* Scratch of a pass, laid out once for at most `cap` tokens. */
struct work {
    int cap;
    const struct net *net;
    int n;                  /* tokens of this pass */
    uint64_t n_experts;     /* routed experts run by all passes so far */
    const struct query *q;  /* [n] */
    float *x;               /* [n][dim] residual stream */
    float *h;               /* [n][dim] normed input, or output of a part */
    float *q_latent;        /* [n][q_rank] */
    float *ckv;             /* [n][kv_width] */
    float *heads;           /* [n][n_heads * (nope + rope)] queries */
    float *mixed;           /* [n][n_heads * v_head] attention output */
    float *cos, *sin;       /* [n][rope / 2] */
    float *router;          /* [n][n_experts] */
    int *expert;            /* [n][top_k] */
    float *expert_weight;   /* [n][top_k] */
    int *place;             /* [n * top_k] rows of up/gated, by expert */
    int *start;             /* [n_experts + 1] into place */
    float *gated, *up;      /* [n * top_k][expert_hidden] */
    float *down;            /* [n * top_k][dim] */
    float *shared_gated, *shared_up; /* [n][shared or dense width] */
    float *shared_down;     /* [n][dim] */
    struct job *job;        /* [n_experts + 8] */
    const float **in;       /* pointers for jobs */
    float **out, **out2;
    struct span *tile;      /* [n] attention tiles */
    float *scratch;         /* [threads][scratch_size] */
    size_t scratch_size;    /* floats */
};

/* Bytes of the scratch; with memory not NULL also points the struct into it
 * (64-byte aligned, that many bytes). */
size_t work_layout(struct work *w, const struct net *net,
                   const struct model_text_params *p, int cap, int threads,
                   void *memory);

/* Runs all layers over w->n tokens whose residual stream is in w->x, writes
 * their KV rows, and leaves the normed result in w->h [n][dim]. */
void forward_run(struct work *w, const struct query *q, int n);

/* x[n][dim] = embeddings of ids. */
void forward_embed(const struct net *net, const int32_t *id, int n, float *x);

/* Products of one parallel loop: y[t] = w . x[t] for t < n; with `pair` the
 * result is silu(w . x) * (pair . x), and y2 is scratch of the same shape. */
struct job {
    const struct matrix *w, *pair;
    const float *const *x;
    float *const *y, *const *y2;
    int n;
    int chunk, first_task;  /* set by matmul_run */
};
void matmul_run(struct work *w, struct job *job, int n_jobs);

/* Pointers base, base + stride, ... */
void rows_in(const float **p, const float *base, size_t stride, int n);
void rows_out(float **p, float *base, size_t stride, int n);

/* y[i] = x[i] / rms(x) * weight[i]; y may be x. */
void norm_rms(const struct kernels *k, float *y, const float *x,
              const float *weight, int n, double eps);
/* Rotates the pairs (2i, 2i+1) of x [2 * n_pairs]. */
void norm_rotate(float *x, const float *cos, const float *sin, int n_pairs);

/* Queries in w->heads, rows in the cache, result in w->mixed. */
void attention_run(struct work *w, int layer);
/* Floats of scratch a thread needs for it, besides a panel. */
size_t attention_scratch(const struct model_text_params *p);

/* Input w->h; adds the result to w->x. */
void moe_run(struct work *w, const struct net_layer *l);
void mlp_run(struct work *w, const struct net_layer *l);

#endif
