#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "json/json.h"

static int
parse(const char *text, int flags, struct json_object **o, struct err *e)
{
    return json_parse(text, strlen(text), 32, flags, o, e);
}

static void
check_dump(const char *text, const char *want, bool python, bool sorted)
{
    struct json_object *o = NULL;
    struct err e = {0};
    struct buf b = {0};
    if (parse(text, JSON_NAN, &o, &e) != 0)
        fail_msg("%s: %s", text, e.text);
    int rc = python ? json_dump_python(&b, o, sorted) : json_dump(&b, o);
    assert_int_equal(rc, 0);
    assert_string_equal(buf_cstr(&b), want);
    buf_free(&b);
    json_object_put(o);
}

/* The right-hand sides were printed by CPython's json.dumps(json.loads(x),
 * ensure_ascii=False). */
static void
dumps_as_python(void **state)
{
    static const char *const t[][2] = {
        {" null ", "null"},
        {"[true,false,null]", "[true, false, null]"},
        {"{\"b\":1,\"a\":{},\"c\":[]}", "{\"b\": 1, \"a\": {}, \"c\": []}"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"1.10", "1.1"},
        {"1e5", "100000.0"},
        {"1E15", "1000000000000000.0"},
        {"1e16", "1e+16"},
        {"123456789012345680.0", "1.2345678901234568e+17"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"1.5e-7", "1.5e-07"},
        {"5e-324", "5e-324"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"1e400", "Infinity"},
        {"-1e400", "-Infinity"},
        {"[NaN,Infinity,-Infinity]", "[NaN, Infinity, -Infinity]"},
        {"0.1", "0.1"},
        {"7.120236347223045e-307", "7.120236347223045e-307"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"9007199254740993.0", "9007199254740992.0"},
        {"9223372036854775807", "9223372036854775807"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"18446744073709551615", "18446744073709551615"},
        {"18446744073709551616", "18446744073709551616"},
        {"-9223372036854775809", "-9223372036854775809"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"\"\\u00e9\\/\\u2028\\u007f\"", "\"\xc3\xa9/\xe2\x80\xa8\x7f\""},
        {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
        {"\"\\b\\f\\n\\r\\t\\u0001\\u001f\\\"\\\\\"",
         "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\\"\\\\\""},
        {"\"a\\u0000b\"", "\"a\\u0000b\""},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        check_dump(t[i][0], t[i][1], true, false);
    check_dump("{\"b\":1,\"\xc3\xa9\":2,\"a\":{\"z\":1,\"B\":2}}",
               "{\"a\": {\"B\": 2, \"z\": 1}, \"b\": 1, \"\xc3\xa9\": 2}",
               true, true);
}

static void
dumps_compactly(void **state)
{
    check_dump("{ \"a\" : [ 1.50, 1e400, NaN, 12345678901234567890123 ] }",
               "{\"a\":[1.50,null,null,12345678901234567890123]}", false,
               false);
    struct buf b = {0};
    struct json_object *o = json_object_new_array();
    json_object_array_add(o, json_object_new_double(0.7));
    json_object_array_add(o, json_object_new_double(INFINITY));
    assert_int_equal(json_dump(&b, o), 0);
    assert_string_equal(buf_cstr(&b), "[0.7,null]");
    json_object_put(o);
    buf_free(&b);
}

static void
refuses_what_is_not_json(void **state)
{
    static const char *const t[] = {
        "", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"}", "{\"a\":}",
        "{\"a\":1,}", "{a:1}", "{'a':1}", "'a'", "\"a", "\"\\x\"", "\"\\u12\"",
        "\"\\u12g4\"", "\"a\nb\"", "\"\t\"", "01", "-01", "+1", ".5", "1.",
        "1.e3", "1e", "1e+", "-", "--1", "0x10", "tru", "True", "nul", "nan",
        "NaN", "Infinity", "-Infinity", "1 2", "[1]x", "// c\n1", "/**/1",
        "\xef\xbb\xbf" "1", "\xc2\xa0" "1", "\"\xff\"", "\"\xc0\xaf\"",
        "\"\xed\xa0\x80\"", "{\"a\\u0000b\":1}", "[1 2]", "\v1", "{\"a\":1 \"b\":2}",
        "[\"\\", "\"\\u", "\"\\ud800\\u\"", "1\f",
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct json_object *o = (void *)&o;
        struct err e = {0};
        if (parse(t[i], 0, &o, &e) != ERR_FORMAT)
            fail_msg("accepted: %s", t[i]);
        assert_ptr_equal(o, (void *)&o);
        assert_int_equal(strncmp(e.text, "line ", 5), 0);
    }
}

static void
says_where(void **state)
{
    struct json_object *o;
    struct err e = {0};
    parse("{\n  \"\xc3\xa9\": tru\n}", 0, &o, &e);
    assert_string_equal(e.text, "line 2, column 8: expected a value");
    parse("[1,\n", 0, &o, &e);
    assert_string_equal(e.text, "line 2, column 1: the text ends too early");
    parse("\"ab\xff\"", 0, &o, &e);
    assert_string_equal(e.text,
                        "line 1, column 4: the text is not valid UTF-8");
}

static void
depth_is_bounded(void **state)
{
    struct json_object *o = NULL;
    struct err e = {0};
    assert_int_equal(json_parse("[[1]]", 5, 2, 0, &o, &e), 0);
    json_object_put(o);
    assert_int_equal(json_parse("[{\"a\":[]}]", 10, 2, 0, &o, &e), ERR_LIMIT);
    char deep[5000];
    memset(deep, '[', sizeof deep);
    assert_int_equal(json_parse(deep, sizeof deep, 64, 0, &o, &e), ERR_LIMIT);
}

/* Text of n times item in an array, with its length. */
static char *
many(const char *item, size_t n, size_t *len)
{
    size_t k = strlen(item);
    char *s = malloc(n * (k + 1) + 2), *p = s;
    assert_non_null(s);
    for (size_t i = 0; i < n; i++) {
        *p++ = i ? ',' : '[';
        memcpy(p, item, k);
        p += k;
    }
    *p++ = ']';
    *len = (size_t)(p - s);
    return s;
}

static void
values_are_bounded_when_asked(void **state)
{
    static const struct {
        const char *item;
        int units;
    } t[] = {{"1", 1}, {"null", 1}, {"\"\"", 1}, {"[]", 3}, {"{}", 9},
             {"{\"a\":1}", 11}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        /* The array around counts three. */
        size_t fits = (size_t)(JSON_UNITS - 3) / (size_t)t[i].units, len;
        for (size_t more = 0; more < 2; more++) {
            char *s = many(t[i].item, fits + more, &len);
            struct json_object *o = NULL;
            struct err e = {0};
            assert_int_equal(json_parse(s, len, 8, JSON_BOUNDED, &o, &e),
                             more ? ERR_LIMIT : 0);
            if (more)
                assert_non_null(strstr(e.text, "too many values"));
            json_object_put(o);
            o = NULL;
            assert_int_equal(json_parse(s, len, 8, 0, &o, &e), 0);
            json_object_put(o);
            free(s);
        }
    }
}

static void
numbers_keep_their_text(void **state)
{
    static const char *const t[] = {"1.10", "1e5", "-0", "0", "-12",
                                    "18446744073709551616", "1e400"};
    static const bool whole[] = {false, false, true, true, true, true, false};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct json_object *o = NULL;
        assert_int_equal(parse(t[i], 0, &o, NULL), 0);
        assert_string_equal(json_number_text(o), t[i]);
        assert_int_equal(json_is_integer(o), whole[i]);
        json_object_put(o);
    }
    struct json_object *d = json_object_new_double(0.1);
    assert_string_equal(json_number_text(d), "0.1");
    assert_false(json_is_integer(d));
    assert_true(json_object_get_double(d) == 0.1);
    json_object_put(d);
}

static void
strings_may_hold_nul(void **state)
{
    struct json_object *o = NULL;
    assert_int_equal(parse("{\"k\":\"a\\u0000b\",\"n\":null}", 0, &o, NULL), 0);
    struct str s = json_str(json_get(o, "k"));
    assert_int_equal(s.n, 3);
    assert_memory_equal(s.p, "a\0b", 3);
    assert_null(json_get(o, "n"));
    assert_null(json_get(o, "none"));
    assert_null(json_get(json_get(o, "k"), "x"));
    assert_null(json_str(o).p);
    json_object_put(o);
}

static void
lone_surrogates_are_replaced(void **state)
{
    struct json_object *o = NULL;
    assert_int_equal(parse("\"\\ud800x\\udc00\\ud800\\u0041\"", 0, &o, NULL),
                     0);
    assert_string_equal(json_object_get_string(o),
                        "\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd" "A");
    json_object_put(o);
}

/* Special bytes at every place of an eight-byte group. */
static void
long_strings_end_in_the_right_place(void **state)
{
    static const char special[] = {'"', '\\', '\x1f', '\x7f', ' '};
    for (size_t len = 0; len < 40; len++)
        for (size_t at = 0; at < len; at++)
            for (size_t k = 0; k < sizeof special; k++) {
                char text[64];
                memset(text, 'a', sizeof text);
                text[0] = '"';
                text[1 + at] = special[k];
                text[1 + len] = '"';
                struct json_object *o = NULL;
                int rc = json_parse(text, len + 2, 1, 0, &o, NULL);
                bool good = special[k] == '\x7f' || special[k] == ' ';
                assert_int_equal(rc == 0, good);
                if (good)
                    assert_int_equal(json_object_get_string_len(o), len);
                json_object_put(o);
            }
}

static void
put_string_repairs(void **state)
{
    struct buf b = {0};
    json_put_string(&b, "a\xff\"\n\xe2\x82", 6);
    json_put_escaped(&b, "\\\x01\xef\xbf\xbd", 5);
    json_put_double(&b, -0.123456789123);
    buf_putc(&b, ' ');
    json_put_double(&b, -INFINITY);
    assert_string_equal(buf_cstr(&b),
                        "\"a\xef\xbf\xbd\\\"\\n\xef\xbf\xbd\""
                        "\\\\\\u0001\xef\xbf\xbd-0.123456789 null");
    buf_free(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dumps_as_python),
        cmocka_unit_test(dumps_compactly),
        cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(says_where),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(values_are_bounded_when_asked),
        cmocka_unit_test(numbers_keep_their_text),
        cmocka_unit_test(strings_may_hold_nul),
        cmocka_unit_test(lone_surrogates_are_replaced),
        cmocka_unit_test(long_strings_end_in_the_right_place),
        cmocka_unit_test(put_string_repairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
