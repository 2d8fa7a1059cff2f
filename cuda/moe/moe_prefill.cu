/*
 * The experts of one layer for many tokens: grouped products with the weights
 * dequantised in the loop (sm_90a, NVFP4).
 *
 * DESIGN. A unit of NVFP4 is, unchanged, the register A operand of wgmma
 * m64nNk16: a warp owns row tiles. A block has two consumer warpgroups, and one
 * producer thread that brings units by bulk copies and tokens by tensor maps
 * with 128-byte swizzle. A tile is 64 rows a warpgroup x N tokens of one
 * expert; a warpgroup dequantises into one set of fragments while wgmma reads
 * the other. N is of the wide set of moe_tiles.h; items of the narrow set go to
 * moe_narrow.cu. Tiles are walked by persistent blocks, widest first; the ring
 * of tokens drains when N changes.
 * The K order of the units must be met by the tokens in shared memory: inside
 * each 64 columns, slot 16 s + j holds column 16 (j % 8 / 2) + 4 s + 2 (j / 8)
 * + j % 2. The gather writes it for x, the gate+up epilogue for h.
 * Bound by wgmma (about 690 TFLOP/s sustained on H200) from 256 rows an
 * expert on.
 */
#include "cuda/moe/moe_prefill.cuh"

#include <stdlib.h>

#define BARS 16               /* barriers of the token ring, in rotation */
#define W_STAGES 2
#define W_STAGE (8 * UNIT)    /* rows of both groups x 512 columns */
#define TOKEN_RING 147456
#define SM_PREFILL (TOKEN_RING + W_STAGES * W_STAGE + 1024)

struct map_set {
    CUtensorMap m[MOE_WIDE_TILES];
};

static __host__ __device__ __forceinline__ int
ring_slots(int width)
{
    int n = TOKEN_RING / (width * 128);
    return n < BARS ? n : BARS;
}

#if HOPPER_CODE

struct ring_state {
    int k, slot, width, w, wp;
};

struct bars {
    uint64_t *full, *empty, *w_full, *w_empty;
};

template <int N, bool DOWN> DEV void
do_tile(const moe_tiles &a, const moe_item &it, int rb, const char *tokens,
        const char *weights, const bars &b, ring_state &st)
{
    const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
    float d[N / 2];
    uint32_t f[2][4][4];
    int prev = -1;
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[i] = 0;
    if (st.width != N) {
        st.width = N;
        st.slot = 0;
    }
#pragma unroll 1
    for (int sl = 0; sl < a.cols / 512; sl++) {
        mbar_wait(&b.w_full[st.w], st.wp);
        const char *u = weights + st.w * W_STAGE + w * UNIT + lane * 16;
        const uint4 sc = *(const uint4 *)(u + 4096);
        const uint32_t sw[4] = {sc.x, sc.y, sc.z, sc.w};
        uint4 c = *(const uint4 *)u;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t cw[4] = {c.x, c.y, c.z, c.w};
            const uint32_t lo = fp4_scale(sw[i / 2], (i & 1) * 2);
            const uint32_t hi = fp4_scale(sw[i / 2], (i & 1) * 2 + 1);
#pragma unroll
            for (int s = 0; s < 4; s++)
                fp4_frag(cw[s], lo, hi, f[i & 1][s]);
            /* The next codes are on their way during the waits. */
            if (i < 7)
                c = *(const uint4 *)(u + (i + 1) * 512);
            mbar_wait(&b.full[st.k % BARS], st.k / BARS & 1);
            const uint64_t desc =
                (uint64_t)((smem_addr(tokens + st.slot * N * 128) & 0x3ffff)
                           >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int s = 0; s < 4; s++)
                wgmma<N>::mma(d, f[i & 1][s], desc + 2 * s);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (prev >= 0 && lane == 0)
                mbar_arrive(&b.empty[prev]);
            prev = st.k++ % BARS;
            if (++st.slot == ring_slots(N))
                st.slot = 0;
        }
        __syncwarp();
        if (lane == 0)
            mbar_arrive(&b.w_empty[st.w]);
        if (++st.w == W_STAGES) {
            st.w = 0;
            st.wp ^= 1;
        }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if (lane == 0)
        mbar_arrive(&b.empty[prev]);
    const float s0 = a.scale[DOWN ? it.expert : 2 * it.expert];
    const float s1 = DOWN ? s0 : a.scale[2 * it.expert + 1];
    store_tile<N, DOWN>(a, it, rb * 8 + w, s0, s1, d);
}

DEV void
produce_tiles(const moe_tiles &a, const map_set &maps, char *tokens,
              char *weights, const bars &b, int total, int blocks)
{
    ring_state st = {};
    const int slices = a.cols / 512;
    int drained = 0;          /* first k of the present width */
    for (int q = blockIdx.x; q < total; q += gridDim.x) {
        const moe_item it = a.item[q / blocks];
        const int width = moe_tile_width(it.variant);
        const int slots = ring_slots(width);
        if (st.width != width) {
            if (st.k)
                mbar_wait(&b.empty[(st.k - 1) % BARS], (st.k - 1) / BARS & 1);
            st.width = width;
            st.slot = 0;
            drained = st.k;
        }
        const char *wp = a.w + it.expert * a.stride +
                         (size_t)(q % blocks) * 8 * slices * UNIT;
        for (int kt = 0; kt < slices * 8; kt++) {
            if ((kt & 7) == 0) {
                mbar_wait(&b.w_empty[st.w], st.wp ^ 1);
                mbar_expect(&b.w_full[st.w], W_STAGE);
                for (int r = 0; r < 8; r++)
                    bulk_copy(weights + st.w * W_STAGE + r * UNIT,
                              wp + (size_t)(r * slices + kt / 8) * UNIT,
                              UNIT, &b.w_full[st.w]);
                if (++st.w == W_STAGES) {
                    st.w = 0;
                    st.wp ^= 1;
                }
            }
            const int j = st.k - slots, k = st.k % BARS;
            if (j >= drained)
                mbar_wait(&b.empty[j % BARS], j / BARS & 1);
            mbar_expect(&b.full[k], width * 128);
            tma_load(tokens + st.slot * width * 128,
                     &maps.m[it.variant - MOE_NARROW_TILES], kt * 64,
                     it.first, &b.full[k]);
            st.k++;
            if (++st.slot == slots)
                st.slot = 0;
        }
    }
}

#endif

template <bool DOWN> static __global__ void
__launch_bounds__(384, 1)
grouped(const __grid_constant__ map_set maps,
        const __grid_constant__ moe_tiles a)
{
#if HOPPER_CODE
    extern __shared__ char sm_raw[];
    __shared__ uint64_t full[BARS], empty[BARS];
    __shared__ uint64_t w_full[W_STAGES], w_empty[W_STAGES];
    char *sm = sm_raw + (1024 - (smem_addr(sm_raw) & 1023)) % 1024;
    char *weights = sm + TOKEN_RING;
    const bars b = {full, empty, w_full, w_empty};
    const int blocks = a.rows / 128;
    pdl_trigger();
    if (threadIdx.x == 0) {
        for (int i = 0; i < BARS; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 8);
        }
        for (int i = 0; i < W_STAGES; i++) {
            mbar_init(&w_full[i], 1);
            mbar_init(&w_empty[i], 8);
        }
        mbar_init_done();
    }
    __syncthreads();
    pdl_wait();
    const int total = *(volatile const int *)a.n_item * blocks;
    if (threadIdx.x >= 256) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) {
            /* The tokens were written by ordinary stores. */
            asm volatile("fence.proxy.async;" ::: "memory");
            produce_tiles(a, maps, sm, weights, b, total, blocks);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        ring_state st = {};
        for (int q = blockIdx.x; q < total; q += gridDim.x) {
            const moe_item it = a.item[q / blocks];
            const int rb = q % blocks;
            switch (it.variant - MOE_NARROW_TILES) {
            case 0:
                do_tile<64, DOWN>(a, it, rb, sm, weights, b, st);
                break;
            case 1:
                do_tile<128, DOWN>(a, it, rb, sm, weights, b, st);
                break;
            case 2:
                do_tile<160, DOWN>(a, it, rb, sm, weights, b, st);
                break;
            default:
                do_tile<256, DOWN>(a, it, rb, sm, weights, b, st);
            }
        }
    }
#endif
}

/* Row p of the result is the token of assignment order[p], columns in slot
 * order. */
static __global__ void
__launch_bounds__(256)
gather_tokens(const bf16 *x, const int *order, int slots, int dim, bf16 *out)
{
    pdl_trigger();
    pdl_wait();
    const char *row = (const char *)(x + (size_t)(order[blockIdx.x] / slots) *
                                     dim);
    uint4 *o = (uint4 *)(out + (size_t)blockIdx.x * dim);
    for (int c = threadIdx.x; c < dim / 8; c += 256) {
        const int s = c % 8 / 2, hi = c % 2;
        uint32_t v[4];
#pragma unroll
        for (int q = 0; q < 4; q++)
            v[q] = *(const uint32_t *)(row + (c / 8 * 64 + 16 * q + 4 * s +
                                              2 * hi) * 2);
        o[c] = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

extern "C" struct moe_maps *
cuda_moe_maps(void *gather, void *h, int rows, int dim, int hidden)
{
    struct moe_maps *maps = (struct moe_maps *)aligned_alloc(
        64, (sizeof *maps + 63) / 64 * 64);
    for (int i = 0; maps && i < MOE_TILES; i++)
        if (!tensor_map(&maps->up[i], gather, dim, rows, moe_tile_width(i)) ||
            !tensor_map(&maps->down[i], h, hidden, rows,
                        moe_tile_width(i))) {
            free(maps);
            return NULL;
        }
    return maps;
}

extern "C" void
cuda_moe_maps_free(struct moe_maps *maps)
{
    free(maps);
}

extern "C" bool
cuda_moe_prefill_fits(const struct moe *m)
{
    return m->layout == LAYOUT_NVFP4 && m->dim % 512 == 0
           && m->hidden % 512 == 0;
}

template <bool DOWN> static int
run_tiles(const struct moe *m, const struct moe_maps *maps, int n_sm,
          cudaStream_t s)
{
    map_set set;
    for (int i = 0; i < MOE_WIDE_TILES; i++)
        set.m[i] = (DOWN ? maps->down : maps->up)[MOE_NARROW_TILES + i];
    return launch_ex<SM_PREFILL, true>(grouped<DOWN>, dim3(n_sm), 384, s, set,
                                       tiles_of<DOWN>(m));
}

extern "C" int
cuda_moe_prefill(const struct moe *m, const struct moe_maps *maps, int width,
                 void *gather, int n_sm, cudaStream_t s)
{
    if (!cuda_moe_prefill_fits(m) || maps == NULL)
        return cudaErrorInvalidValue;
    int r = launch<0>(gather_tokens, dim3(m->n * m->slots), 256, s,
                      (const bf16 *)m->x, (const int *)m->route.order,
                      m->slots, m->dim, (bf16 *)gather);
    if (r == 0 && width == MOE_NARROW)
        return moe_narrow(m, maps, n_sm, s);
    if (r == 0)
        r = run_tiles<false>(m, maps, n_sm, s);
    return r == 0 ? run_tiles<true>(m, maps, n_sm, s) : r;
}
