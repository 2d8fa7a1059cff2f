"""The architecture in PyTorch: MLA, softmax-routed experts, vision tower.

Names follow the checkpoint.  Experts are kept stacked ([E, width, dim]) and
computed all at once, each output weighted by the router (zero for those not
chosen): the same mathematics as routing, and much faster at this size.

How tokens see each other is the caller's business: every forward takes an
`attend(layer, q, k, v)` function.  `packed` runs many chats in one flat stream
(training), decode.py keeps a cache.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def rms(x, weight, eps):
    x32 = x.float()
    scale = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return (x32 * scale * weight.float()).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return rms(x, self.weight, self.eps)


def linear(n_in, n_out, zero=False):
    layer = nn.Linear(n_in, n_out, bias=False)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=n_in ** -0.5)
    return layer


def yarn_frequencies(params):
    """[rope/2] angular frequencies, float32."""
    width, theta = params["qk_rope_head_dim"], params["rope_theta"]
    yarn = params["yarn"]
    length = yarn["original_max_position_embeddings"]

    def corr(turns):
        return (width * math.log(length / (2 * math.pi * turns))
                / (2 * math.log(theta)))

    low = max(math.floor(corr(yarn["beta"])), 0)
    high = min(math.ceil(corr(yarn["alpha"])), width - 1)
    i = torch.arange(width // 2, dtype=torch.float32)
    base = 1.0 / theta ** (2 * i / width)
    ramp = ((i - low) / max(high - low, 1)).clamp(0, 1)
    return base * (1 - ramp) + base / yarn["factor"] * ramp


class Rotary(nn.Module):
    """cos, sin and the query scaling for every position."""

    def __init__(self, params):
        super().__init__()
        n = params["max_position_embeddings"]
        pos = torch.arange(n, dtype=torch.float32)
        angle = (pos[:, None] * yarn_frequencies(params)[None]).double()
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        l4 = params["llama_4_scaling"]
        step = l4["original_max_position_embeddings"]
        scale = 1 + l4["beta"] * torch.log1p(torch.floor(pos / step))
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, pos):
        return self.cos[pos], self.sin[pos], self.scale[pos]


def rotate(x, cos, sin):
    """Interleaved pairs; x [.., heads, width], cos [.., width/2]."""
    pair = x.float().unflatten(-1, (-1, 2))
    a, b = pair[..., 0], pair[..., 1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1)
    return out.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.heads = p["n_heads"]
        self.nope, self.rope = p["qk_nope_head_dim"], p["qk_rope_head_dim"]
        self.value, self.latent = p["v_head_dim"], p["kv_lora_rank"]
        dim, eps = p["dim"], p["norm_eps"]
        self.wq_a = linear(dim, p["q_lora_rank"])
        self.q_a_norm = Norm(p["q_lora_rank"], eps)
        self.wq_b = linear(p["q_lora_rank"],
                           self.heads * (self.nope + self.rope))
        self.wkv_a_with_mqa = linear(dim, self.latent + self.rope)
        self.kv_a_norm = Norm(self.latent, eps)
        self.wkv_b = linear(self.latent,
                            self.heads * (self.nope + self.value))
        self.wo = linear(self.heads * self.value, dim, zero=True)

    def project(self, h, rotary):
        """q, k, v, each [.., heads, 128], in the expanded form."""
        cos, sin, scale = rotary
        q = self.wq_b(self.q_a_norm(self.wq_a(h)))
        q = q.unflatten(-1, (self.heads, -1))
        q_rope = rotate(q[..., self.nope:], cos, sin)
        q = torch.cat((q[..., :self.nope], q_rope), -1)
        q = (q * scale[..., None, None]).to(q.dtype)
        ckv = self.wkv_a_with_mqa(h)
        latent = self.kv_a_norm(ckv[..., :self.latent])
        k_rope = rotate(ckv[..., None, self.latent:], cos, sin)
        kv = self.wkv_b(latent).unflatten(-1, (self.heads, -1))
        k_rope = k_rope.expand(*kv.shape[:-1], self.rope).to(kv.dtype)
        k = torch.cat((kv[..., :self.nope], k_rope), -1)
        return q, k, kv[..., self.nope:]

    def forward(self, h, rotary, attend, index):
        q, k, v = self.project(h, rotary)
        return self.wo(attend(index, q, k, v).flatten(-2))


class Dense(nn.Module):
    """SwiGLU."""

    def __init__(self, dim, width):
        super().__init__()
        self.w1 = linear(dim, width)
        self.w3 = linear(dim, width)
        self.w2 = linear(width, dim, zero=True)

    def forward(self, h):
        return self.w2(F.silu(self.w1(h)) * self.w3(h))


class Experts(nn.Module):
    """Routed experts, stacked."""

    def __init__(self, dim, width, count):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(count, width, dim) * dim ** -0.5)
        self.w3 = nn.Parameter(torch.randn(count, width, dim) * dim ** -0.5)
        self.w2 = nn.Parameter(torch.zeros(count, dim, width))
        self.fake = None          # optional rounding of the weights

    def forward(self, h, weight):
        """weight [.., E]: router weights, zero where not chosen."""
        w1, w2, w3 = self.w1, self.w2, self.w3
        if self.fake is not None:
            w1, w2, w3 = self.fake(w1), self.fake(w2), self.fake(w3)
        act = F.silu(F.linear(h, w1.flatten(0, 1)))
        act = act * F.linear(h, w3.flatten(0, 1))
        act = act.unflatten(-1, (w1.shape[0], -1)) * weight[..., None]
        w2 = w2.permute(1, 0, 2).flatten(1)
        return F.linear(act.flatten(-2).to(h.dtype), w2)


def chosen(prob, top):
    """1 where an expert is among the `top` most probable (ties: lower
    index), else 0."""
    n = prob.shape[-1]
    a, b = prob.unsqueeze(-1), prob.unsqueeze(-2)       # a: this, b: others
    i = torch.arange(n, device=prob.device)
    before = (b > a) | ((b == a) & (i[None, :] < i[:, None]))
    return (before.sum(-1) < top).to(prob.dtype)


class Layer(nn.Module):
    def __init__(self, p):
        super().__init__()
        dim, eps = p["dim"], p["norm_eps"]
        self.attention_norm = Norm(dim, eps)
        self.attention = Attention(p)
        self.ffn_norm = Norm(dim, eps)
        moe = p.get("moe")
        self.top = moe["num_experts_per_tok"] if moe else 0
        if moe:
            self.gate = linear(dim, moe["num_experts"])
            self.experts = Experts(dim, moe["expert_hidden_dim"],
                                   moe["num_experts"])
            self.shared_experts = Dense(dim, moe["expert_hidden_dim"]
                                        * moe["num_shared_experts"])
        else:
            self.feed_forward = Dense(dim, p["hidden_dim"])

    def mlp(self, h):
        """(output, load-balance loss)."""
        if not self.top:
            return self.feed_forward(h), 0.0
        with torch.autocast(h.device.type, enabled=False):
            prob = F.linear(h.float(), self.gate.weight.float()).softmax(-1)
        pick = chosen(prob.detach(), self.top)
        weight = prob * pick
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        flat = (0, 1) if prob.dim() == 3 else 0
        balance = (pick.mean(flat) * prob.mean(flat)).sum()
        out = self.experts(h, weight) + self.shared_experts(h)
        return out, balance * prob.shape[-1] / self.top

    def forward(self, x, rotary, attend, index):
        x = x + self.attention(self.attention_norm(x), rotary, attend, index)
        out, balance = self.mlp(self.ffn_norm(x))
        return x + out, balance


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.wq, self.wk = linear(width, width), linear(width, width)
        self.wv, self.wo = linear(width, width), linear(width, width, True)

    def forward(self, h, rotary, attend):
        cos, sin = rotary
        q, k, v = (w(h).unflatten(-1, (self.heads, -1))
                   for w in (self.wq, self.wk, self.wv))
        o = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.wo(o.flatten(-2))


class VisionLayer(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention_norm = Norm(width, 1e-5)
        self.attention = VisionAttention(width, heads)
        self.ffn_norm = Norm(width, 1e-5)
        self.feed_forward = Dense(width, inner)

    def forward(self, x, rotary, attend):
        x = x + self.attention(self.attention_norm(x), rotary, attend)
        return x + self.feed_forward(self.ffn_norm(x))


class Vision(nn.Module):
    """Patches to vectors of the text model's width, one per 2 x 2 patches."""

    def __init__(self, p):
        super().__init__()
        v = p["vision_encoder"]
        width, self.patch = v["hidden_size"], v["patch_size"]
        self.patch_conv = linear(3 * self.patch ** 2, width)
        self.ln_pre = Norm(width, 1e-5)
        self.layers = nn.ModuleList(
            VisionLayer(width, v["num_attention_heads"],
                        v["intermediate_size"])
            for _ in range(v["num_hidden_layers"]))
        self.pre_mm_projector_norm = Norm(width, 1e-5)
        self.merging_layer = linear(width * v["spatial_merge_size"] ** 2,
                                    width)
        self.w_in = linear(width, p["dim"])
        self.w_out = linear(p["dim"], p["dim"])
        half = width // v["num_attention_heads"] // 2
        freq = v["rope_theta"] ** (-torch.arange(half).float() / half)
        self.register_buffer("freq", freq, persistent=False)

    def rotary(self, rows, cols):
        angle = torch.cat((rows[:, None].float() * self.freq[0::2],
                           cols[:, None].float() * self.freq[1::2]), -1)
        return angle.cos(), angle.sin()

    def forward(self, patches, rows, cols, merge, attend):
        """patches [P, 588] (channel, y, x), rows and cols [P] their places,
        merge [N, 4] the patches of each output vector."""
        x = self.ln_pre(self.patch_conv(patches))
        rotary = self.rotary(rows, cols)
        for layer in self.layers:
            x = layer(x, rotary, attend)
        x = self.pre_mm_projector_norm(x)
        x = x[merge].transpose(1, 2).flatten(1)
        return self.w_out(F.gelu(self.w_in(self.merging_layer(x))))


class Model(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.params = params
        dim = params["dim"]
        self.tok_embeddings = nn.Embedding(params["vocab_size"], dim)
        nn.init.normal_(self.tok_embeddings.weight, std=0.5)
        self.layers = nn.ModuleList(Layer(params)
                                    for _ in range(params["n_layers"]))
        self.norm = Norm(dim, params["norm_eps"])
        self.output = linear(dim, params["vocab_size"], zero=True)
        self.rotary = Rotary(params)
        self.vision = Vision(params)

    def embed(self, tokens, images=None, image_at=None):
        """Text embeddings with image vectors put at `image_at`."""
        x = self.tok_embeddings(tokens)
        if images is not None:
            flat = x.flatten(0, -2).index_copy(0, image_at,
                                               images.to(x.dtype))
            x = flat.view_as(x)
        return x

    def body(self, x, pos, attend):
        """(hidden after the final norm, load-balance loss)."""
        rotary = self.rotary(pos)
        balance = 0.0
        for i, layer in enumerate(self.layers):
            x, b = layer(x, rotary, attend, i)
            balance = balance + b
        return self.norm(x), balance / len(self.layers)


def packed(cu, longest, causal=True):
    """attend() for a flat stream of documents that do not see each other.

    cu [docs + 1] int32: where each document starts and ends.
    """
    if cu.is_cuda:
        from torch.nn.attention.varlen import varlen_attn
        window = (-1, 0) if causal else (-1, -1)

        def run(q, k, v):
            return varlen_attn(q.bfloat16(), k.bfloat16(), v.bfloat16(), cu,
                               cu, longest, longest, window_size=window)
    else:
        bounds = cu.tolist()

        def run(q, k, v):
            parts = []
            for a, b in zip(bounds, bounds[1:]):
                if a < b:
                    one = [t[a:b].transpose(0, 1)[None] for t in (q, k, v)]
                    o = F.scaled_dot_product_attention(*one,
                                                       is_causal=causal)
                    parts.append(o[0].transpose(0, 1))
            return torch.cat(parts)

    if causal:
        return lambda index, q, k, v: run(q, k, v)
    return run
