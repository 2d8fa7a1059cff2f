/*
 * DESIGN. One pass of recursive descent, at most DEPTH_MAX deep. `^` first and
 * `$` last in an alternative of the whole are simply noted. Where an anchor
 * stands elsewhere, the text is read again with anchors as two bytes that
 * UTF-8 does not have, 0xFE for the begin and 0xFF for the end; the language
 * is then cut to texts between one of each, and the marks taken off.
 */
#include "config.h"

#include "grammar/lang/pattern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/rx/charset.h"

#define TEXT_MAX 65536
#define DEPTH_MAX 200
#define REPEAT_MAX 10000
#define BEGIN_MARK 0xfe
#define END_MARK 0xff

struct reader {
    struct rx_pool *p;
    const char *s;
    size_t n, at;
    int flags, depth;
    bool marks;      /* anchors are marks */
    bool inner;      /* an anchor stands where it needs to be one */
    struct err *e;
    int rc;
};

static rx_id alternatives(struct reader *r, bool top);

static rx_id
fail(struct reader *r, int code, size_t at, const char *what)
{
    if (r->rc == 0)
        r->rc = err_set(r->e, code, "%s at offset %zu of the pattern", what,
                        at);
    return RX_NONE;
}

static int
peek(const struct reader *r, size_t ahead)
{
    return r->at + ahead < r->n ? (unsigned char)r->s[r->at + ahead] : -1;
}

static bool
next_is(const struct reader *r, const char *s)
{
    size_t n = strlen(s);
    return r->n - r->at >= n && memcmp(r->s + r->at, s, n) == 0;
}

/* --- characters and classes ---------------------------------------------- */

static const struct char_range digits[] = {{'0', '9'}};
static const struct char_range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'},
                                          {'a', 'z'}};
static const struct char_range spaces[] = {
    {9, 13}, {32, 32}, {0xa0, 0xa0}, {0x1680, 0x1680}, {0x2000, 0x200a},
    {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
    {0xfeff, 0xfeff}
};
static const struct char_range line_ends[] = {{10, 10}, {13, 13},
                                              {0x2028, 0x2029}};

static bool
add_ranges(struct charset *s, struct budget *b, const struct char_range *v,
           size_t n, bool inverted)
{
    struct charset t = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++)
        ok = charset_add(&t, b, v[i].lo, v[i].hi);
    if (ok && inverted)
        ok = charset_invert(&t, b);
    ok = ok && charset_add_set(s, b, &t);
    charset_free(&t);
    return ok;
}

/* `digits` hex digits at r->at, or braces around one to six; -1 if not. */
static long
read_hex(struct reader *r, int n_digits, bool braces)
{
    long x = 0;
    int k = 0, c;

    if (braces && peek(r, 0) == '{') {
        size_t at = r->at + 1;
        for (; at < r->n && r->s[at] != '}' && k < 7; at++, k++) {
            char d[2] = {r->s[at], 0}, *end;
            x = x * 16 + strtol(d, &end, 16);
            if (*end || end == d)
                return -1;
        }
        if (at >= r->n || k == 0 || x > CHARSET_MAX)
            return -1;
        r->at = at + 1;
        return x;
    }
    for (; k < n_digits; k++) {
        c = peek(r, (size_t)k);
        char d[2] = {(char)c, 0}, *end;
        x = x * 16 + (c < 0 ? 0 : strtol(d, &end, 16));
        if (c < 0 || *end || end == d)
            return -1;
    }
    r->at += (size_t)n_digits;
    return x;
}

/* \uXXXX after the u, with a second half if it is a high surrogate. */
static long
read_unicode(struct reader *r)
{
    size_t at = r->at;
    long hi = read_hex(r, 4, true);

    if (hi >= 0xd800 && hi <= 0xdbff && next_is(r, "\\u")) {
        r->at += 2;
        long lo = read_hex(r, 4, false);
        if (lo >= 0xdc00 && lo <= 0xdfff)
            return 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
    }
    if (hi < 0 || (hi >= 0xd800 && hi <= 0xdfff)) {
        fail(r, ERR_FORMAT, at, "bad \\u escape");
        return -1;
    }
    return hi;
}

static bool
add_property(struct reader *r, struct charset *s, bool inverted)
{
    size_t at = r->at;
    struct charset t = {0};
    const char *close = memchr(r->s + at, '}', r->n - at);

    if (peek(r, 0) != '{' || close == NULL)
        return fail(r, ERR_FORMAT, at, "\\p without {name}"), false;
    struct str name = {r->s + at + 1, (size_t)(close - r->s) - at - 1};
    r->at = (size_t)(close - r->s) + 1;
    const char *eq = memchr(name.p, '=', name.n);
    if (eq)
        name = (struct str){eq + 1, name.n - (size_t)(eq + 1 - name.p)};
    int rc = charset_add_property(&t, r->p->budget, name);
    if (rc == ERR_NOENT)
        fail(r, ERR_UNSUPPORTED, at, "unknown Unicode property");
    bool ok = rc == 0 && (!inverted || charset_invert(&t, r->p->budget)) &&
        charset_add_set(s, r->p->budget, &t);
    charset_free(&t);
    return ok;
}

/* The escape after a backslash at r->at - 1: one character in *one (else -1)
 * and its set into s. False on errors. */
static bool
read_escape(struct reader *r, struct charset *s, long *one, bool in_class)
{
    struct budget *b = r->p->budget;
    size_t at = r->at - 1;
    int c = peek(r, 0);

    *one = -1;
    if (c < 0)
        return fail(r, ERR_FORMAT, at, "backslash at the end"), false;
    r->at++;
    switch (c) {
    case 'd': case 'D':
        return add_ranges(s, b, digits, 1, c == 'D');
    case 'w': case 'W':
        return add_ranges(s, b, words, 4, c == 'W');
    case 's': case 'S':
        return add_ranges(s, b, spaces, 10, c == 'S');
    case 'p': case 'P':
        return add_property(r, s, c == 'P');
    case 't': *one = '\t'; break;
    case 'n': *one = '\n'; break;
    case 'v': *one = '\v'; break;
    case 'f': *one = '\f'; break;
    case 'r': *one = '\r'; break;
    case 'a': *one = '\a'; break;
    case '0':
        if (peek(r, 0) >= '0' && peek(r, 0) <= '9')
            return fail(r, ERR_UNSUPPORTED, at, "octal escape"), false;
        *one = 0;
        break;
    case 'c':
        if ((peek(r, 0) | 32) < 'a' || (peek(r, 0) | 32) > 'z')
            return fail(r, ERR_FORMAT, at, "bad \\c escape"), false;
        *one = peek(r, 0) & 31;
        r->at++;
        break;
    case 'x':
        *one = read_hex(r, 2, true);
        if (*one < 0)
            return fail(r, ERR_FORMAT, at, "bad \\x escape"), false;
        break;
    case 'u':
        *one = read_unicode(r);
        break;
    default:
        if (c == 'b' && in_class) {
            *one = '\b';
        } else if (c >= '1' && c <= '9') {
            return fail(r, ERR_UNSUPPORTED, at, "back-reference"), false;
        } else if (c == 'k') {
            return fail(r, ERR_UNSUPPORTED, at, "back-reference"), false;
        } else if ((c | 32) >= 'a' && (c | 32) <= 'z') {
            char what[] = "\\? is not supported";
            what[1] = (char)c;
            return fail(r, ERR_UNSUPPORTED, at, what), false;
        } else {
            uint32_t cp;
            r->at--;
            r->at += utf8_decode(r->s + r->at, r->n - r->at, &cp);
            *one = (long)cp;
        }
    }
    return *one >= 0 && charset_add(s, b, (uint32_t)*one, (uint32_t)*one);
}

static bool
read_char(struct reader *r, uint32_t *c)
{
    if ((unsigned char)r->s[r->at] < 0x20 && r->s[r->at] != '\n' &&
        r->s[r->at] != '\t' && r->s[r->at] != '\r')
        return fail(r, ERR_FORMAT, r->at, "control character"), false;
    r->at += utf8_decode(r->s + r->at, r->n - r->at, c);
    return true;
}

/* One member of a class: a character in *one, or a set (*one -1). */
static bool
class_member(struct reader *r, struct charset *s, long *one)
{
    uint32_t c;
    if (peek(r, 0) == '\\') {
        r->at++;
        return read_escape(r, s, one, true);
    }
    if (next_is(r, "[:"))
        return fail(r, ERR_UNSUPPORTED, r->at, "[: :] class"), false;
    if (!read_char(r, &c))
        return false;
    *one = (long)c;
    return charset_add(s, r->p->budget, c, c);
}

static rx_id
read_class(struct reader *r)
{
    struct charset s = {0};
    struct budget *b = r->p->budget;
    size_t at = r->at++;
    bool inverted = peek(r, 0) == '^', ok = true;
    rx_id out = RX_NONE;

    r->at += inverted;
    while (ok && peek(r, 0) >= 0 && peek(r, 0) != ']') {
        long lo, hi;
        ok = class_member(r, &s, &lo);
        if (!ok || peek(r, 0) != '-' || peek(r, 1) == ']' || peek(r, 1) < 0)
            continue;
        size_t dash = r->at++;
        ok = class_member(r, &s, &hi);
        if (ok && (lo < 0 || hi < 0))
            ok = charset_add(&s, b, '-', '-'); /* [\w-.]: the dash itself */
        else if (ok && hi < lo)
            fail(r, ERR_FORMAT, dash, "range out of order"), ok = false;
        else if (ok)
            ok = charset_add(&s, b, (uint32_t)lo, (uint32_t)hi);
    }
    if (ok && peek(r, 0) != ']')
        fail(r, ERR_FORMAT, at, "class without ]"), ok = false;
    r->at++;
    if (ok && r->flags & PATTERN_FOLD)
        ok = charset_fold(&s, b);
    if (ok && inverted)
        ok = charset_invert(&s, b);
    if (ok)
        out = charset_rx(r->p, &s);
    charset_free(&s);
    return out;
}

static rx_id
one_char(struct reader *r, struct charset *s)
{
    rx_id out = RX_NONE;
    if (!(r->flags & PATTERN_FOLD) || charset_fold(s, r->p->budget))
        out = charset_rx(r->p, s);
    charset_free(s);
    return out;
}

/* --- atoms, repeats, sequences ------------------------------------------- */

static rx_id
read_group(struct reader *r)
{
    size_t at = r->at++;

    if (peek(r, 0) == '?') {
        if (next_is(r, "?:")) {
            r->at += 2;
        } else if (next_is(r, "?<") && peek(r, 2) != '=' &&
                   peek(r, 2) != '!') {
            while (peek(r, 0) >= 0 && peek(r, 0) != '>')
                r->at++;
            r->at++;
        } else if (next_is(r, "?=") || next_is(r, "?!") ||
                   next_is(r, "?<")) {
            return fail(r, ERR_UNSUPPORTED, at, "look-around");
        } else {
            return fail(r, ERR_UNSUPPORTED, at, "group with flags");
        }
    }
    if (++r->depth > DEPTH_MAX)
        return fail(r, ERR_LIMIT, at, "groups nested too deep");
    rx_id x = alternatives(r, false);
    r->depth--;
    if (r->rc == 0 && peek(r, 0) != ')')
        return fail(r, ERR_FORMAT, at, "group without )");
    r->at++;
    return x;
}

static rx_id
read_atom(struct reader *r)
{
    struct charset s = {0};
    uint32_t c;
    long one;
    size_t at = r->at;

    switch (peek(r, 0)) {
    case '(':
        return read_group(r);
    case '[':
        return read_class(r);
    case '.':
        r->at++;
        if (r->flags & PATTERN_DOTALL)
            return r->p->any_char;
        if (add_ranges(&s, r->p->budget, line_ends, 3, true))
            return one_char(r, &s);
        return RX_NONE;
    case '\\':
        r->at++;
        if (read_escape(r, &s, &one, false))
            return one_char(r, &s);
        charset_free(&s);
        return RX_NONE;
    case '*': case '+': case '?':
        return fail(r, ERR_FORMAT, at, "nothing to repeat");
    default:
        if (read_char(r, &c) && charset_add(&s, r->p->budget, c, c))
            return one_char(r, &s);
        return RX_NONE;
    }
}

/* {m}, {m,} or {m,n} at r->at; false (nothing read) when it is none. */
static bool
read_braces(struct reader *r, uint32_t *min, uint32_t *max)
{
    size_t at = r->at + 1;
    unsigned long v[2] = {0, 0};
    int count = 0, n_digits = 0;

    for (; at < r->n && r->s[at] != '}'; at++) {
        if (r->s[at] >= '0' && r->s[at] <= '9') {
            v[count] = v[count] * 10 + (unsigned long)(r->s[at] - '0');
            if (v[count] > UINT32_MAX / 16)
                v[count] = UINT32_MAX / 16;
            n_digits++;
        } else if (r->s[at] == ',' && count == 0 && n_digits > 0) {
            count = 1;
            n_digits = 0;
        } else {
            return false;
        }
    }
    if (at >= r->n || (count == 0 && n_digits == 0))
        return false;
    *min = (uint32_t)v[0];
    *max = count == 0 ? *min : n_digits ? (uint32_t)v[1] : RX_INF;
    r->at = at + 1;
    return true;
}

static rx_id
repeated(struct reader *r, rx_id x)
{
    size_t at = r->at;
    uint32_t min = 0, max = RX_INF;

    switch (peek(r, 0)) {
    case '*': r->at++; break;
    case '+': r->at++; min = 1; break;
    case '?': r->at++; max = 1; break;
    case '{':
        if (read_braces(r, &min, &max))
            break;
        return x;
    default:
        return x;
    }
    if (max < min)
        return fail(r, ERR_FORMAT, at, "repeat out of order");
    if (min > REPEAT_MAX || (max != RX_INF && max > REPEAT_MAX))
        return fail(r, ERR_LIMIT, at, "repeat of more than 10000");
    if (peek(r, 0) == '?')
        r->at++; /* lazy: the same language */
    else if (peek(r, 0) == '+')
        return fail(r, ERR_UNSUPPORTED, r->at, "possessive repeat");
    else if (peek(r, 0) == '*')
        return fail(r, ERR_FORMAT, r->at, "nothing to repeat");
    return rx_repeat(r->p, x, min, max);
}

struct edges {
    bool begin, end; /* the alternative starts with ^, ends with $ */
};

static rx_id
sequence(struct reader *r, bool top, struct edges *edges)
{
    struct list32 part = {0};
    size_t from = r->at;
    int c;

    while (r->rc == 0 && (c = peek(r, 0)) >= 0 && c != '|' && c != ')') {
        rx_id x;
        if (c == '^' || c == '$') {
            bool simple = top && !r->marks &&
                (c == '^' ? r->at == from
                          : peek(r, 1) < 0 || peek(r, 1) == '|');
            r->at++;
            if (simple && c == '^')
                edges->begin = true;
            else if (simple)
                edges->end = true;
            else
                r->inner = true;
            x = simple ? RX_EMPTY
                : rx_byte(r->p, c == '^' ? BEGIN_MARK : END_MARK);
        } else {
            x = read_atom(r);
            if (r->rc == 0)
                x = repeated(r, x);
        }
        if (!list32_push(&part, r->p->budget, x))
            break;
    }
    rx_id out = r->rc ? RX_NONE : rx_cat_n(r->p, part.v, part.n);
    r->p->budget->bytes -= part.cap * sizeof *part.v;
    list32_free(&part);
    return out;
}

static rx_id
alternatives(struct reader *r, bool top)
{
    struct list32 branch = {0};

    for (;;) {
        struct edges edges = {false, false};
        rx_id x = sequence(r, top, &edges);
        if (top && !r->marks && r->flags & PATTERN_SEARCH) {
            if (!edges.begin)
                x = rx_cat(r->p, r->p->all, x);
            if (!edges.end)
                x = rx_cat(r->p, x, r->p->all);
        }
        if (r->rc || !list32_push(&branch, r->p->budget, x))
            break;
        if (peek(r, 0) != '|')
            break;
        r->at++;
    }
    rx_id out = r->rc || branch.n == 0 ? RX_NONE
        : rx_or_n(r->p, branch.v, branch.n);
    r->p->budget->bytes -= branch.cap * sizeof *branch.v;
    list32_free(&branch);
    return out;
}

/* Texts w with begin w end in the marked language x. */
static rx_id
take_off_marks(struct rx_pool *p, rx_id x, bool search)
{
    rx_id begin = rx_byte(p, BEGIN_MARK), end = rx_byte(p, END_MARK);
    rx_id head = search ? rx_cat(p, begin, p->all) : begin;
    rx_id tail = search ? rx_cat(p, p->all, end) : end;
    const rx_id found[3] = {rx_optional(p, head), x, rx_optional(p, tail)};
    const rx_id whole[3] = {begin, p->all, end};

    x = rx_and(p, rx_cat_n(p, found, 3), rx_cat_n(p, whole, 3));
    return rx_and(p, p->all, rx_end(p, rx_step(p, x, BEGIN_MARK)));
}

int
pattern_compile(struct rx_pool *p, struct str text, int flags, rx_id *out,
                struct err *e)
{
    struct reader r = {.p = p, .s = text.p, .n = text.n, .flags = flags,
                       .e = e};
    rx_id x = RX_NONE;

    if (text.n > TEXT_MAX)
        return err_set(e, ERR_LIMIT, "pattern longer than %d bytes",
                       TEXT_MAX);
    for (int round = 0; round < 2 && r.rc == 0; round++) {
        r.at = 0;
        x = alternatives(&r, true);
        if (r.rc == 0 && r.at < r.n)
            fail(&r, ERR_FORMAT, r.at, "unmatched )");
        if (!r.inner)
            break;
        r.marks = true;
    }
    if (r.rc == 0 && r.marks)
        x = take_off_marks(p, x, flags & PATTERN_SEARCH);
    if (p->budget->rc != 0 && r.rc == 0)
        return err_set(e, p->budget->rc, "the pattern is too complex");
    if (r.rc == 0)
        *out = x;
    return r.rc;
}
