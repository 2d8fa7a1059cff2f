/*
 * Lenient mode: conversations as agents send them, brought into a form that
 * the format can show.
 *
 * DESIGN. An assistant turn with nothing in it is skipped. Results are
 * matched to the calls of the assistant messages in front of them: by id, the
 * first open call first when ids repeat, and without an id in order. A call
 * that never gets a result gets an empty one, behind the others. A result that
 * answers nothing stays where it is. Formats that spell ids out want nine
 * letters and digits: other ids become a hash of themselves, the same in the
 * call and the result.
 *
 * Whatever strict mode accepts, with every call answered, comes out unchanged.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>

#include "base/map.h"

#define NO_CALL SIZE_MAX

struct mender {
    const struct chat *c;
    struct arena *a;
    const struct chat_message **kept;
    size_t n_kept;
    struct chat_turns *out;
};

/* An open call: next is the following one with the same id. */
struct open_call {
    struct str id;
    size_t next;
    bool answered;
};

/* The calls of a run of assistant messages. */
struct open_calls {
    struct open_call *call;
    size_t n, first_open;
    struct map *by_id;       /* first call that may still be open */
};

static bool
is_empty(const struct chat_message *m)
{
    if (m->role != CHAT_ASSISTANT || m->n_call > 0)
        return false;
    for (size_t i = 0; i < m->n_part; i++)
        if (m->part[i].type != CHAT_TEXT || m->part[i].text.n > 0)
            return false;
    return true;
}

/* Messages but for runs of assistant messages with nothing in them. */
static int
keep_messages(struct mender *d, const struct chat_request *req)
{
    size_t calls = 0;

    d->kept = arena_calloc(d->a, req->n_message, sizeof(*d->kept));
    if (d->kept == NULL)
        return ERR_NOMEM;
    for (size_t i = 0, end; i < req->n_message; i = end) {
        bool empty = is_empty(&req->message[i]);
        for (end = i + 1; end < req->n_message; end++) {
            if (req->message[i].role != CHAT_ASSISTANT
                || req->message[end].role != CHAT_ASSISTANT)
                break;
            empty = empty && is_empty(&req->message[end]);
        }
        for (size_t k = i; k < end && !empty; k++) {
            d->kept[d->n_kept++] = &req->message[k];
            calls += req->message[k].n_call;
        }
    }
    d->out->turn = arena_calloc(d->a, d->n_kept + calls + 1,
                                sizeof(*d->out->turn));
    return d->out->turn ? 0 : ERR_NOMEM;
}

static void
emit(struct mender *d, const struct chat_message *m, size_t order)
{
    d->out->turn[d->out->n++] = (struct chat_turn){m, order};
}

/* --- ids ----------------------------------------------------------------- */

/* Nine letters and digits that stand for an id. */
static struct str
nine(struct arena *a, struct str id)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint64_t h = map_hash(id.p, id.n, 0x5109cc0);
    char *p = arena_alloc(a, 9);

    if (p == NULL)
        return (struct str){NULL, 0};
    for (int i = 0; i < 9; i++, h /= 62)
        p[i] = digits[h % 62];
    return (struct str){p, 9};
}

/* The id as the format can spell it; n tells ids that are missing apart. */
static struct str
spell_id(struct mender *d, struct str id, size_t n)
{
    char missing[32];

    if (d->c->format->free_ids || chat_id_valid(id))
        return id;
    if (id.n == 0) {
        snprintf(missing, sizeof(missing), "missing %zu", n);
        id = str_from(missing);
    }
    return nine(d->a, id);
}

static const struct chat_message *
with_call_ids(struct mender *d, const struct chat_message *m, size_t n)
{
    if (d->c->format->free_ids || m->n_call == 0)
        return m;
    struct chat_message *copy = arena_alloc(d->a, sizeof(*copy));
    struct chat_call *call = arena_calloc(d->a, m->n_call, sizeof(*call));
    if (copy == NULL || call == NULL)
        return NULL;
    *copy = *m;
    copy->call = call;
    for (size_t i = 0; i < m->n_call; i++) {
        call[i] = m->call[i];
        call[i].id = spell_id(d, m->call[i].id, d->out->n + i + n);
        if (call[i].id.p == NULL)
            return NULL;
    }
    return copy;
}

static const struct chat_message *
with_result_id(struct mender *d, const struct chat_message *m, struct str id)
{
    struct chat_message *copy = arena_alloc(d->a, sizeof(*copy));
    if (copy == NULL)
        return NULL;
    *copy = *m;
    copy->call_id = spell_id(d, id, d->out->n);
    return copy->call_id.p || d->c->format->free_ids ? copy : NULL;
}

/* --- calls and results --------------------------------------------------- */

/* Collects the calls of the run kept[from .. to); emits its messages. */
static int
open_run(struct mender *d, size_t from, size_t to, struct open_calls *o,
         struct str *spelt)
{
    size_t k = 0;
    for (size_t i = from; i < to; i++) {
        const struct chat_message *m = with_call_ids(d, d->kept[i], k);
        if (m == NULL)
            return ERR_NOMEM;
        for (size_t j = 0; j < m->n_call; j++, k++) {
            o->call[k].id = d->kept[i]->call[j].id;
            spelt[k] = m->call[j].id;
        }
        emit(d, m, NO_CALL);
    }
    /* Backwards, so that the chain of an id runs forwards. */
    while (k-- > 0) {
        struct open_call *call = &o->call[k];
        uint64_t next = NO_CALL;
        map_get(o->by_id, call->id.p, call->id.n, &next);
        call->next = (size_t)next;
        if (map_put(o->by_id, call->id.p, call->id.n, k, NULL) != 0)
            return ERR_NOMEM;
    }
    return 0;
}

/* The call that a result answers, NO_CALL if none; marks it answered. */
static size_t
answer(struct open_calls *o, struct str id)
{
    uint64_t k = NO_CALL;

    if (id.n > 0) {
        if (!map_get(o->by_id, id.p, id.n, &k))
            return NO_CALL;
        while (k != NO_CALL && o->call[k].answered)
            k = o->call[k].next;
        /* Replaces a value, which cannot fail. */
        (void)map_put(o->by_id, id.p, id.n, k, NULL);
    } else {
        while (o->first_open < o->n && o->call[o->first_open].answered)
            o->first_open++;
        k = o->first_open < o->n ? o->first_open : NO_CALL;
    }
    if (k != NO_CALL)
        o->call[k].answered = true;
    return (size_t)k;
}

static int
answer_open_calls(struct mender *d, const struct open_calls *o,
                  const struct str *spelt)
{
    for (size_t k = 0; k < o->n; k++) {
        if (o->call[k].answered)
            continue;
        struct chat_message *m = arena_calloc(d->a, 1, sizeof(*m));
        if (m == NULL)
            return ERR_NOMEM;
        m->role = CHAT_TOOL;
        m->call_id = spelt[k];
        emit(d, m, k);
    }
    return 0;
}

/* Emits a message that is no assistant's; order is the call it answers. */
static int
emit_other(struct mender *d, const struct chat_message *m, size_t order,
           const struct str *spelt)
{
    if (m->role == CHAT_TOOL) {
        m = with_result_id(d, m, order == NO_CALL ? m->call_id : spelt[order]);
        if (m == NULL)
            return ERR_NOMEM;
    }
    emit(d, m, order);
    return 0;
}

/* A run of assistant messages kept[from .. to) and what follows up to the
 * next one at end. */
static int
mend_run(struct mender *d, size_t from, size_t to, size_t end,
         struct open_calls *o)
{
    struct str *spelt = arena_calloc(d->a, o->n + 1, sizeof(*spelt));
    size_t *order = arena_calloc(d->a, end - to + 1, sizeof(*order));
    size_t i = to;

    o->call = arena_calloc(d->a, o->n + 1, sizeof(*o->call));
    if (spelt == NULL || order == NULL || o->call == NULL)
        return ERR_NOMEM;
    int rc = open_run(d, from, to, o, spelt);
    for (size_t k = to; k < end && rc == 0; k++)
        order[k - to] = d->kept[k]->role == CHAT_TOOL
                        ? answer(o, d->kept[k]->call_id) : NO_CALL;
    for (; i < end && d->kept[i]->role == CHAT_TOOL && rc == 0; i++)
        rc = emit_other(d, d->kept[i], order[i - to], spelt);
    if (rc == 0 && !(to > from && d->kept[to - 1]->prefix))
        rc = answer_open_calls(d, o, spelt);
    for (; i < end && rc == 0; i++)
        rc = emit_other(d, d->kept[i], order[i - to], spelt);
    return rc;
}

int
chat_mend(const struct chat *c, const struct chat_request *req,
          struct arena *a, struct chat_turns *out, struct chat_error *ce)
{
    struct mender d = {.c = c, .a = a, .out = out};

    int rc = keep_messages(&d, req);
    if (rc == 0 && d.n_kept == 0)
        return chat_failf(ce, ERR_RANGE, "messages",
                          "every message is an empty assistant message");
    for (size_t i = 0; i < d.n_kept && rc == 0; ) {
        struct open_calls o = {0};
        size_t to = i, end;
        while (to < d.n_kept && d.kept[to]->role == CHAT_ASSISTANT)
            o.n += d.kept[to++]->n_call;
        for (end = to; end < d.n_kept; end++)
            if (d.kept[end]->role == CHAT_ASSISTANT)
                break;
        o.by_id = map_create(o.n);
        rc = o.by_id ? mend_run(&d, i, to, end, &o) : ERR_NOMEM;
        map_free(o.by_id);
        i = end;
    }
    return rc;
}
