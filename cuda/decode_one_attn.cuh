/*
 * Attention of the one-token launch: from the normalised row to the residual
 * behind wo. See decode_one.cu for the work of each phase.
 *
 * DESIGN. Four blocks share a head: each makes 16 + 16 of its query lanes,
 * then, when the 64 position-free ones are together, 64 of its 256 absorbed
 * lanes. Attention takes whole cache blocks of 64 keys for all 32 heads, so a
 * key is read once; up to 128 of them every block takes at most one. Scores:
 * a warp has 16 heads x 16 keys x 160 lanes; values: all heads x 16 lanes. A
 * block leaves its context divided by its sum in bf16, with maximum and sum
 * in fp32; a head's four blocks merge them each for itself.
 */
#pragma once

#include "cuda/decode_one.cuh"

#if HOPPER_CODE

/* Rows 8c + 2g, + 1 of q_a and 1024 + 4c + g of kv_a, g a quarter of the
 * rings. The norm's scale is applied to the sums. */
DEV void
make_latents(one &t, one_board *b)
{
    one_work *w = t.w;
    float s = rows<4>(t, t.c < MLA_ROW / 4 ? 3 : 2);
    if ((t.lane & 7) == 0)
        w->a[t.warp][row_of(t.lane)] = s;
    meet();
    if (t.warp != 0)
        return;
    /* Lane: row 0 .. 7 of q_a, 8 .. 11 of kv_a. */
    int g = t.lane < 8 ? t.lane >> 1 : t.lane & 3;
    int i = t.lane < 8 ? t.lane & 1 : 2;
    s = w->a[2 * g][i] + w->a[2 * g + 1][i] + w->a[2 * g + 8][i] +
        w->a[2 * g + 9][i];
    s *= row_scale(t);
    uint32_t pair = bf_pack(s, __shfl_xor_sync(~0u, s, 1));
    if (t.lane >= (t.c < MLA_ROW / 4 ? 12 : 8) || t.lane & 1)
        return;
    int at = t.lane < 8 ? t.c * 4 + t.lane / 2 : t.c * 2 + t.lane / 2 - 4;
    put_word((t.lane < 8 ? b->qa : b->kv) + at, pair);
    if (t.w->trace)
        ((uint32_t *)t.a.trace.a)[t.lane < 8 ? at : ONE_Q_RANK / 2 + at] =
            pair;
}

/* Position-free lanes 16q .. 16q + 15 of the head and rope lanes likewise;
 * a warp has a row of each. Returns with both in shared memory. */
DEV void
make_query(one &t, const one_board *b, int l)
{
    one_work *w = t.w;
    const uint4 *norm = (const uint4 *)of_layer(t, t.a.q_norm, l) + t.lane;
    uint4 n[4];
    float x[32], v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < 4; j++)
        n[j] = norm[32 * j];
    if (t.tid < ONE_Q_RANK / 8)
        *(uint4 *)(w->row + t.tid * 16) = get4(b->qa + t.tid * 4);
    meet();
    load32(w->row + t.lane * 16, x);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float f[8];
        unpack8(n[j], f);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[2] = fmaf(x[8 * j + i], x[8 * j + i], v[2]);
            x[8 * j + i] *= f[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const char *p = acquire(t) + t.hf * 2048 + t.lane * 16;
        v[i] = dot32(p, x);
        release(t);
    }
    float s = reduce(v);
    float scale = rsqrtf(__shfl_sync(~0u, s, 16) / ONE_Q_RANK + t.a.eps);
    if ((t.lane & 7) == 0 && t.lane < 16)
        w->nope[(t.lane >> 3) * 16 + 2 * t.r + t.hf] = s * scale;
    if (t.w->trace && t.c == 0 && t.warp == 0)
#pragma unroll
        for (int i = 0; i < 32; i += 2)
            ((uint32_t *)t.a.trace.qn)[i / 8 * 128 + t.lane * 4 + i % 8 / 2] =
                bf_pack(x[i] * scale, x[i + 1] * scale);
    meet();
}

/* Warp 0: the block's query lanes, those of rope turned and scaled. */
DEV void
publish_query(const one &t, one_board *b)
{
    float v = t.w->nope[t.lane], next = __shfl_xor_sync(~0u, v, 1);
    const int k = quarter(t) * 8 + (t.lane & 15) / 2;
    const float2 cs = t.w->rope[k];
    if (t.lane & 1)
        return;
    if (t.lane < 16)
        put_word(&b->qn[head(t)][k], bf_pack(v, next));
    else
        put_word(&b->q[head(t)][MLA_RANK / 2 + k],
                 bf_pack((v * cs.x - next * cs.y) * t.w->l4,
                         (v * cs.y + next * cs.x) * t.w->l4));
    if (t.w->trace)
        ((uint32_t *)t.a.trace.q)[head(t) * 64 + (t.lane & 16) * 2 + k] =
            bf_pack(v, next);
}

/* Four absorbed lanes a warp: W_UK's columns times the head's 64 lanes. */
DEV void
absorb_query(const one &t, one_board *b, int l)
{
    float x[8], s;
    unpack8(get4(b->qn[head(t)] + (t.lane & 7) * 4), x);
    mbar_wait(&t.w->uk_full[t.r], l & 1);
    s = dot8(*(const uint4 *)(t.w->uk + t.r * 1024 + t.hf * 512 +
                              t.lane * 16), x, 0);
    s += __shfl_xor_sync(~0u, s, 4);
    s += __shfl_xor_sync(~0u, s, 2);
    s += __shfl_xor_sync(~0u, s, 1);
    s *= t.w->l4;
    float next = __shfl_xor_sync(~0u, s, 8);
    if ((t.lane & 15) == 0)
        put_word(&b->q[head(t)][quarter(t) * 32 + t.r * 4 + t.hf * 2 +
                               (t.lane >> 4)], bf_pack(s, next));
}

/* Address of 16 bytes of a key in a cache block as the copy engine leaves
 * it: five pieces of 64 columns, their rows of 128 bytes swizzled. */
DEV uint32_t
key_addr(uint32_t tile, int key, int chunk)
{
    return tile + (chunk >> 3) * HALF + key * 128 +
           (((chunk ^ key) & 7) << 4);
}

/* The routing warp of the block that has the last keys: the token's own row,
 * for the cache and for this block. */
DEV void
make_own_row(const one &t, const one_board *b, int l)
{
    one_work *w = t.w;
    const int lane = t.lane, at = *t.a.kv_row;
    const uint4 n = ((const uint4 *)of_layer(t, t.a.kv_norm, l))[lane];
    uint4 v = get4(b->kv + 4 * lane);
    uint32_t turn;
    do {
        turn = look1(b->kv + MLA_RANK / 2 + lane);
    } while (!turn);
    float x[8], f[8], sum = 0;
    unpack8(v, x);
    unpack8(n, f);
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = fmaf(x[i], x[i], sum);
    const float s = rsqrtf(warp_sum(sum) / MLA_RANK + t.a.eps);
    const float2 cs = w->rope[lane];
    const float lo = bf_lo(turn), hi = bf_hi(turn);
    v.x = bf_pack(x[0] * s * f[0], x[1] * s * f[1]);
    v.y = bf_pack(x[2] * s * f[2], x[3] * s * f[3]);
    v.z = bf_pack(x[4] * s * f[4], x[5] * s * f[5]);
    v.w = bf_pack(x[6] * s * f[6], x[7] * s * f[7]);
    turn = bf_pack(lo * cs.x - hi * cs.y, lo * cs.y + hi * cs.x);
    *(uint4 *)(w->own + 4 * lane) = v;
    w->own[MLA_RANK / 2 + lane] = turn;
    __syncwarp();
    if (lane == 0)
        mbar_arrive(&w->added);
    if (at < 0)
        return;
    uint32_t *out = (uint32_t *)t.a.cache +
                    ((size_t)l * t.a.cache_rows + at) * (MLA_ROW / 2);
    *(uint4 *)(out + 4 * lane) = v;
    out[MLA_RANK / 2 + lane] = turn;
}

/* That row into the cache block, whose copy may have come before it; the keys
 * behind it are zeroed: they may be anything. */
DEV void
add_own_row(const one &t, int l, char *tile)
{
    const int row = (t.w->length - 1) & 63;
    mbar_wait(&t.w->added, l & 1);
    for (int i = t.tid; i < (64 - row) * 40; i += WARPS * 32) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (i < 40)
            v = *(const uint4 *)(t.w->own + 4 * i);
        *(uint4 *)(tile + key_addr(0, row + i / 40, i % 40)) = v;
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define QREG 5 /* of a warp's 10 query fragments, those kept in registers */

DEV uint32_t
query_addr(const one &t)
{
    return smem_addr(t.w->big) + (t.lane >> 4) * 16 +
           ((t.warp & 1) * 16 + (t.lane & 15)) * QROW + (t.warp >> 3) * 320;
}

/* 16 heads x 16 keys over half the lanes, to shared memory. */
DEV void
tile_scores(const one &t, uint32_t kv, const uint32_t (&query)[QREG][4])
{
    const int lane = t.lane, m = t.warp & 1, ks = t.warp >> 3;
    const int key = (t.warp >> 1 & 3) * 16 + (lane & 7) + (lane >> 4) * 8;
    float d[2][4] = {};
#pragma unroll
    for (int k = 0; k < 10; k++) {
        uint32_t f[4], q[4];
        if (k < QREG)
            memcpy(q, query[k], sizeof q);
        else
            ldmatrix4(q, query_addr(t) + k * 32);
        ldmatrix4(f, key_addr(kv, key, (ks * 10 + k) * 2 + (lane >> 3 & 1)));
        mma16816(d[0], q, f[0], f[1]);
        mma16816(d[1], q, f[2], f[3]);
    }
    float *s = &t.w->score[ks][m * 16 + (lane >> 2)]
                          [(t.warp >> 1 & 3) * 16 + 2 * (lane & 3)];
#pragma unroll
    for (int n = 0; n < 2; n++) {
        *(float2 *)(s + n * 8) = make_float2(d[n][0], d[n][1]);
        *(float2 *)(s + n * 8 + 8 * SROW) = make_float2(d[n][2], d[n][3]);
    }
}

/* Online softmax: half a warp a head, 4 keys a lane. */
DEV void
tile_softmax(const one &t, int tile, float &run_max, float &run_sum)
{
    const int head = 2 * t.warp + (t.lane >> 4), k0 = 4 * (t.lane & 15);
    const float4 a = *(const float4 *)&t.w->score[0][head][k0];
    const float4 b = *(const float4 *)&t.w->score[1][head][k0];
    float v[4] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = tile * 64 + k0 + i < t.w->length ? v[i] * t.a.score_scale
                                             : -INFINITY;
        top = fmaxf(top, v[i]);
    }
#pragma unroll
    for (int o = 8; o; o /= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    const float now = fmaxf(run_max, top), old = __expf(run_max - now);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = __expf(v[i] - now);
        sum += v[i];
    }
    *(uint2 *)(t.w->row + head * PROW + k0 * 2) =
        make_uint2(bf_pack(v[0], v[1]), bf_pack(v[2], v[3]));
#pragma unroll
    for (int o = 8; o; o /= 2)
        sum += __shfl_xor_sync(~0u, sum, o);
    run_sum = run_sum * old + sum;
    run_max = now;
    if ((t.lane & 15) == 0)
        t.w->alpha[head] = old;
}

/* Values: all heads x 16 lanes of the latent. */
DEV void
tile_values(const one &t, uint32_t kv, float (&o)[2][2][4])
{
    const int lane = t.lane, g = lane >> 2;
    const uint32_t prob = smem_addr(t.w->row);
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const float lo = t.w->alpha[m * 16 + g];
        const float hi = t.w->alpha[m * 16 + g + 8];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            o[m][n][0] *= lo;
            o[m][n][1] *= lo;
            o[m][n][2] *= hi;
            o[m][n][3] *= hi;
        }
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t v[4];
        ldmatrix4_trans(v, key_addr(kv, k * 16 + (lane & 15),
                                    t.warp * 2 + (lane >> 4)));
#pragma unroll
        for (int m = 0; m < 2; m++) {
            uint32_t p[4];
            ldmatrix4(p, prob + (m * 16 + (lane & 15)) * PROW + k * 32 +
                      (lane >> 4) * 16);
            mma16816(o[m][0], p, v[0], v[1]);
            mma16816(o[m][1], p, v[2], v[3]);
        }
    }
}

/* The queries of all heads by way of shared memory; this warp's fragments stay
 * in q. */
DEV void
gather_queries(const one &t, const one_board *b, uint32_t (&q)[QREG][4])
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
        int i = t.tid + 512 * k;
        if (k < 2 || t.tid < 256)
            *(uint4 *)(t.w->big + i / 40 * QROW + i % 40 * 16) = v[k];
    }
    meet();
#pragma unroll
    for (int k = 0; k < QREG; k++)
        ldmatrix4(q[k], query_addr(t) + k * 32);
}

/* Where the block's next cache block lies, once it is there. */
DEV char *
wait_keys(const one &t)
{
    const int stage = t.kv_n % KV_STAGES;
    mbar_wait(&t.w->kv_full[stage], t.kv_n / KV_STAGES & 1);
    return t.ring + stage * KV_TILE;
}

/* The block's share of the keys, if it has one, from the last to the first. */
DEV void
attend(one &t, one_board *b, int l)
{
    uint32_t q[QREG][4];
    float o[2][2][4] = {}, run_max = -INFINITY, run_sum = 0;
    if (t.w->t0 >= t.w->t1)
        return;
    if (t.w->t1 == t.w->tiles)
        add_own_row(t, l, wait_keys(t));
    gather_queries(t, b, q);
    STAMP(t, l, 18);
#pragma unroll 1
    for (int tile = t.w->t1 - 1; tile >= t.w->t0; tile--, t.kv_n++) {
        const uint32_t kv = smem_addr(wait_keys(t));
        if (tile == t.w->t1 - 1)
            STAMP(t, l, 19);
        tile_scores(t, kv, q);
        meet();
        if (tile == t.w->t1 - 1)
            STAMP(t, l, 20);
        tile_softmax(t, tile, run_max, run_sum);
        meet();
        if (tile == t.w->t1 - 1)
            STAMP(t, l, 21);
        tile_values(t, kv, o);
        __syncwarp();
        if (t.lane == 0)
            mbar_arrive(&t.w->kv_empty[t.kv_n % KV_STAGES]);
        if (tile == t.w->t1 - 1)
            STAMP(t, l, 22);
    }
    STAMP(t, l, 23);
    const int head = 2 * t.warp + (t.lane >> 4), g = t.lane >> 2;
    if ((t.lane & 15) == 0) {
        t.w->inv[head] = 1 / run_sum;
        put_word(&b->ml[head][t.c][0], __float_as_uint(run_max));
        put_word(&b->ml[head][t.c][1], __float_as_uint(run_sum));
    }
    meet();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int h = m * 16 + r * 8 + g;
            const float f = t.w->inv[h];
#pragma unroll
            for (int n = 0; n < 2; n++)
                put_word(&b->part[t.c][h][t.warp * 8 + n * 4 + (t.lane & 3)],
                         bf_pack(o[m][n][2 * r] * f,
                                 o[m][n][2 * r + 1] * f));
        }
}

/* Weights of the head's shares: lane i of w[k] has that of 32k + i. */
DEV void
share_weights(const one &t, const one_board *b, int n, float (&w)[4])
{
    uint2 ml[4];
    float top = -INFINITY, sum = 0;
    bool ok;
    do {
        ok = true;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (32 * k + t.lane < n) {
                ml[k] = look2(b->ml[head(t)][32 * k + t.lane]);
                ok = ok && ml[k].x && ml[k].y;
            }
        if (!ok)
            __nanosleep(40);  /* most blocks wait long here */
    } while (!ok);
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (32 * k + t.lane < n)
            top = fmaxf(top, __uint_as_float(ml[k].x));
    top = warp_max(top);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        w[k] = 32 * k + t.lane < n
            ? __uint_as_float(ml[k].y) * __expf(__uint_as_float(ml[k].x) -
                                                top) : 0;
        sum += w[k];
    }
    sum = 1 / warp_sum(sum);
#pragma unroll
    for (int k = 0; k < 4; k++)
        w[k] *= sum;
}

/* The head's context: a warp adds 16 lanes of all shares, two lanes of the
 * warp a share, 16 shares at once. */
DEV void
merge_shares(const one &t, const one_board *b)
{
    const int n = t.w->shares, s0 = t.lane >> 1;
    const uint32_t *part = b->part[0][head(t)] + t.warp * 8 +
                           (t.lane & 1) * 4;
    float w[4], sum[8] = {};
    share_weights(t, b, n, w);
#pragma unroll 1
    for (int i = 0; i * 16 < n; i += 4) {
        const float wk[2] = {i ? w[2] : w[0], i ? w[3] : w[1]};
        uint4 v[4];
        bool ok;
        do {
            ok = true;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int s = (i + k) * 16 + s0;
                v[k] = make_uint4(0, 0, 0, 0);
                if (s < n) {
                    v[k] = look4(part + (size_t)s * (ONE_HEADS * 128));
                    ok = ok && there(v[k]);
                }
            }
        } while (!ok);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float f[8], e = __shfl_sync(~0u, wk[k / 2], s0 + (k & 1) * 16);
            unpack8(v[k], f);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[j] = fmaf(f[j], e, sum[j]);
        }
    }
    /* Over the 16 pairs of lanes: number = bits 4 3 2 of the lane. */
#pragma unroll
    for (int o = 16, c = 4; c; o /= 2, c /= 2)
#pragma unroll
        for (int j = 0; j < c; j++) {
            const bool up = t.lane & o;
            float give = up ? sum[j] : sum[j + c];
            sum[j] = (up ? sum[j + c] : sum[j]) +
                     __shfl_xor_sync(~0u, give, o);
        }
    sum[0] += __shfl_xor_sync(~0u, sum[0], 2);
    if ((t.lane & 2) == 0)
        t.w->ctx[t.warp * 16 + (t.lane & 1) * 8 + (t.lane >> 2)] = sum[0];
    meet();
}

/* 32 of the head's 128 values, two a warp. */
DEV void
make_values(one &t, one_board *b)
{
    float x[8], v[2];
    *(float4 *)x = *(const float4 *)(t.w->ctx + 8 * t.lane);
    *(float4 *)(x + 4) = *(const float4 *)(t.w->ctx + 8 * t.lane + 4);
    const char *p = acquire(t) + t.hf * 1024 + t.lane * 16;
    v[0] = dot8(*(const uint4 *)p, x, 0);
    v[1] = dot8(*(const uint4 *)(p + 512), x, 0);
    release(t);
    float s = reduce(v), next = __shfl_xor_sync(~0u, s, 16);
    const int at = head(t) * 64 + quarter(t) * 16 + 2 * t.r + t.hf;
    if (t.lane == 0) {
        put_word(&b->o[at], bf_pack(s, next));
        if (t.w->trace)
            ((uint32_t *)t.a.trace.o)[at] = bf_pack(s, next);
    }
}

/* Rows 32c + 8g .. + 7 of wo, and the residual. */
DEV void
make_output(one &t, one_board *b, int l)
{
    one_work *w = t.w;
    float norm = 0;
    if (t.warp == 0)
        norm = norm_value(t, of_layer(t, t.a.ffn_norm, l));
    *(uint4 *)(w->row + t.tid * 16) = get4(b->o + t.tid * 4);
    meet();
    STAMP(t, l, 8);
    float s = rows<8>(t, 8);
    if ((t.lane & 3) == 0)
        w->o[t.warp][row_of(t.lane)] = s;
    STAMP(t, l, 9);
    meet();
    if (t.warp != 0)
        return;
    const int g = t.lane >> 3, i = t.lane & 7;
    const float x = w->x[t.lane] + (w->o[2 * g][i] + w->o[2 * g + 1][i]) +
                    (w->o[2 * g + 8][i] + w->o[2 * g + 9][i]);
    w->x[t.lane] = x;
    publish_row(t, b->x1[0], b->sq1, x, norm);
}

#endif
