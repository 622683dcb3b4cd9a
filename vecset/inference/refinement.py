"""`--refine`: the latents of a heart, improved on that heart while the network stays as it is.

An encoder gives the latents of a heart in one pass, for all hearts alike. The heart's label map says more: its
distances and labels are known at any point. So the latents are moved by gradient steps (Adam) until the decoded field
fits such points: the inference of an auto-decoder (DeepSDF, Park et al. 2019), begun at the encoder's answer. Only the
numbers of the latents move; their places stay, and they are stored and decoded as others are. The losses are those of
training; weights and learning rate are docs/log.md's, 2026-11-28.

A tenth of the points is never fitted. Where these are not fitted better in the end, the latents stay as they were.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from vecset.common.draws import random_stream
from vecset.common.errors import InputError
from vecset.data.case_file import Case
from vecset.engines.losses import CLASS_LOSSES, POINT_GROUPS, compute_losses
from vecset.inference.inputs import FIELD_MEMBERS
from vecset.inference.model import LoadedModel

LEARNING_RATE, WARMUP_STEPS, LAST_SHARE = 0.2, 5, 0.05  # of Adam: after the warm-up a cosine, down to this share
BETAS = (0.9, 0.95)
NEAR, VOLUME = 3072, 1024  # points of a step
WEIGHTS = {"near": 10.0, "vol": 1.0}
CLASS_WEIGHT = 0.3  # of the loss of class logits beside those of distances
BALANCED = 0.5  # of the points near surfaces: as many of each structure, for thin ones have few
HELD_OUT = 0.1  # of the points
SHOWN_FROM = (20.0, 200)  # seconds, steps: what takes longer shows its progress


@dataclass(frozen=True)
class Refinement:
    """How long: seconds by the clock, or a number of steps, which gives the same latents on any machine; 0: none."""

    seconds: float = 0.0
    steps: int = 0

    def __bool__(self):
        return bool(self.seconds or self.steps)


NO_REFINEMENT = Refinement()


def refine_latents(
    model: LoadedModel, case: Case, case_id: str, latents: torch.Tensor, how: Refinement
) -> tuple[torch.Tensor, dict]:
    """(latents (1, M, L) as of `LoadedModel.encode`, what was done: steps, seconds, and the loss of the points that are
    held out before and after) of a case with FIELD_MEMBERS. InputError where the network has other losses."""
    require_logits(model)
    points = _Points(case, model, case_id)
    start = latents.detach().clone().float()
    numbers = start.shape[2] - (3 if model.latents_have_places else 0)
    rows = start.shape[1] - model.stored_rows
    moving = start[:, :rows, :numbers].clone().requires_grad_(True)

    def whole(values):
        placed = torch.cat([values, start[:, :rows, numbers:]], 2)
        return torch.cat([placed, start[:, rows:]], 1)

    def loss(values, chosen):
        points_BT3, targets = chosen
        context = model.network.process_latents(whole(values))
        sdf_BQ, logits_BQC = model.network.decode(context, points_BT3)
        outputs = {"sdf_BQ": sdf_BQ, "logits_BQC": logits_BQC}
        distances = compute_losses(outputs, targets, points.annotated_BC, WEIGHTS)[0]
        labels_BT, losses = targets[1], 0.0
        # a point of a structure is of no other; in the background may be what nobody annotated
        for mine_BT, classes_BC in (
            (labels_BT > 0, torch.ones_like(points.annotated_BC)),
            (labels_BT == 0, points.annotated_BC),
        ):
            losses = losses + CLASS_LOSSES[model.class_loss](logits_BQC, labels_BT, classes_BC, mine_BT.float())
        return distances + CLASS_WEIGHT * losses

    with torch.no_grad():
        before = float(loss(moving, points.held_out()))
    optimizer = torch.optim.Adam([moving], lr=LEARNING_RATE, betas=BETAS)
    began, done, step = time.monotonic(), 0.0, 0
    short = how.seconds < SHOWN_FROM[0] and how.steps < SHOWN_FROM[1]
    bar = tqdm(total=100, unit="%", desc=f"fits {case_id}", leave=False, disable=short, dynamic_ncols=True)
    with torch.enable_grad(), bar:
        while done < 1:
            rate = LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate * min(1, (step + 1) / WARMUP_STEPS)
            optimizer.zero_grad()
            loss(moving, points.draw()).backward()
            optimizer.step()
            step += 1
            done = step / how.steps if how.steps else (time.monotonic() - began) / how.seconds
            bar.update(min(100, int(100 * done)) - bar.n)
    with torch.no_grad():
        after = float(loss(moving, points.held_out()))
    better = math.isfinite(after) and after < before
    told = {"steps": step, "seconds": round(time.monotonic() - began, 2), "kept": better}
    told |= {"loss_before": round(before, 6), "loss_after": round(after, 6) if math.isfinite(after) else None}
    return whole(moving.detach()) if better else latents, told


def require_logits(model: LoadedModel) -> None:
    """InputError for a network whose classes have no logits."""
    if model.class_loss is None:
        raise InputError.because(
            "--refine", "it is for networks with class logits, and this one has none", "leave it out"
        )


class _Points:
    """The points of a case, drawn for steps from a stream of its own."""

    def __init__(self, case: Case, model: LoadedModel, case_id: str):
        lacking = [name for name in FIELD_MEMBERS if name not in case.arrays]
        if lacking:
            raise InputError.because(
                case.path, f"it has no {lacking[0]}, which --refine needs", "give a label map, or leave out --refine"
            )
        self.rng = random_stream(model.seed, 0, case_id, "refine")
        self.device = model.device
        self.annotated_BC = torch.from_numpy(np.asarray(case.annotated, bool))[None].to(model.device)
        self.arrays, self.kept, self.apart = case.arrays, {}, {}
        for kind in ("near", "vol"):
            order = self.rng.permutation(len(case.arrays[f"{kind}_points"]))
            apart = max(1, int(HELD_OUT * len(order)))
            self.apart[kind], self.kept[kind] = order[:apart], order[apart:]
            if not len(self.kept[kind]):
                raise InputError.because(case.path, f"it has fewer than two {kind}_points", "make it again")
        source = np.asarray(case.arrays["near_source"])[self.kept["near"]]
        self.near_of = [self.kept["near"][source == c] for c in np.unique(source)]

    def draw(self):
        """Points of a step, (1, T, 3), and the targets of `compute_losses`."""
        balanced = int(BALANCED * NEAR) // len(self.near_of)
        parts = [self._some(mine, balanced) for mine in self.near_of]
        near = np.concatenate([*parts, self._some(self.kept["near"], NEAR - balanced * len(parts))])
        return self._of({"near": near, "vol": self._some(self.kept["vol"], VOLUME)})

    def _some(self, rows, count):
        return rows[self.rng.integers(len(rows), size=count)]

    def held_out(self):
        return self._of(self.apart)

    def _of(self, rows):
        def joined(what, dtype):
            parts = [
                np.asarray(self.arrays[f"{kind}_{what}"], dtype)[mine].reshape(len(mine), -1)
                for kind, mine in rows.items()
            ]
            return torch.from_numpy(np.concatenate(parts))[None].to(self.device)

        labels_BT, sdf_BT = joined("labels", np.int64).squeeze(2), joined("sdf", np.float32).squeeze(2)
        groups = []
        for kind, mine in rows.items():
            inside = np.asarray(self.arrays[f"{kind}_sdf"])[mine].ravel() < 0
            names = ("near", "near") if kind == "near" else ("outside", "inside")
            groups.append(np.where(inside, POINT_GROUPS.index(names[1]), POINT_GROUPS.index(names[0])))
        group_BT = torch.from_numpy(np.concatenate(groups))[None].to(self.device)
        return joined("points", np.float32), (sdf_BT, labels_BT, group_BT)
