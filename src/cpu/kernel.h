/*
 * Inner loops, one table of functions an instruction set. All tables compute
 * every result in the same order of additions over 16 lanes, whatever the
 * number of rows, vectors or threads around it: that is what makes a token's
 * result independent of its batch. The functions are pure; any thread.
 */
#ifndef CPU_KERNEL_H
#define CPU_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum matrix_format {
    MATRIX_F32, MATRIX_F16, MATRIX_BF16, MATRIX_FP8, MATRIX_NVFP4
};

/* A matrix in memory as its file stores it. */
struct matrix {
    enum matrix_format format;
    int64_t rows, cols;
    const uint8_t *data;        /* row r at data + r * stride */
    size_t stride;
    const uint8_t *block;       /* NVFP4: scales of row r likewise */
    size_t block_stride;
    float scale;                /* of every value: FP8 scale, 1 / global */
};

#define KERNEL_PANEL 4 /* rows decoded together when there are many vectors */

struct kernels {
    const char *name;

    /* y[t][r] = scale * (row first + r of w) . x[t] for r < n, t < n_x.
     * panel: scratch of KERNEL_PANEL * cols floats. */
    void (*dot)(const struct matrix *w, int64_t first, int64_t n,
                const float *const *x, int n_x, float *const *y,
                float *panel);
    /* out[k] = value of column k of a row, without the scale. */
    void (*decode)(const struct matrix *w, int64_t row, float *out);
    /* y[i][j] += sum over s < n of p[i][s] * rows[s][j], s ascending, for
     * i < n_y, j < width; rows are stride floats apart. */
    void (*mix)(const float *rows, size_t stride, int n,
                const float *const *p, int n_y, float *const *y, int width);
    float (*sum_squares)(const float *x, int n);
    float (*max)(const float *x, int n); /* n > 0 */
    /* x[i] = exp(x[i] - top); returns their sum. */
    float (*exp_sum)(float *x, int n, float top);
    /* a[i] = a[i] / (1 + exp(-a[i])) * b[i] */
    void (*silu_mul)(float *a, const float *b, int n);
};

/* The best table that this machine can run. `want` (may be NULL) asks for one
 * by name ("avx512", "avx2", "plain"); NULL is returned when it is not there
 * or the machine lacks the instructions. */
const struct kernels *kernels_find(const char *want);

extern const float kernel_e4m3[256]; /* values of the E4M3 bytes */

/* Functions for other instructions than the program's are a GCC pragma here;
 * what clang builds has the plain ones. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL_X86
#endif

extern const struct kernels kernels_plain;
#ifdef KERNEL_X86
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

#endif
