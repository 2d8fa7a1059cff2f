#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "image/fetch.h"

/* --- a server on the loopback -------------------------------------------- */

struct server {
    int fd, port;
    pthread_t thread;
};

static void
reply(int fd, int port, const char *path)
{
    struct buf b = {0};

    if (strcmp(path, "/ok") == 0)
        buf_puts(&b, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage");
    else if (strcmp(path, "/to-ok") == 0)
        buf_puts(&b, "HTTP/1.1 302 Found\r\nLocation: /ok\r\n"
                 "Content-Length: 0\r\n\r\n");
    else if (strcmp(path, "/to-other") == 0)
        buf_printf(&b, "HTTP/1.1 302 Found\r\nLocation: "
                   "http://127.0.0.2:%d/ok\r\nContent-Length: 0\r\n\r\n",
                   port);
    else if (strcmp(path, "/to-file") == 0)
        buf_puts(&b, "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n"
                 "Content-Length: 0\r\n\r\n");
    else if (strcmp(path, "/loop") == 0)
        buf_puts(&b, "HTTP/1.1 302 Found\r\nLocation: /loop\r\n"
                 "Content-Length: 0\r\n\r\n");
    else if (strcmp(path, "/big") == 0)
        buf_puts(&b, "HTTP/1.1 200 OK\r\n\r\n");
    else if (strcmp(path, "/slow") != 0)
        buf_puts(&b, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    for (int i = 0; i < 3000 && strcmp(path, "/big") == 0; i++)
        buf_puts(&b, "0123456789abcdef0123456789abcdef");
    if (b.len > 0)
        (void)!send(fd, b.data, b.len, MSG_NOSIGNAL);
    else
        usleep(600 * 1000);
    buf_free(&b);
}

static void *
serve(void *arg)
{
    struct server *s = arg;
    char line[2048], path[64];
    int fd;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
        line[n > 0 ? n : 0] = '\0';
        if (sscanf(line, "GET %63s", path) == 1)
            reply(fd, s->port, path);
        close(fd);
    }
    return NULL;
}

static int
start(void **state)
{
    static struct server s;
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t n = sizeof(in);

    in.sin_addr.s_addr = htonl(INADDR_ANY);
    s.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(s.fd, (struct sockaddr *)&in, n) != 0 || listen(s.fd, 8) != 0
        || getsockname(s.fd, (struct sockaddr *)&in, &n) != 0)
        return -1;
    s.port = ntohs(in.sin_port);
    *state = &s;
    return pthread_create(&s.thread, NULL, serve, &s);
}

static int
stop(void **state)
{
    struct server *s = *state;
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    return 0;
}

#ifdef HAVE_CURL

/* The hook: 127.0.0.1 passes for a public address, its neighbours do not. */
static bool
only_first(const struct sockaddr *sa)
{
    struct sockaddr_in in;
    memcpy(&in, sa, sizeof(in));
    return sa->sa_family == AF_INET
           && ntohl(in.sin_addr.s_addr) == INADDR_LOOPBACK;
}

static int
get(void **state, const char *hosts, bool hook, const char *host,
    const char *path, struct buf *out, struct err *e)
{
    struct server *s = *state;
    struct fetch_options o = {.hosts = hosts, .max_bytes = 50000,
                              .timeout_ms = 400,
                              .may_connect = hook ? only_first : NULL};
    char url[256];

    snprintf(url, sizeof(url), "http://%s:%d%s", host, s->port, path);
    return fetch_get(&o, str_from(url), out, e);
}

static void
allowed_hosts_are_fetched(void **state)
{
    struct buf b = {0};
    struct err e = {0};
    buf_puts(&b, "head:");
    assert_int_equal(get(state, "a.example, 127.0.0.1", true, "127.0.0.1",
                         "/ok", &b, &e), 0);
    assert_string_equal(buf_cstr(&b), "head:image");
    assert_int_equal(get(state, "*", true, "localhost", "/to-ok", &b, &e), 0);
    assert_string_equal(buf_cstr(&b), "head:imageimage");
    buf_free(&b);
}

static void
what_the_guard_stops(void **state)
{
    static const struct {
        const char *hosts;
        bool hook;
        const char *host, *path;
        int rc;
        const char *text;
    } rows[] = {
        {NULL, true, "127.0.0.1", "/ok", ERR_UNSUPPORTED, "fetches no"},
        {"a.example", true, "127.0.0.1", "/ok", ERR_RANGE, "may not"},
        {"*", false, "127.0.0.1", "/ok", ERR_RANGE, "public"},
        {"*", false, "localhost", "/ok", ERR_RANGE, "public"},
        {"*", false, "[::1]", "/ok", ERR_RANGE, "public"},
        {"*", false, "2130706433", "/ok", ERR_RANGE, "public"},
        {"*", false, "0x7f.1", "/ok", ERR_RANGE, "public"},
        {"*", true, "127.0.0.2", "/ok", ERR_RANGE, "public"},
        {"*", true, "127.0.0.1", "/to-other", ERR_RANGE, "public"},
        {"127.0.0.1", true, "127.0.0.1", "/to-other", ERR_RANGE, "may not"},
        {"*", true, "127.0.0.1", "/to-file", ERR_FORMAT, "http"},
        {"*", true, "user:pw@127.0.0.1", "/ok", ERR_FORMAT, "good URL"},
        {"*", true, "127.0.0.1", "/loop", ERR_IO, "too often"},
        {"*", true, "127.0.0.1", "/big", ERR_LIMIT, "larger"},
        {"*", true, "127.0.0.1", "/slow", ERR_IO, "longer"},
        {"*", true, "127.0.0.1", "/none", ERR_IO, "404"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = {0};
        struct err e = {0};
        int rc = get(state, rows[i].hosts, rows[i].hook, rows[i].host,
                     rows[i].path, &b, &e);
        if (rc != rows[i].rc || strstr(e.text, rows[i].text) == NULL)
            fail_msg("row %zu: %d %s", i, rc, e.text);
        assert_int_equal(b.len, 0);
        buf_free(&b);
    }
}

static void
bad_urls_are_refused(void **state)
{
    static const char *const urls[] = {
        "", "http://", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/",
        "gopher://127.0.0.1/", "file:///etc/passwd", "http://a b/"
    };
    struct fetch_options o = {.hosts = "*", .max_bytes = 100,
                              .timeout_ms = 400, .may_connect = only_first};
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        struct buf b = {0};
        struct err e = {0};
        assert_int_equal(fetch_get(&o, str_from(urls[i]), &b, &e),
                         ERR_FORMAT);
        assert_true(e.text[0] != '\0');
    }
    assert_int_equal(fetch_get(&o, (struct str){"http://a\0b/", 11},
                               &(struct buf){0}, NULL), ERR_FORMAT);
}

#else

static void
a_build_without_curl_says_so(void **state)
{
    struct fetch_options o = {.hosts = "*", .max_bytes = 9, .timeout_ms = 9};
    struct buf b = {0};
    struct err e = {0};
    assert_int_equal(fetch_get(&o, STR("http://a.example/"), &b, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "build"));
}

#endif

/* --- lists --------------------------------------------------------------- */

static void
hosts_match_whole_names(void **state)
{
    const char *list = "a.example,.b.example *.c.example";
    assert_true(fetch_host_allowed(list, "a.example"));
    assert_true(fetch_host_allowed(list, "A.Example"));
    assert_true(fetch_host_allowed(list, "x.b.example"));
    assert_true(fetch_host_allowed(list, "x.y.c.example"));
    assert_false(fetch_host_allowed(list, "b.example"));
    assert_false(fetch_host_allowed(list, "xb.example"));
    assert_false(fetch_host_allowed(list, "c.example"));
    assert_false(fetch_host_allowed(list, "a.example.org"));
    assert_false(fetch_host_allowed(list, "xa.example"));
    assert_false(fetch_host_allowed("", "a.example"));
    assert_false(fetch_host_allowed(NULL, "a.example"));
    assert_true(fetch_host_allowed("*", "anything"));
}

static bool
is_public(const char *text)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
        return fetch_is_public((struct sockaddr *)&in);
    assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
    return fetch_is_public((struct sockaddr *)&in6);
}

static void
addresses_of_the_own_network_are_closed(void **state)
{
    static const char *const closed[] = {
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1",
        "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1",
        "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
        "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "::127.0.0.1", "64:ff9b::7f00:1", "fe80::1", "fec0::1", "fc00::1",
        "fd12::1", "ff02::1", "2001:db8::1", "2001::1", "2002:7f00:1::",
        "2002:c0a8:101::1", "3fff::1", "100::1", "4000::1"
    };
    static const char *const open[] = {
        "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1",
        "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.1.1.1",
        "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8",
        "64:ff9b::808:808", "2002:808:808::1", "2001:4860::8888"
    };
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++)
        if (is_public(closed[i]))
            fail_msg("%s passes for public", closed[i]);
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
        if (!is_public(open[i]))
            fail_msg("%s does not pass for public", open[i]);
    assert_false(fetch_is_public(&(struct sockaddr){.sa_family = AF_UNIX}));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef HAVE_CURL
        cmocka_unit_test(allowed_hosts_are_fetched),
        cmocka_unit_test(what_the_guard_stops),
        cmocka_unit_test(bad_urls_are_refused),
#else
        cmocka_unit_test(a_build_without_curl_says_so),
#endif
        cmocka_unit_test(hosts_match_whole_names),
        cmocka_unit_test(addresses_of_the_own_network_are_closed),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
