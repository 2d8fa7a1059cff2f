/*
 * Products of stored bf16 matrices with up to 32 tokens a block, where a block
 * may have 192 KiB of shared memory (sm_90a).
 *
 * DESIGN. Between two small launches of a decode step the memory is idle. A
 * block takes 16 or 32 rows and asks for all of their weights, or most, before
 * it waits for the launch that makes the tokens: its 8 warps share out K, and
 * each lane copies by cp.async just the bytes that it reads itself, so nothing
 * but its own copies has to be waited for. Tokens come straight from L2, a
 * tile or more ahead. The sums of the warps are added in one order.
 *
 * K is permuted in each 64 columns, for weights and tokens alike: lane t of a
 * quad has columns 8t .. 8t + 7 and 32 + 8t .. 32 + 8t + 7, so that every load
 * of a quad is 64 bytes of a row.
 */
#include "cuda/part/hopper.cuh"

#define WARPS 8
#define TILE_BYTES 2048     /* 16 rows x 64 columns */

struct few_job {
    const bf16 *w, *x;
    float alpha;
    int ldx, ldo, n, form;
    void *out;
    bool ready;
};

#if HOPPER_CODE

/* This lane's bytes of a tile of 16 rows; w is where they begin. */
template <int COLS> DEV void
fetch_tile(uint32_t to, const bf16 *w)
{
#pragma unroll
    for (int k = 0; k < 4; k++)
        cp_async16(to + k * 512, w + (k >> 1) * 8 * COLS + (k & 1) * 32,
                   true);
}

DEV uint4
ld_token(const bf16 *p)
{
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p) : "memory");
    return v;
}

/* Of tokens g, g + 8 ..., n in all; x is this lane's part of the first. */
template <int NL> DEV void
load_tokens(uint4 (&b)[NL][2], const bf16 *x, int ldx, int n)
{
    const int g = (threadIdx.x & 31) >> 2;
#pragma unroll
    for (int l = 0; l < NL; l++)
#pragma unroll
        for (int k = 0; k < 2; k++)
            b[l][k] = l * 8 + g < n
                ? ld_token(x + l * 8 * ldx + k * 32)
                : make_uint4(0, 0, 0, 0);
}

/* A volatile load, so that few of them are under way: registers are short. */
DEV uint4
ld_shared(uint32_t p)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(p));
    return v;
}

template <int NL> DEV void
tile_product(uint32_t sm, const uint4 (&b)[NL][2], float (&d)[NL][4])
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint4 lo = ld_shared(sm + k * 512);
        const uint4 hi = ld_shared(sm + k * 512 + 1024);
        const uint32_t f0[4] = {lo.x, hi.x, lo.y, hi.y};
        const uint32_t f1[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
        for (int l = 0; l < NL; l++)
            mma16816(d[l], f0, b[l][k].x, b[l][k].y);
#pragma unroll
        for (int l = 0; l < NL; l++)
            mma16816(d[l], f1, b[l][k].z, b[l][k].w);
    }
}

/* Rows r .. r + 3 of token i: the sums of the warps. */
template <int ROWS> DEV void
store_rows(const few_job &j, const float *red, int tok, int i, int first,
           int r)
{
    float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < WARPS; k++) {
        const float4 o = *(const float4 *)(red + (k * 32 + i) * (ROWS + 4) +
                                           r);
        v.x += o.x;
        v.y += o.y;
        v.z += o.z;
        v.w += o.w;
    }
    v = make_float4(v.x * j.alpha, v.y * j.alpha, v.z * j.alpha,
                    v.w * j.alpha);
    const size_t at = (size_t)(tok + i) * j.ldo + first + r;
    if (j.form == GEMM_BF16) {
        *(uint2 *)((bf16 *)j.out + at) = make_uint2(bf_pack(v.x, v.y),
                                                    bf_pack(v.z, v.w));
        return;
    }
    float4 *out = (float4 *)((float *)j.out + at);
    if (j.form == GEMM_ADD) {
        const float4 o = __ldcg(out);
        v = make_float4(v.x + o.x, v.y + o.y, v.z + o.z, v.w + o.w);
    }
    *out = v;
}

/* The warps' sums to shared memory, then their sum to memory. */
template <int RT, int NL> DEV void
add_warps(const few_job &j, const float (&d)[RT][NL][4], float *red, int tok,
          int first, int n)
{
    constexpr int ROWS = 16 * RT;
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int m = 0; m < RT; m++)
#pragma unroll
        for (int l = 0; l < NL; l++) {
            float *r = red + (w * 32 + l * 8 + 2 * t) * (ROWS + 4) + m * 16 +
                       g;
            r[0] = d[m][l][0];
            r[ROWS + 4] = d[m][l][1];
            r[8] = d[m][l][2];
            r[ROWS + 4 + 8] = d[m][l][3];
        }
    __syncthreads();
    if (j.ready)
        pdl_wait();
    for (int o = threadIdx.x; o < n * (ROWS / 4); o += WARPS * 32)
        store_rows<ROWS>(j, red, tok, o / (ROWS / 4), first,
                         o % (ROWS / 4) * 4);
}

#endif

/* RT row tiles a block, T column tiles a warp, of which DEPTH are under way at
 * once; up to 8 NL tokens. */
template <int RT, int T, int DEPTH, int NL> static __global__ void
__launch_bounds__(WARPS * 32, 2)
few(const __grid_constant__ few_job j)
{
#if HOPPER_CODE
    extern __shared__ __align__(128) char sm[];
    constexpr int COLS = T * WARPS * 64;
    constexpr int AHEAD = T < 8 / NL ? T : 8 / NL; /* tiles of tokens */
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3;
    const int first = blockIdx.x * 16 * RT, tok = blockIdx.y * 8 * NL;
    const bf16 *rows = j.w + (size_t)(first + g) * COLS + w * 64 + 8 * t;
    const uint32_t ring = smem_addr(sm) + w * (DEPTH * RT * TILE_BYTES) +
                          lane * 16;
    uint4 b[AHEAD][NL][2];
    float d[RT][NL][4] = {};
    const int n = min(8 * NL, j.n - tok);
    const bf16 *x = j.x + (size_t)(tok + g) * j.ldx + w * 64 + 8 * t;

#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
#pragma unroll
        for (int m = 0; m < RT; m++)
            fetch_tile<COLS>(ring + (i * RT + m) * TILE_BYTES,
                             rows + m * 16 * COLS + i * WARPS * 64);
        cp_async_commit();
    }
    pdl_trigger();
    if (!j.ready)
        pdl_wait();
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        load_tokens<NL>(b[i], x + i * WARPS * 64, j.ldx, n);
    uint32_t at = ring;
#pragma unroll 1
    for (int i0 = 0; i0 < T; i0 += AHEAD)
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int i = i0 + a;
            x += WARPS * 64;
            cp_async_wait<DEPTH - 1>();
#pragma unroll
            for (int m = 0; m < RT; m++)
                tile_product<NL>(at + m * TILE_BYTES, b[a], d[m]);
            if (DEPTH < T && i + DEPTH < T) {
#pragma unroll
                for (int m = 0; m < RT; m++)
                    fetch_tile<COLS>(at + m * TILE_BYTES,
                                     rows + m * 16 * COLS +
                                         (i + DEPTH) * WARPS * 64);
            }
            cp_async_commit();
            at += RT * TILE_BYTES;
            if (DEPTH < T && at == ring + DEPTH * RT * TILE_BYTES)
                at = ring;
            if (AHEAD < T && i + AHEAD < T)
                load_tokens<NL>(b[a], x + (AHEAD - 1) * WARPS * 64, j.ldx, n);
        }
    __syncthreads();
    add_warps<RT, NL>(j, d, (float *)sm, tok, first, n);
#endif
}

template <int RT, int T, int DEPTH> static int
run(const few_job &j, int rows, cudaStream_t s)
{
    constexpr int SMEM = WARPS * DEPTH * RT * TILE_BYTES;
    static_assert(WARPS * 32 * (16 * RT + 4) * 4 <= SMEM,
                  "the sums lie in the ring");
    const int blocks = rows / (16 * RT);
    if (j.n <= 8)
        return launch_ex<SMEM, true>(few<RT, T, DEPTH, 1>, dim3(blocks),
                                     WARPS * 32, s, j);
    if (j.n <= 16)
        return launch_ex<SMEM, true>(few<RT, T, DEPTH, 2>, dim3(blocks),
                                     WARPS * 32, s, j);
    return launch_ex<SMEM, true>(few<RT, T, DEPTH, 4>,
                                 dim3(blocks, (j.n + 31) / 32), WARPS * 32, s,
                                 j);
}

extern "C" bool
cuda_gemm_few_fits(const struct gemm *g)
{
    return g->w.layout == LAYOUT_BF16 && g->w.rows <= 4096
           && g->ldx % 8 == 0 && g->ldo % 4 == 0
           && ((g->w.cols == 1024 && g->w.rows % 32 == 0)
               || (g->w.cols == 4096 && g->w.rows % 16 == 0));
}

extern "C" int
cuda_gemm_few(const struct gemm *g, bool ready, cudaStream_t s)
{
    if (!cuda_gemm_few_fits(g))
        return cudaErrorInvalidValue;
    few_job j = {};
    j.w = (const bf16 *)g->w.data;
    j.x = (const bf16 *)g->x;
    j.alpha = g->w.scale;
    j.ldx = g->ldx;
    j.ldo = g->ldo;
    j.n = g->n;
    j.form = g->form;
    j.out = g->out;
    j.ready = ready;
    if (g->w.cols == 1024)
        return run<2, 2, 2>(j, g->w.rows, s);
    /* More rows a block once that leaves a block for most SMs. */
    if (g->w.rows % 32 == 0 && g->w.rows >= 128 * 32)
        return run<2, 8, 6>(j, g->w.rows, s);
    return run<1, 8, 8>(j, g->w.rows, s);
}
