"""Muon: momentum whose matrix updates are orthogonalised.

Matrices of one shape are updated together; a stack of experts counts as that
many matrices.  Everything that is not a matrix inside the network (embedding,
head, router, norms, patch projection) is left to AdamW.
"""

import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrices.

    g [n, rows, cols]; returns the same shape in bf16.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    turned = x.shape[-2] > x.shape[-1]
    if turned:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        z = b * y + c * (y @ y)
        x = a * x + z @ x
    return x.mT if turned else x


class Muon:
    """params: 2-D or 3-D parameters.  lr is the peak rate."""

    def __init__(self, params, lr=0.02, momentum=0.95, decay=0.02):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape[-2:]), []).append(p)
        self.buffers = {k: None for k in self.groups}

    @torch.no_grad()
    def step(self, scale):
        """One update at rate lr * scale."""
        for shape, params in self.groups.items():
            grads = torch.cat([p.grad.reshape(-1, *shape) for p in params])
            buffer = self.buffers[shape]
            if buffer is None:
                buffer = self.buffers[shape] = torch.zeros_like(grads)
            buffer.lerp_(grads, 1 - self.momentum)
            update = orthogonalise(grads.lerp(buffer, self.momentum))
            rate = self.lr * scale
            update = update.float() * (
                -rate * max(1, shape[0] / shape[1]) ** 0.5)
            sizes = [p.numel() // (shape[0] * shape[1]) for p in params]
            torch._foreach_mul_(params, 1 - rate * self.decay)
            torch._foreach_add_(params, [
                u.view_as(p) for u, p in zip(update.split(sizes), params)])


def split_parameters(model):
    """(matrices for Muon, the rest for AdamW)."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        other = ("tok_embeddings" in name or name.startswith("output")
                 or "gate" in name or "patch_conv" in name or p.dim() < 2)
        (rest if other else matrices).append(p)
    return matrices, rest
