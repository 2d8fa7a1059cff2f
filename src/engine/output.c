/*
 * From a step's result to the requests' events.
 *
 * DESIGN. The back end draws tokens; the engine decides which it keeps. Mostly
 * all of them, but an output ends at the first end or stop id or at its limit,
 * a token that a grammar does not allow (possible behind drafts only) ends
 * what is kept of this step, and a thought over its budget gets its closing
 * token in place of the one drawn.
 *
 * When something else than the drawn tokens is kept, the device has run ahead
 * on a wrong text: the last kept token goes back to "known, not computed", a
 * step in flight is made void by a new epoch (its results are dropped, what it
 * wrote to the cache lies behind n_done and is written again), and the next
 * step tells the back end to rebuild the slot. Nothing else has to know.
 */
#include "config.h"

#include "engine/output.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/grammar_step.h"
#include "engine/logprobs.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void take(struct sched *s, const struct step_entry *en,
                 const struct seq_result *q);
static int take_prompt(struct request *r, const struct step_entry *en,
                       const struct seq_result *q);
static int take_tokens(struct sched *s, const struct step_entry *en,
                       const struct seq_result *q, struct engine_event *ev);
static void note_drafts(struct request *r, const struct seq_result *q);
static int32_t forced(const struct request *r, int32_t drawn);
static void think_count(struct request *r, int32_t id);
static bool ends(const struct request *r, int32_t id,
                 struct engine_event *ev);
static bool repeats(const struct request *r);
static bool has(const int32_t *list, size_t n, int32_t id);
static void count_drafts(const struct seq_result *q, uint32_t n_kept);
static void time_tokens(struct request *r, struct engine_event *ev);
static void finish(struct sched *s, struct request *r,
                   struct engine_event *ev);
static void count_end(const struct request *r, enum engine_finish why);

void
output_take(struct sched *s, const struct step *st,
            const struct step_result *res)
{
    assert(res->n_seq == st->batch.n_seq);
    for (uint32_t i = 0; i < st->batch.n_seq; i++) {
        const struct step_entry *en = &st->entry[i];
        en->r->n_fly--;
        if (en->r->state == REQUEST_RUNNING && en->epoch == en->r->epoch)
            take(s, en, &res->seq[i]);
        sched_landed(s, en->r);
    }
}

void
output_end(struct sched *s, struct request *r, enum engine_finish why,
           const struct err *e)
{
    struct engine_event ev = {.finish = why, .stop_id = -1};
    if (why == ENGINE_ERROR) {
        ev.error = strdup(e->text);
        ev.error_code = e->code;
    }
    finish(s, r, &ev);
}

static void
take(struct sched *s, const struct step_entry *en, const struct seq_result *q)
{
    struct request *r = en->r;
    struct engine_event ev = {.stop_id = -1};
    struct err e = {0};
    r->n_done = en->n_past + en->n_tok;
    int rc = take_prompt(r, en, q);
    if (rc == 0 && en->sample)
        rc = take_tokens(s, en, q, &ev);
    if (rc != 0) {
        err_set(&e, rc, rc == ERR_MISMATCH
                ? "the device drew a token that the grammar forbids"
                : "out of memory");
        free(ev.logprobs);
        output_end(s, r, ENGINE_ERROR, &e);
        return;
    }
    sched_share(s, r);
    if (r->limit == 0 && r->n_done == r->n_prompt)
        ev.finish = ENGINE_LENGTH;
    if (ev.n_tok == 0 && ev.finish == ENGINE_RUNNING)
        return;
    time_tokens(r, &ev);
    ev.prompt = r->prompt;
    r->prompt = NULL;
    if (ev.finish != ENGINE_RUNNING)
        finish(s, r, &ev);
    else
        request_post(r, &ev);
}

/* Log-probabilities of the prompt tokens behind the query tokens. */
static int
take_prompt(struct request *r, const struct step_entry *en,
            const struct seq_result *q)
{
    if (r->in.prompt_top < 0 || r->t_first != 0)
        return 0;
    if (r->prompt == NULL) {
        r->prompt = logprobs_create(r->n_prompt, (uint32_t)r->in.prompt_top);
        if (r->prompt == NULL)
            return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < en->n_tok; i++)
        if (en->n_past + i + 1 < r->n_prompt)
            logprobs_set_target(r->prompt, en->n_past + i + 1, q, i);
    return 0;
}

/* Keeps what may be kept of the tokens drawn; ev gets them. */
static int
take_tokens(struct sched *s, const struct step_entry *en,
            const struct seq_result *q, struct engine_event *ev)
{
    struct request *r = en->r;
    bool asis = true;
    assert(q->n_out >= 1 && q->n_out <= BACKEND_OUT_MAX);
    if (r->in.n_top >= 0) {
        ev->logprobs = logprobs_of_result(q, q->n_out,
                                          (uint32_t)r->in.n_top, r->in.n_ask);
        if (ev->logprobs == NULL)
            return ERR_NOMEM;
    }
    r->n_draws--;
    while (asis && ev->n_tok < q->n_out && ev->finish == ENGINE_RUNNING) {
        int32_t drawn = q->out[ev->n_tok], id = forced(r, drawn);
        if (id != drawn && !grammar_step_accept(r, id))
            id = drawn;
        else if (id != drawn)
            asis = false;
        /* Behind a draft that no mask was made for. */
        if (asis && ev->n_tok >= en->n_mask && grammar_step_forbids(r, id))
            break;
        if (asis && !grammar_step_accept(r, id)) {
            if (ev->n_tok == 0)
                return ERR_MISMATCH;
            break;
        }
        if (!asis && ev->logprobs != NULL)
            logprobs_force(ev->logprobs, ev->n_tok, id);
        r->token[r->n_token++] = id;
        ev->token[ev->n_tok++] = id;
        think_count(r, id);
        if (!ends(r, id, ev) && request_n_out(r) >= r->limit)
            ev->finish = ENGINE_LENGTH;
    }
    if (ev->logprobs != NULL)
        ev->logprobs->n = ev->n_tok;
    r->n_done = r->n_token - 1;
    if (s->o.max_out > 1)
        count_drafts(q, ev->n_tok);
    note_drafts(r, q);
    if (!asis || ev->n_tok < q->n_out) {
        r->epoch++;
        r->n_draws = 0;
        r->reset = true;
    }
    if (!asis || q->n_out > 1)
        r->n_sched = r->n_done;
    return 0;
}

/* What the next step will check, unless it resets the slot. */
static void
note_drafts(struct request *r, const struct seq_result *q)
{
    r->n_draft = q->n_next < BACKEND_OUT_MAX ? q->n_next : BACKEND_OUT_MAX;
    for (uint32_t i = 0; i < r->n_draft; i++)
        r->draft[i] = q->next[i];
}

/* The token to keep instead of drawn; mostly drawn itself. */
static int32_t
forced(const struct request *r, int32_t drawn)
{
    const struct engine_think *t = &r->in.think;
    if (!r->inside || t->close < 0 || drawn == t->close)
        return drawn;
    if (t->budget >= 0 && r->n_inside >= t->budget)
        return t->close;
    if (t->hold_end && !r->in.ignore_end &&
        has(r->in.end_id, r->in.n_end, drawn))
        return t->close;
    return drawn;
}

static void
think_count(struct request *r, int32_t id)
{
    const struct engine_think *t = &r->in.think;
    if (r->inside && id == t->close) {
        r->inside = false;
    } else if (r->inside) {
        r->n_inside++;
    } else if (t->open >= 0 && id == t->open) {
        r->inside = true;
        r->n_inside = 0;
    }
}

/* Sets ev's finish and stop_id when id, the last token, ends the output. */
static bool
ends(const struct request *r, int32_t id, struct engine_event *ev)
{
    const struct engine_request *in = &r->in;
    if (request_n_out(r) < in->min_tokens)
        return false;
    bool end = !in->ignore_end && has(in->end_id, in->n_end, id);
    if (!end && !has(in->stop_id, in->n_stop, id)) {
        ev->repeats = repeats(r);
        ev->finish = ev->repeats ? ENGINE_STOP : ENGINE_RUNNING;
        return ev->repeats;
    }
    ev->finish = ENGINE_STOP;
    ev->stop_id = id;
    return true;
}

/* Whether the output ends with the same ids so often in a row. */
static bool
repeats(const struct request *r)
{
    const struct engine_repetition *p = &r->in.repetition;
    uint32_t n_out = request_n_out(r);
    for (uint32_t n = p->min; p->max > 0 && n <= p->max; n++) {
        uint64_t whole = (uint64_t)n * p->count, same = n;
        if (whole > n_out)
            return false;
        while (same < whole && r->token[r->n_token - 1 - same] ==
                                   r->token[r->n_token - 1 - same + n])
            same++;
        if (same == whole)
            return true;
    }
    return false;
}

static bool
has(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static void
count_drafts(const struct seq_result *q, uint32_t n_kept)
{
    if (q->n_draft == 0)
        return;
    metrics_add(METRIC_DRAFTS, 1);
    metrics_add(METRIC_DRAFT_TOKENS, q->n_draft);
    metrics_add(METRIC_ACCEPTED_TOKENS, n_kept - 1);
    for (uint32_t i = 0; i + 1 < n_kept && i < METRIC_PLACES; i++)
        metrics_add(METRIC_ACCEPTED_AT + i, 1);
}

static void
time_tokens(struct request *r, struct engine_event *ev)
{
    uint64_t now = clock_ns();
    metrics_add(METRIC_GENERATED_TOKENS, ev->n_tok);
    if (r->t_first == 0) {
        r->t_first = now;
        ev->queue_ns = r->t_admit - r->t_submit;
        ev->prefill_ns = now - r->t_admit;
        metrics_observe(METRIC_TTFT, (double)(now - r->t_submit) * 1e-9);
        metrics_observe(METRIC_PREFILL_TIME, (double)ev->prefill_ns * 1e-9);
    } else {
        metrics_observe(METRIC_ITL, (double)(now - r->t_last) * 1e-9);
    }
    r->t_last = now;
}

/* The last event of r. */
static void
finish(struct sched *s, struct request *r, struct engine_event *ev)
{
    sched_end(s, r);
    count_end(r, ev->finish);
    request_post(r, ev);
}

static void
count_end(const struct request *r, enum engine_finish why)
{
    static const enum metric by[] = {
        [ENGINE_STOP] = METRIC_DONE_STOP,
        [ENGINE_LENGTH] = METRIC_DONE_LENGTH,
        [ENGINE_CANCELLED] = METRIC_DONE_ABORT,
        [ENGINE_ERROR] = METRIC_DONE_ERROR,
        [ENGINE_ABORTED] = METRIC_DONE_ABORT,
    };
    metrics_add(by[why], 1);
    if (why != ENGINE_STOP && why != ENGINE_LENGTH)
        return;
    uint64_t now = clock_ns();
    metrics_observe(METRIC_E2E, (double)(now - r->t_submit) * 1e-9);
    metrics_observe(METRIC_DECODE_TIME, (double)(now - r->t_first) * 1e-9);
    metrics_observe(METRIC_REQUEST_PROMPT, r->n_prompt);
    metrics_observe(METRIC_REQUEST_GENERATED, request_n_out(r));
    metrics_observe(METRIC_REQUEST_COMPUTED, r->n_prompt - r->n_cached);
    metrics_observe(METRIC_REQUEST_LIMIT, r->limit);
    metrics_observe(METRIC_INFERENCE_TIME, (double)(now - r->t_admit) * 1e-9);
    if (request_n_out(r) > 1)
        metrics_observe(METRIC_TOKEN_TIME, (double)(now - r->t_first) * 1e-9 /
                                               (request_n_out(r) - 1));
}
