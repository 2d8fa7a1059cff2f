#include "config.h"

#include "api/formats.h"

#include <inttypes.h>

#include "json/json.h"

int
openai_error(struct reply *r, bool event, int status, const char *text)
{
    int rc = event ? buf_puts(&r->out, "data: ") : 0;

    rc = rc ? rc : error_put(&r->out, status, NULL, text);
    if (rc == 0 && event)
        rc = buf_puts(&r->out, "\n\ndata: [DONE]\n\n");
    return rc;
}

int
put_id_list(struct buf *out, const struct ids *ids)
{
    int rc = buf_putc(out, '[');

    for (size_t i = 0; rc == 0 && i < ids->n; i++)
        rc = buf_printf(out, i ? ",%d" : "%d", (int)ids->id[i]);
    return rc ? rc : buf_putc(out, ']');
}

int
put_token_ids(struct buf *out, const struct slot *s)
{
    if (s->ids.len == 0)
        return buf_puts(out, "null");
    int rc = buf_putc(out, '[');
    rc = rc ? rc : buf_append(out, s->ids.data, s->ids.len);
    return rc ? rc : buf_putc(out, ']');
}

int
put_prompt_members(struct buf *out, const struct reply *r,
                   const struct slot *s)
{
    struct buf text = {0};
    int rc = buf_puts(out, ",\"prompt_logprobs\":");

    if (rc == 0 && s->prompt_lp.len > 0)
        rc = buf_append(out, s->prompt_lp.data, s->prompt_lp.len);
    else if (rc == 0)
        rc = buf_puts(out, "null");
    rc = rc ? rc : buf_puts(out, ",\"prompt_token_ids\":");
    if (rc == 0 && r->f.return_token_ids)
        rc = put_id_list(out, s->prompt);
    else if (rc == 0)
        rc = buf_puts(out, "null");
    if (rc == 0 && r->f.return_prompt_text) {
        rc = tok_decode(r->api->parts.tok, s->prompt->id, s->prompt->n,
                        TOK_KEEP, &text);
        rc = rc ? rc : buf_puts(out, ",\"prompt_text\":");
        rc = rc ? rc : json_put_string(out, text.data, text.len);
        buf_free(&text);
    }
    return rc;
}

int
put_reply_head(struct buf *out, const struct reply *r, const char *object)
{
    int rc = buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%"
                        PRId64 ",\"model\":", r->id, object, r->created);
    return rc ? rc : json_put_string(out, r->model.p, r->model.n);
}

/* --- chunks --------------------------------------------------------------------- */

static int
make_head(struct reply *r, const char *object)
{
    struct buf b = {0};
    int rc = buf_puts(&b, "data: ");

    rc = rc ? rc : put_reply_head(&b, r, object);
    rc = rc ? rc : buf_puts(&b, ",\"choices\":[{\"index\":");
    if (rc == 0) {
        r->head.p = arena_strndup(r->arena, b.data, b.len);
        r->head.n = b.len;
        rc = r->head.p ? 0 : ERR_NOMEM;
    }
    buf_free(&b);
    return rc;
}

int
put_chunk_head(struct reply *r, const char *object)
{
    int rc = r->head.p ? 0 : make_head(r, object);

    return rc ? rc : buf_append(&r->out, r->head.p, r->head.n);
}

static int
end_chunk(struct reply *r, int rc)
{
    if (rc == 0 && r->f.continuous_usage) {
        rc = buf_puts(&r->out, ",\"usage\":");
        rc = rc ? rc : reply_put_usage(&r->out, r);
    }
    return rc ? rc : buf_puts(&r->out, "}\n\n");
}

int
put_chunk_end(struct reply *r)
{
    return end_chunk(r, buf_puts(&r->out, "}]"));
}

int
put_last_end(struct reply *r)
{
    return end_chunk(r, buf_printf(&r->out, "}],\"system_fingerprint\":\"%s\"",
                                   r->api->fingerprint));
}

int
put_stop_members(struct buf *out, const struct slot *s)
{
    int rc = buf_puts(out, "\"stop_reason\":");

    rc = rc ? rc : reply_put_stop_reason(out, s);
    rc = rc ? rc : buf_puts(out, ",\"matched_stop\":");
    return rc ? rc : reply_put_stop_reason(out, s);
}

int
put_chunk_tokens(struct reply *r, struct slot *s)
{
    int rc = buf_puts(&r->out, ",\"logprobs\":");

    rc = rc ? rc : logprob_put(&r->out, &s->lp, r->ops->logprobs);
    logprob_sent(&s->lp);
    rc = rc ? rc : buf_puts(&r->out, ",\"finish_reason\":null");
    if (rc == 0 && s->ids.len > 0) {
        rc = buf_puts(&r->out, ",\"token_ids\":[");
        rc = rc ? rc : buf_append(&r->out, s->ids.data, s->ids.len);
        rc = rc ? rc : buf_putc(&r->out, ']');
    }
    s->ids.len = 0;
    return rc;
}

int
put_stream_end(struct reply *r, const char *object)
{
    int rc = 0;

    if (r->f.include_usage) {
        rc = buf_puts(&r->out, "data: ");
        rc = rc ? rc : put_reply_head(&r->out, r, object);
        rc = rc ? rc : buf_puts(&r->out, ",\"choices\":[],\"usage\":");
        rc = rc ? rc : reply_put_usage(&r->out, r);
        rc = rc ? rc : buf_puts(&r->out, "}\n\n");
    }
    return rc ? rc : buf_puts(&r->out, "data: [DONE]\n\n");
}
