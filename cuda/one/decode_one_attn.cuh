/*
 * Attention of the one-token launch: from the normalised row to the residual
 * behind wo. See decode_one.cu for the work of each phase.
 *
 * DESIGN. Four blocks share a head: each makes 16 + 16 of its query lanes,
 * then, when the 64 position-free ones are together, 64 of its 256 absorbed
 * lanes. Attention takes whole cache blocks of 64 keys for all 32 heads, so a
 * key is read once; up to 128 of them every block takes at most one
 * (decode_one_tiles.cuh). A block leaves its context divided by its sum in
 * bf16, with maximum and sum in fp32; a head's four blocks merge them each for
 * itself.
 */
#pragma once

#include "cuda/one/decode_one_tiles.cuh"

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
    wait_tile(t);
    mbar_wait(&t.w->added, l & 1);
    for (int i = t.tid; i < (64 - row) * 40; i += WARPS * 32) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (i < 40)
            v = *(const uint4 *)(t.w->own + 4 * i);
        *(uint4 *)(tile + key_addr(0, row + i / 40, i % 40)) = v;
    }
    fence_async();
}

/* The block's share of the keys, if it has one, from the last to the first. */
DEV void
attend(one &t, one_board *b, int l)
{
    const int n = t.w->t1 - t.w->t0;
    if (n <= 0)
        return;
    if (t.w->t1 == t.w->tiles)
        add_own_row(t, l, next_tile(t));
    gather_queries(t, b);
    STAMP(t, l, 18);
    if (t.warp < SCORE_WARPS) {
        walk_scores(t, b, l);
        meet();
    } else if (t.warp < SCORE_WARPS + VALUE_WARPS) {
        walk_values(t);
    } else {
        t.kv_n += n;
        meet();
    }
    meet();
    STAMP(t, l, 23);
    publish_share(t, b);
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

/* Units taken out of the rings before what they are multiplied with is there:
 * a block's registers, idle then, hold 128 KB of wo, as much as the rings do,
 * and those fill up again. */
struct ahead {
    uint4 uv[2], wo[4][4];    /* a lane's part of W_UV's rows, of four of wo */
};

/* Rows FROM to TO - 1 of wo. */
template <int FROM, int TO> DEV void
take_output(one &t, ahead &a)
{
#pragma unroll
    for (int i = FROM; i < TO; i++) {
        const char *p = acquire(t) + t.hf * 2048 + t.lane * 16;
#pragma unroll
        for (int j = 0; j < 4; j++)
            a.wo[i][j] = *(const uint4 *)(p + 512 * j);
        release(t);
    }
}

DEV void
take_values(one &t, ahead &a)
{
    const char *p = acquire(t) + t.hf * 1024 + t.lane * 16;
    a.uv[0] = *(const uint4 *)p;
    a.uv[1] = *(const uint4 *)(p + 512);
    release(t);
}

/* The sums of the rows taken, as rows() has them behind four. */
DEV float
ahead_rows(const one &t, const ahead &a)
{
    float s[4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float x[8];
        unpack8(*(const uint4 *)(row_part(t) + 512 * j), x);
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[i] = dot8(a.wo[i][j], x, s[i]);
    }
    return fold(fold(s[0], s[1], 16), fold(s[2], s[3], 16), 8);
}

/* 32 of the head's 128 values, two a warp. */
DEV void
make_values(one &t, one_board *b, const ahead &a)
{
    float x[8], v[2];
    *(float4 *)x = *(const float4 *)(t.w->ctx + 8 * t.lane);
    *(float4 *)(x + 4) = *(const float4 *)(t.w->ctx + 8 * t.lane + 4);
    v[0] = dot8(a.uv[0], x, 0);
    v[1] = dot8(a.uv[1], x, 0);
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
make_output(one &t, one_board *b, int l, ahead &a)
{
    one_work *w = t.w;
    float norm = 0;
    if (t.warp == 0)
        norm = norm_value(t, of_layer(t, t.a.ffn_norm, l));
    take_output<2, 4>(t, a);
    *(uint4 *)(w->row + t.tid * 16) = get4(b->o + t.tid * 4);
    meet();
    STAMP(t, l, 8);
    float s = rows<8>(t, 8, 4, ahead_rows(t, a));
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
