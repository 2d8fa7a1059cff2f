/* tekken.json: the parts of a loaded tokenizer and how to read them. */
#ifndef TOK_TEKKEN_H
#define TOK_TEKKEN_H

#include <stddef.h>

#include "base/err.h"
#include "base/map.h"
#include "base/mem.h"
#include "tok/split.h"
#include "tok/tok.h"
#include "tok/vocab.h"

struct tok {
    struct tok_info info;
    struct vocab vocab;      /* ordinary tokens by rank */
    struct split *split;
    struct str *special;     /* names, n_special of them */
    struct map *special_ids; /* name to id */
    struct arena *arena;     /* strings of info and special */
};

/* Fills the zeroed t (with its arena) from n bytes of JSON. On an error t is
 * half filled, fit for tok_free. */
int tekken_read(struct tok *t, const char *json, size_t n, struct err *e);

#endif
