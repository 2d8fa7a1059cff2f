/*
 * Normalisation, as the reference does it before encoding: neighbours of one
 * role become one message (system and tool messages stay apart), text is
 * joined, tool results stand in the order of their calls.
 *
 * Joining walks the parts of all messages of a run. Text that follows text of
 * an earlier message is set off by a blank line; text that follows text of the
 * same message by the format's chunk_join. A part that is not text ends the
 * text before it, and empty text leaves no trace.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdlib.h>
#include <string.h>

struct joiner {
    const struct chat *c;
    struct arena *a;
    struct buf text;
    struct chat_message *m;  /* gets the parts */
};

static int
flush_text(struct joiner *j)
{
    if (j->text.len == 0)
        return 0;
    struct chat_part *p = &j->m->part[j->m->n_part];
    p->type = CHAT_TEXT;
    p->text = (struct str){arena_strndup(j->a, j->text.data, j->text.len),
                           j->text.len};
    if (p->text.p == NULL)
        return ERR_NOMEM;
    j->m->n_part++;
    j->text.len = 0;
    return 0;
}

static int
join_message(struct joiner *j, const struct chat_message *m)
{
    bool apart = j->text.len > 0;
    for (size_t i = 0; i < m->n_part; i++) {
        const struct chat_part *p = &m->part[i];
        if (p->type != CHAT_TEXT) {
            if (flush_text(j) != 0)
                return ERR_NOMEM;
            j->m->part[j->m->n_part++] = *p;
            j->m->is_list = true;
            continue;
        }
        if (p->text.n == 0)
            continue;
        if (j->text.len > 0
            && buf_puts(&j->text, apart ? "\n\n"
                                        : j->c->format->chunk_join) != 0)
            return ERR_NOMEM;
        if (buf_append(&j->text, p->text.p, p->text.n) != 0)
            return ERR_NOMEM;
        apart = false;
    }
    return 0;
}

/* Content of turns [from, to) into m, whose other fields are kept. */
static int
join(const struct chat *c, struct arena *a, const struct chat_turn *turn,
     size_t n, struct chat_message *m)
{
    struct joiner j = {c, a, {0}, m};
    size_t parts = 1;
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        parts += turn[i].message->n_part;
    m->part = arena_calloc(a, parts, sizeof(*m->part));
    m->n_part = 0;
    m->is_list = false;
    if (m->part == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = join_message(&j, turn[i].message);
    if (rc == 0)
        rc = flush_text(&j);
    buf_free(&j.text);
    return rc;
}

static int
join_calls(struct arena *a, const struct chat_turn *turn, size_t n,
           struct chat_message *m)
{
    size_t calls = 0;
    for (size_t i = 0; i < n; i++)
        calls += turn[i].message->n_call;
    m->call = arena_calloc(a, calls + 1, sizeof(*m->call));
    m->n_call = 0;
    if (m->call == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const struct chat_message *from = turn[i].message;
        if (from->n_call > 0)
            memcpy(m->call + m->n_call, from->call,
                   from->n_call * sizeof(*m->call));
        m->n_call += from->n_call;
        m->prefix = m->prefix || from->prefix;
    }
    return 0;
}

/* Stable: the copy holds the turns with their places as second key. */
struct placed {
    struct chat_turn turn;
    size_t place;
};

static int
compare_placed(const void *x, const void *y)
{
    const struct placed *a = x, *b = y;
    if (a->turn.order != b->turn.order)
        return a->turn.order < b->turn.order ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static int
sort_results(struct arena *a, struct chat_turn *turn, size_t n)
{
    if (n < 2)
        return 0;
    struct placed *p = arena_calloc(a, n, sizeof(*p));
    if (p == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        p[i] = (struct placed){turn[i], i};
    qsort(p, n, sizeof(*p), compare_placed);
    for (size_t i = 0; i < n; i++)
        turn[i] = p[i].turn;
    return 0;
}

/* Formats without system blocks gather all system text. */
static int
gather_system(const struct chat *c, struct arena *a,
              const struct chat_turns *in, struct str *out)
{
    struct buf b = {0};
    bool first = true;
    int rc = 0;

    for (size_t i = 0; i < in->n && rc == 0; i++) {
        struct chat_message m = *in->turn[i].message;
        if (m.role != CHAT_SYSTEM || m.n_part == 0)
            continue;
        rc = join(c, a, &in->turn[i], 1, &m);
        if (rc == 0 && !first)
            rc = buf_puts(&b, "\n\n");
        first = false;
        for (size_t k = 0; k < m.n_part && rc == 0; k++)
            rc = buf_append(&b, m.part[k].text.p, m.part[k].text.n);
    }
    if (rc != 0) {
        buf_free(&b);
        return rc;
    }
    *out = chat_take(a, &b);
    return out->p ? 0 : ERR_NOMEM;
}

/* One run of a role, turns [0, n), behind the messages of out. */
static int
add_run(const struct chat *c, struct arena *a, struct chat_turn *turn,
        size_t n, struct chat_normal *out)
{
    enum chat_role role = turn[0].message->role;
    bool apart = role == CHAT_SYSTEM || role == CHAT_TOOL;
    int rc = 0;

    if (role == CHAT_SYSTEM && !c->format->system_block)
        return 0;
    if (role == CHAT_TOOL && c->format->match_ids)
        rc = sort_results(a, turn, n);
    for (size_t i = 0; i < n && rc == 0; i += apart ? 1 : n) {
        struct chat_message *m = &out->message[out->n++];
        *m = *turn[i].message;
        rc = join(c, a, turn + i, apart ? 1 : n, m);
        if (rc == 0 && role == CHAT_ASSISTANT)
            rc = join_calls(a, turn, n, m);
    }
    return rc;
}

int
chat_normalise(const struct chat *c, const struct chat_turns *in,
               struct arena *a, struct chat_normal *out)
{
    int rc = 0;

    out->n = 0;
    out->message = arena_calloc(a, in->n + 1, sizeof(*out->message));
    if (out->message == NULL)
        return ERR_NOMEM;
    if (!c->format->system_block) {
        rc = gather_system(c, a, in, &out->system);
        /* There the conversation starts with a user message. */
        size_t first = 0;
        while (first < in->n && in->turn[first].message->role == CHAT_SYSTEM)
            first++;
        if (first == in->n || in->turn[first].message->role != CHAT_USER)
            out->message[out->n++] = (struct chat_message){.role = CHAT_USER};
    }
    for (size_t i = 0; i < in->n && rc == 0; ) {
        size_t end = i + 1;
        while (end < in->n
               && in->turn[end].message->role == in->turn[i].message->role)
            end++;
        rc = add_run(c, a, in->turn + i, end - i, out);
        i = end;
    }
    return rc;
}
