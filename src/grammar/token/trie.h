/*
 * The vocabulary as a prefix tree of bytes, whole and in parts.
 *
 * DESIGN. Ordinary tokens only; control tokens are reached by id alone. The
 * tree lies in preorder, each node with the size of its subtree: a walk goes
 * forward and jumps over what a dead byte cuts off. Tokens made of whole
 * characters that stand for themselves in a JSON string and end no line
 * ("plain", nearly all)
 * are also sorted into buckets by their number of characters; inside strings
 * and free text whole buckets are allowed by their bits, and only the tree of
 * the other tokens is walked.
 */
#ifndef GRAMMAR_TRIE_H
#define GRAMMAR_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "tok/tok.h"

struct trie_node {
    int32_t token;       /* id of the token that ends here, -1 if none */
    uint32_t size;       /* nodes in its subtree, itself included */
    uint16_t depth;      /* 1 for the first byte */
    uint8_t byte;
};

struct trie {
    struct trie_node *node;
    size_t n;
};

#define TRIE_BUCKETS 12

struct trie_bucket {
    uint32_t lo, hi;     /* characters */
    size_t n;            /* tokens */
    struct trie trie;
    uint32_t *mask;      /* their bits */
};

struct grammar_vocab {
    const struct tok *tok;
    size_t n_vocab, words; /* ids; 32-bit words of a mask */
    int32_t eos;           /* -1: none */
    size_t longest;        /* bytes of the longest token */
    struct trie all, rest; /* every token; those in no bucket */
    struct trie_bucket bucket[TRIE_BUCKETS];
    struct grammar_cache *cache; /* made and freed by vocabulary.c */
};

/* The trees of a vocabulary, without a cache. ERR_NOMEM. The tokenizer must
 * outlive them. */
int trie_vocab_create(const struct tok *t, struct grammar_vocab **out,
                      struct err *e);
void trie_vocab_free(struct grammar_vocab *v); /* NULL is fine */

#endif
