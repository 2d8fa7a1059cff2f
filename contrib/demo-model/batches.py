"""Packs chats into fixed-size flat streams, in worker processes.

A stream is `size` tokens of many chats one after the other; chats do not see
each other and each starts at position 0.  Images travel beside it as raw
patches.  Worker w of n makes the streams of steps w, w + n, ..: what a step
trains on depends on the seed and the number of workers only.
"""

import math
import multiprocessing
import random

import numpy as np

import chatfmt
import generate
import tasks_image
import tasks_long
from lexicon import Source

MAX_SHORT, MAX_LONG, MAX_PATCHES = 2048, 17408, 144
LONG_EVERY = 5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def is_long(step, warm):
    """Every fifth step past `warm` trains on long texts."""
    return step >= warm and step % LONG_EVERY == LONG_EVERY - 1


def patchify(pixels):
    """[H, W, 3] uint8 to [patches, 588] in the order channel, y, x."""
    h, w, _ = pixels.shape
    grid = pixels.reshape(h // 14, 14, w // 14, 14, 3)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, 588)


def merge_order(rows, cols):
    """[merged, 4] patch numbers of each 2 x 2 block, row by row."""
    index = np.arange(rows * cols).reshape(rows // 2, 2, cols // 2, 2)
    return index.transpose(0, 2, 1, 3).reshape(-1, 4)


class Stream:
    """One flat stream being filled."""

    def __init__(self, size, patches, docs):
        self.tokens = np.full(size, 11, np.int16)
        self.mask = np.zeros(size, np.uint8)
        self.pos = np.zeros(size, np.int32)
        self.group = np.zeros(size, np.int64)
        self.cu = [0]
        self.docs = docs
        self.pixels = np.zeros((patches, 588), np.uint8)
        self.grid = np.zeros((2, patches), np.int16)
        self.image_cu = [0]
        self.merge = np.zeros((patches // 4, 4), np.int32)
        self.image_at = np.full(patches // 4, size - 1, np.int32)
        self.labels = np.full((patches // 4, 4), -100, np.int64)
        self.merged = 0

    def add(self, ids, mask, scenes, img_id, group):
        """Appends a document; False when it does not fit."""
        pictures = [np.asarray(tasks_image.draw(s)) for s in scenes]
        start, end = self.cu[-1], self.cu[-1] + len(ids)
        need = sum(p.shape[0] * p.shape[1] // 196 for p in pictures)
        used = self.image_cu[-1]
        if (end >= len(self.tokens) or len(self.cu) > self.docs
                or used + need > len(self.pixels)):
            return False
        self.tokens[start:end] = ids
        self.mask[start:end] = mask
        self.pos[start:end] = np.arange(len(ids))
        self.group[start:end] = group
        self.cu.append(end)
        for picture, scene in zip(pictures, scenes):
            self._picture(picture)
            labels = tasks_image.cell_labels(scene)
            self.labels[self.merged - len(labels):self.merged] = labels
        at = start + np.nonzero(np.asarray(ids) == img_id)[0]
        self.image_at[self.merged - len(at):self.merged] = at
        return True

    def _picture(self, picture):
        rows, cols = picture.shape[0] // 14, picture.shape[1] // 14
        a, n = self.image_cu[-1], rows * cols
        self.pixels[a:a + n] = patchify(picture)
        self.grid[0, a:a + n] = np.repeat(np.arange(rows), cols)
        self.grid[1, a:a + n] = np.tile(np.arange(cols), rows)
        self.merge[self.merged:self.merged + n // 4] = \
            merge_order(rows, cols) + a
        self.merged += n // 4
        self.image_cu.append(a + n)

    def finish(self):
        """The arrays of the stream, all of fixed shape.

        What is left over is one padding document per array."""
        size, patches = len(self.tokens), len(self.pixels)
        end = self.cu[-1]
        self.pos[end:] = np.arange(size - end) % MAX_SHORT
        fill = list(range(min(end + MAX_SHORT, size), size, MAX_SHORT))
        cu = self.cu + fill + [size]
        cu += [size] * (self.docs + 40 - len(cu))
        image_cu = self.image_cu + list(
            range(self.image_cu[-1] + MAX_PATCHES, patches, MAX_PATCHES))
        image_cu += [patches] * (patches // 16 + 2 - len(image_cu))
        target = np.full(size, -100, np.int64)
        target[:-1] = np.where(self.mask[1:], self.tokens[1:], -100)
        return {"tokens": self.tokens, "target": target, "pos": self.pos,
                "group": self.group,
                "cu": np.array(cu, np.int32), "pixels": self.pixels,
                "grid": self.grid, "image_cu": np.array(image_cu, np.int32),
                "merge": self.merge, "image_at": self.image_at,
                "labels": self.labels}


class Maker:
    """Makes the stream of any step."""

    def __init__(self, tokenizer, seed, size, patches, warm, fitting=0.1):
        self.encoder = chatfmt.Encoder(tokenizer)
        self.seed, self.size, self.patches = seed, size, patches
        self.warm, self.fitting = warm, fitting
        self.docs = size // 64
        self.pool = tasks_long.FillerPool(
            random.Random(seed), lambda t: len(self.encoder.text(t)))

    def _draw(self, src, long, room):
        if not long:
            return generate.short_chat(src, self.fitting)
        limit = min(MAX_LONG - 1200, room)
        tokens = int(math.exp(src.rng.uniform(math.log(300),
                                              math.log(max(limit, 400)))))
        return generate.long_chat(src, self.pool, tokens,
                                  src.rng.randint(4, 12))

    def stream(self, step):
        src = Source(random.Random(self.seed * 1000003 + step))
        long = is_long(step, self.warm)
        out = Stream(self.size, self.patches, self.docs)
        misses = 0
        while misses < (3 if long else 12):
            chat = self._draw(src, long, self.size - out.cu[-1] - 1200)
            ids, mask, images = self.encoder.chat(chat)
            if len(ids) > (MAX_LONG if long else MAX_SHORT):
                continue
            scenes = [chat["scenes"][i] for i in images]
            group = 3 if long else generate.group(chat)
            if not out.add(ids, mask, scenes, self.encoder.id["img"], group):
                misses += 1
        return out.finish()


def _work(queue, worker, workers, first, args):
    maker = Maker(*args)
    step = first + worker
    while True:
        queue.put(maker.stream(step))
        step += workers


class Loader:
    """Streams in the order of their steps, made by `workers` processes."""

    def __init__(self, workers, first, *args):
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(3) for _ in range(workers)]
        self.processes = [
            context.Process(target=_work, daemon=True,
                            args=(q, w, workers, first, args))
            for w, q in enumerate(self.queues)]
        for p in self.processes:
            p.start()
        self.next = 0

    def get(self):
        stream = self.queues[self.next % len(self.queues)].get()
        self.next += 1
        return stream

    def close(self):
        for p in self.processes:
            p.terminate()
