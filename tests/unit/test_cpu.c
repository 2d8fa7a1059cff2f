/* The back end as the engine sees it, on small dummy models. */
#include "config.h"

#include "cpu/cpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB 96
#define LENGTH 150      /* tokens of a test sequence: three blocks */
#define MAX_BLOCKS 32

static const char *const quantisations[] = {
    "\"x\":0", "\"quantization\":{\"qformat_weight\":\"fp8_e4m3\"}",
    "\"quantization_config\":{\"format\":\"nvfp4-pack-quantized\"}"};

static char dir[64];

static void
write_params(const char *quantisation)
{
    char path[100];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
        "{\"dim\":80,\"n_layers\":3,\"n_heads\":6,\"vocab_size\":%d,"
        "\"q_lora_rank\":40,\"kv_lora_rank\":36,\"qk_nope_head_dim\":20,"
        "\"qk_rope_head_dim\":12,\"v_head_dim\":24,\"hidden_dim\":112,"
        "\"norm_eps\":1e-6,\"rope_theta\":10000,"
        "\"max_position_embeddings\":4096,"
        "\"llama_4_scaling\":{\"original_max_position_embeddings\":32,"
        "\"beta\":0.1},\"yarn\":{\"original_max_position_embeddings\":32,"
        "\"factor\":16,\"apply_scale\":false,\"beta\":32,\"alpha\":1},"
        "\"moe\":{\"num_experts\":7,\"num_experts_per_tok\":3,"
        "\"num_shared_experts\":2,\"expert_hidden_dim\":48,"
        "\"first_k_dense_replace\":1},%s}", VOCAB, quantisation);
    fclose(f);
}

struct fixture {
    struct model *m;
    struct backend *b;
};

static const struct backend_limits limits = {
    .max_seqs = 8, .max_step = 300, .max_context = 256,
    .kv_bytes = 1, /* set by open_cpu */
};

static struct fixture
open_cpu(const char *spec)
{
    struct fixture f = {0};
    struct model_options o = {.dummy = true, .seed = 3};
    struct backend_plan plan;
    struct backend_limits l = limits;
    struct err e = {0};
    if (model_open(dir, &o, &f.m, &e) != 0
        || backend_cpu.open(spec, &f.b, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(backend_cpu.plan(f.b, f.m, &l, &plan, &e), 0);
    l.kv_bytes = MAX_BLOCKS * plan.bytes_per_block;
    assert_int_equal(backend_cpu.plan(f.b, f.m, &l, &plan, &e), 0);
    assert_int_equal(plan.n_blocks, MAX_BLOCKS);
    assert_true(plan.fits);
    if (backend_cpu.load(f.b, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    return f;
}

static void
close_cpu(struct fixture *f)
{
    backend_cpu.close(f->b);
    model_close(f->m);
}

static struct step_result
run(struct fixture *f, const struct batch *b)
{
    struct step_result r = {0};
    struct err e = {0};
    if (backend_cpu.submit(f->b, b, &e) != 0
        || backend_cpu.collect(f->b, &r, &e) != 0)
        fail_msg("%s", e.text);
    return r;
}

static const struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};

/* Token ids of test sequence `which`, and the ids that follow each. */
static void
make_sequence(int which, int32_t *id, int32_t *target)
{
    for (int i = 0; i < LENGTH; i++)
        id[i] = (i * (7 + 2 * which) + which + i * i / 5) % VOCAB;
    for (int i = 0; i < LENGTH; i++)
        target[i] = i + 1 < LENGTH ? id[i + 1] : 0;
}

/* Log-probabilities of a sequence run in steps of `chunk` tokens, with n_other
 * sequences beside it in every step. */
static void
score(struct fixture *f, int chunk, int n_other, float *out)
{
    int32_t token[8 * LENGTH], target[8 * LENGTH];
    static const uint32_t block[4][3] = {
        {4, 9, 2}, {1, 0, 30}, {7, 8, 3}, {31, 11, 12}};
    for (int past = 0; past < LENGTH; past += chunk) {
        struct batch_seq seq[4];
        uint32_t n = 0;
        int count = LENGTH - past < chunk ? LENGTH - past : chunk;
        for (int s = n_other; s >= 0; s--) { /* ours is the last */
            int32_t id[LENGTH], next[LENGTH];
            make_sequence(s, id, next);
            memcpy(token + n, id + past, (size_t)count * sizeof *id);
            memcpy(target + n, next + past, (size_t)count * sizeof *id);
            seq[n_other - s] = (struct batch_seq){
                .slot = (uint32_t)s, .first = n, .n_tok = (uint32_t)count,
                .n_past = (uint32_t)past, .block = block[s], .n_block = 3,
                .reset = past == 0, .sampling = &greedy, .n_top = -1,
                .max_out = 1, .target = target + n};
            n += (uint32_t)count;
        }
        struct batch b = {.n_tok = n, .n_seq = (uint32_t)n_other + 1,
                          .token = token, .seq = seq};
        struct step_result r = run(f, &b);
        /* Two layers of 7 experts, of which a token takes 3; a pass takes
         * 256 tokens. */
        assert_true(n == 1 ? r.n_experts == 6
                           : r.n_experts >= 6 &&
                             r.n_experts <= 14 * ((n + 255) / 256));
        for (int i = 0; i < count; i++)
            out[past + i] = r.seq[n_other].target[i].logprob;
    }
}

static void
results_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "threads=1", "threads=2", "threads=3", "threads=2,kernel=plain",
        "threads=1,kernel=plain", "threads=3,kernel=avx2",
        "threads=1,kernel=avx2", "threads=3,attention=expanded",
        "threads=1,attention=expanded"};
    static const int chunks[] = {LENGTH, 1, 2, 3, 5, 17, 64, 65};
    for (int q = 0; q < 3; q++) {
        float want[3][LENGTH], got[LENGTH];
        bool known[3] = {false};
        write_params(quantisations[q]);
        for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
            int kind = strstr(specs[i], "plain") ? 1
                       : strstr(specs[i], "avx2") ? 2 : 0;
            bool expanded = strstr(specs[i], "expanded") != NULL;
            if (kind == 2 && !__builtin_cpu_supports("avx2"))
                continue;
            struct fixture f = open_cpu(specs[i]);
            float *base = want[kind];
            if (expanded || !known[kind]) {
                score(&f, LENGTH, 0, expanded ? got : base);
                for (int k = 0; expanded && k < LENGTH; k++)
                    assert_true(fabsf(got[k] - want[0][k]) < 2e-4f);
                if (expanded)
                    base = memcpy(want[1], got, sizeof got);
                known[kind] = true;
            }
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                /* the shortest steps take longest: not in every mix */
                if (chunks[c] < 3 && i >= (q == 0 ? 2 : 1))
                    continue;
                score(&f, chunks[c], chunks[c] * 4 > 300 ? 0 : 3, got);
                assert_memory_equal(got, base, sizeof got);
            }
            close_cpu(&f);
        }
        for (int k = 0; k < LENGTH; k++) { /* kernels agree closely */
            assert_true(want[0][k] < 0);
            assert_true(fabsf(want[2][k] - want[0][k]) < 2e-4f || !known[2]);
        }
    }
}

/* Generates with TOKEN_SAMPLED, two steps in flight, and again one step at a
 * time with known ids. */
static void
sampled_tokens_chain(void **state)
{
    (void)state;
    enum { N = 100 };
    int32_t out[2][N];
    const uint32_t block[3] = {5, 6, 7};
    const struct sampling warm = {.temperature = 1, .top_p = 0.95f,
        .repetition_penalty = 1.1f, .frequency_penalty = 0.2f, .seed = 9};
    write_params(quantisations[0]);
    struct fixture f = open_cpu("threads=2");
    int32_t history[N + 1] = {17};
    for (int mode = 0; mode < 2; mode++) {
        struct batch_seq seq[2];
        struct batch batch[2];
        int32_t token[2];
        for (int i = 0; i < N + mode; i++) {
            int s = i % 2;
            if (i < N) {
                /* With overlap the newest draw is not known yet. */
                int known = mode ? i - 1 : i;
                token[s] = i == 0 ? 17
                           : mode ? TOKEN_SAMPLED : out[0][i - 1];
                seq[s] = (struct batch_seq){
                    .slot = 3, .n_tok = 1, .n_past = (uint32_t)i,
                    .block = block, .n_block = 3, .reset = i == 0,
                    .sample = true, .sampling = &warm, .max_out = 1,
                    .n_drawn = (uint32_t)i, .n_top = -1,
                    .history = history,
                    .n_history = 1 + (uint32_t)(known > 0 ? known : 0),
                    .n_prompt = 1};
                batch[s] = (struct batch){.n_tok = 1, .n_seq = 1,
                                          .token = &token[s],
                                          .seq = &seq[s],
                                          .step = (uint64_t)i};
                struct err e = {0};
                if (backend_cpu.submit(f.b, &batch[s], &e) != 0)
                    fail_msg("%s", e.text);
            }
            int done = i - mode;
            if (done < 0)
                continue;
            struct step_result r = {0};
            assert_int_equal(backend_cpu.collect(f.b, &r, NULL), 0);
            assert_int_equal(r.step, done);
            assert_int_equal(r.seq[0].n_out, 1);
            out[mode][done] = r.seq[0].out[0];
            history[1 + done] = out[mode][done];
        }
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    close_cpu(&f);
}

static void
logprobs_of_draws(void **state)
{
    (void)state;
    const uint32_t block = 3;
    const int32_t token[4] = {1, 2, 3, 4}, target[4] = {2, 3, 4, -1};
    struct sampling cold = greedy;
    const int32_t biased = 5;
    const float bias = 50;
    cold.bias_id = &biased;
    cold.bias = &bias;
    cold.n_bias = 1;
    struct fixture f = open_cpu(NULL);
    struct batch_seq seq = {
        .n_tok = 4, .block = &block, .n_block = 1, .reset = true,
        .sample = true, .sampling = &cold, .max_out = 1, .n_top = 3,
        .target = target, .target_top = 2, .raw_logprobs = true};
    struct batch b = {.n_tok = 4, .n_seq = 1, .token = token, .seq = &seq};
    struct step_result r = run(&f, &b);
    const struct seq_result *q = r.seq;
    assert_int_equal(q->out[0], 5);
    assert_int_equal(q->drawn[0].id, 5);
    assert_true(q->drawn_rank[0] > 1 && q->drawn[0].logprob < -0.1f);
    assert_true(q->top[0].logprob >= q->top[1].logprob);
    assert_true(q->top[0].id != 5);
    assert_int_equal(q->target[1].id, 3);
    assert_int_equal(q->target[3].id, -1);
    assert_true(q->target_top[2].logprob >= q->target_top[3].logprob);
    assert_true(q->target_rank[1] >= 1);
    seq.raw_logprobs = false;
    r = run(&f, &b);
    assert_int_equal(r.seq[0].top[0].id, 5);
    assert_int_equal(r.seq[0].drawn_rank[0], 1);
    assert_true(r.seq[0].drawn[0].logprob > -1e-3f);
    close_cpu(&f);
}

static void
bad_batches_are_refused(void **state)
{
    (void)state;
    struct fixture f = open_cpu("threads=1");
    uint32_t block = 3;
    int32_t token[2] = {1, 2};
    struct batch_seq good = {.n_tok = 2, .block = &block, .n_block = 1,
                             .reset = true, .sampling = &greedy,
                             .n_top = -1, .max_out = 1};
    struct batch_seq seq;
    struct batch b = {.n_tok = 2, .n_seq = 1, .token = token, .seq = &seq};
    struct err e = {0};
    struct step_result r;
    seq = good;
    seq.slot = 8;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), ERR_RANGE);
    seq = good;
    seq.n_tok = 3;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), ERR_RANGE);
    seq = good;
    seq.n_past = 63;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), ERR_RANGE);
    seq = good;
    block = MAX_BLOCKS;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), ERR_RANGE);
    block = 3;
    token[1] = VOCAB;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "token id 96"));
    token[1] = TOKEN_SAMPLED;
    assert_int_equal(backend_cpu.submit(f.b, &b, &e), 0);
    assert_int_equal(backend_cpu.collect(f.b, &r, &e), ERR_STATE);
    assert_int_equal(backend_cpu.collect(f.b, &r, &e), ERR_STATE);
    token[1] = 2;
    run(&f, &b);
    close_cpu(&f);
}

static void
plans(void **state)
{
    (void)state;
    struct model_options o = {.dummy = true};
    struct model *m = NULL;
    struct backend *b = NULL;
    struct backend_plan p;
    struct backend_limits l = limits;
    struct err e = {0};
    write_params(quantisations[0]);
    assert_int_equal(model_open(dir, &o, &m, &e), 0);
    assert_int_equal(backend_cpu.open("threads=2", &b, &e), 0);
    l.kv_bytes = 0;
    assert_int_equal(backend_cpu.plan(b, m, &l, &p, &e), 0);
    assert_true(p.fits && p.available > 0);
    assert_int_equal(p.n_blocks, 8 * 256 / KV_BLOCK);
    assert_int_equal(p.bytes_per_block, 3 * KV_BLOCK * 48 * 4);
    uint64_t sum = 0;
    for (int i = 0; i < p.n_row; i++)
        sum += p.row[i].bytes;
    assert_int_equal(sum, p.total);
    assert_int_equal(p.row[0].bytes, model_bytes(m));
    l.reserve_bytes = p.available;
    assert_int_equal(backend_cpu.plan(b, m, &l, &p, &e), 0);
    assert_false(p.fits);
    l.reserve_bytes = 0;
    l.kv_bytes = 1;
    assert_int_equal(backend_cpu.plan(b, m, &l, &p, &e), 0);
    assert_false(p.fits);
    l.max_step = 0;
    assert_int_equal(backend_cpu.plan(b, m, &l, &p, &e), ERR_RANGE);
    backend_cpu.close(b);
    assert_int_equal(backend_cpu.open("speed=11", &b, &e), ERR_FORMAT);
    assert_int_equal(backend_cpu.open("kernel=mmx", &b, &e),
                     ERR_UNSUPPORTED);
    model_close(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_do_not_depend_on_the_batch),
        cmocka_unit_test(sampled_tokens_chain),
        cmocka_unit_test(logprobs_of_draws),
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(plans),
    };
    snprintf(dir, sizeof dir, "/tmp/test-cpu-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return 1;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) != 0 ? 1 : r;
}
