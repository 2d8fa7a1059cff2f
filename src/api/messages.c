/* POST /v1/messages and /v1/messages/count_tokens: the Anthropic API. */
#include "config.h"

#include "api/formats.h"
#include "api/generate.h"
#include "api/translate.h"

/* Reads and encodes; NULL after answering. */
static struct chat_job *
read_job(struct api_call *c, bool need_limit)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);

    c->error_put = messages_error_put;
    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return NULL;
    }
    if (call_body(c) != 0 || call_check_model(c) != 0
        || translate_messages(c, need_limit) != 0 || chat_job_read(c, j) != 0)
        return NULL;
    return j;
}

void
messages_post(struct api_call *c)
{
    struct chat_job *j = read_job(c, true);

    if (j)
        chat_job_run(c, j, &messages_reply, "msg_");
}

void
count_tokens_post(struct api_call *c)
{
    struct chat_job *j = read_job(c, false);
    struct buf out = {0};

    if (j == NULL)
        return;
    int rc = buf_printf(&out, "{\"input_tokens\":%zu}", j->prompt.ids.n);
    call_finish(c, &out, rc);
}
