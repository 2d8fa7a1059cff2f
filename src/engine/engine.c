/*
 * The engine's thread and what other threads may ask of it.
 *
 * DESIGN. Everything that a request is and all scheduling belong to one
 * thread. Other threads leave orders under one lock, held for a few
 * instructions and never across a call of the back end or of a post function:
 * new requests (inbox), cancels, a cache reset, stop. The thread takes them
 * all at the start of each turn and sleeps when there is nothing to compute. A
 * plain list under a lock, not a lock-free ring, because "is it dead or full,
 * and if not, queue it" must be one action: otherwise a request could slip in
 * behind the last look and never get its last event. The bound is the table:
 * max_running + max_queue requests, each with an index; an id is the index and
 * a number never used again, so a late cancel finds nobody.
 *
 * A turn launches step n and then lands step n - 1 (overlap), or lands the
 * step it launched (plain loop, depth 1).
 */
#include "config.h"

#include "engine/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/images.h"
#include "engine/output.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct engine {
    struct sched sched;
    struct backend *b;
    struct step step[2];      /* step i uses entry i % 2 */
    struct plan plan;
    uint32_t depth, n_fly;    /* steps in flight */
    uint64_t n_step;          /* launched */
    uint64_t last_step;       /* clock_ns */
    uint64_t device_end;      /* of the step before, the device's clock; 0 =
                                 there was nothing to do in between */
    uint64_t n_pause, pause_ns; /* of the device between steps */
    uint64_t expert_steps, experts;
    pthread_t thread;

    pthread_mutex_t lock;     /* guards all below */
    pthread_cond_t wake;      /* the thread has orders */
    pthread_cond_t reset_done;
    bool woken, draining, stop, dead;
    struct list inbox, cancels;
    struct request **table;   /* [cap] by index */
    uint32_t *free, n_free, cap;
    uint64_t n_id;
    uint32_t resets_asked, resets_done, reset_freed;
    struct engine_stats stats;
};

static int options_check(struct engine_options *o, const struct backend *b,
                         struct err *e);
static int engine_init(struct engine *en, const struct engine_options *o,
                       struct err *e);
static int thread_start(struct engine *en, struct err *e);
static void engine_free(struct engine *en);
static void *run(void *arg);
static bool take_orders(struct engine *en);
static bool idle(const struct engine *en);
static void move_all(struct list *from, struct list *to);
static void cancel_all(struct engine *en, struct list *cancels);
static void cache_reset(struct engine *en);
static void publish(struct engine *en);
static void turn(struct engine *en);
static void nap(struct engine *en);
static bool launch(struct engine *en);
static void land(struct engine *en);
static void time_step(struct engine *en, const struct step *st,
                      const struct step_result *res);
static void unblock(struct engine *en);
static void end_all(struct engine *en, struct list *l, enum engine_finish why,
                    const struct err *e);
static void die(struct engine *en, const struct step *st, struct err *e);
static void reap(struct engine *en);
static void fail_request(void *arg, struct request *r, const struct err *e);
static void wake(struct engine *en);

int
engine_create(const struct engine_options *options, struct backend *b,
              struct engine **out, struct err *e)
{
    struct engine_options o = *options;
    int rc = options_check(&o, b, e);
    if (rc != 0)
        return rc;
    struct engine *en = calloc(1, sizeof *en);
    if (en == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    en->b = b;
    en->depth = o.overlap && b->ops->depth > 1 ? 2 : 1;
    rc = engine_init(en, &o, e);
    if (rc == 0)
        rc = thread_start(en, e);
    if (rc != 0) {
        engine_free(en);
        return rc;
    }
    *out = en;
    return 0;
}

int
engine_submit(struct engine *en, const struct engine_request *in,
              engine_id *id)
{
    struct request *r;
    if ((in->n_image > 0 && en->b->ops->encode_image == NULL) ||
        (in->n_ask > 0 && !en->b->ops->takes_ask))
        return ERR_UNSUPPORTED;
    int rc = request_create(&en->sched.o, in, &r);
    if (rc != 0)
        return rc;
    prefix_salt(&en->sched.prefix, in->cache_salt, r->text.salt);
    pthread_mutex_lock(&en->lock);
    if (en->draining || en->stop || en->dead) {
        rc = ERR_CLOSED;
    } else if (en->n_free == 0) {
        rc = ERR_AGAIN;
    } else {
        uint32_t at = en->free[--en->n_free];
        en->table[at] = r;
        *id = r->id = ++en->n_id * en->cap + at;
        list_append(&en->inbox, &r->node);
        wake(en);
    }
    pthread_mutex_unlock(&en->lock);
    if (rc != 0)
        request_free(r);
    if (rc == ERR_AGAIN)
        metrics_add(METRIC_REFUSED, 1);
    return rc;
}

void
engine_cancel(struct engine *en, engine_id id)
{
    pthread_mutex_lock(&en->lock);
    struct request *r = en->table[id % en->cap];
    if (r != NULL && r->id == id && list_empty(&r->cancel_node)) {
        list_append(&en->cancels, &r->cancel_node);
        wake(en);
    }
    pthread_mutex_unlock(&en->lock);
}

void
engine_drain(struct engine *en)
{
    pthread_mutex_lock(&en->lock);
    en->draining = true;
    pthread_mutex_unlock(&en->lock);
}

void
engine_destroy(struct engine *en)
{
    pthread_mutex_lock(&en->lock);
    en->stop = true;
    wake(en);
    pthread_mutex_unlock(&en->lock);
    pthread_join(en->thread, NULL);
    engine_free(en);
}

void
engine_stats(struct engine *en, struct engine_stats *out)
{
    pthread_mutex_lock(&en->lock);
    *out = en->stats;
    out->alive = !en->dead;
    pthread_mutex_unlock(&en->lock);
}

uint32_t
engine_cache_reset(struct engine *en)
{
    pthread_mutex_lock(&en->lock);
    uint32_t ticket = ++en->resets_asked;
    wake(en);
    while ((int32_t)(en->resets_done - ticket) < 0)
        pthread_cond_wait(&en->reset_done, &en->lock);
    uint32_t freed = en->reset_freed;
    pthread_mutex_unlock(&en->lock);
    return freed;
}

static int
options_check(struct engine_options *o, const struct backend *b,
              struct err *e)
{
    if (o->max_running == 0 || o->n_blocks == 0 || o->n_vocab == 0 ||
        o->max_context == 0)
        return err_set(e, ERR_RANGE, "max_running, n_blocks, n_vocab and "
                       "max_context must not be 0");
    if (o->step_tokens < o->max_running)
        return err_set(e, ERR_RANGE, "a step of %u tokens cannot serve %u "
                       "sequences", o->step_tokens, o->max_running);
    if (o->max_queue > UINT32_MAX - o->max_running)
        return err_set(e, ERR_RANGE, "max_queue is too large");
    if (o->max_out == 0)
        o->max_out = 1;
    if (o->n_logits < o->n_vocab)
        o->n_logits = o->n_vocab;
    if (o->max_out > BACKEND_OUT_MAX)
        return err_set(e, ERR_RANGE, "back end %s: %u tokens a step, the most "
                       "is %d", b->ops->name, o->max_out, BACKEND_OUT_MAX);
    uint64_t pool = (uint64_t)o->n_blocks * KV_BLOCK;
    if (o->max_context > pool) {
        log_warn("the KV cache of %u blocks holds %llu tokens: contexts are "
                 "cut from %u to that", o->n_blocks, (unsigned long long)pool,
                 o->max_context);
        o->max_context = (uint32_t)pool;
    }
    return 0;
}

static int
engine_init(struct engine *en, const struct engine_options *o, struct err *e)
{
    pthread_mutex_init(&en->lock, NULL);
    pthread_cond_init(&en->wake, NULL);
    pthread_cond_init(&en->reset_done, NULL);
    list_init(&en->inbox);
    list_init(&en->cancels);
    en->cap = en->n_free = o->max_running + o->max_queue;
    en->table = calloc(en->cap, sizeof *en->table);
    en->free = calloc(en->cap, sizeof *en->free);
    en->plan.entry = calloc(o->max_running, sizeof *en->plan.entry);
    if (en->table == NULL || en->free == NULL || en->plan.entry == NULL ||
        sched_init(&en->sched, o) != 0 || step_init(&en->step[0], o) != 0 ||
        step_init(&en->step[1], o) != 0)
        return err_set(e, ERR_NOMEM, "out of memory for %u requests and %u "
                       "KV blocks", en->cap, o->n_blocks);
    for (uint32_t i = 0; i < en->cap; i++)
        en->free[i] = en->cap - 1 - i;
    publish(en);
    return 0;
}

/* Signals are for the main thread. */
static int
thread_start(struct engine *en, struct err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&en->thread, NULL, run, en);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return err_set(e, ERR_IO, "the system refused a thread for the "
                       "engine");
    pthread_setname_np(en->thread, "engine");
    return 0;
}

static void
engine_free(struct engine *en)
{
    sched_destroy(&en->sched);
    step_destroy(&en->step[0]);
    step_destroy(&en->step[1]);
    free(en->plan.entry);
    free(en->table);
    free(en->free);
    pthread_cond_destroy(&en->wake);
    pthread_cond_destroy(&en->reset_done);
    pthread_mutex_destroy(&en->lock);
    free(en);
}

static void *
run(void *arg)
{
    struct engine *en = arg;
    while (take_orders(en))
        turn(en);
    end_all(en, &en->sched.running, ENGINE_ABORTED, NULL);
    end_all(en, &en->sched.waiting, ENGINE_ABORTED, NULL);
    while (en->n_fly > 0 && !en->dead)
        land(en);
    list_for_each(it, &en->sched.done)
        list_entry(it, struct request, node)->n_fly = 0; /* dead device */
    reap(en);
    return NULL;
}

/* Sleeps while there is nothing to do, then takes what others left. False when
 * the engine is to stop. */
static bool
take_orders(struct engine *en)
{
    struct list inbox, cancels;
    list_init(&inbox);
    list_init(&cancels);
    pthread_mutex_lock(&en->lock);
    publish(en);
    if (idle(en))
        en->device_end = 0;
    while (idle(en) && !en->woken)
        pthread_cond_wait(&en->wake, &en->lock);
    en->woken = false;
    move_all(&en->inbox, &inbox);
    move_all(&en->cancels, &cancels);
    bool stop = en->stop, reset = en->resets_asked != en->resets_done;
    pthread_mutex_unlock(&en->lock);
    list_for_each_safe(it, &inbox) {
        list_remove(it);
        sched_enqueue(&en->sched, list_entry(it, struct request, node));
    }
    cancel_all(en, &cancels);
    if (reset)
        cache_reset(en);
    return !stop;
}

static bool
idle(const struct engine *en)
{
    return en->n_fly == 0 && en->sched.n_running == 0 &&
           en->sched.n_waiting == 0;
}

static void
move_all(struct list *from, struct list *to)
{
    list_for_each_safe(it, from) {
        list_remove(it);
        list_append(to, it);
    }
}

static void
cancel_all(struct engine *en, struct list *cancels)
{
    list_for_each_safe(it, cancels) {
        struct request *r = list_entry(it, struct request, cancel_node);
        if (r->state != REQUEST_DONE)
            output_end(&en->sched, r, ENGINE_CANCELLED, NULL);
    }
    /* Not emptied before: engine_cancel takes a node outside any list for a
     * request not cancelled yet. */
    pthread_mutex_lock(&en->lock);
    list_for_each_safe(it, cancels)
        list_remove(it);
    pthread_mutex_unlock(&en->lock);
}

static void
cache_reset(struct engine *en)
{
    uint32_t freed = 0;
    while (prefix_evict(&en->sched.prefix))
        freed++;
    pthread_mutex_lock(&en->lock);
    en->resets_done = en->resets_asked;
    en->reset_freed = freed;
    publish(en);
    pthread_cond_broadcast(&en->reset_done);
    pthread_mutex_unlock(&en->lock);
}

static void
publish(struct engine *en)
{
    const struct sched *s = &en->sched;
    uint32_t used = s->kv.n_blocks - s->kv.n_free - s->kv.n_idle;
    en->stats = (struct engine_stats){
        .running = s->n_running, .waiting = s->n_waiting,
        .blocks_used = used, .blocks_cached = s->kv.n_idle,
        .blocks_total = s->kv.n_blocks, .steps = en->n_step,
        .last_step_ns = en->last_step,
        .pauses = en->n_pause, .pause_ns = en->pause_ns,
        .expert_steps = en->expert_steps, .experts = en->experts};
    metrics_set(METRIC_RUNNING, s->n_running);
    metrics_set(METRIC_WAITING, s->n_waiting);
    metrics_set(METRIC_KV_USAGE, (double)used / s->kv.n_blocks);
}

static void
turn(struct engine *en)
{
    bool launched = !idle(en) && en->n_fly < en->depth && launch(en);
    if (en->n_fly == en->depth || (en->n_fly > 0 && !launched))
        land(en);
    else if (!launched && !idle(en) && en->step[en->n_step % 2].held)
        nap(en);
    else if (!launched && !idle(en))
        unblock(en);
    reap(en);
}

/* An image is being encoded and nobody can do without: looks again in a
 * millisecond, or when there is news. */
static void
nap(struct engine *en)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&en->lock);
    if (!en->woken)
        pthread_cond_timedwait(&en->wake, &en->lock, &t);
    pthread_mutex_unlock(&en->lock);
}

/* Plans, builds and submits a step. False when there was nothing to submit. */
static bool
launch(struct engine *en)
{
    struct step *st = &en->step[en->n_step % 2];
    struct err e = {0};
    sched_plan(&en->sched, &en->plan);
    if (en->plan.n == 0)
        return false;
    st->batch.step = en->n_step;
    int rc = step_build(st, &en->plan, en->b, fail_request, en, &e);
    if (rc == 0 && st->batch.n_seq == 0)
        return false;
    st->t_submit = clock_ns();
    if (rc == 0)
        rc = en->b->ops->submit(en->b, &st->batch, &e);
    if (rc != 0) {
        die(en, st, &e);
        return false;
    }
    metrics_observe(METRIC_STEP_TOKENS, st->batch.n_tok);
    en->n_step++;
    en->n_fly++;
    return true;
}

/* Collects the oldest step and hands out what it gave. */
static void
land(struct engine *en)
{
    struct step *st = &en->step[(en->n_step - en->n_fly) % 2];
    struct step_result res;
    struct err e = {0};
    if (en->b->ops->collect(en->b, &res, &e) != 0) {
        die(en, st, &e);
        return;
    }
    en->n_fly--;
    en->last_step = clock_ns();
    time_step(en, st, &res);
    en->expert_steps += res.n_experts > 0;
    en->experts += res.n_experts;
    pthread_mutex_lock(&en->lock);
    publish(en); /* who is told of a token can see its step */
    pthread_mutex_unlock(&en->lock);
    output_take(&en->sched, st, &res);
    for (uint32_t i = 0; i < st->batch.n_seq; i++)
        if (st->entry[i].r->in.n_image > 0)
            images_free(st->entry[i].r, en->b, false);
}

/* A device that does not tell its times is given those of the host, in which
 * the step before may still have run. */
static void
time_step(struct engine *en, const struct step *st,
          const struct step_result *res)
{
    bool known = res->begin_ns != 0 && res->end_ns >= res->begin_ns;
    uint64_t ns = known ? res->end_ns - res->begin_ns
                        : en->last_step - st->t_submit;
    metrics_observe(METRIC_STEP_TIME, (double)ns * 1e-9);
    if (known && en->device_end != 0) {
        uint64_t pause = res->begin_ns > en->device_end
                             ? res->begin_ns - en->device_end : 0;
        metrics_observe(METRIC_DEVICE_PAUSE, (double)pause * 1e-9);
        en->pause_ns += pause;
        en->n_pause++;
    }
    en->device_end = known ? res->end_ns : 0;
}

/* Nothing is in flight and yet nothing could be launched: an image found no
 * room on the device. Preempted requests give up theirs, and so did planned
 * ones that failed; if there are none, the image can never be placed. */
static void
unblock(struct engine *en)
{
    bool freed = false;
    list_for_each(it, &en->sched.waiting) {
        struct request *r = list_entry(it, struct request, node);
        for (size_t i = 0; i < r->in.n_image; i++)
            freed |= r->image[i].encoded;
        images_free(r, en->b, true);
    }
    assert(en->plan.n > 0); /* sched.c: there is always progress */
    for (uint32_t i = 0; i < en->plan.n; i++)
        freed |= en->plan.entry[i].r->state != REQUEST_RUNNING;
    if (freed)
        return;
    struct request *r = en->plan.entry[0].r;
    struct err e = {0};
    err_set(&e, ERR_NOMEM, "the device has no room for the request's image");
    output_end(&en->sched, r, ENGINE_ERROR, &e);
}

static void
end_all(struct engine *en, struct list *l, enum engine_finish why,
        const struct err *e)
{
    list_for_each_safe(it, l)
        output_end(&en->sched, list_entry(it, struct request, node), why, e);
}

/* The device is gone: every request fails, none is accepted any more. Steps in
 * flight are never collected; their memory stays until engine_destroy. */
static void
die(struct engine *en, const struct step *st, struct err *e)
{
    struct list inbox;
    list_init(&inbox);
    if (e->text[0] == '\0')
        err_set(e, ERR_DEVICE, "the device failed");
    log_error("engine: step %llu (%u sequences, %u tokens): %s; failing %u "
              "requests", (unsigned long long)st->batch.step,
              st->batch.n_seq, st->batch.n_tok, e->text,
              en->sched.n_running + en->sched.n_waiting);
    pthread_mutex_lock(&en->lock);
    en->dead = true;
    move_all(&en->inbox, &inbox);
    pthread_mutex_unlock(&en->lock);
    list_for_each_safe(it, &inbox) {
        list_remove(it);
        sched_enqueue(&en->sched, list_entry(it, struct request, node));
    }
    end_all(en, &en->sched.running, ENGINE_ERROR, e);
    end_all(en, &en->sched.waiting, ENGINE_ERROR, e);
    en->n_fly = 0;
}

/* Frees ended requests that no step in flight uses. */
static void
reap(struct engine *en)
{
    list_for_each_safe(it, &en->sched.done) {
        struct request *r = list_entry(it, struct request, node);
        if (r->n_fly > 0)
            continue;
        list_remove(it);
        if (!en->dead)
            images_free(r, en->b, true);
        pthread_mutex_lock(&en->lock);
        uint32_t at = (uint32_t)(r->id % en->cap);
        en->table[at] = NULL;
        en->free[en->n_free++] = at;
        list_remove(&r->cancel_node);
        pthread_mutex_unlock(&en->lock);
        request_free(r);
    }
}

static void
fail_request(void *arg, struct request *r, const struct err *e)
{
    struct engine *en = arg;
    if (r->state != REQUEST_DONE)
        output_end(&en->sched, r, ENGINE_ERROR, e);
}

/* The lock is held. */
static void
wake(struct engine *en)
{
    en->woken = true;
    pthread_cond_signal(&en->wake);
}
