/*
 * Responses: the body and the events of a reply.
 *
 * DESIGN. The output is a list of items, in the order in which the model
 * began them; a stream announces each, its text and its end, and the last
 * event repeats the whole response. So a streamed reply keeps its items'
 * text; a whole one makes the list at its end from what the choice collected.
 */
#include "config.h"

#include "api/responses.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/formats.h"
#include "json/json.h"

struct item {
    enum filter_event_type type; /* TEXT, REASONING or ARGS */
    int call;
    char id[24];
    struct buf text;
};

struct responses {
    struct json_object *asked;
    const char *effort;
    struct item *item;
    int n_item;
    bool open;                   /* the last item goes on */
    unsigned sequence;           /* number of the next event */
};

enum phase { IN_PROGRESS, FINAL, FAILED };

static void
free_items(void *arg)
{
    struct responses *p = arg;

    for (int i = 0; i < p->n_item; i++)
        buf_free(&p->item[i].text);
    free(p->item);
}

int
responses_attach(struct reply *r, struct json_object *asked,
                 const char *effort)
{
    struct responses *p = arena_calloc(r->arena, 1, sizeof *p);

    if (p == NULL || arena_cleanup(r->arena, free_items, p) != 0)
        return ERR_NOMEM;
    p->asked = asked;
    p->effort = effort;
    r->format = p;
    return 0;
}

/* --- items ------------------------------------------------------------------------- */

static struct item *
add_item(struct responses *p, enum filter_event_type type, int call)
{
    static const char *const prefix[] = {
        [FILTER_TEXT] = "msg_", [FILTER_REASONING] = "rs_",
        [FILTER_ARGS] = "fc_",
    };
    size_t n = (size_t)p->n_item + 1;
    struct item *item = realloc(p->item, n * sizeof *item);

    if (item == NULL)
        return NULL;
    p->item = item;
    item += p->n_item++;
    *item = (struct item){.type = type, .call = call};
    size_t len = strlen(prefix[type]);
    memcpy(item->id, prefix[type], len);
    choice_random(item->id + len, sizeof item->id - len - 1);
    return item;
}

/* {"type":"output_text",..} or {"type":"reasoning_text",..}. */
static int
put_part(struct buf *out, const struct item *it, bool with_text)
{
    bool text = it->type == FILTER_TEXT;
    int rc = buf_printf(out, "{\"type\":\"%s\",\"text\":",
                        text ? "output_text" : "reasoning_text");

    rc = rc ? rc : json_put_string(out, it->text.data,
                                   with_text ? it->text.len : 0);
    return rc ? rc : buf_puts(out, text ? ",\"annotations\":[],\"logprobs\":"
                                          "[]}" : "}");
}

static int
put_call_item(struct buf *out, const struct choice *c, const struct item *it)
{
    const struct choice_call *call = &c->call[it->call];
    int rc = buf_printf(out, ",\"call_id\":\"%s\",\"name\":", call->id);

    rc = rc ? rc : json_put_string(out, call->name.data, call->name.len);
    rc = rc ? rc : buf_puts(out, ",\"arguments\":");
    return rc ? rc : json_put_string(out, it->text.data, it->text.len);
}

static int
put_item(struct buf *out, const struct choice *c, const struct item *it,
         const char *status)
{
    const char *type = it->type == FILTER_TEXT        ? "message"
                       : it->type == FILTER_REASONING ? "reasoning"
                                                      : "function_call";
    bool begun = strcmp(status, "in_progress") != 0;
    int rc = buf_printf(out, "{\"id\":\"%s\",\"type\":\"%s\",\"status\":"
                        "\"%s\"", it->id, type, status);

    if (rc == 0 && it->type == FILTER_ARGS) {
        rc = put_call_item(out, c, it);
    } else if (rc == 0) {
        rc = buf_puts(out, it->type == FILTER_TEXT
                               ? ",\"role\":\"assistant\",\"content\":["
                               : ",\"summary\":[],\"content\":[");
        rc = rc || !begun ? rc : put_part(out, it, true);
        rc = rc ? rc : buf_putc(out, ']');
    }
    return rc ? rc : buf_putc(out, '}');
}

/* --- the response object --------------------------------------------------------------- */

/* A member of the request, or what stands for an absent one. */
static int
put_asked(struct buf *out, struct json_object *asked, const char *key,
          const char *absent)
{
    struct json_object *o = json_get(asked, key);
    int rc = buf_printf(out, ",\"%s\":", key);

    if (rc == 0 && o)
        return json_dump(out, o);
    return rc ? rc : buf_puts(out, absent);
}

static int
put_usage(struct buf *out, const struct reply *r)
{
    uint64_t n = reply_tokens(r);

    return buf_printf(out, "{\"input_tokens\":%" PRIu64
                      ",\"input_tokens_details\":{\"cached_tokens\":%" PRIu64
                      "},\"output_tokens\":%" PRIu64
                      ",\"output_tokens_details\":{\"reasoning_tokens\":%"
                      PRIu64 "},\"total_tokens\":%" PRIu64 "}",
                      r->n_prompt, reply_cached_tokens(r), n,
                      reply_reasoning_tokens(r), r->n_prompt + n);
}

static int
put_state(struct buf *out, const struct reply *r, enum phase phase,
          const char *failure)
{
    const struct choice *c = &r->slot[0].c;
    bool cut = phase == FINAL && c->end == CHOICE_LENGTH;
    const char *status = phase == FAILED        ? "failed"
                         : phase == IN_PROGRESS ? "in_progress"
                         : cut                  ? "incomplete"
                         : c->end == CHOICE_ABORT ? "cancelled"
                                                  : "completed";
    int rc = buf_printf(out, ",\"status\":\"%s\",\"incomplete_details\":%s,"
                        "\"error\":", status,
                        cut ? "{\"reason\":\"max_output_tokens\"}" : "null");

    if (rc == 0 && failure) {
        rc = buf_puts(out, "{\"code\":\"server_error\",\"message\":");
        rc = rc ? rc : json_put_string(out, failure, strlen(failure));
        return rc ? rc : buf_putc(out, '}');
    }
    return rc ? rc : buf_puts(out, "null");
}

static int
put_settings(struct buf *out, const struct reply *r)
{
    const struct responses *p = r->format;
    struct json_object *a = p->asked;

    int rc = put_asked(out, a, "instructions", "null");
    rc = rc ? rc : put_asked(out, a, "max_output_tokens", "null");
    rc = rc ? rc : put_asked(out, a, "metadata", "{}");
    rc = rc ? rc : put_asked(out, a, "parallel_tool_calls", "true");
    rc = rc ? rc : put_asked(out, a, "text",
                             "{\"format\":{\"type\":\"text\"}}");
    rc = rc ? rc : put_asked(out, a, "tool_choice", "\"auto\"");
    rc = rc ? rc : put_asked(out, a, "tools", "[]");
    rc = rc ? rc : put_asked(out, a, "truncation", "\"disabled\"");
    rc = rc ? rc : put_asked(out, a, "user", "null");
    rc = rc ? rc : buf_puts(out, ",\"temperature\":");
    rc = rc ? rc : json_put_double(out, r->f.temperature);
    rc = rc ? rc : buf_puts(out, ",\"top_p\":");
    rc = rc ? rc : json_put_double(out, r->f.top_p);
    rc = rc ? rc : buf_puts(out, ",\"background\":false,\"store\":false,"
                            "\"previous_response_id\":null,\"reasoning\":"
                            "{\"summary\":null,\"effort\":");
    if (rc == 0 && p->effort)
        rc = buf_printf(out, "\"%s\"}", p->effort);
    else if (rc == 0)
        rc = buf_puts(out, "null}");
    return rc;
}

static int
put_response(struct buf *out, const struct reply *r, enum phase phase,
             const char *failure)
{
    const struct responses *p = r->format;
    const struct choice *c = &r->slot[0].c;

    int rc = buf_printf(out, "{\"id\":\"%s\",\"object\":\"response\","
                        "\"created_at\":%" PRId64 ",\"model\":", r->id,
                        r->created);
    rc = rc ? rc : json_put_string(out, r->model.p, r->model.n);
    rc = rc ? rc : put_state(out, r, phase, failure);
    rc = rc ? rc : buf_puts(out, ",\"output\":[");
    for (int i = 0; rc == 0 && phase != IN_PROGRESS && i < p->n_item; i++) {
        bool cut = i + 1 == p->n_item && c->end == CHOICE_LENGTH;
        rc = i ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_item(out, c, &p->item[i],
                                cut ? "incomplete" : "completed");
    }
    rc = rc ? rc : buf_putc(out, ']');
    rc = rc ? rc : put_settings(out, r);
    rc = rc ? rc : buf_puts(out, ",\"usage\":");
    if (rc == 0 && phase == FINAL)
        rc = put_usage(out, r);
    else if (rc == 0)
        rc = buf_puts(out, "null");
    return rc ? rc : buf_putc(out, '}');
}

/* --- stream ------------------------------------------------------------------------------ */

static int
event(struct reply *r, const char *name)
{
    struct responses *p = r->format;

    return buf_printf(&r->out, "event: %s\ndata: {\"type\":\"%s\","
                      "\"sequence_number\":%u", name, name, p->sequence++);
}

static int
end_event(struct reply *r)
{
    return buf_puts(&r->out, "}\n\n");
}

static int
state_event(struct reply *r, const char *name, enum phase phase,
            const char *failure)
{
    int rc = event(r, name);

    rc = rc ? rc : buf_puts(&r->out, ",\"response\":");
    rc = rc ? rc : put_response(&r->out, r, phase, failure);
    return rc ? rc : end_event(r);
}

/* An event about the newest item's text. */
static int
item_event(struct reply *r, const char *name)
{
    const struct responses *p = r->format;
    const struct item *it = &p->item[p->n_item - 1];

    int rc = event(r, name);
    rc = rc ? rc : buf_printf(&r->out, ",\"item_id\":\"%s\","
                              "\"output_index\":%d", it->id, p->n_item - 1);
    if (rc == 0 && it->type != FILTER_ARGS)
        rc = buf_puts(&r->out, ",\"content_index\":0");
    return rc;
}

static int
whole_item_event(struct reply *r, const char *name, const char *status)
{
    const struct responses *p = r->format;

    int rc = event(r, name);
    rc = rc ? rc : buf_printf(&r->out, ",\"output_index\":%d,\"item\":",
                              p->n_item - 1);
    rc = rc ? rc : put_item(&r->out, &r->slot[0].c, &p->item[p->n_item - 1],
                            status);
    return rc ? rc : end_event(r);
}

static int
part_event(struct reply *r, const char *name, bool with_text)
{
    const struct responses *p = r->format;

    int rc = item_event(r, name);
    rc = rc ? rc : buf_puts(&r->out, ",\"part\":");
    rc = rc ? rc : put_part(&r->out, &p->item[p->n_item - 1], with_text);
    return rc ? rc : end_event(r);
}

static const char *const text_event[][2] = {
    [FILTER_TEXT] = {"response.output_text.delta",
                     "response.output_text.done"},
    [FILTER_REASONING] = {"response.reasoning_text.delta",
                          "response.reasoning_text.done"},
    [FILTER_ARGS] = {"response.function_call_arguments.delta",
                     "response.function_call_arguments.done"},
};

static int
done_event(struct reply *r)
{
    const struct responses *p = r->format;
    const struct item *it = &p->item[p->n_item - 1];

    int rc = item_event(r, text_event[it->type][1]);
    if (rc == 0 && it->type == FILTER_ARGS) {
        struct buf *name = &r->slot[0].c.call[it->call].name;
        rc = buf_puts(&r->out, ",\"name\":");
        rc = rc ? rc : json_put_string(&r->out, name->data, name->len);
        rc = rc ? rc : buf_puts(&r->out, ",\"arguments\":");
    } else if (rc == 0) {
        rc = buf_puts(&r->out, it->type == FILTER_TEXT
                                   ? ",\"logprobs\":[],\"text\":"
                                   : ",\"text\":");
    }
    rc = rc ? rc : json_put_string(&r->out, it->text.data, it->text.len);
    return rc ? rc : end_event(r);
}

static int
close_item(struct reply *r)
{
    struct responses *p = r->format;

    if (!p->open)
        return 0;
    p->open = false;
    bool part = p->item[p->n_item - 1].type != FILTER_ARGS;
    bool cut = r->slot[0].c.end == CHOICE_LENGTH;
    int rc = done_event(r);
    if (rc == 0 && part)
        rc = part_event(r, "response.content_part.done", true);
    return rc ? rc : whole_item_event(r, "response.output_item.done",
                                      cut ? "incomplete" : "completed");
}

static int
open_item(struct reply *r, const struct choice_piece *piece)
{
    struct responses *p = r->format;
    bool call = piece->type == FILTER_CALL;

    int rc = close_item(r);
    if (rc == 0 && !add_item(p, call ? FILTER_ARGS : piece->type, piece->call))
        rc = ERR_NOMEM;
    p->open = rc == 0;
    rc = rc ? rc : whole_item_event(r, "response.output_item.added",
                                    "in_progress");
    if (rc == 0 && !call)
        rc = part_event(r, "response.content_part.added", false);
    return rc;
}

static int
begin(struct reply *r)
{
    int rc = state_event(r, "response.created", IN_PROGRESS, NULL);
    return rc ? rc : state_event(r, "response.in_progress", IN_PROGRESS,
                                 NULL);
}

static int
put_delta(struct reply *r, struct item *it, struct str text)
{
    int rc = buf_append(&it->text, text.p, text.n);

    rc = rc ? rc : item_event(r, text_event[it->type][0]);
    if (rc == 0 && it->type == FILTER_TEXT)
        rc = buf_puts(&r->out, ",\"logprobs\":[]");
    rc = rc ? rc : buf_puts(&r->out, ",\"delta\":");
    rc = rc ? rc : json_put_string(&r->out, text.p, text.n);
    return rc ? rc : end_event(r);
}

static int
pieces(struct reply *r, struct slot *s)
{
    struct responses *p = r->format;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->c.n_piece; i++) {
        const struct choice_piece *piece = &s->c.piece[i];
        struct item *last = p->open ? &p->item[p->n_item - 1] : NULL;
        if (last == NULL || last->type != piece->type
            || last->call != piece->call)
            rc = open_item(r, piece);
        if (rc == 0 && piece->type != FILTER_CALL)
            rc = put_delta(r, &p->item[p->n_item - 1],
                           choice_text(&s->c, piece));
    }
    return rc;
}

static int
slot_end(struct reply *r, struct slot *s)
{
    (void)s;
    return close_item(r);
}

static int
end(struct reply *r)
{
    bool cut = r->slot[0].c.end == CHOICE_LENGTH;

    return state_event(r, cut ? "response.incomplete" : "response.completed",
                       FINAL, NULL);
}

/* --- whole --------------------------------------------------------------------------------- */

static int
take_item(struct responses *p, enum filter_event_type type, int call,
          const struct buf *text)
{
    struct item *it = add_item(p, type, call);

    return it ? buf_append(&it->text, text->data, text->len) : ERR_NOMEM;
}

static int
whole(struct reply *r)
{
    struct responses *p = r->format;
    const struct choice *c = &r->slot[0].c;
    int rc = 0;

    if (c->reasoning.len > 0)
        rc = take_item(p, FILTER_REASONING, 0, &c->reasoning);
    if (rc == 0 && (c->content.len > 0 || (c->n_call == 0 && p->n_item == 0)))
        rc = take_item(p, FILTER_TEXT, 0, &c->content);
    for (int i = 0; rc == 0 && i < c->n_call; i++)
        rc = take_item(p, FILTER_ARGS, i, &c->call[i].args);
    return rc ? rc : put_response(&r->out, r, FINAL, NULL);
}

static int
error(struct reply *r, bool streamed, int status, const char *text)
{
    if (!streamed)
        return error_put(&r->out, status, NULL, text);
    return state_event(r, "response.failed", FAILED, text);
}

const struct reply_ops responses_reply = {
    .begin = begin, .pieces = pieces, .slot_end = slot_end, .end = end,
    .whole = whole, .error = error, .logprobs = LOGPROB_CHAT,
};
