/* Sets of code points, and their UTF-8 as expressions. */
#ifndef GRAMMAR_CHARSET_H
#define GRAMMAR_CHARSET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"
#include "grammar/rx/budget.h"
#include "grammar/rx/rx.h"

#define CHARSET_MAX 0x10ffffu

/* Ranges, in any order and overlapping until charset_settle. Zeroed: none. */
struct charset {
    struct char_range {
        uint32_t lo, hi;
    } *v;
    size_t n, cap;
};

bool charset_add(struct charset *s, struct budget *b, uint32_t lo,
                 uint32_t hi);
bool charset_add_set(struct charset *s, struct budget *b,
                     const struct charset *t);
/* Every code point that is not in s, in place of s. */
bool charset_invert(struct charset *s, struct budget *b);
/* Adds the other case of ASCII letters. */
bool charset_fold(struct charset *s, struct budget *b);
void charset_free(struct charset *s);

/* Characters with a Unicode property, as in \p{name}. ERR_NOENT when there is
 * none of this name, or the budget's error. */
int charset_add_property(struct charset *s, struct budget *b, struct str name);

/* One character of s in UTF-8; surrogates are left out. Settles s. */
rx_id charset_rx(struct rx_pool *p, struct charset *s);

#endif
