#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/conf.h"
#include "conf/conf_tab.h"

/* Loads text as a file; what was complained about goes to errors. */
static int
load(struct conf *c, const char *text, char *errors, size_t size)
{
    char path[] = "/tmp/sirocco-conf-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    FILE *f = fmemopen(errors, size, "w");
    assert_non_null(f);
    struct err e = {0};
    int rc = conf_load(c, path, f, &e);
    fclose(f);
    unlink(path);
    return rc;
}

static void
test_defaults(void **state)
{
    struct conf c;
    conf_init(&c);
    assert_string_equal(c.backend, "cpu");
    assert_null(c.model);
    assert_int_equal(c.socket_mode, 0660);
    assert_int_equal(c.drain_ms, 300000);
    assert_true(c.prefix_cache);
    conf_free(&c);
}

static void
test_values(void **state)
{
    struct conf c;
    char errors[1024] = "";
    conf_init(&c);
    assert_int_equal(0, load(&c,
        "# comment\n\n  model=/srv/m  # where it is\n"
        "kv_cache = 20G\nprefix_cache = no\ntemperature = 0.15\n"
        "socket_mode = 0600\nping = 15s\ntop_k = -0\nmax_body = 2M",
        errors, sizeof errors));
    assert_int_equal(c.max_body_bytes, 2 << 20);
    assert_string_equal(c.model, "/srv/m");
    assert_true(c.kv_bytes == 20ULL << 30);
    assert_false(c.prefix_cache);
    assert_true(c.temperature == 0.15);
    assert_int_equal(c.socket_mode, 0600);
    assert_int_equal(c.ping_ms, 15000);
    conf_free(&c);
}

/* All mistakes of a file are reported, with line and suggestion. */
static void
test_every_mistake(void **state)
{
    struct conf c;
    char errors[4096] = "";
    conf_init(&c);
    assert_int_equal(ERR_FORMAT, load(&c,
        "modle = /x\nthreads = many\nno equals sign\ntemperature = 3\n"
        "reasoning_field = thought\nacceptors = 99999999999999999999\n"
        "prefix_cache = maybe\nmodel = /ok\n", errors, sizeof errors));
    assert_non_null(strstr(errors, ":1: unknown key 'modle', did you mean "
                                   "'model'?"));
    assert_non_null(strstr(errors, ":2: threads: 'many' is not a whole"));
    assert_non_null(strstr(errors, ":3: expected 'key = value'"));
    assert_non_null(strstr(errors, ":4: temperature: 3 is outside 0 to 2"));
    assert_non_null(strstr(errors, ":5: reasoning_field: 'thought' is none"));
    assert_non_null(strstr(errors, ":6: acceptors"));
    assert_non_null(strstr(errors, ":7: prefix_cache"));
    assert_null(strstr(errors, ":8:"));
    conf_free(&c);
}

static void
test_missing_file(void **state)
{
    struct conf c;
    struct err e = {0};
    conf_init(&c);
    assert_int_equal(ERR_NOENT, conf_load(&c, "/no/such", NULL, &e));
    assert_non_null(strstr(e.text, "/no/such"));
    conf_free(&c);
}

static void
test_reload_keeps_what_needs_a_restart(void **state)
{
    struct conf running, next;
    struct err e = {0};
    conf_init(&running);
    conf_init(&next);
    assert_int_equal(0, conf_set(&next, "backend", "null", &e));
    assert_int_equal(0, conf_set(&next, "log_level", "debug", &e));
    conf_reload(&running, &next);
    assert_string_equal(next.backend, "cpu");
    assert_string_equal(next.log_level, "debug");
    assert_true(conf_reloadable("log_level"));
    assert_false(conf_reloadable("socket"));
    conf_free(&running);
    conf_free(&next);
}

static void
test_check(void **state)
{
    struct conf c;
    struct err e = {0};
    conf_init(&c);
    assert_int_equal(ERR_RANGE, conf_check(&c, NULL)); /* no model */
    assert_int_equal(0, conf_set(&c, "model", "/tmp", &e));
    assert_int_equal(0, conf_check(&c, NULL));
    assert_int_equal(0, conf_set(&c, "backend", "", &e));
    assert_int_equal(ERR_RANGE, conf_check(&c, NULL));
    assert_int_equal(0, conf_set(&c, "backend", "cpu", &e));
    assert_int_equal(0, conf_check(&c, NULL));
    assert_int_equal(0, conf_set(&c, "think_budget_low", "9000", &e));
    assert_int_equal(ERR_RANGE, conf_check(&c, NULL));
    conf_free(&c);
}

/* What -T prints is read back as the same values. */
static void
test_print_reads_back(void **state)
{
    struct conf c, d;
    char *text = NULL, errors[1024] = "";
    size_t n;
    conf_init(&c);
    conf_init(&d);
    conf_set(&c, "temperature", "0.7", NULL);
    conf_set(&c, "kv_cache", "3G", NULL);
    FILE *f = open_memstream(&text, &n);
    conf_print(&c, f);
    fclose(f);
    assert_int_equal(0, load(&d, text, errors, sizeof errors));
    assert_true(d.temperature == 0.7);
    assert_true(d.kv_bytes == 3ULL << 30);
    free(text);
    conf_free(&c);
    conf_free(&d);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_every_mistake),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_reload_keeps_what_needs_a_restart),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_print_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
