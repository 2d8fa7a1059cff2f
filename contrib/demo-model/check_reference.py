#!/usr/bin/env python3
"""Checks model.py against transformers on random weights: Mistral 4 for the
text, Pixtral and Mistral 3's projector for the images.

    python3 check_reference.py            prints the largest differences

Both run in float32 on the CPU.  The reference multiplies its scores by a
YaRN magnitude in some versions; the release turns that off, so it is turned
off here (`scaling` is set to 1/sqrt(head_dim)).
"""

import sys

import torch
from transformers import (Mistral3Config, Mistral4Config,
                          Mistral4ForCausalLM, MistralConfig,
                          PixtralVisionConfig, PixtralVisionModel)
from transformers.models.mistral3.modeling_mistral3 import (
    Mistral3MultiModalProjector)

import batches
import config
import decode
import model as network


def reference_of(params):
    """An untrained reference model with the sizes of `params`."""
    moe, yarn = params["moe"], params["yarn"]
    rope = {"type": "yarn", "rope_type": "yarn",
            "rope_theta": params["rope_theta"], "factor": yarn["factor"],
            "original_max_position_embeddings":
                yarn["original_max_position_embeddings"],
            "beta_fast": yarn["beta"], "beta_slow": yarn["alpha"],
            "mscale": 1.0, "mscale_all_dim": 1.0,
            "max_position_embeddings": params["max_position_embeddings"],
            "llama_4_scaling_beta": params["llama_4_scaling"]["beta"]}
    conf = Mistral4Config(
        vocab_size=params["vocab_size"], hidden_size=params["dim"],
        intermediate_size=params["hidden_dim"],
        moe_intermediate_size=moe["expert_hidden_dim"],
        num_hidden_layers=params["n_layers"],
        num_attention_heads=params["n_heads"],
        num_key_value_heads=params["n_kv_heads"],
        n_shared_experts=moe["num_shared_experts"],
        n_routed_experts=moe["num_experts"],
        num_experts_per_tok=moe["num_experts_per_tok"],
        kv_lora_rank=params["kv_lora_rank"],
        q_lora_rank=params["q_lora_rank"],
        qk_rope_head_dim=params["qk_rope_head_dim"],
        qk_nope_head_dim=params["qk_nope_head_dim"],
        v_head_dim=params["v_head_dim"], rms_norm_eps=params["norm_eps"],
        max_position_embeddings=params["max_position_embeddings"],
        rope_parameters=rope, tie_word_embeddings=False,
        attn_implementation="eager")
    out = Mistral4ForCausalLM(conf).eval()
    for layer in out.model.layers:
        layer.self_attn.scaling = params["head_dim"] ** -0.5
    return out


NAMES = {"attention_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm",
         "attention.wq_a": "self_attn.q_a_proj",
         "attention.q_a_norm": "self_attn.q_a_layernorm",
         "attention.wq_b": "self_attn.q_b_proj",
         "attention.wkv_a_with_mqa": "self_attn.kv_a_proj_with_mqa",
         "attention.kv_a_norm": "self_attn.kv_a_layernorm",
         "attention.wkv_b": "self_attn.kv_b_proj",
         "attention.wo": "self_attn.o_proj", "gate": "mlp.gate",
         "shared_experts.w1": "mlp.shared_experts.gate_proj",
         "shared_experts.w2": "mlp.shared_experts.down_proj",
         "shared_experts.w3": "mlp.shared_experts.up_proj"}


def copy_weights(net, other):
    """Puts our weights into the reference model."""
    state = {"model.embed_tokens.weight": net.tok_embeddings.weight,
             "model.norm.weight": net.norm.weight,
             "lm_head.weight": net.output.weight}
    for i, layer in enumerate(net.layers):
        mine = dict(layer.named_parameters())
        stem = "model.layers.%d." % i
        for ours, theirs in NAMES.items():
            state[stem + theirs + ".weight"] = mine[ours + ".weight"]
        state[stem + "mlp.experts.gate_up_proj"] = torch.cat(
            (layer.experts.w1, layer.experts.w3), 1)
        state[stem + "mlp.experts.down_proj"] = layer.experts.w2
    other.load_state_dict({k: v.detach() for k, v in state.items()})


@torch.no_grad()
def difference(net, other, tokens):
    """Largest difference of log-probabilities, ours expanded and ours step
    by step from a cache, against the reference."""
    p = net.params
    want = other(tokens[None]).logits[0].float().log_softmax(-1)
    n = len(tokens)
    cache = decode.Cache(p["n_layers"], 1, n, p["n_heads"], p["head_dim"],
                         torch.empty(0))
    pos = torch.arange(n)[None]
    hidden, _ = net.body(net.embed(tokens[None]), pos, cache.prefill)
    whole = net.output(hidden[0]).log_softmax(-1)
    at = torch.tensor([n - 1])
    last, _ = net.body(net.embed(tokens[None, -1:]), at[:, None],
                       cache.step(at, n))
    step = net.output(last[0, 0]).log_softmax(-1)
    return ((whole - want).abs().max().item(),
            (step - want[-1]).abs().max().item())


def reference_vision(params):
    """An untrained Pixtral tower and Mistral 3 projector."""
    v = params["vision_encoder"]
    tower = PixtralVisionModel(PixtralVisionConfig(
        hidden_size=v["hidden_size"], image_size=v["image_size"],
        intermediate_size=v["intermediate_size"], hidden_act="silu",
        num_hidden_layers=v["num_hidden_layers"],
        num_attention_heads=v["num_attention_heads"],
        patch_size=v["patch_size"], rope_theta=v["rope_theta"],
        attn_implementation="eager")).eval()
    projector = Mistral3MultiModalProjector(Mistral3Config(
        vision_config=tower.config, spatial_merge_size=2,
        text_config=MistralConfig(hidden_size=params["dim"]),
        projector_hidden_act="gelu", multimodal_projector_bias=False)).eval()
    return tower, projector


def copy_vision(vision, tower, projector):
    """Our vision weights into the reference; its q and k rows are ours,
    even lanes of a head first."""
    def regroup(w):
        heads = w.unflatten(0, (tower.config.num_attention_heads, -1, 2))
        return heads.transpose(1, 2).flatten(0, 2)

    state = {"patch_conv.weight": vision.patch_conv.weight.view(
        -1, 3, vision.patch, vision.patch),
        "ln_pre.weight": vision.ln_pre.weight}
    for i, layer in enumerate(vision.layers):
        stem, mine = "transformer.layers.%d." % i, layer.state_dict()
        for ours, theirs in (("q", "wq"), ("k", "wk"), ("v", "wv"),
                             ("o", "wo")):
            w = mine["attention.%s.weight" % theirs]
            state[stem + "attention.%s_proj.weight" % ours] = \
                regroup(w) if ours in "qk" else w
        for ours, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            state[stem + "feed_forward.%s_proj.weight" % ours] = \
                mine["feed_forward.%s.weight" % theirs]
        for norm in ("attention_norm.weight", "ffn_norm.weight"):
            state[stem + norm] = mine[norm]
    tower.load_state_dict({k: v.detach() for k, v in state.items()})
    projector.load_state_dict({k: v.detach() for k, v in {
        "norm.weight": vision.pre_mm_projector_norm.weight,
        "patch_merger.merging_layer.weight": vision.merging_layer.weight,
        "linear_1.weight": vision.w_in.weight,
        "linear_2.weight": vision.w_out.weight}.items()})


@torch.no_grad()
def vision_difference(net, tower, projector, height, width):
    """Largest difference of an image vector, relative to the largest."""
    pixels = torch.randn(1, 3, height, width)
    rows, cols = height // 14, width // 14
    features = tower(pixels, image_sizes=torch.tensor(
        [[height, width]])).last_hidden_state
    want = projector(features.squeeze(0), torch.tensor([[height, width]]))
    patches = pixels[0].unflatten(2, (cols, 14)).unflatten(1, (rows, 14))
    patches = patches.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)
    place = torch.arange(rows * cols)
    attend = network.packed(torch.tensor([0, rows * cols]), 0, causal=False)
    got = net.vision(patches, place // cols, place % cols,
                     torch.from_numpy(batches.merge_order(rows, cols)),
                     attend)
    return ((got - want).abs().max() / want.abs().max()).item()


def main():
    torch.manual_seed(5)
    params = config.target()
    net = network.Model(params).eval()
    for name, p in net.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
        elif p.dim() > 1:
            torch.nn.init.normal_(p, std=1.3 * p.shape[-1] ** -0.5)
    other = reference_of(params)
    copy_weights(net, other)
    worst = 0.0
    for length in (7, 300, 2200, 4500):
        tokens = torch.randint(64, params["vocab_size"], (length,))
        whole, step = difference(net, other, tokens)
        worst = max(worst, whole, step)
        print("%5d tokens: %.2g whole, %.2g from the cache"
              % (length, whole, step))
    tower, projector = reference_vision(params)
    copy_vision(net.vision, tower, projector)
    for height, width in ((28, 28), (84, 168), (196, 140)):
        far = vision_difference(net, tower, projector, height, width)
        worst = max(worst, far)
        print("image of %d x %d: %.2g" % (width, height, far))
    print("largest difference: %.2g" % worst)
    sys.exit(worst > 1e-3)


if __name__ == "__main__":
    main()
