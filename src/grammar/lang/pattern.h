/* Regular expressions as text (the common part of ECMA-262 with its u flag,
 * and of what users write) into expressions. */
#ifndef GRAMMAR_PATTERN_H
#define GRAMMAR_PATTERN_H

#include "base/err.h"
#include "base/str.h"
#include "grammar/rx/rx.h"

enum {
    PATTERN_SEARCH = 1,   /* found anywhere in the text, as in JSON Schema */
    PATTERN_FOLD = 2,     /* ASCII letters in either case */
    PATTERN_DOTALL = 4    /* . is a line end too */
};

/* The language of the texts that match. Errors: ERR_FORMAT, ERR_UNSUPPORTED
 * (look-around, back-references, flags, \b), ERR_LIMIT; with the offset. */
int pattern_compile(struct rx_pool *p, struct str text, int flags,
                    rx_id *out, struct err *e);

#endif
