#include "config.h"

#include "api/choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void
choice_random(char *out, size_t n)
{
    static const char set[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char r[64];
    size_t have = 0;

    for (size_t i = 0; i < n;) {
        if (have == 0) {
            /* Small requests are never cut short once the pool is ready. */
            ssize_t got = getrandom(r, sizeof r, 0);
            have = got > 0 ? (size_t)got : 0;
            continue;
        }
        unsigned char x = r[--have];
        if (x < 248) /* 4 * 62: no letter is likelier than another */
            out[i++] = set[x % 62];
    }
    out[n] = '\0';
}

/* --- pieces ------------------------------------------------------------------ */

static int
add_piece(struct choice *c, const struct filter_event *ev)
{
    struct choice_piece *last = c->n_piece ? &c->piece[c->n_piece - 1] : NULL;
    size_t at = c->text.len;

    if (buf_append(&c->text, ev->data.p, ev->data.n) != 0)
        return ERR_NOMEM;
    if (last && last->type == ev->type && last->call == ev->call
        && ev->type != FILTER_CALL) {
        last->n += ev->data.n;
        return 0;
    }
    if (c->n_piece == c->cap_piece) {
        size_t cap = c->cap_piece ? 2 * c->cap_piece : 4;
        struct choice_piece *p = realloc(c->piece, cap * sizeof *p);
        if (p == NULL)
            return ERR_NOMEM;
        c->piece = p;
        c->cap_piece = cap;
    }
    c->piece[c->n_piece++] = (struct choice_piece){ev->type, ev->call, at,
                                                   ev->data.n};
    return 0;
}

static int
add_call(struct choice *c, struct str name)
{
    size_t n = (size_t)c->n_call + 1;
    struct choice_call *call = realloc(c->call, n * sizeof *call);

    if (call == NULL)
        return ERR_NOMEM;
    c->call = call;
    call += c->n_call++;
    *call = (struct choice_call){{0}, {0}, {0}};
    if (c->o.numbered_ids)
        snprintf(call->id, sizeof call->id, "call%05u",
                 (unsigned)(c->n_call - 1) % 100000u);
    else
        choice_random(call->id, CALL_ID_LEN);
    return buf_append(&call->name, name.p, name.n);
}

static int
collect(struct choice *c, const struct filter_event *ev)
{
    struct buf *to = ev->type == FILTER_TEXT        ? &c->content
                     : ev->type == FILTER_REASONING ? &c->reasoning
                     : ev->type == FILTER_ARGS      ? &c->call[ev->call].args
                                                    : NULL;
    return to ? buf_append(to, ev->data.p, ev->data.n) : 0;
}

static int
take_event(void *arg, const struct filter_event *ev)
{
    struct choice *c = arg;
    bool of_call = ev->type == FILTER_CALL || ev->type == FILTER_ARGS
                   || ev->type == FILTER_CALL_END;
    int rc = 0;

    if (of_call && ev->call > 0 && c->o.one_call)
        return 0;
    switch (ev->type) {
    case FILTER_STOP:
        c->end = CHOICE_STOP;
        return buf_append(&c->stop_string, ev->data.p, ev->data.n);
    case FILTER_CALL_END:
        return 0;
    case FILTER_REASONING:
        if (c->o.hide_reasoning)
            return 0;
        break;
    case FILTER_CALL:
        rc = add_call(c, ev->data);
        break;
    default:
        break;
    }
    if (rc == 0 && c->o.collect)
        rc = collect(c, ev);
    return rc ? rc : add_piece(c, ev);
}

/* --- public ------------------------------------------------------------------ */

static struct str
spell(void *arg, int id)
{
    return tok_bytes(arg, id);
}

int
choice_open(struct choice *c, const struct choice_options *o)
{
    *c = (struct choice){.o = *o, .stop_id = -1};
    c->o.filter.spell = spell;
    c->o.filter.spell_arg = (void *)(uintptr_t)o->tok;
    c->filter = filter_create(o->filters, &c->o.filter, take_event, c);
    c->o.filter.stop = NULL;
    return c->filter ? 0 : ERR_NOMEM;
}

void
choice_close(struct choice *c)
{
    filter_free(c->filter);
    for (int i = 0; i < c->n_call; i++) {
        buf_free(&c->call[i].name);
        buf_free(&c->call[i].args);
    }
    free(c->call);
    free(c->piece);
    buf_free(&c->bytes);
    buf_free(&c->text);
    buf_free(&c->content);
    buf_free(&c->reasoning);
    buf_free(&c->stop_string);
    memset(c, 0, sizeof *c);
}

int
choice_echo(struct choice *c, struct str text)
{
    struct filter_event ev = {FILTER_TEXT, text, 0};

    return text.n ? take_event(c, &ev) : 0;
}

int
choice_token(struct choice *c, int32_t id)
{
    if (c->end != CHOICE_OPEN)
        return 0;
    bool inside = filter_in_thought(c->filter);
    c->bytes.len = 0;
    int rc = tok_emit(c->o.tok, id, &c->bytes);
    if (rc == 0)
        rc = filter_feed(c->filter, c->bytes.data, c->bytes.len);
    c->n_tokens++;
    /* Neither the token that opens the thought nor the one that ends it. */
    c->n_reasoning += inside && filter_in_thought(c->filter);
    return rc;
}

void
choice_end_token(struct choice *c)
{
    if (c->end == CHOICE_OPEN)
        c->n_tokens++;
}

int
choice_finish(struct choice *c, enum choice_end end)
{
    if (c->end != CHOICE_OPEN)
        return 0;
    int rc = filter_finish(c->filter, end != CHOICE_STOP);
    if (c->end == CHOICE_OPEN)
        c->end = end;
    return rc;
}

void
choice_sent(struct choice *c)
{
    c->n_piece = 0;
    c->text.len = 0;
}

struct str
choice_text(const struct choice *c, const struct choice_piece *p)
{
    return (struct str){c->text.data + p->at, p->n};
}

const char *
choice_reason(const struct choice *c, bool named)
{
    switch (c->end) {
    case CHOICE_STOP:
        return c->n_call > 0 && !named ? "tool_calls" : "stop";
    case CHOICE_LENGTH:
        return "length";
    case CHOICE_OPEN:
    case CHOICE_ABORT:
        break;
    }
    return "abort";
}
