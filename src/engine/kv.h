/* The pool of KV blocks: who uses each, which are free. Engine thread. */
#ifndef ENGINE_KV_H
#define ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#define KV_NONE UINT32_MAX

/* ref counts the users of a block; cached says that the prefix tree knows it;
 * a block that is neither is free, one that is cached only is idle. */
struct kv_block {
    uint32_t ref;
    bool cached;
    uint32_t prev, next;  /* list of idle blocks, oldest first */
};

struct kv {
    uint32_t n_blocks, n_free, n_idle;
    uint32_t *free;          /* stack */
    struct kv_block *block;  /* [n_blocks + 1]; the last is the list's head */
};

int kv_init(struct kv *kv, uint32_t n_blocks); /* 0 or ERR_NOMEM */
void kv_destroy(struct kv *kv);

/* A free block, now with one user; KV_NONE when there is none (see
 * prefix_evict). */
uint32_t kv_block_get(struct kv *kv);
/* One more user; takes an idle block out of the idle list. */
void kv_block_ref(struct kv *kv, uint32_t b);
/* One user less; the last one leaves it free, or idle as the youngest. */
void kv_block_unref(struct kv *kv, uint32_t b);

/* The prefix tree learns or forgets a block. */
void kv_block_set_cached(struct kv *kv, uint32_t b, bool cached);

/* The idle block unused for longest, KV_NONE when there is none. */
uint32_t kv_oldest_idle(const struct kv *kv);

#endif
