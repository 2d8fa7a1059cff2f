/*
 * The chain of one request.
 *
 * DESIGN. Bytes go through three links (see filter.h):
 *
 *   input -> raw -> [text] -> clean -> [markers] -> [stop] -> events
 *
 * raw keeps what may become a character or a mark with the next piece, at most
 * 3 bytes; clean what may become a marker, which for control tokens is
 * nothing. Since the text link comes first, everything behind it sees whole
 * characters only and a stop string cannot match half of one.
 *
 * States: ANSWER, THOUGHT, CALL. A call marker leaves every state for CALL, so
 * that a call inside an open thought is not lost. A thought's opening inside
 * a call ends the call; a closing outside a thought is dropped.
 */
#include "config.h"

#include "filter/filter.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "filter/call.h"
#include "filter/filter_set.h"
#include "filter/mark.h"
#include "filter/stop.h"

enum state { ANSWER, THOUGHT, CALL };

struct filter {
    const struct filter_set *set;
    const struct filter_expr *expr;
    pcre2_match_data *md;
    struct filter_options o;     /* without the stop strings */
    enum state state;
    struct buf raw, clean;
    struct call call;
    struct stop stop;
};

struct filter *
filter_create(const struct filter_set *s, const struct filter_options *o,
              filter_fn fn, void *arg)
{
    struct filter *f = calloc(1, sizeof *f);

    if (f == NULL)
        return NULL;
    f->set = s;
    f->expr = o->reasoning ? &s->all : &s->calls;
    f->o = *o;
    f->o.stop = NULL;
    f->state = o->in_thought && o->reasoning ? THOUGHT : ANSWER;
    call_open(&f->call, fn, arg);
    int rc = stop_open(&f->stop, o->stop, o->n_stop, o->keep_stop, s->limits,
                       fn, arg);
    if (f->expr->code)
        f->md = pcre2_match_data_create(1, NULL);
    if (rc != 0 || (f->expr->code && f->md == NULL)) {
        filter_free(f);
        return NULL;
    }
    return f;
}

void
filter_free(struct filter *f)
{
    if (f == NULL)
        return;
    stop_close(&f->stop);
    call_close(&f->call);
    pcre2_match_data_free(f->md);
    buf_free(&f->raw);
    buf_free(&f->clean);
    free(f);
}

/* --- text ------------------------------------------------------------------- */

static bool
is_marker_token(const struct filter *f, int32_t id)
{
    for (size_t i = 0; i < f->expr->n_token; i++)
        if (f->expr->token[i] == id)
            return true;
    return false;
}

/* Handles the mark at p: kept for the markers, spelled out or dropped. */
static int
take_mark(struct filter *f, const char *p)
{
    int32_t id = mark_id(p);

    if (is_marker_token(f, id))
        return buf_append(&f->clean, p, MARK_LEN);
    if (!f->o.keep_special)
        return 0;
    struct str name = f->o.spell(f->o.spell_arg, id);
    return buf_append(&f->clean, name.p, name.n);
}

/* Moves what is complete in raw to clean; everything when last. */
static int
clean_text(struct filter *f, bool last)
{
    const char *p = f->raw.data, *end = p + f->raw.len;
    int rc = 0;

    while (rc == 0 && p < end) {
        const char *lead = memchr(p, MARK_LEAD, (size_t)(end - p));
        size_t n = (size_t)((lead ? lead : end) - p);
        size_t ready = lead || last ? n : utf8_complete(p, n);
        rc = utf8_repair(&f->clean, p, ready);
        p += ready;
        if (lead == NULL || rc != 0)
            break;
        if (end - lead >= MARK_LEN && mark_id(lead) >= 0) {
            rc = take_mark(f, lead);
            p += MARK_LEN;
        } else if (end - lead < MARK_LEN && !last) {
            break;
        } else { /* no mark: tok_emit writes none of these */
            rc = utf8_repair(&f->clean, p++, 1);
        }
    }
    buf_consume(&f->raw, (size_t)(p - f->raw.data));
    return rc;
}

/* --- markers ---------------------------------------------------------------- */

static int
take_text(struct filter *f, const char *p, size_t n)
{
    switch (f->state) {
    case ANSWER:
        return stop_text(&f->stop, FILTER_TEXT, p, n);
    case THOUGHT:
        if (f->o.stop_in_thought)
            return stop_text(&f->stop, FILTER_REASONING, p, n);
        if (n > 0) {
            struct filter_event ev = {FILTER_REASONING, {p, n}, 0};
            return f->call.fn(f->call.arg, &ev);
        }
        return 0;
    case CALL:
        return call_text(&f->call, p, n);
    }
    return 0;
}

/* Leaves the state; what it held goes out first. */
static int
enter(struct filter *f, enum state next)
{
    int rc = f->state == CALL ? call_end(&f->call, false)
                              : stop_flush(&f->stop);
    f->state = next;
    return rc;
}

static int
call_begins(struct filter *f)
{
    int rc = 0;

    if (f->o.tools) {
        rc = enter(f, CALL);
        call_marker(&f->call);
    } else if (f->state == THOUGHT) {
        rc = enter(f, ANSWER);
    }
    return rc;
}

static int
take_marker(struct filter *f, enum marker m)
{
    switch (m) {
    case MARKER_OPEN:
        return f->state != THOUGHT ? enter(f, THOUGHT) : 0;
    case MARKER_CLOSE:
        return f->state == THOUGHT ? enter(f, ANSWER) : 0;
    case MARKER_CALL:
        return call_begins(f);
    case MARKER_ID:
        if (f->state == CALL)
            call_id_marker(&f->call);
        return 0;
    case MARKER_ARGS:
        return f->state == CALL ? call_args_marker(&f->call) : 0;
    case MARKER_N:
        break;
    }
    return 0;
}

/* Takes clean apart; what may become a marker stays, unless last. */
static int
split(struct filter *f, bool last)
{
    struct filter_hit hit;
    size_t from = 0, n = f->clean.len;
    int rc = 0;

    while (rc == 0 && from < n && !f->stop.matched) {
        bool found = f->expr->code != NULL
                     && filter_find(f->expr, f->md, f->set->limits,
                                    f->clean.data, n, from, last, &hit);
        size_t to = found ? hit.start : n;
        rc = take_text(f, f->clean.data + from, to - from);
        from = to;
        if (!found || hit.partial)
            break;
        if (rc == 0)
            rc = take_marker(f, hit.marker);
        from = hit.end;
    }
    buf_consume(&f->clean, from);
    return rc;
}

/* --- public ------------------------------------------------------------------ */

int
filter_feed(struct filter *f, const char *p, size_t n)
{
    if (f->stop.matched || n == 0)
        return 0;
    if (buf_append(&f->raw, p, n) != 0)
        return ERR_NOMEM;
    int rc = clean_text(f, false);
    return rc ? rc : split(f, false);
}

int
filter_finish(struct filter *f, bool cut)
{
    int rc = 0;

    if (f->stop.matched)
        return 0;
    if (f->raw.len > 0)
        rc = clean_text(f, true);
    if (rc == 0)
        rc = split(f, true);
    if (rc == 0 && f->state == CALL)
        rc = call_end(&f->call, cut);
    return rc ? rc : stop_flush(&f->stop);
}

bool
filter_in_thought(const struct filter *f)
{
    return f->state == THOUGHT;
}

bool
filter_stopped(const struct filter *f)
{
    return f->stop.matched;
}

int
filter_n_calls(const struct filter *f)
{
    return f->call.n;
}
