/*
 * The experts of the one-token launch, and its routing warp. See
 * decode_one.cu for the work of each phase.
 *
 * DESIGN. A block owns 16 hidden units of each expert and 32 outputs. Ring r
 * brings slice r of a row tile of gate+up, or slice r % 4 of row tile r / 4
 * of down; each warp of a ring takes half the columns, and the sums of the 16
 * warps meet in shared memory in a fixed order.
 *
 * The codes go into the mma without their scales: lane (g, t) has scale block
 * t of a tile, so the token's values of block t are put into column 2t of the
 * B operand and nowhere else, and the sums that lane (g, t) gets back are
 * those of its own block. Two multiplications a tile then apply the scales in
 * fp32, instead of one for every pair of codes. What the codes lack (2^-126)
 * the activations are given (2^96), which is exact.
 *
 * The router's logits travel while the shared expert is computed, up to its
 * outputs; one warp chooses for the block and tells the producer first.
 */
#pragma once

#include "cuda/one/decode_one_attn.cuh"

#if HOPPER_CODE

#define LIFT 0x1p96f
#define LIFT_PAIR 0x6F806F80u /* twice, in bf16 */

/* B fragments of 256 columns: block t in column 2t. */
DEV void
load_column(const char *p, int lane, uint32_t (&x)[4][8])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 b = make_uint4(0, 0, 0, 0), c = b;
        if (lane % 9 == 0) {
            b = *(const uint4 *)(p + i * 128 + lane % 4 * 32);
            c = *(const uint4 *)(p + i * 128 + lane % 4 * 32 + 16);
        }
        x[i][0] = b.x;
        x[i][1] = b.y;
        x[i][2] = b.z;
        x[i][3] = b.w;
        x[i][4] = c.x;
        x[i][5] = c.y;
        x[i][6] = c.z;
        x[i][7] = c.w;
    }
}

/* Scale in byte k of a unit's, times 2^23. */
DEV float
scale_of(uint32_t word, int k)
{
    return __uint_as_float(__byte_perm(word, 0, 0x4044 | k << 8) * 16u +
                           0x40000000u);
}

/* Half a unit: this lane's part of the sums of rows g and g + 8, times 2^-7;
 * the quad's lanes have the others. */
DEV void
half_unit(const char *unit, const one &t, const uint32_t (&x)[4][8],
          float &lo, float &hi)
{
    const char *c = unit + t.hf * 2048 + t.lane * 16;
    const uint2 sc = *(const uint2 *)(unit + 4096 + t.lane * 16 + t.hf * 8);
    lo = hi = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 v = *(const uint4 *)(c + i * 512);
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
        const uint32_t s = i < 2 ? sc.x : sc.y;
        float d[4] = {0, 0, 0, 0};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t f[4];
            fp4_expand(word[k], f);
            mma16816(d, f, x[i][2 * k], x[i][2 * k + 1]);
        }
        lo = fmaf(d[0], scale_of(s, (i & 1) * 2), lo);
        hi = fmaf(d[2], scale_of(s, (i & 1) * 2 + 1), hi);
    }
}

/* The quad's sums: lane t = 0 has row g, t = 2 row g + 8. */
DEV float
quad_sum(float lo, float hi)
{
    float s = fold(lo, hi, 2);
    return s + __shfl_xor_sync(~0u, s, 1);
}

/* Row c of the router, in rings 0 and 1. */
DEV void
make_logit(one &t)
{
    float s = rows<1>(t, 1);
    if (t.lane == 0) {
        t.w->logit[t.r + 2 * t.hf] = s;
        mbar_arrive(&t.w->router);
    }
}

/* n units of gate and up, from tile number u on. */
DEV void
gate_up_units(one &t, int u, int n)
{
    uint32_t x[4][8];
    load_column(t.w->row + t.r * 1024 + t.hf * 512, t.lane, x);
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i / 8][i % 8] = bf_mul2(x[i / 8][i % 8], LIFT_PAIR);
    float *out = t.w->gate_up[u] + t.warp * 16 + t.hf * 16 +
                 (t.lane >> 2) + (t.lane & 2) * 4;
#pragma unroll 1
    for (; n > 0; n--, out += 272) {
        float lo, hi;
        half_unit(acquire(t), t, x, lo, hi);
        release(t);
        lo = quad_sum(lo, hi);
        if ((t.lane & 1) == 0)
            *out = lo;
    }
}

/* One warp: 8 hidden units of tile u, 8 gate and 8 up rows. Half a warp adds
 * eight warps' sums. */
DEV void
publish_hidden(const one &t, one_board *b, int u, float gate_scale,
               float up_scale)
{
    const int half = t.lane >> 4, e = u >> 1;
    const float *in = t.w->gate_up[u] + half * 144 + (t.lane & 15);
    float s = 0;
#pragma unroll
    for (int k = 0; k < 8; k++)
        s += in[16 * k];
    s += __shfl_xor_sync(~0u, s, 16);
    const float up = __shfl_xor_sync(~0u, s, 8);
    s = silu(s * gate_scale) * (up * up_scale);
    const float next = __shfl_xor_sync(~0u, s, 1);
    if (t.lane >= 8 || t.lane & 1)
        return;
    const int at = t.c * 8 + (u & 1) * 4 + t.lane / 2;
    put_word(&b->h[e][at], bf_pack(s * LIFT, next * LIFT));
    if (t.w->trace)
        ((uint32_t *)t.a.trace.h)[(e + SLOTS - 1) % SLOTS * (ONE_HIDDEN / 2) +
                                  at] = bf_pack(s, next);
}

/* The shared expert, through to this block's outputs. */
DEV void
shared_expert(one &t, one_board *b, int l)
{
    one_work *w = t.w;
    const float *s13 = (const float *)of_layer(t, t.a.scale13, l) +
                       2 * ONE_EXPERTS;
    const float gate = s13[0], up = s13[1];
    const float down = ((const float *)of_layer(t, t.a.scale2,
                                                l))[ONE_EXPERTS];
    gate_up_units(t, 0, 2);
    meet();
    STAMP(t, l, 12);
    if (t.warp < 2) {
        const float scale = row_scale(t);
        publish_hidden(t, b, t.warp, gate * scale, up * scale);
    }
    if (t.tid < ONE_HIDDEN / 8)
        *(uint4 *)(w->big + t.tid * 16) = get4(b->h[0] + t.tid * 4);
    meet();
    uint32_t x[4][8];
    float lo, hi;
    load_column(w->big + (t.r & 3) * 1024 + t.hf * 512, t.lane, x);
    half_unit(acquire(t), t, x, lo, hi);
    release(t);
    w->shared_sum[t.tid] = make_float2(lo * down, hi * down);
}

/* Hidden units of the routed experts. */
DEV void
make_hidden(one &t, one_board *b, int l)
{
    one_work *w = t.w;
    gate_up_units(t, 2, 2 * ONE_TOP_K);
    STAMP(t, l, 14);
    mbar_wait(&w->scaled, l & 1);
    meet();
    const int e = t.warp >> 1;
    if (t.warp >= 2 && t.warp < 2 * SLOTS)
        publish_hidden(t, b, t.warp, w->gate_scale[e], w->up_scale[e]);
}

/* Their outputs, weighted, and the residual. */
DEV void
make_sum(one &t, const one_board *b, one_board *next, const char *norm_row,
         int l)
{
    one_work *w = t.w;
    float norm = 0;
    if (t.warp == 0)
        norm = norm_value(t, norm_row);
    const uint32_t *from = b->h[1] + t.tid * 4;
    uint4 v0, v1;
    do {
        v0 = look4(from);
        v1 = look4(from + WARPS * 32 * 4);
    } while (!there(v0) || !there(v1));
    char *to = w->big + ONE_HIDDEN * 2 + t.tid * 16;
    *(uint4 *)to = v0;
    *(uint4 *)(to + WARPS * 32 * 16) = v1;
    meet();
    STAMP(t, l, 16);
    const char *h = w->big + (t.r & 3) * 1024 + t.hf * 512;
    float lo = w->shared_sum[t.tid].x, hi = w->shared_sum[t.tid].y;
#pragma unroll 1
    for (int e = 1; e < SLOTS; e++) {
        uint32_t x[4][8];
        float u, v;
        load_column(h + e * (ONE_HIDDEN * 2), t.lane, x);
        half_unit(acquire(t), t, x, u, v);
        release(t);
        lo = fmaf(u, w->out_scale[e], lo);
        hi = fmaf(v, w->out_scale[e], hi);
    }
    lo = quad_sum(lo, hi);
    if ((t.lane & 1) == 0)
        w->y[t.warp][(t.lane >> 2) + (t.lane & 2) * 4] = lo;
    meet();
    STAMP(t, l, 17);
    if (t.warp != 0)
        return;
    const int j = t.lane >> 4;
    float s = w->x[t.lane];
#pragma unroll
    for (int k = 0; k < 4; k++)
        s += w->y[4 * j + k][t.lane & 15] + w->y[4 * j + k + 8][t.lane & 15];
    w->x[t.lane] = s;
    publish_row(t, next->x[0], next->sq, s, norm);
}

/* --- the routing warp ---------------------------------------------------- */

/* The four largest of 128 logits, four a lane; the lower index at a tie. */
DEV void
choose_four(uint4 words, int lane, int (&id)[4], float (&top)[4])
{
    const uint32_t raw[4] = {words.x, words.y, words.z, words.w};
    uint32_t key[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {       /* order of floats as unsigned */
        uint32_t v = raw[i] == 0x80000000u ? 0 : raw[i];
        key[i] = v & 0x80000000u ? ~v : v | 0x80000000u;
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        uint32_t best = max(max(key[0], key[1]), max(key[2], key[3]));
        best = __reduce_max_sync(~0u, best);
        int at = 1 << 20;
#pragma unroll
        for (int i = 3; i >= 0; i--)
            at = key[i] == best ? 4 * lane + i : at;
        at = __reduce_min_sync(~0u, at) & (ONE_EXPERTS - 1);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (4 * lane + i == at)
                key[i] = 0;
        id[r] = at;
        top[r] = __uint_as_float(best & 0x80000000u ? best & 0x7fffffffu
                                                    : ~best);
    }
}

/* Waits for the logits, tells the producer, then the consumers. */
DEV void
route(const one &t, one_board *b, int l)
{
    one_work *w = t.w;
    const float ri = row_scale(t);
    float logit = (w->logit[0] + w->logit[2]) + (w->logit[1] + w->logit[3]);
    logit *= ri;
    if (t.lane == 0)
        put_word(&b->logit[t.c], __float_as_uint(logit));
    int id[4];
    float top[4], weight = 0, sum = 0;
    choose_four(get4(b->logit + 4 * t.lane), t.lane, id, top);
    int mine = ONE_EXPERTS;             /* lane: slot, 0 the shared expert */
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (t.lane == k + 1)
            mine = id[k];
    if (t.lane < SLOTS)
        w->expert[t.lane] = mine;
    __syncwarp();
    if (t.lane == 0)
        mbar_arrive(&w->routed);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float e = __expf(top[k] - top[0]);
        sum += e;
        if (t.lane == k + 1)
            weight = e;
    }
    weight = t.lane == 0 ? 1 : weight / sum * t.a.routed_scale;
    if (t.lane < SLOTS) {
        const float *s13 = (const float *)of_layer(t, t.a.scale13, l);
        const float *s2 = (const float *)of_layer(t, t.a.scale2, l);
        w->gate_scale[t.lane] = ri * s13[2 * mine];
        w->up_scale[t.lane] = ri * s13[2 * mine + 1];
        w->out_scale[t.lane] = weight * s2[mine];
    }
    __syncwarp();
    if (t.lane == 0)
        mbar_arrive(&w->scaled);
    if (t.c == 0 && t.lane == 0)
        *t.a.distinct += ONE_TOP_K;
    if (!t.w->trace)
        return;
    if (t.lane == 0)
        t.a.trace.router[t.c] = logit;
    if (t.c == 0 && t.lane < SLOTS) {
        const int k = (t.lane + SLOTS - 1) % SLOTS;
        t.a.trace.route.id[k] = (uint8_t)mine;
        t.a.trace.route.weight[k] = weight;
        t.a.trace.route.position[k] = k;
    }
}

DEV void
clear_words(uint32_t *p, int n, int lane)
{
    for (int i = lane; i < n; i += 32)
        clear_word(p + i);
}

/* This block's words that all blocks have read: of this layer, and the last
 * ones of the layer before (on the other board). */
DEV void
clear_layer(const one &t, one_board *b, one_board *other)
{
    clear_words(b->x[t.c], 16, t.lane);
    clear_words(b->x1[t.c], 16, t.lane);
    clear_words(b->sq + t.c, 1, t.lane);
    clear_words(b->sq1 + t.c, 1, t.lane);
    clear_words(b->qa + t.c * 4, 4, t.lane);
    if (t.c < MLA_ROW / 4)
        clear_words(b->kv + t.c * 2, 2, t.lane);
    clear_words(b->qn[head(t)] + quarter(t) * 8, 8, t.lane);
    clear_words(b->q[head(t)] + quarter(t) * 32, 32, t.lane);
    clear_words(b->q[head(t)] + MLA_RANK / 2 + quarter(t) * 8, 8, t.lane);
    clear_words(b->o + head(t) * 64 + quarter(t) * 16, 16, t.lane);
    for (int e = 0; e < SLOTS; e++)
        clear_words(other->h[e] + t.c * 8, 8, t.lane);
    clear_words(other->logit + t.c, 1, t.lane);
    if (t.w->t0 >= t.w->t1)
        return;
    clear_word(&b->ml[t.lane][t.c][0]);
    clear_word(&b->ml[t.lane][t.c][1]);
    uint32_t *p = b->part[t.c][0] + 4 * t.lane;
    for (int h = 0; h < ONE_HEADS; h++, p += MLA_RANK / 2)
        asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%1,%1,%1};"
                     :: "l"(p), "r"(0) : "memory");
}

/* Arrives at the epoch; returns the count that ends it. */
DEV unsigned
epoch_arrive(const one &t)
{
    unsigned end = 0;
    __syncwarp();
    if (t.lane == 0) {
        __threadfence();
        end = (atomicAdd(&t.boards->epoch, 1) / CTAS + 1) * CTAS;
    }
    return end;
}

DEV void
epoch_wait(const one &t, unsigned end)
{
    if (t.lane == 0)
        while ((int)(grid_count(&t.boards->epoch) - end) < 0) {
        }
    __syncwarp();
}

/* The routing warp. */
DEV void
route_layers(const one &t)
{
    const bool own = t.w->t0 < t.w->t1 && t.w->t1 == t.w->tiles;
    for (int i = 0; i < 2; i++) {       /* what the last launch left */
        one_board *b = &t.boards->b[i];
        clear_words(b->x[t.c], 16, t.lane);
        clear_words(b->sq + t.c, 1, t.lane);
        for (int e = 0; e < SLOTS; e++)
            clear_words(b->h[e] + t.c * 8, 8, t.lane);
        clear_words(b->logit + t.c, 1, t.lane);
    }
    unsigned end = epoch_arrive(t);
#pragma unroll 1
    for (int l = 0; l < t.a.n_layers; l++) {
        one_board *b = &t.boards->b[l & 1];
        epoch_wait(t, end);
        if (own)
            make_own_row(t, b, l);
        mbar_wait(&t.w->router, l & 1);
        route(t, b, l);
        clear_layer(t, b, &t.boards->b[~l & 1]);
        end = epoch_arrive(t);
    }
}

#endif
