/* What a request may draw next: its grammar and its forbidden words as masks,
 * step by step. Engine thread. */
#ifndef ENGINE_GRAMMAR_STEP_H
#define ENGINE_GRAMMAR_STEP_H

#include "engine/request.h"

/* Fills rows of r->mask: for the token after the last known one, and with
 * n_rows not NULL also behind each draft of r that the grammar takes, most of
 * them at the most. A failure ends the request and nothing else; e gets its
 * text. */
int grammar_step_mask(struct request *r, uint32_t most, uint32_t *n_rows,
                      struct err *e);

/* Moves the matcher over id. False (nothing changed) when id is not allowed;
 * true without a matcher. */
bool grammar_step_accept(struct request *r, int32_t id);

/* Whether id would complete a forbidden word. */
bool grammar_step_forbids(const struct request *r, int32_t id);

#endif
