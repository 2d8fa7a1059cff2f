/*
 * The whole responder through a UNIX socket. Its handler is a small program
 * of its own: the request's URI says what to do.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "fcgi/fcgi.h"
#include "fcgi_client.h"

static char dir[] = "/tmp/test_fcgi.XXXXXX";
static char path[128];
static struct fcgi_server *server;

#define OUT_LIMIT 200000
enum { MANY = 1000, TOKENS = 20 };

/* A stream's owner: what was asked for and what happened. */
struct owner {
    struct fcgi_stream *s;
    atomic_int posts, closed, ticks;
    _Atomic uint64_t closed_ns, max_pending;
    bool keep; /* do not close when the peer goes: the test does */
};
static struct owner *_Atomic last_owner;
static struct owner *many[MANY];
static atomic_int n_many;

static const char whole_text[] = "whole";

static void
on_post(void *arg, void *message)
{
    struct owner *o = arg;
    const char *text = message;
    if (strcmp(text, "start") == 0)
        fcgi_stream_start(o->s, 200, "text/event-stream",
                          "Cache-Control: no-store\r\n");
    else if (strcmp(text, "end") == 0)
        fcgi_stream_close(o->s);
    else if (strcmp(text, "tick") == 0)
        fcgi_stream_tick(o->s, 60);
    else if (strcmp(text, "flood") == 0) {
        static char block[10000];
        fcgi_stream_write(o->s, (struct str){block, sizeof block});
    } else
        fcgi_stream_write(o->s, str_from(text));
    atomic_fetch_add(&o->posts, 1);
    if (strcmp(text, "end") != 0
        && fcgi_stream_pending(o->s) > atomic_load(&o->max_pending))
        atomic_store(&o->max_pending, fcgi_stream_pending(o->s));
}

static void
on_closed(void *arg)
{
    struct owner *o = arg;
    atomic_store(&o->closed_ns, clock_ns());
    atomic_fetch_add(&o->closed, 1);
    if (!o->keep)
        fcgi_stream_close(o->s);
}

static void
on_tick(void *arg)
{
    struct owner *o = arg;
    atomic_fetch_add(&o->ticks, 1);
    fcgi_stream_write(o->s, STR(": ping\n\n"));
}

static const struct fcgi_stream_ops ops = {on_post, on_closed, on_tick};

static void
open_stream(struct fcgi_request *r, bool keep)
{
    struct owner *o = calloc(1, sizeof *o);
    o->keep = keep;
    o->s = fcgi_stream_open(r, &ops, o);
    assert_non_null(o->s);
    atomic_store(&last_owner, o);
}

static void
handle(void *arg, struct fcgi_request *r)
{
    struct str uri = fcgi_param(r, "DOCUMENT_URI");
    struct str body = fcgi_body(r);
    if (str_eq(uri, STR("/echo"))) {
        struct str q = fcgi_param(r, "QUERY");
        struct buf b = {0};
        buf_append(&b, body.p, body.n);
        buf_append(&b, q.p, q.n);
        fcgi_answer(r, 200, "text/plain", "X-Extra: 1\r\n",
                    (struct str){b.data, b.len});
        buf_free(&b);
    } else if (str_eq(uri, STR("/early"))) {
        open_stream(r, false);
        struct owner *o = atomic_load(&last_owner);
        static char *const text[] = {"start", "a", "b", "c", "end"};
        for (size_t i = 0; i < 5; i++)
            fcgi_stream_post(o->s, text[i]);
        /* The reply thread has seen them; none may be delivered yet. */
        usleep(50000);
        assert_int_equal(atomic_load(&o->posts), 0);
        assert_non_null(fcgi_param(r, "DOCUMENT_URI").p);
        memset(arena_alloc(fcgi_arena(r), 5000), 1, 5000);
    } else if (str_eq(uri, STR("/long"))) {
        open_stream(r, false);
        struct owner *o = atomic_load(&last_owner);
        fcgi_stream_post(o->s, "start");
        for (int i = 0; i < 300; i++)
            fcgi_stream_post(o->s, "flood");
        fcgi_stream_post(o->s, "end");
    } else if (str_eq(uri, STR("/stream"))) {
        open_stream(r, true);
    } else if (str_eq(uri, STR("/many"))) {
        open_stream(r, false);
        many[atomic_fetch_add(&n_many, 1)] = atomic_load(&last_owner);
    } else if (str_eq(uri, STR("/silent"))) {
        return;
    } else {
        fcgi_answer(r, 404, "text/plain", NULL,
                    (struct str){whole_text, sizeof whole_text - 1});
    }
}

static struct fcgi_options
options(void)
{
    return (struct fcgi_options){
        .socket = path, .mode = 0600, .backlog = 1024, .acceptors = 2,
        .reply_threads = 2, .max_body = 1000000, .max_params = 65536,
        .out_limit = OUT_LIMIT, .handler = handle};
}

static int
setup(void **state)
{
    struct rlimit l;
    getrlimit(RLIMIT_NOFILE, &l);
    l.rlim_cur = l.rlim_max < 8192 ? l.rlim_max : 8192;
    setrlimit(RLIMIT_NOFILE, &l);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/s", dir);
    log_set_level(LOG_ERROR);
    struct fcgi_options o = options();
    struct err e = {0};
    int rc = fcgi_start(&o, &server, &e);
    if (rc != 0)
        print_error("%s\n", e.text);
    return rc;
}

/* Waits until value is at least want; five seconds at most. */
static bool
wait_for(atomic_int *value, int want)
{
    for (int i = 0; i < 5000; i++) {
        if (atomic_load(value) >= want)
            return true;
        usleep(1000);
    }
    return false;
}

static void
wait_idle(void)
{
    for (int i = 0; i < 5000 && fcgi_open_streams(server) > 0; i++)
        usleep(1000);
    assert_int_equal(fcgi_open_streams(server), 0);
}

static int
send_request(const char *uri, const char *body, size_t n)
{
    struct buf b = {0};
    int fd = client_connect(path);
    assert_true(fd >= 0);
    put_request(&b, 1, uri, body, n);
    assert_int_equal(client_send(fd, &b), 0);
    buf_free(&b);
    return fd;
}

/* Opens a stream and returns its owner. */
static struct owner *
start_stream(int *fd)
{
    atomic_store(&last_owner, NULL);
    *fd = send_request("/stream", "", 0);
    struct owner *o = NULL;
    for (int i = 0; i < 5000 && o == NULL; i++) {
        usleep(1000);
        o = atomic_load(&last_owner);
    }
    assert_non_null(o);
    return o;
}

static void
answers_whole(void **state)
{
    struct buf b = {0}, params = {0}, out = {0};
    char value[300];
    memset(value, 'q', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    put_pair(&params, "DOCUMENT_URI", "/echo");
    put_pair(&params, "QUERY", value);
    put_pair(&params, "CONTENT_LENGTH", "5");
    for (size_t part = 1; part < 1000; part = part * 5) {
        b.len = out.len = 0;
        put_begin(&b, 300);
        put_stream(&b, 4, 300, params.data, params.len, part);
        put_stream(&b, 5, 300, "body-", 5, part);
        int fd = client_connect(path);
        assert_int_equal(client_send(fd, &b), 0);
        assert_int_equal(client_reply(fd, &out), 1);
        close(fd);
        static const char head[] = "Status: 200 OK\r\nContent-Type: text/plain"
                                   "\r\nX-Extra: 1\r\n\r\nbody-";
        assert_memory_equal(out.data, head, sizeof head - 1);
        assert_string_equal(out.data + sizeof head - 1, value);
    }
    buf_free(&b);
    buf_free(&params);
    buf_free(&out);
    int fd = send_request("/nowhere", "x", 1);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_string_equal(out.data, "Status: 404 Not Found\r\nContent-Type: "
                                  "text/plain\r\n\r\nwhole");
    close(fd);
    out.len = 0;
    fd = send_request("/silent", "", 0);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_non_null(strstr(out.data, "Status: 500"));
    close(fd);
    buf_free(&out);
    wait_idle();
}

static void
posts_wait_for_the_handler(void **state)
{
    struct buf out = {0};
    int fd = send_request("/early", "", 0);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_string_equal(out.data,
                        "Status: 200 OK\r\nContent-Type: text/event-stream"
                        "\r\nCache-Control: no-store\r\n\r\nabc");
    close(fd);
    buf_free(&out);
    free(atomic_load(&last_owner));
    wait_idle();
}

static void
bodies_are_bounded(void **state)
{
    struct buf out = {0}, b = {0};
    char *big = calloc(1, 3000000);
    int fd = send_request("/echo", big, 1000001);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_non_null(strstr(out.data, "Status: 413"));
    close(fd);
    out.len = 0;
    fd = send_request("/echo", big, 1000000);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_non_null(strstr(out.data, "Status: 200"));
    close(fd);
    /* More or less than announced. */
    struct buf params = {0};
    put_pair(&params, "CONTENT_LENGTH", "4");
    for (size_t n = 3; n <= 5; n += 2) {
        out.len = b.len = 0;
        put_begin(&b, 1);
        put_stream(&b, 4, 1, params.data, params.len, 100);
        put_stream(&b, 5, 1, "12345", n, 100);
        fd = client_connect(path);
        client_send(fd, &b);
        assert_int_equal(client_reply(fd, &out), n > 4);
        if (n > 4)
            assert_non_null(strstr(out.data, "Status: 400"));
        close(fd);
    }
    params.len = b.len = out.len = 0;
    put_pair(&params, "CONTENT_LENGTH", "99999999999999999999999999");
    put_begin(&b, 1);
    put_stream(&b, 4, 1, params.data, params.len, 100);
    put_stream(&b, 5, 1, "12345", 5, 100);
    fd = client_connect(path);
    client_send(fd, &b);
    assert_int_equal(client_reply(fd, &out), 1);
    assert_non_null(strstr(out.data, "Status: 400"));
    close(fd);
    buf_free(&params);
    buf_free(&out);
    buf_free(&b);
    free(big);
    wait_idle();
}

static void
oversize_headers_are_answered(void **state)
{
    struct buf params = {0}, b = {0}, out = {0};
    char *big = calloc(1, 70001);
    memset(big, 'h', 70000);
    put_pair(&params, "HTTP_X", big);
    put_begin(&b, 1);
    put_stream(&b, 4, 1, params.data, params.len, 30000);
    int fd = client_connect(path);
    client_send(fd, &b);
    client_reply(fd, &out);
    assert_non_null(strstr(out.data, "Status: 431"));
    close(fd);
    free(big);
    buf_free(&params);
    buf_free(&b);
    buf_free(&out);
    wait_idle();
}

static void
a_closed_peer_is_noticed_at_once(void **state)
{
    for (int abort_record = 0; abort_record < 2; abort_record++) {
        int fd;
        struct owner *o = start_stream(&fd);
        usleep(20000);
        assert_int_equal(atomic_load(&o->closed), 0);
        uint64_t t = clock_ns();
        if (abort_record)
            assert_int_equal(send(fd, "\1\2\0\1\0\0\0\0", 8, 0), 8);
        else
            close(fd);
        assert_true(wait_for(&o->closed, 1));
        uint64_t ms = (atomic_load(&o->closed_ns) - t) / 1000000;
        assert_true(ms < 100);
        /* Late posts of the engine still reach the owner, writes go nowhere. */
        fcgi_stream_post(o->s, "start");
        fcgi_stream_post(o->s, "late");
        assert_true(wait_for(&o->posts, 2));
        assert_int_equal(fcgi_open_streams(server), 1);
        fcgi_stream_post(o->s, "end");
        wait_idle();
        assert_int_equal(atomic_load(&o->closed), 1);
        if (abort_record)
            close(fd);
        free(o);
    }
}

static void
a_slow_reader_is_given_up_and_stalls_nobody(void **state)
{
    int slow, fast;
    struct owner *o = start_stream(&slow);
    fcgi_stream_post(o->s, "start");
    for (int i = 0; i < 2000 && atomic_load(&o->closed) == 0; i++) {
        fcgi_stream_post(o->s, "flood");
        usleep(100);
    }
    assert_true(wait_for(&o->closed, 1));
    /* The limit, and the one write that passed it. */
    assert_true(atomic_load(&o->max_pending) < OUT_LIMIT + 20100);
    struct owner *f = start_stream(&fast);
    struct buf out = {0};
    fcgi_stream_post(f->s, "start");
    fcgi_stream_post(f->s, "quick");
    fcgi_stream_post(f->s, "end");
    assert_int_equal(client_reply(fast, &out), 1);
    assert_non_null(strstr(out.data, "quick"));
    fcgi_stream_post(o->s, "end");
    close(slow);
    close(fast);
    buf_free(&out);
    wait_idle();
    free(o);
    free(f);
}

static void
a_long_reply_arrives_whole(void **state)
{
    struct buf out = {0};
    int fd = send_request("/long", "", 0);
    usleep(300000); /* let it fill the socket first */
    assert_int_equal(client_reply(fd, &out), 1);
    assert_true(out.len > 3000000 && out.len < 3000100);
    close(fd);
    buf_free(&out);
    wait_idle();
    free(atomic_load(&last_owner));
}

static void
ticks_fill_silence(void **state)
{
    int fd;
    struct owner *o = start_stream(&fd);
    fcgi_stream_post(o->s, "start");
    fcgi_stream_post(o->s, "tick");
    assert_true(wait_for(&o->ticks, 2));
    fcgi_stream_post(o->s, "end");
    struct buf out = {0};
    assert_int_equal(client_reply(fd, &out), 1);
    assert_non_null(strstr(out.data, "\r\n\r\n: ping\n\n: ping\n\n"));
    buf_free(&out);
    close(fd);
    wait_idle();
    free(o);
}

static void *
feed_many(void *arg)
{
    for (int i = 0; i < MANY; i++)
        fcgi_stream_post(many[i]->s, "start");
    for (int k = 0; k < TOKENS; k++)
        for (int i = 0; i < MANY; i++)
            fcgi_stream_post(many[i]->s, "data: token\n\n");
    for (int i = 0; i < MANY; i++)
        fcgi_stream_post(many[i]->s, "end");
    return NULL;
}

static void
a_thousand_streams_live_together(void **state)
{
    static int fd[MANY];
    for (int i = 0; i < MANY; i++)
        fd[i] = send_request("/many", "", 0);
    assert_true(wait_for(&n_many, MANY));
    assert_int_equal(fcgi_open_streams(server), MANY);
    pthread_t t;
    pthread_create(&t, NULL, feed_many, NULL);
    size_t want = strlen("Status: 200 OK\r\nContent-Type: text/event-stream"
                         "\r\nCache-Control: no-store\r\n\r\n")
                  + TOKENS * strlen("data: token\n\n");
    for (int i = 0; i < MANY; i++) {
        struct buf out = {0};
        assert_int_equal(client_reply(fd[i], &out), 1);
        assert_int_equal(out.len, want);
        buf_free(&out);
        close(fd[i]);
    }
    pthread_join(t, NULL);
    wait_idle();
    for (int i = 0; i < MANY; i++)
        free(many[i]);
}

static void
hostile_peers_do_no_harm(void **state)
{
    static const char *const junk[] = {
        "GET / HTTP/1.0\r\n\r\n", "\1", "\1\1", "\377\377\377\377\377\377\377\377"};
    int idle[8];
    for (int i = 0; i < 8; i++) {
        idle[i] = client_connect(path);
        if (i < 4)
            send(idle[i], junk[i], strlen(junk[i]), MSG_NOSIGNAL);
        close(idle[i]);
    }
    struct buf out = {0};
    int fd = send_request("/echo", "ok", 2);
    assert_int_equal(client_reply(fd, &out), 1);
    close(fd);
    buf_free(&out);
    wait_idle();
}

static void
the_socket_is_guarded(void **state)
{
    struct stat st;
    struct err e = {0};
    struct fcgi_server *second = NULL;
    struct fcgi_options o = options();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_STATE);
    assert_non_null(strstr(e.text, "another server"));
    char other[140];
    snprintf(other, sizeof other, "%s/file", dir);
    FILE *f = fopen(other, "w");
    fclose(f);
    o.socket = other;
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_STATE);
    assert_int_equal(unlink(other), 0);
    o.socket = "/nonexistent/s";
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_IO);
    o.socket = "fd:0x";
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_FORMAT);
    o.socket = "fd:0";
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_IO);
    o.socket = other;
    o.group = "no-such-group-here";
    assert_int_equal(fcgi_start(&o, &second, &e), ERR_NOENT);
    assert_int_equal(stat(other, &st), -1);
}

static void
stale_and_inherited_sockets_work(void **state)
{
    char other[140], name[16];
    snprintf(other, sizeof other, "%s/stale", dir);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, other, strlen(other) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    struct fcgi_options o = options();
    struct fcgi_server *second = NULL;
    struct err e = {0};
    o.socket = other;
    assert_int_equal(fcgi_start(&o, &second, &e), 0); /* nobody listens */
    close(fd);
    fcgi_destroy(second);
    assert_int_equal(access(other, F_OK), -1);

    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 8), 0);
    snprintf(name, sizeof name, "fd:%d", fd);
    o.socket = name;
    assert_int_equal(fcgi_start(&o, &second, &e), 0);
    struct buf b = {0}, out = {0};
    put_request(&b, 1, "/echo", "inherited", 9);
    int c = client_connect(other);
    client_send(c, &b);
    assert_int_equal(client_reply(c, &out), 1);
    assert_non_null(strstr(out.data, "inherited"));
    fcgi_destroy(second);
    close(c);
    /* Somebody else made the path, and keeps it. */
    assert_int_equal(access(other, F_OK), 0);
    unlink(other);
    buf_free(&b);
    buf_free(&out);
}

static void
stopping_ends_everything(void **state)
{
    int fd;
    struct owner *o = start_stream(&fd);
    fcgi_stop_accepting(server);
    assert_int_equal(client_connect(path), -1);
    assert_int_equal(access(path, F_OK), -1);
    /* An open stream goes on until the end. */
    fcgi_stream_post(o->s, "start");
    fcgi_stream_post(o->s, "still here");
    assert_true(wait_for(&o->posts, 2));
    assert_int_equal(atomic_load(&o->closed), 0);
    fcgi_destroy(server);
    assert_int_equal(atomic_load(&o->closed), 1);
    struct buf out = {0};
    assert_int_equal(client_reply(fd, &out), 0);
    assert_non_null(strstr(out.data, "still here"));
    buf_free(&out);
    close(fd);
    free(o);
    rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_whole),
        cmocka_unit_test(posts_wait_for_the_handler),
        cmocka_unit_test(bodies_are_bounded),
        cmocka_unit_test(oversize_headers_are_answered),
        cmocka_unit_test(a_closed_peer_is_noticed_at_once),
        cmocka_unit_test(a_slow_reader_is_given_up_and_stalls_nobody),
        cmocka_unit_test(a_long_reply_arrives_whole),
        cmocka_unit_test(ticks_fill_silence),
        cmocka_unit_test(a_thousand_streams_live_together),
        cmocka_unit_test(hostile_peers_do_no_harm),
        cmocka_unit_test(the_socket_is_guarded),
        cmocka_unit_test(stale_and_inherited_sockets_work),
        cmocka_unit_test(stopping_ends_everything),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
