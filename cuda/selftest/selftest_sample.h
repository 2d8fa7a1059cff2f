/* Sampling in plain code, for the self-test. */
#ifndef CUDA_SELFTEST_SAMPLE_H
#define CUDA_SELFTEST_SAMPLE_H

#include "cuda/selftest/selftest_rows.h"

/* NULL when `got` can be what the rules give a sequence of one token with these
 * logits, but for rounding; else what is wrong. Of the lists only bad, allowed
 * and bias are known, and the mask. */
const char *sample_fault(const struct batch_seq *q, const float *raw,
                         int vocab, const struct seq_result *got);

#endif
