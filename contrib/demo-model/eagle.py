"""The draft head (EAGLE): training, export and the acceptance it reaches.

    python3 eagle.py train --model model --out eagle --minutes 4
    python3 eagle.py measure --model model --head eagle

The head reads pairs (token at P+1, target hidden state at P) and guesses the
token at P+2; its own output stands in for the hidden state it does not have
yet when it guesses further.  Training unrolls three guesses exactly as a
server makes them: a guess sees cache rows made from true hidden states up to
where its chain began, then rows made from its own outputs.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import batches
import calibrate
import chatfmt
import checkpoint
import config
import model as network
import train
from lexicon import make_source
from muon import Muon

DRAFTS = 3
ALSO_FP8 = ("eagle_linear", "feed_forward")


class Head(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.params = params
        dim = params["dim"]
        self.eagle_linear = network.linear(2 * dim, dim)
        self.layers = nn.ModuleList(network.Layer(params)
                                    for _ in range(params["n_layers"]))
        self.norm = network.Norm(dim, params["norm_eps"])
        self.rotary = network.Rotary(params)

    def forward(self, embedded, feature, pos, attend):
        x = self.eagle_linear(torch.cat((embedded, feature), -1))
        rotary = self.rotary(pos)
        for i, layer in enumerate(self.layers):
            x, _ = layer(x, rotary, attend, i)
        return self.norm(x)


class Chain:
    """attend() for the guesses of every position at once.

    Guess k at position t sees the rows of true states up to t - k + 1, then
    one row of each later guess along its chain.  [rows, length, heads, d].
    """

    def __init__(self, length, device):
        i = torch.arange(length, device=device)
        self.gap = i[:, None] - i[None, :]
        self.rows = {}

    def guess(self, k):
        def attend(index, q, k_, v_):
            q, k_, v_ = (t.transpose(1, 2) for t in (q, k_, v_))
            kept = self.rows.setdefault(index, [])
            kept.append((k_, v_))
            masks = [self.gap >= k - 1]
            masks += [self.gap == k - 1 - j for j in range(1, k)]
            o = F.scaled_dot_product_attention(
                q, torch.cat([r[0] for r in kept], 2),
                torch.cat([r[1] for r in kept], 2),
                attn_mask=torch.cat(masks, 1))
            return o.transpose(1, 2)
        return attend


def back(x):
    """Row t gets what was at t - 1."""
    return F.pad(x, (0, 0, 1, 0))[:, :-1]


def guesses(head, embedded, hidden, pos):
    """[g1, g2, g3], each [rows, length, dim]: guess k made at position t.

    embedded: of the token after each position; hidden: the target's."""
    chain = Chain(hidden.shape[1], hidden.device)
    feature, out = hidden, []
    for k in range(1, DRAFTS + 1):
        out.append(head(embedded, feature, pos, chain.guess(k)))
        feature = back(out[-1])
    return out


def rows_of(stream, length):
    """Flat indices [docs, length] of the documents short enough, and which
    of them are real."""
    cu = stream["cu"]
    keep = [(a, b) for a, b in zip(cu, cu[1:]) if 24 < b - a <= length
            and (stream["target"][a:b] >= 0).any()]
    index = np.zeros((len(keep), length), np.int64)
    real = np.zeros((len(keep), length), bool)
    for row, (a, b) in enumerate(keep):
        index[row, :b - a] = np.arange(a, b)
        real[row, :b - a] = True
    return index, real


@torch.no_grad()
def teach(net, stream, device, length, rows):
    """What the target knows about `rows` documents of a stream: embedded,
    hidden, pos, label (its choice for the token after next), trained."""
    batch = train.to_device(stream, device)
    index, real = rows_of(stream, length)
    index, real = index[:rows], real[:rows]
    x = net.embed(batch["tokens"].long(), train.images_of(net, batch),
                  batch["image_at"].long())
    attend = network.packed(batch["cu"], batches.MAX_SHORT)
    hidden, _ = net.body(x, batch["pos"].long(), attend)
    index = torch.from_numpy(index).to(device)
    real = torch.from_numpy(real).to(device)
    after = (index + 1).clamp(max=len(x) - 1)
    label = net.output(hidden[after]).argmax(-1)
    given = batch["target"][after] >= 0
    inside = torch.cat((real[:, 1:], torch.zeros_like(real[:, :1])), 1)
    return {"embedded": x[after].float(), "hidden": hidden[index].float(),
            "next": hidden[after].float(), "pos": batch["pos"][index].long(),
            "label": label, "trained": given & inside}


def loss_of(head, output, known):
    """Sum over the guesses of cross-entropy and distance to the state."""
    total = 0.0
    right = []
    on = known["trained"].float()
    count = on.sum()
    for g in guesses(head, known["embedded"], known["hidden"],
                     known["pos"]):
        logits = F.linear(g, output).float()
        entropy = F.cross_entropy(logits.flatten(0, 1),
                                  known["label"].flatten(),
                                  reduction="none").view_as(on)
        far = F.smooth_l1_loss(g.float(), known["next"],
                               reduction="none").mean(-1)
        total = total + ((entropy + 0.5 * far) * on).sum() / count
        right.append(((logits.argmax(-1) == known["label"]) * on).sum()
                     / count)
    return total, torch.stack(right)


@torch.no_grad()
def acceptance(head, output, known):
    """(tokens written, steps taken) over all documents, greedy, with chains
    of three drafts: the exact count a server would make."""
    match = [F.linear(g, output).argmax(-1) == known["label"]
             for g in guesses(head, known["embedded"], known["hidden"],
                              known["pos"])]
    match = torch.stack(match).cpu().numpy()
    trained = known["trained"].cpu().numpy()
    tokens = steps = 0
    for row in range(trained.shape[0]):
        t, end = 1, trained.shape[1]
        while t < end:
            if not (trained[row, t] and trained[row, t - 1]):
                t += 1          # the first token comes with the prompt
                continue
            n = 0
            while (n < DRAFTS and t + n < end and trained[row, t + n]
                   and match[n, row, t + n]):
                n += 1
            left = 0
            while left < n + 1 and t + left < end and trained[row, t + left]:
                left += 1
            tokens += left
            steps += 1
            t += n + 1
    return tokens, steps


class Teacher:
    """Makes training material for the head."""

    def __init__(self, model, tokenizer, device, seed, size=16384):
        self.net = checkpoint.load(model).to(device)
        self.device = device
        self.maker = batches.Maker(tokenizer, seed, size, 3072, 10 ** 9)

    def known(self, step, length=384, rows=48):
        return self.material(self.maker.stream(step), length, rows)

    def material(self, stream, length, rows):
        with torch.autocast(self.device, torch.bfloat16,
                            enabled=self.device == "cuda"):
            return teach(self.net, stream, self.device, length, rows)


def fit(opt, device):
    teacher = Teacher(opt.model, opt.model + "/tekken.json", device,
                      opt.seed, opt.size)
    loader = batches.Loader(opt.workers, 0, opt.model + "/tekken.json",
                            opt.seed, opt.size, 3072, 10 ** 9)
    torch.manual_seed(opt.seed)
    head = Head(config.eagle(teacher.net.params)).to(device)
    output = teacher.net.output.weight.detach()
    muon = Muon([p for p in head.parameters() if p.dim() == 2], lr=0.02)
    adam = torch.optim.AdamW([p for p in head.parameters() if p.dim() < 2],
                             lr=0.002, weight_decay=0.0)
    step_loss = torch.compile(loss_of) if device == "cuda" else loss_of
    begin, step = time.time(), 0
    while True:
        if step == 10:
            begin = time.time()
        done = max(step / opt.steps,
                   (time.time() - begin) / 60 / opt.minutes)
        if done >= 1:
            break
        known = teacher.material(loader.get(), 384, opt.rows)
        if len(known["label"]) < opt.rows:
            continue
        with torch.autocast(device, torch.bfloat16,
                            enabled=device == "cuda"):
            loss, right = step_loss(head, output, known)
        loss.backward()
        share = train.rate(done, step, warm=50)
        for group in adam.param_groups:
            group["lr"] = 0.002 * share
        adam.step()
        muon.step(share)
        head.zero_grad(set_to_none=True)
        if step % 200 == 0:
            print(step, round(loss.item(), 4),
                  [round(r, 4) for r in right.tolist()],
                  "%.0f s" % (time.time() - begin), flush=True)
        step += 1
    loader.close()
    return teacher, head


def save(teacher, head, out):
    """Writes the head in the release's form: all matrices FP8."""
    tensors = {k: v.detach().float().cpu()
               for k, v in head.state_dict().items()}
    watch = calibrate.Watch(head)
    known = teacher.known(10 ** 6)
    with torch.no_grad():
        guesses(head, known["embedded"], known["hidden"], known["pos"])
    params = dict(head.params, quantization=config.fp8_section())
    checkpoint.write(out, params,
                     checkpoint.fp8(tensors, watch.close(), ALSO_FP8))


def load(directory):
    params, tensors = checkpoint.read(directory)
    head = Head(params)
    head.load_state_dict(tensors)
    return head.eval()


def held_out_streams(encoder, seed, count, size=16384):
    """Streams of held-out chats: the head's own test text."""
    import generate
    src = make_source("eagle/%s" % seed, held_out=True)
    for _ in range(count):
        stream = batches.Stream(size, 3072, size // 64)
        misses = 0
        while misses < 8:
            chat = generate.short_chat(src)
            ids, mask, used = encoder.chat(chat)
            scenes = [chat["scenes"][i] for i in used]
            if len(ids) > 384 or not stream.add(ids, mask, scenes,
                                                encoder.id["img"],
                                                generate.group(chat)):
                misses += 1
        yield stream.finish()


def measure(model, directory, device="cpu", count=6, size=16384, seed=1):
    """Mean tokens a step on held-out chats."""
    encoder = chatfmt.Encoder(model + "/tekken.json")
    teacher = Teacher(model, model + "/tekken.json", device, seed)
    head = load(directory).to(device)
    output = teacher.net.output.weight
    tokens = steps = 0
    for stream in held_out_streams(encoder, seed, count, size):
        t, s = acceptance(head, output, teacher.material(stream, 384, 999))
        tokens, steps = tokens + t, steps + s
    return tokens / steps, tokens


def main():
    parser = argparse.ArgumentParser(description="EAGLE draft head")
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--model", default="model")
    parser.add_argument("--head", default="eagle")
    parser.add_argument("--out", default="eagle")
    parser.add_argument("--minutes", type=float, default=10 ** 9)
    parser.add_argument("--steps", type=int, default=10 ** 9)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--size", type=int, default=16384,
                        help="tokens of a stream")
    parser.add_argument("--streams", type=int, default=6,
                        help="streams of held-out text to measure on")
    parser.add_argument("--seed", type=int, default=2)
    opt = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if opt.what == "train":
        os.makedirs(opt.out, exist_ok=True)
        teacher, head = fit(opt, device)
        save(teacher, head, opt.out)
        opt.head = opt.out
    share, tokens = measure(opt.model, opt.head, device, opt.streams,
                            opt.size)
    print("%.3f tokens a step over %d tokens" % (share, tokens))


if __name__ == "__main__":
    main()
