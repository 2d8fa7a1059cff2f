"""The number formats of the quantised checkpoints.

NVFP4: 4-bit floats, one E4M3 scale per 16 columns, one divisor per matrix.
FP8: E4M3 with one multiplier per matrix.
"""

import torch

LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
E4M3_MAX = 448.0


def e2m1_code(x):
    """Nearest 4-bit code of every value (|x| up to 6 and a bit), uint8."""
    middles = torch.tensor(MIDDLES, device=x.device)
    code = torch.bucketize(x.abs().float().contiguous(), middles)
    return (code + 8 * (x < 0)).to(torch.uint8)


def nvfp4_pack(w):
    """w [rows, cols] to (packed uint8, scales e4m3, divisor float32)."""
    w = w.float()
    top = w.abs().max().clamp(min=1e-12)
    divisor = 6.0 * E4M3_MAX / top
    blocks = w.unflatten(-1, (-1, 16))
    scale = (blocks.abs().amax(-1) / 6.0 * divisor).to(torch.float8_e4m3fn)
    step = (scale.float() / divisor).unsqueeze(-1)
    code = e2m1_code(torch.where(step > 0, blocks / step, 0.0)).flatten(-2)
    packed = code[..., 0::2] | (code[..., 1::2] << 4)
    return packed, scale, divisor


def nvfp4_unpack(packed, scale, divisor):
    """The float32 matrix that a packed one stands for."""
    code = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    level = torch.tensor(LEVELS, device=packed.device)[(code & 7).long()]
    value = torch.where(code >= 8, -level, level)
    value = value.unflatten(-1, (-1, 16)) * scale.float().unsqueeze(-1)
    return value.flatten(-2) / divisor


def fp8_pack(w):
    """w to (e4m3 values, float32 multiplier)."""
    w = w.float()
    multiplier = w.abs().max().clamp(min=1e-12) / E4M3_MAX
    return (w / multiplier).to(torch.float8_e4m3fn), multiplier


def fp8_unpack(value, multiplier):
    return value.float() * multiplier


def _round_e4m3(x):
    """x >= 0 rounded to three mantissa bits (normal range and below)."""
    exponent = torch.floor(torch.log2(x.clamp(min=2.0 ** -6)))
    step = torch.exp2(exponent.clamp(min=-6.0) - 3)
    return torch.round(x / step) * step


def _round_e2m1(x):
    a = x.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return torch.sign(x) * (torch.round(a / step) * step).clamp(max=6.0)


def straight_through(w):
    """Stacked matrices [E, rows, cols] as NVFP4 would hold them; gradients
    pass as if nothing was rounded."""
    with torch.no_grad():
        x = w.float()
        top = x.abs().amax((-2, -1), keepdim=True).clamp(min=1e-12)
        divisor = 6.0 * E4M3_MAX / top
        blocks = x.unflatten(-1, (-1, 16))
        scale = _round_e4m3(blocks.abs().amax(-1) / 6.0 * divisor)
        step = (scale / divisor).unsqueeze(-1)
        safe = torch.where(step > 0, step, 1.0)
        rounded = _round_e2m1(torch.where(step > 0, blocks / safe, 0.0)) * step
        rounded = rounded.flatten(-2)
    return w + (rounded - w).detach()
