/* The null back end: what it draws, its pace, its scripts, its errors. */
#include "config.h"

#include "backend/backend.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

const struct backend_ops *const backend_table[] = {&backend_null, NULL};

static const struct backend_limits limits = {
    .max_seqs = 4, .max_step = 64, .max_context = 1000, .n_vocab = 5000,
    .n_special = 1000};

static struct backend *
open_null(const char *name)
{
    struct err e = {0};
    struct backend_plan p;
    const char *spec;
    struct backend *b;
    const struct backend_ops *ops = backend_find(backend_table, name, &spec);
    assert_ptr_equal(ops, &backend_null);
    assert_int_equal(ops->open(spec, &b, &e), 0);
    assert_int_equal(ops->plan(b, NULL, &limits, &p, &e), 0);
    assert_true(p.fits);
    assert_true(p.n_blocks >= 16);
    assert_int_equal(ops->load(b, NULL, NULL, &e), 0);
    return b;
}

static int32_t tokens[64];

static struct batch_seq
seq(uint32_t slot, const struct sampling *s, uint32_t n_drawn)
{
    return (struct batch_seq){.slot = slot, .n_tok = 1, .reset = true,
                              .sample = true, .sampling = s, .max_out = 1,
                              .n_drawn = n_drawn, .history = tokens,
                              .n_history = 8, .n_prompt = 8, .n_top = -1};
}

static struct seq_result
run(struct backend *b, struct batch_seq *q)
{
    struct err e = {0};
    struct step_result res;
    struct batch batch = {.n_tok = q->n_tok, .n_seq = 1, .token = tokens,
                          .seq = q};
    assert_int_equal(b->ops->submit(b, &batch, &e), 0);
    assert_int_equal(b->ops->collect(b, &res, &e), 0);
    assert_int_equal(res.n_seq, 1);
    return res.seq[0];
}

static void
test_draws(void **state)
{
    struct backend *b = open_null("null");
    struct sampling s = {.seed = 7};
    for (uint32_t i = 0; i < 100; i++) {
        struct batch_seq q = seq(i % 4, &s, i);
        struct seq_result r = run(b, &q);
        assert_int_equal(r.n_out, 1);
        assert_in_range(r.out[0], 1097, 1122);
        q.slot = 3 - q.slot;
        assert_int_equal(run(b, &q).out[0], r.out[0]); /* by seed and place */
        q.sample = false;
        assert_int_equal(run(b, &q).n_out, 0);
    }
    b->ops->close(b);
    b = open_null("null:ids=5-6");
    for (uint32_t i = 0; i < 20; i++) {
        struct batch_seq q = seq(0, &s, i);
        assert_in_range(run(b, &q).out[0], 5, 6);
    }
    b->ops->close(b);
}

static void
test_lists(void **state)
{
    struct backend *b = open_null("null:ids=10");
    static const int32_t ten[] = {10}, some[] = {40, 41};
    uint32_t mask[5000 / 32 + 1] = {0};
    struct sampling s = {.ban = ten, .n_ban = 1, .ban_until = 3};
    struct batch_seq q = seq(0, &s, 2);
    assert_int_equal(run(b, &q).out[0], 11);
    q.n_drawn = 3;
    assert_int_equal(run(b, &q).out[0], 10);
    s.bad = ten;
    s.n_bad = 1;
    assert_int_equal(run(b, &q).out[0], 11);
    mask[4] = 1u << 2; /* 130 */
    q.mask = mask;
    assert_int_equal(run(b, &q).out[0], 130);
    q.mask = NULL;
    s.allowed = some;
    s.n_allowed = 2;
    assert_int_equal(run(b, &q).out[0], 40);
    b->ops->close(b);
}

static void
test_logprobs(void **state)
{
    struct backend *b = open_null("null:ids=4999");
    struct sampling s = {0};
    static const int32_t target[] = {12, 0, -1};
    struct batch_seq q = seq(0, &s, 0);
    q.n_tok = 3;
    q.n_top = 5;
    q.target = target;
    q.target_top = 2;
    struct seq_result r = run(b, &q);
    assert_int_equal(r.drawn[0].id, 4999);
    assert_int_equal(r.drawn_rank[0], 1);
    assert_int_equal(r.top[0].id, 4999);
    assert_true(r.top[0].logprob == r.drawn[0].logprob);
    for (int i = 1; i < 5; i++)
        assert_true(r.top[i].logprob < r.top[i - 1].logprob);
    assert_int_equal(r.target[0].id, 12);
    assert_int_equal(r.target_rank[0], 2);
    assert_int_equal(r.target_top[0].id, 11);
    assert_int_equal(r.target_top[1].id, 12);
    assert_true(r.target_top[1].logprob == r.target[0].logprob);
    assert_int_equal(r.target[2].id, -1);
    b->ops->close(b);
}

static void
test_pace(void **state)
{
    struct backend *b = open_null("null:rate=200");
    struct sampling s = {0};
    struct batch_seq q = seq(0, &s, 0);
    run(b, &q);
    uint64_t from = clock_ns();
    for (int i = 0; i < 20; i++)
        run(b, &q);
    uint64_t took = clock_ns() - from;
    assert_in_range(took, 95000000u, 400000000u);
    q.sample = false; /* prompts cost nothing */
    from = clock_ns();
    for (int i = 0; i < 20; i++)
        run(b, &q);
    assert_in_range(clock_ns() - from, 0, 90000000u);
    b->ops->close(b);
}

static char path[64];

static void
write_script(const char *text)
{
    snprintf(path, sizeof path, "test_null.XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void
test_scripts(void **state)
{
    char name[128];
    write_script("[20, 21, 2]\n[30]\n{\"find\": [5, 6], \"ids\": [40, 41]}\n");
    snprintf(name, sizeof name, "null:rate=0,end=3,script=%s", path);
    struct backend *b = open_null(name);
    struct sampling s = {0};
    static const int32_t zero[] = {20, 21, 2, 3, 3}, one[] = {30, 3, 3};
    static const int32_t found[] = {40, 41, 3};
    for (uint32_t i = 0; i < 5; i++) {
        struct batch_seq q = seq(0, &s, i);
        assert_int_equal(run(b, &q).out[0], zero[i]);
    }
    s.seed = 1;
    for (uint32_t i = 0; i < 3; i++) {
        struct batch_seq q = seq(1, &s, i);
        assert_int_equal(run(b, &q).out[0], one[i]);
    }
    tokens[6] = 5; /* the end of the prompt of 8 */
    tokens[7] = 6;
    for (uint32_t i = 0; i < 3; i++) {
        struct batch_seq q = seq(1, &s, i);
        assert_int_equal(run(b, &q).out[0], found[i]);
    }
    tokens[7] = 0;
    tokens[8] = 6; /* behind the prompt */
    s.seed = 2; /* a line, but one with find */
    struct batch_seq q = seq(0, &s, 0);
    assert_in_range(run(b, &q).out[0], 1097, 1122);
    tokens[6] = tokens[8] = 0;
    b->ops->close(b);
    unlink(path);
}

static void
refused(const char *spec, const char *why)
{
    struct err e = {0};
    struct backend *b = NULL;
    struct backend_plan p;
    int rc = backend_null.open(spec, &b, &e);
    if (rc == 0) {
        rc = backend_null.plan(b, NULL, &limits, &p, &e);
        backend_null.close(b);
    }
    assert_int_not_equal(rc, 0);
    if (strstr(e.text, why) == NULL)
        fail_msg("%s: %s", spec, e.text);
}

static void
test_bad_specs(void **state)
{
    char spec[128];
    const char *spec_of_name;
    assert_null(backend_find(backend_table, "nul", &spec_of_name));
    assert_null(backend_find(backend_table, "nullx:rate=1", &spec_of_name));
    refused("speed=3", "no key 'speed'");
    refused("rate", "out of range");
    refused("rate=-1", "out of range");
    refused("rate=1x", "out of range");
    refused("ids=9-3", "out of range");
    refused("ids=1-5000", "outside the vocabulary");
    refused("end=5000", "outside the vocabulary");
    refused("vocab=0", "out of range");
    refused("script=/nonexistent", "/nonexistent");
    static const char *const bad[] = {"[1, -1]", "{\"ids\": [1]}", "[1,",
                                      "{\"find\": [], \"ids\": [1]}", "7",
                                      "[1.5]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[64];
        snprintf(text, sizeof text, "[1]\n%s\n", bad[i]);
        write_script(text);
        snprintf(spec, sizeof spec, "script=%s", path);
        refused(spec, "line 2");
        unlink(path);
    }
    write_script("[4999, 5000]");
    snprintf(spec, sizeof spec, "script=%s", path);
    refused(spec, "id 5000 is outside");
    unlink(path);
}

static void
test_failure(void **state)
{
    struct err e = {0};
    struct step_result res;
    struct sampling s = {0};
    struct backend *b = open_null("null:fail=1");
    struct batch_seq q = seq(0, &s, 0);
    run(b, &q);
    struct batch batch = {.n_tok = 1, .n_seq = 1, .token = tokens,
                          .seq = &q, .step = 1};
    assert_int_equal(b->ops->submit(b, &batch, &e), 0);
    assert_int_equal(b->ops->collect(b, &res, &e), ERR_DEVICE);
    b->ops->close(b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),     cmocka_unit_test(test_lists),
        cmocka_unit_test(test_logprobs),  cmocka_unit_test(test_pace),
        cmocka_unit_test(test_scripts),   cmocka_unit_test(test_bad_specs),
        cmocka_unit_test(test_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
