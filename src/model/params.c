#include "config.h"

#include "model/params.h"

#include <math.h>
#include <string.h>

#include "base/buf.h"

/*
 * params.json: flat keys for the text model, one block each for moe, yarn,
 * llama_4_scaling, vision_encoder and the quantisation. Keys that do not
 * change the arithmetic are ignored; keys that ask for arithmetic this model
 * family does not have (sliding window, expert groups, biases) are refused.
 */

#define DIM_MAX (1 << 20)
#define POSITIONS_MAX (1 << 24)
#define PARAMS_FILE_MAX (16u << 20)

int
params_int(const struct params_src *s, const char *key, bool needed, int low,
           int high, int *out, struct err *e)
{
    struct json_object *v = json_get(s->o, key);
    if (v == NULL) {
        if (!needed)
            return 0;
        return err_set(e, ERR_FORMAT, "%s: %s%s is missing", s->path,
                       s->where, key);
    }
    if (!json_object_is_type(v, json_type_int))
        return err_set(e, ERR_FORMAT, "%s: %s%s must be an integer", s->path,
                       s->where, key);
    int64_t x = json_object_get_int64(v);
    if (x < low || x > high)
        return err_set(e, ERR_RANGE, "%s: %s%s is %lld, outside %d..%d",
                       s->path, s->where, key, (long long)x, low, high);
    *out = (int)x;
    return 0;
}

int
params_double(const struct params_src *s, const char *key, bool needed,
              double low, double high, double *out, struct err *e)
{
    struct json_object *v = json_get(s->o, key);
    if (v == NULL) {
        if (!needed)
            return 0;
        return err_set(e, ERR_FORMAT, "%s: %s%s is missing", s->path,
                       s->where, key);
    }
    if (!json_object_is_type(v, json_type_int)
        && !json_object_is_type(v, json_type_double))
        return err_set(e, ERR_FORMAT, "%s: %s%s must be a number", s->path,
                       s->where, key);
    double x = json_object_get_double(v);
    if (!(x >= low && x <= high))
        return err_set(e, ERR_RANGE, "%s: %s%s is %g, outside %g..%g",
                       s->path, s->where, key, x, low, high);
    *out = x;
    return 0;
}

int
params_bool(const struct params_src *s, const char *key, bool *out,
            struct err *e)
{
    struct json_object *v = json_get(s->o, key);
    if (v == NULL)
        return 0;
    if (!json_object_is_type(v, json_type_boolean))
        return err_set(e, ERR_FORMAT, "%s: %s%s must be true or false",
                       s->path, s->where, key);
    *out = json_object_get_boolean(v);
    return 0;
}

int
params_load_json(const char *path, struct json_object **out, struct err *e)
{
    struct buf b = {0};
    int r = buf_read_file(&b, path, PARAMS_FILE_MAX);
    if (r != 0) {
        buf_free(&b);
        return err_set(e, r, "%s: %s", path, err_str(r));
    }
    r = json_parse(b.data, b.len, 32, JSON_NAN, out, e);
    buf_free(&b);
    if (r != 0) {
        err_prefix(e, "%s: ", path);
        return r;
    }
    if (json_object_is_type(*out, json_type_object))
        return 0;
    json_object_put(*out);
    *out = NULL;
    return err_set(e, ERR_FORMAT, "%s: must hold a JSON object", path);
}

static bool
text_is(struct json_object *o, const char *want)
{
    return str_eq(json_str(o), str_from(want));
}

int
params_quant(struct json_object *root, const char *path,
             enum quant_recipe *out, struct err *e)
{
    *out = QUANT_NONE;
    struct json_object *q = json_get(root, "quantization");
    if (q != NULL) {
        struct json_object *w = json_get(q, "qformat_weight");
        if (!text_is(w, "fp8_e4m3"))
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: quantization.qformat_weight %s is not "
                           "supported (fp8_e4m3 is)", path,
                           w == NULL ? "null" : json_object_to_json_string(w));
        *out = QUANT_FP8;
        return 0;
    }
    q = json_get(root, "quantization_config");
    if (q == NULL)
        return 0;
    struct json_object *method = json_get(q, "quant_method");
    struct json_object *format = json_get(q, "format");
    if (text_is(method, "fp8")) {
        *out = QUANT_FP8;
        return 0;
    }
    if (text_is(format, "nvfp4-pack-quantized")) {
        *out = QUANT_NVFP4;
        return 0;
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "%s: quantization_config with quant_method %s and format "
                   "%s is not supported (compressed-tensors with "
                   "nvfp4-pack-quantized, and fp8, are)", path,
                   method ? json_object_to_json_string(method) : "null",
                   format ? json_object_to_json_string(format) : "null");
}

static int
read_moe(const struct params_src *root, struct model_text_params *t,
         struct err *e)
{
    struct params_src s = {json_get(root->o, "moe"), root->path, "moe."};
    if (s.o == NULL) {
        t->n_experts = 0;
        return 0;
    }
    int every = 1, groups = 1, groups_used = 1, r;
    t->n_shared = 0;
    t->routed_scale = 1.0;
    if ((r = params_int(&s, "num_experts", true, 1, 65536, &t->n_experts, e))
        || (r = params_int(&s, "num_experts_per_tok", true, 1, 1024,
                           &t->top_k, e))
        || (r = params_int(&s, "num_shared_experts", false, 0, 64,
                           &t->n_shared, e))
        || (r = params_int(&s, "expert_hidden_dim", true, 1, DIM_MAX,
                           &t->expert_hidden, e))
        || (r = params_int(&s, "first_k_dense_replace", false, 0, 65536,
                           &t->n_dense, e))
        || (r = params_double(&s, "routed_scale", false, 0, 1e6,
                              &t->routed_scale, e))
        || (r = params_int(&s, "route_every_n", false, 1, 65536, &every, e))
        || (r = params_int(&s, "num_expert_groups", false, 1, 65536, &groups,
                           e))
        || (r = params_int(&s, "num_expert_groups_per_tok", false, 1, 65536,
                           &groups_used, e)))
        return r;
    if (every != 1)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: moe.route_every_n %d is not supported", s.path,
                       every);
    if (groups != groups_used)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: routing by expert groups (%d of %d) is not "
                       "supported", s.path, groups_used, groups);
    return 0;
}

static int
read_rope(const struct params_src *root, struct model_text_params *t,
          struct err *e)
{
    struct params_src y = {json_get(root->o, "yarn"), root->path, "yarn."};
    struct params_src l = {json_get(root->o, "llama_4_scaling"), root->path,
                           "llama_4_scaling."};
    int r;
    t->yarn = (struct model_yarn){.factor = 1, .beta_fast = 32,
                                  .beta_slow = 1};
    if ((r = params_double(root, "rope_theta", true, 1, 1e12, &t->rope_theta,
                           e)))
        return r;
    if (y.o != NULL
        && ((r = params_double(&y, "factor", true, 1, 1e6, &t->yarn.factor,
                               e))
            || (r = params_double(&y, "original_max_position_embeddings",
                                  true, 1, 1e9, &t->yarn.original, e))
            || (r = params_double(&y, "beta", false, 0.001, 1e6,
                                  &t->yarn.beta_fast, e))
            || (r = params_double(&y, "alpha", false, 0.001, 1e6,
                                  &t->yarn.beta_slow, e))
            || (r = params_bool(&y, "apply_scale", &t->yarn.apply_scale, e))))
        return r;
    t->l4_beta = 0;
    t->l4_original = 1;
    if (l.o != NULL
        && ((r = params_double(&l, "beta", true, 0, 1e3, &t->l4_beta, e))
            || (r = params_double(&l, "original_max_position_embeddings",
                                  true, 1, 1e9, &t->l4_original, e))))
        return r;
    return 0;
}

static int
read_text(const struct params_src *s, bool draft,
          struct model_text_params *t, struct err *e)
{
    int r, kv_heads = 0, head_dim = 0;
    if ((r = params_int(s, "dim", true, 1, DIM_MAX, &t->dim, e))
        || (r = params_int(s, "n_layers", true, 1, 4096, &t->n_layers, e))
        || (r = params_int(s, "n_heads", true, 1, 4096, &t->n_heads, e))
        || (r = params_int(s, "vocab_size", !draft, 1, 1 << 24, &t->vocab, e))
        || (r = params_int(s, "q_lora_rank", true, 1, DIM_MAX, &t->q_rank, e))
        || (r = params_int(s, "kv_lora_rank", true, 1, DIM_MAX, &t->kv_rank,
                           e))
        || (r = params_int(s, "qk_nope_head_dim", true, 1, 4096, &t->nope, e))
        || (r = params_int(s, "qk_rope_head_dim", true, 2, 4096, &t->rope, e))
        || (r = params_int(s, "v_head_dim", true, 1, 4096, &t->v_head, e))
        || (r = params_int(s, "hidden_dim", false, 1, DIM_MAX, &t->hidden, e))
        || (r = params_double(s, "norm_eps", true, 0, 1, &t->norm_eps, e))
        || (r = params_bool(s, "tied_embeddings", &t->tied, e))
        || (r = params_int(s, "n_kv_heads", false, 1, 4096, &kv_heads, e))
        || (r = params_int(s, "head_dim", false, 1, 8192, &head_dim, e))
        || (r = read_moe(s, t, e)) || (r = read_rope(s, t, e)))
        return r;
    if (head_dim != 0 && head_dim != t->nope + t->rope)
        return err_set(e, ERR_MISMATCH,
                       "%s: head_dim %d is not qk_nope_head_dim %d + "
                       "qk_rope_head_dim %d", s->path, head_dim, t->nope,
                       t->rope);
    if (json_get(s->o, "sliding_window") != NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: sliding_window is not supported", s->path);
    double whole = t->yarn.original * t->yarn.factor;
    bool known = whole >= 1 && whole <= POSITIONS_MAX;
    t->max_positions = known ? (int)whole : 0;
    return params_int(s, "max_position_embeddings", !known && !draft, 1,
                      POSITIONS_MAX, &t->max_positions, e);
}

static int
read_vision(const struct params_src *root, struct model_vision_params *v,
            struct err *e)
{
    struct params_src s = {json_get(root->o, "vision_encoder"), root->path,
                           "vision_encoder."};
    int r, max_size = 0;
    v->channels = 3;
    v->merge = 1;
    if ((r = params_int(&s, "hidden_size", true, 1, DIM_MAX, &v->dim, e))
        || (r = params_int(&s, "num_hidden_layers", true, 1, 4096,
                           &v->n_layers, e))
        || (r = params_int(&s, "num_attention_heads", true, 1, 4096,
                           &v->n_heads, e))
        || (r = params_int(&s, "intermediate_size", true, 1, DIM_MAX,
                           &v->hidden, e))
        || (r = params_int(&s, "patch_size", true, 1, 1024, &v->patch, e))
        || (r = params_int(&s, "num_channels", false, 1, 16, &v->channels, e))
        || (r = params_int(&s, "image_size", true, 1, 65536, &v->image_size,
                           e))
        || (r = params_int(&s, "max_image_size", false, 1, 65536, &max_size,
                           e))
        || (r = params_int(&s, "spatial_merge_size", false, 1, 16, &v->merge,
                           e))
        || (r = params_double(&s, "rope_theta", true, 1, 1e12,
                              &v->rope_theta, e))
        || (r = params_int(&s, "image_token_id", true, 0, 1 << 24,
                           &v->image_token, e))
        || (r = params_int(&s, "image_break_token_id", true, 0, 1 << 24,
                           &v->break_token, e))
        || (r = params_int(&s, "image_end_token_id", true, 0, 1 << 24,
                           &v->end_token, e))
        || (r = params_bool(&s, "add_pre_mm_projector_layer_norm",
                            &v->projector_norm, e))
        || (r = params_bool(&s, "adapter_bias", &v->adapter_bias, e)))
        return r;
    if (max_size != 0)
        v->image_size = max_size;
    struct json_object *id = json_get(s.o, "mm_projector_id");
    if (id != NULL && !text_is(id, "patch_merge"))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: vision_encoder.mm_projector_id %s is not "
                       "supported (patch_merge is)", s.path,
                       json_object_to_json_string(id));
    return 0;
}

int
params_check(const struct model_params *p, const char *path, struct err *e)
{
    const struct model_text_params *t = &p->text;
    if (t->rope % 2 != 0)
        return err_set(e, ERR_RANGE, "%s: qk_rope_head_dim %d is odd", path,
                       t->rope);
    if (t->n_experts > 0 && t->top_k > t->n_experts)
        return err_set(e, ERR_RANGE,
                       "%s: %d experts a token of %d experts", path,
                       t->top_k, t->n_experts);
    if (t->hidden == 0 && (t->n_experts == 0 || t->n_dense > 0))
        return err_set(e, ERR_FORMAT,
                       "%s: dense layers need hidden_dim (intermediate_size)",
                       path);
    if (!p->has_vision)
        return 0;
    const struct model_vision_params *v = &p->vision;
    if (v->dim % v->n_heads != 0 || v->dim / v->n_heads % 4 != 0)
        return err_set(e, ERR_RANGE,
                       "%s: vision width %d does not divide into %d heads "
                       "of a multiple of 4", path, v->dim, v->n_heads);
    if (v->adapter_bias)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a vision adapter with biases is not supported",
                       path);
    return 0;
}

int
params_read_native(const char *path, bool draft, struct params_file *out,
                   struct err *e)
{
    struct json_object *root = NULL;
    memset(out, 0, sizeof *out);
    int r = params_load_json(path, &root, e);
    if (r != 0)
        return r;
    struct params_src s = {root, path, ""};
    r = read_text(&s, draft, &out->params.text, e);
    if (r == 0 && json_get(root, "vision_encoder") != NULL && !draft) {
        out->params.has_vision = true;
        r = read_vision(&s, &out->params.vision, e);
    }
    if (r == 0)
        r = params_check(&out->params, path, e);
    if (r == 0)
        r = params_quant(root, path, &out->quant, e);
    json_object_put(root);
    return r;
}
