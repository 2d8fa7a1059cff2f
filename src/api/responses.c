/* POST /v1/responses: the part of the Responses API that needs no memory. */
#include "config.h"

#include "api/responses.h"

#include "api/generate.h"
#include "api/translate.h"

void
responses_post(struct api_call *c)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) != 0 || call_check_model(c) != 0)
        return;
    struct json_object *asked = c->body;
    if (translate_responses(c) != 0 || chat_job_read(c, j) != 0)
        return;
    struct reply *r = chat_job_open(c, j, &responses_reply, "resp_");
    if (r == NULL)
        return;
    if (responses_attach(r, asked, j->effort.report) != 0)
        call_fail(c, 503, NULL, "out of memory");
    else
        chat_job_submit(c, j, r);
}
