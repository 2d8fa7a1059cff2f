/*
 * Images: the vision tower and its projector, pixels in, one vector of the
 * text model's width a cell of merged patches out, kept on the device until
 * the image is in the cache.
 *
 *   x = norm(conv(pixels))
 *   x += wo . attention(norm(x));  x += w2 . (silu(w1 .) * (w3 .)) norm(x)
 *   vector = w_out . gelu(w_in . merge(norm(x)))
 *
 * DESIGN. An encoding is a row of launches on the stream of the steps: the
 * caller waits for its pixels to be copied only, which happens on a stream of
 * its own beside running steps, and a step that needs the vectors comes behind
 * them in order. What a large image takes would hold up the steps of others,
 * so its layers are launched a slice behind each step; the step that needs the
 * image, or the next image, has the rest launched first. One is on its way at
 * a time. The residual x is fp32 as in the decoder. All patches go through a
 * layer at once, but for the MLP, which would need four times the memory.
 * Vectors lie in one array, taken first fit: an image's rows are in one piece,
 * and any image fits when no other is there.
 */
#include "config.h"

#include "cuda/cuda_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLAS_FROM 33     /* rows from which products go to the library */

/* Evaluates a launch; on failure names it and leaves the function. */
#define RUN(name, call)                                                   \
    do {                                                                  \
        int status_ = (call);                                             \
        if (status_ == 0 && c->tower.watch != NULL)                       \
            status_ = c->tower.watch(c->tower.watch_arg, name);           \
        if (status_ != 0) {                                               \
            snprintf(c->trouble, sizeof c->trouble, "image: %s", name);   \
            return status_;                                               \
        }                                                                 \
    } while (0)

/* --- what the kernels take ---------------------------------------------------- */

static int
check_weight(const struct weight *w, struct err *e)
{
    if (w->format != WEIGHT_PLAIN || w->data->dtype != DTYPE_BF16)
        return err_set(e, ERR_UNSUPPORTED, "%s: the cuda back end takes a "
                       "vision tower in BF16 only", w->data->name);
    return 0;
}

static int
check_tensor(const struct tensor *t, struct err *e)
{
    if (t != NULL && t->dtype != DTYPE_BF16)
        return err_set(e, ERR_UNSUPPORTED, "%s: the cuda back end takes a "
                       "vision tower in BF16 only", t->name);
    return 0;
}

static int
check_forms(const struct model *m, struct err *e)
{
    const struct vision_weights *w = model_vision(m);
    const struct weight *outer[] = {&w->patch_conv, &w->merge, &w->w_in,
                                    &w->w_out};
    int r = check_tensor(w->ln_pre, e);
    if (r == 0)
        r = check_tensor(w->pre_projector_norm, e);
    for (size_t i = 0; r == 0 && i < sizeof outer / sizeof *outer; i++)
        r = check_weight(outer[i], e);
    for (int i = 0; r == 0 && i < model_params(m)->vision.n_layers; i++) {
        const struct vision_layer_weights *l = &w->layer[i];
        const struct weight *in[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w1,
                                     &l->w2, &l->w3};
        r = check_tensor(l->attention_norm, e);
        if (r == 0)
            r = check_tensor(l->ffn_norm, e);
        for (size_t k = 0; r == 0 && k < sizeof in / sizeof *in; k++)
            r = check_weight(in[k], e);
    }
    return r;
}

static int
check_shape(const struct model_vision_params *p, struct err *e)
{
    if (p->n_heads < 1 || p->dim != p->n_heads * VISION_HEAD)
        return err_set(e, ERR_UNSUPPORTED, "the cuda back end needs vision "
                       "heads of %d; the model has %d heads in %d",
                       VISION_HEAD, p->n_heads, p->dim);
    if (p->hidden % 64 || p->dim > 8192)
        return err_set(e, ERR_UNSUPPORTED, "the cuda back end needs the "
                       "vision tower's intermediate_size to be a multiple of "
                       "64 and its width at most 8192; the model has %d and "
                       "%d", p->hidden, p->dim);
    return 0;
}

int
encoder_init(struct cuda *c, struct err *e)
{
    struct cuda_tower *v = &c->tower;
    if (!model_params(c->model)->has_vision)
        return 0;
    v->p = model_params(c->model)->vision;
    int r = check_shape(&v->p, e);
    if (r == 0)
        r = check_forms(c->model, e);
    if (r != 0)
        return r;
    const int cell = v->p.patch * v->p.merge;
    const uint32_t side = (uint32_t)((v->p.image_size + cell - 1) / cell);
    v->lines = (int)side * v->p.merge;
    v->cells = side * side;
    v->patches = (uint32_t)v->lines * (uint32_t)v->lines;
    v->rows = IMAGES_LARGE * v->cells;
    if (v->layer == NULL)
        v->layer = calloc((size_t)v->p.n_layers, sizeof *v->layer);
    return v->layer ? 0 : err_set(e, ERR_NOMEM, "no memory for the vision "
                                  "layers");
}

/* What a stage needs for the time it runs: the patches' pixels; queries, keys
 * and values; hidden units; cells, merged and projected. */
uint64_t
encoder_wide_bytes(const struct cuda *c)
{
    const struct cuda_tower *v = &c->tower;
    const uint64_t n = v->patches, dim = (uint64_t)v->p.dim;
    const uint64_t part = n < MLP_PATCHES ? n : MLP_PATCHES;
    const uint64_t size[] = {
        n * (uint64_t)v->conv.cols * 2, n * 3 * dim * 2,
        part * 2 * (uint64_t)v->p.hidden * 2,
        n * dim * 2 + v->cells * (dim + (uint64_t)c->p.dim) * 2,
    };
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        most = size[i] > most ? size[i] : most;
    return most;
}

/* --- loading ------------------------------------------------------------------ */

/* The first matrix, its rows padded to a multiple of 64 columns. */
static int
load_conv(struct cuda *c, struct err *e)
{
    const struct weight *w = &model_vision(c->model)->patch_conv;
    const size_t from = (size_t)w->cols, to = (size_t)c->tower.conv.cols;
    const size_t rows = (size_t)w->rows;
    uint16_t *in = malloc(rows * from * 2), *out = calloc(rows * to, 2);
    int r = in != NULL && out != NULL ? 0
        : err_set(e, ERR_NOMEM, "no memory for the patches' matrix");
    if (r == 0)
        r = model_read(c->model, w->data, w->first * 2, in, rows * from * 2,
                       e);
    for (size_t i = 0; r == 0 && i < rows; i++)
        memcpy(out + i * to, in + i * from, from * 2);
    if (r == 0)
        r = cuda_check(c, (int)cudaMemcpy(
                           (void *)(uintptr_t)c->tower.conv.data, out,
                           rows * to * 2, cudaMemcpyHostToDevice),
                       "loading the vision tower", e);
    free(in);
    free(out);
    return r;
}

/* Of a head's pairs the first half turns with the patch's row, by every second
 * frequency from the first; the others with its column, by those between. */
static int
load_angles(struct cuda *c, struct err *e)
{
    const struct cuda_tower *v = &c->tower;
    const int pairs = VISION_HEAD / 4;
    const size_t n = 2 * (size_t)v->lines * (size_t)pairs;
    float *t = malloc(n * 2 * sizeof *t);
    if (t == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the vision tower");
    for (size_t i = 0; i < n; i++) {
        int column = i >= n / 2, k = (int)(i % (size_t)pairs);
        int line = (int)(i / (size_t)pairs) % v->lines;
        double g = pow(v->p.rope_theta, -2.0 * (2 * k + column)
                       / VISION_HEAD);
        float a = (float)line * (float)g;
        t[2 * i] = (float)cos((double)a);
        t[2 * i + 1] = (float)sin((double)a);
    }
    int r = cuda_check(c, (int)cudaMemcpy(v->angles, t, n * 8,
                                          cudaMemcpyHostToDevice),
                       "loading the vision tower", e);
    free(t);
    return r;
}

int
encoder_prepare(struct cuda *c, struct err *e)
{
    struct cuda_tower *v = &c->tower;
    if (v->layer == NULL)
        return 0;
    int r = load_conv(c, e);
    if (r == 0)
        r = load_angles(c, e);
    if (r == 0)
        r = cuda_check(c, (int)cudaStreamCreateWithFlags(
                           &v->copy, cudaStreamNonBlocking), "stream", e);
    if (r == 0)
        r = cuda_check(c, (int)cudaEventCreateWithFlags(
                           &v->copied, cudaEventDisableTiming), "event", e);
    if (r == 0)
        r = cuda_check(c, (int)cudaEventCreateWithFlags(
                           &v->cut, cudaEventDisableTiming), "event", e);
    return r;
}

void
encoder_close(struct cuda *c)
{
    struct cuda_tower *v = &c->tower;
    free(v->layer);
    if (v->copied)
        cudaEventDestroy(v->copied);
    if (v->cut)
        cudaEventDestroy(v->cut);
    if (v->copy)
        cudaStreamDestroy(v->copy);
}

/* --- an encoding --------------------------------------------------------------- */

static int
multiply(struct cuda *c, const struct cuda_matrix *w, const void *x, int ldx,
         int n, void *out, int ldo, enum gemm_out form)
{
    struct gemm g = {
        .w = *w, .x = x, .ldx = ldx, .n = n, .out = out, .ldo = ldo,
        .form = form,
    };
    if (c->blas && n >= BLAS_FROM && cuda_blas_gemm(c->blas, &g, c->stream)
        == 0)
        return 0;
    return cuda_gemm(&g, c->stream);
}

static int
embed_patches(struct cuda *c, const float *pixels)
{
    const struct cuda_tower *v = &c->tower;
    const struct cuda_encoding *t = &v->making;
    const size_t size = (size_t)v->p.channels * (size_t)t->height
                        * (size_t)t->width * sizeof *pixels;
    struct patches p = {
        .pixels = v->pixels, .height = t->height, .width = t->width,
        .channels = v->p.channels, .patch = v->p.patch, .out = v->wide,
        .ldo = v->conv.cols,
    };
    RUN("copy", (int)cudaStreamWaitEvent(v->copy, v->cut, 0));
    RUN("copy", (int)cudaMemcpyAsync(v->pixels, pixels, size,
                                     cudaMemcpyHostToDevice, v->copy));
    RUN("copy", (int)cudaEventRecord(v->copied, v->copy));
    RUN("copy", (int)cudaStreamWaitEvent(c->stream, v->copied, 0));
    RUN("patches", cuda_patches(&p, c->stream));
    RUN("copy", (int)cudaEventRecord(v->cut, c->stream));
    RUN("conv", multiply(c, &v->conv, v->wide, v->conv.cols, t->n, v->x,
                         v->p.dim, GEMM_F32));
    RUN("first norm", cuda_norm_kept(v->x, v->ln_pre, TOWER_EPS, t->n,
                                     v->p.dim, c->stream));
    return 0;
}

static int
attention_part(struct cuda *c, const struct cuda_tower_layer *l)
{
    const struct cuda_tower *v = &c->tower;
    const struct cuda_encoding *t = &v->making;
    const int dim = v->p.dim;
    struct rope_2d rope = {
        .qkv = v->wide, .table = v->angles, .lines = v->lines, .n = t->n,
        .cols = t->cols, .heads = v->p.n_heads,
        .halves = model_vision(c->model)->hf_rope,
    };
    struct attn_full a = {
        .qkv = v->wide, .out = v->h, .n = t->n, .heads = v->p.n_heads,
        .scale = 1 / sqrtf(VISION_HEAD),
    };
    RUN("attention norm", cuda_norm(v->x, NULL, l->attention_norm, TOWER_EPS,
                                    v->h, t->n, dim, c->stream));
    RUN("qkv", multiply(c, &l->qkv, v->h, dim, t->n, v->wide, 3 * dim,
                        GEMM_BF16));
    RUN("rope", cuda_rope_2d(&rope, c->stream));
    RUN("attention", cuda_attn_full(&a, c->stream));
    RUN("wo", multiply(c, &l->wo, v->h, dim, t->n, v->x, dim, GEMM_ADD));
    return 0;
}

static int
mlp_part(struct cuda *c, const struct cuda_tower_layer *l)
{
    const struct cuda_tower *v = &c->tower;
    const struct cuda_encoding *t = &v->making;
    const int dim = v->p.dim, hidden = v->p.hidden;

    RUN("MLP norm", cuda_norm(v->x, NULL, l->ffn_norm, TOWER_EPS, v->h, t->n,
                              dim, c->stream));
    for (int at = 0; at < t->n; at += MLP_PATCHES) {
        int n = t->n - at < MLP_PATCHES ? t->n - at : MLP_PATCHES;
        const char *h = (const char *)v->h + (size_t)at * (size_t)dim * 2;
        RUN("w1 and w3", multiply(c, &l->w13, h, dim, n, v->wide, 2 * hidden,
                                  GEMM_BF16));
        RUN("gate and up", cuda_gate_up(v->wide, n, hidden, c->stream));
        RUN("w2", multiply(c, &l->w2, v->wide, 2 * hidden, n,
                           v->x + (size_t)at * (size_t)dim, dim, GEMM_ADD));
    }
    return 0;
}

static int
project(struct cuda *c, char *out)
{
    const struct cuda_tower *v = &c->tower;
    const struct cuda_encoding *t = &v->making;
    const int dim = v->p.dim, text = c->p.dim;
    char *cells = v->wide;
    char *merged = cells + (size_t)t->n * (size_t)dim * 2;
    char *inner = merged + (size_t)t->cells * (size_t)dim * 2;
    struct merge_cells m = {
        .x = v->x, .norm = v->projector_norm, .eps = (float)c->p.norm_eps,
        .rows = t->rows, .cols = t->cols, .dim = dim, .merge = v->p.merge,
        .out = cells,
    };
    RUN("cells", cuda_merge_cells(&m, c->stream));
    RUN("merge", multiply(c, &v->merge, cells, v->merge.cols, t->cells,
                          merged, dim, GEMM_BF16));
    RUN("w_in", multiply(c, &v->w_in, merged, dim, t->cells, inner, text,
                         GEMM_BF16));
    RUN("gelu", cuda_gelu(inner, (uint64_t)t->cells * (uint64_t)text,
                          c->stream));
    RUN("w_out", multiply(c, &v->w_out, inner, text, t->cells, out, text,
                          GEMM_BF16));
    return 0;
}

/* Operations of a layer. */
static double
layer_work(const struct cuda_tower *v)
{
    double n = v->making.n, dim = v->p.dim;
    return 2 * n * dim * (4 * dim + 3 * (double)v->p.hidden)
           + 4 * n * n * dim;
}

/* Launches layers up to so many operations, at least one. */
static int
launch_layers(struct cuda *c, double most)
{
    struct cuda_tower *v = &c->tower;
    struct cuda_encoding *t = &v->making;
    const double each = layer_work(v);
    int r = 0;
    for (double work = each; t->layer < v->p.n_layers && r == 0;
         work += each) {
        const struct cuda_tower_layer *l = &v->layer[t->layer++];
        r = attention_part(c, l);
        if (r == 0)
            r = mlp_part(c, l);
        if (r == 0 && t->layer < v->p.n_layers && work + each > most)
            return 0;
    }
    if (r == 0) {
        size_t first = v->image[t->handle - 1].first;
        r = project(c, (char *)v->vector + first * (size_t)c->p.dim * 2);
    }
    t->handle = 0;
    return r;
}

int
encoder_advance(struct cuda *c)
{
    return c->tower.making.handle ? launch_layers(c, IMAGE_SLICE) : 0;
}

void
encoder_advance_idle(struct cuda *c)
{
    int r = encoder_advance(c);
    if (r != 0)
        c->tower.failed = r;
}

int
encoder_finish_for(struct cuda *c, const struct batch *b)
{
    const uint64_t handle = c->tower.making.handle;
    if (c->tower.failed != 0) {
        snprintf(c->trouble, sizeof c->trouble, "image");
        return c->tower.failed;
    }
    for (uint32_t i = 0; i < b->n_image && handle != 0; i++)
        if (b->image[i].handle == handle)
            return launch_layers(c, INFINITY);
    return 0;
}

bool
encoder_pending(const struct cuda *c, const uint64_t *handle)
{
    const uint64_t making = c->tower.making.handle;
    return making != 0 && (handle == NULL || *handle == making);
}

/* --- vectors ------------------------------------------------------------------- */

/* Takes n rows: the place of the image, or -1. */
static int
take_rows(struct cuda_tower *v, uint32_t n)
{
    uint32_t first = 0;
    int place = -1;
    for (int i = 0; i < IMAGES; i++)
        if (v->image[i].n == 0)
            place = i;
    /* A gap begins at 0 or behind an image. */
    for (int i = -1; i < IMAGES && place >= 0; i++) {
        bool clear = i < 0 || v->image[i].n > 0;
        if (i >= 0)
            first = v->image[i].first + v->image[i].n;
        for (int k = 0; k < IMAGES && clear; k++) {
            const struct cuda_image *o = &v->image[k];
            clear = o->n == 0 || first + n <= o->first
                    || first >= o->first + o->n;
        }
        if (clear && first + n <= v->rows) {
            v->image[place] = (struct cuda_image){first, n};
            return place;
        }
    }
    return -1;
}

static const struct cuda_image *
image_of(const struct cuda *c, uint64_t handle)
{
    return handle >= 1 && handle <= IMAGES && c->tower.layer != NULL
           && c->tower.image[handle - 1].n > 0
           ? &c->tower.image[handle - 1] : NULL;
}

/* Takes over from the encoding before. */
static int
begin(struct cuda *c, const float *pixels, const struct cuda_encoding *t)
{
    struct cuda_tower *v = &c->tower;
    int r = v->making.handle ? launch_layers(c, INFINITY) : 0;
    v->making = *t;
    if (r == 0)
        r = embed_patches(c, pixels);
    return r == 0 ? launch_layers(c, IMAGE_SLICE) : r;
}

int
encoder_run(struct cuda *c, const float *pixels, int height, int width,
            uint64_t *handle, struct err *e)
{
    struct cuda_tower *v = &c->tower;
    struct cuda_encoding t = {.height = height, .width = width};
    if (v->layer == NULL)
        return err_set(e, ERR_UNSUPPORTED, "the model takes no images");
    const int cell = v->p.patch * v->p.merge, most = v->lines * v->p.patch;
    if (height < cell || width < cell || height % cell || width % cell
        || height > most || width > most)
        return err_set(e, ERR_RANGE, "an image of %d x %d pixels does not "
                       "fit the vision tower", width, height);
    t.rows = height / v->p.patch;
    t.cols = width / v->p.patch;
    t.n = t.rows * t.cols;
    t.cells = t.n / (v->p.merge * v->p.merge);
    int place = take_rows(v, (uint32_t)t.cells);
    if (place < 0)
        return err_set(e, ERR_AGAIN, "no room for the vectors of an image");
    t.handle = (uint64_t)place + 1;
    c->trouble[0] = '\0';
    int r = begin(c, pixels, &t);
    if (r != 0) {
        v->image[place].n = 0;
        v->making.handle = 0;
        return cuda_check(c, r, c->trouble, e);
    }
    *handle = (uint64_t)place + 1;
    return 0;
}

void
encoder_free(struct cuda *c, uint64_t handle)
{
    if (image_of(c, handle) == NULL)
        return;
    c->tower.image[handle - 1].n = 0;
    if (c->tower.making.handle == handle)
        c->tower.making.handle = 0;
}

/* --- in a batch ------------------------------------------------------------------ */

int
encoder_check(const struct cuda *c, const struct batch *b, struct err *e)
{
    for (uint32_t i = 0; i < b->n_image; i++) {
        const struct batch_image *im = &b->image[i];
        const struct cuda_image *from = image_of(c, im->handle);
        uint32_t found = 0;
        if (from == NULL || im->row > from->n || im->n > from->n - im->row)
            return err_set(e, ERR_RANGE, "image %u: no rows %u + %u", i,
                           im->row, im->n);
        for (uint32_t t = im->token; t < b->n_tok && found < im->n; t++)
            found += b->token[t] == b->token[im->token];
        if (found < im->n)
            return err_set(e, ERR_RANGE, "image %u: the batch has %u of its "
                           "%u tokens", i, found, im->n);
    }
    return 0;
}

void
encoder_place(const struct cuda *c, const struct batch *b, int *image)
{
    for (uint32_t t = 0; t < b->n_tok; t++)
        image[t] = -1;
    for (uint32_t i = 0; i < b->n_image; i++) {
        const struct batch_image *im = &b->image[i];
        uint32_t row = image_of(c, im->handle)->first + im->row;
        uint32_t end = row + im->n;
        for (uint32_t t = im->token; t < b->n_tok && row < end; t++)
            if (b->token[t] == b->token[im->token])
                image[t] = (int)row++;
    }
}
