/*
 * The scheduler: which request computes how many tokens in the next step. It
 * owns the queues, the slots, the KV pool and the prefix tree; it knows no
 * threads and no back end. Engine thread.
 */
#ifndef ENGINE_SCHED_H
#define ENGINE_SCHED_H

#include "engine/kv.h"
#include "engine/prefix.h"
#include "engine/request.h"

struct sched {
    struct engine_options o;
    struct kv kv;
    struct prefix prefix;
    struct list waiting, running;  /* by rank: request_before */
    struct list done;              /* ended, with steps in flight */
    uint32_t n_waiting, n_running;
    uint32_t *slot;                /* stack of free slots */
    uint32_t n_slot;
    uint64_t n_arrival;
};

/* A request's share of the next step. */
struct plan_entry {
    struct request *r;
    uint32_t n_tok;
};

struct plan {
    struct plan_entry *entry;      /* [o.max_running], the caller's */
    uint32_t n, n_tok;
    bool preempted;
};

/* o->max_out >= 1 and o->max_context fits the pool. 0 or ERR_NOMEM. */
int sched_init(struct sched *s, const struct engine_options *o);
void sched_destroy(struct sched *s);

/* Queues a new request behind its equals. */
void sched_enqueue(struct sched *s, struct request *r);

/* Plans a step: running requests that need one token, then running ones with
 * more to compute, then waiting ones while slots, blocks and budget last. What
 * it plans has its blocks; n_sched does not move yet. */
void sched_plan(struct sched *s, struct plan *p);

/* Tokens that r could compute now; 0 while it must wait for a step in flight
 * or has all it may have. */
uint32_t sched_todo(const struct sched *s, const struct request *r);

/* True when the step that computes r's next n_tok tokens draws one. */
bool sched_draws(const struct request *r, uint32_t n_tok);

/* Back to the queue: blocks go, everything is computed again later. */
void sched_preempt(struct sched *s, struct request *r);

/* r has ended, from whatever state: blocks go at once, and it moves to the
 * done list. */
void sched_end(struct sched *s, struct request *r);

/* A step that r was in has been collected (r->n_fly is one less). */
void sched_landed(struct sched *s, struct request *r);

/* Lets the prefix tree know the blocks that r has completed. */
void sched_share(struct sched *s, struct request *r);

#endif
