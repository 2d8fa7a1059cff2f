/*
 * Dummy weights: seeded random bytes that read as numbers of realistic size.
 * Every 64-bit word is a function of (seed, its index), so any byte range of
 * any tensor can be made by itself, in any order, by any thread.
 */
#ifndef MODEL_DUMMY_H
#define MODEL_DUMMY_H

#include "model/model.h"

/* Word i of a tensor is (mix(seed + i) & mask) + add, little-endian: mask and
 * add hold the same lane (8, 16 or 32 bits) side by side, and no lane of the
 * sum overflows. mask 0 makes a constant. */
struct dummy_form {
    uint64_t mask, add;
};

/* Writes bytes [from, from + size) of the tensor. */
void dummy_fill(uint64_t seed, struct dummy_form f, uint64_t from, void *dst,
                uint64_t size);

/* BF16 values of both signs with about this root mean square. */
struct dummy_form dummy_bf16(double rms);
/* BF16 values around 1, for norm weights. */
struct dummy_form dummy_norm(void);
/* E4M3 values of both signs; *rms is their root mean square. */
struct dummy_form dummy_fp8(double *rms);
/* NVFP4 codes and block scales; rms of the codes and of the scales. */
struct dummy_form dummy_codes(double *rms);
struct dummy_form dummy_blocks(double *rms);
/* One F32 value, repeated. */
struct dummy_form dummy_constant(float x);

#endif
