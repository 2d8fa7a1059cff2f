/* Grammars as text: GBNF and EBNF (::=), and the Lark dialect. */
#ifndef GRAMMAR_RULES_H
#define GRAMMAR_RULES_H

#include "base/err.h"
#include "base/str.h"
#include "grammar/net/automaton.h"
#include "tok/tok.h"

/* A rule for the start rule of the text ("root", in Lark "start"). Errors
 * with line and column. */
int rules_compile(struct automaton *a, const struct tok *t, struct str text,
                  uint32_t *rule, struct err *e);

#endif
