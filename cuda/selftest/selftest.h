/* The self-test of the CUDA back end, also run by tests/op on more shapes. */
#ifndef CUDA_SELFTEST_H
#define CUDA_SELFTEST_H

#include "cuda/selftest/selftest_rows.h"

/* A step: n_seq sequences of n_tok query tokens behind n_past cached ones. */
struct selftest_shape {
    uint32_t n_seq, n_tok, n_past;
    uint32_t layer;      /* the layer compared, behind those before it */
    uint32_t n_block;    /* set by the test */
};

/* Runs one step of a loaded back end and compares its last token. *worst (or
 * NULL): the largest error relative to its bound. ERR_AGAIN when the plan is
 * too small for the shape, ERR_MISMATCH with the kernel's name. */
int selftest_step(struct cuda *c, const struct selftest_shape *s,
                  double *worst, struct err *e);

#endif
