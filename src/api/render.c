/* The prompt that a request would have, without generating. */
#include "config.h"

#include "api/formats.h"
#include "api/generate.h"

#include "json/json.h"

/* {"prompt":"..","prompt_token_ids":[..],"count":n,"max_model_len":n} */
static int
put_prompt(struct buf *out, const struct api_call *c, const struct ids *ids)
{
    struct buf text = {0};
    int rc = tok_decode(c->api->parts.tok, ids->id, ids->n, TOK_KEEP, &text);

    rc = rc ? rc : buf_puts(out, "{\"prompt\":");
    rc = rc ? rc : json_put_string(out, text.data, text.len);
    rc = rc ? rc : buf_puts(out, ",\"prompt_token_ids\":");
    rc = rc ? rc : put_id_list(out, ids);
    rc = rc ? rc : buf_printf(out, ",\"count\":%zu,\"max_model_len\":%u}",
                              ids->n, (unsigned)c->api->parts.max_context);
    buf_free(&text);
    return rc;
}

void
render_chat_post(struct api_call *c)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);
    struct buf out = {0};

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) == 0 && call_check_model(c) == 0
        && chat_job_read(c, j) == 0)
        call_finish(c, &out, put_prompt(&out, c, &j->prompt.ids));
}

void
render_text_post(struct api_call *c)
{
    struct text_job *j = arena_calloc(c->arena, 1, sizeof *j);
    struct buf out = {0};

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) != 0 || call_check_model(c) != 0
        || text_job_read(c, j) != 0)
        return;
    int rc = buf_putc(&out, '[');
    for (int i = 0; rc == 0 && i < j->n_prompt; i++) {
        rc = i ? buf_putc(&out, ',') : 0;
        rc = rc ? rc : put_prompt(&out, c, &j->prompt[i]);
    }
    call_finish(c, &out, rc ? rc : buf_putc(&out, ']'));
}
