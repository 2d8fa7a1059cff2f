/*
 * The EAGLE draft head: guesses the tokens behind one that the target drew.
 * It reads pairs (token at P + 1, target's normed hidden state at P), keeps a
 * cache row for each at position P in the blocks of the sequence, and its own
 * output stands for the hidden state when it guesses further.
 */
#ifndef CPU_DRAFT_H
#define CPU_DRAFT_H

#include "cpu/forward.h"

struct drafter {
    struct net net;         /* the head: layers, eagle_linear */
    const struct net *target; /* embeddings and output */
    struct work work;
    float *pair;            /* [cap][2 dim] embedding, then hidden state */
    struct query *query;    /* [cap] */
    int n;                  /* pairs collected */
};

/* Bytes of scratch; with memory not NULL also points d into it. */
size_t draft_layout(struct drafter *d, const struct model_text_params *p,
                    int cap, int threads, void *memory);

/* Collects a pair; there is room for cap. vector: of an image in place of
 * next's embedding, or NULL. Both vectors are copied. */
void draft_add(struct drafter *d, int32_t next, const float *vector,
               const float *hidden, struct query q);
/* Runs the pairs collected: writes their cache rows and leaves the head's
 * outputs in d->work.h [n][dim]. The next draft_add begins anew. */
void draft_run(struct drafter *d);

#endif
