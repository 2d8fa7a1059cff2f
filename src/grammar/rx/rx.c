/*
 * Expressions: making them, in a normal form.
 *
 * DESIGN. Nodes are hash-consed. The constructors keep a normal form (OR and
 * AND flat, sorted, without duplicates, classes merged, CAT to the right), so
 * that the derivatives of an expression are finitely many and few. Every node
 * knows the partition of the bytes that its derivatives do not tell apart:
 * rows of the automaton are as wide as that, and a new expression does not
 * disturb the rows of others.
 *
 * RX_TEXT marks languages of whole UTF-8 strings. They absorb into "any text",
 * which is what keeps searches (any text, pattern, any text) small.
 */
#include "config.h"

#include "grammar/rx/rx.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "grammar/rx/charset.h"

static uint32_t
part_of(const struct rx_pool *p, rx_id r)
{
    return p->node[r].partition;
}

static uint32_t
product(struct rx_pool *p, uint32_t x, uint32_t y)
{
    if (x == UINT32_MAX || y == UINT32_MAX)
        return UINT32_MAX;
    return partition_product(&p->parts, p->budget, x, y);
}

/* --- what a node is ------------------------------------------------------ */

static bool
multiple_nullable(const struct rx_node *x)
{
    uint64_t r = x->b;
    for (uint32_t used = x->n ? x->n - 1 : 0; used < x->m; used++)
        r = r * 10 % x->a;
    return r % x->a == 0;
}

static uint32_t
node_partition(struct rx_pool *p, const struct rx_node *x)
{
    size_t n;

    switch (x->kind) {
    case RX_KIND_CLASS: {
        size_t words;
        uint16_t of[256];
        struct byteset s;
        memcpy(&s, seqs_get(&p->sets, x->a, &words), sizeof s);
        for (int c = 0; c < 256; c++)
            of[c] = byteset_has(&s, (unsigned char)c);
        return partition_make(&p->parts, p->budget, of);
    }
    case RX_KIND_CAT:
        return rx_nullable(p, x->a)
            ? product(p, part_of(p, x->a), part_of(p, x->b))
            : part_of(p, x->a);
    case RX_KIND_OR:
    case RX_KIND_AND: {
        const uint32_t *v = seqs_get(&p->lists, x->a, &n);
        uint32_t part = 0;
        for (size_t i = 0; i < n && part != UINT32_MAX; i++)
            part = product(p, part, part_of(p, v[i]));
        return part;
    }
    case RX_KIND_NOT:
    case RX_KIND_REP:
    case RX_KIND_END:
        return part_of(p, x->a);
    case RX_KIND_QUOTE:
        return product(p, part_of(p, x->a), p->quote_part);
    case RX_KIND_ESCAPE:
        return x->m == 0 ? p->escape_part : x->m <= 2 ? p->zero_part
            : x->m == 3 ? p->zero_one_part : p->hex_part;
    case RX_KIND_MULTIPLE:
        return p->digit_part;
    default:
        return 0;
    }
}

static uint8_t
list_flags(const struct rx_pool *p, const struct rx_node *x)
{
    size_t n;
    const uint32_t *v = seqs_get(&p->lists, x->a, &n);
    uint8_t all = RX_NULLABLE | RX_TEXT | RX_SURE, any = 0;

    for (size_t i = 0; i < n; i++) {
        all &= p->node[v[i]].flags;
        any |= p->node[v[i]].flags;
    }
    if (x->kind == RX_KIND_OR)
        return (uint8_t)((all & RX_TEXT) | (any & (RX_NULLABLE | RX_SURE)));
    return (uint8_t)((all & RX_NULLABLE) | (any & RX_TEXT));
}

static uint8_t
class_flags(const struct rx_pool *p, const struct rx_node *x)
{
    size_t n;
    struct byteset s;
    memcpy(&s, seqs_get(&p->sets, x->a, &n), sizeof s);
    return RX_SURE | (s.w[2] | s.w[3] ? 0 : RX_TEXT);
}

static uint8_t
node_flags(struct rx_pool *p, const struct rx_node *x)
{
    bool has_node = x->kind == RX_KIND_CAT || x->kind == RX_KIND_NOT ||
        x->kind == RX_KIND_REP || x->kind == RX_KIND_QUOTE;
    uint8_t a = has_node ? p->node[x->a].flags : 0;

    switch (x->kind) {
    case RX_KIND_EMPTY:
        return RX_NULLABLE | RX_TEXT | RX_SURE;
    case RX_KIND_CLASS:
        return class_flags(p, x);
    case RX_KIND_CAT:
        return a & p->node[x->b].flags;
    case RX_KIND_OR:
    case RX_KIND_AND:
        return list_flags(p, x);
    case RX_KIND_NOT:
        return a & RX_NULLABLE ? 0 : RX_NULLABLE;
    case RX_KIND_REP:
        return (uint8_t)((a & (RX_TEXT | RX_SURE)) |
                         (x->m == 0 ? RX_NULLABLE | RX_SURE : 0) |
                         (a & RX_NULLABLE));
    case RX_KIND_QUOTE:
        return a & RX_SURE;
    case RX_KIND_MULTIPLE:
        return (uint8_t)(RX_SURE |
                         (multiple_nullable(x) ? RX_NULLABLE : 0));
    case RX_KIND_END:
        return rx_nullable(p, rx_step(p, x->a, 0xff)) ? RX_NULLABLE : 0;
    default:
        return RX_TEXT;
    }
}

static rx_id
make(struct rx_pool *p, struct rx_node x)
{
    const uint32_t key[5] = {x.kind, x.a, x.b, x.m, x.n};
    bool fresh;

    if (p->budget->rc != 0)
        return RX_NONE;
    uint32_t id = seqs_intern(&p->keys, p->budget, key, 5, &fresh);
    if (id == SEQS_FAIL)
        return RX_NONE;
    if (!fresh)
        return id;
    budget_work(p->budget, 8);
    /* The slot is reserved first: what follows may make more nodes. */
    struct rx_node *v = budget_grow(p->budget, p->node, &p->cap, p->n + 1,
                                    sizeof *v);
    if (v == NULL)
        return RX_NONE;
    p->node = v;
    v[p->n++] = x;
    uint8_t flags = node_flags(p, &x);
    uint32_t part = node_partition(p, &x);
    if (part == UINT32_MAX) {
        p->budget->rc = p->budget->rc ? p->budget->rc : ERR_LIMIT;
        part = 0;
    }
    p->node[id].flags = flags;
    p->node[id].partition = part;
    return id;
}

/* --- simple ones --------------------------------------------------------- */

rx_id
rx_class(struct rx_pool *p, const struct byteset *s)
{
    uint32_t words[8];

    if (byteset_empty(s))
        return RX_NONE;
    memcpy(words, s, sizeof words);
    uint32_t set = seqs_intern(&p->sets, p->budget, words, 8, NULL);
    if (set == SEQS_FAIL)
        return RX_NONE;
    return make(p, (struct rx_node){.kind = RX_KIND_CLASS, .a = set});
}

rx_id
rx_byte(struct rx_pool *p, unsigned char c)
{
    struct byteset s = {{0}};
    byteset_add(&s, c);
    return rx_class(p, &s);
}

rx_id
rx_literal(struct rx_pool *p, const char *s, size_t n)
{
    rx_id r = RX_EMPTY;
    bool text = true;

    for (size_t i = n; i > 0; i--)
        r = rx_cat(p, rx_byte(p, (unsigned char)s[i - 1]), r);
    for (size_t i = 0; i < n; i++)
        text = text && (unsigned char)s[i] < 0x80;
    /* Callers pass whole UTF-8, so the whole of it is text. */
    if (!text && r != RX_NONE)
        p->node[r].flags |= RX_TEXT;
    return r;
}

rx_id
rx_cat(struct rx_pool *p, rx_id a, rx_id b)
{
    if (a == RX_NONE || b == RX_NONE)
        return RX_NONE;
    if (a == RX_EMPTY)
        return b;
    if (b == RX_EMPTY)
        return a;
    if (p->node[a].kind != RX_KIND_CAT)
        return make(p, (struct rx_node){.kind = RX_KIND_CAT, .a = a, .b = b});
    struct list32 part = {0};
    rx_id r = b;
    bool ok = true;
    for (; ok && p->node[a].kind == RX_KIND_CAT; a = p->node[a].b)
        ok = list32_push(&part, p->budget, p->node[a].a);
    if (ok)
        r = rx_cat(p, a, r);
    for (size_t i = part.n; ok && r != RX_NONE && i > 0; i--)
        r = make(p, (struct rx_node){.kind = RX_KIND_CAT, .a = part.v[i - 1],
                                     .b = r});
    p->budget->bytes -= part.cap * sizeof *part.v;
    list32_free(&part);
    return ok ? r : RX_NONE;
}

rx_id
rx_cat_n(struct rx_pool *p, const rx_id *v, size_t n)
{
    rx_id r = RX_EMPTY;
    for (size_t i = n; i > 0; i--)
        r = rx_cat(p, v[i - 1], r);
    return r;
}

rx_id
rx_repeat(struct rx_pool *p, rx_id a, uint32_t min, uint32_t max)
{
    if (max == 0 || a == RX_EMPTY)
        return RX_EMPTY;
    if (a == RX_NONE)
        return min == 0 ? RX_EMPTY : RX_NONE;
    if (min == 1 && max == 1)
        return a;
    if (rx_nullable(p, a))
        min = 0;
    if (p->node[a].kind == RX_KIND_REP && p->node[a].m == 0 &&
        p->node[a].n == RX_INF)
        return a;
    return make(p, (struct rx_node){.kind = RX_KIND_REP, .a = a, .m = min,
                                    .n = max});
}

rx_id
rx_optional(struct rx_pool *p, rx_id a)
{
    return rx_or(p, RX_EMPTY, a);
}

/* --- OR and AND ---------------------------------------------------------- */

static int
compare(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static struct byteset
class_set(const struct rx_pool *p, rx_id r)
{
    struct byteset s;
    size_t n;
    memcpy(&s, seqs_get(&p->sets, p->node[r].a, &n), sizeof s);
    return s;
}

/* Operands of kind in v, nested ones of the same kind opened, into l. */
static bool
flatten(struct rx_pool *p, int kind, const rx_id *v, size_t n,
        struct list32 *l)
{
    for (size_t i = 0; i < n; i++) {
        if (p->node[v[i]].kind != kind) {
            if (!list32_push(l, p->budget, v[i]))
                return false;
            continue;
        }
        size_t k;
        const uint32_t *inner = seqs_get(&p->lists, p->node[v[i]].a, &k);
        for (size_t j = 0; j < k; j++)
            if (!list32_push(l, p->budget, inner[j]))
                return false;
    }
    return budget_work(p->budget, l->n);
}

/* All classes in l become one. */
static void
merge_classes(struct rx_pool *p, int kind, struct list32 *l)
{
    struct byteset sum = {{0}};
    size_t kept = 0, classes = 0;

    for (size_t i = 0; i < l->n; i++) {
        if (p->node[l->v[i]].kind != RX_KIND_CLASS) {
            l->v[kept++] = l->v[i];
            continue;
        }
        struct byteset s = class_set(p, l->v[i]);
        for (int w = 0; w < 4; w++)
            sum.w[w] = classes == 0 ? s.w[w]
                : kind == RX_KIND_OR ? sum.w[w] | s.w[w] : sum.w[w] & s.w[w];
        classes++;
    }
    if (classes > 0)
        l->v[kept++] = rx_class(p, &sum);
    l->n = kept;
}

/* a{0,3} | a{0,5} is a{0,5}. */
static void
merge_repeats(struct rx_pool *p, struct list32 *l)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++) {
        const struct rx_node *x = &p->node[l->v[i]];
        bool inside = false;
        for (size_t j = 0; x->kind == RX_KIND_REP && j < l->n; j++) {
            const struct rx_node *y = &p->node[l->v[j]];
            /* Of equal ones the first stays. */
            inside = inside || ((l->v[j] != l->v[i] || j < i) && j != i &&
                                y->kind == RX_KIND_REP && y->a == x->a &&
                                y->m <= x->m && y->n >= x->n);
        }
        if (!inside)
            l->v[kept++] = l->v[i];
    }
    l->n = kept;
}

static rx_id
finish_list(struct rx_pool *p, int kind, struct list32 *l)
{
    size_t kept = 0;

    qsort(l->v, l->n, sizeof *l->v, compare);
    for (size_t i = 0; i < l->n; i++)
        if (i == 0 || l->v[i] != l->v[i - 1])
            l->v[kept++] = l->v[i];
    l->n = kept;
    if (l->n == 1)
        return l->v[0];
    uint32_t list = seqs_intern(&p->lists, p->budget, l->v, l->n, NULL);
    if (list == SEQS_FAIL)
        return RX_NONE;
    return make(p, (struct rx_node){.kind = (uint8_t)kind, .a = list});
}

static rx_id
or_list(struct rx_pool *p, struct list32 *l)
{
    bool all = false, empty = false, nullable = false;
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++)
        all = all || l->v[i] == p->all;
    for (size_t i = 0; i < l->n; i++) {
        rx_id r = l->v[i];
        const struct rx_node *x = &p->node[r];
        if (x->kind == RX_KIND_NOT && x->a == RX_NONE)
            return r;
        if (r == RX_NONE || (all && r != p->all && x->flags & RX_TEXT))
            continue;
        if (r == RX_EMPTY) {
            empty = true;
            continue;
        }
        nullable = nullable || x->flags & RX_NULLABLE;
        l->v[kept++] = r;
    }
    l->n = kept;
    merge_classes(p, RX_KIND_OR, l);
    merge_repeats(p, l);
    if (empty && !nullable)
        l->v[l->n++] = RX_EMPTY; /* there was room for it */
    return l->n == 0 ? RX_NONE : finish_list(p, RX_KIND_OR, l);
}

static rx_id
and_list(struct rx_pool *p, struct list32 *l)
{
    bool text = false, empty = false, nullable = true;
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++) {
        rx_id r = l->v[i];
        if (r == RX_NONE)
            return RX_NONE;
        text = text || (r != p->all && p->node[r].flags & RX_TEXT);
        empty = empty || r == RX_EMPTY;
        nullable = nullable && rx_nullable(p, r);
    }
    if (empty)
        return nullable ? RX_EMPTY : RX_NONE;
    for (size_t i = 0; i < l->n; i++) {
        const struct rx_node *x = &p->node[l->v[i]];
        if ((l->v[i] == p->all && text) ||
            (x->kind == RX_KIND_NOT && x->a == RX_NONE))
            continue;
        for (size_t j = 0; x->kind == RX_KIND_NOT && j < l->n; j++)
            if (l->v[j] == x->a)
                return RX_NONE;
        l->v[kept++] = l->v[i];
    }
    if (kept == 0)
        return l->v[0];
    l->n = kept;
    merge_classes(p, RX_KIND_AND, l);
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i] == RX_NONE)
            return RX_NONE;
    return finish_list(p, RX_KIND_AND, l);
}

static rx_id
list_make(struct rx_pool *p, int kind, const rx_id *v, size_t n)
{
    struct list32 l = {0};
    rx_id r = RX_NONE;

    if (flatten(p, kind, v, n, &l) && l.n > 0)
        r = kind == RX_KIND_OR ? or_list(p, &l) : and_list(p, &l);
    p->budget->bytes -= l.cap * sizeof *l.v;
    list32_free(&l);
    return p->budget->rc ? RX_NONE : r;
}

rx_id
rx_or_n(struct rx_pool *p, const rx_id *v, size_t n)
{
    return list_make(p, RX_KIND_OR, v, n);
}

rx_id
rx_or(struct rx_pool *p, rx_id a, rx_id b)
{
    if (a == RX_NONE || a == b)
        return b;
    if (b == RX_NONE)
        return a;
    const rx_id v[2] = {a, b};
    return list_make(p, RX_KIND_OR, v, 2);
}

rx_id
rx_and(struct rx_pool *p, rx_id a, rx_id b)
{
    if (a == b)
        return a;
    if (a == RX_NONE || b == RX_NONE)
        return RX_NONE;
    const rx_id v[2] = {a, b};
    return list_make(p, RX_KIND_AND, v, 2);
}

rx_id
rx_not(struct rx_pool *p, rx_id a)
{
    if (p->node[a].kind == RX_KIND_NOT)
        return p->node[a].a;
    return make(p, (struct rx_node){.kind = RX_KIND_NOT, .a = a});
}

rx_id
rx_text_not(struct rx_pool *p, rx_id a)
{
    return rx_and(p, p->all, rx_not(p, a));
}

/* --- special ones -------------------------------------------------------- */

rx_id
rx_quote(struct rx_pool *p, rx_id a)
{
    if (a == RX_NONE)
        return RX_NONE;
    return make(p, (struct rx_node){.kind = RX_KIND_QUOTE, .a = a});
}

rx_id
rx_escape(struct rx_pool *p, rx_id a, uint32_t stage, uint32_t high)
{
    if (a == RX_NONE)
        return RX_NONE;
    return make(p, (struct rx_node){.kind = RX_KIND_ESCAPE, .a = a,
                                    .m = stage, .n = high});
}

rx_id
rx_json_string(struct rx_pool *p, rx_id a)
{
    return rx_cat(p, rx_byte(p, '"'), rx_quote(p, a));
}

rx_id
rx_multiple_rest(struct rx_pool *p, uint32_t coefficient, uint32_t residue,
                 uint32_t places, uint32_t used)
{
    return make(p, (struct rx_node){.kind = RX_KIND_MULTIPLE,
                                    .a = coefficient, .b = residue,
                                    .m = places, .n = used});
}

rx_id
rx_multiple(struct rx_pool *p, uint32_t coefficient, uint32_t places)
{
    return rx_multiple_rest(p, coefficient, 0, places, 0);
}

rx_id
rx_end(struct rx_pool *p, rx_id a)
{
    if (a == RX_NONE)
        return RX_NONE;
    return make(p, (struct rx_node){.kind = RX_KIND_END, .a = a});
}

static int
compare_str(const void *x, const void *y)
{
    const struct str *a = x, *b = y;
    size_t n = a->n < b->n ? a->n : b->n;
    int d = n ? memcmp(a->p, b->p, n) : 0;
    return d ? d : (a->n > b->n) - (a->n < b->n);
}

/* The sorted strings v[0..n), which agree in their first `at` bytes. */
static rx_id
strings_from(struct rx_pool *p, const struct str *v, size_t n, size_t at)
{
    if (n == 1)
        return rx_literal(p, v[0].p + at, v[0].n - at);
    /* What all have in common, then a branch for each next byte. */
    size_t common = at, first = 0, shortest = v[0].n;
    const struct str *last = &v[n - 1];
    while (common < shortest && common < last->n &&
           v[0].p[common] == last->p[common])
        common++;
    struct list32 branch = {0};
    bool ok = true;
    while (ok && first < n && v[first].n == common) {
        ok = list32_push(&branch, p->budget, RX_EMPTY);
        first++;
    }
    for (size_t from = first, to; ok && from < n; from = to) {
        for (to = from + 1; to < n && v[to].p[common] == v[from].p[common];)
            to++;
        rx_id rest = strings_from(p, v + from, to - from, common + 1);
        rx_id head = rx_byte(p, (unsigned char)v[from].p[common]);
        ok = list32_push(&branch, p->budget, rx_cat(p, head, rest));
    }
    rx_id r = ok ? rx_or_n(p, branch.v, branch.n) : RX_NONE;
    p->budget->bytes -= branch.cap * sizeof *branch.v;
    list32_free(&branch);
    for (size_t i = common; i > at; i--)
        r = rx_cat(p, rx_byte(p, (unsigned char)v[0].p[i - 1]), r);
    return r;
}

rx_id
rx_strings(struct rx_pool *p, struct str *v, size_t n)
{
    if (n == 0)
        return RX_NONE;
    qsort(v, n, sizeof *v, compare_str);
    size_t kept = 1;
    for (size_t i = 1; i < n; i++)
        if (compare_str(&v[i], &v[kept - 1]) != 0)
            v[kept++] = v[i];
    rx_id r = strings_from(p, v, kept, 0);
    if (r != RX_NONE)
        p->node[r].flags |= RX_TEXT;
    return r;
}

/* --- the pool ------------------------------------------------------------ */

/* Partition with the bytes of each string of `classes` in a class; bytes in
 * none are one more. */
static uint32_t
fixed_part(struct rx_pool *p, const char *const *classes, size_t n,
           bool controls)
{
    uint16_t of[256] = {0};

    for (size_t i = 0; i < n; i++)
        for (const char *c = classes[i]; *c; c++)
            of[(unsigned char)*c] = (uint16_t)(i + 1);
    for (int c = 0; controls && c < 0x20; c++)
        of[c] = (uint16_t)(n + 1);
    return partition_make(&p->parts, p->budget, of);
}

static void
make_fixed_parts(struct rx_pool *p)
{
    static const char *const quote[] = {"\"", "\\"};
    static const char *const escape[] = {"\"", "\\", "b", "f", "n", "r", "t",
                                         "u"};
    static const char *const zero_one[] = {"0", "1"};
    static const char *const hex[] = {"0", "1", "2", "3", "4", "5", "6", "7",
                                      "8", "9", "aA", "bB", "cC", "dD", "eE",
                                      "fF"};
    static const char *const digit[] = {"0", "1", "2", "3", "4", "5", "6",
                                        "7", "8", "9", "."};
    uint16_t one[256] = {0};
    partition_make(&p->parts, p->budget, one); /* number 0 */
    p->quote_part = fixed_part(p, quote, 2, true);
    p->escape_part = fixed_part(p, escape, 8, false);
    p->zero_part = fixed_part(p, zero_one, 1, false);
    p->zero_one_part = fixed_part(p, zero_one, 2, false);
    p->hex_part = fixed_part(p, hex, 16, false);
    p->digit_part = fixed_part(p, digit, 11, false);
}

bool
rx_pool_init(struct rx_pool *p, struct budget *b)
{
    memset(p, 0, sizeof *p);
    p->budget = b;
    p->rows = arena_create(16 << 10, b->max_bytes);
    if (p->rows == NULL) {
        b->rc = ERR_NOMEM;
        return false;
    }
    make_fixed_parts(p);
    /* RX_NONE and RX_EMPTY get their numbers by being first. Kinds whose a is
     * no node refer to number 0, which is there from now on. */
    struct rx_node *v = budget_grow(b, NULL, &p->cap, 64, sizeof *v);
    if (v == NULL)
        return false;
    p->node = v;
    memset(v, 0, sizeof *v);
    make(p, (struct rx_node){.kind = RX_KIND_NONE});
    make(p, (struct rx_node){.kind = RX_KIND_EMPTY});
    struct charset every = {0};
    charset_add(&every, b, 0, CHARSET_MAX);
    p->any_char = charset_rx(p, &every);
    charset_free(&every);
    p->all = rx_repeat(p, p->any_char, 0, RX_INF);
    return b->rc == 0;
}

void
rx_pool_free(struct rx_pool *p)
{
    free(p->node);
    seqs_free(&p->keys);
    seqs_free(&p->lists);
    seqs_free(&p->sets);
    partitions_free(&p->parts);
    arena_destroy(p->rows);
    memset(p, 0, sizeof *p);
}
