/*
 * A chat completions body to a struct chat_request.
 *
 * DESIGN. Strict is what the reference's request converter does with the same
 * JSON. Lenient takes what agents send besides: the roles developer and
 * function, calls without ids or types, function_call, Mistral's prefix, and
 * an assistant message at the end, which is continued unless the body asks
 * for a new turn (add_generation_prompt true).
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>

#include "json/json.h"

static int
bad(struct chat_reader *r, const char *key, const char *text)
{
    return chat_fail(r->a, r->ce, ERR_FORMAT, text, "messages.%zu.%s",
                     r->index, key);
}

static int
read_role(struct chat_reader *r, struct json_object *o,
          struct chat_message *m)
{
    static const struct {
        const char *name;
        enum chat_role role;
        bool lenient_only;
    } roles[] = {
        {"system", CHAT_SYSTEM, false},
        {"developer", CHAT_SYSTEM, false},
        {"user", CHAT_USER, false},
        {"assistant", CHAT_ASSISTANT, false},
        {"tool", CHAT_TOOL, false},
        {"function", CHAT_TOOL, true},
    };
    struct str role = json_str(json_get(o, "role"));

    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (str_eq(role, str_from(roles[i].name))
            && !(r->strict && roles[i].lenient_only)) {
            m->role = roles[i].role;
            return 0;
        }
    return bad(r, "role", "role must be system, developer, user, assistant or "
               "tool");
}

/* --- calls --------------------------------------------------------------- */

static int
bad_call(struct chat_reader *r, size_t i, const char *key, const char *text)
{
    return chat_fail(r->a, r->ce, ERR_FORMAT, text,
                     "messages.%zu.tool_calls.%zu.%s", r->index, i, key);
}

/* A string of JSON, an object, or nothing; lenient takes any value. */
static int
read_arguments(struct chat_reader *r, size_t i, struct json_object *f,
               struct str *out)
{
    struct json_object *o = NULL;
    struct buf b = {0};
    int rc;

    bool given = json_object_object_get_ex(f, "arguments", &o);
    if (r->strict && !given)
        return bad_call(r, i, "function.arguments", "a call needs arguments");
    if (o == NULL || json_object_is_type(o, json_type_string)) {
        rc = chat_json_text(r->a, json_str(o), out);
        if (rc == ERR_LIMIT)
            return chat_fail(r->a, r->ce, rc, "the arguments are nested too "
                             "deep", "messages.%zu.tool_calls.%zu.function."
                             "arguments", r->index, i);
        return rc;
    }
    if (r->strict && !json_object_is_type(o, json_type_object))
        return bad_call(r, i, "function.arguments",
                        "arguments must be a string or an object");
    rc = json_dump_python(&b, o, false);
    if (rc != 0) {
        buf_free(&b);
        return rc;
    }
    *out = chat_take(r->a, &b);
    return out->p ? 0 : ERR_NOMEM;
}

static int
read_call_function(struct chat_reader *r, size_t i, struct json_object *f,
                   struct chat_call *call)
{
    struct json_object *name = json_get(f, "name");

    if (!json_object_is_type(name, json_type_string)
        || (!r->strict && json_str(name).n == 0))
        return bad_call(r, i, "function.name", "a call needs the name of its "
                        "function");
    call->name = json_str(name);
    return read_arguments(r, i, f, &call->arguments);
}

static int
read_call(struct chat_reader *r, size_t i, struct json_object *o,
          struct chat_call *call)
{
    struct json_object *id = NULL, *type = NULL;

    if (!json_object_is_type(o, json_type_object))
        return bad_call(r, i, "function", "a tool call must be an object");
    if (r->strict && json_object_object_get_ex(o, "type", &type)
        && !str_eq(json_str(type), STR("function")))
        return bad_call(r, i, "type", "the type of a call must be function");
    if (json_object_object_get_ex(o, "id", &id) && r->strict
        && !json_object_is_type(id, json_type_string))
        return bad_call(r, i, "id", "the id of a call must be a string");
    call->id = json_str(id);
    return read_call_function(r, i, json_get(o, "function"), call);
}

static int
read_calls(struct chat_reader *r, struct json_object *o,
           struct chat_message *m)
{
    struct json_object *list = json_get(o, "tool_calls");
    struct json_object *old = r->strict ? NULL : json_get(o, "function_call");

    if (list && !json_object_is_type(list, json_type_array))
        return bad(r, "tool_calls", "tool_calls must be a list");
    size_t n = list ? json_object_array_length(list) : 0;
    if (n == 0 && old == NULL)
        return 0;
    m->call = arena_calloc(r->a, n + 1, sizeof(*m->call));
    if (m->call == NULL)
        return ERR_NOMEM;
    for (; m->n_call < n; m->n_call++) {
        size_t i = m->n_call;
        int rc = read_call(r, i, json_object_array_get_idx(list, i),
                           &m->call[i]);
        if (rc != 0)
            return rc;
    }
    if (n > 0)
        return 0;
    m->n_call = 1;
    return read_call_function(r, 0, old, &m->call[0]);
}

/* --- messages ------------------------------------------------------------ */

static int
read_result(struct chat_reader *r, struct json_object *o,
            struct chat_message *m)
{
    struct json_object *id = NULL;
    struct json_object *name = json_get(o, "name");
    bool given = json_object_object_get_ex(o, "tool_call_id", &id);

    if (r->strict && !given)
        return bad(r, "tool_call_id", "a tool message needs tool_call_id");
    if (r->strict && id && !json_object_is_type(id, json_type_string))
        return bad(r, "tool_call_id", "tool_call_id must be a string");
    if (r->strict && name && !json_object_is_type(name, json_type_string))
        return bad(r, "name", "name must be a string");
    m->call_id = json_str(id);
    m->name = json_str(name);
    return 0;
}

static int
read_message(struct chat_reader *r, struct json_object *o,
             struct chat_message *m)
{
    if (!json_object_is_type(o, json_type_object))
        return chat_fail(r->a, r->ce, ERR_FORMAT, "a message must be an "
                         "object", "messages.%zu", r->index);
    int rc = read_role(r, o, m);
    if (rc == 0)
        rc = chat_read_content(r, o, m);
    if (rc == 0 && m->role == CHAT_ASSISTANT)
        rc = read_calls(r, o, m);
    if (rc == 0 && m->role == CHAT_TOOL)
        rc = read_result(r, o, m);
    return rc;
}

static int
read_messages(struct chat_reader *r, struct json_object *body,
              struct chat_request *req)
{
    struct json_object *list = json_get(body, "messages");

    if (!json_object_is_type(list, json_type_array))
        return chat_failf(r->ce, ERR_FORMAT, "messages",
                          "messages must be a list");
    size_t n = json_object_array_length(list);
    if (n == 0)
        return chat_failf(r->ce, ERR_RANGE, "messages",
                          "there must be at least one message");
    req->message = arena_calloc(r->a, n, sizeof(*req->message));
    if (req->message == NULL)
        return ERR_NOMEM;
    for (; req->n_message < n; req->n_message++) {
        r->index = req->n_message;
        int rc = read_message(r, json_object_array_get_idx(list, r->index),
                              &req->message[r->index]);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* A boolean field of the body: absent is false, so is null unless strict. */
static int
read_flag(struct chat_reader *r, struct json_object *body, const char *key,
          bool *value)
{
    struct json_object *o = NULL;

    *value = false;
    if (!json_object_object_get_ex(body, key, &o) || (!r->strict && !o))
        return 0;
    if (chat_read_bool(o, value))
        return 0;
    return chat_failf(r->ce, ERR_FORMAT, key, "%s must be a boolean", key);
}

/* Whether the last message is continued or a new turn follows it. */
static int
read_end(struct chat_reader *r, struct json_object *body,
         struct chat_request *req)
{
    struct chat_message *last = &req->message[req->n_message - 1];
    bool new_turn = false, prefix = false;

    int rc = read_flag(r, body, "continue_final_message",
                       &req->continue_final);
    if (rc == 0 && !r->strict)
        rc = read_flag(r, body, "add_generation_prompt", &new_turn);
    if (rc != 0)
        return rc;
    if (req->continue_final && new_turn)
        return chat_failf(r->ce, ERR_RANGE, "continue_final_message",
                          "continue_final_message and add_generation_prompt "
                          "cannot both be true");
    if (req->continue_final && last->role != CHAT_ASSISTANT)
        return chat_failf(r->ce, ERR_RANGE, "continue_final_message",
                          "continue_final_message needs an assistant message "
                          "at the end");
    if (last->role != CHAT_ASSISTANT)
        return 0;
    if (!r->strict) {
        struct json_object *list = json_get(body, "messages");
        struct json_object *o = json_object_array_get_idx(
            list, req->n_message - 1);
        chat_read_bool(json_get(o, "prefix"), &prefix);
        /* Open calls want their results, not more of the message. */
        if (last->n_call == 0 && !new_turn)
            prefix = true;
    }
    last->prefix = req->continue_final || prefix;
    return 0;
}

int
chat_parse(const struct chat *c, struct json_object *body,
           struct arena *a, struct chat_request *req,
           struct chat_error *ce)
{
    struct chat_reader r = {c, c->mode == CHAT_STRICT, a, ce, 0};

    if (!json_object_is_type(body, json_type_object))
        return chat_failf(ce, ERR_FORMAT, NULL,
                          "the request body must be a JSON object");
    int rc = read_messages(&r, body, req);
    if (rc == 0)
        rc = chat_read_tools(&r, body, req);
    if (rc == 0)
        rc = read_end(&r, body, req);
    return rc;
}
