#include "config.h"

#include "grammar/schema/alt.h"

#include <string.h>

static void *
make(struct alt_pool *p, size_t n, size_t size)
{
    void *v = arena_calloc(p->arena, n ? n : 1, size);
    p->failed = p->failed || v == NULL;
    return v;
}

struct alt
alt_any(struct alt_pool *p, enum alt_type type)
{
    struct alt x = {.type = (uint8_t)type, .bools = 3, .max = COUNT_INF};

    x.value = type == ALT_NUMBER ? p->any_number : p->rx->all;
    if (type == ALT_OBJECT) {
        x.region = make(p, 1, sizeof *x.region);
        if (x.region)
            x.region[x.n_regions++] = (struct alt_region){p->rx->all,
                                                          NODE_ANY};
    }
    return x;
}

struct alts
alts_any(struct alt_pool *p)
{
    struct alts l = {NULL, 0};
    for (int t = 0; t < ALT_TYPES; t++)
        alts_add(p, &l, alt_any(p, (enum alt_type)t));
    return l;
}

/* Makes y part of x where their union is one alternative. */
static bool
merge(struct alt_pool *p, struct alt *x, const struct alt *y)
{
    if (x->type != y->type)
        return false;
    switch (x->type) {
    case ALT_NULL:
        return true;
    case ALT_BOOL:
        x->bools |= y->bools;
        return true;
    case ALT_STRING:
        x->value = rx_or(p->rx, x->value, y->value);
        return true;
    case ALT_NUMBER:
        if (x->integer != y->integer || x->spell != RX_NONE ||
            y->spell != RX_NONE)
            return false;
        x->value = rx_or(p->rx, x->value, y->value);
        return true;
    default:
        return false;
    }
}

static bool
is_empty(struct alt_pool *p, const struct alt *x)
{
    if (x->type == ALT_BOOL)
        return x->bools == 0;
    if (x->type == ALT_STRING || x->type == ALT_NUMBER)
        return !rx_live(p->rx, x->value);
    if (x->type == ALT_NULL)
        return false;
    for (size_t i = 0; i < x->n_members; i++)
        if (x->member[i].required && x->member[i].node == NODE_NEVER)
            return true;
    return x->min > x->max;
}

void
alts_add(struct alt_pool *p, struct alts *l, struct alt x)
{
    if (p->failed || is_empty(p, &x))
        return;
    for (size_t i = 0; i < l->n; i++)
        if (merge(p, &l->v[i], &x))
            return;
    if (l->n == ALTS_MAX) {
        p->failed = true;
        return;
    }
    /* Grown by doubling inside the arena. */
    if ((l->n & (l->n - 1)) == 0) {
        struct alt *v = make(p, l->n ? 2 * l->n : 1, sizeof *v);
        if (v == NULL)
            return;
        if (l->n > 0)
            memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
    }
    l->v[l->n++] = x;
}

void
alts_unite(struct alt_pool *p, struct alts *l, struct alts x)
{
    for (size_t i = 0; i < x.n; i++)
        alts_add(p, l, x.v[i]);
}

/* --- objects ------------------------------------------------------------- */

static struct alt_member *
find_member(const struct alt *x, struct str name)
{
    for (size_t i = 0; i < x->n_members; i++)
        if (str_eq(x->member[i].name, name))
            return &x->member[i];
    return NULL;
}

uint32_t
alt_member_node(struct alt_pool *p, const struct alt *x, struct str name)
{
    const struct alt_member *m = find_member(x, name);

    if (m)
        return m->node;
    for (size_t i = 0; i < x->n_regions; i++)
        if (rx_matches(p->rx, x->region[i].key, name.p, name.n))
            return x->region[i].node;
    return NODE_NEVER;
}

void
alt_require(struct alt_pool *p, struct alt *x, struct str name, uint32_t node,
            bool required)
{
    struct alt_member *m = find_member(x, name);
    struct alt_member *v = make(p, x->n_members + 1, sizeof *v);

    if (v == NULL)
        return;
    /* A copy: lists may share their members. */
    if (x->n_members > 0)
        memcpy(v, x->member, x->n_members * sizeof *v);
    if (m) {
        m = v + (m - x->member);
        m->node = p->both(p->maker, m->node, node);
        m->required = m->required || required;
    } else {
        uint32_t own = alt_member_node(p, x, name);
        v[x->n_members++] = (struct alt_member){
            name, p->both(p->maker, own, node), required};
    }
    x->member = v;
}

static void
intersect_regions(struct alt_pool *p, const struct alt *x,
                  const struct alt *y, struct alt *out)
{
    out->region = make(p, x->n_regions * y->n_regions, sizeof *out->region);
    out->n_regions = 0;
    if (out->region == NULL)
        return;
    for (size_t i = 0; i < x->n_regions; i++)
        for (size_t j = 0; j < y->n_regions; j++) {
            rx_id key = rx_and(p->rx, x->region[i].key, y->region[j].key);
            uint32_t node = p->both(p->maker, x->region[i].node,
                                    y->region[j].node);
            if (node != NODE_NEVER && rx_live(p->rx, key))
                out->region[out->n_regions++] = (struct alt_region){key,
                                                                    node};
        }
    if (out->n_regions > ALTS_MAX)
        p->failed = true;
}

static void
intersect_objects(struct alt_pool *p, const struct alt *x,
                  const struct alt *y, struct alt *out)
{
    out->member = make(p, x->n_members + y->n_members, sizeof *out->member);
    out->n_members = 0;
    if (out->member == NULL)
        return;
    for (size_t i = 0; i < x->n_members; i++) {
        struct alt_member m = x->member[i];
        const struct alt_member *other = find_member(y, m.name);
        m.node = p->both(p->maker, m.node, alt_member_node(p, y, m.name));
        m.required = m.required || (other && other->required);
        out->member[out->n_members++] = m;
    }
    for (size_t i = 0; i < y->n_members; i++) {
        struct alt_member m = y->member[i];
        if (find_member(x, m.name))
            continue;
        m.node = p->both(p->maker, m.node, alt_member_node(p, x, m.name));
        out->member[out->n_members++] = m;
    }
    budget_work(p->rx->budget, x->n_members * y->n_members / 4);
    intersect_regions(p, x, y, out);
}

static void
intersect_arrays(struct alt_pool *p, const struct alt *x, const struct alt *y,
                 struct alt *out)
{
    size_t n = x->n_prefix > y->n_prefix ? x->n_prefix : y->n_prefix;

    out->prefix = make(p, n, sizeof *out->prefix);
    out->n_prefix = n;
    for (size_t i = 0; out->prefix && i < n; i++)
        out->prefix[i] = p->both(p->maker,
                                 i < x->n_prefix ? x->prefix[i] : x->rest,
                                 i < y->n_prefix ? y->prefix[i] : y->rest);
    out->rest = p->both(p->maker, x->rest, y->rest);
    out->unique = x->unique || y->unique;
}

static struct alt
intersect(struct alt_pool *p, const struct alt *x, const struct alt *y)
{
    struct alt out = *x;

    out.bools = x->bools & y->bools;
    out.integer = x->integer || y->integer;
    out.min = x->min > y->min ? x->min : y->min;
    out.max = x->max < y->max ? x->max : y->max;
    if (x->type == ALT_NUMBER || x->type == ALT_STRING)
        out.value = rx_and(p->rx, x->value, y->value);
    if (x->spell == RX_NONE)
        out.spell = y->spell;
    else if (y->spell != RX_NONE)
        out.spell = rx_and(p->rx, x->spell, y->spell);
    if (x->type == ALT_ARRAY)
        intersect_arrays(p, x, y, &out);
    if (x->type == ALT_OBJECT)
        intersect_objects(p, x, y, &out);
    return out;
}

struct alts
alts_intersect(struct alt_pool *p, struct alts x, struct alts y)
{
    struct alts out = {NULL, 0};

    for (size_t i = 0; i < x.n && !p->failed; i++)
        for (size_t j = 0; j < y.n && !p->failed; j++) {
            if (x.v[i].type == y.v[j].type)
                alts_add(p, &out, intersect(p, &x.v[i], &y.v[j]));
            budget_work(p->rx->budget, 4);
        }
    return out;
}

/* --- complements --------------------------------------------------------- */

/* Too few, or too many. */
static void
negate_counts(struct alt_pool *p, const struct alt *x, struct alts *out)
{
    struct alt y = alt_any(p, (enum alt_type)x->type);

    if (x->min > 0) {
        y.max = x->min - 1;
        alts_add(p, out, y);
    }
    if (x->max != COUNT_INF) {
        y.max = COUNT_INF;
        y.min = x->max + 1;
        alts_add(p, out, y);
    }
}

static bool
negate_array(struct alt_pool *p, const struct alt *x, struct alts *out)
{
    if (x->rest != NODE_ANY || x->unique)
        return false; /* "some item does not" is no form of ours */
    for (size_t i = 0; i < x->n_prefix; i++) {
        struct alt y = alt_any(p, ALT_ARRAY);
        if (x->prefix[i] == NODE_ANY)
            continue;
        y.n_prefix = i + 1;
        y.prefix = make(p, i + 1, sizeof *y.prefix);
        if (y.prefix == NULL)
            return false;
        for (size_t k = 0; k < i; k++)
            y.prefix[k] = NODE_ANY;
        y.prefix[i] = p->negated(p->maker, x->prefix[i]);
        y.min = (uint32_t)i + 1;
        alts_add(p, out, y);
    }
    negate_counts(p, x, out);
    return true;
}

static bool
negate_object(struct alt_pool *p, const struct alt *x, struct alts *out)
{
    if (x->n_regions != 1 || x->region[0].node != NODE_ANY ||
        x->region[0].key != p->rx->all)
        return false;
    for (size_t i = 0; i < x->n_members; i++) {
        const struct alt_member *m = &x->member[i];
        struct alt y = alt_any(p, ALT_OBJECT);
        if (m->required) {
            alt_require(p, &y, m->name, NODE_NEVER, false);
            alts_add(p, out, y);
            y = alt_any(p, ALT_OBJECT);
        }
        if (m->node == NODE_ANY)
            continue;
        alt_require(p, &y, m->name, p->negated(p->maker, m->node), true);
        alts_add(p, out, y);
    }
    negate_counts(p, x, out);
    return true;
}

/* What is of x's type and not in x. */
static bool
negate(struct alt_pool *p, const struct alt *x, struct alts *out)
{
    struct alt y = *x;

    switch (x->type) {
    case ALT_BOOL:
        y.bools = x->bools ^ 3;
        alts_add(p, out, y);
        return true;
    case ALT_NUMBER:
        y = alt_any(p, ALT_NUMBER);
        y.value = rx_and(p->rx, p->any_number, rx_not(p->rx, x->value));
        alts_add(p, out, y);
        return true;
    case ALT_STRING:
        y.value = rx_text_not(p->rx, x->value);
        alts_add(p, out, y);
        return true;
    case ALT_ARRAY:
        return negate_array(p, x, out);
    case ALT_OBJECT:
        return negate_object(p, x, out);
    default:
        return true; /* null: nothing is left of its type */
    }
}

bool
alts_negate(struct alt_pool *p, struct alts x, struct alts *out)
{
    *out = alts_any(p);
    for (size_t i = 0; i < x.n; i++) {
        struct alts other = {NULL, 0};
        for (int t = 0; t < ALT_TYPES; t++)
            if (t != x.v[i].type)
                alts_add(p, &other, alt_any(p, (enum alt_type)t));
        if (!negate(p, &x.v[i], &other))
            return false;
        *out = alts_intersect(p, *out, other);
    }
    return !p->failed;
}
