/*
 * Regular expressions over bytes, closed under intersection and complement,
 * and their automata by derivatives, built as they are walked.
 *
 * An expression is a number in a pool; equal expressions have equal numbers,
 * so an expression is also a state of the automaton, and taking the derivative
 * by a byte is the step to the next one. RX_NONE (0) matches nothing: once a
 * step gives it, or an expression that rx_live finds empty, there is no way
 * on. All functions return RX_NONE when the pool's budget is gone; the budget
 * then holds the error.
 */
#ifndef GRAMMAR_RX_H
#define GRAMMAR_RX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grammar/rx/budget.h"
#include "grammar/rx/byteset.h"

typedef uint32_t rx_id;

#define RX_NONE 0u           /* no string at all */
#define RX_EMPTY 1u          /* the empty string */
#define RX_INF UINT32_MAX    /* no upper bound */

enum rx_kind {
    RX_KIND_NONE, RX_KIND_EMPTY,
    RX_KIND_CLASS,           /* one byte of a set */
    RX_KIND_CAT, RX_KIND_OR, RX_KIND_AND, RX_KIND_NOT,
    RX_KIND_REP,             /* a, m to n times */
    RX_KIND_QUOTE,           /* the rest of a JSON string whose value is in a */
    RX_KIND_ESCAPE,          /* ... after a backslash; m: how far */
    RX_KIND_MULTIPLE,        /* decimal digits of multiples of a number */
    RX_KIND_END              /* a without the end mark it must end with */
};

enum { RX_NULLABLE = 1, RX_TEXT = 2, RX_SURE = 4 };

struct rx_node {
    uint8_t kind;
    uint8_t flags;           /* matches ""; only whole UTF-8; never empty */
    uint8_t live;            /* 0 unknown, 1 live, 2 dead */
    uint32_t a, b, m, n;
    uint32_t partition;
    uint32_t seen;           /* stamp of the last search that met it */
    rx_id clipped;           /* see rx_clip; RX_NONE: not computed */
    uint32_t *row;           /* next state + 1 by byte class; 0 unknown */
};

struct rx_pool {
    struct budget *budget;
    struct rx_node *node;
    size_t n, cap;
    struct seqs keys;        /* node by its parts */
    struct seqs lists;       /* operands of OR and AND */
    struct seqs sets;        /* byte sets of CLASS */
    struct partitions parts;
    struct arena *rows;
    uint32_t stamp;
    rx_id any_char, all;     /* a character; any text */
    uint32_t quote_part, escape_part, zero_part, zero_one_part, hex_part,
        digit_part;
};

/* False when memory is out. rx_pool_free works on a failed pool too. */
bool rx_pool_init(struct rx_pool *p, struct budget *b);
void rx_pool_free(struct rx_pool *p);

rx_id rx_class(struct rx_pool *p, const struct byteset *s);
rx_id rx_byte(struct rx_pool *p, unsigned char c);
rx_id rx_literal(struct rx_pool *p, const char *s, size_t n);
rx_id rx_cat(struct rx_pool *p, rx_id a, rx_id b);
rx_id rx_cat_n(struct rx_pool *p, const rx_id *v, size_t n);
rx_id rx_or(struct rx_pool *p, rx_id a, rx_id b);
rx_id rx_or_n(struct rx_pool *p, const rx_id *v, size_t n);
rx_id rx_and(struct rx_pool *p, rx_id a, rx_id b);
rx_id rx_not(struct rx_pool *p, rx_id a);
/* Text (whole UTF-8) that is not in a. */
rx_id rx_text_not(struct rx_pool *p, rx_id a);
rx_id rx_repeat(struct rx_pool *p, rx_id a, uint32_t min, uint32_t max);
rx_id rx_optional(struct rx_pool *p, rx_id a);

/* The JSON spelling of a, a language of text: quotes, and the one escape that
 * characters need which cannot stand for themselves. */
rx_id rx_json_string(struct rx_pool *p, rx_id a);
/* Decimal digits, with an optional point and more digits, of the multiples of
 * coefficient / 10^places. 0 < coefficient <= 1e6, places <= 9. */
rx_id rx_multiple(struct rx_pool *p, uint32_t coefficient, uint32_t places);
/* The strings of a that end with the byte 0xFF, without it. */
rx_id rx_end(struct rx_pool *p, rx_id a);

/* States inside the last two: the rest of a string whose value is in a, `stage`
 * characters after a backslash, the first hex digit being `high`; the rest of a
 * multiple with this residue so far, `used` - 1 digits after the point. */
rx_id rx_quote(struct rx_pool *p, rx_id a);
rx_id rx_escape(struct rx_pool *p, rx_id a, uint32_t stage, uint32_t high);
rx_id rx_multiple_rest(struct rx_pool *p, uint32_t coefficient,
                       uint32_t residue, uint32_t places, uint32_t used);

/* One of n strings; several equal ones are fine. Sorts v. */
struct str;
rx_id rx_strings(struct rx_pool *p, struct str *v, size_t n);

/* The state after one byte, possibly one without a way on: see rx_live. */
rx_id rx_step(struct rx_pool *p, rx_id r, unsigned char c);
/* True when r matches some string. False for empty languages and when the
 * budget is gone. */
bool rx_live(struct rx_pool *p, rx_id r);
bool rx_matches(struct rx_pool *p, rx_id r, const char *s, size_t n);

/* A state that goes the same ways as r for the next `length` bytes, the same
 * for many r: counters that cannot run out that soon are evened. */
rx_id rx_clip(struct rx_pool *p, rx_id r, uint32_t length);

static inline bool
rx_nullable(const struct rx_pool *p, rx_id r)
{
    return p->node[r].flags & RX_NULLABLE;
}

#endif
