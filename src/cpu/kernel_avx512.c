#include "config.h"

#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include <immintrin.h>
#define KERNEL_NAME avx512
#define WIDTH 16
#define KERNEL_BYTES(p) \
    _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define TILE_ROWS 4
#define TILE_VECTORS 4
#define TILE_ROWS_ONE 8
#include "cpu/kernel_body.h"
#else
typedef int kernel_avx512_is_empty; /* ISO C wants something in a file */
#endif
