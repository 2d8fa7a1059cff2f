/*
 * The split of text into pieces by the file's regular expression, with the
 * meaning Rust's regex crate gives it (which the reference uses).
 */
#ifndef TOK_SPLIT_H
#define TOK_SPLIT_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct split;        /* the compiled pattern; read-only, any thread */
struct split_cursor; /* one text being split */

/* ERR_FORMAT with the place for a pattern PCRE2 cannot compile,
 * ERR_UNSUPPORTED for classes that mean different things in the two. */
int split_create(const char *pattern, size_t n, struct split **out,
                 struct err *e);
void split_free(struct split *s);

/* Begins with text (n bytes of valid UTF-8, borrowed). NULL: out of memory. */
struct split_cursor *split_begin(const struct split *s, const char *text,
                                 size_t n);
/* Next non-empty piece in *p and *n. 1, 0 at the end, ERR_NOMEM, or ERR_LIMIT
 * when the pattern backtracks beyond its budget. */
int split_next(struct split_cursor *c, const char **p, size_t *n);
void split_end(struct split_cursor *c);

#endif
