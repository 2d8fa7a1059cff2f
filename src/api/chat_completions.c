/* POST /v1/chat/completions, and what other endpoints over chats share. */
#include "config.h"

#include "api/constraint.h"
#include "api/formats.h"
#include "api/generate.h"
#include "api/job_images.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "json/json.h"

/* --- reading ------------------------------------------------------------------- */

int
call_fail_chat(struct api_call *c, int rc, const struct chat_error *ce)
{
    if (rc == ERR_NOMEM)
        return call_fail(c, 503, NULL, "out of memory");
    int status = ce->status ? ce->status : 400;
    return call_fail(c, ce->schema ? STATUS_SCHEMA : status, ce->param, "%s",
                     ce->err.text);
}

static void
free_ids(void *arg)
{
    ids_free(arg);
}

int
ids_keep(struct arena *a, struct ids *v)
{
    if (arena_cleanup(a, free_ids, v) == 0)
        return 0;
    ids_free(v);
    return ERR_NOMEM;
}

int
refuse_fields(struct api_call *c)
{
    static const struct {
        const char *key;
        int status;
        const char *why;
    } refused[] = {
        {"chat_template", 400, "templates of clients are not supported"},
        {"functions", 400, "functions is deprecated; use tools"},
        {"function_call", 400, "function_call is deprecated; use tool_choice"},
        {"mm_processor_kwargs", 400, "mm_processor_kwargs is not allowed"},
        {"media_io_kwargs", 400, "media_io_kwargs is not allowed"},
    };

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (json_get(c->body, refused[i].key))
            return call_fail(c, refused[i].status, refused[i].key, "%s",
                             refused[i].why);
    return 0;
}

/* "auto" without tools is refused as elsewhere; with an empty list it is what
 * agents send that dropped their tools. */
static int
check_choice(struct api_call *c, const struct chat_request *req)
{
    if (json_get(c->body, "tool_choice") == NULL
        || json_get(c->body, "tools") != NULL
        || req->choice == CHAT_CHOICE_NONE)
        return 0;
    return call_fail(c, 400, "tool_choice", "tool_choice is given but there "
                     "are no tools");
}

/* How many of a thing there may be, before any is read. */
static int
check_count(struct api_call *c, const char *key, uint64_t most)
{
    struct json_object *list = json_get(c->body, key);

    if (!json_object_is_type(list, json_type_array)
        || json_object_array_length(list) <= most)
        return 0;
    return call_fail(c, 400, key, "%s: there are %zu, at most %" PRIu64
                     " are allowed", key, json_object_array_length(list),
                     most);
}

/* Bytes of text that will be encoded, or fewer. */
static size_t
text_bytes(const struct chat_request *req)
{
    size_t n = 0;

    for (size_t i = 0; i < req->n_message; i++)
        for (size_t k = 0; k < req->message[i].n_part; k++)
            if (req->message[i].part[k].type == CHAT_TEXT)
                n += req->message[i].part[k].text.n;
    return n;
}

int
chat_job_encode(struct api_call *c, struct chat_job *j, int64_t budget)
{
    const struct chat *chat = c->api->parts.chat;
    struct chat_error ce = {0};

    if (refuse_fields(c) != 0
        || check_count(c, "messages", c->conf->max_messages) != 0
        || check_count(c, "tools", c->conf->max_tools) != 0
        || effort_read(c, budget, &j->effort) != 0)
        return -1;
    int rc = chat_parse(chat, c->body, c->arena, &j->req, &ce);
    if (rc != 0)
        return call_fail_chat(c, rc, &ce);
    if (check_choice(c, &j->req) != 0
        || fields_check_text(c, &j->f, text_bytes(&j->req)) != 0)
        return -1;
    if (job_images_load(c, j) != 0)
        return -1;
    j->req.effort = j->effort.value;
    if (ids_keep(c->arena, &j->prompt.ids) != 0)
        return call_fail(c, 503, NULL, "out of memory");
    rc = chat_encode(chat, &j->req, c->arena, &j->prompt, &ce);
    return rc ? call_fail_chat(c, rc, &ce) : 0;
}

int
chat_job_read(struct api_call *c, struct chat_job *j)
{
    if (fields_read(c, AT_CHAT, &j->f) != 0
        || chat_job_encode(c, j, j->f.thinking_token_budget) != 0)
        return -1;
    if (j->prompt.n_image > 0 && j->f.truncate_prompt_tokens != FIELD_NONE)
        return call_fail(c, 400, "truncate_prompt_tokens", "a prompt with "
                         "images cannot be truncated");
    fields_truncate(c, &j->f, &j->prompt.ids);
    j->limit = fields_limit(c, &j->f, j->prompt.ids.n);
    if (j->limit < 0)
        return -1;
    return constraint_chat(c, j, &j->grammar);
}

/* --- running -------------------------------------------------------------------- */

/* Calls are split and allowed. */
static bool
with_tools(const struct chat_job *j)
{
    return j->req.n_tool > 0 && j->req.choice != CHAT_CHOICE_NONE;
}

/* Where no call is wanted, the token that starts one is never drawn. */
static void
forbid_calls(struct api_call *c, struct chat_job *j)
{
    int id = tok_special(c->api->parts.tok, "[TOOL_CALLS]");

    if (!with_tools(j) && id >= 0)
        j->f.bad[j->f.n_bad++] = id;
}

static struct engine_think
think_of(const struct api_call *c, const struct chat_job *j)
{
    const struct tok *t = c->api->parts.tok;

    return (struct engine_think){
        .open = tok_special(t, "[THINK]"),
        .close = tok_special(t, "[/THINK]"),
        .inside = j->prompt.inside_thought,
        .budget = j->effort.budget,
        .hold_end = c->conf->hold_end_in_thought && !j->f.ignore_eos,
    };
}

/* Text of the message that the reply continues, shown with echo. */
static int
echo_last(struct reply *r, const struct chat_job *j)
{
    const struct chat_message *m = &j->req.message[j->req.n_message - 1];
    int rc = 0;

    if (!j->f.echo || m->role != CHAT_ASSISTANT)
        return 0;
    for (int i = 0; i < r->n_slot; i++)
        for (size_t k = 0; rc == 0 && k < m->n_part; k++)
            if (m->part[k].type == CHAT_TEXT)
                rc = choice_echo(&r->slot[i].c, m->part[k].text);
    return rc;
}

static int
open_slots(struct reply *r, const struct chat_job *j)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < r->n_slot; i++) {
        struct choice_options o = {
            .one_call = !j->f.parallel_tool_calls,
            .hide_reasoning = !j->f.include_reasoning,
            .filter = {.reasoning = j->f.separate_reasoning,
                       .tools = with_tools(j),
                       .in_thought = j->prompt.inside_thought},
        };
        rc = reply_open_slot(r, i, &o);
    }
    return rc ? rc : echo_last(r, j);
}

/* Mistral's own client takes each chunk of a call for a call of its own, and
 * one without a name for a mistake. */
static bool
wants_whole_calls(struct api_call *c)
{
    struct str agent = fcgi_param(c->fcgi, "HTTP_USER_AGENT");
    return agent.n > 0
           && memmem(agent.p, agent.n, "mistral", 7) != NULL;
}

struct reply *
chat_job_open(struct api_call *c, struct chat_job *j,
              const struct reply_ops *ops, const char *prefix)
{
    forbid_calls(c, j);
    struct reply *r = reply_make(c, ops, &j->f, &j->prompt.ids, 1, prefix);
    if (r == NULL || open_slots(r, j) != 0
        || reply_constrain(r, j->grammar) != 0) {
        call_fail(c, 503, NULL, "out of memory");
        return NULL;
    }
    r->named_tool = j->req.choice == CHAT_CHOICE_NAMED && j->req.n_tool > 0;
    r->whole_calls = wants_whole_calls(c);
    if (j->effort.report) {
        size_t n = strlen(r->headers);
        snprintf(r->headers + n, sizeof r->headers - n,
                 "X-Reasoning-Effort: %s\r\n", j->effort.report);
    }
    return r;
}

void
chat_job_submit(struct api_call *c, struct chat_job *j, struct reply *r)
{
    struct engine_request req = {.think = think_of(c, j)};

    if (job_images_fill(c, j, &req) == 0)
        reply_submit(c, r, &req, &j->limit);
}

void
chat_job_run(struct api_call *c, struct chat_job *j,
             const struct reply_ops *ops, const char *prefix)
{
    struct reply *r = chat_job_open(c, j, ops, prefix);

    if (r)
        chat_job_submit(c, j, r);
}

void
chat_completions_post(struct api_call *c)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) == 0 && call_check_model(c) == 0
        && chat_job_read(c, j) == 0)
        chat_job_run(c, j, &chat_reply, "chatcmpl-");
}
