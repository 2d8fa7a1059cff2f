#include "config.h"

#include "base/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

#define EVENTS_A_TURN 256

/*
 * DESIGN. One epoll descriptor; the wake-up is an eventfd among the watches,
 * and the tick is the time-out of epoll_wait. `woken` keeps wakers from
 * writing to the eventfd more than once a turn. loop_del clears the removed
 * watch from the events of this turn that are still to be called.
 */
struct loop {
    int epoll, event;
    struct loop_watch wake_watch;
    atomic_bool woken;
    loop_fn wake_fn, tick_fn;
    void *wake_arg, *tick_arg;
    uint64_t tick_ns, tick_due;
    bool stop;
    struct epoll_event ready[EVENTS_A_TURN];
    int next_ready, n_ready;
};

static void
drain_wake(void *arg, uint32_t events)
{
    struct loop *l = arg;
    uint64_t count;
    /* Only resets the counter; nothing to read is fine too. */
    ssize_t ignored = read(l->event, &count, sizeof count);
    (void)ignored;
    /* Cleared before the callback: what is queued from here on wakes anew. */
    atomic_store(&l->woken, false);
    if (l->wake_fn != NULL)
        l->wake_fn(l->wake_arg);
}

struct loop *
loop_create(void)
{
    struct loop *l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->wake_watch = (struct loop_watch){l->event, drain_wake, l};
    if (l->epoll < 0 || l->event < 0
        || loop_add(l, &l->wake_watch, EPOLLIN) != 0) {
        loop_free(l);
        return NULL;
    }
    return l;
}

void
loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    if (l->event >= 0)
        close(l->event);
    if (l->epoll >= 0)
        close(l->epoll);
    free(l);
}

static int
control(struct loop *l, int op, struct loop_watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    return epoll_ctl(l->epoll, op, w->fd, &ev) == 0 ? 0 : ERR_IO;
}

int
loop_add(struct loop *l, struct loop_watch *w, uint32_t events)
{
    return control(l, EPOLL_CTL_ADD, w, events);
}

int
loop_mod(struct loop *l, struct loop_watch *w, uint32_t events)
{
    return control(l, EPOLL_CTL_MOD, w, events);
}

void
loop_del(struct loop *l, struct loop_watch *w)
{
    control(l, EPOLL_CTL_DEL, w, 0);
    for (int i = l->next_ready; i < l->n_ready; i++)
        if (l->ready[i].data.ptr == w)
            l->ready[i].data.ptr = NULL;
}

void
loop_on_wake(struct loop *l, loop_fn fn, void *arg)
{
    l->wake_fn = fn;
    l->wake_arg = arg;
}

void
loop_wake(struct loop *l)
{
    if (atomic_exchange(&l->woken, true))
        return;
    uint64_t one = 1;
    /* Fails only when the counter is full, which wakes as well. */
    ssize_t ignored = write(l->event, &one, sizeof one);
    (void)ignored;
}

void
loop_on_tick(struct loop *l, unsigned ms, loop_fn fn, void *arg)
{
    l->tick_ns = (uint64_t)ms * 1000000u;
    l->tick_due = clock_ns() + l->tick_ns;
    l->tick_fn = fn;
    l->tick_arg = arg;
}

/* Calls a due tick; returns the milliseconds to the next, -1 for none. */
static int
tick(struct loop *l)
{
    if (l->tick_fn == NULL || l->tick_ns == 0)
        return -1;
    uint64_t now = clock_ns();
    if (now >= l->tick_due) {
        l->tick_due = now + l->tick_ns;
        l->tick_fn(l->tick_arg);
        now = clock_ns();
    }
    if (l->tick_due <= now)
        return 0;
    return (int)((l->tick_due - now + 999999) / 1000000);
}

void
loop_run(struct loop *l)
{
    l->stop = false;
    for (;;) {
        int wait_ms = tick(l);
        if (l->stop)
            return;
        int n = epoll_wait(l->epoll, l->ready, EVENTS_A_TURN, wait_ms);
        if (n < 0 && errno != EINTR)
            return;
        l->n_ready = n > 0 ? n : 0;
        l->next_ready = 0;
        while (l->next_ready < l->n_ready) {
            struct epoll_event *ev = &l->ready[l->next_ready++];
            struct loop_watch *w = ev->data.ptr;
            if (w != NULL)
                w->fn(w->arg, ev->events);
        }
        l->n_ready = 0;
        if (l->stop)
            return;
    }
}

void
loop_stop(struct loop *l)
{
    l->stop = true;
}
