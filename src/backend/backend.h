/*
 * The contract between the engine and the devices. A back end loads a model,
 * plans its memory and runs steps; it knows batches of token ids, not requests
 * or text. The table of back ends compiled in is at the bottom.
 *
 * Threads: every call on one back end comes from one thread at a time (the
 * engine thread, or the main thread before the engine starts). A back end may
 * own threads of its own. Steps take effect in the order of submission: a
 * block that one step reads may be handed to the next one for writing.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model.h"

#define KV_BLOCK 64          /* tokens a KV block */
#define BACKEND_TOP_MAX 128  /* most alternatives reported a position */
#define BACKEND_OUT_MAX 8    /* most tokens one sequence gains in a step */
#define BACKEND_BIAS_MAX 4096 /* most logit_bias entries of a sequence */
#define MASK_WORDS(n) (((n) + 31) / 32)
#define TOKEN_SAMPLED (-1)   /* "the token this slot's last step drew" */

/* How a token is drawn; the order is penalties and bias, mask, temperature,
 * top_k, top_p, min_p, draw. Zeroed values mean "off" except where said. */
struct sampling {
    float temperature;          /* below 1e-5: greedy */
    int top_k;                  /* 0 = off */
    float top_p;                /* 1 = off */
    float min_p;                /* 0 = off */
    float presence_penalty, frequency_penalty;
    float repetition_penalty;   /* 1 = off */
    uint64_t seed;              /* draw i of the request uses (seed, i) */
    const int32_t *bias_id;     /* logit_bias */
    const float *bias;
    size_t n_bias;
    const int32_t *ban;         /* ids that must not be drawn before
                                   ban_until tokens (min_tokens) */
    size_t n_ban;
    uint32_t ban_until;
    const int32_t *bad;         /* ids never drawn */
    size_t n_bad;
    const int32_t *allowed;     /* only these, when n_allowed > 0 */
    size_t n_allowed;
};

/* Images whose vectors replace token embeddings in this step. */
struct batch_image {
    uint32_t token;     /* index in the batch of the first [IMG] replaced */
    uint32_t n;         /* [IMG] tokens replaced, in order, skipping others */
    uint64_t handle;    /* from encode_image */
    uint32_t row;       /* first vector to use */
};

/* One sequence's share of a step. Its query tokens are
 * batch->token[first .. first + n_tok), at positions n_past, n_past + 1... */
struct batch_seq {
    uint32_t slot;          /* < limits.max_seqs; state kept by the back end */
    uint32_t first, n_tok;
    uint32_t n_past;        /* tokens already in the cache */
    const uint32_t *block;  /* [n_block] block ids */
    uint32_t n_block;       /* >= ceil((n_past + n_tok) / KV_BLOCK); drafts may
                               fill what is beyond the query tokens */
    uint32_t max_out;       /* most tokens to gain; 1 = no drafts */
    bool reset;             /* first step of a request in this slot, or not all
                               tokens drawn were kept: rebuild its state from
                               history */
    bool sample;            /* draw a token after the last query token */
    const struct sampling *sampling; /* lives until the request ends */
    uint32_t n_drawn;       /* tokens drawn so far: index of this draw */
    const int32_t *history; /* prompt and output ids so far, host memory, for
                               penalties; n_history known ids, of which the
                               first n_prompt are the prompt; the token of an
                               uncollected step is not among them */
    uint32_t n_history, n_prompt;
    const uint32_t *mask;   /* NULL, or rows of MASK_WORDS(vocabulary) words:
                               bit sets of allowed ids, a bit for each id that
                               the model knows. Row i holds for the i-th token
                               gained */
    uint32_t n_mask;        /* rows; no more tokens are gained than that. 0
                               with a mask: one row, for the first token, and
                               the engine checks what drafts add */
    int n_top;              /* logprobs of the drawn token: -1 none, else the
                               number of alternatives */
    const int32_t *ask;     /* [n_ask] ids reported besides, with n_top >= 0;
                               only for a back end that takes_ask */
    uint32_t n_ask;
    const int32_t *target;  /* NULL, or [n_tok]: id whose log-probability is
                               asked after each query token; -1 = none */
    int target_top;         /* alternatives at each asked position */
    bool raw_logprobs;      /* before temperature, bias and penalties */
};

/* One step: a flat batch. Memory belongs to the engine and stays unchanged
 * until the step is collected. */
struct batch {
    uint32_t n_tok, n_seq;
    const int32_t *token;   /* [n_tok] id, or TOKEN_SAMPLED */
    const struct batch_seq *seq;
    const struct batch_image *image;
    uint32_t n_image;
    uint64_t step;          /* running number */
};

struct logprob {
    int32_t id;
    float logprob;          /* natural log */
};

/* What a step gave one sequence, in batch order. Arrays live in the back end
 * until the next submit after the collect. */
struct seq_result {
    uint32_t n_out;         /* tokens gained; 0 when sample was false. With
                               several, all but the last are in the cache, at
                               the positions after the query tokens */
    int32_t out[BACKEND_OUT_MAX];
    uint32_t n_draft;       /* tokens drafted and checked for them */
    uint32_t n_next;        /* tokens drafted behind the last of out, to be */
    const int32_t *next;    /* checked by the slot's next step; 0 of them from
                               a back end that does not tell_drafts */
    const struct logprob *drawn; /* [n_out] the tokens drawn, if n_top >= 0 */
    const uint32_t *drawn_rank;  /* [n_out] 1 = most likely */
    const struct logprob *top;   /* [n_out][n_top + n_ask] most likely first,
                                    then the ids asked for */
    const struct logprob *target;/* [n_tok] if asked (id -1: none) */
    const uint32_t *target_rank; /* [n_tok] */
    const struct logprob *target_top; /* [n_tok][target_top] */
};

struct step_result {
    uint64_t step;
    uint32_t n_seq;
    const struct seq_result *seq;
    uint64_t begin_ns, end_ns; /* when the device began and ended it, by its
                               own clock; 0 = not known */
    uint64_t n_experts;     /* routed experts whose weights it took, summed
                               over the layers; 0 = not known */
};

struct backend_limits {
    uint32_t max_seqs;      /* slots */
    uint32_t max_step;      /* tokens a step */
    uint32_t max_context;   /* tokens a sequence */
    uint64_t kv_bytes;      /* 0 = what is left of the device's memory */
    uint64_t reserve_bytes; /* kept free */
    int threads;            /* cpu: 0 = one a core */
    int n_devices;          /* 1 */
    struct model *draft;    /* EAGLE head (model_options.draft) that guesses
                               tokens for the next step, NULL = none; stays
                               borrowed until close */
    uint32_t n_drafts;      /* guesses a step, < BACKEND_OUT_MAX; the engine's
                               max_out is one more */
    const char *packed;     /* file of packed weights to load from, NULL = the
                               checkpoint's own files */
    uint32_t n_vocab, n_special; /* of the tokenizer, control ids first: what
                               a back end without a model draws from */
};

/* A row of the memory plan: who needs what. */
struct plan_row {
    const char *what;       /* static text */
    uint64_t bytes;
};
#define PLAN_ROWS 16
struct backend_plan {
    struct plan_row row[PLAN_ROWS];
    int n_row;
    uint64_t total, available; /* bytes */
    uint64_t bytes_per_block;
    uint32_t n_blocks;         /* KV blocks the plan holds */
    bool fits;
};

/* Called from load, now and then. */
typedef void (*backend_progress_fn)(void *arg, uint64_t done, uint64_t total);

struct backend;

struct backend_ops {
    const char *name;
    const char *about;      /* one line for help texts */
    int depth;              /* steps that may be in flight: 1 or 2 */
    bool needs_model;       /* false: null */
    bool takes_ask;         /* reports log-probabilities of given ids */
    bool tells_drafts;      /* reports the drafts of the next step and takes a
                               mask for each of them */

    /* Opens the device. spec: what follows "name:" in the configuration, may
     * be NULL. Errors say what is missing on this machine. */
    int (*open)(const char *spec, struct backend **out, struct err *e);
    void (*close)(struct backend *b);

    /* Plans all memory without allocating. m stays borrowed until close. Fills
     * plan also when it does not fit (fits false, still returns 0). */
    int (*plan)(struct backend *b, struct model *m,
                const struct backend_limits *l, struct backend_plan *plan,
                struct err *e);
    /* Allocates by the last plan, loads, checks itself. */
    int (*load)(struct backend *b, backend_progress_fn progress, void *arg,
                struct err *e);

    /* Starts a step; may return before it ran. At most `depth` uncollected.
     * ERR_DEVICE is fatal to the engine. */
    int (*submit)(struct backend *b, const struct batch *batch,
                  struct err *e);
    /* Waits for the oldest submitted step. */
    int (*collect)(struct backend *b, struct step_result *out,
                   struct err *e);

    /* Optional (NULL without images). Vision vectors of an image: pixels
     * [3, height, width] float. The handle lives until free_image, which is
     * called when no step in flight uses it. ERR_AGAIN: no room until other
     * handles are freed. */
    int (*encode_image)(struct backend *b, const float *pixels, int height,
                        int width, uint64_t *handle, struct err *e);
    void (*free_image)(struct backend *b, uint64_t handle);
    /* Optional (NULL: never). True while vectors are still to be made: those of
     * *handle, or with NULL of any image. They are made bit by bit beside the
     * steps; a step that uses them, or another encode_image, waits for the
     * rest. The engine asks before each step and, while there is nothing else
     * to do, every millisecond. */
    bool (*image_pending)(struct backend *b, const uint64_t *handle);

    /* Optional: writes the weights of m as `load` wants them into a file for
     * limits.packed. Needs no device. */
    int (*pack)(struct model *m, const char *path,
                backend_progress_fn progress, void *arg, struct err *e);

    /* Optional: text for the log and siroccoctl (device, kernels). */
    void (*describe)(struct backend *b, char *out, size_t size);
};

/* Every back end embeds this first. */
struct backend {
    const struct backend_ops *ops;
};

/* Back ends of this build, NULL-terminated. Defined by the programs (only they
 * choose): see daemon/backends.c. */
extern const struct backend_ops *const backend_table[];
/* Finds "name" or "name:spec" in a table; *spec points behind the colon or is
 * NULL. Returns NULL for an unknown name. */
const struct backend_ops *backend_find(const struct backend_ops *const *table,
                                       const char *name, const char **spec);

/* Emits tokens at a set rate, or replays scripted ids; null.c has the spec. */
extern const struct backend_ops backend_null;

#endif
