/* The CUDA back end: the contract's functions, and what a device must have.
 * The room's README has layouts, streams and capture rules. */
#include "config.h"

#include "cuda/cuda_backend.h"
#include "cuda/cuda_state.h"
#include "cuda/one/decode_one.h"
#include "cuda/driver.h"
#include "cuda/load/packed.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
cuda_check(struct cuda *c, int status, const char *what, struct err *e)
{
    if (status == 0)
        return 0;
    return err_set(e, ERR_DEVICE, "GPU %d: %s: %s", c ? c->device : 0, what,
                   status < 0 ? "the library refused"
                              : cudaGetErrorString((cudaError_t)status));
}

static int
read_device(struct cuda *c, struct err *e)
{
    struct cudaDeviceProp p;
    int r = cuda_check(c, (int)cudaGetDeviceProperties(&p, c->device),
                       "device", e);
    if (r != 0)
        return r;
    snprintf(c->name, sizeof c->name, "%.100s", p.name);
    c->n_sm = p.multiProcessorCount;
    c->major = p.major;
    c->minor = p.minor;
    c->integrated = p.integrated != 0;
    c->hopper = p.major == 9 && p.minor == 0;
    cuda_pdl = p.major >= 9;
    return driver_check_part(c->device, c->name, p.major, p.minor,
                             cuda_has_kernels(), e);
}

static int
open_device(const char *spec, struct backend **out, struct err *e)
{
    struct cuda *c = calloc(1, sizeof *c);
    int n = 0, r;
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the back end");
    c->base.ops = &backend_cuda;
    char *end = NULL;
    long device = spec && *spec ? strtol(spec, &end, 10) : 0;
    c->device = (int)device;
    if (end != NULL && *end != '\0')
        r = err_set(e, ERR_RANGE, "cuda:%s: a device number is expected",
                    spec);
    else
        r = driver_open(&n, e);
    if (r == 0 && (device < 0 || device >= n))
        r = err_set(e, ERR_NOENT, "there is no GPU %ld: the driver shows %d, "
                    "counted from 0", device, n);
    if (r == 0)
        r = cuda_check(c, (int)cudaSetDevice(c->device), "device", e);
    if (r == 0)
        r = read_device(c, e);
    if (r == 0)
        r = cuda_check(c, (int)cudaStreamCreateWithFlags(
                               &c->stream, cudaStreamNonBlocking),
                       "stream", e);
    if (r == 0)
        r = cuda_check(c, (int)cudaStreamCreateWithFlags(
                               &c->copies, cudaStreamNonBlocking),
                       "stream", e);
    if (r != 0) {
        free(c);
        return r;
    }
    *out = &c->base;
    return 0;
}

static void
close_device(struct backend *b)
{
    struct cuda *c = (struct cuda *)b;
    cudaSetDevice(c->device);
    cudaStreamSynchronize(c->stream);
    step_free(c);
    cuda_blas_close(c->blas);
    cuda_moe_maps_free(c->maps);
    cuda_attn_maps_free(c->attn_maps);
    cuda_decode_one_unmap(c->one_map);
    if (c->pool)
        cudaFree(c->pool);
    plan_free(c);
    cudaStreamDestroy(c->copies);
    cudaStreamDestroy(c->stream);
    free(c);
}

static int
refuse(struct err *e, const char *what, int is, int need)
{
    return err_set(e, ERR_UNSUPPORTED, "the cuda back end needs %s %d; the "
                   "model has %d", what, need, is);
}

static int
refuse_multiple(struct err *e, const char *what, int is, int of)
{
    return err_set(e, ERR_UNSUPPORTED, "the cuda back end needs %s to be a "
                   "multiple of %d; the model has %d", what, of, is);
}

static int
check_shape(const struct model_text_params *p, struct err *e)
{
    if (p->nope != MLA_NOPE)
        return refuse(e, "qk_nope_head_dim", p->nope, MLA_NOPE);
    if (p->rope != MLA_ROPE)
        return refuse(e, "qk_rope_head_dim", p->rope, MLA_ROPE);
    if (p->v_head != MLA_V)
        return refuse(e, "v_head_dim", p->v_head, MLA_V);
    if (p->kv_rank != MLA_RANK)
        return refuse(e, "kv_lora_rank", p->kv_rank, MLA_RANK);
    if (p->dim % 64 || p->dim > 8192)
        return refuse_multiple(e, "dim (at most 8192)", p->dim, 64);
    if (p->q_rank % 64 || p->q_rank > 8192)
        return refuse_multiple(e, "q_lora_rank", p->q_rank, 64);
    if (p->expert_hidden % 64)
        return refuse_multiple(e, "expert_hidden_dim", p->expert_hidden, 64);
    if (p->vocab % 16)
        return refuse_multiple(e, "vocab_size", p->vocab, 16);
    if (p->n_dense != 0)
        return refuse(e, "first_k_dense_replace", p->n_dense, 0);
    /* wkv_b is split in one piece. */
    if (p->n_heads > 80)
        return err_set(e, ERR_UNSUPPORTED, "the cuda back end takes at most "
                       "80 heads; the model has %d", p->n_heads);
    if (p->n_shared != 1)
        return refuse(e, "num_shared_experts", p->n_shared, 1);
    if (p->n_experts < 1 || p->n_experts >= MOE_EXPERTS)
        return err_set(e, ERR_UNSUPPORTED, "the cuda back end takes 1 to %d "
                       "experts; the model has %d", MOE_EXPERTS - 1,
                       p->n_experts);
    if (p->top_k < 1 || p->top_k > MOE_SLOTS - 1 || p->top_k > p->n_experts)
        return err_set(e, ERR_UNSUPPORTED, "the cuda back end takes 1 to %d "
                       "experts a token; the model has %d", MOE_SLOTS - 1,
                       p->top_k);
    return 0;
}

static int
check_plain(const struct weight *w, const char *what, struct err *e)
{
    if (w->format == WEIGHT_PLAIN && w->data->dtype != DTYPE_BF16)
        return err_set(e, ERR_UNSUPPORTED, "%s is %s; the cuda back end takes"
                       " BF16, FP8 and NVFP4", what,
                       dtype_name(w->data->dtype));
    return 0;
}

/* Forms that the kernels read. */
static int
check_forms(const struct model *m, struct err *e)
{
    const struct text_weights *t = model_text(m);
    const struct model_text_params *p = &model_params(m)->text;
    int r = check_plain(&t->embeddings, "the embedding", e);
    if (r == 0 && t->embeddings.format != WEIGHT_PLAIN)
        r = err_set(e, ERR_UNSUPPORTED, "the embedding must be BF16");
    if (r == 0 && !p->tied)
        r = check_plain(&t->output, "the head", e);
    for (int i = 0; r == 0 && i < p->n_layers; i++) {
        const struct layer_weights *l = &t->layer[i];
        const struct weight *w[] = {&l->wq_a, &l->wkv_a, &l->wq_b, &l->wo,
                                    &l->wkv_b, &l->gate, &l->shared.w1};
        for (size_t k = 0; r == 0 && k < sizeof w / sizeof w[0]; k++)
            r = check_plain(w[k], "a matrix", e);
        if (r == 0 && l->gate.format != WEIGHT_PLAIN)
            r = err_set(e, ERR_UNSUPPORTED, "layer %d: the router must be "
                        "BF16", i);
        if (r == 0 && l->shared.w1.format != l->expert[0].w1.format)
            r = err_set(e, ERR_UNSUPPORTED, "layer %d: routed and shared "
                        "experts must be stored alike", i);
        if (r == 0 && l->attention_norm->dtype != DTYPE_BF16)
            r = err_set(e, ERR_UNSUPPORTED, "layer %d: norms must be BF16",
                        i);
    }
    return r;
}

int
plan_model(struct cuda *c, struct model *m, struct err *e)
{
    int r = check_shape(&model_params(m)->text, e);
    if (r == 0)
        r = check_forms(m, e);
    if (r != 0)
        return r;
    c->model = m;
    c->p = model_params(m)->text;
    c->slots = c->p.top_k + 1;
    c->n_experts = c->p.n_experts + 1;
    c->gate_rows = (c->p.n_experts + 15) / 16 * 16;
    c->narrow_max = NARROW_ROWS * c->p.n_experts / c->p.top_k;
    c->score_scale = model_score_scale(&c->p);
    if (c->layer == NULL)
        c->layer = calloc((size_t)c->p.n_layers, sizeof *c->layer);
    if (c->layer == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the layers");
    return encoder_init(c, e);
}

void
plan_free(struct cuda *c)
{
    for (int i = 0; c->layer && i < c->p.n_layers; i++) {
        free(c->layer[i].host13);
        free(c->layer[i].host2);
    }
    free(c->layer);
    c->layer = NULL;
    encoder_close(c);
}

static int
plan_device(struct backend *b, struct model *m,
            const struct backend_limits *l, struct backend_plan *plan,
            struct err *e)
{
    struct cuda *c = (struct cuda *)b;
    int r = cuda_check(c, (int)cudaSetDevice(c->device), "device", e);
    if (r == 0)
        r = plan_model(c, m, e);
    if (r == 0 && l->n_devices > 1)
        r = err_set(e, ERR_UNSUPPORTED, "the cuda back end runs on one GPU");
    if (r == 0 && (l->max_seqs == 0 || l->max_step == 0
                   || l->max_context == 0))
        r = err_set(e, ERR_RANGE, "limits must not be zero");
    if (r != 0)
        return r;
    c->limits = *l;
    uint32_t graph = plan_bucket(l->max_seqs < GRAPH_MAX ? l->max_seqs
                                                         : GRAPH_MAX);
    c->cap = l->max_step > graph ? l->max_step : graph;
    c->out_rows = l->max_seqs + l->max_step;
    c->part_max = ATTN_BLOCKS * c->n_sm > (int)graph ? ATTN_BLOCKS * c->n_sm
                                                     : (int)graph;
    r = plan_make(c, plan, e);
    return r == 0 && l->packed ? packed_check(c, l->packed, e) : r;
}

static int
prepare(struct cuda *c, struct err *e)
{
    char *work = c->pool + c->weight_bytes;
    int r = cuda_check(c, (int)cudaMemset(work, 0,
                                          c->pool_size - c->weight_bytes),
                       "clearing", e);
    if (r == 0)
        r = step_buffers(c, e);
    if (r == 0)
        r = encoder_prepare(c, e);
    if (r != 0)
        return r;
    c->blas = cuda_blas_open(c->blas_space, BLAS_WORKSPACE);
    if (c->hopper && c->layer[0].moe == LAYOUT_NVFP4)
        c->maps = cuda_moe_maps(c->my, c->mh, (int)c->cap * c->slots,
                                c->p.dim, c->p.expert_hidden);
    one_step_open(c);
    uint64_t keys = (uint64_t)KV_PIECE * (uint64_t)c->p.n_heads * MLA_NOPE;
    if (c->hopper && c->blas)
        c->attn_maps = cuda_attn_maps(c->kv, c->kv_rows,
                                      (char *)c->kv + keys * 2, KV_PIECE,
                                      c->p.n_heads);
    return cuda_check(c, (int)cudaDeviceSynchronize(), "clearing", e);
}

static int
load(struct backend *b, backend_progress_fn progress, void *arg,
     struct err *e)
{
    struct cuda *c = (struct cuda *)b;
    if (!c->plan.fits)
        return err_set(e, ERR_STATE, "there is no plan that fits");
    int r = cuda_check(c, (int)cudaSetDevice(c->device), "device", e);
    if (r == 0)
        r = cuda_check(c, (int)cudaMalloc((void **)&c->pool, c->pool_size),
                       "allocating the plan", e);
    if (r != 0)
        return r;
    plan_layout(c, c->pool);
    r = upload_weights(c, progress, arg, e);
    uint64_t begin = clock_ns();
    if (r == 0)
        r = prepare(c, e);
    if (r == 0)
        r = selftest_run(c, e);
    uint64_t tested = clock_ns();
    if (r == 0)
        r = step_capture(c, e);
    if (r == 0)
        r = cuda_check(c, (int)cudaStreamSynchronize(c->stream), "graphs",
                       e);
    uint64_t captured = clock_ns();
    if (r == 0)
        r = warm_up(c, e);
    if (r == 0)
        log_info("cuda: ready %.2f s after the last weight (self-test %.2f, "
                 "graphs %.2f, warm-up %.2f)",
                 (double)(clock_ns() - begin) * 1e-9,
                 (double)(tested - begin) * 1e-9,
                 (double)(captured - tested) * 1e-9,
                 (double)(clock_ns() - captured) * 1e-9);
    return r;
}

static int
submit(struct backend *b, const struct batch *batch, struct err *e)
{
    return step_submit((struct cuda *)b, batch, e);
}

static int
collect(struct backend *b, struct step_result *out, struct err *e)
{
    return step_collect((struct cuda *)b, out, e);
}

static int
encode_image(struct backend *b, const float *pixels, int height, int width,
             uint64_t *handle, struct err *e)
{
    return encoder_run((struct cuda *)b, pixels, height, width, handle, e);
}

static void
free_image(struct backend *b, uint64_t handle)
{
    encoder_free((struct cuda *)b, handle);
}

/* Without steps to launch slices behind, the question does. */
static bool
image_pending(struct backend *b, const uint64_t *handle)
{
    struct cuda *c = (struct cuda *)b;
    if (c->submitted == c->collected)
        encoder_advance_idle(c);
    return encoder_pending(c, handle);
}

static void
describe(struct backend *b, char *out, size_t size)
{
    const struct cuda *c = (const struct cuda *)b;
    snprintf(out, size, "GPU %d: %s, compute capability %d.%d, %d SMs; "
             "%s kernels, %s", c->device, c->name, c->major, c->minor,
             c->n_sm, c->hopper ? "portable and sm_90a" : "portable",
             c->blas ? "cuBLASLt" : "no cuBLASLt");
}

const struct backend_ops backend_cuda = {
    .name = "cuda",
    .about = "NVIDIA GPU: exact NVFP4, FP8 and BF16 weights",
    .depth = 2,
    .needs_model = true,
    .open = open_device,
    .close = close_device,
    .plan = plan_device,
    .load = load,
    .submit = submit,
    .collect = collect,
    .encode_image = encode_image,
    .free_image = free_image,
    .image_pending = image_pending,
    .describe = describe,
    .pack = packed_write,
};
