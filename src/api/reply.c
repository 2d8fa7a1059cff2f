/*
 * The life of a generation.
 *
 * DESIGN. A reply is built in an acceptor thread, in the request's arena. Its
 * choices go to the engine as one request each; their user pointer is the
 * slot. The engine's post copies the event and hands it to the stream, whose
 * reply thread does the rest: decode, filter, frame.
 *
 * States of a slot: live (the engine has it) and done (the client has all of
 * it) are independent: a stop string makes a slot done while it is live, and
 * it is cancelled; the last event ends live. A reply ends when all slots are
 * done, and is closed when none is live, since events still on their way name
 * it. Nothing is started before the first event, so everything that fails
 * before the first token is a plain HTTP error.
 *
 * Invariants: 1. after `ended`, `failed` or `gone` nothing is written; 2. each
 * slot gets exactly one last event if it was submitted; 3. the reply is freed
 * by fcgi_stream_close with the arena, nowhere else once the stream is open.
 */
#include "config.h"

#include "api/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "json/json.h"
#include "metrics/metrics.h"

/* What nginx logs when the client left before the reply. */
#define STATUS_LEFT 499
#define STREAM_HEADERS "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
#define STREAM_TYPE "text/event-stream; charset=utf-8"

/* Messages that are no events. */
static char submit_failed, please_tick;

/* --- building ---------------------------------------------------------------- */

static void
free_slots(void *arg)
{
    struct reply *r = arg;

    for (int i = 0; i < r->n_slot; i++) {
        struct slot *s = &r->slot[i];
        choice_close(&s->c);
        logprob_free(&s->lp);
        buf_free(&s->ids);
        buf_free(&s->prompt_lp);
        buf_free(&s->held);
        if (s->matcher)
            grammar_matcher_free(s->matcher);
    }
    buf_free(&r->out);
}

/* Letters that are safe in a header and in JSON. */
static bool
plain_id(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9') || memchr("._-:", ch, 4)))
            return false;
    }
    return s.n > 0 && s.n <= 128;
}

/* The reply's id and the X-Request-Id to echo: the client's header, else its
 * request_id, else at random. */
static void
set_id(struct api_call *c, struct reply *r, const char *prefix)
{
    char random[33];
    struct str given = fcgi_param(c->fcgi, "HTTP_X_REQUEST_ID");

    if (!plain_id(given))
        given = r->f.request_id;
    if (!plain_id(given)) {
        choice_random(random, sizeof random - 1);
        given = str_from(random);
    }
    snprintf(r->id, sizeof r->id, "%s%.*s", prefix, (int)given.n, given.p);
    r->request_id = str_from(r->id + strlen(prefix));
    snprintf(r->headers, sizeof r->headers, "X-Request-Id: %.*s\r\n",
             (int)given.n, given.p);
}

struct reply *
reply_make(struct api_call *c, const struct reply_ops *ops,
             const struct fields *f, const struct ids *prompt, int n_prompt,
             const char *prefix)
{
    struct reply *r = arena_calloc(c->arena, 1, sizeof *r);
    int n = (int)f->n;

    if (r == NULL)
        return NULL;
    r->slot = arena_calloc(c->arena, (size_t)n_prompt * (size_t)n,
                           sizeof *r->slot);
    if (r->slot == NULL || arena_cleanup(c->arena, free_slots, r) != 0)
        return NULL;
    list_init(&r->node);
    r->api = c->api;
    r->tag = c->tag;
    r->conf = c->conf;
    r->arena = c->arena;
    r->ops = ops;
    r->f = *f;
    r->n_slot = n_prompt * n;
    r->n_per_prompt = n;
    r->created = clock_unix();
    r->field = reasoning_field_parse(c->conf->reasoning_field);
    r->model = json_str(json_get(c->body, "model"));
    if (r->model.n == 0)
        r->model = atomic_load(&c->api->served)->name[0];
    for (int i = 0; i < r->n_slot; i++) {
        r->slot[i].reply = r;
        r->slot[i].index = i;
        r->slot[i].prompt = &prompt[i / n];
        r->slot[i].lp.spell = !f->skip_special;
    }
    for (int i = 0; i < n_prompt; i++)
        r->n_prompt += prompt[i].n;
    set_id(c, r, prefix);
    return r;
}

int
reply_open_slot(struct reply *r, int k, struct choice_options *o)
{
    o->tok = r->api->parts.tok;
    o->filters = r->api->parts.filters;
    o->filter.stop = r->f.stop;
    o->filter.n_stop = r->f.n_stop;
    o->filter.keep_stop = r->f.include_stop;
    o->filter.keep_special = !r->f.skip_special;
    o->filter.stop_in_thought = r->conf->stop_in_thought;
    o->collect = o->collect || !r->f.stream;
    return choice_open(&r->slot[k].c, o);
}

int
reply_constrain(struct reply *r, struct grammar *g)
{
    int rc = 0;

    for (int i = 0; g && rc == 0 && i < r->n_slot; i++)
        rc = grammar_matcher_create(g, &r->slot[i].matcher);
    return rc;
}

/* --- the engine thread -------------------------------------------------------- */

static void
post_event(const struct engine_event *ev)
{
    struct slot *s = ev->user;
    struct engine_event *copy = &s->last;

    if (ev->finish == ENGINE_RUNNING) {
        copy = malloc(sizeof *copy);
        if (copy == NULL) {
            atomic_store(&s->lost, true);
            free(ev->logprobs);
            free(ev->prompt);
            return;
        }
    }
    *copy = *ev;
    fcgi_stream_post(s->reply->stream, copy);
}

/* --- writing ------------------------------------------------------------------ */

static void
flush(struct reply *r)
{
    if (r->out.len > 0)
        fcgi_stream_write(r->stream, (struct str){r->out.data, r->out.len});
    r->out.len = 0;
}

static void
cancel_all(struct reply *r)
{
    for (int i = 0; i < r->n_slot; i++)
        if (r->slot[i].live)
            engine_cancel(r->api->parts.engine, r->slot[i].id);
}

static void
send_plain(struct reply *r, int status, const char *more)
{
    char headers[sizeof r->headers + 96];

    r->status = status;
    snprintf(headers, sizeof headers, "%s%sContent-Length: %zu\r\n",
             r->headers, more, r->out.len);
    fcgi_stream_start(r->stream, status, "application/json", headers);
    r->started = true;
    flush(r);
}

/* Ends the reply with an error, whatever has been sent. */
static void
fail(struct reply *r, int status, const char *text)
{
    if (r->failed || r->ended || r->gone)
        return;
    r->failed = true;
    cancel_all(r);
    r->out.len = 0;
    if (r->ops->error(r, r->started, status, text) != 0)
        r->out.len = 0;
    if (r->started)
        flush(r);
    else
        send_plain(r, status, status == 429   ? "Retry-After: 1\r\n"
                              : status == 503 ? "Retry-After: 5\r\n"
                                              : "");
}

static int
start_stream(struct reply *r)
{
    char headers[sizeof r->headers + sizeof STREAM_HEADERS];

    r->status = 200;
    snprintf(headers, sizeof headers, "%s" STREAM_HEADERS, r->headers);
    fcgi_stream_start(r->stream, 200, STREAM_TYPE, headers);
    r->started = true;
    return r->ops->begin(r);
}

/* Tokens of the longest choice of each prompt. */
static void
count_longest(const struct reply *r)
{
    uint32_t most = 0;

    for (int i = 0; i < r->n_slot; i++) {
        if (r->slot[i].c.n_tokens > most)
            most = r->slot[i].c.n_tokens;
        if ((i + 1) % r->n_per_prompt == 0) {
            metrics_observe(METRIC_REQUEST_LONGEST, most);
            most = 0;
        }
    }
}

/* All slots are done. */
static int
end(struct reply *r)
{
    count_longest(r);
    int rc = r->f.stream ? r->ops->end(r) : r->ops->whole(r);

    if (rc != 0)
        return rc;
    if (r->f.stream)
        flush(r);
    else
        send_plain(r, 200, "");
    r->ended = true;
    return 0;
}

/* --- events -------------------------------------------------------------------- */

static int
note_token(struct slot *s, const struct engine_event *ev, uint32_t i)
{
    struct reply *r = s->reply;
    int rc = 0;

    if (!r->f.include_reasoning)
        return 0; /* nothing of the thought may show */
    if (ev->logprobs && i < ev->logprobs->n
        && (r->f.logprobs || r->f.text_logprobs != FIELD_NONE))
        rc = logprob_add(&s->lp, r->ops->logprobs, r->api->parts.tok,
                         ev->logprobs, i, r->f.tokens_as_ids);
    if (rc == 0 && r->f.return_token_ids)
        rc = buf_printf(&s->ids, s->ids.len ? ",%d" : "%d",
                        (int)ev->token[i]);
    return rc;
}

/* Whether token i is the one that ended the output, not to be shown. */
static bool
hidden_end(const struct slot *s, const struct engine_event *ev, uint32_t i)
{
    if (ev->finish != ENGINE_STOP || i + 1 != ev->n_tok || ev->repeats)
        return false;
    return ev->stop_id == s->reply->api->end_id || !s->reply->f.include_stop;
}

static int
take_tokens(struct slot *s, const struct engine_event *ev)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < ev->n_tok; i++) {
        if (s->c.end != CHOICE_OPEN)
            break;
        rc = note_token(s, ev, i);
        if (rc == 0 && hidden_end(s, ev, i))
            choice_end_token(&s->c);
        else if (rc == 0)
            rc = choice_token(&s->c, ev->token[i]);
    }
    return rc;
}

static int
take_prompt(struct slot *s, const struct engine_event *ev)
{
    struct reply *r = s->reply;
    const struct tok *tok = r->api->parts.tok;
    int rc = 0;

    if (r->f.prompt_logprobs != FIELD_NONE)
        rc = logprob_put_prompt(&s->prompt_lp, tok, ev->prompt);
    if (rc == 0 && r->f.echo && r->f.text_logprobs != FIELD_NONE)
        rc = logprob_add_prompt(&s->lp, tok, ev->prompt, s->prompt->id,
                                r->f.tokens_as_ids);
    return rc;
}

static enum choice_end
end_of(const struct engine_event *ev)
{
    return ev->finish == ENGINE_STOP     ? CHOICE_STOP
           : ev->finish == ENGINE_LENGTH ? CHOICE_LENGTH
                                         : CHOICE_ABORT;
}

static int
take_end(struct slot *s, const struct engine_event *ev)
{
    bool was_open = s->c.end == CHOICE_OPEN;
    int rc = choice_finish(&s->c, end_of(ev));

    if (was_open && ev->finish == ENGINE_STOP
        && ev->stop_id != s->reply->api->end_id)
        s->c.stop_id = ev->stop_id;
    return rc;
}

/* Sends what has gathered, when it is time. */
static int
send_pieces(struct slot *s)
{
    struct reply *r = s->reply;
    bool due = s->done || s->n_sent == 0
               || s->c.n_tokens - s->n_sent >= r->f.stream_interval;
    bool any = s->c.n_piece > 0 || s->lp.entry.len > 0 || s->ids.len > 0;
    int rc = 0;

    if (due && (any || s->n_sent == 0)) {
        if (any)
            rc = r->ops->pieces(r, s);
        choice_sent(&s->c);
        logprob_sent(&s->lp);
        s->ids.len = 0;
        s->n_sent = s->c.n_tokens;
    }
    return rc;
}

static int
advance(struct slot *s, const struct engine_event *ev)
{
    struct reply *r = s->reply;
    int rc = 0;

    if (ev->n_cached > s->n_cached)
        s->n_cached = ev->n_cached;
    if (ev->prompt)
        rc = take_prompt(s, ev);
    rc = rc ? rc : take_tokens(s, ev);
    if (rc == 0 && ev->finish != ENGINE_RUNNING)
        rc = take_end(s, ev);
    s->done = s->c.end != CHOICE_OPEN;
    if (rc == 0 && r->f.stream && !r->started)
        rc = start_stream(r);
    if (rc == 0 && r->f.stream)
        rc = send_pieces(s);
    else
        choice_sent(&s->c); /* it is collected */
    if (rc == 0 && r->f.stream && s->done)
        rc = r->ops->slot_end(r, s);
    if (rc == 0 && r->f.stream)
        flush(r);
    if (s->done && s->live) /* a stop string: the engine does not know it */
        engine_cancel(r->api->parts.engine, s->id);
    r->n_done += s->done;
    if (rc == 0 && r->n_done == r->n_slot)
        rc = end(r);
    return rc;
}

static void
take_event(struct reply *r, struct engine_event *ev)
{
    struct slot *s = ev->user;

    if (ev->finish != ENGINE_RUNNING) {
        s->live = false;
        r->n_live--;
    }
    if (r->failed || r->gone || s->done)
        return;
    if (ev->finish == ENGINE_ERROR)
        /* What is too much for a step is the client's form. */
        fail(r, ev->error_code == ERR_LIMIT ? 400 : 500,
             ev->error ? ev->error : "the engine failed");
    else if (ev->finish == ENGINE_ABORTED)
        fail(r, 503, "the server is shutting down");
    else if (atomic_load(&s->lost) || advance(s, ev) != 0)
        fail(r, 500, "out of memory");
}

/* Frees the reply when nothing names it any more. */
static void
close_if_idle(struct reply *r)
{
    if (r->n_live > 0 || !(r->ended || r->failed || r->gone))
        return;
    pthread_mutex_lock(&r->api->lock);
    list_remove(&r->node);
    pthread_mutex_unlock(&r->api->lock);
    call_count(&r->tag, r->status ? r->status : STATUS_LEFT);
    fcgi_stream_close(r->stream);
}

int
reply_abort(struct api *a, struct str request_id)
{
    int n = 0;

    pthread_mutex_lock(&a->lock);
    list_for_each(it, &a->replies) {
        struct reply *r = list_entry(it, struct reply, node);
        if (request_id.p && !str_eq(request_id, r->request_id))
            continue;
        /* Late for a choice that has ended, which does no harm. */
        for (int i = 0; i < r->n_slot; i++)
            engine_cancel(a->parts.engine, r->slot[i].id);
        n++;
    }
    pthread_mutex_unlock(&a->lock);
    return n;
}

static void
on_post(void *owner, void *message)
{
    struct reply *r = owner;

    if (message == &submit_failed) {
        fail(r, r->fail_status, r->fail_text);
    } else if (message == &please_tick) {
        fcgi_stream_tick(r->stream, (unsigned)r->conf->ping_ms);
        return;
    } else {
        struct engine_event *ev = message;
        struct slot *s = ev->user;
        take_event(r, ev);
        free(ev->logprobs);
        free(ev->prompt);
        free(ev->error);
        if (ev != &s->last)
            free(ev);
    }
    close_if_idle(r);
}

static void
on_closed(void *owner)
{
    struct reply *r = owner;

    r->gone = true;
    cancel_all(r);
    close_if_idle(r);
}

/* Silence: a comment keeps proxies from giving up. */
static void
on_tick(void *owner)
{
    struct reply *r = owner;

    if (r->failed || r->ended || r->gone)
        return;
    if (!r->started && start_stream(r) != 0) {
        fail(r, 500, "out of memory");
        return;
    }
    flush(r);
    fcgi_stream_write(r->stream, STR(": ping\n\n"));
}

static const struct fcgi_stream_ops stream_ops = {on_post, on_closed, on_tick};

/* --- submitting ----------------------------------------------------------------- */

static void
set_refusal(struct reply *r, int rc)
{
    r->fail_status = rc == ERR_AGAIN         ? 429
                     : rc == ERR_UNSUPPORTED ? 501
                     : rc == ERR_CLOSED || rc == ERR_NOMEM ? 503
                                                           : 400;
    r->fail_text = rc == ERR_AGAIN    ? "the queue is full; try again later"
                   : rc == ERR_CLOSED ? "the server is shutting down"
                   : rc == ERR_NOMEM  ? "out of memory"
                   : rc == ERR_LIMIT
                       ? "the prompt is longer than the maximum context length"
                   : rc == ERR_UNSUPPORTED && r->f.n_ask > 0
                       ? "this server's back end has no logprob_token_ids"
                   : rc == ERR_UNSUPPORTED
                       ? "this server does not take images"
                       : "an id is outside the model's vocabulary";
}

static int
submit_slot(const struct api_call *c, struct slot *s,
            const struct engine_request *req, int64_t limit)
{
    struct reply *r = s->reply;
    struct engine_request q = *req;
    bool first = s->index % r->n_per_prompt == 0;
    bool echo = r->f.echo && r->f.text_logprobs != FIELD_NONE;
    int64_t top = r->f.logprobs && r->f.top_logprobs == FIELD_NONE
                      ? 0 : r->f.top_logprobs;

    q.user = s;
    q.post = post_event;
    q.prompt = s->prompt->id;
    q.n_prompt = (uint32_t)s->prompt->n;
    q.max_tokens = (uint32_t)limit;
    q.matcher = s->matcher;
    if (r->f.text_logprobs != FIELD_NONE)
        top = r->f.text_logprobs;
    else if (!r->f.logprobs)
        top = -1;
    q.n_top = (int)top;
    q.prompt_top = echo ? (int)top : -1;
    if (first && r->f.prompt_logprobs > q.prompt_top)
        q.prompt_top = (int)r->f.prompt_logprobs;
    fields_apply(c, &r->f, s->index % r->n_per_prompt, &q);
    if (s->matcher) { /* a form ends where it ends */
        q.ignore_end = false;
        q.min_tokens = 0;
    }
    return engine_submit(r->api->parts.engine, &q, &s->id);
}

void
reply_submit(struct api_call *c, struct reply *r,
             const struct engine_request *req, const int64_t *limit)
{
    r->stream = fcgi_stream_open(c->fcgi, &stream_ops, r);
    if (r->stream == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    for (size_t i = 0; i < req->n_image; i++)
        r->n_image += req->image[i].n_tokens;
    for (int i = 0; i < r->n_slot; i++) {
        struct slot *s = &r->slot[i];
        int rc = submit_slot(c, s, req, limit[i / r->n_per_prompt]);
        if (rc != 0) {
            set_refusal(r, rc);
            fcgi_stream_post(r->stream, &submit_failed);
            return;
        }
        s->live = true;
        r->n_live++;
    }
    metrics_observe(METRIC_REQUEST_CHOICES, r->n_per_prompt);
    pthread_mutex_lock(&c->api->lock);
    list_append(&c->api->replies, &r->node);
    pthread_mutex_unlock(&c->api->lock);
    if (r->f.stream && c->conf->ping_ms > 0)
        fcgi_stream_post(r->stream, &please_tick);
}

/* --- for formats ------------------------------------------------------------------ */

uint64_t
reply_tokens(const struct reply *r)
{
    uint64_t n = 0;
    for (int i = 0; i < r->n_slot; i++)
        n += r->slot[i].c.n_tokens;
    return n;
}

uint64_t
reply_reasoning_tokens(const struct reply *r)
{
    uint64_t n = 0;
    for (int i = 0; i < r->n_slot; i++)
        n += r->slot[i].c.n_reasoning;
    return n;
}

uint64_t
reply_cached_tokens(const struct reply *r)
{
    uint64_t n = 0;
    for (int i = 0; i < r->n_slot; i += r->n_per_prompt)
        n += r->slot[i].n_cached;
    return n;
}

int
reply_put_usage(struct buf *out, const struct reply *r)
{
    uint64_t tokens = reply_tokens(r);
    uint64_t thought = reply_reasoning_tokens(r);

    int rc = buf_printf(out, "{\"prompt_tokens\":%" PRIu64
                        ",\"completion_tokens\":%" PRIu64
                        ",\"total_tokens\":%" PRIu64
                        ",\"prompt_tokens_details\":{\"cached_tokens\":%"
                        PRIu64, r->n_prompt, tokens, r->n_prompt + tokens,
                        reply_cached_tokens(r));
    if (rc == 0 && r->n_image > 0)
        rc = buf_printf(out, ",\"multimodal_tokens\":{\"image\":%" PRIu64 "}",
                        r->n_image);
    return rc ? rc : buf_printf(
        out, "},\"completion_tokens_details\":{\"reasoning_tokens\":%" PRIu64
        "},\"reasoning_tokens\":%" PRIu64 "}", thought, thought);
}

int
reply_put_stop_reason(struct buf *out, const struct slot *s)
{
    const struct choice *c = &s->c;

    if (c->stop_string.len > 0)
        return json_put_string(out, c->stop_string.data, c->stop_string.len);
    if (c->stop_id >= 0)
        return buf_printf(out, "%d", (int)c->stop_id);
    if (s->last.repeats && c->end == CHOICE_STOP)
        return buf_puts(out, "\"repetition_detected\"");
    return buf_puts(out, "null");
}
