#include "config.h"

#include "model/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json/json.h"

/*
 * A safetensors file is a 64-bit header length, a JSON object of that length
 * and the data. Entries: name -> {dtype, shape, data_offsets}; offsets count
 * from the end of the header. The data must be covered without overlap, so the
 * sum of the parts is checked against the size of the file: a file cut short is
 * found here, before anything maps it.
 */

#define HEADER_MAX (100u << 20) /* the public implementation's limit */

static bool
dtype_find(struct str name, enum dtype *out)
{
    for (int t = 0; t <= DTYPE_F64; t++)
        if (str_eq(name, str_from(dtype_name((enum dtype)t)))) {
            *out = (enum dtype)t;
            return true;
        }
    return false;
}

static int
entry_error(const char *path, const char *name, const char *what,
            struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: tensor %.200s: %s", path, name, what);
}

/* Reads a JSON integer >= 0; false when o is something else. */
static bool
get_size(struct json_object *o, uint64_t *out)
{
    if (!json_object_is_type(o, json_type_int)
        || json_object_get_int64(o) < 0)
        return false;
    *out = json_object_get_uint64(o);
    return true;
}

static int
parse_shape(struct json_object *shape, struct tensor *t, uint64_t *bytes)
{
    if (!json_object_is_type(shape, json_type_array)
        || json_object_array_length(shape) > 4)
        return ERR_FORMAT;
    t->n_dim = (int)json_object_array_length(shape);
    *bytes = dtype_size(t->dtype);
    for (int i = 0; i < t->n_dim; i++) {
        uint64_t d;
        if (!get_size(json_object_array_get_idx(shape, (size_t)i), &d)
            || d > INT64_MAX || __builtin_mul_overflow(*bytes, d, bytes))
            return ERR_FORMAT;
        t->shape[i] = (int64_t)d;
    }
    return 0;
}

static int
parse_entry(const char *name, struct json_object *o, const char *path,
            struct tensor *t, struct err *e)
{
    struct json_object *offsets = json_get(o, "data_offsets");
    uint64_t begin, end, bytes;
    if (!dtype_find(json_str(json_get(o, "dtype")), &t->dtype)) {
        struct json_object *d = json_get(o, "dtype");
        return err_set(e, ERR_FORMAT, "%s: tensor %.200s: dtype %s is not "
                       "known", path, name,
                       d ? json_object_to_json_string(d) : "missing");
    }
    if (parse_shape(json_get(o, "shape"), t, &bytes) != 0)
        return entry_error(path, name, "shape must be an array of at most 4 "
                           "sizes", e);
    if (!json_object_is_type(offsets, json_type_array)
        || json_object_array_length(offsets) != 2
        || !get_size(json_object_array_get_idx(offsets, 0), &begin)
        || !get_size(json_object_array_get_idx(offsets, 1), &end)
        || end < begin)
        return entry_error(path, name, "data_offsets must be two ascending "
                           "numbers", e);
    if (end - begin != bytes)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %.200s has %" PRIu64 " bytes, its dtype "
                       "and shape make %" PRIu64, path, name, end - begin,
                       bytes);
    t->offset = begin;
    t->size = bytes;
    return 0;
}

static int
by_offset(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Checks that the tensors cover the data but for a gap, and makes offsets count
 * from the start of the file. */
static int
place(struct safetensors *s, uint64_t data_size, uint64_t data_start,
      const char *path, struct err *e)
{
    uint64_t at = 0;
    if (s->n > 0)
        qsort(s->tensor, s->n, sizeof *s->tensor, by_offset);
    for (size_t i = 0; i < s->n; i++) {
        struct tensor *t = &s->tensor[i];
        if (t->offset > at && s->gap == 0) {
            s->gap = t->offset - at;
            s->gap_before = t;
        }
        if (t->offset > at)
            at = t->offset;
        if (t->offset != at)
            return err_set(e, ERR_FORMAT,
                           "%s: tensor %.200s starts at byte %" PRIu64
                           " of the data, expected %" PRIu64, path, t->name,
                           t->offset, at);
        at += t->size;
        if (at > data_size)
            return err_set(e, ERR_FORMAT,
                           "%s: truncated in tensor %.200s: the file has %"
                           PRIu64 " bytes of data, this tensor ends at %"
                           PRIu64, path, t->name, data_size, at);
        t->offset += data_start;
    }
    if (at != data_size)
        return err_set(e, ERR_FORMAT,
                       "%s: has %" PRIu64 " bytes behind its last tensor",
                       path, data_size - at);
    return 0;
}

static int
parse_entries(struct json_object *root, const char *path, struct arena *a,
              struct safetensors *out, struct err *e)
{
    size_t n = (size_t)json_object_object_length(root);
    out->tensor = arena_calloc(a, n + 1, sizeof *out->tensor);
    if (out->tensor == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory for %zu tensors", path,
                       n);
    json_object_object_foreach(root, key, value) {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        struct tensor *t = &out->tensor[out->n];
        t->name = arena_strndup(a, key, strlen(key));
        if (t->name == NULL)
            return err_set(e, ERR_NOMEM, "%s: no memory for names", path);
        int r = parse_entry(key, value, path, t, e);
        if (r != 0)
            return r;
        out->n++;
    }
    return 0;
}

int
safetensors_parse(const char *header, size_t n, uint64_t data_size,
                  uint64_t data_start, const char *path, struct arena *a,
                  struct safetensors *out, struct err *e)
{
    struct json_object *root = NULL;
    *out = (struct safetensors){0};
    while (n > 0 && header[n - 1] == ' ')
        n--;
    int r = json_parse(header, n, 8, 0, &root, e);
    if (r != 0) {
        err_prefix(e, "%s: header: ", path);
        return r;
    }
    if (!json_object_is_type(root, json_type_object))
        r = err_set(e, ERR_FORMAT, "%s: header is not a JSON object", path);
    else
        r = parse_entries(root, path, a, out, e);
    json_object_put(root);
    return r == 0 ? place(out, data_size, data_start, path, e) : r;
}

int
safetensors_bytes(int fd, void *dst, size_t n, uint64_t from,
                  const char *path, struct err *e)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = pread(fd, (char *)dst + got, n - got,
                          (off_t)(from + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(e, ERR_IO, "%s: %s", path,
                           k < 0 ? strerror(errno) : "is truncated");
        got += (size_t)k;
    }
    return 0;
}

int
safetensors_read(int fd, uint64_t file_size, const char *path,
                 struct arena *a, struct safetensors *out, struct err *e)
{
    uint8_t raw[8];
    uint64_t n = 0;
    if (file_size < 8)
        return err_set(e, ERR_FORMAT,
                       "%s: truncated: %" PRIu64 " bytes, a safetensors file "
                       "has at least 8", path, file_size);
    int r = safetensors_bytes(fd, raw, 8, 0, path, e);
    if (r != 0)
        return r;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | raw[i];
    if (n > HEADER_MAX || n < 2)
        return err_set(e, ERR_FORMAT,
                       "%s: not a safetensors file (header of %" PRIu64
                       " bytes)", path, n);
    if (n > file_size - 8)
        return err_set(e, ERR_FORMAT,
                       "%s: truncated in the header: the file has %" PRIu64
                       " bytes, the header ends at %" PRIu64, path,
                       file_size, n + 8);
    char *header = malloc(n);
    if (header == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory for the header", path);
    r = safetensors_bytes(fd, header, n, 8, path, e);
    if (r == 0)
        r = safetensors_parse(header, n, file_size - 8 - n, n + 8, path, a,
                              out, e);
    free(header);
    return r;
}
