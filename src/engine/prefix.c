/*
 * The prefix tree.
 *
 * DESIGN. A node is one full block of KV_BLOCK tokens; its parent is the block
 * before it. There are no child lists: a child is found in one hash table by
 * its key, a hash over the parent's key, the block's ids, the images that
 * reach into it and the salt. A hit is believed only if the parent is the node
 * found before and ids, images and salt are equal, so a collision of keys
 * costs a miss and never a wrong answer. Node i describes block i: the table
 * is as large as the pool and nothing is allocated later.
 *
 * Invariants:
 * 1. A cached block has a node in its bucket, and the other way round.
 * 2. Whoever uses a node's block in this tree uses its parents' blocks too
 *    (lock takes the whole path; a path is released from its end). Hence a
 *    parent becomes idle after its children, and the oldest idle block is
 *    always a leaf: eviction pops the idle list and needs no search.
 */
#include "config.h"

#include "engine/prefix.h"

#include "base/map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

struct prefix_node {
    uint64_t key;
    uint64_t extra[2];    /* salt and images */
    uint32_t parent;      /* KV_NONE: first block of a text */
    uint32_t next;        /* in the bucket */
    uint32_t n_child;
    int32_t token[KV_BLOCK];
};

static void block_extra(const struct prefix *p, const struct prefix_text *t,
                        uint32_t i, uint64_t out[2]);
static void path_extend(const struct prefix *p, const struct prefix_text *t,
                        struct prefix_path *path, uint32_t n);
static uint32_t find(const struct prefix *p, const struct prefix_text *t,
                     const struct prefix_path *path, uint32_t i);

int
prefix_init(struct prefix *p, struct kv *kv)
{
    uint32_t n = 16;
    while (n < kv->n_blocks && n < 1u << 30)
        n *= 2;
    *p = (struct prefix){.kv = kv, .mask = n - 1};
    p->node = calloc(kv->n_blocks, sizeof *p->node);
    p->bucket = malloc(n * sizeof *p->bucket);
    if (p->node == NULL || p->bucket == NULL) {
        prefix_destroy(p);
        return ERR_NOMEM;
    }
    memset(p->bucket, 0xff, n * sizeof *p->bucket);
    if (getrandom(p->seed, sizeof p->seed, 0) != sizeof p->seed)
        p->seed[0] = (uint64_t)time(NULL), p->seed[1] = (uintptr_t)p->node;
    return 0;
}

void
prefix_destroy(struct prefix *p)
{
    free(p->node);
    free(p->bucket);
    *p = (struct prefix){0};
}

void
prefix_salt(const struct prefix *p, struct str salt, uint64_t out[2])
{
    for (int i = 0; i < 2; i++)
        out[i] = salt.n ? map_hash(salt.p, salt.n, p->seed[i]) : 0;
}

uint32_t
prefix_match(const struct prefix *p, const struct prefix_text *t,
             struct prefix_path *path, uint32_t n_blocks)
{
    assert(path->n_node == 0);
    path_extend(p, t, path, n_blocks);
    uint32_t n = 0;
    for (; n < n_blocks; n++) {
        uint32_t b = find(p, t, path, n);
        if (b == KV_NONE)
            break;
        path->node[n] = b;
    }
    return n;
}

void
prefix_lock(struct prefix *p, struct prefix_path *path, uint32_t n)
{
    assert(path->n_node == 0);
    for (uint32_t i = 0; i < n; i++)
        kv_block_ref(p->kv, path->node[i]);
    path->n_node = n;
}

void
prefix_insert(struct prefix *p, const struct prefix_text *t,
              struct prefix_path *path, uint32_t b)
{
    uint32_t i = path->n_node;
    path_extend(p, t, path, i + 1);
    uint32_t there = find(p, t, path, i);
    if (there != KV_NONE) {
        kv_block_ref(p->kv, there);
        path->node[path->n_node++] = there;
        return;
    }
    struct prefix_node *n = &p->node[b];
    n->key = path->key[i];
    n->parent = i ? path->node[i - 1] : KV_NONE;
    n->n_child = 0;
    memcpy(n->token, t->token + (size_t)i * KV_BLOCK, sizeof n->token);
    block_extra(p, t, i, n->extra);
    if (n->parent != KV_NONE)
        p->node[n->parent].n_child++;
    uint32_t *bucket = &p->bucket[n->key & p->mask];
    n->next = *bucket;
    *bucket = b;
    kv_block_set_cached(p->kv, b, true);
    path->node[path->n_node++] = b;
}

uint32_t
prefix_evict(struct prefix *p)
{
    uint32_t b = kv_oldest_idle(p->kv);
    if (b == KV_NONE)
        return 0;
    struct prefix_node *n = &p->node[b];
    assert(n->n_child == 0); /* invariant 2 */
    uint32_t *at = &p->bucket[n->key & p->mask];
    while (*at != b)
        at = &p->node[*at].next;
    *at = n->next;
    if (n->parent != KV_NONE)
        p->node[n->parent].n_child--;
    kv_block_set_cached(p->kv, b, false);
    return 1;
}

/* Salt of the text and every image that has tokens in block i, with its place
 * relative to the block. */
static void
block_extra(const struct prefix *p, const struct prefix_text *t, uint32_t i,
            uint64_t out[2])
{
    int64_t first = (int64_t)i * KV_BLOCK;
    out[0] = t->salt[0];
    out[1] = t->salt[1];
    for (size_t k = 0; k < t->n_image; k++) {
        const struct engine_image *im = &t->image[k];
        int64_t at = (int64_t)im->pos - first;
        if (at >= KV_BLOCK || at + im->n_tokens <= 0)
            continue;
        uint64_t mix[5] = {out[0], out[1], im->hash[0], im->hash[1],
                           (uint64_t)at};
        out[0] = map_hash(mix, sizeof mix, p->seed[0]);
        out[1] = map_hash(mix, sizeof mix, p->seed[1]);
    }
}

/* Computes the keys of the first n blocks, as far as they are not known. */
static void
path_extend(const struct prefix *p, const struct prefix_text *t,
            struct prefix_path *path, uint32_t n)
{
    for (uint32_t i = path->n_key; i < n; i++) {
        uint64_t h[4] = {i ? path->key[i - 1] : p->seed[1]};
        block_extra(p, t, i, h + 1);
        h[3] = map_hash(t->token + (size_t)i * KV_BLOCK,
                        KV_BLOCK * sizeof *t->token, p->seed[0]);
        path->key[i] = map_hash(h, sizeof h, p->seed[0]);
        path->n_key = i + 1;
    }
}

/* The node of block i of the text, given the node of block i - 1. */
static uint32_t
find(const struct prefix *p, const struct prefix_text *t,
     const struct prefix_path *path, uint32_t i)
{
    uint64_t key = path->key[i], extra[2];
    uint32_t parent = i ? path->node[i - 1] : KV_NONE;
    uint32_t b = p->bucket[key & p->mask];
    for (; b != KV_NONE; b = p->node[b].next) {
        const struct prefix_node *n = &p->node[b];
        if (n->key != key || n->parent != parent ||
            memcmp(n->token, t->token + (size_t)i * KV_BLOCK,
                   sizeof n->token) != 0)
            continue;
        block_extra(p, t, i, extra);
        if (extra[0] == n->extra[0] && extra[1] == n->extra[1])
            return b;
    }
    return KV_NONE;
}
