/*
 * DESIGN. The string that is complete first counts. A string that contains
 * another one can never be the first, so it is left out; among the rest the
 * leftmost match is also the one that ends first, whatever their order, and a
 * match is known with its last byte. They are few and short-lived, so they
 * are not JIT-compiled: that costs more than it saves below some 2,000 tokens.
 */
#include "config.h"

#include "filter/stop.h"

#include <string.h>

#include "base/buf.h"

static bool
contains(struct str a, struct str b)
{
    return b.n <= a.n && memmem(a.p, a.n, b.p, b.n) != NULL;
}

/* Some other string comes first whenever i would match. */
static bool
redundant(const struct str *string, size_t n, size_t i)
{
    for (size_t j = 0; j < n; j++)
        if (j != i && contains(string[i], string[j])
            && (string[j].n < string[i].n || j < i))
            return true;
    return false;
}

static int
put_quoted(struct buf *b, struct str s)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s.n; i++)
        rc = buf_printf(b, "\\x%02X", (unsigned char)s.p[i]);
    return rc;
}

int
stop_open(struct stop *s, const struct str *string, size_t n, bool keep,
          pcre2_match_context *limits, filter_fn fn, void *arg)
{
    struct buf all = {0};
    int rc = 0, code;
    PCRE2_SIZE at;

    *s = (struct stop){.limits = limits, .keep = keep, .fn = fn, .arg = arg};
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (string[i].n == 0 || redundant(string, n, i))
            continue;
        rc = all.len ? buf_putc(&all, '|') : 0;
        if (rc == 0)
            rc = put_quoted(&all, string[i]);
    }
    if (rc == 0 && all.len > 0) {
        s->expr.code = pcre2_compile((PCRE2_SPTR)all.data, all.len,
                                     PCRE2_NO_AUTO_CAPTURE, &code, &at, NULL);
        s->md = pcre2_match_data_create(1, NULL);
        if (s->expr.code == NULL || s->md == NULL)
            rc = ERR_NOMEM;
    }
    buf_free(&all);
    return rc;
}

void
stop_close(struct stop *s)
{
    pcre2_match_data_free(s->md);
    pcre2_code_free(s->expr.code);
    buf_free(&s->held);
}

static int
send(struct stop *s, const char *p, size_t n)
{
    struct filter_event ev = {s->type, {p, n}, 0};
    return n ? s->fn(s->arg, &ev) : 0;
}

static int
send_match(struct stop *s, const struct filter_hit *hit)
{
    struct filter_event ev = {
        FILTER_STOP, {s->held.data + hit->start, hit->end - hit->start}, 0
    };

    s->matched = true;
    int rc = send(s, s->held.data, s->keep ? hit->end : hit->start);
    if (rc == 0)
        rc = s->fn(s->arg, &ev);
    s->held.len = 0;
    return rc;
}

int
stop_text(struct stop *s, enum filter_event_type type, const char *p, size_t n)
{
    struct filter_hit hit;
    int rc = 0;

    if (s->matched || n == 0)
        return 0;
    if (type != s->type)
        rc = stop_flush(s);
    s->type = type;
    if (rc != 0 || s->expr.code == NULL)
        return rc ? rc : send(s, p, n);
    if (buf_append(&s->held, p, n) != 0)
        return ERR_NOMEM;
    bool found = filter_find(&s->expr, s->md, s->limits, s->held.data,
                             s->held.len, 0, false, &hit);
    if (found && !hit.partial)
        return send_match(s, &hit);
    size_t ready = found ? hit.start : s->held.len;
    rc = send(s, s->held.data, ready);
    buf_consume(&s->held, ready);
    return rc;
}

int
stop_flush(struct stop *s)
{
    /* A whole stop string is never held, so this cannot hide a match. */
    int rc = send(s, s->held.data, s->held.len);
    s->held.len = 0;
    return rc;
}
