/*
 * Bounded lock-free queue of fixed-size elements for any number of producers
 * and consumers. Elements are copied in and out. Never blocks: wake the other
 * side by other means (loop_wake, a condition variable).
 */
#ifndef BASE_RING_H
#define BASE_RING_H

#include <stddef.h>

struct ring;

/* Ring of at least n elements (rounded up to a power of two) of size bytes.
 * NULL when memory is out. */
struct ring *ring_create(size_t n, size_t size);
void ring_free(struct ring *r);

int ring_push(struct ring *r, const void *element); /* 0 or ERR_AGAIN (full) */
int ring_pop(struct ring *r, void *element);        /* 0 or ERR_AGAIN (empty) */
size_t ring_count(const struct ring *r);            /* a moment's value */

#endif
