/* The bench client's HTTP parser: the same result for every way of cutting the
 * reply into pieces. */
#include "config.h"

#include "ctl/http_reply.h"

#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct buf seen;

static void
on_event(void *arg, const char *data, size_t n)
{
    buf_append(&seen, data, n);
    buf_putc(&seen, '|');
}

static int
feed(struct http_reply *r, const char *text, size_t from, size_t n)
{
    return n ? http_reply_feed(r, text + from, n) : 0;
}

/* Feeds text cut in three in every way; events and body must be as given. */
static void
check(const char *text, int status, bool keep, const char *events,
      const char *body)
{
    struct http_reply r = {0};
    size_t n = strlen(text);
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b++) {
            http_reply_reset(&r, on_event, NULL);
            seen.len = 0;
            assert_int_equal(feed(&r, text, 0, a), 0);
            assert_int_equal(feed(&r, text, a, b - a), 0);
            assert_int_equal(feed(&r, text, b, n - b), 0);
            assert_true(r.state == HTTP_DONE || http_reply_close(&r));
            assert_int_equal(r.status, status);
            assert_int_equal(r.keep_alive, keep);
            assert_int_equal(seen.len, strlen(events));
            assert_memory_equal(seen.data, events, seen.len);
            assert_int_equal(r.events ? 0 : r.body.len, strlen(body));
            if (*body)
                assert_memory_equal(r.body.data, body, strlen(body));
        }
    http_reply_free(&r);
}

static void
test_chunked_events(void **state)
{
    check("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
          "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n"
          "10\r\ndata: {\"a\":1}\n\nd\r\nc;x=y\r\nata: [DONE]\n\r\n"
          "3\r\n: c\r\n1\r\n\n\r\n0\r\n\r\n",
          200, true, "{\"a\":1}|[DONE]|", "");
}

static void
test_sized(void **state)
{
    check("HTTP/1.1 429 Too Many\r\ncontent-length: 9\r\n"
          "Content-Type: application/json\r\nConnection: close\r\n\r\n"
          "{\"x\": 42}", 429, false, "", "{\"x\": 42}");
    check("HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n", 204, true, "",
          "");
}

static void
test_until_close(void **state)
{
    check("HTTP/1.0 200 OK\r\n\r\nto the end", 200, false, "", "to the end");
}

static void
test_bad(void **state)
{
    static const char *const bad[] = {
        "FTP/1.1 200 OK\r\n", "HTTP/1.1 999 x\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    };
    struct http_reply r = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        http_reply_reset(&r, on_event, NULL);
        assert_int_equal(http_reply_feed(&r, bad[i], strlen(bad[i])),
                         ERR_FORMAT);
    }
    http_reply_reset(&r, on_event, NULL);
    static const char cut[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";
    assert_int_equal(http_reply_feed(&r, cut, strlen(cut)), 0);
    assert_false(http_reply_close(&r));
    http_reply_free(&r);
}

static int
cleanup(void **state)
{
    buf_free(&seen);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunked_events),
        cmocka_unit_test(test_sized),
        cmocka_unit_test(test_until_close),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, cleanup);
}
