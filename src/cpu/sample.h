/*
 * From logits to a token and log-probabilities. Pure functions of their
 * arguments; one scratch a thread.
 */
#ifndef CPU_SAMPLE_H
#define CPU_SAMPLE_H

#include "backend/backend.h"
#include "cpu/kernel.h"

struct sample_scratch {
    const struct kernels *k;
    int vocab;
    float *logits;          /* [vocab] processed */
    float *weight;          /* [vocab] exponentials */
    uint32_t *count;        /* [vocab] of a token in the history; zeroes
                               between calls */
    struct logprob *list;   /* [vocab] candidates */
};

/* Bytes of scratch; with memory not NULL (64-byte aligned, zeroed) also points
 * the struct into it. */
size_t sample_layout(struct sample_scratch *w, const struct kernels *k,
                     int vocab, void *memory);

/* What is known of the sequence when a token is drawn. */
struct sample_state {
    const struct sampling *sampling;
    const int32_t *history;     /* as in struct batch_seq */
    uint32_t n_history, n_prompt;
    const int32_t *recent;      /* drawn since, in order */
    uint32_t n_recent;
    uint32_t index;             /* of this draw: tokens drawn before it */
    const uint32_t *mask;       /* NULL = all */
};

/* Leaves in w->logits what the draw looks at: penalties, bias, masks and
 * temperature applied. */
void sample_process(struct sample_scratch *w, const float *logits,
                    const struct sample_state *s);

/* Draws from w->logits as sample_process left them. */
int32_t sample_draw(struct sample_scratch *w, const struct sample_state *s);

/* Id of the largest logit; the lowest of equal ones. */
int32_t sample_argmax(const float *logits, int vocab);

/* Natural log of the sum of exponentials. */
double sample_log_sum(struct sample_scratch *w, const float *logits);

/* The n most likely ids, best first (ties: lower id first), with their
 * log-probabilities; n <= vocab. */
void sample_top(struct sample_scratch *w, const float *logits,
                double log_sum, int n, struct logprob *out);

/* 1 + number of ids before id in that order. */
uint32_t sample_rank(const float *logits, int vocab, int32_t id);

/* Uniform number in [0, 1) of draw `index` in stream `stream`. */
double sample_uniform(uint64_t seed, uint32_t index, uint32_t stream);

#endif
