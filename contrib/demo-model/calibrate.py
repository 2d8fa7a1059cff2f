"""Largest input of every quantised matrix, seen on training text.

The quantised formats carry these as activation scales.
"""

import torch
import torch.nn.functional as F

import model as network


class Watch:
    """Hooks that keep the largest |input| of each matrix by native name."""

    def __init__(self, net, prefix=""):
        self.top = {}
        self.hooks = []
        for name, module in net.named_modules():
            name = prefix + name
            if isinstance(module, torch.nn.Linear):
                self._hook(module, self._linear(name))
            elif isinstance(module, network.Experts):
                self._hook(module, self._experts(name))

    def _hook(self, module, function):
        self.hooks.append(module.register_forward_pre_hook(function))

    def _see(self, name, value):
        if value.numel():
            top = value.detach().abs().amax().item()
            self.top[name] = max(self.top.get(name, 0.0), top)

    def _linear(self, name):
        return lambda module, args: self._see(name, args[0])

    def _experts(self, name):
        def see(module, args):
            h, weight = args
            h, weight = h.flatten(0, -2), weight.flatten(0, -2)
            for e in range(module.w1.shape[0]):
                x = h[weight[:, e] > 0]
                stem = "%s.%d." % (name, e)
                self._see(stem + "w1", x)
                self._see(stem + "w3", x)
                act = F.silu(x @ module.w1[e].T) * (x @ module.w3[e].T)
                self._see(stem + "w2", act)
        return see

    def close(self):
        for hook in self.hooks:
            hook.remove()
        return self.top


@torch.no_grad()
def calibrate(net, stream):
    """Runs one packed stream (arrays as batches.py makes them)."""
    import train
    batch = {k: torch.from_numpy(v) for k, v in stream.items()}
    watch = Watch(net)
    train.hidden_of(net, batch, 0, train.images_of(net, batch))
    return watch.close()
