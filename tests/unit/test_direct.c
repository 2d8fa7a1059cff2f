/* Reads of any range, with and without the page cache, and files that end too
 * early. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/direct.h"

#define SIZE (3 * 65536 + 77)

static char path[80];
static char *buf;

static char
byte_at(uint64_t i)
{
    return (char)(i * 2654435761u >> 13);
}

static void
make_in(const char *dir)
{
    snprintf(path, sizeof path, "%s/test_direct.XXXXXX", dir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    for (uint64_t i = 0; i < SIZE; i++)
        putc(byte_at(i), f);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fclose(f), 0);
    buf = aligned_alloc(DIRECT_ALIGN, 4 * 65536 + DIRECT_SLACK);
    assert_non_null(buf);
}

static void
drop(void)
{
    unlink(path);
    free(buf);
}

static void
check(struct direct *d, uint64_t from, size_t n)
{
    struct err e = {0};
    char *at = NULL;
    memset(buf, 0x5a, n + DIRECT_SLACK);
    if (direct_read(d, from, buf, n, &at, &e) != 0)
        fail_msg("%s", e.text);
    assert_true(at >= buf && at + n <= buf + n + DIRECT_SLACK);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(at[i], byte_at(from + i));
}

static void
check_ranges(struct direct *d)
{
    static const struct { uint64_t from; size_t n; } r[] = {
        {0, 1}, {0, 4096}, {1, 4096}, {4095, 2}, {4096, 65536},
        {777, 100000}, {0, SIZE}, {SIZE - 1, 1}, {SIZE - 5000, 5000},
        {SIZE, 0},
    };
    for (size_t i = 0; i < sizeof r / sizeof *r; i++)
        check(d, r[i].from, r[i].n);
}

static void
any_range_is_read(void **state)
{
    static const char *const dirs[] = {"/dev/shm", "/tmp", "."};
    struct err e = {0};
    for (int i = 0; i < 3; i++) {
        struct direct d;
        make_in(dirs[i]);
        assert_int_equal(direct_open(&d, path, &e), 0);
        check_ranges(&d);
        atomic_store(&d.past, -1); /* as where O_DIRECT is refused */
        check_ranges(&d);
        direct_close(&d);
        drop();
    }
}

/* A descriptor that opens and does not read: loading goes on without. */
static void
refused_reads_fall_back(void **state)
{
    struct direct d;
    struct err e = {0};
    int fds[2];
    make_in("/tmp");
    assert_int_equal(direct_open(&d, path, &e), 0);
    assert_int_equal(pipe(fds), 0);
    atomic_store(&d.past, fds[0]); /* pread: ESPIPE */
    char *at;
    assert_int_equal(direct_read(&d, 0, buf, 10, &at, &e), ERR_IO);
    assert_non_null(strstr(e.text, path));
    atomic_store(&d.past, d.past_fd);
    if (d.past_fd >= 0) {
        /* One byte off what the memory must be aligned to. */
        struct err none = {0};
        assert_int_equal(direct_read(&d, 5, buf + 1, 9000, &at, &none), 0);
        assert_int_equal(at[0], byte_at(5));
        check_ranges(&d);
    }
    close(fds[0]);
    close(fds[1]);
    direct_close(&d);
    drop();
}

static void
a_file_cut_short_is_told(void **state)
{
    struct direct d;
    struct err e = {0};
    char *at;
    for (int cached = 0; cached < 2; cached++) {
        make_in("/tmp");
        assert_int_equal(direct_open(&d, path, &e), 0);
        if (cached)
            atomic_store(&d.past, -1);
        check(&d, 70000, 60000);
        assert_int_equal(truncate(path, 100000), 0);
        check(&d, 70000, 30000);
        assert_int_equal(direct_read(&d, 70000, buf, 60000, &at, &e),
                         ERR_IO);
        assert_non_null(strstr(e.text, path));
        assert_non_null(strstr(e.text, "truncated"));
        assert_non_null(strstr(e.text, "100000"));
        assert_non_null(strstr(e.text, "130000"));
        direct_close(&d);
        drop();
    }
}

/* Pages of the file that are in the page cache. */
static int
cached_pages(void)
{
    unsigned char in[SIZE / 4096 + 1];
    int n = 0;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    void *p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fileno(f), 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mincore(p, SIZE, in), 0);
    for (size_t i = 0; i < sizeof in; i++)
        n += in[i] & 1;
    munmap(p, SIZE);
    fclose(f);
    return n;
}

/* AC-42 */
static void
reads_leave_no_page_cache(void **state)
{
    struct direct d;
    struct err e = {0};
    for (int cached = 0; cached < 2; cached++) {
        make_in(".");
        assert_int_equal(direct_open(&d, path, &e), 0);
        if (cached)
            atomic_store(&d.past, -1);
        posix_fadvise(d.fd, 0, 0, POSIX_FADV_DONTNEED);
        if (cached_pages() > 0) { /* a file system in memory */
            direct_close(&d);
            drop();
            skip();
        }
        for (uint64_t at = 0; at + 5000 <= SIZE; at += 5000)
            check(&d, at, 5000);
        assert_in_range(cached_pages(), 0, 2);
        direct_close(&d);
        drop();
    }
}

static void
a_missing_file_is_told(void **state)
{
    struct direct d;
    struct err e = {0};
    assert_int_equal(direct_open(&d, "/none/such", &e), ERR_IO);
    assert_non_null(strstr(e.text, "/none/such"));
    direct_close(&d);
    memset(&d, 0, sizeof d);
    direct_close(&d);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_range_is_read),
        cmocka_unit_test(refused_reads_fall_back),
        cmocka_unit_test(a_file_cut_short_is_told),
        cmocka_unit_test(reads_leave_no_page_cache),
        cmocka_unit_test(a_missing_file_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
