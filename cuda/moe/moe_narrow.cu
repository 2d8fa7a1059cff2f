/*
 * The experts of one layer for some hundred tokens: grouped products where an
 * expert has too few rows for wide tiles (sm_90a, NVFP4).
 *
 * DESIGN. As moe_prefill.cu, but a block has four consumer warpgroups of 64
 * rows: with few tokens the time is that of unpacking, and four warps a
 * scheduler fill each other's gaps. Every warp owns a row tile and brings the
 * weights for it: a ring of two units, each in two halves that are replaced as
 * soon as they are unpacked, the half with the scales first. One thread brings
 * tokens, 128 columns a step in the same order, into a ring that all warps
 * share.
 * Tiles are walked by persistent blocks, widest first. Each width has a loop
 * of its own: with all of them in one, ptxas runs out of registers and would
 * serialise wgmma. The ring of tokens drains when the width changes; it has 8
 * steps up to 40 tokens, else 4, so two units or one go round it, and places
 * and phases follow from a count of units. Both lengths have their barriers.
 * Bound by unpacking: what is known of it is in the README.
 */
#include "cuda/moe/moe_prefill.cuh"

#define WARPS 16              /* row tiles of a block's tile */
#define STEP 128              /* columns of a step of tokens */
#define TOKEN_RING 81920
#define WEIGHT_RING (2 * WARPS * UNIT)
#define SM_NARROW (TOKEN_RING + WEIGHT_RING + 1024)
#define CODES_HALF 2048       /* of a unit; the second half has the scales */

struct narrow_maps {
    CUtensorMap m[MOE_NARROW_TILES];
};

#if HOPPER_CODE

/* Descriptor of tokens in shared memory: K-major, 128-byte swizzle. Its low
 * word is token_word of where they begin plus sixteenths of an offset. */
DEV uint32_t
token_word(uint32_t a)
{
    return a >> 4 | 0x10000u;
}

DEV uint64_t
token_desc(uint32_t word)
{
    uint64_t d;
    asm("mov.b64 %0, {%1, %2};" : "=l"(d) : "r"(word), "r"(WGMMA_ROWS_128));
    return d;
}

/* The scales of two tiles of a unit: of row g, low half the even tile's, and
 * of row g + 8. */
DEV void
pair_scales(uint32_t word, uint32_t (&s)[2])
{
    s[0] = __byte_perm(word, 0, 0x4240) * 16u + 0x70007000u;
    s[1] = __byte_perm(word, 0, 0x4341) * 16u + 0x70007000u;
}

/* v times one half of s, which the instruction picks. */
DEV uint32_t
mul_half(uint32_t v, uint32_t s, int high)
{
    const __nv_bfloat162 a = *(const __nv_bfloat162 *)&v;
    const __nv_bfloat162 b = *(const __nv_bfloat162 *)&s;
    const __nv_bfloat162 d =
        __hmul2_rn(a, high ? __high2bfloat162(b) : __low2bfloat162(b));
    return *(const uint32_t *)&d;
}

/* fp4_frag with the scales of tile i of such a pair. Sign and magnitude of the
 * last pair by one product, * 4 and * 64: what else it makes is masked away,
 * and carries do not reach what is not. */
DEV void
narrow_frag(uint32_t w, const uint32_t (&s)[2], int i, uint32_t *a)
{
    const uint32_t M = 0x81C081C0u, A = 0x01C001C0u, S = 0x80008000u;
    a[0] = mul_half(w & M, s[0], i);
    a[1] = mul_half((w << 3) & M, s[1], i);
    a[2] = mul_half(((w >> 3) & A) | ((w << 1) & S), s[0], i);
    a[3] = mul_half((w & 0x20072007u) * 68u & M, s[1], i);
}

/* Steps in the ring of tokens. */
template <int N> struct ring_of {
    static constexpr int slots = N <= 40 ? 8 : 4;
};

struct narrow_shared {
    uint64_t full[12], empty[12];    /* of rings of 8, of 4 */
    uint64_t w_full[WARPS][4];       /* unit, half */
};

/* The tiles of this block, and the next one's item, which is on its way. */
struct walk {
    int q, step, total, blocks;
    moe_item next;
};

/* Where a warp's next unit lies. */
struct feed {
    const char *src;
    int left;                        /* units of this tile */
    int q, expert;                   /* the tile behind it; its expert */
};

DEV int
expert_at(const moe_tiles &a, const walk &k, int q)
{
    return q < k.total ? a.item[q / k.blocks].expert : -1;
}

DEV void
feed_tile(const moe_tiles &a, const walk &k, feed &f)
{
    const int w = threadIdx.x >> 5, units = a.cols / 512;
    f.src = NULL;
    f.left = units;
    if (f.expert < 0)
        return;
    f.src = a.w + f.expert * a.stride +
            (size_t)(f.q % k.blocks * WARPS + w) * units * UNIT;
    f.q += k.step;
    f.expert = expert_at(a, k, f.q);
}

/* One lane: half 0 of a unit, the second in memory, or half 1, the first. */
DEV void
feed_half(const feed &f, char *unit, uint64_t *bar, int half)
{
    const int at = half == 0 ? CODES_HALF : 0;
    const int bytes = half == 0 ? UNIT - CODES_HALF : CODES_HALF;
    mbar_expect(bar + half, bytes);
    bulk_copy(unit + at, f.src + at, bytes, bar + half);
}

DEV void
feed_next(const moe_tiles &a, const walk &k, feed &f)
{
    if (f.src)
        f.src += UNIT;
    if (--f.left == 0)
        feed_tile(a, k, f);
}

/* What a consumer warp goes on with from tile to tile: units of weights, and
 * those of the ring of tokens of the present length. */
struct place {
    int unit, token_unit;
};

/* The token steps of a unit: in a ring of 4 all of it, else every other half;
 * prev is the barrier of the step before, or NULL. */
struct steps {
    uint64_t *full, *empty, *prev;
    uint32_t word;                   /* of the first one's descriptor */
    int phase;
};

/* A unit times its tokens, added to d; the weights' place is filled again. */
template <int N> DEV void
narrow_unit(char *unit, uint64_t *bar, int phase, const feed &f, steps &t,
            float (&d)[N / 2])
{
    const int lane = threadIdx.x & 31;
    uint32_t fr[2][4][4], scale[2];
    mbar_wait(bar, phase);
    const uint4 sc = *(const uint4 *)(unit + 4096 + lane * 16);
    uint4 c = *(const uint4 *)(unit + CODES_HALF + lane * 16);
    const uint32_t sw[4] = {sc.x, sc.y, sc.z, sc.w};
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const int i = (j + 4) % 8;
        const uint32_t cw[4] = {c.x, c.y, c.z, c.w};
        if (j % 2 == 0)
            pair_scales(sw[i / 2], scale);
#pragma unroll
        for (int s = 0; s < 4; s++)
            narrow_frag(cw[s], scale, j & 1, fr[j & 1][s]);
        if (j % 4 == 3) {
            __syncwarp();
            if (lane == 0 && f.src)
                feed_half(f, unit, bar, j / 4);
            if (j == 3)
                mbar_wait(bar + 1, phase);
        }
        if (j < 7)
            c = *(const uint4 *)(unit + (i + 1) % 8 * 512 + lane * 16);
        if (j % 2 == 0)
            mbar_wait(t.full + j / 2, t.phase);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int s = 0; s < 4; s++)
            wgmma<N>::mma(d, fr[j & 1][s],
                          token_desc(t.word + j * N * 8 + s * 2));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (j % 2 == 0) {
            if (t.prev != NULL && lane == 0)
                mbar_arrive(t.prev);
            t.prev = t.empty + j / 2;
        }
    }
}

template <int N, bool DOWN> DEV void
narrow_tile(const moe_tiles &a, const moe_item &it, const walk &k,
            uint32_t tokens, char *weights, narrow_shared &sh, place &p,
            feed &f)
{
    constexpr int SLOTS = ring_of<N>::slots, AT = SLOTS == 8 ? 0 : 8;
    const int w = threadIdx.x >> 5;
    const float s0 = a.scale[DOWN ? it.expert : 2 * it.expert];
    const float s1 = DOWN ? s0 : a.scale[2 * it.expert + 1];
    steps t = {};
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[i] = 0;
#pragma unroll 1
    for (int units = a.cols / 512; units; units--) {
        const int b = p.unit & 1;
        const int first = SLOTS == 8 ? p.token_unit % 2 * 4 : 0;
        t.full = sh.full + AT + first;
        t.empty = sh.empty + AT + first;
        t.word = tokens + first * N * (STEP / 8);
        t.phase = SLOTS == 8 ? p.token_unit >> 1 & 1 : p.token_unit & 1;
        narrow_unit<N>(weights + (b * WARPS + w) * UNIT, &sh.w_full[w][2 * b],
                       p.unit >> 1 & 1, f, t, d);
        feed_next(a, k, f);
        p.unit++;
        p.token_unit++;
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if ((threadIdx.x & 31) == 0)
        mbar_arrive(t.prev);
    store_tile<N, DOWN>(a, it, k.q % k.blocks * WARPS + w, s0, s1, d);
}

/* All tiles of one width. */
template <int VARIANT, int N, bool DOWN> DEV void
narrow_width(const moe_tiles &a, walk &k, uint32_t tokens, char *weights,
             narrow_shared &sh, place &p, feed &f)
{
    while (k.q < k.total && k.next.variant == VARIANT) {
        const moe_item it = k.next;
        if (k.q + k.step < k.total)
            k.next = a.item[(k.q + k.step) / k.blocks];
        narrow_tile<N, DOWN>(a, it, k, tokens, weights, sh, p, f);
        k.q += k.step;
    }
}

template <bool DOWN> DEV void
consume_tiles(const moe_tiles &a, walk k, uint32_t tokens, char *weights,
              narrow_shared &sh)
{
    const int w = threadIdx.x >> 5;
    place p = {};
    feed f = {};
    if (k.q >= k.total)
        return;
    k.next = a.item[k.q / k.blocks];
    f.q = k.q;
    f.expert = k.next.expert;
    feed_tile(a, k, f);
    for (int b = 0; b < 2; b++) {
        for (int half = 0; half < 2; half++)
            if ((threadIdx.x & 31) == 0 && f.src)
                feed_half(f, weights + (b * WARPS + w) * UNIT,
                          &sh.w_full[w][2 * b], half);
        feed_next(a, k, f);
    }
    narrow_width<6, 80, DOWN>(a, k, tokens, weights, sh, p, f);
    narrow_width<5, 64, DOWN>(a, k, tokens, weights, sh, p, f);
    narrow_width<4, 48, DOWN>(a, k, tokens, weights, sh, p, f);
    p.token_unit = 0;
    narrow_width<3, 40, DOWN>(a, k, tokens, weights, sh, p, f);
    narrow_width<2, 32, DOWN>(a, k, tokens, weights, sh, p, f);
    narrow_width<1, 24, DOWN>(a, k, tokens, weights, sh, p, f);
    narrow_width<0, 16, DOWN>(a, k, tokens, weights, sh, p, f);
}

/* One thread: steps in the order in which units are used, second half first. */
DEV void
produce_tokens(const moe_tiles &a, const narrow_maps &maps, walk k,
               char *tokens, narrow_shared &sh)
{
    int width = 0, slots = 0, n = 0;     /* steps of this ring length */
    uint64_t *full = NULL, *empty = NULL;
    for (; k.q < k.total; k.q += k.step) {
        const moe_item it = a.item[k.q / k.blocks];
        const int now = moe_tile_width(it.variant);
        if (now != width) {
            if (n)
                mbar_wait(empty + (n - 1) % slots, (n - 1) / slots & 1);
            const int want = now <= 40 ? 8 : 4;
            if (want != slots) {
                slots = want;
                full = sh.full + (want == 8 ? 0 : 8);
                empty = sh.empty + (want == 8 ? 0 : 8);
                n = 0;
            }
            width = now;
        }
        for (int i = 0; i < a.cols / STEP; i++, n++) {
            const int at = n % slots;
            const int col = (i / 4 * 4 + (i + 2) % 4) * STEP;
            char *dst = tokens + at * width * STEP * 2;
            if (n >= slots)
                mbar_wait(empty + at, n / slots - 1 & 1);
            mbar_expect(full + at, width * STEP * 2);
            tma_load(dst, &maps.m[it.variant], col, it.first, full + at);
            tma_load(dst + width * 128, &maps.m[it.variant], col + 64,
                     it.first, full + at);
        }
    }
}

#endif

template <bool DOWN> static __global__ void
__launch_bounds__(32 * WARPS + 128, 1)
narrow(const __grid_constant__ narrow_maps maps,
       const __grid_constant__ moe_tiles a)
{
#if HOPPER_CODE
    extern __shared__ char sm_raw[];
    __shared__ narrow_shared sh;
    char *tokens = sm_raw + (1024 - (smem_addr(sm_raw) & 1023)) % 1024;
    char *weights = tokens + TOKEN_RING;
    pdl_trigger();
    if (threadIdx.x < 12) {
        mbar_init(&sh.full[threadIdx.x], 1);
        mbar_init(&sh.empty[threadIdx.x], WARPS);
    }
    if (threadIdx.x < 4 * WARPS)
        mbar_init(&sh.w_full[0][threadIdx.x], 1);
    mbar_init_done();
    __syncthreads();
    pdl_wait();
    walk k = {};
    k.q = blockIdx.x;
    k.step = gridDim.x;
    k.blocks = a.rows / (16 * WARPS);
    k.total = *(volatile const int *)a.n_item * k.blocks;
    if (threadIdx.x >= 32 * WARPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 32 * WARPS) {
            /* The tokens were written by ordinary stores. */
            asm volatile("fence.proxy.async;" ::: "memory");
            produce_tokens(a, maps, k, tokens, sh);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
        consume_tiles<DOWN>(a, k, token_word(smem_addr(tokens)), weights, sh);
    }
#endif
}

template <bool DOWN> static int
run_tiles(const struct moe *m, const struct moe_maps *maps, int n_sm,
          cudaStream_t s)
{
    narrow_maps set;
    for (int i = 0; i < MOE_NARROW_TILES; i++)
        set.m[i] = DOWN ? maps->down[i] : maps->up[i];
    return launch_ex<SM_NARROW, true>(narrow<DOWN>, dim3(n_sm),
                                      32 * WARPS + 128, s, set,
                                      tiles_of<DOWN>(m));
}

int
moe_narrow(const struct moe *m, const struct moe_maps *maps, int n_sm,
           cudaStream_t s)
{
    int r = run_tiles<false>(m, maps, n_sm, s);
    return r == 0 ? run_tiles<true>(m, maps, n_sm, s) : r;
}
