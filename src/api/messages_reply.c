/* Anthropic messages: the body and the events of a reply. */
#include "config.h"

#include "api/formats.h"

#include <inttypes.h>

#include "json/json.h"

/* The block that is open in a stream. */
struct blocks {
    int index;                   /* of the open or the next block */
    bool open;
    enum filter_event_type type; /* TEXT, REASONING or ARGS */
    int call;
};

/* --- errors ------------------------------------------------------------------------ */

static const char *
type_of(int status)
{
    switch (status % 1000) {
    case 400: case 422: return "invalid_request_error";
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 501: return "invalid_request_error";
    case 503: return "overloaded_error";
    default: return "api_error";
    }
}

int
messages_error_put(struct buf *out, int status, const char *param,
                   const char *text)
{
    (void)param;
    int rc = buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\","
                        "\"message\":", type_of(status));
    rc = rc ? rc : json_put_string(out, text, strlen(text));
    return rc ? rc : buf_puts(out, "}}");
}

static int
error(struct reply *r, bool event, int status, const char *text)
{
    int rc = event ? buf_puts(&r->out, "event: error\ndata: ") : 0;

    rc = rc ? rc : messages_error_put(&r->out, status, NULL, text);
    if (rc == 0 && event)
        rc = buf_puts(&r->out, "\n\n");
    return rc;
}

/* --- parts --------------------------------------------------------------------------- */

static int
put_usage(struct buf *out, const struct reply *r, uint64_t output)
{
    uint64_t cached = reply_cached_tokens(r);

    return buf_printf(out, "{\"input_tokens\":%" PRIu64
                      ",\"cache_creation_input_tokens\":0"
                      ",\"cache_read_input_tokens\":%" PRIu64
                      ",\"output_tokens\":%" PRIu64 "}",
                      r->n_prompt - cached, cached, output);
}

static int
put_stop(struct buf *out, const struct choice *c)
{
    const char *reason = c->end == CHOICE_LENGTH      ? "max_tokens"
                         : c->n_call > 0              ? "tool_use"
                         : c->stop_string.len > 0     ? "stop_sequence"
                                                      : "end_turn";
    int rc = buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":",
                        reason);
    if (rc == 0 && c->stop_string.len > 0 && c->n_call == 0)
        rc = json_put_string(out, c->stop_string.data, c->stop_string.len);
    else if (rc == 0)
        rc = buf_puts(out, "null");
    return rc;
}

static int
put_text_block(struct buf *out, const char *type, const char *key,
               const struct buf *text)
{
    int rc = buf_printf(out, "{\"type\":\"%s\",\"%s\":", type, key);
    return rc ? rc : json_put_string(out, text->data, text->len);
}

/* The arguments as an object; what is none, in one. */
static int
put_input(struct buf *out, const struct buf *args)
{
    struct json_object *o = NULL;
    int rc;

    if (json_parse(args->data, args->len, 512, 0, &o, NULL) == 0
        && json_object_is_type(o, json_type_object)) {
        rc = json_dump(out, o);
    } else {
        rc = buf_puts(out, "{\"arguments\":");
        rc = rc ? rc : json_put_string(out, args->data, args->len);
        rc = rc ? rc : buf_putc(out, '}');
    }
    json_object_put(o);
    return rc;
}

static int
put_call_head(struct buf *out, const struct choice_call *call)
{
    int rc = buf_printf(out, "{\"type\":\"tool_use\",\"id\":\"%s\","
                        "\"name\":", call->id);
    rc = rc ? rc : json_put_string(out, call->name.data, call->name.len);
    return rc ? rc : buf_puts(out, ",\"input\":");
}

static int
put_content(struct buf *out, const struct choice *c)
{
    bool any = false;
    int rc = buf_putc(out, '[');

    if (rc == 0 && c->reasoning.len > 0) {
        rc = put_text_block(out, "thinking", "thinking", &c->reasoning);
        rc = rc ? rc : buf_puts(out, ",\"signature\":\"\"}");
        any = true;
    }
    if (rc == 0 && c->content.len > 0) {
        rc = any ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_text_block(out, "text", "text", &c->content);
        rc = rc ? rc : buf_putc(out, '}');
        any = true;
    }
    for (int i = 0; rc == 0 && i < c->n_call; i++) {
        rc = any ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_call_head(out, &c->call[i]);
        rc = rc ? rc : put_input(out, &c->call[i].args);
        rc = rc ? rc : buf_putc(out, '}');
        any = true;
    }
    return rc ? rc : buf_putc(out, ']');
}

static int
put_head(struct buf *out, const struct reply *r)
{
    int rc = buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":"
                        "\"assistant\",\"model\":", r->id);
    rc = rc ? rc : json_put_string(out, r->model.p, r->model.n);
    return rc ? rc : buf_puts(out, ",\"content\":");
}

static int
whole(struct reply *r)
{
    const struct choice *c = &r->slot[0].c;
    int rc = put_head(&r->out, r);

    rc = rc ? rc : put_content(&r->out, c);
    rc = rc ? rc : buf_putc(&r->out, ',');
    rc = rc ? rc : put_stop(&r->out, c);
    rc = rc ? rc : buf_puts(&r->out, ",\"usage\":");
    rc = rc ? rc : put_usage(&r->out, r, c->n_tokens);
    return rc ? rc : buf_putc(&r->out, '}');
}

/* --- stream ---------------------------------------------------------------------------- */

static int
event(struct reply *r, const char *name)
{
    return buf_printf(&r->out, "event: %s\ndata: {\"type\":\"%s\"", name,
                      name);
}

static int
end_event(struct reply *r)
{
    return buf_puts(&r->out, "}\n\n");
}

static int
begin(struct reply *r)
{
    r->format = arena_calloc(r->arena, 1, sizeof(struct blocks));
    if (r->format == NULL)
        return ERR_NOMEM;
    int rc = event(r, "message_start");
    rc = rc ? rc : buf_puts(&r->out, ",\"message\":");
    rc = rc ? rc : put_head(&r->out, r);
    rc = rc ? rc : buf_puts(&r->out, "[],\"stop_reason\":null,"
                            "\"stop_sequence\":null,\"usage\":");
    rc = rc ? rc : put_usage(&r->out, r, 0);
    rc = rc ? rc : buf_putc(&r->out, '}');
    return rc ? rc : end_event(r);
}

static int
close_block(struct reply *r)
{
    struct blocks *b = r->format;

    if (!b->open)
        return 0;
    b->open = false;
    int rc = event(r, "content_block_stop");
    rc = rc ? rc : buf_printf(&r->out, ",\"index\":%d", b->index++);
    return rc ? rc : end_event(r);
}

static int
open_block(struct reply *r, const struct choice *c,
           const struct choice_piece *p)
{
    struct blocks *b = r->format;

    int rc = close_block(r);
    rc = rc ? rc : event(r, "content_block_start");
    rc = rc ? rc : buf_printf(&r->out, ",\"index\":%d,\"content_block\":",
                              b->index);
    if (rc == 0 && p->type == FILTER_TEXT)
        rc = buf_puts(&r->out, "{\"type\":\"text\",\"text\":\"\"}");
    else if (rc == 0 && p->type == FILTER_REASONING)
        rc = buf_puts(&r->out, "{\"type\":\"thinking\",\"thinking\":\"\","
                      "\"signature\":\"\"}");
    else if (rc == 0) {
        rc = put_call_head(&r->out, &c->call[p->call]);
        rc = rc ? rc : buf_puts(&r->out, "{}}");
    }
    b->open = true;
    b->type = p->type == FILTER_CALL ? FILTER_ARGS : p->type;
    b->call = p->call;
    return rc ? rc : end_event(r);
}

static int
put_delta(struct reply *r, const struct choice *c,
          const struct choice_piece *p)
{
    static const char *const shape[] = {
        [FILTER_TEXT] = "{\"type\":\"text_delta\",\"text\":",
        [FILTER_REASONING] = "{\"type\":\"thinking_delta\",\"thinking\":",
        [FILTER_ARGS] = "{\"type\":\"input_json_delta\",\"partial_json\":",
    };
    struct blocks *b = r->format;
    struct str text = choice_text(c, p);

    int rc = event(r, "content_block_delta");
    rc = rc ? rc : buf_printf(&r->out, ",\"index\":%d,\"delta\":%s", b->index,
                              shape[p->type]);
    rc = rc ? rc : json_put_string(&r->out, text.p, text.n);
    rc = rc ? rc : buf_putc(&r->out, '}');
    return rc ? rc : end_event(r);
}

static int
pieces(struct reply *r, struct slot *s)
{
    struct blocks *b = r->format;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->c.n_piece; i++) {
        const struct choice_piece *p = &s->c.piece[i];
        if (!b->open || p->type != b->type || p->call != b->call)
            rc = open_block(r, &s->c, p);
        if (rc == 0 && p->type != FILTER_CALL)
            rc = put_delta(r, &s->c, p);
    }
    return rc;
}

static int
slot_end(struct reply *r, struct slot *s)
{
    int rc = close_block(r);

    rc = rc ? rc : event(r, "message_delta");
    rc = rc ? rc : buf_puts(&r->out, ",\"delta\":{");
    rc = rc ? rc : put_stop(&r->out, &s->c);
    rc = rc ? rc : buf_puts(&r->out, "},\"usage\":");
    rc = rc ? rc : put_usage(&r->out, r, s->c.n_tokens);
    return rc ? rc : end_event(r);
}

static int
end(struct reply *r)
{
    int rc = event(r, "message_stop");
    return rc ? rc : end_event(r);
}

const struct reply_ops messages_reply = {
    .begin = begin, .pieces = pieces, .slot_end = slot_end, .end = end,
    .whole = whole, .error = error, .logprobs = LOGPROB_CHAT,
};
