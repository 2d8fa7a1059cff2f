/* Nodes: sets of schemas that hold together. alt.h says why. */
#include "config.h"

#include "grammar/schema/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/lang/decimal.h"
#include "grammar/schema/keyword.h"
#include "json/json.h"

#define TEXT_MAX (1u << 20)
#define NODES_MAX 50000
#define EXPAND_DEPTH 128
#define EMPTY_DEPTH 8

bool
schema_fail(struct alt_maker *m, int code, const char *path,
            const char *keyword, const char *what)
{
    if (m->rc == 0)
        m->rc = err_set(m->e, code, "#%s%s%s: %s", path,
                        keyword ? "/" : "", keyword ? keyword : "", what);
    return false;
}

const char *
schema_path(struct alt_maker *m, const char *path, const char *key,
            const char *name)
{
    size_t n = strlen(path) + strlen(key) + 3, k;
    size_t most = n + (name ? 2 * strlen(name) : 0);
    char *p = arena_alloc(m->pool.arena, most + 1);

    if (p == NULL) {
        m->pool.failed = true;
        return "";
    }
    k = (size_t)snprintf(p, n, "%s/%s", path, key);
    if (name)
        p[k++] = '/';
    for (; name && *name; name++) {
        if (*name == '~' || *name == '/') {
            p[k++] = '~';
            p[k++] = *name == '~' ? '0' : '1';
        } else {
            p[k++] = *name;
        }
    }
    p[k] = '\0';
    return p;
}

/* --- making nodes -------------------------------------------------------- */

static uint32_t
set_node(struct alt_maker *m, const uint32_t *atom, size_t n)
{
    bool fresh;
    uint32_t id = seqs_intern(&m->sets, m->pool.rx->budget, atom, n, &fresh);

    if (id == SEQS_FAIL || !fresh)
        return id == SEQS_FAIL ? NODE_NEVER : id;
    struct node *v = budget_grow(m->pool.rx->budget, m->node, &m->cap_nodes,
                                 m->sets.n, sizeof *v);
    if (v == NULL)
        return NODE_NEVER;
    m->node = v;
    v[id] = (struct node){.state = 0};
    if (m->sets.n > NODES_MAX)
        schema_fail(m, ERR_LIMIT, "", NULL, "the schema is too complex");
    return id;
}

static uint32_t
add_atom(struct alt_maker *m, struct atom x)
{
    struct atom *v = budget_grow(m->pool.rx->budget, m->atom, &m->cap_atoms,
                                 m->n_atoms + 1, sizeof *v);
    if (v == NULL)
        return NODE_NEVER;
    m->atom = v;
    v[m->n_atoms] = x;
    uint32_t id = (uint32_t)m->n_atoms++;
    return set_node(m, &id, 1);
}

static uint32_t
json_node(struct alt_maker *m, struct atom x)
{
    uint64_t key = (uint64_t)(uintptr_t)x.json | x.kind;
    uint32_t node;

    if (words_get(&m->by_json, key, &node))
        return node;
    node = add_atom(m, x);
    words_put(&m->by_json, m->pool.rx->budget, key, node);
    return node;
}

uint32_t
schema_node(struct alt_maker *m, struct json_object *json, const char *path)
{
    if (json && json_object_is_type(json, json_type_boolean))
        return json_object_get_boolean(json) ? NODE_ANY : NODE_NEVER;
    if (!json_object_is_type(json, json_type_object)) {
        schema_fail(m, ERR_FORMAT, path, NULL,
                    "a schema must be an object or a boolean");
        return NODE_NEVER;
    }
    if (json_object_object_length(json) == 0)
        return NODE_ANY;
    return json_node(m, (struct atom){.kind = ATOM_SCHEMA, .json = json,
                                      .path = path});
}

uint32_t
schema_const_node(struct alt_maker *m, struct json_object *json,
                  const char *path)
{
    return json_node(m, (struct atom){.kind = ATOM_CONST, .json = json,
                                      .path = path});
}

static int
compare(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static uint32_t
node_both(struct alt_maker *m, uint32_t x, uint32_t y)
{
    struct list32 l = {0};
    struct budget *b = m->pool.rx->budget;
    size_t n, kept = 0;

    if (x == y || y == NODE_ANY)
        return x;
    if (x == NODE_ANY)
        return y;
    if (x == NODE_NEVER || y == NODE_NEVER)
        return NODE_NEVER;
    for (int side = 0; side < 2; side++) {
        const uint32_t *v = seqs_get(&m->sets, side ? y : x, &n);
        for (size_t i = 0; i < n; i++)
            if (!list32_push(&l, b, v[i]))
                n = 0;
    }
    if (l.n > 0)
        qsort(l.v, l.n, sizeof *l.v, compare);
    for (size_t i = 0; i < l.n; i++)
        if (kept == 0 || l.v[i] != l.v[kept - 1])
            l.v[kept++] = l.v[i];
    uint32_t id = set_node(m, l.v, kept);
    b->bytes -= l.cap * sizeof *l.v;
    list32_free(&l);
    return id;
}

static uint32_t
node_negated(struct alt_maker *m, uint32_t node)
{
    uint32_t known;
    uint64_t key = (uint64_t)node << 8 | ATOM_NOT | (uint64_t)1 << 63;

    if (node == NODE_ANY || node == NODE_NEVER)
        return node == NODE_ANY ? NODE_NEVER : NODE_ANY;
    if (words_get(&m->by_json, key, &known))
        return known;
    size_t n;
    uint32_t first = seqs_get(&m->sets, node, &n)[0];
    known = add_atom(m, (struct atom){.kind = ATOM_NOT, .node = node,
                                      .path = m->atom[first].path});
    words_put(&m->by_json, m->pool.rx->budget, key, known);
    return known;
}

/* --- expanding them ------------------------------------------------------ */

static bool
fill_atom(struct alt_maker *m, struct atom x, struct alts *out, bool *cycle)
{
    struct alts inner;

    switch (x.kind) {
    case ATOM_SCHEMA:
        return keyword_alts(m, x.json, x.path, out);
    case ATOM_CONST:
        return constant_alts(m, x.json, x.path, out);
    default:
        if (!node_alts(m, x.node, &inner, cycle))
            return false;
        if (!alts_negate(&m->pool, inner, out))
            return schema_fail(m, ERR_UNSUPPORTED, x.path, NULL,
                               "the opposite of this cannot be enforced");
        return true;
    }
}

static bool
atom_alts(struct alt_maker *m, uint32_t id, struct alts *out, bool *cycle)
{
    struct alts got = {NULL, 0};

    if (m->atom[id].state == 2) {
        *out = m->atom[id].alts;
        return true;
    }
    if (m->atom[id].state == 1) {
        *cycle = true;
        return false;
    }
    if (++m->depth > EXPAND_DEPTH)
        schema_fail(m, ERR_LIMIT, m->atom[id].path, NULL, "nested too deep");
    m->atom[id].state = 1;
    bool ok = m->rc == 0 && fill_atom(m, m->atom[id], &got, cycle);
    m->depth--;
    m->atom[id].state = ok ? 2 : 0;
    m->atom[id].alts = got;
    *out = got;
    return ok;
}

bool
node_alts(struct alt_maker *m, uint32_t node, struct alts *out, bool *cycle)
{
    struct alts all = {NULL, 0}, one;
    size_t n;

    *cycle = false;
    if (m->node[node].state == 2) {
        *out = m->node[node].alts;
        return true;
    }
    if (node == NODE_ANY)
        all = alts_any(&m->pool);
    for (size_t i = 0; node != NODE_NEVER; i++) {
        const uint32_t *atom = seqs_get(&m->sets, node, &n);
        if (i == n)
            break;
        uint32_t id = atom[i];
        if (!atom_alts(m, id, &one, cycle))
            return false;
        all = i == 0 ? one : alts_intersect(&m->pool, all, one);
        if (m->pool.failed)
            return schema_fail(m, ERR_LIMIT, m->atom[id].path, NULL,
                               "too many alternatives");
    }
    m->node[node].state = 2;
    m->node[node].alts = all;
    *out = all;
    return m->rc == 0 && m->pool.rx->budget->rc == 0;
}

/* --- emptiness ----------------------------------------------------------- */

static bool
node_empty(struct alt_maker *m, uint32_t node, int depth);

static bool
alt_empty(struct alt_maker *m, const struct alt *x, int depth)
{
    for (size_t i = 0; x->type == ALT_OBJECT && i < x->n_members; i++)
        if (x->member[i].required &&
            node_empty(m, x->member[i].node, depth - 1))
            return true;
    for (size_t i = 0; x->type == ALT_ARRAY && i < x->min &&
         i <= x->n_prefix; i++)
        if (node_empty(m, i < x->n_prefix ? x->prefix[i] : x->rest,
                       depth - 1))
            return true;
    return false;
}

/* False also when it is not known: some other expansion is under way. */
static bool
node_empty(struct alt_maker *m, uint32_t node, int depth)
{
    struct alts l;
    bool cycle;

    if (node == NODE_ANY || node == NODE_NEVER)
        return node == NODE_NEVER;
    if (depth == 0 || m->rc != 0 || !node_alts(m, node, &l, &cycle))
        return false;
    for (size_t i = 0; i < l.n; i++)
        if (!alt_empty(m, &l.v[i], depth))
            return false;
    return true;
}

bool
alts_disjoint(struct alt_maker *m, struct alts x, struct alts y)
{
    struct alts both = alts_intersect(&m->pool, x, y);
    for (size_t i = 0; i < both.n; i++)
        if (!alt_empty(m, &both.v[i], EMPTY_DEPTH))
            return false;
    return !m->pool.failed;
}

/* --- the whole ----------------------------------------------------------- */

static rx_id
make_gap(struct rx_pool *p)
{
    struct byteset blank = {{0}};
    byteset_add(&blank, ' ');
    byteset_add(&blank, '\t');
    rx_id line = rx_cat(p, rx_optional(p, rx_byte(p, '\r')),
                        rx_cat(p, rx_byte(p, '\n'),
                               rx_repeat(p, rx_class(p, &blank), 0, 32)));
    return rx_optional(p, rx_or(p, rx_byte(p, ' '), line));
}

static bool
maker_init(struct alt_maker *m, struct automaton *a, bool compact,
           struct err *e)
{
    static const uint32_t never = UINT32_MAX;

    *m = (struct alt_maker){.a = a, .e = e, .compact = compact,
                            .whole_digits = 19, .part_digits = 17};
    m->pool = (struct alt_pool){.a = a, .rx = &a->rx, .maker = m,
                                .both = node_both, .negated = node_negated};
    m->pool.arena = arena_create(0, a->budget.max_bytes);
    if (m->pool.arena == NULL)
        return false;
    m->pool.any_number = decimal_any(&a->rx);
    m->gap = compact ? RX_EMPTY : make_gap(&a->rx);
    /* NODE_ANY is the empty set, NODE_NEVER one that no other gives. */
    set_node(m, NULL, 0);
    set_node(m, &never, 1);
    return a->budget.rc == 0;
}

static void
maker_free(struct alt_maker *m)
{
    free(m->atom);
    free(m->node);
    words_free(&m->by_json);
    words_free(&m->rules);
    seqs_free(&m->sets);
    list32_free(&m->todo);
    arena_destroy(m->pool.arena);
}

/* Drafts up to 7 hide the siblings of $ref. */
static bool
is_legacy(struct json_object *root)
{
    struct str s = json_str(json_get(root, "$schema"));
    static const char *const old[] = {"draft-04", "draft-06", "draft-07",
                                      "draft-03"};
    for (size_t i = 0; i < 4; i++)
        if (s.p && strstr(s.p, old[i]))
            return true;
    return false;
}

int
schema_rule(struct automaton *a, struct str text, bool compact,
            uint32_t *rule, struct err *e)
{
    struct alt_maker m;
    struct json_object *root = NULL;

    if (text.n > TEXT_MAX)
        return err_set(e, ERR_LIMIT, "the schema is longer than %u bytes",
                       TEXT_MAX);
    int rc = json_parse(text.p, text.n, SCHEMA_DEPTH, JSON_BOUNDED, &root, e);
    if (rc != 0) {
        err_prefix(e, "the schema is not JSON: ");
        return rc;
    }
    if (maker_init(&m, a, compact, e)) {
        m.root = root;
        m.legacy_ref = is_legacy(root);
        *rule = shape_rule(&m, schema_node(&m, root, ""));
        shape_all(&m);
    }
    rc = m.rc;
    if (rc == 0 && (a->budget.rc != 0 || m.pool.failed))
        rc = err_set(e, a->budget.rc ? a->budget.rc : ERR_LIMIT,
                     "the schema is too complex");
    maker_free(&m);
    json_object_put(root);
    return rc;
}

int
schema_object_rule(struct automaton *a, bool compact, uint32_t *rule,
                   struct err *e)
{
    return schema_rule(a, STR("{\"type\": \"object\"}"), compact, rule, e);
}
