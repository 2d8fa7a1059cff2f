/*
 * Writers: strings, numbers, trees in two styles (struct style), and the two
 * accessors that readers of trees use most.
 */
#include "config.h"

#include "json/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "json/number.h"

/* --- strings --------------------------------------------------------------- */

static bool
plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static int
put_escape(struct buf *b, unsigned char c)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    if (at == NULL)
        return buf_printf(b, "\\u%04x", c);
    char pair[2] = {'\\', to[at - from]};
    return buf_append(b, pair, 2);
}

int
json_put_escaped(struct buf *b, const char *s, size_t n)
{
    if (buf_reserve(b, n) != 0)
        return ERR_NOMEM;
    size_t start = 0, i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        size_t len = 1;
        uint32_t cp = c;
        if (plain(c)) {
            i++;
            continue;
        }
        if (c >= 0x80) {
            len = utf8_decode(s + i, n - i, &cp);
            if (cp != 0xfffd) {
                i += len;
                continue;
            }
        }
        if (buf_append(b, s + start, i - start) != 0)
            return ERR_NOMEM;
        int rc = c >= 0x80 ? buf_append(b, "\xef\xbf\xbd", 3)
                           : put_escape(b, c);
        if (rc != 0)
            return rc;
        i += len;
        start = i;
    }
    return buf_append(b, s + start, n - start);
}

int
json_put_string(struct buf *b, const char *s, size_t n)
{
    if (buf_putc(b, '"') != 0 || json_put_escaped(b, s, n) != 0
        || buf_putc(b, '"') != 0)
        return ERR_NOMEM;
    return 0;
}

int
json_put_double(struct buf *b, double x)
{
    if (!isfinite(x))
        return buf_puts(b, "null");
    char text[NUMBER_TEXT_MAX];
    int n = snprintf(text, sizeof text, "%.9g", x);
    return buf_append(b, text, (size_t)n);
}

/* --- trees ----------------------------------------------------------------- */

/* What the two writers differ in. */
struct style {
    const char *comma, *colon;
    bool python; /* numbers by value as Python prints them */
    bool sort_keys;
};

static int put_tree(struct buf *b, struct json_object *o,
                    const struct style *st);

static int
put_integer(struct buf *b, struct json_object *o)
{
    /* Only a value above INT64_MAX is stored unsigned, and there the signed
     * reading is clamped. */
    int64_t v = json_object_get_int64(o);
    if (v == INT64_MAX)
        return buf_printf(b, "%" PRIu64, json_object_get_uint64(o));
    return buf_printf(b, "%" PRId64, v);
}

static int
put_number(struct buf *b, struct json_object *o, const struct style *st)
{
    if (json_object_get_type(o) == json_type_int)
        return put_integer(b, o);
    double x = json_object_get_double(o);
    if (json_is_integer(o))
        return buf_puts(b, json_number_text(o));
    if (!st->python)
        return isfinite(x) ? buf_puts(b, json_number_text(o))
                           : buf_puts(b, "null");
    char text[NUMBER_TEXT_MAX];
    number_repr(x, text);
    return buf_puts(b, text);
}

static int
put_array(struct buf *b, struct json_object *o, const struct style *st)
{
    size_t n = json_object_array_length(o);
    int rc = buf_putc(b, '[');
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (i > 0)
            rc = buf_puts(b, st->comma);
        if (rc == 0)
            rc = put_tree(b, json_object_array_get_idx(o, i), st);
    }
    return rc == 0 ? buf_putc(b, ']') : rc;
}

static int
put_member(struct buf *b, const struct lh_entry *m, bool first,
           const struct style *st)
{
    const char *key = lh_entry_k(m);
    int rc = first ? 0 : buf_puts(b, st->comma);
    if (rc == 0)
        rc = json_put_string(b, key, strlen(key));
    if (rc == 0)
        rc = buf_puts(b, st->colon);
    if (rc == 0)
        rc = put_tree(b, (struct json_object *)lh_entry_v(m), st);
    return rc;
}

static int
compare_keys(const void *a, const void *b)
{
    const struct lh_entry *const *x = a, *const *y = b;
    /* Order of UTF-8 bytes is order of code points, which Python sorts by. */
    return strcmp(lh_entry_k(*x), lh_entry_k(*y));
}

static int
put_sorted(struct buf *b, struct lh_table *t, const struct style *st)
{
    size_t n = 0;
    const struct lh_entry **m =
        malloc((size_t)lh_table_length(t) * sizeof *m + 1);
    if (m == NULL)
        return ERR_NOMEM;
    for (const struct lh_entry *e = lh_table_head(t); e; e = lh_entry_next(e))
        m[n++] = e;
    qsort(m, n, sizeof *m, compare_keys);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = put_member(b, m[i], i == 0, st);
    free(m);
    return rc;
}

static int
put_object(struct buf *b, struct json_object *o, const struct style *st)
{
    struct lh_table *t = json_object_get_object(o);
    int rc = buf_putc(b, '{');
    if (rc == 0 && st->sort_keys)
        rc = put_sorted(b, t, st);
    else
        for (const struct lh_entry *e = lh_table_head(t); e && rc == 0;
             e = lh_entry_next(e))
            rc = put_member(b, e, e == lh_table_head(t), st);
    return rc == 0 ? buf_putc(b, '}') : rc;
}

static int
put_tree(struct buf *b, struct json_object *o, const struct style *st)
{
    switch (json_object_get_type(o)) {
    case json_type_null:
        return buf_puts(b, "null");
    case json_type_boolean:
        return buf_puts(b, json_object_get_boolean(o) ? "true" : "false");
    case json_type_int:
    case json_type_double:
        return put_number(b, o, st);
    case json_type_string:
        return json_put_string(b, json_object_get_string(o),
                               (size_t)json_object_get_string_len(o));
    case json_type_array:
        return put_array(b, o, st);
    case json_type_object:
        return put_object(b, o, st);
    }
    return ERR_FORMAT;
}

int
json_dump_python(struct buf *b, struct json_object *o, bool sort_keys)
{
    struct style st = {", ", ": ", true, sort_keys};
    return put_tree(b, o, &st);
}

int
json_dump(struct buf *b, struct json_object *o)
{
    struct style st = {",", ":", false, false};
    return put_tree(b, o, &st);
}

/* --- reading ---------------------------------------------------------------- */

struct json_object *
json_get(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;
    if (json_object_get_type(o) == json_type_object)
        json_object_object_get_ex(o, key, &v);
    return v;
}

struct str
json_str(struct json_object *o)
{
    if (json_object_get_type(o) != json_type_string)
        return (struct str){NULL, 0};
    return (struct str){json_object_get_string(o),
                        (size_t)json_object_get_string_len(o)};
}
