/*
 * What the files of the CUDA back end share: the device, the weights in their
 * final places, the workspace, and the step in the making. All device memory
 * is one allocation that device_plan.c lays out.
 */
#ifndef CUDA_CUDA_STATE_H
#define CUDA_CUDA_STATE_H

#include <cuda_runtime_api.h>

#include "backend/backend.h"
#include "cuda/ops.h"

#define GRAPH_MAX 256      /* most sequences a decode graph serves */
#define LOGIT_ROWS 128     /* rows of logits at a time (at least max graph) */
#define KV_PIECE 16384     /* keys expanded at a time in prefill */
#define NARROW_ROWS 80     /* tokens an expert up to which tiles are narrow */
#define PREFILL_MIN 17     /* query tokens from which attention expands */
#define ATTN_BLOCKS 2      /* blocks of attn_decode an SM holds */
#define FORBID_MAX 64      /* ids forbidden by a bias; more take a mask */
#define BIAS_ROW (BACKEND_BIAS_MAX + FORBID_MAX)
#define BLAS_WORKSPACE (32u << 20)
#define TOWER_EPS 1e-5f    /* of norms; the projector has the text model's */
#define IMAGES 64          /* most images encoded at a time */
#define IMAGES_LARGE 4     /* of the largest size that there is room for */
#define MLP_PATCHES 4096   /* patches whose hidden units are there at once */
#define IMAGE_SLICE 5e11   /* operations of an encoding between two steps */

struct cuda_layer {
    const void *attention_norm, *ffn_norm, *q_norm, *kv_norm;
    struct cuda_matrix wq_a, wkv_a; /* one behind the other when fused */
    bool fused;
    struct cuda_matrix wq_b, wo, gate;
    struct cuda_matrix kv_b;        /* bf16 [heads * 192, 256] */
    struct cuda_matrix uk;     /* its key rows, bf16 [heads * 64, 256] */
    void *uk_t, *uv;
    enum layout moe;
    void *w13, *w2;
    uint64_t stride13, stride2;
    float *scale13, *scale2;   /* device */
    float *host13, *host2;     /* their values while loading */
};

/* The vision tower; absent (layer NULL) in models without. */
struct cuda_tower_layer {
    const void *attention_norm, *ffn_norm;
    struct cuda_matrix qkv, wo, w13, w2; /* w13: gate rows, then up rows */
};
struct cuda_image {            /* vectors of an encoded image; n 0: free */
    uint32_t first, n;         /* rows of cuda_tower.vector */
};
struct cuda_encoding {         /* an image on its way; handle 0: none */
    uint64_t handle;
    int height, width;         /* pixels */
    int rows, cols, n;         /* patches, n = rows * cols */
    int cells, layer;          /* merged patches; layers done */
};
struct cuda_tower {
    struct model_vision_params p;
    struct cuda_tower_layer *layer;
    struct cuda_matrix conv, merge, w_in, w_out;
    const void *ln_pre, *projector_norm; /* the second may be NULL */
    void *angles;              /* [2][lines][VISION_HEAD / 4] float2 */
    int lines;                 /* most patches a side */
    uint32_t patches, cells;   /* of the largest image */
    /* workspace */
    float *pixels, *x;         /* x [patches, dim] */
    void *h, *wide;            /* [patches, dim] bf16; what does not last */
    void *vector;              /* [rows, text dim] bf16 */
    uint32_t rows;
    struct cuda_image image[IMAGES];
    struct cuda_encoding making;
    int failed;                /* a launch without a step to tell it; or 0 */
    /* Called behind every launch with its name, by the self-test; another
     * result than 0 ends the encoding. */
    int (*watch)(void *arg, const char *launch);
    void *watch_arg;
    cudaStream_t copy;         /* pixels come while steps run */
    cudaEvent_t copied, cut;   /* pixels are there; are done with */
};

/* Per-step arrays, the same offsets on host and device: a fixed part of `cap`
 * entries, then the block lists. */
struct meta {
    int *token, *slot, *pos, *kv_row, *length, *table_row;
    int *image;                /* row of tower.vector, -1: none */
    float *l4;
    int *pick;                 /* tokens whose logits are wanted */
    struct sample_row *row;    /* one a pick in a graph, else two */
    int *table;
    uint64_t fixed;            /* bytes before table */
};

/* What a step gives, in pinned memory that its kernels write to: a copy behind
 * them would keep the next step waiting. */
struct outputs {
    struct sample_out *out;
    int *top_id;
    float *top_logprob;
    uint64_t *clock;           /* [2] begin; end, when nothing is drawn */
    unsigned *experts;         /* taken by all steps so far, modulo 2^32 */
};

/* A submitted step until it is collected. */
struct flight {
    uint64_t step;
    uint32_t n_seq, n_row;
    bool busy;
    char *meta;                /* pinned */
    char *meta_dev;            /* where it goes */
    uint32_t *mask;            /* pinned */
    int *bias_id;
    float *bias;
    uint32_t *mask_dev;
    int *bias_id_dev;
    float *bias_dev;
    struct outputs out;
    cudaEvent_t sent, end;
    cudaGraphExec_t graph[GRAPH_MAX + 1]; /* by padded sequences */
    struct seq_want *want;     /* [max_seqs] what each sequence asked */
    struct seq_result *result; /* handed out by collect */
    struct logprob *lp;
    uint32_t *rank;
    uint64_t lp_cap, rank_cap;
};

struct seq_want {
    int draw;                  /* result row, -1 */
    int n_top;
    int target;                /* first result row of the targets, -1 */
    uint32_t n_tok;
    int target_top;
    const int32_t *target_id;
};

struct cuda {
    struct backend base;
    int device, n_sm, major, minor;
    bool integrated, hopper;
    char name[128];
    struct model *model;
    struct model_text_params p;
    struct backend_limits limits;
    struct backend_plan plan;
    cudaStream_t stream;
    cudaStream_t copies;       /* of steps' arrays, beside the step before */
    struct cuda_blas *blas;

    char *pool;                /* everything on the device */
    uint64_t pool_size, weight_bytes;
    uint64_t weight_layout;    /* a sum over the places of all weights */
    struct cuda_layer *layer;
    struct cuda_matrix embeddings, output;
    const void *norm;
    float *freq;
    struct cuda_tower tower;
    int slots, n_experts, gate_rows;
    int narrow_max;            /* tokens up to which expert tiles are narrow */
    float score_scale;

    /* workspace */
    uint32_t n_blocks, max_tables, cap;
    uint64_t cache_layer;      /* bytes of a layer's cache */
    char *cache;
    float *x;
    void *h, *a, *qn, *q, *q2, *o;
    float *router;
    struct moe_route route;
    void *mh, *my;             /* experts' hidden and output rows */
    void *kv, *kv_rows;        /* expanded piece, gathered rows */
    float *acc, *acc_ml, *part, *part_ml;
    int part_max;              /* tokens * splits */
    void *rope;
    float *logits, *logits_copy;
    uint16_t *count;
    int *last, *ids;
    unsigned *barrier;
    uint64_t meta_size;
    uint32_t out_rows;
    struct moe_maps *maps;
    struct attn_maps *attn_maps;
    void *blas_space;

    /* Steps of one token in one launch: NULL where that does not fit. */
    void *one_board;
    unsigned *one_trace;
    struct decode_one_map *one_map;

    struct flight flight[2];
    unsigned submitted, collected;
    unsigned experts;          /* of the steps collected */
    char trouble[160];         /* the launch that failed, for the error */
};

/* What a step runs: token counts and the runs of tokens of each kind. */
struct step_shape {
    int n;                     /* tokens, padded in a graph */
    int n_pick;                /* rows of logits */
    int n_row;                 /* sample rows */
    bool graph;
    bool one;                  /* by decode_one.cu */
    const struct flight *f;    /* its lists, and where its results go */
};

/* Checks a CUDA status: 0, or ERR_DEVICE with `what` in e. */
int cuda_check(struct cuda *c, int status, const char *what, struct err *e);

/* cuda.c: takes m when the kernels can run it; needs no device. plan_free
 * frees what it and a load have allocated. */
int plan_model(struct cuda *c, struct model *m, struct err *e);
void plan_free(struct cuda *c);

/* device_plan.c: lays out the pool, or the weights alone, which lie first in
 * it. base NULL: sizes only. */
uint64_t plan_layout(struct cuda *c, char *base);
void plan_weights(struct cuda *c, char *base);
int plan_make(struct cuda *c, struct backend_plan *plan, struct err *e);
/* Bytes that the plan may take, and those it leaves. integrated: the GPU
 * shares the processor's memory, of which the kernel says how much is
 * available (UINT64_MAX: it does not say). */
uint64_t plan_available(bool integrated, uint64_t driver_free,
                        uint64_t driver_total, uint64_t kernel);
uint64_t plan_reserve(bool integrated, uint64_t asked);
void meta_layout(struct meta *m, char *base, uint32_t cap, uint32_t rows);
uint32_t plan_bucket(uint32_t n); /* tokens a decode graph of n runs */

/* upload.c: fills the weights, on the device or where plan_weights laid them
 * out in host memory that is zeroed. */
int upload_weights(struct cuda *c, backend_progress_fn progress, void *arg,
                   struct err *e);
int upload_to_host(struct cuda *c, backend_progress_fn progress, void *arg,
                   struct err *e);
uint64_t upload_host_bytes(void); /* buffers of upload_weights */
enum layout layout_of(const struct weight *w);
float product_scale(const struct weight *w);

/* decoder.c: launches the model for a step on c->stream; m points into
 * meta_dev, host is its copy on the host (NULL while capturing). Returns a
 * cudaError_t and leaves the launch's name in c->trouble. */
struct batch;
int decoder_run(struct cuda *c, const struct step_shape *s,
                const struct meta *m, const struct meta *host,
                const struct batch *b);
int decoder_sample(struct cuda *c, const struct step_shape *s,
                   const struct meta *m);

/* The kernels that a step of n tokens takes for its experts; their names, of
 * the shared one or the others. */
enum expert_path { PATH_ONE, PATH_MID, PATH_PREFILL, PATH_PORTABLE };
enum expert_path decoder_path(const struct cuda *c, int n);
const char *path_name(const struct cuda *c, int n, bool shared, bool down);

/* encoder.c: images. Sizes first, then where they lie; refuses towers that the
 * kernels do not take. */
int encoder_init(struct cuda *c, struct err *e);
uint64_t encoder_wide_bytes(const struct cuda *c);
int encoder_prepare(struct cuda *c, struct err *e);
void encoder_close(struct cuda *c);
int encoder_run(struct cuda *c, const float *pixels, int height, int width,
                uint64_t *handle, struct err *e);
void encoder_free(struct cuda *c, uint64_t handle);
bool encoder_pending(const struct cuda *c, const uint64_t *handle);
/* Launches the rest of an encoding if the batch uses it; or a slice of it.
 * These return a cudaError_t and leave the launch's name in c->trouble. */
int encoder_finish_for(struct cuda *c, const struct batch *b);
int encoder_advance(struct cuda *c);
/* A slice while there are no steps; the next one tells of a failure. */
void encoder_advance_idle(struct cuda *c);
/* ERR_RANGE when an image of the batch asks for what its handle or the batch
 * does not have. */
int encoder_check(const struct cuda *c, const struct batch *b,
                  struct err *e);
/* image [n_tok]: the vector's row at each token of the batch, -1 without. */
void encoder_place(const struct cuda *c, const struct batch *b, int *image);

/* one_step.c: steps of one token by decode_one.cu. fits: by shape and form,
 * asked while the pool is laid out. takes: a step of so many, no images. */
bool one_step_fits(const struct cuda *c);
void one_step_open(struct cuda *c);
bool one_step_takes(const struct cuda *c, int n_tok);
int one_step_run(struct cuda *c, const struct step_shape *s,
                 const struct meta *m);

/* device_step.c */
int step_buffers(struct cuda *c, struct err *e);
void step_free(struct cuda *c);
int step_submit(struct cuda *c, const struct batch *b, struct err *e);
int step_collect(struct cuda *c, struct step_result *out, struct err *e);
int step_capture(struct cuda *c, struct err *e);

/* warm_up.c: steps that mean nothing, so that the first request finds all
 * kernels loaded. */
int warm_up(struct cuda *c, struct err *e);

/* selftest.c: every kernel family against plain code, in under 2 seconds. */
int selftest_run(struct cuda *c, struct err *e);

#endif
