"""Makes logprobs.json with transformers' Mistral4, in fp32 on the CPU.

usage: make_logprobs.py [OUTPUT]     (needs torch, transformers, numpy)

The text model uses the plain score scale 1/sqrt(qk_head_dim): newer versions
multiply it with YaRN's magnitude whenever a converter wrote mscale_all_dim,
which it always does, and the native files say otherwise.
"""

import json
import pathlib
import sys

import torch
import transformers

import tiny_models

CASES = [("small", "bf16"), ("small", "fp8"), ("small", "nvfp4"),
         ("odd", "bf16"), ("wide", "bf16")]
NEW = 48        # tokens of the continuation
LEAD = 0.003    # a choice nearer to a tie than this is no oracle


def load(model, form):
    config = transformers.Mistral4Config(**tiny_models.hf_config(model))
    net = transformers.Mistral4ForCausalLM._from_config(
        config, attn_implementation="eager", experts_implementation="eager",
        dtype=torch.float32)
    _, meant = tiny_models.quantise(tiny_models.weights(model), form)
    state = {k: torch.from_numpy(v.copy()) for k, v in
             tiny_models.hf_tensors(model, meant).items()}
    net.load_state_dict(state, strict=True)
    for layer in net.model.layers:
        layer.self_attn.scaling = layer.self_attn.qk_head_dim ** -0.5
    return net.float().eval()


def logprobs(net, ids):
    with torch.no_grad():
        logits = net(torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1)


def continuation(net, sequence):
    """Greedy ids behind the first prompt whose choices are all clear."""
    for prompt in range(30, 60):
        ids, lead = sequence[:prompt], 1e9
        while len(ids) < prompt + NEW and lead > LEAD:
            top = logprobs(net, ids)[-1].topk(2)
            lead = min(lead, float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
        if lead > LEAD:
            return prompt, ids[prompt:]
    raise SystemExit("no clear continuation")


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                       pathlib.Path(__file__).with_name("logprobs.json"))
    cases = []
    for model, form in CASES:
        net = load(model, form)
        ids = tiny_models.sequence(model)
        lp = logprobs(net, ids)
        prompt, greedy = continuation(net, ids)
        cases.append({
            "model": model, "form": form,
            "next_logprob": [round(float(lp[i, ids[i + 1]]), 5)
                             for i in range(len(ids) - 1)],
            "argmax": lp.argmax(-1).tolist(),
            "argmax_logprob": [round(float(x), 5)
                               for x in lp.max(-1).values],
            "prompt": prompt, "greedy": greedy,
        })
        print(model, form, "prompt", prompt)
    text = json.dumps({"made_with": f"torch {torch.__version__.split('+')[0]}"
                       f", transformers {transformers.__version__}",
                       "cases": cases})
    out.write_text(text.replace('{"model"', '\n{"model"') + "\n")


if __name__ == "__main__":
    main()
