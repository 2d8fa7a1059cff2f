/*
 * Where a parse can be, structurally: interned sets of items.
 *
 * DESIGN. An item is a place in a rule, its word, and the set in which that
 * rule was started (Earley's origin, but the number of a set, not a position
 * in the text). A set is closed under starting and ending rules and interned,
 * so that positions with the same future have the same number: lists of any
 * length go round a few sets, and masks found for one element hold for all.
 */
#ifndef GRAMMAR_ITEMSET_H
#define GRAMMAR_ITEMSET_H

#include "grammar/net/rulenet.h"

struct itemset_info {
    bool final;          /* rule 0 is complete */
    uint32_t terms;      /* lists of the terminals and ... */
    uint32_t tokens;     /* ... token ids that can come next */
};

struct itemsets {
    const struct net *net;
    struct budget *budget;
    struct seqs sets;    /* a set: its items, four words each, after `final` */
    struct seqs lists;
    struct itemset_info *info;
    size_t cap_info;
    struct words term_shift, token_shift;
    /* the set being made */
    struct item *item;
    size_t n_items, cap_items;
    uint32_t *slot;      /* item number + 1 by hash */
};

/* The set at the start of rule 0; SEQS_FAIL when the budget is gone. */
uint32_t itemsets_start(struct itemsets *s);
/* The set after terminal `what` (as in the net) or token id. */
uint32_t itemsets_term(struct itemsets *s, uint32_t set, uint32_t what);
uint32_t itemsets_token(struct itemsets *s, uint32_t set, uint32_t id);
void itemsets_free(struct itemsets *s);

#endif
