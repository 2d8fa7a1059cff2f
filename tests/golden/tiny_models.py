"""Tiny random checkpoints, the same everywhere from a seed.

Weights come from an integer hash, so no library's generator matters. A model
is a dict of native tensor names to float32 arrays whose values a stored form
holds exactly; writers put it into a directory in either layout.
"""

import json
import struct
import zlib

import numpy as np

YARN = {"beta": 32, "alpha": 1, "apply_scale": False}

# Dimensions unlike each other and unlike the release; every sequence runs far
# beyond the original length of YaRN and of the query scaling.
MODELS = {
    "small": dict(dim=64, n_layers=2, n_heads=4, vocab_size=320,
                  q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16,
                  qk_rope_head_dim=16, v_head_dim=32, theta=10000.0,
                  factor=16, original=32, experts=8, top_k=2, shared=1,
                  width=32, dense=0, hidden=64, scale=1.0, length=210),
    "odd": dict(dim=84, n_layers=3, n_heads=3, vocab_size=257,
                q_lora_rank=37, kv_lora_rank=54, qk_nope_head_dim=22,
                qk_rope_head_dim=10, v_head_dim=18, theta=500.0,
                factor=4, original=24, experts=5, top_k=3, shared=2,
                width=46, dense=1, hidden=70, scale=1.5, length=150),
    "wide": dict(dim=128, n_layers=1, n_heads=2, vocab_size=512,
                 q_lora_rank=64, kv_lora_rank=256, qk_nope_head_dim=64,
                 qk_rope_head_dim=64, v_head_dim=128, theta=10000.0,
                 factor=128, original=16, experts=16, top_k=4, shared=1,
                 width=64, dense=0, hidden=64, scale=1.0, length=180),
}


def uniform(name, n):
    """n numbers in [-1, 1) from the name alone."""
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint64) + np.uint64(zlib.crc32(
            name.encode()) << 24)
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0


def bf16_bits(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16(x):
    return (bf16_bits(x).astype(np.uint32) << 16).view(np.float32)


def shapes(m):
    """Native names and shapes of all tensors, with the gain of matrices."""
    qk = m["qk_nope_head_dim"] + m["qk_rope_head_dim"]
    kv = m["kv_lora_rank"]
    yield "tok_embeddings.weight", (m["vocab_size"], m["dim"]), 8.0
    yield "output.weight", (m["vocab_size"], m["dim"]), 4.0
    yield "norm.weight", (m["dim"],), 0
    for i in range(m["n_layers"]):
        s = f"layers.{i}."
        yield s + "attention_norm.weight", (m["dim"],), 0
        yield s + "ffn_norm.weight", (m["dim"],), 0
        yield s + "attention.q_a_norm.weight", (m["q_lora_rank"],), 0
        yield s + "attention.kv_a_norm.weight", (kv,), 0
        yield s + "attention.wq_a.weight", (m["q_lora_rank"], m["dim"]), 1
        yield (s + "attention.wq_b.weight",
               (m["n_heads"] * qk, m["q_lora_rank"]), 2)
        yield (s + "attention.wkv_a_with_mqa.weight",
               (kv + m["qk_rope_head_dim"], m["dim"]), 1)
        yield (s + "attention.wkv_b.weight",
               (m["n_heads"] * (m["qk_nope_head_dim"] + m["v_head_dim"]),
                kv), 1)
        yield (s + "attention.wo.weight",
               (m["dim"], m["n_heads"] * m["v_head_dim"]), 2)
        mlps = [("feed_forward", m["hidden"])]
        if i >= m["dense"]:
            yield s + "gate.weight", (m["experts"], m["dim"]), 2
            mlps = [("shared_experts", m["shared"] * m["width"])]
            mlps += [(f"experts.{e}", m["width"])
                     for e in range(m["experts"])]
        for name, width in mlps:
            yield f"{s}{name}.w1.weight", (width, m["dim"]), 1
            yield f"{s}{name}.w2.weight", (m["dim"], width), 1
            yield f"{s}{name}.w3.weight", (width, m["dim"]), 1


def weights(model):
    """The model's tensors, with values that bf16 holds."""
    out = {}
    for name, shape, gain in shapes(MODELS[model]):
        x = uniform(model + name, int(np.prod(shape))).reshape(shape)
        if gain:
            x = x * gain * (3 / shape[-1]) ** 0.5
        else:
            x = 1 + 0.25 * x
        out[name] = bf16(x)
    return out


def sequence(model):
    m = MODELS[model]
    x = uniform(model + " ids", m["length"])
    return ((x + 1) / 2 * m["vocab_size"]).astype(int).tolist()


# --- quantised forms ---------------------------------------------------------

E4M3 = np.array([(m / 8 * 2.0**-6) if e == 0 else (1 + m / 8) * 2.0**(e - 7)
                 for e in range(16) for m in range(8)][:127])
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def nearest(table, x):
    """Index of the nearest table entry to each x >= 0."""
    i = np.clip(np.searchsorted(table, x), 1, len(table) - 1)
    return np.where(x - table[i - 1] <= table[i] - x, i - 1, i)


def to_fp8(x):
    """Codes, scale, and the values they stand for."""
    scale = np.float32(np.abs(x).max() / 448)
    code = nearest(E4M3, np.abs(x) / scale)
    value = np.sign(x) * E4M3[code]
    return ((code | (x < 0) << 7).astype(np.uint8), scale,
            (value * scale).astype(np.float32))


def to_nvfp4(x):
    """Packed codes, block scales, global scale, and the values."""
    rows, cols = x.shape
    total = np.float32(448 * 6 / np.abs(x).max())
    blocks = np.abs(x).reshape(rows, cols // 16, 16).max(-1)
    scale = nearest(E4M3, blocks / 6 * total)
    unit = np.repeat(E4M3[scale], 16, axis=1) / total
    code = nearest(E2M1, np.abs(x) / np.maximum(unit, 1e-30))
    code = np.where(unit == 0, 0, code)
    value = np.sign(x) * E2M1[code] * unit
    code = (code | (x < 0) << 3).astype(np.uint8)
    return (code[:, 0::2] | code[:, 1::2] << 4, scale.astype(np.uint8), total,
            value.astype(np.float32))


def is_expert(name):
    return "expert" in name


def is_linear(name):
    return is_expert(name) or ("attention.w" in name)


def quantise(tensors, form):
    """Tensors as a file of that form stores them, and what they stand for."""
    stored, meant = {}, {}
    for name, x in tensors.items():
        stem = name.removesuffix(".weight")
        if form == "fp8" and is_linear(name):
            code, scale, meant[name] = to_fp8(x)
            stored[name] = ("F8_E4M3", code)
            stored[stem + ".qscale_weight"] = ("F32", scale)
            stored[stem + ".qscale_act"] = ("F32", np.float32(1))
        elif form == "nvfp4" and is_expert(name):
            code, block, total, meant[name] = to_nvfp4(x)
            stored[stem + ".weight_packed"] = ("U8", code)
            stored[stem + ".weight_scale"] = ("F8_E4M3", block)
            stored[stem + ".weight_global_scale"] = ("F32", total[None])
            stored[stem + ".input_global_scale"] = (
                "F32", np.ones(1, np.float32))
        else:
            stored[name] = ("BF16", bf16_bits(x))
            meant[name] = x
    return stored, meant


# --- files -------------------------------------------------------------------

def write_safetensors(path, stored):
    header, at = {}, 0
    for name, (dtype, x) in stored.items():
        n = np.asarray(x).nbytes
        header[name] = {"dtype": dtype, "shape": list(np.shape(x)),
                        "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, x in stored.values():
            f.write(np.ascontiguousarray(x).tobytes())


def native_params(model):
    m = MODELS[model]
    return {
        "dim": m["dim"], "n_layers": m["n_layers"], "n_heads": m["n_heads"],
        "n_kv_heads": m["n_heads"], "vocab_size": m["vocab_size"],
        "head_dim": m["qk_nope_head_dim"] + m["qk_rope_head_dim"],
        "hidden_dim": m["hidden"], "rope_theta": m["theta"],
        "norm_eps": 1e-6, "tied_embeddings": False,
        "max_position_embeddings": 4096,
        **{k: m[k] for k in ("q_lora_rank", "kv_lora_rank", "v_head_dim",
                             "qk_nope_head_dim", "qk_rope_head_dim")},
        "yarn": {"factor": m["factor"], **YARN,
                 "original_max_position_embeddings": m["original"]},
        "llama_4_scaling": {
            "beta": 0.1,
            "original_max_position_embeddings": m["original"]},
        "moe": {"num_experts": m["experts"],
                "num_experts_per_tok": m["top_k"],
                "num_shared_experts": m["shared"],
                "expert_hidden_dim": m["width"],
                "first_k_dense_replace": m["dense"],
                "routed_scale": m["scale"], "route_every_n": 1,
                "num_expert_groups": 1, "num_expert_groups_per_tok": 1},
    }


def hf_config(model):
    m = MODELS[model]
    return {
        "model_type": "mistral4", "architectures": ["Mistral4ForCausalLM"],
        "hidden_size": m["dim"], "num_hidden_layers": m["n_layers"],
        "num_attention_heads": m["n_heads"],
        "num_key_value_heads": m["n_heads"],
        "vocab_size": m["vocab_size"], "intermediate_size": m["hidden"],
        "moe_intermediate_size": m["width"],
        "n_routed_experts": m["experts"], "n_shared_experts": m["shared"],
        "num_experts_per_tok": m["top_k"], "n_group": 1, "topk_group": 1,
        "norm_topk_prob": True, "routed_scaling_factor": m["scale"],
        "first_k_dense_replace": m["dense"], "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
        **{k: m[k] for k in ("q_lora_rank", "kv_lora_rank", "v_head_dim",
                             "qk_nope_head_dim", "qk_rope_head_dim")},
        "rope_parameters": {
            "type": "yarn", "rope_type": "yarn", "rope_theta": m["theta"],
            "factor": float(m["factor"]), "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": m["original"],
            "llama_4_scaling_beta": 0.1},
    }


HF_NAMES = [
    ("tok_embeddings.", "model.embed_tokens."), ("output.", "lm_head."),
    ("attention_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("attention.wq_a.", "self_attn.q_a_proj."),
    ("attention.q_a_norm.", "self_attn.q_a_layernorm."),
    ("attention.wq_b.", "self_attn.q_b_proj."),
    ("attention.wkv_a_with_mqa.", "self_attn.kv_a_proj_with_mqa."),
    ("attention.kv_a_norm.", "self_attn.kv_a_layernorm."),
    ("attention.wkv_b.", "self_attn.kv_b_proj."),
    ("attention.wo.", "self_attn.o_proj."),
    ("shared_experts.w1.", "mlp.shared_experts.gate_proj."),
    ("shared_experts.w2.", "mlp.shared_experts.down_proj."),
    ("shared_experts.w3.", "mlp.shared_experts.up_proj."),
    ("feed_forward.w1.", "mlp.gate_proj."),
    ("feed_forward.w2.", "mlp.down_proj."),
    ("feed_forward.w3.", "mlp.up_proj."), (".gate.", ".mlp.gate."),
]


def hf_tensors(model, tensors):
    """The same values under HF names, experts fused."""
    m, out = MODELS[model], {}
    for name, x in tensors.items():
        if ".experts." in name:
            continue
        if name == "norm.weight":
            name = "model." + name
        for a, b in HF_NAMES:
            if a in name:
                name = name.replace(a, b, 1)
                break
        if name.startswith("layers."):
            name = "model." + name
        out[name] = x
    for i in range(m["dense"], m["n_layers"]):
        def part(e, w):
            return tensors[f"layers.{i}.experts.{e}.{w}.weight"]
        s = f"model.layers.{i}.mlp.experts."
        each = range(m["experts"])
        out[s + "gate_up_proj"] = np.stack(
            [np.concatenate([part(e, "w1"), part(e, "w3")]) for e in each])
        out[s + "down_proj"] = np.stack([part(e, "w2") for e in each])
    return out


def write_native(path, model, stored, shards=1):
    path.mkdir()
    (path / "params.json").write_text(json.dumps(native_params(model)))
    if shards == 1:
        write_safetensors(path / "consolidated.safetensors", stored)
        return
    names = list(stored)
    for i in range(shards):
        file = f"consolidated-{i + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(path / file,
                          {n: stored[n] for n in names[i::shards]})


def write_hf(path, model, tensors):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(hf_config(model)))
    write_safetensors(path / "model.safetensors", {
        n: ("F32", np.asarray(x, np.float32))
        for n, x in hf_tensors(model, tensors).items()})
