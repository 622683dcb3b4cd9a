"""Inside a training step the host never asks the device for a value.

The steps run on torch's fake tensors, which have shapes and no values: `.item()`, `.tolist()`, `bool()`, a shape that
depends on values, all that makes a host wait for a GPU raises there. New tensors made from the host's numbers (a copy
that waits, too) are caught as they are made. benchmarks/gpu_train.py counts the same on a GPU, by torch's own account.
"""

import itertools

import pytest
import torch
from helpers.variant_models import CLASS_DISTANCE_VARIANTS, VARIANTS, batch, with_class_distances
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vecset.engines import loop
from vecset.engines.distributed import Ranks
from vecset.engines.loop import Monitor, StepOptions, forward_losses, train_one_epoch
from vecset.engines.losses import DEFAULT_WEIGHTS, losses_of
from vecset.engines.optimizer import build_optimizer
from vecset.items.epoch_plan import MicroBatch
from vecset.models.autoencoder import build_model

TOLD = (
    "point_vec8x4_dim128_depth1_nb",
    {"anchors": True, "rotary": True, "states": True, "shape_model": {"cells": 80, "modes": 3, "template": 4}},
)
EVERYTHING = {name: weight or 0.5 for name, weight in DEFAULT_WEIGHTS.items()}


class Steps:
    """Stands in for an EpochPlan: two steps, of two passes and of one."""

    steps_per_epoch = 2

    def micro_batches(self, epoch, step):
        return [MicroBatch((0, 1), 2, 0.5)] * 2 if step == 0 else [MicroBatch((0, 1), 2, 1.0)]


class FromTheHost(TorchDispatchMode):
    """Raises where a tensor is made of numbers of the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default):
            raise AssertionError("a tensor was made from the host's numbers")
        return function(*args, **(kwargs or {}))


def two_steps(name, options, class_loss="bce", recompute=False):
    """The monitor after two steps on fake tensors, with every loss switched on."""
    model = build_model(name, 10, **options)
    model.checkpoint_activations(recompute)
    used = losses_of(options.get("network", "joint"), options.get("class_outputs", "logits"))
    data = with_class_distances(batch()) if model.has_class_distances else batch()
    data |= {
        "eikonal_points": data["query_points"][:, :7],
        "case_index": torch.arange(2),
        "code_noise": torch.randn(2, 20, 4),
    }
    if "normal" in used:
        data |= {"normal_points": data["surface_points"][:, :5], "normal_vectors": data["surface_points"][:, 5:10]}
    if options.get("states"):
        data |= {name.replace("surface", "seen"): data[name] for name in ("surface_points", "surface_labels")}
        data["states"] = torch.arange(20).view(2, 10).remainder(4)
    optimizer = build_optimizer(model, 1e-3, 0.05, 0.99)
    monitor = Monitor(Ranks(0, 1, torch.device("cpu")))
    with FromTheHost():
        done = train_one_epoch(
            model,
            itertools.repeat(data),
            Steps(),
            optimizer,
            lambda epoch: 1e-3,
            StepOptions({name: EVERYTHING[name] for name in used}, {"class_loss": class_loss}, clip_grad=1.0),
            10,
            0,
            0,
            monitor,
            lambda *position: False,
        )
    assert done == 2
    return monitor


# every network; what can be chosen apart from it, with one of each kind of attention and with classes of their own
EVERY = [(*variant, "bce", False) for variant in [*VARIANTS, *CLASS_DISTANCE_VARIANTS, TOLD]]
EVERY += [(*variant, "softmax", True) for variant in (VARIANTS[0], VARIANTS[5], CLASS_DISTANCE_VARIANTS[3])]


@pytest.mark.parametrize("name, options, class_loss, recompute", EVERY)
def test_no_value_is_asked_for_inside_a_step(name, options, class_loss, recompute):
    with FakeTensorMode():
        monitor = two_steps(name, options, class_loss, recompute)
        for look in (monitor.sums.read, monitor.guard.first_bad_step):  # the values are asked for here, and only here
            with pytest.raises(DataDependentOutputException):
                look()


def test_the_test_sees_a_host_that_looks(monkeypatch):
    for spoil in (
        lambda total: float(total.detach()),
        lambda total: total.sqrt() if total > 0 else total,
        lambda total: torch.tensor([1.0]),
    ):

        def looking(*arguments, spoil=spoil):
            total, values, surface = forward_losses(*arguments)
            spoil(total)
            return total, values, surface

        monkeypatch.setattr(loop, "forward_losses", looking)
        with FakeTensorMode(), pytest.raises((DataDependentOutputException, AssertionError)):
            two_steps(*VARIANTS[0])
