/*
 * Weights from the checkpoint to their final places on the device.
 *
 * DESIGN. The work is cut into jobs of at most STAGE bytes; a few threads take
 * them in file order. Each thread has two pinned buffers and a stream: while
 * one buffer is copied and repacked on the device, the next is read. Tensors
 * that keep their form go straight to their place, the others through staging
 * memory that lies where cache and workspace will be. Gate and up rows of an
 * expert share units, so one job writes both, in stream order.
 */
#include "config.h"

#include "cuda/cuda_state.h"

#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGE (8u << 20)
#define MAX_THREADS 16

enum job_kind { JOB_COPY, JOB_MATRIX, JOB_KV_B };

/* One or two row ranges that become part of one matrix on the device. */
struct job {
    enum job_kind kind;
    const struct tensor *tensor;     /* JOB_COPY */
    uint64_t from, size;
    const struct weight *w[2];       /* JOB_MATRIX: gate and up, or one */
    int row, rows;
    void *out;
    struct cuda_layer *layer;        /* JOB_KV_B */
};

struct loader {
    struct cuda *c;
    struct job *job;
    size_t n, cap;
    atomic_size_t next;
    atomic_ullong done;
    atomic_int failed, running;
    char *staging;                   /* device */
    pthread_mutex_t lock;
    struct err err;
};

/* A thread's half of the double buffer. */
struct half {
    char *host, *device;
    cudaEvent_t free;
};

struct worker {
    struct loader *l;
    int index;
    pthread_t thread;
    cudaStream_t stream;
    struct half half[2];
    int turn;
};

enum layout
layout_of(const struct weight *w)
{
    return w->format == WEIGHT_NVFP4 ? LAYOUT_NVFP4
           : w->format == WEIGHT_FP8 ? LAYOUT_FP8 : LAYOUT_BF16;
}

/* The kernels leave 2^-7 in the products of NVFP4. */
float
product_scale(const struct weight *w)
{
    return w->format == WEIGHT_NVFP4 ? 128 * w->scale
           : w->format == WEIGHT_FP8 ? w->scale : 1;
}

/* Stored bytes of a row, without block scales. */
static uint64_t
row_bytes(const struct weight *w)
{
    uint64_t cols = (uint64_t)w->cols;
    return w->format == WEIGHT_NVFP4 ? cols / 2
           : w->format == WEIGHT_FP8 ? cols : cols * 2;
}

static struct job *
job_new(struct loader *l)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 1024;
        struct job *grown = realloc(l->job, cap * sizeof *grown);
        if (grown == NULL)
            return NULL;
        l->job = grown;
        l->cap = cap;
    }
    memset(&l->job[l->n], 0, sizeof *l->job);
    return &l->job[l->n++];
}

static int
add_copy(struct loader *l, const struct tensor *t, uint64_t from,
         uint64_t size, const void *out)
{
    for (uint64_t at = 0; at < size; at += STAGE) {
        struct job *j = job_new(l);
        if (j == NULL)
            return ERR_NOMEM;
        j->kind = JOB_COPY;
        j->tensor = t;
        j->from = from + at;
        j->size = size - at < STAGE ? size - at : STAGE;
        j->out = (char *)(uintptr_t)out + at;
    }
    return 0;
}

/* One matrix, or gate and up into alternating eights of rows. */
static int
add_matrix(struct loader *l, const struct weight *w, const struct weight *up,
           const void *out)
{
    uint64_t per = row_bytes(w), units = ((uint64_t)w->cols + 511) / 512;
    if (w->format != WEIGHT_NVFP4 && up == NULL)
        return add_copy(l, w->data, w->first * (per / (uint64_t)w->cols),
                        per * (uint64_t)w->rows, out);
    int tile = up ? 8 : 16;
    uint64_t cost = per + (w->format == WEIGHT_NVFP4
                           ? (uint64_t)w->cols / 16 : 0);
    int most = (int)(STAGE / cost) / 16 * 16, rows = (int)w->rows;
    for (int r = 0; r < rows; r += most) {
        struct job *j = job_new(l);
        if (j == NULL)
            return ERR_NOMEM;
        j->kind = JOB_MATRIX;
        j->w[0] = w;
        j->w[1] = up;
        j->row = r;
        j->rows = rows - r < most ? rows - r : most;
        uint64_t skip = w->format == WEIGHT_NVFP4
            ? (uint64_t)(r / tile) * units * 4608
            : (uint64_t)r * per * (up ? 2 : 1);
        j->out = (char *)(uintptr_t)out + skip;
    }
    return 0;
}

static int
add_norm(struct loader *l, const struct tensor *t, const void *out)
{
    return add_copy(l, t, 0, t->size, out);
}

static int
add_attention(struct loader *l, struct cuda_layer *d,
              const struct layer_weights *w)
{
    int r = add_norm(l, w->attention_norm, d->attention_norm);
    if (r == 0)
        r = add_norm(l, w->ffn_norm, d->ffn_norm);
    if (r == 0)
        r = add_norm(l, w->q_a_norm, d->q_norm);
    if (r == 0)
        r = add_norm(l, w->kv_a_norm, d->kv_norm);
    if (r == 0)
        r = add_matrix(l, &w->wq_a, NULL, d->wq_a.data);
    if (r == 0)
        r = add_matrix(l, &w->wkv_a, NULL, d->wkv_a.data);
    if (r == 0)
        r = add_matrix(l, &w->wq_b, NULL, d->wq_b.data);
    if (r == 0)
        r = add_matrix(l, &w->wo, NULL, d->wo.data);
    struct job *j = r == 0 ? job_new(l) : NULL;
    if (j == NULL)
        return ERR_NOMEM;
    j->kind = JOB_KV_B;
    j->w[0] = &w->wkv_b;
    j->rows = (int)w->wkv_b.rows;
    j->layer = d;
    return 0;
}

static int
add_expert(struct loader *l, struct cuda_layer *d, int e,
           const struct mlp_weights *w)
{
    uint64_t at = (uint64_t)e;
    d->host13[2 * e] = product_scale(&w->w1);
    d->host13[2 * e + 1] = product_scale(&w->w3);
    d->host2[e] = product_scale(&w->w2);
    int r = add_matrix(l, &w->w1, &w->w3, (char *)d->w13 + at * d->stride13);
    if (r == 0)
        r = add_matrix(l, &w->w2, NULL, (char *)d->w2 + at * d->stride2);
    return r;
}

/* All of the tower but its first matrix, whose rows are padded
 * (encoder_prepare). */
static int
add_tower(struct loader *l, const struct cuda_tower *v,
          const struct vision_weights *w)
{
    const uint64_t dim = (uint64_t)v->p.dim;
    int r = add_norm(l, w->ln_pre, v->ln_pre);
    for (int i = 0; i < v->p.n_layers && r == 0; i++) {
        const struct vision_layer_weights *from = &w->layer[i];
        const struct cuda_tower_layer *to = &v->layer[i];
        const char *qkv = to->qkv.data, *w13 = to->w13.data;
        const struct {
            const struct weight *w;
            const void *out;
        } part[] = {
            {&from->wq, qkv}, {&from->wk, qkv + dim * dim * 2},
            {&from->wv, qkv + dim * dim * 4}, {&from->wo, to->wo.data},
            {&from->w1, w13},
            {&from->w3, w13 + dim * (uint64_t)v->p.hidden * 2},
            {&from->w2, to->w2.data},
        };
        r = add_norm(l, from->attention_norm, to->attention_norm);
        if (r == 0)
            r = add_norm(l, from->ffn_norm, to->ffn_norm);
        for (size_t k = 0; k < sizeof part / sizeof *part && r == 0; k++)
            r = add_matrix(l, part[k].w, NULL, part[k].out);
    }
    if (r == 0 && v->projector_norm != NULL)
        r = add_norm(l, w->pre_projector_norm, v->projector_norm);
    if (r == 0)
        r = add_matrix(l, &w->merge, NULL, v->merge.data);
    if (r == 0)
        r = add_matrix(l, &w->w_in, NULL, v->w_in.data);
    return r == 0 ? add_matrix(l, &w->w_out, NULL, v->w_out.data) : r;
}

static int
add_all(struct loader *l)
{
    struct cuda *c = l->c;
    const struct text_weights *t = model_text(c->model);
    int r = add_matrix(l, &t->embeddings, NULL, c->embeddings.data);
    for (int i = 0; r == 0 && i < c->p.n_layers; i++) {
        r = add_attention(l, &c->layer[i], &t->layer[i]);
        if (r == 0)
            r = add_matrix(l, &t->layer[i].gate, NULL,
                           c->layer[i].gate.data);
        for (int e = 0; r == 0 && e < c->p.n_experts; e++)
            r = add_expert(l, &c->layer[i], e, &t->layer[i].expert[e]);
        if (r == 0)
            r = add_expert(l, &c->layer[i], c->p.n_experts,
                           &t->layer[i].shared);
    }
    if (r == 0)
        r = add_norm(l, t->norm, c->norm);
    if (r == 0 && !c->p.tied)
        r = add_matrix(l, &t->output, NULL, c->output.data);
    if (r == 0 && c->tower.layer != NULL)
        r = add_tower(l, &c->tower, model_vision(c->model));
    return r;
}

static void
fail(struct loader *l, int code, const struct err *e)
{
    pthread_mutex_lock(&l->lock);
    if (!atomic_exchange(&l->failed, 1)) {
        l->err = *e;
        l->err.code = code;
    }
    pthread_mutex_unlock(&l->lock);
}

/* Reads rows of w into the half: data, then block scales. */
static int
read_rows(struct loader *l, const struct weight *w, int row, int rows,
          struct half *h, uint64_t *data, struct err *e)
{
    uint64_t per = row_bytes(w), cols = (uint64_t)w->cols;
    uint64_t first = w->format == WEIGHT_NVFP4 ? w->first / 2
                     : w->first * (per / cols);
    *data = per * (uint64_t)rows;
    int r = model_read(l->c->model, w->data, first + per * (uint64_t)row,
                       h->host, *data, e);
    if (r != 0 || w->format != WEIGHT_NVFP4)
        return r;
    uint64_t block = cols / 16;
    r = model_read(l->c->model, w->block,
                   w->first / 16 + block * (uint64_t)row, h->host + *data,
                   block * (uint64_t)rows, e);
    *data += block * (uint64_t)rows;
    return r;
}

static int
pack(struct worker *w, const struct weight *m, int rows, int step, int first,
     struct half *h, void *out)
{
    uint64_t data = row_bytes(m) * (uint64_t)rows;
    if (m->format == WEIGHT_NVFP4)
        return cuda_pack_fp4(h->device, h->device + data, rows, (int)m->cols,
                             step, first, out, w->stream);
    return cuda_pack_rows(h->device, rows, row_bytes(m), step, first, out,
                          w->stream);
}

/* The expanded wkv_b and its two halves; out of a staging half of its own. */
static int
split(struct worker *w, const struct job *j, struct half *h)
{
    const struct weight *m = j->w[0];
    struct cuda_layer *d = j->layer;
    uint64_t data = row_bytes(m) * (uint64_t)j->rows;
    void *out = (void *)(uintptr_t)d->kv_b.data;
    int r = cuda_unpack_bf16(layout_of(m), h->device, h->device + data,
                             j->rows, MLA_RANK, out, w->stream);
    if (r == 0)
        r = cuda_split_kv_b(out, w->l->c->p.n_heads,
                            (void *)(uintptr_t)d->uk.data, d->uk_t, d->uv,
                            w->stream);
    return r;
}

static int
run_part(struct worker *w, const struct job *j, int part, struct err *e)
{
    struct half *h = &w->half[w->turn];
    struct cuda *c = w->l->c;
    uint64_t size = j->size;
    int r = 0;
    w->turn ^= 1;
    cudaEventSynchronize(h->free);
    if (j->kind == JOB_COPY)
        r = model_read(c->model, j->tensor, j->from, h->host, size, e);
    else
        r = read_rows(w->l, j->w[part], j->row, j->rows, h, &size, e);
    if (r != 0)
        return r;
    void *to = j->kind == JOB_COPY ? j->out : h->device;
    int st = (int)cudaMemcpyAsync(to, h->host, size, cudaMemcpyHostToDevice,
                                  w->stream);
    if (st == 0 && j->kind == JOB_KV_B)
        st = split(w, j, h);
    if (st == 0 && j->kind == JOB_MATRIX)
        st = pack(w, j->w[part], j->rows, j->w[1] ? 16 : 8, part * 8, h,
                  j->out);
    if (st == 0)
        st = (int)cudaEventRecord(h->free, w->stream);
    atomic_fetch_add(&w->l->done, size);
    return cuda_check(c, st, "loading weights", e);
}

static void *
work(void *arg)
{
    struct worker *w = arg;
    struct loader *l = w->l;
    struct err e = {0};
    int r = cuda_check(l->c, (int)cudaSetDevice(l->c->device), "device", &e);
    while (r == 0 && !atomic_load(&l->failed)) {
        size_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n)
            break;
        const struct job *j = &l->job[i];
        r = run_part(w, j, 0, &e);
        if (r == 0 && j->kind == JOB_MATRIX && j->w[1] != NULL)
            r = run_part(w, j, 1, &e);
    }
    if (r == 0)
        r = cuda_check(l->c, (int)cudaStreamSynchronize(w->stream),
                       "loading weights", &e);
    if (r != 0)
        fail(l, r, &e);
    atomic_fetch_sub(&l->running, 1);
    return NULL;
}

static int
worker_open(struct worker *w, struct loader *l, int index, struct err *e)
{
    struct cuda *c = l->c;
    w->l = l;
    w->index = index;
    int r = cuda_check(c, (int)cudaStreamCreateWithFlags(
                           &w->stream, cudaStreamNonBlocking), "stream", e);
    for (int i = 0; r == 0 && i < 2; i++) {
        struct half *h = &w->half[i];
        h->device = l->staging + (uint64_t)(index * 2 + i) * STAGE;
        r = cuda_check(c, (int)cudaHostAlloc((void **)&h->host, STAGE,
                                             cudaHostAllocPortable),
                       "pinned memory", e);
        if (r == 0)
            r = cuda_check(c, (int)cudaEventCreateWithFlags(
                               &h->free, cudaEventDisableTiming), "event", e);
    }
    return r;
}

static void
worker_close(struct worker *w)
{
    for (int i = 0; i < 2; i++) {
        if (w->half[i].host)
            cudaFreeHost(w->half[i].host);
        if (w->half[i].free)
            cudaEventDestroy(w->half[i].free);
    }
    if (w->stream)
        cudaStreamDestroy(w->stream);
}

static int
thread_count(struct cuda *c)
{
    uint64_t room = (c->pool_size - c->weight_bytes) / (2 * STAGE);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t n = cores < 1 ? 1 : (uint64_t)cores;
    n = n < MAX_THREADS ? n : MAX_THREADS;
    return (int)(n < room ? n : room);
}

/* Runs the threads to the end, reporting now and then. */
static int
run_workers(struct loader *l, struct worker *w, int n,
            backend_progress_fn progress, void *arg, struct err *e)
{
    uint64_t total = model_bytes(l->c->model);
    int started = 0, r = 0;
    atomic_store(&l->running, n);
    for (; started < n; started++)
        if (pthread_create(&w[started].thread, NULL, work, &w[started])) {
            atomic_store(&l->failed, 1);
            r = err_set(e, ERR_NOMEM, "no threads to load with");
            break;
        }
    while (r == 0 && atomic_load(&l->running) > 0) {
        usleep(20000);
        if (progress)
            progress(arg, atomic_load(&l->done), total);
    }
    for (int i = 0; i < started; i++)
        pthread_join(w[i].thread, NULL);
    if (r == 0 && atomic_load(&l->failed)) {
        *e = l->err;
        r = l->err.code;
    }
    return r;
}

static int
put_scales(struct cuda *c, struct err *e)
{
    size_t n = (size_t)c->n_experts;
    float freq[MLA_ROPE / 2];
    int r = 0;
    for (int i = 0; r == 0 && i < c->p.n_layers; i++) {
        struct cuda_layer *d = &c->layer[i];
        r = cuda_check(c, (int)cudaMemcpy(d->scale13, d->host13, n * 8,
                                          cudaMemcpyHostToDevice),
                       "scales", e);
        if (r == 0)
            r = cuda_check(c, (int)cudaMemcpy(d->scale2, d->host2, n * 4,
                                              cudaMemcpyHostToDevice),
                           "scales", e);
    }
    model_rope_freqs(&c->p, freq);
    if (r == 0)
        r = cuda_check(c, (int)cudaMemcpy(c->freq, freq, sizeof freq,
                                          cudaMemcpyHostToDevice), "rope", e);
    return r;
}

int
upload_weights(struct cuda *c, backend_progress_fn progress, void *arg,
               struct err *e)
{
    struct loader l = {.c = c, .staging = c->cache};
    struct worker w[MAX_THREADS];
    size_t n_e = (size_t)c->n_experts;
    int n = thread_count(c), r = 0;
    uint64_t begin = clock_ns();

    memset(w, 0, sizeof w);
    pthread_mutex_init(&l.lock, NULL);
    for (int i = 0; r == 0 && i < c->p.n_layers; i++) {
        c->layer[i].host13 = calloc(n_e * 2, sizeof(float));
        c->layer[i].host2 = calloc(n_e, sizeof(float));
        if (c->layer[i].host13 == NULL || c->layer[i].host2 == NULL)
            r = err_set(e, ERR_NOMEM, "no memory for the scales");
        /* Rows that pad the router to whole tiles. */
        if (r == 0)
            r = cuda_check(c, (int)cudaMemset(
                               (void *)(uintptr_t)c->layer[i].gate.data, 0,
                               (size_t)c->gate_rows * (size_t)c->p.dim * 2),
                           "clearing", e);
    }
    if (r == 0)
        r = cuda_check(c, (int)cudaDeviceSynchronize(), "clearing", e);
    if (r == 0 && add_all(&l) != 0)
        r = err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    for (int i = 0; r == 0 && i < n; i++)
        r = worker_open(&w[i], &l, i, e);
    if (r == 0)
        r = run_workers(&l, w, n, progress, arg, e);
    if (r == 0)
        r = put_scales(c, e);
    for (int i = 0; i < n; i++)
        worker_close(&w[i]);
    free(l.job);
    pthread_mutex_destroy(&l.lock);
    if (r == 0) {
        double s = (double)(clock_ns() - begin) * 1e-9;
        double gb = (double)atomic_load(&l.done) * 1e-9;
        log_info("cuda: loaded %.2f GB in %.2f s (%.1f GB/s, %d threads)",
                 gb, s, gb / s, n);
    }
    return r;
}
