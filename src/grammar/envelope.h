/* The grammar of a whole output: thought, text, calls, body. */
#ifndef GRAMMAR_ENVELOPE_H
#define GRAMMAR_ENVELOPE_H

#include "grammar/token/matcher.h"

/* Fills the empty net of g as s says. Errors as grammar_compile. */
int envelope_build(struct grammar *g, const struct grammar_spec *s,
                 struct err *e);

#endif
