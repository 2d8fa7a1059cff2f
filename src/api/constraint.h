/* Structured output: what a request says about the form of its output, as a
 * grammar. */
#ifndef API_CONSTRAINT_H
#define API_CONSTRAINT_H

#include "api/generate.h"
#include "grammar/grammar.h"

/* Grammar of a chat's output: response_format, structured_outputs and their
 * older names, and the calls of tools. *out is NULL when nothing is asked for;
 * else it lives with the call's arena. 0, or -1 after answering. */
int constraint_chat(struct api_call *c, const struct chat_job *j,
                    struct grammar **out);
/* Same for a completion, which has no thought and no tools. */
int constraint_text(struct api_call *c, const struct fields *f,
                    struct grammar **out);

#endif
