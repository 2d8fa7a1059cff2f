#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

#define KEYS 3000

/* The map against an array of what it must hold, through random work. */
static void
agrees_with_an_array(void **state)
{
    static char key[KEYS][12];
    static uint64_t want[KEYS];
    static bool there[KEYS];
    size_t count = 0;
    struct map *m = map_create(1);
    for (int i = 0; i < KEYS; i++)
        snprintf(key[i], sizeof key[i], "k%d", i * i);
    srand(1);
    for (int turn = 0; turn < 100000; turn++) {
        int i = rand() % KEYS;
        size_t len = strlen(key[i]);
        uint64_t value = 0;
        bool was = false;
        switch (rand() % 3) {
        case 0:
            assert_int_equal(map_put(m, key[i], len, (uint64_t)turn, &was), 0);
            assert_int_equal(was, there[i]);
            count += !was;
            there[i] = true;
            want[i] = (uint64_t)turn;
            break;
        case 1:
            assert_int_equal(map_del(m, key[i], len), there[i]);
            count -= there[i];
            there[i] = false;
            break;
        default:
            assert_int_equal(map_get(m, key[i], len, &value), there[i]);
            if (there[i])
                assert_int_equal(value, want[i]);
        }
        assert_int_equal(map_count(m), count);
    }
    map_free(m);
}

static void
empty_key_is_a_key(void **state)
{
    struct map *m = map_create(0);
    uint64_t v;
    assert_false(map_get(m, "", 0, &v));
    assert_int_equal(map_put(m, NULL, 0, 5, NULL), 0);
    assert_true(map_get(m, "", 0, &v));
    assert_int_equal(v, 5);
    assert_true(map_del(m, "", 0));
    map_free(m);
}

static void
hash_depends_on_all(void **state)
{
    char text[40] = "the quick brown fox jumps over the dog";
    for (size_t n = 1; n < sizeof text; n++) {
        uint64_t h = map_hash(text, n, 1);
        assert_true(h != map_hash(text, n, 2));
        assert_true(h != map_hash(text, n - 1, 1));
        for (size_t i = 0; i < n; i++) {
            text[i] ^= 1;
            assert_true(h != map_hash(text, n, 1));
            text[i] ^= 1;
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_an_array),
        cmocka_unit_test(empty_key_is_a_key),
        cmocka_unit_test(hash_depends_on_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
