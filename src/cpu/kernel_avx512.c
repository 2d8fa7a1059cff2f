#include "config.h"

#include "cpu/kernel.h"

#ifdef KERNEL_X86
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include <immintrin.h>
#define KERNEL_NAME avx512
#define WIDTH 16
#define KERNEL_BYTES(p) \
    _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define KERNEL_LOOKUP(table, i) \
    _mm512_permutexvar_ps((__m512i)(i), (__m512)(table))
#define TILE_ROWS 4
#define TILE_VECTORS 4
#define TILE_ROWS_ONE 8
#include "cpu/kernel_body.h"
#else
typedef int kernel_avx512_is_empty; /* ISO C wants something in a file */
#endif
