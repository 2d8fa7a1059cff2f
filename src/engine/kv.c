#include "config.h"

#include "engine/kv.h"

#include "base/err.h"

#include <assert.h>
#include <stdlib.h>

static void idle_append(struct kv *kv, uint32_t b);
static void idle_remove(struct kv *kv, uint32_t b);

int
kv_init(struct kv *kv, uint32_t n_blocks)
{
    *kv = (struct kv){.n_blocks = n_blocks, .n_free = n_blocks};
    kv->free = calloc(n_blocks, sizeof *kv->free);
    kv->block = calloc((size_t)n_blocks + 1, sizeof *kv->block);
    if (kv->free == NULL || kv->block == NULL) {
        kv_destroy(kv);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < n_blocks; i++)
        kv->free[i] = n_blocks - 1 - i; /* low ids come first */
    kv->block[n_blocks].prev = kv->block[n_blocks].next = n_blocks;
    return 0;
}

void
kv_destroy(struct kv *kv)
{
    free(kv->free);
    free(kv->block);
    *kv = (struct kv){0};
}

uint32_t
kv_block_get(struct kv *kv)
{
    if (kv->n_free == 0)
        return KV_NONE;
    uint32_t b = kv->free[--kv->n_free];
    assert(kv->block[b].ref == 0 && !kv->block[b].cached);
    kv->block[b].ref = 1;
    return b;
}

void
kv_block_ref(struct kv *kv, uint32_t b)
{
    struct kv_block *k = &kv->block[b];
    assert(k->ref > 0 || k->cached);
    if (k->ref++ == 0)
        idle_remove(kv, b);
}

void
kv_block_unref(struct kv *kv, uint32_t b)
{
    struct kv_block *k = &kv->block[b];
    assert(k->ref > 0);
    if (--k->ref > 0)
        return;
    if (k->cached)
        idle_append(kv, b);
    else
        kv->free[kv->n_free++] = b;
}

void
kv_block_set_cached(struct kv *kv, uint32_t b, bool cached)
{
    struct kv_block *k = &kv->block[b];
    assert(k->cached != cached);
    k->cached = cached;
    if (k->ref > 0)
        return;
    assert(!cached); /* only a block in use can be inserted */
    idle_remove(kv, b);
    kv->free[kv->n_free++] = b;
}

uint32_t
kv_oldest_idle(const struct kv *kv)
{
    uint32_t b = kv->block[kv->n_blocks].next;
    return b == kv->n_blocks ? KV_NONE : b;
}

static void
idle_append(struct kv *kv, uint32_t b)
{
    uint32_t head = kv->n_blocks, last = kv->block[head].prev;
    kv->block[b].prev = last;
    kv->block[b].next = head;
    kv->block[last].next = kv->block[head].prev = b;
    kv->n_idle++;
}

static void
idle_remove(struct kv *kv, uint32_t b)
{
    struct kv_block *k = &kv->block[b];
    kv->block[k->prev].next = k->next;
    kv->block[k->next].prev = k->prev;
    kv->n_idle--;
}
