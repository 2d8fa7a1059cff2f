/* Kernels of every instruction set, and the thread pool. */
#include "config.h"

#include "cpu/kernel.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/pool.h"
#include "model/model.h"

enum { ROWS = 23, MAX_COLS = 160, VECTORS = 13 };

static const char *const names[] = {"plain", "avx2", "avx512"};

static uint32_t
next(void)
{
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

static float
small(void)
{
    return (float)(int)(next() % 2001 - 1000) / 1000;
}

/* A matrix of random stored values and what weight_row makes of it. */
struct sample {
    struct matrix m;
    uint8_t data[ROWS * MAX_COLS * 4], block[ROWS * MAX_COLS / 16];
    float value[ROWS][MAX_COLS];
};

static void
fill(struct sample *s, enum matrix_format format, int cols)
{
    static const struct { enum dtype dtype; enum weight_format form; }
    stored[] = {
        [MATRIX_F32] = {DTYPE_F32, WEIGHT_PLAIN},
        [MATRIX_F16] = {DTYPE_F16, WEIGHT_PLAIN},
        [MATRIX_BF16] = {DTYPE_BF16, WEIGHT_PLAIN},
        [MATRIX_FP8] = {DTYPE_F8_E4M3, WEIGHT_FP8},
        [MATRIX_NVFP4] = {DTYPE_U8, WEIGHT_NVFP4},
    };
    struct tensor t = {.dtype = stored[format].dtype};
    struct weight w = {.format = stored[format].form, .rows = ROWS,
                       .cols = cols, .data = &t, .scale = 1, .global = 1};
    size_t size = dtype_size(t.dtype);
    s->m = (struct matrix){format, ROWS, cols, s->data,
                           format == MATRIX_NVFP4 ? (size_t)cols / 2
                           : (size_t)cols * size,
                           s->block, (size_t)cols / 16, 1};
    for (size_t i = 0; i < sizeof s->data; i++)
        s->data[i] = (uint8_t)next();
    for (int i = 0; i < ROWS * cols; i++) { /* no infinities or NaN */
        float x = small();
        uint16_t h = (uint16_t)(next() & 0xBFFF);
        if (format == MATRIX_F32)
            memcpy(s->data + 4 * i, &x, 4);
        else if (format == MATRIX_BF16)
            h = float_to_bf16(x);
        if (size == 2)
            memcpy(s->data + 2 * i, &h, 2);
        if (format == MATRIX_FP8 && (s->data[i] & 127) == 127)
            s->data[i] = 0x7E;
    }
    for (size_t i = 0; i < sizeof s->block; i++)
        s->block[i] = (uint8_t)(next() % 0x7F);
    for (int r = 0; r < ROWS; r++)
        weight_row(&w, s->data, s->block, r, s->value[r]);
}

static void
decodes_exactly(void **state)
{
    (void)state;
    static struct sample s;
    float out[MAX_COLS + 1];
    for (int n = 0; n < 3; n++) {
        const struct kernels *k = kernels_find(names[n]);
        for (int f = 0; k != NULL && f <= MATRIX_NVFP4; f++)
            for (int cols = 16; cols <= MAX_COLS; cols += 16) {
                int c = f == MATRIX_NVFP4 ? cols : cols - (cols / 16) % 16;
                fill(&s, (enum matrix_format)f, c);
                for (int r = 0; r < ROWS; r++) {
                    out[c] = 1234;
                    k->decode(&s.m, r, out);
                    for (int j = 0; j < c; j++)
                        assert_true(out[j] == s.value[r][j]);
                    assert_true(out[c] == 1234);
                }
            }
    }
}

static void
every_stored_number(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        const struct kernels *k = kernels_find(names[n]);
        if (k == NULL)
            continue;
        static uint8_t bytes[256];
        static uint16_t halves[65536];
        static float out[65536];
        for (int i = 0; i < 65536; i++)
            halves[i] = (uint16_t)i;
        for (int i = 0; i < 256; i++)
            bytes[i] = (uint8_t)i;
        struct matrix m = {MATRIX_FP8, 1, 256, bytes, 256, NULL, 0, 1};
        k->decode(&m, 0, out);
        for (int i = 0; i < 256; i++)
            if ((i & 127) != 127)
                assert_true(out[i] == e4m3_to_float((uint8_t)i));
        m = (struct matrix){MATRIX_F16, 1, 65536, (uint8_t *)halves, 0, NULL,
                            0, 1};
        k->decode(&m, 0, out);
        for (int i = 0; i < 65536; i++)
            if ((i & 0x7C00) != 0x7C00)
                assert_true(out[i] == f16_to_float((uint16_t)i));
    }
    for (int i = 0; i < 256; i++) {
        float x = e4m3_to_float((uint8_t)i);
        assert_true(kernel_e4m3[i] == x || (isnan(x) && i % 128 == 127));
    }
}

/* Every product is right, and the same bits whatever is computed with it. */
static void
dots(void **state)
{
    (void)state;
    static struct sample s;
    static float x[VECTORS][MAX_COLS], all[VECTORS][ROWS], one[ROWS];
    static float panel[KERNEL_PANEL * MAX_COLS];
    const float *in[VECTORS];
    float *out[VECTORS];
    for (int t = 0; t < VECTORS; t++) {
        in[t] = x[t];
        out[t] = all[t];
    }
    for (int n = 0; n < 3; n++) {
        const struct kernels *k = kernels_find(names[n]);
        for (int f = 0; k != NULL && f <= MATRIX_NVFP4; f++)
            for (int cols = 1; cols <= MAX_COLS; cols++) {
                if (f == MATRIX_NVFP4 && cols % 16 != 0)
                    continue;
                fill(&s, (enum matrix_format)f, cols);
                s.m.scale = 0.5f;
                for (int t = 0; t < VECTORS; t++)
                    for (int j = 0; j < cols; j++)
                        x[t][j] = small();
                k->dot(&s.m, 0, ROWS, in, VECTORS, out, panel);
                for (int t = 0; t < VECTORS; t++) {
                    float *y = one;
                    for (int r = 0; r < ROWS; r++) {
                        double sum = 0, size = 0;
                        for (int j = 0; j < cols; j++) {
                            double p = (double)s.value[r][j]
                                       * (double)x[t][j];
                            sum += p;
                            size += fabs(p);
                        }
                        assert_true(fabs(all[t][r] - 0.5 * sum)
                                    <= 1e-6 * size + 1e-30);
                    }
                    k->dot(&s.m, 0, ROWS, in + t, 1, &y, panel);
                    assert_memory_equal(one, all[t], sizeof one);
                    int first = (int)(next() % ROWS);
                    int count = 1 + (int)(next() % (uint32_t)(ROWS - first));
                    k->dot(&s.m, first, count, in + t, 1, &y, panel);
                    assert_memory_equal(one, all[t] + first,
                                        (size_t)count * sizeof *one);
                }
                for (int m = 2; m < VECTORS; m++) {
                    static float part[VECTORS][ROWS];
                    float *p[VECTORS];
                    for (int t = 0; t < m; t++)
                        p[t] = part[t];
                    k->dot(&s.m, 0, ROWS, in + 1, m - 1, p, panel);
                    assert_memory_equal(part, all[1],
                                        (size_t)(m - 1) * sizeof *part);
                }
            }
    }
}

static void
mixes(void **state)
{
    (void)state;
    enum { N = 9, WIDTH = 37, OUT = 7 };
    static float rows[N][WIDTH + 3], p[OUT][N], y[OUT][WIDTH],
        alone[WIDTH];
    const float *in[OUT];
    float *out[OUT];
    for (int i = 0; i < OUT; i++) {
        in[i] = p[i];
        out[i] = y[i];
        for (int s = 0; s < N; s++)
            p[i][s] = small();
    }
    for (int s = 0; s < N; s++)
        for (int j = 0; j < WIDTH; j++)
            rows[s][j] = small();
    for (int n = 0; n < 3; n++) {
        const struct kernels *k = kernels_find(names[n]);
        if (k == NULL)
            continue;
        memset(y, 0, sizeof y);
        k->mix(rows[0], WIDTH + 3, N, in, OUT, out, WIDTH);
        for (int i = 0; i < OUT; i++) {
            float *z = alone;
            for (int j = 0; j < WIDTH; j++) {
                double sum = 0;
                for (int s = 0; s < N; s++)
                    sum += (double)p[i][s] * (double)rows[s][j];
                assert_true(fabs(y[i][j] - sum) < 1e-5);
            }
            memset(alone, 0, sizeof alone);
            k->mix(rows[0], WIDTH + 3, N, in + i, 1, &z, WIDTH);
            assert_memory_equal(alone, y[i], sizeof alone);
        }
    }
}

static void
exponentials(void **state)
{
    (void)state;
    enum { N = 1003 };
    static float x[N], y[N], z[N];
    for (int n = 0; n < 3; n++) {
        const struct kernels *k = kernels_find(names[n]);
        if (k == NULL)
            continue;
        double sum = 0;
        for (int i = 0; i < N; i++) {
            x[i] = -(float)i * 0.08f;
            y[i] = x[i];
            sum += exp((double)x[i]);
        }
        assert_true(fabs(k->exp_sum(y, N, 0) / sum - 1) < 1e-5);
        for (int i = 0; i < N; i++)
            assert_true(fabs(y[i] / exp((double)x[i]) - 1) < 4e-7);
        float odd[4] = {-INFINITY, 0, -200, NAN};
        k->exp_sum(odd, 4, 0);
        assert_true(odd[0] == 0 && odd[1] == 1 && odd[2] == 0);
        assert_true(isnan(odd[3]));
        for (int i = 0; i < N; i++) {
            x[i] = (float)(i - N / 2) * 0.2f;
            y[i] = x[i];
            z[i] = 2;
        }
        k->silu_mul(y, z, N);
        for (int i = 0; i < N; i++)
            assert_true(fabs(y[i] - 2 * x[i] / (1 + exp((double)-x[i])))
                        < 1e-5 * (1 + fabs(x[i])));
        assert_true(k->max(x, N) == x[N - 1]);
        assert_true(k->max(x, 5) == x[4]);
        x[3] = 1e6f;
        assert_true(k->max(x, N) == 1e6f);
        float squares[] = {1, 2, 3};
        assert_true(k->sum_squares(squares, 3) == 14);
    }
}

struct tally {
    atomic_int done[1000];
    atomic_int busy[8];
};

static void
tally_task(void *arg, int task, int worker)
{
    struct tally *t = arg;
    if (atomic_fetch_add(&t->busy[worker], 1) != 0)
        abort(); /* two tasks on one worker */
    atomic_fetch_add(&t->done[task], 1);
    for (volatile int i = 0; i < (task % 7) * 50; i++) {
    }
    atomic_fetch_sub(&t->busy[worker], 1);
}

static void
pool_runs_each_task_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        struct pool *p = pool_create(threads);
        assert_non_null(p);
        assert_int_equal(pool_size(p), threads);
        for (int round = 0; round < 2000; round++) {
            static struct tally t;
            int n = (int)(next() % (round % 100 == 0 ? 1000 : 20));
            memset(&t, 0, sizeof t);
            pool_run(p, n, tally_task, &t);
            for (int i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&t.done[i]), i < n);
        }
        pool_free(p);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_exactly),
        cmocka_unit_test(every_stored_number),
        cmocka_unit_test(dots),
        cmocka_unit_test(mixes),
        cmocka_unit_test(exponentials),
        cmocka_unit_test(pool_runs_each_task_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
