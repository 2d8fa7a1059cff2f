/*
 * The keywords of JSON Schema, 2020-12 and earlier drafts.
 *
 * DESIGN. A schema object starts as one alternative for each of its types,
 * narrowed by the keywords of that type; then every keyword that combines
 * schemas is intersected in. Each either becomes what it means or is refused
 * with its path: nothing that constrains is passed over. Annotations and
 * unknown keywords are.
 */
#include "config.h"

#include "grammar/schema/keyword.h"

#include <stdio.h>
#include <string.h>

#include "grammar/lang/decimal.h"
#include "grammar/lang/format.h"
#include "grammar/lang/pattern.h"
#include "json/json.h"

#define PROPERTIES_MAX 5000
#define PATTERNS_MAX 8        /* patternProperties in one object */
#define LENGTH_MAX (1u << 26) /* longer than any output */

bool
keywords_fail(struct keywords *k, int code, const char *keyword,
              const char *what)
{
    return schema_fail(k->m, code, k->path, keyword, what);
}

bool
keywords_refuse(struct keywords *k, const char *keyword, const char *what)
{
    return keywords_fail(k, ERR_UNSUPPORTED, keyword, what);
}

/* True when the schema has the keyword; null counts. */
bool
keywords_has(struct keywords *k, const char *key, struct json_object **value)
{
    *value = NULL;
    return json_object_object_get_ex(k->o, key, value);
}

bool
keywords_expand(struct keywords *k, uint32_t node, const char *keyword,
                struct alts *out)
{
    bool cycle = false;
    if (node_alts(k->m, node, out, &cycle))
        return true;
    if (cycle && k->m->rc == 0)
        keywords_refuse(k, keyword,
                        "refers to itself with nothing in between");
    return false;
}

void
keywords_narrow(struct keywords *k, struct alts x)
{
    k->all = alts_intersect(&k->m->pool, k->all, x);
}

uint32_t
keywords_node(struct keywords *k, struct json_object *json, const char *key,
         const char *name)
{
    return schema_node(k->m, json, schema_path(k->m, k->path, key, name));
}

/* --- type ---------------------------------------------------------------- */

static bool
add_type(struct keywords *k, struct str name, struct alts *out)
{
    static const struct {
        const char *name;
        int type;
    } row[] = {{"null", ALT_NULL}, {"boolean", ALT_BOOL},
               {"number", ALT_NUMBER}, {"integer", ALT_NUMBER},
               {"string", ALT_STRING}, {"array", ALT_ARRAY},
               {"object", ALT_OBJECT}};

    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (!str_eq(name, str_from(row[i].name)))
            continue;
        struct alt x = alt_any(&k->m->pool, (enum alt_type)row[i].type);
        if (i == 3) {
            x.integer = true;
            x.value = decimal_integer(k->m->pool.rx);
        }
        alts_add(&k->m->pool, out, x);
        return true;
    }
    return keywords_fail(k, ERR_FORMAT, "type", "is no type of JSON");
}

static bool
read_type(struct keywords *k)
{
    struct json_object *t;
    struct alts out = {NULL, 0};

    if (!keywords_has(k, "type", &t)) {
        k->all = alts_any(&k->m->pool);
        return true;
    }
    if (json_object_is_type(t, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(t); i++)
            if (!add_type(k, json_str(json_object_array_get_idx(t, i)), &out))
                return false;
    } else if (!add_type(k, json_str(t), &out)) {
        return false;
    }
    k->all = out;
    return true;
}

static struct alt *
of_type(struct keywords *k, enum alt_type type, size_t *i)
{
    for (; *i < k->all.n; ++*i)
        if (k->all.v[*i].type == type)
            return &k->all.v[(*i)++];
    return NULL;
}

/* --- numbers ------------------------------------------------------------- */

static bool
read_decimal(struct keywords *k, const char *key, struct json_object *x,
             struct decimal *d)
{
    if (!json_object_is_type(x, json_type_int) &&
        !json_object_is_type(x, json_type_double))
        return keywords_fail(k, ERR_FORMAT, key, "must be a number");
    if (!decimal_parse(str_from(json_number_text(x)), d))
        return keywords_refuse(k, key, "has too many digits");
    if (d->n_whole > k->m->whole_digits)
        k->m->whole_digits = (uint32_t)d->n_whole;
    if (d->n_part > k->m->part_digits)
        k->m->part_digits = (uint32_t)d->n_part;
    return true;
}

bool
keywords_true(struct keywords *k, const char *key)
{
    struct json_object *x;
    return keywords_has(k, key, &x) &&
        json_object_is_type(x, json_type_boolean) &&
        json_object_get_boolean(x);
}

/* The numbers that the keyword leaves. */
static bool
number_keyword(struct keywords *k, const char *key, rx_id *value)
{
    struct rx_pool *p = k->m->pool.rx;
    struct json_object *x;
    struct decimal d;
    rx_id r;

    if (!keywords_has(k, key, &x) || json_object_is_type(x, json_type_boolean))
        return true; /* exclusive* of draft 4 is read with its bound */
    if (!read_decimal(k, key, x, &d))
        return false;
    if (strcmp(key, "multipleOf") == 0)
        r = decimal_multiple(p, &d);
    else if (strcmp(key, "minimum") == 0)
        r = decimal_from(p, &d, keywords_true(k, "exclusiveMinimum"));
    else if (strcmp(key, "exclusiveMinimum") == 0)
        r = decimal_from(p, &d, true);
    else if (strcmp(key, "maximum") == 0)
        r = decimal_up_to(p, &d, keywords_true(k, "exclusiveMaximum"));
    else
        r = decimal_up_to(p, &d, true);
    if (r == RX_NONE && p->budget->rc == 0)
        return keywords_refuse(k, key,
                               "only 1 to 10000 times a power of ten down to "
                      "1e-9");
    *value = rx_and(p, *value, r);
    return true;
}

static bool
read_numbers(struct keywords *k)
{
    static const char *const keys[] = {"minimum", "maximum",
                                       "exclusiveMinimum",
                                       "exclusiveMaximum", "multipleOf"};
    struct alt *x;

    for (size_t i = 0; (x = of_type(k, ALT_NUMBER, &i)) != NULL;)
        for (size_t j = 0; j < sizeof keys / sizeof *keys; j++)
            if (!number_keyword(k, keys[j], &x->value))
                return false;
    return true;
}

/* --- counts, strings ----------------------------------------------------- */

/* A whole number not below zero into *out, which stays when there is none. */
static bool
read_count(struct keywords *k, const char *key, uint32_t *out)
{
    struct json_object *x;
    struct decimal d;
    uint64_t n = 0;

    if (!keywords_has(k, key, &x))
        return true;
    if (!read_decimal(k, key, x, &d) || d.negative || d.n_part > 0)
        return keywords_fail(k, ERR_FORMAT, key,
                             "must be a whole number from 0 on");
    for (size_t i = 0; i < d.n_whole; i++) {
        n = n * 10 + (uint64_t)(d.whole[i] - '0');
        if (n > COUNT_INF - 1)
            n = COUNT_INF - 1;
    }
    *out = (uint32_t)n;
    return true;
}

bool
keywords_pattern(struct keywords *k, const char *key, struct str text,
             rx_id *out)
{
    struct err e = {0};

    if (text.p == NULL)
        return keywords_fail(k, ERR_FORMAT, key, "must be a string");
    int rc = pattern_compile(k->m->pool.rx, text, PATTERN_SEARCH, out, &e);
    return rc == 0 || keywords_fail(k, rc, key, e.text);
}

static bool
read_strings(struct keywords *k)
{
    struct rx_pool *p = k->m->pool.rx;
    struct json_object *x;
    struct alt *y;
    uint32_t min = 0, max = COUNT_INF;
    rx_id value = p->all, r;

    if (!read_count(k, "minLength", &min) ||
        !read_count(k, "maxLength", &max))
        return false;
    if (keywords_has(k, "format", &x)) {
        r = format_rx(p, json_str(x));
        value = rx_and(p, value, r);
    }
    if (keywords_has(k, "pattern", &x)) {
        if (!keywords_pattern(k, "pattern", json_str(x), &r))
            return false;
        value = rx_and(p, value, r);
    }
    if (min > max)
        value = RX_NONE;
    else if (min > 0 || max < LENGTH_MAX)
        value = rx_and(p, value, rx_repeat(p, p->any_char, min,
                                           max < LENGTH_MAX ? max : RX_INF));
    for (size_t i = 0; (y = of_type(k, ALT_STRING, &i)) != NULL;)
        y->value = rx_and(p, y->value, value);
    return true;
}

/* --- arrays -------------------------------------------------------------- */

static bool
read_prefix(struct keywords *k, struct alt *y, struct json_object *list,
            const char *key)
{
    size_t n = json_object_array_length(list);

    y->prefix = arena_calloc(k->m->pool.arena, n + 1, sizeof *y->prefix);
    if (y->prefix == NULL)
        return keywords_fail(k, ERR_NOMEM, key, "out of memory");
    for (size_t i = 0; i < n; i++) {
        char index[24];
        snprintf(index, sizeof index, "%zu", i);
        y->prefix[i] = keywords_node(k, json_object_array_get_idx(list, i),
                                     key,
                                index);
    }
    y->n_prefix = n;
    return k->m->rc == 0;
}

/* contains where it says no more than items do. */
static bool
check_contains(struct keywords *k, struct alt *y)
{
    struct json_object *x;
    uint32_t min = 1, max = COUNT_INF;

    if (!keywords_has(k, "contains", &x))
        return true;
    if (!read_count(k, "minContains", &min) ||
        !read_count(k, "maxContains", &max))
        return false;
    uint32_t node = keywords_node(k, x, "contains", NULL);
    if (k->m->rc != 0)
        return false;
    bool same = node == NODE_ANY || (node == y->rest && y->n_prefix == 0);
    if (min == 0 && max == COUNT_INF)
        return true;
    if (!same)
        return keywords_refuse(k, "contains",
                               "only when it says the same as items");
    y->min = y->min > min ? y->min : min;
    y->max = y->max < max ? y->max : max;
    return true;
}

static bool
read_array(struct keywords *k, struct alt *y)
{
    struct json_object *x, *rest = NULL;
    bool has_rest, has_items = keywords_has(k, "items", &x);

    y->rest = NODE_ANY;
    if (has_items && json_object_is_type(x, json_type_array)) {
        if (!read_prefix(k, y, x, "items"))
            return false;
        has_rest = keywords_has(k, "additionalItems", &rest);
        if (has_rest)
            y->rest = keywords_node(k, rest, "additionalItems", NULL);
    } else {
        if (has_items)
            y->rest = keywords_node(k, x, "items", NULL);
        if (keywords_has(k, "prefixItems", &x)) {
            if (!json_object_is_type(x, json_type_array))
                return keywords_fail(k, ERR_FORMAT, "prefixItems",
                            "must be an array");
            if (!read_prefix(k, y, x, "prefixItems"))
                return false;
        }
    }
    y->unique = y->unique || keywords_true(k, "uniqueItems");
    return k->m->rc == 0 && read_count(k, "minItems", &y->min) &&
        read_count(k, "maxItems", &y->max) && check_contains(k, y);
}

/* --- objects ------------------------------------------------------------- */

/* Splits the names into disjoint regions by the patterns; a name that matches
 * several has all of their schemas, one that matches none `other`. */
static bool
read_regions(struct keywords *k, struct alt *y, uint32_t other)
{
    struct rx_pool *p = k->m->pool.rx;
    struct json_object *patterns;
    rx_id rx;

    y->region[0].node = other;
    if (!keywords_has(k, "patternProperties", &patterns))
        return true;
    if (!json_object_is_type(patterns, json_type_object))
        return keywords_fail(k, ERR_FORMAT, "patternProperties",
                             "must be an object");
    size_t n = (size_t)json_object_object_length(patterns);
    if (n > PATTERNS_MAX)
        return keywords_refuse(k, "patternProperties", "more than 8 patterns");
    struct alt_region *v = arena_calloc(k->m->pool.arena, (size_t)1 << n,
                                        sizeof *v);
    bool *none = arena_calloc(k->m->pool.arena, (size_t)1 << n,
                              sizeof *none); /* matches no pattern yet */
    if (v == NULL || none == NULL)
        return keywords_fail(k, ERR_NOMEM, "patternProperties",
                             "out of memory");
    v[0] = y->region[0];
    none[0] = true;
    size_t count = 1;
    json_object_object_foreach(patterns, text, sub) {
        uint32_t node = keywords_node(k, sub, "patternProperties", text);
        if (k->m->rc != 0 ||
            !keywords_pattern(k, "patternProperties", str_from(text), &rx))
            return false;
        for (size_t i = 0, had = count; i < had; i++) {
            rx_id in = rx_and(p, v[i].key, rx);
            rx_id out = rx_and(p, v[i].key, rx_text_not(p, rx));
            uint32_t both = none[i] ? node
                : k->m->pool.both(k->m, v[i].node, node);
            if (!rx_live(p, in))
                continue;
            if (rx_live(p, out)) {
                v[count] = v[i];
                v[count].key = out;
                none[count++] = none[i];
            }
            v[i] = (struct alt_region){in, both};
            none[i] = false;
        }
    }
    y->region = v;
    y->n_regions = count;
    return true;
}

static bool
read_members(struct keywords *k, struct alt *y)
{
    struct json_object *props;
    size_t n = 0;

    if (!keywords_has(k, "properties", &props))
        return true;
    if (!json_object_is_type(props, json_type_object))
        return keywords_fail(k, ERR_FORMAT, "properties", "must be an object");
    if (json_object_object_length(props) > PROPERTIES_MAX)
        return keywords_fail(k, ERR_LIMIT, "properties", "too many");
    struct alt_member *v = arena_calloc(
        k->m->pool.arena, (size_t)json_object_object_length(props) + 1,
        sizeof *v);
    if (v == NULL)
        return keywords_fail(k, ERR_NOMEM, "properties", "out of memory");
    json_object_object_foreach(props, name, sub) {
        struct str s = str_from(name);
        uint32_t node = keywords_node(k, sub, "properties", name);
        if (k->m->rc != 0)
            return false;
        v[n].name = s;
        v[n].required = false;
        v[n++].node = node;
    }
    y->member = v;
    y->n_members = n;
    return true;
}

static bool
read_required(struct keywords *k, struct alt *y)
{
    struct json_object *list;

    if (!keywords_has(k, "required", &list) ||
        json_object_is_type(list, json_type_boolean))
        return true; /* boolean: draft 3, belongs to the parent */
    if (!json_object_is_type(list, json_type_array))
        return keywords_fail(k, ERR_FORMAT, "required", "must be an array");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct str s = json_str(json_object_array_get_idx(list, i));
        if (s.p == NULL)
            return keywords_fail(k, ERR_FORMAT, "required",
                                 "must hold strings");
        alt_require(&k->m->pool, y, s, NODE_ANY, true);
    }
    return true;
}

/* The schemas of the patterns that match name, NODE_ANY without any. */
static bool
pattern_node(struct keywords *k, struct str name, uint32_t *out)
{
    struct json_object *patterns;
    rx_id rx;

    *out = NODE_ANY;
    if (!keywords_has(k, "patternProperties", &patterns))
        return true;
    json_object_object_foreach(patterns, text, sub) {
        if (!keywords_pattern(k, "patternProperties", str_from(text), &rx))
            return false;
        if (rx_matches(k->m->pool.rx, rx, name.p, name.n))
            *out = k->m->pool.both(k->m, *out,
                                   keywords_node(k, sub, "patternProperties",
                                            text));
    }
    return k->m->rc == 0;
}

static bool
read_property_names(struct keywords *k, struct alt *y)
{
    struct rx_pool *p = k->m->pool.rx;
    struct json_object *x;
    struct alts l;
    rx_id names = RX_NONE;

    if (!keywords_has(k, "propertyNames", &x))
        return true;
    if (!keywords_expand(k, keywords_node(k, x, "propertyNames", NULL),
                         "propertyNames",
                &l))
        return false;
    for (size_t i = 0; i < l.n; i++)
        if (l.v[i].type == ALT_STRING)
            names = rx_or(p, names, l.v[i].value);
    for (size_t i = 0; i < y->n_regions; i++)
        y->region[i].key = rx_and(p, y->region[i].key, names);
    for (size_t i = 0; i < y->n_members; i++)
        if (!rx_matches(p, names, y->member[i].name.p, y->member[i].name.n))
            y->member[i].node = NODE_NEVER;
    return true;
}

static bool
read_object(struct keywords *k, struct alt *y)
{
    struct json_object *x;
    uint32_t other = NODE_ANY, extra;

    if (keywords_has(k, "additionalProperties", &x))
        other = keywords_node(k, x, "additionalProperties", NULL);
    if (k->m->rc != 0 || !read_regions(k, y, other) || !read_members(k, y))
        return false;
    for (size_t i = 0; i < y->n_members; i++) {
        if (!pattern_node(k, y->member[i].name, &extra))
            return false;
        y->member[i].node = k->m->pool.both(k->m, y->member[i].node, extra);
    }
    return read_required(k, y) && read_property_names(k, y) &&
        read_count(k, "minProperties", &y->min) &&
        read_count(k, "maxProperties", &y->max);
}

static bool
read_structures(struct keywords *k)
{
    struct alt *y;

    for (size_t i = 0; (y = of_type(k, ALT_ARRAY, &i)) != NULL;)
        if (!read_array(k, y))
            return false;
    for (size_t i = 0; (y = of_type(k, ALT_OBJECT, &i)) != NULL;)
        if (!read_object(k, y))
            return false;
    /* Bounds may have left some of them empty. */
    struct alts kept = {NULL, 0};
    alts_unite(&k->m->pool, &kept, k->all);
    k->all = kept;
    return true;
}

/* --- all ----------------------------------------------------------------- */

bool
keyword_alts(struct alt_maker *m, struct json_object *json, const char *path,
             struct alts *out)
{
    struct keywords k = {.m = m, .o = json, .path = path};
    struct json_object *x;

    if (m->legacy_ref && keywords_has(&k, "$ref", &x)) {
        k.all = alts_any(&m->pool);
        if (!keywords_reference(&k, "$ref"))
            return false;
        *out = k.all;
        return true;
    }
    bool ok = read_type(&k) && read_numbers(&k) && read_strings(&k) &&
        read_structures(&k) && keywords_constants(&k) &&
        keywords_combined(&k);
    if (ok && m->pool.failed)
        ok = schema_fail(m, ERR_LIMIT, path, NULL, "too many alternatives");
    *out = k.all;
    return ok;
}
