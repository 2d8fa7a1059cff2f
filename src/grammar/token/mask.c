/*
 * Masks: which tokens can come at a configuration.
 *
 * DESIGN. First the plain characters: how many of them in a row are all
 * possible (in free text and unbounded strings, any number; at most 33 are
 * looked at), and is then none possible? Buckets of plain tokens within that
 * number are taken whole, those beyond are left out or walked. The tokens that
 * are not plain are walked always. Where not even one plain character is free
 * the whole tree is walked, which is quick there.
 *
 * Masks are kept by configuration, with counters evened out that cannot run
 * out within a token (automaton_clip), so that most steps find theirs.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/token/matcher.h"

#define LEVELS_MAX 33
#define STATES_MAX 16          /* configurations after a plain character */
#define PAIRS_MAX 96           /* looked at within one character */
#define LIST_MAX 512
#define MASK_BYTES_MAX (24u << 20)

/* --- plain characters ---------------------------------------------------- */

/* Places in a UTF-8 character: what byte may come and where it leads. */
enum { FIRST, LAST_1, LAST_2, AFTER_E0, AFTER_ED, LAST_3, AFTER_F0, AFTER_F4,
       AFTER_E2, AFTER_E2_80 };

static int
plain_next(int at, unsigned char c)
{
    switch (at) {
    case FIRST:
        if (c < 0x80)
            return c >= 0x20 && c != '"' && c != '\\' ? FIRST : -1;
        if (c < 0xc2 || c > 0xf4)
            return -1;
        return c < 0xe0 ? LAST_1 : c == 0xe0 ? AFTER_E0 : c == 0xe2 ? AFTER_E2
            : c == 0xed ? AFTER_ED : c < 0xf0 ? LAST_2 : c == 0xf0 ? AFTER_F0
            : c < 0xf4 ? LAST_3 : AFTER_F4;
    case LAST_1: return c >= 0x80 && c <= 0xbf ? FIRST : -1;
    case LAST_2: return c >= 0x80 && c <= 0xbf ? LAST_1 : -1;
    case AFTER_E0: return c >= 0xa0 && c <= 0xbf ? LAST_1 : -1;
    case AFTER_ED: return c >= 0x80 && c <= 0x9f ? LAST_1 : -1;
    case LAST_3: return c >= 0x80 && c <= 0xbf ? LAST_2 : -1;
    case AFTER_F0: return c >= 0x90 && c <= 0xbf ? LAST_2 : -1;
    case AFTER_F4: return c >= 0x80 && c <= 0x8f ? LAST_2 : -1;
    case AFTER_E2:
        return c < 0x80 || c > 0xbf ? -1 : c == 0x80 ? AFTER_E2_80 : LAST_1;
    default: /* all but U+2028 and U+2029 */
        return c >= 0x80 && c <= 0xbf && c != 0xa8 && c != 0xa9 ? FIRST : -1;
    }
}

struct level {
    uint32_t state[STATES_MAX];
    size_t n;
    bool dead, live;     /* some character is not possible; some is */
};

static bool
level_add(struct level *l, uint32_t c)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->state[i] == c)
            return true;
    if (l->n == STATES_MAX)
        return false;
    l->state[l->n++] = c;
    return true;
}

struct pairs {
    struct {
        uint32_t c;
        int at;
    } v[PAIRS_MAX];
    size_t n;
};

static bool
pairs_add(struct pairs *p, uint32_t c, int at)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->v[i].c == c && p->v[i].at == at)
            return true;
    if (p->n == PAIRS_MAX)
        return false;
    p->v[p->n].c = c;
    p->v[p->n++].at = at;
    return true;
}

/* One byte of every class from the pair i. */
static bool
pair_step(struct automaton *a, struct pairs *p, size_t i, struct level *out)
{
    uint16_t seen[256] = {0}; /* by class: bits of the places led to */
    uint32_t c = p->v[i].c, part = a->config[c].partition;
    int at = p->v[i].at;

    for (int byte = at == FIRST ? 0x20 : 0x80; byte <= 0xf4; byte++) {
        int to = plain_next(at, (unsigned char)byte);
        uint8_t class = a->rx.parts.v[part].of[byte];
        if (to < 0 || seen[class] >> to & 1)
            continue;
        seen[class] |= (uint16_t)(1 << to);
        uint32_t d = automaton_step(a, c, (unsigned char)byte);
        if (d == CONFIG_FAIL)
            return false;
        if (d == CONFIG_DEAD)
            out->dead = true;
        else if (to != FIRST ? !pairs_add(p, d, to) : !level_add(out, d))
            return false;
        out->live = out->live || (d != CONFIG_DEAD && to == FIRST);
    }
    return true;
}

/* All plain characters from the states of l. False when they lead to too many
 * states to say, or the budget is gone. */
static bool
level_step(struct automaton *a, const struct level *l, struct level *out)
{
    struct pairs p = {.n = 0};

    *out = (struct level){.n = 0};
    for (size_t i = 0; i < l->n; i++)
        pairs_add(&p, l->state[i], FIRST);
    for (size_t i = 0; i < p.n; i++)
        if (!pair_step(a, &p, i, out))
            return false;
    return true;
}

/* How many plain characters are free at c (UINT32_MAX: any number), and in
 * *none whether not one can follow those. */
static uint32_t
free_characters(struct automaton *a, uint32_t c, bool *none)
{
    struct level l = {.state = {c}, .n = 1}, seen = l, next;

    *none = false;
    for (uint32_t k = 0; k < LEVELS_MAX; k++) {
        if (!level_step(a, &l, &next))
            return k;
        if (next.dead) {
            *none = !next.live;
            return k;
        }
        size_t before = seen.n;
        for (size_t i = 0; i < next.n; i++)
            if (!level_add(&seen, next.state[i]))
                return k + 1;
        if (seen.n == before)
            return UINT32_MAX;
        l = next;
        if (seen.n > STATES_MAX / 2) { /* counters: only the last matter */
            seen = next;
        }
    }
    return LEVELS_MAX;
}

/* --- the walk ------------------------------------------------------------ */

static bool
walk(struct grammar *g, const struct trie *t, uint32_t c)
{
    struct automaton *a = &g->a;
    uint64_t visited = 0;

    g->path[0] = c;
    for (size_t i = 0; i < t->n; visited++) {
        const struct trie_node *x = &t->node[i];
        uint32_t d = automaton_step(a, g->path[x->depth - 1], x->byte);
        if (d == CONFIG_DEAD) {
            i += x->size;
            continue;
        }
        if (d == CONFIG_FAIL)
            return false;
        g->path[x->depth] = d;
        if (x->token >= 0)
            g->bits[x->token >> 5] |= (uint32_t)1 << (x->token & 31);
        i++;
    }
    return budget_work(&a->budget, visited / 8);
}

static void
set_bit(void *arg, uint32_t id)
{
    ((uint32_t *)arg)[id >> 5] |= (uint32_t)1 << (id & 31);
}

static bool
fill(struct grammar *g, uint32_t c)
{
    const struct grammar_vocab *v = g->vocab;
    bool none;

    memset(g->bits, 0, v->words * sizeof *g->bits);
    automaton_tokens(&g->a, c, set_bit, g->bits);
    if (g->a.config[c].final && v->eos >= 0)
        set_bit(g->bits, (uint32_t)v->eos);
    uint32_t k = free_characters(&g->a, c, &none);
    if (g->a.budget.rc != 0)
        return false;
    if (k == 0 && !none)
        return walk(g, &v->all, c);
    for (int b = 0; b < TRIE_BUCKETS; b++) {
        const struct trie_bucket *x = &v->bucket[b];
        if (x->hi <= k) {
            for (size_t w = 0; w < v->words; w++)
                g->bits[w] |= x->mask[w];
        } else if (!(none && x->lo > k) && !walk(g, &x->trie, c)) {
            return false;
        }
    }
    return walk(g, &v->rest, c);
}

/* --- keeping them -------------------------------------------------------- */

void
mask_free_all(struct grammar *g)
{
    for (size_t i = 0; i < g->n_masks; i++)
        free(g->mask[i].v);
    for (size_t i = 0; i < g->a.configs.n && g->n_masks > 0; i++)
        g->a.config[i].mask = 0;
    g->n_masks = g->mask_bytes = 0;
}

static bool
store(struct grammar *g, struct mask *m)
{
    size_t words = g->vocab->words, n = 0;

    m->n = 0;
    for (size_t w = 0; w < words; w++)
        m->n += (uint32_t)__builtin_popcount(g->bits[w]);
    m->is_list = m->n <= LIST_MAX;
    size_t size = (m->is_list ? m->n + 1 : words) * sizeof *m->v;
    m->v = malloc(size);
    if (m->v == NULL)
        return false;
    g->mask_bytes += size;
    if (!m->is_list)
        memcpy(m->v, g->bits, size);
    for (size_t w = 0; m->is_list && w < words; w++)
        for (uint32_t x = g->bits[w]; x; x &= x - 1)
            m->v[n++] = (uint32_t)(w * 32) + (uint32_t)__builtin_ctz(x);
    return true;
}

const struct mask *
mask_get(struct grammar *g, uint32_t c)
{
    struct automaton *a = &g->a;

    c = automaton_clip(a, c, (uint32_t)g->vocab->longest);
    if (c == CONFIG_FAIL)
        return NULL;
    if (a->config[c].mask)
        return &g->mask[a->config[c].mask - 1];
    if (g->mask_bytes > MASK_BYTES_MAX)
        mask_free_all(g);
    if (!fill(g, c))
        return NULL;
    struct mask *v = budget_grow(&a->budget, g->mask, &g->cap_masks,
                                 g->n_masks + 1, sizeof *v);
    if (v == NULL)
        return NULL;
    g->mask = v;
    if (!store(g, &v[g->n_masks])) {
        a->budget.rc = ERR_NOMEM;
        return NULL;
    }
    a->config[c].mask = (uint32_t)++g->n_masks;
    return &v[g->n_masks - 1];
}
