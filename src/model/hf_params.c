#include "config.h"

#include "model/params.h"

#include <string.h>

/*
 * config.json as transformers writes it: either the text model alone
 * (Mistral4ForCausalLM) or a wrapper with text_config and vision_config. The
 * file cannot say whether YaRN's magnitude is meant (converters write
 * mscale_all_dim 1.0 for every model), so it is taken as off, as the native
 * release says; model/README, "Score scale".
 */

/* Refuses a key whose value is not the one this model family has. */
static int
want_int(const struct params_src *s, const char *key, int want, struct err *e)
{
    int x = want;
    int r = params_int(s, key, false, -1, 1 << 20, &x, e);
    if (r == 0 && x != want)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s%s %d is not supported",
                       s->path, s->where, key, x);
    return r;
}

static int
want_bool(const struct params_src *s, const char *key, bool want,
          struct err *e)
{
    bool x = want;
    int r = params_bool(s, key, &x, e);
    if (r == 0 && x != want)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s%s %s is not supported",
                       s->path, s->where, key, x ? "true" : "false");
    return r;
}

static int
read_rope(const struct params_src *text, struct model_text_params *t,
          struct err *e)
{
    struct params_src s = {json_get(text->o, "rope_parameters"), text->path,
                           "rope_parameters."};
    if (s.o == NULL)
        return err_set(e, ERR_FORMAT, "%s: rope_parameters is missing",
                       text->path);
    double m = 1, m_all = 1;
    int r;
    t->yarn = (struct model_yarn){.factor = 1, .beta_fast = 32,
                                  .beta_slow = 1};
    t->l4_original = 1;
    if ((r = params_double(&s, "rope_theta", true, 1, 1e12, &t->rope_theta,
                           e))
        || (r = params_double(&s, "factor", false, 1, 1e6, &t->yarn.factor,
                              e))
        || (r = params_double(&s, "original_max_position_embeddings",
                              t->yarn.factor > 1, 1, 1e9, &t->yarn.original,
                              e))
        || (r = params_double(&s, "beta_fast", false, 0.001, 1e6,
                              &t->yarn.beta_fast, e))
        || (r = params_double(&s, "beta_slow", false, 0.001, 1e6,
                              &t->yarn.beta_slow, e))
        || (r = params_double(&s, "llama_4_scaling_beta", false, 0, 1e3,
                              &t->l4_beta, e))
        || (r = params_double(&s, "mscale", false, -1e6, 1e6, &m, e))
        || (r = params_double(&s, "mscale_all_dim", false, -1e6, 1e6, &m_all,
                              e)))
        return r;
    if (m != m_all)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: rope_parameters.mscale %g differs from "
                       "mscale_all_dim %g, which is not supported", s.path, m,
                       m_all);
    if (t->l4_beta > 0 && t->yarn.original < 1)
        return err_set(e, ERR_FORMAT,
                       "%s: rope_parameters.original_max_position_embeddings "
                       "is missing", s.path);
    if (t->yarn.original >= 1)
        t->l4_original = t->yarn.original;
    return 0;
}

static int
read_moe(const struct params_src *s, struct model_text_params *t,
         struct err *e)
{
    int r;
    t->routed_scale = 1.0;
    if ((r = params_int(s, "n_routed_experts", false, 0, 65536,
                        &t->n_experts, e))
        || t->n_experts == 0)
        return r;
    if ((r = params_int(s, "num_experts_per_tok", true, 1, 1024, &t->top_k,
                        e))
        || (r = params_int(s, "n_shared_experts", false, 0, 64, &t->n_shared,
                           e))
        || (r = params_int(s, "moe_intermediate_size", true, 1, 1 << 20,
                           &t->expert_hidden, e))
        || (r = params_int(s, "first_k_dense_replace", false, 0, 65536,
                           &t->n_dense, e))
        || (r = params_double(s, "routed_scaling_factor", false, 0, 1e6,
                              &t->routed_scale, e))
        || (r = want_int(s, "n_group", 1, e))
        || (r = want_int(s, "topk_group", 1, e))
        || (r = want_bool(s, "norm_topk_prob", true, e)))
        return r;
    return 0;
}

static int
read_text(const struct params_src *s, struct model_text_params *t,
          struct err *e)
{
    int r;
    if ((r = params_int(s, "hidden_size", true, 1, 1 << 20, &t->dim, e))
        || (r = params_int(s, "num_hidden_layers", true, 1, 4096,
                           &t->n_layers, e))
        || (r = params_int(s, "num_attention_heads", true, 1, 4096,
                           &t->n_heads, e))
        || (r = params_int(s, "vocab_size", true, 1, 1 << 24, &t->vocab, e))
        || (r = params_int(s, "q_lora_rank", true, 1, 1 << 20, &t->q_rank, e))
        || (r = params_int(s, "kv_lora_rank", true, 1, 1 << 20, &t->kv_rank,
                           e))
        || (r = params_int(s, "qk_nope_head_dim", true, 1, 4096, &t->nope, e))
        || (r = params_int(s, "qk_rope_head_dim", true, 2, 4096, &t->rope, e))
        || (r = params_int(s, "v_head_dim", true, 1, 4096, &t->v_head, e))
        || (r = params_int(s, "intermediate_size", false, 1, 1 << 20,
                           &t->hidden, e))
        || (r = params_double(s, "rms_norm_eps", true, 0, 1, &t->norm_eps, e))
        || (r = params_int(s, "max_position_embeddings", true, 1, 1 << 24,
                           &t->max_positions, e))
        || (r = params_bool(s, "tie_word_embeddings", &t->tied, e))
        || (r = want_bool(s, "attention_bias", false, e))
        || (r = want_bool(s, "rope_interleave", true, e))
        || (r = read_moe(s, t, e)) || (r = read_rope(s, t, e)))
        return r;
    struct json_object *act = json_get(s->o, "hidden_act");
    if (act != NULL && !str_eq(json_str(act), STR("silu")))
        return err_set(e, ERR_UNSUPPORTED, "%s: hidden_act %s is not "
                       "supported (silu is)", s->path,
                       json_object_to_json_string(act));
    return 0;
}

static int
read_vision(const struct params_src *root, struct model_vision_params *v,
            struct err *e)
{
    struct params_src s = {json_get(root->o, "vision_config"), root->path,
                           "vision_config."};
    struct params_src rope = {json_get(s.o, "rope_parameters"), root->path,
                              "vision_config.rope_parameters."};
    int r;
    v->channels = 3;
    v->merge = 1;
    v->rope_theta = 10000;
    v->projector_norm = true;
    /* The ids of the break and end tokens are not in config.json. */
    v->image_token = 10;
    v->break_token = 12;
    v->end_token = 13;
    if ((r = params_int(&s, "hidden_size", true, 1, 1 << 20, &v->dim, e))
        || (r = params_int(&s, "num_hidden_layers", true, 1, 4096,
                           &v->n_layers, e))
        || (r = params_int(&s, "num_attention_heads", true, 1, 4096,
                           &v->n_heads, e))
        || (r = params_int(&s, "intermediate_size", true, 1, 1 << 20,
                           &v->hidden, e))
        || (r = params_int(&s, "patch_size", true, 1, 1024, &v->patch, e))
        || (r = params_int(&s, "num_channels", false, 1, 16, &v->channels, e))
        || (r = params_int(&s, "image_size", true, 1, 65536, &v->image_size,
                           e))
        || (r = params_double(&s, "rope_theta", false, 1, 1e12,
                              &v->rope_theta, e))
        || (r = params_double(&rope, "rope_theta", false, 1, 1e12,
                              &v->rope_theta, e))
        || (r = params_int(root, "spatial_merge_size", false, 1, 16,
                           &v->merge, e))
        || (r = params_int(root, "image_token_index", false, 0, 1 << 24,
                           &v->image_token, e))
        || (r = params_int(root, "image_token_id", false, 0, 1 << 24,
                           &v->image_token, e))
        || (r = params_bool(root, "multimodal_projector_bias",
                            &v->adapter_bias, e)))
        return r;
    return 0;
}

int
params_read_hf(const char *path, struct params_file *out, struct err *e)
{
    struct json_object *root = NULL;
    memset(out, 0, sizeof *out);
    int r = params_load_json(path, &root, e);
    if (r != 0)
        return r;
    struct params_src top = {root, path, ""};
    struct params_src text = {json_get(root, "text_config"), path,
                              "text_config."};
    out->hf = true;
    if (text.o == NULL) {
        text = top;
        out->hf_text_only = true;
    }
    struct json_object *type = json_get(text.o, "model_type");
    if (type != NULL && !str_eq(json_str(type), STR("mistral4")))
        r = err_set(e, ERR_UNSUPPORTED,
                    "%s: %smodel_type %s is not supported (mistral4 is)",
                    path, text.where, json_object_to_json_string(type));
    if (r == 0)
        r = read_text(&text, &out->params.text, e);
    if (r == 0 && json_get(root, "vision_config") != NULL) {
        out->params.has_vision = true;
        r = read_vision(&top, &out->params.vision, e);
    }
    if (r == 0)
        r = params_check(&out->params, path, e);
    if (r == 0)
        r = params_quant(root, path, &out->quant, e);
    json_object_put(root);
    return r;
}
