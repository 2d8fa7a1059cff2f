#include "config.h"

#include "model/bind.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/safetensors.h"

#define NAME_MAX_LEN 256

void
bind_problem(struct binder *b, int code, const char *fmt, ...)
{
    if (b->n_bad++ > 0)
        return;
    char text[ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(b->e, code, "%s", text);
}

bool
bind_has(const struct binder *b, const char *name)
{
    return !b->dummy && checkpoint_tensor(b->c, name) != NULL;
}

void
bind_ignore(struct binder *b, const char *name)
{
    struct tensor_slot *s = b->dummy ? NULL : checkpoint_tensor(b->c, name);
    if (s != NULL)
        s->bound = true;
}

static void
describe_shape(const int64_t *shape, int n_dim, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < n_dim && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%" PRId64,
                               i ? ", " : "", shape[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
}

static bool
same_shape(const struct tensor *t, const int64_t *shape, int n_dim)
{
    return t->n_dim == n_dim
           && memcmp(t->shape, shape, (size_t)n_dim * sizeof *shape) == 0;
}

/* The dtypes a slot takes, as a bit set of enum dtype, and their text. */
#define ACCEPTS(t) (1u << (t))
#define FLOATS \
    (ACCEPTS(DTYPE_BF16) | ACCEPTS(DTYPE_F16) | ACCEPTS(DTYPE_F32))

static const char *
accepts_text(unsigned accepts)
{
    if (accepts == FLOATS)
        return "BF16, F16 or F32";
    if (accepts == (FLOATS | ACCEPTS(DTYPE_F8_E4M3)))
        return "BF16, F16, F32, F8_E4M3 or NVFP4";
    if (accepts == ACCEPTS(DTYPE_U8))
        return "U8";
    return "F8_E4M3";
}

/* Finds a tensor and checks it; NULL after a problem. */
static struct tensor *
take(struct binder *b, const char *name, unsigned accepts,
     const int64_t *shape, int n_dim)
{
    char want[120], has[120];
    struct tensor_slot *s = checkpoint_tensor(b->c, name);
    describe_shape(shape, n_dim, want, sizeof want);
    if (s == NULL) {
        bind_problem(b, ERR_NOENT,
                     "%s: tensor %s is missing; expected %s of %s",
                     b->c->source, name, want, accepts_text(accepts));
        return NULL;
    }
    struct tensor *t = &s->t;
    s->bound = true;
    describe_shape(t->shape, t->n_dim, has, sizeof has);
    if (!same_shape(t, shape, n_dim) || !(accepts >> t->dtype & 1)) {
        bind_problem(b, ERR_MISMATCH,
                     "%s: tensor %s is %s of %s; expected %s of %s",
                     b->c->file[t->file].path, name, has,
                     dtype_name(t->dtype), want, accepts_text(accepts));
        return NULL;
    }
    b->bytes += t->size;
    return t;
}

/* Makes a tensor of a dummy load. */
static struct tensor *
make(struct binder *b, const char *name, enum dtype dtype,
     const int64_t *shape, int n_dim, struct dummy_form form)
{
    struct tensor_slot *s = arena_calloc(b->a, 1, sizeof *s);
    char *kept = arena_strndup(b->a, name, strlen(name));
    if (s == NULL || kept == NULL) {
        bind_problem(b, ERR_NOMEM, "%s: no memory for tensors",
                     b->c->params_path);
        return NULL;
    }
    s->t.name = kept;
    s->t.dtype = dtype;
    s->t.n_dim = n_dim;
    s->t.size = dtype_size(dtype);
    for (int i = 0; i < n_dim; i++) {
        s->t.shape[i] = shape[i];
        s->t.size *= (uint64_t)shape[i];
    }
    s->t.file = -1;
    s->t.seed = map_hash(name, strlen(name), b->seed);
    s->form = form;
    s->next = b->c->made;
    b->c->made = s;
    b->bytes += s->t.size;
    return &s->t;
}

const struct tensor *
bind_vector(struct binder *b, int64_t n, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    if (b->dummy)
        return make(b, name, DTYPE_BF16, &n, 1, dummy_norm());
    return take(b, name, FLOATS, &n, 1);
}

/* Value i of a small tensor of scales. False after a problem. */
static bool
read_scale(struct binder *b, const struct tensor *t, int64_t i, float *out)
{
    uint8_t raw[4];
    uint16_t h;
    size_t size = dtype_size(t->dtype);
    struct model_file *f = &b->c->file[t->file];
    if (safetensors_bytes(f->fd, raw, size, t->offset + (uint64_t)i * size,
                          f->path, NULL) != 0) {
        bind_problem(b, ERR_IO, "%s: tensor %s cannot be read", f->path,
                     t->name);
        return false;
    }
    memcpy(&h, raw, 2);
    if (t->dtype == DTYPE_F32)
        memcpy(out, raw, 4);
    else
        *out = t->dtype == DTYPE_BF16 ? bf16_to_float(h) : f16_to_float(h);
    if (isfinite(*out) && *out > 0)
        return true;
    bind_problem(b, ERR_RANGE,
                 "%s: tensor %s is %g; expected a positive scale", f->path,
                 t->name, (double)*out);
    return false;
}

/* A scale of one value, [] or [1]; needed or optional (then *out stays). */
static bool
bind_scale(struct binder *b, const char *stem, const char *suffix,
           bool needed, float *out)
{
    char name[NAME_MAX_LEN];
    const int64_t one = 1;
    snprintf(name, sizeof name, "%s.%s", stem, suffix);
    struct tensor_slot *s = checkpoint_tensor(b->c, name);
    if (s == NULL && !needed)
        return true;
    int n_dim = s != NULL && s->t.n_dim == 0 ? 0 : 1;
    const struct tensor *t = take(b, name, FLOATS, &one, n_dim);
    return t != NULL && read_scale(b, t, 0, out);
}

static void
bind_nvfp4(struct binder *b, struct weight *w, const char *stem)
{
    char name[NAME_MAX_LEN];
    int64_t codes[2] = {w->rows, w->cols / 2};
    int64_t blocks[2] = {w->rows, w->cols / 16};
    if (w->cols % 16 != 0) {
        bind_problem(b, ERR_MISMATCH,
                     "%s: tensor %s.weight_packed: NVFP4 needs a multiple of "
                     "16 columns, this matrix has %" PRId64, b->c->source,
                     stem, w->cols);
        return;
    }
    w->format = WEIGHT_NVFP4;
    snprintf(name, sizeof name, "%s.weight_packed", stem);
    w->data = take(b, name, ACCEPTS(DTYPE_U8), codes, 2);
    snprintf(name, sizeof name, "%s.weight_scale", stem);
    w->block = take(b, name, ACCEPTS(DTYPE_F8_E4M3), blocks, 2);
    if (bind_scale(b, stem, "weight_global_scale", true, &w->global))
        w->scale = 1 / w->global;
    bind_scale(b, stem, "input_global_scale", false, &w->act_scale);
}

static void
make_matrix(struct binder *b, struct weight *w, enum matrix_kind kind,
            double gain, const char *stem)
{
    char name[NAME_MAX_LEN];
    int64_t shape[2] = {w->rows, w->cols};
    double rms = gain / sqrt((double)w->cols), codes, blocks;
    enum quant_recipe q = kind == MATRIX_PLAIN ? QUANT_NONE : b->p->quant;
    if (q == QUANT_NVFP4 && kind == MATRIX_MLP && w->cols % 16 == 0) {
        int64_t packed[2] = {w->rows, w->cols / 2};
        int64_t scales[2] = {w->rows, w->cols / 16};
        w->format = WEIGHT_NVFP4;
        snprintf(name, sizeof name, "%s.weight_packed", stem);
        w->data = make(b, name, DTYPE_U8, packed, 2, dummy_codes(&codes));
        snprintf(name, sizeof name, "%s.weight_scale", stem);
        w->block = make(b, name, DTYPE_F8_E4M3, scales, 2,
                        dummy_blocks(&blocks));
        w->global = (float)(codes * blocks / rms);
        w->scale = 1 / w->global;
        w->act_scale = 1;
        return;
    }
    snprintf(name, sizeof name, "%s.weight", stem);
    if (q == QUANT_FP8) {
        w->format = WEIGHT_FP8;
        w->data = make(b, name, DTYPE_F8_E4M3, shape, 2, dummy_fp8(&codes));
        w->scale = (float)(rms / codes);
        w->act_scale = 1;
    } else {
        w->data = make(b, name, DTYPE_BF16, shape, 2, dummy_bf16(rms));
    }
}

/* The patch convolution is a matrix whose columns have three axes. */
static bool
is_patch_conv(const struct tensor *t, const struct weight *w)
{
    return t->n_dim == 4 && t->shape[0] == w->rows
           && t->shape[1] * t->shape[2] * t->shape[3] == w->cols;
}

void
bind_matrix(struct binder *b, struct weight *w, int64_t rows, int64_t cols,
            enum matrix_kind kind, double gain, const char *fmt, ...)
{
    char stem[NAME_MAX_LEN - 32], name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(stem, sizeof stem, fmt, ap);
    va_end(ap);
    memset(w, 0, sizeof *w);
    w->rows = rows;
    w->cols = cols;
    w->scale = 1;
    if (b->dummy) {
        make_matrix(b, w, kind, gain, stem);
        return;
    }
    snprintf(name, sizeof name, "%s.weight_packed", stem);
    if (bind_has(b, name)) {
        bind_nvfp4(b, w, stem);
        return;
    }
    snprintf(name, sizeof name, "%s.weight", stem);
    struct tensor_slot *s = checkpoint_tensor(b->c, name);
    int64_t shape[4] = {rows, cols};
    int n_dim = 2;
    if (s != NULL && is_patch_conv(&s->t, w)) {
        memcpy(shape, s->t.shape, sizeof shape);
        n_dim = 4;
    }
    w->data = take(b, name, FLOATS | ACCEPTS(DTYPE_F8_E4M3), shape, n_dim);
    if (w->data == NULL || w->data->dtype != DTYPE_F8_E4M3)
        return;
    bool hf = b->c->layout == LAYOUT_HF;
    w->format = WEIGHT_FP8;
    bind_scale(b, stem, hf ? "weight_scale_inv" : "qscale_weight", true,
               &w->scale);
    bind_scale(b, stem, hf ? "activation_scale" : "qscale_act", false,
               &w->act_scale);
}

/* Scales of fused matrices: [n, 1, 1] or [n]; NULL after a problem. */
static const struct tensor *
take_fused_scale(struct binder *b, const char *name, int64_t n)
{
    int64_t shape[3] = {n, 1, 1};
    struct tensor_slot *s = checkpoint_tensor(b->c, name);
    int n_dim = s != NULL && s->t.n_dim == 1 ? 1 : 3;
    return take(b, name, FLOATS, shape, n_dim);
}

void
bind_fused(struct binder *b, int64_t n, int part, int parts, int64_t rows,
           int64_t cols, struct weight *(*each)(void *arg, int64_t i),
           void *arg, const char *name)
{
    char extra[NAME_MAX_LEN];
    int64_t shape[3] = {n, parts * rows, cols};
    const struct tensor *scale = NULL, *act = NULL;
    uint64_t bytes = b->bytes;
    const struct tensor *t =
        take(b, name, FLOATS | ACCEPTS(DTYPE_F8_E4M3), shape, 3);
    if (t == NULL)
        return;
    if (t->dtype == DTYPE_F8_E4M3) {
        snprintf(extra, sizeof extra, "%s_scale_inv", name);
        if ((scale = take_fused_scale(b, extra, n)) == NULL)
            return;
        snprintf(extra, sizeof extra, "%s_activation_scale", name);
        if (bind_has(b, extra))
            act = take_fused_scale(b, extra, n);
    }
    if (part > 0) /* the first part has counted it */
        b->bytes = bytes;
    for (int64_t i = 0; i < n; i++) {
        struct weight *w = each(arg, i);
        *w = (struct weight){.rows = rows, .cols = cols, .scale = 1,
                             .data = t};
        w->first = (uint64_t)((i * parts + part) * rows * cols);
        if (scale == NULL)
            continue;
        w->format = WEIGHT_FP8;
        if (!read_scale(b, scale, i, &w->scale))
            return;
        if (act != NULL && !read_scale(b, act, i, &w->act_scale))
            return;
    }
}
