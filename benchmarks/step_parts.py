"""What the benchmarks of the training step share: batches of random points, and the reference of the step.

The reference has a token for every point (no folding of linear maps), plain attention everywhere (a Q x K buffer for
every head), float32, and the Eikonal gradient taken on the main graph at all decoded points, queries and surface
points. torch and numpy only.
"""

import contextlib
import json
import math
import time

import torch

from vecset.engines.losses import DEFAULT_WEIGHTS, compute_losses, decoded_points
from vecset.models import attention, attention_slope
from vecset.models.double_backward import slope_by_autograd
from vecset.models.embedding import surface_features
from vecset.models.operations import pass_operations

CLASSES = 10


class Rows:
    """The rows of a benchmark's table as JSON: one object a line in `path` (None: nowhere), written as each ends, so
    that a run that is stopped leaves those before. No row begins after `minutes`. failed: rows whose note says so."""

    def __init__(self, path=None, minutes=math.inf):
        self.path, self.failed, self._deadline = path, 0, time.monotonic() + 60 * minutes
        if path:
            open(path, "w", encoding="utf-8").close()

    def late(self):
        return time.monotonic() > self._deadline

    def write(self, **row):
        self.failed += row.get("note", "").startswith("failed")
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def random_batch(cases, surface, queries, eikonal, device="cpu", seed=0, decoded=0):
    """A batch with the keys of docs/design.md: points in a ball of radius 0.8 cut into slabs. The numbers of `queries`
    are near, inside and outside points in equal parts; eikonal 0: no Eikonal points; decoded: how many of the surface
    points are decoded (0: all)."""
    generator = torch.Generator().manual_seed(seed)
    radius = 0.8
    direction = torch.randn(cases, surface, 3, generator=generator)
    surface_points = radius * direction / direction.norm(dim=-1, keepdim=True)
    points = torch.rand(cases, queries, 3, generator=generator) * 2 - 1
    sdf = points.norm(dim=-1) - radius

    def labels(at):
        return ((at[..., 0] + radius) / (2 * radius) * CLASSES).floor().clamp(0, CLASSES - 1).long() + 1

    batch = {
        "surface_points": surface_points,
        "surface_labels": labels(surface_points),
        "surface_sdf": torch.zeros(cases, surface),
        "query_points": points,
        "query_sdf": sdf,
        "query_labels": labels(points) * (sdf < 0),
        "query_group": torch.arange(queries).remainder(3).repeat(cases, 1),
        "annotated": torch.ones(cases, CLASSES, dtype=torch.bool),
        "case_index": torch.arange(cases),
    }
    if decoded:
        batch["surface_decoded"] = torch.rand(cases, surface, generator=generator).argsort(1)[:, :decoded]
    if eikonal:
        batch["eikonal_points"] = points[:, :eikonal]
    return {name: value.to(device) for name, value in batch.items()}


def randomise_output(model):
    """The output layer starts at zero, where most gradients are zero and a step costs the same but shows nothing."""
    torch.nn.init.normal_(model.to_outputs[1].weight, 0, 0.02)


@contextlib.contextmanager
def as_the_reference(model):
    """Plain attention everywhere, differentiated by autograd alone, and a token for every point."""
    kept = attention.fused_attention, attention_slope.slope_kernel
    attention.fused_attention, attention_slope.slope_kernel = attention.plain_attention, slope_by_autograd
    model.fold = False
    try:
        yield
    finally:
        (attention.fused_attention, attention_slope.slope_kernel), model.fold = kept, True


def reference_losses(model, batch, weights=None, all_points=True):
    """(total, raw losses) of the reference. all_points: the Eikonal term at every decoded point, on the main graph;
    else at the batch's eikonal_points, decoded once more as ours does it, so that only the attention differs."""
    weights = weights or DEFAULT_WEIGHTS
    points_BT3, *targets = decoded_points(batch)
    surface_BNF = surface_features(batch["surface_points"], batch["surface_labels"], CLASSES)
    with as_the_reference(model):
        if all_points and weights.get("eikonal"):
            points_BT3 = points_BT3.clone().requires_grad_(True)
            outputs = model(surface_BNF, points_BT3)
            outputs["gradient_BE3"] = torch.autograd.grad(outputs["sdf_BQ"].sum(), points_BT3, create_graph=True)[0]
        else:
            outputs = model(surface_BNF, points_BT3, batch.get("eikonal_points"))
    return compute_losses(outputs, targets, batch["annotated"], weights)


def step_flop(name, surface, queries, eikonal, num_latents=None, **options):
    """Floating point operations of one training step of one case, as vecset/models/operations.py counts them; queries:
    decoded besides all surface points; options: of the network."""
    config = {"name": name, "num_classes": CLASSES, **options}
    return pass_operations(config, 1, surface, queries + surface, eikonal, num_latents)


def human(number, unit=""):
    """1234567 -> '1.23 M'."""
    if not number:
        return f"0 {unit}".strip()
    power = min(4, int(math.log10(abs(number)) // 3))
    return f"{number / 1000**power:.3g} {['', 'k', 'M', 'G', 'T'][power]}{unit}"
