/*
 * A responses body to a chat completions body.
 *
 * DESIGN. Only what needs no memory of earlier requests: each item of `input`
 * becomes a message, and what a reply's items were made from can be sent back
 * (reasoning, message, function_call, function_call_output). The chat encoder
 * joins an assistant's items to one turn.
 */
#include "config.h"

#include "api/translate.h"

#include "api/fields.h"
#include "json/json.h"

static int
bad(struct api_call *c, const char *param, const char *what)
{
    return call_fail(c, 400, param, "%s: %s", param, what);
}

/* --- input ------------------------------------------------------------------------- */

static int
add_call(struct json_object *list, struct json_object *o)
{
    struct json_object *m = translate_message(list, "assistant");
    struct json_object *calls = json_object_new_array();
    struct json_object *call = translate_part(calls, "function");
    struct json_object *f = json_object_new_object();

    json_object_object_add(m, "tool_calls", calls);
    translate_copy(call, "id", o, "call_id");
    json_object_object_add(call, "function", f);
    translate_copy(f, "name", o, "name");
    translate_copy(f, "arguments", o, "arguments");
    return 0;
}

static int
add_output(struct json_object *list, struct json_object *o)
{
    struct json_object *m = translate_message(list, "tool");

    translate_copy(m, "tool_call_id", o, "call_id");
    translate_copy(m, "content", o, "output");
    return 0;
}

/* Text parts of an array, joined. */
static int
join_parts(struct json_object *list, struct buf *out)
{
    int rc = 0;

    if (!json_object_is_type(list, json_type_array))
        return 0;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct str s = json_str(json_get(json_object_array_get_idx(list, i),
                                         "text"));
        rc = buf_append(out, s.p, s.n);
    }
    return rc;
}

/* A thought: its content, or the summary where that is all there is. */
static int
add_reasoning(struct api_call *c, struct json_object *list,
              struct json_object *o)
{
    struct buf text = {0};

    int rc = join_parts(json_get(o, "content"), &text);
    if (rc == 0 && text.len == 0)
        rc = join_parts(json_get(o, "summary"), &text);
    if (rc == 0 && text.len > 0)
        translate_set(translate_message(list, "assistant"), "reasoning",
                      (struct str){text.data, text.len});
    buf_free(&text);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

static int
add_item(struct api_call *c, struct json_object *list, struct json_object *o)
{
    struct json_object *type = json_get(o, "type");

    if (json_get(o, "role") && (type == NULL || translate_is(type, "message"))) {
        json_object_array_add(list, json_object_get(o));
        return 0;
    }
    if (translate_is(type, "function_call"))
        return add_call(list, o);
    if (translate_is(type, "function_call_output"))
        return add_output(list, o);
    if (translate_is(type, "reasoning"))
        return add_reasoning(c, list, o);
    return call_fail(c, 400, "input", "input: an item of type '%.40s' is not "
                     "supported", json_str(type).p ? json_str(type).p : "");
}

static int
add_input(struct api_call *c, struct json_object *to)
{
    struct json_object *input = json_get(c->body, "input");
    struct json_object *list = json_object_new_array();
    struct str text = {NULL, 0};

    json_object_object_add(to, "messages", list);
    if (field_str(c, c->body, "instructions", &text) != 0)
        return -1;
    if (text.p)
        translate_set(translate_message(list, "system"), "content", text);
    if (json_object_is_type(input, json_type_string)) {
        translate_set(translate_message(list, "user"), "content",
                      json_str(input));
        return 0;
    }
    if (!json_object_is_type(input, json_type_array))
        return field_type_error(c, "input", "a string or an array of items");
    for (size_t i = 0; i < json_object_array_length(input); i++)
        if (add_item(c, list, json_object_array_get_idx(input, i)) != 0)
            return -1;
    return 0;
}

/* --- tools, format -------------------------------------------------------------------- */

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
        if (!translate_is(json_get(t, "type"), "function"))
            return bad(c, "tools", "only tools of type function are "
                       "supported");
        translate_tool(tools, json_get(t, "name"), json_get(t, "description"),
                       json_get(t, "parameters"), json_get(t, "strict"));
    }
    return 0;
}

static void
add_choice(struct json_object *to, struct json_object *o)
{
    if (translate_is(json_get(o, "type"), "function")) {
        struct json_object *named = json_object_new_object();
        struct json_object *f = json_object_new_object();
        translate_set(named, "type", STR("function"));
        json_object_object_add(named, "function", f);
        translate_copy(f, "name", o, "name");
        json_object_object_add(to, "tool_choice", named);
    } else if (o && (json_get(to, "tools") || !translate_is(o, "auto"))) {
        json_object_object_add(to, "tool_choice", json_object_get(o));
    }
}

/* text.format is flat where response_format nests. */
static int
add_format(struct api_call *c, struct json_object *to)
{
    struct json_object *text = json_get(c->body, "text");
    struct json_object *format = json_get(text, "format");

    if (text && !json_object_is_type(text, json_type_object))
        return field_type_error(c, "text", "an object");
    if (format == NULL)
        return 0;
    if (translate_is(json_get(format, "type"), "json_schema")) {
        struct json_object *o = json_object_new_object();
        translate_set(o, "type", STR("json_schema"));
        json_object_object_add(o, "json_schema", json_object_get(format));
        json_object_object_add(to, "response_format", o);
    } else {
        json_object_object_add(to, "response_format", json_object_get(format));
    }
    return 0;
}

static int
check_state(struct api_call *c)
{
    bool background = false;

    if (field_bool(c, c->body, "background", &background) != 0)
        return -1;
    if (background)
        return bad(c, "background", "responses are not kept, so none can run "
                   "in the background");
    if (json_get(c->body, "previous_response_id"))
        return bad(c, "previous_response_id", "responses are not kept; send "
                   "the whole conversation as input");
    if (json_get(c->body, "conversation"))
        return bad(c, "conversation", "conversations are not kept; send the "
                   "whole conversation as input");
    if (json_get(c->body, "prompt"))
        return bad(c, "prompt", "prompt templates are not supported");
    return 0;
}

int
translate_responses(struct api_call *c)
{
    static const char *const same[][2] = {
        {"model", "model"}, {"max_output_tokens", "max_completion_tokens"},
        {"stream", "stream"}, {"temperature", "temperature"},
        {"top_p", "top_p"}, {"top_k", "top_k"}, {"reasoning", "reasoning"},
        {"parallel_tool_calls", "parallel_tool_calls"}, {"seed", "seed"},
        {"priority", "priority"}, {"cache_salt", "cache_salt"},
        {"stop", "stop"}, {"request_id", "request_id"},
        {"include_reasoning", "include_reasoning"},
        {"thinking_token_budget", "thinking_token_budget"},
    };
    static const char *const names[][2] = {
        {"max_completion_tokens", "max_output_tokens"},
        {"response_format", "text.format"}, {"messages", "input"},
        {NULL, NULL},
    };
    struct json_object *to = translate_body(c);

    c->names = names;
    if (to == NULL || check_state(c) != 0)
        return -1;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        translate_copy(to, same[i][1], c->body, same[i][0]);
    if (add_input(c, to) != 0 || add_tools(c, to) != 0
        || add_format(c, to) != 0)
        return -1;
    add_choice(to, json_get(c->body, "tool_choice"));
    c->body = to;
    return 0;
}
