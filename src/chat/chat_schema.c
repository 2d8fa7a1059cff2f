/*
 * Is a JSON value a JSON Schema of draft 7? The rules of the draft's
 * meta-schema, one row a keyword; keywords that the meta-schema does not know
 * are free, as there.
 *
 * Regular expressions: the reference compiles them with Python's re. Only what
 * Python is sure to refuse is refused here (brackets that do not pair, nothing
 * to repeat, unknown letter escapes), and only when strict: clients write
 * ECMA expressions, and nothing in a prompt depends on them.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "json/json.h"

struct check {
    bool strict;
    struct buf *path;
};

static const char *check_schema(struct check *c, struct json_object *o);

/* Runs fn on a member with its key in the path; the path keeps it on error. */
static const char *
within(struct check *c, const char *key, struct json_object *o,
       const char *(*fn)(struct check *c, struct json_object *o))
{
    size_t len = c->path->len;
    if (buf_printf(c->path, ".%.60s", key) != 0)
        return "out of memory";
    const char *why = fn(c, o);
    if (why == NULL)
        c->path->len = len;
    return why;
}

/* --- regular expressions ------------------------------------------------- */

struct regex {
    const char *p, *end;
    size_t depth;
    bool item;      /* something that a quantifier may follow */
};

static bool
regex_escape(struct regex *r, bool in_class)
{
    if (r->p == r->end)
        return false;
    char ch = *r->p++;
    if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z'))
        return strchr(in_class ? "dDsSwWabfnrtvxuUN" : "AbBdDsSwWZafnrtvxuUN",
                      ch) != NULL;
    return true;
}

static bool
regex_class(struct regex *r)
{
    if (r->p < r->end && *r->p == '^')
        r->p++;
    for (bool first = true; r->p < r->end; first = false) {
        char ch = *r->p++;
        if (ch == ']' && !first)
            return true;
        if (ch == '\\' && !regex_escape(r, true))
            return false;
    }
    return false;
}

/* A {n}, {n,}, {,m} or {n,m} behind the brace; anything else is text. */
static bool
regex_is_count(struct regex *r)
{
    const char *q = r->p, *digits = q;
    while (q < r->end && *q >= '0' && *q <= '9')
        q++;
    bool any = q > digits;
    if (q < r->end && *q == ',') {
        any = true;
        for (q++; q < r->end && *q >= '0' && *q <= '9'; )
            q++;
    }
    if (!any || q == r->end || *q != '}')
        return false;
    r->p = q + 1;
    return true;
}

static bool
regex_repeat(struct regex *r)
{
    if (!r->item)
        return false;
    if (r->p < r->end && (*r->p == '?' || *r->p == '+'))
        r->p++;
    r->item = false;
    return true;
}

static bool
regex_group(struct regex *r)
{
    r->depth++;
    if (r->p < r->end && *r->p == '?') {
        if (++r->p == r->end || strchr(":=!<P#(>aiLmsux-", *r->p) == NULL)
            return false;
        if (*r->p == '<' && (r->p + 1 == r->end
                             || (r->p[1] != '=' && r->p[1] != '!')))
            return false;
        r->p++;
    }
    r->item = false;
    return true;
}

static bool
regex_step(struct regex *r)
{
    char ch = *r->p++;

    switch (ch) {
    case '*': case '+': case '?':
        return regex_repeat(r);
    case '{':
        if (regex_is_count(r))
            return regex_repeat(r);
        break;
    case '(':
        return regex_group(r);
    case ')':
        if (r->depth-- == 0)
            return false;
        break;
    case '[':
        if (!regex_class(r))
            return false;
        break;
    case '\\':
        if (!regex_escape(r, false))
            return false;
        break;
    case '|': case '^': case '$':
        r->item = false;
        return true;
    }
    r->item = true;
    return true;
}

static const char *
check_regex(struct check *c, struct str s)
{
    struct regex r = {s.p, s.p + s.n, 0, false};

    if (!c->strict)
        return NULL;
    while (r.p < r.end)
        if (!regex_step(&r))
            return "not a regular expression";
    return r.depth == 0 ? NULL : "not a regular expression";
}

/* --- kinds of values ----------------------------------------------------- */

static const char *
want_any(struct check *c, struct json_object *o)
{
    (void)c;
    (void)o;
    return NULL;
}

static const char *
want_string(struct check *c, struct json_object *o)
{
    (void)c;
    return json_object_is_type(o, json_type_string) ? NULL
                                                    : "must be a string";
}

static const char *
want_regex(struct check *c, struct json_object *o)
{
    const char *why = want_string(c, o);
    return why ? why : check_regex(c, json_str(o));
}

static const char *
want_boolean(struct check *c, struct json_object *o)
{
    (void)c;
    return json_object_is_type(o, json_type_boolean) ? NULL
                                                     : "must be a boolean";
}

static bool
is_number(struct json_object *o)
{
    return json_object_is_type(o, json_type_int)
           || json_object_is_type(o, json_type_double);
}

static const char *
want_number(struct check *c, struct json_object *o)
{
    (void)c;
    return is_number(o) ? NULL : "must be a number";
}

static const char *
want_positive(struct check *c, struct json_object *o)
{
    (void)c;
    /* Not "<= 0": NaN, which Python's reader takes, passes its comparison. */
    return is_number(o) && !(json_object_get_double(o) <= 0)
               ? NULL : "must be a number above 0";
}

static const char *
want_count(struct check *c, struct json_object *o)
{
    (void)c;
    double x = is_number(o) ? json_object_get_double(o) : -1;
    bool whole = json_is_integer(o) || (isfinite(x) && x == floor(x));
    return whole && x >= 0 ? NULL : "must be a whole number, 0 or more";
}

static const char *
want_array(struct check *c, struct json_object *o)
{
    (void)c;
    return json_object_is_type(o, json_type_array) ? NULL : "must be a list";
}

/* A list of different strings. */
static const char *
want_strings(struct check *c, struct json_object *o)
{
    if (want_array(c, o))
        return "must be a list of strings";
    const char *why = NULL;
    size_t n = json_object_array_length(o);
    struct map *seen = map_create(n);
    if (seen == NULL)
        return "out of memory";
    for (size_t i = 0; i < n && why == NULL; i++) {
        struct json_object *item = json_object_array_get_idx(o, i);
        struct str s = json_str(item);
        bool was = false;
        if (!json_object_is_type(item, json_type_string))
            why = "must be a list of strings";
        else if (map_put(seen, s.p, s.n, 1, &was) != 0)
            why = "out of memory";
        else if (was)
            why = "names something twice";
    }
    map_free(seen);
    return why;
}

static bool
is_type_name(struct json_object *o)
{
    static const char *const names[] = {
        "array", "boolean", "integer", "null", "number", "object", "string"
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (str_eq(json_str(o), str_from(names[i])))
            return true;
    return false;
}

static const char *
want_type(struct check *c, struct json_object *o)
{
    if (json_object_is_type(o, json_type_string))
        return is_type_name(o) ? NULL : "is not a JSON type";
    if (want_array(c, o) || json_object_array_length(o) == 0)
        return "must be a JSON type or a list of them";
    for (size_t i = 0; i < json_object_array_length(o); i++)
        if (!is_type_name(json_object_array_get_idx(o, i)))
            return "must be a JSON type or a list of them";
    return want_strings(c, o);
}

static const char *
want_schemas(struct check *c, struct json_object *o)
{
    if (want_array(c, o) || json_object_array_length(o) == 0)
        return "must be a list of schemas";
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        char key[32];
        snprintf(key, sizeof(key), "%zu", i);
        const char *why = within(c, key, json_object_array_get_idx(o, i),
                                 check_schema);
        if (why != NULL)
            return why;
    }
    return NULL;
}

static const char *
want_items(struct check *c, struct json_object *o)
{
    return json_object_is_type(o, json_type_array) ? want_schemas(c, o)
                                                   : check_schema(c, o);
}

static const char *
want_dependency(struct check *c, struct json_object *o)
{
    return json_object_is_type(o, json_type_array) ? want_strings(c, o)
                                                   : check_schema(c, o);
}

static const char *
each_member(struct check *c, struct json_object *o,
            const char *(*fn)(struct check *c, struct json_object *o))
{
    if (!json_object_is_type(o, json_type_object))
        return "must be an object";
    json_object_object_foreach(o, key, value) {
        const char *why = within(c, key, value, fn);
        if (why != NULL)
            return why;
    }
    return NULL;
}

static const char *
want_members(struct check *c, struct json_object *o)
{
    return each_member(c, o, check_schema);
}

static const char *
want_pattern_members(struct check *c, struct json_object *o)
{
    const char *why = want_members(c, o);
    if (why != NULL)
        return why;
    json_object_object_foreach(o, key, value) {
        (void)value;
        if (check_regex(c, str_from(key)))
            return "has a key that is not a regular expression";
    }
    return NULL;
}

static const char *
want_dependencies(struct check *c, struct json_object *o)
{
    return each_member(c, o, want_dependency);
}

/* --- the meta-schema ----------------------------------------------------- */

static const struct keyword {
    const char *name;
    const char *(*fn)(struct check *c, struct json_object *o);
} keywords[] = {
    {"$comment", want_string},
    {"$id", want_string},
    {"$ref", want_string},
    {"$schema", want_string},
    {"additionalItems", check_schema},
    {"additionalProperties", check_schema},
    {"allOf", want_schemas},
    {"anyOf", want_schemas},
    {"const", want_any},
    {"contains", check_schema},
    {"contentEncoding", want_string},
    {"contentMediaType", want_string},
    {"default", want_any},
    {"definitions", want_members},
    {"dependencies", want_dependencies},
    {"description", want_string},
    {"else", check_schema},
    {"enum", want_array},
    {"examples", want_array},
    {"exclusiveMaximum", want_number},
    {"exclusiveMinimum", want_number},
    {"format", want_string},
    {"if", check_schema},
    {"items", want_items},
    {"maxItems", want_count},
    {"maxLength", want_count},
    {"maxProperties", want_count},
    {"maximum", want_number},
    {"minItems", want_count},
    {"minLength", want_count},
    {"minProperties", want_count},
    {"minimum", want_number},
    {"multipleOf", want_positive},
    {"not", check_schema},
    {"oneOf", want_schemas},
    {"pattern", want_regex},
    {"patternProperties", want_pattern_members},
    {"properties", want_members},
    {"propertyNames", check_schema},
    {"readOnly", want_boolean},
    {"required", want_strings},
    {"then", check_schema},
    {"title", want_string},
    {"type", want_type},
    {"uniqueItems", want_boolean},
};

static const char *
check_schema(struct check *c, struct json_object *o)
{
    if (json_object_is_type(o, json_type_boolean))
        return NULL;
    if (!json_object_is_type(o, json_type_object))
        return "must be a schema: an object or a boolean";
    json_object_object_foreach(o, key, value) {
        if (value == NULL && !c->strict)
            continue;
        for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++) {
            if (strcmp(key, keywords[i].name) != 0)
                continue;
            const char *why = within(c, key, value, keywords[i].fn);
            if (why != NULL)
                return why;
        }
    }
    return NULL;
}

const char *
chat_schema_check(struct json_object *schema, bool strict, struct buf *path)
{
    struct check c = {strict, path};
    return check_schema(&c, schema);
}
