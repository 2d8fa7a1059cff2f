/*
 * The loader: weights repacked on the device are, byte for byte, those that
 * the host packs into a file, and those that are loaded from that file. Models
 * of several shapes and forms with random weights.
 *
 * test_cuda_load DIR FILE [dummy] does so with the model in DIR, packed into
 * FILE meanwhile; with "dummy" from its parameters alone.
 *
 * Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda/cuda_backend.h"
#include "cuda/load/packed.h"

struct form {
    const char *what;
    int dim, heads, q_rank, experts, top_k, hidden, vocab;
    const char *quantisation;
};

#define NVFP4 ",\"quantization_config\":{\"quant_method\":" \
    "\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}"
#define FP8 ",\"quantization\":{\"qformat_weight\":\"fp8_e4m3\"," \
    "\"qscheme_act\":\"TENSOR\"}"

static const struct form forms[] = {
    {"release, NVFP4", 4096, 32, 1024, 20, 4, 2048, 8192, NVFP4},
    {"odd, NVFP4", 320, 6, 192, 9, 2, 192, 1040, NVFP4},
    {"odd, FP8", 448, 3, 64, 5, 5, 64, 1040, FP8},
    {"odd, BF16", 256, 40, 128, 30, 8, 128, 1040, ""},
};

static int
write_params(const char *dir, const struct form *f)
{
    char path[512];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *o = fopen(path, "w");
    if (o == NULL)
        return -1;
    fprintf(o, "{\"dim\":%d,\"n_layers\":2,\"n_heads\":%d,"
            "\"rope_theta\":10000.0,\"norm_eps\":1e-06,\"vocab_size\":%d,"
            "\"max_position_embeddings\":65536,\"q_lora_rank\":%d,"
            "\"qk_rope_head_dim\":64,\"qk_nope_head_dim\":64,"
            "\"kv_lora_rank\":256,\"v_head_dim\":128,\"moe\":{"
            "\"num_experts\":%d,\"num_experts_per_tok\":%d,"
            "\"expert_hidden_dim\":%d,\"num_shared_experts\":1}%s}\n",
            f->dim, f->heads, f->vocab, f->q_rank, f->experts, f->top_k,
            f->hidden, f->quantisation);
    return fclose(o);
}

/* Loads m, from the packed file if there is one. */
static int
load(struct model *m, const char *packed, struct backend **b, struct err *e)
{
    struct backend_limits l = {
        .max_seqs = 4, .max_step = 64, .max_context = 1024, .n_devices = 1,
        .kv_bytes = 512ull << 20, .packed = packed,
    };
    struct backend_plan plan;
    int r = backend_cuda.open(NULL, b, e);
    if (r == 0)
        r = backend_cuda.plan(*b, m, &l, &plan, e);
    if (r == 0 && !plan.fits)
        r = err_set(e, ERR_LIMIT, "needs %.1f GiB",
                    (double)plan.total / (1 << 30));
    return r == 0 ? backend_cuda.load(*b, NULL, NULL, e) : r;
}

/* Compares the weights on the device with the packed file. */
static int
compare(struct cuda *c, const char *path, struct err *e)
{
    const size_t step = 64u << 20;
    char *part = malloc(step);
    int fd = open(path, O_RDONLY);
    uint64_t at = 0, n = c->weight_bytes;
    char *want = fd < 0 ? MAP_FAILED
        : mmap(NULL, PACKED_HEADER + n, PROT_READ, MAP_SHARED, fd, 0);
    int r = part == NULL || want == MAP_FAILED
        ? err_set(e, ERR_IO, "%s cannot be mapped", path) : 0;
    for (; r == 0 && at < n; at += step) {
        size_t k = n - at < step ? n - at : step, i = 0;
        r = cuda_check(c, (int)cudaMemcpy(part, c->pool + at, k,
                                          cudaMemcpyDeviceToHost),
                       "weights", e);
        if (r != 0 || memcmp(part, want + PACKED_HEADER + at, k) == 0)
            continue;
        while (part[i] == want[PACKED_HEADER + at + i])
            i++;
        r = err_set(e, ERR_MISMATCH, "byte %llu of %llu differs",
                    (unsigned long long)(at + i), (unsigned long long)n);
    }
    if (want != MAP_FAILED)
        munmap(want, PACKED_HEADER + n);
    if (fd >= 0)
        close(fd);
    free(part);
    return r;
}

static int
check(const char *what, const char *dir, bool dummy, const char *packed)
{
    const struct model_options mo = {.dummy = dummy, .seed = 1};
    struct model *m = NULL;
    struct err e = {0};
    int r = model_open(dir, &mo, &m, &e);
    if (r == 0)
        r = packed_write(m, packed, NULL, NULL, &e);
    for (int again = 0; r == 0 && again < 2; again++) {
        struct backend *b = NULL;
        r = load(m, again ? packed : NULL, &b, &e);
        if (r == 0)
            r = compare((struct cuda *)b, packed, &e);
        if (b)
            b->ops->close(b);
        if (r != 0)
            err_prefix(&e, again ? "from the packed file: "
                                 : "from the model: ");
    }
    if (m)
        model_close(m);
    unlink(packed);
    printf("%-16s %s\n", what, r == 0 ? "the same three ways" : e.text);
    return r != 0;
}

int
main(int argc, char **argv)
{
    int n = 0, bad = 0;
    char dir[] = "/tmp/test_cuda_load.XXXXXX", packed[600];
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0)
        return 77;
    if (argc > 2)
        return check(argv[1], argv[1], argc > 3, argv[2]);
    if (mkdtemp(dir) == NULL)
        return 99;
    snprintf(packed, sizeof packed, "%s/packed", dir);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (write_params(dir, &forms[i]) != 0)
            return 99;
        bad += check(forms[i].what, dir, true, packed);
    }
    snprintf(packed, sizeof packed, "%s/params.json", dir);
    unlink(packed);
    rmdir(dir);
    return bad != 0;
}
