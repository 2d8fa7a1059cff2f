#include "config.h"

#include "model/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "json/json.h"
#include "model/params.h"
#include "model/safetensors.h"

/*
 * Two layouts:
 *   native  params.json, consolidated*.safetensors
 *   HF      config.json, model*.safetensors
 * each as one file, or as shards NAME-00001-of-000NN.safetensors, with or
 * without NAME.safetensors.index.json. Published directories may hold both;
 * the native one is preferred when it is whole. The headers are the truth
 * about tensors; an index only says which files there must be and is checked
 * against the headers.
 */

#define INDEX_MAX (256u << 20)
#define LISTED 12 /* names an error spells out */

static const struct { const char *title, *params, *stem; } layouts[] = {
    [LAYOUT_NATIVE] = {"native", "params.json", "consolidated"},
    [LAYOUT_HF] = {"HF", "config.json", "model"},
};

/* Names of a directory, or of files that a layout wants. */
struct names {
    char **name;
    size_t n, cap;
};

static int
names_add(struct names *v, struct arena *a, const char *name)
{
    if (v->n == v->cap) {
        size_t cap = v->cap ? 2 * v->cap : 32;
        char **grown = arena_alloc(a, cap * sizeof *grown);
        if (grown == NULL)
            return ERR_NOMEM;
        if (v->n > 0)
            memcpy(grown, v->name, v->n * sizeof *grown);
        v->name = grown;
        v->cap = cap;
    }
    v->name[v->n] = arena_strndup(a, name, strlen(name));
    return v->name[v->n] == NULL ? ERR_NOMEM : (v->n++, 0);
}

static int
by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
names_sort(struct names *v)
{
    if (v->n > 0)
        qsort(v->name, v->n, sizeof *v->name, by_text);
}

static bool
names_has(const struct names *v, const char *name)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->name[i], name) == 0)
            return true;
    return false;
}

static int
scan(const char *dir, struct arena *a, struct names *out, struct err *e)
{
    DIR *d = opendir(dir);
    if (d == NULL)
        return err_set(e, errno == ENOENT ? ERR_NOENT : ERR_IO, "%s: %s",
                       dir, strerror(errno));
    int r = 0;
    for (struct dirent *f; r == 0 && (f = readdir(d)) != NULL;)
        if (f->d_name[0] != '.')
            r = names_add(out, a, f->d_name);
    closedir(d);
    names_sort(out);
    return r == 0 ? 0 : err_set(e, r, "%s: no memory for its names", dir);
}

static char *
join(struct arena *a, const char *dir, const char *name)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = arena_alloc(a, n);
    if (path != NULL)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

/* True for "stem-00003-of-00013.safetensors"; *of gets 13. */
static bool
is_shard(const char *name, const char *stem, int *of)
{
    size_t n = strlen(stem);
    int i, used = 0;
    if (strncmp(name, stem, n) != 0)
        return false;
    return sscanf(name + n, "-%5d-of-%5d.safetensors%n", &i, of, &used) == 2
           && used > 0 && name[n + (size_t)used] == '\0' && i >= 1
           && *of >= i;
}

/* Lists the files that an index names. */
static int
index_files(const char *path, struct arena *a, struct names *out,
            struct json_object **map, struct err *e)
{
    struct buf b = {0};
    struct json_object *root = NULL;
    struct map *seen = NULL;
    int r = buf_read_file(&b, path, INDEX_MAX);
    if (r != 0)
        err_set(e, r, "%s: %s", path, err_str(r));
    else if ((r = json_parse(b.data, b.len, 8, 0, &root, e)) != 0)
        err_prefix(e, "%s: ", path);
    buf_free(&b);
    if (r != 0)
        return r;
    struct json_object *w = json_get(root, "weight_map");
    if (!json_object_is_type(w, json_type_object)) {
        r = err_set(e, ERR_FORMAT, "%s: weight_map is missing", path);
        goto done;
    }
    seen = map_create(64);
    if (seen == NULL) {
        r = err_set(e, ERR_NOMEM, "%s: no memory", path);
        goto done;
    }
    json_object_object_foreach(w, key, value) {
        struct str s = json_str(value);
        bool was = false;
        if (s.n == 0 || memchr(s.p, '/', s.n) != NULL) {
            r = err_set(e, ERR_FORMAT, "%s: the file of tensor %.200s must "
                        "be a name", path, key);
            goto done;
        }
        if ((r = map_put(seen, s.p, s.n, 0, &was)) != 0
            || (!was && (r = names_add(out, a, s.p)) != 0)) {
            err_set(e, r, "%s: no memory", path);
            goto done;
        }
    }
    *map = json_object_get(w);
done:
    if (seen != NULL)
        map_free(seen);
    json_object_put(root);
    return r;
}

/* Lists the weight files the layout should have: those of its index, all of
 * its numbered shards, or the single file. */
static int
want_files(const char *dir, enum layout l, const struct names *there,
           struct arena *a, struct names *want, struct err *e)
{
    char name[80];
    const char *stem = layouts[l].stem;
    snprintf(name, sizeof name, "%s.safetensors", stem);
    if (names_has(there, name))
        return names_add(want, a, name);
    snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
    if (names_has(there, name)) {
        struct json_object *map = NULL;
        char *path = join(a, dir, name);
        if (path == NULL)
            return ERR_NOMEM;
        int r = index_files(path, a, want, &map, e);
        json_object_put(map);
        return r;
    }
    int of = 0;
    for (size_t i = 0; i < there->n && of == 0; i++)
        if (!is_shard(there->name[i], stem, &of))
            of = 0;
    for (int i = 1; i <= of; i++) {
        snprintf(name, sizeof name, "%s-%05d-of-%05d.safetensors", stem, i,
                 of);
        int r = names_add(want, a, name);
        if (r != 0)
            return r;
    }
    return 0;
}

static void
put_names(struct buf *b, const struct names *v)
{
    for (size_t i = 0; i < v->n && i < LISTED; i++)
        buf_printf(b, "%s%.60s", i ? ", " : "", v->name[i]);
    if (v->n == 0)
        buf_puts(b, "nothing");
    if (v->n > LISTED)
        buf_printf(b, " and %zu more", v->n - LISTED);
}

static int
incomplete(const char *dir, enum layout l, const struct names *there,
           const struct names *missing, struct err *e)
{
    struct buf has = {0}, lacks = {0};
    put_names(&has, there);
    put_names(&lacks, missing);
    const char *h = buf_cstr(&has), *k = buf_cstr(&lacks);
    int r = err_set(e, ERR_NOENT,
                    "%s: no whole checkpoint. There: %s. Closest to the %s "
                    "layout (%s, %s*.safetensors); missing: %s", dir,
                    h ? h : "?", layouts[l].title, layouts[l].params,
                    layouts[l].stem, k ? k : "?");
    buf_free(&has);
    buf_free(&lacks);
    return r;
}

/* Fills want and missing for a layout. */
static int
inspect(const char *dir, enum layout l, bool params_only,
        const struct names *there, struct arena *a, struct names *want,
        struct names *missing, struct err *e)
{
    int r = 0;
    if (!names_has(there, layouts[l].params))
        r = names_add(missing, a, layouts[l].params);
    if (params_only || r != 0)
        return r;
    if ((r = want_files(dir, l, there, a, want, e)) != 0)
        return r;
    names_sort(want);
    for (size_t i = 0; i < want->n && r == 0; i++)
        if (!names_has(there, want->name[i]))
            r = names_add(missing, a, want->name[i]);
    if (want->n == 0) {
        char name[80];
        snprintf(name, sizeof name, "%s.safetensors", layouts[l].stem);
        r = names_add(missing, a, name);
    }
    return r;
}

static int
take_layout(const char *dir, enum layout l, const struct names *want,
            struct arena *a, struct checkpoint *c)
{
    c->layout = l;
    c->params_path = join(a, dir, layouts[l].params);
    c->file = arena_calloc(a, want->n + 1, sizeof *c->file);
    if (c->params_path == NULL || c->file == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < want->n; i++) {
        struct model_file *f = &c->file[c->n_file];
        f->fd = -1;
        f->path = join(a, dir, want->name[i]);
        if (f->path == NULL)
            return ERR_NOMEM;
        c->n_file++;
    }
    if (want->n == 1)
        c->source = c->file[0].path;
    else
        c->source = join(a, dir, l == LAYOUT_HF
                         ? "model-*.safetensors"
                         : "consolidated-*.safetensors");
    return c->source == NULL ? ERR_NOMEM : 0;
}

int
checkpoint_find(const char *dir, bool params_only, struct arena *a,
                struct checkpoint *c, struct err *e)
{
    struct names there = {0}, want[2] = {{0}}, missing[2] = {{0}};
    memset(c, 0, sizeof *c);
    int r = scan(dir, a, &there, e);
    for (int l = LAYOUT_NATIVE; r == 0 && l <= LAYOUT_HF; l++) {
        r = inspect(dir, (enum layout)l, params_only, &there, a, &want[l],
                    &missing[l], e);
        if (r == 0 && missing[l].n == 0) {
            r = take_layout(dir, (enum layout)l, &want[l], a, c);
            return r == 0 ? 0 : err_set(e, r, "%s: no memory", dir);
        }
    }
    if (r == ERR_NOMEM)
        return err_set(e, r, "%s: no memory", dir);
    if (r != 0)
        return r;
    /* The layout that has more of what it wants is the one meant. */
    size_t native = want[0].n + names_has(&there, "params.json");
    size_t hf = want[1].n + names_has(&there, "config.json");
    enum layout l = hf > native ? LAYOUT_HF : LAYOUT_NATIVE;
    return incomplete(dir, l, &there, &missing[l], e);
}

static int
open_file(struct model_file *f, struct err *e)
{
    struct stat st;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return err_set(e, ERR_IO, "%s: %s", f->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_FORMAT, "%s: not a regular file", f->path);
    f->size = (uint64_t)st.st_size;
    return 0;
}

static int
index_tensors(struct checkpoint *c, const struct safetensors *part,
              struct arena *a, struct err *e)
{
    size_t n = 0, at = 0;
    for (int i = 0; i < c->n_file; i++)
        n += part[i].n;
    c->tensor = arena_calloc(a, n + 1, sizeof *c->tensor);
    c->by_name = map_create(n + 1);
    if (c->tensor == NULL || c->by_name == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory for %zu tensors",
                       c->source, n);
    for (int i = 0; i < c->n_file; i++)
        for (size_t k = 0; k < part[i].n; k++, at++) {
            bool was = false;
            struct tensor *t = &c->tensor[at].t;
            *t = part[i].tensor[k];
            t->file = i;
            if (map_put(c->by_name, t->name, strlen(t->name), at, &was) != 0)
                return err_set(e, ERR_NOMEM, "%s: no memory", c->source);
            if (was)
                return err_set(e, ERR_FORMAT,
                               "%s: tensor %.200s is also in another file",
                               c->file[i].path, t->name);
        }
    c->n_tensor = n;
    return 0;
}

/* Every name of the index must be in the file the index gives for it. */
static int
check_index(struct checkpoint *c, struct arena *a, struct err *e)
{
    const char *stem = layouts[c->layout].stem;
    const char *slash = strrchr(c->params_path, '/');
    char name[80], *dir;
    snprintf(name, sizeof name, "/%s.safetensors", stem);
    if (strcmp(strrchr(c->file[0].path, '/'), name) == 0)
        return 0; /* one file: no index was looked at */
    dir = arena_strndup(a, c->params_path, (size_t)(slash - c->params_path));
    snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
    char *path = dir ? join(a, dir, name) : NULL;
    if (path == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory", c->source);
    if (access(path, F_OK) != 0)
        return 0;
    struct names files = {0};
    struct json_object *map = NULL;
    int r = index_files(path, a, &files, &map, e);
    if (r != 0)
        return r;
    json_object_object_foreach(map, key, value) {
        struct tensor_slot *t = checkpoint_tensor(c, key);
        const char *want = json_str(value).p;
        const char *has = t ? strrchr(c->file[t->t.file].path, '/') + 1 : "";
        if (strcmp(want, has) == 0)
            continue;
        r = err_set(e, ERR_MISMATCH,
                    "%s: says tensor %.200s is in %s, but it is %s%s", path,
                    key, want, t ? "in " : "in no file", has);
        break;
    }
    json_object_put(map);
    return r;
}

int
checkpoint_read(struct checkpoint *c, struct arena *a, struct err *e)
{
    struct safetensors *part =
        arena_calloc(a, (size_t)c->n_file + 1, sizeof *part);
    if (part == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory", c->source);
    for (int i = 0; i < c->n_file; i++) {
        struct model_file *f = &c->file[i];
        int r = open_file(f, e);
        if (r == 0)
            r = safetensors_read(f->fd, f->size, f->path, a, &part[i], e);
        if (r != 0)
            return r;
        f->gap = part[i].gap;
        f->gap_before = f->gap ? part[i].gap_before->name : NULL;
    }
    int r = index_tensors(c, part, a, e);
    return r == 0 ? check_index(c, a, e) : r;
}

int
checkpoint_gaps(const struct checkpoint *c, int r, struct err *e)
{
    for (int i = 0; i < c->n_file; i++) {
        const struct model_file *f = &c->file[i];
        if (f->gap == 0)
            continue;
        if (r == 0)
            return err_set(e, ERR_FORMAT, "%s: %" PRIu64 " bytes before "
                           "tensor %.200s belong to no tensor", f->path,
                           f->gap, f->gap_before);
        size_t n = e ? strlen(e->text) : 0;
        if (e)
            snprintf(e->text + n, sizeof e->text - n, "; in %s, %" PRIu64
                     " bytes before tensor %.200s belong to none", f->path,
                     f->gap, f->gap_before);
        break;
    }
    return r;
}

void
checkpoint_close(struct checkpoint *c)
{
    for (size_t i = 0; i < c->n_tensor; i++)
        free(c->tensor[i].copy);
    for (struct tensor_slot *t = c->made; t != NULL; t = t->next)
        free(t->copy);
    for (int i = 0; i < c->n_file; i++) {
        if (c->file[i].map != NULL)
            munmap(c->file[i].map, c->file[i].size);
        if (c->file[i].fd >= 0)
            close(c->file[i].fd);
    }
    if (c->by_name != NULL)
        map_free(c->by_name);
    memset(c, 0, sizeof *c);
}

struct tensor_slot *
checkpoint_tensor(const struct checkpoint *c, const char *name)
{
    uint64_t i;
    if (!map_get(c->by_name, name, strlen(name), &i))
        return NULL;
    return &c->tensor[i];
}
