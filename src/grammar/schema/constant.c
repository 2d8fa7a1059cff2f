/* const and enum. */
#include "config.h"

#include "grammar/schema/keyword.h"

#include <string.h>

#include "grammar/lang/decimal.h"
#include "json/json.h"

#define ENUM_MAX 20000

static bool
constant_number(struct alt_maker *m, struct json_object *x, const char *path,
                struct alt *y)
{
    struct rx_pool *p = m->pool.rx;
    struct str text = str_from(json_number_text(x));
    struct decimal d;

    if (!decimal_parse(text, &d))
        return schema_fail(m, ERR_UNSUPPORTED, path, NULL,
                           "has too many digits");
    y->value = decimal_equal(p, &d);
    /* Its own spelling, and that without a point if it is whole. */
    y->spell = rx_literal(p, text.p, text.n);
    if (d.n_part == 0) {
        rx_id whole = rx_literal(p, d.whole, d.n_whole);
        if (d.negative)
            whole = rx_cat(p, rx_byte(p, '-'), whole);
        y->spell = rx_or(p, y->spell, whole);
    } else {
        const rx_id v[4] = {d.negative ? rx_byte(p, '-') : RX_EMPTY,
                            rx_literal(p, d.whole, d.n_whole),
                            rx_byte(p, '.'),
                            rx_literal(p, d.part, d.n_part)};
        y->spell = rx_or(p, y->spell, rx_cat_n(p, v, 4));
    }
    return true;
}

static bool
constant_array(struct alt_maker *m, struct json_object *x, const char *path,
               struct alt *y)
{
    size_t n = json_object_array_length(x);

    y->prefix = arena_calloc(m->pool.arena, n + 1, sizeof *y->prefix);
    if (y->prefix == NULL)
        return schema_fail(m, ERR_NOMEM, path, NULL, "out of memory");
    for (size_t i = 0; i < n; i++)
        y->prefix[i] = schema_const_node(m, json_object_array_get_idx(x, i),
                                         path);
    y->n_prefix = n;
    y->rest = NODE_NEVER;
    y->min = y->max = (uint32_t)n;
    return true;
}

static bool
constant_object(struct alt_maker *m, struct json_object *x, const char *path,
                struct alt *y)
{
    size_t n = (size_t)json_object_object_length(x);

    y->n_regions = 0;
    y->member = arena_calloc(m->pool.arena, n + 1, sizeof *y->member);
    if (y->member == NULL)
        return schema_fail(m, ERR_NOMEM, path, NULL, "out of memory");
    json_object_object_foreach(x, key, value) {
        y->member[y->n_members++] = (struct alt_member){
            str_from(key), schema_const_node(m, value, path), true};
    }
    return true;
}

bool
constant_alts(struct alt_maker *m, struct json_object *x, const char *path,
              struct alts *out)
{
    struct rx_pool *p = m->pool.rx;
    struct str s = json_str(x);
    struct alt y = alt_any(&m->pool, ALT_NULL);
    bool ok = true;

    switch (json_object_get_type(x)) {
    case json_type_boolean:
        y = alt_any(&m->pool, ALT_BOOL);
        y.bools = json_object_get_boolean(x) ? 2 : 1;
        break;
    case json_type_int:
    case json_type_double:
        y = alt_any(&m->pool, ALT_NUMBER);
        ok = constant_number(m, x, path, &y);
        break;
    case json_type_string:
        y = alt_any(&m->pool, ALT_STRING);
        y.value = rx_literal(p, s.p, s.n);
        break;
    case json_type_array:
        y = alt_any(&m->pool, ALT_ARRAY);
        ok = constant_array(m, x, path, &y);
        break;
    case json_type_object:
        y = alt_any(&m->pool, ALT_OBJECT);
        ok = constant_object(m, x, path, &y);
        break;
    default:
        break;
    }
    alts_add(&m->pool, out, y);
    return ok && !m->pool.failed;
}

/* Strings and numbers of an enum become one alternative each. */
static bool
enum_alts(struct keywords *k, struct json_object *list, struct alts *out)
{
    struct alt_maker *m = k->m;
    struct rx_pool *p = m->pool.rx;
    size_t n = json_object_array_length(list), n_strings = 0;
    struct str *strings = arena_calloc(m->pool.arena, n + 1, sizeof *strings);
    struct alt number = alt_any(&m->pool, ALT_NUMBER);
    const char *path = schema_path(m, k->path, "enum", NULL);

    number.value = number.spell = RX_NONE;
    if (strings == NULL || n > ENUM_MAX)
        return keywords_fail(k, ERR_LIMIT, "enum", "too many values");
    for (size_t i = 0; i < n; i++) {
        struct json_object *x = json_object_array_get_idx(list, i);
        struct alt y = {0};
        if (json_object_is_type(x, json_type_string)) {
            strings[n_strings++] = json_str(x);
        } else if (json_object_is_type(x, json_type_int) ||
                   json_object_is_type(x, json_type_double)) {
            if (!constant_number(m, x, path, &y))
                return false;
            number.value = rx_or(p, number.value, y.value);
            number.spell = rx_or(p, number.spell, y.spell);
        } else if (!constant_alts(m, x, path, out)) {
            return false;
        }
    }
    if (n_strings > 0) {
        struct alt y = alt_any(&m->pool, ALT_STRING);
        y.value = rx_strings(p, strings, n_strings);
        alts_add(&m->pool, out, y);
    }
    if (number.value != RX_NONE)
        alts_add(&m->pool, out, number);
    return true;
}

bool
keywords_constants(struct keywords *k)
{
    struct json_object *x;
    struct alts l = {NULL, 0};

    if (keywords_has(k, "const", &x)) {
        if (!constant_alts(k->m, x, k->path, &l))
            return false;
        keywords_narrow(k, l);
    }
    if (keywords_has(k, "enum", &x)) {
        struct alts values = {NULL, 0};
        if (!json_object_is_type(x, json_type_array))
            return keywords_fail(k, ERR_FORMAT, "enum", "must be an array");
        if (!enum_alts(k, x, &values))
            return false;
        keywords_narrow(k, values);
    }
    return true;
}
