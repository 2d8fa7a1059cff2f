/*
 * Acceptor threads: one connection at a time up to the end of its handler.
 *
 * DESIGN. libfcgi parses the parameters, but it must not meet a peer itself:
 * its reader blocks without a time-out, takes any length it is told (and
 * aborts the process on some), and its close waits for the peer. So the head
 * of a request is read and checked here (head.c) and then goes through a pipe
 * to libfcgi, which finds it as it would find the next request of a kept
 * connection: ipcFd set, keepConnection on. The body is read here as well,
 * straight into the request's arena. The connection itself never enters
 * libfcgi, and leaves this thread when the handler returns.
 */
#include "config.h"

#include "fcgi/server.h"

#include <errno.h>
#include <fcntl.h>
#include <fcgiapp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fcgi/head.h"

/* A request must come within this time. nginx has it whole before it connects,
 * and sends its head at once. */
#define REQUEST_MS 60000
#define HEAD_SILENCE_S 2
#define BODY_SILENCE_S 10

struct acceptor {
    struct fcgi_server *server;
    FCGX_Request fx; /* must not move */
    int pipe[2];     /* heads on their way to libfcgi */
    struct buf scratch;
};

struct fcgi_request {
    struct acceptor *a;
    struct arena *arena;
    struct str body;
    int fd;      /* -1 once a stream has it */
    uint16_t id;
    struct fcgi_stream *stream;
};

/* --- what the handler calls ------------------------------------------------ */

struct str
fcgi_param(const struct fcgi_request *r, const char *name)
{
    return str_from(FCGX_GetParam(name, r->a->fx.envp));
}

struct str
fcgi_body(const struct fcgi_request *r)
{
    return r->body;
}

struct arena *
fcgi_arena(const struct fcgi_request *r)
{
    return r->arena;
}

struct fcgi_stream *
fcgi_stream_open(struct fcgi_request *r, const struct fcgi_stream_ops *ops,
                 void *owner)
{
    if (r->fd < 0)
        return NULL;
    r->stream =
        stream_create(r->a->server, r->fd, r->id, r->arena, ops, owner);
    if (r->stream != NULL)
        r->fd = -1;
    return r->stream;
}

void
fcgi_answer(struct fcgi_request *r, int status, const char *type,
            const char *headers, struct str body)
{
    if (r->fd < 0)
        return;
    struct fcgi_stream *s =
        stream_create(r->a->server, r->fd, r->id, NULL, NULL, NULL);
    if (s == NULL) {
        log_warn("out of memory for an answer");
        return;
    }
    r->fd = -1;
    stream_answer(s, status, type, headers, body);
}

/* --- one request ------------------------------------------------------------ */

static int
make_pipe(struct acceptor *a)
{
    if (pipe2(a->pipe, O_CLOEXEC) != 0)
        return ERR_IO;
    /* Room for the longest head that head_check lets through. */
    size_t room = a->server->o.max_params * 2 + 131072;
    if (fcntl(a->pipe[1], F_SETPIPE_SZ, (int)room) < 0
        || fcntl(a->pipe[1], F_SETFL, O_NONBLOCK) != 0) {
        close(a->pipe[0]);
        close(a->pipe[1]);
        a->pipe[0] = a->pipe[1] = -1;
        return ERR_IO;
    }
    return 0;
}

/* Lets libfcgi parse a checked head. */
static int
parse_params(struct acceptor *a, const char *head, size_t n)
{
    if (a->pipe[0] < 0 && make_pipe(a) != 0)
        return ERR_NOMEM;
    ssize_t put = write(a->pipe[1], head, n);
    int rc = ERR_NOMEM;
    if (put >= 0 && (size_t)put == n) {
        a->fx.ipcFd = a->pipe[0];
        a->fx.keepConnection = 1;
        if (FCGX_Accept_r(&a->fx) == 0) {
            a->fx.ipcFd = -1;
            return 0;
        }
        a->pipe[0] = -1; /* closed by libfcgi */
        rc = ERR_FORMAT;
    }
    if (a->pipe[0] >= 0)
        close(a->pipe[0]);
    close(a->pipe[1]);
    a->pipe[0] = a->pipe[1] = -1;
    return rc;
}

/* Length of the body as the parameters announce it. */
static int
content_length(const struct fcgi_request *r, size_t *n)
{
    struct str s = fcgi_param(r, "CONTENT_LENGTH");
    *n = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9' || *n > SIZE_MAX / 16)
            return ERR_FORMAT;
        *n = *n * 10 + (size_t)(s.p[i] - '0');
    }
    return 0;
}

static void
answer_error(struct fcgi_request *r, int status, const char *type,
             const char *message)
{
    struct buf b = {0};
    if (buf_printf(&b,
                   "{\"error\":{\"message\":\"%s\",\"type\":\"%s\","
                   "\"param\":null,\"code\":null}}",
                   message, type) == 0)
        fcgi_answer(r, status, "application/json", NULL,
                    (struct str){b.data, b.len});
    buf_free(&b);
}

/* Reads the body. Returns 0 when the handler may run; else the request has
 * been answered, or its peer is gone. */
static int
read_body(struct fcgi_request *r, struct input *in)
{
    const char *invalid = "invalid_request_error";
    size_t n = 0;
    char *body = NULL;
    int rc = content_length(r, &n);
    if (rc == 0 && n > r->a->server->o.max_body)
        rc = ERR_LIMIT;
    if (rc == 0 && (body = arena_alloc(r->arena, n + 1)) == NULL)
        rc = ERR_NOMEM;
    /* Read to the end even if it is refused: closing before the peer has sent
     * all would take the answer away from it. */
    int read_rc = input_body(in, r->id, body, body ? n : 0);
    if (rc == 0)
        rc = read_rc;
    else if (read_rc == ERR_CLOSED || read_rc == ERR_FORMAT)
        return read_rc;
    if (rc == 0) {
        body[n] = '\0';
        r->body = (struct str){body, n};
    } else if (rc == ERR_LIMIT && n > r->a->server->o.max_body) {
        answer_error(r, 413, invalid, "Request body too large.");
    } else if (rc == ERR_LIMIT || rc == ERR_FORMAT) {
        answer_error(r, 400, invalid,
                     "The body does not have the announced length.");
    } else if (rc == ERR_NOMEM) {
        answer_error(r, 503, "server_error", "Out of memory.");
    }
    return rc;
}

static void
run_handler(struct fcgi_request *r, struct input *in)
{
    r->arena = arena_create(0, 0);
    if (r->arena == NULL)
        return;
    if (read_body(r, in) == 0) {
        /* What was read ahead is not needed any more; the body may be long,
         * the handler may be slow. */
        buf_free(&in->ahead);
        r->a->server->o.handler(r->a->server->o.arg, r);
        if (r->fd >= 0) {
            log_error("a request was left without an answer");
            answer_error(r, 500, "server_error", "Internal error.");
        }
    }
    if (r->stream != NULL)
        stream_adopt(r->stream);
    else
        arena_destroy(r->arena);
}

static void
set_silence(int fd, int seconds)
{
    struct timeval t = {seconds, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static void
serve(struct acceptor *a, int fd)
{
    struct fcgi_server *s = a->server;
    struct input in = {
        .fd = fd, .deadline = clock_ns() + REQUEST_MS * 1000000ull};
    struct fcgi_request r = {.a = a, .fd = fd};
    size_t head;
    set_silence(fd, HEAD_SILENCE_S);
    atomic_fetch_add(&s->open, 1);
    int rc = input_head(&in, s->o.max_params, &a->scratch, &r.id, &head);
    if (rc == ERR_LIMIT && r.id != 0) {
        answer_error(&r, 431, "invalid_request_error",
                     "Request headers too large.");
    } else if (rc == 0 && (rc = parse_params(a, in.ahead.data, head)) == 0) {
        set_silence(fd, BODY_SILENCE_S);
        run_handler(&r, &in);
        FCGX_Free(&a->fx, 0);
    }
    if (rc != 0 && rc != ERR_CLOSED)
        log_warn("a FastCGI request was refused: %s", err_str(rc));
    buf_free(&in.ahead);
    if (r.fd >= 0) {
        close(r.fd);
        atomic_fetch_sub(&s->open, 1);
    }
}

/* --- the thread ------------------------------------------------------------- */

static void
accept_one(struct acceptor *a)
{
    int fd = accept4(a->server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        serve(a, fd);
        return;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS
        || errno == ENOMEM) {
        /* The connection stays in the backlog until streams have ended. */
        log_warn("cannot accept a connection: %s", strerror(errno));
        struct timespec pause = {0, 50000000};
        nanosleep(&pause, NULL);
    }
}

void *
acceptor_run(void *arg)
{
    struct acceptor a = {.server = arg, .pipe = {-1, -1}};
    struct fcgi_server *s = arg;
    struct pollfd p[2] = {{s->listen_fd, POLLIN, 0},
                          {s->stop_event, POLLIN, 0}};
    FCGX_InitRequest(&a.fx, -1, 0);
    while (!atomic_load(&s->stopping)) {
        if (poll(p, 2, -1) <= 0)
            continue;
        if (p[0].revents != 0 && !atomic_load(&s->stopping))
            accept_one(&a);
    }
    for (int i = 0; i < 2; i++)
        if (a.pipe[i] >= 0)
            close(a.pipe[i]);
    buf_free(&a.scratch);
    return NULL;
}
