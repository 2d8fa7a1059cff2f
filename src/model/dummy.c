#include "config.h"

#include "model/dummy.h"

#include <math.h>
#include <string.h>

static inline uint64_t
mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

static inline uint64_t
word(uint64_t seed, struct dummy_form f, uint64_t i)
{
    uint64_t w = (mix(seed + i) & f.mask) + f.add;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    return w;
}

void
dummy_fill(uint64_t seed, struct dummy_form f, uint64_t from, void *dst,
           uint64_t size)
{
    char *out = dst;
    uint64_t i = from / 8, skip = from % 8;
    if (skip != 0 && size > 0) {
        uint64_t w = word(seed, f, i++);
        uint64_t n = size < 8 - skip ? size : 8 - skip;
        memcpy(out, (char *)&w + skip, n);
        out += n;
        size -= n;
    }
    for (; size >= 8; size -= 8, out += 8) {
        uint64_t w = word(seed, f, i++);
        memcpy(out, &w, 8);
    }
    if (size > 0) {
        uint64_t w = word(seed, f, i);
        memcpy(out, &w, size);
    }
}

/* Repeats a lane of `bits` bits over a word. */
static uint64_t
repeat(uint64_t lane, int bits)
{
    uint64_t w = 0;
    for (int i = 0; i < 64; i += bits)
        w |= lane << i;
    return w;
}

struct dummy_form
dummy_bf16(double rms)
{
    /* Sign, four neighbouring exponents and the mantissa are random. With the
     * lowest exponent at 2^b the mean square is
     * 4^b (1 + 4 + 16 + 64)/4 * 7/3 = (7.04 * 2^b)^2. */
    int b = (int)lround(log2(rms / 7.04)) + 127;
    b = b < 1 ? 1 : b > 250 ? 250 : b;
    return (struct dummy_form){repeat(0x81FF, 16),
                               repeat((uint64_t)b << 7, 16)};
}

struct dummy_form
dummy_norm(void)
{
    /* 0.94 .. 1.12 */
    return (struct dummy_form){repeat(0x1F, 16), repeat(0x3F70, 16)};
}

/* Root mean square of the E4M3 numbers a form makes. */
static double
e4m3_rms(uint8_t mask, uint8_t add)
{
    double sum = 0;
    for (int b = 0; b < 256; b++) {
        float x = e4m3_to_float((uint8_t)((b & mask) + add));
        sum += (double)x * x;
    }
    return sqrt(sum / 256);
}

struct dummy_form
dummy_fp8(double *rms)
{
    *rms = e4m3_rms(0x9F, 0x20);
    return (struct dummy_form){repeat(0x9F, 8), repeat(0x20, 8)};
}

struct dummy_form
dummy_codes(double *rms)
{
    double sum = 0;
    for (uint8_t c = 0; c < 16; c++)
        sum += e2m1_to_float(c) * e2m1_to_float(c);
    *rms = sqrt(sum / 16);
    return (struct dummy_form){UINT64_MAX, 0};
}

struct dummy_form
dummy_blocks(double *rms)
{
    /* 64 .. 240, as a matrix whose largest block has 448 would show */
    *rms = e4m3_rms(0x0F, 0x68);
    return (struct dummy_form){repeat(0x0F, 8), repeat(0x68, 8)};
}

struct dummy_form
dummy_constant(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (struct dummy_form){0, repeat(u, 32)};
}
