"""Reads and writes checkpoints in the native layout.

A checkpoint is a directory with params.json, consolidated.safetensors and
(except for the draft head) tekken.json.  Tensors have the release's names,
shapes and dtypes; quant.py has the arithmetic.  `load` reads any of the
formats back into the PyTorch module, as plain numbers: that is how the
quantised versions are evaluated and how the files are checked.
"""

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import config
import model as network
import quant

VISION = {"patch_conv.": "vision_encoder.patch_conv.",
          "ln_pre.": "vision_encoder.ln_pre.",
          "layers.": "vision_encoder.transformer.layers.",
          "pre_mm_projector_norm.": "pre_mm_projector_norm.",
          "merging_layer.": "patch_merger.merging_layer.",
          "w_in.": "vision_language_adapter.w_in.",
          "w_out.": "vision_language_adapter.w_out."}


def _vision_name(name):
    for ours, native in VISION.items():
        if name.startswith(ours):
            return native + name[len(ours):]
    raise KeyError(name)


def native_tensors(state):
    """Module state (vision under `vision.`) to {native name: tensor}."""
    out = {}
    for name, value in state.items():
        value = value.detach().float().cpu()
        if name.startswith("vision."):
            name = _vision_name(name[len("vision."):])
            if name.endswith("patch_conv.weight"):
                value = value.view(len(value), 3, 14, 14)
            out[name] = value
        elif ".experts.w" in name:
            stem, which = name.rsplit(".", 1)
            for e, one in enumerate(value):
                out["%s.%d.%s.weight" % (stem, e, which)] = one
        else:
            out[name] = value
    return out


def module_state(tensors):
    """The inverse of native_tensors."""
    state, experts = {}, {}
    back = {native: ours for ours, native in VISION.items()}
    for name, value in tensors.items():
        value = value.float()
        if ".experts." in name and "shared" not in name:
            stem, number, which, _ = name.rsplit(".", 3)
            experts.setdefault("%s.%s" % (stem, which), {})[int(number)] = \
                value
            continue
        for native, ours in back.items():
            if name.startswith(native):
                name = "vision." + ours + name[len(native):]
                if "patch_conv" in name:
                    value = value.flatten(1)
                break
        state[name] = value
    for name, parts in experts.items():
        state[name] = torch.stack([parts[e] for e in sorted(parts)])
    return state


def _is_expert(name):
    return ".experts." in name or ".shared_experts." in name


def _is_attention(name):
    return (name.startswith("layers.") and ".attention." in name
            and "norm" not in name)


def bf16(tensors):
    return {k: v.bfloat16().contiguous() for k, v in tensors.items()}


def nvfp4(tensors, inputs):
    """Experts in 4 bits, the rest BF16.  inputs: largest input of every
    matrix, by name without `.weight`."""
    out = {}
    for name, value in tensors.items():
        if not _is_expert(name):
            out[name] = value.bfloat16().contiguous()
            continue
        stem = name[:-len(".weight")]
        packed, scale, divisor = quant.nvfp4_pack(value.bfloat16())
        out[stem + ".weight_packed"] = packed
        out[stem + ".weight_scale"] = scale
        out[stem + ".weight_global_scale"] = divisor.view(1)
        g = torch.tensor([6.0 * quant.E4M3_MAX / max(inputs[stem], 1e-6)])
        out[stem + ".input_global_scale"] = \
            g.bfloat16() if "shared" in stem else g
    return out


def fp8(tensors, inputs, also=()):
    """Attention, experts (and names in `also`) in E4M3 with one multiplier
    each; multipliers are BF16 scalars."""
    out = {}
    for name, value in tensors.items():
        if not (_is_attention(name) or _is_expert(name)
                or any(a in name for a in also)):
            out[name] = value.bfloat16().contiguous()
            continue
        stem = name[:-len(".weight")]
        value = value.bfloat16().float()
        _, multiplier = quant.fp8_pack(value)
        multiplier = multiplier.bfloat16().float()
        scaled = (value / multiplier).clamp(-448, 448)
        out[name] = scaled.to(torch.float8_e4m3fn)
        out[stem + ".qscale_weight"] = multiplier.bfloat16()
        act = max(inputs[stem], 1e-6) / quant.E4M3_MAX
        out[stem + ".qscale_act"] = torch.tensor(act).bfloat16()
    return out


def plain(tensors):
    """Any format back to {native name: float32}."""
    out = {}
    for name, value in tensors.items():
        stem, last = name.rsplit(".", 1)
        if last == "weight_packed":
            out[stem + ".weight"] = quant.nvfp4_unpack(
                value, tensors[stem + ".weight_scale"],
                tensors[stem + ".weight_global_scale"])
        elif last == "weight":
            scale = tensors.get(stem + ".qscale_weight")
            value = value.float()
            out[name] = value if scale is None else value * scale.float()
    return out


def write(directory, params, tensors, tokenizer=None):
    os.makedirs(directory, exist_ok=True)
    config.write(params, os.path.join(directory, "params.json"))
    path = os.path.join(directory, "consolidated.safetensors")
    save_file(tensors, path)
    os.chmod(path, 0o644)
    if tokenizer:
        target = os.path.join(directory, "tekken.json")
        if os.path.abspath(tokenizer) != os.path.abspath(target):
            shutil.copyfile(tokenizer, target)


def read(directory):
    """(params, plain float32 tensors)."""
    with open(os.path.join(directory, "params.json"), encoding="utf-8") as f:
        params = json.load(f)
    path = os.path.join(directory, "consolidated.safetensors")
    return params, plain(load_file(path))


def load(directory):
    """The checkpoint as a PyTorch module (float32, CPU)."""
    params, tensors = read(directory)
    net = network.Model(params)
    net.load_state_dict(module_state(tensors))
    return net.eval()
