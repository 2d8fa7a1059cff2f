/* JSON Schema as rules of the net. */
#ifndef GRAMMAR_SCHEMA_H
#define GRAMMAR_SCHEMA_H

#include "base/err.h"
#include "base/str.h"
#include "grammar/net/automaton.h"

enum { SCHEMA_DEPTH = 64 }; /* nesting of the schema's text */

/* A rule for the JSON values that satisfy the schema (its text). compact: no
 * white space between tokens. Errors: ERR_FORMAT, ERR_UNSUPPORTED, ERR_LIMIT
 * with the JSON pointer of the part. Values that no spelling allows give a
 * rule that net_finish finds empty. */
int schema_rule(struct automaton *a, struct str text, bool compact,
                uint32_t *rule, struct err *e);
/* A rule for any JSON object. */
int schema_object_rule(struct automaton *a, bool compact, uint32_t *rule,
                       struct err *e);

#endif
