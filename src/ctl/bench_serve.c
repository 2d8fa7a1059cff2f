/*
 * siroccoctl bench serve: many streams at once against a running server,
 * through nginx as clients see it.
 *
 * DESIGN. One thread, one epoll loop, one connection a stream. A stream sends
 * a request, notes the time of every event that carries text, and, when the
 * reply ends, takes the next request until all are sent. Tokens are counted by
 * the server's own usage report at the end; events are counted as they come,
 * so replies whose tokens arrive bundled do not look slower or faster.
 *
 * As bench engine does, the rate of full batches is counted apart: from the
 * first token of the last stream to the first end of a reply after it. What a
 * stream's events in that time are worth in tokens is known at its end.
 *
 * A stream has fallen behind when its last token came later than its first
 * plus the pace asked for (--rate) plus the slack, or when two events were
 * further apart than one period plus the slack.
 */
#include "config.h"

#include "ctl/bench_serve.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "ctl/command.h"
#include "json/json.h"

#define TICK_MS 5

static int read_options(struct bench *b, int argc, char **argv);
static int parse_url(struct url *u, const char *text);
static int find_model(struct bench *b, const char *name);
static int one_run(const struct bench *options, const char *name,
                   struct bench_runs *runs);
static int run(struct bench *b, const char *name);
static void tick(void *arg);
static void next_request(struct stream *s);
static int stream_open(struct stream *s);
static void stream_close(struct stream *s);
static void on_io(void *arg, uint32_t events);
static void send_more(struct stream *s);
static void receive(struct stream *s);
static void on_event(void *arg, const char *p, size_t n);
static void reply_end(struct stream *s);
static void stream_fail(struct stream *s, const char *what);

int
bench_serve(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof *b);
    struct bench_runs runs = {0};
    if (b == NULL)
        return command_fail("bench", "out of memory");
    int rc = read_options(b, argc, argv);
    if (rc == EXIT_OK && b->model == NULL)
        rc = find_model(b, argv[0]);
    for (long long i = 0; rc == EXIT_OK && i < b->n_runs; i++)
        rc = one_run(b, argv[0], &runs);
    if (rc == EXIT_OK && b->n_runs > 1)
        bench_report_runs(b, &runs);
    if (rc == EXIT_OK && runs.failed > 0)
        rc = EXIT_FAILED;
    bench_runs_free(&runs);
    free(b->model);
    free(b);
    return rc;
}

/* A run of its own with b's options. */
static int
one_run(const struct bench *options, const char *name,
        struct bench_runs *runs)
{
    struct bench *b = malloc(sizeof *b);
    if (b == NULL)
        return command_fail(name, "out of memory");
    *b = *options;
    int rc = run(b, name);
    if (rc == EXIT_OK && bench_report(b, runs) != 0)
        rc = command_fail(name, "out of memory");
    for (long long i = 0; b->streams && i < b->n_streams; i++) {
        stream_close(&b->streams[i]);
        http_reply_free(&b->streams[i].reply);
        buf_free(&b->streams[i].out);
    }
    if (b->loop)
        loop_free(b->loop);
    samples_free(&b->ttft);
    samples_free(&b->gap);
    samples_free(&b->total);
    samples_free(&b->late);
    free(b->streams);
    free(b);
    return rc;
}

static int
read_options(struct bench *b, int argc, char **argv)
{
    const char *url = "http://127.0.0.1:8080", *streams = NULL, *tokens = NULL;
    const char *requests = NULL, *words = NULL, *rate = NULL, *ramp = NULL;
    const char *slack = NULL, *pid = NULL, *model = NULL, *ids = NULL;
    const char *vocab = NULL, *runs = NULL;
    bool no_stream = false;
    const struct option_row rows[] = {
        {"url", &url}, {"key", &b->key}, {"model", &model},
        {"streams", &streams}, {"requests", &requests}, {"tokens", &tokens},
        {"prompt-words", &words}, {"prompt-ids", &ids},
        {"vocab", &vocab}, {"rate", &rate}, {"ramp", &ramp},
        {"slack", &slack}, {"pid", &pid}, {"runs", &runs},
        {"no-stream", NULL, &no_stream}, {"json", NULL, &b->json},
        {NULL}};
    b->n_runs = 1;
    b->n_streams = 16;
    b->n_tokens = 256;
    b->prompt_words = 30;
    b->slack_ms = 500;
    b->vocab = BENCH_VOCAB;
    if (command_options(argc, argv, rows) != EXIT_OK ||
        command_number("runs", runs, 1, 1000, &b->n_runs) ||
        command_number("streams", streams, 1, 100000, &b->n_streams) ||
        command_number("tokens", tokens, 1, 1 << 20, &b->n_tokens) ||
        command_number("prompt-words", words, 1, 100000, &b->prompt_words) ||
        command_number("prompt-ids", ids, 1, 1 << 20, &b->prompt_ids) ||
        command_number("vocab", vocab, 1, 1 << 24, &b->vocab) ||
        command_number("slack", slack, 0, 3600000, &b->slack_ms) ||
        command_number("pid", pid, 1, INT32_MAX, &b->pid))
        return EXIT_USAGE;
    b->n_requests = b->n_streams;
    if (command_number("requests", requests, 1, 1 << 30, &b->n_requests))
        return EXIT_USAGE;
    b->rate = rate ? strtod(rate, NULL) : 0;
    b->ramp_s = ramp ? strtod(ramp, NULL) : (double)b->n_streams * 0.001;
    b->stream = !no_stream;
    b->model = model ? strdup(model) : NULL;
    b->n_keys = b->key != NULL;
    for (const char *p = b->key; p && *p; p++)
        b->n_keys += *p == ',';
    if (parse_url(&b->url, url) != 0) {
        command_fail("bench", "--url: '%s' is no http://HOST[:PORT][/PATH] "
                     "that can be reached", url);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int
parse_url(struct url *u, const char *text)
{
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM}, *found;
    memcpy(u->port, "80", sizeof "80");
    if (strncmp(text, "http://", 7) != 0)
        return ERR_FORMAT;
    int n = 0;
    text += 7;
    if (sscanf(text, "[%255[^]]]%n", u->host, &n) != 1 &&
        sscanf(text, "%255[^:/]%n", u->host, &n) != 1)
        return ERR_FORMAT;
    text += n;
    n = 0;
    if (*text == ':' && sscanf(text, ":%7[0-9]%n", u->port, &n) != 1)
        return ERR_FORMAT;
    text += n;
    if (snprintf(u->prefix, sizeof u->prefix, "%s", text) >=
        (int)sizeof u->prefix)
        return ERR_FORMAT;
    for (n = (int)strlen(u->prefix); n > 0 && u->prefix[n - 1] == '/';)
        u->prefix[--n] = '\0';
    if (getaddrinfo(u->host, u->port, &hint, &found) != 0)
        return ERR_NOENT;
    memcpy(&u->addr, found->ai_addr, found->ai_addrlen);
    u->addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* Takes the first name of /v1/models. Plain and blocking. */
static int
find_model(struct bench *b, const char *name)
{
    struct buf out = {0};
    struct http_reply reply = {0};
    struct json_object *o = NULL;
    struct err e = {0};
    int rc = EXIT_FAILED;
    http_reply_reset(&reply, NULL, NULL);
    int fd = socket(b->url.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        connect(fd, (struct sockaddr *)&b->url.addr, b->url.addr_len) != 0) {
        command_fail(name, "cannot reach %s port %s: %s", b->url.host,
                     b->url.port, strerror(errno));
        goto out;
    }
    bench_put_head(b, &out, "GET", "/v1/models", bench_key(b, 0), 0);
    if (send(fd, out.data, out.len, MSG_NOSIGNAL) != (ssize_t)out.len)
        goto out;
    while (reply.state != HTTP_DONE) {
        ssize_t n = recv(fd, b->read, sizeof b->read, 0);
        if (n <= 0) {
            http_reply_close(&reply);
            break;
        }
        if (http_reply_feed(&reply, b->read, (size_t)n) != 0)
            break;
    }
    if (reply.status == 200 &&
        json_parse(reply.body.data, reply.body.len, 16, 0, &o, &e) == 0) {
        struct json_object *data = json_get(o, "data");
        if (json_object_is_type(data, json_type_array) &&
            json_object_array_length(data) > 0) {
            struct str id = json_str(
                json_get(json_object_array_get_idx(data, 0), "id"));
            b->model = id.p ? strndup(id.p, id.n) : NULL;
        }
    }
    if (b->model != NULL)
        rc = EXIT_OK;
    else
        command_fail(name, "/v1/models answered %d: %.*s", reply.status,
                     (int)(reply.body.len < 300 ? reply.body.len : 300),
                     reply.body.len ? reply.body.data : "");
out:
    json_object_put(o);
    http_reply_free(&reply);
    buf_free(&out);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int
run(struct bench *b, const char *name)
{
    struct rlimit files = {0};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    b->loop = loop_create();
    b->streams = calloc((size_t)b->n_streams, sizeof *b->streams);
    if (b->loop == NULL || b->streams == NULL)
        return command_fail(name, "out of memory");
    for (long long i = 0; i < b->n_streams; i++)
        b->streams[i].b = b;
    if (b->pid && process_use((int)b->pid, &b->before) != 0)
        return command_fail(name, "there is no process %lld", b->pid);
    b->t_begin = clock_ns();
    loop_on_tick(b->loop, TICK_MS, tick, b);
    loop_run(b->loop);
    b->seconds = (double)(clock_ns() - b->t_begin) * 1e-9;
    if (b->pid && process_use((int)b->pid, &b->after) != 0)
        return command_fail(name, "process %lld has ended", b->pid);
    return EXIT_OK;
}

/* Starts streams spread over the ramp; ends the loop when all is done. */
static void
tick(void *arg)
{
    struct bench *b = arg;
    double s = (double)(clock_ns() - b->t_begin) * 1e-9;
    long long want = b->ramp_s > 0
        ? (long long)(s / b->ramp_s * (double)b->n_streams) + 1
        : b->n_streams;
    while (b->n_started < b->n_streams && b->n_started < want)
        next_request(&b->streams[b->n_started++]);
    if (b->n_done == b->n_requests)
        loop_stop(b->loop);
}

static void
next_request(struct stream *s)
{
    struct bench *b = s->b;
    s->done = b->n_sent == b->n_requests;
    if (s->done) {
        stream_close(s);
        return;
    }
    b->n_sent++;
    s->t_first = s->t_last = s->events = s->tokens = 0;
    s->full_events = s->prompt_tokens = 0;
    s->max_gap = 0;
    http_reply_reset(&s->reply, on_event, s);
    s->reused = s->open;
    if (bench_put_request(s) != 0)
        stream_fail(s, "out of memory");
    else if (!s->open && stream_open(s) != 0)
        stream_fail(s, strerror(errno));
    else {
        s->t_send = clock_ns();
        if (s->connected)
            send_more(s);
    }
}

static int
stream_open(struct stream *s)
{
    struct url *u = &s->b->url;
    int one = 1;
    int fd = socket(u->addr.ss_family,
                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_IO;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    s->watch = (struct loop_watch){fd, on_io, s};
    if ((connect(fd, (struct sockaddr *)&u->addr, u->addr_len) != 0 &&
         errno != EINPROGRESS) ||
        loop_add(s->b->loop, &s->watch, EPOLLIN | EPOLLOUT) != 0) {
        close(fd);
        return ERR_IO;
    }
    s->open = true;
    s->connected = false;
    return 0;
}

static void
stream_close(struct stream *s)
{
    if (!s->open)
        return;
    loop_del(s->b->loop, &s->watch);
    close(s->watch.fd);
    s->open = s->connected = false;
}

static void
on_io(void *arg, uint32_t events)
{
    struct stream *s = arg;
    if (events & EPOLLOUT) {
        s->connected = true;
        send_more(s);
    }
    if (s->open && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(s);
}

static void
send_more(struct stream *s)
{
    while (s->out.len > 0) {
        ssize_t n = send(s->watch.fd, s->out.data, s->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            loop_mod(s->b->loop, &s->watch, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) {
            stream_fail(s, strerror(errno));
            return;
        }
        buf_consume(&s->out, (size_t)n);
    }
    loop_mod(s->b->loop, &s->watch, EPOLLIN);
}

static void
receive(struct stream *s)
{
    struct bench *b = s->b;
    ssize_t n = recv(s->watch.fd, b->read, sizeof b->read, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        if (http_reply_close(&s->reply))
            reply_end(s);
        else
            stream_fail(s, n < 0 ? strerror(errno)
                                 : "the connection closed in mid-reply");
        return;
    }
    if (http_reply_feed(&s->reply, b->read, (size_t)n) != 0)
        stream_fail(s, "not an HTTP reply");
    else if (s->reply.state == HTTP_DONE)
        reply_end(s);
}

/* Number behind a key of the usage report, 0 when it is not there. */
static uint64_t
number_after(const char *p, size_t n, const char *key)
{
    const char *at = memmem(p, n, key, strlen(key));
    if (at == NULL)
        return 0;
    size_t i = (size_t)(at - p) + strlen(key);
    while (i < n && (p[i] == ' ' || p[i] == ':' || p[i] == '"'))
        i++;
    uint64_t x = 0;
    for (; i < n && p[i] >= '0' && p[i] <= '9'; i++)
        x = x * 10 + (uint64_t)(p[i] - '0');
    return x;
}

/* True when key is there with a string that is not empty. */
static bool
has_text(const char *p, size_t n, const char *key)
{
    const char *at = memmem(p, n, key, strlen(key));
    if (at == NULL)
        return false;
    at += strlen(key);
    while (at < p + n && *at == ' ')
        at++;
    return at + 1 < p + n && at[0] == '"' && at[1] != '"';
}

static void
on_event(void *arg, const char *p, size_t n)
{
    struct stream *s = arg;
    struct bench *b = s->b;
    if (!has_text(p, n, "content\":") && !has_text(p, n, "\"text\":")) {
        uint64_t tokens = number_after(p, n, "\"completion_tokens\"");
        if (tokens > 0) {
            s->tokens = tokens;
            s->prompt_tokens = number_after(p, n, "\"prompt_tokens\"");
        }
        return;
    }
    uint64_t now = clock_ns();
    if (b->full_from != 0 && !b->full_over) {
        s->full_events++;
        b->full_to = now;
    }
    if (!s->spoke && ++b->n_spoke == b->n_streams)
        b->full_from = b->full_to = now;
    s->spoke = true;
    if (s->events++ == 0) {
        s->t_first = now;
        samples_add(&b->ttft, (double)(now - s->t_send) * 1e-6);
        if (b->t_first == 0)
            b->t_first = now;
    } else {
        double gap = (double)(now - s->t_last) * 1e-6;
        samples_add(&b->gap, gap);
        if (gap > s->max_gap)
            s->max_gap = gap;
    }
    s->t_last = b->t_last = now;
}

static void
reply_end(struct stream *s)
{
    struct bench *b = s->b;
    uint64_t now = clock_ns();
    if (s->reply.status != 200 || (b->stream && s->tokens == 0)) {
        stream_fail(s, NULL);
        return;
    }
    if (!b->stream) {
        const struct buf *body = &s->reply.body;
        s->tokens = number_after(body->data, body->len,
                                 "\"completion_tokens\"");
        s->prompt_tokens = number_after(body->data, body->len,
                                        "\"prompt_tokens\"");
    }
    b->full_over |= b->full_from != 0;
    if (s->full_events > 0)
        b->full_tokens += (double)s->full_events * (double)s->tokens /
                          (double)s->events;
    samples_add(&b->total, (double)(now - s->t_send) * 1e-6);
    b->tokens += s->tokens;
    b->prompt_tokens += s->prompt_tokens;
    b->n_events += s->events;
    if (b->rate > 0 && s->tokens > 1 && b->stream) {
        double slack = (double)b->slack_ms;
        double late = (double)(s->t_last - s->t_first) * 1e-6 -
                      (double)(s->tokens - 1) * 1e3 / b->rate;
        samples_add(&b->late, late);
        b->n_behind += late > slack || s->max_gap > 1e3 / b->rate + slack;
    }
    b->n_done++;
    if (!s->reply.keep_alive)
        stream_close(s);
    next_request(s);
}

/* what: NULL when the reply itself tells. */
static void
stream_fail(struct stream *s, const char *what)
{
    struct bench *b = s->b;
    int n = (int)(s->reply.body.len < 160 ? s->reply.body.len : 160);
    if (b->n_failed++ == 0 && what == NULL)
        snprintf(b->error, sizeof b->error, "status %d: %.*s",
                 s->reply.status, n, n ? s->reply.body.data : "");
    else if (b->n_failed == 1)
        snprintf(b->error, sizeof b->error, "%s", what);
    b->n_done++;
    s->out.len = 0;
    stream_close(s);
    next_request(s);
}
