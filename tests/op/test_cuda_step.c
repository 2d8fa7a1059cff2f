/*
 * Every kernel of the CUDA back end against plain code, through real steps:
 * models of several shapes and stored forms with random weights are loaded
 * by the real loader, one layer of them runs, and each stage is compared
 * (cuda/selftest/selftest.c). What nothing may read is poisoned: memory beyond
 * the rows of a step holds not-a-number from the step before.
 *
 * Every step runs twice and must give the same bits. Texts that are continued
 * with two steps in flight come out as with one, together and alone, and ids
 * are forbidden alike by a few biases and by a mask.
 *
 * With -b [LAYERS [SEQUENCES TOKENS CACHED]], the device time of steps of the
 * release's shape, medians of 9. With -s [MODEL...] few steps of two layers of
 * the models named, or of all, for compute-sanitizer (tests/op/sanitize).
 * Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cuda/cuda_backend.h"
#include "cuda/one/decode_one.h"
#include "cuda/selftest/selftest.h"

#define CONTEXT 44000 /* of the cases below */
#define FAR 132000

struct form {
    const char *what;
    int dim, heads, q_rank, experts, top_k, hidden, vocab;
    const char *quantisation;
    uint32_t max_step;
};

#define NVFP4 ",\"quantization_config\":{\"quant_method\":" \
    "\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}"
#define FP8 ",\"quantization\":{\"qformat_weight\":\"fp8_e4m3\"," \
    "\"qscheme_act\":\"TENSOR\"}"

static const struct form forms[] = {
    {"release, NVFP4", 4096, 32, 1024, 128, 4, 2048, 8192, NVFP4, 2048},
    {"release, FP8", 4096, 32, 1024, 24, 4, 2048, 8192, FP8, 1024},
    {"release, BF16", 4096, 32, 1024, 12, 4, 2048, 8192, "", 1024},
    {"small, NVFP4", 512, 8, 256, 16, 4, 512, 1024, NVFP4, 1024},
    {"odd, NVFP4", 320, 6, 192, 9, 2, 192, 1040, NVFP4, 512},
    {"odd, FP8", 448, 3, 64, 5, 5, 64, 1040, FP8, 512},
    {"odd, BF16", 256, 40, 128, 130, 8, 128, 1040, "", 512},
};

static const struct selftest_shape shapes[] = {
    {1, 1, 0, 0, 0}, {1, 1, 63, 0, 0}, {1, 1, 64, 0, 0}, {1, 1, 1000, 0, 0},
    {1, 1, 9000, 0, 0}, {1, 1, 8191, 0, 0}, {1, 1, 40000, 0, 0},
    {2, 1, 77, 0, 0}, {7, 1, 333, 0, 0}, {8, 1, 100, 0, 0}, {9, 1, 31, 0, 0},
    {17, 1, 500, 0, 0}, {33, 1, 60, 0, 0}, {64, 1, 128, 0, 0},
    {65, 1, 40, 0, 0}, {128, 1, 200, 0, 0}, {3, 5, 95, 0, 0}, {1, 16, 4, 0, 0},
    {1, 17, 0, 0, 0}, {1, 64, 64, 0, 0}, {2, 100, 31, 0, 0}, {1, 201, 0, 0, 0},
    {1, 300, 1000, 0, 0}, {1, 512, 0, 0, 0}, {1, 777, 130, 0, 0},
    {1, 1024, 0, 0, 0}, {1, 2048, 17000, 0, 0},
};

/* One token behind so many keys that a block of decode_one walks over several
 * cache blocks, an odd number of them too. Up to FAR. */
static const struct selftest_shape far[] = {
    {1, 1, 17000, 0, 0}, {1, 1, 131000, 0, 0},
};

/* The same behind other layers, in a model of three: what a layer leaves the
 * next, and where the next one's weights and cache are. */
static const struct selftest_shape deep[] = {
    {1, 1, 99, 0, 0}, {1, 1, 99, 1, 0}, {1, 1, 130, 2, 0}, {2, 1, 77, 2, 0},
    {1, 40, 30, 2, 0},
};

/* A few that meet every kernel, together with those of the self-test. */
static const struct selftest_shape some[] = {
    {1, 1, 99, 0, 0}, {1, 1, 1000, 1, 0}, {3, 5, 95, 0, 0}, {8, 1, 100, 1, 0},
    {33, 1, 60, 0, 0}, {65, 1, 40, 1, 0}, {128, 1, 40, 0, 0},
    {1, 201, 0, 0, 0},
};

static int
write_params(const char *dir, const struct form *f, int layers)
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
            "\"llama_4_scaling\":{\"original_max_position_embeddings\":8192,"
            "\"beta\":0.1},\"q_lora_rank\":%d,\"qk_rope_head_dim\":64,"
            "\"qk_nope_head_dim\":64,\"kv_lora_rank\":256,"
            "\"v_head_dim\":128,\"yarn\":{"
            "\"original_max_position_embeddings\":8192,\"factor\":128,"
            "\"apply_scale\":false,\"beta\":32,\"alpha\":1},\"moe\":{"
            "\"expert_parallel\":1,\"expert_model_parallel\":1,"
            "\"route_every_n\":1,\"first_k_dense_replace\":0,"
            "\"num_experts\":%d,\"num_experts_per_tok\":%d,"
            "\"num_expert_groups\":1,\"num_expert_groups_per_tok\":1,"
            "\"routed_scale\":1.0,\"expert_hidden_dim\":%d,"
            "\"num_shared_experts\":1}%s}\n", f->dim, layers, f->hidden,
            f->heads, f->heads, f->vocab, f->q_rank, f->experts, f->top_k,
            f->hidden, f->quantisation);
    return fclose(o);
}

static int
open_form(const char *dir, const struct form *f, int layers,
          uint32_t context, struct model **m, struct backend **b,
          struct err *e)
{
    struct model_options mo = {.dummy = true, .seed = 42};
    struct backend_limits l = {
        .max_seqs = 128, .max_step = f->max_step, .max_context = context,
        .n_devices = 1,
    };
    struct backend_plan plan;
    if (write_params(dir, f, layers) != 0)
        return err_set(e, ERR_IO, "cannot write params.json");
    l.kv_bytes = (context / KV_BLOCK + 13ull) * KV_BLOCK * MLA_ROW * 2
                 * (unsigned)layers;
    int r = model_open(dir, &mo, m, e);
    if (r == 0)
        r = backend_cuda.open(NULL, b, e);
    if (r == 0)
        r = backend_cuda.plan(*b, *m, &l, &plan, e);
    if (r == 0 && !plan.fits)
        r = err_set(e, ERR_LIMIT, "needs %.1f GiB",
                    (double)plan.total / (1 << 30));
    return r == 0 ? backend_cuda.load(*b, NULL, NULL, e) : r;
}

/* Not-a-number where a step's rows will be. */
static int
poison(struct cuda *c)
{
    size_t dim = (size_t)c->p.dim, n = c->cap;
    size_t wide = (size_t)c->p.n_heads * MLA_V;
    int r = (int)cudaMemset(c->h, 0xff, n * dim * 2);
    if (r == 0)
        r = (int)cudaMemset(c->a, 0xff,
                            n * (size_t)(c->p.q_rank + MLA_ROW) * 2);
    if (r == 0)
        r = (int)cudaMemset(c->q, 0xff, n * wide * 2);
    if (r == 0)
        r = (int)cudaMemset(c->o, 0xff, n * wide * 2);
    if (r == 0)
        r = (int)cudaMemset(c->mh, 0xff, n * (size_t)c->slots *
                            (size_t)c->p.expert_hidden * 2);
    if (r == 0)
        r = (int)cudaMemset(c->my, 0xff, n * (size_t)c->slots * dim * 2);
    if (r == 0)
        r = (int)cudaMemset(c->part, 0xff, (size_t)c->part_max *
                            (size_t)c->p.n_heads * MLA_RANK * 4);
    if (r == 0)
        r = (int)cudaMemset(c->kv, 0xff, (size_t)KV_PIECE *
                            (size_t)c->p.n_heads * (MLA_NOPE + MLA_V) * 2);
    return r;
}

static int
check_form(const char *dir, const struct form *f, int layers,
           uint32_t context, const struct selftest_shape *shape, size_t n)
{
    struct err e = {0};
    struct model *m = NULL;
    struct backend *b = NULL;
    int bad = 0, done = 0;
    double most = 0;
    int r = open_form(dir, f, layers, context, &m, &b, &e);
    struct cuda *c = (struct cuda *)b;
    for (size_t i = 0; r == 0 && i < n; i++) {
        double worst = 0;
        e = (struct err){0};
        r = poison(c);
        int k = r == 0 ? selftest_step(c, &shape[i], &worst, &e)
                       : ERR_DEVICE;
        if (k == ERR_AGAIN)
            continue;
        /* The same step again gives the same bits: a race would not. */
        double again = 0;
        if (k == 0 && poison(c) == 0)
            k = selftest_step(c, &shape[i], &again, &e);
        if (k == 0 && again != worst)
            k = err_set(&e, ERR_MISMATCH, "the second run differs: error "
                        "%.17g, then %.17g", worst, again);
        done++;
        most = worst > most ? worst : most;
        if (k != 0) {
            printf("FAIL %s, %u x %u behind %u, layer %u: %s\n", f->what,
                   shape[i].n_seq, shape[i].n_tok, shape[i].n_past,
                   shape[i].layer, e.text);
            bad++;
        }
        if (k == ERR_DEVICE)
            break;
    }
    if (r != 0) {
        printf("FAIL %s: %s\n", f->what, e.text);
        bad++;
    }
    bad += done == 0;       /* the plan has room for none */
    printf("%s %s, layers: %d: %d steps, largest error %.2f of its bound\n",
           bad ? "FAIL" : "ok  ", f->what, layers, done, most);
    fflush(stdout);
    if (b)
        backend_cuda.close(b);
    model_close(m);
    return bad;
}

enum { SEQS = 3, STEPS = 14, CHUNK = 40 };

/* What a chain of steps gave, and when. */
struct chain {
    struct logprob drawn[STEPS][SEQS];
    uint64_t begin[STEPS], end[STEPS], experts[STEPS];
};

/* Step k of up to three texts: two chunks of prompt, of which the first draws
 * nothing, then a token a step. */
struct chain_step {
    struct batch b;
    struct batch_seq q[SEQS];
    int32_t token[SEQS * CHUNK];
    uint32_t block[SEQS][2];
};

static void
make_step(struct chain_step *s, uint32_t k, uint32_t n_seq, int vocab,
          const struct sampling *p)
{
    uint32_t n = k < 2 ? CHUNK : 1, past = k < 2 ? k * CHUNK
                                                 : 2 * CHUNK + k - 2;
    s->b = (struct batch){.n_tok = n_seq * n, .n_seq = n_seq, .step = k,
                          .token = s->token, .seq = s->q};
    for (uint32_t i = 0; i < n_seq; i++) {
        for (uint32_t t = 0; t < 2; t++)
            s->block[i][t] = 2 * i + t;
        for (uint32_t t = 0; t < n; t++)
            s->token[i * n + t] =
                k < 2 ? (int32_t)((i * 977 + (past + t) * 31) %
                                  (unsigned)vocab) : TOKEN_SAMPLED;
        s->q[i] = (struct batch_seq){
            .slot = i, .first = i * n, .n_tok = n, .n_past = past,
            .block = s->block[i], .n_block = 2, .max_out = 1,
            .reset = k == 0, .sample = k > 0, .sampling = p,
            .n_top = 0};
    }
}

static int
run_chain(struct cuda *c, uint32_t n_seq, uint32_t depth,
          const struct sampling *p, struct chain *out, struct err *e)
{
    static struct chain_step step[2];
    struct step_result res;
    int r = 0;
    for (uint32_t k = 0, done = 0; r == 0 && done < STEPS;) {
        if (k < STEPS && k - done < depth) {
            make_step(&step[k % 2], k, n_seq, c->p.vocab, p);
            r = step_submit(c, &step[k++ % 2].b, e);
            continue;
        }
        r = step_collect(c, &res, e);
        for (uint32_t i = 0; r == 0 && done > 0 && i < n_seq; i++)
            out->drawn[done][i] = res.seq[i].drawn[0];
        out->experts[done] = res.n_experts;
        out->begin[done] = res.begin_ns;
        out->end[done++] = res.end_ns;
    }
    return r;
}

/* Whether steps began when they should, one behind the other. */
static bool
in_order(const struct chain *c)
{
    bool ok = true;
    for (int k = 0; k < STEPS; k++)
        ok &= c->begin[k] != 0 && c->end[k] >= c->begin[k] &&
              (k == 0 || c->begin[k] >= c->end[k - 1]);
    return ok;
}

/* Whether the experts told are possible; of single tokens, whether exact. */
static bool
experts_told(const struct cuda *c, const struct chain *chain, uint32_t n_seq)
{
    const uint64_t layers = (uint64_t)c->p.n_layers;
    const uint64_t least = layers * (uint64_t)c->p.top_k;
    bool ok = true;
    for (uint32_t k = 0; k < STEPS; k++) {
        uint64_t n = n_seq * (k < 2 ? CHUNK : 1), most = least * n;
        if (most > layers * (uint64_t)c->p.n_experts)
            most = layers * (uint64_t)c->p.n_experts;
        ok &= chain->experts[k] >= least && chain->experts[k] <= most;
    }
    return ok;
}

static int
check_flight(const char *dir, const struct form *f)
{
    static struct chain one, two, few, many;
    static int32_t bad_id[2 * FORBID_MAX];
    struct sampling p = {.top_p = 1, .repetition_penalty = 1};
    struct err e = {0};
    struct model *m = NULL;
    struct backend *b = NULL;
    int bad = 0, r = open_form(dir, f, 2, CONTEXT, &m, &b, &e);
    if (r == 0)
        r = run_chain((struct cuda *)b, SEQS, 1, &p, &one, &e);
    if (r == 0)
        r = run_chain((struct cuda *)b, SEQS, 2, &p, &two, &e);
    /* What the second text began with, once and too often for biases. */
    for (size_t i = 0; i < 2 * FORBID_MAX; i++)
        bad_id[i] = one.drawn[1][1].id;
    p.bad = bad_id;
    p.n_bad = 1;
    if (r == 0)
        r = run_chain((struct cuda *)b, SEQS, 2, &p, &few, &e);
    p.n_bad = 2 * FORBID_MAX;
    if (r == 0)
        r = run_chain((struct cuda *)b, SEQS, 2, &p, &many, &e);
    bad = r != 0 || memcmp(one.drawn, two.drawn, sizeof one.drawn) != 0 ||
          memcmp(few.drawn, many.drawn, sizeof few.drawn) != 0;
    for (int k = 1; k < STEPS; k++)
        for (int i = 0; i < SEQS; i++)
            bad |= few.drawn[k][i].id == bad_id[0];
    bad |= !in_order(&two) ||
           (r == 0 && !experts_told((struct cuda *)b, &two, SEQS));
    printf("%s %s: two steps in flight %s\n", bad ? "FAIL" : "ok  ", f->what,
           e.text);
    if (b)
        backend_cuda.close(b);
    model_close(m);
    return bad;
}

/* One text alone: its steps of one token are decode_one's on sm_90a. */
static int
check_alone(const char *dir, const struct form *f)
{
    static struct chain one, two;
    struct sampling p = {.top_p = 1, .repetition_penalty = 1};
    struct err e = {0};
    struct model *m = NULL;
    struct backend *b = NULL;
    int r = open_form(dir, f, 2, CONTEXT, &m, &b, &e);
    if (r == 0)
        r = run_chain((struct cuda *)b, 1, 1, &p, &one, &e);
    if (r == 0)
        r = run_chain((struct cuda *)b, 1, 2, &p, &two, &e);
    int bad = r != 0 || memcmp(one.drawn, two.drawn, sizeof one.drawn) != 0 ||
              !in_order(&one) || !in_order(&two) ||
              !experts_told((struct cuda *)b, &two, 1);
    printf("%s %s: two steps of one text in flight %s\n",
           bad ? "FAIL" : "ok  ", f->what, e.text);
    if (b)
        backend_cuda.close(b);
    model_close(m);
    return bad;
}

static int
by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median device time of a step of the shape, in microseconds. */
static double
time_shape(struct cuda *c, const struct selftest_shape *s, struct err *e)
{
    enum { RUNS = 9 };
    double us[RUNS];
    struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    uint32_t blocks = (s->n_past + s->n_tok + KV_BLOCK - 1) / KV_BLOCK;
    struct batch_seq *q = calloc(s->n_seq, sizeof *q);
    int32_t *tok = calloc((size_t)s->n_seq * s->n_tok, sizeof *tok);
    uint32_t *block = calloc((size_t)s->n_seq * blocks, sizeof *block);
    struct batch b = {.n_tok = s->n_seq * s->n_tok, .n_seq = s->n_seq,
                      .token = tok, .seq = q};
    struct step_result out;
    int r = q && tok && block ? 0 : ERR_NOMEM;
    for (uint32_t i = 0; r == 0 && i < s->n_seq * blocks; i++)
        block[i] = i % c->n_blocks;
    for (int k = -2; r == 0 && k < RUNS; k++) {
        for (uint32_t i = 0; i < b.n_tok; i++)
            tok[i] = rand() % c->p.vocab;
        for (uint32_t i = 0; i < s->n_seq; i++)
            q[i] = (struct batch_seq){
                .slot = i, .first = i * s->n_tok, .n_tok = s->n_tok,
                .n_past = s->n_past, .block = block + i * blocks,
                .n_block = blocks, .max_out = 1, .reset = true,
                .sample = true, .sampling = &greedy, .n_top = -1,
            };
        r = step_submit(c, &b, e);
        if (r == 0)
            r = step_collect(c, &out, e);
        if (k >= 0)
            us[k] = (double)(out.end_ns - out.begin_ns) * 1e-3;
    }
    free(q);
    free(tok);
    free(block);
    if (r != 0)
        return -1;
    qsort(us, RUNS, sizeof *us, by_value);
    return us[RUNS / 2];
}

#ifdef ONE_PROFILE
static long long stamp[64][ONE_CTAS][ONE_STAMPS];

/* Mean and least time from stamp j of layer l - back to stamp k of layer l,
 * over all layers but the first and blocks up to n_block. */
static double
print_span(const struct cuda *c, const char *what, int back, int j, int k,
           int n_block)
{
    const int n = c->p.n_layers;
    double sum = 0, least = 0;
    int khz = 0;
    cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0);
    for (int l = 1; l < n; l++) {
        double low = 1e18;
        for (int b = 0; b < n_block; b++) {
            double d = (double)(stamp[l][b][k] - stamp[l - back][b][j]);
            sum += d;
            low = d < low ? d : low;
        }
        least += low;
    }
    sum *= 1e3 / khz / n_block / (n - 1);
    printf("  %-22s %6.2f us, least %6.2f\n", what, sum,
           least * 1e3 / khz / (n - 1));
    return sum;
}

/* Where the time of the last decode_one went; behind n_past keys. */
static void
print_stamps(const struct cuda *c, uint32_t n_past)
{
    static const char *const what[] = {
        "sum: publish", "row", "latents", "query", "absorb", "attention",
        "merge", "values", "output: gather", "output: rows", "output: sum",
        "row behind attention", "shared gate, up", "shared expert",
        "gate, up", "hidden", "hidden: gather", "down", "queries", "keys",
        "scores", "all of them", "sums", "last values",
    };
    const int tiles = (int)(n_past / 64 + 1), n = c->p.n_layers;
    const int per = (tiles + ONE_CTAS - 1) / ONE_CTAS;
    double all = 0;
    if (cuda_decode_one_stamps(&stamp[0][0][0]) != 0 || n < 2 || n > 64)
        return;
    for (int k = 0; k < 18; k++)
        all += print_span(c, what[k], k == 0, k == 0 ? 17 : k - 1, k,
                          ONE_CTAS);
    printf("  %-22s %6.2f us\n of attention, where there are keys\n",
           "layer", all);
    for (int k = 18; k < 24; k++)
        print_span(c, what[k], 0, k == 18 ? 4 : k - 1, k,
                   (tiles + per - 1) / per);
}
#endif

static int
time_form(const char *dir, const struct form *f, int layers,
          const struct selftest_shape *only)
{
    struct err e = {0};
    struct model *m = NULL;
    struct backend *b = NULL;
    uint32_t context = only ? only->n_past + only->n_tok + 64 : CONTEXT;
    int r = open_form(dir, f, layers, context, &m, &b, &e);
    size_t n = only ? 1 : sizeof shapes / sizeof shapes[0];
    for (size_t i = 0; r == 0 && i < n; i++) {
        const struct selftest_shape *s = only ? only : &shapes[i];
        double us = time_shape((struct cuda *)b, s, &e);
        if (us < 0)
            break;
        printf("%s, %d layers: %3u x %4u behind %5u: %10.1f us\n", f->what,
               layers, s->n_seq, s->n_tok, s->n_past, us);
#ifdef ONE_PROFILE
        if (s->n_seq * s->n_tok == 1)
            print_stamps((struct cuda *)b, s->n_past);
#endif
    }
    if (e.text[0])
        printf("FAIL %s: %s\n", f->what, e.text);
    if (b)
        backend_cuda.close(b);
    model_close(m);
    return e.text[0] != '\0';
}

static int
check_all(const char *dir)
{
    int bad = 0;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        bad += check_form(dir, &forms[i], 1, CONTEXT, shapes,
                          sizeof shapes / sizeof shapes[0]);
    bad += check_form(dir, &forms[0], 1, FAR, far, sizeof far / sizeof far[0]);
    for (size_t i = 0; i < 4; i += 3)
        bad += check_form(dir, &forms[i], 3, CONTEXT, deep,
                          sizeof deep / sizeof deep[0]);
    return bad + check_flight(dir, &forms[3]) + check_alone(dir, &forms[0]);
}

/* name: of the models, NULL = all. */
static int
check_briefly(const char *dir, char **name)
{
    int bad = 0, found = 0;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char **at = name;
        while (*at != NULL && strcmp(*at, forms[i].what) != 0)
            at++;
        if (*name != NULL && *at == NULL)
            continue;
        found++;
        bad += check_form(dir, &forms[i], 2, CONTEXT, some,
                          sizeof some / sizeof some[0]);
        if (i == 0)
            bad += check_alone(dir, &forms[i]);
    }
    if (found == 0)
        printf("FAIL no model is called %s\n", *name);
    return bad + (found == 0);
}

/* AC-35, AC-37, AC-38 */
int
main(int argc, char **argv)
{
    char dir[] = "/tmp/sirocco-op-XXXXXX", path[64];
    int n = 0, bad = 0;
    bool timing = argc > 1 && strcmp(argv[1], "-b") == 0;
    bool brief = argc > 1 && strcmp(argv[1], "-s") == 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    if (mkdtemp(dir) == NULL)
        return 1;
    if (timing) {
        struct form f = forms[0];
        struct selftest_shape only = {0};
        f.max_step = 8192;
        if (argc > 5)
            only = (struct selftest_shape){(uint32_t)atoi(argv[3]),
                (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]), 0, 0};
        bad = time_form(dir, &f, argc > 2 ? atoi(argv[2]) : 4,
                        only.n_seq ? &only : NULL);
    }
    if (brief)
        bad = check_briefly(dir, argv + 2);
    else if (!timing)
        bad = check_all(dir);
    snprintf(path, sizeof path, "%s/params.json", dir);
    unlink(path);
    rmdir(dir);
    return bad != 0;
}
