/* The tools a request offers and which of them the model must call. */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>

#include "json/json.h"

static int
bad_tool(struct chat_reader *r, size_t i, const char *key, const char *text)
{
    return chat_fail(r->a, r->ce, ERR_FORMAT, text, "tools.%zu.%s", i, key);
}

/* Absent, or the string "function". */
static bool
is_function(struct json_object *o)
{
    struct json_object *type;
    if (!json_object_object_get_ex(o, "type", &type))
        return true;
    return str_eq(json_str(type), STR("function"));
}

static int
check_parameters(struct chat_reader *r, size_t i, struct json_object *schema)
{
    struct buf path = {0};

    const char *why = chat_schema_check(schema, r->strict, &path);
    if (why == NULL) {
        buf_free(&path);
        return 0;
    }
    const char *at = buf_cstr(&path);
    int rc = chat_fail(r->a, r->ce, ERR_RANGE, why,
                       "tools.%zu.function.parameters%s", i, at ? at : "");
    buf_free(&path);
    return rc;
}

static int
read_function(struct chat_reader *r, size_t i, struct json_object *f,
              struct chat_tool *t)
{
    struct json_object *name = json_get(f, "name");
    struct json_object *description = json_get(f, "description");
    struct json_object *strict = json_get(f, "strict");

    if (!json_object_is_type(name, json_type_string))
        return bad_tool(r, i, "function.name", "a function needs a name");
    t->name = json_str(name);
    if (!chat_name_valid(t->name, r->strict))
        return chat_fail(r->a, r->ce, ERR_RANGE, "a function name must be 1 "
                         "to 64 of a-z, A-Z, 0-9, underscore and dash",
                         "tools.%zu.function.name", i);
    if (description && !json_object_is_type(description, json_type_string))
        return bad_tool(r, i, "function.description",
                        "description must be a string");
    t->description = json_str(description);
    if (strict && !chat_read_bool(strict, &t->strict))
        return bad_tool(r, i, "function.strict", "strict must be a boolean");
    t->parameters = json_get(f, "parameters");
    if (t->parameters == NULL)
        return 0;
    if (!json_object_is_type(t->parameters, json_type_object))
        return bad_tool(r, i, "function.parameters",
                        "parameters must be a JSON Schema object");
    return check_parameters(r, i, t->parameters);
}

static int
read_tools(struct chat_reader *r, struct json_object *list,
           struct chat_request *req)
{
    if (list == NULL)
        return 0;
    if (!json_object_is_type(list, json_type_array))
        return chat_failf(r->ce, ERR_FORMAT, "tools", "tools must be a list");
    size_t n = json_object_array_length(list);
    req->tool = arena_calloc(r->a, n + 1, sizeof(*req->tool));
    if (req->tool == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        struct json_object *f = json_get(o, "function");
        if (!json_object_is_type(o, json_type_object) || !is_function(o))
            return bad_tool(r, i, "type", "only tools of the type function "
                            "are supported");
        if (!json_object_is_type(f, json_type_object))
            return bad_tool(r, i, "function", "a tool needs a function");
        int rc = read_function(r, i, f, &req->tool[i]);
        if (rc != 0)
            return rc;
        req->n_tool++;
    }
    return 0;
}

static int
bad_choice(struct chat_reader *r, const char *text)
{
    return chat_failf(r->ce, ERR_FORMAT, "tool_choice", "%s", text);
}

static int
read_choice(struct chat_reader *r, struct json_object *o,
            struct chat_request *req)
{
    static const struct {
        const char *word;
        enum chat_tool_choice choice;
    } words[] = {
        {"auto", CHAT_CHOICE_AUTO},
        {"none", CHAT_CHOICE_NONE},
        {"required", CHAT_CHOICE_REQUIRED},
        {"any", CHAT_CHOICE_REQUIRED},
    };

    if (json_object_is_type(o, json_type_object)) {
        struct json_object *name = json_get(json_get(o, "function"), "name");
        if (!r->strict && name == NULL)
            name = json_get(o, "name"); /* the Responses shape */
        if (!is_function(o) || !json_object_is_type(name, json_type_string))
            return bad_choice(r, "tool_choice must name a function: {\"type\":"
                              " \"function\", \"function\": {\"name\": ..}}");
        req->choice = CHAT_CHOICE_NAMED;
        req->choice_name = json_str(name);
        return 0;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (str_eq(json_str(o), str_from(words[i].word))) {
            req->choice = words[i].choice;
            return 0;
        }
    return bad_choice(r, "tool_choice must be none, auto, required or an "
                      "object that names a function");
}

/* The reference leaves this to the grammar; a server should say it at once. */
static int
check_choice(struct chat_reader *r, const struct chat_request *req)
{
    if (req->choice == CHAT_CHOICE_REQUIRED && req->n_tool == 0)
        return chat_failf(r->ce, ERR_RANGE, "tool_choice", "tool_choice is "
                          "required but there are no tools");
    if (req->choice != CHAT_CHOICE_NAMED)
        return 0;
    for (size_t i = 0; i < req->n_tool; i++)
        if (str_eq(req->tool[i].name, req->choice_name))
            return 0;
    return chat_failf(r->ce, ERR_RANGE, "tool_choice", "tool_choice names a "
                      "function that is not in tools");
}

int
chat_read_tools(struct chat_reader *r, struct json_object *body,
                struct chat_request *req)
{
    struct json_object *choice = NULL;

    int rc = read_tools(r, json_get(body, "tools"), req);
    if (rc != 0)
        return rc;
    bool given = json_object_object_get_ex(body, "tool_choice", &choice);
    req->choice = CHAT_CHOICE_AUTO;
    if (given && (choice || r->strict))
        rc = read_choice(r, choice, req);
    if (rc == 0 && !r->strict)
        rc = check_choice(r, req);
    return rc;
}
