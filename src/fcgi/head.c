/*
 * Reading and checking requests.
 *
 * DESIGN. head_check looks at all bytes received so far and starts anew when
 * more have come: heads are short and nearly always arrive in one piece, so
 * there is no state to carry. The body is not kept twice: what was read ahead
 * with the head is copied, the rest is received in its place.
 */
#include "config.h"

#include "fcgi/head.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/err.h"

#define READ_AHEAD 4096

struct record {
    unsigned type;
    uint16_t id;
    size_t len, pad;
    const unsigned char *content;
};

static void
record_parse(const unsigned char *p, struct record *r)
{
    r->type = p[1];
    r->id = (uint16_t)(p[2] << 8 | p[3]);
    r->len = (size_t)p[4] << 8 | p[5];
    r->pad = p[6];
    r->content = p + FCGI_REC_HEAD;
}

/* One length of a name-value pair at p[*at]. */
static bool
pair_length(const unsigned char *p, size_t n, size_t *at, size_t *len)
{
    if (*at >= n)
        return false;
    *len = p[(*at)++];
    if (*len < 0x80)
        return true;
    if (n - *at < 3)
        return false;
    *len = (*len & 0x7f) << 24 | (size_t)p[*at] << 16
           | (size_t)p[*at + 1] << 8 | p[*at + 2];
    *at += 3;
    return true;
}

static bool
pairs_add_up(const unsigned char *p, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t name, value;
        if (!pair_length(p, n, &at, &name) || !pair_length(p, n, &at, &value))
            return false;
        if (name > n - at || value > n - at - name)
            return false;
        at += name + value;
    }
    return true;
}

/* The begin record must be complete before the parameters are looked at. */
static int
begin_check(const struct record *r)
{
    const unsigned responder = 1;
    if (r->type != FCGI_REC_BEGIN || r->id == 0 || r->len != 8)
        return ERR_FORMAT;
    unsigned role = (unsigned)r->content[0] << 8 | r->content[1];
    return role == responder ? 0 : ERR_FORMAT;
}

long
head_check(const unsigned char *data, size_t n, size_t max_params,
           struct buf *scratch, uint16_t *id)
{
    /* Beyond the parameters, allow a record head for every 16 bytes. */
    size_t max_head = max_params + max_params / 2 + 512;
    scratch->len = 0;
    for (size_t at = 0; n - at >= FCGI_REC_HEAD;) {
        struct record r;
        record_parse(data + at, &r);
        if (data[at] != 1)
            return ERR_FORMAT;
        if (n - at - FCGI_REC_HEAD < r.len + r.pad)
            break;
        if (at == 0) {
            if (begin_check(&r) != 0)
                return ERR_FORMAT;
            *id = r.id;
        } else if (r.type != FCGI_REC_PARAMS || r.id != *id) {
            return ERR_FORMAT;
        } else if (r.len > 0) {
            if (r.len > max_params - scratch->len)
                return ERR_LIMIT;
            if (buf_append(scratch, r.content, r.len) != 0)
                return ERR_NOMEM;
        }
        at += FCGI_REC_HEAD + r.len + r.pad;
        if (at > max_head)
            return ERR_LIMIT;
        if (r.type == FCGI_REC_PARAMS && r.len == 0)
            return pairs_add_up((unsigned char *)scratch->data, scratch->len)
                       ? (long)at : ERR_FORMAT;
    }
    return n > max_head + 65536 ? ERR_LIMIT : 0;
}

/* Reads some bytes to p. Returns their number, or ERR_CLOSED: the peer went
 * away, was silent longer than the socket's time-out, or too slow. */
static long
receive(struct input *in, void *p, size_t n)
{
    ssize_t got;
    do
        got = recv(in->fd, p, n, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0 || clock_ns() > in->deadline)
        return ERR_CLOSED;
    return (long)got;
}

/* Makes at least n unused bytes available in in->ahead. */
static int
read_ahead(struct input *in, size_t n)
{
    if (in->at > 0 && in->ahead.len - in->at < n) {
        buf_consume(&in->ahead, in->at);
        in->at = 0;
    }
    while (in->ahead.len - in->at < n) {
        if (buf_reserve(&in->ahead, READ_AHEAD) != 0)
            return ERR_NOMEM;
        long got = receive(in, in->ahead.data + in->ahead.len,
                           in->ahead.cap - in->ahead.len);
        if (got < 0)
            return (int)got;
        in->ahead.len += (size_t)got;
    }
    return 0;
}

int
input_head(struct input *in, size_t max_params, struct buf *scratch,
           uint16_t *id, size_t *len)
{
    for (;;) {
        int rc = read_ahead(in, in->ahead.len + 1);
        if (rc != 0)
            return rc;
        long n = head_check((unsigned char *)in->ahead.data, in->ahead.len,
                            max_params, scratch, id);
        if (n < 0)
            return (int)n;
        if (n > 0) {
            *len = in->at = (size_t)n;
            return 0;
        }
    }
}

/* Moves n bytes of the connection to out, or away when out is NULL. */
static int
take(struct input *in, char *out, size_t n)
{
    while (n > 0) {
        size_t ready = in->ahead.len - in->at;
        if (ready == 0 && out != NULL) {
            long got = receive(in, out, n);
            if (got < 0)
                return (int)got;
            out += got;
            n -= (size_t)got;
            continue;
        }
        int rc = ready > 0 ? 0 : read_ahead(in, 1);
        if (rc != 0)
            return rc;
        ready = in->ahead.len - in->at;
        if (ready > n)
            ready = n;
        if (out != NULL) {
            memcpy(out, in->ahead.data + in->at, ready);
            out += ready;
        }
        in->at += ready;
        n -= ready;
    }
    return 0;
}

int
input_body(struct input *in, uint16_t id, char *body, size_t n)
{
    size_t have = 0;
    bool longer = false;
    for (;;) {
        int rc = read_ahead(in, FCGI_REC_HEAD);
        if (rc != 0)
            return rc;
        unsigned char *head = (unsigned char *)in->ahead.data + in->at;
        struct record r;
        record_parse(head, &r);
        if (head[0] == 1 && r.type == FCGI_REC_ABORT)
            return ERR_CLOSED;
        if (head[0] != 1 || r.type != FCGI_REC_STDIN || r.id != id)
            return ERR_FORMAT;
        in->at += FCGI_REC_HEAD;
        size_t keep = r.len < n - have ? r.len : n - have;
        longer |= keep < r.len;
        if ((rc = take(in, body ? body + have : NULL, keep)) != 0
            || (rc = take(in, NULL, r.len - keep + r.pad)) != 0)
            return rc;
        have += keep;
        if (r.len == 0)
            break;
    }
    if (longer)
        return ERR_LIMIT;
    return have == n ? 0 : ERR_CLOSED;
}
