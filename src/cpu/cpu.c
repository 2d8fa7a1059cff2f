#include "config.h"

#include "cpu/cpu.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/meminfo.h"
#include "base/str.h"
#include "cpu/cpu_step.h"
#include "cpu/tower.h"

/*
 * The contract of backend.h. A runner thread executes steps in the order of
 * submission, so that the engine prepares the next one meanwhile; it is also
 * the first worker of the pool. submit and collect exchange with it through a
 * queue of `DEPTH` places under one lock. All memory is laid out by plan and
 * mapped by load; the KV cache is only touched where it is used.
 *
 * The runner encodes images too, one at a time: while there is no step, and
 * behind each step for as long as that took, so that steps and images share
 * the cores evenly. A step that uses the image has the rest done first.
 */

#define DEPTH 2

enum place_state { PLACE_FREE, PLACE_QUEUED, PLACE_DONE };

struct place {
    enum place_state state;
    const struct batch *batch;
    struct results results;
    uint64_t begin_ns, end_ns;
    uint64_t n_experts;
    int code;           /* of the step */
    struct err err;
};

struct cpu {
    struct backend b;   /* first */
    const struct kernels *kernels;
    bool expanded;
    int threads_wanted; /* of the spec; 0 = as the limits say */

    struct model *model;
    struct backend_limits limits;
    struct backend_plan plan;
    int threads;
    struct pool *pool;
    struct net net;
    struct drafter drafter; /* limits.draft != NULL */
    struct tower *tower;    /* NULL: the model takes no images */
    struct stepper step;
    void *kv, *memory;  /* maps of kv_bytes, memory_bytes; the draft head's
                           rows stand behind the target's */
    size_t kv_bytes, memory_bytes;

    pthread_t runner;
    bool running, stop;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct tower_job *job;  /* the image on its way, or NULL */
    const struct tower_image *making;   /* its handle */
    bool encoding;          /* the runner is at it, without the lock */
    struct place place[DEPTH];
    unsigned next_submit, next_run, next_collect;
};

static int
parse_option(struct cpu *c, struct str word, struct err *e)
{
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)(word.n < 63 ? word.n : 63),
             word.p);
    if (strncmp(text, "kernel=", 7) == 0) {
        c->kernels = kernels_find(text + 7);
        if (c->kernels == NULL)
            return err_set(e, ERR_UNSUPPORTED, "cpu: this machine has no "
                           "kernel %s (plain, avx2 and avx512 exist)",
                           text + 7);
        return 0;
    }
    if (strcmp(text, "attention=absorbed") == 0
        || strcmp(text, "attention=expanded") == 0) {
        c->expanded = text[10] == 'e';
        return 0;
    }
    if (strncmp(text, "threads=", 8) == 0 && atoi(text + 8) > 0
        && atoi(text + 8) <= 1024) {
        c->threads_wanted = atoi(text + 8);
        return 0;
    }
    return err_set(e, ERR_FORMAT, "cpu: unknown option %s (there are "
                   "threads=N, kernel=plain|avx2|avx512, "
                   "attention=absorbed|expanded)", text);
}

static int
cpu_open(const char *spec, struct backend **out, struct err *e)
{
    struct cpu *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "cpu: no memory");
    c->b.ops = &backend_cpu;
    c->kernels = kernels_find(NULL);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    int r = 0;
    for (const char *p = spec; p != NULL && *p != '\0' && r == 0;) {
        size_t n = strcspn(p, ",");
        r = parse_option(c, (struct str){p, n}, e);
        p += n + (p[n] == ',');
    }
    if (r != 0) {
        pthread_cond_destroy(&c->changed);
        pthread_mutex_destroy(&c->lock);
        free(c);
        return r;
    }
    *out = &c->b;
    return 0;
}

static void
cpu_close(struct backend *b)
{
    struct cpu *c = (struct cpu *)b;
    if (c->running) {
        pthread_mutex_lock(&c->lock);
        c->stop = true;
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->runner, NULL);
    }
    tower_end(c->job);
    pool_free(c->pool);
    tower_free(c->tower);
    net_free(&c->net);
    net_free(&c->drafter.net);
    for (int i = 0; i < DEPTH; i++)
        results_free(&c->place[i].results);
    if (c->kv != NULL)
        munmap(c->kv, c->kv_bytes);
    if (c->memory != NULL)
        munmap(c->memory, c->memory_bytes);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int
usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

static void
add_row(struct backend_plan *p, const char *what, uint64_t bytes)
{
    p->row[p->n_row++] = (struct plan_row){what, bytes};
    p->total += bytes;
}

/* Blocks for the cache: as many as asked, or what is left, up to what all
 * slots can use; at least one full sequence. */
static uint64_t
choose_blocks(const struct backend_plan *p, const struct backend_limits *l)
{
    uint64_t one = ((uint64_t)l->max_context + KV_BLOCK - 1) / KV_BLOCK;
    uint64_t most = one * l->max_seqs;
    uint64_t taken = p->total + l->reserve_bytes;
    uint64_t left = p->available > taken ? p->available - taken : 0;
    if (l->kv_bytes != 0)
        return l->kv_bytes / p->bytes_per_block;
    uint64_t n = left / p->bytes_per_block;
    n = n < most ? n : most;
    return n > one ? n : one;
}

static int
check_draft(struct model *m, const struct backend_limits *l, struct err *e)
{
    const struct model_text_params *p = &model_params(m)->text;
    const struct model_text_params *d = &model_params(l->draft)->text;
    if (l->n_drafts == 0 || l->n_drafts >= BACKEND_OUT_MAX)
        return err_set(e, ERR_RANGE, "cpu: %u drafts, outside 1..%d",
                       l->n_drafts, BACKEND_OUT_MAX - 1);
    if (model_text(l->draft)->eagle_linear.data == NULL)
        return err_set(e, ERR_MISMATCH, "%s is not a draft head",
                       model_dir(l->draft));
    if (d->dim != p->dim)
        return err_set(e, ERR_MISMATCH, "the draft head %s has width %d, the "
                       "model %s has %d", model_dir(l->draft), d->dim,
                       model_dir(m), p->dim);
    return 0;
}

static int
cpu_plan(struct backend *b, struct model *m, const struct backend_limits *l,
         struct backend_plan *plan, struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    const struct model_text_params *p = &model_params(m)->text;
    struct backend_plan *q = &c->plan;
    const struct model_text_params *d = NULL;
    if (l->max_seqs == 0 || l->max_step == 0 || l->max_context == 0)
        return err_set(e, ERR_RANGE, "cpu: limits of 0");
    if (l->draft != NULL && check_draft(m, l, e) != 0)
        return e ? e->code : ERR_MISMATCH;
    if (l->draft != NULL)
        d = &model_params(l->draft)->text;
    c->model = m;
    c->limits = *l;
    c->threads = c->threads_wanted ? c->threads_wanted
                 : l->threads > 0 ? l->threads : usable_cores();
    memset(q, 0, sizeof *q);
    q->available = meminfo_available("");
    if (q->available == UINT64_MAX)
        q->available = 0;
    q->bytes_per_block = net_block_bytes(p) + (d ? net_block_bytes(d) : 0);
    c->memory_bytes = step_layout(&c->step, NULL, d ? &c->drafter : NULL, p,
                                  l, c->threads, NULL);
    add_row(q, model_is_dummy(m) ? "weights, generated"
                                 : "weights, mapped from their files",
            net_weight_bytes(m));
    if (d != NULL)
        add_row(q, "draft head",
                net_weight_bytes(l->draft) + net_table_bytes(d));
    add_row(q, "norms and tables", net_table_bytes(p));
    add_row(q, "activations, logits and sampling", c->memory_bytes);
    if (model_params(m)->has_vision) {
        add_row(q, "vision tower", tower_weight_bytes(m));
        add_row(q, "an image being encoded",
                tower_work_bytes(model_params(m), c->threads));
    }
    uint64_t n = choose_blocks(q, l);
    q->n_blocks = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
    c->kv_bytes = q->n_blocks * q->bytes_per_block;
    add_row(q, "KV cache", c->kv_bytes);
    q->fits = q->n_blocks > 0
              && q->total + l->reserve_bytes <= q->available;
    *plan = *q;
    return 0;
}

static void *
map_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Goes on with the image for about ns, a unit at least. The lock is held, but
 * not meanwhile. */
static void
encode(struct cpu *c, uint64_t ns)
{
    bool ready = false;
    if (c->job == NULL)
        return;
    c->encoding = true;
    pthread_mutex_unlock(&c->lock);
    uint64_t start = clock_ns();
    do
        ready = tower_step(c->job);
    while (!ready && clock_ns() - start < ns);
    pthread_mutex_lock(&c->lock);
    c->encoding = false;
    if (ready) {
        tower_end(c->job);
        c->job = NULL;
    }
    pthread_cond_broadcast(&c->changed);
}

static void
run_place(struct cpu *c, struct place *p)
{
    bool uses = false;
    for (uint32_t i = 0; i < p->batch->n_image; i++)
        uses |= p->batch->image[i].handle == (uint64_t)(uintptr_t)c->making;
    if (uses)
        encode(c, UINT64_MAX);
    pthread_mutex_unlock(&c->lock);
    const uint64_t before = c->step.work.n_experts;
    p->begin_ns = clock_ns();
    p->code = step_run(&c->step, p->batch, &p->results, &p->err);
    p->end_ns = clock_ns();
    p->n_experts = c->step.work.n_experts - before;
    pthread_mutex_lock(&c->lock);
    p->state = PLACE_DONE;
    pthread_cond_broadcast(&c->changed);
}

/* Runs steps as they come, and images between them, until close. */
static void *
runner_main(void *arg)
{
    struct cpu *c = arg;
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        struct place *p = &c->place[c->next_run % DEPTH];
        if (p->state == PLACE_QUEUED) {
            c->next_run++;
            run_place(c, p);
            encode(c, p->end_ns - p->begin_ns);
        } else if (c->job != NULL) {
            encode(c, 0);
        } else {
            pthread_cond_wait(&c->changed, &c->lock);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* One token through the whole model: damaged weights show here and not in
 * somebody's answer. */
static int
self_check(struct cpu *c, struct err *e)
{
    static const struct sampling greedy = {.top_p = 1,
                                           .repetition_penalty = 1};
    const int32_t token = 0;
    const uint32_t block = 0;
    struct batch_seq q = {.n_tok = 1, .block = &block, .n_block = 1,
                          .reset = true, .sample = true, .max_out = 1,
                          .sampling = &greedy, .n_top = -1};
    struct batch batch = {.n_tok = 1, .n_seq = 1, .token = &token,
                          .seq = &q};
    int r = step_run(&c->step, &batch, &c->place[0].results, e);
    c->step.slot[0].n_drawn = c->step.slot[0].n_draft = 0;
    return r;
}

static int
load_nets(struct cpu *c, backend_progress_fn progress, void *arg,
          struct err *e)
{
    struct net *d = &c->drafter.net;
    int r = net_load(&c->net, c->model, c->kernels, c->pool, progress, arg,
                     e);
    if (r != 0)
        return r;
    c->net.kv = c->kv;
    c->net.n_blocks = c->plan.n_blocks;
    c->net.expanded = c->expanded;
    if (c->limits.draft == NULL)
        return 0;
    r = net_load(d, c->limits.draft, c->kernels, c->pool, NULL, NULL, e);
    if (r != 0)
        return r;
    d->kv = c->net.kv + c->plan.n_blocks * net_block_bytes(&c->net.p)
                        / sizeof(float);
    d->n_blocks = c->plan.n_blocks;
    d->expanded = c->expanded;
    c->drafter.target = &c->net;
    return 0;
}

static int
cpu_load(struct backend *b, backend_progress_fn progress, void *arg,
         struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    if (c->model == NULL || c->running)
        return err_set(e, ERR_STATE, "cpu: load needs a plan, once");
    c->pool = pool_create(c->threads);
    c->kv = map_memory(c->kv_bytes);
    c->memory = map_memory(c->memory_bytes);
    if (c->pool == NULL || c->kv == NULL || c->memory == NULL)
        return err_set(e, ERR_NOMEM, "cpu: no memory: %s", strerror(errno));
    int r = load_nets(c, progress, arg, e);
    if (r == 0)
        r = tower_load(c->model, c->kernels, c->pool, &c->tower, e);
    if (r != 0)
        return r;
    step_layout(&c->step, &c->net,
                c->limits.draft ? &c->drafter : NULL, &c->net.p, &c->limits,
                c->threads, c->memory);
    r = self_check(c, e);
    if (r != 0)
        return r;
    if (pthread_create(&c->runner, NULL, runner_main, c) != 0)
        return err_set(e, ERR_NOMEM, "cpu: no thread: %s", strerror(errno));
    c->running = true;
    return 0;
}

static int
cpu_submit(struct backend *b, const struct batch *batch, struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    struct place *p = &c->place[c->next_submit % DEPTH];
    if (!c->running)
        return err_set(e, ERR_STATE, "cpu: nothing is loaded");
    int r = step_check(&c->step, batch, e);
    if (r == 0)
        r = tower_check(batch, c->net.p.dim, e);
    if (r != 0)
        return r;
    pthread_mutex_lock(&c->lock);
    if (p->state != PLACE_FREE) {
        pthread_mutex_unlock(&c->lock);
        return err_set(e, ERR_STATE, "cpu: %d steps are in flight", DEPTH);
    }
    p->batch = batch;
    p->state = PLACE_QUEUED;
    c->next_submit++;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static int
cpu_collect(struct backend *b, struct step_result *out, struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    struct place *p = &c->place[c->next_collect % DEPTH];
    if (c->next_collect == c->next_submit)
        return err_set(e, ERR_STATE, "cpu: no step is in flight");
    pthread_mutex_lock(&c->lock);
    while (p->state != PLACE_DONE)
        pthread_cond_wait(&c->changed, &c->lock);
    p->state = PLACE_FREE;
    c->next_collect++;
    pthread_mutex_unlock(&c->lock);
    if (p->code != 0)
        return err_set(e, p->code, "cpu: %s", p->err.text);
    *out = (struct step_result){.step = p->batch->step,
                                .n_seq = p->batch->n_seq,
                                .seq = p->results.seq,
                                .begin_ns = p->begin_ns,
                                .end_ns = p->end_ns,
                                .n_experts = p->n_experts};
    return 0;
}

/* The image before ends first: there is room for one on its way. */
static int
cpu_encode_image(struct backend *b, const float *pixels, int height,
                 int width, uint64_t *handle, struct err *e)
{
    struct cpu *c = (struct cpu *)b;
    struct tower_image *im = NULL;
    struct tower_job *job = NULL;
    if (c->tower == NULL)
        return err_set(e, ERR_UNSUPPORTED, "cpu: the model takes no images");
    pthread_mutex_lock(&c->lock);
    while (c->job != NULL)
        pthread_cond_wait(&c->changed, &c->lock);
    int r = tower_begin(c->tower, pixels, height, width, &job, &im, e);
    if (r == 0) {
        c->job = job;
        c->making = im;
        *handle = (uint64_t)(uintptr_t)im;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return r;
}

static void
cpu_free_image(struct backend *b, uint64_t handle)
{
    struct cpu *c = (struct cpu *)b;
    pthread_mutex_lock(&c->lock);
    if (handle == (uint64_t)(uintptr_t)c->making) {
        while (c->encoding)
            pthread_cond_wait(&c->changed, &c->lock);
        tower_end(c->job);
        c->job = NULL;
        c->making = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    free((void *)(uintptr_t)handle);
}

static bool
cpu_image_pending(struct backend *b, const uint64_t *handle)
{
    struct cpu *c = (struct cpu *)b;
    pthread_mutex_lock(&c->lock);
    bool pending = c->job != NULL
                   && (handle == NULL
                       || *handle == (uint64_t)(uintptr_t)c->making);
    pthread_mutex_unlock(&c->lock);
    return pending;
}

static void
cpu_describe(struct backend *b, char *out, size_t size)
{
    struct cpu *c = (struct cpu *)b;
    snprintf(out, size, "%d threads, %s kernels, %s attention",
             c->threads ? c->threads : usable_cores(), c->kernels->name,
             c->expanded ? "expanded" : "absorbed");
}

const struct backend_ops backend_cpu = {
    .name = "cpu",
    .about = "plain and exact, on the processor's cores",
    .depth = DEPTH,
    .needs_model = true,
    .takes_ask = true,
    .tells_drafts = true,
    .open = cpu_open,
    .close = cpu_close,
    .plan = cpu_plan,
    .load = cpu_load,
    .submit = cpu_submit,
    .collect = cpu_collect,
    .encode_image = cpu_encode_image,
    .free_image = cpu_free_image,
    .image_pending = cpu_image_pending,
    .describe = cpu_describe,
};
