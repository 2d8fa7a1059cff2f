/*
 * Launchers of the CUDA kernels, one family per .cu. Each checks its shapes,
 * picks a variant and launches; none allocates or synchronises, so all can be
 * captured. They return 0 or a cudaError_t. Pointers are device memory unless
 * said; matrices are row-major.
 */
#ifndef CUDA_OPS_H
#define CUDA_OPS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The geometry of latent attention that the kernels are written for. */
#define MLA_NOPE 64   /* query lanes without position, a head */
#define MLA_ROPE 64
#define MLA_QK 128    /* both */
#define MLA_V 128
#define MLA_RANK 256  /* latent */
#define MLA_ROW 320   /* a cached row: latent, then rope key */

/* Launch with programmatic dependencies (from sm_90 on). Process-wide; set by
 * cuda_open. */
extern bool cuda_pdl;

/* How a matrix lies in device memory. */
enum layout {
    LAYOUT_BF16,  /* [rows, cols] bf16 */
    LAYOUT_FP8,   /* [rows, cols] e4m3 */
    LAYOUT_NVFP4  /* units of 16 x 512, README "NVFP4 units" */
};
/* Bytes of such a matrix. */
uint64_t cuda_matrix_bytes(enum layout l, int rows, int cols);

struct cuda_matrix {
    const void *data;
    enum layout layout;
    int rows, cols;   /* rows a multiple of 16, cols of 64 */
    float scale;      /* of the products: FP8 multiplier, NVFP4 128 / global */
};

/* out[i][r] = scale * sum_k w[r][k] x[i][k], n rows of x. */
enum gemm_out {
    GEMM_BF16,   /* out bf16 */
    GEMM_F32,    /* out float */
    GEMM_ADD     /* out float, added to */
};
struct gemm {
    struct cuda_matrix w;
    const void *x;    /* [n, ldx] bf16, 16-byte aligned rows */
    int ldx, n;
    int ldw;          /* of w, 0: cols; cuda_blas_gemm only */
    void *out;        /* [n, ldo] */
    int ldo;
    enum gemm_out form;
};
int cuda_gemm(const struct gemm *g, cudaStream_t s);
/* The same for few tokens (sm_90a, bf16 matrices of some shapes, gemm_few.cu).
 * ready: x was there when the launch before let this one start. */
bool cuda_gemm_few_fits(const struct gemm *g);
int cuda_gemm_few(const struct gemm *g, bool ready, cudaStream_t s);
/* The same by a library (gemm_blas.c), bf16 matrices only. handle from
 * cuda_blas_open; a cudaError_t or -1. */
struct cuda_blas;
struct cuda_blas *cuda_blas_open(void *workspace, uint64_t size);
void cuda_blas_close(struct cuda_blas *b);
int cuda_blas_gemm(struct cuda_blas *b, const struct gemm *g,
                   cudaStream_t s);

/* --- mixture of experts --------------------------------------------------- */

#define MOE_SLOTS 9     /* most experts a token: 8 routed and the shared one */
#define MOE_EXPERTS 256 /* most experts, the shared one included */

/* A run of up to `width` assignments of one expert in the sorted order. */
struct moe_item {
    int expert, first, n, variant;
};

/* What routing leaves for the expert kernels. An assignment is token * slots
 * + slot; the last slot is the shared expert (index n_experts), weight 1. */
struct moe_route {
    uint8_t *id;         /* [n * slots] expert of an assignment */
    float *weight;       /* [n * slots] */
    int *order;          /* [n * slots] assignment at a sorted position */
    int *position;       /* [n * slots] sorted position of an assignment */
    struct moe_item *item; /* [cuda_moe_items(...)] */
    int *n_item;         /* [1] */
    unsigned *distinct;  /* [1] counts active routed experts, added to */
};
#define MOE_WIDE 0      /* widths of items: the prefill kernel's tiles */
#define MOE_NARROW (-1)
/* Most items that n tokens can make. */
int cuda_moe_items(int n, int slots, int n_experts, int width);

/* Top k of softmax(logits [n, ldl]), renormalised times routed_scale;
 * n_experts without the shared one, slots with it. */
int cuda_route_top(const float *logits, int ldl, int n, int n_experts,
                   int slots, float routed_scale, const struct moe_route *r,
                   cudaStream_t s);
/* Sorts the assignments by expert and cuts them into items. width > 0: items
 * of that many; else the token tiles of the sm_90a prefill kernel.
 * n_experts with the shared one. */
int cuda_route_sort(int n, int slots, int n_experts, int width,
                    const struct moe_route *r, cudaStream_t s);
/* Both in one launch, for n up to ROUTE_FEW and width > 0. */
#define ROUTE_FEW 32
int cuda_route_few(const float *logits, int ldl, int n, int n_experts,
                   int slots, float routed_scale, int width,
                   const struct moe_route *r, cudaStream_t s);

/* Experts of one layer; the row tiles of w13 hold 8 gate rows, then the 8 up
 * rows of the same hidden units. */
struct moe {
    enum layout layout;
    int n_experts;       /* with the shared one */
    int slots, dim, hidden;
    const void *w13, *w2; /* [n_experts] matrices, stride in bytes */
    uint64_t stride13, stride2;
    const float *scale13; /* [n_experts][2]: gate, up */
    const float *scale2;  /* [n_experts] */
    const void *x;        /* [n, dim] bf16 */
    int n;
    void *h;              /* [n * slots, hidden] bf16, sorted order */
    void *y;              /* [n * slots, dim] bf16, sorted order */
    struct moe_route route;
};
/* Items of width 8 (n up to 32), or 32, 64, 128. */
int cuda_moe_up(const struct moe *m, int width, cudaStream_t s);
int cuda_moe_down(const struct moe *m, int width, cudaStream_t s);
/* All in one persistent launch (sm_90a, NVFP4, moe_mid.cu), or all but the
 * shared one; items of 8, directly behind route_few or route_sort, beside which
 * it begins with the shared one. barrier: [1] zeroed once a step, grows by the
 * grid a launch. */
bool cuda_moe_mid_fits(const struct moe *m);
int cuda_moe_mid(const struct moe *m, bool shared, unsigned *barrier,
                 int n_sm, cudaStream_t s);
/* The shared one alone (sm_90a, NVFP4, moe_shared.cu), where moe_mid fits: up
 * directly before the router's product, which may run beside it, down directly
 * behind route_few or route_sort, beside which it runs. */
int cuda_moe_shared_up(const struct moe *m, cudaStream_t s);
int cuda_moe_shared_down(const struct moe *m, cudaStream_t s);
/* Both with wgmma (sm_90a, NVFP4, moe_prefill.cu); items of width MOE_NARROW,
 * which moe_narrow.cu takes, or MOE_WIDE. gather: [n * slots, dim] bf16 scratch, may be y. */
bool cuda_moe_prefill_fits(const struct moe *m);
struct moe_maps;
struct moe_maps *cuda_moe_maps(void *gather, void *h, int rows, int dim,
                               int hidden);
void cuda_moe_maps_free(struct moe_maps *maps);
int cuda_moe_prefill(const struct moe *m, const struct moe_maps *maps,
                     int width, void *gather, int n_sm, cudaStream_t s);

/* --- norms, embedding, rope ------------------------------------------------ */

/* x[i] = embedding[token[i]] (float), h[i] = rms(x[i]) * norm. token < 0
 * means last[slot[i]]. Rows with image >= 0 take vector[image[i]] instead. */
struct embed {
    const void *table;     /* [vocab, dim] bf16 */
    const int *token, *slot, *last;
    const int *image;      /* [n] row of vector, -1: none; may be NULL */
    const void *vector;    /* [.., dim] bf16 */
    float *x;
    void *h;
    const void *norm;      /* [dim] bf16 */
    float eps;
    int n, dim, vocab;
    unsigned *barrier;     /* zeroed for the step's grid barriers, or NULL */
    uint64_t *begin;       /* gets the device's clock, or NULL */
};
int cuda_embed(const struct embed *a, cudaStream_t s);
/* h = rms(x) * norm, rows picked by row (NULL: all). */
int cuda_norm(const float *x, const int *row, const void *norm, float eps,
              void *h, int n, int dim, cudaStream_t s);
/* x += sum over slots of weight * y, then h = rms(x) * norm (norm NULL: no
 * h). */
int cuda_combine(const struct moe *m, float *x, const void *norm, float eps,
                 void *h, cudaStream_t s);
/* Per token cos and sin of pos * freq[i], [n, 32] float2. */
int cuda_rope_table(const int *pos, const float *freq, void *table, int n,
                    cudaStream_t s);
/* a [n, lda] bf16 holds q latent, kv latent, rope key. q = rms(q latent);
 * the cached row of token i goes to cache + kv_row[i] * MLA_ROW. */
struct latent {
    const void *a;
    int lda, q_rank, n;
    const void *q_norm, *kv_norm;
    float eps;
    const void *rope;     /* from cuda_rope_table */
    const int *kv_row;    /* -1: none */
    void *q;              /* [n, q_rank] bf16 */
    void *cache;          /* bf16 */
};
int cuda_latent(const struct latent *a, cudaStream_t s);

/* --- attention -------------------------------------------------------------- */

/* q [n, heads * MLA_QK] bf16 before rope. */
struct q_prepare {
    const void *q;
    const void *rope;
    const float *scale;   /* [n] query scale by position */
    int n, heads;
    const void *uk_t;     /* [heads, MLA_RANK, MLA_NOPE] bf16 */
    float uk_scale;
    void *out;            /* absorbed: [n, heads, MLA_ROW] bf16;
                             rotated: [n, heads, MLA_QK] */
};
int cuda_q_absorb(const struct q_prepare *a, cudaStream_t s);
int cuda_q_rotate(const struct q_prepare *a, cudaStream_t s);

/* Absorbed attention of single query tokens over the block cache, split over
 * the keys: partial results, then merged and multiplied by W_UV. */
struct attn_decode {
    const void *q;        /* [n, heads, MLA_ROW] bf16 */
    const void *cache;    /* of this layer */
    const int *table;     /* [.., ld_table] block ids */
    int ld_table;
    const int *table_row; /* [n] row of table */
    const int *length;    /* [n] keys a token sees; 0: skip */
    int n, heads, splits;
    int tile;             /* keys a tile: splits are cut there */
    float scale;          /* of the scores */
    float *part;          /* [n, heads, splits, MLA_RANK] */
    float *part_ml;       /* [n, heads, splits, 2] max and sum */
    const void *uv;       /* [heads, MLA_V, MLA_RANK] bf16 */
    float uv_scale;
    void *out;            /* [n, heads * MLA_V] bf16 */
};
int cuda_attn_decode(const struct attn_decode *a, cudaStream_t s);
#define ATTN_TILE 32
/* The same in tiles of 64 with a larger block (sm_90a, attn_decode_sm90.cu). */
int cuda_attn_decode_sm90(const struct attn_decode *a, cudaStream_t s);
#define ATTN_TILE_SM90 64
int cuda_attn_merge(const struct attn_decode *a, cudaStream_t s);

/* Copies rows of the cache: keys [from, from + n) of one sequence to
 * out [n, MLA_ROW] bf16, and zeroes the rows up to a multiple of 128. */
int cuda_kv_gather(const void *cache, const int *table, int from, int n,
                   void *out, cudaStream_t s);

/* Causal attention of one sequence's query tokens over a piece of keys in
 * expanded form. Pieces are given in order; m, l and acc carry the state. */
struct attn_prefill {
    const void *q;        /* [n, heads, MLA_QK] bf16, rotated */
    const void *kv;       /* [n_key, heads, MLA_NOPE + MLA_V] bf16 */
    const void *row;      /* [n_key, MLA_ROW] bf16: rope keys */
    int n, heads;
    int pos;              /* position of query 0 */
    int from, n_key;      /* position of key 0, keys of the piece */
    bool first, last;
    float scale;
    float *acc;           /* [n, heads, MLA_V] */
    float *ml;            /* [n, heads, 2] */
    void *out;            /* [n, heads * MLA_V] bf16 */
};
int cuda_attn_prefill(const struct attn_prefill *a, cudaStream_t s);
/* The same with wgmma (sm_90a). Keys [piece, heads * MLA_NOPE], gathered rows
 * [piece, MLA_ROW] and values [heads * MLA_V, piece] are where the maps say
 * (kv and row are not used), and finite up to a multiple of 128 keys. */
struct attn_maps;
struct attn_maps *cuda_attn_maps(void *key, void *rows, void *value,
                                 int piece, int heads);
void cuda_attn_maps_free(struct attn_maps *m);
int cuda_attn_prefill_sm90(const struct attn_prefill *a,
                           const struct attn_maps *maps, cudaStream_t s);

/* --- vision tower ------------------------------------------------------------- */

#define VISION_HEAD 64    /* lanes of a head */

/* Rows of channel, y, x of each patch, patches row by row; zeros behind. */
struct patches {
    const float *pixels;  /* [channels, height, width] */
    int height, width, channels, patch;
    void *out;            /* [patches, ldo] bf16 */
    int ldo;
};
int cuda_patches(const struct patches *a, cudaStream_t s);
/* x = rms(x) * norm, in fp32. */
int cuda_norm_kept(float *x, const void *norm, float eps, int n, int dim,
                   cudaStream_t s);
/* Rotates queries and keys by their patch's row and column, in place. */
struct rope_2d {
    void *qkv;            /* [n, 3 * heads * VISION_HEAD] bf16 */
    const void *table;    /* [2][lines][16] float2: by row, by column */
    int lines;
    int n, cols, heads;   /* patches, patches across */
    bool halves;          /* pairs are lanes (i, i + 32), not (2i, 2i + 1) */
};
int cuda_rope_2d(const struct rope_2d *a, cudaStream_t s);
/* Every patch attends to all n. */
struct attn_full {
    const void *qkv;      /* [n, 3 * heads * VISION_HEAD] bf16 */
    void *out;            /* [n, heads * VISION_HEAD] bf16 */
    int n, heads;
    float scale;          /* of the scores */
};
int cuda_attn_full(const struct attn_full *a, cudaStream_t s);
/* SiLU(gate) * up over the gates of x [n, 2 * hidden] bf16. */
int cuda_gate_up(void *x, int n, int hidden, cudaStream_t s);
/* Cells of merge x merge patches, normed (norm NULL: as they are): a cell's
 * row is channel slowest, then y, then x. */
struct merge_cells {
    const float *x;       /* [rows * cols, dim] */
    const void *norm;
    float eps;
    int rows, cols, dim, merge;
    void *out;            /* [cells, dim * merge * merge] bf16 */
};
int cuda_merge_cells(const struct merge_cells *a, cudaStream_t s);
/* Exact GELU of n numbers, bf16, in place. */
int cuda_gelu(void *x, uint64_t n, cudaStream_t s);

/* --- sampling ---------------------------------------------------------------- */

/* One row of logits to draw from or to look ids up in. */
struct sample_row {
    float temperature, top_p, min_p;
    float presence, frequency, repetition;
    uint64_t seed;
    uint32_t draw;        /* index of this draw */
    int top_k;
    int slot;             /* last[slot] = token drawn; counts[slot] */
    int row;              /* of the logits of this chunk */
    int out;              /* index in the results */
    int target;           /* >= 0: log-probability of it, nothing drawn */
    int n_top;            /* -1: no log-probabilities */
    int mask;             /* row of the mask bits, -1: none */
    int bias, n_bias;     /* range of the bias list */
    bool draws, raw, penal;
};
struct sample_out {
    int id;
    float logprob;
    int rank;
    uint64_t done;        /* the device's clock, ns */
};
struct sample {
    const struct sample_row *row;  /* [n] */
    int n, vocab;
    float *logits;                 /* [.., vocab], overwritten */
    float *copy;                   /* [.., vocab] scratch for raw_logprobs */
    const uint32_t *mask;          /* [.., vocab / 32] */
    const int *bias_id;
    const float *bias;
    uint16_t *count;               /* [slots, vocab]: output count, bit 15
                                      in the prompt */
    int *last;                     /* [slots] */
    struct sample_out *out;        /* [..] */
    int *top_id;                   /* [.., BACKEND_TOP_MAX] by out */
    float *top_logprob;
    const unsigned *distinct;      /* as in struct moe_route, copied to */
    unsigned *experts;             /* this; NULL: not */
};
int cuda_sample(const struct sample *a, cudaStream_t s);
/* For a step that draws nothing: the device's clock into *clock, *distinct
 * into *experts. */
int cuda_step_end(uint64_t *clock, const unsigned *distinct,
                  unsigned *experts, cudaStream_t s);
/* Rebuilds counts[slot] from ids [n] (the first n_prompt are the prompt). */
int cuda_count_ids(uint16_t *count, int vocab, int slot, const int *id,
                   int n, int n_prompt, bool clear, cudaStream_t s);

/* --- loading ------------------------------------------------------------------ */

/* Whether this build has kernels for the device: the status of asking. */
int cuda_has_kernels(void);

/* Repacking of stored tensors (device staging to final place). */
int cuda_pack_fp4(const void *codes, const void *blocks, int rows, int cols,
                  int row_step, int row_first, void *out, cudaStream_t s);
int cuda_pack_rows(const void *in, int rows, uint64_t row_bytes,
                   int row_step, int row_first, void *out, cudaStream_t s);
int cuda_unpack_bf16(enum layout stored, const void *data,
                     const void *blocks, int rows, int cols, void *out,
                     cudaStream_t s);
int cuda_split_kv_b(const void *kv_b, int heads, void *uk, void *uk_t,
                    void *uv, cudaStream_t s);

#ifdef __cplusplus
}
#endif

#endif
