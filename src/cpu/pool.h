/*
 * A small pool of threads for the loops of a step. One thread at a time may
 * call pool_run; it works along and returns when all tasks are done.
 */
#ifndef CPU_POOL_H
#define CPU_POOL_H

struct pool;

/* task: 0 .. n_tasks - 1, in any order; worker: 0 .. pool_size - 1, never the
 * same for two tasks at a time. */
typedef void (*pool_fn)(void *arg, int task, int worker);

/* n >= 1 threads, the caller of pool_run among them. NULL when the system
 * refuses. */
struct pool *pool_create(int n);
void pool_free(struct pool *p);
int pool_size(const struct pool *p);

void pool_run(struct pool *p, int n_tasks, pool_fn fn, void *arg);

#endif
