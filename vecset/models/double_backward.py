"""Is the attention of the Eikonal decode really differentiable twice? Asked once, when a run starts.

The Eikonal loss is a function of a gradient, so its own gradient needs the kernel's backward to be differentiated.
PyTorch's fused kernels raise there. Others do not: their first backward is a constant to the second, the loss looks
right, and most parameters silently get no gradient from it, or a wrong one.
"""

import torch

from vecset.errors import InputError
from vecset.models import attention

TOLERANCE = 1e-3  # of the largest value; float32 kernels are at 1e-6, a missing term is at 1


def check_double_backward(device, kernel=None):
    """Raises InputError with the kernel's name where its value, gradient, or the gradient of its gradient differs from
    those of attention written out in float64. `kernel`: as `plain_attention`, by default the one that the Eikonal
    decode uses."""
    kernel = kernel or attention.twice_differentiable_attention
    name = ".".join(filter(None, (getattr(kernel, "__module__", ""), getattr(kernel, "__qualname__", repr(kernel)))))
    exact = _derivatives(attention.plain_attention, "cpu", torch.float64)
    try:
        found = _derivatives(kernel, device, torch.float32)
    except (RuntimeError, NotImplementedError) as error:
        raise _refusal(name, f"it raises {type(error).__name__}: {str(error)[:160]}") from None
    for what, value in exact.items():
        if found[what] is None:
            raise _refusal(name, f"no {what} comes out of it")
        error = ((found[what].double().cpu() - value).abs().max() / value.abs().max()).item()
        if not error < TOLERANCE:
            raise _refusal(name, f"its {what} is wrong by {error:.2g} of its size")


def _refusal(name, reason):
    return InputError("the Eikonal decode", "an attention kernel that can be differentiated twice",
                      f"{name}: {reason}", "use vecset.models.attention.plain_attention, or --eikonal_weight 0")


def _derivatives(kernel, device, dtype):
    """name -> value, gradients and second gradients of a tiny attention (B 2, H 2, Q 5, K 7, d 8) in q, k and v."""
    generator = torch.Generator().manual_seed(0)

    def draw(tokens):
        return torch.randn(2, 2, tokens, 8, generator=generator, dtype=torch.float64).to(device, dtype)

    leaves = [draw(tokens).requires_grad_(True) for tokens in (5, 7, 7)]
    weight, directions = draw(5), [draw(tokens) for tokens in (5, 7, 7)]
    with torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
        out = kernel(*leaves, 8**-0.5)
        first = torch.autograd.grad((out * weight).sum(), leaves, create_graph=True)
        slope = sum((g * d).sum() for g, d in zip(first, directions))
        second = torch.autograd.grad(slope, leaves, allow_unused=True)
    named = {"value": out, **{f"gradient in {n}": g for n, g in zip("qkv", first)},
             **{f"second gradient in {n}": g for n, g in zip("qkv", second)}}
    return {name: None if value is None else value.detach() for name, value in named.items()}
