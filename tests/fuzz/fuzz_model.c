/*
 * Seeded mutations of the files of a checkpoint: params.json, config.json, a
 * safetensors header, an index. A directory is opened or refused with a text,
 * and every tensor of what opens can be read.
 *
 * usage: fuzz_model [rounds [seed]]
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/model.h"
#include "tests/fuzz/mutate.h"

static const char *const word[] = {
    "null", "true", "-1", "0", "1e9", "NaN", "99999999999999999999", "\"\"",
    "[", "]", "{", "}", ",", ":", "\"", "4096", "65536", "\"BF16\"", "\"U8\"",
    "\"F8_E4M3\"", "\"data_offsets\":", "\"shape\":[]", "[0,0]", "[1,2,3,4,5]",
    "\"moe\":", "\"yarn\":", "\"vision_encoder\":{", "\\u0000", "\xff", "a",
    NULL
};

static const char params[] =
    "{\"dim\":8,\"n_layers\":1,\"n_heads\":1,\"vocab_size\":4,"
    "\"q_lora_rank\":4,\"kv_lora_rank\":4,\"qk_nope_head_dim\":2,"
    "\"qk_rope_head_dim\":2,\"v_head_dim\":2,\"hidden_dim\":4,"
    "\"norm_eps\":1e-6,\"rope_theta\":10000,\"max_position_embeddings\":64,"
    "\"yarn\":{\"factor\":2,\"original_max_position_embeddings\":32,"
    "\"beta\":32,\"alpha\":1,\"apply_scale\":false},"
    "\"llama_4_scaling\":{\"beta\":0.1,"
    "\"original_max_position_embeddings\":32},"
    "\"moe\":{\"num_experts\":2,\"num_experts_per_tok\":1,"
    "\"num_shared_experts\":0,\"expert_hidden_dim\":4,\"routed_scale\":1.0}}";

static const char config[] =
    "{\"model_type\":\"mistral4\",\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":1,\"vocab_size\":4,\"q_lora_rank\":4,"
    "\"kv_lora_rank\":4,\"qk_nope_head_dim\":2,\"qk_rope_head_dim\":2,"
    "\"v_head_dim\":2,\"rms_norm_eps\":1e-6,\"max_position_embeddings\":64,"
    "\"n_routed_experts\":2,\"num_experts_per_tok\":1,"
    "\"n_shared_experts\":0,\"moe_intermediate_size\":4,"
    "\"rope_parameters\":{\"rope_theta\":10000,\"factor\":2,"
    "\"original_max_position_embeddings\":32,"
    "\"llama_4_scaling_beta\":0.1}}";

static const struct shape { const char *name; int n_dim, d[3]; }
native[] = {
    {"tok_embeddings.weight", 2, {4, 8}}, {"output.weight", 2, {4, 8}},
    {"norm.weight", 1, {8}}, {"layers.0.attention_norm.weight", 1, {8}},
    {"layers.0.ffn_norm.weight", 1, {8}},
    {"layers.0.attention.wq_a.weight", 2, {4, 8}},
    {"layers.0.attention.q_a_norm.weight", 1, {4}},
    {"layers.0.attention.wq_b.weight", 2, {4, 4}},
    {"layers.0.attention.wkv_a_with_mqa.weight", 2, {6, 8}},
    {"layers.0.attention.kv_a_norm.weight", 1, {4}},
    {"layers.0.attention.wkv_b.weight", 2, {4, 4}},
    {"layers.0.attention.wo.weight", 2, {8, 2}},
    {"layers.0.gate.weight", 2, {2, 8}},
    {"layers.0.experts.0.w1.weight", 2, {4, 8}},
    {"layers.0.experts.0.w2.weight", 2, {8, 4}},
    {"layers.0.experts.0.w3.weight", 2, {4, 8}},
    {"layers.0.experts.1.w1.weight", 2, {4, 8}},
    {"layers.0.experts.1.w2.weight", 2, {8, 4}},
    {"layers.0.experts.1.w3.weight", 2, {4, 8}}, {NULL, 0, {0}}
}, hf[] = {
    {"model.embed_tokens.weight", 2, {4, 8}}, {"lm_head.weight", 2, {4, 8}},
    {"model.norm.weight", 1, {8}},
    {"model.layers.0.input_layernorm.weight", 1, {8}},
    {"model.layers.0.post_attention_layernorm.weight", 1, {8}},
    {"model.layers.0.self_attn.q_a_proj.weight", 2, {4, 8}},
    {"model.layers.0.self_attn.q_a_layernorm.weight", 1, {4}},
    {"model.layers.0.self_attn.q_b_proj.weight", 2, {4, 4}},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, {6, 8}},
    {"model.layers.0.self_attn.kv_a_layernorm.weight", 1, {4}},
    {"model.layers.0.self_attn.kv_b_proj.weight", 2, {4, 4}},
    {"model.layers.0.self_attn.o_proj.weight", 2, {8, 2}},
    {"model.layers.0.mlp.gate.weight", 2, {2, 8}},
    {"model.layers.0.mlp.experts.gate_up_proj", 3, {2, 8, 8}},
    {"model.layers.0.mlp.experts.down_proj", 3, {2, 8, 4}}, {NULL, 0, {0}}
};

static char dir[64];

static void
put(const char *name, const struct buf *b)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (f == NULL || fwrite(b->data, 1, b->len, f) != b->len
        || fclose(f) != 0)
        abort();
}

static size_t
put_header(struct buf *b, const struct shape *s)
{
    size_t at = 0;
    b->len = 0;
    buf_puts(b, "{");
    for (; s->name != NULL; s++) {
        size_t n = 2;
        buf_printf(b, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[",
                   at ? "," : "", s->name);
        for (int i = 0; i < s->n_dim; i++) {
            n *= (size_t)s->d[i];
            buf_printf(b, "%s%d", i ? "," : "", s->d[i]);
        }
        buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", at, at + n);
        at += n;
    }
    buf_puts(b, "}");
    return at;
}

/* Length, header, data. */
static void
put_weights(const char *name, const struct buf *header, size_t data)
{
    struct buf b = {0};
    uint64_t n = header->len;
    buf_append(&b, &n, sizeof n);
    buf_append(&b, header->data, header->len);
    for (size_t i = 0; i < data; i++)
        buf_putc(&b, (char)(i * 37));
    put(name, &b);
    buf_free(&b);
}

static void
use_weight(struct model *m, const struct weight *w)
{
    if (w->data == NULL)
        return;
    float *row = malloc((size_t)w->cols * sizeof *row);
    const void *data = model_data(m, w->data, NULL);
    const void *block = w->block ? model_data(m, w->block, NULL) : NULL;
    if (row == NULL || data == NULL)
        abort();
    for (int64_t r = 0; r < w->rows; r++)
        weight_row(w, data, block, r, row);
    free(row);
}

static void
use(struct model *m)
{
    const struct text_weights *t = model_text(m);
    const struct model_text_params *p = &model_params(m)->text;
    float freq[4096];
    use_weight(m, &t->embeddings);
    use_weight(m, &t->output);
    for (int i = 0; i < p->n_layers; i++) {
        const struct layer_weights *l = &t->layer[i];
        use_weight(m, &l->wq_a);
        use_weight(m, &l->wkv_b);
        use_weight(m, &l->wo);
        for (int k = 0; l->is_moe && k < p->n_experts; k++) {
            use_weight(m, &l->expert[k].w1);
            use_weight(m, &l->expert[k].w2);
            use_weight(m, &l->expert[k].w3);
        }
    }
    model_rope_freqs(p, freq);
}

/* The files of one kind, of which the round mutates one. */
struct kind {
    const char *params_name, *params, *weights_name, *index_name;
    const struct shape *shape;
};

static const struct kind kinds[2] = {
    {"params.json", params, "consolidated-00001-of-00001.safetensors",
     "consolidated.safetensors.index.json", native},
    {"config.json", config, "model-00001-of-00001.safetensors",
     "model.safetensors.index.json", hf},
};

static void
put_index(struct buf *b, const struct kind *k)
{
    b->len = 0;
    buf_puts(b, "{\"weight_map\":{");
    for (int i = 0; k->shape[i].name != NULL; i++)
        buf_printf(b, "%s\"%s\":\"%s\"", i ? "," : "", k->shape[i].name,
                   k->weights_name);
    buf_puts(b, "}}");
}

static int
one_round(struct mutate *m, const struct kind *k, long *opened)
{
    struct buf text = {0}, changed = {0};
    struct model *model = NULL;
    struct err e = {0};
    uint32_t which = mutate_draw(m, 4);
    size_t data = put_header(&text, k->shape);
    mutate_text(m, text.data, text.len, &changed);
    put_weights(k->weights_name, which == 1 ? &changed : &text, data);
    put_index(&text, k);
    mutate_text(m, text.data, text.len, &changed);
    put(k->index_name, which == 2 ? &changed : &text);
    text.len = 0;
    buf_puts(&text, k->params);
    mutate_text(m, text.data, text.len, &changed);
    put(k->params_name, which == 0 ? &changed : &text);
    buf_free(&text);
    buf_free(&changed);
    int rc = model_open(dir, NULL, &model, &e);
    if (rc == 0) {
        use(model);
        model_close(model);
        ++*opened;
    }
    if (rc != 0 && (e.text[0] == '\0' || rc != e.code || which == 3)) {
        fprintf(stderr, "%s: %s\n", err_str(rc), e.text);
        return -1;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 3000, opened = 0;
    struct mutate m = {argc > 2 ? strtoull(argv[2], NULL, 10) : 1, word};
    char command[128];

    snprintf(dir, sizeof dir, "/tmp/fuzz-model-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    int rc = 0;
    for (long i = 0; i < rounds && rc == 0; i++) {
        if (i % 500 == 0) {
            /* the two layouts take turns in an empty directory */
            char clean[160];
            snprintf(clean, sizeof clean, "rm -f '%s'/*", dir);
            if (system(clean) != 0)
                return 1;
        }
        rc = one_round(&m, &kinds[i / 500 % 2], &opened);
        if (rc != 0)
            fprintf(stderr, "failed at round %ld\n", i);
    }
    printf("%ld of %ld opened\n", opened, rounds);
    if (system(command) != 0)
        return 1;
    return rc == 0 && opened > 0 ? 0 : 1;
}
