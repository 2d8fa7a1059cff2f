#include "config.h"

#include "cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/*
 * DESIGN. All there is to take sits in one 64-bit word, the ticket: a round
 * number, the next task and the number of tasks. A worker takes a task by
 * adding one to the ticket with compare-and-swap, so a worker that wakes late
 * finds another round or no task and never sees half of a new one. pool_run
 * waits for the count of finished tasks, not for workers: one that sleeps
 * through a round holds up nobody.
 *
 * Between the loops of a step workers spin for a short while, then they sleep
 * on a condition; pool_run wakes them only if some do.
 */

#define TASK_BITS 20
#define TASK_MASK ((1u << TASK_BITS) - 1)
#define SPINS 4000

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
};

struct pool {
    _Atomic uint64_t ticket;    /* round << 40 | next << 20 | n_tasks */
    _Atomic(pool_fn) fn;
    _Atomic(void *) arg;
    atomic_int done;
    atomic_int sleeping;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int n_started;
    struct worker *worker;      /* [size - 1] */
    int size;
};

static void
relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes and runs tasks until the round has none left. */
static void
work(struct pool *p, int worker)
{
    uint64_t t = atomic_load(&p->ticket);
    for (;;) {
        int next = (int)(t >> TASK_BITS & TASK_MASK);
        if (next >= (int)(t & TASK_MASK))
            return;
        pool_fn fn = atomic_load(&p->fn);
        void *arg = atomic_load(&p->arg);
        if (!atomic_compare_exchange_weak(&p->ticket, &t,
                                          t + (1u << TASK_BITS)))
            continue; /* t has been reloaded */
        fn(arg, next, worker);
        atomic_fetch_add(&p->done, 1);
        t = atomic_load(&p->ticket);
    }
}

static bool
has_work(struct pool *p)
{
    uint64_t t = atomic_load(&p->ticket);
    return (t >> TASK_BITS & TASK_MASK) < (t & TASK_MASK);
}

static void
wait_for_work(struct pool *p)
{
    for (int i = 0; i < SPINS; i++) {
        if (has_work(p) || atomic_load(&p->stop))
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (!has_work(p) && !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(&w->pool->stop)) {
        wait_for_work(w->pool);
        work(w->pool, w->index);
    }
    return NULL;
}

struct pool *
pool_create(int n)
{
    struct pool *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->size = n;
    p->worker = calloc((size_t)n, sizeof *p->worker);
    if (p->worker == NULL) {
        pool_free(p);
        return NULL;
    }
    for (int i = 0; i < n - 1; i++) {
        struct worker *w = &p->worker[i];
        w->pool = p;
        w->index = i + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            pool_free(p);
            return NULL;
        }
        p->n_started++;
    }
    return p;
}

void
pool_free(struct pool *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->stop, true);
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->worker[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->worker);
    free(p);
}

int
pool_size(const struct pool *p)
{
    return p->size;
}

void
pool_run(struct pool *p, int n_tasks, pool_fn fn, void *arg)
{
    if (n_tasks <= 1 || p->size == 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    uint64_t round = (atomic_load(&p->ticket) >> 2 * TASK_BITS) + 1;
    atomic_store(&p->fn, fn);
    atomic_store(&p->arg, arg);
    atomic_store(&p->done, 0);
    atomic_store(&p->ticket, round << 2 * TASK_BITS | (uint64_t)n_tasks);
    if (atomic_load(&p->sleeping) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    work(p, 0);
    for (int i = 0; atomic_load(&p->done) < n_tasks; i++) {
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
}
