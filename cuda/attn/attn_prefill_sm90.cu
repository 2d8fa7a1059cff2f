/*
 * attn_prefill.cu for sm_90a: wgmma with the queries and probabilities as
 * register operands, keys and values by tensor maps.
 *
 * DESIGN. Values come transposed ([head, lane][key]), so that both products
 * have K-major operands with 128-byte swizzle: atoms of 128 rows x 64 columns.
 * A block takes 128 queries of one head: two consumer warpgroups of 64, one
 * producer thread, two stages of 128 keys. The scores of the next tile are
 * issued before the product with the values of this one, so that softmax runs
 * beside wgmma. Keys beyond n_key, up to the next multiple of 128, must be
 * finite; they are masked. Bound by wgmma and the exponentials.
 */
#include "cuda/part/hopper.cuh"

#include <stdlib.h>

#include "cuda/part/wgmma.cuh"

#define TILE 128              /* queries of a block, keys of a stage */
#define ATOM (TILE * 128)     /* bytes: 128 rows x 64 columns */
#define STAGES 2
#define SM_ATTN (STAGES * 4 * ATOM + 1024)
#define LOG2E 1.4426950408889634f

struct attn_maps {
    CUtensorMap key, rope, value;
};

#if HOPPER_CODE

struct attn_bars {
    uint64_t key[STAGES], value[STAGES], empty[STAGES];
};

DEV void
produce_keys(const attn_maps &m, attn_bars *b, char *sm, int head, int tiles)
{
    for (int i = 0; i < tiles; i++) {
        const int st = i % STAGES;
        char *at = sm + st * 4 * ATOM;
        mbar_wait(&b->empty[st], (i / STAGES & 1) ^ 1);
        mbar_expect(&b->key[st], 2 * ATOM);
        tma_load(at, &m.key, head * MLA_NOPE, i * TILE, &b->key[st]);
        tma_load(at + ATOM, &m.rope, MLA_RANK, i * TILE, &b->key[st]);
        mbar_expect(&b->value[st], 2 * ATOM);
        tma_load(at + 2 * ATOM, &m.value, i * TILE, head * MLA_V,
                 &b->value[st]);
        tma_load(at + 3 * ATOM, &m.value, i * TILE + 64, head * MLA_V,
                 &b->value[st]);
    }
}

DEV uint64_t
atom_desc(const char *p)
{
    return (uint64_t)((smem_addr(p) & 0x3ffff) >> 4) | 1ull << 16 |
           64ull << 32 | 1ull << 62;
}

/* d += a (64 x 128, registers) times the two atoms at p. */
DEV void
issue_product(float (&d)[64], const uint32_t (&a)[8][4], const char *p)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int s = 0; s < 8; s++)
        wgmma<128>::mma(d, a[s], atom_desc(p + (s >> 2) * ATOM) +
                        2 * (s & 3));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Keeps reads of an accumulator behind the wait for it. */
DEV void
hold(float (&d)[64])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        asm volatile("" : "+f"(d[i]) :: "memory");
}

DEV void
clear(float (&d)[64])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        d[i] = 0;
}

struct softmax {
    float top[2], sum[2], old[2];
};

/* Scores of keys [key0, key0 + 128) to probabilities, in place. */
DEV void
run_softmax(const attn_prefill &a, softmax &x, float (&s)[64], int key0,
            const int *row)
{
    const int t = threadIdx.x & 3;
    const float scale = a.scale * LOG2E;
    if (a.from + key0 + TILE > a.pos + row[0] + 1 || key0 + TILE > a.n_key) {
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int key = key0 + n * 8 + 2 * t + (k & 1);
                if (key >= a.n_key || a.from + key > a.pos + row[k >> 1])
                    s[4 * n + k] = -INFINITY;
            }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = x.top[r], l = 0;
#pragma unroll
        for (int n = 0; n < 16; n++)
            m = fmaxf(m, fmaxf(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        const float off = m == -INFINITY ? 0 : m * scale;
        x.old[r] = exp2f(x.top[r] * scale - off);
        x.top[r] = m;
#pragma unroll
        for (int n = 0; n < 16; n++) {
            float &u = s[4 * n + 2 * r], &v = s[4 * n + 2 * r + 1];
            u = exp2f(fmaf(u, scale, -off));
            v = exp2f(fmaf(v, scale, -off));
            l += u + v;
        }
        x.sum[r] = x.sum[r] * x.old[r] + l;
    }
}

DEV void
pack_probabilities(const float (&s)[64], uint32_t (&p)[8][4])
{
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            p[k][r] = bf_pack(s[8 * k + 2 * r], s[8 * k + 2 * r + 1]);
}

DEV void
rescale(float (&o)[64], const softmax &x)
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] *= x.old[i >> 1 & 1];
}

/* The two query rows of this thread, or zero rows beyond the end. */
DEV void
load_queries(const attn_prefill &a, int head, const int *row,
             uint32_t (&q)[8][4])
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int i = row[r & 1], c = k * 16 + 2 * t + (r >> 1) * 8;
            q[k][r] = i < a.n ? *(const uint32_t *)((const bf16 *)a.q +
                          ((size_t)i * a.heads + head) * MLA_QK + c) : 0;
        }
}

/* State of the pieces before, or a fresh one. */
DEV void
load_state(const attn_prefill &a, int head, const int *row, softmax &x,
           float (&o)[64])
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool carry = !a.first && row[r] < a.n;
        const size_t at = (size_t)row[r] * a.heads + head;
        const float2 ml = carry ? ((const float2 *)a.ml)[at]
                                : make_float2(-INFINITY, 0);
        x.top[r] = ml.x;
        x.sum[r] = t == 0 ? ml.y : 0; /* each lane sums its own keys */
#pragma unroll
        for (int n = 0; n < 16; n++) {
            float2 v = carry ? *(const float2 *)(a.acc + at * MLA_V + n * 8 +
                                                 2 * t)
                             : make_float2(0, 0);
            o[4 * n + 2 * r] = v.x;
            o[4 * n + 2 * r + 1] = v.y;
        }
    }
}

DEV void
store_state(const attn_prefill &a, int head, const int *row, softmax &x,
            const float (&o)[64])
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float l = x.sum[r];
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        if (row[r] >= a.n)
            continue;
        const size_t at = (size_t)row[r] * a.heads + head;
        const float inv = 1 / l;
        if (!a.last && t == 0)
            ((float2 *)a.ml)[at] = make_float2(x.top[r], l);
#pragma unroll
        for (int n = 0; n < 16; n++) {
            float u = o[4 * n + 2 * r], v = o[4 * n + 2 * r + 1];
            if (a.last)
                *(uint32_t *)((bf16 *)a.out + at * MLA_V + n * 8 + 2 * t) =
                    bf_pack(u * inv, v * inv);
            else
                *(float2 *)(a.acc + at * MLA_V + n * 8 + 2 * t) =
                    make_float2(u, v);
        }
    }
}

DEV void
consume_keys(const attn_prefill &a, attn_bars *b, const char *sm, int head,
             int q0, int tiles)
{
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int row[2] = {q0 + w * 16 + (lane >> 2),
                        q0 + w * 16 + (lane >> 2) + 8};
    uint32_t q[8][4], p[8][4];
    float s[64], o[64];
    softmax x;
    load_queries(a, head, row, q);
    load_state(a, head, row, x, o);
    if (tiles == 0) {
        store_state(a, head, row, x, o);
        return;
    }
    clear(s);
    mbar_wait(&b->key[0], 0);
    issue_product(s, q, sm);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(s);
    run_softmax(a, x, s, 0, row);
#pragma unroll 1
    for (int i = 0; i + 1 < tiles; i++) {
        const int st = i % STAGES, next = (i + 1) % STAGES;
        pack_probabilities(s, p);
        rescale(o, x);
        clear(s);
        mbar_wait(&b->key[next], (i + 1) / STAGES & 1);
        mbar_wait(&b->value[st], i / STAGES & 1);
        issue_product(s, q, sm + next * 4 * ATOM);
        issue_product(o, p, sm + st * 4 * ATOM + 2 * ATOM);
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        hold(s);
        run_softmax(a, x, s, (i + 1) * TILE, row);
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        hold(o);
        if (lane == 0)
            mbar_arrive(&b->empty[st]);
    }
    const int st = (tiles - 1) % STAGES;
    pack_probabilities(s, p);
    rescale(o, x);
    mbar_wait(&b->value[st], (tiles - 1) / STAGES & 1);
    issue_product(o, p, sm + st * 4 * ATOM + 2 * ATOM);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(o);
    store_state(a, head, row, x, o);
}

#endif

static __global__ void
__launch_bounds__(384, 1)
prefill_sm90(const __grid_constant__ attn_maps maps,
             const __grid_constant__ attn_prefill a)
{
#if HOPPER_CODE
    extern __shared__ char sm_raw[];
    __shared__ attn_bars b;
    char *sm = sm_raw + (1024 - (smem_addr(sm_raw) & 1023)) % 1024;
    const int head = blockIdx.y;
    /* The last queries have the most keys: they start first. */
    const int q0 = (gridDim.x - 1 - blockIdx.x) * TILE;
    pdl_trigger();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&b.key[i], 1);
            mbar_init(&b.value[i], 1);
            mbar_init(&b.empty[i], 8);
        }
        mbar_init_done();
    }
    __syncthreads();
    pdl_wait();
    const int last_q = min(q0 + TILE, a.n) - 1;
    const int n_key = min(a.n_key, a.pos + last_q + 1 - a.from);
    const int tiles = n_key > 0 ? (n_key + TILE - 1) / TILE : 0;
    if (threadIdx.x >= 256) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) {
            /* Keys and values were written by ordinary stores. */
            asm volatile("fence.proxy.async;" ::: "memory");
            produce_keys(maps, &b, sm, head, tiles);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume_keys(a, &b, sm, head, q0, tiles);
    }
#endif
}

extern "C" struct attn_maps *
cuda_attn_maps(void *key, void *rows, void *value, int piece, int heads)
{
    struct attn_maps *m = (struct attn_maps *)aligned_alloc(
        64, (sizeof *m + 63) / 64 * 64);
    if (m && tensor_map(&m->key, key, heads * MLA_NOPE, piece, TILE) &&
        tensor_map(&m->rope, rows, MLA_ROW, piece, TILE) &&
        tensor_map(&m->value, value, piece, heads * MLA_V, TILE))
        return m;
    free(m);
    return NULL;
}

extern "C" void
cuda_attn_maps_free(struct attn_maps *m)
{
    free(m);
}

extern "C" int
cuda_attn_prefill_sm90(const struct attn_prefill *a,
                       const struct attn_maps *maps, cudaStream_t s)
{
    return launch_ex<SM_ATTN, true>(prefill_sm90,
                                    dim3((a->n + TILE - 1) / TILE, a->heads),
                                    384, s, *maps, *a);
}
