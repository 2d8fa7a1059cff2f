"""Greedy decoding with a cache, many prompts at once.

Used to evaluate checkpoints without a server, and as the model behind the
test server.  Prompts in a batch are padded on the right; every row keeps its
own positions.
"""

import numpy as np
import torch
import torch.nn.functional as F

import batches
import model as network
import tasks_image
import train


class Cache:
    """Keys and values of a batch, one pair per layer."""

    def __init__(self, layers, rows, length, heads, width, like):
        shape = (rows, heads, length, width)
        self.k = [torch.zeros(shape, dtype=like.dtype, device=like.device)
                  for _ in range(layers)]
        self.v = [torch.zeros_like(k) for k in self.k]

    def prefill(self, index, q, k, v):
        """attend() for the prompts: [rows, tokens, heads, width]."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        n = k.shape[2]
        self.k[index][:, :, :n] = k
        self.v[index][:, :, :n] = v
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return o.transpose(1, 2)

    def step(self, at, span):
        """attend() for one token a row at positions `at` [rows]."""
        rows = torch.arange(len(at), device=at.device)
        seen = torch.arange(span, device=at.device)[None] <= at[:, None]

        def attend(index, q, k, v):
            self.k[index][rows, :, at] = k[:, 0].to(self.k[index].dtype)
            self.v[index][rows, :, at] = v[:, 0].to(self.v[index].dtype)
            o = F.scaled_dot_product_attention(
                q.transpose(1, 2), self.k[index][:, :, :span],
                self.v[index][:, :, :span], attn_mask=seen[:, None, None])
            return o.transpose(1, 2)
        return attend


def pixels_of(scene):
    """The scene as the vision tower wants it: a whole number of cells.

    Sides that are not multiples of 28 are resized as the reference image
    preprocessing does (OpenCV's bicubic, on float pixels, not clamped)."""
    picture = getattr(scene, "image", None) or tasks_image.draw(scene)
    pixels = np.asarray(picture)
    rows, cols = -(-scene.height // 28), -(-scene.width // 28)
    if (scene.height, scene.width) != (28 * rows, 28 * cols):
        planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)
        planes = F.interpolate(planes[None], (28 * rows, 28 * cols),
                               mode="bicubic", align_corners=False)
        pixels = planes[0].permute(1, 2, 0).numpy()
    return pixels


class Decoder:
    def __init__(self, net, encoder, device="cpu", dtype=torch.float32):
        self.net = net.to(device).eval()
        self.encoder, self.device, self.dtype = encoder, device, dtype

    def _images(self, pictures):
        """Vectors of all pictures, in order."""
        parts = [p.shape for p in pictures]
        cu, merge, grid = [0], [], []
        for h, w, _ in parts:
            rows, cols = h // 14, w // 14
            merge.append(batches.merge_order(rows, cols) + cu[-1])
            grid.append(np.stack((np.repeat(np.arange(rows), cols),
                                  np.tile(np.arange(cols), rows))))
            cu.append(cu[-1] + rows * cols)
        put = lambda a: torch.from_numpy(a).to(self.device)
        patches = put(np.concatenate([batches.patchify(p)
                                      for p in pictures]))
        grid, merge = put(np.concatenate(grid, 1)), put(np.concatenate(merge))
        attend = network.packed(
            torch.tensor(cu, dtype=torch.int32), 0, causal=False)
        with torch.autocast(self.device, enabled=False):
            return self.net.vision(train.normalise(patches), grid[0],
                                   grid[1], merge, attend)

    def _embed(self, tokens, pictures):
        if not pictures:
            return self.net.embed(tokens)
        at = (tokens.flatten() == self.encoder.id["img"]).nonzero()[:, 0]
        return self.net.embed(tokens, self._images(pictures), at)

    @torch.no_grad()
    def generate(self, prompts, limit=256, ends=None):
        """prompts: [(ids, scenes)].  Returns the new ids of each, without
        the end token."""
        p = self.net.params
        lengths = [len(ids) for ids, _ in prompts]
        width = max(lengths)
        tokens = torch.full((len(prompts), width), 11, device=self.device)
        for row, (ids, _) in zip(tokens, prompts):
            row[:len(ids)] = torch.tensor(ids)
        pictures = [pixels_of(s) for _, scenes in prompts for s in scenes]
        cache = Cache(p["n_layers"], len(prompts), width + limit,
                      p["n_heads"], p["head_dim"],
                      torch.empty(0, dtype=self.dtype, device=self.device))
        with torch.autocast(self.device, torch.bfloat16,
                            enabled=self.dtype == torch.bfloat16):
            x = self._embed(tokens, pictures)
            pos = torch.arange(width, device=self.device).expand_as(tokens)
            hidden, _ = self.net.body(x, pos, cache.prefill)
            at = torch.tensor(lengths, device=self.device)
            last = hidden[torch.arange(len(prompts)), at - 1]
            return self._continue(cache, last, at, limit)

    def _continue(self, cache, last, at, limit):
        eos = self.encoder.id["eos"]
        out = [[] for _ in range(len(at))]
        done = torch.zeros(len(at), dtype=torch.bool, device=self.device)
        top = int(at.max())
        columns = []
        for n in range(limit):
            token = self.net.output(last).float().argmax(-1)
            done |= token == eos
            columns.append(torch.where(done, eos, token))
            if n % 8 == 7 and bool(done.all()):
                break
            attend = cache.step(at, top + n + 1)
            x = self.net.tok_embeddings(token[:, None])
            hidden, _ = self.net.body(x, at[:, None], attend)
            last, at = hidden[:, 0], at + 1
        for row, ids in enumerate(torch.stack(columns, 1).tolist()):
            out[row] = ids[:ids.index(eos)] if eos in ids else ids
        return out


def parse(encoder, ids):
    """New ids to a reply: dict with reasoning, content and calls."""
    reply = {"reasoning": None, "content": "", "calls": []}
    i, where, parts = encoder.id, "content", {"content": []}
    for t in list(ids) + [None]:
        if t is not None and t not in (i["think"], i["think_end"], i["call"],
                                       i["args"]):
            parts.setdefault(where, []).append(t)
            continue
        if where == "args":
            reply["calls"].append(
                (encoder.decode(parts.pop("name", [])),
                 encoder.decode(parts.pop("args", []))))
        where = {i["think"]: "think", i["call"]: "name",
                 i["args"]: "args"}.get(t, "content")
        if t == i["args"]:
            continue
    reply["content"] = encoder.decode(parts["content"])
    if "think" in parts:
        reply["reasoning"] = encoder.decode(parts["think"])
    return reply
