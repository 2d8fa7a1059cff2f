/*
 * One epoll loop for one thread: descriptors, timers, wake-ups from other
 * threads. Only loop_wake may be called from another thread.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdint.h>

struct loop;

/* events: EPOLL* bits that happened. The callback may remove any watch,
 * its own included. */
typedef void (*loop_io_fn)(void *arg, uint32_t events);
typedef void (*loop_fn)(void *arg);

struct loop *loop_create(void); /* NULL when the system refuses */
void loop_free(struct loop *l);

/* A watch on fd. events: EPOLL* bits asked for. Returns 0 or ERR_IO. */
struct loop_watch {
    int fd;
    loop_io_fn fn;
    void *arg;
};
int loop_add(struct loop *l, struct loop_watch *w, uint32_t events);
int loop_mod(struct loop *l, struct loop_watch *w, uint32_t events);
/* Safe inside callbacks: a removed watch is not called any more, even if its
 * event was already read. */
void loop_del(struct loop *l, struct loop_watch *w);

/* fn(arg) runs in the loop's thread soon after any thread calls loop_wake;
 * several wakes may be answered by one call. Set before loop_run. */
void loop_on_wake(struct loop *l, loop_fn fn, void *arg);
void loop_wake(struct loop *l);

/* fn(arg) every ms milliseconds while the loop runs; one a loop. */
void loop_on_tick(struct loop *l, unsigned ms, loop_fn fn, void *arg);

/* Runs until loop_stop is called in a callback. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);

#endif
