/*
 * Reads grammars as text: GBNF/EBNF ("name ::= ...") and the Lark dialect
 * ("name: ..."), which share names, strings, groups, alternatives and repeats
 * and differ in brackets, regular expressions and directives.
 */
#include "config.h"

#include "grammar/rules/rules.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/rx/charset.h"
#include "grammar/lang/pattern.h"
#include "grammar/rules/production.h"
#include "grammar/schema/schema.h"

#define TEXT_MAX (1u << 20)
#define RULES_MAX 20000
#define DEPTH_MAX 100
#define REPEAT_MAX 10000

struct reader {
    struct productions *p;
    const struct tok *tok;
    size_t at;
    int depth;
};

static struct production *choice(struct reader *r);

static struct production *
fail(struct reader *r, int code, const char *what)
{
    production_fail(r->p, code, r->at, "%s", what);
    return NULL;
}

static int
peek(const struct reader *r, size_t ahead)
{
    size_t i = r->at + ahead;
    return i < r->p->text.n ? (unsigned char)r->p->text.p[i] : -1;
}

static bool
next_is(const struct reader *r, const char *s)
{
    size_t n = strlen(s);
    return r->p->text.n - r->at >= n &&
        memcmp(r->p->text.p + r->at, s, n) == 0;
}

static bool
take(struct reader *r, const char *s)
{
    if (!next_is(r, s))
        return false;
    r->at += strlen(s);
    return true;
}

static void
skip_space(struct reader *r)
{
    for (;;) {
        int c = peek(r, 0);
        if (c == '#' || (r->p->lark && next_is(r, "//"))) {
            while (peek(r, 0) >= 0 && peek(r, 0) != '\n')
                r->at++;
        } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            r->at++;
        } else {
            return;
        }
    }
}

static bool
is_name(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' ||
        (c >= 'a' && c <= 'z') || c == '-';
}

static struct str
read_name(struct reader *r)
{
    const char *from = r->p->text.p + r->at;
    size_t n = 0;
    while (is_name(peek(r, n)) && !(r->p->lark && peek(r, n) == '-'))
        n++;
    r->at += n;
    return (struct str){from, n};
}

/* True when a definition starts here; *body: where what it says begins. */
static bool
at_definition(struct reader *r, struct str *name, size_t *body)
{
    size_t at = r->at;
    bool is;

    if (r->p->lark && (peek(r, 0) == '?' || peek(r, 0) == '!'))
        r->at++;
    *name = read_name(r);
    if (r->p->lark) {
        while (peek(r, 0) == ' ' || peek(r, 0) == '\t')
            r->at++;
        is = name->n > 0 && take(r, ":");
    } else {
        skip_space(r);
        is = name->n > 0 && take(r, "::=");
    }
    *body = r->at;
    r->at = at;
    return is;
}

static struct production *
make(struct reader *r, enum production_kind kind)
{
    struct production *x = arena_calloc(r->p->arena, 1, sizeof *x);
    if (x == NULL)
        return fail(r, ERR_LIMIT, "the grammar is too large");
    x->kind = (uint8_t)kind;
    x->at = r->at;
    return x;
}

static struct production *
make_rx(struct reader *r, rx_id rx)
{
    struct production *x = make(r, PRODUCTION_RX);
    if (x)
        x->rx = rx;
    return x;
}

static bool
is_upper(struct str name)
{
    size_t i = 0;
    while (i < name.n && name.p[i] == '_')
        i++;
    return i < name.n && name.p[i] >= 'A' && name.p[i] <= 'Z';
}

static uint32_t
find_rule(struct reader *r, struct str name)
{
    struct productions *p = r->p;

    for (size_t i = 0; i < p->n; i++)
        if (str_eq(p->rule[i].name, name))
            return (uint32_t)i;
    if (p->n == RULES_MAX) {
        fail(r, ERR_LIMIT, "too many rules");
        return 0;
    }
    struct named *v = budget_grow(&p->a->budget, p->rule, &p->cap, p->n + 1,
                                  sizeof *v);
    if (v == NULL) {
        fail(r, ERR_LIMIT, "the grammar is too large");
        return 0;
    }
    budget_work(&p->a->budget, p->n);
    p->rule = v;
    bool inside = name.p >= p->text.p && name.p < p->text.p + p->text.n;
    size_t at = inside ? (size_t)(name.p - p->text.p) : r->at;
    v[p->n] = (struct named){.name = name, .at = at, .net = NET_NONE,
                             .terminal = p->lark && is_upper(name)};
    return (uint32_t)p->n++;
}

/* --- strings and classes -------------------------------------------------------- */

static long
read_hex(struct reader *r, int digits)
{
    long x = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        char d[2] = {(char)peek(r, 0), 0}, *end;
        x = x * 16 + strtol(d, &end, 16);
        if (end == d) {
            fail(r, ERR_FORMAT, "bad hexadecimal escape");
            return -1;
        }
    }
    return x <= (long)CHARSET_MAX && (x < 0xd800 || x > 0xdfff)
        ? x : (fail(r, ERR_FORMAT, "no such character"), -1);
}

/* One character of a string or class, -1 after an error. */
static long
read_char(struct reader *r)
{
    static const char name[] = "nrtfb0", value[] = "\n\r\t\f\b";
    uint32_t c;

    if (peek(r, 0) == '\\') {
        int k = peek(r, 1);
        const char *at = k > 0 ? strchr(name, k) : NULL;
        r->at += 2;
        if (k == 'x' || k == 'u' || k == 'U')
            return read_hex(r, k == 'x' ? 2 : k == 'u' ? 4 : 8);
        if (at)
            return value[at - name];
        if (k > 0x20 && k < 0x7f && !((k | 32) >= 'a' && (k | 32) <= 'z'))
            return k;
        fail(r, ERR_FORMAT, "unknown escape");
        return -1;
    }
    if (peek(r, 0) < 0) {
        fail(r, ERR_FORMAT, "the grammar ends inside a string");
        return -1;
    }
    r->at += utf8_decode(r->p->text.p + r->at, r->p->text.n - r->at, &c);
    return (long)c;
}

static rx_id
char_rx(struct reader *r, uint32_t lo, uint32_t hi, bool fold)
{
    struct charset s = {0};
    rx_id rx = RX_NONE;
    if (charset_add(&s, &r->p->a->budget, lo, hi) &&
        (!fold || charset_fold(&s, &r->p->a->budget)))
        rx = charset_rx(&r->p->a->rx, &s);
    charset_free(&s);
    return rx;
}

/* "..." (with i: either case), or in Lark "a".."z". */
static struct production *
read_string(struct reader *r)
{
    struct list32 chars = {0};
    struct rx_pool *rx = &r->p->a->rx;
    rx_id out = RX_EMPTY;
    bool fold = false;

    r->at++;
    while (r->p->rc == 0 && peek(r, 0) != '"') {
        long c = read_char(r);
        if (c < 0 || !list32_push(&chars, &r->p->a->budget, (uint32_t)c))
            break;
    }
    if (r->p->rc == 0) {
        r->at++;
        fold = r->p->lark && peek(r, 0) == 'i' && !is_name(peek(r, 1));
        r->at += fold;
    }
    if (r->p->rc == 0 && r->p->lark && chars.n == 1 && take(r, "..\"")) {
        long hi = read_char(r);
        if (hi < (long)chars.v[0] || !take(r, "\""))
            fail(r, ERR_FORMAT, "bad range of characters");
        else
            out = char_rx(r, chars.v[0], (uint32_t)hi, false);
    } else {
        for (size_t i = chars.n; i > 0; i--)
            out = rx_cat(rx, char_rx(r, chars.v[i - 1], chars.v[i - 1],
                                     fold), out);
    }
    r->p->a->budget.bytes -= chars.cap * sizeof *chars.v;
    list32_free(&chars);
    return r->p->rc ? NULL : make_rx(r, out);
}

/* [...] of GBNF. */
static struct production *
read_class(struct reader *r)
{
    struct charset s = {0};
    struct budget *b = &r->p->a->budget;
    bool inverted, ok = true;
    rx_id rx = RX_NONE;

    r->at++;
    inverted = take(r, "^");
    while (ok && peek(r, 0) != ']') {
        long lo = read_char(r), hi = lo;
        if (lo >= 0 && peek(r, 0) == '-' && peek(r, 1) != ']') {
            r->at++;
            hi = read_char(r);
        }
        if (hi >= 0 && hi < lo)
            fail(r, ERR_FORMAT, "range out of order");
        ok = r->p->rc == 0 && charset_add(&s, b, (uint32_t)lo, (uint32_t)hi);
    }
    r->at++;
    if (ok && inverted)
        ok = charset_invert(&s, b);
    if (ok)
        rx = charset_rx(&r->p->a->rx, &s);
    charset_free(&s);
    return r->p->rc ? NULL : make_rx(r, rx);
}

/* /regex/flags of Lark. */
static struct production *
read_regex(struct reader *r)
{
    size_t from = r->at + 1, at = from;
    struct str text = r->p->text;
    bool in_class = false;
    int flags = 0;
    rx_id rx;
    struct err e = {0};

    for (; at < text.n && (in_class || text.p[at] != '/'); at++) {
        if (text.p[at] == '\\')
            at++;
        else if (text.p[at] == '[' || text.p[at] == ']')
            in_class = text.p[at] == '[';
    }
    if (at >= text.n)
        return fail(r, ERR_FORMAT, "regular expression without an end");
    struct str body = {text.p + from, at - from};
    size_t begun = r->at;
    for (r->at = at + 1; peek(r, 0) >= 'a' && peek(r, 0) <= 'z'; r->at++) {
        if (peek(r, 0) == 'i')
            flags |= PATTERN_FOLD;
        else if (peek(r, 0) == 's')
            flags |= PATTERN_DOTALL;
        else if (peek(r, 0) != 'u')
            return fail(r, ERR_UNSUPPORTED, "unknown flag");
    }
    int rc = pattern_compile(&r->p->a->rx, body, flags, &rx, &e);
    if (rc != 0) {
        production_fail(r->p, rc, begun, "%s", e.text);
        return NULL;
    }
    return make_rx(r, rx);
}

/* --- token ids -------------------------------------------------------------------- */

static struct production *
read_id_list(struct reader *r)
{
    struct production *all = make(r, PRODUCTION_CHOICE), **last;
    long n_vocab = tok_info(r->tok)->n_special;

    if (all == NULL)
        return NULL;
    last = &all->a;
    do {
        char *end;
        /* The text is followed by a NUL, and numbers end before it. */
        long lo = strtol(r->p->text.p + r->at, &end, 10), hi = lo;
        if (end == r->p->text.p + r->at)
            return fail(r, ERR_FORMAT, "a token id was expected");
        if (*end == '-')
            hi = strtol(end + 1, &end, 10);
        r->at = (size_t)(end - r->p->text.p);
        if (lo < 0 || hi < lo || hi >= n_vocab)
            return fail(r, ERR_FORMAT, "not the id of a control token");
        *last = make(r, PRODUCTION_TOKENS);
        if (*last == NULL)
            return NULL;
        (*last)->min = (uint32_t)lo;
        (*last)->max = (uint32_t)hi;
        last = &(*last)->next;
    } while (take(r, ","));
    return take(r, "]>") ? all : fail(r, ERR_FORMAT, "']>' was expected");
}

/* <[id]> or <name>, where the token is called <name> or [name]. */
static struct production *
read_token(struct reader *r)
{
    char name[64];
    size_t n = 0;

    if (take(r, "<["))
        return read_id_list(r);
    while (peek(r, n) >= 0 && peek(r, n) != '>' && n < sizeof name - 2) {
        name[n] = (char)peek(r, n);
        n++;
    }
    name[n] = '>';
    name[n + 1] = '\0';
    int id = tok_special(r->tok, name);
    name[0] = '[';
    name[n] = ']';
    if (id < 0)
        id = tok_special(r->tok, name);
    if (id < 0 || peek(r, n) != '>')
        return fail(r, ERR_FORMAT, "no control token of this name");
    r->at += n + 1;
    struct production *x = make(r, PRODUCTION_TOKENS);
    if (x)
        x->min = x->max = (uint32_t)id;
    return x;
}

/* --- expressions -------------------------------------------------------------------- */

static struct production *
read_group(struct reader *r, const char *close, bool optional)
{
    r->at++;
    if (++r->depth > DEPTH_MAX)
        return fail(r, ERR_LIMIT, "groups nested too deep");
    struct production *x = choice(r), *y;
    r->depth--;
    if (x == NULL)
        return NULL;
    skip_space(r);
    if (!take(r, close))
        return fail(r, ERR_FORMAT, "group without an end");
    if (!optional)
        return x;
    y = make(r, PRODUCTION_REPEAT);
    if (y) {
        y->a = x;
        y->max = 1;
    }
    return y;
}

/* %json { schema } */
static struct production *
read_json(struct reader *r)
{
    struct str text = r->p->text;
    struct err e = {0};
    size_t begun = r->at, depth = 0;
    bool quoted = false;

    r->at += 5;
    skip_space(r);
    size_t from = r->at;
    for (; r->at < text.n; r->at++) {
        char c = text.p[r->at];
        if (quoted && c == '\\')
            r->at++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted)
            depth += c == '{' ? 1 : c == '}' ? (size_t)-1 : 0;
        if (depth == 0)
            break;
    }
    if (r->at >= text.n || text.p[from] != '{')
        return fail(r, ERR_FORMAT, "%json needs a schema in braces");
    r->at++;
    struct production *x = make(r, PRODUCTION_NET);
    struct str schema = {text.p + from, r->at - from};
    if (x == NULL)
        return NULL;
    int rc = schema_rule(r->p->a, schema, false, &x->rule, &e);
    if (rc != 0) {
        production_fail(r->p, rc, begun, "%s", e.text);
        return NULL;
    }
    return x;
}

static struct production *
read_atom(struct reader *r)
{
    bool lark = r->p->lark;
    int c = peek(r, 0);

    if (c == '"')
        return read_string(r);
    if (c == '(')
        return read_group(r, ")", false);
    if (c == '[')
        return lark ? read_group(r, "]", true) : read_class(r);
    if (c == '<')
        return read_token(r);
    if (c == '/' && lark)
        return read_regex(r);
    if (c == '.' && !lark) {
        r->at++;
        return make_rx(r, r->p->a->rx.any_char);
    }
    if (lark && next_is(r, "%json"))
        return read_json(r);
    if (is_name(c)) {
        struct production *x = make(r, PRODUCTION_NAME);
        if (x)
            x->rule = find_rule(r, read_name(r));
        return r->p->rc ? NULL : x;
    }
    return fail(r, ERR_FORMAT, c < 0 ? "the grammar ends too soon"
                : "this is not supported here");
}

/* A number below REPEAT_MAX, -1 when there is none. */
static long
read_number(struct reader *r)
{
    long x = -1;
    while (peek(r, 0) >= '0' && peek(r, 0) <= '9') {
        x = (x < 0 ? 0 : x) * 10 + (peek(r, 0) - '0');
        if (x > REPEAT_MAX) {
            fail(r, ERR_LIMIT, "repeat of more than 10000");
            return -1;
        }
        r->at++;
    }
    return x;
}

/* The repeat marks after an atom. False when there are none. */
static bool
read_repeat(struct reader *r, uint32_t *min, uint32_t *max)
{
    long lo, hi;

    *min = 0;
    *max = RX_INF;
    if (take(r, "*"))
        return true;
    if (take(r, "?")) {
        *max = 1;
        return true;
    }
    if (take(r, "+")) {
        *min = 1;
        return true;
    }
    bool tilde = r->p->lark && peek(r, 0) == '~';
    if (!tilde && peek(r, 0) != '{')
        return false;
    r->at++;
    skip_space(r);
    lo = hi = read_number(r);
    skip_space(r);
    if (take(r, tilde ? ".." : ",")) {
        skip_space(r);
        hi = read_number(r);
        if (hi < 0 && !tilde)
            hi = (long)RX_INF;
    }
    skip_space(r);
    if (!tilde && !take(r, "}"))
        hi = -1;
    if (lo < 0 && hi >= 0)
        lo = 0;
    if (lo < 0 || hi < lo) {
        fail(r, ERR_FORMAT, "bad repeat");
        return false;
    }
    *min = (uint32_t)lo;
    *max = (uint32_t)hi;
    return true;
}

static bool
ends_sequence(struct reader *r)
{
    struct str name;
    size_t body;
    int c = peek(r, 0);

    return c < 0 || c == '|' || c == ')' || (r->p->lark && c == ']') ||
        (r->p->lark && c == '%' && !next_is(r, "%json")) ||
        at_definition(r, &name, &body);
}

static struct production *
sequence(struct reader *r)
{
    struct production *all = make(r, PRODUCTION_SEQUENCE), **last;

    if (all == NULL)
        return NULL;
    last = &all->a;
    for (skip_space(r); !ends_sequence(r); skip_space(r)) {
        uint32_t min, max;
        if (r->p->lark && take(r, "->")) { /* the name of an alternative */
            skip_space(r);
            read_name(r);
            continue;
        }
        struct production *x = read_atom(r);
        while (x && read_repeat(r, &min, &max)) {
            struct production *y = make(r, PRODUCTION_REPEAT);
            if (y == NULL)
                return NULL;
            y->a = x;
            y->min = min;
            y->max = max;
            x = y;
        }
        if (x == NULL || r->p->rc != 0)
            return NULL;
        *last = x;
        last = &x->next;
    }
    return all;
}

static struct production *
choice(struct reader *r)
{
    struct production *all = make(r, PRODUCTION_CHOICE), **last;

    if (all == NULL)
        return NULL;
    last = &all->a;
    do {
        *last = sequence(r);
        if (*last == NULL)
            return NULL;
        last = &(*last)->next;
        skip_space(r);
    } while (take(r, "|"));
    return all;
}

/* --- directives ------------------------------------------------------------------------ */

static const struct {
    const char *name, *pattern;
} common[] = {
    {"WS", "[ \\t\\f\\r\\n]+"}, {"WS_INLINE", "[ \\t]+"},
    {"NEWLINE", "(\\r?\\n)+"}, {"DIGIT", "[0-9]"},
    {"HEXDIGIT", "[0-9a-fA-F]"}, {"INT", "[0-9]+"},
    {"SIGNED_INT", "[+-]?[0-9]+"},
    {"DECIMAL", "[0-9]+\\.[0-9]*|\\.[0-9]+"},
    {"FLOAT", "[0-9]+[eE][+-]?[0-9]+|([0-9]+\\.[0-9]*|\\.[0-9]+)"
              "([eE][+-]?[0-9]+)?"},
    {"NUMBER", "([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"SIGNED_NUMBER", "[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)"
                      "([eE][+-]?[0-9]+)?"},
    {"LCASE_LETTER", "[a-z]"}, {"UCASE_LETTER", "[A-Z]"},
    {"LETTER", "[A-Za-z]"}, {"WORD", "[A-Za-z]+"},
    {"CNAME", "[_A-Za-z][_A-Za-z0-9]*"},
    {"ESCAPED_STRING", "\"([^\"\\\\\\n]|\\\\[^\\n])*\""},
};

static void
define(struct reader *r, struct str name, struct production *body)
{
    uint32_t i = find_rule(r, name);
    if (r->p->rc != 0)
        return;
    if (r->p->rule[i].body)
        fail(r, ERR_FORMAT, "the rule is defined twice");
    r->p->rule[i].body = body;
}

/* %import common.NAME [-> OTHER] */
static void
import(struct reader *r)
{
    skip_space(r);
    if (!take(r, "common.")) {
        fail(r, ERR_UNSUPPORTED, "only common.* can be imported");
        return;
    }
    struct str name = read_name(r), as = name;
    skip_space(r);
    if (take(r, "->")) {
        skip_space(r);
        as = read_name(r);
    }
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        rx_id rx;
        if (!str_eq(name, str_from(common[i].name)))
            continue;
        struct str text = str_from(common[i].pattern);
        if (pattern_compile(&r->p->a->rx, text, 0, &rx, NULL) == 0)
            define(r, as, make_rx(r, rx));
        return;
    }
    fail(r, ERR_UNSUPPORTED, "this name is not known in common");
}

static void
read_directive(struct reader *r, struct production **ignored)
{
    if (take(r, "%import")) {
        import(r);
    } else if (take(r, "%ignore")) {
        struct production *x = choice(r);
        if (x) {
            x->next = *ignored;
            *ignored = x;
        }
    } else {
        fail(r, ERR_UNSUPPORTED, "unknown directive");
    }
}

/* --- all ----------------------------------------------------------------------------------- */

/* What is ignored becomes a terminal of its own. */
static void
set_ignored(struct reader *r, struct production *list)
{
    struct productions *p = r->p;

    if (list == NULL || p->rc != 0)
        return;
    struct production *all = make(r, PRODUCTION_CHOICE);
    if (all == NULL)
        return;
    all->a = list;
    uint32_t i = find_rule(r, STR("%ignore"));
    if (p->rc != 0)
        return;
    p->rule[i].body = all;
    p->rule[i].terminal = true;
    production_rx(p, i, &p->ignore);
}

static void
read_all(struct reader *r)
{
    struct production *ignored = NULL;

    for (skip_space(r); r->p->rc == 0 && peek(r, 0) >= 0; skip_space(r)) {
        struct str name;
        size_t body;
        if (r->p->lark && peek(r, 0) == '%') {
            read_directive(r, &ignored);
            continue;
        }
        if (!at_definition(r, &name, &body)) {
            fail(r, ERR_FORMAT, r->p->lark
                 ? "a rule ('name: ...') was expected"
                 : "a rule ('name ::= ...') was expected");
            return;
        }
        r->at = body;
        struct production *x = choice(r);
        if (x)
            define(r, name, x);
        if (r->p->rc == 0 && (peek(r, 0) == ')' || peek(r, 0) == ']'))
            fail(r, ERR_FORMAT, "no group is open here");
    }
    set_ignored(r, ignored);
}

int
rules_compile(struct automaton *a, const struct tok *t, struct str text,
              uint32_t *rule, struct err *e)
{
    struct productions p = {.a = a, .e = e};
    struct reader r = {.p = &p, .tok = t};

    if (text.n > TEXT_MAX)
        return err_set(e, ERR_LIMIT, "the grammar is longer than %u bytes",
                       TEXT_MAX);
    if (!utf8_valid(text.p, text.n) || memchr(text.p, 0, text.n))
        return err_set(e, ERR_FORMAT, "the grammar is not text");
    p.arena = arena_create(0, a->budget.max_bytes);
    char *copy = p.arena ? arena_strndup(p.arena, text.p, text.n) : NULL;
    if (copy == NULL) {
        arena_destroy(p.arena);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    p.text = (struct str){copy, text.n};
    p.lark = strstr(copy, "::=") == NULL;
    read_all(&r);
    struct str start = p.lark ? STR("start") : STR("root");
    if (p.rc == 0) {
        r.at = 0;
        uint32_t i = find_rule(&r, start);
        if (p.rc == 0 && p.rule[i].body == NULL)
            production_fail(&p, ERR_FORMAT, 0, "there is no rule '%s'",
                            start.p);
        if (p.rc == 0)
            production_net(&p, i, rule);
    }
    if (p.rc == 0 && a->budget.rc != 0)
        p.rc = err_set(e, a->budget.rc, "the grammar is too complex");
    free(p.rule);
    arena_destroy(p.arena);
    return p.rc;
}
