#include "config.h"

#include "backend/script.h"

#include "json/json.h"

#include <stdlib.h>
#include <string.h>

#define SCRIPT_FILE_MAX (256u << 20)

static int parse_line(const char *p, size_t n, struct script *s,
                      struct err *e);
static int read_ids(struct json_object *o, struct ids *out, struct err *e);
static bool contains(const int32_t *id, size_t n, const struct ids *find);

int
script_load(const char *path, struct script_file *out, struct err *e)
{
    struct buf text = {0};
    struct script_file f = {0};
    int rc = buf_read_file(&text, path, SCRIPT_FILE_MAX);
    if (rc != 0)
        return err_set(e, rc, "script %s: %s", path, err_str(rc));
    for (const char *p = text.data, *end = p + text.len; p < end;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        struct script *more = realloc(f.line, (f.n + 1) * sizeof *more);
        if (more == NULL) {
            rc = err_set(e, ERR_NOMEM, "out of memory");
            break;
        }
        f.line = more;
        f.line[f.n] = (struct script){0};
        rc = parse_line(p, n, &f.line[f.n++], e);
        if (rc != 0) {
            if (e != NULL)
                err_prefix(e, "script %s, line %zu: ", path, f.n);
            break;
        }
        p += n + 1;
    }
    buf_free(&text);
    if (rc != 0)
        script_free(&f);
    else
        *out = f;
    return rc;
}

void
script_free(struct script_file *f)
{
    for (size_t i = 0; i < f->n; i++) {
        ids_free(&f->line[i].find);
        ids_free(&f->line[i].out);
    }
    free(f->line);
    *f = (struct script_file){0};
}

int32_t
script_max_id(const struct script_file *f)
{
    int32_t max = -1;
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0; k < f->line[i].out.n; k++)
            if (f->line[i].out.id[k] > max)
                max = f->line[i].out.id[k];
    return max;
}

const struct script *
script_pick(const struct script_file *f, uint64_t seed, const int32_t *prompt,
            size_t n_prompt)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->line[i].find.n > 0 &&
            contains(prompt, n_prompt, &f->line[i].find))
            return &f->line[i];
    if (seed < f->n && f->line[seed].find.n == 0)
        return &f->line[seed];
    return NULL;
}

static int
parse_line(const char *p, size_t n, struct script *s, struct err *e)
{
    struct json_object *o;
    int rc = json_parse(p, n, 4, 0, &o, e);
    if (rc != 0)
        return rc;
    if (json_object_is_type(o, json_type_object)) {
        rc = read_ids(json_get(o, "find"), &s->find, e);
        if (rc == 0 && s->find.n == 0)
            rc = err_set(e, ERR_FORMAT, "\"find\" is empty");
        if (rc == 0)
            rc = read_ids(json_get(o, "ids"), &s->out, e);
    } else {
        rc = read_ids(o, &s->out, e);
    }
    json_object_put(o);
    return rc;
}

static int
read_ids(struct json_object *o, struct ids *out, struct err *e)
{
    if (!json_object_is_type(o, json_type_array))
        return err_set(e, ERR_FORMAT, "not an array of token ids");
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        struct json_object *x = json_object_array_get_idx(o, i);
        int64_t id = json_is_integer(x) ? json_object_get_int64(x) : -1;
        if (id < 0 || id > INT32_MAX)
            return err_set(e, ERR_FORMAT, "element %zu is no token id", i);
        if (ids_push(out, (int32_t)id) != 0)
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

static bool
contains(const int32_t *id, size_t n, const struct ids *find)
{
    for (size_t i = 0; i + find->n <= n; i++)
        if (memcmp(id + i, find->id, find->n * sizeof *id) == 0)
            return true;
    return false;
}
