/* /v1/responses: what its endpoint tells its format. */
#ifndef API_RESPONSES_H
#define API_RESPONSES_H

#include "api/reply.h"

/* r->format of a responses reply. */
struct responses;

/* Attaches the state to r. asked: the body as it came, for what a response
 * repeats of it; effort: the level in force or NULL. 0 or ERR_NOMEM. */
int responses_attach(struct reply *r, struct json_object *asked,
                     const char *effort);

extern const struct reply_ops responses_reply;

#endif
