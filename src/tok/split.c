/*
 * DESIGN. The pattern is compiled by PCRE2 with its JIT. Rust's \s is Unicode's
 * White_Space; PCRE2's is ASCII without PCRE2_UCP and has U+180E too many with
 * it, so \s, \S and \d are rewritten to explicit sets and UCP stays off (\p{..}
 * needs only PCRE2_UTF). Other classes with two meanings are refused.
 *
 * A run of a million letters makes the matcher give back a character at a
 * time: linear, but beyond the default budgets, so the match limit grows with
 * the text and the JIT gets a stack of its own when 32 KiB do not suffice.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "config.h"

#include "tok/split.h"

#include <pcre2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MATCH_LIMIT_MIN 10000000u
#define MATCH_LIMIT_BYTE 64u  /* budget for each byte of text */
#define JIT_STACK_MIN (256 << 10)
#define JIT_STACK_MAX (64 << 20)

static const char white_space[] =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}"
    "\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";

struct split {
    pcre2_code *code;
};

struct split_cursor {
    const struct split *split;
    const char *text;
    size_t n, at;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* --- the pattern --------------------------------------------------------- */

/* Appends what the escape \c means; in_class: inside [...]. */
static int
rewrite_escape(struct buf *out, char c, bool in_class, size_t at,
               struct err *e)
{
    if (c == 's')
        return buf_printf(out, in_class ? "%s" : "[%s]", white_space);
    if (c == 'S' && !in_class)
        return buf_printf(out, "[^%s]", white_space);
    if (c == 'd')
        return buf_puts(out, "\\p{Nd}");
    if (c == 'D')
        return buf_puts(out, "\\P{Nd}");
    if (c && strchr("SwWbBhHvVRXGKCQE", c))
        return err_set(e, ERR_UNSUPPORTED, "the split pattern uses \\%c at "
                       "offset %zu, which is not supported", c, at);
    char escape[2] = {'\\', c};
    return buf_append(out, escape, 2);
}

static int
rewrite(struct buf *out, const char *p, size_t n, struct err *e)
{
    bool in_class = false;

    for (size_t i = 0; i < n; i++) {
        int rc;
        if (p[i] == '\\' && i + 1 < n) {
            rc = rewrite_escape(out, p[i + 1], in_class, i, e);
            i++;
        } else {
            if (p[i] == '[')
                in_class = true;
            else if (p[i] == ']')
                in_class = false;
            rc = buf_putc(out, p[i]);
        }
        if (rc == ERR_NOMEM)
            return err_set(e, rc, "out of memory");
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int
compile(struct split *s, const struct buf *pattern, struct err *e)
{
    int code = 0;
    size_t at = 0;
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);

    if (cc == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    s->code = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len,
                            PCRE2_UTF | PCRE2_DOLLAR_ENDONLY |
                            PCRE2_NEVER_BACKSLASH_C, &code, &at, cc);
    pcre2_compile_context_free(cc);
    if (s->code == NULL) {
        char text[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return err_set(e, ERR_FORMAT, "the split pattern is not valid: %s "
                       "(near offset %zu)", text, at);
    }
    /* Without a JIT on this machine the interpreter does the same, slower. */
    pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
    return 0;
}

int
split_create(const char *pattern, size_t n, struct split **out, struct err *e)
{
    struct buf b = {0};
    struct split *s = calloc(1, sizeof *s);

    if (s == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = rewrite(&b, pattern, n, e);
    if (rc == 0)
        rc = compile(s, &b, e);
    buf_free(&b);
    if (rc != 0) {
        split_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void
split_free(struct split *s)
{
    if (s == NULL)
        return;
    pcre2_code_free(s->code);
    free(s);
}

/* --- the text ------------------------------------------------------------ */

struct split_cursor *
split_begin(const struct split *s, const char *text, size_t n)
{
    struct split_cursor *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    *c = (struct split_cursor){.split = s, .text = text, .n = n};
    c->match = pcre2_match_data_create(1, NULL);
    c->context = pcre2_match_context_create(NULL);
    if (c->match == NULL || c->context == NULL) {
        split_end(c);
        return NULL;
    }
    uint64_t limit = (uint64_t)n * MATCH_LIMIT_BYTE;
    if (limit < MATCH_LIMIT_MIN)
        limit = MATCH_LIMIT_MIN;
    pcre2_set_match_limit(c->context,
                          limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
    return c;
}

static int
match(struct split_cursor *c)
{
    int rc = pcre2_match(c->split->code, (PCRE2_SPTR)c->text, c->n, c->at,
                         PCRE2_NO_UTF_CHECK, c->match, c->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && c->stack == NULL) {
        c->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
        if (c->stack == NULL)
            return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(c->context, NULL, c->stack);
        return match(c);
    }
    return rc;
}

int
split_next(struct split_cursor *c, const char **p, size_t *n)
{
    while (c->at < c->n) {
        int rc = match(c);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return rc == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_LIMIT;
        PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match);
        if (span[1] > span[0]) {
            *p = c->text + span[0];
            *n = span[1] - span[0];
            c->at = span[1];
            return 1;
        }
        /* An empty match gives no piece: go on at the next character. */
        c->at = span[1] + 1;
        while (c->at < c->n && ((unsigned char)c->text[c->at] & 0xc0) == 0x80)
            c->at++;
    }
    c->at = c->n;
    return 0;
}

void
split_end(struct split_cursor *c)
{
    if (c == NULL)
        return;
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->context);
    if (c->stack)
        pcre2_jit_stack_free(c->stack);
    free(c);
}
