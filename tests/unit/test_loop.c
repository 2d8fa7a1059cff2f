#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"

static struct loop *loop;
static atomic_int produced;
static int consumed;
enum { WAKES = 5000 };

static void
on_wake(void *arg)
{
    consumed = atomic_load(&produced);
    if (consumed == WAKES)
        loop_stop(loop);
}

static void *
waker(void *arg)
{
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add(&produced, 1);
        loop_wake(loop);
    }
    return NULL;
}

/* A lost wake-up would leave the loop waiting for ever. */
static void
wakes_are_not_lost(void **state)
{
    for (int round = 0; round < 20; round++) {
        pthread_t t;
        atomic_store(&produced, 0);
        loop = loop_create();
        assert_non_null(loop);
        loop_on_wake(loop, on_wake, NULL);
        pthread_create(&t, NULL, waker, NULL);
        loop_run(loop);
        pthread_join(t, NULL);
        assert_int_equal(consumed, WAKES);
        loop_free(loop);
    }
}

static int ticks;

static void
on_tick(void *arg)
{
    if (++ticks == 3)
        loop_stop(loop);
}

static void
ticks_come_in_time(void **state)
{
    loop = loop_create();
    uint64_t start = clock_ns();
    loop_on_tick(loop, 10, on_tick, NULL);
    loop_run(loop);
    uint64_t ms = (clock_ns() - start) / 1000000;
    assert_true(ms >= 29 && ms < 2000);
    loop_free(loop);
}

static struct loop_watch first, second;
static int calls;

static void
remove_other(void *arg, uint32_t events)
{
    calls++;
    loop_del(loop, arg);
    loop_stop(loop);
}

/* Both are ready in one turn; whichever is called first removes the other. */
static void
a_removed_watch_stays_silent(void **state)
{
    int a[2], b[2];
    assert_int_equal(pipe(a), 0);
    assert_int_equal(pipe(b), 0);
    loop = loop_create();
    first = (struct loop_watch){a[0], remove_other, &second};
    second = (struct loop_watch){b[0], remove_other, &first};
    assert_int_equal(loop_add(loop, &first, EPOLLIN), 0);
    assert_int_equal(loop_add(loop, &second, EPOLLIN), 0);
    assert_int_equal(write(a[1], "x", 1), 1);
    assert_int_equal(write(b[1], "x", 1), 1);
    loop_run(loop);
    assert_int_equal(calls, 1);
    loop_free(loop);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wakes_are_not_lost),
        cmocka_unit_test(ticks_come_in_time),
        cmocka_unit_test(a_removed_watch_stays_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
