/*
 * DESIGN. Rule 0 is the whole output, a small automaton over control tokens
 * and free text:
 *
 *   start -[THINK] text [/THINK]-> body
 *   body  -text-> (end | calls), -value-> end, -calls-> end
 *   calls: ([TOOL_CALLS] name [ARGS] value)+
 *
 * so that a draft may cross from the thought into the value. Which of these
 * there are depends on the request.
 */
#include "config.h"

#include "grammar/envelope.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/lang/pattern.h"
#include "grammar/rules/rules.h"
#include "grammar/schema/schema.h"
#include "json/json.h"

#define CHOICES_MAX 20000

struct envelope {
    struct grammar *g;
    struct automaton *a;
    const struct grammar_spec *s;
    struct err *e;
    rx_id text;          /* one character or more */
    rx_id gap;           /* white space around values, or nothing */
    uint32_t any_object; /* rule, NET_NONE until it is needed */
};

/* --- bodies -------------------------------------------------------------- */

static int
term_rule(struct envelope *o, rx_id rx, uint32_t *rule)
{
    struct net *n = &o->a->net;

    *rule = net_rule(n);
    if (*rule == NET_NONE)
        return o->a->budget.rc;
    uint32_t end = net_place(n, *rule);
    net_term(n, n->rule[*rule].start, rx, end);
    net_final(n, end);
    return 0;
}

static int
choice_rule(struct envelope *o, uint32_t *rule)
{
    struct json_object *list = NULL;
    int rc = json_parse(o->s->text.p, o->s->text.n, 4, 0, &list, o->e);

    if (rc != 0)
        return rc;
    size_t n = json_object_is_type(list, json_type_array)
        ? json_object_array_length(list) : 0;
    struct str *v = calloc(n + 1, sizeof *v);
    if (v == NULL)
        rc = err_set(o->e, ERR_NOMEM, "out of memory");
    else if (n == 0)
        rc = err_set(o->e, ERR_FORMAT, "choice must be an array of strings");
    else if (n > CHOICES_MAX)
        rc = err_set(o->e, ERR_LIMIT, "more than %d choices", CHOICES_MAX);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        v[i] = json_str(json_object_array_get_idx(list, i));
        if (v[i].p == NULL)
            rc = err_set(o->e, ERR_FORMAT, "choice %zu is not a string", i);
        else if (v[i].n == 0)
            rc = err_set(o->e, ERR_FORMAT, "choice %zu is empty", i);
    }
    if (rc == 0)
        rc = term_rule(o, rx_strings(&o->a->rx, v, n), rule);
    free(v);
    json_object_put(list);
    return rc;
}

static int
object_rule(struct envelope *o, uint32_t *rule)
{
    int rc = 0;
    if (o->any_object == NET_NONE)
        rc = schema_object_rule(o->a, o->s->compact, &o->any_object, o->e);
    *rule = o->any_object;
    return rc;
}

static int
body_rule(struct envelope *o, uint32_t *rule)
{
    rx_id rx;
    int rc;

    switch (o->s->kind) {
    case GRAMMAR_SCHEMA:
        return schema_rule(o->a, o->s->text, o->s->compact, rule, o->e);
    case GRAMMAR_OBJECT:
        return object_rule(o, rule);
    case GRAMMAR_EBNF:
        return rules_compile(o->a, o->g->vocab->tok, o->s->text, rule, o->e);
    case GRAMMAR_REGEX:
        rc = pattern_compile(&o->a->rx, o->s->text, 0, &rx, o->e);
        return rc ? rc : term_rule(o, rx, rule);
    case GRAMMAR_CHOICE:
        return choice_rule(o, rule);
    }
    return err_set(o->e, ERR_UNSUPPORTED, "unknown kind of grammar");
}

static bool
is_json(enum grammar_kind kind)
{
    return kind == GRAMMAR_SCHEMA || kind == GRAMMAR_OBJECT;
}

/* --- calls --------------------------------------------------------------- */

static int
special(struct envelope *o, const char *name, int *id)
{
    *id = tok_special(o->g->vocab->tok, name);
    if (*id < 0)
        return err_set(o->e, ERR_UNSUPPORTED, "the model has no %s token",
                       name);
    return 0;
}

/* From the end of a name to the end of its arguments. */
static int
arguments(struct envelope *o, uint32_t from, uint32_t value, uint32_t to)
{
    struct net *n = &o->a->net;
    struct rx_pool *p = &o->a->rx;
    int args, call_id = tok_special(o->g->vocab->tok, "[CALL_ID]");
    uint32_t place[4];
    int rc = special(o, "[ARGS]", &args);

    if (rc != 0)
        return rc;
    for (int i = 0; i < 4; i++)
        place[i] = net_place(n, 0);
    net_term(n, from, o->gap, place[0]);
    if (strcmp(tok_info(o->g->vocab->tok)->version, "v11") == 0 &&
        call_id >= 0) {
        struct byteset s = {{0}};
        uint32_t id = net_place(n, 0), named = net_place(n, 0);
        byteset_add_range(&s, '0', '9');
        byteset_add_range(&s, 'A', 'Z');
        byteset_add_range(&s, 'a', 'z');
        net_token(n, place[0], call_id, id);
        net_term(n, id, rx_repeat(p, rx_class(p, &s), 9, 9), named);
        net_token(n, named, args, place[1]);
    }
    net_token(n, place[0], args, place[1]);
    net_term(n, place[1], o->gap, place[2]);
    net_call(n, place[2], value, place[3]);
    net_term(n, place[3], o->gap, to);
    return 0;
}

static int
tool_call(struct envelope *o, const struct grammar_tool *t, uint32_t from,
          uint32_t to)
{
    struct net *n = &o->a->net;
    uint32_t value, named = net_place(n, 0);
    int rc;

    if (t->schema.p == NULL) {
        rc = object_rule(o, &value);
    } else {
        rc = schema_rule(o->a, t->schema, o->s->compact, &value, o->e);
        if (rc != 0)
            err_prefix(o->e, "tool '%.*s': ",
                       t->name.n > 64 ? 64 : (int)t->name.n, t->name.p);
    }
    if (rc != 0)
        return rc;
    net_term(n, from, rx_literal(&o->a->rx, t->name.p, t->name.n), named);
    return arguments(o, named, value, to);
}

/* A name of any characters but line ends, with any object. */
static int
any_call(struct envelope *o, uint32_t from, uint32_t to)
{
    struct rx_pool *p = &o->a->rx;
    struct net *n = &o->a->net;
    uint32_t value, named = net_place(n, 0);
    rx_id line_end = rx_byte(p, '\n');
    rx_id name = rx_repeat(p, rx_and(p, p->any_char, rx_not(p, line_end)), 1,
                           RX_INF);
    int rc = object_rule(o, &value);

    if (rc != 0)
        return rc;
    net_term(n, from, name, named);
    return arguments(o, named, value, to);
}

static int
calls(struct envelope *o, uint32_t from, uint32_t end)
{
    struct net *n = &o->a->net;
    int id, rc = special(o, "[TOOL_CALLS]", &id);

    if (rc != 0)
        return rc;
    uint32_t before = net_place(n, 0), name = net_place(n, 0);
    uint32_t done = net_place(n, 0);
    net_token(n, from, id, before);
    net_term(n, before, o->gap, name);
    if (o->s->any_name)
        rc = any_call(o, name, done);
    for (size_t i = 0; rc == 0 && !o->s->any_name && i < o->s->n_tool; i++)
        rc = tool_call(o, &o->s->tool[i], name, done);
    if (!o->s->one_call)
        net_token(n, done, id, before);
    net_skip(n, done, end);
    return rc;
}

/* --- all of it ----------------------------------------------------------- */

/* The optional thought; returns the place after it. */
static uint32_t
thought(struct envelope *o, uint32_t start)
{
    struct net *n = &o->a->net;
    const struct tok *t = o->g->vocab->tok;
    int open = tok_special(t, "[THINK]"), close = tok_special(t, "[/THINK]");

    if (open < 0 || close < 0 || !(o->s->thought || o->s->in_thought))
        return start;
    uint32_t first = net_place(n, 0), more = net_place(n, 0);
    uint32_t after = net_place(n, 0);
    if (o->s->in_thought) {
        net_skip(n, start, more);
        net_term(n, start, o->text, more);
    } else {
        net_token(n, start, open, first);
        net_term(n, first, o->text, more);
        net_skip(n, start, after);
    }
    net_token(n, more, close, after);
    return after;
}

static int
body(struct envelope *o, uint32_t from, uint32_t end)
{
    struct net *n = &o->a->net;
    const struct grammar_spec *s = o->s;
    uint32_t text, value;
    int rc = 0;

    if (s->has_body && !s->must_call) {
        rc = body_rule(o, &value);
        if (rc != 0)
            return rc;
        uint32_t at = from;
        if (is_json(s->kind)) {
            at = net_place(n, 0);
            net_term(n, from, o->gap, at);
        }
        net_call(n, at, value, end);
    }
    if (s->calls) {
        uint32_t at = net_place(n, 0);
        net_skip(n, from, at);
        if (s->content && !s->has_body)
            net_term(n, from, o->text, at);
        rc = calls(o, at, end);
    }
    if (rc == 0 && !s->has_body && !s->must_call &&
        (s->content || !s->calls)) {
        text = net_place(n, 0);
        net_term(n, from, o->text, text);
        net_skip(n, text, end);
    }
    return rc;
}

int
envelope_build(struct grammar *g, const struct grammar_spec *s, struct err *e)
{
    struct envelope o = {.g = g, .a = &g->a, .s = s, .e = e,
                       .any_object = NET_NONE};
    struct rx_pool *p = &g->a.rx;
    struct byteset white = {{0}};
    uint32_t rule = net_rule(&g->a.net);

    if (rule == NET_NONE)
        return err_set(e, ERR_NOMEM, "out of memory");
    uint32_t start = g->a.net.rule[rule].start, end = net_place(&g->a.net, 0);
    byteset_add(&white, ' ');
    byteset_add(&white, '\t');
    byteset_add(&white, '\r');
    byteset_add(&white, '\n');
    o.text = rx_repeat(p, p->any_char, 1, RX_INF);
    o.gap = s->compact ? RX_EMPTY : rx_repeat(p, rx_class(p, &white), 0, 8);
    net_final(&g->a.net, end);
    int rc = body(&o, thought(&o, start), end);
    if (rc == 0 && g->a.budget.rc != 0)
        rc = err_set(e, g->a.budget.rc, "the grammar is too complex");
    return rc;
}
