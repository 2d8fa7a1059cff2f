/*
 * Seeded mutations of FastCGI requests against the real responder. Whatever a
 * peer sends, the process lives, every connection ends, and the next proper
 * request is answered.
 *
 * usage: fuzz_fcgi [rounds [seed]]
 */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "fcgi/fcgi.h"
#include "tests/unit/fcgi_client.h"

static uint64_t state;

static uint32_t
draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static void
handle(void *arg, struct fcgi_request *r)
{
    static const char *const names[] = {"DOCUMENT_URI", "REQUEST_METHOD",
                                        "HTTP_X", "NONE", ""};
    size_t sum = fcgi_body(r).n;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct str v = fcgi_param(r, names[i]);
        for (size_t k = 0; k < v.n; k++)
            sum += (unsigned char)v.p[k];
    }
    for (size_t k = 0; k < fcgi_body(r).n; k++)
        sum += (unsigned char)fcgi_body(r).p[k];
    char text[32];
    snprintf(text, sizeof text, "sum %zu", sum);
    fcgi_answer(r, 200, "text/plain", NULL, str_from(text));
}

static void
make_request(struct buf *b)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz\200\377{}\"";
    char body[600], value[300];
    size_t n = draw(sizeof body), m = draw(sizeof value - 1);
    for (size_t i = 0; i < n; i++)
        body[i] = letters[draw(sizeof letters - 1)];
    for (size_t i = 0; i < m; i++)
        value[i] = letters[draw(sizeof letters - 1)];
    value[m] = '\0';
    struct buf params = {0};
    char length[32];
    snprintf(length, sizeof length, "%zu", n);
    put_pair(&params, "REQUEST_METHOD", "POST");
    put_pair(&params, "HTTP_X", value);
    put_pair(&params, "CONTENT_LENGTH", length);
    put_begin(b, 1);
    put_stream(b, 4, 1, params.data, params.len, 1 + draw(400));
    put_stream(b, 5, 1, body, n, 1 + draw(700));
    buf_free(&params);
}

/* Bytes that lengths, types and ids are made of. */
static char
odd_byte(void)
{
    static const unsigned char odd[] = {0, 1, 2, 3, 4, 5, 8, 9, 11, 127, 128,
                                        254, 255};
    return draw(3) ? (char)odd[draw(sizeof odd)] : (char)draw(256);
}

static void
mutate(struct buf *b)
{
    for (uint32_t k = 1 + draw(6); k > 0 && b->len > 0; k--) {
        size_t at = draw(draw(2) ? (uint32_t)b->len
                                 : b->len < 64 ? (uint32_t)b->len : 64);
        switch (draw(5)) {
        case 0: /* cut off */
            b->len = at;
            break;
        case 1: /* drop some */
            memmove(b->data + at, b->data + at + (b->len - at + 1) / 2,
                    b->len - at - (b->len - at + 1) / 2);
            b->len -= (b->len - at + 1) / 2;
            break;
        case 2: /* a management record, or a repeated part, at the end */
            put_record(b, 9, 0, "\377\377\377\376\377\377\377\376", 8, 0);
            buf_reserve(b, at);
            buf_append(b, b->data, at);
            break;
        default:
            b->data[at] = odd_byte();
        }
    }
}

/* Sends b, hangs up in one of two ways; -1 when the reply is malformed. */
static int
attack(const char *path, const struct buf *b)
{
    struct buf out = {0};
    int fd = client_connect(path);
    if (fd < 0)
        return -1;
    client_send(fd, b);
    shutdown(fd, SHUT_WR);
    int rc = draw(4) ? client_reply(fd, &out) : 0;
    close(fd);
    buf_free(&out);
    return rc;
}

static int
proper(const char *path)
{
    struct buf b = {0}, out = {0};
    put_request(&b, 1, "/", "abc", 3);
    int fd = client_connect(path);
    int rc = fd >= 0 && client_send(fd, &b) == 0
                     && client_reply(fd, &out) == 1
                     && strstr(out.data, "Status: 200 OK") != NULL
                 ? 0 : -1;
    close(fd);
    buf_free(&b);
    buf_free(&out);
    return rc;
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 20000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    char dir[] = "/tmp/fuzz_fcgi.XXXXXX", path[64];
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    log_set_level(LOG_ERROR);
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/s", dir);
    struct fcgi_options o = {
        .socket = path, .mode = 0600, .backlog = 64, .acceptors = 2,
        .reply_threads = 1, .max_body = 500, .max_params = 2000,
        .out_limit = 100000, .handler = handle};
    struct fcgi_server *server;
    struct err e = {0};
    if (fcgi_start(&o, &server, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int rc = 0;
    for (long i = 0; i < rounds && rc == 0; i++) {
        struct buf b = {0};
        make_request(&b);
        mutate(&b);
        if (attack(path, &b) < 0 || (i % 64 == 0 && proper(path) != 0)) {
            fprintf(stderr, "failed at round %ld\n", i);
            rc = 1;
        }
        buf_free(&b);
    }
    fcgi_destroy(server);
    rmdir(dir);
    return rc;
}
