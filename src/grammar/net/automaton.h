/*
 * The byte automaton of a grammar: one number says all about a place in the
 * output. Built as it is walked; a number stays valid as long as the grammar.
 *
 * DESIGN. A configuration is a set of entries, each a terminal under way (its
 * expression's state, the item set it was started in, and which terminal), or
 * a boundary (an item set reached exactly here, where token ids and the end of
 * the output come in). Where a terminal may end, both going on and what comes
 * after it are in the configuration: ends need no look-ahead. A terminal that
 * asked for the longest match leaves a guard on what follows it, which falls
 * if the next byte could have been its own.
 */
#ifndef GRAMMAR_AUTOMATON_H
#define GRAMMAR_AUTOMATON_H

#include "grammar/net/itemset.h"

#define CONFIG_DEAD 0u
#define CONFIG_FAIL UINT32_MAX  /* the budget is gone */

struct config {
    uint32_t partition;
    uint32_t clipped;      /* configuration with the same mask; 0 unknown */
    uint32_t mask;         /* number in the mask cache + 1; 0 none */
    bool final;            /* the output may end here */
    uint32_t *row;         /* configuration + 1 by byte class; 0 unknown */
};

struct automaton {
    struct budget budget;
    struct rx_pool rx;
    struct net net;
    struct itemsets sets;
    struct seqs configs;   /* entries, four words each */
    struct config *config;
    size_t cap_configs;
    struct arena *rows;
    struct list32 entries; /* the configuration being made */
    uint32_t start;
};

/* Zeroed with budgets set; then the net is filled; then automaton_finish makes
 * the start. False when the grammar is empty (budget.rc 0) or the budget is
 * gone. */
bool automaton_init(struct automaton *a, size_t max_bytes, uint64_t max_work);
bool automaton_finish(struct automaton *a);
void automaton_free(struct automaton *a);

/* The step not taken before; see automaton_step. */
uint32_t automaton_miss(struct automaton *a, uint32_t c, unsigned char byte);
/* The configuration after token id, CONFIG_DEAD when it cannot come. */
uint32_t automaton_token(struct automaton *a, uint32_t c, uint32_t id);
/* Number of token ids that can come at c; each is given to fn. */
size_t automaton_tokens(struct automaton *a, uint32_t c,
                        void (*fn)(void *arg, uint32_t id), void *arg);
/* True when neither a byte nor a token id can come. */
bool automaton_stuck(const struct automaton *a, uint32_t c);
/* A configuration that allows the same strings of up to length bytes. */
uint32_t automaton_clip(struct automaton *a, uint32_t c, uint32_t length);

static inline uint32_t
automaton_step(struct automaton *a, uint32_t c, unsigned char byte)
{
    const struct config *x = &a->config[c];
    uint32_t next = x->row ? x->row[a->rx.parts.v[x->partition].of[byte]] : 0;
    return next ? next - 1 : automaton_miss(a, c, byte);
}

#endif
