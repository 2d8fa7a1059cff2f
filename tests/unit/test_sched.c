/* The scheduler alone: what it plans, no threads, no device. */
#include "config.h"

#include "engine/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct sched s;
static struct plan p;
static struct plan_entry entry[8];
static int32_t zeros[4096];

static int
start(void **state)
{
    struct engine_options o = {
        .max_running = 4, .step_tokens = 100, .prefill_chunk = 60,
        .max_context = 2048, .n_blocks = 32, .n_vocab = 10, .max_out = 1};
    p = (struct plan){.entry = entry};
    return sched_init(&s, &o);
}

static int
stop(void **state)
{
    struct list *all[] = {&s.running, &s.waiting};
    for (int i = 0; i < 2; i++)
        while (!list_empty(all[i])) {
            struct request *r = list_entry(all[i]->next, struct request,
                                           node);
            r->n_fly = 0;
            sched_end(&s, r);
        }
    while (!list_empty(&s.done)) {
        struct request *r = list_entry(s.done.next, struct request, node);
        list_remove(&r->node);
        request_free(r);
    }
    assert_int_equal(s.kv.n_free, 32);
    assert_int_equal(s.n_slot, 4);
    sched_destroy(&s);
    return 0;
}

static struct request *
add(uint32_t n_prompt, uint32_t max_tokens, int64_t priority)
{
    struct engine_request in = {.prompt = zeros, .n_prompt = n_prompt,
                                .max_tokens = max_tokens, .n_top = -1,
                                .prompt_top = -1, .priority = priority,
                                .think = {-1, -1, false, -1, false}};
    struct request *r;
    assert_int_equal(request_create(&s.o, &in, &r), 0);
    sched_enqueue(&s, r);
    return r;
}

static uint32_t
planned(const struct request *r)
{
    for (uint32_t i = 0; i < p.n; i++)
        if (p.entry[i].r == r)
            return p.entry[i].n_tok;
    return 0;
}

/* As if the step of the plan were submitted and at once collected. */
static void
step(void)
{
    for (uint32_t i = 0; i < p.n; i++) {
        struct request *r = p.entry[i].r;
        bool draws = sched_draws(r, p.entry[i].n_tok);
        r->n_sched += p.entry[i].n_tok;
        r->n_done = r->n_sched;
        if (draws)
            r->token[r->n_token++] = 0;
    }
}

/* AC-43: no step is larger than the budget that its workspace was planned
 * for, however long a prompt is. */
static void
test_budget_and_chunks(void **state)
{
    struct request *a = add(50, 10, 0), *b = add(90, 10, 0);
    sched_plan(&s, &p);
    assert_int_equal(planned(a), 50);
    assert_int_equal(planned(b), 50); /* what is left of 100 */
    step();
    struct request *c = add(500, 10, 0);
    sched_plan(&s, &p);
    assert_int_equal(planned(a), 1);  /* one token each comes first */
    assert_int_equal(planned(b), 40);
    assert_int_equal(planned(c), 59);
    step();
    sched_plan(&s, &p);
    assert_int_equal(planned(a) + planned(b), 2);
    assert_int_equal(planned(c), 60); /* its chunk */
}

static void
test_slots(void **state)
{
    struct request *r[6];
    for (int i = 0; i < 6; i++)
        r[i] = add(10, 10, i == 5 ? -1 : 0);
    sched_plan(&s, &p);
    assert_int_equal(p.n, 4);
    assert_int_equal(planned(r[5]), 10); /* better priority */
    assert_int_equal(planned(r[3]), 0);
    r[0]->n_fly = 1;
    sched_end(&s, r[0]);
    step();
    sched_plan(&s, &p);
    assert_int_equal(planned(r[3]), 0); /* the slot is still in flight */
    r[0]->n_fly = 0;
    sched_landed(&s, r[0]);
    sched_plan(&s, &p);
    assert_int_equal(planned(r[3]), 10);
}

static void
test_no_overtaking(void **state)
{
    struct request *a = add(64 * 20, 500, 0);
    sched_plan(&s, &p);
    assert_int_equal(planned(a), 60);
    struct request *big = add(64 * 20, 10, 0), *small = add(10, 10, 0);
    step();
    sched_plan(&s, &p);
    assert_int_equal(planned(big), 0);
    assert_int_equal(planned(small), 0);
    sched_end(&s, a);
    sched_plan(&s, &p);
    assert_int_equal(planned(big), 60);
    assert_int_equal(planned(small), 10);
}

static void
test_preempts_last(void **state)
{
    struct request *a = add(64 * 10, 500, 0), *b = add(64 * 10, 500, 7);
    struct request *c = add(64 * 9, 500, 0);
    s.o.step_tokens = 4096;
    s.o.prefill_chunk = 0;
    sched_plan(&s, &p);
    assert_int_equal(p.n, 3); /* 29 blocks and one each */
    assert_int_equal(s.kv.n_free, 3);
    step();
    sched_plan(&s, &p); /* each needs one more */
    assert_int_equal(p.n, 3);
    assert_int_equal(s.kv.n_free, 0);
    for (int i = 0; i < 64; i++) {
        assert_false(p.preempted);
        step();
        sched_plan(&s, &p);
    }
    assert_true(p.preempted);
    assert_int_equal(p.n, 2);
    assert_int_equal(planned(b), 0); /* worst priority, not the newest */
    assert_int_equal(b->state, REQUEST_WAITING);
    assert_int_equal(b->n_sched, 0);
    assert_int_equal(planned(a) + planned(c), 2);
    sched_end(&s, a);
    step();
    sched_plan(&s, &p);
    assert_int_equal(planned(b), 64 * 10 + 65); /* all of it again */
}

/* A pool that holds just what may run lets all of it run. */
static void
test_pool_just_enough(void **state)
{
    for (int i = 0; i < 4; i++)
        add(64 * 7, 64, 0);
    s.o.step_tokens = 4096;
    s.o.prefill_chunk = 0;
    for (int i = 0; i < 64; i++) {
        sched_plan(&s, &p);
        assert_false(p.preempted);
        step();
    }
    assert_int_equal(p.n, 4);
    assert_int_equal(s.kv.n_free, 0);
}

/* A sequence whose next token is being drawn runs one ahead; not with a
 * grammar, not with drafts, not beyond its limit. */
static void
test_running_ahead(void **state)
{
    struct request *a = add(10, 3, 0);
    sched_plan(&s, &p);
    a->n_sched = 10;
    a->n_draws = 1;
    assert_int_equal(sched_todo(&s, a), 1);
    assert_true(sched_draws(a, 1));
    s.o.max_out = 2;
    assert_int_equal(sched_todo(&s, a), 0);
    s.o.max_out = 1;
    a->mask = (uint32_t *)zeros;
    assert_int_equal(sched_todo(&s, a), 0);
    a->mask = NULL;
    a->token[a->n_token++] = 0;
    a->token[a->n_token++] = 0;
    a->n_sched = 12;
    assert_int_equal(sched_todo(&s, a), 0); /* the third is the last */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_budget_and_chunks, start, stop),
        cmocka_unit_test_setup_teardown(test_slots, start, stop),
        cmocka_unit_test_setup_teardown(test_no_overtaking, start, stop),
        cmocka_unit_test_setup_teardown(test_preempts_last, start, stop),
        cmocka_unit_test_setup_teardown(test_pool_just_enough, start, stop),
        cmocka_unit_test_setup_teardown(test_running_ahead, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
