#include "config.h"

#include "ctl/http_reply.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES (1u << 20)
#define BODY_MAX (64u << 20)

static int feed_line(struct http_reply *r, const char **p, const char *end);
static int feed_body(struct http_reply *r, const char **p, const char *end);
static int head_line(struct http_reply *r, const char *s);
static int size_line(struct http_reply *r, const char *s);
static int put_body(struct http_reply *r, const char *p, size_t n);
static void event_line(struct http_reply *r, const char *p, size_t n);

void
http_reply_reset(struct http_reply *r, http_event_fn fn, void *arg)
{
    struct buf line = r->line, body = r->body;
    line.len = body.len = 0;
    *r = (struct http_reply){.keep_alive = true, .line = line, .body = body,
                             .on_event = fn, .arg = arg};
}

void
http_reply_free(struct http_reply *r)
{
    buf_free(&r->line);
    buf_free(&r->body);
}

int
http_reply_feed(struct http_reply *r, const char *p, size_t n)
{
    const char *end = p + n;
    int rc = 0;
    while (p < end && rc == 0) {
        switch (r->state) {
        case HTTP_HEAD:
        case HTTP_SIZE:
        case HTTP_CHUNK_END:
        case HTTP_TRAILER:
            rc = feed_line(r, &p, end);
            break;
        case HTTP_CHUNK:
        case HTTP_BODY:
            rc = feed_body(r, &p, end);
            break;
        case HTTP_DONE:
            return ERR_FORMAT;
        }
    }
    return rc;
}

bool
http_reply_close(struct http_reply *r)
{
    if (r->state == HTTP_BODY && !r->sized)
        r->state = HTTP_DONE;
    return r->state == HTTP_DONE;
}

/* Takes up to one line of the protocol, without its end. */
static int
feed_line(struct http_reply *r, const char **p, const char *end)
{
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    size_t n = (size_t)((nl ? nl : end) - *p);
    if (r->line.len + n > LINE_MAX_BYTES)
        return ERR_FORMAT;
    if (buf_append(&r->line, *p, n) != 0)
        return ERR_NOMEM;
    *p += n + (nl != NULL);
    if (nl == NULL)
        return 0;
    if (r->line.len > 0 && r->line.data[r->line.len - 1] == '\r')
        r->line.len--;
    const char *s = buf_cstr(&r->line);
    if (s == NULL)
        return ERR_NOMEM;
    size_t len = r->line.len;
    r->line.len = 0;
    switch (r->state) {
    case HTTP_HEAD:
        return head_line(r, s);
    case HTTP_SIZE:
        return size_line(r, s);
    case HTTP_CHUNK_END:
        r->state = HTTP_SIZE;
        return len == 0 ? 0 : ERR_FORMAT;
    default: /* trailer */
        if (len == 0)
            r->state = HTTP_DONE;
        return 0;
    }
}

static int
head_line(struct http_reply *r, const char *s)
{
    if (r->status == 0) {
        int minor;
        return sscanf(s, "HTTP/1.%d %d", &minor, &r->status) == 2 &&
               r->status >= 100 && r->status <= 599 ? 0 : ERR_FORMAT;
    }
    if (*s != '\0') {
        if (strncasecmp(s, "transfer-encoding:", 18) == 0)
            r->chunked = strcasestr(s + 18, "chunked") != NULL;
        else if (strncasecmp(s, "content-type:", 13) == 0)
            r->events = strcasestr(s + 13, "text/event-stream") != NULL;
        else if (strncasecmp(s, "connection:", 11) == 0)
            r->keep_alive = strcasestr(s + 11, "close") == NULL;
        else if (strncasecmp(s, "content-length:", 15) == 0) {
            r->sized = true;
            r->left = strtoull(s + 15, NULL, 10);
        }
        return 0;
    }
    r->state = r->chunked ? HTTP_SIZE : HTTP_BODY;
    if (!r->chunked && r->sized && r->left == 0)
        r->state = HTTP_DONE;
    if (!r->chunked && !r->sized)
        r->keep_alive = false;
    return 0;
}

static int
size_line(struct http_reply *r, const char *s)
{
    char *end;
    r->left = strtoull(s, &end, 16);
    if (end == s || (*end != '\0' && *end != ';' && *end != ' '))
        return ERR_FORMAT;
    r->state = r->left > 0 ? HTTP_CHUNK : HTTP_TRAILER;
    return 0;
}

static int
feed_body(struct http_reply *r, const char **p, const char *end)
{
    bool bounded = r->chunked || r->sized;
    size_t n = (size_t)(end - *p);
    if (bounded && n > r->left)
        n = (size_t)r->left;
    int rc = put_body(r, *p, n);
    *p += n;
    if (!bounded)
        return rc;
    r->left -= n;
    if (r->left == 0)
        r->state = r->chunked ? HTTP_CHUNK_END : HTTP_DONE;
    return rc;
}

/* Part of the body: of an event stream, whole lines are handed on and the rest
 * of one is kept. */
static int
put_body(struct http_reply *r, const char *p, size_t n)
{
    const char *end = p + n, *nl;
    if (!r->events)
        return r->body.len + n > BODY_MAX ? ERR_FORMAT
                                          : buf_append(&r->body, p, n);
    while ((nl = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        if (r->body.len == 0) {
            event_line(r, p, (size_t)(nl - p));
        } else {
            if (buf_append(&r->body, p, (size_t)(nl - p)) != 0)
                return ERR_NOMEM;
            event_line(r, r->body.data, r->body.len);
            r->body.len = 0;
        }
        p = nl + 1;
    }
    return buf_append(&r->body, p, (size_t)(end - p));
}

static void
event_line(struct http_reply *r, const char *p, size_t n)
{
    if (n > 0 && p[n - 1] == '\r')
        n--;
    if (n >= 5 && memcmp(p, "data:", 5) == 0) {
        size_t skip = n > 5 && p[5] == ' ' ? 6 : 5;
        r->on_event(r->arg, p + skip, n - skip);
    }
}
