"""The slope of attention in its queries, written out, so that the Eikonal loss is differentiated once and not twice.

For a = softmax(scale q k^T) v and a direction r of a, with P the softmax and U = r v^T - <r, a> row by row,

    d <r, a> / d q = scale (P U) k

Autograd finds the same by a first backward that it records, and keeps a dozen Q x K buffers for the second. Here the
formula is the forward pass, and its derivative is written out too: with c the direction from above and E = scale c k^T
centred like U, the sum over P U E is what is differentiated. Both go by blocks of queries and keep nothing of size
Q x K. tests/models/test_attention_slope.py compares with autograd on `plain_attention`.
"""

import torch

# numbers in one block's buffer: on a CPU they should stay in its cache, on a GPU be enough to fill it
_BUFFER = {"cpu": 1 << 21, "cuda": 1 << 26}


def attention_slope(
    q_BHQd: torch.Tensor, k_BHKd: torch.Tensor, v_BHKd: torch.Tensor, r_BHQd: torch.Tensor, scale: float
) -> torch.Tensor:
    """The gradient in q of sum(r * softmax(scale q k^T) v), r held: (B, H, Q, d). Differentiable once in q, k, v, r."""
    B, H = q_BHQd.shape[:2]
    flat = (x.flatten(0, 1) for x in (q_BHQd, k_BHKd, v_BHKd, r_BHQd))
    return _Slope.apply(*flat, scale).unflatten(0, (B, H))


# The kernel of the Eikonal decode. Another may be put here if its slope can be differentiated: a run checks that at its
# start (models/double_backward.py), because a kernel may fail at it without an error.
slope_kernel = attention_slope


class _Slope(torch.autograd.Function):
    """On (G, Q, d) and (G, K, d)."""

    @staticmethod
    def forward(ctx, q, k, v, r, scale):
        ctx.save_for_backward(q, k, v, r)
        ctx.scale = scale
        slope = torch.empty_like(q)
        for rows in _blocks(q, k):
            P, U = _softmax_and_slope(q[:, rows], k, v, r[:, rows], scale)
            slope[:, rows] = P.mul_(U) @ k
        return slope.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, c):
        q, k, v, r = ctx.saved_tensors
        dq, dr = torch.empty_like(q), torch.empty_like(r)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        c = c * ctx.scale
        for rows in _blocks(q, k):
            P, U = _softmax_and_slope(q[:, rows], k, v, r[:, rows], ctx.scale)
            E = c[:, rows] @ k.mT
            E.sub_(torch.linalg.vecdot(P, E).unsqueeze(-1))
            U.mul_(P)  # P U
            dk.baddbmm_(U.mT, c[:, rows])
            U.mul_(E)  # P U E
            E.mul_(P)
            dr[:, rows] = E @ v
            dv.baddbmm_(E.mT, r[:, rows])
            U.sub_(P.mul_(U.sum(-1, keepdim=True)))
            dq[:, rows] = U @ k
            dk.baddbmm_(U.mT, q[:, rows], alpha=ctx.scale)
        return dq.mul_(ctx.scale), dk, dv, dr, None


def _softmax_and_slope(q, k, v, r, scale):
    P = torch.softmax((q * scale) @ k.mT, -1)
    U = r @ v.mT
    return P, U.sub_(torch.linalg.vecdot(P, U).unsqueeze(-1))


def _blocks(q, k):
    """Slices of queries that keep a (G, rows, K) buffer within `_BUFFER`."""
    rows = max(1, _BUFFER.get(q.device.type, _BUFFER["cuda"]) // (len(k) * k.shape[1]))
    return [slice(start, start + rows) for start in range(0, q.shape[1], rows)]
