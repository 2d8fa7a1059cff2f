/* The keywords that combine schemas: references, allOf, anyOf, oneOf, not, if,
 * dependencies, unevaluated*. */
#include "config.h"

#include "grammar/schema/keyword.h"

#include <stdio.h>
#include <string.h>

#include "json/json.h"

/* --- combining schemas --------------------------------------------------- */

bool
keywords_reference(struct keywords *k, const char *key)
{
    struct json_object *x;
    struct alts l;
    const char *target;

    if (!keywords_has(k, key, &x))
        return true;
    struct json_object *o = reference_find(k->m, key, json_str(x), k->path,
                                           &target);
    if (o == NULL || !keywords_expand(k, schema_node(k->m, o, target), key,
                                      &l))
        return false;
    keywords_narrow(k, l);
    return true;
}

/* The schemas of a list keyword; NULL with *n 0 when it is absent. */
static uint32_t *
node_list(struct keywords *k, const char *key, size_t *n)
{
    struct json_object *list;

    *n = 0;
    if (!keywords_has(k, key, &list))
        return NULL;
    size_t count = json_object_is_type(list, json_type_array)
        ? json_object_array_length(list) : 0;
    if (count == 0 || count > ALTS_MAX) {
        keywords_fail(k, count ? ERR_LIMIT : ERR_FORMAT, key,
             count ? "too many schemas" : "must be an array of schemas");
        return NULL;
    }
    uint32_t *v = arena_calloc(k->m->pool.arena, count, sizeof *v);
    for (size_t i = 0; v && i < count; i++) {
        char index[24];
        snprintf(index, sizeof index, "%zu", i);
        v[i] = keywords_node(k, json_object_array_get_idx(list, i), key,
                             index);
    }
    *n = v ? count : 0;
    return v;
}

static bool
read_all_of(struct keywords *k)
{
    size_t n;
    struct alts l;
    uint32_t *v = node_list(k, "allOf", &n);

    for (size_t i = 0; i < n; i++) {
        if (!keywords_expand(k, v[i], "allOf", &l))
            return false;
        keywords_narrow(k, l);
    }
    return k->m->rc == 0;
}

static bool
read_any_of(struct keywords *k)
{
    size_t n;
    struct alts sum = {NULL, 0}, l;
    uint32_t *v = node_list(k, "anyOf", &n);

    if (v == NULL)
        return k->m->rc == 0;
    for (size_t i = 0; i < n; i++) {
        if (!keywords_expand(k, v[i], "anyOf", &l))
            return false;
        alts_unite(&k->m->pool, &sum, l);
    }
    keywords_narrow(k, sum);
    return true;
}

/* Branch i without what the others allow. */
static bool
only_branch(struct keywords *k, struct alts *branch, size_t n, size_t i,
            struct alts *out)
{
    *out = branch[i];
    for (size_t j = 0; j < n; j++) {
        struct alts rest;
        if (j == i || alts_disjoint(k->m, branch[i], branch[j]))
            continue;
        if (!alts_negate(&k->m->pool, branch[j], &rest))
            return keywords_refuse(k, "oneOf",
                                   "its branches overlap in a way that "
                          "cannot be told apart");
        *out = alts_intersect(&k->m->pool, *out, rest);
    }
    return true;
}

static bool
read_one_of(struct keywords *k)
{
    size_t n;
    struct alts sum = {NULL, 0}, one;
    uint32_t *v = node_list(k, "oneOf", &n);

    if (v == NULL)
        return k->m->rc == 0;
    struct alts *branch = arena_calloc(k->m->pool.arena, n, sizeof *branch);
    if (branch == NULL)
        return keywords_fail(k, ERR_NOMEM, "oneOf", "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (!keywords_expand(k, v[i], "oneOf", &branch[i]))
            return false;
        /* What stands beside oneOf may keep its branches apart. */
        branch[i] = alts_intersect(&k->m->pool, k->all, branch[i]);
    }
    for (size_t i = 0; i < n; i++) {
        if (!only_branch(k, branch, n, i, &one))
            return false;
        alts_unite(&k->m->pool, &sum, one);
    }
    k->all = sum;
    return true;
}

static bool
read_not(struct keywords *k)
{
    struct json_object *x;
    struct alts l, rest;

    if (!keywords_has(k, "not", &x))
        return true;
    if (!keywords_expand(k, keywords_node(k, x, "not", NULL), "not", &l))
        return false;
    if (!alts_negate(&k->m->pool, l, &rest))
        return keywords_refuse(k, "not",
                               "the opposite of this cannot be enforced");
    keywords_narrow(k, rest);
    return true;
}

/* (if and then) or (not if and else). */
static bool
read_if(struct keywords *k)
{
    struct json_object *test, *x;
    struct alts l, rest, yes, no, branch;

    if (!keywords_has(k, "if", &test) || !(json_get(k->o, "then") ||
                                  json_get(k->o, "else")))
        return true;
    if (!keywords_expand(k, keywords_node(k, test, "if", NULL), "if", &l))
        return false;
    if (!alts_negate(&k->m->pool, l, &rest))
        return keywords_refuse(k, "if",
                               "the opposite of this cannot be enforced");
    yes = alts_intersect(&k->m->pool, k->all, l);
    no = alts_intersect(&k->m->pool, k->all, rest);
    if (keywords_has(k, "then", &x)) {
        if (!keywords_expand(k, keywords_node(k, x, "then", NULL), "then",
                             &branch))
            return false;
        yes = alts_intersect(&k->m->pool, yes, branch);
    }
    if (keywords_has(k, "else", &x)) {
        if (!keywords_expand(k, keywords_node(k, x, "else", NULL), "else",
                             &branch))
            return false;
        no = alts_intersect(&k->m->pool, no, branch);
    }
    struct alts sum = {NULL, 0};
    alts_unite(&k->m->pool, &sum, yes);
    alts_unite(&k->m->pool, &sum, no);
    k->all = sum;
    return true;
}

/* --- dependencies -------------------------------------------------------- */

/* Objects with the member (and what it asks for), objects without, and all
 * that is no object. */
static bool
depend(struct keywords *k, const char *key, const char *trigger,
       struct json_object *asked)
{
    struct alt_pool *p = &k->m->pool;
    struct alt with = alt_any(p, ALT_OBJECT), without = with;
    struct alts yes = {NULL, 0}, sum = {NULL, 0}, l;

    alt_require(p, &with, str_from(trigger), NODE_ANY, true);
    alt_require(p, &without, str_from(trigger), NODE_NEVER, false);
    if (json_object_is_type(asked, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(asked); i++) {
            struct str s = json_str(json_object_array_get_idx(asked, i));
            if (s.p == NULL)
                return keywords_fail(k, ERR_FORMAT, key, "must hold strings");
            alt_require(p, &with, s, NODE_ANY, true);
        }
        alts_add(p, &yes, with);
    } else {
        if (!keywords_expand(k, keywords_node(k, asked, key, trigger), key,
                             &l))
            return false;
        alts_add(p, &yes, with);
        yes = alts_intersect(p, yes, l);
    }
    alts_unite(p, &sum, yes);
    alts_add(p, &sum, without);
    for (int t = 0; t < ALT_TYPES; t++)
        if (t != ALT_OBJECT)
            alts_add(p, &sum, alt_any(p, (enum alt_type)t));
    keywords_narrow(k, sum);
    return true;
}

static bool
read_dependencies(struct keywords *k)
{
    static const char *const keys[] = {"dependentRequired",
                                       "dependentSchemas", "dependencies"};
    struct json_object *o;

    for (size_t i = 0; i < 3; i++) {
        if (!keywords_has(k, keys[i], &o))
            continue;
        if (!json_object_is_type(o, json_type_object))
            return keywords_fail(k, ERR_FORMAT, keys[i], "must be an object");
        json_object_object_foreach(o, trigger, asked) {
            if (!depend(k, keys[i], trigger, asked))
                return false;
        }
    }
    return true;
}

/* --- unevaluated* -------------------------------------------------------- */

static const char *const branching[] = {"anyOf", "oneOf", "if", "not",
                                        "dependentSchemas", "dependencies",
                                        "$dynamicRef", "$recursiveRef"};

/* unevaluatedProperties where only this object and its allOf and $ref name
 * members: as additionalProperties over all of them. */
static bool
collect(struct keywords *k, struct json_object *o, struct alt *seen,
        bool *all, int depth)
{
    struct json_object *x;
    const char *target;
    rx_id rx;

    if (depth == 0)
        return keywords_refuse(k, "unevaluatedProperties", "nested too deep");
    if (!json_object_is_type(o, json_type_object))
        return true; /* true or false name no members */
    for (size_t i = 0; i < sizeof branching / sizeof *branching; i++)
        if (json_object_object_get_ex(o, branching[i], &x))
            return keywords_refuse(k, "unevaluatedProperties",
                          "not beside anyOf, oneOf, if and the like");
    *all = *all || json_get(o, "additionalProperties") ||
        (depth < 8 && json_get(o, "unevaluatedProperties"));
    x = json_get(o, "properties");
    if (json_object_is_type(x, json_type_object)) {
        json_object_object_foreach(x, name, sub) {
            (void)sub;
            alt_require(&k->m->pool, seen, str_from(name), NODE_ANY, false);
        }
    }
    x = json_get(o, "patternProperties");
    if (json_object_is_type(x, json_type_object)) {
        json_object_object_foreach(x, text, sub) {
            (void)sub;
            if (!keywords_pattern(k, "patternProperties", str_from(text), &rx))
                return false;
            seen->value = rx_or(k->m->pool.rx, seen->value, rx);
        }
    }
    x = json_get(o, "allOf");
    if (json_object_is_type(x, json_type_array))
        for (size_t i = 0; i < json_object_array_length(x); i++)
            if (!collect(k, json_object_array_get_idx(x, i), seen, all,
                         depth - 1))
                return false;
    if ((x = json_get(o, "$ref")) != NULL) {
        o = reference_find(k->m, "$ref", json_str(x), k->path, &target);
        return o && collect(k, o, seen, all, depth - 1);
    }
    return true;
}

static bool
read_unevaluated(struct keywords *k)
{
    struct alt_pool *p = &k->m->pool;
    struct json_object *x;
    bool all = false;

    if (keywords_has(k, "unevaluatedItems", &x) &&
        keywords_node(k, x, "unevaluatedItems", NULL) != NODE_ANY &&
        !json_get(k->o, "items"))
        return keywords_refuse(k, "unevaluatedItems", "only beside items");
    if (!keywords_has(k, "unevaluatedProperties", &x))
        return true;
    uint32_t node = keywords_node(k, x, "unevaluatedProperties", NULL);
    if (k->m->rc != 0 || node == NODE_ANY)
        return k->m->rc == 0;
    struct alt seen = alt_any(p, ALT_OBJECT);
    seen.value = RX_NONE;
    if (!collect(k, k->o, &seen, &all, 8) || all)
        return k->m->rc == 0;
    struct alts sum = {NULL, 0};
    struct alt_region *v = arena_calloc(p->arena, 2, sizeof *v);
    if (v == NULL)
        return keywords_fail(k, ERR_NOMEM, "unevaluatedProperties",
                             "out of memory");
    v[0] = (struct alt_region){seen.value, NODE_ANY};
    v[1] = (struct alt_region){rx_text_not(p->rx, seen.value), node};
    seen.region = v;
    seen.n_regions = 2;
    seen.value = p->rx->all;
    alts_add(p, &sum, seen);
    for (int t = 0; t < ALT_TYPES; t++)
        if (t != ALT_OBJECT)
            alts_add(p, &sum, alt_any(p, (enum alt_type)t));
    keywords_narrow(k, sum);
    return true;
}

bool
keywords_combined(struct keywords *k)
{
    return keywords_reference(k, "$ref") &&
        keywords_reference(k, "$dynamicRef") &&
        keywords_reference(k, "$recursiveRef") && read_all_of(k) &&
        read_any_of(k) && read_not(k) && read_if(k) &&
        read_dependencies(k) && read_unevaluated(k) && read_one_of(k);
}
