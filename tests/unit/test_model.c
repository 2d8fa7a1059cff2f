/* Numbers, rope and scales, parameter files, dummy weights. */
#include "config.h"

#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The published parameters of the 4-bit release. */
static const char release[] =
    "{\"dim\":4096,\"n_layers\":36,\"head_dim\":128,\"hidden_dim\":12288,"
    "\"n_heads\":32,\"n_kv_heads\":32,\"rope_theta\":10000.0,"
    "\"norm_eps\":1e-06,\"vocab_size\":131072,\"tied_embeddings\":false,"
    "\"max_position_embeddings\":1048576,"
    "\"llama_4_scaling\":{\"original_max_position_embeddings\":8192,"
    "\"beta\":0.1},\"q_lora_rank\":1024,\"qk_rope_head_dim\":64,"
    "\"qk_nope_head_dim\":64,\"kv_lora_rank\":256,\"v_head_dim\":128,"
    "\"yarn\":{\"original_max_position_embeddings\":8192,\"factor\":128,"
    "\"apply_scale\":false,\"beta\":32,\"alpha\":1},"
    "\"moe\":{\"expert_parallel\":1,\"expert_model_parallel\":1,"
    "\"route_every_n\":1,\"first_k_dense_replace\":0,\"num_experts\":128,"
    "\"num_experts_per_tok\":4,\"num_expert_groups\":1,"
    "\"num_expert_groups_per_tok\":1,\"routed_scale\":1.0,"
    "\"expert_hidden_dim\":2048,\"num_shared_experts\":1},"
    "\"vision_encoder\":{\"image_token_id\":10,"
    "\"image_break_token_id\":12,\"image_end_token_id\":13,"
    "\"intermediate_size\":4096,\"num_hidden_layers\":24,"
    "\"num_attention_heads\":16,\"mm_projector_id\":\"patch_merge\","
    "\"spatial_merge_size\":2,\"hidden_size\":1024,\"num_channels\":3,"
    "\"image_size\":1540,\"max_image_size\":1540,\"patch_size\":14,"
    "\"rope_theta\":10000.0,\"add_pre_mm_projector_layer_norm\":true,"
    "\"adapter_bias\":false},"
    "\"quantization_config\":{\"quant_method\":\"compressed-tensors\","
    "\"format\":\"nvfp4-pack-quantized\"}}";

static char dir[64];

static int
make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/test-model-XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int
remove_dir(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* Writes params.json, with `from` replaced by `to` when given. */
static void
write_params(const char *from, const char *to)
{
    char path[100];
    snprintf(path, sizeof path, "%s/params.json", dir);
    FILE *f = fopen(path, "w");
    const char *at = from ? strstr(release, from) : NULL;
    assert_non_null(f);
    if (from != NULL)
        assert_non_null(at);
    if (at == NULL)
        fputs(release, f);
    else
        fprintf(f, "%.*s%s%s", (int)(at - release), release, to,
                at + strlen(from));
    fclose(f);
}

static struct model *
open_dummy(uint64_t seed)
{
    struct model_options o = {.dummy = true, .seed = seed};
    struct model *m = NULL;
    struct err e = {0};
    if (model_open(dir, &o, &m, &e) != 0)
        fail_msg("%s", e.text);
    return m;
}

static void
e2m1_values(void **state)
{
    (void)state;
    const float want[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6,
                            -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    for (uint8_t c = 0; c < 16; c++)
        assert_true(e2m1_to_float(c) == want[c]);
}

static void
e4m3_values(void **state)
{
    (void)state;
    for (int b = 0; b < 256; b++) {
        float x = e4m3_to_float((uint8_t)b);
        int e = b >> 3 & 15, m = b & 7;
        double want = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
        if ((b & 127) == 127)
            assert_true(isnan(x));
        else
            assert_true(x == (b & 128 ? -want : want));
    }
    assert_true(e4m3_to_float(0x7E) == 448);
}

static void
half_values(void **state)
{
    (void)state;
    assert_true(f16_to_float(0x3C00) == 1);
    assert_true(f16_to_float(0xC500) == -5);
    assert_true(f16_to_float(0x7BFF) == 65504);
    assert_true(f16_to_float(0x0001) == 0x1p-24f);
    assert_true(f16_to_float(0x83FF) == -1023 * 0x1p-24f);
    assert_true(isinf(f16_to_float(0x7C00)));
    assert_true(isnan(f16_to_float(0x7E00)));
    assert_true(bf16_to_float(0x4049) == 3.140625f);
    /* ties go to even, the rest to the nearer */
    assert_int_equal(float_to_bf16(1.00390625f), 0x3F80);
    assert_int_equal(float_to_bf16(1.01171875f), 0x3F82);
    assert_int_equal(float_to_bf16(1.00390637f), 0x3F81);
    assert_int_equal(float_to_bf16(INFINITY), 0x7F80);
    assert_true(isnan(bf16_to_float(float_to_bf16(NAN))));
    for (int i = 0; i < 65536; i++) {
        float x = bf16_to_float((uint16_t)i);
        if (!isnan(x))
            assert_int_equal(float_to_bf16(x), i);
    }
}

static void
rope_frequencies_of_the_release(void **state)
{
    (void)state;
    static const char *const want[32] = {
        "1.00000000e+00", "7.49894202e-01", "5.62341332e-01",
        "4.21696514e-01", "3.16227764e-01", "2.37137362e-01",
        "1.77827939e-01", "1.33352146e-01", "1.00000001e-01",
        "7.49894157e-02", "5.62341288e-02", "4.21696492e-02",
        "3.16227786e-02", "2.19038539e-02", "1.50683541e-02",
        "1.02818999e-02", "6.94711553e-03", "4.63726651e-03",
        "3.04826861e-03", "1.96403102e-03", "1.23146386e-03",
        "7.42479402e-04", "4.21058940e-04", "2.13972482e-04",
        "8.41346118e-05", "5.85854832e-06", "4.39329142e-06",
        "3.29450381e-06", "2.47052958e-06", "1.85263582e-06",
        "1.38928078e-06", "1.04181368e-06"};
    struct model *m = open_dummy(1);
    float f[32];
    char text[32];
    model_rope_freqs(&model_params(m)->text, f);
    for (int i = 0; i < 32; i++) {
        snprintf(text, sizeof text, "%.8e", (double)f[i]);
        assert_string_equal(text, want[i]);
    }
    model_close(m);
}

static void
scales_of_the_release(void **state)
{
    (void)state;
    struct model *m = open_dummy(1);
    struct model_text_params p = model_params(m)->text;
    const struct { int64_t pos; double scale; } want[] = {
        {0, 1}, {8191, 1}, {8192, 1.0693147}, {16384, 1.1098612},
        {65536, 1.2197225}, {100000, 1.2564950}, {131072, 1.2833213},
        {262143, 1.3465736}, {1048575, 1.4852030}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_true(fabs(model_query_scale(&p, want[i].pos) - want[i].scale)
                    < 5e-7);
    assert_true(fabs(model_score_scale(&p) - 0.0883883476) < 1e-8);
    p.yarn.apply_scale = true;
    assert_true(fabs(model_score_scale(&p) - 0.19497) < 1e-5);
    model_close(m);
}

static void
params_of_the_release(void **state)
{
    (void)state;
    struct model *m = open_dummy(1);
    const struct model_params *p = model_params(m);
    assert_int_equal(p->text.dim, 4096);
    assert_int_equal(p->text.n_experts, 128);
    assert_int_equal(p->text.top_k, 4);
    assert_int_equal(p->text.max_positions, 1048576);
    assert_true(p->text.yarn.beta_fast == 32 && p->text.yarn.beta_slow == 1);
    assert_false(p->text.yarn.apply_scale);
    assert_true(p->has_vision);
    assert_int_equal(p->vision.image_size, 1540);
    assert_int_equal(p->vision.break_token, 12);
    model_close(m);
}

static void
bad_params_are_refused(void **state)
{
    (void)state;
    static const struct { const char *from, *to, *text; int code; } bad[] = {
        {"\"dim\":4096", "\"dim\":\"4096\"", "dim must be an integer",
         ERR_FORMAT},
        {"\"dim\":4096,", "", "dim is missing", ERR_FORMAT},
        {"\"q_lora_rank\":1024", "\"q_lora_rank\":0", "q_lora_rank is 0",
         ERR_RANGE},
        {"\"n_layers\":36", "\"n_layers\":1e9", "n_layers must be an int",
         ERR_FORMAT},
        {"\"head_dim\":128", "\"head_dim\":64", "head_dim 64 is not",
         ERR_MISMATCH},
        {"\"num_experts_per_tok\":4", "\"num_experts_per_tok\":400",
         "400 experts a token of 128", ERR_RANGE},
        {"\"num_expert_groups\":1", "\"num_expert_groups\":8",
         "expert groups", ERR_UNSUPPORTED},
        {"nvfp4-pack-quantized", "pack-quantized", "not supported",
         ERR_UNSUPPORTED},
        {"\"qk_rope_head_dim\":64,\"qk_nope_head_dim\":64",
         "\"qk_rope_head_dim\":63,\"qk_nope_head_dim\":65", "is odd",
         ERR_RANGE},
        {"\"rope_theta\":10000.0,\"norm_eps\"",
         "\"rope_theta\":NaN,\"norm_eps\"", "rope_theta is nan", ERR_RANGE},
        {"\"dim\":4096", "\"sliding_window\":4096,\"dim\":4096",
         "sliding_window", ERR_UNSUPPORTED},
        {"{\"dim\"", "[\"dim\"", "params.json", ERR_FORMAT},
    };
    struct model_options o = {.dummy = true};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct model *m = NULL;
        struct err e = {0};
        write_params(bad[i].from, bad[i].to);
        assert_int_equal(model_open(dir, &o, &m, &e), bad[i].code);
        if (strstr(e.text, bad[i].text) == NULL)
            fail_msg("%s: %s", bad[i].text, e.text);
        assert_non_null(strstr(e.text, dir));
    }
    write_params(NULL, NULL);
}

static double
row_rms(struct model *m, const struct weight *w, int64_t r)
{
    uint64_t n = w->format == WEIGHT_NVFP4 ? (uint64_t)w->cols / 2
                 : (uint64_t)w->cols * dtype_size(w->data->dtype);
    float *row = malloc((size_t)w->cols * sizeof *row);
    char *data = malloc(n), *block = malloc((size_t)w->cols / 16);
    struct weight one = *w;
    double sum = 0;
    assert_int_equal(model_read(m, w->data, (uint64_t)r * n, data, n, NULL),
                     0);
    if (w->block != NULL) {
        uint64_t k = (uint64_t)w->cols / 16;
        assert_int_equal(model_read(m, w->block, (uint64_t)r * k, block, k,
                                    NULL), 0);
    }
    weight_row(&one, data, block, 0, row);
    for (int64_t k = 0; k < w->cols; k++)
        sum += (double)row[k] * row[k];
    free(row);
    free(data);
    free(block);
    return sqrt(sum / (double)w->cols) * sqrt((double)w->cols);
}

static void
dummy_has_the_size_of_the_release(void **state)
{
    (void)state;
    struct model *m = open_dummy(7);
    const struct text_weights *x = model_text(m);
    /* The release less its scalars: 13,932 global scales and 55,512 bytes of
     * activation scales. */
    assert_int_equal(model_bytes(m), 70801959560 - 13932 * 4 - 55512);
    assert_true(model_is_dummy(m));
    assert_int_equal(x->layer[0].expert[5].w1.format, WEIGHT_NVFP4);
    assert_int_equal(x->layer[0].wo.format, WEIGHT_PLAIN);
    /* Matrices keep the size of what passes through them. */
    assert_true(fabs(row_rms(m, &x->layer[3].wq_a, 77) - 1) < 0.5);
    assert_true(fabs(row_rms(m, &x->layer[3].expert[9].w3, 77) - 1) < 0.2);
    assert_true(fabs(row_rms(m, &x->layer[3].shared.w2, 7) - 0.5) < 0.2);
    model_close(m);
    write_params("\"quantization_config\":{\"quant_method\":"
                 "\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"",
                 "\"quantization\":{\"qformat_weight\":\"fp8_e4m3\"");
    m = open_dummy(7);
    assert_int_equal(model_text(m)->layer[0].wo.format, WEIGHT_FP8);
    assert_true(fabs(row_rms(m, &model_text(m)->layer[3].wq_b, 5) - 1)
                < 0.2);
    model_close(m);
    write_params(NULL, NULL);
}

static void
dummy_ranges_agree(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct model *m = open_dummy(7), *other = open_dummy(8);
    const struct tensor *t = model_text(m)->layer[1].expert[2].w1.data;
    const struct tensor *u = model_text(m)->layer[1].expert[3].w1.data;
    const struct tensor *v = model_text(other)->layer[1].expert[2].w1.data;
    static uint8_t all[N], part[N];
    assert_int_equal(model_read(m, t, 0, all, N, NULL), 0);
    for (uint64_t from = 0; from < 40; from++)
        for (uint64_t n = 0; n < 40; n++) {
            assert_int_equal(model_read(m, t, from, part, n, NULL), 0);
            assert_memory_equal(all + from, part, n);
        }
    model_read(m, u, 0, part, N, NULL);
    assert_memory_not_equal(all, part, N);
    model_read(other, v, 0, part, N, NULL);
    assert_memory_not_equal(all, part, N);
    assert_memory_equal(model_data(m, t, NULL), all, N);
    struct err e = {0};
    assert_int_equal(model_read(m, t, t->size - 1, part, 2, &e), ERR_RANGE);
    model_close(m);
    model_close(other);
}

static void
dummy_norms_are_near_one(void **state)
{
    (void)state;
    struct model *m = open_dummy(7);
    const struct tensor *norm = model_text(m)->norm;
    uint16_t x[64];
    model_read(m, norm, 0, x, sizeof x, NULL);
    double sum = 0;
    for (int i = 0; i < 64; i++) {
        float f = bf16_to_float(x[i]);
        assert_true(f > 0.93f && f < 1.13f);
        sum += f;
    }
    assert_true(fabs(sum / 64 - 1.02) < 0.05);
    model_close(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e2m1_values),
        cmocka_unit_test(e4m3_values),
        cmocka_unit_test(half_values),
        cmocka_unit_test(rope_frequencies_of_the_release),
        cmocka_unit_test(scales_of_the_release),
        cmocka_unit_test(params_of_the_release),
        cmocka_unit_test(bad_params_are_refused),
        cmocka_unit_test(dummy_has_the_size_of_the_release),
        cmocka_unit_test(dummy_ranges_agree),
        cmocka_unit_test(dummy_norms_are_near_one),
    };
    if (make_dir(NULL) != 0)
        return 1;
    write_params(NULL, NULL);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    return remove_dir(NULL) != 0 ? 1 : r;
}
