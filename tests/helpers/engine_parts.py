"""What the engine's tests share: a run without a command, and an optimizer that only looks at gradients."""

import json

import torch

from helpers.ball_cases import tiny_arguments
from vecset.engines.arguments import build_parser
from vecset.engines.distributed import Ranks
from vecset.engines.loop import Monitor, train_one_epoch
from vecset.engines.setup import Training, set_up
from vecset.items.loader import iterate_batches

torch.set_num_threads(1)  # these models are so small that a second thread only waits, most of all on a busy machine

ONE = Ranks(0, 1, torch.device("cpu"))


def make_run(data, output, *more, ranks=ONE) -> Training:
    """A training run's parts, of tiny size, whose output layer is not zero (there it would hide most gradients)."""
    run = set_up(build_parser().parse_args(tiny_arguments(data, output, *more)), ranks)
    randomise(run.model)
    return run


def randomise(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.to_outputs.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


class GradientWatcher:
    """Looks like an optimizer; keeps each step's gradients and changes nothing."""

    def __init__(self, model):
        self.model, self.steps = model, []
        self.param_groups = [{"params": list(model.parameters())}]

    def step(self):
        self.steps.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})

    def zero_grad(self, set_to_none):
        self.model.zero_grad(set_to_none=set_to_none)


def epoch_gradients(run, epoch=0, monitor=None):
    """[name -> gradient] of every optimizer step of an epoch, weights held. `monitor` collects the steps' metrics."""
    watcher = GradientWatcher(run.model)
    run.step_options.clip_grad = 0
    batches = iterate_batches(run.dataset, run.plan.keys(epoch, 0, epoch + 1))
    train_one_epoch(
        run.wrapped,
        batches,
        run.plan,
        watcher,
        lambda e: 1e-3,
        run.step_options,
        len(run.class_names),
        epoch,
        0,
        monitor or Monitor(run.ranks),
        lambda *position: False,
    )
    return watcher.steps


def records(output):
    """The log without what differs between any two runs."""
    times = ("time", "step_seconds", "cases_per_second", "memory_gb", "flop_per_second", "mfu")
    lines = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def assert_same_state(a, b, but=()):
    for key in ("model", "optimizer"):
        one, other = (torch.utils._pytree.tree_flatten(c[key])[0] for c in (a, b))
        assert len(one) == len(other)
        for x, y in zip(one, other):
            assert torch.equal(x, y) if torch.is_tensor(x) else x == y
    for key in ("epoch", "step", "global_step", "best_metric", "best_epoch", "metrics", "status"):
        if key in but:
            continue
        assert a[key] == b[key], key
