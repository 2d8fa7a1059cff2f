"""Makes visions.json with transformers' Mistral3 over Mistral4, in fp32.

usage: make_visions.py [OUTPUT]     (needs torch, transformers, numpy)
"""

import json
import pathlib
import sys

import torch
import transformers

import tiny_models
import tiny_visions


def load(model):
    config = transformers.Mistral3Config(**tiny_visions.hf_config(model))
    config.text_config._experts_implementation = "eager"
    net = transformers.Mistral3ForConditionalGeneration._from_config(
        config, attn_implementation="eager", dtype=torch.float32)
    state = {k: torch.from_numpy(v.copy()) for k, v in
             tiny_visions.hf_tensors(model, tiny_models.weights(model),
                                     tiny_visions.weights(model)).items()}
    net.load_state_dict(state, strict=True)
    for layer in net.model.language_model.layers:
        layer.self_attn.scaling = layer.self_attn.qk_head_dim ** -0.5
    return net.float().eval()


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                       pathlib.Path(__file__).with_name("visions.json"))
    cases = []
    for model in tiny_visions.VISIONS:
        net = load(model)
        pixels = torch.from_numpy(tiny_visions.pixels(model))[None]
        sizes = torch.tensor([pixels.shape[-2:]])
        ids = tiny_visions.sequence(model)
        with torch.no_grad():
            vectors = net.model.get_image_features(
                pixels, sizes, vision_feature_layer=-1)
            vectors = getattr(vectors, "pooler_output", vectors)
            vectors = torch.cat(list(vectors))
            logits = net(input_ids=torch.tensor([ids]), pixel_values=pixels,
                         image_sizes=sizes, use_cache=False).logits[0]
        lp = torch.log_softmax(logits.double(), -1)
        cases.append({
            "model": model,
            "vectors": [round(float(x), 5) for x in vectors.flatten()],
            "next_logprob": [round(float(lp[i, ids[i + 1]]), 5)
                             for i in range(len(ids) - 1)]})
        print(model, tuple(vectors.shape), float(vectors.abs().mean()))
    text = json.dumps({"made_with": f"torch {torch.__version__.split('+')[0]}"
                       f", transformers {transformers.__version__}",
                       "cases": cases})
    out.write_text(text.replace('{"model"', '\n{"model"') + "\n")


if __name__ == "__main__":
    main()
