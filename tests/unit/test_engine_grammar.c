/*
 * The engine with a grammar: it asks for a mask before each draw, moves over
 * what it keeps and nothing else, and a failing grammar ends one request. The
 * matcher here is a stand-in with the functions of grammar.h: output i must be
 * congruent to i modulo STRIDE, and it counts what is asked of it.
 */
#include "config.h"

#include "engine/engine.h"

#include "tests/unit/fake_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 997
#define CONTEXT 4096
#define STRIDE 7
#define CLOSE 4

struct grammar_matcher {
    uint32_t n;           /* accepted */
    uint32_t fail_at;     /* the mask fails here; 0 = never */
    uint32_t n_masks;
    bool free_thought;    /* all is allowed up to CLOSE */
    bool had_thought;
    uint32_t closed_at;   /* its place */
};

static bool
fits(const struct grammar_matcher *m, int32_t id)
{
    return m->free_thought || (uint32_t)id % STRIDE == m->n % STRIDE;
}

int
grammar_mask(struct grammar_matcher *m, uint32_t *mask)
{
    if (m->fail_at != 0 && m->n >= m->fail_at)
        return ERR_LIMIT;
    m->n_masks++;
    memset(mask, 0, (VOCAB + 31) / 32 * sizeof *mask);
    for (int32_t id = 0; id < VOCAB; id++)
        if (fits(m, id))
            mask[id / 32] |= 1u << (id % 32);
    return 0;
}

int
grammar_accept(struct grammar_matcher *m, int32_t id)
{
    if (!fits(m, id))
        return ERR_MISMATCH;
    if (m->free_thought && id == CLOSE) {
        m->free_thought = false;
        m->had_thought = true;
        m->closed_at = m->n;
    }
    m->n++;
    return 0;
}

void
grammar_rollback(struct grammar_matcher *m, size_t n)
{
    m->n -= (uint32_t)n;
    if (m->had_thought && m->n <= m->closed_at)
        m->free_thought = true;
}

struct rig {
    struct backend *b;
    struct engine *en;
};

static void
rig_start(struct rig *g, bool overlap, uint32_t max_out, uint32_t n_blocks)
{
    struct err e = {0};
    struct fake_options f = {.n_blocks = n_blocks, .n_vocab = VOCAB,
                             .max_seqs = 8, .max_out = max_out, .depth = 2,
                             .fail_step = -1};
    struct engine_options o = {
        .max_running = 8, .max_queue = 64, .step_tokens = 256,
        .max_context = CONTEXT, .n_blocks = n_blocks, .prefix_cache = true,
        .overlap = overlap, .n_vocab = VOCAB, .max_out = max_out};
    g->b = fake_create(&f);
    assert_int_equal(engine_create(&o, g->b, &g->en, &e), 0);
}

static void
rig_stop(struct rig *g)
{
    engine_destroy(g->en);
    assert_int_equal(fake_faults(g->b), 0);
    fake_destroy(g->b);
}

static void
check_stride(const struct client *c, size_t from)
{
    for (size_t i = from; i < c->out.n; i++)
        assert_int_equal(c->out.id[i] % STRIDE, i % STRIDE);
}

/* Constrained and free requests side by side, also with drafts, which know no
 * grammar, and on a pool that forces preemption. */
static void
test_masks(void **state)
{
    for (int mode = 0; mode < 8; mode++) {
        struct rig g;
        struct client c[10], alone;
        struct grammar_matcher m[10] = {0}, m0 = {0};
        rig_start(&g, mode & 1, mode & 2 ? 5 : 1, mode & 4 ? 12 : 128);
        for (uint32_t i = 0; i < 10; i++) {
            client_init(&c[i], 50 + i, i, VOCAB, 150);
            c[i].req.sampling.temperature = i % 4 == 2 ? 1.0f : 0.0f;
            if (i % 2 == 0)
                c[i].req.matcher = &m[i];
            assert_int_equal(client_submit(&c[i], g.en), 0);
        }
        for (uint32_t i = 0; i < 10; i++) {
            client_wait(&c[i]);
            assert_int_equal(c[i].finish, ENGINE_LENGTH);
            assert_int_equal(c[i].out.n, 150);
            if (i % 2 == 1) {
                client_check(&c[i], VOCAB, mode & 4 ? 12 * 64 : CONTEXT);
                continue;
            }
            check_stride(&c[i], 0);
            assert_int_equal(m[i].n, 150); /* what was kept, once each */
        }
        /* Alone, the same tokens. */
        client_init(&alone, 50, 0, VOCAB, 150);
        alone.req.matcher = &m0;
        assert_int_equal(client_submit(&alone, g.en), 0);
        client_wait(&alone);
        assert_memory_equal(alone.out.id, c[0].out.id,
                            150 * sizeof(int32_t));
        client_free(&alone);
        for (int i = 0; i < 10; i++)
            client_free(&c[i]);
        rig_stop(&g);
    }
}

/* AC-32: it ends one request, and no other. */
static void
test_failing_mask(void **state)
{
    struct rig g;
    struct client c[3];
    struct grammar_matcher m = {.fail_at = 20};
    rig_start(&g, true, 1, 128);
    for (uint32_t i = 0; i < 3; i++) {
        client_init(&c[i], 50, i, VOCAB, 100);
        if (i == 1)
            c[i].req.matcher = &m;
        assert_int_equal(client_submit(&c[i], g.en), 0);
    }
    for (int i = 0; i < 3; i++)
        client_wait(&c[i]);
    assert_int_equal(c[1].finish, ENGINE_ERROR);
    assert_int_equal(c[1].out.n, 20);
    assert_non_null(strstr(c[1].error, "grammar"));
    client_check(&c[0], VOCAB, CONTEXT);
    client_check(&c[2], VOCAB, CONTEXT);
    for (int i = 0; i < 3; i++)
        client_free(&c[i]);
    rig_stop(&g);
}

/* A thought over its budget: the closing token, not the drawn one, moves the
 * grammar, and the answer is held to it from the next token on. */
static void
test_forced_close(void **state)
{
    for (int mode = 0; mode < 4; mode++) {
        struct rig g;
        struct client c;
        struct grammar_matcher m = {.free_thought = true};
        rig_start(&g, mode & 1, mode & 2 ? 5 : 1, 128);
        client_init(&c, 50, 1, VOCAB, 100);
        c.req.matcher = &m;
        c.req.think = (struct engine_think){.open = 3, .close = CLOSE,
                                            .inside = true, .budget = 23};
        assert_int_equal(client_submit(&c, g.en), 0);
        client_wait(&c);
        assert_int_equal(c.finish, ENGINE_LENGTH);
        assert_int_equal(c.out.id[23], CLOSE);
        check_stride(&c, 24);
        assert_int_equal(m.n, 100);
        client_free(&c);
        rig_stop(&g);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_failing_mask),
        cmocka_unit_test(test_forced_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
