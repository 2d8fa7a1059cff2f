/*
 * Alternatives into rules.
 *
 * DESIGN. One rule a node. White space belongs to the punctuation: it may
 * follow "{", "[", ",", ":" and come before "}", "]", ",", ":", so that values
 * are the same wherever they stand. The members of an object come in their
 * order, then the others; between them a place says how far it is and whether
 * a comma is due: two places a member, so n optional members cost 2n places.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/lang/decimal.h"
#include "grammar/schema/keyword.h"
#include "json/json.h"

#define UNIQUE_MAX 64

uint32_t
shape_rule(struct alt_maker *m, uint32_t node)
{
    uint32_t rule;
    struct budget *b = m->pool.rx->budget;

    if (words_get(&m->rules, node, &rule))
        return rule;
    rule = net_rule(&m->a->net);
    words_put(&m->rules, b, node, rule);
    list32_push(&m->todo, b, node);
    return rule;
}

/* --- scalars ------------------------------------------------------------- */

static rx_id
number(struct alt_maker *m, const struct alt *x)
{
    struct rx_pool *p = m->pool.rx;
    rx_id whole = decimal_spell_integer(p, m->whole_digits), r;

    if (x->spell != RX_NONE)
        r = rx_and(p, x->value, x->spell);
    else if (x->integer && x->value == decimal_integer(p))
        return whole;
    else if (x->integer)
        return rx_and(p, x->value, whole);
    else
        return x->value == m->pool.any_number
            ? decimal_spell(p, m->whole_digits, m->part_digits, true)
            : rx_and(p, x->value, decimal_spell(p, m->whole_digits,
                                                m->part_digits, false));
    return x->integer ? rx_and(p, r, whole) : r;
}

static rx_id
scalar(struct alt_maker *m, const struct alt *x)
{
    struct rx_pool *p = m->pool.rx;
    rx_id r = RX_NONE;

    switch (x->type) {
    case ALT_NULL:
        return rx_literal(p, "null", 4);
    case ALT_BOOL:
        if (x->bools & 1)
            r = rx_literal(p, "false", 5);
        return x->bools & 2 ? rx_or(p, r, rx_literal(p, "true", 4)) : r;
    case ALT_NUMBER:
        return number(m, x);
    case ALT_STRING:
        return rx_json_string(p, x->value);
    default:
        return RX_NONE;
    }
}

/* --- punctuation --------------------------------------------------------- */

/* c with white space after it (where 'a'), before it ('b'), or both. */
static rx_id
mark(struct alt_maker *m, char c, bool before, bool after)
{
    struct rx_pool *p = m->pool.rx;
    rx_id r = rx_byte(p, (unsigned char)c);
    if (before)
        r = rx_cat(p, m->gap, r);
    return after ? rx_cat(p, r, m->gap) : r;
}

/* A JSON name and its colon. */
static rx_id
name_and_colon(struct alt_maker *m, rx_id name)
{
    return rx_cat(m->pool.rx, rx_json_string(m->pool.rx, name),
                  mark(m, ':', true, true));
}

/* --- arrays -------------------------------------------------------------- */

struct array {
    struct alt_maker *m;
    struct net *n;
    uint32_t rule, end;
    uint32_t min, max;    /* of the items after the prefix */
};

/* Items of one node, from a place with none yet (comma: one stands before). */
static void
array_rest(struct array *x, uint32_t from, bool comma, uint32_t node)
{
    struct net *n = x->n;
    uint32_t value = shape_rule(x->m, node);
    uint32_t one = net_place(n, x->rule), next = net_place(n, x->rule);
    bool counted = x->min > 0 || x->max != COUNT_INF;
    uint32_t last = x->max == COUNT_INF ? COUNT_INF : x->max - 1;
    uint32_t cap = x->max == COUNT_INF ? x->min : x->max;
    rx_id separator = mark(x->m, ',', true, true);

    if (comma)
        net_term(n, from, separator, next);
    else
        net_call(n, from, value, one);
    if (counted && !comma)
        net_count(n, 0, last, cap);
    net_term(n, one, separator, next);
    if (counted)
        net_op(n, NET_RANGE, 0, last);
    net_call(n, next, value, one);
    if (counted)
        net_count(n, 0, last, cap);
    net_term(n, one, mark(x->m, ']', true, false), x->end);
    if (x->min > 0)
        net_op(n, NET_RANGE, x->min, COUNT_INF);
}

/* The value of a number's text without zeros that change nothing. */
static struct str
trim_zeros(struct str s)
{
    if (s.n > 0 && s.p[0] != '"' && memchr(s.p, '.', s.n)) {
        while (s.p[s.n - 1] == '0')
            s.n--;
        if (s.p[s.n - 1] == '.')
            s.n--;
    }
    return str_eq(s, STR("-0")) ? STR("0") : s;
}

struct words_found {
    struct buf text[UNIQUE_MAX * 2];
    size_t n;
};

/* All strings of r, if they are few. */
static bool
list_strings(struct rx_pool *p, rx_id r, struct buf *prefix,
             struct words_found *w)
{
    if (prefix->len > 4096 || !rx_live(p, r))
        return prefix->len <= 4096;
    if (rx_nullable(p, r)) {
        if (w->n == UNIQUE_MAX * 2)
            return false;
        if (buf_append(&w->text[w->n++], prefix->data, prefix->len) != 0)
            return false;
    }
    uint32_t part = p->node[r].partition;
    for (int c = 0; c < 256; c++) {
        rx_id d = rx_step(p, r, (unsigned char)c);
        if (d == RX_NONE || !rx_live(p, d))
            continue;
        buf_putc(prefix, (char)c);
        bool ok = list_strings(p, d, prefix, w);
        prefix->len--;
        if (!ok)
            return false;
        if (p->parts.v[part].n == 1)
            return false; /* every byte: surely not few */
    }
    return true;
}

/* Distinct items out of few values: a flag for each. */
static bool
array_unique(struct array *x, uint32_t from, rx_id values)
{
    struct rx_pool *p = x->m->pool.rx;
    struct net *n = x->n;
    struct words_found *w = calloc(1, sizeof *w);
    struct buf prefix = {0};
    uint32_t one = net_place(n, x->rule), next = net_place(n, x->rule);
    struct str seen[UNIQUE_MAX];
    uint32_t n_seen = 0;
    bool ok = w && list_strings(p, values, &prefix, w);

    for (size_t i = 0; ok && i < w->n; i++) {
        struct str s = {w->text[i].data, w->text[i].len}, t = trim_zeros(s);
        uint32_t bit = 0;
        while (bit < n_seen && !str_eq(seen[bit], t))
            bit++;
        if (bit == UNIQUE_MAX) {
            ok = false;
            break;
        }
        if (bit == n_seen)
            seen[n_seen++] = t;
        rx_id rx = rx_literal(p, s.p, s.n);
        uint32_t last = x->max == COUNT_INF ? UNIQUE_MAX : x->max - 1;
        net_term(n, from, rx, one);
        net_op(n, NET_SET, bit, last);
        net_term(n, next, rx, one);
        net_op(n, NET_SET, bit, last);
    }
    if (ok) {
        uint32_t most = x->max < n_seen ? x->max : n_seen;
        net_term(n, one, mark(x->m, ',', true, true), next);
        net_op(n, NET_BITS, 0, most ? most - 1 : 0);
        if (x->min <= n_seen) {
            net_term(n, one, mark(x->m, ']', true, false), x->end);
            net_op(n, NET_BITS, x->min, UNIQUE_MAX);
        }
    }
    buf_free(&prefix);
    for (size_t i = 0; w && i < w->n; i++)
        buf_free(&w->text[i]);
    free(w);
    return ok;
}

/* The language of a node that has only scalars. */
static bool
scalars_of(struct alt_maker *m, uint32_t node, rx_id *out)
{
    struct alts l;
    bool cycle;

    *out = RX_NONE;
    if (!node_alts(m, node, &l, &cycle))
        return false;
    for (size_t i = 0; i < l.n; i++) {
        if (l.v[i].type == ALT_ARRAY || l.v[i].type == ALT_OBJECT)
            return false;
        *out = rx_or(m->pool.rx, *out, scalar(m, &l.v[i]));
    }
    return true;
}

static void
array(struct alt_maker *m, const struct alt *x, uint32_t rule, uint32_t end)
{
    struct net *n = &m->a->net;
    struct array s = {m, n, rule, end, 0, x->max};
    uint32_t at = net_place(n, rule), i = 0;

    net_term(n, n->rule[rule].start, mark(m, '[', false, true), at);
    if (x->min == 0)
        net_term(n, at, mark(m, ']', false, false), end);
    if (x->unique && x->max > 1) {
        rx_id values;
        s.min = x->min;
        if (x->n_prefix > 0 || !scalars_of(m, x->rest, &values) ||
            !array_unique(&s, at, values))
            schema_fail(m, ERR_UNSUPPORTED, "", "uniqueItems",
                        "only for items out of at most 64 scalar values");
        return;
    }
    for (; i < x->n_prefix && i < x->max; i++) {
        uint32_t item = at, after = net_place(n, rule);
        if (i > 0) {
            item = net_place(n, rule);
            net_term(n, at, mark(m, ',', true, true), item);
        }
        net_call(n, item, shape_rule(m, x->prefix[i]), after);
        at = after;
        if (i + 1 >= x->min)
            net_term(n, at, mark(m, ']', true, false), end);
    }
    s.min = x->min > i ? x->min - i : 0;
    s.max = x->max == COUNT_INF ? COUNT_INF : x->max - i;
    if (s.max > 0 && x->rest != NODE_NEVER)
        array_rest(&s, at, i > 0, x->rest);
}

/* --- objects ------------------------------------------------------------- */

struct object {
    struct alt_maker *m;
    struct net *n;
    const struct alt *x;
    uint32_t rule;
    uint32_t *required_after; /* members required from i on */
    bool open;                /* other names are possible */
    bool counted;
    uint32_t cap;
};

/* A name at `from`, its value, then `to`; comma: one comes first. hi: the
 * most members there may be before it. */
static void
member_edge(struct object *o, uint32_t from, bool comma, rx_id name,
            uint32_t value, uint32_t hi)
{
    rx_id r = name_and_colon(o->m, name);
    if (comma)
        r = rx_cat(o->m->pool.rx, mark(o->m, ',', true, true), r);
    net_term(o->n, from, r, value);
    if (o->x->max != COUNT_INF)
        net_op(o->n, NET_RANGE, 0, hi);
}

static void
value_edge(struct object *o, uint32_t value, uint32_t node, uint32_t to)
{
    net_call(o->n, value, shape_rule(o->m, node), to);
    if (o->counted)
        net_count(o->n, 0, COUNT_INF, o->cap);
}

/* Leaving member i out needs enough others. */
static void
skip_edge(struct object *o, size_t i, uint32_t from, uint32_t to)
{
    uint32_t left = (uint32_t)(o->x->n_members - i - 1);
    net_skip(o->n, from, to);
    if (!o->open && o->x->min > left)
        net_op(o->n, NET_RANGE, o->x->min - left, COUNT_INF);
}

static void
others(struct object *o, uint32_t first, uint32_t next)
{
    struct rx_pool *p = o->m->pool.rx;
    const struct alt *x = o->x;
    rx_id names = RX_NONE;
    struct str *v = calloc(x->n_members + 1, sizeof *v);

    if (v == NULL) {
        p->budget->rc = ERR_NOMEM;
        return;
    }
    for (size_t i = 0; i < x->n_members; i++)
        v[i] = x->member[i].name;
    names = rx_strings(p, v, x->n_members);
    free(v);
    for (size_t i = 0; i < x->n_regions; i++) {
        rx_id key = x->region[i].key;
        uint32_t value = net_place(o->n, o->rule);
        uint32_t hi = x->max == COUNT_INF ? COUNT_INF : x->max - 1;
        if (names != RX_NONE)
            key = rx_and(p, key, rx_not(p, names));
        if (x->region[i].node == NODE_NEVER || !rx_live(p, key))
            continue;
        member_edge(o, first, false, key, value, hi);
        member_edge(o, next, true, key, value, hi);
        value_edge(o, value, x->region[i].node, next);
    }
}

static void
members(struct object *o, uint32_t first, uint32_t next, uint32_t end)
{
    const struct alt *x = o->x;

    for (size_t i = 0; i < x->n_members; i++) {
        const struct alt_member *y = &x->member[i];
        uint32_t first_to = net_place(o->n, o->rule);
        uint32_t next_to = net_place(o->n, o->rule);
        if (y->node != NODE_NEVER) {
            uint32_t value = net_place(o->n, o->rule);
            uint32_t hi = x->max == COUNT_INF ? COUNT_INF
                : x->max - 1 - o->required_after[i + 1];
            rx_id name = rx_literal(o->m->pool.rx, y->name.p, y->name.n);
            if (hi == COUNT_INF || hi < x->max) {
                member_edge(o, first, false, name, value, hi);
                member_edge(o, next, true, name, value, hi);
                value_edge(o, value, y->node, next_to);
            }
        }
        if (!y->required) {
            skip_edge(o, i, first, first_to);
            skip_edge(o, i, next, next_to);
        }
        first = first_to;
        next = next_to;
    }
    if (o->open)
        others(o, first, next);
    if (x->min == 0)
        net_term(o->n, first, mark(o->m, '}', false, false), end);
    net_term(o->n, next, mark(o->m, '}', true, false), end);
    if (x->min > 0)
        net_op(o->n, NET_RANGE, x->min, COUNT_INF);
}

static void
object(struct alt_maker *m, const struct alt *x, uint32_t rule, uint32_t end)
{
    struct net *n = &m->a->net;
    struct object o = {.m = m, .n = n, .x = x, .rule = rule};
    uint32_t first = net_place(n, rule), next = net_place(n, rule);
    uint32_t possible = 0;

    o.required_after = arena_calloc(m->pool.arena, x->n_members + 1,
                                    sizeof *o.required_after);
    if (o.required_after == NULL)
        return;
    for (size_t i = x->n_members; i-- > 0;) {
        o.required_after[i] = o.required_after[i + 1] + x->member[i].required;
        possible += x->member[i].node != NODE_NEVER;
    }
    for (size_t i = 0; i < x->n_regions; i++)
        o.open = o.open || x->region[i].node != NODE_NEVER;
    if (o.required_after[0] > x->max || (!o.open && possible < x->min))
        return;
    o.counted = x->min > 0 || x->max != COUNT_INF;
    o.cap = x->max == COUNT_INF ? x->min : x->max;
    net_term(n, n->rule[rule].start, mark(m, '{', false, true), first);
    if (x->max == 0)
        net_term(n, first, mark(m, '}', false, false), end);
    else
        members(&o, first, next, end);
}

/* --- all ----------------------------------------------------------------- */

static bool
shape(struct alt_maker *m, uint32_t node)
{
    struct net *n = &m->a->net;
    struct alts l;
    bool cycle;
    rx_id scalars = RX_NONE;

    if (!node_alts(m, node, &l, &cycle))
        return cycle && m->rc == 0
            ? schema_fail(m, ERR_UNSUPPORTED, "", NULL, "it refers to itself "
                          "with nothing in between") : false;
    uint32_t rule = shape_rule(m, node), end = net_place(n, rule);
    if (end == NET_NONE)
        return false;
    net_final(n, end);
    for (size_t i = 0; i < l.n && m->rc == 0; i++) {
        if (l.v[i].type == ALT_ARRAY)
            array(m, &l.v[i], rule, end);
        else if (l.v[i].type == ALT_OBJECT)
            object(m, &l.v[i], rule, end);
        else
            scalars = rx_or(m->pool.rx, scalars, scalar(m, &l.v[i]));
    }
    net_term(n, n->rule[rule].start, scalars, end);
    return m->rc == 0 && m->pool.rx->budget->rc == 0;
}

bool
shape_all(struct alt_maker *m)
{
    for (size_t i = 0; i < m->todo.n && m->rc == 0; i++)
        if (!shape(m, m->todo.v[i]))
            return false;
    return m->rc == 0;
}
