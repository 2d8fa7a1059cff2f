/* Sampling: every knob against its definition. */
#include "config.h"

#include "cpu/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { V = 500 };

static struct sample_scratch scratch;
static void *memory;
static float logits[V];

static int
set_up(void **state)
{
    (void)state;
    size_t size = sample_layout(&scratch, kernels_find(NULL), V, NULL);
    memory = aligned_alloc(64, size);
    if (memory == NULL)
        return 1;
    memset(memory, 0, size);
    sample_layout(&scratch, kernels_find(NULL), V, memory);
    /* a spread of distinct values, best at id 123 */
    for (int i = 0; i < V; i++)
        logits[i] = -0.02f * (float)((i * 377 + 469) % V);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    free(memory);
    return 0;
}

static const struct sampling plain = {.temperature = 1, .top_p = 1,
                                      .repetition_penalty = 1, .seed = 5};

static int32_t
draw(const struct sampling *p, uint32_t index)
{
    struct sample_state s = {.sampling = p, .index = index};
    sample_process(&scratch, logits, &s);
    return sample_draw(&scratch, &s);
}

/* Draws often and compares the frequencies with probabilities from `want`
 * (not normalised); ids with 0 must never come. */
static void
check_frequencies(const struct sampling *p, const double *want)
{
    enum { N = 15000 };
    static int count[V];
    double total = 0, chi = 0, cells = 0;
    memset(count, 0, sizeof count);
    for (int i = 0; i < V; i++)
        total += want[i];
    for (uint32_t i = 0; i < N; i++)
        count[draw(p, i)]++;
    for (int i = 0; i < V; i++) {
        double expected = N * want[i] / total;
        if (want[i] == 0)
            assert_int_equal(count[i], 0);
        if (expected < 20)
            continue;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        cells++;
    }
    /* six standard deviations */
    assert_true(chi < cells + 6 * sqrt(2 * cells) + 10);
}

static double
weight(int id, double temperature)
{
    return exp((double)logits[id] / temperature);
}

static void
greedy_takes_the_best(void **state)
{
    (void)state;
    struct sampling p = plain;
    int best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best])
            best = i;
    p.temperature = 0;
    assert_int_equal(draw(&p, 0), best);
    float kept = logits[best];
    logits[best] = logits[7] = 3; /* a tie goes to the lower id */
    assert_int_equal(draw(&p, 0), best < 7 ? best : 7);
    logits[best] = kept;
    logits[7] = -0.02f * (float)((7 * 377 + 469) % V);
}

static void
draws_follow_the_distribution(void **state)
{
    (void)state;
    struct sampling p = plain;
    double want[V];
    for (int i = 0; i < V; i++)
        want[i] = weight(i, 1);
    check_frequencies(&p, want);
    p.temperature = 0.5f;
    for (int i = 0; i < V; i++)
        want[i] = weight(i, 0.5);
    check_frequencies(&p, want);
}

/* Keeps the n best of want. */
static void
keep(double *want, int n)
{
    for (int i = 0; i < V; i++) {
        int before = 0;
        for (int j = 0; j < V; j++)
            before += logits[j] > logits[i]
                      || (logits[j] == logits[i] && j < i);
        want[i] = before < n ? weight(i, 1) : 0;
    }
}

static int
nucleus(double share, int among)
{
    double sorted[V], total = 0, sum = 0;
    for (int i = 0; i < V; i++) {
        int before = 0;
        for (int j = 0; j < V; j++)
            before += logits[j] > logits[i]
                      || (logits[j] == logits[i] && j < i);
        sorted[before] = weight(i, 1);
    }
    for (int i = 0; i < among; i++)
        total += sorted[i];
    for (int i = 0; i < among; i++)
        if ((sum += sorted[i]) >= share * total)
            return i + 1;
    return among;
}

static void
cuts_keep_the_right_ids(void **state)
{
    (void)state;
    static const int ks[] = {1, 2, 40, 499, 500, 9000};
    static const float shares[] = {0.01f, 0.3f, 0.9f, 0.999f};
    double want[V];
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        struct sampling p = plain;
        p.top_k = ks[i];
        keep(want, ks[i]);
        check_frequencies(&p, want);
    }
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        struct sampling p = plain;
        p.top_p = shares[i];
        keep(want, nucleus((double)shares[i], V));
        check_frequencies(&p, want);
        p.top_k = 30;
        keep(want, nucleus((double)shares[i], 30));
        check_frequencies(&p, want);
    }
    struct sampling p = plain;
    p.min_p = 0.5f;
    double top = 0;
    for (int i = 0; i < V; i++)
        top = weight(i, 1) > top ? weight(i, 1) : top;
    for (int i = 0; i < V; i++)
        want[i] = weight(i, 1) >= 0.5 * top ? weight(i, 1) : 0;
    check_frequencies(&p, want);
    p.top_p = 0.99f;
    check_frequencies(&p, want);
}

static void
penalties_change_logits_once(void **state)
{
    (void)state;
    const int32_t history[] = {3, 4, 4, 9, 5, 5, 5};
    const int32_t recent[] = {6, 5};
    struct sampling p = plain;
    struct sample_state s = {.sampling = &p, .history = history,
                             .n_history = 7, .n_prompt = 4,
                             .recent = recent, .n_recent = 2};
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    sample_process(&scratch, logits, &s);
    for (int i = 0; i < V; i++) {
        float want = logits[i];
        if (i == 5)
            want -= 0.5f + 0.25f * 4;
        if (i == 6)
            want -= 0.5f + 0.25f;
        assert_true(scratch.logits[i] == want);
    }
    p = plain;
    p.repetition_penalty = 2;
    float kept = logits[9];
    logits[9] = 4;
    sample_process(&scratch, logits, &s);
    for (int i = 0; i < V; i++) {
        float want = logits[i];
        if ((i >= 3 && i <= 6) || i == 9)
            want = want > 0 ? want / 2 : want * 2;
        assert_true(scratch.logits[i] == want);
    }
    logits[9] = kept;
    for (int i = 0; i < V; i++)
        assert_int_equal(scratch.count[i], 0);
}

static void
bias_and_lists(void **state)
{
    (void)state;
    const int32_t id[] = {11, 12, V + 3, -1};
    const float bias[] = {100, 99, 500, 500};
    struct sampling p = plain;
    p.temperature = 0;
    p.bias_id = id;
    p.bias = bias;
    p.n_bias = 4;
    assert_int_equal(draw(&p, 0), 11);
    p.bad = id;
    p.n_bad = 1;
    assert_int_equal(draw(&p, 0), 12);
    p.n_bad = 0;
    p.ban = id;
    p.n_ban = 1;
    p.ban_until = 3;
    assert_int_equal(draw(&p, 2), 12);
    assert_int_equal(draw(&p, 3), 11);
    const int32_t allowed[] = {30, 40};
    p.allowed = allowed;
    p.n_allowed = 2;
    assert_int_equal(draw(&p, 0), logits[30] > logits[40] ? 30 : 40);
    /* lists that leave nothing give way, the minimum length first */
    p.ban = allowed;
    p.n_ban = 2;
    assert_int_equal(draw(&p, 0), logits[30] > logits[40] ? 30 : 40);
    p.bad = allowed;
    p.n_bad = 1;
    assert_int_equal(draw(&p, 0), 40);
}

static void
grammar_mask(void **state)
{
    (void)state;
    uint32_t mask[(V + 31) / 32] = {0};
    struct sampling p = plain;
    mask[77 / 32] |= 1u << (77 % 32);
    struct sample_state s = {.sampling = &p, .mask = mask};
    for (uint32_t i = 0; i < 50; i++) {
        s.index = i;
        sample_process(&scratch, logits, &s);
        assert_int_equal(sample_draw(&scratch, &s), 77);
    }
    const int32_t id = 77;
    p.bad = &id;
    p.n_bad = 1;
    sample_process(&scratch, logits, &s);
    assert_int_equal(sample_draw(&scratch, &s), 77);
    mask[77 / 32] = 0;
    sample_process(&scratch, logits, &s);
    assert_int_equal(sample_draw(&scratch, &s), 0);
}

static void
seeds_and_indices(void **state)
{
    (void)state;
    struct sampling p = plain, q = plain;
    int same = 0, equal_neighbours = 0;
    q.seed = 6;
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(draw(&p, i), draw(&p, i));
        same += draw(&p, i) == draw(&q, i);
        equal_neighbours += draw(&p, i) == draw(&p, i + 1);
    }
    assert_true(same < 60 && equal_neighbours < 60);
    double sum = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        double u = sample_uniform(0, i, 0);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
}

static void
log_probabilities(void **state)
{
    (void)state;
    double total = 0;
    struct logprob top[20];
    for (int i = 0; i < V; i++)
        total += weight(i, 1);
    double log_sum = sample_log_sum(&scratch, logits);
    assert_true(fabs(log_sum - log(total)) < 1e-5);
    sample_top(&scratch, logits, log_sum, 20, top);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(sample_rank(logits, V, top[i].id), i + 1);
        assert_true(fabs(top[i].logprob
                         - log(weight(top[i].id, 1) / total)) < 1e-5);
    }
    float same[V] = {0};
    sample_top(&scratch, same, sample_log_sum(&scratch, same), 20, top);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(top[i].id, i);
        assert_int_equal(sample_rank(same, V, i), i + 1);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_best),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(cuts_keep_the_right_ids),
        cmocka_unit_test(penalties_change_logits_once),
        cmocka_unit_test(bias_and_lists),
        cmocka_unit_test(grammar_mask),
        cmocka_unit_test(seeds_and_indices),
        cmocka_unit_test(log_probabilities),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
