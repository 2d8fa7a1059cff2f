/*
 * The prefix tree: which KV blocks hold the beginning of which text, so that a
 * request that starts the same way need not compute it again. Engine thread.
 * Four verbs: match finds, lock keeps, insert adds, evict makes room.
 */
#ifndef ENGINE_PREFIX_H
#define ENGINE_PREFIX_H

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/kv.h"

struct prefix_node;

struct prefix {
    struct kv *kv;
    struct prefix_node *node;  /* [n_blocks]; node i describes block i */
    uint32_t *bucket;          /* hash chains of nodes by key */
    uint32_t mask;             /* buckets - 1 */
    uint64_t seed[2];          /* of this process, so that nobody can craft
                                  collisions */
};

/* What makes up a block's content besides the tokens before it. */
struct prefix_text {
    const int32_t *token;
    const struct engine_image *image;
    size_t n_image;
    uint64_t salt[2];          /* prefix_salt */
};

/* A text's way through the tree. key[i] names blocks 0..i of the text; node[i]
 * is the block in the tree with that content, locked for this text. */
struct prefix_path {
    uint64_t *key;             /* [n_key] */
    uint32_t *node;            /* [n_node], n_node <= n_key once matched */
    uint32_t n_key, n_node;
};

int prefix_init(struct prefix *p, struct kv *kv); /* 0 or ERR_NOMEM */
void prefix_destroy(struct prefix *p);

/* Texts share blocks only when their salts are equal. */
void prefix_salt(const struct prefix *p, struct str salt, uint64_t out[2]);

/* Longest prefix of the first n_blocks blocks of the text that the tree has:
 * fills path->node[0..result) and returns the count. Locks nothing, and
 * path->n_node is not touched: the result is good until the next insert or
 * evict. path needs room for n_blocks entries. */
uint32_t prefix_match(const struct prefix *p, const struct prefix_text *t,
                      struct prefix_path *path, uint32_t n_blocks);

/* Keeps the n blocks that match found; path->n_node becomes n. */
void prefix_lock(struct prefix *p, struct prefix_path *path, uint32_t n);

/* Adds block b, full and computed, as the next block of the text: it must be
 * in use. If the tree has that content already, path gets (and locks) the
 * block that is there and b stays unknown to the tree. */
void prefix_insert(struct prefix *p, const struct prefix_text *t,
                   struct prefix_path *path, uint32_t b);

/* Forgets the block that has been unused for longest. Returns the number of
 * blocks freed: 1 or 0. */
uint32_t prefix_evict(struct prefix *p);

#endif
