/*
 * The vision tower: patches, the rotation over rows and columns, attention
 * among all patches of an image, and the row operations around the products.
 *
 * DESIGN. Attention: a block takes 128 queries of one head, a warp 32 of them
 * as two tiles, so that each fragment of keys and values read from shared
 * memory serves two products; 64 keys and values at a time come through a
 * double buffer of cp.async and are walked 32 at a time, which keeps scores in
 * 32 registers. The output is rescaled only when a maximum grows, seldom after
 * the first keys. Bound by mma.sync and the exponentials, about evenly. The
 * rest is bound by memory and small beside the products.
 */
#include "cuda/part/device.cuh"

#define QUERIES 128
#define KEYS 64
#define HEAD VISION_HEAD
#define KROW (2 * HEAD + 16)  /* bytes of a row in shared memory */
#define STAGE (2 * KEYS * KROW)
#define LOG2E 1.4426950408889634f

DEV void
fetch_keys(const attn_full &a, int head, int key0, uint32_t dst)
{
    const int dim = a.heads * HEAD;
    const bf16 *k = (const bf16 *)a.qkv + dim + head * HEAD;
    for (int c = threadIdx.x; c < KEYS * 16; c += 128) {
        int r = c >> 4, p = c & 15, key = key0 + r;
        bool on = key < a.n;
        const bf16 *x = k + (size_t)(on ? key : 0) * 3 * dim;
        if (p < 8)
            cp_async16(dst + r * KROW + p * 16, x + p * 8, on);
        else
            cp_async16(dst + KEYS * KROW + r * KROW + (p - 8) * 16,
                       x + dim + (p - 8) * 8, on);
    }
}

/* Scores of a warp's 32 queries and 32 keys at shared address kt. */
DEV void
scores(const uint32_t (&q)[2][4][4], uint32_t kt, int lane,
       float (&s)[2][4][4])
{
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                s[m][n][k] = 0;
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t b[4];
            int r = n * 16 + (lane & 7) + (lane >> 4) * 8;
            ldmatrix4(b, kt + r * KROW + k * 32 + ((lane >> 3) & 1) * 16);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma16816(s[m][2 * n], q[m][k], b[0], b[1]);
                mma16816(s[m][2 * n + 1], q[m][k], b[2], b[3]);
            }
        }
}

/* Scores to probabilities; the running maximum, sum and output follow. */
DEV void
soften(float (&s)[2][4][4], float scale, float (&top)[2][2],
       float (&sum)[2][2], float (&o)[2][8][4])
{
    float most[2][2];
    bool grew = false;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float v = top[m][r];
#pragma unroll
            for (int n = 0; n < 4; n++)
                v = fmaxf(v, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
            v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
            v = fmaxf(v, __shfl_xor_sync(~0u, v, 2));
            most[m][r] = v;
            grew |= v > top[m][r];
        }
    if (__any_sync(~0u, grew)) {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float old = exp2f((top[m][r] - most[m][r]) * scale);
                top[m][r] = most[m][r];
                sum[m][r] *= old;
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    o[m][n][2 * r] *= old;
                    o[m][n][2 * r + 1] *= old;
                }
            }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float off = top[m][r] * scale, l = 0;
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int k = 2 * r; k < 2 * r + 2; k++) {
                    s[m][n][k] = exp2f(s[m][n][k] * scale - off);
                    l += s[m][n][k];
                }
            sum[m][r] += l;
        }
}

/* o += probabilities times 32 values at shared address vt. */
DEV void
mix(const float (&s)[2][4][4], uint32_t vt, int lane, float (&o)[2][8][4])
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint32_t p[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            p[m][0] = bf_pack(s[m][2 * k][0], s[m][2 * k][1]);
            p[m][1] = bf_pack(s[m][2 * k][2], s[m][2 * k][3]);
            p[m][2] = bf_pack(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
            p[m][3] = bf_pack(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t b[4];
            ldmatrix4_trans(b, vt + (k * 16 + (lane & 15)) * KROW + n * 32 +
                            (lane >> 4) * 16);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma16816(o[m][2 * n], p[m], b[0], b[1]);
                mma16816(o[m][2 * n + 1], p[m], b[2], b[3]);
            }
        }
    }
}

/* Blocks of attend an SM: three need every register but for a few, which
 * the compiler finds on some parts. */
#if __CUDA_ARCH__ == 900
#define ATTEND_BLOCKS 3
#else
#define ATTEND_BLOCKS 2
#endif

static __global__ void
__launch_bounds__(128, ATTEND_BLOCKS)
attend(const __grid_constant__ attn_full a)
{
    extern __shared__ __align__(128) char sm[];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, head = blockIdx.y;
    const int q0 = blockIdx.x * QUERIES + w * 32, dim = a.heads * HEAD;
    const int tiles = (a.n + KEYS - 1) / KEYS;
    const uint32_t ring = smem_addr(sm);
    const float scale = a.scale * LOG2E;
    uint32_t q[2][4][4];
    float o[2][8][4] = {}, sum[2][2] = {}, top[2][2];

    pdl_trigger();
    pdl_wait();
    fetch_keys(a, head, 0, ring);
    cp_async_commit();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                int i = q0 + m * 16 + g + (r & 1) * 8;
                int c = head * HEAD + k * 16 + 2 * t + (r >> 1) * 8;
                q[m][k][r] = i < a.n ? *(const uint32_t *)(
                    (const bf16 *)a.qkv + (size_t)i * 3 * dim + c) : 0;
            }
#pragma unroll
    for (int m = 0; m < 2; m++)
        top[m][0] = top[m][1] = -1e30f; /* finite: no difference is a NaN */
    for (int i = 0; i < tiles; i++) {
        const uint32_t kt = ring + (i & 1) * STAGE, vt = kt + KEYS * KROW;
        if (i + 1 < tiles)
            fetch_keys(a, head, (i + 1) * KEYS, ring + ((i + 1) & 1) * STAGE);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
            const int key0 = i * KEYS + half * 32;
            float s[2][4][4];
            scores(q, kt + half * 32 * KROW, lane, s);
            if (key0 + 32 > a.n) {
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int n = 0; n < 4; n++)
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            if (key0 + n * 8 + 2 * t + (k & 1) >= a.n)
                                s[m][n][k] = -INFINITY;
            }
            soften(s, scale, top, sum, o);
            mix(s, vt + half * 32 * KROW, lane, o);
        }
        __syncthreads();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float l = sum[m][r];
            l += __shfl_xor_sync(~0u, l, 1);
            l += __shfl_xor_sync(~0u, l, 2);
            int i = q0 + m * 16 + g + r * 8;
            if (i >= a.n)
                continue;
            bf16 *out = (bf16 *)a.out + (size_t)i * dim + head * HEAD + 2 * t;
#pragma unroll
            for (int n = 0; n < 8; n++)
                *(uint32_t *)(out + n * 8) = bf_pack(o[m][n][2 * r] / l,
                                                     o[m][n][2 * r + 1] / l);
        }
}

static __global__ void
__launch_bounds__(256)
cut_patches(const __grid_constant__ patches a)
{
    const int cols = a.width / a.patch, area = a.patch * a.patch;
    const int y0 = blockIdx.x / cols * a.patch;
    const int x0 = blockIdx.x % cols * a.patch;
    bf16 *out = (bf16 *)a.out + (size_t)blockIdx.x * a.ldo;
    pdl_trigger();
    pdl_wait();
    for (int i = threadIdx.x; i < a.ldo; i += blockDim.x) {
        float v = 0;
        if (i < a.channels * area) {
            int c = i / area, y = i % area / a.patch, x = i % a.patch;
            v = a.pixels[((size_t)c * a.height + y0 + y) * a.width + x0 + x];
        }
        out[i] = __float2bfloat16(v);
    }
}

/* Scale of a row of x for its norm. */
DEV float
rms_scale(const float *x, int dim, float eps, float *red)
{
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        sum += x[i] * x[i];
    return rsqrtf(block_sum(sum, red) / dim + eps);
}

static __global__ void
__launch_bounds__(256)
norm_kept(float *x, const bf16 *norm, float eps, int dim)
{
    __shared__ float red[33];
    pdl_trigger();
    pdl_wait();
    x += (size_t)blockIdx.x * dim;
    float scale = rms_scale(x, dim, eps, red);
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        x[i] *= scale * __bfloat162float(norm[i]);
}

/* A thread turns pairs of one patch's queries and keys. */
static __global__ void
__launch_bounds__(256)
turn(const __grid_constant__ rope_2d a)
{
    const int half = HEAD / 2, dim = a.heads * HEAD;
    const int row = blockIdx.x / a.cols, col = blockIdx.x % a.cols;
    bf16 *x = (bf16 *)a.qkv + (size_t)blockIdx.x * 3 * dim;
    const float2 *by_row = (const float2 *)a.table + row * (half / 2);
    const float2 *by_col = (const float2 *)a.table +
                           (a.lines + col) * (half / 2);
    pdl_trigger();
    pdl_wait();
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        /* dim pairs: dim / 2 of the queries, as many of the keys */
        int k = i % half, first = i / half * HEAD;
        int u = first + (a.halves ? k : 2 * k);
        int v = first + (a.halves ? k + half : 2 * k + 1);
        float2 cs = k < half / 2 ? by_row[k] : by_col[k - half / 2];
        float p = __bfloat162float(x[u]), q = __bfloat162float(x[v]);
        x[u] = __float2bfloat16(p * cs.x - q * cs.y);
        x[v] = __float2bfloat16(q * cs.x + p * cs.y);
    }
}

static __global__ void
__launch_bounds__(256)
gate_up(bf16 *x, int hidden)
{
    x += (size_t)blockIdx.x * 2 * hidden;
    pdl_trigger();
    pdl_wait();
    for (int i = 2 * threadIdx.x; i < hidden; i += 2 * blockDim.x) {
        uint32_t g = *(uint32_t *)(x + i), u = *(uint32_t *)(x + hidden + i);
        *(uint32_t *)(x + i) = bf_pack(silu(bf_lo(g)) * bf_lo(u),
                                       silu(bf_hi(g)) * bf_hi(u));
    }
}

/* A block takes a patch: its normed row goes to its place in its cell. */
static __global__ void
__launch_bounds__(256)
gather_cells(const __grid_constant__ merge_cells a)
{
    __shared__ float red[33];
    const int row = blockIdx.x / a.cols, col = blockIdx.x % a.cols;
    const int cell = row / a.merge * (a.cols / a.merge) + col / a.merge;
    const int part = row % a.merge * a.merge + col % a.merge;
    const int parts = a.merge * a.merge;
    const float *x = a.x + (size_t)blockIdx.x * a.dim;
    bf16 *out = (bf16 *)a.out + (size_t)cell * a.dim * parts + part;
    pdl_trigger();
    pdl_wait();
    float scale = a.norm ? rms_scale(x, a.dim, a.eps, red) : 1;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
        float n = a.norm ? __bfloat162float(((const bf16 *)a.norm)[i]) : 1;
        out[(size_t)i * parts] = __float2bfloat16(x[i] * scale * n);
    }
}

static __global__ void
__launch_bounds__(256)
gelu_rows(uint32_t *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
    pdl_trigger();
    pdl_wait();
    if (i >= n)
        return;
    float a = bf_lo(x[i]), b = bf_hi(x[i]);
    x[i] = bf_pack(.5f * a * (1 + erff(a * .70710678f)),
                   .5f * b * (1 + erff(b * .70710678f)));
}

extern "C" int
cuda_attn_full(const struct attn_full *a, cudaStream_t s)
{
    return launch<2 * STAGE>(attend, dim3((a->n + QUERIES - 1) / QUERIES,
                                          a->heads), 128, s, *a);
}

extern "C" int
cuda_patches(const struct patches *a, cudaStream_t s)
{
    int n = (a->height / a->patch) * (a->width / a->patch);
    if (a->ldo < a->channels * a->patch * a->patch)
        return cudaErrorInvalidValue;
    return launch<0>(cut_patches, dim3(n), 256, s, *a);
}

extern "C" int
cuda_norm_kept(float *x, const void *norm, float eps, int n, int dim,
               cudaStream_t s)
{
    return launch<0>(norm_kept, dim3(n), 256, s, x, (const bf16 *)norm, eps,
                     dim);
}

extern "C" int
cuda_rope_2d(const struct rope_2d *a, cudaStream_t s)
{
    return launch<0>(turn, dim3(a->n), 256, s, *a);
}

extern "C" int
cuda_gate_up(void *x, int n, int hidden, cudaStream_t s)
{
    if (hidden % 2)
        return cudaErrorInvalidValue;
    return launch<0>(gate_up, dim3(n), 256, s, (bf16 *)x, hidden);
}

extern "C" int
cuda_merge_cells(const struct merge_cells *a, cudaStream_t s)
{
    return launch<0>(gather_cells, dim3(a->rows * a->cols), 256, s, *a);
}

extern "C" int
cuda_gelu(void *x, uint64_t n, cudaStream_t s)
{
    if (n % 2)
        return cudaErrorInvalidValue;
    return launch<0>(gelu_rows, dim3((unsigned)((n / 2 + 255) / 256)), 256, s,
                     (uint32_t *)x, (size_t)(n / 2));
}
