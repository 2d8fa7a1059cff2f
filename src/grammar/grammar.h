/*
 * Structured output: JSON Schema, regular expressions, EBNF and choices to
 * masks over token ids. A vocabulary is built once; a compiled grammar is
 * immutable and shared; a matcher is one request's place in it (one thread at
 * a time). Soundness: a grammar never accepts what its source forbids; what
 * cannot be compiled soundly is refused with its path.
 */
#ifndef GRAMMAR_GRAMMAR_H
#define GRAMMAR_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "tok/tok.h"

struct grammar_vocab;   /* token trie from the vocabulary's bytes */
struct grammar;         /* compiled, shared, counted */
struct grammar_matcher; /* one request's state */

int grammar_vocab_create(const struct tok *t, struct grammar_vocab **out,
                         struct err *e);
void grammar_vocab_free(struct grammar_vocab *v);

enum grammar_kind {
    GRAMMAR_SCHEMA,  /* text: a JSON Schema */
    GRAMMAR_OBJECT,  /* any JSON object; text unused */
    GRAMMAR_REGEX,
    GRAMMAR_EBNF,    /* GBNF/EBNF or Lark-like rules */
    GRAMMAR_CHOICE   /* text: a JSON array of strings */
};

/* A tool whose calls the output grammar may hold to a name and a schema. */
struct grammar_tool {
    struct str name;
    struct str schema;  /* JSON text; {NULL,0}: any object */
};

/* The whole output: an optional thought, then what the mode allows. */
struct grammar_spec {
    bool has_body;              /* the answer follows kind/text */
    enum grammar_kind kind;
    struct str text;
    const struct grammar_tool *tool; /* calls allowed */
    size_t n_tool;
    bool content;               /* free text allowed (before calls, or alone) */
    bool calls;                 /* calls allowed */
    bool must_call;             /* at least one call */
    bool one_call;              /* at most one call */
    bool any_name;              /* names and arguments are not held to tool[] */
    bool thought;               /* a thought may come first */
    bool in_thought;            /* the prompt ends inside a thought */
    bool compact;               /* no white space between JSON tokens */
};

/* Compiles, or takes from the cache, under limits on time and memory. The
 * caller owns one reference. Errors are the client's: ERR_FORMAT,
 * ERR_UNSUPPORTED, ERR_LIMIT, with the path of the offending part. Any
 * thread. */
int grammar_compile(struct grammar_vocab *v, const struct grammar_spec *s,
                    struct grammar **out, struct err *e);
struct grammar *grammar_ref(struct grammar *g);
void grammar_unref(struct grammar *g);

int grammar_matcher_create(struct grammar *g, struct grammar_matcher **out);
void grammar_matcher_free(struct grammar_matcher *m);

/* Sets the bits of the ids allowed next in mask ((n_vocab + 31) / 32 words).
 * End-of-sequence ids are allowed where the output may end. Returns 0, or
 * ERR_LIMIT when a budget is exhausted (the request fails, nothing else). */
int grammar_mask(struct grammar_matcher *m, uint32_t *mask);
/* Moves over id; ERR_MISMATCH (state unchanged) when it is not allowed. */
int grammar_accept(struct grammar_matcher *m, int32_t id);
/* Undoes the last n accepts. */
void grammar_rollback(struct grammar_matcher *m, size_t n);
/* True when the output may end here; true in *only when it must. */
bool grammar_can_end(const struct grammar_matcher *m, bool *only);

#endif
