"""What a run's lines say of its speed: operations per second, and their share of a card's peak."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import GradientWatcher, make_run, records
from helpers.operation_counter import OperationCounter

from vecset.engines import progress, setup
from vecset.engines.logging import format_speed
from vecset.engines.loop import Monitor, train_one_epoch
from vecset.items.loader import iterate_batches
from vecset.main_ae import main
from vecset.models import attention

POINTS = (
    "--model",
    "point_vec8x4_dim32_depth1_nb",
    "--anchors",
    "--rotary",
    "--early_latents",
    4,
    "--early_share",
    0.5,
)
LOSSES = ("--surface_loss_points", 7, "--normal_weight", 0.1, "--normal_points", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=5, val=1)


def test_a_step_has_the_operations_that_pytorch_counts(data, tmp_path, monkeypatch):
    """With fewer latents in the first epochs, a part of the surface points, normals, two passes per step and a last
    step of one case."""
    monkeypatch.setattr(attention, "fused_attention", attention.plain_attention)
    run = make_run(data, tmp_path, *POINTS, *LOSSES, "--accum_iter", 2, "--epochs", 2)
    for epoch, latents in ((0, 4), (1, None)):
        assert run.latents_in(epoch) == latents
        found = []

        def after_step(*position, counter, found=found):
            found.append(counter.total)
            counter.total = 0
            return False

        with OperationCounter() as counter:
            train_one_epoch(
                run.wrapped,
                iterate_batches(run.dataset, run.plan.keys(epoch, 0, epoch + 1)),
                run.plan,
                GradientWatcher(run.model),
                lambda e: 1e-3,
                run.step_options,
                len(run.class_names),
                epoch,
                0,
                Monitor(run.ranks),
                lambda *position, counter=counter: after_step(*position, counter=counter),
                num_latents=latents,
            )
        expected = [run.step_operations(epoch, step) for step in range(run.plan.steps_per_epoch)]
        assert len(found) == 2 and found == pytest.approx(expected, rel=1e-3)


def test_lines_and_log_have_operations_per_second(data, tmp_path, capsys, monkeypatch):
    """On a CPU GFLOP/s and no share; where the cards' peak is known, the share of it."""
    words = [*POINTS, "--epochs", 2, "--print_every", 1]
    assert main(tiny_arguments(data, tmp_path / "a", *words)) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("epoch 2/2 step 1/"))
    assert " GFLOP/s | " in line and "MFU" not in line
    log = [json.loads(x) for x in (tmp_path / "a" / "log.txt").read_text().splitlines()]
    trained = [x for x in log if x["kind"] == "train"]
    run = make_run(data, tmp_path / "b", *words)
    for x in trained:
        operations = run.step_operations(x["epoch"], x["step"] - 1)
        assert x["flop_per_second"] * x["step_seconds"] == pytest.approx(operations) and "mfu" not in x

    monkeypatch.setattr(setup.Training, "peak", lambda training: 1e12)
    assert main(tiny_arguments(data, tmp_path / "c", *words)) == 0
    assert " GFLOP/s (MFU " in capsys.readouterr().out
    trained = [json.loads(x) for x in (tmp_path / "c" / "log.txt").read_text().splitlines()]
    assert all(x["mfu"] == x["flop_per_second"] / 1e12 for x in trained if x["kind"] == "train")

    # a network whose operations are not counted has lines without them, and the same losses
    monkeypatch.setattr(setup, "pass_operations", lambda *words: None)
    assert main(tiny_arguments(data, tmp_path / "d", *words)) == 0
    assert "FLOP/s" not in capsys.readouterr().out
    assert records(tmp_path / "a") == records(tmp_path / "c") == records(tmp_path / "d")


def test_the_peak_is_that_of_all_cards_in_the_precision_of_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    training = SimpleNamespace(
        ranks=SimpleNamespace(device=torch.device("cuda", 0), size=4), step_options=SimpleNamespace(bf16=True)
    )
    assert setup.Training.peak(training) == 4 * 312e12
    training.step_options.bf16 = False
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for tf32, peak in ((False, 4 * 19.5e12), (True, 4 * 156e12)):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            assert setup.Training.peak(training) == peak
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card of next year")
    assert setup.Training.peak(training) is None
    training.ranks.device = torch.device("cpu")
    assert setup.Training.peak(training) is None


def test_units():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert format_speed({"flop_per_second": 12.34e9}, cpu) == "12.3 GFLOP/s "
    assert format_speed({"flop_per_second": 312e12, "mfu": 0.3156}, gpu) == "312 TFLOP/s (MFU 31.6 %) "
    assert format_speed({"flop_per_second": 0.5e12}, gpu) == "0.5 TFLOP/s " and format_speed({}, cpu) == ""
    assert progress.format_speed is format_speed
