#include "config.h"

#include "cpu/tower.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/forward.h"

/*
 *   x = norm(conv(pixels))
 *   x += wo . attention(norm(x));  x += mlp(norm(x))      for every layer
 *   out = w_out . gelu(w_in . merge(norm(x)))
 *
 * Attention is full within an image; places enter by a rotation over rows and
 * columns: of a head's pairs the first half turns with the patch's row by
 * every second frequency from the first, the second half with its column by
 * those from the second.
 *
 * An encoding goes in units: CHUNK patches (or merged ones) of a part, or some
 * attention tasks. Between units steps can run; and the wide parts (the MLP,
 * the projector) need room for CHUNK patches only, so that memory is five rows
 * of the tower's width a patch.
 */

#define CHUNK 256        /* patches of a wide part */
#define TILE 16          /* queries of an attention task */
#define TASKS 16         /* attention tasks of a unit, a thread */
#define NORM_EPS 1e-5    /* of the tower; the projector has the text model's */

struct tower_layer {
    float *attention_norm, *ffn_norm; /* [dim] */
    struct matrix wq, wk, wv, wo, w1, w2, w3;
};

struct tower {
    struct model_vision_params p;
    double projector_eps;
    int text_dim, head;      /* widths: of the text model, of a head */
    bool halves;             /* pairs are lanes (i, i + half) */
    struct net net;          /* kernels and pool, for matmul_run */
    struct matrix conv, merge, w_in, w_out;
    float *ln_pre, *projector_norm;   /* [dim]; the second may be NULL */
    struct tower_layer *layer;        /* [n_layers] */
};

/* The parts in their order; QUERY to MLP once a layer. */
enum part { EMBED, QUERY, ATTEND, OUTPUT, MLP, PROJECT, READY };

/* An image on its way. */
struct tower_job {
    const struct tower *tower;
    struct work w;           /* net and scratch, for matmul_run */
    struct tower_image *image;
    float *pixels;           /* a copy */
    enum part part;
    int layer, at;           /* first patch, cell or task of the next unit */
    int rows, cols, n;       /* patches, n = rows * cols */
    float *x, *h, *q, *k, *val;       /* [n][dim] */
    float *wide, *wide2;     /* [CHUNK][widest] */
    float *cos, *sin;        /* [rows + cols][head / 2] */
    const float *in[CHUNK];
    float *out[3][CHUNK];
    size_t panel;            /* floats, at the front of a thread's scratch */
};

static size_t
widest(const struct model_params *p)
{
    const struct model_vision_params *v = &p->vision;
    size_t sizes[4] = {(size_t)v->dim * (size_t)(v->merge * v->merge),
                       (size_t)v->hidden, (size_t)p->text.dim,
                       (size_t)(v->channels * v->patch * v->patch)};
    size_t most = 0;
    for (int i = 0; i < 4; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* --- weights ------------------------------------------------------------- */

static int
load_matrix(struct model *m, const struct weight *w, struct matrix *out,
            int *rc, struct err *e)
{
    if (*rc == 0)
        *rc = net_matrix(m, w, out, e);
    return *rc;
}

static void
load_vector(struct model *m, const struct tensor *t, float **out, int *rc,
            struct err *e)
{
    if (*rc == 0 && t != NULL)
        *rc = net_vector(m, t, out, e);
}

static int
load_layer(struct model *m, const struct vision_layer_weights *w,
           struct tower_layer *l, struct err *e)
{
    int rc = 0;
    load_vector(m, w->attention_norm, &l->attention_norm, &rc, e);
    load_vector(m, w->ffn_norm, &l->ffn_norm, &rc, e);
    load_matrix(m, &w->wq, &l->wq, &rc, e);
    load_matrix(m, &w->wk, &l->wk, &rc, e);
    load_matrix(m, &w->wv, &l->wv, &rc, e);
    load_matrix(m, &w->wo, &l->wo, &rc, e);
    load_matrix(m, &w->w1, &l->w1, &rc, e);
    load_matrix(m, &w->w2, &l->w2, &rc, e);
    return load_matrix(m, &w->w3, &l->w3, &rc, e);
}

static int
load_all(struct tower *v, struct model *m, struct err *e)
{
    const struct vision_weights *w = model_vision(m);
    int rc = 0;

    v->layer = calloc((size_t)v->p.n_layers, sizeof *v->layer);
    if (v->layer == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the vision layers");
    load_matrix(m, &w->patch_conv, &v->conv, &rc, e);
    load_matrix(m, &w->merge, &v->merge, &rc, e);
    load_matrix(m, &w->w_in, &v->w_in, &rc, e);
    load_matrix(m, &w->w_out, &v->w_out, &rc, e);
    load_vector(m, w->ln_pre, &v->ln_pre, &rc, e);
    load_vector(m, w->pre_projector_norm, &v->projector_norm, &rc, e);
    for (int i = 0; i < v->p.n_layers && rc == 0; i++)
        rc = load_layer(m, &w->layer[i], &v->layer[i], e);
    return rc;
}

int
tower_load(struct model *m, const struct kernels *k, struct pool *pool,
            struct tower **out, struct err *e)
{
    const struct model_params *p = model_params(m);

    *out = NULL;
    if (model_vision(m) == NULL)
        return 0;
    struct tower *v = calloc(1, sizeof *v);
    if (v == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the vision tower");
    v->p = p->vision;
    v->projector_eps = p->text.norm_eps;
    v->text_dim = p->text.dim;
    v->head = v->p.dim / v->p.n_heads;
    v->halves = model_vision(m)->hf_rope;
    v->net.k = k;
    v->net.pool = pool;
    int rc = load_all(v, m, e);
    if (rc != 0) {
        tower_free(v);
        return rc;
    }
    *out = v;
    return 0;
}

void
tower_free(struct tower *v)
{
    if (v == NULL)
        return;
    for (int i = 0; v->layer != NULL && i < v->p.n_layers; i++) {
        free(v->layer[i].attention_norm);
        free(v->layer[i].ffn_norm);
    }
    free(v->layer);
    free(v->ln_pre);
    free(v->projector_norm);
    free(v);
}

uint64_t
tower_weight_bytes(const struct model *m)
{
    const struct vision_weights *w = model_vision(m);
    uint64_t sum = 0;

    if (w == NULL)
        return 0;
    sum = weight_bytes(&w->patch_conv) + weight_bytes(&w->merge)
          + weight_bytes(&w->w_in) + weight_bytes(&w->w_out);
    for (int i = 0; i < model_params(m)->vision.n_layers; i++) {
        const struct vision_layer_weights *l = &w->layer[i];
        sum += weight_bytes(&l->wq) + weight_bytes(&l->wk)
               + weight_bytes(&l->wv) + weight_bytes(&l->wo)
               + weight_bytes(&l->w1) + weight_bytes(&l->w2)
               + weight_bytes(&l->w3);
    }
    return sum;
}

/* --- memory of one image ------------------------------------------------- */

/* Hands out 64-byte aligned parts of a memory, or only adds them up. */
static void *
carve(char *base, size_t *used, size_t n, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

/* Lays out a tower for n patches; returns the bytes. */
static size_t
lay_out(struct tower_job *t, const struct model_vision_params *p, size_t wide,
        size_t n, size_t sides, int threads, char *memory)
{
    size_t used = 0, f = sizeof(float), dim = (size_t)p->dim;

    t->x = carve(memory, &used, n * dim, f);
    t->h = carve(memory, &used, n * dim, f);
    t->q = carve(memory, &used, n * dim, f);
    t->k = carve(memory, &used, n * dim, f);
    t->val = carve(memory, &used, n * dim, f);
    t->wide = carve(memory, &used, CHUNK * wide, f);
    t->wide2 = carve(memory, &used, CHUNK * wide, f);
    t->cos = carve(memory, &used, sides * dim, f);
    t->sin = carve(memory, &used, sides * dim, f);
    t->pixels = carve(memory, &used, n, (size_t)(p->channels * p->patch
                                                 * p->patch) * f);
    t->panel = KERNEL_PANEL * wide;
    t->w.scratch_size = (t->panel + TILE * n + 15) / 16 * 16;
    t->w.scratch = carve(memory, &used, (size_t)threads * t->w.scratch_size,
                         f);
    return used;
}

uint64_t
tower_work_bytes(const struct model_params *p, int threads)
{
    const struct model_vision_params *v = &p->vision;
    struct tower_job t;

    if (!p->has_vision)
        return 0;
    size_t cell = (size_t)(v->patch * v->merge);
    size_t side = ((size_t)v->image_size + cell - 1) / cell;
    size_t patches = side * side * (size_t)(v->merge * v->merge);
    return lay_out(&t, v, widest(p), patches, 2 * side * (size_t)v->merge,
                   threads, NULL)
           + side * side * (size_t)p->text.dim * sizeof(float);
}

/* --- parts --------------------------------------------------------------- */

/* y[n][w->rows] = w . x[n][stride] */
static void
multiply(struct tower_job *t, const struct matrix *w, const float *x,
         size_t stride, int n, float *y)
{
    struct job job = {.w = w, .x = t->in, .y = t->out[0], .n = n};
    rows_in(t->in, x, stride, n);
    rows_out(t->out[0], y, (size_t)w->rows, n);
    matmul_run(&t->w, &job, 1);
}

static void
norm_rows(const struct tower_job *t, float *y, const float *x,
          const float *weight, double eps, int n)
{
    size_t dim = (size_t)t->tower->p.dim;
    for (size_t i = 0; i < (size_t)n; i++)
        norm_rms(t->tower->net.k, y + i * dim, x + i * dim, weight, (int)dim,
                 eps);
}

static void
add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* Row of patch i: channel, y, x. */
static void
gather_patch(const struct tower_job *t, int i, float *to)
{
    const struct model_vision_params *p = &t->tower->p;
    size_t side = (size_t)p->patch, width = (size_t)t->cols * side;
    size_t plane = width * (size_t)t->rows * side;
    size_t row = (size_t)(i / t->cols) * side;
    size_t col = (size_t)(i % t->cols) * side;

    for (size_t c = 0; c < (size_t)p->channels; c++)
        for (size_t y = 0; y < side; y++, to += side)
            memcpy(to, t->pixels + c * plane + (row + y) * width + col,
                   side * sizeof *to);
}

/* n patches from t->at on; so in all parts. */
static void
embed_part(struct tower_job *t, int n)
{
    const struct model_vision_params *p = &t->tower->p;
    size_t len = (size_t)(p->channels * p->patch * p->patch);
    float *x = t->x + (size_t)t->at * (size_t)p->dim;

    for (int i = 0; i < n; i++)
        gather_patch(t, t->at + i, t->wide + (size_t)i * len);
    multiply(t, &t->tower->conv, t->wide, len, n, x);
    norm_rows(t, x, x, t->tower->ln_pre, NORM_EPS, n);
}

/* Angles of place i in a row of the table: pairs [from, to), every second
 * frequency. */
static void
put_angles(const struct tower_job *t, int line, int i, int from, int to,
           int frequency)
{
    int half = t->tower->head / 2;
    for (int k = from; k < to; k++, frequency += 2) {
        double g = pow(t->tower->p.rope_theta,
                       -2.0 * frequency / t->tower->head);
        float a = (float)i * (float)g;
        t->cos[(size_t)line * (size_t)half + (size_t)k] = (float)cos(a);
        t->sin[(size_t)line * (size_t)half + (size_t)k] = (float)sin(a);
    }
}

/* Pairs of a head that turn with the row; heads are a multiple of 4 wide. */
static int
row_pairs(const struct tower *v)
{
    return v->head / 4;
}

/* Lines 0 .. rows - 1 hold the angles of rows, the rest those of columns. */
static void
make_angles(const struct tower_job *t)
{
    int half = t->tower->head / 2, split = row_pairs(t->tower);
    for (int i = 0; i < t->rows; i++)
        put_angles(t, i, i, 0, split, 0);
    for (int i = 0; i < t->cols; i++)
        put_angles(t, t->rows + i, i, split, half, 1);
}

/* Turns all heads of patch i of x. */
static void
rotate_patch(const struct tower_job *t, int i, float *x)
{
    const struct tower *v = t->tower;
    int half = v->head / 2, split = row_pairs(v);
    size_t row = (size_t)(i / t->cols) * (size_t)half;
    size_t col = (size_t)(t->rows + i % t->cols) * (size_t)half;

    for (int h = 0; h < v->p.n_heads; h++, x += v->head)
        for (int k = 0; k < half; k++) {
            size_t at = (k < split ? row : col) + (size_t)k;
            int a = v->halves ? k : 2 * k, b = v->halves ? k + half : a + 1;
            float xa = x[a], xb = x[b];
            x[a] = xa * t->cos[at] - xb * t->sin[at];
            x[b] = xb * t->cos[at] + xa * t->sin[at];
        }
}

/* TILE queries of one head against all patches. */
static void
attention_task(void *arg, int task, int worker)
{
    struct tower_job *t = arg;
    const struct tower *v = t->tower;
    const struct kernels *k = v->net.k;
    int tiles = (t->n + TILE - 1) / TILE;
    task += t->at;
    int first = task % tiles * TILE;
    int n = t->n - first < TILE ? t->n - first : TILE;
    size_t dim = (size_t)v->p.dim;
    size_t head = (size_t)(task / tiles) * (size_t)v->head;
    float *panel = t->w.scratch + (size_t)worker * t->w.scratch_size;
    struct matrix keys = {
        .format = MATRIX_F32, .rows = t->n, .cols = v->head,
        .data = (const uint8_t *)(t->k + head), .stride = dim * sizeof(float),
        .scale = 1.0f / sqrtf((float)v->head)};
    const float *query[TILE] = {NULL}, *weight[TILE] = {NULL};
    float *score[TILE] = {NULL}, *out[TILE] = {NULL}, sum[TILE];

    for (int i = 0; i < n; i++) {
        size_t at = (size_t)(first + i) * dim + head;
        query[i] = t->q + at;
        out[i] = t->h + at;
        weight[i] = score[i] = panel + t->panel + (size_t)i * (size_t)t->n;
        memset(out[i], 0, (size_t)v->head * sizeof *out[i]);
    }
    k->dot(&keys, 0, t->n, query, n, score, panel);
    for (int i = 0; i < n; i++)
        sum[i] = k->exp_sum(score[i], t->n, k->max(score[i], t->n));
    k->mix(t->val + head, dim, t->n, weight, n, out, v->head);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < v->head; j++)
            out[i][j] /= sum[i];
}

static void
query_part(struct tower_job *t, const struct tower_layer *l, int n)
{
    size_t dim = (size_t)t->tower->p.dim, first = (size_t)t->at * dim;
    float *to[3] = {t->q + first, t->k + first, t->val + first};
    const struct matrix *from[3] = {&l->wq, &l->wk, &l->wv};
    struct job job[3];

    norm_rows(t, t->h + first, t->x + first, l->attention_norm, NORM_EPS, n);
    rows_in(t->in, t->h + first, dim, n);
    for (int i = 0; i < 3; i++) {
        rows_out(t->out[i], to[i], dim, n);
        job[i] = (struct job){.w = from[i], .x = t->in, .y = t->out[i],
                              .n = n};
    }
    matmul_run(&t->w, job, 3);
    for (int i = 0; i < n; i++) {
        rotate_patch(t, t->at + i, to[0] + (size_t)i * dim);
        rotate_patch(t, t->at + i, to[1] + (size_t)i * dim);
    }
}

static void
output_part(struct tower_job *t, const struct tower_layer *l, int n)
{
    size_t dim = (size_t)t->tower->p.dim, first = (size_t)t->at * dim;
    multiply(t, &l->wo, t->h + first, dim, n, t->wide);
    add(t->x + first, t->wide, (size_t)n * dim);
}

static void
mlp_part(struct tower_job *t, const struct tower_layer *l, int n)
{
    size_t dim = (size_t)t->tower->p.dim, hidden = (size_t)t->tower->p.hidden;
    size_t first = (size_t)t->at * dim;

    norm_rows(t, t->h + first, t->x + first, l->ffn_norm, NORM_EPS, n);
    rows_in(t->in, t->h + first, dim, n);
    rows_out(t->out[0], t->wide, hidden, n);
    rows_out(t->out[1], t->wide2, hidden, n);
    struct job job = {.w = &l->w1, .pair = &l->w3, .x = t->in,
                      .y = t->out[0], .y2 = t->out[1], .n = n};
    matmul_run(&t->w, &job, 1);
    multiply(t, &l->w2, t->wide, hidden, n, t->wide2);
    add(t->x + first, t->wide2, (size_t)n * dim);
}

/* Row of the merging layer's input: channel slowest, then y, then x. */
static void
gather_cell(const struct tower_job *t, int cell, float *to)
{
    int merge = t->tower->p.merge, across = t->cols / merge;
    int row = cell / across * merge, col = cell % across * merge;
    size_t dim = (size_t)t->tower->p.dim;

    for (int y = 0; y < merge; y++)
        for (int x = 0; x < merge; x++) {
            const float *from = t->h + ((size_t)(row + y) * (size_t)t->cols
                                        + (size_t)(col + x)) * dim;
            for (size_t c = 0; c < dim; c++)
                to[(c * (size_t)merge + (size_t)y) * (size_t)merge
                   + (size_t)x] = from[c];
        }
}

/* n merged patches from t->at on; before the first, all patches are normed. */
static void
project_part(struct tower_job *t, int n)
{
    const struct tower *v = t->tower;
    size_t len = (size_t)(v->p.dim * v->p.merge * v->p.merge);
    size_t text = (size_t)v->text_dim;

    if (t->at == 0 && v->projector_norm != NULL)
        norm_rows(t, t->h, t->x, v->projector_norm, v->projector_eps, t->n);
    else if (t->at == 0)
        memcpy(t->h, t->x, (size_t)t->n * (size_t)v->p.dim * sizeof *t->h);
    for (int i = 0; i < n; i++)
        gather_cell(t, t->at + i, t->wide + (size_t)i * len);
    multiply(t, &v->merge, t->wide, len, n, t->q);
    multiply(t, &v->w_in, t->q, (size_t)v->p.dim, n, t->wide);
    for (size_t i = 0; i < (size_t)n * text; i++)
        t->wide[i] *= 0.5f * (1 + erff(t->wide[i] * 0.70710678f));
    multiply(t, &v->w_out, t->wide, text, n,
             t->image->vector + (size_t)t->at * text);
}

/* --- the whole ----------------------------------------------------------- */

int
tower_begin(const struct tower *v, const float *pixels, int height,
            int width, struct tower_job **out, struct tower_image **image,
            struct err *e)
{
    int cell = v->p.patch * v->p.merge;
    struct model_params p = {.text.dim = v->text_dim, .vision = v->p};

    if (height < cell || width < cell || height % cell || width % cell
        || height > v->p.image_size + cell || width > v->p.image_size + cell)
        return err_set(e, ERR_RANGE, "an image of %d x %d pixels does not "
                       "fit the vision tower", width, height);
    struct tower_job t = {.tower = v, .rows = height / v->p.patch,
                          .cols = width / v->p.patch};
    t.n = t.rows * t.cols;
    uint32_t n = (uint32_t)t.n / (uint32_t)(v->p.merge * v->p.merge);
    int threads = pool_size(v->net.pool);
    size_t own = (sizeof t + 63) / 64 * 64;
    size_t size = lay_out(&t, &v->p, widest(&p), (size_t)t.n,
                          (size_t)(t.rows + t.cols), threads, NULL);
    char *memory = aligned_alloc(64, own + size);
    struct tower_image *im = malloc(sizeof *im + (size_t)n
                                     * (size_t)v->text_dim * sizeof(float));
    if (memory == NULL || im == NULL) {
        free(memory);
        free(im);
        return err_set(e, ERR_NOMEM, "no memory for an image");
    }
    lay_out(&t, &v->p, widest(&p), (size_t)t.n, (size_t)(t.rows + t.cols),
            threads, memory + own);
    *im = (struct tower_image){n, v->text_dim};
    t.image = im;
    memcpy(t.pixels, pixels, (size_t)v->p.channels * (size_t)height
                             * (size_t)width * sizeof *pixels);
    make_angles(&t);
    *out = (struct tower_job *)(void *)memory;
    **out = t;
    (*out)->w.net = &v->net;
    *image = im;
    return 0;
}

/* Items of the part at hand: patches, attention tasks or merged patches. */
static int
part_size(const struct tower_job *t)
{
    int tiles = (t->n + TILE - 1) / TILE;
    return t->part == ATTEND ? t->tower->p.n_heads * tiles
           : t->part == PROJECT ? (int)t->image->n : t->n;
}

static void
run_unit(struct tower_job *t, int n)
{
    const struct tower_layer *l = &t->tower->layer[t->layer];
    switch (t->part) {
    case EMBED: embed_part(t, n); break;
    case QUERY: query_part(t, l, n); break;
    case ATTEND: pool_run(t->tower->net.pool, n, attention_task, t); break;
    case OUTPUT: output_part(t, l, n); break;
    case MLP: mlp_part(t, l, n); break;
    case PROJECT: project_part(t, n); break;
    case READY: break;
    }
}

bool
tower_step(struct tower_job *t)
{
    int most = t->part == ATTEND ? TASKS * pool_size(t->tower->net.pool)
                                 : CHUNK;
    int left = part_size(t) - t->at;
    run_unit(t, left < most ? left : most);
    t->at += most;
    if (left > most)
        return false;
    t->at = 0;
    if (t->part == MLP && ++t->layer < t->tower->p.n_layers)
        t->part = QUERY;
    else if (t->part != READY)
        t->part++;
    return t->part == READY;
}

void
tower_end(struct tower_job *t)
{
    free(t);
}

/* --- in a batch ---------------------------------------------------------- */

static const struct tower_image *
image_of(const struct batch_image *im)
{
    return (const struct tower_image *)(uintptr_t)im->handle;
}

int
tower_check(const struct batch *b, int dim, struct err *e)
{
    for (uint32_t i = 0; i < b->n_image; i++) {
        const struct batch_image *im = &b->image[i];
        const struct tower_image *v = image_of(im);
        uint32_t found = 0;
        if (v == NULL || v->dim != dim || im->row > v->n
            || im->n > v->n - im->row)
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
tower_vectors(const struct batch *b, const uint32_t *place, int dim,
              const float **vector)
{
    for (uint32_t i = 0; i < b->n_image; i++) {
        const struct batch_image *im = &b->image[i];
        const float *from = image_of(im)->vector
                            + (size_t)im->row * (size_t)dim;
        uint32_t left = im->n;
        for (uint32_t t = im->token; left > 0 && t < b->n_tok; t++) {
            if (b->token[t] != b->token[im->token])
                continue;
            vector[place[t]] = from;
            from += dim;
            left--;
        }
    }
}
