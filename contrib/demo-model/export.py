"""Writes the trained model in the published layout, in three formats.

    python3 export.py --from work/model.pt --out model

makes model/ (BF16), model/../model-nvfp4 and model-fp8 beside it.
"""

import argparse
import os

import torch

import batches
import calibrate
import checkpoint
import config
import model as network
import train


def random_model(seed):
    """An untrained model whose every weight matters."""
    torch.manual_seed(seed)
    net = network.Model(config.target())
    for name, p in net.named_parameters():
        if p.dim() > 1 and p.abs().max() == 0:
            torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    return net


def export(net, tokenizer, out, seed=7, size=16384):
    """Writes out, out-nvfp4 and out-fp8."""
    maker = batches.Maker(tokenizer, seed, size, 2048, 10 ** 9)
    state = {k: v for k, v in net.state_dict().items()}
    tensors = checkpoint.native_tensors(state)
    rounded = {k: v.bfloat16().float() for k, v in tensors.items()}
    net.load_state_dict(checkpoint.module_state(rounded))
    inputs = calibrate.calibrate(net.eval(), maker.stream(0))
    checkpoint.write(out, net.params, checkpoint.bf16(tensors), tokenizer)
    params = dict(net.params, quantization_config=config.nvfp4_section())
    checkpoint.write(out + "-nvfp4", params,
                     checkpoint.nvfp4(tensors, inputs), tokenizer)
    params = dict(net.params, quantization=config.fp8_section())
    checkpoint.write(out + "-fp8", params, checkpoint.fp8(tensors, inputs),
                     tokenizer)


def main():
    parser = argparse.ArgumentParser(description="export the demo model")
    parser.add_argument("--from", dest="source", required=True,
                        help="model.pt, or random:SEED")
    parser.add_argument("--tokenizer", default="model/tekken.json")
    parser.add_argument("--out", default="model")
    options = parser.parse_args()
    if options.source.startswith("random:"):
        net = random_model(int(options.source[7:]))
    else:
        net = train.trained(options.source)
    export(net, options.tokenizer, options.out)
    for kind in ("", "-nvfp4", "-fp8"):
        path = os.path.join(options.out + kind, "consolidated.safetensors")
        print("%10d  %s" % (os.path.getsize(path), path))


if __name__ == "__main__":
    main()
