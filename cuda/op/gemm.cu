/*
 * Matrix products of stored weights with token activations, dense and grouped
 * by expert, for every layout and every part from sm_80 on.
 *
 * DESIGN. Two shapes of one loop (device.cuh says how a tile is split over
 * the lanes):
 *   thin  up to 16 tokens, dense up to 32: a block owns 16 rows, its 8 warps split K, weights
 *         stream straight into registers; partial sums meet in shared memory
 *         and are added in a fixed order. Bound by memory.
 *   wide  a block owns 128 rows x 32 to 128 tokens; its 8 warps in 4 row pairs by
 *         2 token halves; tokens pass through a cp.async ring, weights go from
 *         L2 into registers one tile ahead. Bound by mma.sync.
 * What differs between dense, gate+up and down is which row of x a token is
 * and what happens to the sums (struct job). Grouped launches read the items
 * that cuda_route_sort made; blocks beyond them leave at once.
 */
#include "cuda/part/device.cuh"

enum { DENSE, UP, DOWN };

struct job {
    const char *w;
    uint64_t stride;         /* bytes an expert */
    const float *scale;      /* per expert: UP 2, DOWN 1; DENSE: NULL */
    float alpha;
    const bf16 *x;
    int ldx;
    void *out;
    int ldo, form;
    int rows, cols, n;
    const int *order;
    const struct moe_item *item;
    const int *n_item;
    int slots;
};

/* One block's share: which tokens, which matrix. */
struct share {
    int first, n;
    const char *w;
    float s0, s1;
};

template <int MODE> DEV bool
take_share(const job &j, int y, int width, share &a)
{
    if (MODE == DENSE) {
        a.first = y * width;
        a.n = min(width, j.n - a.first);
        a.w = j.w;
        a.s0 = a.s1 = j.alpha;
        return true;
    }
    if (y >= *(volatile const int *)j.n_item)
        return false;
    moe_item it = j.item[y];
    a.first = it.first;
    a.n = it.n;
    a.w = j.w + it.expert * j.stride;
    a.s0 = j.scale[MODE == UP ? 2 * it.expert : it.expert];
    a.s1 = MODE == UP ? j.scale[2 * it.expert + 1] : a.s0;
    return true;
}

/* Row of x that token i of the share reads. */
template <int MODE> DEV int
source_row(const job &j, const share &a, int i)
{
    return MODE == UP ? j.order[a.first + i] / j.slots : a.first + i;
}

/* Stores the sum of weight row r (DENSE, DOWN). */
template <int MODE> DEV void
store_value(const job &j, const share &a, int i, int r, float v)
{
    size_t at = (size_t)(a.first + i) * j.ldo + r;
    v *= a.s0;
    if (MODE == DOWN || j.form == GEMM_BF16)
        ((bf16 *)j.out)[at] = __float2bfloat16(v);
    else if (j.form == GEMM_F32)
        ((float *)j.out)[at] = v;
    else
        ((float *)j.out)[at] += v;
}

/* Fragment words of 8 tokens: 32 bytes a lane. */
DEV void
mma_tile(float *d, const uint32_t (&a)[4][4], uint4 b, uint4 c)
{
    mma16816(d, a[0], b.x, b.y);
    mma16816(d, a[1], b.z, b.w);
    mma16816(d, a[2], c.x, c.y);
    mma16816(d, a[3], c.z, c.w);
}

#define STEP 4 /* tiles a warp loads at once */

template <int LAYOUT, int MODE, int NL> static __global__ void
__launch_bounds__(256, NL > 2 ? 1 : 2)
thin(const __grid_constant__ job j)
{
    __shared__ float red[8][16][8 * NL + 1];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, tiles = j.cols / 64;
    raw_tile<LAYOUT> raw[STEP];
    share a;
    float d[NL][4] = {};

    pdl_trigger();
    if (MODE != DENSE)
        pdl_wait();
    if (!take_share<MODE>(j, blockIdx.y, 8 * NL, a))
        return;
    const char *p = row_tile<LAYOUT>(a.w, blockIdx.x, j.cols, lane);
    bool waited = MODE != DENSE;
    const char *x[NL];
    bool on[NL];
    for (int q = w * STEP; q < tiles; q += 8 * STEP) {
#pragma unroll
        for (int i = 0; i < STEP; i++)
            if (q + i < tiles)
                raw_load<LAYOUT>(raw[i], p, j.cols, q + i);
            else
                raw_zero<LAYOUT>(raw[i]);
        if (!waited) {
            pdl_wait();
            waited = true;
        }
        if (q == w * STEP)
#pragma unroll
            for (int l = 0; l < NL; l++) {
                on[l] = l * 8 + g < a.n;
                int row = on[l] ? source_row<MODE>(j, a, l * 8 + g) : 0;
                x[l] = (const char *)(j.x + (size_t)row * j.ldx + 16 * t);
            }
#pragma unroll
        for (int i = 0; i < STEP; i++) {
            uint32_t f[4][4];
            raw_frag<LAYOUT>(raw[i], f);
#pragma unroll
            for (int l = 0; l < NL; l++) {
                uint4 b = make_uint4(0, 0, 0, 0), c = b;
                if (on[l] && q + i < tiles) {
                    b = ld_act(x[l] + 128 * (q + i));
                    c = ld_act(x[l] + 128 * (q + i) + 16);
                }
                mma_tile(d[l], f, b, c);
            }
        }
    }
    if (!waited)
        pdl_wait();
#pragma unroll
    for (int l = 0; l < NL; l++) {
        red[w][g][8 * l + 2 * t] = d[l][0];
        red[w][g][8 * l + 2 * t + 1] = d[l][1];
        red[w][g + 8][8 * l + 2 * t] = d[l][2];
        red[w][g + 8][8 * l + 2 * t + 1] = d[l][3];
    }
    __syncthreads();
    constexpr int R = MODE == UP ? 8 : 16;
    for (int o = threadIdx.x; o < R * 8 * NL; o += 256) {
        int r = o % R, i = o / R;
        if (i >= a.n)
            continue;
        float v = 0, u = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v += red[k][r][i];
            if (MODE == UP)
                u += red[k][r + 8][i];
        }
        if (MODE == UP)
            ((bf16 *)j.out)[(size_t)(a.first + i) * j.ldo + blockIdx.x * 8 +
                            r] = __float2bfloat16(silu(v * a.s0) *
                                                  (u * a.s1));
        else
            store_value<MODE>(j, a, i, blockIdx.x * 16 + r, v);
    }
}

#define XROW 144 /* bytes a token and tile in shared memory: 128 and a pad */
#define RING 4

constexpr int
wide_smem(int width)
{
    return RING * width * XROW;
}

/* Copies the 64-column tile i of the share's tokens into ring stage st. */
template <int MODE, int WIDTH> DEV void
fetch_tokens(const job &j, const share &a, uint32_t sm, int st, int i)
{
    for (int c = threadIdx.x; c < WIDTH * 8; c += 256) {
        int tok = c >> 3, part = c & 7;
        bool on = tok < a.n;
        int row = on ? source_row<MODE>(j, a, tok) : 0;
        cp_async16(sm + st * WIDTH * XROW + tok * XROW + part * 16,
                   j.x + (size_t)row * j.ldx + i * 64 + part * 8, on);
    }
    cp_async_commit();
}

template <int LAYOUT, int MODE, int WIDTH> static __global__ void
__launch_bounds__(256)
wide(const __grid_constant__ job j)
{
    extern __shared__ __align__(128) char sm[];
    constexpr int NT = WIDTH / 16; /* groups of 8 tokens a warp */
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, tiles = j.cols / 64;
    const int rt = blockIdx.x * 8 + (w >> 1) * 2, half = w & 1;
    const int row_tiles = j.rows / 16;
    share a;
    pdl_trigger();
    pdl_wait();
    if (!take_share<MODE>(j, blockIdx.y, WIDTH, a))
        return;
    const uint32_t ring = smem_addr(sm);
    const char *p[2];
    raw_tile<LAYOUT> raw[2];
    float d[2][NT][4] = {};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int tile = min(rt + r, row_tiles - 1);
        p[r] = row_tile<LAYOUT>(a.w, tile, j.cols, lane);
        raw_load<LAYOUT>(raw[r], p[r], j.cols, 0);
    }
#pragma unroll
    for (int i = 0; i < RING - 1; i++)
        if (i < tiles)
            fetch_tokens<MODE, WIDTH>(j, a, ring, i, i);
        else
            cp_async_commit();
    for (int i = 0; i < tiles; i++) {
        uint32_t f[2][4][4];
        raw_frag<LAYOUT>(raw[0], f[0]);
        raw_frag<LAYOUT>(raw[1], f[1]);
        if (i + 1 < tiles) {
            raw_load<LAYOUT>(raw[0], p[0], j.cols, i + 1);
            raw_load<LAYOUT>(raw[1], p[1], j.cols, i + 1);
        }
        cp_async_wait<RING - 2>();
        __syncthreads();
        if (i + RING - 1 < tiles)
            fetch_tokens<MODE, WIDTH>(j, a, ring, (i + RING - 1) % RING,
                                      i + RING - 1);
        else
            cp_async_commit();
        const char *x = sm + (i % RING) * WIDTH * XROW +
                        (half * (WIDTH / 2) + g) * XROW + 32 * t;
#pragma unroll
        for (int l = 0; l < NT; l++) {
            uint4 b = *(const uint4 *)(x + l * 8 * XROW);
            uint4 c = *(const uint4 *)(x + l * 8 * XROW + 16);
            mma_tile(d[0][l], f[0], b, c);
            mma_tile(d[1][l], f[1], b, c);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (rt + r >= row_tiles)
            break;
#pragma unroll
        for (int l = 0; l < NT; l++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                int i = half * (WIDTH / 2) + l * 8 + 2 * t + k;
                float v = d[r][l][k], u = d[r][l][k + 2];
                if (i >= a.n)
                    continue;
                if (MODE == UP) {
                    ((bf16 *)j.out)[(size_t)(a.first + i) * j.ldo +
                                    (rt + r) * 8 + g] =
                        __float2bfloat16(silu(v * a.s0) * (u * a.s1));
                } else {
                    store_value<MODE>(j, a, i, (rt + r) * 16 + g, v);
                    store_value<MODE>(j, a, i, (rt + r) * 16 + g + 8, u);
                }
            }
    }
}

template <int LAYOUT, int MODE, int NL> static int
run_thin(const job &j, int items, cudaStream_t s)
{
    return launch<0>(thin<LAYOUT, MODE, NL>, dim3(j.rows / 16, items), 256,
                     s, j);
}

template <int LAYOUT, int MODE, int WIDTH> static int
run_wide(const job &j, int items, cudaStream_t s)
{
    return launch<wide_smem(WIDTH)>(wide<LAYOUT, MODE, WIDTH>,
                                    dim3((j.rows + 127) / 128, items), 256,
                                    s, j);
}

template <int LAYOUT, int MODE> static int
run_width(const job &j, int width, int items, cudaStream_t s)
{
    switch (width) {
    case 8: return run_thin<LAYOUT, MODE, 1>(j, items, s);
    case 16: return run_thin<LAYOUT, MODE, 2>(j, items, s);
    case 32:
        if (MODE == DENSE)
            return run_thin<LAYOUT, MODE, 4>(j, items, s);
        return run_wide<LAYOUT, MODE, 32>(j, items, s);
    case 64: return run_wide<LAYOUT, MODE, 64>(j, items, s);
    case 128: return run_wide<LAYOUT, MODE, 128>(j, items, s);
    }
    return cudaErrorInvalidValue;
}

template <int MODE> static int
run(enum layout l, const job &j, int width, int items, cudaStream_t s)
{
    if (j.rows % 16 || j.cols % 64 || j.ldx % 8)
        return cudaErrorInvalidValue;
    switch (l) {
    case LAYOUT_BF16: return run_width<LAYOUT_BF16, MODE>(j, width, items, s);
    case LAYOUT_FP8: return run_width<LAYOUT_FP8, MODE>(j, width, items, s);
    case LAYOUT_NVFP4:
        return run_width<LAYOUT_NVFP4, MODE>(j, width, items, s);
    }
    return cudaErrorInvalidValue;
}

bool cuda_pdl;

extern "C" uint64_t
cuda_matrix_bytes(enum layout l, int rows, int cols)
{
    uint64_t n = (uint64_t)rows * cols;
    return l == LAYOUT_BF16 ? 2 * n : l == LAYOUT_FP8 ? n
           : (uint64_t)(rows / 16) * ((cols + 511) / 512) * UNIT;
}

extern "C" int
cuda_gemm(const struct gemm *g, cudaStream_t s)
{
    job j = {};
    j.w = (const char *)g->w.data;
    j.alpha = g->w.scale;
    j.x = (const bf16 *)g->x;
    j.ldx = g->ldx;
    j.out = g->out;
    j.ldo = g->ldo;
    j.form = g->form;
    j.rows = g->w.rows;
    j.cols = g->w.cols;
    j.n = g->n;
    int width = g->n <= 8 ? 8 : g->n <= 16 ? 16 : g->n <= 32 ? 32
                : g->n <= 64 ? 64 : 128;
    return run<DENSE>(g->w.layout, j, width, (g->n + width - 1) / width, s);
}

static job
moe_job(const struct moe *m, bool up)
{
    job j = {};
    j.w = (const char *)(up ? m->w13 : m->w2);
    j.stride = up ? m->stride13 : m->stride2;
    j.scale = up ? m->scale13 : m->scale2;
    j.x = (const bf16 *)(up ? m->x : m->h);
    j.ldx = up ? m->dim : m->hidden;
    j.out = up ? m->h : m->y;
    j.ldo = up ? m->hidden : m->dim;
    j.rows = up ? 2 * m->hidden : m->dim;
    j.cols = up ? m->dim : m->hidden;
    j.n = m->n;
    j.order = m->route.order;
    j.item = m->route.item;
    j.n_item = m->route.n_item;
    j.slots = m->slots;
    return j;
}

extern "C" int
cuda_moe_up(const struct moe *m, int width, cudaStream_t s)
{
    return run<UP>(m->layout, moe_job(m, true), width,
                   cuda_moe_items(m->n, m->slots, m->n_experts, width), s);
}

extern "C" int
cuda_moe_down(const struct moe *m, int width, cudaStream_t s)
{
    return run<DOWN>(m->layout, moe_job(m, false), width,
                     cuda_moe_items(m->n, m->slots, m->n_experts, width), s);
}
