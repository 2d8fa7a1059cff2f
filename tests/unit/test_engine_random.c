/*
 * Random arrivals, cancels and preemptions: 10,000 requests with every
 * feature in every mixture, on pools too small for them. Each must end once,
 * with just the tokens that its text alone would give, and at the end every
 * block, image and queue entry is accounted for. SIROCCO_SEED repeats a run.
 */
#include "config.h"

#include "engine/engine.h"

#include "tests/unit/fake_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB 97
#define N_REQUESTS 10000
#define LIVE 40

static uint64_t state;

static uint32_t
rnd(uint32_t n)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33) % n;
}

struct guest {
    struct client c;
    int32_t end[2];
    bool live, cancelled;
};

static void
add_images(struct client *c)
{
    c->req.image = c->image;
    c->req.n_image = 1 + rnd(2);
    for (uint32_t k = 0; k < c->req.n_image; k++) {
        uint32_t pos = 5 + 70 * k + rnd(60), kind = rnd(3);
        for (uint32_t i = 0; i < 8; i++)
            c->prompt[pos + i] = i % 4 == 3 ? 11 : 10;
        c->pixel[k] = (float)kind;
        c->image[k] = (struct engine_image){
            .pixels = &c->pixel[k], .pos = pos, .n_tokens = 8,
            .hash = {kind, 9}};
    }
}

/* A request with a random choice of features; few distinct beginnings, so
 * that prefixes meet. */
static void
arrive(struct guest *u)
{
    struct client *c = &u->c;
    bool image = rnd(6) == 0;
    uint32_t n = image ? 150 + rnd(100) : 1 + rnd(rnd(4) ? 200 : 500);
    client_init(c, n, rnd(5), VOCAB, rnd(rnd(10) ? 60 : 300));
    u->live = true;
    u->cancelled = false;
    u->end[0] = (int32_t)rnd(VOCAB);
    u->end[1] = (int32_t)rnd(VOCAB);
    if (image)
        add_images(c);
    if (rnd(2)) {
        c->req.end_id = &u->end[0];
        c->req.n_end = 1 + rnd(2);
    }
    if (rnd(4) == 0) {
        c->req.stop_id = &u->end[1];
        c->req.n_stop = 1;
    }
    if (rnd(4) == 0)
        c->req.min_tokens = rnd(40);
    c->req.ignore_end = rnd(8) == 0;
    c->req.priority = rnd(3) ? 0 : (int64_t)rnd(5) - 2;
    if (rnd(8) == 0)
        c->req.cache_salt = STR("other");
    if (rnd(5) == 0)
        c->req.n_top = (int)rnd(3);
    if (rnd(10) == 0)
        c->req.prompt_top = (int)rnd(3);
    if (rnd(3) == 0)
        c->req.think = (struct engine_think){
            .open = 5, .close = 6, .inside = rnd(2),
            .budget = (int64_t)rnd(30) - 1, .hold_end = rnd(2)};
}

static void
check_guest(struct guest *u, uint32_t context)
{
    struct client *c = &u->c;
    if (c->finish != ENGINE_CANCELLED) {
        client_check(c, VOCAB, context);
    } else {
        struct ids want = {0};
        assert_true(u->cancelled);
        assert_int_equal(c->n_last, 1);
        client_expect(c, VOCAB, context, &want);
        assert_true(c->out.n <= want.n);
        for (size_t i = 0; i < c->out.n; i++)
            assert_int_equal(c->out.id[i], want.id[i]);
        ids_free(&want);
    }
    if (c->req.n_top >= 0)
        assert_int_equal(c->n_lp, c->out.n);
    if (c->req.prompt_top >= 0 && c->prompt_lp != NULL)
        for (uint32_t i = 0; i < c->req.n_prompt; i++)
            assert_int_equal(c->prompt_lp->token[i].id,
                             i ? c->prompt[i] : -1);
    client_free(c);
    u->live = false;
}

static void
one_run(uint32_t n_requests, bool overlap, uint32_t max_out, bool cache)
{
    struct err e = {0};
    struct engine *en;
    struct engine_stats st;
    static struct guest guest[LIVE];
    struct fake_options f = {
        .n_blocks = 16 + rnd(30), .n_vocab = VOCAB, .max_seqs = 12,
        .max_out = max_out, .depth = 2, .fail_step = -1,
        .max_images = 1 + rnd(6)};
    struct engine_options o = {
        .max_running = 12, .max_queue = 20, .step_tokens = 12 + rnd(300),
        .prefill_chunk = rnd(2) ? rnd(150) : 0, .max_context = 900,
        .n_blocks = f.n_blocks, .prefix_cache = cache, .overlap = overlap,
        .n_vocab = VOCAB, .max_out = max_out};
    uint32_t context = o.max_context;
    struct backend *b = fake_create(&f);
    assert_int_equal(engine_create(&o, b, &en, &e), 0);
    for (uint32_t sent = 0; sent < n_requests;) {
        struct guest *u = &guest[rnd(LIVE)];
        if (!u->live) {
            arrive(u);
            int rc = client_submit(&u->c, en);
            if (rc == 0) {
                sent++;
                continue;
            }
            assert_int_equal(rc, ERR_AGAIN);
            client_free(&u->c);
            u->live = false;
            usleep(50);
        } else if (client_ended(&u->c)) {
            check_guest(u, context);
        } else if (rnd(300) == 0) {
            engine_cancel(en, u->c.id);
            u->cancelled = true;
        }
    }
    for (int i = 0; i < LIVE; i++) {
        if (!guest[i].live)
            continue;
        client_wait(&guest[i].c);
        check_guest(&guest[i], context);
    }
    engine_cache_reset(en);
    do
        engine_stats(en, &st);
    while (st.running || st.waiting);
    assert_int_equal(st.blocks_used, 0);
    assert_int_equal(st.blocks_cached, 0);
    engine_destroy(en);
    assert_int_equal(fake_faults(b), 0);
    assert_int_equal(fake_images(b), 0);
    assert_true(fake_largest(b) <= o.step_tokens);
    fake_destroy(b);
}

static void
test_random(void **unused)
{
    for (uint32_t mode = 0; mode < 8; mode++)
        one_run(N_REQUESTS / 8, mode & 1, mode & 2 ? 4 : 1, mode & 4);
}

int
main(void)
{
    const char *seed = getenv("SIROCCO_SEED");
    state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("SIROCCO_SEED=%llu\n", (unsigned long long)state);
    fflush(stdout);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
