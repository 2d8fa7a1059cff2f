#include "config.h"

#include "model/model.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "model/bind.h"
#include "model/checkpoint.h"
#include "model/params.h"
#include "model/safetensors.h"

/*
 * DESIGN. model_open does all checking; afterwards only the page cache stands
 * between a reader and a tensor. Everything it makes lives in one arena, but
 * for the files (checkpoint) and for tensors kept in memory (tensor_slot.copy:
 * dummy ones, and those a file holds at an address that their dtype does not
 * allow). Those appear on first use, under the lock; the rest is read-only.
 */
struct model {
    char *dir;
    struct arena *arena;
    struct params_file p;
    struct checkpoint c;
    struct text_weights text;
    struct vision_weights vision;
    bool dummy;
    uint64_t bytes;
    pthread_mutex_t lock;   /* maps and copies */
};

static int
alloc_layers(struct model *m)
{
    const struct model_params *p = &m->p.params;
    m->text.layer = arena_calloc(m->arena, (size_t)p->text.n_layers,
                                 sizeof *m->text.layer);
    if (m->text.layer == NULL)
        return ERR_NOMEM;
    if (!p->has_vision)
        return 0;
    m->vision.layer = arena_calloc(m->arena, (size_t)p->vision.n_layers,
                                   sizeof *m->vision.layer);
    return m->vision.layer == NULL ? ERR_NOMEM : 0;
}

static int
open_model(struct model *m, const struct model_options *o, struct err *e)
{
    int r = checkpoint_find(m->dir, o->dummy, m->arena, &m->c, e);
    if (r != 0)
        return r;
    if (m->c.layout == LAYOUT_HF && o->draft)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a draft head must be in the native layout "
                       "(params.json, consolidated*.safetensors)", m->dir);
    r = m->c.layout == LAYOUT_HF
        ? params_read_hf(m->c.params_path, &m->p, e)
        : params_read_native(m->c.params_path, o->draft, &m->p, e);
    struct model_text_params *t = &m->p.params.text;
    bool partial = o->n_layers > 0 && o->n_layers < t->n_layers;
    if (partial)
        t->n_layers = o->n_layers;
    if (r == 0 && (r = alloc_layers(m)) != 0)
        err_set(e, r, "%s: no memory for the layers", m->dir);
    if (r == 0 && !o->dummy)
        r = checkpoint_read(&m->c, m->arena, e);
    if (r != 0)
        return r;
    struct binder b = {
        .c = &m->c, .a = m->arena, .p = &m->p, .dummy = o->dummy,
        .draft = o->draft, .partial = partial, .seed = o->seed, .text = &m->text, .e = e,
        .vision = m->p.params.has_vision ? &m->vision : NULL,
    };
    r = checkpoint_gaps(&m->c, bind_all(&b), e);
    m->bytes = b.bytes;
    return r;
}

int
model_open(const char *dir, const struct model_options *o,
           struct model **out, struct err *e)
{
    static const struct model_options plain;
    struct model *m = calloc(1, sizeof *m);
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "%s: no memory", dir);
    if (o == NULL)
        o = &plain;
    pthread_mutex_init(&m->lock, NULL);
    m->dummy = o->dummy;
    m->arena = arena_create(1 << 16, 0);
    m->dir = m->arena ? arena_strndup(m->arena, dir, strlen(dir)) : NULL;
    int r = m->dir == NULL ? err_set(e, ERR_NOMEM, "%s: no memory", dir)
                           : open_model(m, o, e);
    if (r != 0) {
        model_close(m);
        return r;
    }
    *out = m;
    return 0;
}

void
model_close(struct model *m)
{
    if (m == NULL)
        return;
    checkpoint_close(&m->c);
    arena_destroy(m->arena);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

const char *
model_dir(const struct model *m)
{
    return m->dir;
}

const struct model_params *
model_params(const struct model *m)
{
    return &m->p.params;
}

const struct text_weights *
model_text(const struct model *m)
{
    return &m->text;
}

const struct vision_weights *
model_vision(const struct model *m)
{
    return m->p.params.has_vision ? &m->vision : NULL;
}

uint64_t
model_bytes(const struct model *m)
{
    return m->bytes;
}

bool
model_is_dummy(const struct model *m)
{
    return m->dummy;
}

int
model_n_files(const struct model *m)
{
    return m->c.n_file;
}

const char *
model_file_path(const struct model *m, int file)
{
    return m->c.file[file].path;
}

int
model_read(const struct model *m, const struct tensor *t, uint64_t from,
           void *dst, uint64_t size, struct err *e)
{
    if (from > t->size || size > t->size - from)
        return err_set(e, ERR_RANGE, "%s: read behind the end of %.200s",
                       m->dir, t->name);
    if (t->file < 0) {
        dummy_fill(t->seed, tensor_slot(t)->form, from, dst, size);
        return 0;
    }
    const struct model_file *f = &m->c.file[t->file];
    return safetensors_bytes(f->fd, dst, size, t->offset + from, f->path, e);
}

/* Maps the file of t; a file that has shrunk since it was checked is an error
 * here, because touching a page behind its end would be fatal. */
static const char *
map_file(struct model *m, const struct tensor *t, struct err *e)
{
    struct model_file *f = &m->c.file[t->file];
    struct stat st;
    if (f->map != NULL)
        return f->map;
    if (fstat(f->fd, &st) != 0 || (uint64_t)st.st_size != f->size) {
        err_set(e, ERR_IO, "%s: has changed since it was opened", f->path);
        return NULL;
    }
    void *p = mmap(NULL, f->size, PROT_READ, MAP_SHARED, f->fd, 0);
    if (p == MAP_FAILED) {
        err_set(e, ERR_IO, "%s: cannot be mapped: %s", f->path,
                strerror(errno));
        return NULL;
    }
    return f->map = p;
}

static const void *
keep_copy(struct model *m, const struct tensor *t, struct err *e)
{
    struct tensor_slot *s = tensor_slot(t);
    if (s->copy != NULL)
        return s->copy;
    void *p = aligned_alloc(64, (t->size + 63) / 64 * 64 + 64);
    if (p == NULL) {
        err_set(e, ERR_NOMEM, "%s: no memory for tensor %.200s (%llu bytes)",
                m->dir, t->name, (unsigned long long)t->size);
        return NULL;
    }
    if (model_read(m, t, 0, p, t->size, e) != 0) {
        free(p);
        return NULL;
    }
    return s->copy = p;
}

const void *
model_data(struct model *m, const struct tensor *t, struct err *e)
{
    const void *data;
    pthread_mutex_lock(&m->lock);
    if (t->file < 0 || t->offset % dtype_size(t->dtype) != 0) {
        data = keep_copy(m, t, e);
    } else {
        const char *base = map_file(m, t, e);
        data = base == NULL ? NULL : base + t->offset;
    }
    pthread_mutex_unlock(&m->lock);
    return data;
}
