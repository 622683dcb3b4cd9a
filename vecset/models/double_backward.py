"""Checks, once when a run starts, that the slope of attention that the Eikonal decode uses is right, and its gradient.

The Eikonal loss is a function of a gradient, so a kernel that gives the gradient must itself be differentiated.
PyTorch's fused kernels raise there. Others do not: their first backward is a constant to the second, the loss looks
right, and most parameters silently get no gradient from it, or a wrong one.
"""

import torch

from vecset.common.errors import InputError
from vecset.models import attention, attention_slope

TOLERANCE = 1e-3  # of the largest value; float32 kernels are at 1e-6, a missing term is at 1


def check_double_backward(device: torch.device | str, kernel=None) -> None:
    """Raises InputError with the kernel's name where its value or a gradient of it differs from those of attention
    written out in float64 and differentiated twice by autograd. `kernel`: as `attention_slope`, by default the one that
    the Eikonal decode uses."""
    kernel = kernel or attention_slope.slope_kernel
    name = ".".join(filter(None, (getattr(kernel, "__module__", ""), getattr(kernel, "__qualname__", repr(kernel)))))
    exact = _derivatives(slope_by_autograd, "cpu", torch.float64)
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


def slope_by_autograd(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, r: torch.Tensor, scale: float) -> torch.Tensor:
    """`attention_slope` by its definition: the reference."""
    return torch.autograd.grad(attention.plain_attention(q, k, v, scale), q, r, create_graph=True)[0]


def _refusal(name, reason):
    return InputError.because(
        "the Eikonal decode",
        f"the attention kernel {name} cannot be differentiated twice: {reason}",
        "use vecset.models.attention_slope.attention_slope, or --eikonal_weight 0",
    )


def _derivatives(kernel, device, dtype):
    """name -> the slope of a tiny attention (B 2, H 2, Q 5, K 7, d 8) and its gradients in q, k, v and r."""
    generator = torch.Generator().manual_seed(0)

    def draw(tokens):
        return torch.randn(2, 2, tokens, 8, generator=generator, dtype=torch.float64).to(device, dtype)

    leaves, weight = [draw(tokens).requires_grad_(True) for tokens in (5, 7, 7, 5)], draw(5)
    with torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
        slope = kernel(*leaves, 8**-0.5)
        gradients = torch.autograd.grad((slope * weight).sum(), leaves, allow_unused=True)
    named = {"slope": slope, **{f"gradient in {n}": g for n, g in zip("qkvr", gradients)}}
    return {name: None if value is None else value.detach() for name, value in named.items()}
