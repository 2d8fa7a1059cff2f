/* Roofs of the release on one H200: the numbers that its speed is held
 * against. */
#include "config.h"

#include "ctl/bench_roof.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"

#define LAYERS 36
#define EXPERTS 128

static const char params[] =
    "{\"dim\":4096,\"n_layers\":36,\"n_heads\":32,\"rope_theta\":10000.0,"
    "\"norm_eps\":1e-06,\"vocab_size\":131072,\"q_lora_rank\":1024,"
    "\"max_position_embeddings\":1048576,\"qk_rope_head_dim\":64,"
    "\"qk_nope_head_dim\":64,\"kv_lora_rank\":256,\"v_head_dim\":128,"
    "\"moe\":{\"num_experts\":128,\"num_experts_per_tok\":4,"
    "\"expert_hidden_dim\":2048,\"num_shared_experts\":1}%s}";

static const char *const nvfp4 = ",\"quantization_config\":{"
    "\"quant_method\":\"compressed-tensors\","
    "\"format\":\"nvfp4-pack-quantized\"}";
static const char *const fp8 = ",\"quantization\":{\"qformat_weight\":"
    "\"fp8_e4m3\",\"qscheme_act\":\"TENSOR\"}";

static struct model_cost
cost(const char *form)
{
    const struct model_options mo = {.dummy = true};
    char dir[] = "/tmp/test_roof.XXXXXX", path[64];
    struct model_cost c;
    struct model *m;
    struct err e = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, params, form);
    fclose(f);
    if (model_open(dir, &mo, &m, &e) != 0)
        fail_msg("%s", e.text);
    cost_of(m, LAYERS * 320 * 2, &c);
    model_close(m);
    unlink(path);
    rmdir(dir);
    return c;
}

/* Tokens a second of n sequences behind `keys` keys, every choice of experts
 * as likely as any. */
static double
decode(const struct roof *r, const struct model_cost *c, double n, double keys)
{
    const struct work_done w = {
        .steps = 1, .head_steps = 1, .tokens = n, .logits = n,
        .experts = LAYERS * EXPERTS * (1 - pow(1 - 4.0 / EXPERTS, n)),
        .keys = n * keys, .pairs = n * keys};
    return n / roof_seconds(r, c, &w);
}

static double
prefill(const struct roof *r, const struct model_cost *c, double n)
{
    const struct work_done w = {
        .steps = 1, .head_steps = 1, .tokens = n, .logits = 1,
        .experts = LAYERS * EXPERTS, .keys = n, .pairs = n * (n + 1) / 2};
    return n / roof_seconds(r, c, &w);
}

static void
assert_near(double is, double want)
{
    if (!(fabs(is - want) < want * .005))
        fail_msg("%g is not near %g", is, want);
}

static void
test_roofs_of_the_release(void **state)
{
    struct roof h200;
    assert_int_equal(roof_parse("4800,790,600", &h200), 0);
    const struct model_cost c = cost(nvfp4);
    assert_near(c.expert, 14155776);
    assert_int_equal(c.moe_layers, LAYERS);
    assert_near(decode(&h200, &c, 1, 1024), 842);
    assert_near(decode(&h200, &c, 8, 1024), 2080);
    assert_near(decode(&h200, &c, 32, 1024), 3339);
    assert_near(decode(&h200, &c, 128, 1024), 8682);
    assert_near(decode(&h200, &c, 1, 131072), 552);
    assert_near(prefill(&h200, &c, 1024), 68600);
    assert_near(prefill(&h200, &c, 8192), 55000);
    assert_near(prefill(&h200, &c, 131072), 12700);
}

/* All weights once are what the files hold, without scales. */
static void
test_all_weights_are_in_it(void **state)
{
    const struct work_done all = {
        .steps = 1, .head_steps = 1, .experts = LAYERS * EXPERTS};
    const struct model_cost a = cost(nvfp4), b = cost(fp8), c = cost("");
    const double tables = 131072.0 * 4096 * 2;   /* the embedding's */
    assert_near(cost_bytes(&a, &all) + tables, 69.9e9);
    assert_near(cost_bytes(&b, &all) + tables, 120e9);
    assert_near(cost_bytes(&c, &all) + tables, 237.9e9);
    assert_near(b.token_ops, c.token_ops);
    assert_near(2 * b.expert, c.expert);
}

static void
test_roofs_are_read(void **state)
{
    static const char *const bad[] = {"", "x", "4800,", "1,2,3,4", "-1", "0",
                                      "1;2", "nan", "inf", "4800,0"};
    struct roof r;
    assert_int_equal(roof_parse("4800", &r), 0);
    assert_true(r.bytes == 4.8e12 && r.products == 0);
    assert_int_equal(roof_parse("273,125", &r), 0);
    assert_true(r.products == 125e12 && r.attention == 125e12);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(roof_parse(bad[i], &r), ERR_FORMAT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roofs_of_the_release),
        cmocka_unit_test(test_all_weights_are_in_it),
        cmocka_unit_test(test_roofs_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
