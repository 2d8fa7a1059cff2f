/*
 * A FastCGI client for the tests of src/fcgi: builds requests byte by byte,
 * as a web server (or an attacker) would, and takes replies apart.
 */
#ifndef TESTS_FCGI_CLIENT_H
#define TESTS_FCGI_CLIENT_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"

static inline void
put_record(struct buf *b, int type, int id, const void *content, size_t n,
           int pad)
{
    static const char zeros[256];
    unsigned char head[8] = {1, (unsigned char)type, (unsigned char)(id >> 8),
                             (unsigned char)id, (unsigned char)(n >> 8),
                             (unsigned char)n, (unsigned char)pad, 0};
    buf_append(b, head, sizeof head);
    buf_append(b, content, n);
    buf_append(b, zeros, (size_t)pad);
}

static inline void
put_begin(struct buf *b, int id)
{
    put_record(b, 1, id, "\0\1\0\0\0\0\0\0", 8, 0);
}

static inline void
put_pair(struct buf *b, const char *name, const char *value)
{
    size_t n[2] = {strlen(name), strlen(value)};
    for (int i = 0; i < 2; i++) {
        char wide[4] = {(char)(0x80 | n[i] >> 24), (char)(n[i] >> 16),
                        (char)(n[i] >> 8), (char)n[i]};
        if (n[i] >= 128)
            buf_append(b, wide, 4);
        else
            buf_putc(b, (char)n[i]);
    }
    buf_puts(b, name);
    buf_puts(b, value);
}

/* A stream of records of at most `part` bytes, with its empty last one. */
static inline void
put_stream(struct buf *b, int type, int id, const char *p, size_t n,
           size_t part)
{
    for (size_t at = 0; at < n; at += part)
        put_record(b, type, id, p + at, n - at < part ? n - at : part,
                   (int)(at % 8));
    put_record(b, type, id, "", 0, 0);
}

/* A POST of body to uri, as nginx sends one. */
static inline void
put_request(struct buf *b, int id, const char *uri, const char *body,
            size_t n_body)
{
    struct buf params = {0};
    char length[32];
    snprintf(length, sizeof length, "%zu", n_body);
    put_pair(&params, "REQUEST_METHOD", "POST");
    put_pair(&params, "DOCUMENT_URI", uri);
    put_pair(&params, "CONTENT_LENGTH", length);
    put_begin(b, id);
    put_stream(b, 4, id, params.data, params.len, 32768);
    put_stream(b, 5, id, body, n_body, 32768);
    buf_free(&params);
}

/* Connects; reads give up after five seconds. -1 when refused. */
static inline int
client_connect(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct timeval t = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline int
client_send(int fd, const struct buf *b)
{
    for (size_t at = 0; at < b->len;) {
        ssize_t n = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);
        if (n <= 0)
            return -1;
        at += (size_t)n;
    }
    return 0;
}

/* Reads the records that are whole in raw into out; returns 1 when the end of
 * the request is among them, -1 when they make no sense. */
static inline int
client_take(struct buf *raw, struct buf *out)
{
    int ended = 0;
    while (raw->len >= 8 && !ended) {
        const unsigned char *p = (const unsigned char *)raw->data;
        size_t n = (size_t)p[4] << 8 | p[5], pad = p[6];
        if (p[0] != 1 || (p[1] != 6 && p[1] != 3))
            return -1;
        if (raw->len < 8 + n + pad)
            return 0;
        if (p[1] == 6)
            buf_append(out, raw->data + 8, n);
        ended = p[1] == 3;
        buf_consume(raw, 8 + n + pad);
    }
    return ended;
}

/* Reads a whole reply into out. Returns 1 when it ended properly, 0 when the
 * connection closed before, -1 when it is malformed or too slow. */
static inline int
client_reply(int fd, struct buf *out)
{
    struct buf raw = {0};
    int done = 0;
    while (done == 0) {
        char part[65536];
        ssize_t n = recv(fd, part, sizeof part, 0);
        if (n <= 0) {
            done = n < 0 && (errno == EAGAIN) ? -1 : 0;
            break;
        }
        buf_append(&raw, part, (size_t)n);
        done = client_take(&raw, out);
    }
    buf_free(&raw);
    buf_cstr(out);
    return done;
}

#endif
