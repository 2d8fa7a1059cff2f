/* Token widths of the wgmma prefill kernels' tiles, shared with the routing
 * that cuts experts into them: a narrow set and a wide one. */
#ifndef CUDA_MOE_TILES_H
#define CUDA_MOE_TILES_H

#define MOE_TILE_VARIANTS 4   /* of a set; the wide ones come behind */

#ifdef __CUDACC__
static __host__ __device__ __forceinline__ int
moe_tile_width(int variant)
{
    return variant < MOE_TILE_VARIANTS
               ? variant == 0 ? 32 : variant == 1 ? 48 : variant == 2 ? 64
                                                                      : 96
               : variant == 4 ? 64 : variant == 5 ? 128 : variant == 6 ? 160
                                                                       : 256;
}

static __host__ __device__ __forceinline__ int
moe_tile_max(bool narrow)
{
    return moe_tile_width(narrow ? MOE_TILE_VARIANTS - 1
                                 : 2 * MOE_TILE_VARIANTS - 1);
}
#endif

#endif
