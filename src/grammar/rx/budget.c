#include "config.h"

#include "grammar/rx/budget.h"

#include <stdlib.h>
#include <string.h>

static uint64_t
scramble(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

void *
budget_grow(struct budget *b, void *p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return p;
    size_t more = *cap ? 2 * *cap : 64;
    if (more < need)
        more = need;
    if (b->rc != 0)
        return NULL;
    if (b->bytes + (more - *cap) * size > b->max_bytes) {
        b->rc = ERR_LIMIT;
        return NULL;
    }
    void *q = realloc(p, more * size);
    if (q == NULL) {
        b->rc = ERR_NOMEM;
        return NULL;
    }
    b->bytes += (more - *cap) * size;
    *cap = more;
    return q;
}

/* --- sequences ----------------------------------------------------------- */

static uint64_t
hash(const uint32_t *p, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    return h;
}

static bool
rehash(struct seqs *s, struct budget *b)
{
    size_t size = s->mask ? 2 * (s->mask + 1) : 64, none = 0;
    uint32_t *slot = budget_grow(b, NULL, &none, size, sizeof *slot);

    if (slot == NULL)
        return false;
    memset(slot, 0, size * sizeof *slot);
    for (uint32_t id = 0; id < s->n; id++) {
        size_t n, i;
        const uint32_t *p = seqs_get(s, id, &n);
        for (i = hash(p, n) & (size - 1); slot[i]; i = (i + 1) & (size - 1))
            ;
        slot[i] = id + 1;
    }
    b->bytes -= s->slot ? (s->mask + 1) * sizeof *slot : 0;
    free(s->slot);
    s->slot = slot;
    s->mask = size - 1;
    return true;
}

uint32_t
seqs_intern(struct seqs *s, struct budget *b, const uint32_t *p, size_t n,
            bool *fresh)
{
    if (fresh)
        *fresh = false;
    if (4 * (s->n + 1) > 3 * (s->mask ? s->mask + 1 : 0) && !rehash(s, b))
        return SEQS_FAIL;
    size_t i = hash(p, n) & s->mask, have;
    for (; s->slot[i]; i = (i + 1) & s->mask) {
        const uint32_t *q = seqs_get(s, s->slot[i] - 1, &have);
        if (have == n && (n == 0 || memcmp(p, q, n * sizeof *p) == 0))
            return s->slot[i] - 1;
    }
    size_t used = s->n ? s->start[s->n] : 0;
    if (used + n > UINT32_MAX / 2)
        return SEQS_FAIL;
    uint32_t *data = budget_grow(b, s->data, &s->cap_data, used + n + 1,
                                 sizeof *data);
    if (data == NULL)
        return SEQS_FAIL;
    s->data = data;
    uint32_t *start = budget_grow(b, s->start, &s->cap_start, s->n + 2,
                                  sizeof *start);
    if (start == NULL)
        return SEQS_FAIL;
    s->start = start;
    if (n > 0)
        memcpy(data + used, p, n * sizeof *p);
    start[s->n] = (uint32_t)used;
    start[s->n + 1] = (uint32_t)(used + n);
    s->slot[i] = (uint32_t)++s->n;
    if (fresh)
        *fresh = true;
    return (uint32_t)s->n - 1;
}

void
seqs_free(struct seqs *s)
{
    free(s->data);
    free(s->start);
    free(s->slot);
    memset(s, 0, sizeof *s);
}

/* --- words --------------------------------------------------------------- */

bool
words_get(const struct words *w, uint64_t key, uint32_t *value)
{
    if (w->slot == NULL)
        return false;
    for (size_t i = scramble(key) & w->mask; w->slot[i].used;
         i = (i + 1) & w->mask) {
        if (w->slot[i].key == key) {
            *value = w->slot[i].value;
            return true;
        }
    }
    return false;
}

static void
place(struct words_slot *slot, size_t mask, uint64_t key, uint32_t value)
{
    size_t i = scramble(key) & mask;
    while (slot[i].used && slot[i].key != key)
        i = (i + 1) & mask;
    slot[i] = (struct words_slot){key, value, 1};
}

bool
words_put(struct words *w, struct budget *b, uint64_t key, uint32_t value)
{
    if (w->slot == NULL || 4 * (w->n + 1) > 3 * (w->mask + 1)) {
        size_t size = w->slot ? 2 * (w->mask + 1) : 64, none = 0;
        struct words_slot *slot = budget_grow(b, NULL, &none, size,
                                              sizeof *slot);
        if (slot == NULL)
            return false;
        memset(slot, 0, size * sizeof *slot);
        for (size_t i = 0; w->slot && i <= w->mask; i++)
            if (w->slot[i].used)
                place(slot, size - 1, w->slot[i].key, w->slot[i].value);
        b->bytes -= w->slot ? (w->mask + 1) * sizeof *slot : 0;
        free(w->slot);
        w->slot = slot;
        w->mask = size - 1;
    }
    uint32_t had;
    w->n += !words_get(w, key, &had);
    place(w->slot, w->mask, key, value);
    return true;
}

void
words_free(struct words *w)
{
    free(w->slot);
    memset(w, 0, sizeof *w);
}

bool
list32_push(struct list32 *l, struct budget *b, uint32_t x)
{
    uint32_t *v = budget_grow(b, l->v, &l->cap, l->n + 1, sizeof *v);
    if (v == NULL)
        return false;
    l->v = v;
    v[l->n++] = x;
    return true;
}

void
list32_free(struct list32 *l)
{
    free(l->v);
    memset(l, 0, sizeof *l);
}
