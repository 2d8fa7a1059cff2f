/* Checkpoint directories: layouts, stored forms, every way to be wrong. */
#include "config.h"

#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "made_checkpoint.h"

static const struct model_params tiny = {
    .text = {.dim = 32, .n_layers = 2, .n_heads = 2, .vocab = 40,
             .q_rank = 16, .kv_rank = 16, .nope = 8, .rope = 8, .v_head = 16,
             .hidden = 48, .n_experts = 4, .top_k = 2, .n_shared = 1,
             .expert_hidden = 16, .n_dense = 1},
    .has_vision = true,
    .vision = {.dim = 16, .n_layers = 1, .n_heads = 2, .hidden = 32,
               .patch = 2, .channels = 3, .merge = 2},
};

static const char tiny_params[] =
    "{\"dim\":32,\"n_layers\":2,\"n_heads\":2,\"vocab_size\":40,"
    "\"q_lora_rank\":16,\"kv_lora_rank\":16,\"qk_nope_head_dim\":8,"
    "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"hidden_dim\":48,"
    "\"norm_eps\":1e-6,\"rope_theta\":10000,"
    "\"max_position_embeddings\":128,\"moe\":{\"num_experts\":4,"
    "\"num_experts_per_tok\":2,\"num_shared_experts\":1,"
    "\"expert_hidden_dim\":16,\"first_k_dense_replace\":1},"
    "\"vision_encoder\":{\"hidden_size\":16,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"intermediate_size\":32,\"patch_size\":2,"
    "\"image_size\":8,\"spatial_merge_size\":2,\"rope_theta\":10000,"
    "\"image_token_id\":10,\"image_break_token_id\":12,"
    "\"image_end_token_id\":13,\"add_pre_mm_projector_layer_norm\":true}}";

static void
begin(struct made *m, enum made_form form)
{
    made_init(m);
    made_text(m, "params.json", tiny_params);
    made_native(m, &tiny, form);
}

static struct model *
open_good(const struct made *m)
{
    struct model *out = NULL;
    struct err e = {0};
    if (model_open(m->dir, NULL, &out, &e) != 0)
        fail_msg("%s", e.text);
    return out;
}

/* The directory must be refused with `code` and a text that has all of the
 * parts. */
static void
refused(const struct made *m, int code, const char *a, const char *b)
{
    struct model *out = NULL;
    struct err e = {0};
    int r = model_open(m->dir, NULL, &out, &e);
    if (r != code || strstr(e.text, a) == NULL || strstr(e.text, b) == NULL
        || strstr(e.text, m->dir) == NULL)
        fail_msg("code %d, text: %s", r, e.text);
    assert_null(out);
}

static void
forms_give_their_values(void **state)
{
    (void)state;
    /* Filled with 0x20: BF16 0x2020; E4M3 0.125; codes 0 and 2 (1.0) of a
     * block with scale 1. */
    const struct { enum made_form form; float even, odd; } want[] = {
        {MADE_BF16, 0x1.4p-63f, 0x1.4p-63f},
        {MADE_FP8, 0.0625f, 0.0625f},
        {MADE_NVFP4, 0, 0.25f},
    };
    for (int i = 0; i < 3; i++) {
        struct made made;
        float row[32];
        begin(&made, want[i].form);
        made_write(&made, "consolidated");
        struct model *m = open_good(&made);
        const struct weight *w = &model_text(m)->layer[1].expert[3].w1;
        assert_int_equal(w->rows, 16);
        assert_int_equal(w->cols, 32);
        const void *data = model_data(m, w->data, NULL);
        const void *block =
            w->block ? model_data(m, w->block, NULL) : NULL;
        assert_non_null(data);
        weight_row(w, data, block, 15, row);
        for (int k = 0; k < 32; k++)
            assert_true(row[k] == (k % 2 ? want[i].odd : want[i].even));
        if (want[i].form == MADE_NVFP4) {
            assert_true(w->global == 4 && w->scale == 0.25f);
            assert_true(w->act_scale == 8);
        }
        assert_int_equal(model_text(m)->layer[0].is_moe, 0);
        assert_int_equal(model_text(m)->layer[0].dense.w2.cols, 48);
        assert_int_equal(model_vision(m)->patch_conv.cols, 12);
        assert_false(model_vision(m)->hf_rope);
        model_close(m);
        made_free(&made);
    }
}

static void
shards_with_and_without_index(void **state)
{
    (void)state;
    struct made made;
    begin(&made, MADE_BF16);
    made.n_files = 3;
    for (size_t i = 0; i < made.n; i++)
        made.tensor[i].file = (int)(i % 3);
    made_write(&made, "consolidated");
    struct model *m = open_good(&made);
    assert_int_equal(model_n_files(m), 3);
    model_close(m);
    char path[256];
    snprintf(path, sizeof path, "%s/consolidated.safetensors.index.json",
             made.dir);
    unlink(path);
    model_close(open_good(&made));
    snprintf(path, sizeof path, "%s/consolidated-00002-of-00003.safetensors",
             made.dir);
    unlink(path);
    refused(&made, ERR_NOENT, "consolidated-00001-of-00003.safetensors",
            "missing: consolidated-00002-of-00003.safetensors");
    made_free(&made);
}

static void
index_must_agree(void **state)
{
    (void)state;
    struct made made;
    begin(&made, MADE_BF16);
    made.n_files = 2;
    made_write(&made, "consolidated");
    made_find(&made, "norm.weight")->dropped = true;
    char path[256];
    snprintf(path, sizeof path, "%s/consolidated.safetensors.index.json",
             made.dir);
    /* the index of before stays beside files without the tensor */
    made_write(&made, "consolidated");
    refused(&made, ERR_MISMATCH, "norm.weight", "in no file");
    made_text(&made, "consolidated.safetensors.index.json", "{}");
    refused(&made, ERR_FORMAT, "weight_map is missing", "index.json");
    made_text(&made, "consolidated.safetensors.index.json",
              "{\"weight_map\":{\"a\":\"../b\"}}");
    refused(&made, ERR_FORMAT, "must be a name", "index.json");
    made_free(&made);
}

static void
tensors_are_checked(void **state)
{
    (void)state;
    struct made made;
    begin(&made, MADE_NVFP4);
    struct made_tensor *t;
    const char *file = "consolidated.safetensors";

    t = made_find(&made, "layers.1.attention.wkv_b.weight");
    t->dropped = true;
    made_write(&made, "consolidated");
    refused(&made, ERR_NOENT, file,
            "layers.1.attention.wkv_b.weight is missing; expected [48, 16]");
    t->dropped = false;
    t->shape[0] = 47;
    made_write(&made, "consolidated");
    refused(&made, ERR_MISMATCH, file,
            "wkv_b.weight is [47, 16] of BF16; expected [48, 16]");
    t->shape[0] = 48;

    t = made_find(&made, "layers.1.experts.2.w1.weight_global_scale");
    t->value = 0;
    made_write(&made, "consolidated");
    refused(&made, ERR_RANGE, "experts.2.w1.weight_global_scale is 0",
            "positive");
    t->value = 1;

    t = made_find(&made, "norm.weight");
    t->dtype = DTYPE_I32;
    made_write(&made, "consolidated");
    refused(&made, ERR_MISMATCH, "norm.weight is [32] of I32",
            "expected [32] of BF16, F16 or F32");
    t->dtype = DTYPE_BF16;

    made_add(&made, "layers.2.ffn_norm.weight", DTYPE_BF16, 1, 32, 0);
    made_add(&made, "layers.3.ffn_norm.weight", DTYPE_BF16, 1, 32, 0);
    made_write(&made, "consolidated");
    refused(&made, ERR_MISMATCH, "layers.2.ffn_norm.weight (BF16) has no",
            "and 1 more problems");
    made_free(&made);
}

/* A header that lacks an entry: the error names what is missing, not what
 * stands behind it. */
static void
gaps_are_refused(void **state)
{
    (void)state;
    struct made made;
    begin(&made, MADE_BF16);
    struct made_tensor *t =
        made_find(&made, "layers.1.attention.wkv_b.weight");
    t->nameless = true;
    made_write(&made, "consolidated");
    refused(&made, ERR_NOENT, "tensor layers.1.attention.wkv_b.weight is "
            "missing", "1536 bytes before tensor");
    t->nameless = false;
    /* Bytes that nothing needs. */
    made_add(&made, "extra", DTYPE_U8, 1, 40, 0)->nameless = true;
    made_write(&made, "consolidated");
    refused(&made, ERR_FORMAT, "40 bytes behind its last tensor",
            "consolidated.safetensors");
    struct made_tensor last = made.tensor[made.n - 2];
    made.tensor[made.n - 2] = made.tensor[made.n - 1];
    made.tensor[made.n - 1] = last;
    made_write(&made, "consolidated");
    refused(&made, ERR_FORMAT, "40 bytes before tensor", last.name);
    made_free(&made);
}

static void
cut_files_are_refused(void **state)
{
    (void)state;
    struct made made;
    char path[256];
    begin(&made, MADE_BF16);
    snprintf(path, sizeof path, "%s/consolidated.safetensors", made.dir);
    made_write(&made, "consolidated");
    struct model *m = open_good(&made);
    /* cut while open, before anything is mapped */
    assert_int_equal(truncate(path, 5000), 0);
    struct err e = {0};
    assert_null(model_data(m, model_text(m)->norm, &e));
    assert_non_null(strstr(e.text, "has changed"));
    model_close(m);
    refused(&made, ERR_FORMAT, "truncated", "consolidated.safetensors");
    for (int n = 20; n >= 0; n--) {
        assert_int_equal(truncate(path, n), 0);
        refused(&made, ERR_FORMAT, "truncated", "consolidated.safetensors");
    }
    made_write(&made, "consolidated");
    FILE *f = fopen(path, "a");
    fputs("tail", f);
    fclose(f);
    refused(&made, ERR_FORMAT, "4 bytes behind its last tensor", path);
    made_free(&made);
}

static void
directories_are_explained(void **state)
{
    (void)state;
    struct made made;
    made_init(&made);
    refused(&made, ERR_NOENT, "There: nothing", "params.json");
    made_text(&made, "tekken.json", "{}");
    made_text(&made, "config.json", "{}");
    refused(&made, ERR_NOENT, "Closest to the HF layout",
            "missing: model.safetensors");
    made_text(&made, "consolidated-00001-of-00002.safetensors", "");
    made_text(&made, "params.json", tiny_params);
    refused(&made, ERR_NOENT, "Closest to the native layout",
            "missing: consolidated-00002-of-00002.safetensors");
    made_free(&made);
    struct model *m = NULL;
    struct err e = {0};
    assert_int_equal(model_open("/nonexistent/dir", NULL, &m, &e),
                     ERR_NOENT);
}

/* A header given as text with 16 bytes of data must be refused. */
static void
bad_headers_are_refused(void **state)
{
    (void)state;
    static const struct { const char *header, *text; } bad[] = {
        {"[]", "not a JSON object"},
        {"{\"a\":1}", "dtype missing"},
        {"{\"a\":{\"dtype\":\"X9\"}}", "dtype \"X9\" is not known"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[16],"
         "\"data_offsets\":[0]}}", "two ascending"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-16],"
         "\"data_offsets\":[0,16]}}", "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,16],"
         "\"data_offsets\":[0,16]}}", "at most 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[16],"
         "\"data_offsets\":[16,0]}}", "ascending"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[16],"
         "\"data_offsets\":[0,16]}}", "16 bytes, its dtype and shape make"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],"
         "\"data_offsets\":[0,0]}}", "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[0,10]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
         "expected 10"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[32],"
         "\"data_offsets\":[0,32]}}", "truncated in tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[16],"
         "\"data_offsets\":[0,16]}", "header"},
        {"{}", "16 bytes behind"},
    };
    struct made made;
    made_init(&made);
    made_text(&made, "params.json", tiny_params);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[256], data[16] = {0};
        snprintf(path, sizeof path, "%s/consolidated.safetensors", made.dir);
        uint64_t n = strlen(bad[i].header);
        FILE *f = fopen(path, "w");
        fwrite(&n, 8, 1, f);
        fwrite(bad[i].header, 1, n, f);
        fwrite(data, 1, sizeof data, f);
        fclose(f);
        refused(&made, ERR_FORMAT, bad[i].text, "consolidated.safetensors");
    }
    made_free(&made);
}

static void
hf_fused_experts(void **state)
{
    (void)state;
    static const char config[] =
        "{\"model_type\":\"mistral4\",\"hidden_size\":32,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":2,"
        "\"vocab_size\":40,\"q_lora_rank\":16,\"kv_lora_rank\":16,"
        "\"qk_nope_head_dim\":8,\"qk_rope_head_dim\":8,\"v_head_dim\":16,"
        "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":64,"
        "\"n_routed_experts\":3,\"num_experts_per_tok\":2,"
        "\"n_shared_experts\":1,\"moe_intermediate_size\":16,"
        "\"rope_parameters\":{\"rope_theta\":10000,\"factor\":2,"
        "\"original_max_position_embeddings\":32}}";
    static const struct { const char *name; int n_dim; int64_t d[3]; } t[] = {
        {"model.embed_tokens.weight", 2, {40, 32}},
        {"lm_head.weight", 2, {40, 32}},
        {"model.norm.weight", 1, {32}},
        {"model.layers.0.input_layernorm.weight", 1, {32}},
        {"model.layers.0.post_attention_layernorm.weight", 1, {32}},
        {"model.layers.0.self_attn.q_a_proj.weight", 2, {16, 32}},
        {"model.layers.0.self_attn.q_a_layernorm.weight", 1, {16}},
        {"model.layers.0.self_attn.q_b_proj.weight", 2, {32, 16}},
        {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, {24, 32}},
        {"model.layers.0.self_attn.kv_a_layernorm.weight", 1, {16}},
        {"model.layers.0.self_attn.kv_b_proj.weight", 2, {48, 16}},
        {"model.layers.0.self_attn.o_proj.weight", 2, {32, 32}},
        {"model.layers.0.mlp.gate.weight", 2, {3, 32}},
        {"model.layers.0.mlp.shared_experts.gate_proj.weight", 2, {16, 32}},
        {"model.layers.0.mlp.shared_experts.down_proj.weight", 2, {32, 16}},
        {"model.layers.0.mlp.shared_experts.up_proj.weight", 2, {16, 32}},
        {"model.layers.0.mlp.experts.gate_up_proj", 3, {3, 32, 32}},
        {"model.layers.0.mlp.experts.down_proj", 3, {3, 32, 16}},
    };
    struct made made;
    made_init(&made);
    made_text(&made, "config.json", config);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct made_tensor *x = made_add(&made, t[i].name, DTYPE_BF16,
                                         t[i].n_dim, t[i].d[0], t[i].d[1]);
        x->shape[2] = t[i].d[2];
        x->fill = (uint8_t)(0x30 + i);
    }
    made_write(&made, "model");
    struct model *m = open_good(&made);
    const struct layer_weights *l = &model_text(m)->layer[0];
    assert_int_equal(l->expert[2].w1.first, 2 * 32 * 32);
    assert_int_equal(l->expert[2].w3.first, 2 * 32 * 32 + 16 * 32);
    assert_int_equal(l->expert[1].w2.first, 32 * 16);
    assert_int_equal(l->expert[2].w2.rows, 32);

    float row[32];
    weight_row(&l->expert[2].w3, model_data(m, l->expert[2].w3.data, NULL),
               NULL, 15, row);
    assert_true(row[31] == bf16_to_float(0x4040));
    uint64_t sum = 0;
    for (size_t i = 0; i < made.n; i++)
        sum += 2 * (uint64_t)t[i].d[0] * (uint64_t)(t[i].d[1] ? t[i].d[1] : 1)
               * (uint64_t)(t[i].d[2] ? t[i].d[2] : 1);
    assert_int_equal(model_bytes(m), sum);
    model_close(m);
    made_free(&made);
}

static void
draft_heads(void **state)
{
    (void)state;
    struct made made;
    struct model_params p = tiny;
    p.text.n_experts = 0;
    p.has_vision = false;
    made_init(&made);
    made_native(&made, &p, MADE_FP8);
    made_find(&made, "tok_embeddings.weight")->dropped = true;
    made_find(&made, "output.weight")->dropped = true;
    made_add(&made, "eagle_linear.weight", DTYPE_F8_E4M3, 2, 32, 64);
    made_add(&made, "eagle_linear.qscale_weight", DTYPE_F32, 0, 1, 0);
    made_write(&made, "consolidated");
    made_text(&made, "params.json",
              "{\"dim\":32,\"n_layers\":2,\"n_heads\":2,\"q_lora_rank\":16,"
              "\"kv_lora_rank\":16,\"qk_nope_head_dim\":8,"
              "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"hidden_dim\":48,"
              "\"norm_eps\":1e-6,\"rope_theta\":10000}");
    struct model_options o = {.draft = true};
    struct model *m = NULL;
    struct err e = {0};
    if (model_open(made.dir, &o, &m, &e) != 0)
        fail_msg("%s", e.text);
    assert_null(model_text(m)->embeddings.data);
    assert_int_equal(model_text(m)->eagle_linear.cols, 64);
    assert_int_equal(model_text(m)->layer[1].dense.w1.format, WEIGHT_FP8);
    model_close(m);
    made_free(&made);
}

/* The published directory, with holes for data: 56,313 tensors. */
static void
release_sized_index_is_quick(void **state)
{
    (void)state;
    static const struct model_params p = {
        .text = {.dim = 4096, .n_layers = 36, .n_heads = 32, .vocab = 131072,
                 .q_rank = 1024, .kv_rank = 256, .nope = 64, .rope = 64,
                 .v_head = 128, .hidden = 12288, .n_experts = 128,
                 .top_k = 4, .n_shared = 1, .expert_hidden = 2048},
        .has_vision = true,
        .vision = {.dim = 1024, .n_layers = 24, .n_heads = 16,
                   .hidden = 4096, .patch = 14, .channels = 3, .merge = 2},
    };
    struct made made;
    made_init(&made);
    made.sparse = true;
    made.n_files = 13;
    made_text(&made, "params.json",
        "{\"dim\":4096,\"n_layers\":36,\"n_heads\":32,\"vocab_size\":131072,"
        "\"q_lora_rank\":1024,\"kv_lora_rank\":256,\"qk_nope_head_dim\":64,"
        "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"norm_eps\":1e-6,"
        "\"rope_theta\":10000,\"max_position_embeddings\":1048576,"
        "\"moe\":{\"num_experts\":128,\"num_experts_per_tok\":4,"
        "\"num_shared_experts\":1,\"expert_hidden_dim\":2048},"
        "\"vision_encoder\":{\"hidden_size\":1024,\"num_hidden_layers\":24,"
        "\"num_attention_heads\":16,\"intermediate_size\":4096,"
        "\"patch_size\":14,\"image_size\":1540,\"spatial_merge_size\":2,"
        "\"rope_theta\":10000,\"image_token_id\":10,"
        "\"image_break_token_id\":12,\"image_end_token_id\":13,"
        "\"add_pre_mm_projector_layer_norm\":true}}");
    made_native(&made, &p, MADE_NVFP4);
    assert_int_equal(made.n, 56313);
    for (size_t i = 0; i < made.n; i++)  /* scalars together: few pages */
        made.tensor[i].file = strstr(made.tensor[i].name, "global_scale")
                              ? 12 : (int)(i * 12 / made.n);
    made_write(&made, "consolidated");
    uint64_t start = clock_ns();
    struct model *m = open_good(&made);
    double seconds = (double)(clock_ns() - start) * 1e-9;
    print_message("56,313 tensors in %.3f s\n", seconds);
    assert_int_equal(model_bytes(m), 70801959560);
#ifndef __SANITIZE_ADDRESS__
    assert_true(seconds < 2);
#endif
    model_close(m);
    made_free(&made);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_give_their_values),
        cmocka_unit_test(shards_with_and_without_index),
        cmocka_unit_test(index_must_agree),
        cmocka_unit_test(tensors_are_checked),
        cmocka_unit_test(gaps_are_refused),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(directories_are_explained),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(hf_fused_experts),
        cmocka_unit_test(draft_heads),
        cmocka_unit_test(release_sized_index_is_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
