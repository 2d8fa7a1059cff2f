/*
 * The scheduler.
 *
 * DESIGN. There is no prefill phase and no decode phase: a request has tokens
 * known (n_token) and tokens scheduled (n_sched), and a step lets the second
 * catch up with the first. A request that has caught up draws a token. With
 * steps in flight it may run ahead by the token that is being drawn.
 *
 * Order. Requests rank by priority, then arrival. Within a step those that
 * need a single token come first (their streams are being watched), then
 * prefills of running requests, then the queue, strictly in rank: a large
 * request at its head is never overtaken, so it cannot starve.
 *
 * Blocks. Admission is optimistic: a waiting request enters when the blocks
 * for all tokens it has are there, plus one for every running request that can
 * still grow, and it gets them at once. Output needs more; when the pool, idle cached blocks
 * included, is out, the last in rank is preempted, and nobody enters in that
 * step. The first in rank is never preempted, and one request always fits the
 * pool, so there is always progress.
 *
 * Freed blocks may be handed out while a step in flight still uses them: steps
 * take effect in order. The arrays that a step points to do stay unchanged:
 * a request with steps in flight is not admitted again and keeps its slot.
 */
#include "config.h"

#include "engine/sched.h"

#include "base/clock.h"

#include <assert.h>
#include <stdlib.h>

static void insert_by_rank(struct list *head, struct request *r);
static bool plan_add(struct sched *s, struct plan *p, struct request *r,
                     uint32_t n);
static void plan_drop(struct plan *p, const struct request *r);
static bool admit(struct sched *s, struct request *r);
static void count_admission(const struct sched *s, struct request *r);
static uint32_t blocks_for(const struct sched *s, const struct request *r,
                           uint32_t n_tok);
static uint32_t growing(const struct sched *s);
static uint32_t block_take(struct sched *s);
static void blocks_release(struct sched *s, struct request *r);
static void slot_release(struct sched *s, struct request *r);

static struct request *
request_of(struct list *l)
{
    return list_entry(l, struct request, node);
}

int
sched_init(struct sched *s, const struct engine_options *o)
{
    *s = (struct sched){.o = *o};
    list_init(&s->waiting);
    list_init(&s->running);
    list_init(&s->done);
    s->slot = malloc(o->max_running * sizeof *s->slot);
    if (s->slot == NULL || kv_init(&s->kv, o->n_blocks) != 0 ||
        prefix_init(&s->prefix, &s->kv) != 0) {
        sched_destroy(s);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < o->max_running; i++)
        s->slot[i] = o->max_running - 1 - i;
    s->n_slot = o->max_running;
    return 0;
}

void
sched_destroy(struct sched *s)
{
    prefix_destroy(&s->prefix);
    kv_destroy(&s->kv);
    free(s->slot);
    s->slot = NULL;
}

void
sched_enqueue(struct sched *s, struct request *r)
{
    r->arrival = s->n_arrival++;
    r->state = REQUEST_WAITING;
    insert_by_rank(&s->waiting, r);
    s->n_waiting++;
}

void
sched_plan(struct sched *s, struct plan *p)
{
    p->n = p->n_tok = 0;
    p->preempted = false;
    uint32_t chunk = s->o.prefill_chunk ? s->o.prefill_chunk : UINT32_MAX;
    for (int prefill = 0; prefill < 2; prefill++) {
        for (struct list *it = s->running.next; it != &s->running;) {
            struct request *r = request_of(it);
            uint32_t n = sched_todo(s, r);
            bool wanted = prefill ? n > 1 : n == 1;
            if (wanted && !plan_add(s, p, r, n < chunk ? n : chunk))
                break; /* r itself was preempted: it was the last */
            it = it->next;
        }
    }
    while (!p->preempted && p->n_tok < s->o.step_tokens &&
           !list_empty(&s->waiting)) {
        struct request *r = request_of(s->waiting.next);
        if (!admit(s, r))
            break;
        uint32_t n = sched_todo(s, r);
        plan_add(s, p, r, n < chunk ? n : chunk);
    }
}

uint32_t
sched_todo(const struct sched *s, const struct request *r)
{
    uint32_t known = r->n_token;
    if (r->n_draws > 0) {
        /* The next token is not known yet: a mask cannot be computed, and
         * with drafts not even its position is known. */
        if (r->mask != NULL || s->o.max_out > 1 ||
            request_n_out(r) + r->n_draws >= r->limit)
            return 0;
        known += r->n_draws;
    }
    return known - r->n_sched;
}

bool
sched_draws(const struct request *r, uint32_t n_tok)
{
    return r->n_sched + n_tok == r->n_token + r->n_draws &&
           request_n_out(r) + r->n_draws < r->limit;
}

void
sched_preempt(struct sched *s, struct request *r)
{
    assert(r->state == REQUEST_RUNNING);
    blocks_release(s, r);
    r->n_sched = r->n_done = r->n_draws = 0;
    r->state = REQUEST_WAITING;
    list_remove(&r->node);
    s->n_running--;
    insert_by_rank(&s->waiting, r);
    s->n_waiting++;
    if (r->n_fly == 0)
        slot_release(s, r);
    metrics_add(METRIC_PREEMPTIONS, 1);
}

void
sched_end(struct sched *s, struct request *r)
{
    assert(r->state != REQUEST_DONE);
    blocks_release(s, r);
    list_remove(&r->node);
    if (r->state == REQUEST_RUNNING)
        s->n_running--;
    else
        s->n_waiting--;
    r->state = REQUEST_DONE;
    list_append(&s->done, &r->node);
    if (r->n_fly == 0)
        slot_release(s, r);
}

void
sched_landed(struct sched *s, struct request *r)
{
    if (r->n_fly == 0 && r->state != REQUEST_RUNNING)
        slot_release(s, r);
}

void
sched_share(struct sched *s, struct request *r)
{
    if (!s->o.prefix_cache)
        return;
    while (r->path.n_node < r->n_done / KV_BLOCK)
        prefix_insert(&s->prefix, &r->text, &r->path,
                      r->block[r->path.n_node]);
}

static void
insert_by_rank(struct list *head, struct request *r)
{
    struct list *at = head;
    while (at->prev != head && request_before(r, request_of(at->prev)))
        at = at->prev;
    list_insert(at, &r->node);
}

/* Plans up to n tokens of r within the budget, taking blocks and, if need be,
 * preempting. False when r itself had to go. */
static bool
plan_add(struct sched *s, struct plan *p, struct request *r, uint32_t n)
{
    uint32_t left = s->o.step_tokens - p->n_tok;
    if (n > left)
        n = left;
    if (n == 0)
        return true;
    uint32_t need = blocks_for(s, r, r->n_sched + n);
    while (r->n_block < need) {
        uint32_t b = block_take(s);
        if (b != KV_NONE) {
            r->block[r->n_block++] = b;
            continue;
        }
        struct request *last = request_of(s->running.prev);
        plan_drop(p, last);
        sched_preempt(s, last);
        p->preempted = true;
        if (last == r)
            return false;
    }
    p->entry[p->n++] = (struct plan_entry){r, n};
    p->n_tok += n;
    return true;
}

static void
plan_drop(struct plan *p, const struct request *r)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->entry[i].r != r)
            continue;
        p->n_tok -= p->entry[i].n_tok;
        p->entry[i] = p->entry[--p->n];
        return;
    }
}

/* Moves the head of the queue to the running ones if there is room. */
static bool
admit(struct sched *s, struct request *r)
{
    if (s->n_slot == 0 || r->n_fly > 0)
        return false;
    uint32_t n_full = (r->n_token - 1) / KV_BLOCK, hit = 0;
    if (s->o.prefix_cache && (r->in.prompt_top < 0 || r->t_first != 0))
        hit = prefix_match(&s->prefix, &r->text, &r->path, n_full);
    uint32_t room = s->kv.n_free + s->kv.n_idle;
    for (uint32_t i = 0; i < hit; i++)
        room -= s->kv.block[r->path.node[i]].ref == 0;
    uint32_t need = blocks_for(s, r, r->n_token) - hit;
    if (need > room || need + growing(s) > room)
        return false;
    prefix_lock(&s->prefix, &r->path, hit);
    for (uint32_t i = 0; i < hit; i++)
        r->block[i] = r->path.node[i];
    r->n_block = hit;
    for (uint32_t i = 0; i < need; i++)
        r->block[r->n_block++] = block_take(s);
    r->n_sched = r->n_done = hit * KV_BLOCK;
    r->slot = s->slot[--s->n_slot];
    r->reset = true;
    r->state = REQUEST_RUNNING;
    list_remove(&r->node);
    s->n_waiting--;
    insert_by_rank(&s->running, r);
    s->n_running++;
    count_admission(s, r);
    return true;
}

static void
count_admission(const struct sched *s, struct request *r)
{
    if (s->o.prefix_cache) {
        metrics_add(METRIC_PREFIX_QUERIES, r->n_token);
        metrics_add(METRIC_PREFIX_HITS, r->n_done);
    }
    if (r->t_admit != 0)
        return; /* back after a preemption */
    r->n_cached = r->n_done;
    r->t_admit = clock_ns();
    metrics_add(METRIC_PROMPT_TOKENS, r->n_prompt);
    metrics_add(METRIC_CACHED_TOKENS, r->n_cached);
    metrics_add(METRIC_COMPUTED_TOKENS, r->n_prompt - r->n_cached);
    metrics_observe(METRIC_QUEUE_TIME,
                    (double)(r->t_admit - r->t_submit) * 1e-9);
}

/* Running requests that may need another block. */
static uint32_t
growing(const struct sched *s)
{
    uint32_t n = 0;
    list_for_each(it, &s->running) {
        const struct request *r = request_of(it);
        n += r->n_block < blocks_for(s, r, r->n_prompt + r->limit);
    }
    return n;
}

/* Blocks for n_tok tokens and the drafts behind them, within the longest text
 * that r can become. */
static uint32_t
blocks_for(const struct sched *s, const struct request *r, uint32_t n_tok)
{
    uint64_t n = (uint64_t)n_tok + s->o.max_out - 1;
    uint64_t most = (uint64_t)r->n_prompt + r->limit;
    if (n > most)
        n = most > n_tok ? most : n_tok;
    return (uint32_t)((n + KV_BLOCK - 1) / KV_BLOCK);
}

static uint32_t
block_take(struct sched *s)
{
    if (s->kv.n_free == 0)
        prefix_evict(&s->prefix);
    return kv_block_get(&s->kv);
}

/* From the last block to the first: prefix.c, invariant 2. */
static void
blocks_release(struct sched *s, struct request *r)
{
    for (uint32_t i = r->n_block; i-- > 0;) {
        if (i < r->path.n_node && r->path.node[i] != r->block[i])
            kv_block_unref(&s->kv, r->path.node[i]);
        kv_block_unref(&s->kv, r->block[i]);
    }
    r->n_block = r->path.n_node = 0;
}

static void
slot_release(struct sched *s, struct request *r)
{
    if (r->slot == SLOT_NONE)
        return;
    s->slot[s->n_slot++] = r->slot;
    r->slot = SLOT_NONE;
}
