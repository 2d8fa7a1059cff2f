/*
 * What the two kernels of moe_prefill share: their arguments, the slot order
 * of tokens, and the way from accumulators of wgmma to rows of h and y.
 */
#pragma once

#include "cuda/part/hopper.cuh"

#include "cuda/moe/moe_tiles.h"
#include "cuda/part/wgmma.cuh"

struct moe_maps {
    CUtensorMap up[MOE_TILES], down[MOE_TILES];
};

/* One product of all items: gate and up with SiLU, or down. */
struct moe_tiles {
    const char *w;
    uint64_t stride;
    const float *scale;
    const moe_item *item;
    const int *n_item;
    bf16 *out;
    int rows, cols, ldo;      /* of the weights; of out */
};

template <bool DOWN> static inline moe_tiles
tiles_of(const struct moe *m)
{
    moe_tiles a = {};
    a.w = (const char *)(DOWN ? m->w2 : m->w13);
    a.stride = DOWN ? m->stride2 : m->stride13;
    a.scale = DOWN ? m->scale2 : m->scale13;
    a.item = m->route.item;
    a.n_item = m->route.n_item;
    a.out = (bf16 *)(DOWN ? m->y : m->h);
    a.ldo = DOWN ? m->dim : m->hidden;
    a.rows = DOWN ? m->dim : 2 * m->hidden;
    a.cols = DOWN ? m->hidden : m->dim;
    return a;
}

/* Both products of gathered tokens, items of width MOE_NARROW (moe_narrow.cu);
 * cuda_moe_prefill's part. */
int moe_narrow(const struct moe *m, const struct moe_maps *maps, int n_sm,
               cudaStream_t s);

#if HOPPER_CODE

/* Slot of column c; the order of the slots is in moe_prefill.cu. */
DEV int
slot_of(int c)
{
    int a = c % 64 / 16, s = c % 16 / 4, b = c % 4 / 2;
    return c / 64 * 64 + 16 * s + 2 * a + 8 * b + c % 2;
}

/* Row tile rt of an item; s0 and s1 are the expert's scales (down: s0). */
template <int N, bool DOWN> DEV void
store_tile(const moe_tiles &a, const moe_item &it, int rt, float s0, float s1,
           const float (&d)[N / 2])
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        const int tok = 8 * n + g;
        const float *v = d + 4 * n;
        bf16 *out = a.out + (size_t)(it.first + tok) * a.ldo;
        if (DOWN) {
            uint32_t p = transpose8(bf_pack(v[0] * s0, v[1] * s0));
            uint32_t q = transpose8(bf_pack(v[2] * s0, v[3] * s0));
            if (tok < it.n) {
                *(uint32_t *)(out + rt * 16 + 2 * t) = p;
                *(uint32_t *)(out + rt * 16 + 8 + 2 * t) = q;
            }
        } else {
            float x = silu(v[0] * s0) * (v[2] * s1);
            float y = silu(v[1] * s0) * (v[3] * s1);
            uint32_t p = transpose8(bf_pack(x, y));
            if (tok < it.n)
                *(uint32_t *)(out + slot_of(rt * 8 + 2 * t)) = p;
        }
    }
}

#endif
