#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/mem.h"

static void
blocks_do_not_overlap(void **state)
{
    struct arena *a = arena_create(256, 0);
    unsigned char *p[200];
    for (size_t i = 0; i < 200; i++) {
        p[i] = arena_alloc(a, 1 + i * 3 % 150);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % _Alignof(max_align_t), 0);
        memset(p[i], (int)i, 1 + i * 3 % 150);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < 1 + i * 3 % 150; j++)
            assert_int_equal(p[i][j], i);
    arena_destroy(a);
}

static void
limit_holds(void **state)
{
    struct arena *a = arena_create(1000, 5000);
    assert_null(arena_alloc(a, 6000));
    assert_null(arena_alloc(a, SIZE_MAX - 3));
    assert_null(arena_calloc(a, SIZE_MAX / 2, 4));
    size_t n = 0;
    while (arena_alloc(a, 100) != NULL)
        n++;
    assert_true(n >= 30 && n <= 50);
    assert_true(arena_size(a) <= 5000);
    arena_reset(a);
    assert_non_null(arena_alloc(a, 100));
    arena_destroy(a);
}

static int order[3], n_order;

static void
hook(void *arg)
{
    order[n_order++] = *(int *)arg;
}

static void
hooks_run_backwards(void **state)
{
    struct arena *a = arena_create(0, 0);
    static int one = 1, two = 2, three = 3;
    n_order = 0;
    arena_cleanup(a, hook, &one);
    arena_cleanup(a, hook, &two);
    arena_reset(a);
    assert_int_equal(n_order, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 1);
    arena_cleanup(a, hook, &three);
    arena_destroy(a);
    assert_int_equal(n_order, 3);
    assert_int_equal(order[2], 3);
    arena_destroy(NULL);
}

static void
strings_end(void **state)
{
    struct arena *a = arena_create(0, 0);
    assert_string_equal(arena_strndup(a, "hello", 3), "hel");
    assert_string_equal(arena_strndup(a, NULL, 0), "");
    arena_destroy(a);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_do_not_overlap),
        cmocka_unit_test(limit_holds),
        cmocka_unit_test(hooks_run_backwards),
        cmocka_unit_test(strings_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
