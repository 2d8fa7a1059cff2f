/* What a collected step means for each request in it: tokens kept, ends,
 * events. Engine thread. */
#ifndef ENGINE_OUTPUT_H
#define ENGINE_OUTPUT_H

#include "engine/step.h"

/* Takes the results of st over into its requests and posts their events.
 * Requests that end are moved to the done list. */
void output_take(struct sched *s, const struct step *st,
                 const struct step_result *res);

/* Ends r without a token: cancelled, aborted, failed (with e's text). */
void output_end(struct sched *s, struct request *r, enum engine_finish finish,
                const struct err *e);

#endif
