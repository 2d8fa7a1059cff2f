#include "config.h"

#include "cpu/kernel.h"

#ifdef KERNEL_X86
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#define KERNEL_NAME avx2
#define WIDTH 8
#define KERNEL_BYTES(p) \
    _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define KERNEL_LOOKUP(table, i) \
    _mm256_permutevar8x32_ps((__m256)(table), (__m256i)(i))
#define TILE_ROWS 2
#define TILE_VECTORS 2
#define TILE_ROWS_ONE 4
#include "cpu/kernel_body.h"
#else
typedef int kernel_avx2_is_empty; /* ISO C wants something in a file */
#endif
