"""Two processes by gloo against one process with the joint batch."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import epoch_gradients, make_run
from helpers.processes import rank_environment, torchrun

from vecset.engines.loop import Monitor
from vecset.weights.checkpoint import load_checkpoint

RANK_SCRIPT = """
import json, sys
import torch
sys.path[:0] = sys.argv[1:3]
from helpers.engine_parts import epoch_gradients, make_run
from vecset.engines.loop import Monitor
from vecset.engines.distributed import start_ranks, stop_ranks
ranks = start_ranks("cpu")
for number, words in enumerate(json.loads(sys.argv[5])):
    run = make_run(sys.argv[3], f"{sys.argv[4]}/{number}", *words, ranks=ranks)
    monitor = Monitor(ranks)
    gradients, trained = epoch_gradients(run, monitor=monitor), monitor.sums.read()
    results = run.evaluator.evaluate(run.model)
    results.pop("slices")
    torch.save(
        {"gradients": gradients, "trained": trained, "results": results}, f"{sys.argv[4]}/{number}_rank{ranks.rank}.pt"
    )
stop_ranks(ranks)
"""

KL_AND_MORE = (
    "--model",
    "point_vec8x4_dim32_depth1_kl",
    "--normal_weight",
    "0.3",
    "--normal_points",
    "8",
    "--balanced_weight",
    "0.5",
    "--truncated_weight",
    "2",
    "--checkpoint_activations",
)
PARTS = ("--model", "point_vec12x4_dim32_depth2_kl", "--anchors", "--network", "parts")
RUNS = {  # batch of a rank, accumulated batches, options
    "plain": (2, 1, ()),
    "accumulated": (1, 2, ()),
    "kl and more": (2, 1, KL_AND_MORE),
    "parts": (2, 1, PARTS),
    "class distances": (1, 2, ("--class_outputs", "both")),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=5, val=3, class_distances=True)


@pytest.fixture(scope="module")
def two_ranks(data, repository, tmp_path_factory):
    """name of a run -> [what rank 0 found, what rank 1 found]; one start of two ranks for all runs."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANK_SCRIPT)
    runs = [["--batch_size", str(b), "--accum_iter", str(a), *more] for b, a, more in RUNS.values()]
    words = [script, repository, repository / "tests", data, folder, json.dumps(runs)]
    ended = subprocess.run(
        [*torchrun(2), *map(str, words)], env=rank_environment(), timeout=300, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"two ranks ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return {
        name: [torch.load(folder / f"{number}_rank{rank}.pt", weights_only=True) for rank in range(2)]
        for number, name in enumerate(RUNS)
    }


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_have_the_gradient_and_the_metrics_of_one(data, two_ranks, tmp_path, name):
    """5 training cases: the last step has one case for two ranks. 3 validation cases: two for one rank, one for the
    other."""
    batch, accumulation, more = RUNS[name]
    ranks = two_ranks[name]
    one = make_run(data, tmp_path, "--batch_size", 2 * batch, "--accum_iter", accumulation, *more)
    monitor = Monitor(one.ranks)
    expected, trained = epoch_gradients(one, monitor=monitor), monitor.sums.read()
    assert len(expected) == 2 and {"loss", "eikonal", "iou_vol", "accuracy", "gradient_norm"} <= trained.keys()
    for rank in ranks:
        assert len(rank["gradients"]) == len(expected)
        for found, wanted in zip(rank["gradients"], expected):
            assert found.keys() == wanted.keys()
            for name in wanted:
                assert (found[name] - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
    results = one.evaluator.evaluate(one.model)
    results.pop("slices")
    for rank in ranks:
        assert rank["results"]["per_class"] == results["per_class"]
        assert rank["trained"] == pytest.approx(trained, rel=1e-6, abs=1e-6)
        assert rank["results"].keys() == results.keys()
        for name, value in results.items():
            if name != "per_class":
                assert rank["results"][name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_the_eikonal_decode_is_inside_the_wrapped_forward(data, tmp_path):
    """DDP sees what happens in the forward pass of its wrapper, and nothing beside it."""
    run, inside, seen = make_run(data, tmp_path), [], []

    class Wrapper(torch.nn.Module):
        def forward(self, *arguments):
            inside.append(True)
            outputs = run.model(*arguments)
            inside.pop()
            return outputs

    for name in ("encode", "process_latents", "decode_fields", "sdf_gradient", "forward"):
        method = getattr(run.model, name)
        setattr(run.model, name, lambda *a, name=name, method=method: seen.append((name, bool(inside))) or method(*a))
    run.wrapped = Wrapper()
    epoch_gradients(run)
    assert {("forward", True), ("decode_fields", True), ("sdf_gradient", True)} == set(seen) - {
        ("process_latents", True)
    }


def train_words(repository, data, output, *more):
    return [str(repository / "vecset" / "main_ae.py"), *tiny_arguments(data, output, "--print_every", 1, *more)]


@pytest.mark.slow
def test_ranks_stop_together_save_and_go_on_with_another_number_of_ranks(data, repository, tmp_path):
    words = train_words(repository, data, tmp_path, "--epochs", 100_000, "--eval_every", 100_000)
    run = subprocess.Popen(
        [*torchrun(2), *words], env=rank_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in run.stdout:
        if line.startswith("epoch 3/"):
            break
    run.send_signal(signal.SIGTERM)
    rest = run.communicate(timeout=120)[0]
    assert "forcefully" not in rest, "torchrun had to kill the ranks"
    assert "asked to stop: saved at epoch" in rest and run.returncode != 0
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "stopped"
    state = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert state["status"] == "stopped" and state["global_step"] >= 4
    alone = subprocess.run(
        [sys.executable, *words, "--max_steps", str(state["global_step"] + 1)],
        env=rank_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert alone.returncode == 0 and f"global step {state['global_step']}\n" in alone.stdout, alone.stderr


def rank_processes(launcher):
    """rank -> process id of the children that torchrun started."""
    found = {}
    with open(f"/proc/{launcher}/task/{launcher}/children") as children:
        for child in children.read().split():
            with open(f"/proc/{child}/environ", "rb") as variables:
                rank = [v for v in variables.read().split(b"\0") if v.startswith(b"RANK=")]
            if rank:
                found[int(rank[0][5:])] = int(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_crashes_leaves_a_whole_checkpoint_and_the_run_goes_on(data, repository, tmp_path, victim):
    """Saved after every step; killed without a warning, while it saves or not."""
    words = train_words(
        repository, data, tmp_path, "--epochs", 100_000, "--eval_every", 100_000, "--save_every_minutes", 0
    )
    run = subprocess.Popen(
        [*torchrun(2), *words], env=rank_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in run.stdout:
        if line.startswith("epoch 3/"):
            break
    os.kill(rank_processes(run.pid)[victim], signal.SIGKILL)
    run.communicate(timeout=120)
    assert run.returncode != 0
    state = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert state["global_step"] >= 3 and all(torch.isfinite(v).all() for v in state["model"].values())
    again = subprocess.run(
        [*torchrun(2), *words, "--max_steps", str(state["global_step"] + 1)],
        env=rank_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0 and f"global step {state['global_step']}\n" in again.stdout, again.stderr
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_is_named(repository, tmp_path):
    folder = write_ball_cases(tmp_path / "cases", train=4, val=2)
    with np.load(folder / "ball03.npz") as members:
        arrays = dict(members)
    arrays["near_sdf"][:] = np.nan
    np.savez(folder / "ball03.npz", **arrays)
    words = train_words(repository, folder, tmp_path / "out", "--epochs", 2, "--batch_size", 1)
    run = subprocess.run([*torchrun(2), *words], env=rank_environment(), capture_output=True, text=True, timeout=300)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "ball03" in errors[0] and "near nan" in errors[0], run.stderr
    assert "ball00" not in errors[0]
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["status"] == "not finite" and "exitcode  : 3" in run.stderr


@pytest.mark.slow
def test_bad_input_is_told_once(data, repository, tmp_path):
    words = train_words(repository, data, tmp_path / "out", "--classes", 10)
    run = subprocess.run([*torchrun(2), *words], env=rank_environment(), capture_output=True, text=True, timeout=300)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.returncode and len(errors) == 1 and "10 classes" in errors[0], run.stderr
    assert not (tmp_path / "out").exists()
