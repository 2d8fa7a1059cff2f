/*
 * DESIGN. A set of code points becomes UTF-8 by parts: a block of 64^k code
 * points is nothing, everything (one shared expression), or the choice of its
 * 64 parts; parts with equal rests are grouped under one class of bytes.
 * Hash-consing makes equal rests equal numbers, so the result is minimal.
 *
 * Unicode properties are asked of PCRE2, which has the tables: a search
 * through a text of all code points, its result kept in the process.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "config.h"

#include "grammar/rx/charset.h"

#include <pcre2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

bool
charset_add(struct charset *s, struct budget *b, uint32_t lo, uint32_t hi)
{
    struct char_range *v = budget_grow(b, s->v, &s->cap, s->n + 1, sizeof *v);
    if (v == NULL)
        return false;
    s->v = v;
    v[s->n++] = (struct char_range){lo, hi};
    return true;
}

bool
charset_add_set(struct charset *s, struct budget *b, const struct charset *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (!charset_add(s, b, t->v[i].lo, t->v[i].hi))
            return false;
    return true;
}

static int
compare(const void *x, const void *y)
{
    const struct char_range *a = x, *b = y;
    return a->lo < b->lo ? -1 : a->lo > b->lo;
}

static void
settle(struct charset *s)
{
    size_t n = 0;

    if (s->n > 0)
        qsort(s->v, s->n, sizeof *s->v, compare);
    for (size_t i = 0; i < s->n; i++) {
        if (n > 0 && s->v[i].lo <= s->v[n - 1].hi + 1) {
            if (s->v[i].hi > s->v[n - 1].hi)
                s->v[n - 1].hi = s->v[i].hi;
        } else {
            s->v[n++] = s->v[i];
        }
    }
    s->n = n;
}

bool
charset_invert(struct charset *s, struct budget *b)
{
    struct charset out = {0};
    uint32_t next = 0;
    bool ok = true;

    settle(s);
    for (size_t i = 0; ok && i < s->n; i++) {
        if (s->v[i].lo > next)
            ok = charset_add(&out, b, next, s->v[i].lo - 1);
        next = s->v[i].hi + 1;
    }
    if (ok && next <= CHARSET_MAX)
        ok = charset_add(&out, b, next, CHARSET_MAX);
    charset_free(s);
    *s = out;
    return ok;
}

bool
charset_fold(struct charset *s, struct budget *b)
{
    size_t n = s->n;
    for (size_t i = 0; i < n; i++)
        for (uint32_t c = 'A'; c <= 'Z'; c++) {
            struct char_range r = s->v[i];
            if (r.lo <= c && c <= r.hi && !charset_add(s, b, c + 32, c + 32))
                return false;
            if (r.lo <= c + 32 && c + 32 <= r.hi && !charset_add(s, b, c, c))
                return false;
        }
    return true;
}

void
charset_free(struct charset *s)
{
    free(s->v);
    memset(s, 0, sizeof *s);
}

/* --- UTF-8 --------------------------------------------------------------- */

struct lower {
    struct rx_pool *p;
    const struct charset *s;
};

/* How much of [lo, hi] the set has: 0 none, 1 some, 2 all. */
static int
share(const struct charset *s, uint32_t lo, uint32_t hi)
{
    size_t a = 0, b = s->n;

    while (a < b) { /* the first range that ends at lo or later */
        size_t mid = (a + b) / 2;
        if (s->v[mid].hi < lo)
            a = mid + 1;
        else
            b = mid;
    }
    if (a == s->n || s->v[a].lo > hi)
        return 0;
    return s->v[a].lo <= lo && s->v[a].hi >= hi ? 2 : 1;
}

static rx_id block(struct lower *l, uint32_t base, int k);

/* The choice of `count` blocks of k more bytes from base on, the first of
 * them led by the byte `lead`. */
static rx_id
blocks(struct lower *l, uint32_t base, unsigned lead, unsigned count, int k)
{
    rx_id rest[64], branch[64];
    size_t n = 0;
    uint32_t size = (uint32_t)1 << (6 * k);

    for (unsigned i = 0; i < count; i++)
        rest[i] = block(l, base + i * size, k);
    for (unsigned i = 0; i < count; i++) {
        struct byteset set = {{0}};
        if (rest[i] == RX_NONE)
            continue;
        for (unsigned j = count; j-- > i;) {
            if (j != i && rest[j] != rest[i])
                continue;
            byteset_add(&set, (unsigned char)(lead + j));
            if (j != i)
                rest[j] = RX_NONE;
        }
        branch[n++] = rx_cat(l->p, rx_class(l->p, &set), rest[i]);
    }
    return n ? rx_or_n(l->p, branch, n) : RX_NONE;
}

static rx_id
block(struct lower *l, uint32_t base, int k)
{
    uint32_t size = (uint32_t)1 << (6 * k);
    int have = share(l->s, base, base + size - 1);

    if (have == 0)
        return RX_NONE;
    if (k == 0)
        return RX_EMPTY;
    if (have == 2) {
        struct byteset any = {{0}};
        rx_id r = RX_EMPTY;
        byteset_add_range(&any, 0x80, 0xbf);
        for (int i = 0; i < k; i++)
            r = rx_cat(l->p, rx_class(l->p, &any), r);
        return r;
    }
    return blocks(l, base, 0x80, 64, k - 1);
}

/* The members of s between lo and hi. */
static bool
cut(const struct charset *s, struct budget *b, uint32_t lo, uint32_t hi,
    struct charset *out)
{
    for (size_t i = 0; i < s->n; i++) {
        uint32_t x = s->v[i].lo < lo ? lo : s->v[i].lo;
        uint32_t y = s->v[i].hi > hi ? hi : s->v[i].hi;
        if (x <= y && !charset_add(out, b, x, y))
            return false;
    }
    return true;
}

rx_id
charset_rx(struct rx_pool *p, struct charset *s)
{
    static const struct {
        uint32_t lo, hi, base;
        unsigned lead, count;
        int k;
    } row[] = {
        {0x80, 0x7ff, 0, 0xc0, 32, 1},
        {0x800, 0xd7ff, 0, 0xe0, 16, 2},
        {0xe000, 0xffff, 0, 0xe0, 16, 2},
        {0x10000, CHARSET_MAX, 0, 0xf0, 5, 3},
    };
    struct byteset ascii = {{0}};
    struct charset part = {0};
    rx_id branch[8];
    size_t n = 0;

    settle(s);
    for (uint32_t c = 0; c < 0x80; c++)
        if (share(s, c, c))
            byteset_add(&ascii, (unsigned char)c);
    branch[n++] = rx_class(p, &ascii);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        part.n = 0;
        if (!cut(s, p->budget, row[i].lo, row[i].hi, &part))
            break;
        /* Both three-byte rows go together, without the surrogates. */
        if (i == 1 && !cut(s, p->budget, row[2].lo, row[2].hi, &part))
            break;
        if (i == 2 || part.n == 0)
            continue;
        struct lower l = {p, &part};
        settle(&part);
        branch[n++] = blocks(&l, row[i].base, row[i].lead, row[i].count,
                             row[i].k);
    }
    p->budget->bytes -= part.cap * sizeof *part.v;
    charset_free(&part);
    rx_id r = rx_or_n(p, branch, n);
    if (r != RX_NONE)
        p->node[r].flags |= RX_TEXT;
    return r;
}

/* --- properties ---------------------------------------------------------- */

#define PROPERTY_NAME_MAX 40
#define PROPERTIES_MAX 64 /* kept; others are searched again */

static struct property {
    char name[PROPERTY_NAME_MAX];
    struct charset set;
} kept[PROPERTIES_MAX];
static size_t n_kept;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

/* A text of all code points from U+0001 on. */
static char *
every_character(size_t *n)
{
    char *text = malloc(4 * (size_t)(CHARSET_MAX + 1)), *at = text;
    for (uint32_t c = 1; text && c <= CHARSET_MAX; c++)
        if (c < 0xd800 || c > 0xdfff)
            at += utf8_encode(c, at);
    *n = (size_t)(at - text);
    return text;
}

static int
search(const char *name, struct charset *s, struct budget *b)
{
    char pattern[PROPERTY_NAME_MAX + 8];
    int code, rc = 0;
    size_t at, n;
    uint32_t first, last;

    snprintf(pattern, sizeof pattern, "\\p{%s}+", name);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern,
                                   PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code,
                                   &at, NULL);
    if (re == NULL)
        return ERR_NOENT;
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    char *text = every_character(&n);
    if (m == NULL || text == NULL)
        rc = ERR_NOMEM;
    for (at = 0; rc == 0; ) {
        if (pcre2_match(re, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, m,
                        NULL) < 0)
            break;
        PCRE2_SIZE *span = pcre2_get_ovector_pointer(m);
        size_t end = span[1] - 1;
        while (((unsigned char)text[end] & 0xc0) == 0x80)
            end--;
        utf8_decode(text + span[0], n - span[0], &first);
        utf8_decode(text + end, n - end, &last);
        /* U+D7FF and U+E000 are neighbours in the text only. */
        if (!charset_add(s, b, first, last))
            rc = b->rc;
        at = span[1];
    }
    free(text);
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return rc;
}

int
charset_add_property(struct charset *s, struct budget *b, struct str name)
{
    struct budget own = {.max_bytes = SIZE_MAX, .max_work = UINT64_MAX};
    struct property *p = NULL;
    char text[PROPERTY_NAME_MAX];

    if (name.n == 0 || name.n >= sizeof text)
        return ERR_NOENT;
    for (size_t i = 0; i < name.n; i++)
        if (!(name.p[i] >= '0' && name.p[i] <= '9') && name.p[i] != '_' &&
            !((name.p[i] | 32) >= 'a' && (name.p[i] | 32) <= 'z'))
            return ERR_NOENT;
    memcpy(text, name.p, name.n);
    text[name.n] = '\0';
    pthread_mutex_lock(&kept_lock);
    for (size_t i = 0; i < n_kept && p == NULL; i++)
        if (strcmp(kept[i].name, text) == 0)
            p = &kept[i];
    struct property fresh = {.set = {0}};
    int rc = 0;
    if (p == NULL) {
        rc = search(text, &fresh.set, &own);
        memcpy(fresh.name, text, sizeof text);
        p = &fresh;
    }
    if (rc == 0 && !charset_add_set(s, b, &p->set))
        rc = b->rc;
    if (rc == 0 && p == &fresh && n_kept < PROPERTIES_MAX)
        kept[n_kept++] = fresh;
    else
        charset_free(&fresh.set);
    pthread_mutex_unlock(&kept_lock);
    return rc;
}
