/* Token widths of the wgmma prefill kernels' tiles, shared with the routing
 * that cuts experts into them: a narrow set, then a wide one. */
#ifndef CUDA_MOE_TILES_H
#define CUDA_MOE_TILES_H

#define MOE_NARROW_TILES 7
#define MOE_WIDE_TILES 4
#define MOE_TILES (MOE_NARROW_TILES + MOE_WIDE_TILES)

#ifdef __CUDACC__
static __host__ __device__ __forceinline__ constexpr int
moe_tile_width(int variant)
{
    const int w = variant - MOE_NARROW_TILES;
    if (w >= 0)
        return w == 0 ? 64 : w == 1 ? 128 : w == 2 ? 160 : 256;
    return variant < 5 ? 16 + 8 * variant : variant == 5 ? 64 : 80;
}

static __host__ __device__ __forceinline__ constexpr int
moe_tile_max(bool narrow)
{
    return moe_tile_width(narrow ? MOE_NARROW_TILES - 1 : MOE_TILES - 1);
}
#endif

#endif
