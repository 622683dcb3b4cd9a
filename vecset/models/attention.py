"""Attention: fused, as everything uses it, and plain, its slow twin. The same function.

Layer names, shapes and biases are those of the public VecSetX release (Zhang et al., https://github.com/1zb/VecSetX,
MIT; after 3DShape2VecSet, SIGGRAPH 2023), so that its weights load: `to_q`, `to_kv` (keys, then values; no bias),
`to_out` (bias), heads of 64, GEGLU feed-forward of factor 4 (value half before gate half), norm before each block.
"""

import torch
import torch.nn.functional as F
from torch import nn

HEAD_DIM = 64
_CHANNELS = 8  # head sizes stay multiples of it, which keeps fused kernels on their fast path


def plain_attention(q_BHQd, k_BHKd, v_BHKd, scale):
    """softmax(scale q k^T) v, written out: any order of derivative is exact, memory B x H x Q x K."""
    weights = torch.softmax((q_BHQd * scale) @ k_BHKd.transpose(-1, -2), dim=-1)
    return weights @ v_BHKd


def fused_attention(q_BHQd, k_BHKd, v_BHKd, scale):
    """The same by PyTorch's fused kernels: no Q x K buffer, no second derivative."""
    return F.scaled_dot_product_attention(q_BHQd, k_BHKd, v_BHKd, scale=scale)


def append_distance_term(q_BHQd, k_BHKd, v_BHKd, at_BQ3, to_BK3, gain_H, scale):
    """q, k, v with extra channels so that the attention logits become scale q.k - gain_h |at - to|^2, for the queries
    at `at_BQ3` and the keys at `to_BK3`.

    |at - to|^2 = |at|^2 - 2 at.to + |to|^2, and |at|^2 is the same for all keys of a query, so softmax drops it: the
    term is a dot product of four channels, and fused kernels can do it without a Q x K bias in memory. In 16 bit these
    four would lose the distance (gain 30 times a rounding of 1/256 is a tenth in the logits), so each factor goes in as
    two parts, rounded and rest, and the three products of them that matter take twelve channels."""
    dtype, H = q_BHQd.dtype, q_BHQd.shape[1]
    wide = dtype if dtype.itemsize >= 4 else torch.float32
    gain = (gain_H.to(wide) / scale).view(1, H, 1, 1)
    at, to = at_BQ3.to(wide).unsqueeze(1), to_BK3.to(wide).unsqueeze(1)
    q_part = torch.cat([2 * gain * at, gain.expand(len(at), H, at.shape[2], 1)], -1)
    k_part = torch.cat([to, -to.square().sum(-1, keepdim=True)], -1).expand(-1, H, -1, -1)
    if dtype is not wide:
        (q_high, q_low), (k_high, k_low) = _two_parts(q_part, dtype), _two_parts(k_part, dtype)
        q_part, k_part = torch.cat([q_high, q_high, q_low], -1), torch.cat([k_high, k_low, k_high], -1)
    extra = -q_part.shape[-1] % _CHANNELS + q_part.shape[-1]
    return (torch.cat([q_BHQd, F.pad(q_part, (0, extra - q_part.shape[-1]))], -1),
            torch.cat([k_BHKd, F.pad(k_part, (0, extra - k_part.shape[-1]))], -1), F.pad(v_BHKd, (0, extra)))


def _two_parts(x, dtype):
    """x rounded to `dtype`, and what is left of it, rounded too."""
    high = x.to(dtype)
    return high, (x - high.to(x.dtype)).to(dtype)


class Attention(nn.Module):
    """Multi-head attention of `queries_dim` on a context of `context_dim`; self-attention where no context is given."""

    def __init__(self, queries_dim, context_dim=None):
        super().__init__()
        self.head_dim = min(HEAD_DIM, queries_dim)
        self.heads = queries_dim // self.head_dim
        self.scale = self.head_dim**-0.5
        self.to_q = nn.Linear(queries_dim, queries_dim, bias=False)
        self.to_kv = nn.Linear(context_dim or queries_dim, 2 * queries_dim, bias=False)
        self.to_out = nn.Linear(queries_dim, queries_dim)

    def _heads(self, x_BTD):
        return x_BTD.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def keys_values(self, context_BKD):
        """(k_BHKd, v_BHKd): all that queries need of the context, computed once for any number of them."""
        k, v = self.to_kv(context_BKD).chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def parts(self, q_BQD, keys_values, distance=None):
        """(q, k, v) per head, of queries (what `to_q` gives) and precomputed keys and values. `distance` = (at_BQ3,
        to_BK3, gain_H) adds -gain_h |at - to|^2 to the logits."""
        q, (k, v) = self._heads(q_BQD), keys_values
        return (q, k, v) if distance is None else append_distance_term(q, k, v, *distance, self.scale)

    def out(self, attended_BHQd):
        return self.to_out(attended_BHQd[..., : self.head_dim].transpose(1, 2).flatten(-2))

    def forward(self, x_BQD, context=None, distance=None):
        keys_values = self.keys_values(x_BQD if context is None else context)
        return self.out(fused_attention(*self.parts(self.to_q(x_BQD), keys_values, distance), self.scale))


class GEGLU(nn.Module):
    def forward(self, x):
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim, factor=4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 2 * factor * dim), GEGLU(), nn.Linear(factor * dim, dim))

    def forward(self, x):
        return self.net(x)


class PreNorm(nn.Module):
    """Layer norm on the block's input; a context, where there is one, is read un-normalised."""

    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x, **kwargs):
        return self.fn(self.norm(x), **kwargs)
