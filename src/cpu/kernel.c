#include "config.h"

#include "cpu/kernel.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Eight mantissas of an exponent; u is 2^-3 of its smallest value. */
#define EIGHT(u) 8 * u, 9 * u, 10 * u, 11 * u, 12 * u, 13 * u, 14 * u, 15 * u
#define HALF(s)                                                            \
    s 0.0f, s 0x1p-9f, s 0x2p-9f, s 0x3p-9f, s 0x4p-9f, s 0x5p-9f,         \
    s 0x6p-9f, s 0x7p-9f, EIGHT(s 0x1p-9f), EIGHT(s 0x1p-8f),              \
    EIGHT(s 0x1p-7f), EIGHT(s 0x1p-6f), EIGHT(s 0x1p-5f),                  \
    EIGHT(s 0x1p-4f), EIGHT(s 0x1p-3f), EIGHT(s 0x1p-2f),                  \
    EIGHT(s 0x1p-1f), EIGHT(s 0x1p0f), EIGHT(s 0x1p1f), EIGHT(s 0x1p2f),   \
    EIGHT(s 0x1p3f), EIGHT(s 0x1p4f),                                      \
    s 256.0f, s 288.0f, s 320.0f, s 352.0f, s 384.0f, s 416.0f, s 448.0f,  \
    NAN
const float kernel_e4m3[256] = {HALF(+), HALF(-)};

#ifdef KERNEL_X86
static bool
has_avx512(void)
{
    return __builtin_cpu_supports("avx512f")
           && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq")
           && __builtin_cpu_supports("avx512vl");
}

static bool
has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool
always(void)
{
    return true;
}

/* Best first. */
static const struct { const struct kernels *k; bool (*runs)(void); } all[] = {
#ifdef KERNEL_X86
    {&kernels_avx512, has_avx512},
    {&kernels_avx2, has_avx2},
#endif
    {&kernels_plain, always},
};

const struct kernels *
kernels_find(const char *want)
{
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if ((want == NULL || strcmp(all[i].k->name, want) == 0)
            && all[i].runs())
            return all[i].k;
    return NULL;
}
