/* Seeded random mutations of texts, for the fuzzers. */
#ifndef FUZZ_MUTATE_H
#define FUZZ_MUTATE_H

#include <stdint.h>
#include <string.h>

#include "base/buf.h"

struct mutate {
    uint64_t state;
    const char *const *word; /* spliced in here and there; NULL at the end */
};

static inline uint32_t
mutate_draw(struct mutate *m, uint32_t below)
{
    m->state = m->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(m->state >> 33) % below;
}

/* One change at a random place. */
static inline void
mutate_once(struct mutate *m, struct buf *b)
{
    size_t at = mutate_draw(m, (uint32_t)b->len + 1), rest = b->len - at;
    size_t n = mutate_draw(m, rest < 40 ? (uint32_t)rest + 1 : 40);
    struct buf tail = {0};
    uint32_t words = 0;

    while (m->word[words])
        words++;
    switch (mutate_draw(m, 6)) {
    case 0: /* leave some out */
        memmove(b->data + at, b->data + at + n, rest - n);
        b->len -= n;
        break;
    case 1: /* cut off */
        b->len = mutate_draw(m, 4) ? b->len : at;
        break;
    case 2: /* another byte */
        if (rest > 0)
            b->data[at] = (char)mutate_draw(m, 256);
        break;
    default: /* a word, or a part of the text again */
        buf_append(&tail, b->data + at, rest);
        b->len = at;
        if (words > 0 && mutate_draw(m, 3))
            buf_puts(b, m->word[mutate_draw(m, words)]);
        else
            buf_append(b, tail.data, n);
        buf_append(b, tail.data, rest);
        buf_free(&tail);
    }
}

/* A copy of text with one to five changes, replacing what b holds. */
static inline void
mutate_text(struct mutate *m, const char *text, size_t n, struct buf *b)
{
    b->len = 0;
    buf_append(b, text, n);
    for (uint32_t k = 1 + mutate_draw(m, 5); k > 0; k--)
        mutate_once(m, b);
}

#endif
