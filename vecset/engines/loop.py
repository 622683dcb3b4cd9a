"""The loop over the steps of one epoch, and what steps leave behind: sums of losses and metrics, and whether every
number was finite.

Structure after facebookresearch/mae's engine_pretrain.py, with two differences: the host never waits for the device
inside a step, and every average is over cases. Nothing here makes the host wait except `MetricSums.read`,
`FiniteGuard.first_bad_step` and `FiniteGuard.bad_values`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from vecset.engines.distributed import Ranks, max_over_ranks, sum_over_ranks
from vecset.engines.losses import LOSSES, compute_losses, decoded_class_distances, decoded_points, in_groups
from vecset.engines.optimizer import gradient_norm, masked_step
from vecset.items.epoch_plan import EpochPlan
from vecset.models.embedding import surface_features

VERSION = 1  # of training: higher when the same cases and options give another model
METRICS = ("loss",) + LOSSES + ("iou_near", "iou_vol", "accuracy", "gradient_norm", "interrupted")


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


class MetricSums:
    """Averages over cases: `add` sums and counts on the device, `read` adds up over ranks and gives the means."""

    def __init__(self, ranks):
        self.ranks = ranks
        self._reset()

    def _reset(self):
        self._on_host = torch.zeros(len(METRICS), 2, dtype=torch.float64)
        self._on_device = {}  # names with a tensor -> (names, 2) sums

    def add(self, values):
        """values: name (of METRICS) -> (sum over cases, number of cases), each a 0-d tensor or number. Numbers stay on
        the host and tensors on the device until `read`: nothing is copied from one to the other."""
        there = tuple(sorted((name, i) for name, pair in values.items() for i in (0, 1) if torch.is_tensor(pair[i])))
        for name, pair in values.items():
            for i in (0, 1):
                if not torch.is_tensor(pair[i]):
                    self._on_host[METRICS.index(name), i] += pair[i]
        if there:
            new = torch.stack([values[name][i].detach().double() for name, i in there])
            self._on_device[there] = self._on_device[there] + new if there in self._on_device else new

    def read(self) -> dict[str, float]:
        """name -> mean over all cases of all ranks since the last reading, for every name that had any."""
        sums = self._on_host
        for there, totals in self._on_device.items():
            for (name, i), total in zip(there, totals.tolist()):
                sums[METRICS.index(name), i] += total
        self._reset()
        sums = sum_over_ranks(sums.to(self.ranks.device), self.ranks).tolist()
        return {name: total / count for name, (total, count) in zip(METRICS, sums) if count}


class FiniteGuard:
    """Freezes the weights from the first step whose loss or gradient is not finite, on all ranks alike."""

    def __init__(self, ranks):
        self.ranks = ranks
        self.skip = torch.zeros((), device=ranks.device)  # 1 from the first bad step on
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=ranks.device)
        self._bad_values, self._names = None, ()

    def check(self, values: dict[str, torch.Tensor], global_step: int) -> torch.Tensor:
        """values: name -> 0-d tensor, this rank's losses and gradient norm. Returns the mask for `masked_step`."""
        self._names = tuple(values)
        now = torch.stack([v.detach().float() for v in values.values()])
        bad = max_over_ranks((~torch.isfinite(now).all()).float(), self.ranks)
        first = (bad > 0) & (self.skip == 0)
        self._bad_step = torch.where(first, global_step, self._bad_step)
        self._bad_values = (
            now if self._bad_values is None else torch.where(first | (self.skip == 0), now, self._bad_values)
        )
        self.skip = torch.maximum(self.skip, bad)
        return self.skip

    def first_bad_step(self) -> int | None:
        """The global step that was not finite, or None. Waits for the device."""
        step = int(self._bad_step)
        return None if step < 0 else step

    def bad_values(self) -> dict[str, float]:
        """name -> value on this rank in that step."""
        return dict(zip(self._names, self._bad_values.tolist()))


class Monitor:
    """What training steps leave behind: `sums` of losses and metrics since the last reading, and the `guard` against
    numbers that are not finite."""

    def __init__(self, ranks: Ranks):
        self.sums, self.guard = MetricSums(ranks), FiniteGuard(ranks)


def to_device(batch: dict, device: torch.device) -> dict:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def forward_losses(model, batch: dict, options: StepOptions, num_classes: int, num_latents: int | None = None):
    """One pass. -> (total loss, name -> (sum over cases, cases) of every raw loss and point metric, surface_BNF). The
    network runs under autocast; distances, losses and metrics are float32. The batch has Eikonal points, normal points
    and noise for the KL bottleneck and for two answers where these are needed. num_latents: as in `model.forward`."""
    kind = "seen" if "states" in batch else "surface"
    surface_BNF = surface_features(batch[f"{kind}_points"], batch[f"{kind}_labels"], num_classes)
    points_BT3, *targets = decoded_points(batch)
    with torch.autocast(points_BT3.device.type, dtype=torch.bfloat16, enabled=options.bf16):
        outputs = model(
            surface_BNF,
            points_BT3,
            slope_points(batch),
            batch.get("code_noise"),
            num_latents,
            batch.get("states"),
            batch.get("answer_noise"),
        )
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
        class_sdf_BTC=decoded_class_distances(batch),
        weights_BT=batch.get("point_weights"),
        **options.loss_options,
    )
    cases = len(points_BT3)
    values = {name: (value.detach() * cases, cases) for name, value in {"loss": total, **raw}.items()}
    return total, {**values, **point_metrics(outputs, targets, batch["annotated"])}, surface_BNF


def forward_backward(
    model, batch: dict, options: StepOptions, num_classes: int, num_latents: int | None, weight: float
) -> dict:
    """One pass and its gradient, times `weight`, which is added to that of the parameters. -> values as of
    `forward_losses`."""
    loss, values, _ = forward_losses(model, batch, options, num_classes, num_latents)
    (loss * weight).backward()
    return values


def slope_points(batch: dict) -> torch.Tensor | None:
    """Where the gradient of the distance is wanted: Eikonal points, then normal points (B, E, 3), or None."""
    parts = [batch[name] for name in ("eikonal_points", "normal_points") if name in batch]
    return torch.cat(parts, 1) if parts else None


def train_one_epoch(
    model: torch.nn.Module,
    batches: Iterator[dict],
    plan: EpochPlan,
    optimizer: torch.optim.Optimizer,
    rate_at: Callable[[float], float],
    options: StepOptions,
    num_classes: int,
    epoch: int,
    first_step: int,
    monitor: Monitor,
    after_step: Callable[[int, int, float], bool],
    num_latents: int | None = None,
    one_pass: Callable[..., dict] = forward_backward,
) -> int:
    """Optimizer steps `first_step`.. of `epoch`. -> number of steps done (all, unless `after_step` asked to stop).

    model        the network, or its DDP wrapper
    batches      iterator over this rank's batches in the plan's order (`EpochPlan.keys`)
    rate_at      real epoch -> learning rate
    after_step   called with (epoch, steps done, learning rate); true: stop here
    num_latents  as in `model.forward`
    one_pass     `forward_backward`, or what does the same in another way (compiling.GraphedPass)
    """
    sums, guard = monitor.sums, monitor.guard
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
                values = one_pass(model, batch, options, num_classes, num_latents, micro.weight)
            for name, (total, _) in values.items():
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


@torch.no_grad()
def point_metrics(
    outputs: dict, targets: tuple[torch.Tensor, torch.Tensor, torch.Tensor], annotated_BC: torch.Tensor
) -> dict:
    """Metrics at the decoded points: name -> (sum over cases, number of cases where it is defined).

    iou_near, iou_vol   intersection over union of 'inside' (distance < 0) among near points, and among volume points
    accuracy            share of inside points of annotated classes whose largest logit is their class
    """
    sdf_BT, labels_BT, group_BT = targets
    truth_BT, predicted_BT = sdf_BT < 0, outputs["sdf_BQ"] < 0
    values = {}
    for name, members in (("iou_near", ("near",)), ("iou_vol", ("inside", "outside"))):
        chosen_BT = in_groups(group_BT, members)
        values[name] = _ratio_per_case((truth_BT & predicted_BT & chosen_BT), ((truth_BT | predicted_BT) & chosen_BT))
    known_BT = (labels_BT > 0) & annotated_BC.gather(1, (labels_BT - 1).clamp_min(0))
    right_BT = known_BT & (outputs["logits_BQC"].argmax(-1) + 1 == labels_BT)
    values["accuracy"] = _ratio_per_case(right_BT, known_BT)
    return values


def _ratio_per_case(part_BT, whole_BT):
    part_B, whole_B = part_BT.sum(1), whole_BT.sum(1)
    defined_B = whole_B > 0
    return torch.where(defined_B, part_B / whole_B.clamp_min(1), 0.0).double().sum(), defined_B.sum()
