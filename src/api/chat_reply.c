/* Chat completions: the body and the chunks of a reply. */
#include "config.h"

#include "api/formats.h"

#include <inttypes.h>

#define CHUNK "chat.completion.chunk"

/* --- stream ------------------------------------------------------------------- */

static int
begin_chunk(struct reply *r, const struct slot *s)
{
    int rc = put_chunk_head(r, CHUNK);
    return rc ? rc : buf_printf(&r->out, "%d,\"delta\":", s->index);
}

static int
end_chunk(struct reply *r, struct slot *s)
{
    int rc = put_chunk_tokens(r, s);
    return rc ? rc : put_chunk_end(r);
}

static int
begin(struct reply *r)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < r->n_slot; i++) {
        rc = begin_chunk(r, &r->slot[i]);
        rc = rc ? rc : buf_puts(&r->out, CHAT_FIRST_DELTA ",\"logprobs\":null,"
                                "\"finish_reason\":null}]");
        if (rc == 0 && r->f.return_token_ids) {
            rc = buf_puts(&r->out, ",\"prompt_token_ids\":");
            rc = rc ? rc : put_id_list(&r->out, r->slot[i].prompt);
        }
        if (rc == 0 && r->f.continuous_usage)
            rc = buf_printf(&r->out, ",\"usage\":{\"prompt_tokens\":%" PRIu64
                            ",\"completion_tokens\":0,\"total_tokens\":%"
                            PRIu64 "}", r->n_prompt, r->n_prompt);
        rc = rc ? rc : buf_puts(&r->out, "}\n\n");
    }
    return rc;
}

/* The thought (stream_reasoning: false) or call that was kept back, in one
 * chunk. */
static int
send_held(struct reply *r, struct slot *s)
{
    struct str text = {s->held.data, s->held.len};
    int call = s->held_call - 1;

    if (text.n == 0 && call < 0)
        return 0;
    int rc = begin_chunk(r, s);
    rc = rc ? rc : buf_putc(&r->out, '{');
    if (rc == 0 && call < 0)
        rc = chat_put_reasoning(&r->out, text, r->field);
    else if (rc == 0)
        rc = chat_put_call(&r->out, &s->c, call, text);
    rc = rc ? rc : buf_putc(&r->out, '}');
    s->held.len = 0;
    s->held_call = 0;
    return rc ? rc : end_chunk(r, s);
}

static int
send_piece(struct reply *r, struct slot *s, const struct choice_piece *p)
{
    struct str text = choice_text(&s->c, p);

    if ((p->type == FILTER_REASONING && !r->f.stream_reasoning)
        || (p->type == FILTER_ARGS && r->whole_calls))
        return buf_append(&s->held, text.p, text.n);
    int rc = send_held(r, s);
    if (p->type == FILTER_CALL && r->whole_calls) {
        s->held_call = p->call + 1;
        return rc;
    }
    rc = rc ? rc : begin_chunk(r, s);
    rc = rc ? rc : chat_put_delta(&r->out, &s->c, p, r->field);
    return rc ? rc : end_chunk(r, s);
}

static int
pieces(struct reply *r, struct slot *s)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->c.n_piece; i++)
        rc = send_piece(r, s, &s->c.piece[i]);
    /* Nothing to show yet, but tokens were asked for. */
    if (rc == 0 && (s->lp.entry.len > 0 || s->ids.len > 0)) {
        rc = begin_chunk(r, s);
        rc = rc ? rc : buf_puts(&r->out, "{}");
        rc = rc ? rc : end_chunk(r, s);
    }
    return rc;
}

static int
slot_end(struct reply *r, struct slot *s)
{
    int rc = send_held(r, s);

    rc = rc ? rc : begin_chunk(r, s);
    rc = rc ? rc : buf_printf(&r->out, "{},\"logprobs\":null,"
                              "\"finish_reason\":\"%s\",",
                              choice_reason(&s->c, r->named_tool));
    rc = rc ? rc : put_stop_members(&r->out, s);
    return rc ? rc : put_last_end(r);
}

static int
end(struct reply *r)
{
    return put_stream_end(r, CHUNK);
}

/* --- whole --------------------------------------------------------------------- */

static int
put_choice(struct reply *r, const struct slot *s)
{
    struct buf *out = &r->out;
    int rc = buf_printf(out, "{\"index\":%d,\"message\":", s->index);

    rc = rc ? rc : chat_put_message(out, &s->c, r->field);
    rc = rc ? rc : buf_puts(out, ",\"logprobs\":");
    rc = rc ? rc : logprob_put(out, &s->lp, LOGPROB_CHAT);
    rc = rc ? rc : buf_printf(out, ",\"finish_reason\":\"%s\",",
                              choice_reason(&s->c, r->named_tool));
    rc = rc ? rc : put_stop_members(out, s);
    rc = rc ? rc : buf_puts(out, ",\"token_ids\":");
    return rc ? rc : put_token_ids(out, s);
}

static int
whole(struct reply *r)
{
    int rc = put_reply_head(&r->out, r, "chat.completion");

    rc = rc ? rc : buf_puts(&r->out, ",\"choices\":[");
    for (int i = 0; rc == 0 && i < r->n_slot; i++) {
        rc = i ? buf_putc(&r->out, ',') : 0;
        rc = rc ? rc : put_choice(r, &r->slot[i]);
        rc = rc ? rc : buf_putc(&r->out, '}');
    }
    rc = rc ? rc : buf_printf(&r->out, "],\"service_tier\":null,"
                              "\"system_fingerprint\":\"%s\",\"usage\":",
                              r->api->fingerprint);
    rc = rc ? rc : reply_put_usage(&r->out, r);
    rc = rc ? rc : put_prompt_members(&r->out, r, &r->slot[0]);
    return rc ? rc : buf_puts(&r->out, ",\"kv_transfer_params\":null}");
}

const struct reply_ops chat_reply = {
    .begin = begin, .pieces = pieces, .slot_end = slot_end, .end = end,
    .whole = whole, .error = openai_error, .logprobs = LOGPROB_CHAT,
};
