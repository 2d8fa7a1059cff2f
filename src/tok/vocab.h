/*
 * The byte strings of the ordinary tokens and the way back from bytes to rank.
 * Built once by vocab_add and vocab_index, read-only afterwards.
 */
#ifndef TOK_VOCAB_H
#define TOK_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct vocab {
    struct buf bytes;    /* all tokens, one after the other */
    uint32_t *start;     /* n + 1 offsets into bytes */
    size_t n, cap;
    size_t longest;      /* bytes of the longest token */
    uint64_t *slot;      /* see vocab.c */
    uint64_t mask;
};

/* Appends the token of rank v->n. 0 or ERR_NOMEM. */
int vocab_add(struct vocab *v, const char *p, size_t n);
/* Makes vocab_find work. 0, ERR_NOMEM, or ERR_FORMAT when two tokens have the
 * same bytes. */
int vocab_index(struct vocab *v, struct err *e);
void vocab_free(struct vocab *v);

/* Rank of the token with these bytes, -1 if there is none. */
int32_t vocab_find(const struct vocab *v, const char *p, size_t n);

static inline struct str
vocab_bytes(const struct vocab *v, size_t rank)
{
    return (struct str){v->bytes.data + v->start[rank],
                        v->start[rank + 1] - v->start[rank]};
}

#endif
