/*
 * Memory by lifetime. Process: mem_x*, which never return NULL (out of memory
 * at start-up exits with a message). Request and step: an arena, freed in one
 * call together with what its cleanup hooks own.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

/* Start-up allocations; exit(1) with a log line when memory is out. The
 * caller owns the result and frees it with free(). mem_xcalloc checks the
 * product for overflow. */
void *mem_xmalloc(size_t size);
void *mem_xcalloc(size_t n, size_t size);
void *mem_xrealloc(void *p, size_t size);
char *mem_xstrdup(const char *s);

/* An arena: allocations that live until arena_destroy or arena_reset. One
 * thread at a time; it may move between threads with a proper hand-off. */
struct arena;

/* New arena that takes chunk bytes from malloc at a time (0 = 8 KiB) and never
 * more than limit bytes in all (0 = no limit). NULL when memory is out. */
struct arena *arena_create(size_t chunk, size_t limit);

/* size bytes aligned for any type, or NULL when memory or the limit is out.
 * arena_calloc zeroes and checks n * size for overflow. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_calloc(struct arena *a, size_t n, size_t size);
char *arena_strndup(struct arena *a, const char *s, size_t n);

/* Runs fn(arg) when the arena is destroyed or reset, last hook first. Returns
 * 0 or ERR_NOMEM (then fn has not been kept). */
int arena_cleanup(struct arena *a, void (*fn)(void *arg), void *arg);

/* Bytes taken from malloc so far. */
size_t arena_size(const struct arena *a);

/* Frees everything but the first chunk; the arena can be used again. */
void arena_reset(struct arena *a);
void arena_destroy(struct arena *a); /* NULL is fine */

#endif
