/*
 * The walk over a block's cache blocks of 64 keys ("tiles") in the one-token
 * launch, by wgmma. See decode_one_attn.cuh for what becomes of the result.
 *
 * DESIGN. Keys are M and heads are N, so that no part of a product is wasted
 * on 32 heads, and both operands lie in shared memory as the copy engine
 * leaves them: a tile is read twice, once as [key][lane] for the scores and
 * once transposed for the values. A warpgroup makes scores and probabilities,
 * the scores of a tile beside the probabilities of the one before; two others
 * make the values of 128 lanes each. Probabilities, and the factors of the
 * sums before them, go through two buffers. So a tile takes the block less
 * time than its bytes take to come.
 */
#pragma once

#include "cuda/one/decode_one.cuh"
#include "cuda/part/wgmma.cuh"

#define SCORE_WARPS 4         /* the first of the block */
#define VALUE_WARPS 8         /* the next; the others only help to gather */
#define PROBS 4096            /* bytes of 32 heads x 64 keys, swizzled */
#define QUERIES 4096          /* bytes of 32 heads x 64 lanes, swizzled */
#define CROW 528              /* bytes of a head's context on its way out */
#define LOG2E 1.4426950408889634f

#if HOPPER_CODE

/* Address of 16 bytes of a key in a tile as the copy engine leaves it: five
 * pieces of 64 columns, their rows of 128 bytes swizzled. */
DEV uint32_t
key_addr(uint32_t tile, int key, int chunk)
{
    return tile + (chunk >> 3) * PIECE + key * 128 +
           (((chunk ^ key) & 7) << 4);
}

/* Where the block's next tile lies. */
DEV char *
next_tile(const one &t)
{
    return t.ring + t.kv_n % KV_STAGES * KV_TILE;
}

/* It is there. */
DEV void
wait_tile(const one &t)
{
    for (int k = 0; k < PARTS; k++)
        mbar_wait(&t.w->kv_full[t.kv_n % KV_STAGES][k],
                  t.kv_n / KV_STAGES & 1);
}

/* The warps that make scores. */
DEV void
meet_scores(void)
{
    asm volatile("bar.sync 2, %0;" :: "n"(SCORE_WARPS * 32) : "memory");
}

/* The queries of all heads to shared memory, for wgmma. */
DEV void
gather_queries(const one &t, const one_board *b)
{
    const uint32_t *from = b->q[0];
    uint4 v[3];
    bool ok;
    v[2] = make_uint4(1, 1, 1, 1);
    do {
#pragma unroll
        for (int k = 0; k < 3; k++)
            if (k < 2 || t.tid < 256)
                v[k] = look4(from + (t.tid + 512 * k) * 4);
        ok = there(v[0]) && there(v[1]) && there(v[2]);
    } while (!ok);
#pragma unroll
    for (int k = 0; k < 3; k++) {
        const int i = t.tid + 512 * k, head = i / 40, chunk = i % 40;
        if (k < 2 || t.tid < 256)
            *(uint4 *)(t.w->big + (chunk >> 3) * QUERIES + head * 128 +
                       (((chunk ^ head) & 7) << 4)) = v[k];
    }
    if (t.tid < 2 * ONE_HEADS)
        (&t.w->top[0][0])[t.tid] = INT32_MIN;
    fence_async();
    meet();
}

/* A float's bits as an int of the same order, and back. */
DEV int
ordered(int v)
{
    return v ^ (v >> 31 & 0x7fffffff);
}

/* Number i = 2j + e of a thread's eight columns is head 8j + 2 (lane % 4) + e;
 * after a reduction over the rows of a warp a lane has one of its quad's. */
DEV int
head_of(int lane)
{
    return (lane >> 3) * 8 + (lane & 3) * 2 + (lane >> 2 & 1);
}

template <class F> DEV float
over_rows(float (&v)[8], F op)
{
#pragma unroll
    for (int n = 4, o = 16; n; n /= 2, o /= 2) {
        const bool up = threadIdx.x & o;
#pragma unroll
        for (int i = 0; i < n; i++) {
            float give = up ? v[i] : v[i + n], keep = up ? v[i + n] : v[i];
            v[i] = op(keep, __shfl_xor_sync(~0u, give, o));
        }
    }
    return v[0];
}

/* Begins the scores of the next tile, 64 keys x 32 heads: s[4j + 2r + e] is
 * that of key 16 warp + 8r + lane / 4 and the thread's column 2j + e. */
DEV void
begin_scores(const one &t, float (&s)[16])
{
    const uint32_t keys = swizzled_rows(next_tile(t));
    const uint32_t queries = swizzled_rows(t.w->big);
    wait_tile(t);
    wgmma_hold(s);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < MLA_ROW / 16; k++)
        wgmma_both<32, false>::mma(s, keys + (k / 4 * PIECE + k % 4 * 32) / 16,
                                   queries + (k / 4 * QUERIES + k % 4 * 32) /
                                   16, k > 0);
    wgmma_commit();
}

/* Keys behind the last one do not count. */
DEV void
mask_scores(const one &t, int tile, float (&s)[16])
{
    const int key = tile * 64 + t.warp * 16 + (t.lane >> 2);
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (key + (i >> 1 & 1) * 8 >= t.w->length)
            s[i] = -INFINITY;
}

/* Maxima so far of the thread's columns, of the scores as they come from the
 * product; old: what they make of the sums before. A buffer also holds the
 * maxima of tiles two and more before, which are in top already. */
DEV void
raise_maxima(const one &t, const float (&s)[16], float (&top)[8],
             float (&old)[8])
{
    const float scale = t.a.score_scale * LOG2E;
    int *shared = t.w->top[t.kv_n & 1];
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int k = 4 * (i >> 1) + (i & 1);
        v[i] = fmaxf(s[k], s[k + 2]);
    }
    float most = over_rows(v, [](float a, float b) { return fmaxf(a, b); });
    atomicMax(shared + head_of(t.lane), ordered(__float_as_int(most)));
    meet_scores();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int2 w = *(const int2 *)(shared + 8 * j + 2 * (t.lane & 3));
        const float a = fmaxf(top[2 * j], __int_as_float(ordered(w.x)));
        const float b = fmaxf(top[2 * j + 1], __int_as_float(ordered(w.y)));
        old[2 * j] = exp2_fast((top[2 * j] - a) * scale);
        old[2 * j + 1] = exp2_fast((top[2 * j + 1] - b) * scale);
        top[2 * j] = a;
        top[2 * j + 1] = b;
    }
}

/* Scores of tile number n to probabilities in its buffer, [head][key] in
 * bf16. */
DEV void
make_probs(const one &t, unsigned n, float (&s)[16], const float (&top)[8],
           const float (&old)[8], float (&sum)[8])
{
    const unsigned buf = n & 1;
    const float scale = t.a.score_scale * LOG2E;
    const int lane = t.lane;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float off = top[i] * scale;
        float *v = s + 4 * (i >> 1) + (i & 1);
        v[0] = exp2_fast(fmaf(v[0], scale, -off));
        v[2] = exp2_fast(fmaf(v[2], scale, -off));
        sum[i] = fmaf(sum[i], old[i], v[0] + v[2]);
    }
    mbar_wait(&t.w->p_empty[buf], (n >> 1 & 1) ^ 1);
    if (t.warp == 0 && lane < 4)
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(float2 *)&t.w->old[buf][8 * j + 2 * lane] =
                make_float2(old[2 * j], old[2 * j + 1]);
    /* Matrices of 8 heads x 8 keys, a pair of heads a register. */
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const int head = 8 * (j + (lane >> 4)) + (lane & 7);
        const int chunk = 2 * t.warp + (lane >> 3 & 1);
        stmatrix4_trans(smem_addr(t.w->row) + buf * PROBS + head * 128 +
                        (((chunk ^ head) & 7) << 4),
                        bf_pack(s[4 * j], s[4 * j + 1]),
                        bf_pack(s[4 * j + 2], s[4 * j + 3]),
                        bf_pack(s[4 * j + 4], s[4 * j + 5]),
                        bf_pack(s[4 * j + 6], s[4 * j + 7]));
    }
    fence_async();
    __syncwarp();
    if (lane == 0)
        mbar_arrive(&t.w->p_full[buf]);
}

/* Maxima and sums of the block's keys to the board; a head's factor to those
 * who have its values. */
DEV void
finish_sums(const one &t, one_board *b, float (&sum)[8])
{
    const int head = head_of(t.lane);
    one_work *w = t.w;
    w->sum[t.warp][head] = over_rows(sum, [](float a, float b) {
        return a + b;
    });
    meet_scores();
    if (t.warp != 0)
        return;
    const float all = (w->sum[0][head] + w->sum[1][head]) +
                      (w->sum[2][head] + w->sum[3][head]);
    const int top = ordered(max(w->top[0][head], w->top[1][head]));
    w->inv[head] = 1 / all;
    put_word(&b->ml[head][t.c][0],
             __float_as_uint(__int_as_float(top) * t.a.score_scale));
    put_word(&b->ml[head][t.c][1], __float_as_uint(all));
}

/* Warps 0 to 3. The scores of a tile are made beside the probabilities of the
 * one before it. */
DEV void
walk_scores(one &t, one_board *b, int l)
{
    float next[16] = {}, s[16], top[8], old[8], sum[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
    }
    begin_scores(t, next);
    STAMP(t, l, 19);
#pragma unroll 1
    for (int tile = t.w->t1 - 1;; tile--) {
        wgmma_wait<0>();
        wgmma_hold(next);
        if (tile == t.w->t1 - 1)
            STAMP(t, l, 20);
#pragma unroll
        for (int k = 0; k < 16; k++)
            s[k] = next[k];
        if (tile == t.w->tiles - 1)
            mask_scores(t, tile, s);
        raise_maxima(t, s, top, old);
        if (tile == t.w->t0)
            break;
        t.kv_n++;
        begin_scores(t, next);
        make_probs(t, t.kv_n - 1, s, top, old, sum);
    }
    make_probs(t, t.kv_n++, s, top, old, sum);
    STAMP(t, l, 21);
    finish_sums(t, b, sum);
    STAMP(t, l, 22);
}

/* Adds a tile's part to 2 x 64 lanes of the context: o[m][4j + 2r + e] is
 * that of lane 128 group + 64m + 16 (warp % 4) + 8r + lane / 4 and column
 * 2j + e. */
DEV void
tile_values(const one &t, const char *tile, float (&o)[2][16])
{
    const unsigned buf = t.kv_n & 1;
    const float *old = t.w->old[buf] + 2 * (t.lane & 3);
    const uint32_t values =
        swizzled_rows(tile + (t.warp / 4 - 1) * 2 * PIECE);
    const uint32_t probs = swizzled_rows(t.w->row + buf * PROBS);
    mbar_wait(&t.w->p_full[buf], t.kv_n >> 1 & 1);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float2 f = *(const float2 *)(old + 8 * j);
#pragma unroll
        for (int k = 0; k < 8; k++)
            o[k >> 2][4 * j + (k & 3)] *= k & 1 ? f.y : f.x;
    }
    wgmma_hold(o[0]);
    wgmma_hold(o[1]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int m = 0; m < 2; m++)
            wgmma_both<32, true>::mma(o[m], values +
                                      (m * PIECE + k * 2048) / 16,
                                      probs + k * 32 / 16, true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(o[0]);
    wgmma_hold(o[1]);
    if (t.lane == 0) {
        mbar_arrive(&t.w->p_empty[buf]);
        mbar_arrive(&t.w->kv_empty[t.kv_n % KV_STAGES]);
    }
}

/* Warps 4 to 11: the context, divided by its sum, to shared memory. */
DEV void
walk_values(one &t)
{
    float o[2][16] = {};
    const int lane = t.lane;
#pragma unroll 1
    for (int i = t.w->t1 - t.w->t0; i > 0; i--, t.kv_n++)
        tile_values(t, next_tile(t), o);
    meet();
    const uint32_t to = smem_addr(t.w->big) + (lane & 7) * CROW +
                        (t.warp / 4 - 1) * 256 + (t.warp & 3) * 32 +
                        (lane >> 3 & 1) * 16;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const float *inv = t.w->inv + 8 * j + 2 * (lane & 3);
            uint32_t v[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                v[k] = bf_pack(o[m][4 * j + 2 * k] * inv[4 * (k & 2)],
                               o[m][4 * j + 2 * k + 1] *
                               inv[4 * (k & 2) + 1]);
            stmatrix4_trans(to + m * 128 + (8 * j + (lane >> 4) * 8) * CROW,
                            v[0], v[1], v[2], v[3]);
        }
}

/* The context from there to the board. */
DEV void
publish_share(const one &t, one_board *b)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int i = t.tid + 512 * k;
        put4(b->part[t.c][0] + 4 * i,
             *(const uint4 *)(t.w->big + (i >> 5) * CROW + (i & 31) * 16));
    }
}

#endif
