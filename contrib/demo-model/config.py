"""Hyper-parameters of the demo model, as its params.json has them.

The keys are those of the release.  Latent, rope and value widths are the
release's own, so a server's attention code runs unchanged; the other sizes are
as small as 12 MiB ask for.  The YaRN and query-scaling thresholds are at 2048
positions instead of 8192, so that a text of 16k tokens goes well past them.
"""

import copy
import json

PARAMS = {
    "dim": 256, "n_layers": 5, "head_dim": 128, "hidden_dim": 512,
    "n_heads": 4, "n_kv_heads": 4, "rope_theta": 10000.0, "norm_eps": 1e-06,
    "vocab_size": 1024, "tied_embeddings": False,
    "max_position_embeddings": 32768,
    "llama_4_scaling": {"original_max_position_embeddings": 2048,
                        "beta": 0.1},
    "q_lora_rank": 128, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64,
    "kv_lora_rank": 256, "v_head_dim": 128,
    "yarn": {"original_max_position_embeddings": 2048, "factor": 16,
             "apply_scale": False, "beta": 32, "alpha": 1},
    "moe": {"expert_parallel": 1, "expert_model_parallel": 1,
            "route_every_n": 1, "first_k_dense_replace": 0,
            "num_experts": 8, "num_experts_per_tok": 4,
            "num_expert_groups": 1, "num_expert_groups_per_tok": 1,
            "routed_scale": 1.0, "expert_hidden_dim": 64,
            "num_shared_experts": 1},
    "vision_encoder": {
        "image_token_id": 10, "image_break_token_id": 12,
        "image_end_token_id": 13, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 2,
        "mm_projector_id": "patch_merge", "spatial_merge_size": 2,
        "hidden_size": 128, "num_channels": 3, "image_size": 1540,
        "max_image_size": 1540, "patch_size": 14, "rope_theta": 10000.0,
        "add_pre_mm_projector_layer_norm": True, "adapter_bias": False},
}

# The draft head: the same attention, two dense layers, no experts.
EAGLE_KEYS = ["dim", "head_dim", "n_heads", "n_kv_heads", "rope_theta",
              "norm_eps", "vocab_size", "tied_embeddings",
              "max_position_embeddings", "llama_4_scaling", "q_lora_rank",
              "qk_rope_head_dim", "qk_nope_head_dim", "kv_lora_rank",
              "v_head_dim", "yarn", "hidden_dim"]


def target():
    return copy.deepcopy(PARAMS)


def tiny():
    """A model of two layers for the smoke run."""
    params = target()
    params.update(dim=128, n_layers=2, q_lora_rank=64)
    params["vision_encoder"].update(hidden_size=64, num_attention_heads=1,
                                    num_hidden_layers=1,
                                    intermediate_size=128)
    return params


def eagle(params):
    """params.json of the draft head that belongs to `params`."""
    out = {k: copy.deepcopy(params[k]) for k in EAGLE_KEYS}
    out["n_layers"] = 2
    return out


def fp8_section():
    """What params.json says of an FP8 checkpoint (key `quantization`)."""
    return {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}


def nvfp4_section():
    """What params.json says of an NVFP4 one (key `quantization_config`)."""
    floats = {"actorder": None, "block_structure": None, "group_size": 16,
              "num_bits": 4, "observer": "static_minmax",
              "observer_kwargs": {}, "strategy": "tensor_group",
              "symmetric": True, "type": "float"}
    form = "nvfp4-pack-quantized"
    return {
        "config_groups": {"NVFP4A16": {
            "format": form,
            "input_activations": dict(floats, dynamic="local"),
            "output_activations": None, "targets": ["Linear"],
            "weights": dict(floats, dynamic=False, zp_dtype=None,
                            scale_dtype="torch.float8_e4m3fn")}},
        "format": form, "global_compression_ratio": None,
        "ignore": ["model.embed_tokens", "re:patch_merger.*",
                   "re:vision_encoder.*", "re:vision_language_adapter.*",
                   "re:.*kv_a_proj_with_mqa$", "re:.*q_a_proj$",
                   "re:.*gate$", "re:.*self_attn.*", "re:.*attention.*",
                   "lm_head"],
        "kv_cache_scheme": None, "quant_method": "compressed-tensors",
        "quantization_status": "compressed", "sparsity_config": {},
        "transform_config": {}, "version": "0.13.0"}


def write(params, path):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(params, f, indent=2)
        f.write("\n")
