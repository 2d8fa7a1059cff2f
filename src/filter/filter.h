/*
 * Output filters: the bytes of a model's output to text, reasoning and tool
 * calls. The input is what tok_emit wrote: UTF-8 text in any pieces, control
 * tokens in band as marks. A chain is three links:
 *
 *   text     holds incomplete characters, repairs ill-formed ones, drops (or
 *            spells out) the control tokens that no pattern names
 *   markers  one PCRE2 expression of the format's patterns, matched with
 *            PCRE2_PARTIAL_HARD, drives the states answer, thought and call
 *   stop     stop strings, in answer text only
 *
 * No link's result depends on how the output was cut. Patterns come from a
 * table per prompt format, and an operator's file may override them. A
 * compiled filter_set is read-only and shared; a chain belongs to one thread
 * at a time.
 *
 * What is accepted, beside the format's own form: a call without [ARGS] before
 * its `{`; calls as a JSON array or object behind [TOOL_CALLS] (the form of v3
 * and v7, in every format); a call inside an open thought, which it closes.
 * Arguments are the first complete JSON value; text behind it up to the next
 * marker is dropped. Arguments that are no JSON are passed on as they are. A
 * call that has no name, or neither arguments nor [ARGS], is dropped.
 */
#ifndef FILTER_FILTER_H
#define FILTER_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

enum filter_event_type {
    FILTER_TEXT,      /* a piece of the answer */
    FILTER_REASONING, /* a piece of the thought */
    FILTER_CALL,      /* a call starts; data = its whole name */
    FILTER_ARGS,      /* a piece of the current call's arguments */
    FILTER_CALL_END,  /* the call's arguments are one complete JSON value */
    FILTER_STOP       /* a stop string matched; data = the string */
};

/* data is valid, complete UTF-8 and lives for the callback only. */
struct filter_event {
    enum filter_event_type type;
    struct str data;
    int call;         /* index of the call, from 0; for CALL, ARGS, CALL_END */
};

typedef int (*filter_fn)(void *arg, const struct filter_event *ev);

struct filter_set;

/* Resolves a control token's name to its id, -1 when the model has none. A
 * pattern names a token as {{NAME}}, for example {{[THINK]}}; this keeps the
 * room free of the tokenizer. */
typedef int (*filter_token_fn)(void *arg, const char *name);

/* Compiles the patterns of a prompt format ("v15"), with overrides from the
 * file at path (NULL: none; its syntax is in sirocco.conf(5)). A pattern of
 * the table that names a token the model lacks is off; one of the file is an
 * error. Errors name the pattern and the offset. */
int filter_set_create(const char *version, filter_token_fn token, void *arg,
                      const char *path, struct filter_set **out,
                      struct err *e);
void filter_set_free(struct filter_set *s);

struct filter_options {
    bool reasoning;        /* split thoughts; else they are answer text */
    bool tools;            /* split tool calls; else their markers are dropped
                              and the rest is answer text */
    bool in_thought;       /* the prompt ends inside an open thought */
    const struct str *stop;/* not empty strings; copied. The first to be
                              complete counts */
    size_t n_stop;
    bool keep_stop;        /* include_stop_str_in_output */
    bool stop_in_thought;  /* match stop strings in thoughts too */
    bool keep_special;     /* spell control tokens that no pattern names out
                              instead of dropping them */
    struct str (*spell)(void *arg, int id); /* name of a control token */
    void *spell_arg;
};

struct filter;

/* Chain that calls fn(arg, event) in output order. fn's non-zero return stops
 * the chain and is passed up. NULL when memory is out. */
struct filter *filter_create(const struct filter_set *s,
                             const struct filter_options *o, filter_fn fn,
                             void *arg);
void filter_free(struct filter *f);

/* Feeds n bytes. Returns 0, what fn returned, or ERR_NOMEM. After FILTER_STOP
 * further input is ignored. */
int filter_feed(struct filter *f, const char *p, size_t n);

/* End of output: what is held back is sent; incomplete characters become
 * U+FFFD. cut: the output ended at a limit, not by the model's will. A call
 * that is still open stays without CALL_END, except one whose arguments were
 * never begun in an output that was not cut: it gets {}. */
int filter_finish(struct filter *f, bool cut);

/* True while the output is inside a thought. */
bool filter_in_thought(const struct filter *f);
/* True once a stop string matched. */
bool filter_stopped(const struct filter *f);
/* Calls started so far. */
int filter_n_calls(const struct filter *f);

#endif
