"""Vision towers for the tiny checkpoints, in both layouts."""

import json

import numpy as np

import tiny_models

# Unlike each other: head widths of 16, 12 and 24,
# merging of 2 x 2, 1 and 3 x 3 patches.
VISIONS = {
    "small": dict(dim=32, layers=2, heads=2, hidden=48, patch=4, merge=2,
                  theta=10000.0, grid=(3, 4)),
    "odd": dict(dim=36, layers=3, heads=3, hidden=44, patch=6, merge=1,
                theta=300.0, grid=(5, 3)),
    "wide": dict(dim=48, layers=1, heads=2, hidden=64, patch=2, merge=3,
                 theta=10000.0, grid=(2, 9)),
}
IMG, BREAK, END = 10, 12, 13
IMAGE_SIZE = 96


def shapes(model):
    """Native names and shapes of the vision part, with the gain."""
    v, text = VISIONS[model], tiny_models.MODELS[model]["dim"]
    dim = v["dim"]
    yield ("vision_encoder.patch_conv.weight",
           (dim, 3, v["patch"], v["patch"]), 1)
    yield "vision_encoder.ln_pre.weight", (dim,), 0
    for i in range(v["layers"]):
        s = f"vision_encoder.transformer.layers.{i}."
        yield s + "attention_norm.weight", (dim,), 0
        yield s + "ffn_norm.weight", (dim,), 0
        for w, gain in (("wq", 3), ("wk", 3), ("wv", 1), ("wo", 1)):
            yield f"{s}attention.{w}.weight", (dim, dim), gain
        yield s + "feed_forward.w1.weight", (v["hidden"], dim), 1
        yield s + "feed_forward.w2.weight", (dim, v["hidden"]), 1
        yield s + "feed_forward.w3.weight", (v["hidden"], dim), 1
    yield "pre_mm_projector_norm.weight", (dim,), 0
    yield ("patch_merger.merging_layer.weight",
           (dim, dim * v["merge"] ** 2), 1)
    yield "vision_language_adapter.w_in.weight", (text, dim), 1
    yield "vision_language_adapter.w_out.weight", (text, text), 3


def weights(model):
    out = {}
    for name, shape, gain in shapes(model):
        x = tiny_models.uniform(model + name,
                                int(np.prod(shape))).reshape(shape)
        fan = int(np.prod(shape[1:]))
        x = x * gain * (3 / fan) ** 0.5 if gain else 1 + 0.25 * x
        out[name] = tiny_models.bf16(x)
    return out


def pixels(model):
    v = VISIONS[model]
    side = v["patch"] * v["merge"]
    shape = (3, v["grid"][0] * side, v["grid"][1] * side)
    x = tiny_models.uniform(model + " pixels", int(np.prod(shape)))
    return (2 * x).astype(np.float32).reshape(shape)


def sequence(model):
    """Text around one image, and the image's tokens."""
    rows, cols = VISIONS[model]["grid"]
    ids = [i if i not in (IMG, BREAK, END) else 20
           for i in tiny_models.sequence(model)]
    image = ([IMG] * cols + [BREAK]) * rows
    image[-1] = END
    return ids[:7] + image + ids[7:24]


# --- layouts -------------------------------------------------------------------

HF_NAMES = [
    ("vision_encoder.patch_conv", "model.vision_tower.patch_conv"),
    ("vision_encoder.ln_pre", "model.vision_tower.ln_pre"),
    ("vision_encoder.", "model.vision_tower."),
    ("pre_mm_projector_norm", "model.multi_modal_projector.norm"),
    ("patch_merger.", "model.multi_modal_projector.patch_merger."),
    ("vision_language_adapter.w_in", "model.multi_modal_projector.linear_1"),
    ("vision_language_adapter.w_out", "model.multi_modal_projector.linear_2"),
    ("attention.wq", "attention.q_proj"), ("attention.wk", "attention.k_proj"),
    ("attention.wv", "attention.v_proj"), ("attention.wo", "attention.o_proj"),
    ("feed_forward.w1", "feed_forward.gate_proj"),
    ("feed_forward.w2", "feed_forward.down_proj"),
    ("feed_forward.w3", "feed_forward.up_proj"),
]


def halves(x, heads):
    """Rows of a query or key matrix, pairs regrouped as HF stores them."""
    rows = x.reshape(heads, -1, 2, x.shape[-1])
    return rows.swapaxes(1, 2).reshape(x.shape)


def hf_tensors(model, text, vision):
    out = {}
    for name, x in tiny_models.hf_tensors(model, text).items():
        head = "model." if name.startswith("model.") else ""
        rest = name.removeprefix("model.")
        out[head + "language_model." * bool(head) + rest] = x
    for name, x in vision.items():
        if name.endswith(("wq.weight", "wk.weight")):
            x = halves(x, VISIONS[model]["heads"])
        for a, b in HF_NAMES:
            if name.startswith(a) or "." + a in name:
                name = name.replace(a, b, 1)
        out[name] = x
    return out


def native_params(model):
    v = VISIONS[model]
    return {**tiny_models.native_params(model), "vision_encoder": {
        "hidden_size": v["dim"], "num_hidden_layers": v["layers"],
        "num_attention_heads": v["heads"], "intermediate_size": v["hidden"],
        "patch_size": v["patch"], "num_channels": 3,
        "image_size": IMAGE_SIZE, "max_image_size": IMAGE_SIZE,
        "rope_theta": v["theta"], "spatial_merge_size": v["merge"],
        "mm_projector_id": "patch_merge",
        "add_pre_mm_projector_layer_norm": True, "adapter_bias": False,
        "image_token_id": IMG, "image_break_token_id": BREAK,
        "image_end_token_id": END}}


def hf_config(model):
    v = VISIONS[model]
    return {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": IMG, "spatial_merge_size": v["merge"],
        "projector_hidden_act": "gelu", "multimodal_projector_bias": False,
        "vision_feature_layer": -1, "tie_word_embeddings": False,
        "text_config": tiny_models.hf_config(model),
        "vision_config": {
            "model_type": "pixtral", "hidden_size": v["dim"],
            "num_hidden_layers": v["layers"],
            "num_attention_heads": v["heads"],
            "intermediate_size": v["hidden"], "patch_size": v["patch"],
            "num_channels": 3, "image_size": IMAGE_SIZE,
            "head_dim": v["dim"] // v["heads"], "hidden_act": "silu",
            "rope_parameters": {"rope_type": "default",
                                "rope_theta": v["theta"]}}}


def write(path, model, layout):
    path.mkdir()
    text, vision = tiny_models.weights(model), weights(model)
    if layout == "hf":
        (path / "config.json").write_text(json.dumps(hf_config(model)))
        tensors = hf_tensors(model, text, vision)
        file = "model.safetensors"
    else:
        (path / "params.json").write_text(json.dumps(native_params(model)))
        tensors = {**text, **vision}
        file = "consolidated.safetensors"
    tiny_models.write_safetensors(path / file, {
        n: ("BF16", tiny_models.bf16_bits(x)) for n, x in tensors.items()})
