/* A compiled set of patterns, as the chain uses it. */
#ifndef FILTER_FILTER_SET_H
#define FILTER_FILTER_SET_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filter/filter.h"
#include "filter/filter_tab.h"

#define FILTER_TOKENS_MAX 32

/* One expression that finds any marker; (*MARK) says which. */
struct filter_expr {
    pcre2_code *code;                  /* NULL: nothing to find */
    int32_t token[FILTER_TOKENS_MAX];  /* control tokens it may match */
    size_t n_token;
};

struct filter_set {
    struct filter_expr all;        /* thoughts and calls */
    struct filter_expr calls;      /* calls only */
    pcre2_match_context *limits;   /* read-only while matching */
};

/* Match context that bounds what a pattern may cost. NULL: out of memory. */
pcre2_match_context *filter_limits(void);

/* Result of filter_find. */
struct filter_hit {
    size_t start, end;      /* a match, or with partial: from where to hold */
    enum marker marker;
    bool partial;
};

/* Looks for the first marker in s[from .. n); last: no more text will come.
 * False when there is none. */
bool filter_find(const struct filter_expr *x, pcre2_match_data *md,
                 pcre2_match_context *limits, const char *s, size_t n,
                 size_t from, bool last, struct filter_hit *out);

#endif
