/* A compiled grammar and its masks, inside the room. */
#ifndef GRAMMAR_MATCHER_H
#define GRAMMAR_MATCHER_H

#include <pthread.h>
#include <stdatomic.h>

#include "grammar/net/automaton.h"
#include "grammar/grammar.h"
#include "grammar/token/trie.h"

/* Bits of the ids allowed at one configuration: a list when they are few. */
struct mask {
    uint32_t n;            /* ids allowed */
    bool is_list;
    uint32_t *v;           /* ids, or words of bits */
};

struct grammar {
    atomic_int refs;
    const struct grammar_vocab *vocab;
    pthread_mutex_t lock;  /* of all below */
    struct automaton a;
    struct mask *mask;
    size_t n_masks, cap_masks, mask_bytes;
    uint32_t *bits;        /* the mask being made */
    uint32_t *path;        /* configuration at each depth of a walk */
    atomic_bool stale;     /* not to be given to new requests */
};

/* A grammar with an empty net, one reference. */
int grammar_create(const struct grammar_vocab *v, struct grammar **out);

/* The mask at configuration c; NULL when the budget is gone. */
const struct mask *mask_get(struct grammar *g, uint32_t c);
void mask_free_all(struct grammar *g);

#endif
