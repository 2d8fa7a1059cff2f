#include "config.h"

#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#define KERNEL_NAME avx2
#define WIDTH 8
#define KERNEL_BYTES(p) \
    _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define TILE_ROWS 2
#define TILE_VECTORS 2
#define TILE_ROWS_ONE 4
#include "cpu/kernel_body.h"
#else
typedef int kernel_avx2_is_empty; /* ISO C wants something in a file */
#endif
