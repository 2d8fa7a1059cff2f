#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "fcgi/head.h"
#include "fcgi_client.h"

/* On a copy of exact size, so that ASan sees a read past the end. */
static long
check(const struct buf *b, size_t n, size_t max, uint16_t *id)
{
    struct buf scratch = {0};
    unsigned char *exact = malloc(n + !n);
    memcpy(exact, b->data ? b->data : "", n);
    long rc = head_check(exact, n, max, &scratch, id);
    free(exact);
    buf_free(&scratch);
    return rc;
}

static void
waits_for_the_whole_head(void **state)
{
    struct buf params = {0}, b = {0};
    char longer[400];
    memset(longer, 'v', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    put_pair(&params, "A", "1");
    put_pair(&params, "LONG", longer);
    put_begin(&b, 258);
    put_stream(&b, 4, 258, params.data, params.len, 7);
    size_t head = b.len;
    put_stream(&b, 5, 258, "body", 4, 4);
    uint16_t id = 0;
    for (size_t n = 0; n < head; n++)
        assert_int_equal(check(&b, n, 1000, &id), 0);
    for (size_t n = head; n <= b.len; n++)
        assert_int_equal(check(&b, n, 1000, &id), head);
    assert_int_equal(id, 258);
    assert_int_equal(check(&b, b.len, params.len - 1, &id), ERR_LIMIT);
    buf_free(&b);
    buf_free(&params);
}

static void
refuses_hostile_heads(void **state)
{
#define BEGIN "\1\1\0\1\0\10\0\0" "\0\1\0\0\0\0\0\0"
#define END "\1\4\0\1\0\0\0\0"
    static const struct {
        const char *bytes;
        size_t n;
    } t[] = {
#define ROW(s) {s, sizeof(s) - 1}
        ROW("\2\1\0\1\0\10\0\0" "\0\1\0\0\0\0\0\0" END), /* version */
        ROW("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ROW("\1\4\0\1\0\0\0\0"),                      /* params first */
        ROW("\1\1\0\0\0\10\0\0" "\0\1\0\0\0\0\0\0"),  /* id 0 */
        ROW("\1\1\0\1\0\7\0\0" "\0\1\0\0\0\0\0"),     /* short begin */
        ROW("\1\1\0\1\0\10\0\0" "\0\2\0\0\0\0\0\0"),  /* authorizer */
        ROW("\1\11\0\0\0\0\0\0"),                     /* management */
        ROW(BEGIN "\1\4\0\2\0\0\0\0"),                /* other id */
        ROW(BEGIN BEGIN),                             /* begins twice */
        ROW(BEGIN "\1\5\0\1\0\0\0\0"),                /* input too early */
        ROW(BEGIN "\1\11\0\0\0\12\0\0"
                  "\377\377\377\376\377\377\377\376ab"), /* get values */
        ROW(BEGIN "\1\4\0\1\0\12\0\0"
                  "\377\377\377\376\377\377\377\376ab" END), /* huge lengths */
        ROW(BEGIN "\1\4\0\1\0\12\0\0"
                  "\200\0\0\1\377\377\377\377ab" END),
        ROW(BEGIN "\1\4\0\1\0\3\0\0" "\1\2A" END),    /* value cut off */
        ROW(BEGIN "\1\4\0\1\0\1\0\0" "\1" END),       /* length cut off */
        ROW(BEGIN "\1\4\0\1\0\2\0\0" "\200\0" END),
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct buf b = {0};
        uint16_t id = 0;
        buf_append(&b, t[i].bytes, t[i].n);
        long rc = check(&b, b.len, 65536, &id);
        if (rc != ERR_FORMAT)
            fail_msg("head %zu: %ld", i, rc);
        buf_free(&b);
    }
}

static void
endless_heads_end(void **state)
{
    struct buf b = {0};
    uint16_t id = 0;
    put_begin(&b, 1);
    for (int i = 0; i < 20000; i++)
        put_record(&b, 4, 1, "\0", 1, 255);
    assert_int_equal(check(&b, b.len, 65536, &id), ERR_LIMIT);
    buf_free(&b);
}

/* What input_body makes of a body; *got is what it stored. */
static int
body_of(const struct buf *wire, size_t want, char *got)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(client_send(pair[1], wire), 0);
    shutdown(pair[1], SHUT_WR);
    struct input in = {.fd = pair[0], .deadline = UINT64_MAX};
    int rc = input_body(&in, 1, got, want);
    buf_free(&in.ahead);
    close(pair[0]);
    close(pair[1]);
    return rc;
}

static void
reads_exactly_the_body(void **state)
{
    char text[30000], got[30000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 31 >> 3);
    for (size_t part = 1; part < 40000; part = part * 3 + 1) {
        struct buf b = {0};
        put_stream(&b, 5, 1, text, part == 1 ? 300 : sizeof text, part);
        size_t n = part == 1 ? 300 : sizeof text;
        memset(got, 0, sizeof got);
        assert_int_equal(body_of(&b, n, got), 0);
        assert_memory_equal(got, text, n);
        assert_int_equal(body_of(&b, n - 1, got), ERR_LIMIT);
        assert_int_equal(body_of(&b, 0, NULL), ERR_LIMIT);
        b.len -= 8; /* without its end */
        assert_int_equal(body_of(&b, n, got), ERR_CLOSED);
        put_record(&b, 2, 1, "", 0, 0);
        assert_int_equal(body_of(&b, n, got), ERR_CLOSED);
        buf_free(&b);
    }
    struct buf b = {0};
    put_stream(&b, 5, 1, text, 100, 100);
    assert_int_equal(body_of(&b, 101, got), ERR_CLOSED);
    b.len = 0;
    put_record(&b, 9, 0, "\377\377\377\376\377\377\377\376", 8, 0);
    assert_int_equal(body_of(&b, 101, got), ERR_FORMAT);
    buf_free(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_the_whole_head),
        cmocka_unit_test(refuses_hostile_heads),
        cmocka_unit_test(endless_heads_end),
        cmocka_unit_test(reads_exactly_the_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
