/* A choice as the message and the deltas of a chat completion. */
#ifndef API_CHAT_JSON_H
#define API_CHAT_JSON_H

#include "api/choice.h"

/* Names of the thought in replies. */
enum reasoning_field {
    REASONING_BOTH,      /* reasoning and reasoning_content */
    REASONING_NEW,       /* reasoning */
    REASONING_OLD        /* reasoning_content */
};

/* Value of the configuration's reasoning_field. */
enum reasoning_field reasoning_field_parse(const char *name);

/* Appends the whole message. c must collect. 0 or ERR_NOMEM. */
int chat_put_message(struct buf *out, const struct choice *c,
                     enum reasoning_field field);

/* Appends the delta object of one piece. */
int chat_put_delta(struct buf *out, const struct choice *c,
                   const struct choice_piece *p, enum reasoning_field field);

/* Appends "tool_calls":[..] with call number `call` and args. */
int chat_put_call(struct buf *out, const struct choice *c, int call,
                  struct str args);

/* Appends "reasoning":".." under each of the names in force. */
int chat_put_reasoning(struct buf *out, struct str text,
                       enum reasoning_field field);

#define CHAT_FIRST_DELTA "{\"role\":\"assistant\",\"content\":\"\"}"

#endif
