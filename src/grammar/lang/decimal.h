/* Languages of decimal numbers, from the text of the schema's numbers.
 *
 * A *value* language holds all spellings of its numbers without exponent
 * ("3", "3.0", "3.00"), so that it can be intersected and complemented as a
 * set of numbers. */
#ifndef GRAMMAR_DECIMAL_H
#define GRAMMAR_DECIMAL_H

#include <stdbool.h>

#include "base/str.h"
#include "grammar/rx/rx.h"

#define DECIMAL_MAX 400

struct decimal {
    bool negative;
    char whole[DECIMAL_MAX + 1], part[DECIMAL_MAX + 1];
    size_t n_whole, n_part; /* no leading zeros ("0" for none); no trailing */
};

/* A JSON number's text; false when it needs more than DECIMAL_MAX digits. */
bool decimal_parse(struct str text, struct decimal *d);

rx_id decimal_any(struct rx_pool *p);       /* every number */
rx_id decimal_integer(struct rx_pool *p);   /* every whole number */
rx_id decimal_equal(struct rx_pool *p, const struct decimal *d);
rx_id decimal_from(struct rx_pool *p, const struct decimal *d, bool strict);
rx_id decimal_up_to(struct rx_pool *p, const struct decimal *d, bool strict);
/* RX_NONE when the divisor is zero, negative or too fine. */
rx_id decimal_multiple(struct rx_pool *p, const struct decimal *d);

/* Spellings to generate: at most `whole` digits before the point and `part`
 * after it; exponent: also with one. */
rx_id decimal_spell_integer(struct rx_pool *p, uint32_t whole);
rx_id decimal_spell(struct rx_pool *p, uint32_t whole, uint32_t part,
                    bool exponent);

#endif
