"""The loop: one epoch of training, one evaluation. Structure after facebookresearch/mae's engine_pretrain.py, with two
differences that matter: the host never waits for the device inside a step, and every average is over cases."""

import contextlib
from dataclasses import dataclass, field

import torch

from vecset.data.dataset import grid_truth, iterate_batches
from vecset.engines.distributed import Ranks, gather_objects
from vecset.engines.grid_dice import GridDice, decode_grid
from vecset.engines.logging import format_values
from vecset.engines.losses import LOSSES, compute_losses, decoded_points
from vecset.engines.optimizer import gradient_norm, masked_step
from vecset.engines.step_metrics import FiniteGuard, MetricSums, point_metrics
from vecset.models.embedding import surface_features

VERSION = 1  # of training: higher when the same cases and options give another model
_LOSS_NAMES = ("loss",) + LOSSES


class NotFiniteError(Exception):
    """A loss or gradient was not finite; the message says where, the weights are those before it."""


@dataclass
class StepOptions:
    """What a forward pass and its losses need to know: weights by name and further arguments of `compute_losses`,
    autocast to bfloat16 or not, and the clipping norm (0: none)."""

    loss_weights: dict
    loss_options: dict = field(default_factory=dict)
    bf16: bool = False
    clip_grad: float = 0.0


def to_device(batch, device):
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def forward_losses(model, batch, options, num_classes):
    """One pass. -> (total loss, name -> (sum over cases, cases) of every raw loss and point metric, surface_BNF). The
    network runs under autocast; distances, losses and metrics are float32. The batch has Eikonal points, normal points
    and noise of the code where the losses and the bottleneck want them."""
    surface_BNF = surface_features(batch["surface_points"], batch["surface_labels"], num_classes)
    points_BT3, *targets = decoded_points(batch)
    with torch.autocast(points_BT3.device.type, dtype=torch.bfloat16, enabled=options.bf16):
        outputs = model(surface_BNF, points_BT3, slope_points(batch), batch.get("code_noise"))
    if "normal_points" in batch:  # the last of the points at which the slope was taken
        count = batch["normal_points"].shape[1]
        slopes_BE3 = outputs.pop("gradient_BE3")
        outputs["normal_gradient_BS3"] = slopes_BE3[:, -count:]
        if "eikonal_points" in batch:
            outputs["gradient_BE3"] = slopes_BE3[:, :-count]
    total, raw = compute_losses(
        outputs,
        targets,
        batch["annotated"],
        options.loss_weights,
        normals_BS3=batch.get("normal_vectors"),
        **options.loss_options,
    )
    cases = len(points_BT3)
    values = {name: (value.detach() * cases, cases) for name, value in {"loss": total, **raw}.items()}
    return total, {**values, **point_metrics(outputs, targets, batch["annotated"])}, surface_BNF


def slope_points(batch):
    """Where the gradient of the distance is wanted: Eikonal points, then normal points (B, E, 3), or None."""
    parts = [batch[name] for name in ("eikonal_points", "normal_points") if name in batch]
    return torch.cat(parts, 1) if parts else None


def train_one_epoch(
    model, batches, plan, optimizer, rate_at, options, num_classes, epoch, first_step, monitor, after_step
):
    """Optimizer steps `first_step`.. of `epoch`. -> number of steps done (all, unless `after_step` asked to stop).

    batches      iterator over this rank's batches in the plan's order (`EpochPlan.keys`)
    rate_at      real epoch -> learning rate
    monitor      (MetricSums, FiniteGuard)
    after_step   called with (epoch, steps done, learning rate); true: stop here
    """
    sums, guard = monitor
    model.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(first_step, plan.steps_per_epoch):
        lr = rate_at(epoch + step / plan.steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        micro_batches = plan.micro_batches(epoch, step)
        step_loss = {}
        for number, micro in enumerate(micro_batches):
            batch = to_device(next(batches), sums.ranks.device)
            last = number == len(micro_batches) - 1
            with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                loss, values, _ = forward_losses(model, batch, options, num_classes)
                (loss * micro.weight).backward()
            for name, (total, count) in values.items():
                step_loss[name] = step_loss.get(name, 0) + total
            real = 1 if micro.count else 0  # a stand-in case is computed, but counts nowhere
            sums.add({name: (total * real, count * real) for name, (total, count) in values.items()})
        norm = gradient_norm(parameters, options.clip_grad)
        sums.add({"gradient_norm": (norm, 1)})
        skip = guard.check({**step_loss, "gradient_norm": norm}, epoch * plan.steps_per_epoch + step)
        masked_step(optimizer, skip)
        optimizer.zero_grad(set_to_none=True)
        if after_step(epoch, step + 1, lr):
            return step + 1
    return plan.steps_per_epoch


def new_monitor(ranks):
    return MetricSums(ranks), FiniteGuard(ranks)


class Evaluator:
    """Validation: the same groups of points as in training (fixed draws), losses and metrics at them, and the Dice per
    class on a grid over the whole cube. Every case is on one rank, once."""

    def __init__(self, dataset, ranks, options, class_names, batch_size, grid_size, num_workers=0):
        self.dataset, self.ranks, self.options = dataset, ranks, options
        self.class_names, self.batch_size, self.grid_size = class_names, batch_size, grid_size
        self.num_workers = num_workers
        self.own = list(range(ranks.rank, len(dataset), ranks.size))
        self._truth = {}  # case number -> labels on the grid, u8 (grid_size^3 bytes per case)

    def truth(self, index):
        if index not in self._truth:
            self._truth[index] = torch.from_numpy(grid_truth(self.dataset.cases[index], self.grid_size))
        return self._truth[index]

    @torch.no_grad()
    def evaluate(self, model, interrupted=lambda: False):
        """`model`: the bare network, not its DDP wrapper. -> dict: name -> mean over cases, `mean_dice`, `per_class`
        and `slices` (labels of the first case's middle planes, on rank 0); None where any rank was `interrupted`.
        Raises NotFiniteError, on all ranks, where a loss is not finite: such a validation chooses no checkpoint."""
        model.eval()
        sums, dice = MetricSums(self.ranks), GridDice(self.class_names, self.ranks)
        guard = FiniteGuard(Ranks(0, 1, self.ranks.device))  # of this rank: ranks have different numbers of batches
        slices, stopped = None, False
        keys = [[(0, i) for i in self.own[s : s + self.batch_size]] for s in range(0, len(self.own), self.batch_size)]
        for number, batch in enumerate(iterate_batches(self.dataset, keys, num_workers=self.num_workers)):
            stopped = interrupted()
            if stopped:
                break
            batch = to_device(batch, self.ranks.device)
            _, values, surface_BNF = forward_losses(model, batch, self.options, len(self.class_names))
            sums.add(values)
            guard.check({n: values[n][0] / values[n][1] for n in _LOSS_NAMES if n in values}, number)
            with torch.autocast(surface_BNF.device.type, dtype=torch.bfloat16, enabled=self.options.bf16):
                predicted_BG = decode_grid(model, surface_BNF, self.grid_size)
            truth_BG = torch.stack([self.truth(int(i)) for i in batch["case_index"]]).to(self.ranks.device)
            dice.add(predicted_BG, truth_BG, batch["annotated"])
            if slices is None and self.ranks.main:
                slices = [self._middle_planes(labels_BG[0]) for labels_BG in (truth_BG, predicted_BG)]
        self._check_finite(guard, keys)
        sums.add({"interrupted": (float(stopped), 1)})
        results = sums.read()
        results["mean_dice"], results["per_class"] = dice.read()
        if results.pop("interrupted"):
            return None
        return {**results, "slices": slices}

    def _check_finite(self, guard, keys):
        """Raises NotFiniteError on all ranks where a batch on any of them was not finite."""
        number, bad = guard.first_bad_step(), None
        if number is not None:
            cases = ", ".join(self.dataset.cases[i].case_id for _, i in keys[number])
            bad = f"cases {cases}: {format_values(guard.bad_values())}"
        told = [words for words in gather_objects(bad, self.ranks) if words]
        if told:
            raise NotFiniteError(f"validation: a loss is not finite ({'; '.join(told)})")

    def _middle_planes(self, labels_G):
        """Three (grid, grid) u8 planes through the middle of the cube, across x, y and z."""
        cube = labels_G.view(3 * (self.grid_size,))
        return [cube.select(axis, self.grid_size // 2).cpu().numpy() for axis in range(3)]
