/* Stop strings: the last link of a chain. */
#ifndef FILTER_STOP_H
#define FILTER_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "filter/filter.h"
#include "filter/filter_set.h"

struct stop {
    struct filter_expr expr;    /* code NULL: no stop strings */
    pcre2_match_data *md;
    pcre2_match_context *limits;/* borrowed */
    struct buf held;            /* may be the start of a stop string */
    enum filter_event_type type;/* of the held text */
    bool keep, matched;
    filter_fn fn;
    void *arg;
};

/* Compiles n strings. 0 or ERR_NOMEM; stop_close is due either way. */
int stop_open(struct stop *s, const struct str *string, size_t n, bool keep,
              pcre2_match_context *limits, filter_fn fn, void *arg);
void stop_close(struct stop *s);

/* A piece of text of one type (TEXT or REASONING) goes through; a change of
 * type ends what is held. */
int stop_text(struct stop *s, enum filter_event_type type, const char *p,
              size_t n);
/* Sends what is held: the text ends here, or something else follows. */
int stop_flush(struct stop *s);

#endif
