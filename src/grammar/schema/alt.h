/*
 * The values a schema allows, as alternatives of one type each.
 *
 * DESIGN. A schema becomes a list of alternatives: null, some booleans, a
 * language of numbers, a language of strings, an array form, an object form.
 * Schemas inside (of items and members) stay unexpanded: they are nodes, sets
 * of schemas that must hold together, so that intersecting two forms only
 * unites sets. There are finitely many such sets, so recursion through $ref
 * ends by itself: every node becomes one rule.
 */
#ifndef GRAMMAR_ALT_H
#define GRAMMAR_ALT_H

#include <json-c/json.h>

#include "base/mem.h"
#include "base/str.h"
#include "grammar/net/automaton.h"

enum alt_type { ALT_NULL, ALT_BOOL, ALT_NUMBER, ALT_STRING, ALT_ARRAY,
                ALT_OBJECT, ALT_TYPES };

#define NODE_ANY 0u   /* the empty set of schemas */
#define NODE_NEVER 1u
#define COUNT_INF UINT32_MAX

struct alt_member {
    struct str name;
    uint32_t node;
    bool required;
};

/* Members without a name of their own: the names in key, if any. */
struct alt_region {
    rx_id key;
    uint32_t node;
};

struct alt {
    uint8_t type;
    uint8_t bools;         /* BOOL: 1 false, 2 true */
    bool integer;          /* NUMBER: spelt without a point */
    rx_id value;           /* NUMBER: a value language; STRING: decoded */
    rx_id spell;           /* NUMBER: the spellings; RX_NONE: as usual */
    uint32_t min, max;     /* ARRAY, OBJECT: how many */
    uint32_t *prefix;      /* ARRAY: nodes of the first items */
    size_t n_prefix;
    uint32_t rest;         /* ARRAY: node of the others */
    bool unique;
    struct alt_member *member;
    size_t n_members;
    struct alt_region *region; /* disjoint keys; a name in none is forbidden */
    size_t n_regions;
};

struct alts {
    struct alt *v;
    size_t n;
};

struct alt_maker;          /* schema.c: nodes, errors */

/* What alternatives are made with. */
struct alt_pool {
    struct automaton *a;
    struct rx_pool *rx;
    struct arena *arena;
    struct alt_maker *maker;
    uint32_t (*both)(struct alt_maker *m, uint32_t x, uint32_t y);
    uint32_t (*negated)(struct alt_maker *m, uint32_t node);
    rx_id any_number;
    bool failed;           /* memory, or more than ALTS_MAX alternatives */
};

#define ALTS_MAX 256

struct alt alt_any(struct alt_pool *p, enum alt_type type);
struct alts alts_any(struct alt_pool *p);
/* Adds x to l; equal types merge where that is exact. */
void alts_add(struct alt_pool *p, struct alts *l, struct alt x);
void alts_unite(struct alt_pool *p, struct alts *l, struct alts x);
struct alts alts_intersect(struct alt_pool *p, struct alts x, struct alts y);
/* Everything that is not in x; false when it cannot be said. */
bool alts_negate(struct alt_pool *p, struct alts x, struct alts *out);

/* Node of the members called name. */
uint32_t alt_member_node(struct alt_pool *p, const struct alt *x,
                         struct str name);
/* Adds a member, or narrows the one of this name. */
void alt_require(struct alt_pool *p, struct alt *x, struct str name,
                 uint32_t node, bool required);

#endif
