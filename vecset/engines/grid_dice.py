"""Dice per class over the whole field: the number that chooses the best checkpoint.

Near points say little about a field: it can be right at every one of them and have islands far off. So validation
decodes a regular grid over the whole unit cube and compares it with the truth there.
"""

import numpy as np
import torch

from vecset.data.dataset import grid_points_unit
from vecset.engines.distributed import sum_over_ranks
from vecset.models.labels import labels_of

_QUERIES_AT_ONCE = 1 << 17  # over all cases of the batch


@torch.no_grad()
def decode_grid(model, surface_BNF, grid_size):
    """(B, grid_size^3) u8 labels (`labels_of`) at the points of `grid_points_unit`."""
    points_G3 = torch.from_numpy(grid_points_unit(grid_size)).to(surface_BNF.device)
    context = model.process_latents(model.encode(surface_BNF))
    cases = len(surface_BNF)
    labels = []
    for chunk_Q3 in points_G3.split(max(1, _QUERIES_AT_ONCE // cases)):
        sdf_BQ, logits_BQC = model.decode(context, chunk_Q3.expand(cases, -1, -1))
        labels.append(labels_of(sdf_BQ, logits_BQC))
    return torch.cat(labels, 1)


class GridDice:
    """Adds up, per class: the Dice of the cases where it is defined, and the counts of absent, missed and invented."""

    def __init__(self, class_names, ranks):
        self.class_names, self.ranks = list(class_names), ranks
        self._sums = torch.zeros(len(self.class_names), 5, dtype=torch.float64, device=ranks.device)

    def add(self, predicted_BG, truth_BG, annotated_BC):
        """Labels u8 on the grid. Classes that were not annotated are left out."""
        K = len(self.class_names) + 1
        pairs = truth_BG.long() * K + predicted_BG.long()
        confusion = torch.stack([torch.bincount(p, minlength=K * K) for p in pairs]).view(-1, K, K).double()
        both = confusion.diagonal(dim1=1, dim2=2)[:, 1:]
        truth, predicted = confusion.sum(2)[:, 1:], confusion.sum(1)[:, 1:]
        annotated = annotated_BC.to(both.device)
        defined = annotated & (truth + predicted > 0)
        dice = torch.where(defined, 2 * both / (truth + predicted).clamp_min(1), 0.0)
        self._sums += torch.stack(
            [dice, defined, annotated & ~defined, defined & (predicted == 0), defined & (truth == 0)], -1
        ).sum(0)

    def read(self):
        """-> (mean over the classes that count, or None; per class a dict: dice (None where no case counts), cases,
        absent (in truth and prediction: left out), missed and invented (in only one: Dice 0))."""
        per_class = {}
        for name, (dice, cases, absent, missed, invented) in zip(
            self.class_names, sum_over_ranks(self._sums, self.ranks).tolist()
        ):
            per_class[name] = {
                "dice": dice / cases if cases else None,
                "cases": int(cases),
                "absent": int(absent),
                "missed": int(missed),
                "invented": int(invented),
            }
        defined = [c["dice"] for c in per_class.values() if c["dice"] is not None]
        return (float(np.mean(defined)) if defined else None), per_class
