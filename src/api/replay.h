/* A model's output, given as ids, to the reply the API would send for it: what
 * siroccoctl filter shows. No server, no engine. Any thread. */
#ifndef API_REPLAY_H
#define API_REPLAY_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "filter/filter.h"
#include "tok/tok.h"

struct replay {
    const struct tok *tok;
    const struct filter_set *filters;
    const int32_t *id;        /* generated ids; `</s>` ends the output */
    size_t n;
    const size_t *cut;        /* places 0..n, ascending: the ids between two
                                 go out in one chunk */
    size_t n_cut;
    const char *reasoning_field; /* as in the configuration; NULL = both */
};

/* Appends {"message":{..},"deltas":[..],"finish_reason":".."} of a chat
 * completion with tool_choice auto; ids of calls are numbered, so that equal
 * outputs give equal replies. Without `</s>` the reason is "length".
 * ERR_RANGE for a cut out of place or an id outside the vocabulary. */
int replay_put(const struct replay *r, struct buf *out, struct err *e);

#endif
