/*
 * Checkpoints: parameters, tensor index, and the binding of every tensor to
 * its slot in the architecture. Two layouts (native: params.json +
 * consolidated*.safetensors; HF: config.json + model*.safetensors) end in the
 * same structs. A model is read-only after model_open and may be read by any
 * thread. Formats and names: the reference tables in model/README.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct model_yarn {
    double factor;      /* 1 = plain rope */
    double original;    /* original_max_position_embeddings */
    double beta_fast;   /* "beta" */
    double beta_slow;   /* "alpha" */
    bool apply_scale;   /* fold the magnitude into the score scale */
};

struct model_text_params {
    int dim, n_layers, n_heads, vocab;
    int q_rank;                 /* q_lora_rank */
    int kv_rank;                /* kv_lora_rank */
    int nope, rope, v_head;     /* head dims */
    int hidden;                 /* dense MLP width (draft head, dense layers) */
    int n_experts, top_k, n_shared, expert_hidden; /* n_experts 0: dense */
    int n_dense;                /* first_k_dense_replace */
    double routed_scale;
    bool tied;                  /* output = tok_embeddings */
    double norm_eps;
    double rope_theta;
    struct model_yarn yarn;
    double l4_beta;             /* query scaling; 0 = off */
    double l4_original;
    int max_positions;
};

struct model_vision_params {
    int dim, n_layers, n_heads, hidden, patch, channels;
    int image_size, merge;
    double rope_theta;
    int image_token, break_token, end_token;
    bool projector_norm, adapter_bias;
};

struct model_params {
    struct model_text_params text;
    bool has_vision;
    struct model_vision_params vision;
};

enum dtype {
    DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_U8, DTYPE_I8,
    DTYPE_I32, DTYPE_I64, DTYPE_F8_E5M2, DTYPE_BOOL, DTYPE_F64
};
size_t dtype_size(enum dtype t);
const char *dtype_name(enum dtype t); /* safetensors spelling */

/* One tensor of a file. */
struct tensor {
    const char *name;
    enum dtype dtype;
    int n_dim;
    int64_t shape[4];
    int file;          /* index into model_file */
    uint64_t offset;   /* of its first byte in the file */
    uint64_t size;     /* bytes */
    uint64_t seed;     /* dummy load: seed of this tensor */
};

/* A matrix [rows, cols] in whatever form the file stores it:
 * value = data                          (BF16, F16, F32)
 *       = data * scale                  (F8_E4M3, per tensor)
 *       = e2m1(data) * e4m3(block) / global   (NVFP4, blocks of 16 columns) */
enum weight_format { WEIGHT_PLAIN, WEIGHT_FP8, WEIGHT_NVFP4 };
struct weight {
    enum weight_format format;
    int64_t rows, cols;
    const struct tensor *data;
    const struct tensor *block; /* NVFP4: [rows, cols / 16] F8_E4M3 */
    float scale;     /* FP8: multiplier; NVFP4: 1 / weight_global_scale */
    float global;    /* NVFP4: weight_global_scale as stored */
    float act_scale; /* qscale_act or input_global_scale; 0 when absent */
    /* A weight that is a slice of a larger tensor (HF fused experts): first
     * element of the slice in data, in elements. */
    uint64_t first;
};

struct mlp_weights { struct weight w1, w2, w3; };

struct layer_weights {
    const struct tensor *attention_norm, *ffn_norm;  /* [dim] */
    struct weight wq_a, wq_b, wkv_a, wkv_b, wo;
    const struct tensor *q_a_norm, *kv_a_norm;
    bool is_moe;
    struct weight gate;             /* [n_experts, dim] */
    struct mlp_weights *expert;     /* [n_experts] */
    struct mlp_weights shared;      /* n_shared > 0 */
    struct mlp_weights dense;       /* !is_moe */
};

struct vision_layer_weights {
    const struct tensor *attention_norm, *ffn_norm;
    struct weight wq, wk, wv, wo, w1, w2, w3;
};

struct vision_weights {
    struct weight patch_conv;       /* [dim, channels * patch * patch] */
    const struct tensor *ln_pre;
    struct vision_layer_weights *layer;
    const struct tensor *pre_projector_norm;
    struct weight merge, w_in, w_out;
    bool hf_rope; /* q/k rows in the HF order: pairs are (i, i + half) */
};

struct text_weights {
    struct weight embeddings, output;  /* [vocab, dim]; NULL data in a draft */
    const struct tensor *norm;
    struct layer_weights *layer;       /* [n_layers] */
    struct weight eagle_linear;        /* draft head only: [dim, 2 * dim] */
};

struct model;

struct model_options {
    bool dummy;          /* seeded random weights from the params file alone */
    uint64_t seed;       /* dummy */
    bool draft;          /* an EAGLE head: no embeddings, output or experts */
    int n_layers;        /* only the first so many, to find where two back ends
                            part; 0 = all */
};

/* Opens a checkpoint directory: reads the parameters and every header, binds
 * and checks all slots, maps nothing yet. Errors name the tensor, the file and
 * what was expected; a directory of another or incomplete layout gets a list
 * of what is there and what is missing. */
int model_open(const char *dir, const struct model_options *o,
               struct model **out, struct err *e);
void model_close(struct model *m);

const char *model_dir(const struct model *m);
const struct model_params *model_params(const struct model *m);
const struct text_weights *model_text(const struct model *m);
const struct vision_weights *model_vision(const struct model *m); /* or NULL */
uint64_t model_bytes(const struct model *m);   /* of all tensors bound */
bool model_is_dummy(const struct model *m);

/* Files, for back ends that read by themselves. */
int model_n_files(const struct model *m);
const char *model_file_path(const struct model *m, int file);

/* Copies size bytes of t from byte offset `from` into dst: from the file, or
 * generated (dummy). Any thread. Returns 0 or ERR_IO. */
int model_read(const struct model *m, const struct tensor *t, uint64_t from,
               void *dst, uint64_t size, struct err *e);

/* The tensor's bytes in memory: mapped from the file (aligned to the dtype, or
 * copied when the file is not), or generated once and kept. NULL when memory
 * is out or the file cannot be read. For back ends that use host memory. */
const void *model_data(struct model *m, const struct tensor *t, struct err *e);

/* Numbers of one value of each stored form, for loaders and tests. */
float bf16_to_float(uint16_t x);
uint16_t float_to_bf16(float x);      /* round to nearest even */
float f16_to_float(uint16_t x);
float e4m3_to_float(uint8_t x);
float e2m1_to_float(uint8_t code);    /* low 4 bits */

/* Row r of w as cols floats, exact. data and block as from model_data. */
void weight_row(const struct weight *w, const void *data, const void *block,
                int64_t r, float *out);

/* YaRN-corrected rope frequencies, n = rope / 2 floats. Formula: model/README,
 * "Rope". */
void model_rope_freqs(const struct model_text_params *p, float *out);
/* Query scale of a position: 1 + beta ln(1 + floor(pos / original)). */
float model_query_scale(const struct model_text_params *p, int64_t pos);
/* Scale of the scores: 1/sqrt(nope + rope), times YaRN's squared magnitude
 * only when the file asks for it. */
float model_score_scale(const struct model_text_params *p);

#endif
