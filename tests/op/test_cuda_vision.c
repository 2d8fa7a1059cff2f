/*
 * Images on the CUDA back end. The kernels of the vision tower alone against
 * plain code; then towers with random weights and the demo model's against the
 * CPU back end: the vectors of images from one cell to the largest, and the
 * log-probabilities of texts with pictures in them, in chunks that cut through
 * the pictures.
 *
 * BOUNDS. Kernels: one rounding to bf16, 2^-9 = 2e-3 a number, attention two
 * (probabilities, then the output). Vectors: about eight roundings in a row in
 * a layer and six around them, each 2^-9 / sqrt(3) on average, which add like
 * random numbers: sqrt(8 L + 6) * 1.1e-3, that is 0.6 % of the vectors' length
 * for three layers; 1.5 % is let through. Texts: see whole.h.
 *
 * With -b: device time of images on a tower of the release's size. Other
 * arguments: names of checks to run. Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cpu/tower.h"
#include "cuda/cuda_backend.h"
#include "cuda/cuda_state.h"
#include "tests/op/whole.h"

#define VECTOR_BOUND .015

static uint64_t rng = 4;

/* In [-1, 1). */
static double
uniform(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (double)(rng >> 11) * 0x1p-52 - 1;
}

static int
judge(const char *what, double err, double bound)
{
    bool ok = err <= bound;
    printf("%s %s: error %.2e, at most %.1e\n", ok ? "ok  " : "FAIL", what,
           err, bound);
    fflush(stdout);
    return !ok;
}

/* --- kernels alone ------------------------------------------------------------ */

/* Random bf16 numbers on the device, and the same as floats. */
static void *
made(size_t n, float **host)
{
    uint16_t *v = malloc(n * 2);
    void *dev = NULL;
    *host = malloc(n * sizeof **host);
    if (v == NULL || *host == NULL || cudaMalloc(&dev, n * 2) != cudaSuccess)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        v[i] = float_to_bf16((float)(2 * uniform()));
        (*host)[i] = bf16_to_float(v[i]);
    }
    cudaMemcpy(dev, v, n * 2, cudaMemcpyHostToDevice);
    free(v);
    return dev;
}

static float *
fetched(const void *dev, size_t n)
{
    uint16_t *v = malloc(n * 2);
    float *x = malloc(n * sizeof *x);
    if (v == NULL || x == NULL
        || cudaMemcpy(v, dev, n * 2, cudaMemcpyDeviceToHost) != cudaSuccess)
        exit(1);
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_to_float(v[i]);
    free(v);
    return x;
}

static double
relative(const float *got, const float *want, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        diff += isfinite(got[i]) ? d * d : INFINITY;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / norm);
}

/* One query of one head in double. */
static void
attend(const float *qkv, int n, int dim, int query, int head, float *out)
{
    const float *q = qkv + (size_t)query * 3 * (size_t)dim
                     + head * VISION_HEAD;
    double o[VISION_HEAD] = {0}, sum = 0;
    for (int i = 0; i < n; i++) {
        const float *k = qkv + (size_t)i * 3 * (size_t)dim + dim
                         + head * VISION_HEAD, *v = k + dim;
        double s = 0;
        for (int j = 0; j < VISION_HEAD; j++)
            s += (double)q[j] * (double)k[j];
        s = exp(s / 8);
        sum += s;
        for (int j = 0; j < VISION_HEAD; j++)
            o[j] += s * (double)v[j];
    }
    for (int j = 0; j < VISION_HEAD; j++)
        out[j] = (float)(o[j] / sum);
}

static int
check_attention(int n, int heads)
{
    const int dim = heads * VISION_HEAD, probes = n < 40 ? n : 40;
    const size_t size = (size_t)n * 3 * (size_t)dim;
    float *x, want[VISION_HEAD], got[VISION_HEAD];
    double worst = 0;
    char what[80];
    /* Behind the patches lies what nothing may read. */
    void *qkv = made(size + 3 * (size_t)dim * 64, &x), *out = NULL;
    cudaMemset((char *)qkv + size * 2, 0xff, 3 * (size_t)dim * 64 * 2);
    if (cudaMalloc(&out, (size_t)n * (size_t)dim * 2) != cudaSuccess)
        exit(1);
    cudaMemset(out, 0xff, (size_t)n * (size_t)dim * 2);
    struct attn_full a = {.qkv = qkv, .out = out, .n = n, .heads = heads,
                          .scale = .125f};
    int r = cuda_attn_full(&a, 0);
    float *o = fetched(out, (size_t)n * (size_t)dim);
    for (int i = 0; i < probes; i++) {
        int query = n == probes ? i : (int)((i * 7919ll) % n);
        int head = i % heads;
        attend(x, n, dim, query, head, want);
        memcpy(got, o + (size_t)query * (size_t)dim + head * VISION_HEAD,
               sizeof got);
        double err = relative(got, want, VISION_HEAD);
        worst = err > worst || isnan(err) ? err : worst;
    }
    snprintf(what, sizeof what, "attention, %d patches, %d heads%s", n,
             heads, r ? ", not launched" : "");
    cudaFree(qkv);
    cudaFree(out);
    free(x);
    free(o);
    return judge(what, r ? INFINITY : worst, 6e-3);
}

static int
check_rope(bool halves)
{
    enum { ROWS = 5, COLS = 7, HEADS = 3, LINES = 9, PAIRS = 16 };
    const int dim = HEADS * VISION_HEAD, n = ROWS * COLS;
    const size_t size = (size_t)(n * 3 * dim);
    float *x, angle[2][LINES][PAIRS], table[2][LINES][PAIRS][2];
    void *qkv = made(size, &x), *dev = NULL;
    for (int i = 0; i < 2 * LINES * PAIRS; i++) {
        (&angle[0][0][0])[i] = (float)(3 * uniform());
        (&table[0][0][0][0])[2 * i] = cosf((&angle[0][0][0])[i]);
        (&table[0][0][0][0])[2 * i + 1] = sinf((&angle[0][0][0])[i]);
    }
    if (cudaMalloc(&dev, sizeof table) != cudaSuccess)
        exit(1);
    cudaMemcpy(dev, table, sizeof table, cudaMemcpyHostToDevice);
    struct rope_2d a = {.qkv = qkv, .table = dev, .lines = LINES, .n = n,
                        .cols = COLS, .heads = HEADS, .halves = halves};
    int r = cuda_rope_2d(&a, 0);
    float *got = fetched(qkv, size);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < 2 * HEADS; h++)
            for (int k = 0; k < 2 * PAIRS; k++) {
                float *p = x + i * 3 * dim + h * VISION_HEAD;
                float *u = p + (halves ? k : 2 * k);
                float *v = p + (halves ? k + 2 * PAIRS : 2 * k + 1), f = *u;
                float t = k < PAIRS ? angle[0][i / COLS][k]
                                    : angle[1][i % COLS][k - PAIRS];
                *u = f * cosf(t) - *v * sinf(t);
                *v = *v * cosf(t) + f * sinf(t);
            }
    double err = r ? INFINITY : relative(got, x, size);
    cudaFree(qkv);
    cudaFree(dev);
    free(x);
    free(got);
    return judge(halves ? "rope, halves" : "rope, pairs", err, 3e-3);
}

/* --- towers -------------------------------------------------------------------- */

struct form {
    const char *what;
    int dim, layers, heads, hidden, patch, merge;
    double theta;
    int size;
};

static const struct form forms[] = {
    {"small-tower", 128, 3, 2, 192, 14, 2, 10000, 280},
    {"odd-tower", 192, 2, 3, 64, 6, 1, 300, 60},
    {"thin-tower", 64, 1, 1, 128, 2, 3, 10000, 90},
    {"release-tower", 1024, 3, 16, 4096, 14, 2, 10000, 1540},
};

static int
write_params(const char *dir, const struct form *f)
{
    char path[512];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *o = fopen(path, "w");
    if (o == NULL)
        return -1;
    fprintf(o, "{\"dim\":256,\"n_layers\":2,\"head_dim\":128,"
            "\"hidden_dim\":128,\"n_heads\":4,\"n_kv_heads\":4,"
            "\"rope_theta\":10000.0,\"norm_eps\":1e-06,\"vocab_size\":512,"
            "\"tied_embeddings\":false,\"max_position_embeddings\":1048576,"
            "\"llama_4_scaling\":{\"original_max_position_embeddings\":256,"
            "\"beta\":0.1},\"q_lora_rank\":128,\"qk_rope_head_dim\":64,"
            "\"qk_nope_head_dim\":64,\"kv_lora_rank\":256,"
            "\"v_head_dim\":128,\"yarn\":{"
            "\"original_max_position_embeddings\":256,\"factor\":64,"
            "\"apply_scale\":false,\"beta\":32,\"alpha\":1},\"moe\":{"
            "\"expert_parallel\":1,\"expert_model_parallel\":1,"
            "\"route_every_n\":1,\"first_k_dense_replace\":0,"
            "\"num_experts\":4,\"num_experts_per_tok\":4,"
            "\"num_expert_groups\":1,\"num_expert_groups_per_tok\":1,"
            "\"routed_scale\":1.0,\"expert_hidden_dim\":128,"
            "\"num_shared_experts\":1},\"vision_encoder\":{"
            "\"hidden_size\":%d,\"num_hidden_layers\":%d,"
            "\"num_attention_heads\":%d,\"intermediate_size\":%d,"
            "\"patch_size\":%d,\"num_channels\":3,\"image_size\":%d,"
            "\"max_image_size\":%d,\"rope_theta\":%g,"
            "\"spatial_merge_size\":%d,\"mm_projector_id\":\"patch_merge\","
            "\"add_pre_mm_projector_layer_norm\":true,"
            "\"adapter_bias\":false,\"image_token_id\":10,"
            "\"image_break_token_id\":12,\"image_end_token_id\":13}}\n",
            f->dim, f->layers, f->heads, f->hidden, f->patch, f->size,
            f->size, f->theta, f->merge);
    return fclose(o);
}

static float *
made_pixels(int height, int width)
{
    size_t n = 3 * (size_t)height * (size_t)width;
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x != NULL && i < n; i++)
        x[i] = (float)(1.5 * uniform() + sin((double)i * .013));
    return x;
}

/* The vectors of an image on both. rows, cols: cells. */
static int
check_image(struct whole *w, const char *form, int rows, int cols)
{
    const struct model_vision_params *p = &model_params(w->model)->vision;
    struct cuda *c = (struct cuda *)w->cuda;
    const int cell = p->patch * p->merge;
    const size_t size = (size_t)(rows * cols) * (size_t)c->p.dim;
    float *pixels = made_pixels(rows * cell, cols * cell);
    uint64_t a = 0, b = 0;
    struct err e = {0};
    char what[160];
    double err = INFINITY;
    int r = w->cpu->ops->encode_image(w->cpu, pixels, rows * cell,
                                      cols * cell, &a, &e);
    if (r == 0)
        r = w->cuda->ops->encode_image(w->cuda, pixels, rows * cell,
                                       cols * cell, &b, &e);
    while (r == 0 && w->cpu->ops->image_pending(w->cpu, &a))
        usleep(1000);
    if (r == 0)
        r = cuda_check(c, (int)cudaStreamSynchronize(c->stream), "image", &e);
    if (r == 0) {
        const struct tower_image *want = (void *)(uintptr_t)a;
        const struct cuda_image *at = &c->tower.image[b - 1];
        float *got = fetched((char *)c->tower.vector + (size_t)at->first
                             * (size_t)c->p.dim * 2, size);
        err = want->n == (uint32_t)(rows * cols) && at->n == want->n
              ? relative(got, want->vector, size) : INFINITY;
        free(got);
    }
    snprintf(what, sizeof what, "%s, %d x %d cells", form, rows, cols);
    if (r != 0)
        printf("%s: %s\n", what, e.text);
    if (a)
        w->cpu->ops->free_image(w->cpu, a);
    if (b)
        w->cuda->ops->free_image(w->cuda, b);
    free(pixels);
    return judge(what, err, VECTOR_BOUND);
}

/* Images until there is no room, then the largest again when all are freed. */
static int
check_room(struct whole *w)
{
    const struct model_vision_params *p = &model_params(w->model)->vision;
    struct cuda *c = (struct cuda *)w->cuda;
    const int cell = p->patch * p->merge, side = c->tower.lines * p->patch;
    float *pixels = made_pixels(side, side);
    uint64_t handle[IMAGES + 1] = {0};
    struct err e = {0};
    int n = 0, r = 0, bad = 0;
    while (n <= IMAGES && r == 0) {
        int height = n % 3 == 0 ? side : cell;
        r = w->cuda->ops->encode_image(w->cuda, pixels, height, side,
                                       &handle[n], &e);
        n += r == 0;
    }
    bad += r != ERR_AGAIN || n < IMAGES_LARGE;
    /* What the second left is too small for the largest. */
    w->cuda->ops->free_image(w->cuda, handle[1]);
    bad += w->cuda->ops->encode_image(w->cuda, pixels, side, side,
                                      &handle[1], &e) != ERR_AGAIN;
    bad += w->cuda->ops->encode_image(w->cuda, pixels, cell, cell,
                                      &handle[1], &e) != 0;
    for (int i = 0; i < n; i++)
        w->cuda->ops->free_image(w->cuda, handle[i]);
    for (int i = 0; i < IMAGES_LARGE; i++)
        bad += w->cuda->ops->encode_image(w->cuda, pixels, side, side,
                                          &handle[i], &e) != 0;
    for (int i = 0; i < IMAGES_LARGE; i++)
        w->cuda->ops->free_image(w->cuda, handle[i]);
    bad += w->cuda->ops->encode_image(w->cuda, pixels, side + cell, cell,
                                      &handle[0], &e) != ERR_RANGE;
    free(pixels);
    printf("%s room for %d images, then refused\n", bad ? "FAIL" : "ok  ", n);
    return bad != 0;
}

/* The vectors of a live image, as stored. */
static uint16_t *
vectors(struct whole *w, uint64_t handle, size_t *n)
{
    struct cuda *c = (struct cuda *)w->cuda;
    const struct cuda_image *im = &c->tower.image[handle - 1];
    const size_t row = (size_t)c->p.dim * 2;
    *n = im->n * row;
    uint16_t *out = malloc(*n);
    if (out == NULL || cudaStreamSynchronize(c->stream) != cudaSuccess
        || cudaMemcpy(out, (char *)c->tower.vector + im->first * row, *n,
                      cudaMemcpyDeviceToHost) != cudaSuccess)
        exit(1);
    return out;
}

/* Images that take several slices: alone, between steps, ended by another
 * image, behind one that was given up. The bits are the same. */
static int
check_slices(struct whole *w)
{
    const struct model_vision_params *p = &model_params(w->model)->vision;
    const int cell = p->patch * p->merge, rows = 40, cols = 30;
    struct backend *b = w->cuda;
    struct text t = {0};
    struct diff d = {0};
    struct run r = {0};
    struct err e = {0};
    float *pixels = made_pixels(rows * cell, cols * cell);
    uint64_t h[4] = {0};
    uint16_t *v[4] = {NULL};
    size_t n[4];
    int steps = 0, bad = text_random(&t, 40, w->n_vocab, 9)
                         || whole_score(w, &t, &e) != 0
                         || run_open(&r, w, &t, 1, &d) != 0;
    for (int i = 0; i < 4 && !bad; i++) {
        bad = b->ops->encode_image(b, pixels, rows * cell, cols * cell, &h[i],
                                   &e) != 0
              || !encoder_pending((struct cuda *)b, &h[i]);
        while (i == 1 && !bad && encoder_pending((struct cuda *)b, NULL)) {
            struct share s = {0, 1};
            bad = steps++ > 30 || run_step(&r, &s, 1, &e) != 0;
        }
        if (i == 2 && !bad)
            b->ops->free_image(b, h[2]);
    }
    /* The last is ended by a small one. */
    bad = bad || b->ops->encode_image(b, pixels, cell, cell, &h[2], &e) != 0
          || encoder_pending((struct cuda *)b, NULL);
    for (int i = 0; i < 4 && !bad; i++)
        v[i] = vectors(w, h[i], &n[i]);
    for (int i = 1; i < 4 && !bad; i += 2)
        bad = n[i] != n[0] || memcmp(v[i], v[0], n[0]) != 0;
    printf("%s slices: an image between %d steps%s%s\n",
           bad || steps < 1 ? "FAIL" : "ok  ", steps, e.text[0] ? ": " : "",
           e.text);
    for (int i = 0; i < 4; i++) {
        if (h[i])
            b->ops->free_image(b, h[i]);
        free(v[i]);
    }
    run_close(&r);
    diff_free(&d);
    text_free(&t);
    free(pixels);
    return bad || steps < 1;
}

/* A picture into t, whose ids there become its tokens. */
static void
put_picture(struct text *t, const struct model_vision_params *p, uint32_t pos,
            int rows, int cols)
{
    const int cell = p->patch * p->merge;
    t->image = realloc(t->image, (t->n_image + 1) * sizeof *t->image);
    struct picture *im = &t->image[t->n_image++];
    *im = (struct picture){
        .pixels = made_pixels(rows * cell, cols * cell),
        .height = rows * cell, .width = cols * cell, .pos = pos,
        .n_tokens = (uint32_t)(rows * (cols + 1)),
    };
    for (int i = 0; i < rows * (cols + 1); i++)
        t->id[pos + (uint32_t)i] =
            (i + 1) % (cols + 1) ? WHOLE_IMG
            : i + 1 == rows * (cols + 1) ? 13 : 12;
}

/* Two texts with three pictures, side by side. */
static int
check_texts(struct whole *w, const char *form, uint32_t chunk)
{
    const struct model_vision_params *p = &model_params(w->model)->vision;
    struct text t[2] = {{0}};
    const struct model_text_params *text = &model_params(w->model)->text;
    struct diff d = {0};
    struct run r = {0};
    struct err e = {0};
    char how[80];
    rng = 4;  /* the same pictures for every chunking */
    int rc = text_random(&t[0], 200, w->n_vocab, 5)
             + text_random(&t[1], 100, w->n_vocab, 6);
    put_picture(&t[0], p, 3, 5, 7);
    put_picture(&t[0], p, 60, 4, 4);
    put_picture(&t[1], p, 0, 3, 8);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = whole_score(w, &t[i], &e);
    if (rc == 0)
        rc = run_open(&r, w, t, 2, &d);
    while (rc == 0 && (r.done[0] < t[0].n || r.done[1] < t[1].n)) {
        struct share s[2];
        uint32_t n = 0;
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t left = t[i].n - r.done[i];
            if (left > 0)
                s[n++] = (struct share){i, left < chunk ? left : chunk};
        }
        rc = run_step(&r, s, n, &e);
    }
    run_close(&r);
    snprintf(how, sizeof how, "texts with pictures in chunks of %u", chunk);
    if (rc != 0)
        printf("FAIL %s, %s: %s\n", form, how, e.text);
    else
        rc = diff_judge(&d, text->top_k < text->n_experts ? &bound_choice
                                                          : &bound_fixed,
                        form, how);
    diff_free(&d);
    text_free(&t[0]);
    text_free(&t[1]);
    return rc != 0;
}

static int
check_model(const char *dir, bool dummy, const char *what)
{
    static const uint32_t chunk[] = {1, 17, 50, 256};
    const struct whole_limits l = {.max_seqs = 4, .max_step = 512,
                                   .max_context = 512, .n_blocks = 32};
    struct whole w = {0};
    struct err e = {0};
    int bad = 0;
    if (whole_open(&w, dir, dummy, &l, &e) != 0) {
        printf("FAIL %s: %s\n", what, e.text);
        return 1;
    }
    const int side = ((struct cuda *)w.cuda)->tower.lines
                     / model_params(w.model)->vision.merge;
    bad += check_image(&w, what, 1, 1) + check_image(&w, what, 2, 3)
           + check_image(&w, what, 7, 5) + check_image(&w, what, 1, side)
           + check_image(&w, what, 10, 9);
    if (side <= 10)
        bad += check_image(&w, what, side, side);
    if (side <= 30)
        bad += check_room(&w);
    if (model_params(w.model)->vision.dim == 1024)
        bad += check_slices(&w);
    for (size_t i = 0; i < sizeof chunk / sizeof *chunk; i++)
        bad += check_texts(&w, what, chunk[i]);
    whole_close(&w);
    return bad;
}

/* --- times ------------------------------------------------------------------------ */

static int
time_images(const char *dir)
{
    static const int side[] = {2, 9, 18, 28, 37, 46, 55};
    const struct form f = {"release", 1024, 24, 16, 4096, 14, 2, 10000, 1540};
    struct model_options o = {.dummy = true, .seed = 1};
    struct backend_limits l = {.max_seqs = 4, .max_step = 512,
                               .max_context = 512, .n_devices = 1,
                               .kv_bytes = 1 << 20};
    struct backend_plan plan;
    struct model *m = NULL;
    struct backend *b = NULL;
    struct err e = {0};
    cudaEvent_t begin, end;
    int r = write_params(dir, &f);
    if (r == 0)
        r = model_open(dir, &o, &m, &e);
    if (r == 0)
        r = backend_cuda.open(NULL, &b, &e);
    if (r == 0)
        r = backend_cuda.plan(b, m, &l, &plan, &e);
    if (r == 0)
        r = backend_cuda.load(b, NULL, NULL, &e);
    if (r != 0) {
        printf("FAIL %s\n", e.text);
        return 1;
    }
    for (int i = 0; i < plan.n_row; i++)
        printf("%-16s %12llu bytes\n", plan.row[i].what,
               (unsigned long long)plan.row[i].bytes);
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    struct cuda *c = (struct cuda *)b;
    for (size_t i = 0; i < sizeof side / sizeof *side; i++) {
        float *pixels = made_pixels(side[i] * 28, side[i] * 28);
        float best = INFINITY;
        double held = INFINITY;
        for (int k = 0; k < 5 && r == 0; k++) {
            uint64_t h = 0, from = clock_ns();
            float ms = 0;
            cudaEventRecord(begin, c->stream);
            r = backend_cuda.encode_image(b, pixels, side[i] * 28,
                                          side[i] * 28, &h, &e);
            held = fmin(held, (double)(clock_ns() - from) * 1e-6);
            while (r == 0 && encoder_pending(c, NULL))
                r = encoder_advance(c);
            cudaEventRecord(end, c->stream);
            cudaEventSynchronize(end);
            cudaEventElapsedTime(&ms, begin, end);
            best = fminf(best, ms);
            backend_cuda.free_image(b, h);
        }
        printf("%4d x %4d pixels, %5d patches: %7.2f ms, caller held %.2f "
               "ms\n", side[i] * 28, side[i] * 28, side[i] * side[i] * 4,
               (double)best, held);
        free(pixels);
    }
    backend_cuda.close(b);
    model_close(m);
    return r != 0;
}

static int
check_kernels(void)
{
    return check_rope(false) + check_rope(true) + check_attention(1, 1)
           + check_attention(33, 3) + check_attention(64, 2)
           + check_attention(200, 1) + check_attention(1000, 16);
}

static bool
asked(int argc, char **argv, const char *what)
{
    bool any = argc < 2;
    for (int i = 1; i < argc; i++)
        any |= strcmp(argv[i], what) == 0;
    return any;
}

static int
check_all(const char *dir, int argc, char **argv)
{
    static const char *const demo[] = {"model", "model-fp8", "model-nvfp4"};
    const char *top = getenv("SIROCCO_SRCDIR");
    char path[4096];
    int bad = asked(argc, argv, "kernels") ? check_kernels() : 0;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (asked(argc, argv, forms[i].what))
            bad += write_params(dir, &forms[i])
                   || check_model(dir, true, forms[i].what);
    for (size_t i = 0; i < sizeof demo / sizeof *demo; i++) {
        snprintf(path, sizeof path, "%s/contrib/demo-model/%s",
                 top ? top : ".", demo[i]);
        if (asked(argc, argv, demo[i]))
            bad += check_model(path, false, demo[i]);
    }
    return bad;
}

int
main(int argc, char **argv)
{
    char dir[] = "/tmp/sirocco-op-XXXXXX", path[64];
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    if (mkdtemp(dir) == NULL)
        return 1;
    int bad = argc > 1 && strcmp(argv[1], "-b") == 0 ? time_images(dir)
                                                     : check_all(dir, argc, argv);
    snprintf(path, sizeof path, "%s/params.json", dir);
    unlink(path);
    rmdir(dir);
    return bad != 0;
}
