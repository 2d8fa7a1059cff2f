/* Blocks of log-probabilities that are handed to a request's owner. */
#ifndef ENGINE_LOGPROBS_H
#define ENGINE_LOGPROBS_H

#include "engine/engine.h"

/* One malloc block for n entries with n_top alternatives; all ids are -1.
 * NULL when memory is out. */
struct engine_logprobs *logprobs_create(uint32_t n, uint32_t n_top);

/* The first n_out tokens that a sequence gained, with the n_top most likely and
 * n_ask ids asked for; NULL when memory is out. */
struct engine_logprobs *logprobs_of_result(const struct seq_result *q,
                                           uint32_t n_out, uint32_t n_top,
                                           uint32_t n_ask);

/* Entry i becomes a token that was not drawn but forced. */
void logprobs_force(struct engine_logprobs *lp, uint32_t i, int32_t id);

/* Copies entry `from` of a result's targets to entry i. */
void logprobs_set_target(struct engine_logprobs *lp, uint32_t i,
                         const struct seq_result *q, uint32_t from);

#endif
