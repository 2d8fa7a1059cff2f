/*
 * The shared expert of 65 tokens and more: gate+up with SiLU, then down, two
 * launches (sm_90a, NVFP4).
 *
 * DESIGN. Every token takes this expert. moe_mid reads it again for every 8 of
 * them; here its weights are read once for 64, by mma.sync, which also saves
 * their unpacking. A block takes 128 rows, 64 tokens and half of K: 16 warps,
 * 8 row tiles by 2 column tiles a step. Weights and tokens pass through a
 * cp.async ring; of the weights each lane copies just the bytes that it reads
 * itself, and warps that are done with a stage run up to LAG steps ahead of
 * the others. The sums of the warps lie in shared memory at the end, where both
 * blocks of a cluster add them in one order, half of the tokens each.
 *
 * down does not wait for the routing list before it, beside which it runs:
 * that launch lets it start only after its own wait, so up has ended. It waits
 * at its end, which keeps the chain transitive.
 */
#include "cuda/part/hopper.cuh"

#define WARPS 16
#define ROW_TILES 8            /* of 16 rows, a block */
#define KQ (WARPS / ROW_TILES) /* column tiles a step */
#define TOKENS 64              /* of a block */
#define PARTS 2                /* blocks that share out K: a cluster */
#define RING 7
#define LAG 2                  /* steps after which a stage is filled again */
#define XROW (KQ * 128 + 16)   /* bytes a token and stage, with a pad */
#define WEIGHTS (WARPS * 640)  /* codes and scales of a stage */
#define STAGE (WEIGHTS + TOKENS * XROW)
#define RED (ROW_TILES * 16 + 4) /* floats a token's sums */
static_assert(TOKENS * RED * KQ * 4 <= RING * STAGE,
              "the sums lie in the ring");

struct shared_job {
    const char *w;
    const float *scale;   /* gate and up, or down */
    const bf16 *x;
    bf16 *out;
    int n, cols, ldo;
};

#if HOPPER_CODE

DEV void
cp_async4(uint32_t dst, const void *src)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                 :: "r"(dst), "l"(src) : "memory");
}

/* Arrives when this thread's copies so far are there. */
DEV void
cp_async_arrive(uint64_t *b)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
                 :: "r"(smem_addr(b)) : "memory");
}

DEV void
cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

DEV float2
ld_cluster2(uint32_t addr, int rank)
{
    float2 v;
    asm volatile("{\n.reg .u32 a;\n"
                 "mapa.shared::cluster.u32 a, %2, %3;\n"
                 "ld.shared::cluster.v2.f32 {%0, %1}, [a];\n}\n"
                 : "=f"(v.x), "=f"(v.y) : "r"(addr), "r"(rank) : "memory");
    return v;
}

/* This lane's codes and scales of column tile `tile`; w is where its row tile
 * begins in the block's part. */
DEV void
fetch_weights(uint32_t stage, const char *w, int tile)
{
    const char *u = w + (size_t)(tile >> 3) * UNIT;
    cp_async16(stage + threadIdx.x * 16, u + (tile & 7) * 512, true);
    cp_async4(stage + WARPS * 512 + threadIdx.x * 4,
              u + 4096 + (tile & 7) / 2 * 4);
}

/* Columns of step i of the block's n tokens, and zeros for the rest. */
DEV void
fetch_tokens(uint32_t to, const bf16 *x, int cols, int n, int i)
{
    constexpr int PIECES = KQ * 8;
    for (int c = threadIdx.x; c < TOKENS * PIECES; c += WARPS * 32) {
        int tok = c / PIECES, part = c % PIECES;
        bool on = tok < n;
        cp_async16(to + tok * XROW + part * 16,
                   x + (size_t)(on ? tok : 0) * cols + i * KQ * 64 +
                   part * 8, on);
    }
}

/* The A fragments of what this lane copied; odd: of a pair of tiles. */
DEV void
stage_frag(const char *stage, int odd, uint32_t (&f)[4][4])
{
    raw_tile<LAYOUT_NVFP4> r;
    r.v = *((const uint4 *)stage + threadIdx.x);
    r.sc = ((const uint32_t *)(stage + WARPS * 512))[threadIdx.x] >> 16 * odd;
    raw_frag<LAYOUT_NVFP4>(r, f);
}

/* acc += f times the stage's tokens, at x for this lane. Groups of four keep
 * as many chains of mma going. */
DEV void
stage_product(const uint32_t (&f)[4][4], const char *x,
              float (&acc)[TOKENS / 8][4])
{
    constexpr int STEP = 4;
#pragma unroll
    for (int l = 0; l < TOKENS / 8; l += STEP) {
        uint4 b[STEP], c[STEP];
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            b[k] = *(const uint4 *)(x + (l + k) * 8 * XROW);
            c[k] = *(const uint4 *)(x + (l + k) * 8 * XROW + 16);
        }
#pragma unroll
        for (int k = 0; k < STEP; k++)
            mma16816(acc[l + k], f[0], b[k].x, b[k].y);
#pragma unroll
        for (int k = 0; k < STEP; k++)
            mma16816(acc[l + k], f[1], b[k].z, b[k].w);
#pragma unroll
        for (int k = 0; k < STEP; k++)
            mma16816(acc[l + k], f[2], c[k].x, c[k].y);
#pragma unroll
        for (int k = 0; k < STEP; k++)
            mma16816(acc[l + k], f[3], c[k].z, c[k].w);
    }
}

/* The cluster's sums of one token and rows r, r + 1 of the block. */
DEV float2
cluster_sum(uint32_t red, int tok, int r)
{
    float2 p[PARTS * KQ], v = make_float2(0, 0);
#pragma unroll
    for (int k = 0; k < PARTS * KQ; k++)
        p[k] = ld_cluster2(red + ((k % KQ * TOKENS + tok) * RED + r) * 4,
                           k / KQ);
#pragma unroll
    for (int k = 0; k < PARTS * KQ; k++) {
        v.x += p[k].x;
        v.y += p[k].y;
    }
    return v;
}

/* This block's half of the cluster's tokens; row: the block's first. */
template <bool UP> DEV void
finish(const shared_job &a, uint32_t red, int row, int n)
{
    constexpr int SHARE = TOKENS / PARTS, PAIRS = ROW_TILES * (UP ? 4 : 8);
    const size_t first = (size_t)blockIdx.z * TOKENS;
    const float s0 = a.scale[0], s1 = UP ? a.scale[1] : 0;
    for (int o = threadIdx.x; o < SHARE * PAIRS; o += WARPS * 32) {
        int tok = blockIdx.x * SHARE + o / PAIRS, c = o % PAIRS * 2;
        if (tok >= n)
            break;
        int r = UP ? c / 8 * 16 + c % 8 : c;
        float2 v = cluster_sum(red, tok, r);
        v.x *= s0;
        v.y *= s0;
        if (UP) {
            float2 u = cluster_sum(red, tok, r + 8);
            v.x = silu(v.x) * (u.x * s1);
            v.y = silu(v.y) * (u.y * s1);
        }
        *(uint32_t *)(a.out + (first + tok) * a.ldo + (UP ? row / 2 : row) +
                      c) = bf_pack(v.x, v.y);
    }
    __syncwarp();
}

#endif

template <bool UP> static __global__ void
__launch_bounds__(WARPS * 32, 1)
shared_expert(const __grid_constant__ shared_job a)
{
#if HOPPER_CODE
    extern __shared__ __align__(128) char sm[];
    __shared__ uint64_t full[RING], empty[RING];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, kq = w / ROW_TILES;
    const int row = blockIdx.y * 16 * ROW_TILES;
    const int first = blockIdx.z * TOKENS, n = min(TOKENS, a.n - first);
    const int part = a.cols / PARTS, steps = part / 64 / KQ;
    const bf16 *x = a.x + (size_t)first * a.cols + blockIdx.x * part;
    const char *weights =
        row_tile<LAYOUT_NVFP4>(a.w, row / 16 + w % ROW_TILES, a.cols, lane) +
        blockIdx.x * (part / 512) * UNIT;
    const uint32_t ring = smem_addr(sm);
    float acc[TOKENS / 8][4] = {};

    if (!UP)
        pdl_trigger();
    if (threadIdx.x < RING) {
        mbar_init(&full[threadIdx.x], WARPS * 32);
        mbar_init(&empty[threadIdx.x], WARPS * 32);
        mbar_init_done();
    }
#pragma unroll 1
    for (int i = 0; i < RING && i < steps; i++)
        fetch_weights(ring + i * STAGE, weights, i * KQ + kq);
    __syncthreads();
    if (UP) {
        pdl_wait();
        pdl_trigger();
    }
#pragma unroll 1
    for (int i = 0; i < RING && i < steps; i++) {
        fetch_tokens(ring + i * STAGE + WEIGHTS, x, a.cols, n, i);
        cp_async_arrive(&full[i]);
    }
    int st = 0, ph = 0;          /* of the stage at hand */
    int to = RING - LAG, tp = 1; /* of the one to fill again */
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
        const char *stage = sm + st * STAGE;
        const int next = i + RING - LAG;
        mbar_wait(&full[st], ph);
        uint32_t f[4][4];
        stage_frag(stage, kq & 1, f);
        stage_product(f, stage + WEIGHTS + g * XROW + kq * 128 + 32 * t, acc);
        mbar_arrive(&empty[st]);
        if (i >= LAG && next < steps) {
            mbar_wait(&empty[to], tp);
            const uint32_t at = ring + to * STAGE;
            fetch_weights(at, weights, next * KQ + kq);
            fetch_tokens(at + WEIGHTS, x, a.cols, n, next);
            cp_async_arrive(&full[to]);
        }
        if (++st == RING)
            st = 0, ph ^= 1;
        if (++to == RING)
            to = 0, tp ^= 1;
    }
    cp_async_wait<0>();
    __syncthreads();
    float *red = (float *)sm + (kq * TOKENS + 2 * t) * RED +
                 w % ROW_TILES * 16 + g;
#pragma unroll
    for (int l = 0; l < TOKENS / 8; l++) {
        float *r = red + l * 8 * RED;
        r[0] = acc[l][0];
        r[RED] = acc[l][1];
        r[8] = acc[l][2];
        r[RED + 8] = acc[l][3];
    }
    cluster_sync();
    finish<UP>(a, ring, row, n);
    cluster_sync();     /* the other may still read our sums */
    if (!UP)
        pdl_wait();
#endif
}

template <bool UP> static int
run(const struct moe *m, const shared_job &a, cudaStream_t s)
{
    const int rows = UP ? 2 * m->hidden : m->dim;
    dim3 grid(PARTS, rows / (16 * ROW_TILES), (a.n + TOKENS - 1) / TOKENS);
    if (!cuda_moe_mid_fits(m))
        return cudaErrorInvalidValue;
    return launch_cluster<RING * STAGE, PARTS>(shared_expert<UP>, grid,
                                               WARPS * 32, s, a);
}

extern "C" int
cuda_moe_shared_up(const struct moe *m, cudaStream_t s)
{
    const int e = m->n_experts - 1;
    shared_job a = {};
    a.w = (const char *)m->w13 + e * m->stride13;
    a.scale = m->scale13 + 2 * e;
    a.x = (const bf16 *)m->x;
    a.out = (bf16 *)m->h + (size_t)m->n * (m->slots - 1) * m->hidden;
    a.n = m->n;
    a.cols = m->dim;
    a.ldo = m->hidden;
    return run<true>(m, a, s);
}

extern "C" int
cuda_moe_shared_down(const struct moe *m, cudaStream_t s)
{
    const int e = m->n_experts - 1;
    const size_t row = (size_t)m->n * (m->slots - 1);
    shared_job a = {};
    a.w = (const char *)m->w2 + e * m->stride2;
    a.scale = m->scale2 + e;
    a.x = (const bf16 *)m->h + row * m->hidden;
    a.out = (bf16 *)m->y + row * m->dim;
    a.n = m->n;
    a.cols = m->hidden;
    a.ldo = m->dim;
    return run<false>(m, a, s);
}
