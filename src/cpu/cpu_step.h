/*
 * A step of the CPU back end: batch in, results out. One thread runs steps.
 */
#ifndef CPU_CPU_STEP_H
#define CPU_CPU_STEP_H

#include "cpu/draft.h"
#include "cpu/forward.h"
#include "cpu/sample.h"

#define STEP_RECENT 32   /* drawn tokens a slot remembers */
#define STEP_ROWS 16     /* rows of logits at a time */

/* What the back end keeps of a sequence between steps. */
struct slot {
    int32_t recent[STEP_RECENT]; /* last tokens drawn, a ring */
    uint32_t n_drawn;            /* since the slot was reset */
    /* Guesses for the tokens behind draft_token at draft_pos. */
    int32_t draft[BACKEND_OUT_MAX];
    uint32_t n_draft;
    int32_t draft_token;
    uint32_t draft_pos;
};

/* Results of one step; arrays grow when a step needs more. */
struct results {
    struct seq_result *seq;
    struct logprob *logprob;
    uint32_t *rank;
    size_t cap_seq, cap_logprob, cap_rank;
};

struct stepper {
    struct net *net;
    struct work work;
    struct backend_limits limits;
    struct drafter *drafter;         /* NULL = no speculation; borrowed */
    struct slot *slot;               /* [max_seqs] */
    /* [max_step and all drafts]: the tokens of the step with drafts behind
     * those they continue */
    int32_t *id;
    struct query *query;
    uint32_t *seq_of;                /* index in the batch */
    const float **vector;            /* of an image, NULL for other tokens */
    struct row *row;                 /* positions with logits */
    uint32_t n_tok;
    uint32_t *place;                 /* [max_step] of the batch's tokens */
    struct share *share;             /* [max_seqs] of each sequence */
    struct guess *guess;             /* [max_seqs] sequences to draft for */
    uint32_t n_guess;
    float *hidden;                   /* [max_seqs][dim] of a guess */
    float *logits;                   /* [STEP_ROWS][vocab] */
    struct sample_scratch *sampler;  /* [threads] */
};

/* Bytes of a stepper's memory; with memory not NULL (64-byte aligned, zeroed)
 * also points it into that. net may be empty but for pointers when only the
 * size is asked. */
size_t step_layout(struct stepper *s, struct net *net,
                   struct drafter *drafter,
                   const struct model_text_params *p,
                   const struct backend_limits *l, int threads,
                   void *memory);

/* ERR_RANGE or ERR_STATE when the batch does not fit the limits or the state
 * of its slots; nothing has changed then. */
int step_check(const struct stepper *s, const struct batch *b, struct err *e);

/* Runs b into out. Returns 0, ERR_NOMEM, or ERR_DEVICE when a logit is not a
 * number. */
int step_run(struct stepper *s, const struct batch *b, struct results *out,
             struct err *e);
void results_free(struct results *r);

#endif
