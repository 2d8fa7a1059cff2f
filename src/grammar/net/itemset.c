#include "config.h"

#include "grammar/net/itemset.h"

#include <stdlib.h>
#include <string.h>

#define SELF UINT32_MAX       /* the set that holds the item */
#define ITEMS_MAX 2000        /* in one set */
#define SLOTS 8192            /* power of two over ITEMS_MAX */

struct item {
    uint32_t place, origin;
    uint64_t word;
};

static bool
same(const struct item *a, const struct item *b)
{
    return a->place == b->place && a->origin == b->origin &&
        a->word == b->word;
}

static bool
add(struct itemsets *s, uint32_t place, uint32_t origin, uint64_t word)
{
    struct item x = {place, origin, word};
    uint64_t h = (place * 0x9e3779b1u ^ origin * 0x85ebca6bu ^ word) *
        0x9e3779b97f4a7c15u;
    size_t i = h >> 40 & (SLOTS - 1);

    for (; s->slot[i]; i = (i + 1) & (SLOTS - 1))
        if (same(&s->item[s->slot[i] - 1], &x))
            return true;
    if (s->n_items == ITEMS_MAX)
        s->budget->rc = s->budget->rc ? s->budget->rc : ERR_LIMIT;
    struct item *v = budget_grow(s->budget, s->item, &s->cap_items,
                                 s->n_items + 1, sizeof *v);
    if (v == NULL || !budget_work(s->budget, 2))
        return false;
    s->item = v;
    v[s->n_items++] = x;
    s->slot[i] = (uint32_t)s->n_items;
    return true;
}

static bool
begin(struct itemsets *s)
{
    size_t none = 0;
    if (s->slot == NULL)
        s->slot = budget_grow(s->budget, NULL, &none, SLOTS, sizeof *s->slot);
    if (s->slot == NULL)
        return false;
    memset(s->slot, 0, SLOTS * sizeof *s->slot);
    s->n_items = 0;
    return true;
}

static struct item
unpack(const uint32_t *w)
{
    return (struct item){w[0], w[1], (uint64_t)w[2] << 32 | w[3]};
}

/* The rule of the item x ended: items that wait for it in its origin go on. */
static void
complete(struct itemsets *s, struct item x)
{
    const struct net *net = s->net;
    uint32_t rule = net->place[x.place].rule;
    size_t n;

    const uint32_t *w = seqs_get(&s->sets, x.origin, &n);
    for (size_t i = 1; i < n; i += 4) {
        struct item y = unpack(w + i);
        for (uint32_t k = net->place[y.place].edges; k != NET_NONE;
             k = net->edge[k].next) {
            const struct net_edge *e = &net->edge[k];
            uint64_t word = y.word;
            if (e->kind == NET_RULE && e->what == rule && net_apply(e, &word))
                add(s, e->to, y.origin == SELF ? x.origin : y.origin, word);
        }
    }
    budget_work(s->budget, n / 4);
}

static void
expand(struct itemsets *s, struct item x)
{
    const struct net *net = s->net;

    for (uint32_t k = net->place[x.place].edges; k != NET_NONE;
         k = net->edge[k].next) {
        const struct net_edge *e = &net->edge[k];
        uint64_t word = x.word;
        if (e->kind == NET_TERM || e->kind == NET_TOKEN ||
            !net_apply(e, &word))
            continue;
        if (e->kind == NET_SKIP) {
            add(s, e->to, x.origin, word);
            continue;
        }
        add(s, net->rule[e->what].start, SELF, 0);
        if (net->rule[e->what].nullable)
            add(s, e->to, x.origin, word);
    }
    if (net->place[x.place].final && x.origin != SELF)
        complete(s, x);
}

static int
compare(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->place != y->place)
        return x->place < y->place ? -1 : 1;
    if (x->origin != y->origin)
        return x->origin < y->origin ? -1 : 1;
    return x->word < y->word ? -1 : x->word > y->word;
}

/* Only items that something can happen to are kept. */
static bool
has_use(const struct net *net, const struct item *x)
{
    for (uint32_t k = net->place[x->place].edges; k != NET_NONE;
         k = net->edge[k].next)
        if (net->edge[k].kind != NET_SKIP)
            return true;
    return false;
}

/* The list of what the kept items can take of one kind of edge. */
static uint32_t
list_next(struct itemsets *s, int kind)
{
    struct list32 l = {0};
    const struct net *net = s->net;

    for (size_t i = 0; i < s->n_items; i++) {
        for (uint32_t k = net->place[s->item[i].place].edges; k != NET_NONE;
             k = net->edge[k].next) {
            const struct net_edge *e = &net->edge[k];
            uint64_t word = s->item[i].word;
            bool have = false;
            if (e->kind != kind || !net_apply(e, &word))
                continue;
            for (size_t j = 0; j < l.n && !have; j++)
                have = l.v[j] == e->what;
            if (!have && !list32_push(&l, s->budget, e->what))
                break;
        }
        budget_work(s->budget, l.n / 8 + 1);
    }
    uint32_t id = s->budget->rc ? SEQS_FAIL
        : seqs_intern(&s->lists, s->budget, l.v, l.n, NULL);
    s->budget->bytes -= l.cap * sizeof *l.v;
    list32_free(&l);
    return id;
}

static uint32_t
record(struct itemsets *s, const struct list32 *key, bool final)
{
    bool fresh;
    uint32_t id = seqs_intern(&s->sets, s->budget, key->v, key->n, &fresh);

    if (id == SEQS_FAIL || !fresh)
        return id;
    struct itemset_info *v = budget_grow(s->budget, s->info, &s->cap_info,
                                         s->sets.n, sizeof *v);
    if (v == NULL)
        return SEQS_FAIL;
    s->info = v;
    v[id] = (struct itemset_info){final, list_next(s, NET_TERM),
                                  list_next(s, NET_TOKEN)};
    return s->budget->rc ? SEQS_FAIL : id;
}

/* Closes the items begun with and gives the set its number. */
static uint32_t
finish(struct itemsets *s)
{
    struct list32 key = {0};
    size_t kept = 0;
    bool final = false;

    for (size_t i = 0; i < s->n_items && s->budget->rc == 0; i++)
        expand(s, s->item[i]);
    for (size_t i = 0; i < s->n_items; i++) {
        const struct net_place *p = &s->net->place[s->item[i].place];
        /* Rule 0 is called by none and starts in set 0 only. */
        final = final || (p->final && p->rule == 0);
        if (has_use(s->net, &s->item[i]))
            s->item[kept++] = s->item[i];
    }
    s->n_items = kept;
    if (kept > 0)
        qsort(s->item, kept, sizeof *s->item, compare);
    list32_push(&key, s->budget, final);
    for (size_t i = 0; i < kept; i++) {
        const struct item *x = &s->item[i];
        list32_push(&key, s->budget, x->place);
        list32_push(&key, s->budget, x->origin);
        list32_push(&key, s->budget, (uint32_t)(x->word >> 32));
        list32_push(&key, s->budget, (uint32_t)x->word);
    }
    uint32_t id = s->budget->rc ? SEQS_FAIL : record(s, &key, final);
    s->budget->bytes -= key.cap * sizeof *key.v;
    list32_free(&key);
    return id;
}

uint32_t
itemsets_start(struct itemsets *s)
{
    if (!begin(s) || !add(s, s->net->rule[0].start, SELF, 0))
        return SEQS_FAIL;
    return finish(s);
}

static uint32_t
shift(struct itemsets *s, struct words *memo, int kind, uint32_t set,
      uint32_t what)
{
    const struct net *net = s->net;
    uint32_t id;
    size_t n;

    if (words_get(memo, words_pair(set, what), &id))
        return id;
    if (!begin(s))
        return SEQS_FAIL;
    const uint32_t *w = seqs_get(&s->sets, set, &n);
    for (size_t i = 1; i < n; i += 4) {
        struct item x = unpack(w + i);
        for (uint32_t k = net->place[x.place].edges; k != NET_NONE;
             k = net->edge[k].next) {
            const struct net_edge *e = &net->edge[k];
            uint64_t word = x.word;
            if (e->kind == kind && e->what == what && net_apply(e, &word))
                add(s, e->to, x.origin == SELF ? set : x.origin, word);
        }
    }
    id = finish(s);
    if (id != SEQS_FAIL &&
        !words_put(memo, s->budget, words_pair(set, what), id))
        return SEQS_FAIL;
    return id;
}

uint32_t
itemsets_term(struct itemsets *s, uint32_t set, uint32_t what)
{
    return shift(s, &s->term_shift, NET_TERM, set, what);
}

uint32_t
itemsets_token(struct itemsets *s, uint32_t set, uint32_t id)
{
    return shift(s, &s->token_shift, NET_TOKEN, set, id);
}

void
itemsets_free(struct itemsets *s)
{
    seqs_free(&s->sets);
    seqs_free(&s->lists);
    words_free(&s->term_shift);
    words_free(&s->token_shift);
    free(s->info);
    free(s->item);
    free(s->slot);
}
