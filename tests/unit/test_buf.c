#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

static void
appends_grow(void **state)
{
    struct buf b = {0};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf_printf(&b, "%d,", i), 0);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    assert_memory_equal(b.data, "0,1,2,", 6);
    assert_string_equal(buf_cstr(&b) + b.len - 4, "999,");
    buf_consume(&b, b.len - 4);
    assert_string_equal(buf_cstr(&b), "999,");
    buf_free(&b);
    assert_null(b.data);
}

static void
reserve_refuses_overflow(void **state)
{
    struct buf b = {0};
    assert_int_equal(buf_puts(&b, "x"), 0);
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 2), ERR_NOMEM);
    assert_int_equal(b.len, 1);
    buf_free(&b);
}

static void
ids_keep_order(void **state)
{
    struct ids v = {0};
    for (int32_t i = 0; i < 100; i++)
        assert_int_equal(ids_push(&v, i * 7), 0);
    int32_t more[50] = {-1};
    assert_int_equal(ids_append(&v, more, 50), 0);
    assert_int_equal(v.n, 150);
    assert_int_equal(v.id[99], 693);
    assert_int_equal(v.id[100], -1);
    ids_free(&v);
}

static void
reads_files_within_the_limit(void **state)
{
    char path[] = "/tmp/test_buf.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "hello", 5), 5);
    close(fd);
    struct buf b = {0};
    assert_int_equal(buf_read_file(&b, path, 5), 0);
    assert_int_equal(b.len, 5);
    assert_int_equal(buf_read_file(&b, path, 4), ERR_LIMIT);
    assert_int_equal(b.len, 5);
    assert_int_equal(buf_read_file(&b, "/nonexistent/x", 4), ERR_NOENT);
    assert_int_equal(buf_read_file(&b, "/tmp", 4096), ERR_IO);
    /* No size is known in advance here. */
    assert_int_equal(buf_read_file(&b, "/dev/zero", 100000), ERR_LIMIT);
    assert_int_equal(b.len, 5);
    /* To root nothing is forbidden. */
    bool root = geteuid() == 0;
    assert_int_equal(chmod(path, 0), 0);
    assert_true(!root || seteuid(65534) == 0);
    assert_int_equal(buf_read_file(&b, path, 5), ERR_ACCESS);
    assert_true(!root || seteuid(0) == 0);
    buf_free(&b);
    unlink(path);
}

static void
words_and_trim(void **state)
{
    struct str s = STR("  ab\tc \n");
    assert_true(str_eq(str_trim(s), STR("ab\tc")));
    assert_true(str_eq(str_word(&s), STR("ab")));
    assert_true(str_eq(str_word(&s), STR("c")));
    assert_int_equal(str_word(&s).n, 0);
}

static void
distance_counts_edits(void **state)
{
    assert_int_equal(str_distance("socket", "socket"), 0);
    assert_int_equal(str_distance("sokcet", "socket"), 2);
    assert_int_equal(str_distance("", "abc"), 3);
    assert_int_equal(str_distance("kitten", "sitting"), 3);
    char longer[66] = {0};
    memset(longer, 'a', 65);
    assert_int_equal(str_distance(longer, longer), 15);
}

static void
sizes_and_durations(void **state)
{
    unsigned long long v;
    assert_int_equal(str_parse_size("12", &v), 0);
    assert_int_equal(v, 12);
    assert_int_equal(str_parse_size("3g", &v), 0);
    assert_true(v == 3ull << 30);
    static const char *const bad_size[] = {
        "", "-1", " 1", "1x", "1KK", "K", "99999999999999999999", "99999999T"};
    for (size_t i = 0; i < sizeof bad_size / sizeof *bad_size; i++)
        assert_int_equal(str_parse_size(bad_size[i], &v), ERR_FORMAT);
    assert_int_equal(str_parse_ms("250ms", &v), 0);
    assert_int_equal(v, 250);
    assert_int_equal(str_parse_ms("2m", &v), 0);
    assert_int_equal(v, 120000);
    assert_int_equal(str_parse_ms("7", &v), 0);
    assert_int_equal(v, 7);
    assert_int_equal(str_parse_ms("1d", &v), ERR_FORMAT);
    assert_int_equal(str_parse_ms("99999999999999999h", &v), ERR_FORMAT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_grow),
        cmocka_unit_test(reserve_refuses_overflow),
        cmocka_unit_test(ids_keep_order),
        cmocka_unit_test(reads_files_within_the_limit),
        cmocka_unit_test(words_and_trim),
        cmocka_unit_test(distance_counts_edits),
        cmocka_unit_test(sizes_and_durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
