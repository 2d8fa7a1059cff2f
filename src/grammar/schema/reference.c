/* $ref and its kin: JSON pointers, anchors and ids inside the document.
 * Nothing is ever fetched. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/schema/keyword.h"
#include "json/json.h"

static int
hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One part of a pointer, unescaped, into out (room for n + 1). */
static void
unescape(const char *s, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '~' && i + 1 < n && (s[i + 1] == '0' || s[i + 1] == '1'))
            *out++ = s[++i] == '0' ? '~' : '/';
        else if (s[i] == '%' && i + 2 < n && hex(s[i + 1]) >= 0 &&
                 hex(s[i + 2]) >= 0) {
            *out++ = (char)(hex(s[i + 1]) * 16 + hex(s[i + 2]));
            i += 2;
        } else {
            *out++ = s[i];
        }
    }
    *out = '\0';
}

static struct json_object *
member(struct json_object *o, const char *key)
{
    struct json_object *x = NULL;
    if (json_object_is_type(o, json_type_object))
        json_object_object_get_ex(o, key, &x);
    else if (json_object_is_type(o, json_type_array) && *key >= '0' &&
             *key <= '9')
        x = json_object_array_get_idx(o, strtoul(key, NULL, 10));
    return x;
}

/* What the pointer (after #) names below o, NULL if nothing. */
static struct json_object *
follow(struct json_object *o, struct str pointer)
{
    char key[1024];

    while (o && pointer.n > 0) {
        const char *from = pointer.p + 1;
        const char *to = memchr(from, '/', pointer.n - 1);
        size_t n = to ? (size_t)(to - from) : pointer.n - 1;
        if (n >= sizeof key || pointer.p[0] != '/')
            return NULL;
        unescape(from, n, key);
        o = member(o, key);
        pointer.p += n + 1;
        pointer.n -= n + 1;
    }
    return o;
}

struct wanted {
    const char *key[2];      /* "$id" or "$anchor" and so on */
    struct str value;
    struct json_object *found;
    int n;
};

/* Objects anywhere in the document whose key has the value. Members of enum
 * and const are data, not schemas. */
static void
find(struct json_object *o, struct wanted *w)
{
    if (json_object_is_type(o, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(o); i++)
            find(json_object_array_get_idx(o, i), w);
        return;
    }
    if (!json_object_is_type(o, json_type_object))
        return;
    for (int k = 0; k < 2 && w->key[k]; k++) {
        struct str s = json_str(json_get(o, w->key[k]));
        if (s.n > 0 && s.p[s.n - 1] == '#')
            s.n--; /* an empty fragment */
        if (s.p && s.n > 0 && str_eq(s, w->value)) {
            w->found = o;
            w->n++;
            break;
        }
    }
    json_object_object_foreach(o, key, x) {
        if (strcmp(key, "enum") != 0 && strcmp(key, "const") != 0)
            find(x, w);
    }
}

static struct json_object *
find_value(struct alt_maker *m, const char *k1, const char *k2,
           struct str value, int *n)
{
    struct wanted w = {.key = {k1, k2}, .value = value};
    find(m->root, &w);
    *n = w.n;
    return w.found;
}

/* The base of the document with its last segment replaced by name. */
static struct json_object *
find_relative(struct alt_maker *m, struct str name, int *n)
{
    struct str base = json_str(json_get(m->root, "$id"));
    struct buf b = {0};
    struct json_object *o = NULL;

    if (base.p == NULL)
        base = json_str(json_get(m->root, "id"));
    while (base.n > 0 && base.p[base.n - 1] != '/')
        base.n--;
    if (base.n > 0 && buf_append(&b, base.p, base.n) == 0 &&
        buf_append(&b, name.p, name.n) == 0)
        o = find_value(m, "$id", "id", (struct str){b.data, b.len}, n);
    buf_free(&b);
    return o;
}

static struct json_object *
find_document(struct alt_maker *m, struct str uri)
{
    int n;

    if (uri.n == 0)
        return m->root;
    struct json_object *o = find_value(m, "$id", "id", uri, &n);
    return o ? o : find_relative(m, uri, &n);
}

struct json_object *
reference_find(struct alt_maker *m, const char *keyword, struct str text,
               const char *path, const char **target)
{
    const char *hash = text.p ? memchr(text.p, '#', text.n) : NULL;
    struct str uri = text, part = {NULL, 0};
    struct json_object *o = NULL;
    int n = 1;

    if (text.p == NULL) {
        schema_fail(m, ERR_FORMAT, path, keyword, "must be a string");
        return NULL;
    }
    if (hash) {
        uri.n = (size_t)(hash - text.p);
        part = (struct str){hash + 1, text.n - uri.n - 1};
    }
    struct json_object *document = find_document(m, uri);
    if (document && part.n > 0 && part.p[0] != '/') {
        o = find_value(m, "$anchor", "$dynamicAnchor", part, &n);
        if (o == NULL) { /* "$id": "#name", as up to draft 7 */
            struct str whole = {part.p - 1, part.n + 1};
            o = find_value(m, "$id", "id", whole, &n);
        }
    } else if (document) {
        o = follow(document, part);
    }
    if (o == NULL)
        schema_fail(m, ERR_UNSUPPORTED, path, keyword,
                    "names nothing in this document");
    else if (n > 1)
        schema_fail(m, ERR_UNSUPPORTED, path, keyword,
                    "names more than one schema");
    char *where = arena_strndup(m->pool.arena, part.p ? part.p : "", part.n);
    *target = where ? where : "";
    return m->rc ? NULL : o;
}
