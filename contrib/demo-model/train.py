"""Trains the demo model.

    python3 train.py --out work --minutes 18          on one GPU
    python3 train.py --out work --steps 4 --tiny      a smoke run on a CPU

The learning rate rises for a moment, stays, and falls to zero over the last
part of the run, whose length is given in steps or in minutes (whichever ends
first).  Writes work/model.pt (weights and params), every minute, and
work/train.log.  What --init FILE --done SHARE goes on from may be such a
model.pt of a run that was cut off.
"""

import argparse
import json
import os
import threading
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import checkpoint
import config
import model as network
import quant
from batches import (LONG_EVERY, MAX_LONG, MAX_PATCHES, MAX_SHORT, MEAN, STD,
                     Loader, Maker, is_long)
from generate import GROUPS
from muon import Muon, split_parameters
from tasks_image import LABELS


def to_device(stream, device):
    out = {k: torch.from_numpy(v) for k, v in stream.items()}
    if device == "cuda":
        out = {k: v.pin_memory().to(device, non_blocking=True)
               for k, v in out.items()}
    return out


def normalise(pixels):
    """uint8 [P, 588] to the vision tower's input."""
    x = pixels.float().view(-1, 3, 196) / 255
    mean = torch.tensor(MEAN, device=x.device)[None, :, None]
    std = torch.tensor(STD, device=x.device)[None, :, None]
    return ((x - mean) / std).flatten(1)


def images_of(net, batch):
    attend = network.packed(batch["image_cu"], MAX_PATCHES, causal=False)
    return net.vision(normalise(batch["pixels"]), batch["grid"][0],
                      batch["grid"][1], batch["merge"].long(), attend)


def hidden_of(net, batch, longest, images):
    x = net.embed(batch["tokens"].long(), images, batch["image_at"].long())
    attend = network.packed(batch["cu"], longest)
    return net.body(x, batch["pos"].long(), attend)


class Tutor(nn.Module):
    """Reads shape, colour and place off the image vectors.

    It teaches the vision tower directly and is thrown away afterwards:
    through the answers alone the tower learns colours at once, but shapes and
    places very late."""

    def __init__(self, dim):
        super().__init__()
        self.read = nn.Linear(dim, sum(LABELS))

    def forward(self, images, labels):
        logits = self.read(images).float().split(LABELS, -1)
        return sum(F.cross_entropy(x, labels[:, i], ignore_index=-100)
                   for i, x in enumerate(logits))


def loss_of(net, tutor, batch, longest):
    """(loss to minimise, mean cross-entropy, share of right tokens by
    group of chats)."""
    images = images_of(net, batch)
    hidden, balance = hidden_of(net, batch, longest, images)
    logits = net.output(hidden).float()
    target = batch["target"]
    entropy = F.cross_entropy(logits, target, ignore_index=-100)
    right = logits.argmax(-1) == target
    share = []
    for group in range(len(GROUPS)):
        here = (target >= 0) & (batch["group"] == group)
        share.append((right & here).sum() / here.sum())
    loss = entropy + 0.01 * balance
    if tutor is not None:
        loss = loss + 0.3 * tutor(images, batch["labels"])
    return loss, entropy.detach(), torch.stack(share)


def rate(progress, step, warm=150, hold=0.45):
    """Learning rate as a share of its peak."""
    rise = min(1.0, (step + 1) / warm)
    fall = 1.0 if progress < hold else (1 - progress) / (1 - hold)
    return max(min(rise, fall), 0.0)


class Prefetch:
    """Moves the next streams to the device while a step runs."""

    def __init__(self, loader, device, depth=4):
        self.items, self.depth = [], depth
        self.loader, self.device = loader, device
        self.ready = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            stream = to_device(self.loader.get(), self.device)
            with self.ready:
                self.ready.wait_for(lambda: len(self.items) < self.depth)
                self.items.append(stream)
                self.ready.notify_all()

    def get(self):
        with self.ready:
            self.ready.wait_for(lambda: self.items)
            item = self.items.pop(0)
            self.ready.notify_all()
            return item


def options():
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokenizer", default="model/tekken.json")
    parser.add_argument("--steps", type=int, default=10 ** 9)
    parser.add_argument("--minutes", type=float, default=10 ** 9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stream", type=int, default=65536)
    parser.add_argument("--patches", type=int, default=6144)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--warm", type=int, default=600,
                        help="steps before long texts come in")
    parser.add_argument("--init", help="directory of a checkpoint, or "
                        "model.pt, to go on from")
    parser.add_argument("--done", type=float, default=0,
                        help="share of the run that --init has behind it")
    parser.add_argument("--hold", type=float, default=0.45,
                        help="share of the run at the full learning rate")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--fitting", type=float, default=0.1,
                        help="share of chats that practise whether a tool "
                        "fits")
    parser.add_argument("--quant-from", type=float, default=0.75,
                        help="share of the run after which the experts are "
                        "trained through 4-bit rounding")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def save(net, path):
    torch.save({"params": net.params, "state": net.state_dict()},
               path + ".new")
    os.replace(path + ".new", path)


def trained(path):
    """The model that save() wrote."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    net = network.Model(saved["params"])
    net.load_state_dict(saved["state"])
    return net


class Trainer:
    def __init__(self, opt):
        self.opt = opt
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(opt.seed)
        torch.set_float32_matmul_precision("high")
        params = config.tiny() if opt.tiny else config.target()
        if opt.init:
            self.net = (trained(opt.init) if opt.init.endswith(".pt") else
                        checkpoint.load(opt.init)).train().to(self.device)
        else:
            self.net = network.Model(params).to(self.device)
        self.tutor = Tutor(params["dim"]).to(self.device)
        matrices, rest = split_parameters(self.net)
        rest += list(self.tutor.parameters())
        self.muon = Muon(matrices, lr=opt.lr)
        self.adam = torch.optim.AdamW(rest, lr=opt.adam_lr,
                                      betas=(0.9, 0.98), weight_decay=0.0,
                                      fused=self.device == "cuda")
        self.loss = loss_of
        if self.device == "cuda":
            self.loss = torch.compile(loss_of, dynamic=False)
        self.log = open(os.path.join(opt.out, "train.log"), "a")
        self.begin = time.time()

    def progress(self, step):
        part = max(step / self.opt.steps,
                   (time.time() - self.begin) / 60 / self.opt.minutes)
        return self.opt.done + (1 - self.opt.done) * part

    def rounds(self, step, progress):
        """Whether a step sees the experts through 4-bit rounding: every
        other one towards the end, but none with long texts."""
        return (progress > self.opt.quant_from and step % 2 == 0
                and not is_long(step, self.opt.warm))

    def see_rounded(self, rounded):
        for layer in self.net.layers:
            layer.experts.fake = quant.straight_through if rounded else None

    def forward(self, step, batch):
        longest = MAX_LONG if is_long(step, self.opt.warm) else MAX_SHORT
        with torch.autocast(self.device, torch.bfloat16,
                            enabled=self.device == "cuda"):
            tutor = None if longest == MAX_LONG else self.tutor
            out = self.loss(self.net, tutor, batch, longest)
        out[0].backward()
        return out

    def compile(self, args):
        """Meets every variant of the step once, before the clock runs."""
        maker = Maker(*args)
        long = self.opt.warm - self.opt.warm % LONG_EVERY + LONG_EVERY - 1
        for step, rounded in ((0, False), (0, True), (long, False)):
            batch = to_device(maker.stream(step), self.device)
            self.see_rounded(rounded)
            self.forward(step, batch)
        self.net.zero_grad(set_to_none=True)

    def one(self, step, batch, share):
        _, entropy, right = self.forward(step, batch)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.opt.adam_lr * share
        self.adam.step()
        self.muon.step(share)
        self.net.zero_grad(set_to_none=True)
        self.tutor.zero_grad(set_to_none=True)
        return entropy, right

    def note(self, **items):
        items["seconds"] = round(time.time() - self.begin, 1)
        line = json.dumps(items)
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def run(self):
        opt = self.opt
        args = (opt.tokenizer, opt.seed, opt.stream, opt.patches, opt.warm,
                opt.fitting)
        loader = Loader(opt.workers, 0, *args)
        source = Prefetch(loader, self.device)
        if self.device == "cuda":
            self.compile(args)
            self.note(compiled=True)
        self.begin = saved = time.time()
        path = os.path.join(opt.out, "model.pt")
        step = 0                # of this run: --done counts in the rate only
        while self.progress(step) < 1:
            progress = self.progress(step)
            share = rate(progress, step, hold=self.opt.hold)
            self.see_rounded(self.rounds(step, progress))
            entropy, right = self.one(step, source.get(), share)
            if step % 200 in (0, LONG_EVERY - 1):
                self.report(step, share, entropy, right)
            if time.time() - saved > 60:
                save(self.net, path)
                saved = time.time()
            step += 1
        self.see_rounded(False)
        save(self.net, path)
        self.note(steps=step, tokens=step * opt.stream, done=True)
        loader.close()

    def report(self, step, share, entropy, right):
        right = {g: round(r, 4) for g, r in zip(GROUPS, right.tolist())
                 if r == r}
        self.note(step=step, rate=round(share, 3),
                  loss=round(entropy.item(), 4), right=right)


def main():
    opt = options()
    os.makedirs(opt.out, exist_ok=True)
    Trainer(opt).run()


if __name__ == "__main__":
    main()
