/*
 * attn_decode where a block may have 124 KiB of shared memory (sm_90a).
 *
 * DESIGN. A block takes one token, up to 32 heads and a range of tiles of 64
 * keys, which pass through a cp.async ring. A warp takes 16 heads and 16 keys
 * of a tile for itself: scores, online softmax and values stay in its
 * registers (the sums of the scores are the A fragment of the values), and a
 * tile costs the block one barrier. At the end the four key groups exchange
 * their sums through the ring, a quarter of the value lanes each. One block an
 * SM; what it leaves is what attn_decode leaves, so attn_merge follows.
 */
#include "cuda/part/hopper.cuh"

#define TILE ATTN_TILE_SM90
#define ROWB 656              /* bytes of a row in shared memory */
#define STAGES 3              /* decode64 fills the first two by name */
#define TILE_BYTES (TILE * ROWB)
#define CHUNK 4096            /* a quarter of a warp's sums */
#define SM_ML (STAGES * TILE_BYTES)
#define SM_ALL (SM_ML + 8 * 16 * 8)
static_assert(8 * 3 * CHUNK <= SM_ML, "the sums lie in the ring");

#if HOPPER_CODE

/* Copies a tile, zeros beyond the last key. */
DEV void
fetch_tile(const attn_decode &a, int block, int tile, int length,
           uint32_t dst)
{
    const char *src = (const char *)a.cache + (size_t)block * TILE * 640;
    int r = threadIdx.x / 40, p = threadIdx.x % 40;
#pragma unroll 5
    for (int i = 0; i < TILE * 40 / 256; i++) {
        cp_async16(dst + r * ROWB + p * 16, src + r * 640 + p * 16,
                   tile * TILE + r < length);
        r += 6;     /* 256 pieces on */
        p += 16;
        if (p >= 40) {
            p -= 40;
            r++;
        }
    }
}

/* The queries of 32 heads to rows in shared memory, zeros for no heads. */
DEV void
fetch_query(const attn_decode &a, int tok, int head, uint32_t dst)
{
    const char *src = (const char *)a.q +
                      ((size_t)tok * a.heads + head) * (MLA_ROW * 2);
    for (int c = threadIdx.x; c < 32 * 40; c += 256) {
        int r = c / 40, p = c % 40;
        bool on = head + r < a.heads;
        cp_async16(dst + r * ROWB + p * 16, src + (on ? r : 0) * 640 + p * 16,
                   on);
    }
}

/* A warp's state: rows g and g + 8 of its 16 heads. */
struct heads16 {
    float o[32][4];
    float top[2], sum[2];
};

/* Scores of the 16 keys at kv, as the accumulators of two n8 tiles. */
DEV void
score_keys(uint32_t kv, const uint32_t (&q)[20][4], float (&s)[2][4])
{
    const int lane = threadIdx.x & 31;
    const uint32_t at = kv + ((lane & 7) + (lane >> 4) * 8) * ROWB +
                        ((lane >> 3) & 1) * 16;
    float d[2][2][4] = {};
#pragma unroll
    for (int k = 0; k < 20; k++) {
        uint32_t b[4];
        ldmatrix4(b, at + k * 32);
        mma16816(d[k & 1][0], q[k], b[0], b[1]);
        mma16816(d[k & 1][1], q[k], b[2], b[3]);
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[n][i] = d[0][n][i] + d[1][n][i];
}

/* Online softmax: s to probabilities p (an A fragment), the state rescaled
 * where a maximum has grown. `left` keys are there, at least one. */
DEV void
soften(heads16 &st, float (&s)[2][4], float scale, int left, uint32_t (&p)[4])
{
    const int t = threadIdx.x & 3;
    float now[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &v = s[n][2 * r + i];
                v = n * 8 + 2 * t + i < left ? v * scale : -INFINITY;
                top = fmaxf(top, v);
            }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        now[r] = fmaxf(st.top[r], top);
    }
    if (__any_sync(~0u, now[0] != st.top[0] || now[1] != st.top[1])) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float old = __expf(st.top[r] - now[r]);
            st.sum[r] *= old;
            st.top[r] = now[r];
#pragma unroll
            for (int n = 0; n < 32; n++) {
                st.o[n][2 * r] *= old;
                st.o[n][2 * r + 1] *= old;
            }
        }
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float u = __expf(s[n][2 * r] - now[r]);
            float v = __expf(s[n][2 * r + 1] - now[r]);
            st.sum[r] += u + v;     /* of this lane's keys */
            p[2 * n + r] = bf_pack(u, v);
        }
}

DEV void
add_values(heads16 &st, uint32_t kv, const uint32_t (&p)[4])
{
    const int lane = threadIdx.x & 31;
    const uint32_t at = kv + (lane & 15) * ROWB + (lane >> 4) * 16;
#pragma unroll
    for (int n = 0; n < 16; n++) {
        uint32_t b[4];
        ldmatrix4_trans(b, at + n * 32);
        mma16816(st.o[2 * n], p, b[0], b[1]);
        mma16816(st.o[2 * n + 1], p, b[2], b[3]);
    }
}

/* The four key groups' sums of a quarter of the lanes, added in v. The ring
 * is free. Leaves the common maximum and sum in the state. */
DEV void
join_groups(heads16 &st, char *sm, float (&v)[8][4])
{
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int half = w & 1, group = w >> 1, g = lane >> 2;
    float2 *ml = (float2 *)(sm + SM_ML) + half * 64;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        st.sum[r] += __shfl_xor_sync(~0u, st.sum[r], 1);
        st.sum[r] += __shfl_xor_sync(~0u, st.sum[r], 2);
        if ((lane & 3) == 0)
            ml[group * 16 + g + 8 * r] = make_float2(st.top[r], st.sum[r]);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++)
            top = fmaxf(top, ml[k * 16 + g + 8 * r].x);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float2 o = ml[k * 16 + g + 8 * r];
            sum += o.y * __expf(o.x - top);
        }
        float f = __expf(st.top[r] - top);
        st.top[r] = top;
        st.sum[r] = sum;
#pragma unroll
        for (int n = 0; n < 32; n++) {
            st.o[n][2 * r] *= f;
            st.o[n][2 * r + 1] *= f;
        }
    }
    /* A lane's values go to the same lane of the warp that adds them. */
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float4 *to = (float4 *)(sm + ((half * 4 + k) * 3 + group -
                                      (group > k)) * CHUNK) + lane;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float *o = st.o[8 * k + i];
            if (k != group)
                to[32 * i] = make_float4(o[0], o[1], o[2], o[3]);
            else
                v[i][0] = o[0], v[i][1] = o[1], v[i][2] = o[2], v[i][3] = o[3];
        }
    }
    __syncthreads();
    const float4 *from = (const float4 *)(sm + (half * 4 + group) * 3 *
                                          CHUNK) + lane;
#pragma unroll
    for (int k = 0; k < 3; k++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float4 o = from[(k * 8 + i) * 32];
            v[i][0] += o.x;
            v[i][1] += o.y;
            v[i][2] += o.z;
            v[i][3] += o.w;
        }
}

#endif

static __global__ void
__launch_bounds__(256, 1)
decode64(const __grid_constant__ attn_decode a)
{
#if HOPPER_CODE
    extern __shared__ __align__(128) char sm[];
    const int w = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int g = lane >> 2, t = lane & 3, group = w >> 1;
    const int split = blockIdx.x, tok = blockIdx.y;
    const int head = blockIdx.z * 32 + (w & 1) * 16;
    const uint32_t ring = smem_addr(sm);

    /* The step's arrays were there before its first kernel. */
    pdl_trigger();
    const int length = a.length[tok];
    const int *table = a.table + (size_t)a.table_row[tok] * a.ld_table;
    int t0, t1;
    if (length == 0 ||
        split >= split_range(length, TILE, a.splits, split, &t0, &t1)) {
        pdl_wait();
        return;
    }
    const int b0 = table[t0], b1 = t0 + 1 < t1 ? table[t0 + 1] : 0;
    /* Read ahead, so that no fetch waits for it. */
    int block = t0 + 2 < t1 ? table[t0 + 2] : 0;
    pdl_wait();
    fetch_query(a, tok, head - (w & 1) * 16, ring + 2 * TILE_BYTES);
    cp_async_commit();
    fetch_tile(a, b0, t0, length, ring);
    cp_async_commit();
    if (t0 + 1 < t1)
        fetch_tile(a, b1, t0 + 1, length, ring + TILE_BYTES);
    cp_async_commit();
    cp_async_wait<2>();
    __syncthreads();
    uint32_t q[20][4];
#pragma unroll
    for (int k = 0; k < 20; k++)
        ldmatrix4(q[k], ring + 2 * TILE_BYTES + k * 32 + (lane >> 4) * 16 +
                  ((w & 1) * 16 + (lane & 15)) * ROWB);
    heads16 st = {};
    st.top[0] = st.top[1] = -INFINITY;

#pragma unroll 1
    for (int tile = t0; tile < t1; tile++) {
        const int left = length - tile * TILE - group * 16;
        const uint32_t kv = ring + (tile - t0) % STAGES * TILE_BYTES +
                            group * 16 * ROWB;
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (tile + STAGES - 1 < t1)
            fetch_tile(a, block, tile + STAGES - 1, length,
                       ring + (tile - t0 + STAGES - 1) % STAGES *
                       TILE_BYTES);
        cp_async_commit();
        block = tile + STAGES < t1 ? table[tile + STAGES] : 0;
        if (left <= 0)
            continue;
        float s[2][4];
        uint32_t p[4];
        score_keys(kv, q, s);
        soften(st, s, a.scale, left, p);
        add_values(st, kv, p);
    }
    cp_async_wait<0>();
    __syncthreads();
    float v[8][4];
    join_groups(st, sm, v);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int h = head + g + 8 * r;
        if (h >= a.heads)
            continue;
        const size_t at = ((size_t)tok * a.heads + h) * a.splits + split;
        if (group == 0 && t == 0)
            *(float2 *)(a.part_ml + at * 2) = make_float2(st.top[r],
                                                          st.sum[r]);
        float *out = a.part + at * MLA_RANK + group * 64 + 2 * t;
#pragma unroll
        for (int i = 0; i < 8; i++)
            *(float2 *)(out + i * 8) = make_float2(v[i][2 * r],
                                                   v[i][2 * r + 1]);
    }
#endif
}

extern "C" int
cuda_attn_decode_sm90(const struct attn_decode *a, cudaStream_t s)
{
    if (a->splits < 1 || a->tile != TILE)
        return cudaErrorInvalidValue;
    return launch_ex<SM_ALL, true>(decode64, dim3(a->splits, a->n,
                                                  (a->heads + 31) / 32),
                                   256, s, *a);
}
