"""--compile where torch.compile does not work: one line before training. Recorded passes: their bookkeeping, with a
recording that needs no GPU (with a GPU's own: test_cuda.py)."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import rank_environment
from helpers.variant_models import batch, randomised

from vecset.common.errors import EXIT_BAD_INPUT, InputError
from vecset.engines.compiling import GraphedPass, compile_error, is_compile_error, require_compiler
from vecset.engines.distributed import Ranks
from vecset.engines.loop import Monitor, StepOptions, forward_backward, train_one_epoch
from vecset.engines.losses import DEFAULT_WEIGHTS
from vecset.engines.optimizer import build_optimizer
from vecset.items.epoch_plan import MicroBatch


@pytest.mark.parametrize(
    "text, said, to_do",
    [
        ("InvalidCxxCompiler: No working C++ compiler found in x: (None, 'g++')\n\nSet TORCH", "No working", "g++"),
        (
            "C++ compile error\n\nCommand:\ng++ a\nfatal error: Python.h: No such file",
            "Python.h",
            "python3-dev",
        ),
        ("OSError: [Errno 28] No space left on device", "No space left", "TORCHINDUCTOR_CACHE_DIR"),
        ("something else\nand more", "something else", "; leave --compile out"),
        ("", "ValueError", "; leave --compile out"),
    ],
)
def test_the_line_names_the_cause_and_what_to_do(text, said, to_do):
    line = str(compile_error(ValueError(text)))
    assert line.startswith("--compile: torch.compile does not work here (") and "\n" not in line
    assert said in line and to_do in line and line.endswith("leave --compile out")


def test_only_errors_of_the_compiler_are_taken_for_one():
    assert is_compile_error(torch._dynamo.exc.TorchDynamoException("x")) and not is_compile_error(RuntimeError("x"))


def test_a_trial_that_fails_is_an_input_error(monkeypatch):
    def broken(function, **options):
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match="working triton installation.*; install the Triton"):
        require_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables, said",
    [
        ({"PATH": "{folder}"}, "No working C++ compiler"),
        ({"TORCHINDUCTOR_CACHE_DIR": "{folder}/file/cache"}, "Not a directory"),
    ],
    ids=["no compiler", "no cache"],
)
def test_training_ends_before_it_begins(repository, tmp_path, variables, said):
    data = write_ball_cases(tmp_path / "cases", train=2, val=1)
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "file").touch()
    given = {name: value.format(folder=tmp_path / "place") for name, value in variables.items()}
    environment = {**rank_environment(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **given}
    words = [sys.executable, str(repository / "vecset" / "main_ae.py")]
    words += tiny_arguments(data, tmp_path / "out", "--epochs", 2, "--compile")
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == EXIT_BAD_INPUT and said in answer.stderr and answer.stderr.count("\n") == 1
    assert not os.path.exists(tmp_path / "out")


class Recorder:
    """Records as CUDA does, without a GPU: `run` sees its own tensors again at every replay, and writes values and
    gradients to the memory of the first time."""

    def __init__(self):
        self.recorded = 0

    def __call__(self, run, parameters):
        self.recorded += 1
        values, gradients = run(), [p.grad for p in parameters]
        for gradient in gradients:
            if gradient is not None:
                gradient.fill_(torch.nan)  # recording computes nothing

        def replay():
            for parameter in parameters:
                parameter.grad = None
            new = run()
            for name, pair in new.items():
                for old, now in zip(values[name], pair):
                    if torch.is_tensor(old):
                        old.copy_(now)
            for parameter, gradient in zip(parameters, gradients):
                assert (gradient is None) == (parameter.grad is None)
                if gradient is not None:
                    gradient.copy_(parameter.grad)

        return replay, values


POINTS = ("point_vec8x4_dim128_depth1_nb", dict(anchors=True, rotary=True, fps_class_gap=2.0))
STEP = StepOptions({**DEFAULT_WEIGHTS, "eikonal": 0.5}, clip_grad=1.0)


def step_items(scale):
    items = batch()
    items["query_points"] = items["query_points"] * scale
    return items | {"eikonal_points": items["query_points"][:, :7], "case_index": torch.arange(2)}


class ThreeSteps:
    """Stands in for an EpochPlan: `passes` passes in each of three steps."""

    steps_per_epoch = 3

    def __init__(self, passes):
        self.passes = passes

    def micro_batches(self, epoch, step):
        return [MicroBatch((0, 1), 2, 1 / self.passes)] * self.passes


@pytest.mark.parametrize("passes, recorded", [(1, 1), (2, 1)], ids=["one pass a step", "two"])
def test_recorded_passes_train_as_others_do(passes, recorded):
    outcomes = []
    for recorder in (None, Recorder()):
        model = randomised(*POINTS)
        monitor = Monitor(Ranks(0, 1, torch.device("cpu")))
        train_one_epoch(
            model,
            itertools.cycle([step_items(scale) for scale in (1.0, 0.8, 0.6)]),
            ThreeSteps(passes),
            build_optimizer(model, 1e-3, 0.05, 0.99),
            lambda epoch: 1e-3 * (1 + epoch),
            STEP,
            10,
            0,
            0,
            monitor,
            lambda *_: False,
            **({"one_pass": GraphedPass(record=recorder)} if recorder else {}),
        )
        outcomes.append((monitor.sums.read(), torch.cat([p.detach().flatten() for p in model.parameters()])))
    assert recorder.recorded == recorded
    assert outcomes[0][0] == outcomes[1][0] and torch.equal(outcomes[0][1], outcomes[1][1])


def test_other_shapes_and_numbers_of_latents_are_recorded_for_themselves_or_run_as_they_are():
    model, recorder = randomised(*POINTS), Recorder()
    one_pass = GraphedPass(most_kinds=2, record=recorder)
    small = {name: value[:1] for name, value in step_items(1.0).items()}
    seen = []
    for items, latents, count in (
        (step_items(1.0), None, 1),
        (step_items(0.5), 4, 2),
        (step_items(0.7), 4, 2),
        (small, None, 2),  # a third kind
        (step_items(0.9), None, 2),
    ):
        found = []
        for way in (one_pass, forward_backward):
            model.zero_grad(set_to_none=True)
            values = way(model, items, STEP, 10, latents, 0.5)
            found.append((values["loss"][0].item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        assert found[0][0] == found[1][0] and all(map(torch.equal, found[0][1], found[1][1]))
        assert recorder.recorded == count
        seen.append(found[0][0])
    assert len(set(seen)) == 5
