#include "config.h"

#include "grammar/rx/byteset.h"

#include <stdlib.h>
#include <string.h>

uint32_t
partition_make(struct partitions *p, struct budget *b, const uint16_t of[256])
{
    struct partition x = {.n = 0};
    uint32_t key[64];
    int16_t seen[256 * 2];
    bool fresh;

    memset(seen, -1, sizeof seen);
    for (int c = 0; c < 256; c++) {
        if (seen[of[c]] < 0) {
            x.byte[x.n] = (uint8_t)c;
            seen[of[c]] = (int16_t)x.n++;
        }
        x.of[c] = (uint8_t)seen[of[c]];
    }
    memcpy(key, x.of, sizeof key);
    uint32_t id = seqs_intern(&p->keys, b, key, 64, &fresh);
    if (id == SEQS_FAIL || !fresh)
        return id;
    struct partition *v = budget_grow(b, p->v, &p->cap, p->n + 1, sizeof *v);
    if (v == NULL) {
        b->rc = b->rc ? b->rc : ERR_NOMEM;
        return UINT32_MAX;
    }
    p->v = v;
    v[p->n++] = x;
    return id;
}

uint32_t
partition_product(struct partitions *p, struct budget *b, uint32_t x,
                  uint32_t y)
{
    uint32_t id;
    uint16_t of[256];

    if (x == y || y == 0)
        return x;
    if (x == 0)
        return y;
    if (x > y) {
        uint32_t t = x;
        x = y;
        y = t;
    }
    if (words_get(&p->products, words_pair(x, y), &id))
        return id;
    uint16_t pair[256], n = 0;
    for (int c = 0; c < 256; c++) {
        uint16_t key = (uint16_t)(p->v[x].of[c] << 8 | p->v[y].of[c]), i = 0;
        while (i < n && pair[i] != key)
            i++;
        if (i == n)
            pair[n++] = key;
        of[c] = i;
    }
    budget_work(b, 64);
    id = partition_make(p, b, of);
    if (id != UINT32_MAX && !words_put(&p->products, b, words_pair(x, y), id))
        return UINT32_MAX;
    return id;
}

void
partitions_free(struct partitions *p)
{
    free(p->v);
    seqs_free(&p->keys);
    words_free(&p->products);
    memset(p, 0, sizeof *p);
}
