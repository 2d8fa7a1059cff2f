/*
 * What one grammar may cost, and tables that count it. Everything a grammar
 * builds, when it is compiled or while it is used, is charged here; the first
 * refusal sticks in rc and whoever started the operation reports it. One
 * thread at a time.
 */
#ifndef GRAMMAR_BUDGET_H
#define GRAMMAR_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct budget {
    size_t bytes, max_bytes;
    uint64_t work, max_work;
    int rc; /* 0, ERR_LIMIT or ERR_NOMEM */
};

/* Charges units of work; false when the budget is gone. */
static inline bool
budget_work(struct budget *b, uint64_t units)
{
    b->work += units;
    if (b->work > b->max_work && b->rc == 0)
        b->rc = ERR_LIMIT;
    return b->rc == 0;
}

/* Room for `need` elements of `size` bytes in p, which has *cap of them. NULL
 * (p untouched) when memory or the budget is gone. */
void *budget_grow(struct budget *b, void *p, size_t *cap, size_t need,
                  size_t size);

/* --- interned sequences of words ----------------------------------------- */

/* Equal sequences get one number; numbers count up from 0. */
struct seqs {
    uint32_t *data, *start; /* start[id], start[id + 1] in data */
    uint32_t *slot;         /* id + 1, 0 free */
    size_t n, cap_data, cap_start, mask;
};

#define SEQS_FAIL UINT32_MAX

/* The number of p[0..n); *fresh (may be NULL) says whether it is new.
 * SEQS_FAIL when the budget is gone. */
uint32_t seqs_intern(struct seqs *s, struct budget *b, const uint32_t *p,
                     size_t n, bool *fresh);
void seqs_free(struct seqs *s);

/* Words of sequence id, valid until the next seqs_intern. */
static inline const uint32_t *
seqs_get(const struct seqs *s, uint32_t id, size_t *n)
{
    *n = s->start[id + 1] - s->start[id];
    return s->data + s->start[id];
}

/* --- map from 64-bit keys to words --------------------------------------- */

struct words {
    struct words_slot {
        uint64_t key;
        uint32_t value, used;
    } *slot;
    size_t n, mask;
};

bool words_get(const struct words *w, uint64_t key, uint32_t *value);
/* False when the budget is gone. */
bool words_put(struct words *w, struct budget *b, uint64_t key,
               uint32_t value);
void words_free(struct words *w);

static inline uint64_t
words_pair(uint32_t a, uint32_t b)
{
    return (uint64_t)a << 32 | b;
}

/* --- growable list of words ---------------------------------------------- */

struct list32 {
    uint32_t *v;
    size_t n, cap;
};

bool list32_push(struct list32 *l, struct budget *b, uint32_t x);
void list32_free(struct list32 *l);

#endif
