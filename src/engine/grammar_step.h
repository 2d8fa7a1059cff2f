/* A request's grammar matcher, step by step. Engine thread. */
#ifndef ENGINE_GRAMMAR_STEP_H
#define ENGINE_GRAMMAR_STEP_H

#include "engine/request.h"

/* Computes r->mask for the token after the last known one. A failure ends the
 * request and nothing else; e gets its text. */
int grammar_step_mask(struct request *r, struct err *e);

/* Moves the matcher over id. False (nothing changed) when id is not allowed;
 * true without a matcher. */
bool grammar_step_accept(struct request *r, int32_t id);

#endif
