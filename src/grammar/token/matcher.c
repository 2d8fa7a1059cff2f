/* One request's place in its grammar, and the grammar's life. */
#include "config.h"

#include "grammar/token/matcher.h"

#include <stdlib.h>
#include <string.h>

#define GRAMMAR_BYTES_MAX (64u << 20)
#define COMPILE_WORK 60000000u
#define STEP_WORK 4000000u      /* some 20 ms */

struct grammar_matcher {
    struct grammar *g;
    struct list32 path;         /* the start and the place after each id */
    struct budget budget;
};

int
grammar_create(const struct grammar_vocab *v, struct grammar **out)
{
    struct grammar *g = calloc(1, sizeof *g);

    if (g == NULL)
        return ERR_NOMEM;
    atomic_init(&g->refs, 1);
    atomic_init(&g->stale, false);
    pthread_mutex_init(&g->lock, NULL);
    g->vocab = v;
    g->bits = calloc(v->words + 1, sizeof *g->bits);
    g->path = calloc(v->longest + 1, sizeof *g->path);
    if (g->bits == NULL || g->path == NULL ||
        !automaton_init(&g->a, GRAMMAR_BYTES_MAX, COMPILE_WORK)) {
        int rc = g->bits && g->path ? g->a.budget.rc : ERR_NOMEM;
        grammar_unref(g);
        return rc;
    }
    *out = g;
    return 0;
}

struct grammar *
grammar_ref(struct grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void
grammar_unref(struct grammar *g)
{
    if (g == NULL || atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    mask_free_all(g);
    free(g->mask);
    automaton_free(&g->a);
    free(g->bits);
    free(g->path);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

int
grammar_matcher_create(struct grammar *g, struct grammar_matcher **out)
{
    struct grammar_matcher *m = calloc(1, sizeof *m);

    if (m == NULL)
        return ERR_NOMEM;
    m->budget = (struct budget){.max_bytes = SIZE_MAX / 2,
                                .max_work = UINT64_MAX};
    if (!list32_push(&m->path, &m->budget, g->a.start)) {
        free(m);
        return ERR_NOMEM;
    }
    m->g = grammar_ref(g);
    *out = m;
    return 0;
}

void
grammar_matcher_free(struct grammar_matcher *m)
{
    if (m == NULL)
        return;
    grammar_unref(m->g);
    list32_free(&m->path);
    free(m);
}

static uint32_t
place(const struct grammar_matcher *m)
{
    return m->path.v[m->path.n - 1];
}

/* Takes the lock and a fresh allowance of work. A grammar whose budget broke
 * in the middle of something stays broken. */
static int
enter(struct grammar *g)
{
    pthread_mutex_lock(&g->lock);
    g->a.budget.work = 0;
    g->a.budget.max_work = STEP_WORK;
    return g->a.budget.rc;
}

static int
leave(struct grammar *g, int rc)
{
    const struct budget *b = &g->a.budget;
    if (b->rc != 0 || b->bytes > b->max_bytes / 2)
        atomic_store(&g->stale, true);
    if (b->rc != 0)
        rc = ERR_LIMIT;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

int
grammar_mask(struct grammar_matcher *m, uint32_t *mask)
{
    struct grammar *g = m->g;
    const struct grammar_vocab *v = g->vocab;
    uint32_t c = place(m);
    int rc = enter(g);

    const struct mask *x = NULL;
    if (rc == 0 && c != CONFIG_DEAD && (x = mask_get(g, c)) == NULL)
        rc = ERR_LIMIT;
    if (rc == 0 && (x == NULL || x->is_list)) {
        memset(mask, 0, v->words * sizeof *mask);
        for (size_t i = 0; x && i < x->n; i++)
            mask[x->v[i] >> 5] |= (uint32_t)1 << (x->v[i] & 31);
        if (x == NULL && v->eos >= 0) /* over: only the end again */
            mask[v->eos >> 5] |= (uint32_t)1 << (v->eos & 31);
    } else if (rc == 0) {
        memcpy(mask, x->v, v->words * sizeof *mask);
    }
    if (rc == 0 && x && x->n == 0)
        rc = ERR_LIMIT; /* no way on: fail closed */
    return leave(g, rc);
}

/* Where token id leads from c: CONFIG_DEAD when it is not allowed. */
static uint32_t
after(struct grammar *g, uint32_t c, int32_t id)
{
    const struct tok_info *info = tok_info(g->vocab->tok);

    if (id < 0 || id >= info->n_vocab)
        return CONFIG_DEAD;
    if (id < info->n_special)
        return automaton_token(&g->a, c, (uint32_t)id);
    struct str s = tok_bytes(g->vocab->tok, id);
    if (s.n == 0 || s.n > g->vocab->longest)
        return CONFIG_DEAD;
    for (size_t i = 0; i < s.n && c != CONFIG_DEAD && c != CONFIG_FAIL; i++)
        c = automaton_step(&g->a, c, (unsigned char)s.p[i]);
    return c;
}

int
grammar_accept(struct grammar_matcher *m, int32_t id)
{
    struct grammar *g = m->g;
    uint32_t c = place(m), next = CONFIG_DEAD;
    int rc = enter(g);
    bool end = id >= 0 && id == g->vocab->eos &&
        (c == CONFIG_DEAD || g->a.config[c].final);

    if (rc == 0 && c != CONFIG_DEAD && !end) {
        next = after(g, c, id);
        if (next == CONFIG_FAIL)
            rc = ERR_LIMIT;
    }
    if (rc == 0 && next == CONFIG_DEAD && !end)
        rc = ERR_MISMATCH;
    if (rc == 0 && !list32_push(&m->path, &m->budget, next))
        rc = ERR_NOMEM;
    return leave(g, rc);
}

void
grammar_rollback(struct grammar_matcher *m, size_t n)
{
    m->path.n -= n < m->path.n ? n : m->path.n - 1;
}

bool
grammar_can_end(const struct grammar_matcher *m, bool *only)
{
    struct grammar *g = m->g;
    uint32_t c = place(m);

    pthread_mutex_lock(&g->lock);
    bool can = c == CONFIG_DEAD || g->a.config[c].final;
    *only = can && (c == CONFIG_DEAD || automaton_stuck(&g->a, c));
    pthread_mutex_unlock(&g->lock);
    return can;
}
