/*
 * DESIGN. The key is the whole specification, written out; requests that send
 * the same one share the compiled grammar and all its tables. Whoever comes
 * first compiles, outside the lock; others wait for the result. Refusals are
 * kept too, so that a bad schema sent again costs nothing. The least recently
 * used entries go first; a grammar in use lives on until its last reference.
 */
#include "config.h"

#include "grammar/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/list.h"
#include "grammar/envelope.h"
#include "grammar/token/matcher.h"

#define ENTRIES_MAX 256
#define BYTES_MAX (256u << 20)

struct entry {
    struct list link;      /* most recently used first */
    struct buf key;
    struct grammar *g;     /* NULL: refused, as e says */
    struct err e;
    bool busy;             /* being compiled */
    int users;             /* threads that look at it outside the lock */
};

struct grammar_cache {
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct list entries;
    size_t n;
};

struct grammar_cache *
grammar_cache_create(void)
{
    struct grammar_cache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->done, NULL);
    list_init(&c->entries);
    return c;
}

static void
drop(struct grammar_cache *c, struct entry *x)
{
    list_remove(&x->link);
    c->n--;
    grammar_unref(x->g);
    buf_free(&x->key);
    free(x);
}

void
grammar_cache_free(struct grammar_cache *c)
{
    if (c == NULL)
        return;
    while (!list_empty(&c->entries))
        drop(c, list_entry(c->entries.next, struct entry, link));
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->done);
    free(c);
}

static size_t
entry_bytes(const struct entry *x)
{
    size_t n = sizeof *x + x->key.cap;
    return x->g ? n + x->g->a.budget.bytes + x->g->mask_bytes : n;
}

/* Forgets the least recently used beyond the limits. */
static void
trim(struct grammar_cache *c)
{
    size_t n = 0, bytes = 0;

    list_for_each_safe(it, &c->entries) {
        struct entry *x = list_entry(it, struct entry, link);
        bytes += x->busy ? 0 : entry_bytes(x);
        if ((++n > ENTRIES_MAX || (n > 1 && bytes > BYTES_MAX)) && !x->busy &&
            x->users == 0)
            drop(c, x);
    }
}

/* --- keys ---------------------------------------------------------------- */

static int
put_str(struct buf *b, struct str s)
{
    size_t n = s.p ? s.n : SIZE_MAX;
    int rc = buf_append(b, &n, sizeof n);
    return rc || s.n == 0 || s.p == NULL ? rc : buf_append(b, s.p, s.n);
}

static int
make_key(struct buf *b, const struct grammar_spec *s)
{
    char flags[] = {s->has_body, s->content, s->calls, s->must_call,
                    s->one_call, s->any_name, s->thought, s->in_thought,
                    s->compact, (char)(s->has_body ? s->kind : 0)};
    int rc = buf_append(b, flags, sizeof flags);

    if (rc == 0)
        rc = put_str(b, s->has_body ? s->text : (struct str){NULL, 0});
    for (size_t i = 0; rc == 0 && s->calls && i < s->n_tool; i++) {
        rc = put_str(b, s->tool[i].name);
        if (rc == 0)
            rc = put_str(b, s->tool[i].schema);
    }
    return rc;
}

/* --- compiling ----------------------------------------------------------- */

static int
compile(struct grammar_vocab *v, const struct grammar_spec *s,
        struct grammar **out, struct err *e)
{
    struct grammar *g = NULL;
    int rc = grammar_create(v, &g);

    if (rc != 0)
        return err_set(e, rc, "out of memory");
    rc = envelope_build(g, s, e);
    if (rc == 0 && !automaton_finish(&g->a))
        rc = g->a.budget.rc
            ? err_set(e, g->a.budget.rc, "the grammar is too complex")
            : err_set(e, ERR_UNSUPPORTED, "no output can satisfy it");
    if (rc != 0) {
        grammar_unref(g);
        return rc;
    }
    *out = g;
    return 0;
}

static struct entry *
find(struct grammar_cache *c, const struct buf *key)
{
    list_for_each(it, &c->entries) {
        struct entry *x = list_entry(it, struct entry, link);
        if (x->key.len == key->len &&
            memcmp(x->key.data, key->data, key->len) == 0)
            return x;
    }
    return NULL;
}

/* A grammar that has grown too large is compiled afresh for new requests. */
static struct entry *
find_fresh(struct grammar_cache *c, const struct buf *key)
{
    struct entry *x = find(c, key);
    if (x && !x->busy && x->users == 0 && x->g && atomic_load(&x->g->stale)) {
        drop(c, x);
        return NULL;
    }
    return x;
}

static int
answer(struct entry *x, struct grammar **out, struct err *e)
{
    if (x->g == NULL) {
        if (e)
            *e = x->e;
        return x->e.code;
    }
    *out = grammar_ref(x->g);
    return 0;
}

int
grammar_compile(struct grammar_vocab *v, const struct grammar_spec *s,
                struct grammar **out, struct err *e)
{
    struct grammar_cache *c = v->cache;
    struct buf key = {0};

    if (make_key(&key, s) != 0) {
        buf_free(&key);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    pthread_mutex_lock(&c->lock);
    struct entry *x = find_fresh(c, &key);
    if (x == NULL) {
        x = calloc(1, sizeof *x);
        if (x == NULL) {
            pthread_mutex_unlock(&c->lock);
            buf_free(&key);
            return err_set(e, ERR_NOMEM, "out of memory");
        }
        x->key = key;
        x->busy = true;
        list_prepend(&c->entries, &x->link);
        c->n++;
        pthread_mutex_unlock(&c->lock);
        int rc = compile(v, s, &x->g, &x->e);
        pthread_mutex_lock(&c->lock);
        if (rc != 0)
            x->e.code = rc;
        x->busy = false;
        pthread_cond_broadcast(&c->done);
    } else {
        buf_free(&key);
        x->users++;
        while (x->busy)
            pthread_cond_wait(&c->done, &c->lock);
        x->users--;
        list_remove(&x->link);
        list_prepend(&c->entries, &x->link);
    }
    int rc = answer(x, out, e);
    if (rc == ERR_NOMEM && x->users == 0)
        drop(c, x); /* memory may be there next time */
    else
        trim(c);
    pthread_mutex_unlock(&c->lock);
    return rc;
}
