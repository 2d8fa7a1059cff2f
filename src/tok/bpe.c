/*
 * Byte-pair encoding by rank.
 *
 * DESIGN. A piece that is a token is that token. Otherwise start from bytes and
 * merge, again and again, the adjacent pair whose joined bytes have the lowest
 * rank, the leftmost of equals, until no joined pair is a token. There is no
 * list of merges: rank alone decides.
 *
 * Short pieces (nearly all) keep the parts in an array and look through it for
 * every merge. Long ones (a megabyte of one letter is one piece) keep a linked
 * list of parts and a heap of pairs ordered by (rank, place); an entry whose
 * parts have changed since is skipped when it comes up. Both give the same
 * result; the second is O(n log n).
 */
#include "config.h"

#include "tok/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define SHORT_MAX 48
#define NO_RANK UINT32_MAX

static uint32_t
rank_of(const struct vocab *v, const char *p, size_t n)
{
    return (uint32_t)vocab_find(v, p, n); /* -1 becomes NO_RANK */
}

/* --- short pieces -------------------------------------------------------- */

static int
encode_short(const struct vocab *v, const char *p, size_t n, int32_t offset,
             struct ids *out)
{
    /* Part i is p[at[i]] up to p[at[i + 1]]; pair[i] ranks parts i and i+1. */
    uint8_t at[SHORT_MAX + 1];
    uint32_t pair[SHORT_MAX];
    size_t parts = n;

    for (size_t i = 0; i <= n; i++)
        at[i] = (uint8_t)i;
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = rank_of(v, p + i, 2);
    while (parts > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < parts; i++)
            if (pair[i] < pair[best])
                best = i;
        if (pair[best] == NO_RANK)
            break;
        memmove(at + best + 1, at + best + 2, parts - best - 1);
        memmove(pair + best, pair + best + 1,
                (parts - best - 2) * sizeof *pair);
        parts--;
        if (best + 1 < parts)
            pair[best] = rank_of(v, p + at[best],
                                 (size_t)(at[best + 2] - at[best]));
        if (best > 0)
            pair[best - 1] = rank_of(v, p + at[best - 1],
                                     (size_t)(at[best + 1] - at[best - 1]));
    }
    for (size_t i = 0; i < parts; i++) {
        uint32_t r = rank_of(v, p + at[i], (size_t)(at[i + 1] - at[i]));
        int rc = ids_push(out, offset + (int32_t)r);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* --- long pieces --------------------------------------------------------- */

/* The part that starts at byte i is node i; end is where it ends, prev where
 * the part before it starts. end 0: merged into another part. */
struct node {
    uint32_t end, prev;
};

/* A pair: the part at `at`, up to byte `end`, joined from two. */
struct entry {
    uint32_t rank, at, end;
};

struct merge {
    const struct vocab *v;
    const char *p;
    uint32_t n;
    struct node *node;
    struct entry *heap; /* a binary heap, lowest first */
    size_t count;
};

static bool
before(const struct entry *a, const struct entry *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void
sift_up(struct entry *h, size_t i)
{
    struct entry x = h[i];
    for (; i > 0 && before(&x, &h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static struct entry
heap_pop(struct entry *h, size_t *count)
{
    struct entry top = h[0], x = h[--*count];
    size_t i = 0, n = *count;

    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && before(&h[kid + 1], &h[kid]))
            kid++;
        if (!before(&h[kid], &x))
            break;
        h[i] = h[kid];
    }
    h[i] = x;
    return top;
}

/* Queues the pair of the part at `at` and the next one, if it is a token. */
static void
queue_pair(struct merge *m, uint32_t at)
{
    uint32_t mid = m->node[at].end;
    if (mid == m->n)
        return;
    uint32_t end = m->node[mid].end;
    uint32_t rank = rank_of(m->v, m->p + at, end - at);
    if (rank == NO_RANK)
        return;
    m->heap[m->count++] = (struct entry){rank, at, end};
    sift_up(m->heap, m->count - 1);
}

static void
merge_all(struct merge *m)
{
    while (m->count > 0) {
        struct entry x = heap_pop(m->heap, &m->count);
        struct node *a = &m->node[x.at];
        if (a->end == 0 || a->end >= x.end || m->node[a->end].end != x.end)
            continue; /* one of the two parts is no longer what it was */
        m->node[a->end].end = 0;
        a->end = x.end;
        if (x.end < m->n)
            m->node[x.end].prev = x.at;
        queue_pair(m, x.at);
        if (x.at > 0)
            queue_pair(m, a->prev);
    }
}

static int
encode_long(const struct vocab *v, const char *p, size_t n, int32_t offset,
            struct bpe_scratch *s, struct ids *out)
{
    /* Each merge takes one entry off and queues at most two. */
    size_t need = n * (sizeof(struct node) + 3 * sizeof(struct entry));
    if (n > UINT32_MAX / 4)
        return ERR_NOMEM;
    if (s->size < need) {
        void *mem = realloc(s->mem, need);
        if (mem == NULL)
            return ERR_NOMEM;
        s->mem = mem;
        s->size = need;
    }
    struct merge m = {v, p, (uint32_t)n, s->mem, NULL, 0};
    m.heap = (struct entry *)(m.node + n);
    for (uint32_t i = 0; i < n; i++)
        m.node[i] = (struct node){i + 1, i ? i - 1 : 0};
    for (uint32_t i = 0; i + 1 < n; i++)
        queue_pair(&m, i);
    merge_all(&m);
    for (uint32_t i = 0; i < n; i = m.node[i].end) {
        uint32_t r = rank_of(v, p + i, m.node[i].end - i);
        int rc = ids_push(out, offset + (int32_t)r);
        if (rc != 0)
            return rc;
    }
    return 0;
}

void
bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->mem);
    s->mem = NULL;
    s->size = 0;
}

int
bpe_encode(const struct vocab *v, const char *p, size_t n, int32_t offset,
           struct bpe_scratch *s, struct ids *out)
{
    int32_t whole = vocab_find(v, p, n);
    if (whole >= 0)
        return ids_push(out, offset + whole);
    return n <= SHORT_MAX ? encode_short(v, p, n, offset, out)
                          : encode_long(v, p, n, offset, s, out);
}
