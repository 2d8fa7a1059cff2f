#include "config.h"

#include "api/translate.h"

#include "json/json.h"

static void
put_tree(void *arg)
{
    json_object_put(arg);
}

struct json_object *
translate_body(struct api_call *c)
{
    struct json_object *o = json_object_new_object();

    if (o && arena_cleanup(c->arena, put_tree, o) == 0)
        return o;
    json_object_put(o);
    call_fail(c, 503, NULL, "out of memory");
    return NULL;
}

void
translate_copy(struct json_object *to, const char *name,
               struct json_object *from, const char *key)
{
    struct json_object *v = json_get(from, key);

    if (v)
        json_object_object_add(to, name, json_object_get(v));
}

void
translate_set(struct json_object *to, const char *key, struct str text)
{
    json_object_object_add(to, key,
                           json_object_new_string_len(text.p ? text.p : "",
                                                      (int)text.n));
}

struct json_object *
translate_message(struct json_object *list, const char *role)
{
    struct json_object *m = json_object_new_object();

    translate_set(m, "role", str_from(role));
    json_object_array_add(list, m);
    return m;
}

struct json_object *
translate_part(struct json_object *list, const char *type)
{
    struct json_object *p = json_object_new_object();

    translate_set(p, "type", str_from(type));
    json_object_array_add(list, p);
    return p;
}

void
translate_tool(struct json_object *tools, struct json_object *name,
               struct json_object *description, struct json_object *parameters,
               struct json_object *strict)
{
    struct json_object *tool = translate_part(tools, "function");
    struct json_object *f = json_object_new_object();

    json_object_object_add(tool, "function", f);
    json_object_object_add(f, "name", json_object_get(name));
    if (description)
        json_object_object_add(f, "description", json_object_get(description));
    if (parameters)
        json_object_object_add(f, "parameters", json_object_get(parameters));
    if (strict)
        json_object_object_add(f, "strict", json_object_get(strict));
}

bool
translate_is(struct json_object *o, const char *text)
{
    return o && str_eq(json_str(o), str_from(text));
}
