/*
 * Speculation in the engine on the CPU back end: whatever a request asks for,
 * its tokens and their log-probabilities are the same with a draft head and
 * without, and drafts are used for all of it. The matcher is a stand-in with
 * the functions of grammar.h: it forbids one id in three, which ones depends
 * on the place and the id before.
 */
#include "config.h"

#include "engine/engine.h"

#include "cpu/cpu.h"
#include "made_pair.h"
#include "tests/unit/fake_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_TOKENS 120
#define N_DRAFTS 5
#define BLOCKS 12

struct grammar_matcher {
    int32_t path[1 + MAX_TOKENS + BACKEND_OUT_MAX];
    uint32_t n;
};

static bool
fits(const struct grammar_matcher *m, int32_t id)
{
    uint32_t last = m->n > 0 ? (uint32_t)m->path[m->n - 1] : 0;
    return ((uint32_t)id + m->n + last) % 3 != 0;
}

int
grammar_mask(struct grammar_matcher *m, uint32_t *mask)
{
    memset(mask, 0, MASK_WORDS(PAIR_VOCAB) * sizeof *mask);
    for (int32_t id = 0; id < PAIR_VOCAB; id++)
        if (fits(m, id))
            mask[id / 32] |= 1u << (id % 32);
    return 0;
}

int
grammar_accept(struct grammar_matcher *m, int32_t id)
{
    if (!fits(m, id))
        return ERR_MISMATCH;
    m->path[m->n++] = id;
    return 0;
}

void
grammar_rollback(struct grammar_matcher *m, size_t n)
{
    m->n -= (uint32_t)n;
}

static struct model *target, *head;

/* What requests ask for, one bit a thing; every combination is run. */
enum { FORM = 1, WARM = 2, PENALTY = 4, LOGPROBS = 8, WORDS = 16, ALL = 32 };

static int32_t word_id[PAIR_VOCAB][2];
static struct engine_word words[PAIR_VOCAB];

static void
make(struct client *c, struct grammar_matcher *m, unsigned what)
{
    client_init(c, 3 + what % 7, what, PAIR_VOCAB, MAX_TOKENS);
    m->n = 0;
    if (what & FORM)
        c->req.matcher = m;
    if (what & WARM) {
        c->req.sampling.temperature = 1.3f;
        c->req.sampling.top_p = 0.95f;
        c->req.sampling.seed = what;
    }
    if (what & PENALTY) {
        c->req.sampling.presence_penalty = 0.2f;
        c->req.sampling.repetition_penalty = 1.1f;
    }
    if (what & LOGPROBS)
        c->req.n_top = 2;
    c->req.raw_logprobs = what & WARM;
    if (what & WORDS) {
        c->req.word = words;
        c->req.n_word = PAIR_VOCAB;
    }
}

struct run {
    struct client c[ALL];
    struct grammar_matcher m[ALL];
    uint64_t steps;
};

/* All requests on a back end with so many drafts; `together` or one by one. */
static void
run_all(struct run *r, uint32_t n_drafts, bool together, unsigned from,
        unsigned to)
{
    struct backend *b = NULL;
    struct backend_plan plan;
    struct engine *en;
    struct engine_stats st;
    struct err e = {0};
    struct backend_limits l = {
        .max_seqs = 4, .max_step = 64, .max_context = 192,
        .kv_bytes = 1 << 20, .draft = n_drafts ? head : NULL,
        .n_drafts = n_drafts};
    if (backend_cpu.open("threads=1", &b, &e) != 0
        || backend_cpu.plan(b, target, &l, &plan, &e) != 0
        || backend_cpu.load(b, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    assert_true(plan.n_blocks >= BLOCKS);
    struct engine_options o = {
        .max_running = 4, .max_queue = ALL, .step_tokens = 64,
        .max_context = 192, .n_blocks = together ? 6 : BLOCKS,
        .prefix_cache = true, .overlap = together, .n_vocab = PAIR_VOCAB,
        .max_out = 1 + n_drafts};
    assert_int_equal(engine_create(&o, b, &en, &e), 0);
    for (unsigned i = from; i < to; i++) {
        make(&r->c[i], &r->m[i], i);
        assert_int_equal(client_submit(&r->c[i], en), 0);
        if (!together)
            client_wait(&r->c[i]);
    }
    for (unsigned i = from; i < to; i++)
        client_wait(&r->c[i]);
    engine_stats(en, &st);
    r->steps = st.steps;
    engine_destroy(en);
    b->ops->close(b);
}

static void
run_free(struct run *r, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        client_free(&r->c[i]);
}

static void
same(const struct client *got, const struct client *want, unsigned what)
{
    assert_int_equal(got->finish, ENGINE_LENGTH);
    assert_int_equal(want->out.n, MAX_TOKENS);
    if (got->out.n != want->out.n
        || memcmp(got->out.id, want->out.id,
                  MAX_TOKENS * sizeof *got->out.id) != 0)
        fail_msg("other tokens for %u", what);
    assert_int_equal(got->n_lp, what & LOGPROBS ? MAX_TOKENS : 0);
    if (got->n_lp != want->n_lp
        || (got->n_lp && memcmp(got->lp, want->lp,
                                got->n_lp * sizeof *got->lp) != 0))
        fail_msg("other log-probabilities for %u", what);
}

static void
check_words(const struct client *c)
{
    for (size_t i = 1; i < c->out.n; i++)
        assert_int_not_equal(word_id[c->out.id[i - 1]][1], c->out.id[i]);
}

/* Words that the free greedy output is full of: each id with what it made of
 * it, or with some id where it did not come to that. */
static void
make_words(void)
{
    static struct run r;
    for (int i = 0; i < PAIR_VOCAB; i++) {
        word_id[i][0] = i;
        word_id[i][1] = (i + 1) % PAIR_VOCAB;
        words[i] = (struct engine_word){word_id[i], 2};
    }
    run_all(&r, 0, false, 0, 1);
    for (size_t i = 1; i < r.c[0].out.n; i++)
        word_id[r.c[0].out.id[i - 1]][1] = r.c[0].out.id[i];
    run_free(&r, 0, 1);
}

static void
test_every_combination(void **state)
{
    static struct run want, got;
    run_all(&want, 0, false, 0, ALL);
    for (unsigned i = 0; i < ALL; i++)
        if (i & WORDS)
            check_words(&want.c[i]);
    for (int together = 0; together < 2; together++) {
        run_all(&got, N_DRAFTS, together, 0, ALL);
        for (unsigned i = 0; i < ALL; i++)
            same(&got.c[i], &want.c[i], i);
        run_free(&got, 0, ALL);
    }
    run_free(&want, 0, ALL);
}

/* A head that is mostly right saves steps for each of them, above all where a
 * form meets a draw by chance. */
static void
test_drafts_are_used(void **state)
{
    static struct run r;
    for (unsigned i = 0; i < ALL; i++) {
        if (i & WORDS) /* made to be what the head guesses */
            continue;
        run_all(&r, N_DRAFTS, false, i, i + 1);
        if (r.steps > MAX_TOKENS * 9 / 10)
            fail_msg("%u steps for %u", (unsigned)r.steps, i);
        run_free(&r, i, i + 1);
    }
}

static int
setup(void **state)
{
    made_pair(false, &target, &head);
    make_words();
    return 0;
}

static int
teardown(void **state)
{
    model_close(target);
    model_close(head);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_combination),
        cmocka_unit_test(test_drafts_are_used),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
