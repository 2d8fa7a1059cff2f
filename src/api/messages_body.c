/*
 * An Anthropic messages body to a chat completions body.
 *
 * DESIGN. The result goes the way of every chat request, so the same rules and
 * limits hold. A user's tool_result blocks become tool messages in front of
 * the rest of the turn; an assistant's tool_use blocks become tool_calls next
 * to its text and thoughts. Keys that only steer the other vendor's service
 * (cache_control, context_management, betas) are ignored.
 */
#include "config.h"

#include "api/translate.h"

#include "api/fields.h"
#include "base/buf.h"
#include "json/json.h"

static int
bad(struct api_call *c, const char *param, const char *what)
{
    return call_fail(c, 400, param, "%s: %s", param, what);
}

/* --- blocks ---------------------------------------------------------------------- */

/* {"type":"text","text":..} at the end of parts. */
static int
add_text(struct api_call *c, struct json_object *parts, struct json_object *b)
{
    struct json_object *text = json_get(b, "text");

    if (!json_object_is_type(text, json_type_string))
        return bad(c, "messages", "a text block needs a text");
    translate_copy(translate_part(parts, "text"), "text", b, "text");
    return 0;
}

/* An image's source to the URL form. */
static int
add_image(struct api_call *c, struct json_object *parts, struct json_object *b)
{
    struct json_object *source = json_get(b, "source");
    struct str data = json_str(json_get(source, "data"));
    struct str media = json_str(json_get(source, "media_type"));
    struct json_object *url = json_object_new_object();
    struct buf text = {0};
    int rc = 0;

    json_object_object_add(translate_part(parts, "image_url"), "image_url",
                           url);
    if (translate_is(json_get(source, "type"), "url")) {
        translate_copy(url, "url", source, "url");
        return 0;
    }
    if (!translate_is(json_get(source, "type"), "base64") || data.p == NULL)
        return bad(c, "messages", "an image needs a source of type base64 or "
                   "url");
    rc = buf_puts(&text, "data:");
    rc = rc ? rc : buf_append(&text, media.p, media.n);
    rc = rc ? rc : buf_puts(&text, ";base64,");
    rc = rc ? rc : buf_append(&text, data.p, data.n);
    if (rc == 0)
        translate_set(url, "url", (struct str){text.data, text.len});
    buf_free(&text);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

/* A block of a system prompt, a user or a tool result. */
static int
add_block(struct api_call *c, struct json_object *parts, struct json_object *b)
{
    struct json_object *type = json_get(b, "type");
    struct json_object *source = json_get(b, "source");

    if (translate_is(type, "text"))
        return add_text(c, parts, b);
    if (translate_is(type, "image"))
        return add_image(c, parts, b);
    if (translate_is(type, "document")
        && translate_is(json_get(source, "type"), "text")) {
        translate_copy(translate_part(parts, "text"), "text", source, "data");
        return 0;
    }
    return call_fail(c, 400, "messages", "messages: a block of type '%.40s' "
                     "is not supported here",
                     json_str(type).p ? json_str(type).p : "");
}

/* A string or blocks, as a string or parts at content. */
static int
set_content(struct api_call *c, struct json_object *m, struct json_object *o)
{
    struct json_object *parts;

    if (o == NULL || json_object_is_type(o, json_type_string)) {
        json_object_object_add(m, "content", json_object_get(o));
        return 0;
    }
    if (!json_object_is_type(o, json_type_array))
        return bad(c, "messages", "content must be a string or an array");
    parts = json_object_new_array();
    json_object_object_add(m, "content", parts);
    for (size_t i = 0; i < json_object_array_length(o); i++)
        if (add_block(c, parts, json_object_array_get_idx(o, i)) != 0)
            return -1;
    return 0;
}

/* --- turns ------------------------------------------------------------------------ */

static int
add_result(struct api_call *c, struct json_object *list, struct json_object *b)
{
    struct json_object *m = translate_message(list, "tool");

    translate_copy(m, "tool_call_id", b, "tool_use_id");
    if (json_get(b, "content") == NULL) {
        translate_set(m, "content", STR(""));
        return 0;
    }
    return set_content(c, m, json_get(b, "content"));
}

static int
add_user(struct api_call *c, struct json_object *list, struct json_object *o)
{
    struct json_object *parts = NULL;

    if (!json_object_is_type(o, json_type_array))
        return set_content(c, translate_message(list, "user"), o);
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        struct json_object *b = json_object_array_get_idx(o, i);
        if (translate_is(json_get(b, "type"), "tool_result")
            && add_result(c, list, b) != 0)
            return -1;
    }
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        struct json_object *b = json_object_array_get_idx(o, i);
        if (translate_is(json_get(b, "type"), "tool_result"))
            continue;
        if (parts == NULL) {
            parts = json_object_new_array();
            json_object_object_add(translate_message(list, "user"), "content",
                                   parts);
        }
        if (add_block(c, parts, b) != 0)
            return -1;
    }
    return 0;
}

static void
add_call(struct json_object *m, struct json_object *b)
{
    struct json_object *calls = json_get(m, "tool_calls");

    if (calls == NULL) {
        calls = json_object_new_array();
        json_object_object_add(m, "tool_calls", calls);
    }
    struct json_object *call = translate_part(calls, "function");
    struct json_object *f = json_object_new_object();
    translate_copy(call, "id", b, "id");
    json_object_object_add(call, "function", f);
    translate_copy(f, "name", b, "name");
    translate_copy(f, "arguments", b, "input");
}

static int
add_assistant(struct api_call *c, struct json_object *list,
              struct json_object *o)
{
    struct json_object *m = translate_message(list, "assistant");

    if (!json_object_is_type(o, json_type_array))
        return set_content(c, m, o);
    struct json_object *parts = json_object_new_array();
    json_object_object_add(m, "content", parts);
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        struct json_object *b = json_object_array_get_idx(o, i);
        struct json_object *type = json_get(b, "type");
        if (translate_is(type, "tool_use"))
            add_call(m, b);
        else if (translate_is(type, "thinking"))
            translate_copy(translate_part(parts, "thinking"), "thinking", b,
                           "thinking");
        else if (!translate_is(type, "redacted_thinking")
                 && add_block(c, parts, b) != 0)
            return -1;
    }
    return 0;
}

static int
add_messages(struct api_call *c, struct json_object *to)
{
    struct json_object *from = json_get(c->body, "messages");
    struct json_object *system = json_get(c->body, "system");
    struct json_object *list = json_object_new_array();
    int rc = 0;

    json_object_object_add(to, "messages", list);
    if (!json_object_is_type(from, json_type_array))
        return field_type_error(c, "messages", "an array");
    if (system)
        rc = set_content(c, translate_message(list, "system"), system);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(from); i++) {
        struct json_object *m = json_object_array_get_idx(from, i);
        struct json_object *role = json_get(m, "role");
        struct json_object *content = json_get(m, "content");
        if (translate_is(role, "user"))
            rc = add_user(c, list, content);
        else if (translate_is(role, "assistant"))
            rc = add_assistant(c, list, content);
        else if (translate_is(role, "system"))
            rc = set_content(c, translate_message(list, "system"), content);
        else
            rc = bad(c, "messages", "role must be user, assistant or system");
    }
    return rc;
}

/* --- tools, thinking, the rest ----------------------------------------------------- */

static int
add_tools(struct api_call *c, struct json_object *to)
{
    struct json_object *from = json_get(c->body, "tools");

    if (from == NULL)
        return 0;
    if (!json_object_is_type(from, json_type_array))
        return field_type_error(c, "tools", "an array");
    struct json_object *tools = json_object_new_array();
    json_object_object_add(to, "tools", tools);
    for (size_t i = 0; i < json_object_array_length(from); i++) {
        struct json_object *t = json_object_array_get_idx(from, i);
        struct json_object *type = json_get(t, "type");
        struct json_object *schema = json_get(t, "input_schema");
        if (type && !translate_is(type, "custom"))
            return bad(c, "tools", "only custom tools are supported");
        if (json_object_is_type(schema, json_type_object)
            && !json_get(schema, "type"))
            translate_set(schema, "type", STR("object"));
        translate_tool(tools, json_get(t, "name"), json_get(t, "description"),
                       schema, json_get(t, "strict"));
    }
    return 0;
}

static int
add_choice(struct api_call *c, struct json_object *to)
{
    struct json_object *o = json_get(c->body, "tool_choice");
    struct json_object *type = json_get(o, "type");
    bool single = false;

    if (o == NULL)
        return 0;
    if (field_bool(c, o, "tool_choice.disable_parallel_tool_use",
                   &single) != 0)
        return -1;
    if (single)
        json_object_object_add(to, "parallel_tool_calls",
                               json_object_new_boolean(0));
    if (translate_is(type, "tool")) {
        struct json_object *named = json_object_new_object();
        struct json_object *f = json_object_new_object();
        json_object_object_add(to, "tool_choice", named);
        translate_set(named, "type", STR("function"));
        json_object_object_add(named, "function", f);
        translate_copy(f, "name", o, "name");
    } else if (translate_is(type, "any")) {
        translate_set(to, "tool_choice", STR("required"));
    } else if (translate_is(type, "auto") && json_get(to, "tools") == NULL) {
        return 0; /* nothing to choose from */
    } else if (translate_is(type, "auto") || translate_is(type, "none")) {
        translate_copy(to, "tool_choice", o, "type");
    } else {
        return bad(c, "tool_choice", "type must be auto, any, tool or none");
    }
    return 0;
}

static int
add_thinking(struct api_call *c, struct json_object *to)
{
    struct json_object *o = json_get(c->body, "thinking");
    struct json_object *type = json_get(o, "type");
    int64_t budget = FIELD_NONE;

    translate_copy(to, "reasoning_effort", json_get(c->body, "output_config"),
                   "effort");
    if (o == NULL)
        return 0;
    if (translate_is(type, "disabled")) {
        translate_set(to, "reasoning_effort", STR("none"));
        return 0;
    }
    if (!translate_is(type, "enabled") && !translate_is(type, "adaptive"))
        return bad(c, "thinking", "type must be enabled, adaptive or "
                   "disabled");
    if (field_int(c, o, "thinking.budget_tokens", 1, INT32_MAX, &budget) != 0)
        return -1;
    if (json_get(to, "reasoning_effort") == NULL)
        translate_set(to, "reasoning_effort", STR("high"));
    if (budget != FIELD_NONE)
        translate_copy(to, "thinking_token_budget", o, "budget_tokens");
    return 0;
}

int
translate_messages(struct api_call *c, bool need_limit)
{
    static const char *const same[][2] = {
        {"model", "model"}, {"max_tokens", "max_tokens"},
        {"stream", "stream"}, {"temperature", "temperature"},
        {"top_p", "top_p"}, {"top_k", "top_k"}, {"stop_sequences", "stop"},
        {"seed", "seed"}, {"priority", "priority"},
        {"cache_salt", "cache_salt"},
    };
    static const char *const names[][2] = {
        {"stop", "stop_sequences"},
        {"response_format", "output_config.format"},
        {"reasoning_effort", "output_config.effort"},
        {NULL, NULL},
    };
    struct json_object *to = translate_body(c);
    struct json_object *format =
        json_get(json_get(c->body, "output_config"), "format");

    if (format == NULL) /* where it stood before it left the beta */
        format = json_get(c->body, "output_format");
    c->names = names;

    if (to == NULL)
        return -1;
    if (need_limit && json_get(c->body, "max_tokens") == NULL)
        return call_fail(c, 400, "max_tokens", "max_tokens is required");
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        translate_copy(to, same[i][1], c->body, same[i][0]);
    if (format)
        json_object_object_add(to, "response_format", json_object_get(format));
    if (add_messages(c, to) != 0 || add_tools(c, to) != 0
        || add_choice(c, to) != 0 || add_thinking(c, to) != 0)
        return -1;
    c->body = to;
    return 0;
}
