/* Completions: the body and the chunks of a reply. */
#include "config.h"

#include "api/formats.h"

#include "json/json.h"

#define OBJECT "text_completion"

static int
begin_chunk(struct reply *r, struct slot *s, struct str text)
{
    int rc = put_chunk_head(r, OBJECT);

    rc = rc ? rc : buf_printf(&r->out, "%d,\"text\":", s->index);
    return rc ? rc : json_put_string(&r->out, text.p ? text.p : "", text.n);
}

static int
begin(struct reply *r)
{
    (void)r;
    return 0;
}

static int
pieces(struct reply *r, struct slot *s)
{
    bool first = s->n_sent == 0;

    /* No thought and no calls are split here: all pieces are text. */
    int rc = begin_chunk(r, s, (struct str){s->c.text.data, s->c.text.len});
    rc = rc ? rc : put_chunk_tokens(r, s);
    if (rc == 0 && first && r->f.return_token_ids) {
        rc = buf_puts(&r->out, ",\"prompt_token_ids\":");
        rc = rc ? rc : put_id_list(&r->out, s->prompt);
    }
    return rc ? rc : put_chunk_end(r);
}

static int
slot_end(struct reply *r, struct slot *s)
{
    int rc = begin_chunk(r, s, STR(""));

    rc = rc ? rc : buf_printf(&r->out, ",\"logprobs\":null,"
                              "\"finish_reason\":\"%s\",",
                              choice_reason(&s->c, false));
    rc = rc ? rc : put_stop_members(&r->out, s);
    return rc ? rc : put_last_end(r);
}

static int
end(struct reply *r)
{
    return put_stream_end(r, OBJECT);
}

static int
put_choice(struct reply *r, const struct slot *s)
{
    struct buf *out = &r->out;
    int rc = buf_printf(out, "{\"index\":%d,\"text\":", s->index);

    rc = rc ? rc : json_put_string(out, s->c.content.data, s->c.content.len);
    rc = rc ? rc : buf_puts(out, ",\"logprobs\":");
    rc = rc ? rc : logprob_put(out, &s->lp, LOGPROB_TEXT);
    rc = rc ? rc : buf_printf(out, ",\"finish_reason\":\"%s\",",
                              choice_reason(&s->c, false));
    rc = rc ? rc : put_stop_members(out, s);
    rc = rc ? rc : buf_puts(out, ",\"token_ids\":");
    rc = rc ? rc : put_token_ids(out, s);
    rc = rc ? rc : put_prompt_members(out, r, s);
    return rc ? rc : buf_putc(out, '}');
}

static int
whole(struct reply *r)
{
    int rc = put_reply_head(&r->out, r, OBJECT);

    rc = rc ? rc : buf_puts(&r->out, ",\"choices\":[");
    for (int i = 0; rc == 0 && i < r->n_slot; i++) {
        rc = i ? buf_putc(&r->out, ',') : 0;
        rc = rc ? rc : put_choice(r, &r->slot[i]);
    }
    rc = rc ? rc : buf_printf(&r->out, "],\"service_tier\":null,"
                              "\"system_fingerprint\":\"%s\",\"usage\":",
                              r->api->fingerprint);
    rc = rc ? rc : reply_put_usage(&r->out, r);
    return rc ? rc : buf_putc(&r->out, '}');
}

const struct reply_ops text_reply = {
    .begin = begin, .pieces = pieces, .slot_end = slot_end, .end = end,
    .whole = whole, .error = openai_error, .logprobs = LOGPROB_TEXT,
};
