/*
 * JSON parser by RFC 8259 into json-c objects.
 *
 * DESIGN. The text is checked for UTF-8 once as a whole; after that a string
 * is copied straight from the source unless it holds an escape, and the scan
 * for its end looks at eight bytes at a time (image bodies are one string of
 * megabytes). Arrays and objects recurse, bounded by the caller's depth.
 * Three bytes, `{},`, become 800 in json-c's tree, so that a length is no bound
 * on memory: with JSON_BOUNDED values are counted before they are made.
 * A number whose text json-c would not give back from its value keeps that
 * text as the object's userdata (json/number.c reads it).
 */
#include "config.h"

#include "json/json.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

struct parser {
    const char *s, *p, *end;
    int depth; /* levels still allowed */
    int flags;
    int units; /* values still allowed, as json.h counts them */
    struct buf scratch; /* a key, a decoded string or a number's text */
    struct err *e;
};

static int parse_value(struct parser *ps, struct json_object **out);

/* Line and column, counted from 1, the column in characters. */
static void
locate(const struct parser *ps, const char *at, size_t *line, size_t *column)
{
    *line = *column = 1;
    for (const char *c = ps->s; c < at; c++) {
        if (*c == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            ++*column;
        }
    }
}

static int
fail_at(struct parser *ps, const char *at, int code, const char *what)
{
    size_t line, column;
    locate(ps, at, &line, &column);
    return err_set(ps->e, code, "line %zu, column %zu: %s", line, column,
                   what);
}

static int
fail(struct parser *ps, const char *what)
{
    return fail_at(ps, ps->p, ERR_FORMAT,
                   ps->p < ps->end ? what : "the text ends too early");
}

static int
out_of_memory(struct parser *ps)
{
    return err_set(ps->e, ERR_NOMEM, "out of memory");
}

/* Counts what is about to be made. */
static int
take_units(struct parser *ps, int n)
{
    if (!(ps->flags & JSON_BOUNDED) || (ps->units -= n) >= 0)
        return 0;
    return fail_at(ps, ps->p, ERR_LIMIT, "too many values");
}

static void
skip_space(struct parser *ps)
{
    while (ps->p < ps->end
           && (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\r'
               || *ps->p == '\t'))
        ps->p++;
}

/* --- strings -------------------------------------------------------------- */

/* Moves over bytes that stand for themselves: all but `"`, `\` and controls. */
static const char *
skip_plain(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    for (; end - p >= 8; p += 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        uint64_t quote = v ^ ones * '"', slash = v ^ ones * '\\';
        /* A top bit is set in hit for each zero byte of quote and slash and
         * each byte of v below 0x20 (and maybe behind such a byte). */
        uint64_t hit = ((quote - ones) & ~quote) | ((slash - ones) & ~slash)
                       | ((v - ones * 0x20) & ~v);
        if (hit & tops)
            break;
    }
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
        p++;
    return p;
}

static int
hex4(const char *p, const char *end, uint32_t *out)
{
    if (end - p < 4)
        return ERR_FORMAT;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            digit = (uint32_t)(c - 'A' + 10);
        else
            return ERR_FORMAT;
        v = v << 4 | digit;
    }
    *out = v;
    return 0;
}

/* The character of `\u` at ps->p (behind the u), with its second half if it is
 * a surrogate pair. */
static int
parse_unicode(struct parser *ps, uint32_t *cp)
{
    if (hex4(ps->p, ps->end, cp) != 0)
        return fail(ps, "expected four hexadecimal digits after \\u");
    ps->p += 4;
    if (*cp < 0xd800 || *cp > 0xdfff)
        return 0;
    uint32_t low;
    if (*cp < 0xdc00 && ps->end - ps->p >= 6 && ps->p[0] == '\\'
        && ps->p[1] == 'u' && hex4(ps->p + 2, ps->end, &low) == 0
        && low >= 0xdc00 && low <= 0xdfff) {
        *cp = 0x10000 + ((*cp - 0xd800) << 10) + (low - 0xdc00);
        ps->p += 6;
    } else {
        *cp = 0xfffd;
    }
    return 0;
}

/* Appends what the escape at ps->p (behind the backslash) stands for. */
static int
parse_escape(struct parser *ps)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (ps->p == ps->end)
        return fail(ps, "");
    char c = *ps->p;
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    char bytes[4];
    size_t n = 1;
    if (at != NULL) {
        ps->p++;
        bytes[0] = to[at - from];
    } else if (c == 'u') {
        ps->p++;
        uint32_t cp;
        int rc = parse_unicode(ps, &cp);
        if (rc != 0)
            return rc;
        n = utf8_encode(cp, bytes);
    } else {
        return fail(ps, "unknown escape in a string");
    }
    if (buf_append(&ps->scratch, bytes, n) != 0)
        return out_of_memory(ps);
    return 0;
}

/* String at the opening quote. The result points into the source or into the
 * scratch buffer. */
static int
parse_string(struct parser *ps, struct str *out)
{
    const char *start = ++ps->p;
    ps->p = skip_plain(ps->p, ps->end);
    if (ps->p < ps->end && *ps->p == '"') {
        *out = (struct str){start, (size_t)(ps->p - start)};
        ps->p++;
        return 0;
    }
    ps->scratch.len = 0;
    for (;;) {
        if (buf_append(&ps->scratch, start, (size_t)(ps->p - start)) != 0)
            return out_of_memory(ps);
        if (ps->p == ps->end)
            return fail(ps, "");
        if (*ps->p == '"')
            break;
        if (*ps->p != '\\')
            return fail(ps, "a control character in a string must be escaped");
        ps->p++;
        int rc = parse_escape(ps);
        if (rc != 0)
            return rc;
        start = ps->p;
        ps->p = skip_plain(ps->p, ps->end);
    }
    ps->p++;
    *out = (struct str){ps->scratch.data, ps->scratch.len};
    return 0;
}

static int
string_value(struct parser *ps, struct json_object **out)
{
    struct str s;
    int rc = parse_string(ps, &s);
    if (rc != 0)
        return rc;
    *out = json_object_new_string_len(s.n ? s.p : "", (int)s.n);
    return *out != NULL ? 0 : out_of_memory(ps);
}

/* --- numbers -------------------------------------------------------------- */

static bool
digit_at(const struct parser *ps)
{
    return ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9';
}

static int
skip_digits(struct parser *ps)
{
    if (!digit_at(ps))
        return fail(ps, "expected a digit");
    while (digit_at(ps))
        ps->p++;
    return 0;
}

/* Moves over a number's characters; *whole: neither fraction nor exponent. */
static int
scan_number(struct parser *ps, bool *whole)
{
    int rc;
    *whole = true;
    if (*ps->p == '-')
        ps->p++;
    if (ps->p < ps->end && *ps->p == '0') {
        ps->p++;
        if (digit_at(ps))
            return fail(ps, "a number must not start with 0");
    } else if ((rc = skip_digits(ps)) != 0) {
        return rc;
    }
    if (ps->p < ps->end && *ps->p == '.') {
        *whole = false;
        ps->p++;
        if ((rc = skip_digits(ps)) != 0)
            return rc;
    }
    if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
        *whole = false;
        ps->p++;
        if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-'))
            ps->p++;
        if ((rc = skip_digits(ps)) != 0)
            return rc;
    }
    return 0;
}

/* Zero that keeps its sign in json_number_text. */
static struct json_object *
minus_zero(void)
{
    struct json_object *o = json_object_new_int64(0);
    char *text = strdup("-0");
    if (o == NULL || text == NULL) {
        json_object_put(o);
        free(text);
        return NULL;
    }
    json_object_set_serializer(o, json_object_userdata_to_json_string, text,
                               json_object_free_userdata);
    return o;
}

/* Integer that fits 64 bits; NULL when it does not. */
static struct json_object *
small_integer(const char *text, size_t n)
{
    if (n > 20)
        return NULL;
    if (strcmp(text, "-0") == 0)
        return minus_zero();
    errno = 0;
    if (text[0] == '-') {
        long long v = strtoll(text, NULL, 10);
        return errno ? NULL : json_object_new_int64(v);
    }
    unsigned long long v = strtoull(text, NULL, 10);
    if (errno)
        return NULL;
    return v <= INT64_MAX ? json_object_new_int64((int64_t)v)
                          : json_object_new_uint64(v);
}

static int
number_value(struct parser *ps, struct json_object **out)
{
    const char *start = ps->p;
    bool whole;
    int rc = scan_number(ps, &whole);
    if (rc != 0)
        return rc;
    size_t n = (size_t)(ps->p - start);
    ps->scratch.len = 0;
    if (buf_append(&ps->scratch, start, n) != 0
        || buf_putc(&ps->scratch, '\0') != 0)
        return out_of_memory(ps);
    const char *text = ps->scratch.data;
    *out = whole ? small_integer(text, n) : NULL;
    if (*out == NULL)
        *out = json_object_new_double_s(strtod(text, NULL), text);
    return *out != NULL ? 0 : out_of_memory(ps);
}

/* --- words, arrays, objects ----------------------------------------------- */

static bool
take_word(struct parser *ps, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(ps->end - ps->p) < n || memcmp(ps->p, word, n) != 0)
        return false;
    ps->p += n;
    return true;
}

static int
word_value(struct parser *ps, struct json_object **out)
{
    *out = NULL;
    if (take_word(ps, "null"))
        return 0;
    if (take_word(ps, "true"))
        *out = json_object_new_boolean(1);
    else if (take_word(ps, "false"))
        *out = json_object_new_boolean(0);
    else if (ps->flags & JSON_NAN && take_word(ps, "NaN"))
        *out = json_object_new_double_s(NAN, "NaN");
    else if (ps->flags & JSON_NAN && take_word(ps, "Infinity"))
        *out = json_object_new_double_s(INFINITY, "Infinity");
    else if (ps->flags & JSON_NAN && take_word(ps, "-Infinity"))
        *out = json_object_new_double_s(-INFINITY, "-Infinity");
    else
        return fail(ps, "expected a value");
    return *out != NULL ? 0 : out_of_memory(ps);
}

/* Behind an element: moves over `,` or the closing bracket. */
static int
next_element(struct parser *ps, char close, bool *more)
{
    skip_space(ps);
    if (ps->p < ps->end && (*ps->p == ',' || *ps->p == close)) {
        *more = *ps->p == ',';
        ps->p++;
        skip_space(ps);
        return 0;
    }
    return fail(ps, close == ']' ? "expected , or ]" : "expected , or }");
}

static int
array_elements(struct parser *ps, struct json_object *array)
{
    bool more = true;
    while (more) {
        struct json_object *v;
        int rc = parse_value(ps, &v);
        if (rc != 0)
            return rc;
        if (json_object_array_add(array, v) != 0) {
            json_object_put(v);
            return out_of_memory(ps);
        }
        if ((rc = next_element(ps, ']', &more)) != 0)
            return rc;
    }
    return 0;
}

/* Key at ps->p into *key, which the caller frees, and over the colon. */
static int
parse_key(struct parser *ps, struct buf *key)
{
    const char *at = ps->p;
    if (at == ps->end || *at != '"')
        return fail(ps, "expected a key in double quotes");
    struct str s;
    int rc = parse_string(ps, &s);
    if (rc != 0)
        return rc;
    if (memchr(s.n ? s.p : "", '\0', s.n) != NULL)
        return fail_at(ps, at, ERR_FORMAT, "a key must not hold U+0000");
    key->len = 0;
    if (buf_append(key, s.p, s.n) != 0 || buf_putc(key, '\0') != 0)
        return out_of_memory(ps);
    skip_space(ps);
    if (ps->p == ps->end || *ps->p != ':')
        return fail(ps, "expected :");
    ps->p++;
    skip_space(ps);
    return 0;
}

static int
object_members(struct parser *ps, struct json_object *object)
{
    struct buf key = {0};
    bool more = true;
    int rc = 0;
    while (more && rc == 0) {
        struct json_object *v = NULL;
        rc = parse_key(ps, &key);
        if (rc == 0)
            rc = take_units(ps, 1);
        if (rc == 0)
            rc = parse_value(ps, &v);
        if (rc == 0 && json_object_object_add_ex(object, key.data, v, 0)) {
            json_object_put(v);
            rc = out_of_memory(ps);
        }
        if (rc == 0)
            rc = next_element(ps, '}', &more);
    }
    buf_free(&key);
    return rc;
}

static int
container_value(struct parser *ps, struct json_object **out)
{
    bool array = *ps->p == '[';
    if (ps->depth == 0)
        return fail_at(ps, ps->p, ERR_LIMIT, "nested too deep");
    int rc = take_units(ps, array ? 2 : 8);
    if (rc != 0)
        return rc;
    struct json_object *o =
        array ? json_object_new_array_ext(4) : json_object_new_object();
    if (o == NULL)
        return out_of_memory(ps);
    ps->depth--;
    ps->p++;
    skip_space(ps);
    if (ps->p < ps->end && *ps->p == (array ? ']' : '}'))
        ps->p++;
    else
        rc = array ? array_elements(ps, o) : object_members(ps, o);
    ps->depth++;
    if (rc != 0) {
        json_object_put(o);
        return rc;
    }
    *out = o;
    return 0;
}

static int
parse_value(struct parser *ps, struct json_object **out)
{
    *out = NULL;
    if (ps->p == ps->end)
        return fail(ps, "");
    int rc = take_units(ps, 1);
    if (rc != 0)
        return rc;
    switch (*ps->p) {
    case '"':
        return string_value(ps, out);
    case '{':
    case '[':
        return container_value(ps, out);
    case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9':
        return number_value(ps, out);
    case '-':
        if (ps->end - ps->p > 1 && ps->p[1] == 'I')
            return word_value(ps, out);
        return number_value(ps, out);
    default:
        return word_value(ps, out);
    }
}

static int
bad_utf8(struct parser *ps)
{
    const char *p = ps->s;
    while (p < ps->end) {
        uint32_t cp;
        size_t n = utf8_decode(p, (size_t)(ps->end - p), &cp);
        if (!utf8_valid(p, n))
            break;
        p += n;
    }
    return fail_at(ps, p, ERR_FORMAT, "the text is not valid UTF-8");
}

int
json_parse(const char *s, size_t n, int depth, int flags,
           struct json_object **out, struct err *e)
{
    if (n > INT_MAX)
        return err_set(e, ERR_LIMIT, "the text is longer than 2 GiB");
    struct parser ps = {s, s, s + n, depth, flags, JSON_UNITS, {0}, e};
    if (!utf8_valid(s, n))
        return bad_utf8(&ps);
    struct json_object *o = NULL;
    skip_space(&ps);
    int rc = parse_value(&ps, &o);
    if (rc == 0) {
        skip_space(&ps);
        if (ps.p < ps.end)
            rc = fail(&ps, "expected the end of the text");
    }
    buf_free(&ps.scratch);
    if (rc != 0) {
        json_object_put(o);
        return rc;
    }
    *out = o;
    return 0;
}
