/*
 * Patterns of a prompt format to one PCRE2 expression.
 *
 * DESIGN. Every marker's pattern is compiled alone first, for a clear error
 * and to refuse what streaming cannot do: a pattern that matches nothing at
 * all would loop, one that looks behind itself would need text that has been
 * sent already. Then the markers become the alternatives of one expression,
 *
 *     (?:first)(*MARK:0)|(?:second)(*MARK:1)|...
 *
 * in byte mode, since marks are no UTF-8, with JIT for partial matching where
 * the machine has it. PCRE2_PARTIAL_HARD reports a partial match as soon as
 * the end of the text is touched, so a match never depends on the cut.
 */
#include "config.h"

#include "filter/filter_set.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "filter/mark.h"

#define MATCH_LIMIT 100000    /* steps of a match: a fraction of a ms */
#define HEAP_LIMIT_KIB 1024
#define FILE_MAX 65536
#define TOKEN_NAME_MAX 64

#define COMPILE_OPTIONS                                                   \
    (PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP            \
     | PCRE2_NEVER_BACKSLASH_C)

/* What a compilation works on. */
struct compiler {
    filter_token_fn token;
    void *arg;
    const char *pattern[MARKER_N];
    bool from_file[MARKER_N];
    struct buf file;           /* text of the override file, cut into lines */
    struct err *e;
};

/* --- one pattern ------------------------------------------------------------ */

static int
put_token(struct compiler *c, enum marker m, const char *name, size_t n,
          struct buf *out, struct filter_expr *x)
{
    char text[TOKEN_NAME_MAX];
    int id = -1;

    if (n < sizeof text) {
        memcpy(text, name, n);
        text[n] = '\0';
        id = c->token(c->arg, text);
    }
    if (id >= MARK_IDS)
        id = -1;
    if (id < 0 && c->from_file[m])
        return err_set(c->e, ERR_NOENT, "%s: the tokenizer has no control "
                       "token %.*s", filter_marker_name[m], (int)n, name);
    if (id < 0)
        return ERR_NOENT;
    if (x->n_token == FILTER_TOKENS_MAX)
        return err_set(c->e, ERR_LIMIT, "%s: more than %d tokens in patterns",
                       filter_marker_name[m], FILTER_TOKENS_MAX);
    x->token[x->n_token++] = id;
    return buf_printf(out, "\\xFF\\x%02X\\x%02X\\x%02X", 0xF8 | id >> 12,
                      0x80 | (id >> 6 & 63), 0x80 | (id & 63));
}

/* Pattern m with its tokens as escapes; ERR_NOENT: a token is missing. */
static int
expand(struct compiler *c, enum marker m, struct buf *out,
       struct filter_expr *x)
{
    const char *p = c->pattern[m];
    int rc = 0;

    while (rc == 0 && *p) {
        const char *open = strstr(p, "{{");
        const char *close = open ? strstr(open, "}}") : NULL;
        if (close == NULL)
            return buf_puts(out, p);
        rc = buf_append(out, p, (size_t)(open - p));
        if (rc == 0)
            rc = put_token(c, m, open + 2, (size_t)(close - open - 2), out, x);
        p = close + 2;
    }
    return rc;
}

static int
refuse(struct compiler *c, enum marker m, const char *why)
{
    return err_set(c->e, ERR_FORMAT, "%s: %s", filter_marker_name[m], why);
}

/* Can streaming use this pattern? */
static int
check_pattern(struct compiler *c, enum marker m, const struct buf *text)
{
    int code, rc = 0;
    PCRE2_SIZE at;
    uint32_t behind = 0, empty = 0, back = 0;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)text->data, text->len,
                                   COMPILE_OPTIONS, &code, &at, NULL);
    if (re == NULL) {
        char why[256] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return err_set(c->e, ERR_FORMAT, "%s: at offset %zu of '%.*s': %s",
                       filter_marker_name[m], (size_t)at, (int)text->len,
                       text->data, why);
    }
    pcre2_pattern_info(re, PCRE2_INFO_MAXLOOKBEHIND, &behind);
    pcre2_pattern_info(re, PCRE2_INFO_MATCHEMPTY, &empty);
    pcre2_pattern_info(re, PCRE2_INFO_BACKREFMAX, &back);
    pcre2_code_free(re);
    if (empty)
        rc = refuse(c, m, "the pattern matches the empty string");
    else if (behind > 0)
        rc = refuse(c, m, "the pattern looks at text before it (\\b, ^ or a "
                    "lookbehind)");
    else if (back > 0 || strstr(c->pattern[m], "(*"))
        rc = refuse(c, m, "back references and (*VERBS) cannot be used");
    return rc;
}

/* --- the expression --------------------------------------------------------- */

static int
add_marker(struct compiler *c, enum marker m, struct buf *all,
           struct filter_expr *x)
{
    struct buf one = {0};
    size_t had = x->n_token;

    int rc = expand(c, m, &one, x);
    if (rc == ERR_NOENT && !c->from_file[m]) {
        x->n_token = had;
        buf_free(&one);
        return 0;
    }
    if (rc == 0)
        rc = check_pattern(c, m, &one);
    if (rc == 0 && all->len > 0)
        rc = buf_putc(all, '|');
    if (rc == 0)
        rc = buf_printf(all, "(?:%.*s)(*MARK:%d)", (int)one.len, one.data, m);
    buf_free(&one);
    return rc;
}

static int
compile_expr(struct compiler *c, enum marker first, struct filter_expr *x)
{
    struct buf all = {0};
    int rc = 0, code;
    PCRE2_SIZE at;

    for (int m = first; rc == 0 && m < MARKER_N; m++)
        if (c->pattern[m])
            rc = add_marker(c, (enum marker)m, &all, x);
    if (rc == 0 && all.len > 0) {
        x->code = pcre2_compile((PCRE2_SPTR)all.data, all.len,
                                COMPILE_OPTIONS, &code, &at, NULL);
        if (x->code == NULL)
            rc = err_set(c->e, ERR_FORMAT, "the patterns do not go together "
                         "(error %d at offset %zu)", code, (size_t)at);
        else /* no JIT on this machine: the interpreter does the same */
            pcre2_jit_compile(x->code, PCRE2_JIT_COMPLETE
                                           | PCRE2_JIT_PARTIAL_HARD);
    }
    buf_free(&all);
    return rc;
}

/* --- the override file ------------------------------------------------------ */

static int
override(struct compiler *c, const char *path, int line, char *text)
{
    char *eq = strchr(text, '=');
    struct str name = str_trim((struct str){text, eq ? (size_t)(eq - text)
                                                     : strlen(text)});
    if (name.n == 0 || *name.p == '#')
        return 0;
    if (eq == NULL)
        return err_set(c->e, ERR_FORMAT, "%s:%d: expected name = pattern",
                       path, line);
    for (int m = 0; m < MARKER_N; m++) {
        if (!str_eq(name, str_from(filter_marker_name[m])))
            continue;
        struct str value = str_trim(str_from(eq + 1));
        eq[1 + (value.p - (eq + 1)) + (ptrdiff_t)value.n] = '\0';
        c->pattern[m] = value.n ? value.p : NULL;
        c->from_file[m] = value.n > 0;
        return 0;
    }
    return err_set(c->e, ERR_FORMAT, "%s:%d: no pattern is called '%.*s'",
                   path, line, (int)name.n, name.p);
}

static int
read_overrides(struct compiler *c, const char *path)
{
    int rc = buf_read_file(&c->file, path, FILE_MAX);
    if (rc != 0 || buf_cstr(&c->file) == NULL)
        return err_set(c->e, rc ? rc : ERR_NOMEM, "%s: %s", path,
                       err_str(rc ? rc : ERR_NOMEM));
    int line = 1;
    for (char *p = c->file.data; rc == 0 && p; line++) {
        char *end = strchr(p, '\n');
        if (end)
            *end = '\0';
        rc = override(c, path, line, p);
        p = end ? end + 1 : NULL;
    }
    return rc;
}

/* --- public ------------------------------------------------------------------ */

pcre2_match_context *
filter_limits(void)
{
    pcre2_match_context *mc = pcre2_match_context_create(NULL);
    if (mc) {
        pcre2_set_match_limit(mc, MATCH_LIMIT);
        pcre2_set_heap_limit(mc, HEAP_LIMIT_KIB);
    }
    return mc;
}

int
filter_set_create(const char *version, filter_token_fn token, void *arg,
                  const char *path, struct filter_set **out, struct err *e)
{
    struct compiler c = {.token = token, .arg = arg, .e = e};
    const struct filter_format *f = filter_tab;

    while (f->version && strcmp(f->version, version) != 0)
        f++;
    if (f->version == NULL)
        return err_set(e, ERR_UNSUPPORTED, "no output patterns for prompt "
                       "format '%s'", version);
    for (int m = 0; m < MARKER_N; m++)
        c.pattern[m] = f->pattern[m];
    struct filter_set *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = path ? read_overrides(&c, path) : 0;
    if (rc == 0)
        rc = compile_expr(&c, MARKER_OPEN, &s->all);
    if (rc == 0)
        rc = compile_expr(&c, MARKER_CALL, &s->calls);
    if (rc == 0 && (s->limits = filter_limits()) == NULL)
        rc = err_set(e, ERR_NOMEM, "out of memory");
    buf_free(&c.file);
    if (rc != 0) {
        filter_set_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void
filter_set_free(struct filter_set *s)
{
    if (s == NULL)
        return;
    pcre2_code_free(s->all.code);
    pcre2_code_free(s->calls.code);
    pcre2_match_context_free(s->limits);
    free(s);
}

bool
filter_find(const struct filter_expr *x, pcre2_match_data *md,
            pcre2_match_context *limits, const char *s, size_t n, size_t from,
            bool last, struct filter_hit *out)
{
    uint32_t options = PCRE2_NOTEMPTY | (last ? 0 : PCRE2_PARTIAL_HARD);

    int rc = pcre2_match(x->code, (PCRE2_SPTR)s, n, from, options, md, limits);
    if (rc < 0 && rc != PCRE2_ERROR_PARTIAL) {
        if (rc != PCRE2_ERROR_NOMATCH)
            log_warn("output filter: PCRE2 error %d; text is passed on", rc);
        return false;
    }
    PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
    out->start = v[0];
    out->end = v[1];
    out->partial = rc == PCRE2_ERROR_PARTIAL;
    if (!out->partial) {
        PCRE2_SPTR mark = pcre2_get_mark(md);
        out->marker = mark ? (enum marker)(mark[0] - '0') : MARKER_N;
    }
    return true;
}
