/* Memory that may be had, from made-up files of the kernel's form. */
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

#include "base/meminfo.h"

#define KIB 1024ull
#define MEMINFO \
    "MemTotal:       125829120 kB\nMemFree:         2097152 kB\n" \
    "MemAvailable:   83886080 kB\nBuffers:           10240 kB\n" \
    "Cached:         80000000 kB\nSwapFree:       16777216 kB\n"

static char root[64];

static void
put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    if (text == NULL) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int
begin(void **state)
{
    static const char *const dirs[] = {"proc", "sys", "sys/fs",
                                       "sys/fs/cgroup"};
    char path[256];
    snprintf(root, sizeof root, "/tmp/test_meminfo.XXXXXX");
    assert_non_null(mkdtemp(root));
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    return 0;
}

static int
end(void **state)
{
    static const char *const names[] = {
        "proc/meminfo", "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"};
    static const char *const dirs[] = {"sys/fs/cgroup", "sys/fs", "sys",
                                       "proc", ""};
    char path[256];
    for (int i = 0; i < 4; i++)
        put(names[i], NULL);
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        rmdir(path);
    }
    return 0;
}

static void
page_cache_is_free_and_swap_is_not(void **state)
{
    put("proc/meminfo", MEMINFO);
    assert_int_equal(meminfo_available(root), 83886080 * KIB);
}

static void
a_control_group_limits(void **state)
{
    put("proc/meminfo", MEMINFO);
    put("sys/fs/cgroup/memory.max", "10000000000\n");
    put("sys/fs/cgroup/memory.current", "4000000000\n");
    assert_int_equal(meminfo_available(root), 6000000000);
    put("sys/fs/cgroup/memory.stat",
        "anon 1000000\nfile 3500000000\ninactive_file 3000000000\n");
    assert_int_equal(meminfo_available(root), 9000000000);
    /* More used than allowed leaves nothing; no limit leaves all. */
    put("sys/fs/cgroup/memory.current", "24000000000\n");
    assert_int_equal(meminfo_available(root), 0);
    put("sys/fs/cgroup/memory.max", "max\n");
    assert_int_equal(meminfo_available(root), 83886080 * KIB);
}

static void
what_is_not_told_is_not_made_up(void **state)
{
    assert_true(meminfo_available(root) == UINT64_MAX);
    put("proc/meminfo", "MemTotal: 5 kB\nMemFree: 4 kB\n");
    assert_true(meminfo_available(root) == UINT64_MAX);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(page_cache_is_free_and_swap_is_not,
                                        begin, end),
        cmocka_unit_test_setup_teardown(a_control_group_limits, begin, end),
        cmocka_unit_test_setup_teardown(what_is_not_told_is_not_made_up,
                                        begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
