/* Sets of bytes, and partitions of the 256 bytes into classes that an
 * expression does not tell apart. */
#ifndef GRAMMAR_BYTESET_H
#define GRAMMAR_BYTESET_H

#include <stdbool.h>
#include <stdint.h>

#include "grammar/rx/budget.h"

struct byteset {
    uint64_t w[4];
};

static inline bool
byteset_has(const struct byteset *s, unsigned char c)
{
    return s->w[c >> 6] >> (c & 63) & 1;
}

static inline void
byteset_add(struct byteset *s, unsigned char c)
{
    s->w[c >> 6] |= (uint64_t)1 << (c & 63);
}

static inline void
byteset_add_range(struct byteset *s, unsigned lo, unsigned hi)
{
    for (unsigned c = lo; c <= hi; c++)
        byteset_add(s, (unsigned char)c);
}

static inline bool
byteset_empty(const struct byteset *s)
{
    return (s->w[0] | s->w[1] | s->w[2] | s->w[3]) == 0;
}

/* A partition: the class of each byte, classes numbered in the order of their
 * first bytes, and one byte of each class. */
struct partition {
    uint8_t of[256];
    uint8_t byte[256];
    uint32_t n;
};

struct partitions {
    struct partition *v;
    size_t n, cap;
    struct seqs keys;       /* partition by its map */
    struct words products;
};

/* Number of the partition whose classes are the bytes with equal of[]; 0 is
 * the one with a single class. UINT32_MAX when the budget is gone. */
uint32_t partition_make(struct partitions *p, struct budget *b,
                        const uint16_t of[256]);
/* The coarsest partition finer than both. */
uint32_t partition_product(struct partitions *p, struct budget *b, uint32_t x,
                           uint32_t y);
void partitions_free(struct partitions *p);

#endif
