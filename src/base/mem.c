/*
 * Start-up allocations and arenas.
 */
#include "config.h"

#include "base/mem.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"

static void *
must(void *p, size_t size)
{
    if (p == NULL) {
        log_error("out of memory (%zu bytes)", size);
        exit(1);
    }
    return p;
}

void *
mem_xmalloc(size_t size)
{
    return must(malloc(size ? size : 1), size);
}

void *
mem_xcalloc(size_t n, size_t size)
{
    if (n == 0 || size == 0)
        n = size = 1;
    return must(calloc(n, size), n > SIZE_MAX / size ? SIZE_MAX : n * size);
}

void *
mem_xrealloc(void *p, size_t size)
{
    return must(realloc(p, size ? size : 1), size);
}

char *
mem_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(mem_xmalloc(n), s, n);
}

/*
 * DESIGN. An arena is a chain of chunks. Allocations are cut from the chunk in
 * front. One that does not fit there and is larger than a quarter of the usual
 * chunk gets a chunk of its own behind the front one, so that the rest of the
 * front chunk is not lost. `first` is what a reset keeps.
 */
struct chunk {
    struct chunk *next;
    size_t size; /* of data */
    size_t used;
    alignas(max_align_t) char data[];
};

struct hook {
    struct hook *next;
    void (*fn)(void *arg);
    void *arg;
};

struct arena {
    struct chunk *front, *first;
    struct hook *hooks;
    size_t chunk_size, limit, taken;
};

struct arena *
arena_create(size_t chunk, size_t limit)
{
    struct arena *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->chunk_size = chunk ? chunk : 8192 - sizeof(struct chunk);
    a->limit = limit;
    return a;
}

static struct chunk *
chunk_create(struct arena *a, size_t size)
{
    if (size > SIZE_MAX - sizeof(struct chunk))
        return NULL;
    size_t bytes = sizeof(struct chunk) + size;
    if (a->limit != 0 && bytes > a->limit - a->taken)
        return NULL;
    struct chunk *c = malloc(bytes);
    if (c == NULL)
        return NULL;
    a->taken += bytes;
    c->next = NULL;
    c->size = size;
    c->used = 0;
    return c;
}

static void *
cut(struct chunk *c, size_t size)
{
    void *p = c->data + c->used;
    c->used += size;
    return p;
}

void *
arena_alloc(struct arena *a, size_t size)
{
    const size_t align = alignof(max_align_t);
    if (size > SIZE_MAX - align)
        return NULL;
    size = size ? (size + align - 1) / align * align : align;
    struct chunk *front = a->front;
    if (front != NULL && size <= front->size - front->used)
        return cut(front, size);

    bool own = size > a->chunk_size / 4;
    struct chunk *c = chunk_create(a, own ? size : a->chunk_size);
    if (c == NULL)
        return NULL;
    if (a->first == NULL)
        a->first = c;
    if (own && front != NULL) {
        c->next = front->next;
        front->next = c;
    } else {
        c->next = front;
        a->front = c;
    }
    return cut(c, size);
}

void *
arena_calloc(struct arena *a, size_t n, size_t size)
{
    if (size != 0 && n > SIZE_MAX / size)
        return NULL;
    void *p = arena_alloc(a, n * size);
    return p ? memset(p, 0, n * size) : NULL;
}

char *
arena_strndup(struct arena *a, const char *s, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *p = arena_alloc(a, n + 1);
    if (p == NULL)
        return NULL;
    if (n > 0)
        memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

int
arena_cleanup(struct arena *a, void (*fn)(void *arg), void *arg)
{
    struct hook *h = arena_alloc(a, sizeof *h);
    if (h == NULL)
        return ERR_NOMEM;
    *h = (struct hook){a->hooks, fn, arg};
    a->hooks = h;
    return 0;
}

size_t
arena_size(const struct arena *a)
{
    return a->taken;
}

static void
run_hooks(struct arena *a)
{
    while (a->hooks != NULL) {
        struct hook *h = a->hooks;
        a->hooks = h->next;
        h->fn(h->arg);
    }
}

static void
free_chunks(struct arena *a, const struct chunk *keep)
{
    struct chunk *next;
    for (struct chunk *c = a->front; c != NULL; c = next) {
        next = c->next;
        if (c != keep)
            free(c);
    }
}

void
arena_reset(struct arena *a)
{
    run_hooks(a);
    free_chunks(a, a->first);
    a->front = a->first;
    a->taken = 0;
    if (a->first != NULL) {
        a->first->next = NULL;
        a->first->used = 0;
        a->taken = sizeof(struct chunk) + a->first->size;
    }
}

void
arena_destroy(struct arena *a)
{
    if (a == NULL)
        return;
    run_hooks(a);
    free_chunks(a, NULL);
    free(a);
}
