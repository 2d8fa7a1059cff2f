/* The self-test's plain sampling against the CPU back end's, which it must
 * agree with, and against what no rule gives. Needs no GPU. */
#include "config.h"

#include "cuda/selftest/selftest_sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/sample.h"

#define VOCAB 8192
#define N_HISTORY 30
#define N_TOP 7

static float logits[VOCAB];
static int32_t history[N_HISTORY];
static uint32_t mask[MASK_WORDS(VOCAB)];
static uint64_t rng = 1;

static double
random_unit(void)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(rng >> 11) * 0x1p-53;
}

/* One draw by the CPU's sampler as a back end reports it. */
struct drawn {
    struct sample_scratch w;
    struct logprob drawn, target, top[N_TOP], target_top[N_TOP];
    uint32_t rank, target_rank;
    struct seq_result r;
};

static void
draw(struct drawn *d, const struct batch_seq *q)
{
    const struct sample_state st = {
        .sampling = q->sampling, .history = q->history,
        .n_history = q->n_history, .n_prompt = q->n_prompt,
        .index = q->n_drawn, .mask = q->mask};
    double sum = sample_log_sum(&d->w, logits);
    int32_t id = q->target[0];
    d->target = (struct logprob){id, (float)((double)logits[id] - sum)};
    d->target_rank = sample_rank(logits, VOCAB, id);
    sample_top(&d->w, logits, sum, N_TOP, d->target_top);
    sample_process(&d->w, logits, &st);
    id = sample_draw(&d->w, &st);
    sum = sample_log_sum(&d->w, d->w.logits);
    d->drawn = (struct logprob){id, (float)((double)d->w.logits[id] - sum)};
    d->rank = sample_rank(d->w.logits, VOCAB, id);
    sample_top(&d->w, d->w.logits, sum, N_TOP, d->top);
    d->r = (struct seq_result){
        .n_out = 1, .out = {id}, .drawn = &d->drawn, .drawn_rank = &d->rank,
        .top = d->top, .target = &d->target, .target_rank = &d->target_rank,
        .target_top = d->target_top};
}

/* The draw is right, and nothing else in its place is. */
static void
check(struct drawn *d, const struct batch_seq *q)
{
    draw(d, q);
    const struct drawn good = *d;
    const char *fault = sample_fault(q, logits, VOCAB, &d->r);
    if (fault != NULL)
        fail_msg("%s", fault);
    d->r.out[0] = (d->r.out[0] + VOCAB / 2) % VOCAB;
    assert_non_null(sample_fault(q, logits, VOCAB, &d->r));
    *d = good;
    d->drawn.logprob += .01f;
    assert_non_null(sample_fault(q, logits, VOCAB, &d->r));
    *d = good;
    d->rank++;
    assert_non_null(sample_fault(q, logits, VOCAB, &d->r));
    *d = good;
    d->top[1].id = d->top[0].id;
    assert_non_null(sample_fault(q, logits, VOCAB, &d->r));
    *d = good;
    d->target_rank++;
    assert_non_null(sample_fault(q, logits, VOCAB, &d->r));
    *d = good;
}

static void
test_draws(void **state)
{
    static const int32_t listed[] = {7, 300, 301, 4000, 8000, 8191};
    static const float bias[] = {3, -2};
    const struct sampling rules[] = {
        {.top_p = 1},
        {.temperature = .7f, .top_p = 1},
        {.temperature = 1.3f, .top_p = 1, .min_p = .02f},
        {.temperature = 1, .top_p = .9f},
        {.temperature = 1, .top_k = 40, .top_p = .8f, .min_p = .05f},
        {.temperature = 1, .top_k = 6000, .top_p = 1},
        {.temperature = .9f, .top_p = .95f, .presence_penalty = .4f,
         .frequency_penalty = .3f},
        {.temperature = .9f, .top_p = 1, .bias_id = listed, .bias = bias,
         .n_bias = 2, .bad = listed + 4, .n_bad = 2},
        {.temperature = 1, .top_p = .9f, .allowed = listed, .n_allowed = 6},
    };
    static struct drawn d;
    void *memory = NULL;
    const struct kernels *k = kernels_find(NULL);
    size_t size = sample_layout(&d.w, k, VOCAB, NULL);
    assert_int_equal(posix_memalign(&memory, 64, size), 0);
    memset(memory, 0, size);
    sample_layout(&d.w, k, VOCAB, memory);
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < VOCAB; i++)
            logits[i] = (float)((round + 1) * (random_unit() - .5));
        for (int i = 0; i < N_HISTORY; i++)
            history[i] = (int32_t)(random_unit() * (i % 3 ? VOCAB : 9));
        for (size_t i = 0; i < sizeof mask / sizeof *mask; i++)
            mask[i] = (uint32_t)(random_unit() * 4294967296.0) | 2;
        for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
            struct sampling s = rules[i];
            const int32_t target = (int32_t)(random_unit() * VOCAB);
            struct batch_seq q = {
                .n_tok = 1, .sampling = &s, .n_drawn = (uint32_t)round,
                .history = history, .n_history = N_HISTORY, .n_prompt = 11,
                .mask = round % 2 && s.n_allowed == 0 ? mask : NULL,
                .n_top = N_TOP, .target = &target, .target_top = N_TOP};
            s.seed = (uint64_t)round * 100 + i;
            s.repetition_penalty = i == 6 ? 1.2f : 1;
            check(&d, &q);
        }
    }
    free(memory);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
