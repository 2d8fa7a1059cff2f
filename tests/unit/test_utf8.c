#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/utf8.h"

static void
every_code_point_round_trips(void **state)
{
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char out[4];
        size_t n = utf8_encode(cp, out);
        bool surrogate = cp >= 0xd800 && cp <= 0xdfff;
        assert_int_equal(utf8_valid(out, n), !surrogate);
        uint32_t back;
        size_t used = utf8_decode(out, n, &back);
        if (surrogate) {
            assert_int_equal(back, 0xfffd);
        } else {
            assert_int_equal(used, n);
            assert_int_equal(back, cp);
        }
        /* Every beginning of it waits for the rest. */
        for (size_t k = 1; k < n && !surrogate; k++) {
            assert_int_equal(utf8_complete(out, k), 0);
            assert_false(utf8_valid(out, k));
        }
        if (!surrogate)
            assert_int_equal(utf8_complete(out, n), n);
    }
}

/* Expected values are what Python's bytes.decode("utf-8", "replace") gives. */
static void
repairs_as_browsers_do(void **state)
{
    static const struct {
        const char *in, *want;
    } t[] = {
        {"plain", "plain"},
        {"a\xc3\xa9z", "a\xc3\xa9z"},
        {"\x80", "\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xf0\x9f\x98x", "\xef\xbf\xbdx"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf5", "\xef\xbf\xbd"},
        {"\xe2\x82\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct buf b = {0};
        assert_int_equal(utf8_repair(&b, t[i].in, strlen(t[i].in)), 0);
        assert_string_equal(buf_cstr(&b), t[i].want);
        assert_true(utf8_valid(b.data, b.len));
        buf_free(&b);
    }
}

static void
holds_back_only_what_may_be_completed(void **state)
{
    assert_int_equal(utf8_complete("", 0), 0);
    assert_int_equal(utf8_complete("abc", 3), 3);
    assert_int_equal(utf8_complete("abc\xe2\x82", 5), 3);
    assert_int_equal(utf8_complete("abc\xe0\x80", 5), 5);
    assert_int_equal(utf8_complete("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(utf8_complete("\xc3\xa9\xf0\x9f\x98", 5), 2);
    assert_int_equal(utf8_complete("\xff", 1), 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_round_trips),
        cmocka_unit_test(repairs_as_browsers_do),
        cmocka_unit_test(holds_back_only_what_may_be_completed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
