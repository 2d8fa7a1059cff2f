#include "config.h"

#include "grammar/net/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define ENTRIES_MAX 4000 /* in one configuration */

struct entry {
    rx_id rx;            /* RX_NONE: a boundary */
    uint32_t set, what;
    rx_id guard;         /* RX_NONE: none */
};

static void
add(struct automaton *a, struct entry x)
{
    uint32_t w[4] = {x.rx, x.set, x.what, x.guard};
    for (int i = 0; i < 4; i++)
        if (!list32_push(&a->entries, &a->budget, w[i]))
            return;
    if (a->entries.n > 4 * ENTRIES_MAX && a->budget.rc == 0)
        a->budget.rc = ERR_LIMIT;
}

static struct entry
entry_at(const uint32_t *w)
{
    return (struct entry){w[0], w[1], w[2], w[3]};
}

/* The item set was reached here: a boundary, and its terminals start. */
static void
enter(struct automaton *a, uint32_t set, rx_id guard)
{
    size_t n;

    if (set == SEQS_FAIL)
        return;
    add(a, (struct entry){RX_NONE, set, 0, RX_NONE});
    uint32_t terms = a->sets.info[set].terms;
    for (size_t i = 0;; i++) {
        const uint32_t *what = seqs_get(&a->sets.lists, terms, &n);
        if (i == n)
            break;
        add(a, (struct entry){what[i] & ~NET_LONGEST, set, what[i], guard});
    }
}

static int
compare(const void *x, const void *y)
{
    const uint32_t *a = x, *b = y;
    for (int i = 0; i < 4; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

static bool
record(struct automaton *a, uint32_t id)
{
    struct config x = {.partition = 0};
    size_t n;
    const uint32_t *w = seqs_get(&a->configs, id, &n);

    for (size_t i = 0; i < n; i += 4) {
        struct entry y = entry_at(w + i);
        uint32_t part = a->rx.node[y.rx].partition;
        x.partition = partition_product(&a->rx.parts, &a->budget, x.partition,
                                        part);
        if (y.guard != RX_NONE && x.partition != UINT32_MAX)
            x.partition = partition_product(&a->rx.parts, &a->budget,
                                            x.partition,
                                            a->rx.node[y.guard].partition);
        if (x.partition == UINT32_MAX)
            return false;
        x.final = x.final || (y.rx == RX_NONE && a->sets.info[y.set].final);
    }
    struct config *v = budget_grow(&a->budget, a->config, &a->cap_configs,
                                   a->configs.n, sizeof *v);
    if (v == NULL)
        return false;
    a->config = v;
    v[id] = x;
    return true;
}

/* Number of the configuration with the collected entries. */
static uint32_t
finish(struct automaton *a)
{
    uint32_t *w = a->entries.v;
    size_t n = 0;
    bool fresh;

    if (a->entries.n > 0)
        qsort(w, a->entries.n / 4, 4 * sizeof *w, compare);
    for (size_t i = 0; i < a->entries.n; i += 4) {
        if (n > 0 && compare(w + i, w + n - 4) == 0)
            continue;
        memmove(w + n, w + i, 4 * sizeof *w);
        n += 4;
    }
    uint32_t id = a->budget.rc ? SEQS_FAIL
        : seqs_intern(&a->configs, &a->budget, w, n, &fresh);
    if (id == SEQS_FAIL || (fresh && !record(a, id)))
        return CONFIG_FAIL;
    return id;
}

/* One entry over one byte. */
static void
move(struct automaton *a, struct entry x, unsigned char byte)
{
    if (x.rx == RX_NONE)
        return;
    if (x.guard != RX_NONE &&
        rx_live(&a->rx, rx_step(&a->rx, x.guard, byte)))
        return;
    rx_id d = rx_step(&a->rx, x.rx, byte);
    if (!rx_live(&a->rx, d))
        return;
    if (d != RX_EMPTY)
        add(a, (struct entry){d, x.set, x.what, RX_NONE});
    if (rx_nullable(&a->rx, d))
        enter(a, itemsets_term(&a->sets, x.set, x.what),
              x.what & NET_LONGEST && d != RX_EMPTY ? d : RX_NONE);
}

uint32_t
automaton_miss(struct automaton *a, uint32_t c, unsigned char byte)
{
    size_t n;

    if (c == CONFIG_DEAD || !budget_work(&a->budget, 8))
        return c == CONFIG_DEAD ? CONFIG_DEAD : CONFIG_FAIL;
    uint32_t classes = a->rx.parts.v[a->config[c].partition].n;
    uint32_t class = a->rx.parts.v[a->config[c].partition].of[byte];
    if (a->config[c].row == NULL) {
        a->config[c].row = arena_calloc(a->rows, classes, sizeof(uint32_t));
        a->budget.bytes += classes * sizeof(uint32_t);
        if (a->config[c].row == NULL || a->budget.bytes > a->budget.max_bytes)
            a->budget.rc = a->budget.rc ? a->budget.rc : ERR_LIMIT;
    }
    a->entries.n = 0;
    for (size_t i = 0; a->budget.rc == 0; i += 4) {
        const uint32_t *w = seqs_get(&a->configs, c, &n);
        if (i == n)
            break;
        move(a, entry_at(w + i), byte);
    }
    uint32_t id = finish(a);
    if (id != CONFIG_FAIL)
        a->config[c].row[class] = id + 1;
    return id;
}

uint32_t
automaton_token(struct automaton *a, uint32_t c, uint32_t id)
{
    size_t n;

    a->entries.n = 0;
    for (size_t i = 0; a->budget.rc == 0; i += 4) {
        const uint32_t *w = seqs_get(&a->configs, c, &n);
        if (i == n)
            break;
        struct entry x = entry_at(w + i);
        if (x.rx != RX_NONE)
            continue;
        size_t k, j = 0;
        const uint32_t *ids = seqs_get(&a->sets.lists,
                                       a->sets.info[x.set].tokens, &k);
        while (j < k && ids[j] != id)
            j++;
        if (j < k)
            enter(a, itemsets_token(&a->sets, x.set, id), RX_NONE);
    }
    return finish(a);
}

size_t
automaton_tokens(struct automaton *a, uint32_t c,
                 void (*fn)(void *arg, uint32_t id), void *arg)
{
    size_t n, k, count = 0;
    const uint32_t *w = seqs_get(&a->configs, c, &n);

    for (size_t i = 0; i < n; i += 4) {
        struct entry x = entry_at(w + i);
        if (x.rx != RX_NONE)
            continue;
        const uint32_t *ids = seqs_get(&a->sets.lists,
                                       a->sets.info[x.set].tokens, &k);
        for (size_t j = 0; j < k; j++)
            fn(arg, ids[j]);
        count += k;
    }
    return count;
}

bool
automaton_stuck(const struct automaton *a, uint32_t c)
{
    size_t n, k;
    const uint32_t *w = seqs_get(&a->configs, c, &n);

    for (size_t i = 0; i < n; i += 4) {
        struct entry x = entry_at(w + i);
        if (x.rx != RX_NONE)
            return false;
        seqs_get(&a->sets.lists, a->sets.info[x.set].tokens, &k);
        if (k > 0)
            return false;
    }
    return true;
}

uint32_t
automaton_clip(struct automaton *a, uint32_t c, uint32_t length)
{
    size_t n;

    if (a->config[c].clipped)
        return a->config[c].clipped;
    a->entries.n = 0;
    for (size_t i = 0; a->budget.rc == 0; i += 4) {
        const uint32_t *w = seqs_get(&a->configs, c, &n);
        if (i == n)
            break;
        struct entry x = entry_at(w + i);
        x.rx = rx_clip(&a->rx, x.rx, length);
        add(a, x);
    }
    uint32_t id = finish(a);
    if (id != CONFIG_FAIL)
        a->config[c].clipped = id;
    return id;
}

bool
automaton_init(struct automaton *a, size_t max_bytes, uint64_t max_work)
{
    memset(a, 0, sizeof *a);
    a->budget = (struct budget){.max_bytes = max_bytes, .max_work = max_work};
    a->rows = arena_create(16 << 10, max_bytes);
    if (a->rows == NULL) {
        a->budget.rc = ERR_NOMEM;
        return false;
    }
    a->net.budget = a->sets.budget = &a->budget;
    a->net.rx = &a->rx;
    a->sets.net = &a->net;
    return rx_pool_init(&a->rx, &a->budget);
}

bool
automaton_finish(struct automaton *a)
{
    if (a->budget.rc != 0 || !net_finish(&a->net))
        return false;
    a->entries.n = 0;
    finish(a); /* the configuration without entries: CONFIG_DEAD */
    uint32_t set = itemsets_start(&a->sets);
    a->entries.n = 0;
    enter(a, set, RX_NONE);
    a->start = finish(a);
    return a->budget.rc == 0;
}

void
automaton_free(struct automaton *a)
{
    rx_pool_free(&a->rx);
    net_destroy(&a->net);
    itemsets_free(&a->sets);
    seqs_free(&a->configs);
    free(a->config);
    arena_destroy(a->rows);
    list32_free(&a->entries);
}
