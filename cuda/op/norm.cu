/*
 * Row operations: token embedding, RMSNorm, the sum of the experts' outputs
 * into the residual stream, latent norms with the cache write, and the rope
 * table.
 *
 * DESIGN. One block a token; the row stays in shared memory between the two
 * passes (sum of squares, then scale), so each value is read once. Statistics
 * and the residual are fp32; what the next product reads is rounded to bf16
 * once. All are bound by launch latency at small batches and by memory above.
 */
#include "cuda/part/device.cuh"

#define MAX_DIM 8192

/* h = row * scale * norm over dim values in shared memory. */
DEV void
norm_row(const float *row, float sum, const bf16 *norm, float eps, bf16 *h,
         int dim)
{
    float scale = rsqrtf(sum / dim + eps);
    for (int i = threadIdx.x * 4; i < dim; i += blockDim.x * 4) {
        uint2 n = *(const uint2 *)(norm + i);
        uint2 o;
        o.x = bf_pack(row[i] * scale * bf_lo(n.x),
                      row[i + 1] * scale * bf_hi(n.x));
        o.y = bf_pack(row[i + 2] * scale * bf_lo(n.y),
                      row[i + 3] * scale * bf_hi(n.y));
        *(uint2 *)(h + i) = o;
    }
}

DEV float
square(float4 v)
{
    return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}

static __global__ void
__launch_bounds__(1024)
embed_rows(struct embed a)
{
    extern __shared__ __align__(16) float sm_row[];
    __shared__ float red[33];
    const size_t i = blockIdx.x;
    pdl_trigger();
    pdl_wait();
    if (i == 0 && threadIdx.x == 0) {
        if (a.begin)
            *a.begin = device_clock();
        if (a.barrier)
            *a.barrier = 0;
    }
    int tok = a.token[i], img = a.image ? a.image[i] : -1;
    if (tok < 0)
        tok = a.last[a.slot[i]];
    if (tok < 0 || tok >= a.vocab)
        tok = 0;
    const bf16 *src = img >= 0
        ? (const bf16 *)a.vector + (size_t)img * a.dim
        : (const bf16 *)a.table + (size_t)tok * a.dim;
    float sum = 0;
    for (int k = threadIdx.x * 4; k < a.dim; k += blockDim.x * 4) {
        uint2 v = *(const uint2 *)(src + k);
        float4 f = make_float4(bf_lo(v.x), bf_hi(v.x), bf_lo(v.y),
                               bf_hi(v.y));
        *(float4 *)(sm_row + k) = f;
        *(float4 *)(a.x + i * a.dim + k) = f;
        sum += square(f);
    }
    sum = block_sum(sum, red);
    norm_row(sm_row, sum, (const bf16 *)a.norm, a.eps,
             (bf16 *)a.h + i * a.dim, a.dim);
}

static __global__ void
__launch_bounds__(1024)
norm_rows(const float *x, const int *row, const bf16 *norm, float eps,
          bf16 *h, int dim)
{
    extern __shared__ __align__(16) float sm_row[];
    __shared__ float red[33];
    pdl_trigger();
    pdl_wait();
    const float *src = x + (size_t)(row ? row[blockIdx.x] : blockIdx.x) * dim;
    float sum = 0;
    for (int k = threadIdx.x * 4; k < dim; k += blockDim.x * 4) {
        float4 f = *(const float4 *)(src + k);
        *(float4 *)(sm_row + k) = f;
        sum += square(f);
    }
    sum = block_sum(sum, red);
    norm_row(sm_row, sum, norm, eps, h + (size_t)blockIdx.x * dim, dim);
}

static __global__ void
__launch_bounds__(1024)
combine_rows(const bf16 *y, const int *position, const float *weight,
             int slots, float *x, const bf16 *norm, float eps, bf16 *h,
             int dim)
{
    extern __shared__ __align__(16) float sm_row[];
    __shared__ float red[33];
    const size_t i = blockIdx.x;
    pdl_trigger();
    pdl_wait();
    float sum = 0, w[MOE_SLOTS];
    const bf16 *src[MOE_SLOTS];
#pragma unroll
    for (int k = 0; k < MOE_SLOTS; k++)
        if (k < slots) {
            w[k] = weight[i * slots + k];
            src[k] = y + (size_t)position[i * slots + k] * dim;
        }
    for (int c = threadIdx.x * 4; c < dim; c += blockDim.x * 4) {
        float4 f = *(const float4 *)(x + i * dim + c);
#pragma unroll
        for (int k = 0; k < MOE_SLOTS; k++)
            if (k < slots) {
                uint2 v = *(const uint2 *)(src[k] + c);
                f.x = fmaf(w[k], bf_lo(v.x), f.x);
                f.y = fmaf(w[k], bf_hi(v.x), f.y);
                f.z = fmaf(w[k], bf_lo(v.y), f.z);
                f.w = fmaf(w[k], bf_hi(v.y), f.w);
            }
        *(float4 *)(x + i * dim + c) = f;
        *(float4 *)(sm_row + c) = f;
        sum += square(f);
    }
    if (norm == NULL)
        return;
    sum = block_sum(sum, red);
    norm_row(sm_row, sum, norm, eps, h + i * dim, dim);
}

static __global__ void
rope_rows(const int *pos, const float *freq, float2 *table, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    pdl_trigger();
    pdl_wait();
    if (i >= n * 32)
        return;
    /* The angle is the fp32 product; its sine is taken in double, since the
     * angles reach 10^5. */
    double s, c, angle = (double)((float)pos[i >> 5] * freq[i & 31]);
    sincos(angle, &s, &c);
    table[i] = make_float2((float)c, (float)s);
}

template <int PER> static __global__ void
__launch_bounds__(256)
latent_rows(struct latent a)
{
    __shared__ float red[33];
    const size_t i = blockIdx.x;
    const int tid = threadIdx.x, pairs = a.q_rank / 2;
    pdl_trigger();
    pdl_wait();
    const bf16 *row = (const bf16 *)a.a + i * a.lda;
    const uint32_t *kv = (const uint32_t *)(row + a.q_rank);
    uint32_t p[PER], mine = tid < MLA_RANK / 2 ? kv[tid] : 0;
    float sum = 0, lo = bf_lo(mine), hi = bf_hi(mine);
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int c = k * 256 + tid;
        p[k] = c < pairs ? ((const uint32_t *)row)[c] : 0;
        sum += bf_lo(p[k]) * bf_lo(p[k]) + bf_hi(p[k]) * bf_hi(p[k]);
    }
    float scale = rsqrtf(block_sum(sum, red) / a.q_rank + a.eps);
    float kv_scale = rsqrtf(block_sum(lo * lo + hi * hi, red) / MLA_RANK +
                            a.eps);
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int c = k * 256 + tid;
        if (c < pairs) {
            uint32_t n = ((const uint32_t *)a.q_norm)[c];
            ((uint32_t *)((bf16 *)a.q + i * a.q_rank))[c] =
                bf_pack(bf_lo(p[k]) * scale * bf_lo(n),
                        bf_hi(p[k]) * scale * bf_hi(n));
        }
    }
    if (a.kv_row[i] < 0)
        return;
    uint32_t *out = (uint32_t *)a.cache + (size_t)a.kv_row[i] * MLA_ROW / 2;
    if (tid < MLA_RANK / 2) {
        uint32_t n = ((const uint32_t *)a.kv_norm)[tid];
        out[tid] = bf_pack(lo * kv_scale * bf_lo(n),
                           hi * kv_scale * bf_hi(n));
    } else if (tid < MLA_ROW / 2) {
        int k = tid - MLA_RANK / 2;
        float2 cs = ((const float2 *)a.rope)[i * 32 + k];
        uint32_t v = kv[tid];
        lo = bf_lo(v);
        hi = bf_hi(v);
        out[tid] = bf_pack(lo * cs.x - hi * cs.y, lo * cs.y + hi * cs.x);
    }
}

/* Threads for a row: four values each while rows are few, so that one is soon
 * done; smaller blocks keep more rows in flight when there are many. */
static int
threads_for(int dim, int rows)
{
    int n = (dim / 4 + 31) / 32 * 32, most = rows > 256 ? 256 : 1024;
    return n < most ? n : most;
}

extern "C" int
cuda_embed(const struct embed *a, cudaStream_t s)
{
    if (a->dim % 4 || a->dim > MAX_DIM)
        return cudaErrorInvalidValue;
    return launch<MAX_DIM * 4>(embed_rows, dim3(a->n), threads_for(a->dim, a->n), s,
                               *a);
}

extern "C" int
cuda_norm(const float *x, const int *row, const void *norm, float eps,
          void *h, int n, int dim, cudaStream_t s)
{
    if (dim % 4 || dim > MAX_DIM)
        return cudaErrorInvalidValue;
    return launch<MAX_DIM * 4>(norm_rows, dim3(n), threads_for(dim, n), s, x, row,
                               (const bf16 *)norm, eps, (bf16 *)h, dim);
}

extern "C" int
cuda_combine(const struct moe *m, float *x, const void *norm, float eps,
             void *h, cudaStream_t s)
{
    if (m->dim % 4 || m->dim > MAX_DIM || m->slots > MOE_SLOTS)
        return cudaErrorInvalidValue;
    return launch<MAX_DIM * 4>(combine_rows, dim3(m->n), threads_for(m->dim, m->n), s,
                               (const bf16 *)m->y, m->route.position,
                               m->route.weight, m->slots, x,
                               (const bf16 *)norm, eps, (bf16 *)h, m->dim);
}

extern "C" int
cuda_rope_table(const int *pos, const float *freq, void *table, int n,
                cudaStream_t s)
{
    return launch<0>(rope_rows, dim3((n * 32 + 127) / 128), 128, s, pos, freq,
                     (float2 *)table, n);
}

extern "C" int
cuda_latent(const struct latent *a, cudaStream_t s)
{
    if (a->q_rank % 2 || a->q_rank > 8192 || a->lda % 8)
        return cudaErrorInvalidValue;
    if (a->q_rank <= 1024)
        return launch<0>(latent_rows<2>, dim3(a->n), 256, s, *a);
    return launch<0>(latent_rows<16>, dim3(a->n), 256, s, *a);
}
