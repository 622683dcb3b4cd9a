"""Several answers from one network: a few random numbers steer what does not follow from what is seen.

The numbers change the latents before and after every layer of the latent stack, by factors and shifts of their channels
(conditioning as in FiLM, Perez et al., AAAI 2018). Training draws two answers and compares them with the truth and
with each other (vecset/engines/losses.py), so that answers come to differ as truths do: engression (Shen and
Meinshausen, J. R. Stat. Soc. B 2024); one vector of numbers for the whole heart makes its structures go together.
Numbers of 0 change nothing: that is the one answer of a network that is asked for one.
"""

import torch
from torch import nn

FIRST_SIZE = 0.05  # of the factors and shifts that random numbers make before any training


class AnswerNoise(nn.Module):
    """Factors and shifts for latents of width `dim` at `places` places, from `count` numbers per heart."""

    def __init__(self, count: int, dim: int, places: int):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(count, 2 * dim, bias=False) for _ in range(places))
        for layer in self.maps:
            nn.init.normal_(layer.weight, std=FIRST_SIZE * count**-0.5)

    def forward(self, place: int, x_BMD: torch.Tensor, noise_BK: torch.Tensor) -> torch.Tensor:
        """(B, M, D) latents as the numbers (B, K) change them."""
        factor, shift = self.maps[place](noise_BK).unsqueeze(1).chunk(2, dim=-1)
        return x_BMD * (1 + factor) + shift
