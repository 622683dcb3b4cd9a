"""Validation: losses and metrics at points, and the Dice per class over the whole field.

The mean Dice chooses the best checkpoint. Near points say little about a field: it can be right at every one of them
and have islands far off. So validation decodes a regular grid over the whole unit cube and compares it with the truth.
"""

from collections.abc import Callable

import numpy as np
import torch

from vecset.engines.distributed import Ranks, gather_objects, sum_over_ranks
from vecset.engines.logging import format_values, say
from vecset.engines.loop import FiniteGuard, MetricSums, NotFiniteError, StepOptions, forward_losses, to_device
from vecset.engines.losses import LOSSES
from vecset.imaging.class_names import distinct_names
from vecset.items.dataset import CaseDataset, grid_points_unit, grid_truth
from vecset.items.loader import iterate_batches
from vecset.models.labels import labels_of

_QUERIES_AT_ONCE = 1 << 17  # over all cases of the batch
_LOSS_NAMES = ("loss",) + LOSSES


@torch.no_grad()
def decode_grid(
    model: torch.nn.Module, surface_BNF: torch.Tensor, grid_size: int, states_BC: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, grid_size^3) u8 labels (`labels_of`) at the points of `grid_points_unit`. states_BC: as in `model.encode`."""
    points_G3 = torch.from_numpy(grid_points_unit(grid_size)).to(surface_BNF.device)
    told = {} if states_BC is None else {"states_BC": states_BC}
    context = model.process_latents(model.encode(surface_BNF, **told))
    cases = len(surface_BNF)
    labels = []
    at_once = _QUERIES_AT_ONCE // (cases * getattr(model, "decoder_passes", 1))
    for chunk_Q3 in points_G3.split(max(1, at_once)):
        sdf_BQ, logits_BQC = model.decode(context, chunk_Q3.expand(cases, -1, -1))
        labels.append(labels_of(sdf_BQ, logits_BQC))
    return torch.cat(labels, 1)


class GridDice:
    """Adds up, per class: the Dice of the cases where it is defined, and the counts of cases where the class is absent,
    missed or spurious (`invented` in stored tables)."""

    def __init__(self, class_names: list[str], ranks: Ranks):
        self.class_names, self.ranks = distinct_names(class_names), ranks
        self._sums = torch.zeros(len(self.class_names), 5, dtype=torch.float64, device=ranks.device)

    def add(self, predicted_BG: torch.Tensor, truth_BG: torch.Tensor, annotated_BC: torch.Tensor) -> None:
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

    def read(self) -> tuple[float | None, dict[str, dict]]:
        """-> (mean over the classes with a Dice, or None; per class a dict: dice (None where no case has one), cases,
        absent (in neither truth nor prediction: left out), missed (in the truth only) and invented (in the prediction
        only), which both have Dice 0)."""
        rows = [
            {
                "dice": dice / cases if cases else None,
                "cases": int(cases),
                "absent": int(absent),
                "missed": int(missed),
                "invented": int(invented),
            }
            for dice, cases, absent, missed, invented in sum_over_ranks(self._sums, self.ranks).tolist()
        ]
        defined = [row["dice"] for row in rows if row["dice"] is not None]
        return (float(np.mean(defined)) if defined else None), dict(zip(self.class_names, rows, strict=True))


class Evaluator:
    """Losses and metrics at the same groups of points as in training (fixed draws), and the Dice per class on a grid
    over the whole cube. Every case is on one rank, once."""

    def __init__(
        self,
        dataset: CaseDataset,
        ranks: Ranks,
        options: StepOptions,
        class_names: list[str],
        batch_size: int,
        grid_size: int,
        num_workers: int = 0,
    ):
        self.dataset, self.ranks, self.options = dataset, ranks, options
        self.class_names, self.batch_size, self.grid_size = class_names, batch_size, grid_size
        self.num_workers = num_workers
        self.own = list(range(ranks.rank, len(dataset), ranks.size))
        names = [case.dataset for case in dataset.cases]
        self.of_datasets = {name: names.count(name) for name in sorted(set(names))} if len(set(names)) > 1 else {}
        self._truth = {}  # case number -> labels on the grid, u8 (grid_size^3 bytes per case)

    def truth(self, index: int) -> torch.Tensor:
        """Labels of a case on the grid (grid_size^3,), kept after the first reading."""
        if index not in self._truth:
            self._truth[index] = torch.from_numpy(grid_truth(self.dataset.cases[index], self.grid_size))
        return self._truth[index]

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module, interrupted: Callable[[], bool] = lambda: False) -> dict | None:
        """`model`: the bare network, not its DDP wrapper. -> dict: name -> mean over cases, `mean_dice`, `per_class`,
        `slices` (labels of the first case's middle planes, on rank 0) and, where the cases are of several data sets,
        `datasets` {name: {cases, mean_dice, per_class}}; None where any rank was `interrupted`.
        Raises NotFiniteError, on all ranks, where a loss is not finite: such a validation chooses no checkpoint."""
        model.eval()
        sums, dice = MetricSums(self.ranks), GridDice(self.class_names, self.ranks)
        of_datasets = {name: GridDice(self.class_names, self.ranks) for name in self.of_datasets}
        guard = FiniteGuard(Ranks(0, 1, self.ranks.device))  # of this rank: ranks have different numbers of batches
        slices, stopped = None, False
        keys = [[(0, i) for i in self.own[s : s + self.batch_size]] for s in range(0, len(self.own), self.batch_size)]
        for number, batch in enumerate(iterate_batches(self.dataset, keys, self.num_workers, tell=say)):
            stopped = interrupted()
            if stopped:
                break
            batch = to_device(batch, self.ranks.device)
            _, values, surface_BNF = forward_losses(model, batch, self.options, len(self.class_names))
            sums.add(values)
            guard.check({n: values[n][0] / values[n][1] for n in _LOSS_NAMES if n in values}, number)
            with torch.autocast(surface_BNF.device.type, dtype=torch.bfloat16, enabled=self.options.bf16):
                predicted_BG = decode_grid(model, surface_BNF, self.grid_size, batch.get("states"))
            truth_BG = torch.stack([self.truth(int(i)) for i in batch["case_index"]]).to(self.ranks.device)
            dice.add(predicted_BG, truth_BG, batch["annotated"])
            mine = [self.dataset.cases[int(i)].dataset for i in batch["case_index"]]
            for name in self.of_datasets.keys() & set(mine):
                rows = [row for row, dataset in enumerate(mine) if dataset == name]
                of_datasets[name].add(predicted_BG[rows], truth_BG[rows], batch["annotated"][rows])
            if slices is None and self.ranks.main:
                slices = [self._middle_planes(labels_BG[0]) for labels_BG in (truth_BG, predicted_BG)]
        self._check_finite(guard, keys)
        sums.add({"interrupted": (float(stopped), 1)})
        results = sums.read()
        results["mean_dice"], results["per_class"] = dice.read()
        if of_datasets:
            results["datasets"] = {
                name: {"cases": self.of_datasets[name], **dict(zip(("mean_dice", "per_class"), of_it.read()))}
                for name, of_it in of_datasets.items()
            }
        if results.pop("interrupted"):
            return None
        return {**results, "slices": slices}

    def _check_finite(self, guard, keys):
        """Raises NotFiniteError on all ranks where a batch on any of them was not finite."""
        number, bad = guard.first_bad_step(), None
        if number is not None:
            cases = ", ".join(self.dataset.cases[i].case_id for _, i in keys[number])
            bad = f"cases {cases}: {format_values(guard.bad_values())}"
        messages = [message for message in gather_objects(bad, self.ranks) if message]
        if messages:
            raise NotFiniteError(f"validation: a loss is not finite ({'; '.join(messages)})")

    def _middle_planes(self, labels_G):
        """Three (grid, grid) u8 planes through the middle of the cube, across x, y and z."""
        cube = labels_G.view(3 * (self.grid_size,))
        return [cube.select(axis, self.grid_size // 2).cpu().numpy() for axis in range(3)]
