/*
 * Whole models on the CUDA back end against the CPU back end: log-probabilities
 * of every next token of random texts, for random weights in every stored form
 * and for the demo model's three checkpoints, behind short and long contexts
 * (past the positions where YaRN and the query scaling begin).
 *
 * The same texts go through in one step each, in chunks of several sizes with
 * all texts side by side, in steps that mix chunks and single tokens, and token
 * by token from recorded graphs at every batch size, two steps in flight.
 *
 * The bounds and their reason are in whole.h.
 *
 * Exits 77 where there is no GPU. Arguments: names of checks to run; -s for
 * short texts and few ways, for compute-sanitizer.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/op/whole.h"

struct form {
    const char *what;
    int dim, heads, q_rank, layers, experts, top_k, hidden, vocab;
    const char *quantisation;
};

#define NVFP4 ",\"quantization_config\":{\"quant_method\":" \
    "\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}"
#define FP8 ",\"quantization\":{\"qformat_weight\":\"fp8_e4m3\"," \
    "\"qscheme_act\":\"TENSOR\"}"

/* "all": every expert is taken, so that no choice hangs on rounding. "release"
 * has the release's widths, for the kernels that take no others. */
static const struct form forms[] = {
    {"tiny-bf16", 256, 4, 128, 4, 16, 4, 128, 1024, ""},
    {"tiny-fp8", 256, 4, 128, 4, 16, 4, 128, 1024, FP8},
    {"tiny-nvfp4", 512, 4, 128, 4, 16, 4, 512, 1024, NVFP4},
    {"all-bf16", 320, 3, 64, 3, 4, 4, 192, 1040, ""},
    {"all-fp8", 320, 3, 64, 3, 4, 4, 192, 1040, FP8},
    {"all-nvfp4", 320, 3, 64, 3, 4, 4, 192, 1040, NVFP4},
    {"release-nvfp4", 4096, 32, 1024, 2, 6, 4, 2048, 1024, NVFP4},
    {"release-fp8", 4096, 32, 1024, 2, 6, 4, 2048, 1024, FP8},
};

static int
write_params(const char *dir, const struct form *f)
{
    char path[512];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *o = fopen(path, "w");
    if (o == NULL)
        return -1;
    fprintf(o, "{\"dim\":%d,\"n_layers\":%d,\"head_dim\":128,"
            "\"hidden_dim\":%d,\"n_heads\":%d,\"n_kv_heads\":%d,"
            "\"rope_theta\":10000.0,\"norm_eps\":1e-06,\"vocab_size\":%d,"
            "\"tied_embeddings\":false,\"max_position_embeddings\":1048576,"
            "\"llama_4_scaling\":{\"original_max_position_embeddings\":256,"
            "\"beta\":0.1},\"q_lora_rank\":%d,\"qk_rope_head_dim\":64,"
            "\"qk_nope_head_dim\":64,\"kv_lora_rank\":256,"
            "\"v_head_dim\":128,\"yarn\":{"
            "\"original_max_position_embeddings\":256,\"factor\":64,"
            "\"apply_scale\":false,\"beta\":32,\"alpha\":1},\"moe\":{"
            "\"expert_parallel\":1,\"expert_model_parallel\":1,"
            "\"route_every_n\":1,\"first_k_dense_replace\":0,"
            "\"num_experts\":%d,\"num_experts_per_tok\":%d,"
            "\"num_expert_groups\":1,\"num_expert_groups_per_tok\":1,"
            "\"routed_scale\":1.0,\"expert_hidden_dim\":%d,"
            "\"num_shared_experts\":1}%s}\n", f->dim, f->layers, f->hidden,
            f->heads, f->heads, f->vocab, f->q_rank, f->experts, f->top_k,
            f->hidden, f->quantisation);
    return fclose(o);
}

static int
fail(const char *what, const char *how, const struct err *e)
{
    printf("FAIL %s, %s: %s\n", what, how, e->text);
    return 1;
}

/* --- ways through the texts ------------------------------------------------- */

/* Texts one after the other, chunk tokens a step (0: as many as fit). */
static int
go_alone(struct run *r, uint32_t chunk, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < r->n_text; i++)
        while (rc == 0 && r->done[i] < r->text[i].n) {
            struct share s = {i, r->text[i].n - r->done[i]};
            uint32_t most = chunk ? chunk : r->w->l.max_step;
            s.n = s.n < most ? s.n : most;
            rc = run_step(r, &s, 1, e);
        }
    return rc;
}

/* All texts side by side, chunk tokens each; chunk 0: a random number of a
 * random choice of them. */
static int
go_together(struct run *r, uint32_t chunk, struct err *e)
{
    struct share *s = calloc(r->n_text, sizeof *s);
    uint32_t x = 12345, n;
    int rc = s == NULL ? ERR_NOMEM : 0;
    do {
        uint32_t room = r->w->l.max_step;
        n = 0;
        for (uint32_t i = 0; i < r->n_text; i++) {
            uint32_t left = r->text[i].n - r->done[i], most = chunk;
            x = x * 1664525 + 1013904223;
            if (chunk == 0)
                most = x >> 30 == 0 ? 0 : x >> 29 < 5 ? 1 : (x >> 20) % 90;
            most = most < left ? most : left;
            most = most < room ? most : room;
            if (most > 0)
                s[n++] = (struct share){i, most};
            room -= most;
        }
        if (rc == 0 && n > 0)
            rc = run_step(r, s, n, e);
        for (uint32_t i = 0; n == 0 && i < r->n_text; i++)
            n = r->done[i] < r->text[i].n;  /* an unlucky choice */
    } while (rc == 0 && n > 0);
    free(s);
    return rc;
}

/* Prefills the first half of each text, then draws on, in batches of every
 * size that there is a graph for. */
static int
go_decode(struct run *r, struct err *e)
{
    static const uint32_t more[] = {40, 48, 63, 64, 80, 100, 128};
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < r->n_text; i++) {
        struct share s = {i, r->text[i].n / 2};
        rc = run_step(r, &s, 1, e);
    }
    diff_free(r->diff);
    /* Sizes 1 to 32 on texts that lie one behind the other. */
    for (uint32_t n = 1, from = 0; rc == 0 && n <= 32 && n <= r->n_text; n++) {
        if (from + n > r->n_text)
            from = 0;
        rc = run_decode(r, from, n, 3, e);
        from += n;
    }
    for (size_t i = 0; rc == 0 && i < sizeof more / sizeof *more; i++)
        if (more[i] <= r->n_text)
            rc = run_decode(r, 0, more[i], 3, e);
    return rc;
}

enum way { ALONE, TOGETHER, DECODE };

static int
try_way(struct whole *w, struct text *t, uint32_t n, const char *what,
        enum way way, uint32_t chunk)
{
    const struct model_text_params *p = &model_params(w->model)->text;
    struct diff d = {0};
    struct run r;
    struct err e = {0};
    char how[64];
    snprintf(how, sizeof how, way == DECODE ? "graphs of 1 to %u"
             : way == ALONE ? "alone in chunks of %u"
             : chunk ? "together in chunks of %u" : "mixed", way == DECODE
             ? n : chunk ? chunk : w->l.max_step);
    int rc = run_open(&r, w, t, n, &d);
    if (rc == 0)
        rc = way == ALONE ? go_alone(&r, chunk, &e)
             : way == TOGETHER ? go_together(&r, chunk, &e)
             : go_decode(&r, &e);
    run_close(&r);
    rc = rc ? fail(what, how, &e)
         : diff_judge(&d, p->top_k < p->n_experts ? &bound_choice
                                                  : &bound_fixed, what, how);
    diff_free(&d);
    return rc;
}

static int
score_all(struct whole *w, struct text *t, const uint32_t *length, uint32_t n,
          struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = text_random(&t[i], length[i], w->n_vocab, i + 1);
        if (rc == 0)
            rc = whole_score(w, &t[i], e);
    }
    return rc;
}

#define N_FEW 9
#define N_MANY 128
#define N_SHORT 8

static bool brief;

static int
check_few(struct whole *w, const char *what, bool large)
{
    static const uint32_t length[2][N_FEW] = {
        {1500, 2, 17, 63, 64, 65, 130, 333, 900},
        {300, 2, 17, 63, 64, 65, 40, 30, 20}};
    static const uint32_t chunk[] = {1, 3, 16, 17, 63, 200};
    struct text t[N_FEW] = {{0}};
    struct err e = {0};
    int bad = 0;
    if (score_all(w, t, length[large || brief], N_FEW, &e) != 0)
        bad = fail(what, "CPU", &e);
    else
        bad = try_way(w, t, N_FEW, what, ALONE, 0)
              + try_way(w, t, N_FEW, what, ALONE, 100)
              + try_way(w, t, N_FEW, what, TOGETHER, 0);
    for (size_t i = brief ? 2 : 0; i < sizeof chunk / sizeof *chunk; i++)
        bad += try_way(w, t, N_FEW, what, TOGETHER, chunk[i]);
    for (int i = 0; i < N_FEW; i++)
        text_free(&t[i]);
    return bad;
}

/* Many short texts for the graphs; a text draws at most 60 times. */
static int
check_many(struct whole *w, const char *what, uint32_t n)
{
    struct text t[N_MANY] = {{0}};
    uint32_t length[N_MANY];
    struct err e = {0};
    int bad = 0;
    for (uint32_t i = 0; i < n; i++)
        length[i] = (n < 32 ? 50 : 84) + i * 37 % 40;
    if (score_all(w, t, length, n, &e) != 0)
        bad = fail(what, "CPU", &e);
    else
        bad = try_way(w, t, n, what, DECODE, 0);
    for (uint32_t i = 0; i < n; i++)
        text_free(&t[i]);
    return bad;
}

static int
check_form(const char *dir, const struct form *f)
{
    const bool large = f->dim > 2048;
    const struct whole_limits l = {.max_seqs = large ? 33 : N_MANY,
                                   .max_step = large ? 512 : 2048,
                                   .max_context = 2048, .n_blocks = 640};
    struct whole w = {0};
    struct err e = {0};
    int bad = 0;
    if (write_params(dir, f) != 0)
        return 1;
    if (whole_open(&w, dir, true, &l, &e) != 0)
        bad = fail(f->what, "open", &e);
    else
        bad = check_few(&w, f->what, large)
              + check_many(&w, f->what, large || brief ? N_SHORT : N_MANY);
    whole_close(&w);
    return bad;
}

/* One text as long as the demo model's context goes. */
static int
check_long(struct whole *w, const char *what)
{
    static const uint32_t length[] = {16200};
    struct text t = {0};
    struct err e = {0};
    int bad = 0;
    if (score_all(w, &t, length, 1, &e) != 0)
        bad = fail(what, "CPU", &e);
    else
        bad = try_way(w, &t, 1, what, ALONE, 0)
              + try_way(w, &t, 1, what, ALONE, 1000);
    text_free(&t);
    return bad;
}

static int
check_demo(const char *name, bool long_too)
{
    const struct whole_limits l = {.max_seqs = N_MANY, .max_step = 2048,
                                   .max_context = 16384, .n_blocks = 700};
    const char *top = getenv("SIROCCO_SRCDIR");
    struct whole w = {0};
    struct err e = {0};
    char dir[4096];
    int bad = 0;
    snprintf(dir, sizeof dir, "%s/contrib/demo-model/%s", top ? top : ".",
             name);
    if (whole_open(&w, dir, false, &l, &e) != 0)
        bad = fail(name, "open", &e);
    else
        bad = check_few(&w, name, false)
              + check_many(&w, name, brief ? N_SHORT : N_MANY)
              + (long_too && !brief ? check_long(&w, name) : 0);
    whole_close(&w);
    return bad;
}

static bool
asked(int argc, char **argv, const char *what)
{
    bool any = argc < 2;
    for (int i = 1; i < argc; i++)
        any |= strcmp(argv[i], what) == 0 || (i == 1 && brief && argc == 2);
    return any;
}

int
main(int argc, char **argv)
{
    static const char *const demo[] = {"model", "model-fp8", "model-nvfp4"};
    char dir[] = "/tmp/sirocco-op-XXXXXX", path[64];
    int n = 0, bad = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    if (mkdtemp(dir) == NULL)
        return 1;
    brief = argc > 1 && strcmp(argv[1], "-s") == 0;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (asked(argc, argv, forms[i].what))
            bad += check_form(dir, &forms[i]);
    for (size_t i = 0; i < sizeof demo / sizeof *demo; i++)
        if (asked(argc, argv, demo[i]))
            bad += check_demo(demo[i], i != 1);
    snprintf(path, sizeof path, "%s/params.json", dir);
    unlink(path);
    rmdir(dir);
    return bad != 0;
}
