/*
 * What the parts of the one-token launch share: the board through which
 * blocks hand values on, the shared memory of a block, and the small steps
 * all phases are made of. See decode_one.cu.
 *
 * DESIGN, the board. A value that another block needs is stored once, as a
 * 32-bit word that is never 0, and whoever needs it polls the word until it
 * is not 0: the value is its own flag, so no fence and no counter stands
 * between the store and the first reader. There are two boards for even and
 * odd layers. A block clears its words of a layer when the logits of the
 * router have come from all blocks, for then all have read them, and the
 * epoch, a grid barrier that nobody waits for in the open, lies between the
 * clearing and the next use two layers on.
 */
#pragma once

#include "cuda/one/decode_one.h"
#include "cuda/part/hopper.cuh"

#define CTAS ONE_CTAS
#define STAGES 4              /* units in a ring */
#define RINGS 8
#define WARPS 16              /* consumers; then the producer, the router */
#define THREADS ((WARPS + 2) * 32)
#define KV_STAGES 4           /* cache blocks in the memory of the rings */
#define PIECES (MLA_ROW / 64) /* of a cache block */
#define PIECE (64 * 128)      /* 64 keys x 64 columns, swizzled */
#define KV_TILE (PIECES * PIECE)
#define PARTS 2               /* they come in: pieces 0 .. 2, 3 .. 4 */
#define SLOTS (ONE_TOP_K + 1) /* experts of a token: the shared one first */

#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Words of one parity; bf16 pairs unless said. */
struct one_board {
    uint32_t x[CTAS][16];     /* the row times its norm, 32 values a block */
    uint32_t x1[CTAS][16];    /* the same behind attention */
    uint32_t sq[CTAS], sq1[CTAS]; /* fp32: sums of their squares */
    uint32_t qa[ONE_Q_RANK / 2], kv[MLA_ROW / 2];
    uint32_t qn[ONE_HEADS][MLA_NOPE / 2];
    uint32_t q[ONE_HEADS][MLA_ROW / 2];
    uint32_t o[ONE_HEADS * MLA_V / 2];
    uint32_t h[SLOTS][ONE_HIDDEN / 2];
    uint32_t logit[ONE_EXPERTS];           /* fp32 */
    uint32_t ml[ONE_HEADS][CTAS][2];       /* fp32: maximum and sum */
    uint32_t part[CTAS][ONE_HEADS][MLA_RANK / 2];
};

struct one_boards {
    one_board b[2];
    unsigned epoch;           /* arrivals, never cleared */
};

/* Behind the rings. What wgmma reads is aligned to its swizzle: row has the
 * probabilities, big the queries. */
struct one_work {
    __align__(1024) char row[ONE_DIM * 2]; /* the phase's vector; weights */
    __align__(1024) char big[SLOTS * ONE_HIDDEN * 2]; /* queries; hidden */
    uint64_t full[RINGS][STAGES], empty[RINGS][STAGES];
    uint64_t kv_full[KV_STAGES][PARTS], kv_empty[KV_STAGES];
    uint64_t p_full[2], p_empty[2]; /* probabilities of a cache block */
    uint64_t uk_full[RINGS];
    uint64_t router;          /* the router row's sums are there */
    uint64_t routed, scaled;  /* the experts, their scales */
    uint64_t added;           /* the token's own row of the cache */
    __align__(16) char uk[RINGS * 1024]; /* W_UK's part: not in the rings, so
                                     that cache blocks can come before it */
    __align__(16) uint32_t own[MLA_ROW / 2];
    float x[32];              /* the residual of rows 32c .. */
    float2 shared_sum[WARPS * 32]; /* a thread's part of the shared expert */
    float gate_up[2 * SLOTS][272];
    __align__(16) float ctx[MLA_RANK];
    float a[WARPS][4], nope[32], o[WARPS][8];
    float y[WARPS][16], head[2][WARPS][8], logit[4];
    /* Of attention, by head: maxima as ordered ints, what becomes of the sums
     * before a cache block, sums of four warps, 1 / sum. */
    int top[2][ONE_HEADS];
    float old[2][ONE_HEADS], sum[4][ONE_HEADS], inv[ONE_HEADS];
    float ssq[WARPS];
    float2 rope[MLA_ROPE / 2];
    float gate_scale[SLOTS], up_scale[SLOTS], out_scale[SLOTS];
    int expert[SLOTS];
    /* of the step: keys, cache blocks, how many blocks take a share of them,
     * and this block's */
    int length, tiles, shares, t0, t1;
    float l4;
    unsigned trace;
};

/* Cache blocks take the memory of the rings, and a little more. */
#define SM_RINGS MAX(RINGS * STAGES * UNIT, KV_STAGES * KV_TILE)
#define SM_ONE (SM_RINGS + (int)sizeof(one_work))

/* With -DONE_PROFILE: the clock of thread 0 of every block behind each step,
 * which test_cuda_step -b prints. */
#ifdef ONE_PROFILE
__device__ long long one_stamp[64][CTAS][ONE_STAMPS];
#define STAMP(t, l, k)                                                    \
    do {                                                                  \
        if ((t).tid == 0)                                                 \
            one_stamp[l][(t).c][k] = clock64();                           \
    } while (0)
#else
#define STAMP(t, l, k) ((void)0)
#endif

#if HOPPER_CODE

/* Weights pass through the L2 cache without pushing out what is read again
 * within a step or in the next: the board above all, which costs a trip to
 * memory in every exchange otherwise. */
DEV uint64_t
policy_once(void)
{
    uint64_t p;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
    return p;
}

DEV uint64_t
policy_normal(void)
{
    uint64_t p;
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(p));
    return p;
}

DEV void
bulk_copy_as(void *dst, const void *src, uint32_t bytes, uint64_t *bar,
             uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::"
                 "complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
                 "%4;"
                 :: "r"(smem_addr(dst)), "l"(src), "r"(bytes),
                    "r"(smem_addr(bar)), "l"(policy) : "memory");
}

DEV void
tma_load_as(void *dst, const CUtensorMap *m, int x, int y, uint64_t *bar,
            uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::"
                 "complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], "
                 "[%4], %5;"
                 :: "r"(smem_addr(dst)), "l"(m), "r"(x), "r"(y),
                    "r"(smem_addr(bar)), "l"(policy) : "memory");
}

/* A thread's view of the launch. */
struct one {
    const decode_one &a;
    one_boards *boards;
    one_work *w;
    char *ring;
    int c, tid, lane, warp;
    int r, hf;                /* consumers: ring, and half of its units */
    int slot, phase;          /* of the ring */
    unsigned kv_n;            /* cache blocks seen so far */
    unsigned fed;             /* clock at the last unit */
};

/* Four blocks make a head's projections. */
DEV int
head(const one &t)
{
    return t.c >> 2;
}

DEV int
quarter(const one &t)
{
    return t.c & 3;
}

DEV uint32_t
word_or_minus_zero(uint32_t v)
{
    return v ? v : 0x80000000u;
}

DEV void
put_word(uint32_t *p, uint32_t v)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;"
                 :: "l"(p), "r"(word_or_minus_zero(v)) : "memory");
}

DEV void
put4(uint32_t *p, uint4 v)
{
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};"
                 :: "l"(p), "r"(word_or_minus_zero(v.x)),
                    "r"(word_or_minus_zero(v.y)),
                    "r"(word_or_minus_zero(v.z)),
                    "r"(word_or_minus_zero(v.w)) : "memory");
}

DEV void
clear_word(uint32_t *p)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;"
                 :: "l"(p), "r"(0) : "memory");
}

DEV uint32_t
look1(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                 : "=r"(v) : "l"(p) : "memory");
    return v;
}

DEV uint2
look2(const uint32_t *p)
{
    uint2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}

DEV uint4
look4(const uint32_t *p)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p) : "memory");
    return v;
}

DEV bool
there(uint4 v)
{
    return v.x && v.y && v.z && v.w;
}

DEV float
exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four words once they are there. */
DEV uint4
get4(const uint32_t *p)
{
    uint4 v;
    do {
        v = look4(p);
    } while (!there(v));
    return v;
}

/* The consumers only. */
DEV void
meet(void)
{
    asm volatile("bar.sync 1, %0;" :: "n"(WARPS * 32) : "memory");
}

/* The next unit of the warp's ring. */
DEV const char *
acquire(const one &t)
{
    mbar_wait(&t.w->full[t.r][t.slot], t.phase);
    return t.ring + (t.r * STAGES + t.slot) * UNIT;
}

DEV void
release(one &t)
{
    __syncwarp();
    if (t.lane == 0)
        mbar_arrive(&t.w->empty[t.r][t.slot]);
    if (++t.slot == STAGES) {
        t.slot = 0;
        t.phase ^= 1;
    }
}

/* p + l layers. */
DEV const char *
of_layer(const one &t, const void *p, int l)
{
    return (const char *)p + (size_t)l * t.a.stride;
}

DEV void
unpack8(uint4 v, float *f)
{
    const uint32_t a[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = bf_lo(a[i]);
        f[2 * i + 1] = bf_hi(a[i]);
    }
}

DEV float
dot8(uint4 v, const float *x, float s)
{
    float f[8];
    unpack8(v, f);
#pragma unroll
    for (int i = 0; i < 8; i++)
        s = fmaf(f[i], x[i], s);
    return s;
}

/* A lane's 32 of 1,024 columns: 8 of each 256. p is the lane's. */
DEV float
dot32(const char *p, const float (&x)[32])
{
    float s[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 4; j++)
        s[j & 1] = dot8(*(const uint4 *)(p + 512 * j), x + 8 * j, s[j & 1]);
    return s[0] + s[1];
}

/* The columns of such a warp out of the phase's vector. */
DEV void
load32(const char *p, float (&x)[32])
{
#pragma unroll
    for (int j = 0; j < 4; j++)
        unpack8(*(const uint4 *)(p + 512 * j), x + 8 * j);
}

/* N sums over the lanes; lane ends with number lane / (32 / N). */
template <int N> DEV float
reduce(float (&v)[N])
{
    int o = 16;
#pragma unroll
    for (int n = N / 2; n; n /= 2, o /= 2) {
        const bool up = threadIdx.x & o;
#pragma unroll
        for (int i = 0; i < n; i++) {
            float give = up ? v[i] : v[i + n], keep = up ? v[i + n] : v[i];
            v[i] = keep + __shfl_xor_sync(~0u, give, o);
        }
    }
#pragma unroll
    for (; o; o /= 2)
        v[0] += __shfl_xor_sync(~0u, v[0], o);
    return v[0];
}

/* One of two sums to each half of the lanes that differ in bit o. */
DEV float
fold(float a, float b, int o)
{
    const bool up = threadIdx.x & o;
    return (up ? b : a) + __shfl_xor_sync(~0u, up ? a : b, o);
}

/* The row of rows() whose sum a lane ends with. */
DEV int
row_of(int lane)
{
    return (lane >> 4 & 1) | (lane >> 2 & 2) | (lane & 4);
}

/* A warp's 1,024 columns of the phase's vector, this lane's first. */
DEV const char *
row_part(const one &t)
{
    return t.w->row + (t.r & 1) * 4096 + t.hf * 2048 + t.lane * 16;
}

/* n <= N <= 8 rows as long as the model is wide times the phase's vector, from
 * number first on, 0 or 4; p4 is the sum of those before. A unit is half a
 * row, which half the ring's parity says, and a warp takes half a unit: 1,024
 * columns. The loop over 8 stays a loop: instructions that run once a layer
 * come at the speed of cache misses. */
template <int N> DEV float
rows(one &t, int n, int first = 0, float p4 = 0)
{
    float x[32], s = 0, p1 = 0, p2 = 0;
    load32(row_part(t), x);
#pragma unroll N == 4 ? 4 : 1
    for (int i = first; i < N; i++) {
        s = 0;
        if (i < n) {
            const char *p = acquire(t) + t.hf * 2048 + t.lane * 16;
            s = dot32(p, x);
            release(t);
        }
        if (N == 1)
            break;
        if ((i & 1) == 0) {
            p1 = s;
            continue;
        }
        s = fold(p1, s, 16);
        if (N == 2)
            break;
        if ((i & 2) == 0) {
            p2 = s;
            continue;
        }
        s = fold(p2, s, 8);
        if (N == 4)
            break;
        if ((i & 4) == 0)
            p4 = s;
        else
            s = fold(p4, s, 4);
    }
#pragma unroll
    for (int o = 16 / N; o; o /= 2)
        s += __shfl_xor_sync(~0u, s, o);
    return s;
}

/* 1 / rms of the row whose squares were summed. */
DEV float
row_scale(const one &t)
{
    float s = warp_sum(t.lane < WARPS ? t.w->ssq[t.lane] : 0);
    return rsqrtf(s / ONE_DIM + t.a.eps);
}

/* A row of the board into shared memory, and the sum of its squares; all
 * consumers have both then. */
DEV void
gather_row(const one &t, const uint32_t *row, const uint32_t *sq)
{
    const bool last = t.warp == WARPS - 1;
    uint4 v, s = make_uint4(1, 1, 1, 1);
    do {
        v = look4(row + 4 * t.tid);
        if (last)
            s = look4(sq + 4 * t.lane);
    } while (!there(v) || !there(s));
    *(uint4 *)(t.w->row + t.tid * 16) = v;
    float sum = 0;
    if (last)
        sum = warp_sum((__uint_as_float(s.x) + __uint_as_float(s.y)) +
                       (__uint_as_float(s.z) + __uint_as_float(s.w)));
    if (t.lane == 0)
        t.w->ssq[t.warp] = sum;
    meet();
}

/* This lane's value of a norm, of the block's 32; read ahead of its use. */
DEV float
norm_value(const one &t, const char *norm)
{
    return __bfloat162float(((const bf16 *)norm)[t.c * 32 + t.lane]);
}

/* Warp 0: this block's 32 values times a norm, and their squares. */
DEV void
publish_row(const one &t, uint32_t *row, uint32_t *sq, float x, float norm)
{
    float v = x * norm, next = __shfl_xor_sync(~0u, v, 1);
    if ((t.lane & 1) == 0)
        put_word(row + t.c * 16 + (t.lane >> 1), bf_pack(v, next));
    float sum = warp_sum(x * x);
    if (t.lane == 0)
        put_word(sq + t.c, __float_as_uint(sum));
}

#endif
