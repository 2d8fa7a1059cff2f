/*
 * Attention of single query tokens over the block cache, absorbed form: every
 * head's query is 320 wide (W_UK already applied), keys and values are the
 * cached rows themselves, so one read of a row serves 32 heads twice.
 *
 * DESIGN. absorb: q_nope times W_UK, query scale, rope. decode: a block takes
 * one token, up to 32 heads and a range of 32-key tiles, which pass through a
 * cp.async ring. The four warps split the 320 lanes of the scores (their
 * query fragments stay in registers) and add up in shared memory; then they
 * split the 256 value lanes. Softmax is online, in fp32. merge: adds the
 * splits of a head by log-sum-exp and multiplies by W_UV.
 *
 * Bytes: 640 a key, whatever the number of heads up to 32; 73,728 flops a
 * key. Bound by memory on H200 (58 flop/B), where 132 splits of one sequence
 * or as many sequences keep every SM reading.
 */
#include "cuda/part/device.cuh"

#define ROWB 656              /* bytes of a row in shared memory */
#define STAGES 3
#define TILE_BYTES (ATTN_TILE * ROWB)
#define SP 34                 /* floats of a score row */
#define PB 80                 /* bytes of a probability row */
#define SM_S (STAGES * TILE_BYTES)
#define SM_P (SM_S + 4 * 32 * SP * 4)
#define SM_A (SM_P + 32 * PB)
#define SM_DECODE (SM_A + 32 * 4)

/* Block of a tile, or 0 beyond the last tile. */
DEV int
block_of(const int *table, int tile, int t1)
{
    return tile < t1 ? table[tile * ATTN_TILE >> 6] : 0;
}

DEV void
fetch_tile(const attn_decode &a, int block, int tile, int length,
           uint32_t dst)
{
    int key = tile * ATTN_TILE;
    size_t row = (size_t)block * 64 + (key & 63);
    const char *src = (const char *)a.cache + row * (MLA_ROW * 2);
    for (int c = threadIdx.x; c < ATTN_TILE * 40; c += 128) {
        int r = c / 40, p = c % 40;
        cp_async16(dst + r * ROWB + p * 16, src + r * 640 + p * 16,
                   key + r < length);
    }
}

/* Query fragments of lanes 80w .. 80w + 79, straight from memory. */
DEV void
load_query(const attn_decode &a, int tok, int head0, int w, int lane,
           uint32_t (&q)[2][5][4])
{
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int k = 0; k < 5; k++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                int h = head0 + m * 16 + g + (r & 1) * 8;
                int c = (w * 5 + k) * 16 + 2 * t + (r >> 1) * 8;
                q[m][k][r] = h < a.heads
                    ? *(const uint32_t *)((const bf16 *)a.q +
                          ((size_t)tok * a.heads + h) * MLA_ROW + c)
                    : 0;
            }
}

static __global__ void
__launch_bounds__(128)
decode(const __grid_constant__ attn_decode a)
{
    extern __shared__ __align__(128) char sm[];
    const int tid = threadIdx.x, w = tid >> 5, lane = tid & 31;
    const int g = lane >> 2, t = lane & 3;
    const int split = blockIdx.x, tok = blockIdx.y, head0 = blockIdx.z * 32;
    const uint32_t ring = smem_addr(sm), prob = smem_addr(sm + SM_P);
    float *score = (float *)(sm + SM_S);
    float *alpha = (float *)(sm + SM_A);

    pdl_trigger();
    pdl_wait();
    const int length = a.length[tok];
    if (length == 0)
        return;
    int t0, t1;
    if (split >= split_range(length, ATTN_TILE, a.splits, split, &t0, &t1))
        return;
    const int *table = a.table + (size_t)a.table_row[tok] * a.ld_table;
    uint32_t q[2][5][4];
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (t0 + i < t1)
            fetch_tile(a, block_of(table, t0 + i, t1), t0 + i, length,
                       ring + i * TILE_BYTES);
        cp_async_commit();
    }
    /* Read a tile ahead, so that no fetch waits for it. */
    int block = block_of(table, t0 + STAGES - 1, t1);
    load_query(a, tok, head0, w, lane, q);
    float o[2][8][4] = {}, run_max = -INFINITY, run_sum = 0;

    for (int tile = t0; tile < t1; tile++) {
        const uint32_t kv = ring + (tile - t0) % STAGES * TILE_BYTES;
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (tile + STAGES - 1 < t1)
            fetch_tile(a, block, tile + STAGES - 1, length,
                       ring + (tile - t0 + STAGES - 1) % STAGES *
                       TILE_BYTES);
        cp_async_commit();
        block = block_of(table, tile + STAGES, t1);
        /* Partial scores: 32 heads x 32 keys over 80 lanes. */
        float d[2][4][4] = {};
#pragma unroll
        for (int k = 0; k < 5; k++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                uint32_t b[4];
                int row = n * 16 + (lane & 7) + (lane >> 4) * 8;
                ldmatrix4(b, kv + row * ROWB + (w * 5 + k) * 32 +
                          ((lane >> 3) & 1) * 16);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma16816(d[m][2 * n], q[m][k], b[0], b[1]);
                    mma16816(d[m][2 * n + 1], q[m][k], b[2], b[3]);
                }
            }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                float *s = score + (w * 32 + m * 16 + g) * SP + n * 8 + 2 * t;
                *(float2 *)s = make_float2(d[m][n][0], d[m][n][1]);
                *(float2 *)(s + 8 * SP) = make_float2(d[m][n][2],
                                                      d[m][n][3]);
            }
        __syncthreads();
        {   /* Online softmax: a quad of threads a head, 8 keys each. */
            const int h = tid >> 2, k0 = (tid & 3) * 8;
            float s[8], top = -INFINITY;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float v = 0;
#pragma unroll
                for (int k = 0; k < 4; k++)
                    v += score[(k * 32 + h) * SP + k0 + i];
                s[i] = tile * ATTN_TILE + k0 + i < length ? v * a.scale
                                                          : -INFINITY;
                top = fmaxf(top, s[i]);
            }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float now = fmaxf(run_max, top), sum = 0;
            float old = __expf(run_max - now);
            uint32_t p[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float u = __expf(s[2 * i] - now);
                float v = __expf(s[2 * i + 1] - now);
                sum += u + v;
                p[i] = bf_pack(u, v);
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            run_sum = run_sum * old + sum;
            run_max = now;
            *(uint4 *)(sm + SM_P + h * PB + k0 * 2) =
                make_uint4(p[0], p[1], p[2], p[3]);
            if ((tid & 3) == 0)
                alpha[h] = old;
        }
        __syncthreads();
        uint32_t p[2][2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float lo = alpha[m * 16 + g], hi = alpha[m * 16 + g + 8];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                o[m][n][0] *= lo;
                o[m][n][1] *= lo;
                o[m][n][2] *= hi;
                o[m][n][3] *= hi;
            }
#pragma unroll
            for (int k = 0; k < 2; k++)
                ldmatrix4(p[m][k], prob + (m * 16 + (lane & 15)) * PB +
                          k * 32 + (lane >> 4) * 16);
        }
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t b[4];
                ldmatrix4_trans(b, kv + (k * 16 + (lane & 15)) * ROWB +
                                w * 128 + n * 32 + (lane >> 4) * 16);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma16816(o[m][2 * n], p[m][k], b[0], b[1]);
                    mma16816(o[m][2 * n + 1], p[m][k], b[2], b[3]);
                }
            }
    }
    cp_async_wait<0>();
    if (tid % 4 == 0 && head0 + tid / 4 < a.heads)
        *(float2 *)(a.part_ml +
                    (((size_t)tok * a.heads + head0 + tid / 4) * a.splits +
                     split) * 2) = make_float2(run_max, run_sum);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int h = head0 + m * 16 + g + 8 * r;
            if (h >= a.heads)
                continue;
            float *out = a.part + (((size_t)tok * a.heads + h) * a.splits +
                                   split) * MLA_RANK + w * 64 + 2 * t;
#pragma unroll
            for (int n = 0; n < 8; n++)
                *(float2 *)(out + n * 8) = make_float2(o[m][n][2 * r],
                                                       o[m][n][2 * r + 1]);
        }
}

/* Splits of one head and token, of which a warp adds first, first + step...;
 * the first one's values and the sums of up to 32 splits are read ahead. */
struct splits {
    size_t base;
    int used;
    float2 ml;
    float4 b, c;
};

DEV void
read_splits(const attn_decode &a, int first, splits &s)
{
    const int lane = threadIdx.x & 31;
    s.ml = make_float2(-INFINITY, 0);
    s.b = s.c = make_float4(0, 0, 0, 0);
    if (lane < s.used)
        s.ml = ((const float2 *)a.part_ml)[s.base + lane];
    if (first < s.used) {
        const float4 *p = (const float4 *)(a.part + (s.base + first) *
                                           MLA_RANK + 8 * lane);
        s.b = p[0];
        s.c = p[1];
    }
}

DEV void
add_split(float f, float4 b, float4 c, float (&v)[8])
{
    v[0] = fmaf(f, b.x, v[0]);
    v[1] = fmaf(f, b.y, v[1]);
    v[2] = fmaf(f, b.z, v[2]);
    v[3] = fmaf(f, b.w, v[3]);
    v[4] = fmaf(f, c.x, v[4]);
    v[5] = fmaf(f, c.y, v[5]);
    v[6] = fmaf(f, c.z, v[6]);
    v[7] = fmaf(f, c.w, v[7]);
}

DEV void
merge_splits(const attn_decode &a, const splits &s, int first, int step,
             float (&v)[8])
{
    const int lane = threadIdx.x & 31;
    const float2 *ml = (const float2 *)a.part_ml + s.base;
    float top = s.ml.x;
    for (int i = lane + 32; i < s.used; i += 32)
        top = fmaxf(top, ml[i].x);
    top = warp_max(top);
    float sum = lane < s.used ? s.ml.y * __expf(s.ml.x - top) : 0;
    for (int i = lane + 32; i < s.used; i += 32)
        sum += ml[i].y * __expf(ml[i].x - top);
    sum = warp_sum(sum);
    float mine = __shfl_sync(~0u, s.ml.x, first);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = 0;
    if (first >= s.used)
        return;
    add_split(__expf(mine - top) / sum, s.b, s.c, v);
#pragma unroll 4
    for (int i = first + step; i < s.used; i += step) {
        const float4 *p = (const float4 *)(a.part + (s.base + i) * MLA_RANK +
                                           8 * lane);
        add_split(__expf(ml[i].x - top) / sum, p[0], p[1], v);
    }
}

#define CTXB 528 /* bytes of a context row in shared memory */

DEV void
store_context(char *ctx, int tok, const float (&s)[8])
{
    *(uint4 *)(ctx + tok * CTXB + (threadIdx.x & 31) * 16) =
        make_uint4(bf_pack(s[0], s[1]), bf_pack(s[2], s[3]),
                   bf_pack(s[4], s[5]), bf_pack(s[6], s[7]));
}

/* A block takes one head and `group` tokens: NL a warp, or a token by several
 * warps (NL 1). */
template <int NL> static __global__ void
__launch_bounds__(256)
merge(const __grid_constant__ attn_decode a, int group)
{
    __shared__ __align__(16) char ctx[8 * NL * CTXB];
    __shared__ float part[NL == 1 ? 8 : 1][256];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, head = blockIdx.x;
    const int tok0 = blockIdx.y * group, n = min(group, a.n - tok0);
    const int wpt = NL == 1 ? 8 / group : 1;  /* warps a token */
    raw_tile<LAYOUT_BF16> raw[4];
    const char *p = row_tile<LAYOUT_BF16>(
        (const bf16 *)a.uv + (size_t)head * MLA_V * MLA_RANK, w, MLA_RANK,
        lane);
    splits s[NL];

    pdl_trigger();
#pragma unroll
    for (int i = 0; i < 4; i++)
        raw_load<LAYOUT_BF16>(raw[i], p, MLA_RANK, i);
#pragma unroll
    for (int l = 0; l < NL; l++) {
        const int tok = w / wpt + 8 * l;
        int t0, t1;
        s[l].base = ((size_t)(tok0 + tok) * a.heads + head) * a.splits;
        s[l].used = tok < n && a.length[tok0 + tok] > 0
            ? split_range(a.length[tok0 + tok], a.tile, a.splits, 0, &t0, &t1)
            : 0;
    }
    pdl_wait();
#pragma unroll
    for (int l = 0; l < NL; l++)
        read_splits(a, w % wpt, s[l]);
#pragma unroll
    for (int l = 0; l < NL; l++) {
        float v[8];
        merge_splits(a, s[l], w % wpt, wpt, v);
        if constexpr (NL > 1) {
            store_context(ctx, w + 8 * l, v);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                part[w][8 * lane + i] = v[i];
        }
    }
    __syncthreads();
    if constexpr (NL == 1) {
        float v[8] = {};
        for (int k = 0; w < n && k < wpt; k++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] += part[w * wpt + k][8 * lane + i];
        if (w < n)
            store_context(ctx, w, v);
        __syncthreads();
    }
    float d[NL][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t f[4][4];
        raw_frag<LAYOUT_BF16>(raw[i], f);
#pragma unroll
        for (int l = 0; l < NL; l++) {
            const char *x = ctx + (8 * l + g) * CTXB + 128 * i + 32 * t;
            uint4 b = make_uint4(0, 0, 0, 0), c = b;
            if (8 * l + g < n) {
                b = *(const uint4 *)x;
                c = *(const uint4 *)(x + 16);
            }
            mma16816(d[l], f[0], b.x, b.y);
            mma16816(d[l], f[1], b.z, b.w);
            mma16816(d[l], f[2], c.x, c.y);
            mma16816(d[l], f[3], c.z, c.w);
        }
    }
#pragma unroll
    for (int l = 0; l < NL; l++) {
        const int i = 8 * l + g;
        const uint32_t lo = transpose8(bf_pack(d[l][0] * a.uv_scale,
                                               d[l][1] * a.uv_scale));
        const uint32_t hi = transpose8(bf_pack(d[l][2] * a.uv_scale,
                                               d[l][3] * a.uv_scale));
        if (i >= n || a.length[tok0 + i] == 0)
            continue;
        bf16 *out = (bf16 *)a.out + ((size_t)(tok0 + i) * a.heads + head) *
                                        MLA_V + w * 16 + 2 * t;
        *(uint32_t *)out = lo;
        *(uint32_t *)(out + 8) = hi;
    }
}

/* A block takes one head and 8 NL tokens. */
template <int NL> static __global__ void
__launch_bounds__(256)
absorb(const __grid_constant__ q_prepare a)
{
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, head = blockIdx.x;
    const int tok0 = blockIdx.y * 8 * NL, n = min(8 * NL, a.n - tok0);
    const bf16 *uk = (const bf16 *)a.uk_t +
                     (size_t)head * MLA_RANK * MLA_NOPE;
    uint32_t f[2][4][4];
    float s0[NL], s1[NL];   /* of tokens 2t and 2t + 1 */

    pdl_trigger();
#pragma unroll
    for (int l = 0; l < NL; l++) {
        const int i = 8 * l + 2 * t;
        s0[l] = i < n ? a.uk_scale * a.scale[tok0 + i] : 0;
        s1[l] = i + 1 < n ? a.uk_scale * a.scale[tok0 + i + 1] : 0;
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
        raw_tile<LAYOUT_BF16> raw;
        raw_load<LAYOUT_BF16>(raw, row_tile<LAYOUT_BF16>(uk, w * 2 + m,
                                                         MLA_NOPE, lane),
                              MLA_NOPE, 0);
        raw_frag<LAYOUT_BF16>(raw, f[m]);
    }
    pdl_wait();
    const bf16 *q = (const bf16 *)a.q;
    const size_t ldq = (size_t)a.heads * MLA_QK;
    uint4 b[NL], c[NL];
#pragma unroll
    for (int l = 0; l < NL; l++) {
        b[l] = c[l] = make_uint4(0, 0, 0, 0);
        if (8 * l + g < n) {
            const bf16 *x = q + (tok0 + 8 * l + g) * ldq + head * MLA_QK +
                            16 * t;
            b[l] = ld_act(x);
            c[l] = ld_act(x + 8);
        }
    }
#pragma unroll
    for (int l = 0; l < NL; l++)
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float d[4] = {};
            mma16816(d, f[m][0], b[l].x, b[l].y);
            mma16816(d, f[m][1], b[l].z, b[l].w);
            mma16816(d, f[m][2], c[l].x, c[l].y);
            mma16816(d, f[m][3], c[l].z, c[l].w);
            const uint32_t lo = transpose8(bf_pack(d[0] * s0[l],
                                                   d[1] * s1[l]));
            const uint32_t hi = transpose8(bf_pack(d[2] * s0[l],
                                                   d[3] * s1[l]));
            const int i = 8 * l + g;
            if (i >= n)
                continue;
            bf16 *out = (bf16 *)a.out + ((size_t)(tok0 + i) * a.heads +
                                         head) * MLA_ROW +
                        (w * 2 + m) * 16 + 2 * t;
            *(uint32_t *)out = lo;
            *(uint32_t *)(out + 8) = hi;
        }
    for (int k = w; k < n; k += 8) { /* a token a warp, a rope pair a lane */
        int i = tok0 + k;
        float2 cs = ((const float2 *)a.rope)[(size_t)i * 32 + lane];
        uint32_t v = *(const uint32_t *)(q + i * ldq + head * MLA_QK +
                                         MLA_NOPE + 2 * lane);
        float x = bf_lo(v), y = bf_hi(v), s = a.scale[i];
        *(uint32_t *)((bf16 *)a.out + ((size_t)i * a.heads + head) * MLA_ROW +
                      MLA_RANK + 2 * lane) =
            bf_pack((x * cs.x - y * cs.y) * s, (x * cs.y + y * cs.x) * s);
    }
}

extern "C" int
cuda_q_absorb(const struct q_prepare *a, cudaStream_t s)
{
    /* More tokens a block once that leaves enough blocks. */
    if (a->n > 64)
        return launch<0>(absorb<4>, dim3(a->heads, (a->n + 31) / 32), 256, s,
                         *a);
    return launch<0>(absorb<1>, dim3(a->heads, (a->n + 7) / 8), 256, s, *a);
}

extern "C" int
cuda_attn_decode(const struct attn_decode *a, cudaStream_t s)
{
    if (a->splits < 1 || a->tile != ATTN_TILE)
        return cudaErrorInvalidValue;
    return launch<SM_DECODE>(decode,
                             dim3(a->splits, a->n, (a->heads + 31) / 32), 128,
                             s, *a);
}

extern "C" int
cuda_attn_merge(const struct attn_decode *a, cudaStream_t s)
{
    /* Few tokens have many splits: more warps and blocks for each. */
    int group = a->n <= 8 ? 1 : a->n <= 16 ? 2 : a->n <= 64 ? 8 : 32;
    dim3 grid(a->heads, (a->n + group - 1) / group);
    if (group == 32)
        return launch<0>(merge<4>, grid, 256, s, *a, group);
    return launch<0>(merge<1>, grid, 256, s, *a, group);
}
