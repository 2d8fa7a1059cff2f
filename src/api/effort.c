#include "config.h"

#include "api/effort.h"

#include "api/generate.h"

int
effort_read(struct api_call *c, int64_t budget, struct effort *out)
{
    bool knows = chat_has_reasoning(c->api->parts.chat);
    struct chat_effort level;
    struct chat_error ce = {0};

    *out = (struct effort){{NULL, 0}, -1, knows ? "none" : NULL};
    int rc = chat_effort(c->body, &level, &ce);
    if (rc != 0)
        return call_fail_chat(c, rc, &ce);
    if (level.value.p) {
        if (c->conf->strict_effort && !level.exact)
            return call_fail(c, 400, level.param, "this model's "
                             "reasoning_effort is either none or high");
        if (level.budget == CHAT_THINK_LOW)
            out->budget = (int64_t)c->conf->think_low;
        if (level.budget == CHAT_THINK_MEDIUM)
            out->budget = (int64_t)c->conf->think_medium;
        if (knows) {
            out->value = level.value;
            out->report = level.value.p; /* a literal */
        }
    }
    if (budget != FIELD_NONE)
        out->budget = budget;
    return 0;
}
