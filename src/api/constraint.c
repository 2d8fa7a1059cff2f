/*
 * DESIGN. A request names at most one form for its answer, under one of
 * several names; read_body finds it. Tools add calls: their names and
 * arguments are held to the tools when a call is forced or a tool is strict,
 * and to any JSON object otherwise. One grammar covers the whole output, the
 * thought before it included; it is compiled here, before anything is queued,
 * so what cannot be compiled is a plain 400.
 */
#include "config.h"

#include "api/constraint.h"

#include <stdlib.h>
#include <string.h>

#include "json/json.h"

#define SCHEMA_DEPTH 64

/* The form of the answer, and the field that asks for it. */
struct form {
    const char *param;
    struct grammar_spec *spec;
};

static int
take(struct api_call *c, struct form *f, const char *param,
     enum grammar_kind kind, struct str text)
{
    if (f->param)
        return call_fail(c, 400, param, "%s and %s cannot be used together",
                         f->param, param);
    f->param = param;
    f->spec->has_body = true;
    f->spec->kind = kind;
    f->spec->text = text;
    return 0;
}

/* JSON text of o in the arena. */
static int
text_of(struct api_call *c, struct json_object *o, struct str *out)
{
    struct buf b = {0};
    int rc = json_dump(&b, o);

    if (rc == 0) {
        out->p = arena_strndup(c->arena, b.data, b.len);
        out->n = b.len;
        rc = out->p ? 0 : ERR_NOMEM;
    }
    buf_free(&b);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

/* A schema: an object or boolean, or the JSON text of one. */
static int
take_schema(struct api_call *c, struct form *f, const char *param,
            struct json_object *o)
{
    struct str text = json_str(o);

    if (json_object_is_type(o, json_type_string)) {
        struct json_object *parsed = NULL;
        struct err e = {0};
        if (json_parse(text.p, text.n, SCHEMA_DEPTH, JSON_BOUNDED, &parsed,
                       &e) != 0)
            return call_fail(c, 400, param, "%s is not JSON: %s", param,
                             e.text);
        json_object_put(parsed);
        return take(c, f, param, GRAMMAR_SCHEMA, text);
    }
    if (!json_object_is_type(o, json_type_object)
        && !json_object_is_type(o, json_type_boolean))
        return field_type_error(c, param, "a JSON schema");
    if (text_of(c, o, &text) != 0)
        return -1;
    return take(c, f, param, GRAMMAR_SCHEMA, text);
}

static int
take_text(struct api_call *c, struct form *f, const char *param,
          enum grammar_kind kind, struct json_object *o)
{
    struct str text = json_str(o);

    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, param, "a string");
    if (text.n == 0)
        return call_fail(c, 400, param, "%s must not be empty", param);
    if (memchr(text.p, '\0', text.n))
        return call_fail(c, 400, param, "%s must not hold NUL", param);
    return take(c, f, param, kind, text);
}

static int
take_choice(struct api_call *c, struct form *f, const char *param,
            struct json_object *o)
{
    struct str text;
    size_t n = json_object_is_type(o, json_type_array)
                   ? json_object_array_length(o) : 0;

    if (n == 0)
        return call_fail(c, 400, param, "%s must be an array of strings that "
                         "is not empty", param);
    for (size_t i = 0; i < n; i++)
        if (!json_object_is_type(json_object_array_get_idx(o, i),
                                 json_type_string))
            return field_type_error(c, param, "an array of strings");
    if (text_of(c, o, &text) != 0)
        return -1;
    return take(c, f, param, GRAMMAR_CHOICE, text);
}

/* --- the fields --------------------------------------------------------------------- */

static int
read_format(struct api_call *c, struct form *f)
{
    static const char param[] = "response_format";
    struct json_object *o = json_get(c->body, param);
    struct str type = json_str(json_get(o, "type"));
    struct json_object *named = json_get(o, "json_schema");
    struct json_object *schema = json_get(named, "schema");

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_object))
        return field_type_error(c, param, "an object");
    if (str_eq(type, STR("text")))
        return 0;
    if (str_eq(type, STR("json_object")))
        return take(c, f, param, GRAMMAR_OBJECT, (struct str){NULL, 0});
    if (str_eq(type, STR("structural_tag")))
        return call_fail(c, 400, param, "structural_tag is not supported");
    if (!str_eq(type, STR("json_schema")))
        return call_fail(c, 400, param, "response_format.type must be text, "
                         "json_object or json_schema");
    if (schema == NULL) /* as some clients send it */
        schema = json_get(o, "schema");
    if (schema == NULL)
        return call_fail(c, 400, param, "response_format needs json_schema "
                         "with a schema");
    return take_schema(c, f, param, schema);
}

/* Last part of a path; NULL of NULL. */
static const char *
last(const char *path)
{
    const char *dot = path ? strrchr(path, '.') : NULL;
    return dot ? dot + 1 : path;
}

/* Members of structured_outputs, by path, and the older top-level names of the
 * same. */
static int
read_members(struct api_call *c, struct form *f, struct json_object *o,
             const char *const name[5])
{
    struct json_object *json = json_get(o, last(name[0]));
    struct json_object *regex = json_get(o, last(name[1]));
    struct json_object *choice = name[2] ? json_get(o, last(name[2])) : NULL;
    struct json_object *grammar = json_get(o, last(name[3]));
    struct json_object *object = name[4] ? json_get(o, last(name[4])) : NULL;

    if (json && take_schema(c, f, name[0], json) != 0)
        return -1;
    if (regex && take_text(c, f, name[1], GRAMMAR_REGEX, regex) != 0)
        return -1;
    if (choice && take_choice(c, f, name[2], choice) != 0)
        return -1;
    if (grammar && take_text(c, f, name[3], GRAMMAR_EBNF, grammar) != 0)
        return -1;
    if (object == NULL)
        return 0;
    if (!json_object_is_type(object, json_type_boolean)
        || !json_object_get_boolean(object))
        return call_fail(c, 400, name[4], "%s must be true", name[4]);
    return take(c, f, name[4], GRAMMAR_OBJECT, (struct str){NULL, 0});
}

static int
read_structured(struct api_call *c, struct form *f)
{
#define AT(member) "structured_outputs." member
    static const char *const member[] = {AT("json"), AT("regex"), AT("choice"),
                                         AT("grammar"), AT("json_object")};
    static const char param[] = "structured_outputs";
    struct json_object *o = json_get(c->body, param);
    bool compact = false, closed = false;

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_object))
        return field_type_error(c, param, "an object");
    if (json_get(o, "structural_tag") || json_get(o, "whitespace_pattern"))
        return call_fail(c, 400, param, "structural_tag and "
                         "whitespace_pattern are not supported");
    if (field_bool(c, o, AT("disable_any_whitespace"), &compact) != 0
        || field_bool(c, o, AT("disable_additional_properties"), &closed) != 0
        || read_members(c, f, o, member) != 0)
        return -1;
    if (closed)
        return call_fail(c, 400, param, "disable_additional_properties is not "
                         "supported; say additionalProperties in the schema");
    if (f->param == NULL)
        return call_fail(c, 400, param, "structured_outputs needs one of "
                         "json, regex, choice, grammar and json_object");
#undef AT
    f->spec->compact = compact;
    return 0;
}

static int
read_body(struct api_call *c, struct form *f)
{
    static const char *const guided[] = {"guided_json", "guided_regex",
                                         "guided_choice", "guided_grammar",
                                         "guided_json_object"};
    static const char *const plain[] = {"json_schema", "regex", NULL, "ebnf",
                                        NULL};

    if (read_format(c, f) != 0 || read_structured(c, f) != 0
        || read_members(c, f, c->body, guided) != 0)
        return -1;
    return read_members(c, f, c->body, plain);
}

/* --- tools ---------------------------------------------------------------------------- */

static int
add_tools(struct api_call *c, const struct chat_job *j,
          struct grammar_spec *s)
{
    const struct chat_request *q = &j->req;
    bool forced = q->choice == CHAT_CHOICE_REQUIRED
                  || q->choice == CHAT_CHOICE_NAMED;
    struct grammar_tool *tool =
        arena_calloc(c->arena, q->n_tool, sizeof *tool);

    if (tool == NULL)
        return call_fail(c, 503, NULL, "out of memory");
    s->tool = tool;
    for (size_t i = 0; i < q->n_tool; i++) {
        const struct chat_tool *t = &q->tool[i];
        if (q->choice == CHAT_CHOICE_NAMED && !str_eq(t->name, q->choice_name))
            continue;
        tool[s->n_tool].name = t->name;
        if ((forced || t->strict) && t->parameters
            && text_of(c, t->parameters, &tool[s->n_tool].schema) != 0)
            return -1;
        s->n_tool++;
    }
    s->calls = true;
    s->must_call = forced;
    s->one_call = !j->f.parallel_tool_calls || q->choice == CHAT_CHOICE_NAMED;
    s->content = !forced && !s->has_body;
    return 0;
}

/* --- compiling ------------------------------------------------------------------------- */

static void
drop_grammar(void *arg)
{
    grammar_unref(arg);
}

/* The first mask, for whether a step's budget suffices for one: found by the
 * engine it would be a 500. The engine finds it made. */
static int
first_mask(struct api_call *c, struct grammar *g)
{
    int n_vocab = tok_info(c->api->parts.tok)->n_vocab;
    uint32_t *mask = calloc(((size_t)n_vocab + 31) / 32, sizeof *mask);
    struct grammar_matcher *m = NULL;

    int rc = mask ? grammar_matcher_create(g, &m) : ERR_NOMEM;
    if (rc == 0) {
        rc = grammar_mask(m, mask);
        grammar_matcher_free(m);
    }
    free(mask);
    return rc;
}

static int
compile(struct api_call *c, const struct grammar_spec *s, const char *param,
        struct grammar **out)
{
    struct err e = {0};

    if (c->api->parts.vocab == NULL)
        return call_fail(c, 501, param, "structured output is not available");
    int rc = grammar_compile(c->api->parts.vocab, s, out, &e);
    if (rc == ERR_NOMEM)
        return call_fail(c, 503, NULL, "out of memory");
    if (rc != 0)
        return call_fail(c, 400, param, "%s: %s", param,
                         *e.text ? e.text : err_str(rc));
    if (arena_cleanup(c->arena, drop_grammar, *out) != 0) {
        grammar_unref(*out);
        return call_fail(c, 503, NULL, "out of memory");
    }
    rc = first_mask(c, *out);
    if (rc == ERR_LIMIT)
        return call_fail(c, 400, param, "%s: too complex: its beginning takes "
                         "more than one step may", param);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

/* allowed_token_ids leaves hardly any form a way to its end. */
static int
check_lists(struct api_call *c, const struct fields *f, const char *param)
{
    if (f->n_allowed == 0)
        return 0;
    return call_fail(c, 400, "allowed_token_ids", "allowed_token_ids and %s "
                     "cannot be used together", param);
}

int
constraint_chat(struct api_call *c, const struct chat_job *j,
                struct grammar **out)
{
    struct grammar_spec s = {0};
    struct form f = {NULL, &s};
    bool tools = j->req.n_tool > 0 && j->req.choice != CHAT_CHOICE_NONE;
    bool strict = false;

    *out = NULL;
    if (read_body(c, &f) != 0)
        return -1;
    for (size_t i = 0; i < j->req.n_tool; i++)
        strict |= j->req.tool[i].strict;
    /* What keeps an output from ending, or from some tokens, may leave a
     * grammar no way to go on; where it is only a help, it stays out. */
    bool apart = j->f.ignore_eos || j->f.min_tokens > 0 || j->f.n_allowed > 0
                 || j->f.n_bad > 0;
    bool hold = tools && ((c->conf->tool_grammar && !apart) || strict
                          || f.param || j->req.choice != CHAT_CHOICE_AUTO);
    if (f.param && tools && j->req.choice == CHAT_CHOICE_NAMED)
        return call_fail(c, 400, f.param, "%s and a named tool_choice cannot "
                         "be used together", f.param);
    if (f.param == NULL && (!hold || c->api->parts.vocab == NULL))
        return 0;
    if (check_lists(c, &j->f, f.param ? f.param : "tools") != 0)
        return -1;
    /* Where only a form is asked for, a thought that nobody asked for would
     * be an output without that form when it is cut. */
    s.thought = tok_special(c->api->parts.tok, "[THINK]") >= 0
                && (f.param ? str_eq(j->effort.value, STR("high"))
                            : !str_eq(j->effort.value, STR("none")));
    s.in_thought = j->prompt.inside_thought;
    if (tools && add_tools(c, j, &s) != 0)
        return -1;
    return compile(c, &s, f.param ? f.param : "tools", out);
}

int
constraint_text(struct api_call *c, const struct fields *fields,
                struct grammar **out)
{
    struct grammar_spec s = {0};
    struct form f = {NULL, &s};

    *out = NULL;
    if (read_body(c, &f) != 0)
        return -1;
    if (f.param == NULL)
        return 0;
    if (check_lists(c, fields, f.param) != 0)
        return -1;
    return compile(c, &s, f.param, out);
}
