"""The bottleneck: tokens of width D become latents of L numbers each, in one of three ways.

none        the latents are the tokens themselves (L = D)
normalized  linear to L, layer norm without affine (eps 1e-6), gamma and beta, linear back to D (VecSetX, `_nb`)
kl          mean and log variance of L numbers, drawn in training, the mean otherwise; KL to the unit normal (`_kl`)
"""

import torch
import torch.nn.functional as F
from torch import nn


class NoBottleneck(nn.Module):
    def __init__(self, dim, code_dim):
        super().__init__()

    def pre(
        self, x_BMD: torch.Tensor, noise_BML: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """-> (latents_BML, kl_B or None)"""
        return x_BMD, None

    def post(self, latents_BML: torch.Tensor) -> torch.Tensor:
        return latents_BML


class NormalizedBottleneck(nn.Module):
    def __init__(self, dim, code_dim):
        super().__init__()
        self.pre_bottleneck_proj = nn.Linear(dim, code_dim)
        self.post_bottleneck_proj = nn.Linear(code_dim, dim)
        self.gamma = nn.Parameter(torch.ones(code_dim))
        self.beta = nn.Parameter(torch.zeros(code_dim))

    def pre(
        self, x_BMD: torch.Tensor, noise_BML: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        code = self.pre_bottleneck_proj(x_BMD)
        return F.layer_norm(code, code.shape[-1:], eps=1e-6) * self.gamma + self.beta, None

    def post(self, latents_BML: torch.Tensor) -> torch.Tensor:
        return self.post_bottleneck_proj(latents_BML)


class KLBottleneck(nn.Module):
    """KL divergence to N(0, 1), summed over the numbers of all latents and divided by their count (per case).

    The draw's unit normal numbers are given as `noise_BML`, one stream per case and epoch, so that neither ranks nor
    batches change them; without it training draws from torch's own generator."""

    def __init__(self, dim, code_dim):
        super().__init__()
        self.mean_proj = nn.Linear(dim, code_dim)
        self.logvar_proj = nn.Linear(dim, code_dim)
        self.post_bottleneck_proj = nn.Linear(code_dim, dim)

    def pre(
        self, x_BMD: torch.Tensor, noise_BML: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mean, logvar = self.mean_proj(x_BMD), self.logvar_proj(x_BMD)
        if mean.dtype in (torch.bfloat16, torch.float16):  # under autocast exp(logvar) needs more digits
            mean, logvar = mean.float(), logvar.float()
        logvar = logvar.clamp(-30, 20)
        kl_B = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(dim=(1, 2))
        if self.training:
            noise_BML = torch.randn_like(mean) if noise_BML is None else noise_BML.to(mean.dtype)
            return mean + (0.5 * logvar).exp() * noise_BML, kl_B
        return mean, kl_B

    def post(self, latents_BML: torch.Tensor) -> torch.Tensor:
        return self.post_bottleneck_proj(latents_BML)


BOTTLENECKS = {"": NoBottleneck, "nb": NormalizedBottleneck, "kl": KLBottleneck}
