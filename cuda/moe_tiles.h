/* Token widths of the wgmma prefill kernel's tiles, shared with the routing
 * that cuts experts into them. */
#ifndef CUDA_MOE_TILES_H
#define CUDA_MOE_TILES_H

#define MOE_TILE_MAX 256
#define MOE_TILE_VARIANTS 4

#ifdef __CUDACC__
static __host__ __device__ __forceinline__ int
moe_tile_width(int variant)
{
    return variant == 0 ? 64 : variant == 1 ? 128 : variant == 2 ? 160 : 256;
}
#endif

#endif
