"""What a shape model's fit says at any point: its signed distances to the structures that are unknown or cut.

The encoder reads proposals, points on the surfaces that were fitted (shape_model.py); a latent has few numbers to pass
them on. The decoder is told the fit itself: with a query's token go the distances that the fitted model has there. So
where the fit is right the network need only agree, and what it learns is where to depart from it.

A fit is a few numbers, and they are part of the code of a heart: the last rows of its latents. Of a heart that nothing
is to be inferred of they are zeros, and its field is that of a network without all this.

Shapes: B hearts, Q queries, C structures, K modes, V cells of the model, R rows of L numbers, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from vecset.models.shape_model import CLIP, ShapeFit, ShapeModel

SHARPER = 4.0  # the distances are told once more as tanh of so many times them: near a surface, the side matters


class FittedShape(NamedTuple):
    """The place in the model of x is map x + shift; field_BV: the distances at the model's cells; wanted_BC bool:
    structures that are told."""

    field_BV: torch.Tensor
    map_B33: torch.Tensor
    shift_B3: torch.Tensor
    wanted_BC: torch.Tensor


class ProposedDistances(nn.Module):
    """Adds to a query's token (B, Q, D) what the fit says there. Of zeros at first: a network that was trained without
    stays the same function."""

    def __init__(self, num_classes: int, num_modes: int, dim: int, code_dim: int):
        """code_dim: L, numbers in a row of the latents."""
        super().__init__()
        self.parts = [9, 3, num_modes, num_classes]  # of the numbers of a fit: turn and scale, shift, weights, wanted
        self.code_dim, self.num_rows = code_dim, -(-sum(self.parts) // code_dim)
        self.tell = nn.Sequential(nn.Linear(2 * num_classes + 2, dim), nn.GELU(), nn.Linear(dim, dim))
        nn.init.zeros_(self.tell[2].weight)
        nn.init.zeros_(self.tell[2].bias)

    def rows_of(self, fit: ShapeFit, wanted_BC: torch.Tensor) -> torch.Tensor:
        """(B, R, L) f32: the fit as rows of latents."""
        turn_B9 = (fit.scale_B[:, None, None] * fit.turn_B33).flatten(1)
        numbers = torch.cat([turn_B9, fit.shift_B3, fit.weights_BK, wanted_BC.to(fit.shift_B3.dtype)], 1)
        numbers = torch.where(wanted_BC.any(1, keepdim=True), numbers, 0.0)
        padded = F.pad(numbers, (0, self.num_rows * self.code_dim - sum(self.parts)))
        return padded.view(len(numbers), self.num_rows, self.code_dim)

    def read(self, rows_BRL: torch.Tensor, model: ShapeModel) -> FittedShape | None:
        """The fit of `rows_of`. None, in passes without gradients, where no heart of the batch wants anything told."""
        numbers = rows_BRL.detach().flatten(1).float()  # joined to what is learned, and not learned itself
        turn_B9, shift_B3, weights_BK, wanted_BC = numbers[:, : sum(self.parts)].split_with_sizes(self.parts, 1)
        wanted_BC = wanted_BC > 0.5
        if not torch.is_grad_enabled() and not wanted_BC.any():
            return None
        return FittedShape(model.field_of(weights_BK), turn_B9.view(-1, 3, 3), shift_B3, wanted_BC)

    def forward(self, model: ShapeModel, fitted: FittedShape, queries_BQ3: torch.Tensor) -> torch.Tensor:
        """(B, Q, D), zero where nothing is wanted; with slopes in the queries."""
        with torch.autocast(queries_BQ3.device.type, enabled=False):
            places_BQ3 = queries_BQ3.float() @ fitted.map_B33.transpose(1, 2) + fitted.shift_B3.unsqueeze(1)
            clipped_BQC = model.distances_in(fitted.field_BV, places_BQ3).clamp(-CLIP, CLIP) / CLIP
            told_BQC = torch.where(fitted.wanted_BC.unsqueeze(1), clipped_BQC, 1.0)
            least_BQ1 = told_BQC.amin(-1, keepdim=True)
            told = torch.cat([least_BQ1, (SHARPER * least_BQ1).tanh(), told_BQC, (SHARPER * told_BQC).tanh()], -1)
        some_B11 = fitted.wanted_BC.any(1).view(-1, 1, 1)
        return torch.where(some_B11, self.tell(told), 0.0)
