/*
 * A back end for tests. Its "model" is a hash over the whole text: every cell
 * of the KV cache holds the hash of the text up to there, computed from the
 * cell before it, so that any mix-up of blocks, positions or images changes
 * what is drawn. Steps are run when they are collected, to catch memory that
 * is changed too early. What breaks the contract is counted.
 */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include "backend/backend.h"

struct fake_options {
    uint32_t n_blocks, n_vocab, max_seqs, max_out;
    int depth;
    int64_t fail_step;       /* -1; else the step whose collect fails */
    bool fail_submit;        /* ... or whose submit fails */
    uint32_t max_images;     /* handles at a time; 0 = no images */
    uint32_t image_steps;    /* steps and questions beside which an image is
                                made */
    unsigned step_us;        /* time a step takes */
    uint64_t run_ns, pause_ns; /* its clock: each step, and before each */
};

struct backend *fake_create(const struct fake_options *o);
void fake_destroy(struct backend *b);

/* Breaches of the contract so far; they are printed as they happen. */
unsigned fake_faults(const struct backend *b);
/* Image handles that live. */
unsigned fake_images(const struct backend *b);
/* Times that a step or an encoding waited for the rest of an image. */
unsigned fake_waits(const struct backend *b);
/* Query tokens computed so far, and the largest step. */
uint64_t fake_tokens(const struct backend *b);
uint32_t fake_largest(const struct backend *b);

/* The text's hash after one more token, at position pos. image: of an [IMG]
 * token, see fake_image_vector; 0 for others. Start with 0. */
uint64_t fake_hash(uint64_t before, int32_t token, uint32_t pos,
                   uint64_t image);
uint64_t fake_image_vector(float pixel, uint32_t row);
/* The token drawn after a text. allowed: NULL or bits. */
int32_t fake_draw(uint64_t hash, uint32_t n_vocab, const struct sampling *s,
                  uint32_t n_drawn, const uint32_t *allowed);
/* The log-probability that it reports for any token there. */
float fake_logprob(uint64_t hash, int32_t id);

#endif
