/*
 * One choice of a reply: token ids in, pieces of text, thought and calls out.
 * It is what a streamed and a whole reply, the server and siroccoctl share; it
 * knows neither HTTP nor a reply's JSON. One thread at a time.
 */
#ifndef API_CHOICE_H
#define API_CHOICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "filter/filter.h"
#include "tok/tok.h"

#define CALL_ID_LEN 9   /* [A-Za-z0-9]{9}: the only form this model's own
                           tool chain takes back */

enum choice_end {
    CHOICE_OPEN,     /* goes on */
    CHOICE_STOP,     /* end of sequence, stop string or stop token */
    CHOICE_LENGTH,   /* token limit or context */
    CHOICE_ABORT     /* ended by the server */
};

struct choice_options {
    const struct tok *tok;
    const struct filter_set *filters;
    struct filter_options filter;  /* spell is set by choice_open */
    bool one_call;       /* parallel_tool_calls: false */
    bool hide_reasoning; /* include_reasoning: false */
    bool collect;        /* keep all text, for a whole reply */
    bool numbered_ids;   /* ids of calls are call00000, call00001, ... instead
                            of random: the same output gives the same reply */
};

/* A piece not yet sent; its text stands in choice.text. */
struct choice_piece {
    enum filter_event_type type; /* TEXT, REASONING, CALL or ARGS */
    int call;
    size_t at, n;
};

struct choice_call {
    char id[CALL_ID_LEN + 1];
    struct buf name, args;       /* args only when collecting */
};

struct choice {
    struct choice_options o;
    struct filter *filter;
    struct buf bytes;            /* of the token being read */
    struct buf text;             /* of the pieces */
    struct choice_piece *piece;
    size_t n_piece, cap_piece;
    struct choice_call *call;
    int n_call;
    struct buf content, reasoning; /* when collecting */
    uint32_t n_tokens;           /* up to the end; what a stop string cut off
                                    is not counted */
    uint32_t n_reasoning;        /* of them inside a thought */
    enum choice_end end;
    struct buf stop_string;      /* the one that matched */
    int32_t stop_id;             /* stop token, -1 = none */
};

/* Starts a choice. 0 or ERR_NOMEM; choice_close is due either way. */
int choice_open(struct choice *c, const struct choice_options *o);
void choice_close(struct choice *c);

/* Puts text in front of what is generated. 0 or ERR_NOMEM. */
int choice_echo(struct choice *c, struct str text);

/* Reads one generated id. Once a stop string matched, c->end is CHOICE_STOP
 * and further ids change nothing. Returns 0 or ERR_NOMEM. */
int choice_token(struct choice *c, int32_t id);
/* Counts the id that ended the output, without showing it. */
void choice_end_token(struct choice *c);
/* The output has ended: what was held back becomes pieces. 0 or ERR_NOMEM. */
int choice_finish(struct choice *c, enum choice_end end);
/* Forgets the pieces: they have been sent. */
void choice_sent(struct choice *c);

/* Text of a piece; lives until the next call. */
struct str choice_text(const struct choice *c, const struct choice_piece *p);
/* "stop", "length", "tool_calls" or "abort". named: a call of one tool was
 * forced, which counts as "stop". */
const char *choice_reason(const struct choice *c, bool named);

/* n characters [A-Za-z0-9] and a NUL, at random. */
void choice_random(char *out, size_t n);

#endif
