#include "config.h"

#include "engine/grammar_step.h"

int
grammar_step_mask(struct request *r, struct err *e)
{
    int rc = grammar_mask(r->in.matcher, r->mask);
    if (rc != 0)
        return err_set(e, rc, "the output grammar exceeded its budget after "
                       "%u tokens: %s", request_n_out(r), err_str(rc));
    return 0;
}

bool
grammar_step_accept(struct request *r, int32_t id)
{
    return r->in.matcher == NULL || grammar_accept(r->in.matcher, id) == 0;
}
