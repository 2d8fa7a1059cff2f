#include "config.h"

#include "grammar/net/rulenet.h"

#include <stdlib.h>
#include <string.h>

/* --- making it ----------------------------------------------------------- */

uint32_t
net_place(struct net *n, uint32_t rule)
{
    struct net_place *v = budget_grow(n->budget, n->place, &n->cap_places,
                                      n->n_places + 1, sizeof *v);
    if (v == NULL || rule == NET_NONE)
        return NET_NONE;
    n->place = v;
    v[n->n_places] = (struct net_place){.edges = NET_NONE, .rule = rule};
    budget_work(n->budget, 4);
    return (uint32_t)n->n_places++;
}

uint32_t
net_rule(struct net *n)
{
    struct net_rule *v = budget_grow(n->budget, n->rule, &n->cap_rules,
                                     n->n_rules + 1, sizeof *v);
    if (v == NULL)
        return NET_NONE;
    n->rule = v;
    uint32_t rule = (uint32_t)n->n_rules++;
    v[rule] = (struct net_rule){.start = NET_NONE};
    uint32_t start = net_place(n, rule);
    n->rule[rule].start = start;
    return start == NET_NONE ? NET_NONE : rule;
}

void
net_final(struct net *n, uint32_t place)
{
    if (place != NET_NONE)
        n->place[place].final = true;
}

static void
add_edge(struct net *n, uint32_t from, struct net_edge e)
{
    if (from == NET_NONE || e.to == NET_NONE || e.what == NET_NONE)
        return;
    struct net_edge *v = budget_grow(n->budget, n->edge, &n->cap_edges,
                                     n->n_edges + 1, sizeof *v);
    if (v == NULL)
        return;
    n->edge = v;
    e.next = n->place[from].edges;
    v[n->n_edges] = e;
    n->place[from].edges = (uint32_t)n->n_edges++;
    budget_work(n->budget, 4);
}

void
net_skip(struct net *n, uint32_t from, uint32_t to)
{
    add_edge(n, from, (struct net_edge){.kind = NET_SKIP, .to = to});
}

void
net_term(struct net *n, uint32_t from, rx_id rx, uint32_t to)
{
    rx_id r = rx & ~NET_LONGEST;
    if (r == RX_NONE)
        return;
    if (rx_nullable(n->rx, r)) {
        net_skip(n, from, to);
        r = rx_and(n->rx, r, rx_not(n->rx, RX_EMPTY));
        if (!rx_live(n->rx, r))
            return;
    }
    add_edge(n, from, (struct net_edge){.kind = NET_TERM,
                                        .what = r | (rx & NET_LONGEST),
                                        .to = to});
}

void
net_call(struct net *n, uint32_t from, uint32_t rule, uint32_t to)
{
    add_edge(n, from, (struct net_edge){.kind = NET_RULE, .what = rule,
                                        .to = to});
}

void
net_token(struct net *n, uint32_t from, int32_t id, uint32_t to)
{
    add_edge(n, from, (struct net_edge){.kind = NET_TOKEN,
                                        .what = (uint32_t)id, .to = to});
}

void
net_op(struct net *n, enum net_op op, uint32_t lo, uint32_t hi)
{
    if (n->n_edges == 0)
        return;
    struct net_edge *e = &n->edge[n->n_edges - 1];
    e->op = (uint8_t)op;
    e->lo = lo;
    e->hi = hi;
}

void
net_count(struct net *n, uint32_t lo, uint32_t hi, uint32_t cap)
{
    net_op(n, NET_COUNT, lo, hi);
    if (n->n_edges > 0)
        n->edge[n->n_edges - 1].cap = cap;
}

bool
net_apply(const struct net_edge *e, uint64_t *word)
{
    uint32_t bits = (uint32_t)__builtin_popcountll(*word);

    switch (e->op) {
    case NET_RANGE:
        return *word >= e->lo && *word <= e->hi;
    case NET_COUNT:
        if (*word < e->lo || *word > e->hi)
            return false;
        if (*word < e->cap)
            ++*word;
        return true;
    case NET_SET:
        if (*word >> e->lo & 1 || bits > e->hi)
            return false;
        *word |= (uint64_t)1 << e->lo;
        return true;
    case NET_BITS:
        return bits >= e->lo && bits <= e->hi;
    default:
        return true;
    }
}

/* --- what it can do ------------------------------------------------------ */

static bool
edge_possible(struct net *n, const struct net_edge *e)
{
    if (e->kind == NET_TERM)
        return rx_live(n->rx, e->what & ~NET_LONGEST);
    return e->kind != NET_RULE || n->rule[e->what].productive;
}

/* Marks in ok the places an end can be reached from. */
static bool
find_productive(struct net *n, bool *ok)
{
    bool changed = true;

    while (changed && budget_work(n->budget, n->n_places)) {
        changed = false;
        for (size_t i = n->n_places; i-- > 0;) {
            bool good = n->place[i].final;
            for (uint32_t k = n->place[i].edges; !good && k != NET_NONE;
                 k = n->edge[k].next)
                good = ok[n->edge[k].to] && edge_possible(n, &n->edge[k]);
            if (good && !ok[i]) {
                ok[i] = changed = true;
                struct net_rule *r = &n->rule[n->place[i].rule];
                r->productive = r->productive || r->start == i;
            }
        }
    }
    return n->budget->rc == 0;
}

static void
drop_dead_ends(struct net *n, const bool *ok)
{
    for (size_t i = 0; i < n->n_places; i++) {
        uint32_t *link = &n->place[i].edges;
        while (*link != NET_NONE) {
            const struct net_edge *e = &n->edge[*link];
            if (ok[e->to] && edge_possible(n, e))
                link = &n->edge[*link].next;
            else
                *link = e->next;
        }
    }
}

static bool
place_nullable(const struct net *n, uint32_t place, uint64_t word, int depth)
{
    if (n->place[place].final)
        return true;
    for (uint32_t k = n->place[place].edges; depth > 0 && k != NET_NONE;
         k = n->edge[k].next) {
        const struct net_edge *e = &n->edge[k];
        uint64_t w = word;
        if (e->kind != NET_SKIP &&
            (e->kind != NET_RULE || !n->rule[e->what].nullable))
            continue;
        if (net_apply(e, &w) && place_nullable(n, e->to, w, depth - 1))
            return true;
    }
    return false;
}

#define SKIP_DEPTH 24 /* nullable places in a row looked through */

static void
find_nullable(struct net *n)
{
    bool changed = true;

    while (changed && budget_work(n->budget, n->n_rules)) {
        changed = false;
        for (size_t i = 0; i < n->n_rules; i++) {
            struct net_rule *r = &n->rule[i];
            if (!r->nullable && place_nullable(n, r->start, 0, SKIP_DEPTH))
                r->nullable = changed = true;
        }
    }
}

/* A call of the rule itself with nothing after it becomes a jump: lists
 * written with the recursion on the right do not pile up. */
static void
jump_last_calls(struct net *n)
{
    for (size_t i = 0; i < n->n_places; i++) {
        uint32_t rule = n->place[i].rule;
        for (uint32_t k = n->place[i].edges; k != NET_NONE;
             k = n->edge[k].next) {
            struct net_edge *e = &n->edge[k];
            const struct net_place *to = &n->place[e->to];
            if (e->kind != NET_RULE || e->what != rule || e->op != NET_ANY ||
                !to->final || to->edges != NET_NONE)
                continue;
            e->kind = NET_SKIP;
            e->what = 0;
            e->to = n->rule[rule].start;
        }
    }
}

static bool
counts(const struct net *n)
{
    for (size_t k = 0; k < n->n_edges; k++)
        if (n->edge[k].op != NET_ANY)
            return true;
    return false;
}

bool
net_finish(struct net *n)
{
    size_t cap = 0;
    bool *ok = budget_grow(n->budget, NULL, &cap, n->n_places + 1, sizeof *ok);

    if (ok == NULL)
        return false;
    memset(ok, 0, n->n_places + 1);
    bool done = find_productive(n, ok);
    if (done) {
        drop_dead_ends(n, ok);
        if (!counts(n))
            jump_last_calls(n);
        find_nullable(n);
    }
    n->budget->bytes -= cap * sizeof *ok;
    free(ok);
    return done && n->budget->rc == 0 && n->rule[0].productive;
}

void
net_destroy(struct net *n)
{
    free(n->rule);
    free(n->place);
    free(n->edge);
    n->rule = NULL;
    n->place = NULL;
    n->edge = NULL;
}
