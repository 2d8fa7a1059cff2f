/*
 * Weights from the checkpoint, or from a packed file, to their final places.
 *
 * DESIGN. The work is cut into jobs of at most STAGE bytes; a few threads take
 * them in file order. Each thread has two pinned buffers and a stream: while
 * one buffer is copied and repacked on the device, the next is read, past the
 * page cache (base/direct.h). So the host holds the buffers and no weights.
 * Tensors that keep their form go straight to their place, the others through
 * staging memory that lies where cache and workspace will be. Gate and up rows
 * of an expert share units, so one job writes both, in stream order.
 *
 * The same jobs make a packed file (packed.c): then the places are in the
 * mapped file, and pack_host.c repacks in the place of the device.
 */
#include "config.h"

#include "cuda/cuda_state.h"
#include "cuda/load/packed.h"

#include "base/clock.h"
#include "base/direct.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGE (8u << 20)
#define HALF (STAGE + 3 * DIRECT_SLACK)  /* two reads share one */
#define MAX_THREADS 16

enum job_kind { JOB_COPY, JOB_MATRIX, JOB_KV_B };

/* One or two row ranges that become part of one matrix on the device. */
struct job {
    enum job_kind kind;
    const struct tensor *tensor;     /* JOB_COPY; NULL: the packed file */
    uint64_t from, size;
    const struct weight *w[2];       /* JOB_MATRIX: gate and up, or one */
    int row, rows;
    void *out;
    struct cuda_layer *layer;        /* JOB_KV_B */
};

struct loader {
    struct cuda *c;
    bool host;                       /* places are in host memory */
    struct direct *file;             /* of the model, or the packed one */
    int n_file;
    struct job *job;
    size_t n, cap;
    atomic_size_t next;
    atomic_ullong done;
    uint64_t total;                  /* bytes to read */
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

/* What was read for a job, in a half: rows, or bytes, and block scales. */
struct input {
    char *data, *block;
    uint64_t n_data, n_block;
};

struct worker {
    struct loader *l;
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

/* Bytes [from, from + n) of t, or of the packed file, into a buffer; *at is
 * where they begin. */
static int
read_bytes(struct loader *l, const struct tensor *t, uint64_t from,
           uint64_t n, char *buf, char **at, struct err *e)
{
    if (t == NULL)
        return direct_read(&l->file[0], PACKED_HEADER + from, buf, n, at, e);
    if (t->file >= 0)
        return direct_read(&l->file[t->file], t->offset + from, buf, n, at,
                           e);
    *at = buf;
    return model_read(l->c->model, t, from, buf, n, e);
}

static int
read_input(struct loader *l, const struct job *j, int part, char *buf,
           struct input *in, struct err *e)
{
    if (j->kind == JOB_COPY) {
        in->n_data = j->size;
        return read_bytes(l, j->tensor, j->from, j->size, buf, &in->data, e);
    }
    const struct weight *w = j->w[part];
    uint64_t per = row_bytes(w), cols = (uint64_t)w->cols;
    uint64_t rows = (uint64_t)j->rows, row = (uint64_t)j->row;
    uint64_t first = w->format == WEIGHT_NVFP4 ? w->first / 2
                     : w->first * (per / cols);
    in->n_data = per * rows;
    int r = read_bytes(l, w->data, first + per * row, in->n_data, buf,
                       &in->data, e);
    if (r != 0 || w->format != WEIGHT_NVFP4)
        return r;
    uint64_t block = cols / 16;
    in->n_block = block * rows;
    buf += (in->n_data + DIRECT_SLACK) / DIRECT_ALIGN * DIRECT_ALIGN
           + DIRECT_ALIGN;
    return read_bytes(l, w->block, w->first / 16 + block * row, in->n_block,
                      buf, &in->block, e);
}

static int
pack(struct worker *w, const struct job *j, int part, struct half *h,
     uint64_t data)
{
    const struct weight *m = j->w[part];
    int step = j->w[1] ? 16 : 8, first = part * 8;
    if (m->format == WEIGHT_NVFP4)
        return cuda_pack_fp4(h->device, h->device + data, j->rows,
                             (int)m->cols, step, first, j->out, w->stream);
    return cuda_pack_rows(h->device, j->rows, row_bytes(m), step, first,
                          j->out, w->stream);
}

/* The expanded wkv_b and its two halves. */
static int
split(struct worker *w, const struct job *j, struct half *h, uint64_t data)
{
    const struct weight *m = j->w[0];
    struct cuda_layer *d = j->layer;
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
place_on_device(struct worker *w, const struct job *j, int part,
                struct half *h, const struct input *in)
{
    char *to = j->kind == JOB_COPY ? j->out : h->device;
    int r = (int)cudaMemcpyAsync(to, in->data, in->n_data,
                                 cudaMemcpyHostToDevice, w->stream);
    if (r == 0 && in->n_block > 0)
        r = (int)cudaMemcpyAsync(to + in->n_data, in->block, in->n_block,
                                 cudaMemcpyHostToDevice, w->stream);
    if (r == 0 && j->kind == JOB_KV_B)
        r = split(w, j, h, in->n_data);
    if (r == 0 && j->kind == JOB_MATRIX)
        r = pack(w, j, part, h, in->n_data);
    return r == 0 ? (int)cudaEventRecord(h->free, w->stream) : r;
}

/* The same in host memory. */
static void
place_on_host(struct loader *l, const struct job *j, int part,
              const struct input *in)
{
    const struct weight *m = j->w[part];
    if (j->kind == JOB_COPY) {
        memcpy(j->out, in->data, in->n_data);
    } else if (j->kind == JOB_KV_B) {
        struct cuda_layer *d = j->layer;
        void *out = (void *)(uintptr_t)d->kv_b.data;
        host_unpack_bf16(layout_of(m), in->data, in->block, j->rows,
                         MLA_RANK, out);
        host_split_kv_b(out, l->c->p.n_heads, (void *)(uintptr_t)d->uk.data,
                        d->uk_t, d->uv);
    } else if (m->format == WEIGHT_NVFP4) {
        host_pack_fp4(in->data, in->block, j->rows, (int)m->cols,
                      j->w[1] ? 16 : 8, part * 8, j->out);
    } else {
        host_pack_rows(in->data, j->rows, row_bytes(m), j->w[1] ? 16 : 8,
                       part * 8, j->out);
    }
}

static int
run_part(struct worker *w, const struct job *j, int part, struct err *e)
{
    struct half *h = &w->half[w->turn];
    struct input in = {0};
    int st = 0;
    if (!w->l->host) {
        w->turn ^= 1;
        st = (int)cudaEventSynchronize(h->free);
    }
    int r = read_input(w->l, j, part, h->host, &in, e);
    if (r != 0)
        return r;
    if (w->l->host)
        place_on_host(w->l, j, part, &in);
    else if (st == 0)
        st = place_on_device(w, j, part, h, &in);
    atomic_fetch_add(&w->l->done, in.n_data + in.n_block);
    return cuda_check(w->l->c, st, "loading weights", e);
}

static void *
work(void *arg)
{
    struct worker *w = arg;
    struct loader *l = w->l;
    struct err e = {0};
    int r = l->host ? 0 : cuda_check(l->c, (int)cudaSetDevice(l->c->device),
                                     "device", &e);
    while (r == 0 && !atomic_load(&l->failed)) {
        size_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n)
            break;
        const struct job *j = &l->job[i];
        r = run_part(w, j, 0, &e);
        if (r == 0 && j->kind == JOB_MATRIX && j->w[1] != NULL)
            r = run_part(w, j, 1, &e);
    }
    if (r == 0 && !l->host)
        r = cuda_check(l->c, (int)cudaStreamSynchronize(w->stream),
                       "loading weights", &e);
    if (r != 0)
        fail(l, r, &e);
    atomic_fetch_sub(&l->running, 1);
    return NULL;
}

/* Pinned memory, or plain memory for a packed file. */
static int
half_open(struct half *h, struct loader *l, int index, struct err *e)
{
    if (l->host) {
        h->host = aligned_alloc(DIRECT_ALIGN, HALF);
        return h->host ? 0 : err_set(e, ERR_NOMEM, "no memory to read to");
    }
    h->device = l->staging + (uint64_t)index * STAGE;
    int r = cuda_check(l->c, (int)cudaHostAlloc((void **)&h->host, HALF,
                                                cudaHostAllocPortable),
                       "pinned memory", e);
    return r ? r : cuda_check(l->c, (int)cudaEventCreateWithFlags(
                                  &h->free, cudaEventDisableTiming),
                              "event", e);
}

static int
worker_open(struct worker *w, struct loader *l, int index, struct err *e)
{
    w->l = l;
    int r = 0;
    if (!l->host)
        r = cuda_check(l->c, (int)cudaStreamCreateWithFlags(
                                 &w->stream, cudaStreamNonBlocking),
                       "stream", e);
    for (int i = 0; r == 0 && i < (l->host ? 1 : 2); i++)
        r = half_open(&w->half[i], l, index * 2 + i, e);
    return r;
}

static void
worker_close(struct worker *w)
{
    for (int i = 0; i < 2; i++) {
        struct half *h = &w->half[i];
        if (h->host && w->l->host)
            free(h->host);
        else if (h->host)
            cudaFreeHost(h->host);
        if (h->free)
            cudaEventDestroy(h->free);
    }
    if (w->stream)
        cudaStreamDestroy(w->stream);
}

static int
most_threads(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores < MAX_THREADS ? (int)cores : MAX_THREADS;
}

static int
thread_count(const struct loader *l)
{
    const struct cuda *c = l->c;
    if (l->host)
        return most_threads();
    uint64_t room = (c->pool_size - c->weight_bytes) / (2 * STAGE);
    uint64_t n = (uint64_t)most_threads();
    return (int)(n < room ? n : room);
}

uint64_t
upload_host_bytes(void)
{
    return (uint64_t)most_threads() * 2 * HALF;
}

/* Runs the threads to the end, reporting now and then. */
static int
run_workers(struct loader *l, struct worker *w, int n,
            backend_progress_fn progress, void *arg, struct err *e)
{
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
            progress(arg, atomic_load(&l->done), l->total);
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
put(struct loader *l, void *to, const void *from, size_t size, struct err *e)
{
    if (!l->host)
        return cuda_check(l->c, (int)cudaMemcpy(to, from, size,
                                                cudaMemcpyHostToDevice),
                          "scales", e);
    memcpy(to, from, size);
    return 0;
}

static int
put_scales(struct loader *l, struct err *e)
{
    struct cuda *c = l->c;
    size_t n = (size_t)c->n_experts;
    float freq[MLA_ROPE / 2];
    int r = 0;
    for (int i = 0; r == 0 && i < c->p.n_layers; i++) {
        struct cuda_layer *d = &c->layer[i];
        r = put(l, d->scale13, d->host13, n * 8, e);
        if (r == 0)
            r = put(l, d->scale2, d->host2, n * 4, e);
    }
    model_rope_freqs(&c->p, freq);
    return r ? r : put(l, c->freq, freq, sizeof freq, e);
}

static int
alloc_scales(struct cuda *c, struct err *e)
{
    size_t n = (size_t)c->n_experts;
    for (int i = 0; i < c->p.n_layers; i++) {
        c->layer[i].host13 = calloc(n * 2, sizeof(float));
        c->layer[i].host2 = calloc(n, sizeof(float));
        if (c->layer[i].host13 == NULL || c->layer[i].host2 == NULL)
            return err_set(e, ERR_NOMEM, "no memory for the scales");
    }
    return 0;
}

static const struct tensor *
job_tensor(const struct job *j)
{
    return j->kind == JOB_COPY ? j->tensor : j->w[0]->data;
}

static int
by_place(const void *a, const void *b)
{
    const struct job *x = a, *y = b;
    const struct tensor *s = job_tensor(x), *t = job_tensor(y);
    if (s->file != t->file)
        return s->file < t->file ? -1 : 1;
    uint64_t at = s->offset + (x->kind == JOB_COPY ? x->from
                               : x->w[0]->first + (uint64_t)x->row);
    uint64_t bt = t->offset + (y->kind == JOB_COPY ? y->from
                               : y->w[0]->first + (uint64_t)y->row);
    return at < bt ? -1 : at > bt;
}

static uint64_t
job_bytes(const struct job *j)
{
    if (j->kind == JOB_COPY)
        return j->size;
    uint64_t per = row_bytes(j->w[0]);
    if (j->w[0]->format == WEIGHT_NVFP4)
        per += (uint64_t)j->w[0]->cols / 16;
    return per * (uint64_t)j->rows * (j->w[1] ? 2 : 1);
}

/* Jobs that read the tensors of the model, in the order of its files. */
static int
plan_tensors(struct loader *l, struct err *e)
{
    const struct model *m = l->c->model;
    int r = alloc_scales(l->c, e);
    if (r == 0 && add_all(l) != 0)
        r = err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    if (r != 0)
        return r;
    if (!model_is_dummy(m))
        qsort(l->job, l->n, sizeof *l->job, by_place);
    l->file = calloc((size_t)model_n_files(m) + 1, sizeof *l->file);
    if (l->file == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the list of files");
    while (r == 0 && l->n_file < model_n_files(m)) {
        r = direct_open(&l->file[l->n_file], model_file_path(m, l->n_file),
                        e);
        l->n_file++;
    }
    return r;
}

/* Jobs that read a packed file from end to end. */
static int
plan_packed(struct loader *l, const char *path, struct err *e)
{
    l->file = calloc(1, sizeof *l->file);
    if (l->file == NULL
        || add_copy(l, NULL, 0, l->c->weight_bytes, l->c->pool) != 0)
        return err_set(e, ERR_NOMEM, "no memory for the list of pieces");
    l->n_file = 1;
    return direct_open(l->file, path, e);
}

static int
run(struct loader *l, const char *packed, backend_progress_fn progress,
    void *arg, struct err *e)
{
    struct worker w[MAX_THREADS];
    int n = thread_count(l);
    uint64_t begin = clock_ns();

    memset(w, 0, sizeof w);
    pthread_mutex_init(&l->lock, NULL);
    int r = packed ? plan_packed(l, packed, e) : plan_tensors(l, e);
    for (size_t i = 0; i < l->n; i++)
        l->total += job_bytes(&l->job[i]);
    for (int i = 0; r == 0 && i < n; i++)
        r = worker_open(&w[i], l, i, e);
    if (r == 0)
        r = run_workers(l, w, n, progress, arg, e);
    if (r == 0 && packed == NULL)
        r = put_scales(l, e);
    for (int i = 0; i < n; i++)
        worker_close(&w[i]);
    for (int i = 0; i < l->n_file; i++)
        direct_close(&l->file[i]);
    free(l->file);
    free(l->job);
    pthread_mutex_destroy(&l->lock);
    if (r == 0) {
        double s = (double)(clock_ns() - begin) * 1e-9;
        double gb = (double)atomic_load(&l->done) * 1e-9;
        log_info("cuda: %s %.2f GB in %.2f s (%.1f GB/s, %d threads)",
                 l->host ? "packed" : "loaded", gb, s, gb / s, n);
    }
    return r;
}

int
upload_weights(struct cuda *c, backend_progress_fn progress, void *arg,
               struct err *e)
{
    struct loader l = {.c = c, .staging = c->cache};
    /* What no tensor fills, as the rows that pad the router to whole tiles. */
    int r = cuda_check(c, (int)cudaMemset(c->pool, 0, c->weight_bytes),
                       "clearing", e);
    if (r == 0)
        r = cuda_check(c, (int)cudaDeviceSynchronize(), "clearing", e);
    return r ? r : run(&l, c->limits.packed, progress, arg, e);
}

int
upload_to_host(struct cuda *c, backend_progress_fn progress, void *arg,
               struct err *e)
{
    struct loader l = {.c = c, .host = true};
    return run(&l, NULL, progress, arg, e);
}
