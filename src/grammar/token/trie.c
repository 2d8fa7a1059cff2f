#include "config.h"

#include "grammar/token/trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define LENGTH_MAX 4096

static const uint32_t bucket_top[TRIE_BUCKETS] = {1, 2, 3, 4, 5, 6, 7, 8, 10,
                                                  16, 32, UINT32_MAX};

struct word {
    struct str s;
    int32_t id;
    int bucket;          /* -1: in none */
};

static int
compare(const void *x, const void *y)
{
    const struct word *a = x, *b = y;
    size_t n = a->s.n < b->s.n ? a->s.n : b->s.n;
    int d = memcmp(a->s.p, b->s.p, n);
    return d ? d : (a->s.n > b->s.n) - (a->s.n < b->s.n);
}

/* Tree of n sorted words. */
static int
build(struct trie *t, const struct word *w, size_t n)
{
    size_t cap = 0, open[LENGTH_MAX + 1];
    struct str last = {NULL, 0};

    for (size_t i = 0; i < n; i++) {
        size_t same = 0;
        while (same < last.n && same < w[i].s.n &&
               last.p[same] == w[i].s.p[same])
            same++;
        for (size_t d = last.n; d > same; d--)
            t->node[open[d]].size = (uint32_t)(t->n - open[d]);
        for (size_t d = same + 1; d <= w[i].s.n; d++) {
            if (t->n == cap) {
                cap = cap ? 2 * cap : 1024;
                void *p = realloc(t->node, cap * sizeof *t->node);
                if (p == NULL)
                    return ERR_NOMEM;
                t->node = p;
            }
            open[d] = t->n;
            t->node[t->n++] = (struct trie_node){
                -1, 1, (uint16_t)d, (uint8_t)w[i].s.p[d - 1]};
        }
        t->node[open[w[i].s.n]].token = w[i].id;
        last = w[i].s;
    }
    for (size_t d = last.n; d > 0; d--)
        t->node[open[d]].size = (uint32_t)(t->n - open[d]);
    return 0;
}

/* Characters of a plain token, 0 for any other. */
static uint32_t
plain_length(struct str s)
{
    uint32_t n = 0, c;

    if (!utf8_valid(s.p, s.n))
        return 0;
    for (size_t i = 0; i < s.n; n++) {
        i += utf8_decode(s.p + i, s.n - i, &c);
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x2028 || c == 0x2029)
            return 0;
    }
    return n;
}

static int
bucket_of(struct str s)
{
    uint32_t n = plain_length(s);
    int i = 0;
    while (n > bucket_top[i])
        i++;
    return n ? i : -1;
}

/* The words of bucket b (-1: of none), moved to the front of part. */
static size_t
select_words(const struct word *w, size_t n, int b, struct word *part)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (w[i].bucket == b)
            part[k++] = w[i];
    return k;
}

static int
build_parts(struct grammar_vocab *v, const struct word *w, size_t n,
            struct word *part)
{
    int rc = build(&v->all, w, n);
    size_t k = select_words(w, n, -1, part);

    if (rc == 0)
        rc = build(&v->rest, part, k);
    for (int b = 0; rc == 0 && b < TRIE_BUCKETS; b++) {
        struct trie_bucket *x = &v->bucket[b];
        x->lo = b ? bucket_top[b - 1] + 1 : 1;
        x->hi = bucket_top[b];
        x->n = select_words(w, n, b, part);
        x->mask = calloc(v->words, sizeof *x->mask);
        if (x->mask == NULL)
            return ERR_NOMEM;
        for (size_t i = 0; i < x->n; i++)
            x->mask[part[i].id >> 5] |= (uint32_t)1 << (part[i].id & 31);
        rc = build(&x->trie, part, x->n);
    }
    return rc;
}

int
trie_vocab_create(const struct tok *t, struct grammar_vocab **out,
                  struct err *e)
{
    const struct tok_info *info = tok_info(t);
    struct grammar_vocab *v = calloc(1, sizeof *v);
    size_t n = (size_t)(info->n_vocab - info->n_special), used = 0;
    struct word *w = calloc(2 * n + 1, sizeof *w);
    int rc = v && w ? 0 : ERR_NOMEM;

    for (size_t i = 0; rc == 0 && i < n; i++) {
        int32_t id = info->n_special + (int32_t)i;
        struct str s = tok_bytes(t, id);
        if (s.n == 0 || s.n > LENGTH_MAX)
            continue; /* a token longer than any use is never allowed */
        w[used++] = (struct word){s, id, bucket_of(s)};
        v->longest = s.n > v->longest ? s.n : v->longest;
    }
    if (rc == 0) {
        v->tok = t;
        v->n_vocab = (size_t)info->n_vocab;
        v->words = (v->n_vocab + 31) / 32;
        v->eos = tok_special(t, "</s>");
        qsort(w, used, sizeof *w, compare);
        rc = build_parts(v, w, used, w + n);
    }
    free(w);
    if (rc != 0) {
        trie_vocab_free(v);
        return err_set(e, rc, "out of memory");
    }
    *out = v;
    return 0;
}

void
trie_vocab_free(struct grammar_vocab *v)
{
    if (v == NULL)
        return;
    free(v->all.node);
    free(v->rest.node);
    for (int b = 0; b < TRIE_BUCKETS; b++) {
        free(v->bucket[b].trie.node);
        free(v->bucket[b].mask);
    }
    free(v);
}
