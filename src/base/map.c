#include "config.h"

#include "base/map.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/err.h"

/*
 * DESIGN. Linear probing over a power of two of slots, at most three quarters
 * full. A slot with a NULL key is free. Deleting moves later members of the
 * run back, so there are no tombstones. The hash is kept in the slot: growing
 * and deleting need no key bytes, and most unequal keys differ there.
 */
struct slot {
    const void *key;
    size_t len;
    uint64_t hash, value;
};

struct map {
    struct slot *slot;
    size_t mask, count;
    uint64_t seed;
};

/* Never NULL, so that an empty key is told from a free slot. */
static const char empty_key[1];

static uint64_t
load64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t
load_tail(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    memcpy(&v, p, n);
    return v;
}

/* High and low half of the 128-bit product folded: every input bit reaches
 * every output bit. */
static uint64_t
mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 u128;
    u128 r = (u128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

uint64_t
map_hash(const void *p, size_t n, uint64_t seed)
{
    const uint64_t k0 = 0x9e3779b97f4a7c15u, k1 = 0xd6e8feb86659fd93u,
                   k2 = 0xa0761d6478bd642fu;
    const unsigned char *s = p;
    uint64_t h = mix(seed ^ k0, (uint64_t)n ^ k1);
    size_t left = n;
    for (; left >= 16; left -= 16, s += 16)
        h = mix(load64(s) ^ h ^ k1, load64(s + 8) ^ h ^ k2) ^ k0;
    if (left >= 8) {
        h = mix(load64(s) ^ h ^ k1, k2 ^ h) ^ k0;
        s += 8;
        left -= 8;
    }
    if (left > 0)
        h = mix(load_tail(s, left) ^ h ^ k2, k1 ^ h) ^ k0;
    return mix(h ^ k1, k2 ^ seed);
}

static uint64_t
random_seed(const void *salt)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = clock_ns() ^ (uint64_t)(uintptr_t)salt * 0x9e3779b97f4a7c15u;
    return seed;
}

struct map *
map_create(size_t n)
{
    struct map *m = malloc(sizeof *m);
    if (m == NULL)
        return NULL;
    size_t size = 16;
    while (size < SIZE_MAX / sizeof(struct slot) / 4 && size / 4 * 3 < n)
        size *= 2;
    m->slot = calloc(size, sizeof *m->slot);
    m->mask = size - 1;
    m->count = 0;
    m->seed = random_seed(m);
    if (m->slot == NULL) {
        free(m);
        return NULL;
    }
    return m;
}

void
map_free(struct map *m)
{
    if (m == NULL)
        return;
    free(m->slot);
    free(m);
}

/* The key's slot, or the free slot where it would go. */
static size_t
find(const struct map *m, const void *key, size_t len, uint64_t hash)
{
    size_t i = hash & m->mask;
    for (;; i = (i + 1) & m->mask) {
        const struct slot *s = &m->slot[i];
        if (s->key == NULL)
            return i;
        if (s->hash == hash && s->len == len
            && (len == 0 || memcmp(s->key, key, len) == 0))
            return i;
    }
}

static int
grow(struct map *m)
{
    size_t size = (m->mask + 1) * 2;
    struct slot *old = m->slot;
    struct slot *fresh = calloc(size, sizeof *fresh);
    if (fresh == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i <= m->mask; i++) {
        if (old[i].key == NULL)
            continue;
        size_t j = old[i].hash & (size - 1);
        while (fresh[j].key != NULL)
            j = (j + 1) & (size - 1);
        fresh[j] = old[i];
    }
    m->slot = fresh;
    m->mask = size - 1;
    free(old);
    return 0;
}

int
map_put(struct map *m, const void *key, size_t len, uint64_t value, bool *was)
{
    uint64_t hash = map_hash(key, len, m->seed);
    size_t i = find(m, key, len, hash);
    bool there = m->slot[i].key != NULL;
    if (was != NULL)
        *was = there;
    if (there) {
        m->slot[i].value = value;
        return 0;
    }
    if (m->count >= (m->mask + 1) / 4 * 3) {
        if (grow(m) != 0)
            return ERR_NOMEM;
        i = find(m, key, len, hash);
    }
    m->slot[i] = (struct slot){len ? key : empty_key, len, hash, value};
    m->count++;
    return 0;
}

bool
map_get(const struct map *m, const void *key, size_t len, uint64_t *value)
{
    size_t i = find(m, key, len, map_hash(key, len, m->seed));
    if (m->slot[i].key == NULL)
        return false;
    *value = m->slot[i].value;
    return true;
}

bool
map_del(struct map *m, const void *key, size_t len)
{
    size_t hole = find(m, key, len, map_hash(key, len, m->seed));
    if (m->slot[hole].key == NULL)
        return false;
    for (size_t i = (hole + 1) & m->mask; m->slot[i].key != NULL;
         i = (i + 1) & m->mask) {
        size_t home = m->slot[i].hash & m->mask;
        /* Moves back unless its home lies behind the hole. */
        if (((i - home) & m->mask) >= ((i - hole) & m->mask)) {
            m->slot[hole] = m->slot[i];
            hole = i;
        }
    }
    m->slot[hole].key = NULL;
    m->count--;
    return true;
}

size_t
map_count(const struct map *m)
{
    return m->count;
}
