/*
 * The self-test passes on this GPU in its time, and names the kernel when one
 * is wrong: what a kernel reads on the device is damaged, so that it does not
 * give what the stored weights ask for, and mended again.
 *
 * Kernels that read no weights of their own (the attention of images, its
 * activations, draws) cannot be broken like this; test_selftest_sample has the
 * plain code of draws. Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "cuda/cuda_backend.h"
#include "cuda/selftest/selftest.h"

static const char params[] =
    "{\"dim\":%d,\"n_layers\":1,\"n_heads\":%d,\"rope_theta\":10000.0,"
    "\"norm_eps\":1e-06,\"vocab_size\":%d,\"max_position_embeddings\":65536,"
    "\"q_lora_rank\":%d,\"qk_rope_head_dim\":64,\"qk_nope_head_dim\":64,"
    "\"kv_lora_rank\":256,\"v_head_dim\":128,\"moe\":{\"num_experts\":%d,"
    "\"num_experts_per_tok\":4,\"expert_hidden_dim\":%d,"
    "\"num_shared_experts\":1},\"vision_encoder\":{\"hidden_size\":%d,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":%d,"
    "\"intermediate_size\":%d,\"patch_size\":%d,\"num_channels\":3,"
    "\"image_size\":%d,\"max_image_size\":%d,\"rope_theta\":10000.0,"
    "\"spatial_merge_size\":2,\"mm_projector_id\":\"patch_merge\","
    "\"add_pre_mm_projector_layer_norm\":true,\"adapter_bias\":false,"
    "\"image_token_id\":10,\"image_break_token_id\":12,"
    "\"image_end_token_id\":13}%s}\n";

static const char nvfp4[] = ",\"quantization_config\":{\"quant_method\":"
    "\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}";

struct loaded {
    struct model *m;
    struct backend *b;
    struct cuda *c;
};

static int
load(const char *dir, bool release, struct loaded *l, struct err *e)
{
    struct model_options mo = {.dummy = true, .seed = 5};
    struct backend_limits limits = {
        .max_seqs = 8, .max_step = 512, .max_context = 1024, .n_devices = 1,
        .kv_bytes = 64ull * KV_BLOCK * MLA_ROW * 2,
    };
    struct backend_plan plan;
    char path[512];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *o = fopen(path, "w");
    if (o == NULL)
        return err_set(e, ERR_IO, "cannot write %s", path);
    if (release)
        fprintf(o, params, 4096, 32, 8192, 1024, 128, 2048, 1024, 16, 4096,
                14, 1540, 1540, nvfp4);
    else
        fprintf(o, params, 320, 5, 1040, 192, 9, 192, 128, 2, 192, 6, 60, 60,
                "");
    fclose(o);
    int r = model_open(dir, &mo, &l->m, e);
    if (r == 0)
        r = backend_cuda.open(NULL, &l->b, e);
    if (r == 0)
        r = backend_cuda.plan(l->b, l->m, &limits, &plan, e);
    if (r == 0)
        r = backend_cuda.load(l->b, NULL, NULL, e);
    l->c = (struct cuda *)l->b;
    return r;
}

/* What is damaged, by which step it shows, and how the kernel is called.
 * n_seq 0: the whole self-test is run. */
struct damage {
    const void *at;
    uint64_t size;
    struct selftest_shape shape;
    const char *name;
};

static int
run(struct cuda *c, const struct damage *d, struct err *e)
{
    return d->shape.n_seq ? selftest_step(c, &d->shape, NULL, e)
                          : selftest_run(c, e);
}

/* Makes all numbers alike: 0.75 in bf16 and float. */
static int
try_damage(struct cuda *c, const char *what, const struct damage *d)
{
    char *at = (char *)(uintptr_t)d->at;
    struct err e = {0};
    void *kept = NULL;
    int bad = cudaMalloc(&kept, d->size) != cudaSuccess
              || cudaMemcpy(kept, at, d->size, cudaMemcpyDeviceToDevice)
                 != cudaSuccess
              || cudaMemset(at, 0x3f, d->size) != cudaSuccess;
    int r = bad ? 0 : run(c, d, &e);
    bad |= r != ERR_MISMATCH || strstr(e.text, "self-test: kernel ") == NULL
           || strstr(e.text, d->name) == NULL;
    printf("%s %s: %s named: %s\n", bad ? "FAIL" : "ok  ", what, d->name,
           r ? e.text : "nothing");
    bad |= cudaMemcpy(at, kept, d->size, cudaMemcpyDeviceToDevice)
           != cudaSuccess;
    cudaFree(kept);
    return bad;
}

#define ALL(a) (a).data, cuda_matrix_bytes((a).layout, (a).rows, (a).cols)

static int
break_decoder(struct cuda *c, const char *what)
{
    const struct selftest_shape one = {.n_seq = 1, .n_tok = 1, .n_past = 99};
    const struct selftest_shape few = {.n_seq = 3, .n_tok = 4, .n_past = 130};
    const struct selftest_shape mid = {.n_seq = 2, .n_tok = 35, .n_past = 70};
    const struct selftest_shape many = {.n_seq = 1, .n_tok = 301,
                                        .n_past = 33};
    const struct cuda_layer *l = &c->layer[0];
    const bool nvfp4_kernels = c->maps != NULL;
    const uint64_t w13 = (uint64_t)c->n_experts * l->stride13;
    const uint64_t w2 = (uint64_t)c->n_experts * l->stride2;
    const uint64_t heads = (uint64_t)c->p.n_heads, dim = (uint64_t)c->p.dim;
    const struct damage d[] = {
        {ALL(c->embeddings), few, "embed, norm or gemm (q_a, kv_a)"},
        {ALL(l->wq_a), few, "embed, norm or gemm (q_a, kv_a)"},
        {l->kv_norm, MLA_RANK * 2, few, "latent"},
        {ALL(l->wq_b), few, "gemm (q_b)"},
        {l->uk_t, heads * MLA_NOPE * MLA_RANK * 2, few, "attn_decode"},
        {l->uv, heads * MLA_V * MLA_RANK * 2, mid, "attn_prefill"},
        {ALL(l->wo), few, "gemm (wo, router) or norm"},
        {ALL(l->gate), mid, "gemm (wo, router) or norm"},
        {l->ffn_norm, dim * 2, many, "gemm (wo, router) or norm"},
        {l->w13, w13, few, nvfp4_kernels ? "moe_mid (gate, up)"
                                         : "gemm (gate, up)"},
        {l->w2, w2, few, nvfp4_kernels ? "moe_mid (down)" : "gemm (down)"},
        {(char *)l->w13 + w13 - l->stride13, l->stride13, mid,
         nvfp4_kernels ? "moe_shared (gate, up)" : "gemm (gate, up)"},
        {(char *)l->w2 + w2 - l->stride2, l->stride2, mid,
         nvfp4_kernels ? "moe_shared (down)" : "gemm (down)"},
        {l->w13, w13, many, nvfp4_kernels ? "moe_narrow (gate, up)"
                                          : "gemm (gate, up)"},
        {l->w2, w2, many, nvfp4_kernels ? "moe_narrow (down)"
                                        : "gemm (down)"},
        {c->norm, dim * 2, many, "gemm (head)"},
        {ALL(c->output), few, "gemm (head)"},
        {ALL(l->wq_b), one, c->one_map ? "decode_one, gemm (q_b)"
                                       : "gemm (q_b)"},
        {l->w2, w2, one, c->one_map ? "decode_one, sum of the experts"
                                    : "(down)"},
        {l->w2, w2, {0}, c->one_map ? "decode_one" : "(down)"},
    };
    int bad = 0;
    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
        bad += try_damage(c, what, &d[i]);
    return bad;
}

static int
break_tower(struct cuda *c, const char *what)
{
    const struct cuda_tower *v = &c->tower;
    const struct cuda_tower_layer *l = &v->layer[0];
    const uint64_t norm = (uint64_t)v->p.dim * 2;
    const struct damage d[] = {
        {ALL(v->conv), {0}, "image: conv"},
        {v->ln_pre, norm, {0}, "image: first norm"},
        {l->attention_norm, norm, {0}, "image: attention norm"},
        {ALL(l->qkv), {0}, "image: qkv"},
        {v->angles, 2ull * (uint64_t)v->lines * (VISION_HEAD / 4) * 8, {0},
         "image: rope"},
        {ALL(l->wo), {0}, "image: wo"},
        {l->ffn_norm, norm, {0}, "image: MLP norm"},
        {ALL(l->w13), {0}, "image: w1 and w3"},
        {ALL(l->w2), {0}, "image: w2"},
        {v->projector_norm, norm, {0}, "image: cells"},
        {ALL(v->merge), {0}, "image: merge"},
        {ALL(v->w_in), {0}, "image: w_in"},
        {ALL(v->w_out), {0}, "image: w_out"},
    };
    int bad = 0;
    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
        bad += try_damage(c, what, &d[i]);
    return bad;
}

static int
passes(struct cuda *c, const char *what)
{
    struct err e = {0};
    uint64_t begin = clock_ns();
    int r = selftest_run(c, &e);
    double s = (double)(clock_ns() - begin) * 1e-9;
    bool ok = r == 0 && s < 2;
    printf("%s %s: passes in %.2f s %s\n", ok ? "ok  " : "FAIL", what, s,
           e.text);
    return !ok;
}

static int
check(const char *dir, const char *what, bool release)
{
    struct loaded l = {0};
    struct err e = {0};
    int bad = load(dir, release, &l, &e) != 0;
    if (bad)
        printf("FAIL %s: %s\n", what, e.text);
    else
        bad = passes(l.c, what) + break_decoder(l.c, what)
              + break_tower(l.c, what) + passes(l.c, what);
    if (l.b)
        backend_cuda.close(l.b);
    model_close(l.m);
    return bad;
}

int
main(void)
{
    char dir[] = "/tmp/sirocco-op-XXXXXX", path[64];
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    if (mkdtemp(dir) == NULL)
        return 1;
    int bad = check(dir, "odd, BF16", false)
              + check(dir, "release, NVFP4", true);
    snprintf(path, sizeof path, "%s/params.json", dir);
    unlink(path);
    rmdir(dir);
    return bad != 0;
}
