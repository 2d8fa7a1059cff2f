/*
 * The automaton of an expression: its derivatives, which states can still
 * reach an end, and which states are alike for a while.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "grammar/rx/rx.h"

enum { LIVE = 1, DEAD = 2 };

#define LIVE_SEARCH_MAX 20000 /* states looked at in one search */

static rx_id
step_list(struct rx_pool *p, const struct rx_node *x, unsigned char c)
{
    rx_id small[32], *v = small, r = RX_NONE;
    size_t n, k = 0;

    seqs_get(&p->lists, x->a, &n);
    if (n > 32 && (v = malloc(n * sizeof *v)) == NULL) {
        p->budget->rc = ERR_NOMEM;
        return RX_NONE;
    }
    for (size_t i = 0; i < n; i++) {
        size_t again;
        rx_id d = rx_step(p, seqs_get(&p->lists, x->a, &again)[i], c);
        if (d != RX_NONE)
            v[k++] = d;
        else if (x->kind == RX_KIND_AND)
            break;
    }
    budget_work(p->budget, n);
    if (x->kind == RX_KIND_OR) {
        r = k ? rx_or_n(p, v, k) : RX_NONE;
    } else if (k == n) {
        r = v[0];
        for (size_t i = 1; i < k; i++)
            r = rx_and(p, r, v[i]);
    }
    if (v != small)
        free(v);
    return r;
}

static rx_id
step_cat(struct rx_pool *p, const struct rx_node *x, unsigned char c)
{
    rx_id r = rx_cat(p, rx_step(p, x->a, c), x->b);
    return rx_nullable(p, x->a) ? rx_or(p, r, rx_step(p, x->b, c)) : r;
}

static rx_id
step_quote(struct rx_pool *p, const struct rx_node *x, unsigned char c)
{
    if (c == '"')
        return rx_nullable(p, x->a) ? RX_EMPTY : RX_NONE;
    if (c == '\\')
        return rx_escape(p, x->a, 0, 0);
    return c < 0x20 ? RX_NONE : rx_quote(p, rx_step(p, x->a, c));
}

static int
hex_value(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* After a backslash: the short forms, and \u00XX for the controls without. */
static rx_id
step_escape(struct rx_pool *p, const struct rx_node *x, unsigned char c)
{
    static const char name[] = "\"\\bfnrt", value[] = "\"\\\b\f\n\r\t";
    const char *at;
    int h;

    switch (x->m) {
    case 0:
        if (c == 'u')
            return rx_escape(p, x->a, 1, 0);
        at = c ? strchr(name, c) : NULL;
        return at ? rx_quote(p, rx_step(p, x->a,
                                             (unsigned char)value[at - name]))
                  : RX_NONE;
    case 1:
    case 2:
        return c == '0' ? rx_escape(p, x->a, x->m + 1, 0) : RX_NONE;
    case 3:
        return c == '0' || c == '1'
            ? rx_escape(p, x->a, 4, (uint32_t)(c - '0')) : RX_NONE;
    default:
        h = hex_value(c);
        if (h < 0)
            return RX_NONE;
        h += (int)x->n * 16;
        if (h && strchr(value, h))
            return RX_NONE; /* has a short form */
        return rx_quote(p, rx_step(p, x->a, (unsigned char)h));
    }
}

/* Can `left` more digits make residue r (already shifted) a multiple? */
static bool
multiple_possible(uint64_t r, uint32_t c, uint32_t left)
{
    uint64_t power = 1;
    for (; left > 0; left--) {
        r = r * 10 % c;
        power = power * 10;
        if (power >= c)
            power = c;
    }
    return (c - r) % c < power;
}

static rx_id
step_multiple(struct rx_pool *p, const struct rx_node *x, unsigned char c)
{
    uint32_t used = x->n; /* 0: before the point, else 1 + digits after it */

    if (c == '.')
        return used == 0 && multiple_possible(x->b, x->a, x->m)
            ? rx_multiple_rest(p, x->a, x->b, x->m, 1) : RX_NONE;
    if (c < '0' || c > '9')
        return RX_NONE;
    if (used == x->m + 1)
        return c == '0' ? rx_multiple_rest(p, x->a, x->b, x->m, used)
                        : RX_NONE;
    uint32_t r = (uint32_t)(((uint64_t)x->b * 10 + (c - '0')) % x->a);
    if (used > 0 && !multiple_possible(r, x->a, x->m - used))
        return RX_NONE;
    return rx_multiple_rest(p, x->a, r, x->m, used ? used + 1 : 0);
}

static rx_id
derive(struct rx_pool *p, rx_id id, unsigned char c)
{
    struct rx_node x = p->node[id];
    size_t n;

    switch (x.kind) {
    case RX_KIND_CLASS: {
        struct byteset s;
        memcpy(&s, seqs_get(&p->sets, x.a, &n), sizeof s);
        return byteset_has(&s, c) ? RX_EMPTY : RX_NONE;
    }
    case RX_KIND_CAT:
        return step_cat(p, &x, c);
    case RX_KIND_OR:
    case RX_KIND_AND:
        return step_list(p, &x, c);
    case RX_KIND_NOT:
        return rx_not(p, rx_step(p, x.a, c));
    case RX_KIND_REP:
        return rx_cat(p, rx_step(p, x.a, c),
                      rx_repeat(p, x.a, x.m ? x.m - 1 : 0,
                                x.n == RX_INF ? RX_INF : x.n - 1));
    case RX_KIND_QUOTE:
        return step_quote(p, &x, c);
    case RX_KIND_ESCAPE:
        return step_escape(p, &x, c);
    case RX_KIND_MULTIPLE:
        return step_multiple(p, &x, c);
    case RX_KIND_END:
        return rx_end(p, rx_step(p, x.a, c));
    default:
        return RX_NONE;
    }
}

rx_id
rx_step(struct rx_pool *p, rx_id r, unsigned char c)
{
    if (r <= RX_EMPTY)
        return RX_NONE;
    const struct partition *part = &p->parts.v[p->node[r].partition];
    uint32_t class = part->of[c];
    c = part->byte[class];
    if (p->node[r].row == NULL) {
        p->node[r].row = arena_calloc(p->rows, part->n, sizeof(uint32_t));
        p->budget->bytes += part->n * sizeof(uint32_t);
        if (p->node[r].row == NULL ||
            p->budget->bytes > p->budget->max_bytes) {
            p->budget->rc = p->budget->rc ? p->budget->rc : ERR_LIMIT;
            return RX_NONE;
        }
    }
    if (p->node[r].row[class])
        return p->node[r].row[class] - 1;
    if (!budget_work(p->budget, 4))
        return RX_NONE;
    rx_id d = derive(p, r, c);
    if (p->budget->rc != 0)
        return RX_NONE;
    p->node[r].row[class] = d + 1;
    return d;
}

/* --- emptiness ----------------------------------------------------------- */

struct search {
    struct list32 state, from; /* queue, and who put each there */
};

/* Puts the next states of s->state[at] into the queue; true when one ends. */
static bool
search_step(struct rx_pool *p, struct search *s, size_t at, size_t *found)
{
    rx_id r = s->state.v[at];
    uint32_t part = p->node[r].partition;

    for (uint32_t k = 0; k < p->parts.v[part].n; k++) {
        rx_id d = rx_step(p, r, p->parts.v[part].byte[k]);
        struct rx_node *x = &p->node[d];
        if (d == RX_NONE || x->live == DEAD || x->seen == p->stamp)
            continue;
        x->seen = p->stamp;
        if (!list32_push(&s->state, p->budget, d) ||
            !list32_push(&s->from, p->budget, (uint32_t)at))
            return false;
        if (x->flags & (RX_NULLABLE | RX_SURE) || x->live == LIVE) {
            *found = s->state.n - 1;
            return true;
        }
    }
    return false;
}

static bool
search_live(struct rx_pool *p, rx_id r)
{
    struct search s = {{0}, {0}};
    size_t found = SIZE_MAX;

    p->node[r].seen = ++p->stamp;
    list32_push(&s.state, p->budget, r);
    list32_push(&s.from, p->budget, 0);
    for (size_t i = 0; i < s.state.n && i < s.from.n; i++) {
        if (p->budget->rc != 0 || search_step(p, &s, i, &found))
            break;
        if (s.state.n > LIVE_SEARCH_MAX)
            p->budget->rc = ERR_LIMIT;
    }
    if (p->budget->rc == 0 && found == SIZE_MAX)
        for (size_t i = 0; i < s.state.n; i++)
            p->node[s.state.v[i]].live = DEAD;
    for (size_t i = found; p->budget->rc == 0 && found != SIZE_MAX;
         i = s.from.v[i]) {
        p->node[s.state.v[i]].live = LIVE;
        if (i == 0)
            break;
    }
    p->budget->bytes -= (s.state.cap + s.from.cap) * sizeof(uint32_t);
    list32_free(&s.state);
    list32_free(&s.from);
    return p->budget->rc == 0 && found != SIZE_MAX;
}

bool
rx_live(struct rx_pool *p, rx_id r)
{
    const struct rx_node *x = &p->node[r];

    if (r == RX_NONE || x->live == DEAD)
        return false;
    if (x->live == LIVE || x->flags & (RX_NULLABLE | RX_SURE))
        return true;
    /* A chain is live when all of its parts are. */
    while (p->node[r].kind == RX_KIND_CAT) {
        if (!rx_live(p, p->node[r].a))
            return false;
        r = p->node[r].b;
    }
    x = &p->node[r];
    if (x->live != 0)
        return x->live == LIVE;
    if (x->flags & (RX_NULLABLE | RX_SURE))
        return true;
    if (x->kind == RX_KIND_REP || x->kind == RX_KIND_QUOTE)
        return rx_live(p, x->a);
    return search_live(p, r);
}

bool
rx_matches(struct rx_pool *p, rx_id r, const char *s, size_t n)
{
    for (size_t i = 0; i < n && r != RX_NONE; i++)
        r = rx_step(p, r, (unsigned char)s[i]);
    return rx_nullable(p, r);
}

/* --- states alike for a while -------------------------------------------- */

static rx_id
clip(struct rx_pool *p, rx_id r, uint32_t length)
{
    struct rx_node x = p->node[r];

    switch (x.kind) {
    case RX_KIND_CAT:
        return rx_cat(p, rx_clip(p, x.a, length),
                      rx_nullable(p, x.a) ? rx_clip(p, x.b, length) : x.b);
    case RX_KIND_REP:
        return rx_repeat(p, x.a, x.m > length ? length + 1 : x.m,
                         x.n > length + 1 ? RX_INF : x.n);
    case RX_KIND_QUOTE:
        return rx_quote(p, rx_clip(p, x.a, length));
    case RX_KIND_ESCAPE:
        return rx_escape(p, rx_clip(p, x.a, length), x.m, x.n);
    default:
        /* Inside AND and NOT a counter may decide what is empty. */
        return r;
    }
}

rx_id
rx_clip(struct rx_pool *p, rx_id r, uint32_t length)
{
    if (r <= RX_EMPTY)
        return r;
    if (p->node[r].clipped == RX_NONE) {
        rx_id c = clip(p, r, length);
        if (p->budget->rc != 0)
            return RX_NONE;
        p->node[r].clipped = c;
    }
    return p->node[r].clipped;
}
