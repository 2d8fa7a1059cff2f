#include "config.h"

#include "base/ring.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/*
 * DESIGN. Each cell carries a turn number. Position p (counted without end)
 * uses cell p & mask; the cell is free for the push of position p when its
 * turn is p, and holds that push's element when its turn is p + 1; the pop
 * then sets it to p + size, free for the next round. A producer or consumer
 * claims a position by advancing `tail` or `head`, so the turn is the only
 * thing the two sides share.
 */
struct cell {
    atomic_size_t turn;
    alignas(max_align_t) char data[];
};

struct ring {
    size_t mask, size, stride;
    char *cells;
    alignas(64) atomic_size_t tail; /* next position to push */
    alignas(64) atomic_size_t head; /* next position to pop */
};

static struct cell *
cell_at(const struct ring *r, size_t pos)
{
    return (struct cell *)(r->cells + (pos & r->mask) * r->stride);
}

struct ring *
ring_create(size_t n, size_t size)
{
    const size_t align = alignof(struct cell);
    if (n > SIZE_MAX / 4 || size > SIZE_MAX / 4)
        return NULL;
    size_t slots = 2;
    while (slots < n)
        slots *= 2;
    size_t stride = (sizeof(struct cell) + size + align - 1) / align * align;
    struct ring *r = aligned_alloc(alignof(struct ring), sizeof *r);
    if (r == NULL)
        return NULL;
    r->cells = calloc(slots, stride);
    if (r->cells == NULL) {
        free(r);
        return NULL;
    }
    r->mask = slots - 1;
    r->size = size;
    r->stride = stride;
    atomic_init(&r->tail, 0);
    atomic_init(&r->head, 0);
    for (size_t i = 0; i < slots; i++)
        atomic_init(&cell_at(r, i)->turn, i);
    return r;
}

void
ring_free(struct ring *r)
{
    if (r == NULL)
        return;
    free(r->cells);
    free(r);
}

/* Claims the next position whose cell has turn position + ahead; NULL when
 * the ring is full (pushing) or empty (popping). */
static struct cell *
claim(const struct ring *r, atomic_size_t *end, size_t ahead, size_t *pos)
{
    *pos = atomic_load_explicit(end, memory_order_relaxed);
    for (;;) {
        struct cell *c = cell_at(r, *pos);
        size_t turn = atomic_load_explicit(&c->turn, memory_order_acquire);
        intptr_t diff = (intptr_t)(turn - (*pos + ahead));
        if (diff < 0)
            return NULL;
        if (diff > 0)
            *pos = atomic_load_explicit(end, memory_order_relaxed);
        else if (atomic_compare_exchange_weak_explicit(
                     end, pos, *pos + 1, memory_order_relaxed,
                     memory_order_relaxed))
            return c;
    }
}

int
ring_push(struct ring *r, const void *element)
{
    size_t pos;
    struct cell *c = claim(r, &r->tail, 0, &pos);
    if (c == NULL)
        return ERR_AGAIN;
    memcpy(c->data, element, r->size);
    atomic_store_explicit(&c->turn, pos + 1, memory_order_release);
    return 0;
}

int
ring_pop(struct ring *r, void *element)
{
    size_t pos;
    struct cell *c = claim(r, &r->head, 1, &pos);
    if (c == NULL)
        return ERR_AGAIN;
    memcpy(element, c->data, r->size);
    atomic_store_explicit(&c->turn, pos + r->mask + 1, memory_order_release);
    return 0;
}

size_t
ring_count(const struct ring *r)
{
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    return tail > head ? tail - head : 0;
}
