#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/ring.h"

static void
is_bounded_and_in_order(void **state)
{
    struct ring *r = ring_create(5, sizeof(int));
    int v, n = 0;
    assert_int_equal(ring_pop(r, &v), ERR_AGAIN);
    while (ring_push(r, &n) == 0)
        n++;
    assert_int_equal(n, 8);
    assert_int_equal(ring_count(r), 8);
    for (int i = 0; i < n; i++) {
        assert_int_equal(ring_pop(r, &v), 0);
        assert_int_equal(v, i);
    }
    assert_int_equal(ring_pop(r, &v), ERR_AGAIN);
    ring_free(r);
}

enum { PRODUCERS = 3, CONSUMERS = 2, EACH = 20000 };
static struct ring *shared;
static atomic_uint_fast64_t sum, popped;

static void *
produce(void *arg)
{
    for (uint64_t i = 0; i < EACH; i++) {
        uint64_t v[3] = {i, i * 2, i * 3};
        while (ring_push(shared, v) != 0)
            sched_yield();
    }
    return NULL;
}

static void *
consume(void *arg)
{
    uint64_t v[3];
    while (atomic_load(&popped) < PRODUCERS * EACH) {
        if (ring_pop(shared, v) != 0) {
            sched_yield();
            continue;
        }
        /* A torn element would break this. */
        if (v[1] != v[0] * 2 || v[2] != v[0] * 3)
            atomic_fetch_add(&sum, 1u << 30);
        atomic_fetch_add(&sum, v[0]);
        atomic_fetch_add(&popped, 1);
    }
    return NULL;
}

static void
threads_lose_nothing(void **state)
{
    shared = ring_create(64, 3 * sizeof(uint64_t));
    pthread_t t[PRODUCERS + CONSUMERS];
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++)
        pthread_create(&t[i], NULL, i < PRODUCERS ? produce : consume, NULL);
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++)
        pthread_join(t[i], NULL);
    uint64_t want = (uint64_t)PRODUCERS * EACH * (EACH - 1) / 2;
    assert_int_equal(atomic_load(&sum), want);
    assert_int_equal(ring_count(shared), 0);
    ring_free(shared);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_bounded_and_in_order),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
