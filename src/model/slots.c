#include "config.h"

#include "model/bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/*
 * The slots of the architecture and the name each has in the two layouts, as
 * a table. The walk over them is the same for both. HF names stand behind a
 * prefix, in which published files and transformers' own differ.
 */

struct mlp_names { const char *w1, *w2, *w3; };

struct name_table {
    const char *embeddings, *norm, *output;
    /* of a text layer */
    const char *attention_norm, *ffn_norm;
    const char *wq_a, *q_a_norm, *wq_b, *wkv_a, *kv_a_norm, *wkv_b, *wo;
    const char *gate, *dense, *shared, *experts;
    struct mlp_names mlp;
    /* vision */
    const char *vision, *wq, *wk, *wv, *vision_wo;
    struct mlp_names vision_mlp;
    const char *projector_norm, *merge, *w_in, *w_out;
};

static const struct name_table native_names = {
    .embeddings = "tok_embeddings", .norm = "norm", .output = "output",
    .attention_norm = "attention_norm", .ffn_norm = "ffn_norm",
    .wq_a = "attention.wq_a", .q_a_norm = "attention.q_a_norm",
    .wq_b = "attention.wq_b", .wkv_a = "attention.wkv_a_with_mqa",
    .kv_a_norm = "attention.kv_a_norm", .wkv_b = "attention.wkv_b",
    .wo = "attention.wo", .gate = "gate", .dense = "feed_forward",
    .shared = "shared_experts", .experts = "experts",
    .mlp = {"w1", "w2", "w3"},
    .vision = "vision_encoder.",
    .wq = "attention.wq", .wk = "attention.wk", .wv = "attention.wv",
    .vision_wo = "attention.wo", .vision_mlp = {"w1", "w2", "w3"},
    .projector_norm = "pre_mm_projector_norm",
    .merge = "patch_merger.merging_layer",
    .w_in = "vision_language_adapter.w_in",
    .w_out = "vision_language_adapter.w_out",
};

static const struct name_table hf_names = {
    .embeddings = "embed_tokens", .norm = "norm", .output = "lm_head",
    .attention_norm = "input_layernorm",
    .ffn_norm = "post_attention_layernorm",
    .wq_a = "self_attn.q_a_proj", .q_a_norm = "self_attn.q_a_layernorm",
    .wq_b = "self_attn.q_b_proj", .wkv_a = "self_attn.kv_a_proj_with_mqa",
    .kv_a_norm = "self_attn.kv_a_layernorm", .wkv_b = "self_attn.kv_b_proj",
    .wo = "self_attn.o_proj", .gate = "mlp.gate", .dense = "mlp",
    .shared = "mlp.shared_experts", .experts = "mlp.experts",
    .mlp = {"gate_proj", "down_proj", "up_proj"},
    .vision = "vision_tower.",
    .wq = "attention.q_proj", .wk = "attention.k_proj",
    .wv = "attention.v_proj", .vision_wo = "attention.o_proj",
    .vision_mlp = {"gate_proj", "down_proj", "up_proj"},
    .projector_norm = "multi_modal_projector.norm",
    .merge = "multi_modal_projector.patch_merger.merging_layer",
    .w_in = "multi_modal_projector.linear_1",
    .w_out = "multi_modal_projector.linear_2",
};

/* Prefixes of the HF layout: of the text model, the head and the vision
 * parts. Recognised by the embedding's name. */
static const struct hf_prefix { const char *text, *head, *vision; }
hf_prefixes[] = {
    {"model.language_model.", "", "model."},
    {"language_model.model.", "language_model.", ""},
    {"model.", "", "model."},
};

struct walk {
    struct binder *b;
    const struct name_table *t;
    struct hf_prefix prefix; /* empty strings in the native layout */
};

static void
bind_mlp(const struct walk *w, struct mlp_weights *m, int hidden,
         const char *stem)
{
    struct binder *b = w->b;
    int dim = b->p->params.text.dim;
    bind_matrix(b, &m->w1, hidden, dim, MATRIX_MLP, 1, "%s.%s", stem,
                w->t->mlp.w1);
    bind_matrix(b, &m->w2, dim, hidden, MATRIX_MLP, 0.5, "%s.%s", stem,
                w->t->mlp.w2);
    bind_matrix(b, &m->w3, hidden, dim, MATRIX_MLP, 1, "%s.%s", stem,
                w->t->mlp.w3);
}

static struct weight *
expert_w1(void *arg, int64_t i)
{
    return &((struct layer_weights *)arg)->expert[i].w1;
}

static struct weight *
expert_w2(void *arg, int64_t i)
{
    return &((struct layer_weights *)arg)->expert[i].w2;
}

static struct weight *
expert_w3(void *arg, int64_t i)
{
    return &((struct layer_weights *)arg)->expert[i].w3;
}

static void
bind_experts(const struct walk *w, struct layer_weights *l,
             const char *stem)
{
    struct binder *b = w->b;
    const struct model_text_params *p = &b->p->params.text;
    char name[240];
    l->expert = arena_calloc(b->a, (size_t)p->n_experts, sizeof *l->expert);
    if (l->expert == NULL) {
        bind_problem(b, ERR_NOMEM, "%s: no memory for %d experts",
                     b->c->params_path, p->n_experts);
        return;
    }
    snprintf(name, sizeof name, "%s%s.gate_up_proj", stem, w->t->experts);
    if (bind_has(b, name)) {
        bind_fused(b, p->n_experts, 0, 2, p->expert_hidden, p->dim,
                   expert_w1, l, name);
        bind_fused(b, p->n_experts, 1, 2, p->expert_hidden, p->dim,
                   expert_w3, l, name);
        snprintf(name, sizeof name, "%s%s.down_proj", stem, w->t->experts);
        bind_fused(b, p->n_experts, 0, 1, p->dim, p->expert_hidden,
                   expert_w2, l, name);
        return;
    }
    for (int i = 0; i < p->n_experts && b->n_bad < BIND_ENOUGH; i++) {
        snprintf(name, sizeof name, "%s%s.%d", stem, w->t->experts, i);
        bind_mlp(w, &l->expert[i], p->expert_hidden, name);
    }
}

static void
bind_attention(const struct walk *w, struct layer_weights *l,
               const char *stem)
{
    struct binder *b = w->b;
    const struct name_table *t = w->t;
    const struct model_text_params *p = &b->p->params.text;
    const enum matrix_kind kind = MATRIX_ATTENTION;
    bind_matrix(b, &l->wq_a, p->q_rank, p->dim, kind, 1, "%s%s", stem,
                t->wq_a);
    l->q_a_norm = bind_vector(b, p->q_rank, "%s%s.weight", stem,
                              t->q_a_norm);
    bind_matrix(b, &l->wq_b, (int64_t)p->n_heads * (p->nope + p->rope),
                p->q_rank, kind, 1, "%s%s", stem, t->wq_b);
    bind_matrix(b, &l->wkv_a, p->kv_rank + p->rope, p->dim, kind, 1, "%s%s",
                stem, t->wkv_a);
    l->kv_a_norm = bind_vector(b, p->kv_rank, "%s%s.weight", stem,
                               t->kv_a_norm);
    bind_matrix(b, &l->wkv_b, (int64_t)p->n_heads * (p->nope + p->v_head),
                p->kv_rank, kind, 1, "%s%s", stem, t->wkv_b);
    bind_matrix(b, &l->wo, p->dim, (int64_t)p->n_heads * p->v_head, kind, 1,
                "%s%s", stem, t->wo);
}

static void
bind_layer(const struct walk *w, struct layer_weights *l, int i)
{
    struct binder *b = w->b;
    const struct name_table *t = w->t;
    const struct model_text_params *p = &b->p->params.text;
    char stem[120], name[240];
    snprintf(stem, sizeof stem, "%slayers.%d.", w->prefix.text, i);
    l->attention_norm = bind_vector(b, p->dim, "%s%s.weight", stem,
                                    t->attention_norm);
    l->ffn_norm = bind_vector(b, p->dim, "%s%s.weight", stem, t->ffn_norm);
    bind_attention(w, l, stem);
    l->is_moe = p->n_experts > 0 && i >= p->n_dense;
    if (!l->is_moe) {
        snprintf(name, sizeof name, "%s%s", stem, t->dense);
        bind_mlp(w, &l->dense, p->hidden, name);
        return;
    }
    bind_matrix(b, &l->gate, p->n_experts, p->dim, MATRIX_PLAIN, 1, "%s%s",
                stem, t->gate);
    if (p->n_shared > 0) {
        snprintf(name, sizeof name, "%s%s", stem, t->shared);
        bind_mlp(w, &l->shared, p->n_shared * p->expert_hidden, name);
    }
    bind_experts(w, l, stem);
}

static void
bind_text(const struct walk *w)
{
    struct binder *b = w->b;
    const struct model_text_params *p = &b->p->params.text;
    struct text_weights *x = b->text;
    char name[240];
    if (b->draft) {
        /* Both come from the target; a copy in the file is not read. */
        bind_matrix(b, &x->eagle_linear, p->dim, 2 * (int64_t)p->dim,
                    MATRIX_ATTENTION, 1, "eagle_linear");
        bind_ignore(b, "tok_embeddings.weight");
        bind_ignore(b, "output.weight");
    } else {
        bind_matrix(b, &x->embeddings, p->vocab, p->dim, MATRIX_PLAIN,
                    0.5 * sqrt(p->dim), "%s%s", w->prefix.text, w->t->embeddings);
    }
    if (!b->draft && p->tied) {
        x->output = x->embeddings;
        snprintf(name, sizeof name, "%s%s.weight", w->prefix.head,
                 w->t->output);
        bind_ignore(b, name);
    } else if (!b->draft) {
        bind_matrix(b, &x->output, p->vocab, p->dim, MATRIX_PLAIN, 4,
                    "%s%s", w->prefix.head, w->t->output);
    }
    x->norm = bind_vector(b, p->dim, "%s%s.weight", w->prefix.text,
                          w->t->norm);
    for (int i = 0; i < p->n_layers && b->n_bad < BIND_ENOUGH; i++)
        bind_layer(w, &x->layer[i], i);
}

static void
bind_vision_layer(const struct walk *w, struct vision_layer_weights *l, int i)
{
    struct binder *b = w->b;
    const struct name_table *t = w->t;
    const struct model_vision_params *v = &b->p->params.vision;
    char stem[160];
    snprintf(stem, sizeof stem, "%s%stransformer.layers.%d.",
             w->prefix.vision, t->vision, i);
    l->attention_norm = bind_vector(b, v->dim, "%sattention_norm.weight",
                                    stem);
    l->ffn_norm = bind_vector(b, v->dim, "%sffn_norm.weight", stem);
    bind_matrix(b, &l->wq, v->dim, v->dim, MATRIX_PLAIN, 1, "%s%s", stem,
                t->wq);
    bind_matrix(b, &l->wk, v->dim, v->dim, MATRIX_PLAIN, 1, "%s%s", stem,
                t->wk);
    bind_matrix(b, &l->wv, v->dim, v->dim, MATRIX_PLAIN, 1, "%s%s", stem,
                t->wv);
    bind_matrix(b, &l->wo, v->dim, v->dim, MATRIX_PLAIN, 1, "%s%s", stem,
                t->vision_wo);
    bind_matrix(b, &l->w1, v->hidden, v->dim, MATRIX_PLAIN, 1,
                "%sfeed_forward.%s", stem, t->vision_mlp.w1);
    bind_matrix(b, &l->w2, v->dim, v->hidden, MATRIX_PLAIN, 0.5,
                "%sfeed_forward.%s", stem, t->vision_mlp.w2);
    bind_matrix(b, &l->w3, v->hidden, v->dim, MATRIX_PLAIN, 1,
                "%sfeed_forward.%s", stem, t->vision_mlp.w3);
}

static void
bind_vision(const struct walk *w)
{
    struct binder *b = w->b;
    const struct name_table *t = w->t;
    const struct model_vision_params *v = &b->p->params.vision;
    struct vision_weights *x = b->vision;
    const char *pre = w->prefix.vision;
    int64_t text = b->p->params.text.dim;
    bind_matrix(b, &x->patch_conv, v->dim,
                (int64_t)v->channels * v->patch * v->patch, MATRIX_PLAIN, 1,
                "%s%spatch_conv", pre, t->vision);
    x->ln_pre = bind_vector(b, v->dim, "%s%sln_pre.weight", pre, t->vision);
    for (int i = 0; i < v->n_layers && b->n_bad < BIND_ENOUGH; i++)
        bind_vision_layer(w, &x->layer[i], i);
    if (v->projector_norm)
        x->pre_projector_norm = bind_vector(b, v->dim, "%s%s.weight", pre,
                                            t->projector_norm);
    bind_matrix(b, &x->merge, v->dim, (int64_t)v->dim * v->merge * v->merge,
                MATRIX_PLAIN, 1, "%s%s", pre, t->merge);
    bind_matrix(b, &x->w_in, text, v->dim, MATRIX_PLAIN, 1, "%s%s", pre,
                t->w_in);
    bind_matrix(b, &x->w_out, text, text, MATRIX_PLAIN, 1, "%s%s", pre,
                t->w_out);
    x->hf_rope = b->c->layout == LAYOUT_HF && !b->dummy;
}

static struct hf_prefix
find_prefix(const struct binder *b)
{
    char name[120];
    size_t n = sizeof hf_prefixes / sizeof *hf_prefixes;
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s%s.weight", hf_prefixes[i].text,
                 hf_names.embeddings);
        if (bind_has(b, name))
            return hf_prefixes[i];
    }
    return hf_prefixes[b->p->hf_text_only ? n - 1 : 0];
}

static void
find_extra(struct binder *b)
{
    for (size_t i = 0; i < b->c->n_tensor; i++) {
        const struct tensor_slot *s = &b->c->tensor[i];
        if (!s->bound)
            bind_problem(b, ERR_MISMATCH,
                         "%s: tensor %.200s (%s) has no place in the model "
                         "that %s describes", b->c->file[s->t.file].path,
                         s->t.name, dtype_name(s->t.dtype),
                         b->c->params_path);
    }
}

int
bind_all(struct binder *b)
{
    struct walk w = {b, &native_names, {"", "", ""}};
    struct err local = {0};
    if (b->e == NULL)
        b->e = &local;
    if (b->c->layout == LAYOUT_HF && !b->dummy) {
        w.t = &hf_names;
        w.prefix = find_prefix(b);
    }
    bind_text(&w);
    if (b->vision != NULL)
        bind_vision(&w);
    if (!b->dummy && !b->partial && b->n_bad < BIND_ENOUGH)
        find_extra(b);
    if (b->n_bad == 0)
        return 0;
    if (b->n_bad > 1) {
        size_t n = strlen(b->e->text);
        snprintf(b->e->text + n, sizeof b->e->text - n,
                 " (and %s%d more problems)",
                 b->n_bad < BIND_ENOUGH ? "" : "at least ", b->n_bad - 1);
    }
    return b->e->code;
}
