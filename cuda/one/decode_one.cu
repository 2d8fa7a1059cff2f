/*
 * One token through all layers and the head in one persistent launch (sm_90a):
 * batch 1 of the release's shape.
 *
 * DESIGN. At batch 1 a layer is a chain of short dependent steps, so what
 * counts is how fast a value gets from the block that makes it to those that
 * need it (decode_one.cuh, the board), and that the weights of what follows
 * are already on their way. 128 blocks, one an SM, each with
 *   16 consumer warps  do the maths; two share a ring of units.
 *   1 producer warp    lane r feeds ring r by bulk copies in a fixed order
 *                      that runs on through all phases and layers; it stops
 *                      only for a free stage and for the routing, and spaces
 *                      rows of wo where there are no keys. Cache blocks take
 *                      the rings' memory in between.
 *   1 routing warp     chooses the experts and clears the board.
 * Phases of a layer, with what block c makes of each, and "=>" where blocks
 * wait for each other:
 *   latents   8 rows of q_a, 4 of kv_a                        => query
 *   query     32 rows of q_b; four blocks a head              => absorb
 *   absorb    64 lanes of the head times W_UK                 => attention
 *   attention cache blocks for all heads (decode_one_attn.cuh) => merge
 *   merge     the head's context, 32 of its values            => output
 *   output    32 rows of wo, the residual                     => experts
 *   experts   16 hidden units of each, the router's row c     => sum
 *   sum       32 rows of down, the residual                   => latents
 * Matrices keep the layouts of the other kernels: bf16 rows, NVFP4 units. A
 * bf16 unit is half a row of 4,096 columns or whole rows of shorter ones.
 * Bound by latency: measured in the README.
 */
#include "cuda/one/decode_one_attn.cuh"
#include "cuda/one/decode_one_moe.cuh"

#include <stdlib.h>

struct decode_one_map {
    CUtensorMap cache;
};

/* Clocks between two rows of wo that a block without keys asks for: all at
 * once would delay what the blocks tell each other meanwhile. */
#define PACE 2600

#if HOPPER_CODE

/* --- the producer -------------------------------------------------------- */

/* Units for each ring: n of them, one `step` bytes behind the other. */
struct segment {
    const char *from;
    int step, n, rings;       /* rings: those that get any */
    uint32_t bytes;
};

/* Lane r feeds ring r; the others follow. pace: clocks between two units. */
DEV void
feed(one &t, const segment &s, uint64_t once, unsigned pace)
{
    const char *from = s.from;
#pragma unroll 1
    for (int i = 0; i < s.n; i++, from += s.step) {
        if (t.lane < s.rings) {
            uint64_t *full = &t.w->full[t.r][t.slot];
            mbar_wait(&t.w->empty[t.r][t.slot], t.phase ^ 1);
            while ((unsigned)clock() - t.fed < pace) {
            }
            t.fed = (unsigned)clock();
            mbar_expect(full, s.bytes);
            bulk_copy_as(t.ring + (t.r * STAGES + t.slot) * UNIT, from,
                         s.bytes, full, once);
            if (++t.slot == STAGES) {
                t.slot = 0;
                t.phase ^= 1;
            }
        }
        __syncwarp();
    }
}

/* W_UK's part of each ring. It overwrites that of the layer before, which the
 * ring's warps have read before any unit that had to go for those in flight
 * now. */
DEV void
feed_absorb(const one &t, int l, uint64_t once)
{
    uint64_t *full = &t.w->uk_full[t.r];
    if (t.lane >= RINGS)
        return;
    mbar_expect(full, 1024);
    bulk_copy_as(t.w->uk + t.r * 1024, of_layer(t, t.a.uk_t, l) +
                 (head(t) * MLA_RANK + quarter(t) * 64 + 8 * t.r) * 128,
                 1024, full, once);
}

/* A part of a cache block, when that part of the one before is there: 40 KB on
 * their way are enough for the roof, and what blocks tell each other meanwhile
 * would queue behind more. */
DEV void
feed_part(const one &t, const decode_one_map &map, int part, int row,
          uint64_t policy)
{
    const int k = part ? 3 : 0, n = part ? 2 : 3;
    const unsigned before = t.kv_n - 1, stage = t.kv_n % KV_STAGES;
    uint64_t *full = &t.w->kv_full[stage][part];
    if (t.kv_n > 0)
        mbar_wait(&t.w->kv_full[before % KV_STAGES][part],
                  before / KV_STAGES & 1);
    if (t.lane == 0)
        mbar_expect(full, n * PIECE);
    __syncwarp();
    if (t.lane < n)
        tma_load_as(t.ring + stage * KV_TILE + (k + t.lane) * PIECE,
                    &map.cache, (k + t.lane) * 64, row, full, policy);
    __syncwarp();
}

/* The block's cache blocks into the memory of the rings once all units so far
 * have been used. */
DEV void
feed_cache(one &t, const decode_one_map &map, int block, int l,
           uint64_t policy)
{
    one_work *w = t.w;
    if (t.lane < RINGS) {
        const int last = t.slot == 0 ? STAGES - 1 : t.slot - 1;
        mbar_wait(&w->empty[t.lane][last],
                  t.slot == 0 ? t.phase ^ 1 : t.phase);
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < w->t1 - w->t0; i++, t.kv_n++) {
        const int row = l * t.a.cache_rows + __shfl_sync(~0u, block, i) * 64;
        mbar_wait(&w->kv_empty[t.kv_n % KV_STAGES],
                  (t.kv_n / KV_STAGES & 1) ^ 1);
        for (int k = 0; k < PARTS; k++)
            feed_part(t, map, k, row, policy);
    }
    const unsigned last = t.kv_n - 1;
    mbar_wait(&w->kv_empty[last % KV_STAGES], last / KV_STAGES & 1);
}

#define SEGMENTS (6 + 2 * SLOTS)
#define CACHE_KEPT (24u << 20)

/* Number k of the segments of a layer, in the order of their use. */
DEV segment
layer_segment(const one &t, int l, int k, int expert)
{
    const int r = t.r, g = r >> 1, c = t.c;
    const size_t half = (r & 1) * 4096;
    switch (k) {
    case 0:                   /* q_a */
        return {of_layer(t, t.a.wqkv_a, l) + (8 * c + 2 * g) * 8192 + half,
                8192, 2, RINGS, 4096};
    case 1:                   /* kv_a */
        return {of_layer(t, t.a.wqkv_a, l) +
                (ONE_Q_RANK + 4 * c + g) * 8192 + half,
                0, c < MLA_ROW / 4, RINGS, 4096};
    case 2:                   /* q_b: position-free rows, then rope rows */
        return {of_layer(t, t.a.wq_b, l) +
                (head(t) * MLA_QK + quarter(t) * 16 + 2 * r) * 2048,
                MLA_NOPE * 2048, 2, RINGS, 4096};
    case 3:
        return {of_layer(t, t.a.uv, l) +
                (head(t) * MLA_V + quarter(t) * 32 + 4 * r) * 512,
                0, 1, RINGS, 2048};
    case 4:
        return {of_layer(t, t.a.wo, l) + (32 * c + 8 * g) * 8192 + half,
                8192, 8, RINGS, 4096};
    case 5:                   /* the router's row c: half a row a ring */
        return {of_layer(t, t.a.gate, l) + c * 8192 + half, 0, 1, 2, 4096};
    }
    /* The shared expert, then the routed ones: gate and up, down. */
    if (k == 6 || (k >= 8 && k < 8 + ONE_TOP_K))
        return {of_layer(t, t.a.w13, l) + expert * t.a.stride13 +
                (c * 16 + r) * UNIT, RINGS * UNIT, 2, RINGS, UNIT};
    return {of_layer(t, t.a.w2, l) + expert * t.a.stride2 +
            (c * 8 + r) * UNIT, 0, 1, RINGS, UNIT};
}

DEV void
produce(one &t, const decode_one_map &map)
{
    const int lane = t.lane, t1 = t.w->t1;
    const int *table = t.a.table + *t.a.table_row;
    /* Lane i: the block's cache block i, from its last. */
    const int block = t1 - lane > t.w->t0 ? table[t1 - 1 - lane] : 0;
    const uint64_t once = policy_once();
    /* A cache that fits in L2 with room to spare stays there. */
    const uint64_t keep = (size_t)t.w->length * (MLA_ROW * 2) *
        t.a.n_layers <= CACHE_KEPT ? policy_normal() : once;
    t.r = lane % RINGS;
#pragma unroll 1
    for (int l = 0; l < t.a.n_layers; l++) {
        int id = ONE_EXPERTS;
#pragma unroll 1
        for (int k = 0; k < SEGMENTS; k++) {
            if (k == 3)
                feed_absorb(t, l, once);
            if (k == 3 && t.w->t0 < t1)
                feed_cache(t, map, block, l, keep);
            if (k == 8) {     /* lane: the expert of a slot */
                mbar_wait(&t.w->routed, l & 1);
                id = t.w->expert[1 + lane % ONE_TOP_K];
            }
            feed(t, layer_segment(t, l, k, __shfl_sync(~0u, id, k - 8)),
                 once, k == 4 && t.w->t0 >= t1 ? PACE : 0);
        }
    }
    if (t.a.logits == NULL)
        return;
    const int rows = t.a.vocab / CTAS;
    const char *p = (const char *)t.a.head +
                    ((size_t)t.c * rows + 8 * (t.r >> 1)) * 8192 +
                    (t.r & 1) * 4096;
#pragma unroll 1
    for (int i = 0; i < rows; i += 32)
        feed(t, {p + (size_t)i * 8192, 8192, 8, RINGS, 4096}, once, 0);
}

/* --- the consumers ------------------------------------------------------- */

/* The token's embedding as the first layer's row; warp 0 keeps the residual
 * of its rows. */
DEV void
embed(one &t)
{
    int tok = *t.a.token;
    if (tok < 0)
        tok = t.a.last[*t.a.slot];
    if (tok < 0 || tok >= t.a.vocab)
        tok = 0;
    const bf16 *src = (const bf16 *)t.a.embeddings + (size_t)tok * ONE_DIM;
    const uint4 v = ((const uint4 *)src)[t.tid];
    const uint4 n = ((const uint4 *)t.a.attention_norm)[t.tid];
    float x[8], f[8], sum = 0;
    if (t.warp == 0)
        t.w->x[t.lane] = __bfloat162float(src[t.c * 32 + t.lane]);
    unpack8(v, x);
    unpack8(n, f);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum = fmaf(x[i], x[i], sum);
        x[i] *= f[i];
    }
    *(uint4 *)(t.w->row + t.tid * 16) =
        make_uint4(bf_pack(x[0], x[1]), bf_pack(x[2], x[3]),
                   bf_pack(x[4], x[5]), bf_pack(x[6], x[7]));
    sum = warp_sum(sum);
    if (t.lane == 0)
        t.w->ssq[t.warp] = sum;
    meet();
}

/* The final norm's row times the head, 32 rows a round. */
DEV void
make_logits(one &t, const one_board *b)
{
    const int n = t.a.vocab / CTAS;
    gather_row(t, b->x[0], b->sq);
    const float scale = row_scale(t);
    float *out = t.a.logits + t.c * n + t.lane;
#pragma unroll 1
    for (int i = 0; i < n; i += 32) {
        float(*red)[8] = t.w->head[i >> 5 & 1];
        const float s = rows<8>(t, 8);
        if ((t.lane & 3) == 0)
            red[t.warp][row_of(t.lane)] = s;
        meet();
        if (t.warp == 0) {
            const int g = t.lane >> 3, k = t.lane & 7;
            out[i] = scale * ((red[2 * g][k] + red[2 * g + 1][k]) +
                              (red[2 * g + 8][k] + red[2 * g + 9][k]));
        }
    }
}

DEV void
consume(one &t)
{
    t.r = t.warp & 7;
    t.hf = t.warp >> 3;
#pragma unroll 1
    for (int l = 0; l < t.a.n_layers; l++) {
        one_board *b = &t.boards->b[l & 1], *next = &t.boards->b[~l & 1];
        STAMP(t, l, 0);
        if (l == 0)
            embed(t);
        else
            gather_row(t, b->x[0], b->sq);
        STAMP(t, l, 1);
        make_latents(t, b);
        STAMP(t, l, 2);
        make_query(t, b, l);
        STAMP(t, l, 3);
        if (t.warp == 0)
            publish_query(t, b);
        absorb_query(t, b, l);
        STAMP(t, l, 4);
        attend(t, b, l);
        STAMP(t, l, 5);
        ahead units;
        take_values(t, units);
        take_output<0, 2>(t, units);
        merge_shares(t, b);
        STAMP(t, l, 6);
        make_values(t, b, units);
        STAMP(t, l, 7);
        make_output(t, b, l, units);
        STAMP(t, l, 10);
        gather_row(t, b->x1[0], b->sq1);
        STAMP(t, l, 11);
        if (t.r < 2)
            make_logit(t);
        shared_expert(t, b, l);
        STAMP(t, l, 13);
        make_hidden(t, b, l);
        STAMP(t, l, 15);
        const char *norm = l + 1 < t.a.n_layers
            ? of_layer(t, t.a.attention_norm, l + 1)
            : (const char *)t.a.norm;
        make_sum(t, b, next, norm, l);
    }
    if (t.warp == 0)
        t.a.x[t.c * 32 + t.lane] = t.w->x[t.lane];
    if (t.a.logits)
        make_logits(t, &t.boards->b[t.a.n_layers & 1]);
}

DEV void
setup_barriers(one_work *w)
{
    for (int i = 0; i < RINGS; i++)
        for (int s = 0; s < STAGES; s++) {
            mbar_init(&w->full[i][s], 1);
            mbar_init(&w->empty[i][s], 2);
        }
    for (int i = 0; i < RINGS; i++)
        mbar_init(&w->uk_full[i], 1);
    for (int s = 0; s < KV_STAGES; s++) {
        for (int k = 0; k < PARTS; k++)
            mbar_init(&w->kv_full[s][k], 1);
        mbar_init(&w->kv_empty[s], VALUE_WARPS);
    }
    for (int i = 0; i < 2; i++) {
        mbar_init(&w->p_full[i], SCORE_WARPS);
        mbar_init(&w->p_empty[i], VALUE_WARPS);
    }
    mbar_init(&w->router, 4);
    mbar_init(&w->routed, 1);
    mbar_init(&w->scaled, 1);
    mbar_init(&w->added, 1);
    mbar_init_done();
}

/* Where the token stands, and the block's share of its keys. */
DEV void
setup_step(const one &t)
{
    one_work *w = t.w;
    w->length = *t.a.length;
    w->tiles = (w->length + 63) / 64;
    const int per = (w->tiles + CTAS - 1) / CTAS;
    w->shares = (w->tiles + per - 1) / per;
    w->t0 = min(t.c * per, w->tiles);
    w->t1 = min(w->t0 + per, w->tiles);
    w->l4 = *t.a.l4;
    w->trace = *t.a.trace.on;
}

/* Cosines and sines of the position, as cuda_rope_table makes them. */
DEV void
setup_rope(const one &t)
{
    double s, c;
    sincos((double)((float)*t.a.pos * t.a.freq[t.lane]), &s, &c);
    t.w->rope[t.lane] = make_float2((float)c, (float)s);
}

#endif

static __global__ void
__launch_bounds__(THREADS, 1)
decode_one_token(const __grid_constant__ decode_one a,
                 const __grid_constant__ decode_one_map map)
{
#if HOPPER_CODE
    extern __shared__ __align__(1024) char sm[];
    const int tid = threadIdx.x;
    one t = {a, (one_boards *)a.board, (one_work *)(sm + SM_RINGS), sm};
    t.c = blockIdx.x;
    t.tid = tid;
    t.lane = tid & 31;
    t.warp = tid >> 5;
    if (tid == 0) {
        if (t.c == 0 && a.begin)
            *a.begin = device_clock();
        setup_step(t);
        setup_barriers(t.w);
    }
    if (t.warp == WARPS + 1)
        setup_rope(t);
    __syncthreads();
    if (t.warp == WARPS)
        produce(t, map);
    else if (t.warp == WARPS + 1)
        route_layers(t);
    else
        consume(t);
#endif
}

extern "C" uint64_t
cuda_decode_one_bytes(void)
{
    return sizeof(one_boards);
}

extern "C" struct decode_one_map *
cuda_decode_one_map(void *cache, uint64_t rows)
{
    decode_one_map *m = (decode_one_map *)aligned_alloc(64, sizeof *m);
    if (m && (rows > INT32_MAX ||
              !tensor_map(&m->cache, cache, MLA_ROW, (int)rows, 64))) {
        free(m);
        m = NULL;
    }
    return m;
}

extern "C" void
cuda_decode_one_unmap(struct decode_one_map *m)
{
    free(m);
}

extern "C" int
cuda_decode_one(const struct decode_one *a, const struct decode_one_map *map,
                cudaStream_t s)
{
    if (a->vocab % ONE_VOCAB_STEP)
        return cudaErrorInvalidValue;
    return launch_coop<SM_ONE>(decode_one_token, dim3(CTAS), THREADS, s, *a,
                               *map);
}

#ifdef ONE_PROFILE
extern "C" int
cuda_decode_one_stamps(long long *out)
{
    return (int)cudaMemcpyFromSymbol(out, one_stamp, sizeof one_stamp);
}
#endif
