/*
 * DESIGN. BPE asks for the rank of a byte string some millions of times a
 * second, most of them absent. A slot is one 64-bit word: the upper half of
 * the hash over the rank plus one (0: free), so that an absent string costs
 * one cache line and no look at the bytes. base/map would cost four times the
 * memory for its pointers and its deletion.
 */
#include "config.h"

#include "tok/vocab.h"

#include <stdlib.h>
#include <string.h>

static uint64_t
mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t
hash(const char *p, size_t n)
{
    uint64_t h = n, x;

    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&x, p, 8);
        h = mix(h, x);
    }
    if (n > 0) {
        x = 0;
        memcpy(&x, p, n);
        h = mix(h, x);
    }
    return mix(h, 0x2545f4914f6cdd1du);
}

int
vocab_add(struct vocab *v, const char *p, size_t n)
{
    if (v->n + 1 >= v->cap) {
        size_t cap = v->cap ? 2 * v->cap : 1024;
        uint32_t *start = realloc(v->start, cap * sizeof *start);
        if (start == NULL)
            return ERR_NOMEM;
        v->start = start;
        v->cap = cap;
        start[v->n] = (uint32_t)v->bytes.len;
    }
    int rc = buf_append(&v->bytes, p, n);
    if (rc != 0)
        return rc;
    v->start[++v->n] = (uint32_t)v->bytes.len;
    if (n > v->longest)
        v->longest = n;
    return 0;
}

int
vocab_index(struct vocab *v, struct err *e)
{
    size_t size = 16;

    while (size < 2 * v->n)
        size *= 2;
    v->slot = calloc(size, sizeof *v->slot);
    if (v->slot == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    v->mask = size - 1;
    for (size_t rank = 0; rank < v->n; rank++) {
        struct str s = vocab_bytes(v, rank);
        int32_t twin = vocab_find(v, s.p, s.n);
        if (twin >= 0)
            return err_set(e, ERR_FORMAT, "vocab[%zu] has the same bytes as "
                           "vocab[%d]", rank, (int)twin);
        uint64_t h = hash(s.p, s.n), i = h & v->mask;
        while (v->slot[i])
            i = (i + 1) & v->mask;
        v->slot[i] = (h & ~(uint64_t)UINT32_MAX) | (rank + 1);
    }
    return 0;
}

void
vocab_free(struct vocab *v)
{
    buf_free(&v->bytes);
    free(v->start);
    free(v->slot);
    memset(v, 0, sizeof *v);
}

int32_t
vocab_find(const struct vocab *v, const char *p, size_t n)
{
    if (n > v->longest)
        return -1;
    uint64_t h = hash(p, n);
    for (uint64_t i = h & v->mask, s; (s = v->slot[i]) != 0;
         i = (i + 1) & v->mask) {
        if ((s ^ h) >> 32)
            continue;
        uint32_t rank = (uint32_t)s - 1;
        struct str t = vocab_bytes(v, rank);
        if (t.n == n && memcmp(t.p, p, n) == 0)
            return (int32_t)rank;
    }
    return -1;
}
