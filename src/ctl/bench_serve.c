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

#include "ctl/bench.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/loop.h"
#include "ctl/command.h"
#include "ctl/http_reply.h"
#include "json/json.h"

#define READ_SIZE 65536
#define TICK_MS 5
#define VOCAB_DEFAULT 131072

struct url {
    char host[256], port[8], prefix[256];
    struct sockaddr_storage addr;
    socklen_t addr_len;
};

struct bench {
    struct url url;
    struct loop *loop;
    /* options */
    long long n_streams, n_requests, n_tokens, prompt_words, slack_ms, pid;
    long long prompt_ids, vocab; /* prompts of ids instead; 0 = words */
    double rate, ramp_s;
    bool stream, json;
    char *model;
    const char *key;         /* list; requests take turns */
    size_t n_keys;
    /* progress */
    struct stream *streams;
    long long n_sent, n_done, n_failed, n_behind, n_started, n_spoke;
    uint64_t t_begin, t_first, t_last;
    uint64_t n_events, tokens, prompt_tokens;
    uint64_t full_from, full_to; /* all streams generate; 0 = not yet */
    bool full_over;
    double full_tokens;
    struct samples ttft, gap, total, late;
    struct process_use before, after;
    char error[256];         /* the first failure's text */
    char read[READ_SIZE];
};

struct stream {
    struct bench *b;
    struct loop_watch watch;
    struct http_reply reply;
    struct buf out;          /* request not sent yet */
    bool open, connected, done, reused, spoke;
    uint64_t t_send, t_first, t_last;
    double max_gap;
    uint64_t events, full_events, tokens, prompt_tokens;
};

static int read_options(struct bench *b, int argc, char **argv);
static int parse_url(struct url *u, const char *text);
static int find_model(struct bench *b, const char *name);
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
static int put_request(struct stream *s);
static void report(struct bench *b);

int
bench_serve(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof *b);
    if (b == NULL)
        return command_fail("bench", "out of memory");
    int rc = read_options(b, argc, argv);
    if (rc == EXIT_OK && b->model == NULL)
        rc = find_model(b, argv[0]);
    if (rc == EXIT_OK)
        rc = run(b, argv[0]);
    if (rc == EXIT_OK)
        report(b);
    if (rc == EXIT_OK && b->n_failed > 0)
        rc = EXIT_FAILED;
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
    free(b->model);
    free(b);
    return rc;
}

static int
read_options(struct bench *b, int argc, char **argv)
{
    const char *url = "http://127.0.0.1:8080", *streams = NULL, *tokens = NULL;
    const char *requests = NULL, *words = NULL, *rate = NULL, *ramp = NULL;
    const char *slack = NULL, *pid = NULL, *model = NULL, *ids = NULL;
    const char *vocab = NULL;
    bool no_stream = false;
    const struct option_row rows[] = {
        {"url", &url}, {"key", &b->key}, {"model", &model},
        {"streams", &streams}, {"requests", &requests}, {"tokens", &tokens},
        {"prompt-words", &words}, {"prompt-ids", &ids},
        {"vocab", &vocab}, {"rate", &rate}, {"ramp", &ramp},
        {"slack", &slack}, {"pid", &pid},
        {"no-stream", NULL, &no_stream}, {"json", NULL, &b->json},
        {NULL}};
    b->n_streams = 16;
    b->n_tokens = 256;
    b->prompt_words = 30;
    b->slack_ms = 500;
    b->vocab = VOCAB_DEFAULT;
    if (command_options(argc, argv, rows) != EXIT_OK ||
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

/* Key of the i-th request: they take turns. */
static struct str
key_of(const struct bench *b, long long i)
{
    if (b->n_keys == 0)
        return (struct str){0};
    const char *p = b->key;
    for (size_t skip = (size_t)i % b->n_keys; skip > 0; skip--)
        p = strchr(p, ',') + 1;
    return (struct str){p, strcspn(p, ",")};
}

static int
put_head(struct bench *b, struct buf *out, const char *method,
         const char *path, struct str key, size_t n_body)
{
    int rc = buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\n", method,
                        b->url.prefix, path, b->url.host, b->url.port);
    if (rc == 0 && key.n > 0)
        rc = buf_printf(out, "Authorization: Bearer %.*s\r\n", (int)key.n,
                        key.p);
    if (rc == 0 && n_body > 0)
        rc = buf_printf(out, "Content-Type: application/json\r\n"
                        "Content-Length: %zu\r\n", n_body);
    return rc ? rc : buf_puts(out, "\r\n");
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
    put_head(b, &out, "GET", "/v1/models", key_of(b, 0), 0);
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
    if (put_request(s) != 0)
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

static uint64_t
next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* A word of two or three syllables at random: a few words in turn would send
 * their tokens to a few experts. */
static int
put_word(struct buf *out, uint64_t *x)
{
    static const char first[] = "bdfghklmnprstvwz", vowel[] = "aeiou";
    int rc = buf_putc(out, ' ');
    for (uint64_t i = 2 + (*x >> 63); i > 0 && rc == 0; i--) {
        next_random(x);
        rc = buf_putc(out, first[*x >> 60]);
        rc = rc ? rc : buf_putc(out, vowel[(*x >> 32) % 5]);
    }
    return rc;
}

/* A message of words for chat completions, or ids for completions. */
static int
put_prompt(struct bench *b, struct buf *out)
{
    uint64_t x = b->t_begin + (uint64_t)b->n_sent * 0x9e3779b97f4a7c15ull;
    if (b->prompt_ids == 0) {
        int rc = buf_printf(out, ",\"messages\":[{\"role\":\"user\","
                            "\"content\":\"%lld", b->n_sent);
        for (long long i = 0; i < b->prompt_words && rc == 0; i++)
            rc = put_word(out, &x);
        return rc ? rc : buf_puts(out, "\"}]");
    }
    int rc = buf_puts(out, ",\"prompt\":");
    for (long long i = 0; i < b->prompt_ids && rc == 0; i++)
        rc = buf_printf(out, "%c%d", i ? ',' : '[',
                        (int)((next_random(&x) >> 32) % (uint64_t)b->vocab));
    return rc ? rc : buf_putc(out, ']');
}

/* A body with its own words, so that no prompt is another's prefix, and none of
 * an earlier run's is in the cache. */
static int
put_request(struct stream *s)
{
    struct bench *b = s->b;
    struct buf body = {0};
    int rc = buf_printf(&body, "{\"model\":");
    if (rc == 0)
        rc = json_put_string(&body, b->model, strlen(b->model));
    if (rc == 0)
        rc = put_prompt(b, &body);
    if (rc == 0)
        rc = buf_printf(&body, ",\"max_tokens\":%lld,\"ignore_eos\":true,"
                        "\"seed\":%lld", b->n_tokens, 1000000 + b->n_sent);
    if (rc == 0 && b->stream)
        rc = buf_puts(&body, ",\"stream\":true,\"stream_options\":"
                      "{\"include_usage\":true}");
    if (rc == 0)
        rc = buf_putc(&body, '}');
    s->out.len = 0;
    if (rc == 0)
        rc = put_head(b, &s->out, "POST", b->prompt_ids
                      ? "/v1/completions" : "/v1/chat/completions",
                      key_of(b, b->n_sent), body.len);
    if (rc == 0)
        rc = buf_append(&s->out, body.data, body.len);
    buf_free(&body);
    return rc;
}

static void
put_row(const struct bench *b, const char *name, const char *unit,
        struct samples *s)
{
    if (s->n == 0 && !b->json)
        return;
    double p[5] = {samples_percentile(s, 0), samples_percentile(s, 50),
                   samples_percentile(s, 90), samples_percentile(s, 99),
                   samples_percentile(s, 100)};
    if (b->json)
        printf(", \"%s_%s\": {\"min\": %.3f, \"p50\": %.3f, \"p90\": %.3f, "
               "\"p99\": %.3f, \"max\": %.3f}", name, unit, p[0], p[1], p[2],
               p[3], p[4]);
    else
        printf("%-22s min %.1f  p50 %.1f  p90 %.1f  p99 %.1f  max %.1f %s\n",
               name, p[0], p[1], p[2], p[3], p[4], unit);
}

static void
report(struct bench *b)
{
    long long ok = b->n_done - b->n_failed;
    double all_s = (double)(clock_ns() - b->t_begin) * 1e-9;
    double s = b->t_last > b->t_first
        ? (double)(b->t_last - b->t_first) * 1e-9 : all_s;
    double cpu_us = (double)(b->after.cpu_ns - b->before.cpu_ns) * 1e-3;
    double a_token = b->tokens ? cpu_us / (double)b->tokens : 0;
    double full_s = (double)(b->full_to - b->full_from) * 1e-9;
    double full = full_s > 0 ? b->full_tokens / full_s : 0;
    double prompt = ok > 0 ? (double)b->prompt_tokens / (double)ok : 0;
    if (b->json)
        printf("{\"requests\": %lld, \"failed\": %lld, \"behind\": %lld, "
               "\"seconds\": %.3f, \"requests_s\": %.2f, \"tokens\": %llu, "
               "\"events\": %llu, \"tokens_s\": %.1f, "
               "\"full_tokens_s\": %.1f, \"prompt_tokens\": %.1f", ok,
               b->n_failed, b->n_behind, all_s, (double)ok / all_s,
               (unsigned long long)b->tokens,
               (unsigned long long)b->n_events, (double)b->tokens / s, full,
               prompt);
    else
        printf("%-22s %lld on %lld streams in %.1f s, %.1f a second\n"
               "%-22s %lld\n%-22s %llu in %llu events, %.0f a second\n"
               "%-22s %.0f tokens a second\n%-22s %.1f tokens\n",
               "requests", ok, b->n_streams, all_s, (double)ok / all_s,
               "failed", b->n_failed, "tokens",
               (unsigned long long)b->tokens,
               (unsigned long long)b->n_events, (double)b->tokens / s,
               "while all generate", full, "mean prompt", prompt);
    put_row(b, b->json ? "ttft" : "first token", "ms", &b->ttft);
    put_row(b, b->json ? "gap" : "between tokens", "ms", &b->gap);
    put_row(b, b->json ? "reply" : "whole reply", "ms", &b->total);
    if (b->rate > 0) {
        put_row(b, b->json ? "late" : "late at the end", "ms", &b->late);
        if (!b->json)
            printf("%-22s %lld of %lld by more than %lld ms at %g tokens/s\n",
                   "streams behind", b->n_behind, ok, b->slack_ms, b->rate);
    }
    if (b->pid && b->json)
        printf(", \"daemon_cpu_us_token\": %.3f, \"daemon_rss\": %llu, "
               "\"daemon_peak\": %llu", a_token,
               (unsigned long long)b->after.rss,
               (unsigned long long)b->after.peak);
    else if (b->pid)
        printf("%-22s %.2f us of CPU a token, %.1f MB, peak %.1f MB\n",
               "daemon", a_token, (double)b->after.rss * 1e-6,
               (double)b->after.peak * 1e-6);
    if (b->json)
        printf("}\n");
    if (b->n_failed > 0)
        fprintf(stderr, "siroccoctl bench: the first failure: %s\n",
                b->error);
}
