/*
 * Sampling on the GPU against the CPU back end's, on random logits: the ids
 * drawn, their log-probabilities, ranks and alternatives, for greedy, plain,
 * top_k, top_p, min_p, penalties, bias and masks, on peaked and flat rows.
 * With -s a few rows only, for compute-sanitizer.
 * Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cpu/kernel.h"
#include "cpu/sample.h"
#include "cuda/ops.h"

#define VOCAB 131072
#define ROWS 128
#define ROWS_BRIEF 4

struct device {
    float *logits, *copy, *bias, *top_logprob;
    struct sample_row *row;
    uint32_t *mask;
    int *bias_id, *last, *top_id, *ids;
    uint16_t *count;
    struct sample_out *out;
};

static uint64_t rng = 99;
static int n_row = ROWS; /* used */

static double
uniform(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (double)(rng >> 11) * 0x1p-53;
}

static double
normal(void)
{
    return sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307 * uniform());
}

static void *
on_device(size_t size)
{
    void *p = NULL;
    if (cudaMalloc(&p, size) != cudaSuccess
        || cudaMemset(p, 0, size) != cudaSuccess) {
        printf("FAIL no device memory\n");
        exit(1);
    }
    return p;
}

static void
to_device(void *dst, const void *src, size_t size)
{
    if (cudaMemcpy(dst, src, size, cudaMemcpyHostToDevice) != cudaSuccess) {
        printf("FAIL copy\n");
        exit(1);
    }
}

struct settings {
    const char *what;
    double spread;          /* of the logits */
    struct sampling p;
    bool mask, penal;
};

static const struct settings tried[] = {
    {"greedy", 3, {.top_p = 1}, false, false},
    {"temperature 1", 3, {.temperature = 1, .top_p = 1}, false, false},
    {"temperature 0.7", 3, {.temperature = .7f, .top_p = 1}, false, false},
    {"min_p", 3, {.temperature = 1, .top_p = 1, .min_p = .05f}, false, false},
    {"top_k 40", 3, {.temperature = 1, .top_p = 1, .top_k = 40}, false,
     false},
    {"top_p 0.9", 4, {.temperature = .8f, .top_p = .9f}, false, false},
    {"top_k 50, top_p 0.95, min_p", 3,
     {.temperature = 1.2f, .top_p = .95f, .top_k = 50, .min_p = .02f}, false,
     false},
    {"flat, top_p 0.9", .3, {.temperature = 1, .top_p = .9f}, false, false},
    {"flat, top_k 20000", .5, {.temperature = 1, .top_p = 1,
     .top_k = 20000}, false, false},
    {"penalties", 2, {.temperature = 1, .top_p = .9f,
     .presence_penalty = .5f, .frequency_penalty = .3f,
     .repetition_penalty = 1.3f}, false, true},
    {"mask, bias", 3, {.temperature = .9f, .top_p = .9f}, true, false},
    {"mask, greedy", 3, {.top_p = 1}, true, false},
};

/* Draws n_row times on both and counts what differs. */
static int
try_settings(const struct settings *s, struct device *d,
             struct sample_scratch *w, const int32_t *history, int n_history)
{
    enum { TOP = 20, N_BIAS = 3 };
    static const int32_t bias_id[N_BIAS] = {5, 70000, 131071};
    static const float bias[N_BIAS] = {2, -3, 4};
    const size_t words = VOCAB / 32;
    float *logits = malloc((size_t)ROWS * VOCAB * sizeof *logits);
    uint32_t *mask = malloc(words * 4);
    struct sample_row *row = calloc(ROWS, sizeof *row);
    struct sample_out *out = calloc(ROWS, sizeof *out);
    int *top_id = calloc((size_t)ROWS * BACKEND_TOP_MAX, sizeof *top_id);
    float *top_lp = calloc((size_t)ROWS * BACKEND_TOP_MAX, sizeof *top_lp);
    struct sampling p = s->p;
    int other = 0, wrong = 0;
    if (s->mask) {
        p.bias_id = bias_id;
        p.bias = bias;
        p.n_bias = N_BIAS;
    }
    for (size_t i = 0; i < (size_t)n_row * VOCAB; i++)
        logits[i] = (float)(normal() * s->spread);
    for (size_t i = 0; i < words; i++)
        mask[i] = (uint32_t)(uniform() * 4294967296.0);
    for (int i = 0; i < n_row; i++) {
        row[i] = (struct sample_row){
            .temperature = p.temperature, .top_p = p.top_p, .min_p = p.min_p,
            .presence = p.presence_penalty, .frequency = p.frequency_penalty,
            .repetition = p.repetition_penalty, .seed = 1000 + (unsigned)i,
            .draw = (uint32_t)i, .top_k = p.top_k, .slot = 0, .row = i,
            .out = i, .target = -1, .n_top = TOP,
            .mask = s->mask ? 0 : -1, .n_bias = (int)p.n_bias,
            .draws = true, .penal = s->penal,
        };
        /* One slot serves all rows, so counts must not move. */
        row[i].slot = i;
    }
    to_device(d->logits, logits, (size_t)n_row * VOCAB * 4);
    to_device(d->mask, mask, words * 4);
    to_device(d->row, row, ROWS * sizeof *row);
    to_device(d->bias_id, bias_id, sizeof bias_id);
    to_device(d->bias, bias, sizeof bias);
    to_device(d->ids, history, (size_t)n_history * 4);
    int r = 0;
    for (int i = 0; r == 0 && s->penal && i < n_row; i++)
        r = cuda_count_ids(d->count, VOCAB, i, d->ids, n_history,
                           n_history / 2, true, 0);
    struct sample a = {
        .row = d->row, .n = n_row, .vocab = VOCAB, .logits = d->logits,
        .copy = d->copy, .mask = d->mask, .bias_id = d->bias_id,
        .bias = d->bias, .count = d->count, .last = d->last, .out = d->out,
        .top_id = d->top_id, .top_logprob = d->top_logprob,
    };
    if (r == 0)
        r = cuda_sample(&a, 0);
    if (r == 0)
        r = (int)cudaDeviceSynchronize();
    if (r != 0) {
        printf("FAIL %s: %s\n", s->what, cudaGetErrorString((cudaError_t)r));
        exit(1);
    }
    cudaMemcpy(out, d->out, ROWS * sizeof *out, cudaMemcpyDeviceToHost);
    cudaMemcpy(top_id, d->top_id, (size_t)ROWS * BACKEND_TOP_MAX * 4,
               cudaMemcpyDeviceToHost);
    cudaMemcpy(top_lp, d->top_logprob, (size_t)ROWS * BACKEND_TOP_MAX * 4,
               cudaMemcpyDeviceToHost);
    for (int i = 0; i < n_row; i++) {
        struct logprob top[TOP];
        struct sample_state st = {
            .sampling = &p, .history = history,
            .n_history = (uint32_t)n_history,
            .n_prompt = (uint32_t)n_history / 2, .index = (uint32_t)i,
            .mask = s->mask ? mask : NULL,
        };
        const float *l = logits + (size_t)i * VOCAB;
        p.seed = 1000 + (unsigned)i;
        sample_process(w, l, &st);
        int32_t id = sample_draw(w, &st);
        other += id != out[i].id;
        id = out[i].id;
        double sum = sample_log_sum(w, w->logits);
        double lp = (double)w->logits[id] - sum;
        bool same = (lp == -INFINITY && out[i].logprob == -INFINITY)
                    || fabs(lp - (double)out[i].logprob) < 1e-4;
        same &= (uint32_t)out[i].rank == sample_rank(w->logits, VOCAB, id);
        sample_top(w, w->logits, sum, TOP, top);
        for (int k = 0; k < TOP; k++) {
            int at = i * BACKEND_TOP_MAX + k;
            same &= top[k].id == top_id[at]
                    && fabsf(top[k].logprob - top_lp[at]) < 1e-4f;
        }
        wrong += !same;
    }
    free(logits);
    free(mask);
    free(row);
    free(out);
    free(top_id);
    free(top_lp);
    /* A uniform number that falls within rounding of a boundary may take the
     * neighbour: expected for less than one draw in a hundred. */
    bool ok = wrong == 0 && other <= ROWS / 50;
    printf("%s %s: %d of %d ids differ, %d wrong log-probabilities\n",
           ok ? "ok  " : "FAIL", s->what, other, n_row, wrong);
    return !ok;
}

int
main(int argc, char **argv)
{
    int n = 0, bad = 0;
    if (argc > 1 && strcmp(argv[1], "-s") == 0)
        n_row = ROWS_BRIEF;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    struct device d = {
        .logits = on_device((size_t)ROWS * VOCAB * 4),
        .copy = on_device((size_t)ROWS * VOCAB * 4),
        .bias = on_device(64), .bias_id = on_device(64),
        .top_logprob = on_device((size_t)ROWS * BACKEND_TOP_MAX * 4),
        .top_id = on_device((size_t)ROWS * BACKEND_TOP_MAX * 4),
        .row = on_device(ROWS * sizeof(struct sample_row)),
        .mask = on_device(VOCAB / 8), .last = on_device(ROWS * 4),
        .ids = on_device(4096), .out = on_device(ROWS * 64),
        .count = on_device((size_t)ROWS * VOCAB * 2),
    };
    struct sample_scratch w;
    const struct kernels *k = kernels_find(NULL);
    size_t size = sample_layout(&w, k, VOCAB, NULL);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size) != 0)
        return 1;
    memset(memory, 0, size);
    sample_layout(&w, k, VOCAB, memory);
    int32_t history[400];
    for (int i = 0; i < 400; i++)
        history[i] = (int32_t)(uniform() * VOCAB) / (i % 3 ? 1 : 4096);
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++)
        bad += try_settings(&tried[i], &d, &w, history, 400);
    free(memory);
    return bad != 0;
}
