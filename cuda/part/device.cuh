/*
 * Device helpers shared by the kernel families: loads, warp sums, mma.sync,
 * and the exact conversion of stored weights to bf16 fragments.
 *
 * Every matrix product of the portable kernels has the weights as M (16 rows
 * a warp) and the tokens as N. K is walked in tiles of 64 columns; lane
 * (g = lane / 4, t = lane % 4) owns columns 16t .. 16t + 15 of the tile, in
 * rows g and g + 8, and step s of the four k16 steps of a tile uses its
 * columns 4s .. 4s + 3. K may be permuted freely as long as both operands
 * agree, and this order gives each lane contiguous bytes in every layout:
 * 32 of bf16 and 16 of fp8 a row, 16 of NVFP4 for both rows, and 32 of the
 * activations.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "cuda/ops.h"

typedef __nv_bfloat16 bf16;

#define UNIT 4608 /* bytes of an NVFP4 unit: 16 rows x 512 columns */

#define DEV static __device__ __forceinline__

DEV uint32_t
smem_addr(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Weights: read once, not kept in L1. */
DEV uint4
ld_weight(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 "
                 "{%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* What an earlier kernel wrote: never hoisted above pdl_wait. */
DEV uint4
ld_act(const void *p)
{
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p) : "memory");
    return v;
}

/* Programmatic dependent launch: before the wait only constants are read.
 * Every kernel executes both, so that the order of the chain is transitive. */
DEV void
pdl_trigger(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

DEV void
pdl_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Nanoseconds of a clock that all of the device shares. */
DEV uint64_t
device_clock(void)
{
    uint64_t ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns) :: "memory");
    return ns;
}

DEV float
warp_sum(float v)
{
    for (int o = 16; o; o >>= 1)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}

DEV float
warp_max(float v)
{
    for (int o = 16; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

/* Sum over the block, the same in every thread; red holds 33 floats. The
 * order of the additions is fixed. */
DEV float
block_sum(float v, float *red)
{
    int w = threadIdx.x >> 5, nw = (blockDim.x + 31) >> 5;
    v = warp_sum(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        red[w] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < nw; i++)
        v += red[i];
    return v;
}

DEV float
bf_lo(uint32_t v)
{
    return __uint_as_float(v << 16);
}

DEV float
bf_hi(uint32_t v)
{
    return __uint_as_float(v & 0xffff0000u);
}

DEV uint32_t
bf_pack(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&v;
}

DEV uint32_t
bf_mul2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

DEV float
silu(float x)
{
    return x / (1.0f + __expf(-x));
}

/* d += a (16 x 16) b (16 x 8) */
DEV void
mma16816(float *d, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Rows to columns of an 8 x 8 matrix of bf16, a pair a lane. */
DEV uint32_t
transpose8(uint32_t v)
{
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
    return v;
}

DEV void
ldmatrix4(uint32_t *r, uint32_t addr)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},"
                 " [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr) : "memory");
}

DEV void
ldmatrix4_trans(uint32_t *r, uint32_t addr)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr) : "memory");
}

DEV void
cp_async16(uint32_t dst, const void *src, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(dst), "l"(src), "r"(valid ? 16 : 0) : "memory");
}

DEV void
cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> DEV void
cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* Tiles [*t0, *t1) of a split of attention; returns the splits in use. */
DEV int
split_range(int length, int tile, int splits, int s, int *t0, int *t1)
{
    int tiles = (length + tile - 1) / tile;
    int per = (tiles + splits - 1) / splits;
    if (per == 0)
        per = 1;
    *t0 = min(s * per, tiles);
    *t1 = min(*t0 + per, tiles);
    return (tiles + per - 1) / per;
}

/* --- stored weights to A fragments of mma.sync --------------------------- */

/* 8 NVFP4 codes of a word to 4 bf16 pairs, times 2^-126; bit positions in
 * cuda/README, "NVFP4 units". */
DEV void
fp4_expand(uint32_t w, uint32_t *r)
{
    const uint32_t M = 0x81C081C0u, A = 0x01C001C0u, S = 0x80008000u;
    r[0] = w & M;
    r[1] = (w << 3) & M;
    r[2] = ((w >> 3) & A) | ((w << 1) & S);
    r[3] = ((w << 6) & A) | ((w << 2) & S);
}

/* Block scale of a unit's byte, times 2^119, in both halves. */
DEV uint32_t
fp4_scale(uint32_t word, int byte)
{
    return __byte_perm(word, 0, 0x4040 | byte | (byte << 8)) * 16u +
           0x70007000u;
}

/* A fragment of one word: value * scale * 2^-7, exact. */
DEV void
fp4_frag(uint32_t w, uint32_t lo, uint32_t hi, uint32_t *a)
{
    fp4_expand(w, a);
    a[0] = bf_mul2(a[0], lo);
    a[1] = bf_mul2(a[1], hi);
    a[2] = bf_mul2(a[2], lo);
    a[3] = bf_mul2(a[3], hi);
}

/* Two e4m3 bytes chosen by prmt to a bf16 pair, exact. */
DEV uint32_t
fp8_pair(uint32_t w, uint32_t select)
{
    uint32_t v = __byte_perm(w, 0, select);
    v = (v & 0x80008000u) | ((v & 0x7f007f00u) >> 4);
    return bf_mul2(v, 0x7B807B80u); /* 2^120 */
}

/* One 16 x 64 tile as loaded, of each layout. */
template <int LAYOUT> struct raw_tile;
template <> struct raw_tile<LAYOUT_BF16> { uint4 v[4]; };
template <> struct raw_tile<LAYOUT_FP8> { uint4 v[2]; };
template <> struct raw_tile<LAYOUT_NVFP4> { uint4 v; uint32_t sc; };

/* Where a warp's 16 rows begin. cols in elements, a multiple of 64. */
template <int LAYOUT> DEV const char *
row_tile(const void *w, int tile, int cols, int lane)
{
    int g = lane >> 2, t = lane & 3;
    if (LAYOUT == LAYOUT_NVFP4)
        return (const char *)w + (size_t)tile * ((cols + 511) / 512) * UNIT +
               lane * 16;
    size_t at = (size_t)(tile * 16 + g) * cols + 16 * t;
    return (const char *)w + (LAYOUT == LAYOUT_BF16 ? 2 * at : at);
}

/* Loads the 16 x 64 tile i of the row tile at p. */
template <int LAYOUT> DEV void
raw_load(raw_tile<LAYOUT> &r, const char *p, int cols, int i)
{
    if constexpr (LAYOUT == LAYOUT_BF16) {
        const char *a = p + 128 * (size_t)i, *b = a + 16 * (size_t)cols;
        r.v[0] = ld_weight(a);
        r.v[1] = ld_weight(a + 16);
        r.v[2] = ld_weight(b);
        r.v[3] = ld_weight(b + 16);
    } else if constexpr (LAYOUT == LAYOUT_FP8) {
        const char *a = p + 64 * (size_t)i, *b = a + 8 * (size_t)cols;
        r.v[0] = ld_weight(a);
        r.v[1] = ld_weight(b);
    } else {
        const char *u = p + (size_t)(i >> 3) * UNIT;
        r.v = ld_weight(u + (i & 7) * 512);
        r.sc = __ldg((const uint16_t *)(u + 4096 + (i & 7) * 2));
    }
}

template <int LAYOUT> DEV void
raw_zero(raw_tile<LAYOUT> &r)
{
    uint4 z = make_uint4(0, 0, 0, 0);
    if constexpr (LAYOUT == LAYOUT_BF16)
        r.v[0] = r.v[1] = r.v[2] = r.v[3] = z;
    else if constexpr (LAYOUT == LAYOUT_FP8)
        r.v[0] = r.v[1] = z;
    else
        r.v = z, r.sc = 0;
}

/* Fragments of the four k16 steps. */
template <int LAYOUT> DEV void
raw_frag(const raw_tile<LAYOUT> &r, uint32_t (&a)[4][4])
{
    if constexpr (LAYOUT == LAYOUT_BF16) {
        const uint32_t lo[8] = {r.v[0].x, r.v[0].y, r.v[0].z, r.v[0].w,
                                r.v[1].x, r.v[1].y, r.v[1].z, r.v[1].w};
        const uint32_t hi[8] = {r.v[2].x, r.v[2].y, r.v[2].z, r.v[2].w,
                                r.v[3].x, r.v[3].y, r.v[3].z, r.v[3].w};
#pragma unroll
        for (int s = 0; s < 4; s++) {
            a[s][0] = lo[2 * s];
            a[s][1] = hi[2 * s];
            a[s][2] = lo[2 * s + 1];
            a[s][3] = hi[2 * s + 1];
        }
    } else if constexpr (LAYOUT == LAYOUT_FP8) {
        const uint32_t lo[4] = {r.v[0].x, r.v[0].y, r.v[0].z, r.v[0].w};
        const uint32_t hi[4] = {r.v[1].x, r.v[1].y, r.v[1].z, r.v[1].w};
#pragma unroll
        for (int s = 0; s < 4; s++) {
            a[s][0] = fp8_pair(lo[s], 0x1404);
            a[s][1] = fp8_pair(hi[s], 0x1404);
            a[s][2] = fp8_pair(lo[s], 0x3424);
            a[s][3] = fp8_pair(hi[s], 0x3424);
        }
    } else {
        const uint32_t w[4] = {r.v.x, r.v.y, r.v.z, r.v.w};
        uint32_t lo = fp4_scale(r.sc, 0), hi = fp4_scale(r.sc, 1);
#pragma unroll
        for (int s = 0; s < 4; s++)
            fp4_frag(w[s], lo, hi, a[s]);
    }
}

/* --- launching ------------------------------------------------------------ */

/* Largest shared memory of a block that every part we serve has (GB10), and
 * what of it a kernel that asks for some when launched may have besides, which
 * check-resources holds it to. */
#define PORTABLE_SMEM 101376
#define STATIC_SMEM 1024

/* Launches k with SMEM bytes of dynamic shared memory. Kernels for every part
 * are launched with the default ONLY_SM90 = false, and asking for more than
 * the smallest part has is a compile error. */
template <int SMEM, bool ONLY_SM90 = false, class... P, class... A>
static int
launch_ex(void (*k)(P...), dim3 grid, int block, cudaStream_t s, A... a)
{
    static_assert(ONLY_SM90 || SMEM + STATIC_SMEM <= PORTABLE_SMEM,
                  "a portable kernel must fit in 99 KiB of shared memory");
    static_assert(SMEM <= 232448, "no part has more shared memory");
    if (SMEM > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute(
            (const void *)k, cudaFuncAttributeMaxDynamicSharedMemorySize,
            SMEM);
        if (e != cudaSuccess)
            return (int)e;
    }
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute at[1];
    c.gridDim = grid;
    c.blockDim = dim3(block);
    c.dynamicSmemBytes = SMEM;
    c.stream = s;
    c.attrs = at;
    if (cuda_pdl) {
        at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        at[0].val.programmaticStreamSerializationAllowed = 1;
        c.numAttrs = 1;
    }
    return (int)cudaLaunchKernelEx(&c, k, P(a)...);
}

template <int SMEM, class... P, class... A>
static int
launch(void (*k)(P...), dim3 grid, int block, cudaStream_t s, A... a)
{
    return launch_ex<SMEM>(k, grid, block, s, a...);
}

/* For sm_90a kernels with a grid barrier: all blocks are resident at once, or
 * the launch fails. */
template <int SMEM, class... P, class... A>
static int
launch_coop(void (*k)(P...), dim3 grid, int block, cudaStream_t s, A... a)
{
    static_assert(SMEM <= 232448, "no part has more shared memory");
    cudaError_t e = cudaFuncSetAttribute(
        (const void *)k, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM);
    if (e != cudaSuccess)
        return (int)e;
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute at[1];
    at[0].id = cudaLaunchAttributeCooperative;
    at[0].val.cooperative = 1;
    c.gridDim = grid;
    c.blockDim = dim3(block);
    c.dynamicSmemBytes = SMEM;
    c.stream = s;
    c.attrs = at;
    c.numAttrs = 1;
    return (int)cudaLaunchKernelEx(&c, k, P(a)...);
}

/* For sm_90a kernels whose blocks work in clusters along x. */
template <int SMEM, int CLUSTER, class... P, class... A>
static int
launch_cluster(void (*k)(P...), dim3 grid, int block, cudaStream_t s, A... a)
{
    static_assert(SMEM <= 232448, "no part has more shared memory");
    cudaError_t e = cudaFuncSetAttribute(
        (const void *)k, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM);
    if (e != cudaSuccess)
        return (int)e;
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute at[2];
    at[0].id = cudaLaunchAttributeClusterDimension;
    at[0].val.clusterDim.x = CLUSTER;
    at[0].val.clusterDim.y = at[0].val.clusterDim.z = 1;
    at[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[1].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = grid;
    c.blockDim = dim3(block);
    c.dynamicSmemBytes = SMEM;
    c.stream = s;
    c.attrs = at;
    c.numAttrs = cuda_pdl ? 2 : 1;
    return (int)cudaLaunchKernelEx(&c, k, P(a)...);
}
