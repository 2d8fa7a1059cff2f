/* The engine on the fake device: one behaviour a test, in the overlapped and
 * the plain loop. */
#include "config.h"

#include "engine/engine.h"

#include "tests/unit/fake_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB 997
#define CONTEXT 4096

struct rig {
    struct fake_options f;
    struct engine_options o;
    struct backend *b;
    struct engine *en;
};

static void
rig_defaults(struct rig *g)
{
    g->f = (struct fake_options){.n_blocks = 256, .n_vocab = VOCAB,
                                 .max_seqs = 16, .max_out = 1, .depth = 2,
                                 .fail_step = -1};
    g->o = (struct engine_options){.max_running = 16, .max_queue = 64,
                                   .step_tokens = 512, .max_context = CONTEXT,
                                   .prefix_cache = true, .overlap = true,
                                   .n_vocab = VOCAB};
}

static void
rig_start(struct rig *g)
{
    struct err e = {0};
    g->o.n_blocks = g->f.n_blocks;
    g->o.max_out = g->f.max_out;
    g->b = fake_create(&g->f);
    assert_int_equal(engine_create(&g->o, g->b, &g->en, &e), 0);
}

/* Ends the engine; every block must be back and nothing broken. */
static void
rig_stop(struct rig *g)
{
    struct engine_stats st;
    engine_cache_reset(g->en);
    do
        engine_stats(g->en, &st);
    while (st.alive && (st.running || st.waiting));
    assert_int_equal(st.blocks_used, 0);
    assert_int_equal(st.blocks_cached, 0);
    engine_destroy(g->en);
    assert_int_equal(fake_faults(g->b), 0);
    if (st.alive)
        assert_int_equal(fake_images(g->b), 0);
    fake_destroy(g->b);
}

static void
submit(struct client *c, struct rig *g)
{
    assert_int_equal(client_submit(c, g->en), 0);
}

static void
finish(struct client *c)
{
    client_wait(c);
    client_check(c, VOCAB, CONTEXT);
}

static void
test_many_at_once(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client c[40];
        rig_defaults(&g);
        g.o.overlap = mode & 1;
        g.f.max_out = mode & 2 ? 5 : 1;
        g.o.prefill_chunk = 100;
        rig_start(&g);
        for (uint32_t i = 0; i < 40; i++) {
            client_init(&c[i], 1 + i * 13, i, VOCAB, 1 + i * 7 % 90);
            submit(&c[i], &g);
        }
        for (int i = 0; i < 40; i++) {
            finish(&c[i]);
            assert_true(c[i].prefill_ns > 0);
            client_free(&c[i]);
        }
        assert_true(fake_largest(g.b) <= g.o.step_tokens);
        rig_stop(&g);
    }
}

static void
test_prefix_hit(void **state)
{
    struct rig g;
    struct client a, b, s;
    rig_defaults(&g);
    rig_start(&g);
    client_init(&a, 64 * 5 + 10, 1, VOCAB, 100);
    submit(&a, &g);
    finish(&a);
    assert_int_equal(a.n_cached, 0);
    /* The next turn of the same chat: prompt, answer, something new. */
    client_init(&b, 0, 2, VOCAB, 50);
    struct ids p = {0};
    ids_append(&p, a.prompt, a.req.n_prompt);
    ids_append(&p, a.out.id, a.out.n);
    for (int i = 0; i < 30; i++)
        ids_push(&p, i);
    b.req.prompt = p.id;
    b.req.n_prompt = (uint32_t)p.n;
    uint64_t before = fake_tokens(g.b);
    submit(&b, &g);
    finish(&b);
    /* 330 + 100 tokens; the last one drawn is not in the cache. */
    assert_int_equal(b.n_cached, 6 * 64);
    assert_int_equal(fake_tokens(g.b) - before, p.n - 6 * 64 + 49);
    /* The same text under another salt finds nothing, and the same answer. */
    client_init(&s, 0, 2, VOCAB, 50);
    s.req.prompt = p.id;
    s.req.n_prompt = (uint32_t)p.n;
    s.req.cache_salt = STR("tenant");
    submit(&s, &g);
    finish(&s);
    assert_int_equal(s.n_cached, 0);
    ids_free(&p);
    client_free(&a);
    client_free(&b);
    client_free(&s);
    rig_stop(&g);
}

/* A prompt of whole blocks that is all in the cache: its last token has to be
 * computed again, and nothing shared may be written. */
static void
test_prefix_whole(void **state)
{
    struct rig g;
    rig_defaults(&g);
    rig_start(&g);
    for (int i = 0; i < 3; i++) {
        struct client c;
        client_init(&c, 128, 9, VOCAB, 70);
        submit(&c, &g);
        finish(&c);
        assert_int_equal(c.n_cached, i ? 64 : 0);
        client_free(&c);
    }
    g.o.prefix_cache = false;
    rig_stop(&g);
    rig_start(&g);
    for (int i = 0; i < 2; i++) {
        struct client c;
        client_init(&c, 128, 9, VOCAB, 70);
        submit(&c, &g);
        finish(&c);
        assert_int_equal(c.n_cached, 0);
        client_free(&c);
    }
    rig_stop(&g);
}

static void
test_preemption(void **state)
{
    for (int mode = 0; mode < 8; mode++) {
        struct rig g;
        struct client c[12];
        rig_defaults(&g);
        g.f.n_blocks = 20;
        g.o.overlap = mode & 1;
        g.o.prefix_cache = mode & 2;
        g.f.max_out = mode & 4 ? 4 : 1;
        rig_start(&g);
        for (uint32_t i = 0; i < 12; i++) {
            client_init(&c[i], 60 + i, 100 + i, VOCAB, 300);
            submit(&c[i], &g);
        }
        for (int i = 0; i < 12; i++) {
            client_wait(&c[i]);
            client_check(&c[i], VOCAB, 20 * 64);
        }
        /* 12 texts of 6 blocks do not fit 20: some were computed twice. */
        uint64_t once = 0;
        for (uint32_t i = 0; i < 12; i++)
            once += 60 + i + 299;
        if (!(mode & 4) && !g.o.prefix_cache)
            assert_true(fake_tokens(g.b) > once);
        for (int i = 0; i < 12; i++)
            client_free(&c[i]);
        rig_stop(&g);
    }
}

/* One running at a time: the queue's order is priority, then arrival. */
static void
test_priority(void **state)
{
    struct rig g;
    struct client c[7];
    static const int64_t prio[7] = {0, 5, 5, -1, 0, -1, 9};
    static const uint64_t order[7] = {1, 5, 6, 2, 4, 3, 7};
    rig_defaults(&g);
    g.o.max_running = 1;
    g.f.step_us = 2000;
    rig_start(&g);
    for (uint32_t i = 0; i < 7; i++) {
        client_init(&c[i], 10, i, VOCAB, 20);
        c[i].req.priority = prio[i];
        submit(&c[i], &g);
        while (i == 0 && client_n_out(&c[0]) == 0)
            usleep(500);
    }
    for (int i = 0; i < 7; i++)
        finish(&c[i]);
    uint64_t first = c[0].end_order;
    for (int i = 0; i < 7; i++) {
        assert_int_equal(c[i].end_order - first + 1, order[i]);
        client_free(&c[i]);
    }
    rig_stop(&g);
}

static void
test_queue_full(void **state)
{
    struct rig g;
    struct client c[6];
    rig_defaults(&g);
    g.o.max_running = 2;
    g.o.max_queue = 3;
    g.f.step_us = 5000;
    rig_start(&g);
    for (uint32_t i = 0; i < 6; i++) {
        client_init(&c[i], 10, i, VOCAB, 10);
        assert_int_equal(client_submit(&c[i], g.en), i < 5 ? 0 : ERR_AGAIN);
    }
    for (int i = 0; i < 5; i++)
        finish(&c[i]);
    assert_int_equal(c[5].n_last, 0);
    int rc;
    while ((rc = client_submit(&c[5], g.en)) == ERR_AGAIN)
        usleep(500);
    assert_int_equal(rc, 0);
    finish(&c[5]);
    for (int i = 0; i < 6; i++)
        client_free(&c[i]);
    rig_stop(&g);
}

static void
test_refusals(void **state)
{
    struct rig g;
    struct client c;
    int32_t bad = VOCAB;
    rig_defaults(&g);
    rig_start(&g);
    client_init(&c, CONTEXT + 1, 1, VOCAB, 10);
    assert_int_equal(client_submit(&c, g.en), ERR_LIMIT);
    c.req.n_prompt = 0;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.n_prompt = 5;
    c.prompt[3] = VOCAB;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.prompt[3] = -1;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.prompt[3] = 1;
    c.req.stop_id = &bad;
    c.req.n_stop = 1;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.n_stop = 0;
    c.req.n_top = BACKEND_TOP_MAX + 1;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.n_top = -1;
    struct engine_word word = {&bad, 1}; /* one id belongs to bad */
    c.req.word = &word;
    c.req.n_word = 1;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.n_word = 0;
    c.req.repetition = (struct engine_repetition){1, 4, 1};
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.repetition = (struct engine_repetition){5, 4, 2};
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.repetition = (struct engine_repetition){0};
    c.req.ask = c.prompt; /* for a device that does not take it */
    c.req.n_ask = 1;
    c.req.n_top = 0;
    assert_int_equal(client_submit(&c, g.en), ERR_UNSUPPORTED);
    c.req.n_ask = 0;
    c.req.n_top = -1;
    static int32_t bias_id[BACKEND_BIAS_MAX + 1];
    static float bias[BACKEND_BIAS_MAX + 1];
    c.req.sampling.bias_id = bias_id;
    c.req.sampling.bias = bias;
    c.req.sampling.n_bias = BACKEND_BIAS_MAX + 1;
    assert_int_equal(client_submit(&c, g.en), ERR_RANGE);
    c.req.sampling.n_bias = 0;
    c.req.image = c.image;
    c.req.n_image = 1;
    assert_int_equal(client_submit(&c, g.en), ERR_UNSUPPORTED);
    c.req.n_image = 0;
    submit(&c, &g);
    finish(&c);
    client_free(&c);
    rig_stop(&g);
}

static void
test_limits(void **state)
{
    for (int overlap = 0; overlap < 2; overlap++) {
        struct rig g;
        struct client c[5];
        rig_defaults(&g);
        g.o.overlap = overlap;
        g.o.max_context = 200;
        rig_start(&g);
        static const uint32_t n_prompt[5] = {10, 150, 200, 199, 64};
        static const uint32_t n_out[5] = {30, 50, 0, 1, 0};
        for (uint32_t i = 0; i < 5; i++) {
            client_init(&c[i], n_prompt[i], i, VOCAB, 1000);
            if (i == 0 || i == 4)
                c[i].req.max_tokens = i == 0 ? 30 : 0;
            submit(&c[i], &g);
        }
        for (int i = 0; i < 5; i++) {
            client_wait(&c[i]);
            client_check(&c[i], VOCAB, 200);
            assert_int_equal(c[i].out.n, n_out[i]);
            assert_int_equal(c[i].finish, ENGINE_LENGTH);
            client_free(&c[i]);
        }
        rig_stop(&g);
    }
}

/* An id that the device draws for this client, after at least `after`. */
static int32_t
drawn_later(const struct client *c, size_t after)
{
    struct ids out = {0};
    client_expect(c, VOCAB, CONTEXT, &out);
    int32_t id = out.id[after];
    ids_free(&out);
    return id;
}

static void
test_ends(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client c[4];
        int32_t id[4];
        rig_defaults(&g);
        g.o.overlap = mode & 1;
        g.f.max_out = mode & 2 ? 6 : 1;
        rig_start(&g);
        for (uint32_t i = 0; i < 4; i++) {
            client_init(&c[i], 30, 50 + i, VOCAB, 100);
            id[i] = drawn_later(&c[i], 7 + i);
        }
        c[0].req.end_id = &id[0];
        c[0].req.n_end = 1;
        c[1].req.stop_id = &id[1];
        c[1].req.n_stop = 1;
        c[2].req.end_id = &id[2]; /* ignored */
        c[2].req.n_end = 1;
        c[2].req.ignore_end = true;
        c[3].req.end_id = &id[3]; /* banned for a while */
        c[3].req.n_end = 1;
        c[3].req.min_tokens = 40;
        for (int i = 0; i < 4; i++)
            submit(&c[i], &g);
        for (int i = 0; i < 4; i++)
            finish(&c[i]);
        assert_int_equal(c[0].finish, ENGINE_STOP);
        assert_int_equal(c[1].finish, ENGINE_STOP);
        assert_true(c[0].out.n <= 8 && c[1].out.n <= 9);
        assert_int_equal(c[2].out.n, 100);
        assert_true(c[3].out.n >= 40);
        for (int i = 0; i < 4; i++)
            client_free(&c[i]);
        rig_stop(&g);
    }
}

/* The engine puts the closing token in the place of the one drawn, while the
 * device may have gone on with that. */
static void
test_thinking(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client c[5];
        int32_t id[5];
        rig_defaults(&g);
        g.o.overlap = mode & 1;
        g.f.max_out = mode & 2 ? 6 : 1;
        rig_start(&g);
        for (uint32_t i = 0; i < 5; i++) {
            client_init(&c[i], 100 + i, 70 + i, VOCAB, 120);
            id[i] = drawn_later(&c[i], 20);
            c[i].req.think = (struct engine_think){
                .open = 3, .close = 4, .inside = true, .budget = -1};
            c[i].req.n_top = 2;
        }
        c[0].req.think.budget = 33;
        c[1].req.think.budget = 0;
        c[2].req.end_id = &id[2];
        c[2].req.n_end = 1;
        c[2].req.think.hold_end = true;
        c[3].req.end_id = &id[3]; /* not held */
        c[3].req.n_end = 1;
        c[4].req.think.inside = false; /* opens one by itself */
        c[4].req.think.open = id[4];
        c[4].req.think.budget = 11;
        for (int i = 0; i < 5; i++)
            submit(&c[i], &g);
        for (int i = 0; i < 5; i++)
            finish(&c[i]);
        assert_int_equal(c[0].out.id[33], 4);
        assert_int_equal(c[1].out.id[0], 4);
        assert_int_equal(c[3].finish, ENGINE_STOP);
        assert_true(c[2].out.n > c[3].out.n - 5);
        size_t held = 0;
        while (c[2].out.id[held] != 4)
            held++;
        assert_true(held <= 20);
        assert_int_equal(c[0].lp_id.n, c[0].out.n);
        assert_memory_equal(c[0].lp_id.id, c[0].out.id,
                            c[0].out.n * sizeof(int32_t));
        assert_true(c[0].lp[33] == 0.0f); /* forced */
        for (int i = 0; i < 5; i++)
            client_free(&c[i]);
        rig_stop(&g);
    }
}

static void
test_logprobs(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client warm, c;
        rig_defaults(&g);
        g.o.overlap = mode & 1;
        g.f.max_out = mode & 2 ? 3 : 1;
        g.o.prefill_chunk = 37;
        rig_start(&g);
        client_init(&warm, 300, 5, VOCAB, 5);
        submit(&warm, &g);
        finish(&warm);
        client_init(&c, 300, 5, VOCAB, 40);
        c.req.prompt_top = 2;
        c.req.n_top = 3;
        submit(&c, &g);
        finish(&c);
        assert_int_equal(c.n_cached, 0); /* the prefix was not read */
        assert_int_equal(c.prompt_lp->n, 300);
        assert_int_equal(c.prompt_lp->n_top, 2);
        assert_int_equal(c.prompt_lp->token[0].id, -1);
        uint64_t hash = 0;
        for (uint32_t i = 0; i < 300; i++) {
            if (i > 0) {
                struct logprob t = c.prompt_lp->token[i];
                assert_int_equal(t.id, c.prompt[i]);
                assert_true(t.logprob == fake_logprob(hash, t.id));
                assert_int_equal(c.prompt_lp->rank[i], 7);
                assert_int_equal(c.prompt_lp->top[i * 2 + 1].id, 1);
                assert_true(c.prompt_lp->top[i * 2 + 1].logprob ==
                            fake_logprob(hash, 1));
            }
            hash = fake_hash(hash, c.prompt[i], i, 0);
        }
        assert_int_equal(c.n_lp, c.out.n);
        for (uint32_t i = 0; i < c.out.n; i++) {
            assert_int_equal(c.lp_id.id[i], c.out.id[i]);
            assert_true(c.lp[i] == fake_logprob(hash, c.out.id[i]));
            hash = fake_hash(hash, c.out.id[i], 300 + i, 0);
        }
        client_free(&warm);
        client_free(&c);
        rig_stop(&g);
    }
}

/* A context so long that the request's text is mapped. */
static void
test_long_context(void **state)
{
    struct rig g;
    struct client c;
    rig_defaults(&g);
    g.o.max_context = 256 * 64;
    rig_start(&g);
    client_init(&c, 1000, 3, VOCAB, 1 << 20);
    submit(&c, &g);
    client_wait(&c);
    client_check(&c, VOCAB, 256 * 64);
    assert_int_equal(c.out.n, 256 * 64 - 1000);
    client_free(&c);
    rig_stop(&g);
}

/* Value of a metric in the text that dashboards read; -1: not there. */
static double
metric(const char *name)
{
    struct buf text = {0};
    char start[64];
    assert_int_equal(metrics_text(&text, 0), 0);
    snprintf(start, sizeof start, "\n%s{", name);
    char *line = strstr(buf_cstr(&text), start);
    char *value = line ? strchr(line, '}') : NULL;
    double x = value ? strtod(value + 1, NULL) : -1;
    buf_free(&text);
    return x;
}

static void
test_metrics(void **state)
{
    static const char *const name[] = {
        "sirocco_prompt_tokens_total", "sirocco_generation_tokens_total",
        "sirocco_prefix_cache_hits_total", "sirocco_drafts_total",
        "sirocco_draft_tokens_total", "sirocco_accepted_tokens_total"};
    double before[6], grown[6];
    struct rig g;
    rig_defaults(&g);
    g.f.max_out = 4;
    rig_start(&g);
    for (int i = 0; i < 6; i++)
        before[i] = metric(name[i]);
    for (int i = 0; i < 2; i++) {
        struct client c;
        client_init(&c, 200, 1, VOCAB, 100);
        submit(&c, &g);
        finish(&c);
        client_free(&c);
    }
    for (int i = 0; i < 6; i++) {
        assert_true(before[i] >= 0);
        grown[i] = metric(name[i]) - before[i];
    }
    assert_true(grown[0] == 400 && grown[1] == 200 && grown[2] == 192);
    /* Each step gives one token and the drafts accepted. */
    assert_true(grown[3] + grown[5] == 200);
    assert_true(grown[4] > grown[5] && grown[5] > 0);
    rig_stop(&g);
}

static void
test_cancel(void **state)
{
    struct rig g;
    struct client c[20];
    rig_defaults(&g);
    g.o.max_running = 4;
    g.f.step_us = 1000;
    rig_start(&g);
    for (uint32_t i = 0; i < 20; i++) {
        client_init(&c[i], 50, i, VOCAB, 2000);
        submit(&c[i], &g);
    }
    while (client_n_out(&c[2]) < 3)
        usleep(500);
    for (int i = 0; i < 20; i++) {
        engine_cancel(g.en, c[i].id);
        engine_cancel(g.en, c[i].id);
    }
    for (int i = 0; i < 20; i++) {
        client_wait(&c[i]);
        assert_int_equal(c[i].finish, ENGINE_CANCELLED);
    }
    engine_id old = c[0].id;
    struct client d;
    client_init(&d, 50, 3, VOCAB, 20);
    submit(&d, &g);
    engine_cancel(g.en, old); /* long gone */
    engine_cancel(g.en, 0);
    finish(&d);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(c[i].n_last, 1);
        client_free(&c[i]);
    }
    client_free(&d);
    rig_stop(&g);
}

static void
test_drain_and_destroy(void **state)
{
    struct rig g;
    struct client c[4];
    rig_defaults(&g);
    g.o.max_running = 2;
    g.f.step_us = 1000;
    rig_start(&g);
    for (uint32_t i = 0; i < 4; i++)
        client_init(&c[i], 50, i, VOCAB, i == 0 ? 30 : 100000);
    for (int i = 0; i < 3; i++)
        submit(&c[i], &g);
    engine_drain(g.en);
    assert_int_equal(client_submit(&c[3], g.en), ERR_CLOSED);
    finish(&c[0]); /* goes on */
    while (client_n_out(&c[2]) < 3)
        usleep(500);
    engine_destroy(g.en);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(c[i].n_last, 1);
        assert_int_equal(c[i].finish, ENGINE_ABORTED);
    }
    assert_int_equal(c[3].n_last, 0);
    assert_int_equal(fake_faults(g.b), 0);
    fake_destroy(g.b);
    for (int i = 0; i < 4; i++)
        client_free(&c[i]);
}

/* Between the steps of one request the device pauses; before a request that
 * comes when there was none it was idle by right. Experts, of which the fake
 * device tells one a token, are counted beside. */
static void
test_what_the_device_tells_of_steps(void **state)
{
    for (int overlap = 0; overlap < 2; overlap++) {
        struct rig g;
        struct engine_stats st;
        rig_defaults(&g);
        g.o.overlap = overlap;
        g.f.run_ns = 2000000;
        g.f.pause_ns = 7000;
        rig_start(&g);
        for (uint32_t i = 0; i < 3; i++) {
            struct client c;
            client_init(&c, 600, i, VOCAB, 20); /* two steps of prefill */
            submit(&c, &g);
            finish(&c);
            client_free(&c);
            do
                engine_stats(g.en, &st);
            while (st.running);
        }
        assert_int_equal(st.steps, 3 * 21);
        assert_int_equal(st.pauses, st.steps - 3);
        assert_int_equal(st.pause_ns, st.pauses * 7000);
        assert_int_equal(st.expert_steps, st.steps);
        assert_int_equal(st.experts, 3 * (600 + 19));
        rig_stop(&g);
    }
}

static void
test_device_failure(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client c[8];
        struct engine_stats st;
        rig_defaults(&g);
        g.o.max_running = 4;
        g.o.overlap = mode & 1;
        g.f.fail_submit = mode & 2;
        g.f.fail_step = 12;
        rig_start(&g);
        for (uint32_t i = 0; i < 8; i++) {
            client_init(&c[i], 50, i, VOCAB, 100);
            int rc = client_submit(&c[i], g.en);
            assert_true(rc == 0 || rc == ERR_CLOSED);
            if (rc != 0)
                c[i].n_last = 99;
        }
        for (int i = 0; i < 8; i++) {
            if (c[i].n_last != 99) {
                client_wait(&c[i]);
                assert_int_equal(c[i].finish, ENGINE_ERROR);
                assert_non_null(strstr(c[i].error, "injected"));
            }
            client_free(&c[i]);
        }
        engine_stats(g.en, &st);
        assert_false(st.alive);
        struct client late;
        client_init(&late, 50, 1, VOCAB, 100);
        assert_int_equal(client_submit(&late, g.en), ERR_CLOSED);
        client_free(&late);
        rig_stop(&g);
    }
}

/* Two images of 3 x 3 and break tokens, cut anywhere by chunks. */
static void
image_prompt(struct client *c, uint32_t first, uint64_t hash)
{
    for (int k = 0; k < 2; k++) {
        uint32_t pos = first + (uint32_t)k * 60;
        for (uint32_t i = 0; i < 12; i++)
            c->prompt[pos + i] = i % 4 == 3 ? (i == 11 ? 12 : 11) : 10;
        c->pixel[k] = (float)(hash + (uint64_t)k);
        c->image[k] = (struct engine_image){
            .pixels = &c->pixel[k], .height = 1, .width = 1, .pos = pos,
            .n_tokens = 12, .hash = {hash + (uint64_t)k, 1}};
    }
    c->req.image = c->image;
    c->req.n_image = 2;
}

static void
test_images(void **state)
{
    for (uint32_t mode = 0; mode < 24; mode++) {
        struct rig g;
        struct client c[6];
        rig_defaults(&g);
        g.f.max_images = mode % 3 == 0 ? 1 : 16;
        g.f.image_steps = mode % 4;
        g.f.n_blocks = mode & 1 ? 256 : 12;
        g.o.overlap = mode & 2;
        g.o.prefill_chunk = 1 + mode * 5;
        rig_start(&g);
        for (uint32_t i = 0; i < 6; i++) {
            client_init(&c[i], 200, 5, VOCAB, 150);
            /* 0 and 1 show the same images, the others do not. */
            image_prompt(&c[i], 30, i < 2 ? 1 : i);
            submit(&c[i], &g);
            if (i == 0 && mode & 4)
                client_wait(&c[0]);
        }
        for (int i = 0; i < 6; i++) {
            client_wait(&c[i]);
            client_check(&c[i], VOCAB, CONTEXT < g.f.n_blocks * 64 ? CONTEXT
                                       : g.f.n_blocks * 64);
        }
        if (mode & 4 && mode & 1) {
            assert_int_equal(c[1].n_cached, 192);
            assert_int_equal(c[2].n_cached, 0);
        }
        for (int i = 0; i < 6; i++)
            client_free(&c[i]);
        rig_stop(&g);
    }
}

/* No step waits for an image that is being made: its request waits for it,
 * whether others run or not, and those go on. */
static void
test_image_pending(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client other, c[3];
        rig_defaults(&g);
        g.f.max_images = 16;
        g.f.image_steps = 7;
        g.f.step_us = 30;
        g.o.overlap = mode & 1;
        g.o.prefill_chunk = mode & 2 ? 13 : 0;
        rig_start(&g);
        client_init(&other, 20, 6, VOCAB, 600);
        if (mode != 0)
            submit(&other, &g);
        for (uint32_t i = 0; i < 3; i++) {
            client_init(&c[i], 200, 5, VOCAB, 10);
            image_prompt(&c[i], 30, 60 + 10 * i);
            submit(&c[i], &g);
        }
        for (int i = 0; i < 3; i++) {
            client_wait(&c[i]);
            client_check(&c[i], VOCAB, CONTEXT);
            client_free(&c[i]);
        }
        assert_int_equal(fake_waits(g.b), 0);
        if (mode != 0) {
            client_wait(&other);
            client_check(&other, VOCAB, CONTEXT);
        }
        client_free(&other);
        rig_stop(&g);
    }
}

/* An image that takes for ever holds up nobody, not even those who come when
 * its request is alone; that one can be cancelled. */
static void
test_image_never_made(void **state)
{
    struct rig g;
    struct client c, late;
    rig_defaults(&g);
    g.f.max_images = 16;
    g.f.image_steps = UINT32_MAX;
    rig_start(&g);
    client_init(&c, 200, 5, VOCAB, 10);
    image_prompt(&c, 0, 60);
    submit(&c, &g);
    client_init(&late, 20, 6, VOCAB, 50);
    submit(&late, &g);
    client_wait(&late);
    client_check(&late, VOCAB, CONTEXT);
    assert_false(client_ended(&c));
    engine_cancel(g.en, c.id);
    client_wait(&c);
    assert_int_equal(c.finish, ENGINE_CANCELLED);
    assert_int_equal(fake_waits(g.b), 0);
    client_free(&c);
    client_free(&late);
    rig_stop(&g);
}

static void
test_create_errors(void **state)
{
    struct rig g;
    struct err e = {0};
    rig_defaults(&g);
    g.b = fake_create(&g.f);
    assert_int_equal(engine_create(&g.o, g.b, &g.en, &e), ERR_RANGE);
    g.o.n_blocks = g.f.n_blocks;
    g.o.step_tokens = 15;
    assert_int_equal(engine_create(&g.o, g.b, &g.en, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "15 tokens"));
    g.o.step_tokens = 16;
    g.o.max_out = BACKEND_OUT_MAX + 1;
    assert_int_equal(engine_create(&g.o, g.b, &g.en, &e), ERR_RANGE);
    fake_destroy(g.b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_prefix_hit),
        cmocka_unit_test(test_prefix_whole),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_long_context),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_drain_and_destroy),
        cmocka_unit_test(test_what_the_device_tells_of_steps),
        cmocka_unit_test(test_device_failure),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_image_pending),
        cmocka_unit_test(test_image_never_made),
        cmocka_unit_test(test_create_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
