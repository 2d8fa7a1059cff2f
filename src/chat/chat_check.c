/*
 * What the reference refuses in a conversation, for strict mode: the order of
 * roles, calls and their results, names and ids. Content types were checked
 * when the parts were read.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>

#include "base/map.h"

struct checker {
    const struct chat *c;
    const struct chat_request *req;
    struct arena *a;
    struct chat_error *ce;
};

static int
refuse(struct checker *k, size_t i, const char *key, const char *text)
{
    return chat_fail(k->a, k->ce, ERR_RANGE, text, "messages.%zu%s", i, key);
}

static int
check_order(struct checker *k)
{
    static const bool may_follow[4][4] = {
        [CHAT_SYSTEM] = {[CHAT_USER] = true, [CHAT_ASSISTANT] = true,
                         [CHAT_SYSTEM] = true},
        [CHAT_USER] = {[CHAT_ASSISTANT] = true, [CHAT_SYSTEM] = true,
                       [CHAT_USER] = true},
        [CHAT_ASSISTANT] = {[CHAT_ASSISTANT] = true, [CHAT_USER] = true,
                            [CHAT_TOOL] = true},
        [CHAT_TOOL] = {[CHAT_ASSISTANT] = true, [CHAT_TOOL] = true,
                       [CHAT_USER] = true},
    };
    const struct chat_message *m = k->req->message;
    size_t n = k->req->n_message;

    if (n == 1 && m[0].role != CHAT_USER && m[0].role != CHAT_SYSTEM)
        return refuse(k, 0, ".role", "a single message must be a user or a "
                      "system message");
    if (n > 1 && m[n - 1].role == CHAT_ASSISTANT && !m[n - 1].prefix)
        return refuse(k, n - 1, ".role", "the last message must not be an "
                      "assistant message, unless it is continued");
    for (size_t i = 1; i < n; i++)
        if (!may_follow[m[i - 1].role][m[i].role])
            return refuse(k, i, ".role", "this role may not follow the one "
                          "before");
    return 0;
}

/* --- calls and results --------------------------------------------------- */

/* Formats without matching by id only count. The reference leaves the first
 * message out in both ways of checking. */
static int
check_counts(struct checker *k)
{
    long open = 0;
    for (size_t i = 1; i < k->req->n_message; i++) {
        const struct chat_message *m = &k->req->message[i];
        if (m->role == CHAT_TOOL)
            open--;
        if (m->role != CHAT_ASSISTANT)
            continue;
        if (open != 0)
            return refuse(k, i, "", "not as many tool results as calls in "
                          "front of this message");
        open = (long)m->n_call;
    }
    return 0;
}

/* Calls of the newest assistant message: id to 1, or 2 once answered. */
struct ledger {
    struct map *id;
    size_t open;
};

static int
open_calls(struct checker *k, struct ledger *l, size_t i)
{
    const struct chat_message *m = &k->req->message[i];

    if (l->open > 0)
        return refuse(k, i, "", "not as many tool results as calls in front "
                      "of this message");
    map_free(l->id);
    l->id = map_create(m->n_call);
    if (l->id == NULL)
        return ERR_NOMEM;
    l->open = m->n_call;
    for (size_t j = 0; j < m->n_call; j++) {
        bool was = false;
        if (map_put(l->id, m->call[j].id.p, m->call[j].id.n, 1, &was) != 0)
            return ERR_NOMEM;
        if (was)
            return refuse(k, i, ".tool_calls", "two calls have the same id");
    }
    return 0;
}

static int
answer_call(struct checker *k, struct ledger *l, size_t i)
{
    struct str id = k->req->message[i].call_id;
    uint64_t state = 0;

    if (l->id == NULL || !map_get(l->id, id.p, id.n, &state))
        return refuse(k, i, ".tool_call_id", "no call in front of this result "
                      "has its id");
    if (state == 2)
        return refuse(k, i, ".tool_call_id", "a second result for the same "
                      "call");
    l->open--;
    return map_put(l->id, id.p, id.n, 2, NULL);
}

static int
check_ids(struct checker *k)
{
    struct ledger l = {0};
    int rc = 0;

    for (size_t i = 1; i < k->req->n_message && rc == 0; i++) {
        enum chat_role role = k->req->message[i].role;
        if (role == CHAT_TOOL)
            rc = answer_call(k, &l, i);
        else if (role == CHAT_ASSISTANT)
            rc = open_calls(k, &l, i);
    }
    map_free(l.id);
    return rc;
}

/* --- one message --------------------------------------------------------- */

static bool
id_ok(const struct chat *c, struct str id)
{
    if (!c->format->free_ids)
        return chat_id_valid(id);
    return id.n > 0 && !str_eq(id, STR("null"));
}

static int
check_assistant(struct checker *k, size_t i, const struct chat_message *m)
{
    if (!k->c->format->content_with_calls
        && (m->n_part > 0) == (m->n_call > 0))
        return refuse(k, i, "", "an assistant message must have either "
                      "content or tool calls");
    for (size_t j = 0; j < m->n_call; j++) {
        if (!id_ok(k->c, m->call[j].id))
            return refuse(k, i, ".tool_calls", k->c->format->free_ids
                          ? "a tool call needs an id"
                          : "the id of a call must be 9 letters and digits");
        if (!chat_name_valid(m->call[j].name, true))
            return refuse(k, i, ".tool_calls", "a function name must be 1 to "
                          "64 of a-z, A-Z, 0-9, underscore and dash");
    }
    return 0;
}

static int
check_thoughts(struct checker *k, size_t i, const struct chat_message *m)
{
    for (size_t j = 0; j < m->n_part; j++)
        if (m->part[j].type == CHAT_THINKING && !k->c->thinks)
            return refuse(k, i, ".content", "this model has no thoughts");
    return 0;
}

static int
check_message(struct checker *k, size_t i)
{
    const struct chat_message *m = &k->req->message[i];

    int rc = check_thoughts(k, i, m);
    if (rc != 0)
        return rc;
    if (m->role == CHAT_ASSISTANT)
        return check_assistant(k, i, m);
    if (m->role != CHAT_TOOL)
        return 0;
    if (!id_ok(k->c, m->call_id))
        return refuse(k, i, ".tool_call_id", k->c->format->free_ids
                      ? "a tool result needs the id of its call"
                      : "tool_call_id must be 9 letters and digits");
    if (m->name.p && !chat_name_valid(m->name, true))
        return refuse(k, i, ".name", "a function name must be 1 to 64 of a-z, "
                      "A-Z, 0-9, underscore and dash");
    return 0;
}

/* --- order of the results ------------------------------------------------ */

/* Numbers the results of each run by the calls of the assistant messages in
 * front of it; the last call of an id counts. */
static int
number_results(struct checker *k, struct chat_turns *out)
{
    struct map *id = NULL;
    uint64_t n = 0;
    int rc = 0;

    for (size_t i = 0; i < out->n && rc == 0; i++) {
        const struct chat_message *m = out->turn[i].message;
        uint64_t at = SIZE_MAX;
        if (m->role == CHAT_TOOL && id
            && map_get(id, m->call_id.p, m->call_id.n, &at))
            out->turn[i].order = (size_t)at;
        if (m->role != CHAT_ASSISTANT)
            continue;
        if (i == 0 || out->turn[i - 1].message->role == CHAT_TOOL || !id) {
            map_free(id);
            id = map_create(m->n_call);
            n = 0;
        }
        if (id == NULL)
            return ERR_NOMEM;
        for (size_t j = 0; j < m->n_call && rc == 0; j++)
            rc = map_put(id, m->call[j].id.p, m->call[j].id.n, n++, NULL);
    }
    map_free(id);
    return rc;
}

int
chat_check(const struct chat *c, const struct chat_request *req,
           struct arena *a, struct chat_turns *out, struct chat_error *ce)
{
    struct checker k = {c, req, a, ce};

    int rc = check_order(&k);
    if (rc == 0)
        rc = c->format->match_ids ? check_ids(&k) : check_counts(&k);
    for (size_t i = 0; i < req->n_message && rc == 0; i++)
        rc = check_message(&k, i);
    if (rc != 0)
        return rc;
    out->turn = arena_calloc(a, req->n_message, sizeof(*out->turn));
    if (out->turn == NULL)
        return ERR_NOMEM;
    out->n = req->n_message;
    for (size_t i = 0; i < out->n; i++)
        out->turn[i] = (struct chat_turn){&req->message[i], SIZE_MAX};
    return number_results(&k, out);
}
