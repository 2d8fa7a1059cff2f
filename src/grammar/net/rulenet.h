/*
 * The grammar as a net of rules: each rule a small automaton whose edges are
 * terminals (expressions), other rules, single token ids, or nothing. An edge
 * may count: a place in a rule carries one word of state, 0 where the rule
 * starts, a count or a set of flags.
 */
#ifndef GRAMMAR_RULENET_H
#define GRAMMAR_RULENET_H

#include <stdbool.h>
#include <stdint.h>

#include "grammar/rx/rx.h"

enum net_kind { NET_SKIP, NET_TERM, NET_RULE, NET_TOKEN };

enum net_op {
    NET_ANY,       /* no condition */
    NET_RANGE,     /* lo <= word <= hi */
    NET_COUNT,     /* NET_RANGE, then word + 1, but at most cap */
    NET_SET,       /* bit lo is clear and at most hi are set: set it */
    NET_BITS       /* between lo and hi bits are set */
};

#define NET_LONGEST 0x80000000u /* with a terminal: it may not end where it
                                 * could go on */

struct net_edge {
    uint8_t kind, op;
    uint32_t what;      /* rx_id (| NET_LONGEST), rule, or token id */
    uint32_t to;        /* place */
    uint32_t lo, hi, cap;
    uint32_t next;      /* the next edge from there, or NET_NONE */
};

#define NET_NONE UINT32_MAX

struct net_place {
    uint32_t edges;     /* first edge or NET_NONE */
    uint32_t rule;
    bool final;         /* the rule may end here */
};

struct net_rule {
    uint32_t start;
    bool nullable, productive;
};

struct net {
    struct budget *budget;
    struct rx_pool *rx;
    struct net_rule *rule;
    size_t n_rules, cap_rules;
    struct net_place *place;
    size_t n_places, cap_places;
    struct net_edge *edge;
    size_t n_edges, cap_edges;
};

/* A new rule with its start place; NET_NONE when the budget is gone (it then
 * sticks, and later calls do nothing). */
uint32_t net_rule(struct net *n);
uint32_t net_place(struct net *n, uint32_t rule);
void net_final(struct net *n, uint32_t place);

void net_skip(struct net *n, uint32_t from, uint32_t to);
/* RX_NONE makes no edge; an expression that matches "" also skips. */
void net_term(struct net *n, uint32_t from, rx_id rx, uint32_t to);
void net_call(struct net *n, uint32_t from, uint32_t rule, uint32_t to);
void net_token(struct net *n, uint32_t from, int32_t id, uint32_t to);
/* Puts a condition on the edge made last. */
void net_op(struct net *n, enum net_op op, uint32_t lo, uint32_t hi);
void net_count(struct net *n, uint32_t lo, uint32_t hi, uint32_t cap);

/* True when the condition of e holds for *word, which then has its new
 * value. */
bool net_apply(const struct net_edge *e, uint64_t *word);

/* Finds what is nullable and productive, drops what cannot lead to an end and
 * makes a rule's last call of itself a jump. False when rule 0 is empty or the
 * budget is gone. */
bool net_finish(struct net *n);
void net_destroy(struct net *n);

#endif
