/*
 * The self-test of images: one goes through a layer of the vision tower and the
 * projector by the real path, and behind every launch what it left is compared
 * with what plain code makes of what it found.
 *
 * DESIGN. The encoder calls watch_launch with the name of each launch. `in` is
 * what the launch before left, as far as the next one reads it: patches,
 * normed rows, queries and so on; `x` the residual. Products are compared in
 * some rows for some patches, attention for some queries.
 */
#include "config.h"

#include "cuda/selftest/selftest_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOKS 3          /* patches or cells looked at */

struct sight {
    struct check k;
    struct cuda_tower *v;
    const struct vision_weights *w;
    const struct vision_layer_weights *l;
    int rows, cols, n, cells;  /* patches; n = rows * cols */
    float *pixels;
    float *x, *in, *out;       /* rows of the device */
    double *a, *b;             /* a row */
    size_t seen;               /* launches compared */
    int rc;
};

/* Which of n rows is looked at as number i: the first, the last, those
 * between. */
static int
look(int i, int n)
{
    return (n - 1) * i / (LOOKS - 1);
}

/* n numbers of bf16 or float from the device. */
static int
grab(struct sight *s, const void *from, size_t n, bool bf16, float *to)
{
    int r = check_fetch(&s->k, from, 0, to, n * (bf16 ? 2 : 4));
    for (size_t i = n; bf16 && i-- > 0;)
        to[i] = bf16_to_float(((uint16_t *)to)[i]);
    return r;
}

static const double *
wide_row(struct sight *s, const float *from, int n)
{
    for (int i = 0; i < n; i++)
        s->a[i] = (double)from[i];
    return s->a;
}

/* What was made becomes what the next launch reads. */
static void
pass_on(struct sight *s)
{
    float *t = s->in;
    s->in = s->out;
    s->out = t;
}

/* Rows [0, n) of `out`, ldo apart, are w times those of `in`; `before` is what
 * they were added to. */
static int
compare_product(struct sight *s, const struct weight *w, int n, int ldi,
                const float *out, int ldo, const float *before)
{
    int r = 0;
    for (int i = 0; r == 0 && i < LOOKS; i++) {
        const size_t at = (size_t)look(i, n);
        const float *got = out + at * (size_t)ldo;
        const double *x = wide_row(s, s->in + at * (size_t)ldi, (int)w->cols);
        if (before != NULL) {
            for (int64_t j = 0; j < w->rows; j++)
                s->k.dev[j] = got[j] - before[at * (size_t)ldo + (size_t)j];
            got = s->k.dev;
        }
        r = check_probe(&s->k, w, x, got);
    }
    return r;
}

/* Rows of `out` are those of x, normed. */
static int
compare_norm(struct sight *s, const struct tensor *norm, const float *out)
{
    const int dim = s->v->p.dim;
    int r = 0;
    for (int i = 0; r == 0 && i < LOOKS; i++) {
        const size_t at = (size_t)look(i, s->n) * (size_t)dim;
        r = check_stored_norm(&s->k, norm, wide_row(s, s->x + at, dim), dim,
                              (double)TOWER_EPS, s->b);
        for (int j = 0; j < dim; j++)
            check_add(&s->k, (double)out[at + (size_t)j], s->b[j]);
    }
    return r;
}

static int
see_patches(struct sight *s)
{
    const int side = s->v->p.patch, ld = s->v->conv.cols;
    const int width = s->cols * side, height = s->rows * side;
    int r = grab(s, s->v->wide, (size_t)s->n * (size_t)ld, true, s->in);
    for (int p = 0; r == 0 && p < s->n; p++)
        for (int j = 0; j < ld; j++) {
            int ch = j / (side * side), y = j / side % side, x = j % side;
            size_t at = ((size_t)ch * (size_t)height
                         + (size_t)(p / s->cols * side + y)) * (size_t)width
                        + (size_t)(p % s->cols * side + x);
            check_add(&s->k, (double)s->in[p * ld + j],
                      ch < s->v->p.channels ? (double)s->pixels[at] : 0);
        }
    return r;
}

static int
see_conv(struct sight *s)
{
    const int dim = s->v->p.dim;
    int r = grab(s, s->v->x, (size_t)(s->n * dim), false, s->x);
    return r ? r : compare_product(s, &s->w->patch_conv, s->n,
                                   s->v->conv.cols, s->x, dim, NULL);
}

static int
see_first_norm(struct sight *s)
{
    const size_t size = (size_t)(s->n * s->v->p.dim);
    int r = grab(s, s->v->x, size, false, s->out);
    if (r == 0)
        r = compare_norm(s, s->w->ln_pre, s->out);
    memcpy(s->x, s->out, size * sizeof *s->x);
    return r;
}

static int
see_norm(struct sight *s, const struct tensor *norm)
{
    int r = grab(s, s->v->h, (size_t)(s->n * s->v->p.dim), true, s->out);
    if (r == 0)
        r = compare_norm(s, norm, s->out);
    pass_on(s);
    return r;
}

static int
see_qkv(struct sight *s)
{
    const int dim = s->v->p.dim;
    const struct weight *w[] = {&s->l->wq, &s->l->wk, &s->l->wv};
    int r = grab(s, s->v->wide, (size_t)(s->n * 3 * dim), true, s->out);
    for (int i = 0; r == 0 && i < 3; i++)
        r = compare_product(s, w[i], s->n, dim, s->out + i * dim, 3 * dim,
                            NULL);
    pass_on(s);
    return r;
}

/* Turns a head's lanes of the patch as the tower's angles say. */
static void
turn(const struct sight *s, int patch, const float *in, double *out)
{
    const int quarter = VISION_HEAD / 4;
    const bool halves = s->w->hf_rope;
    for (int k = 0; k < 2 * quarter; k++) {
        const int column = k >= quarter, f = 2 * (k % quarter) + column;
        const int line = column ? patch % s->cols : patch / s->cols;
        double g = pow(s->v->p.rope_theta, -2.0 * f / VISION_HEAD);
        double a = (double)((float)line * (float)g);
        int i = halves ? k : 2 * k, j = halves ? k + 2 * quarter : 2 * k + 1;
        out[i] = (double)in[i] * cos(a) - (double)in[j] * sin(a);
        out[j] = (double)in[j] * cos(a) + (double)in[i] * sin(a);
    }
}

static int
see_rope(struct sight *s)
{
    const int dim = s->v->p.dim;
    int r = grab(s, s->v->wide, (size_t)(s->n * 3 * dim), true, s->out);
    for (int p = 0; r == 0 && p < s->n; p++)
        for (int h = 0; h < 3 * s->v->p.n_heads; h++) {
            const size_t at = (size_t)(p * 3 * dim + h * VISION_HEAD);
            double want[VISION_HEAD];
            if (h < 2 * s->v->p.n_heads)
                turn(s, p, s->in + at, want);
            for (int j = 0; j < VISION_HEAD; j++)
                check_add(&s->k, (double)s->out[at + (size_t)j],
                          h < 2 * s->v->p.n_heads
                          ? want[j] : (double)s->in[at + (size_t)j]);
        }
    pass_on(s);
    return r;
}

/* One query of one head over all patches. */
static void
attend(const struct sight *s, int query, int head, double *out)
{
    const int dim = s->v->p.dim;
    const float *q = s->in + query * 3 * dim + head * VISION_HEAD;
    double sum = 0, top = -INFINITY;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < s->n; i++) {
            const float *k = s->in + i * 3 * dim + dim + head * VISION_HEAD;
            double d = 0;
            for (int j = 0; j < VISION_HEAD; j++)
                d += (double)q[j] * (double)k[j];
            d /= sqrt(VISION_HEAD);
            if (pass == 0) {
                top = d > top ? d : top;
                continue;
            }
            d = exp(d - top);
            sum += d;
            for (int j = 0; j < VISION_HEAD; j++)
                out[j] += d * (double)k[dim + j];
        }
    for (int j = 0; j < VISION_HEAD; j++)
        out[j] /= sum;
}

static int
see_attention(struct sight *s)
{
    const int dim = s->v->p.dim, heads = s->v->p.n_heads;
    int r = grab(s, s->v->h, (size_t)(s->n * dim), true, s->out);
    for (int i = 0; r == 0 && i < LOOKS; i++)
        for (int h = 0; h < heads; h += heads > 1 ? heads - 1 : 1) {
            const int p = look(i, s->n);
            double want[VISION_HEAD] = {0};
            attend(s, p, h, want);
            for (int j = 0; j < VISION_HEAD; j++)
                check_add(&s->k,
                          (double)s->out[p * dim + h * VISION_HEAD + j],
                          want[j]);
        }
    pass_on(s);
    return r;
}

/* What w adds to the residual. ldi: of what it reads. */
static int
see_added(struct sight *s, const struct weight *w, int ldi)
{
    const int dim = s->v->p.dim;
    const size_t size = (size_t)(s->n * dim);
    int r = grab(s, s->v->x, size, false, s->out);
    if (r == 0)
        r = compare_product(s, w, s->n, ldi, s->out, dim, s->x);
    memcpy(s->x, s->out, size * sizeof *s->x);
    return r;
}

static int
see_hidden(struct sight *s)
{
    const int hidden = s->v->p.hidden, dim = s->v->p.dim;
    int r = grab(s, s->v->wide, (size_t)(s->n * 2 * hidden), true, s->out);
    if (r == 0)
        r = compare_product(s, &s->l->w1, s->n, dim, s->out, 2 * hidden,
                            NULL);
    if (r == 0)
        r = compare_product(s, &s->l->w3, s->n, dim, s->out + hidden,
                            2 * hidden, NULL);
    pass_on(s);
    return r;
}

static int
see_gate_up(struct sight *s)
{
    const int hidden = s->v->p.hidden;
    int r = grab(s, s->v->wide, (size_t)(s->n * 2 * hidden), true, s->out);
    for (int p = 0; r == 0 && p < s->n; p++)
        for (int j = 0; j < hidden; j++) {
            const float *in = s->in + p * 2 * hidden + j;
            check_add(&s->k, (double)s->out[p * 2 * hidden + j],
                      (double)in[0] / (1 + exp(-(double)in[0]))
                      * (double)in[hidden]);
        }
    pass_on(s);
    return r;
}

/* --- the projector ------------------------------------------------------- */

static int
see_cells(struct sight *s)
{
    const int dim = s->v->p.dim, side = s->v->p.merge, area = side * side;
    const struct tensor *norm = s->w->pre_projector_norm;
    int r = grab(s, s->v->wide, (size_t)(s->cells * dim * area), true,
                 s->out);
    for (int i = 0; r == 0 && i < LOOKS; i++)
        for (int k = 0; r == 0 && k < area; k++) {
            const int cell = look(i, s->cells), across = s->cols / side;
            const int p = (cell / across * side + k / side) * s->cols
                          + cell % across * side + k % side;
            const double *x = wide_row(s, s->x + p * dim, dim);
            if (norm != NULL)
                r = check_stored_norm(&s->k, norm, x, dim,
                                      s->k.c->p.norm_eps, s->b);
            for (int j = 0; r == 0 && j < dim; j++)
                check_add(&s->k,
                          (double)s->out[(cell * dim + j) * area + k],
                          norm ? s->b[j] : x[j]);
        }
    pass_on(s);
    return r;
}

/* Where project() puts a row of the cells: merged [cells, dim], then inner
 * [cells, text dim]. */
static const void *
behind_cells(const struct sight *s, bool inner)
{
    const size_t dim = (size_t)s->v->p.dim;
    return (const char *)s->v->wide + (size_t)s->n * dim * 2
           + (inner ? (size_t)s->cells * dim * 2 : 0);
}

static int
see_product(struct sight *s, const struct weight *w, const void *out)
{
    int r = grab(s, out, (size_t)s->cells * (size_t)w->rows, true, s->out);
    if (r == 0)
        r = compare_product(s, w, s->cells, (int)w->cols, s->out,
                            (int)w->rows, NULL);
    pass_on(s);
    return r;
}

static int
see_gelu(struct sight *s)
{
    const size_t n = (size_t)(s->cells * s->k.c->p.dim);
    int r = grab(s, behind_cells(s, true), n, true, s->out);
    for (size_t i = 0; r == 0 && i < n; i++) {
        double x = (double)s->in[i];
        check_add(&s->k, (double)s->out[i], x / 2 * (1 + erf(x / sqrt(2))));
    }
    pass_on(s);
    return r;
}

/* --- launch by launch ---------------------------------------------------- */

static int
see_attention_norm(struct sight *s)
{
    return see_norm(s, s->l->attention_norm);
}

static int
see_wo(struct sight *s)
{
    return see_added(s, &s->l->wo, s->v->p.dim);
}

static int
see_mlp_norm(struct sight *s)
{
    return see_norm(s, s->l->ffn_norm);
}

static int
see_w2(struct sight *s)
{
    return see_added(s, &s->l->w2, 2 * s->v->p.hidden);
}

static int
see_merge(struct sight *s)
{
    return see_product(s, &s->w->merge, behind_cells(s, false));
}

static int
see_w_in(struct sight *s)
{
    return see_product(s, &s->w->w_in, behind_cells(s, true));
}

static int
see_w_out(struct sight *s)
{
    return see_product(s, &s->w->w_out, s->v->vector);
}

static const struct {
    const char *launch;
    int (*see)(struct sight *s);
} launches[] = {
    {"patches", see_patches}, {"conv", see_conv},
    {"first norm", see_first_norm}, {"attention norm", see_attention_norm},
    {"qkv", see_qkv}, {"rope", see_rope}, {"attention", see_attention},
    {"wo", see_wo}, {"MLP norm", see_mlp_norm}, {"w1 and w3", see_hidden},
    {"gate and up", see_gate_up}, {"w2", see_w2}, {"cells", see_cells},
    {"merge", see_merge}, {"w_in", see_w_in}, {"gelu", see_gelu},
    {"w_out", see_w_out},
};
#define LAUNCHES (sizeof launches / sizeof *launches)

/* Behind a launch: what it left, against plain code. Copies are not in the
 * table. */
static int
watch_launch(void *arg, const char *launch)
{
    struct sight *s = arg;
    char kernel[40], where[40];
    size_t i = 0;
    while (i < LAUNCHES && strcmp(launches[i].launch, launch) != 0)
        i++;
    if (i == LAUNCHES)
        return 0;
    snprintf(kernel, sizeof kernel, "image: %s", launch);
    snprintf(where, sizeof where, "%d x %d patches", s->rows, s->cols);
    s->rc = cuda_check(s->k.c, (int)cudaStreamSynchronize(s->k.c->stream),
                       kernel, s->k.e);
    if (s->rc == 0)
        s->rc = launches[i].see(s);
    if (s->rc == 0)
        s->rc = check_end(&s->k, kernel, ONE_ROUNDING, where);
    s->seen++;
    return s->rc != 0;
}

/* An image of up to 7 x 5 cells. */
static int
sight_open(struct sight *s, struct cuda *c, struct err *e)
{
    struct cuda_tower *v = &c->tower;
    const int side = v->p.merge;
    *s = (struct sight){.v = v, .w = model_vision(c->model),
                        .l = &model_vision(c->model)->layer[0]};
    int r = check_open(&s->k, c, 0x1316E, e);
    s->rows = 5 * side < v->lines ? 5 * side : v->lines;
    s->cols = 7 * side < v->lines ? 7 * side : v->lines;
    s->n = s->rows * s->cols;
    s->cells = s->n / (side * side);
    const int width[] = {3 * v->p.dim, 2 * v->p.hidden, v->conv.cols,
                         c->p.dim};
    size_t n = (size_t)s->n, wide = 0;
    for (size_t i = 0; i < sizeof width / sizeof *width; i++)
        wide = (size_t)width[i] > wide ? (size_t)width[i] : wide;
    size_t area = (size_t)(v->p.channels * v->p.patch * v->p.patch);
    s->pixels = malloc(n * area * sizeof *s->pixels);
    s->x = malloc(n * wide * sizeof *s->x);
    s->in = malloc(n * wide * sizeof *s->in);
    s->out = malloc(n * wide * sizeof *s->out);
    s->a = malloc(s->k.width * sizeof *s->a);
    s->b = malloc(s->k.width * sizeof *s->b);
    if (r == 0 && !(s->pixels && s->x && s->in && s->out && s->a && s->b))
        r = err_set(e, ERR_NOMEM, "no memory for the self-test");
    for (size_t i = 0; r == 0 && i < n * area; i++)
        s->pixels[i] = (float)check_unit(&s->k);
    return r;
}

static void
sight_close(struct sight *s)
{
    check_close(&s->k);
    free(s->pixels);
    free(s->x);
    free(s->in);
    free(s->out);
    free(s->a);
    free(s->b);
}

int
selftest_vision(struct cuda *c, struct err *e)
{
    struct cuda_tower *v = &c->tower;
    const int layers = v->p.n_layers, patch = v->p.patch;
    struct sight s;
    struct err launch = {0};
    uint64_t handle = 0;
    if (v->layer == NULL)
        return 0;
    int r = sight_open(&s, c, e);
    v->watch = watch_launch;
    v->watch_arg = &s;
    v->p.n_layers = 1;
    if (r == 0)
        r = encoder_run(c, s.pixels, s.rows * patch, s.cols * patch, &handle,
                        &launch);
    v->p.n_layers = layers;
    v->watch = NULL;
    encoder_free(c, handle);
    sight_close(&s);
    if (r != 0 && s.rc == 0 && launch.text[0] != '\0')
        *e = launch;
    if (r == 0 && s.seen != LAUNCHES)
        return err_set(e, ERR_STATE, "self-test: %zu of %zu launches of an "
                       "image were compared", s.seen, LAUNCHES);
    return s.rc ? s.rc : r;
}
