/* How much a request wants the model to think. */
#ifndef API_EFFORT_H
#define API_EFFORT_H

#include <stdint.h>

#include "api/fields.h"

struct effort {
    struct str value;   /* "none" or "high"; {NULL,0}: not given, or the
                           tokenizer has no such setting */
    int64_t budget;     /* tokens inside the thought; -1 no limit */
    const char *report; /* x-reasoning-effort; NULL: none to report */
};

/* Reads reasoning_effort, reasoning and chat_template_kwargs of c->body; the
 * top-level field wins. budget: thinking_token_budget or FIELD_NONE, wins over
 * a level's own. 0, or -1 after answering. */
int effort_read(struct api_call *c, int64_t budget, struct effort *out);

#endif
