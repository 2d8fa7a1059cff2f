/*
 * Causal attention of many query tokens, expanded form: W_UK and W_UV have
 * been applied to the latents, so each head is ordinary attention of width
 * 128; the rope half of the key is shared by all heads and read from the
 * gathered cache rows.
 *
 * DESIGN. A block takes 128 queries of one head, a warp 16 of them; 64 keys
 * and values at a time come through a double buffer of cp.async. Scores,
 * probabilities and the output stay in registers. Long contexts are expanded
 * piece by piece (the workspace does not grow with the prompt), and the state
 * (sum, maximum, unnormalised output) is carried from piece to piece in fp32.
 * Bound by mma.sync: 4 * 128 flops a query and key and head.
 */
#include "cuda/part/device.cuh"

#define QUERIES 128
#define KEYS 64
#define KROW 272              /* bytes of a row in shared memory */
#define STAGE (2 * KEYS * KROW)
#define LOG2E 1.4426950408889634f

DEV void
fetch_keys(const attn_prefill &a, int head, int key0, uint32_t dst)
{
    const bf16 *kv = (const bf16 *)a.kv, *row = (const bf16 *)a.row;
    for (int c = threadIdx.x; c < KEYS * 32; c += 256) {
        int r = c >> 5, p = c & 31, key = key0 + r;
        bool on = key < a.n_key;
        const bf16 *x = kv + ((size_t)(on ? key : 0) * a.heads + head) *
                        (MLA_NOPE + MLA_V);
        if (p < 8)
            cp_async16(dst + r * KROW + p * 16, x + p * 8, on);
        else if (p < 16)
            cp_async16(dst + r * KROW + p * 16,
                       row + (size_t)(on ? key : 0) * MLA_ROW + MLA_RANK +
                       (p - 8) * 8, on);
        else
            cp_async16(dst + KEYS * KROW + r * KROW + (p - 16) * 16,
                       x + MLA_NOPE + (p - 16) * 8, on);
    }
}

static __global__ void
__launch_bounds__(256, 1)
prefill(const __grid_constant__ attn_prefill a)
{
    extern __shared__ __align__(128) char sm[];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, head = blockIdx.y;
    /* The last queries have the most keys: they start first. */
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const uint32_t ring = smem_addr(sm);
    const float scale = a.scale * LOG2E;
    const int row[2] = {q0 + w * 16 + g, q0 + w * 16 + g + 8};
    uint32_t q[8][4];
    float o[16][4], top[2], sum[2];

    pdl_trigger();
    pdl_wait();
    const int last_q = min(q0 + QUERIES, a.n) - 1;
    const int n_key = min(a.n_key, a.pos + last_q + 1 - a.from);
    const int tiles = n_key > 0 ? (n_key + KEYS - 1) / KEYS : 0;
    if (tiles > 0)
        fetch_keys(a, head, 0, ring);
    cp_async_commit();
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int i = row[r & 1], c = k * 16 + 2 * t + (r >> 1) * 8;
            q[k][r] = i < a.n ? *(const uint32_t *)((const bf16 *)a.q +
                          ((size_t)i * a.heads + head) * MLA_QK + c) : 0;
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bool carry = !a.first && row[r] < a.n;
        size_t at = (size_t)row[r] * a.heads + head;
        float2 ml = carry ? ((const float2 *)a.ml)[at]
                          : make_float2(-INFINITY, 0);
        top[r] = ml.x;
        sum[r] = t == 0 ? ml.y : 0; /* each lane sums its own keys */
#pragma unroll
        for (int n = 0; n < 16; n++) {
            float2 v = carry ? *(const float2 *)(a.acc + at * MLA_V + n * 8 +
                                                 2 * t)
                             : make_float2(0, 0);
            o[n][2 * r] = v.x;
            o[n][2 * r + 1] = v.y;
        }
    }
    for (int i = 0; i < tiles; i++) {
        const uint32_t kt = ring + (i & 1) * STAGE, vt = kt + KEYS * KROW;
        if (i + 1 < tiles)
            fetch_keys(a, head, (i + 1) * KEYS, ring + ((i + 1) & 1) * STAGE);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        float s[8][4] = {};
#pragma unroll
        for (int k = 0; k < 8; k++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t b[4];
                int r = n * 16 + (lane & 7) + (lane >> 4) * 8;
                ldmatrix4(b, kt + r * KROW + k * 32 + ((lane >> 3) & 1) * 16);
                mma16816(s[2 * n], q[k], b[0], b[1]);
                mma16816(s[2 * n + 1], q[k], b[2], b[3]);
            }
        /* Keys a query must not see; only the last tiles have any. */
        if (a.from + (i + 1) * KEYS > a.pos + q0 + w * 16 + 1 ||
            (i + 1) * KEYS > a.n_key) {
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int key = i * KEYS + n * 8 + 2 * t + (k & 1);
                    if (key >= a.n_key ||
                        a.from + key > a.pos + row[k >> 1])
                        s[n][k] = -INFINITY;
                }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = top[r];
#pragma unroll
            for (int n = 0; n < 8; n++)
                m = fmaxf(m, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            float off = m == -INFINITY ? 0 : m * scale;
            float old = exp2f(top[r] * scale - off), l = 0;
            top[r] = m;
#pragma unroll
            for (int n = 0; n < 8; n++) {
                s[n][2 * r] = exp2f(s[n][2 * r] * scale - off);
                s[n][2 * r + 1] = exp2f(s[n][2 * r + 1] * scale - off);
                l += s[n][2 * r] + s[n][2 * r + 1];
            }
            sum[r] = sum[r] * old + l;
#pragma unroll
            for (int n = 0; n < 16; n++) {
                o[n][2 * r] *= old;
                o[n][2 * r + 1] *= old;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t p[4] = {bf_pack(s[2 * k][0], s[2 * k][1]),
                             bf_pack(s[2 * k][2], s[2 * k][3]),
                             bf_pack(s[2 * k + 1][0], s[2 * k + 1][1]),
                             bf_pack(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
            for (int n = 0; n < 8; n++) {
                uint32_t b[4];
                ldmatrix4_trans(b, vt + (k * 16 + (lane & 15)) * KROW +
                                n * 32 + (lane >> 4) * 16);
                mma16816(o[2 * n], p, b[0], b[1]);
                mma16816(o[2 * n + 1], p, b[2], b[3]);
            }
        }
        __syncthreads();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (row[r] >= a.n)
            continue;
        size_t at = (size_t)row[r] * a.heads + head;
        float l = sum[r];
        if (a.last) {
            float inv = 1 / l;
#pragma unroll
            for (int n = 0; n < 16; n++)
                *(uint32_t *)((bf16 *)a.out + at * MLA_V + n * 8 + 2 * t) =
                    bf_pack(o[n][2 * r] * inv, o[n][2 * r + 1] * inv);
            continue;
        }
        if (t == 0)
            ((float2 *)a.ml)[at] = make_float2(top[r], l);
#pragma unroll
        for (int n = 0; n < 16; n++)
            *(float2 *)(a.acc + at * MLA_V + n * 8 + 2 * t) =
                make_float2(o[n][2 * r], o[n][2 * r + 1]);
    }
}

static __global__ void
__launch_bounds__(256)
rotate(const __grid_constant__ q_prepare a)
{
    const size_t i = blockIdx.x;
    pdl_trigger();
    pdl_wait();
    const float s = a.scale[i];
    const uint32_t *q = (const uint32_t *)a.q + i * a.heads * (MLA_QK / 2);
    uint32_t *out = (uint32_t *)a.out + i * a.heads * (MLA_QK / 2);
    for (int c = threadIdx.x; c < a.heads * MLA_QK / 2; c += 256) {
        int p = c % (MLA_QK / 2) - MLA_NOPE / 2;
        float x = bf_lo(q[c]), y = bf_hi(q[c]);
        if (p >= 0) {
            float2 cs = ((const float2 *)a.rope)[i * 32 + p];
            float u = x * cs.x - y * cs.y;
            y = x * cs.y + y * cs.x;
            x = u;
        }
        out[c] = bf_pack(x * s, y * s);
    }
}

static __global__ void
__launch_bounds__(256)
gather(const bf16 *cache, const int *table, int from, int n, uint4 *out)
{
    pdl_trigger();
    pdl_wait();
    int c = blockIdx.x * 256 + threadIdx.x, r = c / 40;
    if (r >= (n + 127) / 128 * 128)
        return;
    if (r >= n) {
        out[c] = make_uint4(0, 0, 0, 0);
        return;
    }
    int key = from + r;
    out[c] = *(const uint4 *)(cache + ((size_t)table[key >> 6] * 64 +
                                       (key & 63)) * MLA_ROW + c % 40 * 8);
}

extern "C" int
cuda_attn_prefill(const struct attn_prefill *a, cudaStream_t s)
{
    return launch<2 * STAGE>(prefill, dim3((a->n + QUERIES - 1) / QUERIES,
                                           a->heads), 256, s, *a);
}

extern "C" int
cuda_q_rotate(const struct q_prepare *a, cudaStream_t s)
{
    return launch<0>(rotate, dim3(a->n), 256, s, *a);
}

extern "C" int
cuda_kv_gather(const void *cache, const int *table, int from, int n,
               void *out, cudaStream_t s)
{
    return launch<0>(gather, dim3((n + 127) / 128 * 20), 256, s,
                     (const bf16 *)cache, table, from, n, (uint4 *)out);
}
