/*
 * DESIGN. In GBNF every character is a terminal; a rule without recursion is
 * therefore folded into one expression, and what is left for the net is the
 * recursive part. In the Lark dialect terminals are units: each takes as much
 * as it can, and what is ignored comes between them; so only they are folded.
 */
#include "config.h"

#include "grammar/rules/production.h"

#include <stdarg.h>
#include <stdio.h>

#define REPEAT_NET_MAX 1000
#define TOKENS_MAX 2000

enum { NEW, BUSY, DONE };

int
production_fail(struct productions *p, int code, size_t at, const char *fmt,
                ...)
{
    char what[400];
    size_t line = 1, column = 1;
    va_list ap;

    if (p->rc != 0)
        return p->rc;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < at && i < p->text.n; i++) {
        column = p->text.p[i] == '\n' ? 1 : column + 1;
        line += p->text.p[i] == '\n';
    }
    p->rc = err_set(p->e, code, "line %zu, column %zu: %s", line, column,
                    what);
    return p->rc;
}

/* --- what is regular ---------------------------------------------------------- */

static bool
regular(struct productions *p, const struct production *x);

static bool
rule_regular(struct productions *p, struct named *r)
{
    if (r->state == BUSY)
        return false; /* recursive */
    if (r->state == NEW) {
        r->state = BUSY;
        r->regular = r->body == NULL || regular(p, r->body);
        r->state = DONE;
    }
    return r->regular;
}

static bool
regular(struct productions *p, const struct production *x)
{
    bool all = true;

    switch (x->kind) {
    case PRODUCTION_RX:
        return true;
    case PRODUCTION_NAME:
        return rule_regular(p, &p->rule[x->rule]);
    case PRODUCTION_TOKENS:
    case PRODUCTION_NET:
        return false;
    case PRODUCTION_REPEAT:
        return regular(p, x->a);
    default:
        for (const struct production *y = x->a; y; y = y->next)
            all = regular(p, y) && all;
        return all;
    }
}

static rx_id
to_rx(struct productions *p, const struct production *x)
{
    struct rx_pool *rx = &p->a->rx;
    struct named *r;
    rx_id out = x->kind == PRODUCTION_SEQUENCE ? RX_EMPTY : RX_NONE;

    switch (x->kind) {
    case PRODUCTION_RX:
        return x->rx;
    case PRODUCTION_NAME:
        r = &p->rule[x->rule];
        if (!r->has_rx) {
            r->rx = r->body ? to_rx(p, r->body) : RX_NONE;
            r->has_rx = true;
        }
        return r->rx;
    case PRODUCTION_REPEAT:
        return rx_repeat(rx, to_rx(p, x->a), x->min, x->max);
    default:
        for (const struct production *y = x->a; y; y = y->next) {
            rx_id z = to_rx(p, y);
            out = x->kind == PRODUCTION_SEQUENCE ? rx_cat(rx, out, z)
                                                 : rx_or(rx, out, z);
        }
        return out;
    }
}

int
production_rx(struct productions *p, uint32_t i, rx_id *out)
{
    const struct production x = {.kind = PRODUCTION_NAME, .rule = i};

    if (!rule_regular(p, &p->rule[i]))
        return production_fail(p, ERR_UNSUPPORTED, p->rule[i].at,
                               "a terminal must not be recursive");
    *out = to_rx(p, &x);
    return p->rc;
}

/* --- the net -------------------------------------------------------------------- */

struct place {
    uint32_t rule, from, to;
};

static void emit(struct productions *p, const struct production *x,
                 struct place at);
static uint32_t named_rule(struct productions *p, uint32_t i);

static void
emit_rx(struct productions *p, rx_id rx, struct place at)
{
    struct net *n = &p->a->net;
    uint32_t mid = at.to;

    if (!p->lark) {
        net_term(n, at.from, rx, at.to);
        return;
    }
    if (p->ignore != RX_NONE) {
        mid = net_place(n, at.rule);
        net_skip(n, mid, at.to);
        net_term(n, mid, rx_repeat(&p->a->rx, p->ignore, 1, RX_INF), at.to);
    }
    if (rx_nullable(&p->a->rx, rx))
        net_skip(n, at.from, at.to);
    net_term(n, at.from, rx | NET_LONGEST, mid);
}

/* Whether x becomes one terminal. */
static bool
is_unit(struct productions *p, const struct production *x)
{
    if (!p->lark)
        return regular(p, x);
    return x->kind == PRODUCTION_RX ||
        (x->kind == PRODUCTION_NAME && p->rule[x->rule].terminal);
}

static uint32_t
own_rule(struct productions *p, const struct production *x)
{
    struct net *n = &p->a->net;
    uint32_t rule = net_rule(n), end = net_place(n, rule);

    if (rule == NET_NONE)
        return NET_NONE;
    net_final(n, end);
    emit(p, x, (struct place){rule, n->rule[rule].start, end});
    return rule;
}

static void
emit_repeat(struct productions *p, const struct production *x,
            struct place at)
{
    struct net *n = &p->a->net;
    uint32_t loop;

    if (x->min <= 1 && x->max == 1) {
        if (x->min == 0)
            net_skip(n, at.from, at.to);
        emit(p, x->a, at);
        return;
    }
    if (x->min <= 1 && x->max == RX_INF) {
        loop = net_place(n, at.rule);
        if (x->min == 0)
            net_skip(n, at.from, loop);
        else
            emit(p, x->a, (struct place){at.rule, at.from, loop});
        emit(p, x->a, (struct place){at.rule, loop, loop});
        net_skip(n, loop, at.to);
        return;
    }
    if (x->min > REPEAT_NET_MAX ||
        (x->max != RX_INF && x->max > REPEAT_NET_MAX)) {
        production_fail(p, ERR_LIMIT, x->at, "more than %d repeats of "
                        "something recursive", REPEAT_NET_MAX);
        return;
    }
    /* A rule that counts. */
    uint32_t inner = own_rule(p, x->a), rule = net_rule(n);
    uint32_t end = net_place(n, rule);
    if (inner == NET_NONE || rule == NET_NONE)
        return;
    loop = n->rule[rule].start;
    net_call(n, loop, inner, loop);
    net_count(n, 0, x->max == RX_INF ? RX_INF : x->max - 1,
              x->max == RX_INF ? x->min : x->max);
    net_skip(n, loop, end);
    net_op(n, NET_RANGE, x->min, RX_INF);
    net_final(n, end);
    net_call(n, at.from, rule, at.to);
}

static void
emit_sequence(struct productions *p, const struct production *x,
              struct place at)
{
    struct net *n = &p->a->net;
    uint32_t from = at.from;

    for (const struct production *y = x->a; y; y = y->next) {
        rx_id run = RX_EMPTY;
        const struct production *last = y;
        /* Neighbours that fold go together. */
        if (!p->lark && regular(p, y)) {
            run = to_rx(p, y);
            while (last->next && regular(p, last->next)) {
                last = last->next;
                run = rx_cat(&p->a->rx, run, to_rx(p, last));
            }
        }
        uint32_t to = last->next ? net_place(n, at.rule) : at.to;
        struct place here = {at.rule, from, to};
        if (!p->lark && regular(p, y))
            emit_rx(p, run, here);
        else
            emit(p, y, here);
        y = last;
        from = to;
    }
    if (x->a == NULL)
        net_skip(n, at.from, at.to);
}

static void
emit(struct productions *p, const struct production *x, struct place at)
{
    struct net *n = &p->a->net;

    if (p->rc != 0 || p->a->budget.rc != 0)
        return;
    if (is_unit(p, x)) {
        emit_rx(p, to_rx(p, x), at);
        return;
    }
    switch (x->kind) {
    case PRODUCTION_SEQUENCE:
        emit_sequence(p, x, at);
        break;
    case PRODUCTION_CHOICE:
        for (const struct production *y = x->a; y; y = y->next)
            emit(p, y, at);
        break;
    case PRODUCTION_REPEAT:
        emit_repeat(p, x, at);
        break;
    case PRODUCTION_NAME:
        net_call(n, at.from, named_rule(p, x->rule), at.to);
        break;
    case PRODUCTION_TOKENS:
        if (x->max - x->min >= TOKENS_MAX)
            production_fail(p, ERR_LIMIT, x->at, "too many token ids");
        for (uint32_t id = x->min; p->rc == 0 && id <= x->max; id++)
            net_token(n, at.from, (int32_t)id, at.to);
        break;
    default:
        net_call(n, at.from, x->rule, at.to);
    }
}

/* The rule of the net, its body filled when it is first asked for. */
static uint32_t
named_rule(struct productions *p, uint32_t i)
{
    struct net *n = &p->a->net;

    if (p->rule[i].net != NET_NONE)
        return p->rule[i].net;
    uint32_t rule = net_rule(n), end = net_place(n, rule);
    if (rule == NET_NONE)
        return NET_NONE;
    p->rule[i].net = rule;
    net_final(n, end);
    emit(p, p->rule[i].body, (struct place){rule, n->rule[rule].start, end});
    return rule;
}

int
production_net(struct productions *p, uint32_t start, uint32_t *out)
{
    struct net *n = &p->a->net;

    for (size_t i = 0; i < p->n; i++) {
        struct named *r = &p->rule[i];
        if (r->body == NULL)
            return production_fail(p, ERR_FORMAT, r->at, "rule '%.*s' is not "
                                   "defined", r->name.n > 60 ? 60
                                   : (int)r->name.n, r->name.p);
        if (!rule_regular(p, r) && r->terminal)
            return production_fail(p, ERR_UNSUPPORTED, r->at, "terminal "
                                   "'%.*s' is recursive", r->name.n > 60 ? 60
                                   : (int)r->name.n, r->name.p);
    }
    uint32_t rule = net_rule(n), end = net_place(n, rule);
    uint32_t first = net_place(n, rule);
    if (rule == NET_NONE || first == NET_NONE)
        return production_fail(p, ERR_LIMIT, 0, "the grammar is too large");
    *out = rule;
    net_final(n, end);
    net_skip(n, n->rule[rule].start, first);
    if (p->ignore != RX_NONE)
        net_term(n, n->rule[rule].start,
                 rx_repeat(&p->a->rx, p->ignore, 1, RX_INF), first);
    emit(p, &(struct production){.kind = PRODUCTION_NAME, .rule = start},
         (struct place){rule, first, end});
    return p->rc;
}
