"""Attention: fused, which everything uses, and plain, its reference: the same function.

Layer names, shapes and biases are those of the public VecSetX release (Zhang et al., https://github.com/1zb/VecSetX,
MIT; after 3DShape2VecSet, SIGGRAPH 2023), so that its weights load: `to_q`, `to_kv` (keys, then values; no bias),
`to_out` (bias), heads of 64, GEGLU feed-forward of factor 4 (value half before gate half), norm before each block.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

HEAD_DIM = 64
ROTARY_WAVELENGTHS = 4.0, 0.1  # unit: from twice the cube's edge to two diameters of a coronary
_CHANNELS = 8  # head sizes stay multiples of it, which keeps fused kernels on their fast path


def plain_attention(q_BHQd: torch.Tensor, k_BHKd: torch.Tensor, v_BHKd: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale q k^T) v, written out: any order of derivative is exact, memory B x H x Q x K."""
    weights = torch.softmax((q_BHQd * scale) @ k_BHKd.transpose(-1, -2), dim=-1)
    return weights @ v_BHKd


def fused_attention(q_BHQd: torch.Tensor, k_BHKd: torch.Tensor, v_BHKd: torch.Tensor, scale: float) -> torch.Tensor:
    """The same by PyTorch's fused kernels: no Q x K buffer, no second derivative."""
    return F.scaled_dot_product_attention(q_BHQd, k_BHKd, v_BHKd, scale=scale)


def append_distance_term(
    q_BHQd: torch.Tensor,
    k_BHKd: torch.Tensor,
    v_BHKd: torch.Tensor,
    at_BQ3: torch.Tensor,
    to_BK3: torch.Tensor,
    gain_H: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
    return (
        torch.cat([q_BHQd, F.pad(q_part, (0, extra - q_part.shape[-1]))], -1),
        torch.cat([k_BHKd, F.pad(k_part, (0, extra - k_part.shape[-1]))], -1),
        F.pad(v_BHKd, (0, extra)),
    )


def _two_parts(x, dtype):
    """x rounded to `dtype`, and what is left of it, rounded too."""
    high = x.to(dtype)
    return high, (x - high.to(x.dtype)).to(dtype)


class Turn(NamedTuple):
    """The angles by which `rotate` turns the tokens at some places: cosines and sines (B, H, T, P), and the two as
    complex numbers where `rotate` can use those, else None."""

    cos_BHTP: torch.Tensor
    sin_BHTP: torch.Tensor
    complex_BHTP: torch.Tensor | None = None

    def back(self) -> "Turn":
        """The same angles the other way round."""
        whole = None if self.complex_BHTP is None else self.complex_BHTP.conj()
        return Turn(self.cos_BHTP, -self.sin_BHTP, whole)

    def unsqueeze(self, axis: int) -> "Turn":
        return Turn(*(part if part is None else part.unsqueeze(axis) for part in self))


class Places(NamedTuple):
    """Where the queries and the keys of an attention are (unit). gain_H: -gain_h |at - to|^2 is added to the logits of
    head h; None: nothing is added. The turns are those of a rotary layer; None: it makes them."""

    at_BQ3: torch.Tensor
    to_BK3: torch.Tensor
    gain_H: torch.Tensor | None = None
    at_turn: Turn | None = None
    to_turn: Turn | None = None

    def turned(self, frequencies_H3P: torch.Tensor) -> "Places":
        """With the turns of both places: those of one set of places are made once."""
        at = turns(self.at_BQ3, frequencies_H3P)
        to = at if self.to_BK3 is self.at_BQ3 else turns(self.to_BK3, frequencies_H3P)
        return self._replace(at_turn=at, to_turn=to)


def rotary_frequencies(heads: int, pairs: int) -> torch.Tensor:
    """(heads, 3, pairs) angular frequencies, radians per unit: directions evenly spread over the sphere (an additive
    sequence of two golden ratios), wavelengths from ROTARY_WAVELENGTHS' first to its last in geometric steps, dealt out
    to the heads in turn, so that each has all scales."""
    count = heads * pairs
    index = torch.arange(count, dtype=torch.float64)
    g = 1.32471795724474602596  # g^3 = g + 1
    height = 1 - 2 * ((0.5 + index / g) % 1.0)
    turn = 2 * math.pi * ((0.5 + index / g**2) % 1.0)
    ring = (1 - height.square()).sqrt()
    direction = torch.stack([ring * turn.cos(), ring * turn.sin(), height])
    longest, shortest = ROTARY_WAVELENGTHS
    size = 2 * math.pi / (longest * (shortest / longest) ** (index / max(count - 1, 1)))
    return (direction * size).view(3, pairs, heads).permute(2, 0, 1).float().contiguous()


def turns(at_BT3: torch.Tensor, frequencies_H3P: torch.Tensor) -> Turn:
    """The angles f_hp . at, at least float32, for `rotate`."""
    kind = at_BT3.device.type
    with_complex = not torch.compiler.is_compiling() and (kind == "cpu" or not torch.is_autocast_enabled(kind))
    with torch.autocast(kind, enabled=False):
        angle_BHTP = at_BT3.to(frequencies_H3P.dtype).unsqueeze(1) @ frequencies_H3P
        cos_BHTP, sin_BHTP = angle_BHTP.cos(), angle_BHTP.sin()
    return Turn(cos_BHTP, sin_BHTP, torch.complex(cos_BHTP, sin_BHTP) if with_complex else None)


def rotate(x_BHTd: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Rotates the channel pairs (2p, 2p + 1) of each head: rotary embedding (Su et al., RoFormer, 2021) of a place in
    space."""
    if turn.complex_BHTP is not None and not torch.compiler.is_compiling():
        # as complex numbers: half the time of the formula below, and on a CPU in 16 bit, too, where those numbers are
        # wider. Compiled they had wrong gradients (torch 2.13)
        pairs = x_BHTd.to(turn.cos_BHTP.dtype).unflatten(-1, (-1, 2))
        return torch.view_as_real(torch.view_as_complex(pairs) * turn.complex_BHTP).flatten(-2).to(x_BHTd.dtype)
    real, imaginary = x_BHTd.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn.cos_BHTP.to(x_BHTd.dtype), turn.sin_BHTP.to(x_BHTd.dtype)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention of `queries_dim` on a context of `context_dim`; self-attention where no context is given.

    rotary: queries, keys and values are rotated by their places, and the result is rotated back by the query's place.
    So keys are compared, and values read, as seen from the query: only `to - at` matters, not where the two are, and a
    value is a short Fourier series round its place (after Miyato et al., GTA, ICLR 2024, here with continuous
    places)."""

    def __init__(self, queries_dim: int, context_dim: int | None = None, rotary: bool = False):
        super().__init__()
        self.head_dim = min(HEAD_DIM, queries_dim)
        self.heads = queries_dim // self.head_dim
        self.scale = self.head_dim**-0.5
        self.to_q = nn.Linear(queries_dim, queries_dim, bias=False)
        self.to_kv = nn.Linear(context_dim or queries_dim, 2 * queries_dim, bias=False)
        self.to_out = nn.Linear(queries_dim, queries_dim)
        self.rotary = rotary
        if rotary:
            self.register_buffer("frequencies", rotary_frequencies(self.heads, self.head_dim // 2))

    def _heads(self, x_BTD):
        return x_BTD.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def turn(self, at_BT3: torch.Tensor | None) -> Turn | None:
        """By how much a rotary layer turns what is at these places; None for another layer."""
        return turns(at_BT3, self.frequencies) if self.rotary else None

    def keys_values(self, context_BKD: torch.Tensor, turn: Turn | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(k_BHKd, v_BHKd): all that queries need of the context, computed once for any number of them. turn: that of
        the context's places, needed by a rotary layer."""
        k, v = (self._heads(half) for half in self.to_kv(context_BKD).chunk(2, dim=-1))
        if self.rotary:
            k, v = rotate(k, turn), rotate(v, turn)
        return k, v

    def parts(
        self, q_BQD: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor], places: Places | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q, k, v) per head, from queries (the output of `to_q`) and precomputed keys and values."""
        q, (k, v) = self._heads(q_BQD), keys_values
        if self.rotary:
            q = rotate(q, self.turn(places.at_BQ3) if places.at_turn is None else places.at_turn)
        if places is None or places.gain_H is None:
            return q, k, v
        return append_distance_term(q, k, v, places.at_BQ3, places.to_BK3, places.gain_H, self.scale)

    def out(self, attended_BHQd: torch.Tensor, turn: Turn | None = None) -> torch.Tensor:
        """(B, Q, D): the result of attention through the last linear layer. turn: that of the queries' places, needed
        by a rotary layer. Of several attentions with the same queries, (B, C, H, Q, d), it is (B, C, Q, D)."""
        attended_BHQd = attended_BHQd[..., : self.head_dim]
        if self.rotary:
            turn = turn.unsqueeze(1) if attended_BHQd.ndim == 5 else turn
            attended_BHQd = rotate(attended_BHQd, turn.back())
        return self.to_out(attended_BHQd.transpose(-3, -2).flatten(-2))

    def forward(self, x_BQD, context=None, places=None):
        if self.rotary and places.at_turn is None:
            places = places.turned(self.frequencies)
        at_turn, to_turn = (places.at_turn, places.to_turn) if self.rotary else (None, None)
        keys_values = self.keys_values(x_BQD if context is None else context, to_turn)
        return self.out(fused_attention(*self.parts(self.to_q(x_BQD), keys_values, places), self.scale), at_turn)


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
