/* The rules of a textual grammar as trees, and the trees as a net. */
#ifndef GRAMMAR_PRODUCTION_H
#define GRAMMAR_PRODUCTION_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "grammar/net/automaton.h"

enum production_kind {
    PRODUCTION_RX,       /* what rx matches */
    PRODUCTION_SEQUENCE, PRODUCTION_CHOICE, /* of the list at a */
    PRODUCTION_REPEAT,   /* a, min to max times */
    PRODUCTION_NAME,     /* the named rule */
    PRODUCTION_TOKENS,   /* one token id from min to max */
    PRODUCTION_NET       /* a rule of the net that is there already */
};

struct production {
    uint8_t kind;
    rx_id rx;
    struct production *a, *next; /* first part; the next of the same list */
    uint32_t min, max, rule;
    size_t at;                   /* offset in the text */
};

struct named {
    struct str name;
    struct production *body;     /* NULL: used but not defined */
    size_t at;
    uint32_t net;                /* its rule in the net, NET_NONE before */
    uint8_t state;               /* of the search for cycles */
    bool regular;                /* no recursion, no tokens */
    bool terminal;               /* Lark: name in upper case */
    rx_id rx;                    /* when regular and asked for */
    bool has_rx;
};

struct productions {
    struct automaton *a;
    struct arena *arena;
    struct named *rule;
    size_t n, cap;
    bool lark;
    rx_id ignore;                /* between Lark's terminals; RX_NONE: none */
    struct str text;
    struct err *e;
    int rc;
};

/* Records the first error with line and column; returns its code. */
int production_fail(struct productions *p, int code, size_t at,
                    const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The language of a rule without recursion and token ids. */
int production_rx(struct productions *p, uint32_t i, rx_id *out);
/* The rule of the net for p->rule[start] and all it needs. */
int production_net(struct productions *p, uint32_t start, uint32_t *rule);

#endif
