/*
 * The source of all kernel tables: included once an instruction set, with
 *   KERNEL_NAME     name of the table, as in kernels_<name>
 *   WIDTH           floats in a register: 16, 8 or 4
 *   KERNEL_BYTES    loads WIDTH bytes as WIDTH ints (intrinsics), or undefined
 *   KERNEL_LOOKUP   WIDTH values out of a register by index; not for 4
 *   TILE_ROWS, TILE_VECTORS   accumulators that fit the registers
 *   TILE_ROWS_ONE   rows at a time when there is one vector
 * defined, under the pragma that turns the instructions on.
 *
 * DESIGN. The unit is 16 lanes, in one register or several. One accumulator of
 * 16 lanes belongs to each (row, vector) pair and runs over the columns in
 * order; its lanes are added in a fixed tree at the end. Tiles of rows and
 * vectors only share loads.
 */
#ifndef CPU_KERNEL_BODY_H
#define CPU_KERNEL_BODY_H

#include <string.h>

#include "cpu/kernel.h"

#define LANES 16
#define PIECES (LANES / WIDTH)
#define INLINE static inline __attribute__((always_inline))

/* A register of floats, and of what it is made from. */
typedef float vec __attribute__((vector_size(WIDTH * 4)));
typedef int32_t ivec __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t uvec __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t hvec __attribute__((vector_size(WIDTH * 2)));

typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec4 __attribute__((vector_size(16)));
#if WIDTH > 4
typedef float vec8 __attribute__((vector_size(32)));
#endif

struct lanes { vec p[PIECES]; };

INLINE vec
load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void
store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vec
choose(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* Sums of lanes: lane i + 8 to lane i, then 4, 2, 1. fold makes the first two
 * additions; the other two are made for one or for four at a time. */
INLINE vec4
fold(struct lanes v)
{
#if WIDTH == 4
    return (v.p[0] + v.p[2]) + (v.p[1] + v.p[3]);
#else
    vec8 h[2];
    vec4 q[2];
    memcpy(h, &v, sizeof h);
    h[0] += h[1];
    memcpy(q, h, sizeof q);
    return q[0] + q[1];
#endif
}

INLINE float
lanes_sum(struct lanes v)
{
    vec4 a = fold(v);
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* Lanes i, j, k, l of a (0 .. 3) and b (4 .. 7). */
#ifdef __clang__
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (ivec4){i, j, k, l})
#endif

INLINE vec4
lanes_sum4(struct lanes a, struct lanes b, struct lanes c, struct lanes d)
{
    vec4 e = fold(a), f = fold(b), g = fold(c), h = fold(d);
    vec4 ef = SHUFFLE(e, f, 0, 4, 1, 5) + SHUFFLE(e, f, 2, 6, 3, 7);
    vec4 gh = SHUFFLE(g, h, 0, 4, 1, 5) + SHUFFLE(g, h, 2, 6, 3, 7);
    return SHUFFLE(ef, gh, 0, 1, 4, 5) + SHUFFLE(ef, gh, 2, 3, 6, 7);
}

/* Numbers with a short exponent, `bits` wide with their sign at the top: moved
 * into an fp32 of the same mantissa with the exponent rebased by `bias`.
 * Subnormals get an exponent and lose the added one again. */
INLINE vec
widen(uvec b, int bits, int mantissa, int bias)
{
    const uint32_t sign = 1u << (bits - 1), one = 1u << 23;
    uvec t = (b & (sign - 1)) << (23 - mantissa);
    uvec tiny = (uvec)(t < one);
    union { float f; uint32_t u; } low = {.u = (uint32_t)(bias + 1) << 23};
    vec r = (vec)(t + ((uint32_t)bias << 23) + (tiny & one));
    r -= (vec)(tiny & low.u);
    return (vec)((uvec)r | (b & sign) << (32 - bits));
}

INLINE uvec
bytes(const uint8_t *p)
{
#ifdef KERNEL_BYTES
    return (uvec)KERNEL_BYTES(p);
#else
    uvec v;
    for (int i = 0; i < WIDTH; i++)
        v[i] = p[i];
    return v;
#endif
}

/* WIDTH codes of e2m1, low nibble first. */
INLINE vec
nibbles(const uint8_t *p)
{
#if WIDTH == 16
    const vec values = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6,
                        -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    const uvec shift = {0, 4, 8, 12, 16, 20, 24, 28,
                        0, 4, 8, 12, 16, 20, 24, 28};
    uint32_t h[2];
    memcpy(h, p, 8);
    uvec code = {h[0], h[0], h[0], h[0], h[0], h[0], h[0], h[0],
                 h[1], h[1], h[1], h[1], h[1], h[1], h[1], h[1]};
    return (vec)KERNEL_LOOKUP(values, code >> shift & 15);
#elif WIDTH == 8
    const vec values = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const uvec shift = {0, 4, 8, 12, 16, 20, 24, 28};
    uint32_t h;
    memcpy(&h, p, 4);
    uvec code = ((uvec){0} + h) >> shift;
    vec magnitude = (vec)KERNEL_LOOKUP(values, code & 7);
    return (vec)((uvec)magnitude | (code & 8) << 28);
#else
    static const float values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6,
                                     -0.0f, -0.5f, -1, -1.5f, -2, -3, -4,
                                     -6};
    vec v;
    for (int i = 0; i < WIDTH; i += 2) {
        v[i] = values[p[i / 2] & 15];
        v[i + 1] = values[p[i / 2] >> 4];
    }
    return v;
#endif
}

/* Columns [k, k + WIDTH) of a row, unscaled. */
INLINE vec
weights(enum matrix_format format, const uint8_t *row, const uint8_t *block,
        int64_t k)
{
    hvec h;
    switch (format) {
    case MATRIX_F32:
        return load((const float *)(const void *)row + k);
    case MATRIX_BF16:
        memcpy(&h, row + 2 * k, sizeof h);
        return (vec)(__builtin_convertvector(h, uvec) << 16);
    case MATRIX_F16:
        memcpy(&h, row + 2 * k, sizeof h);
        return widen(__builtin_convertvector(h, uvec), 16, 10, 112);
    case MATRIX_FP8:
        return widen(bytes(row + k), 8, 3, 120);
    default:
        return nibbles(row + k / 2) * kernel_e4m3[block[k / 16]];
    }
}

INLINE size_t
value_size(enum matrix_format format)
{
    return format == MATRIX_F32 ? 4 : format == MATRIX_FP8 ? 1 : 2;
}

/* The last n < 16 columns, zeroes behind them. NVFP4 has none. */
INLINE struct lanes
weights_tail(enum matrix_format format, const uint8_t *row, int64_t k, int n)
{
    uint8_t part[64] = {0};
    size_t size = value_size(format);
    struct lanes v;
    memcpy(part, row + (size_t)k * size, (size_t)n * size);
    for (int i = 0; i < PIECES; i++)
        v.p[i] = weights(format, part, NULL, i * WIDTH);
    return v;
}

/* n <= 16 floats, zeroes behind them. */
INLINE struct lanes
load_some(const float *p, int n)
{
    struct lanes v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

/* rows x vectors results with one accumulator each, to y[t][at ...]; the
 * counts are constants wherever this is inlined. */
INLINE void
tile(enum matrix_format format, const struct matrix *w, int64_t first,
     const int rows, const float *const *x, const int vectors,
     float *const *y, int64_t at)
{
    struct lanes sum[TILE_ROWS_ONE][TILE_VECTORS];
    const uint8_t *row[TILE_ROWS_ONE], *block[TILE_ROWS_ONE];
    int64_t whole = w->cols / LANES * LANES;
    int rest = (int)(w->cols - whole);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        row[r] = w->data + (size_t)(first + r) * w->stride;
        block[r] = format == MATRIX_NVFP4
            ? w->block + (size_t)(first + r) * w->block_stride : NULL;
#pragma GCC unroll 8
        for (int t = 0; t < vectors; t++)
#pragma GCC unroll 4
            for (int i = 0; i < PIECES; i++)
                sum[r][t].p[i] = (vec){0};
    }
    for (int64_t k = 0; k < whole; k += LANES) {
#pragma GCC unroll 4
        for (int i = 0; i < PIECES; i++) {
            vec v[TILE_ROWS_ONE];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                v[r] = weights(format, row[r], block[r], k + i * WIDTH);
#pragma GCC unroll 8
            for (int t = 0; t < vectors; t++) {
                vec a = load(x[t] + k + i * WIDTH);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
                    sum[r][t].p[i] += v[r] * a;
            }
        }
    }
    if (rest > 0) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            struct lanes v = weights_tail(format, row[r], whole, rest);
#pragma GCC unroll 8
            for (int t = 0; t < vectors; t++) {
                struct lanes a = load_some(x[t] + whole, rest);
#pragma GCC unroll 4
                for (int i = 0; i < PIECES; i++)
                    sum[r][t].p[i] += v.p[i] * a.p[i];
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < vectors; t++) {
        int r = 0;
#pragma GCC unroll 2
        for (; r + 4 <= rows; r += 4) {
            vec4 v = lanes_sum4(sum[r][t], sum[r + 1][t], sum[r + 2][t],
                                sum[r + 3][t]) * w->scale;
            memcpy(&y[t][at + r], &v, sizeof v);
        }
#pragma GCC unroll 4
        for (; r < rows; r++)
            y[t][at + r] = lanes_sum(sum[r][t]) * w->scale;
    }
}

INLINE void
dot_format(enum matrix_format format, const struct matrix *w, int64_t first,
           int64_t n, const float *const *x, int n_x, float *const *y,
           int64_t at)
{
    int64_t r = 0;
    w = &(struct matrix){w->format, n, w->cols,
                         w->data + (size_t)first * w->stride, w->stride,
                         w->block == NULL ? NULL
                         : w->block + (size_t)first * w->block_stride,
                         w->block_stride, w->scale};
    if (n_x == 1)
        for (; r + TILE_ROWS_ONE <= n; r += TILE_ROWS_ONE)
            tile(format, w, r, TILE_ROWS_ONE, x, 1, y, at + r);
    for (; r + TILE_ROWS <= n; r += TILE_ROWS) {
        int t = 0;
        for (; t + TILE_VECTORS <= n_x; t += TILE_VECTORS)
            tile(format, w, r, TILE_ROWS, x + t, TILE_VECTORS, y + t,
                 at + r);
        for (; t < n_x; t++)
            tile(format, w, r, TILE_ROWS, x + t, 1, y + t, at + r);
    }
    for (; r < n; r++)
        for (int t = 0; t < n_x; t++)
            tile(format, w, r, 1, x + t, 1, y + t, at + r);
}

INLINE void
decode_format(enum matrix_format format, const struct matrix *w, int64_t row,
              float *out)
{
    const uint8_t *data = w->data + (size_t)row * w->stride;
    const uint8_t *block = format == MATRIX_NVFP4
        ? w->block + (size_t)row * w->block_stride : NULL;
    int64_t whole = w->cols / LANES * LANES;
    int rest = (int)(w->cols - whole);
    for (int64_t k = 0; k < whole; k += WIDTH)
        store(out + k, weights(format, data, block, k));
    if (rest > 0) {
        struct lanes v = weights_tail(format, data, whole, rest);
        memcpy(out + whole, &v, (size_t)rest * sizeof *out);
    }
}

static void
decode(const struct matrix *w, int64_t row, float *out)
{
    switch (w->format) {
    case MATRIX_F32: decode_format(MATRIX_F32, w, row, out); break;
    case MATRIX_F16: decode_format(MATRIX_F16, w, row, out); break;
    case MATRIX_BF16: decode_format(MATRIX_BF16, w, row, out); break;
    case MATRIX_FP8: decode_format(MATRIX_FP8, w, row, out); break;
    case MATRIX_NVFP4: decode_format(MATRIX_NVFP4, w, row, out); break;
    }
}

/* With many vectors a row is decoded once into the panel instead of once a
 * tile; the values, and so the results, are the same. */
static void
dot_panels(const struct matrix *w, int64_t first, int64_t n,
           const float *const *x, int n_x, float *const *y, float *panel)
{
    struct matrix p = {.format = MATRIX_F32, .rows = KERNEL_PANEL,
                       .cols = w->cols, .scale = w->scale,
                       .stride = (size_t)w->cols * sizeof *panel,
                       .data = (const uint8_t *)panel};
    for (int64_t r = 0; r < n; r += KERNEL_PANEL) {
        int64_t k = n - r < KERNEL_PANEL ? n - r : KERNEL_PANEL;
        for (int64_t i = 0; i < k; i++)
            decode(w, first + r + i, panel + i * w->cols);
        dot_format(MATRIX_F32, &p, 0, k, x, n_x, y, r);
    }
}

static void
dot(const struct matrix *w, int64_t first, int64_t n, const float *const *x,
    int n_x, float *const *y, float *panel)
{
    if (w->format != MATRIX_F32 && n_x >= 2 * TILE_VECTORS) {
        dot_panels(w, first, n, x, n_x, y, panel);
        return;
    }
    switch (w->format) {
    case MATRIX_F32:
        dot_format(MATRIX_F32, w, first, n, x, n_x, y, 0);
        break;
    case MATRIX_F16:
        dot_format(MATRIX_F16, w, first, n, x, n_x, y, 0);
        break;
    case MATRIX_BF16:
        dot_format(MATRIX_BF16, w, first, n, x, n_x, y, 0);
        break;
    case MATRIX_FP8:
        dot_format(MATRIX_FP8, w, first, n, x, n_x, y, 0);
        break;
    case MATRIX_NVFP4:
        dot_format(MATRIX_NVFP4, w, first, n, x, n_x, y, 0);
        break;
    }
}

/* n_y columns of weights over the same rows, a register of outputs at a
 * time. */
INLINE void
mix_some(const float *rows, size_t stride, int n, const float *const *p,
         const int n_y, float *const *y, int width)
{
    int j = 0;
    for (; j + WIDTH <= width; j += WIDTH) {
        vec sum[4];
#pragma GCC unroll 4
        for (int i = 0; i < n_y; i++)
            sum[i] = load(y[i] + j);
        for (int s = 0; s < n; s++) {
            vec v = load(rows + (size_t)s * stride + j);
#pragma GCC unroll 4
            for (int i = 0; i < n_y; i++)
                sum[i] += v * p[i][s];
        }
#pragma GCC unroll 4
        for (int i = 0; i < n_y; i++)
            store(y[i] + j, sum[i]);
    }
    for (; j < width; j++)
        for (int i = 0; i < n_y; i++) {
            float sum = y[i][j];
            for (int s = 0; s < n; s++)
                sum += rows[(size_t)s * stride + j] * p[i][s];
            y[i][j] = sum;
        }
}

static void
mix(const float *rows, size_t stride, int n, const float *const *p, int n_y,
    float *const *y, int width)
{
    int i = 0;
    for (; i + 4 <= n_y; i += 4)
        mix_some(rows, stride, n, p + i, 4, y + i, width);
    for (; i < n_y; i++)
        mix_some(rows, stride, n, p + i, 1, y + i, width);
}

static float
sum_squares(const float *x, int n)
{
    struct lanes sum = {0};
    int k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int i = 0; i < PIECES; i++) {
            vec v = load(x + k + i * WIDTH);
            sum.p[i] += v * v;
        }
    if (k < n) {
        struct lanes v = load_some(x + k, n - k);
        for (int i = 0; i < PIECES; i++)
            sum.p[i] += v.p[i] * v.p[i];
    }
    return lanes_sum(sum);
}

static float
max(const float *x, int n)
{
    float top = x[0];
    int k = 0;
    if (n >= WIDTH) {
        vec best = load(x);
        for (; k + WIDTH <= n; k += WIDTH) {
            vec v = load(x + k);
            best = choose(v > best, v, best);
        }
        for (int i = 0; i < WIDTH; i++)
            top = best[i] > top ? best[i] : top;
    }
    for (; k < n; k++)
        top = x[k] > top ? x[k] : top;
    return top;
}

/* e^x to about 2 units in the last place; 0 below -87.3. */
INLINE vec
exponential(vec x)
{
    const vec zero = {0};
    const vec low = zero - 87.3f, high = zero + 88.3f;
    ivec dead = x < low;
    x = choose(dead, low, x);
    x = choose(x > high, high, x);
    /* x = n ln 2 + r; adding 1.5 * 2^23 rounds to an integer. */
    vec t = x * 1.44269504f + 12582912.0f;
    uvec n = (uvec)t << 23;
    t -= 12582912.0f;
    vec r = x - t * 0.693359375f;
    r -= t * -2.12194440e-4f;
    vec p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    p = (vec)((uvec)p + n);
    return choose(dead, zero, p);
}

static float
exp_sum(float *x, int n, float top)
{
    struct lanes sum = {0};
    int k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int i = 0; i < PIECES; i++) {
            vec v = exponential(load(x + k + i * WIDTH) - top);
            store(x + k + i * WIDTH, v);
            sum.p[i] += v;
        }
    if (k < n) {
        struct lanes v = load_some(x + k, n - k);
        for (int i = 0; i < PIECES; i++)
            v.p[i] = exponential(v.p[i] - top);
        memcpy(x + k, &v, (size_t)(n - k) * sizeof *x);
        v = load_some(x + k, n - k); /* without the lanes behind n */
        for (int i = 0; i < PIECES; i++)
            sum.p[i] += v.p[i];
    }
    return lanes_sum(sum);
}

INLINE vec
silu(vec a, vec b)
{
    return a / (exponential(-a) + 1.0f) * b;
}

static void
silu_mul(float *a, const float *b, int n)
{
    int k = 0;
    for (; k + WIDTH <= n; k += WIDTH)
        store(a + k, silu(load(a + k), load(b + k)));
    if (k < n) {
        struct lanes u = load_some(a + k, n - k), v = load_some(b + k, n - k);
        u.p[0] = silu(u.p[0], v.p[0]);
        memcpy(a + k, &u, (size_t)(n - k) * sizeof *a);
    }
}

#define KERNEL_JOIN(a, b) a##b
#define KERNEL_TABLE(name) KERNEL_JOIN(kernels_, name)
#define KERNEL_QUOTE(name) #name
#define KERNEL_STRING(name) KERNEL_QUOTE(name)

const struct kernels KERNEL_TABLE(KERNEL_NAME) = {
    .name = KERNEL_STRING(KERNEL_NAME),
    .dot = dot,
    .decode = decode,
    .mix = mix,
    .sum_squares = sum_squares,
    .max = max,
    .exp_sum = exp_sum,
    .silu_mul = silu_mul,
};

#endif
