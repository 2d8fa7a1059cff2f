#include "config.h"

#include "engine/grammar_step.h"

int
grammar_step_mask(struct request *r, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "structured output is not built in");
}

bool
grammar_step_accept(struct request *r, int32_t id)
{
    return r->in.matcher == NULL;
}
