/*
 * Hash map from byte strings to 64-bit values (open addressing). Keys are not
 * copied: they must outlive the map. The hash is seeded per map, so crafted
 * keys cannot force collisions. One thread at a time; lookups alone may run in
 * parallel.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map;

/* Map with room for about n keys. NULL when memory is out. */
struct map *map_create(size_t n);
void map_free(struct map *m);

/* Sets key to value; *was (may be NULL) says whether it replaced one. Returns
 * 0 or ERR_NOMEM. */
int map_put(struct map *m, const void *key, size_t len, uint64_t value,
            bool *was);
/* True and *value set when key is there. */
bool map_get(const struct map *m, const void *key, size_t len,
             uint64_t *value);
/* True when it was there. */
bool map_del(struct map *m, const void *key, size_t len);
size_t map_count(const struct map *m);

/* 64-bit hash of bytes with a seed; the hash of map and prefix tree. */
uint64_t map_hash(const void *p, size_t n, uint64_t seed);

#endif
