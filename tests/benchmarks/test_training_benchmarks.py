"""The benchmarks of the training step and of the loading: they run, and their reference and their counts are right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from step_parts import (
    CLASSES,
    random_batch,
    randomise_output,
    reference_losses,
)

from vecset.engines.loop import StepOptions, forward_losses
from vecset.engines.losses import DEFAULT_WEIGHTS, decoded_points
from vecset.models import attention
from vecset.models.autoencoder import build_model

NAME = "learnable_vec16x8_dim128_depth2_nb"


def model_and_batch(eikonal=32):
    torch.manual_seed(0)
    model = build_model(NAME, CLASSES)
    randomise_output(model)
    return model, random_batch(2, 128, 96, eikonal)


def test_reference_and_ours_agree_at_the_same_points():
    model, batch = model_and_batch()
    everywhere = {**batch, "eikonal_points": decoded_points(batch)[0]}
    for items, all_points in ((batch, False), (everywhere, True)):
        weights, gradients, losses = {**DEFAULT_WEIGHTS, "eikonal": 1.0}, [], []
        for ours in (True, False):
            model.zero_grad()
            if ours:
                loss = forward_losses(model, items, StepOptions(weights), CLASSES)[0]
            else:
                loss = reference_losses(model, items, weights, all_points)[0]
            loss.backward()
            losses.append(loss.item())
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()
    assert attention.fused_attention is not attention.plain_attention  # put back


BARE = """
# stands in for a bare PyTorch image: whatever is neither torch's, numpy's nor ours cannot be imported
import runpy, sys
for name in ("scipy", "skimage", "nibabel", "edt", "trimesh", "numba", "pykdtree", "tqdm", "matplotlib", "wandb",
             "tensorboardX", "pandas", "pytest"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_benchmark(repository, name, *words):
    return subprocess.run(
        [sys.executable, "-c", BARE, str(repository / "benchmarks" / name), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_gpu_train_runs_on_a_bare_image_and_says_that_a_cpu_is_no_gpu(repository):
    run = run_benchmark(repository, "gpu_train.py", "--tiny", "--device", "cpu", "--no_compile", "--steps", 1)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("NOT A GPU FIGURE") == 2 and "goal" not in run.stdout
    rows = [
        line.split("|")[1:-1]
        for line in run.stdout.splitlines()
        if line.startswith("| ours") or line.startswith("| reference")
    ]
    assert [(int(r[1]), r[2].strip(), r[4].strip()) for r in rows] == [
        (2, "yes", "kept"),
        (4, "yes", "kept"),
        (8, "yes", "kept"),
        (8, "yes", "recomputed"),
        (2, "yes", "kept"),
        (4, "yes", "kept"),
        (2, "no", "kept"),
        (4, "no", "kept"),
        (8, "no", "kept"),
        (8, "no", "recomputed"),
    ]
    assert [row[0].strip() for row in rows].index("reference") == 4
    assert all(float(r[5]) > 0 and float(r[6]) > 0 for r in rows)
    late = run_benchmark(repository, "gpu_train.py", "--tiny", "--device", "cpu", "--minutes", 0)
    assert late.returncode == 0 and late.stdout.count("the time is up") == 16  # with the compiled rows


@pytest.mark.slow
def test_recipe_steps_runs_on_a_bare_image(repository):
    run = run_benchmark(repository, "recipe_steps.py", "--tiny", "--device", "cpu", "--steps", 1)
    assert run.returncode == 0 and "NOT A GPU FIGURE" in run.stdout, run.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines() if "|" in line]
    assert [row[0] for row in rows if row[-1] == "yes"] == ["16", "32"], "the same points by both ways"
    assert [row[5] for row in rows if row[0].startswith("point_")] == ["all", "16", "16"]
    assert "left out: CUDA graphs need a GPU" in run.stdout


@pytest.mark.slow
def test_the_floor_of_a_step_and_where_its_time_goes(repository):
    run = run_benchmark(repository, "step_floor.py", "--tiny", "--steps", 1)
    assert run.returncode == 0, run.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines() if "|" in line]
    steps = [row for row in rows if row[0] in ("1", "2")]
    assert [(row[0], row[2]) for row in steps[:3]] == [("1", "handed back"), ("1", "kept"), ("2", "kept")]
    assert all(float(row[3]) > 0 and float(row[6]) > 0 for row in steps) and any("aten::mm" in row for row in rows)


@pytest.mark.parametrize("name", ["gpu_train.py", "recipe_steps.py"])
def test_without_a_gpu_it_says_what_to_do(repository, name):
    run = run_benchmark(repository, name, "--device", "cpu")
    assert run.returncode == 2 and run.stderr.startswith("error: no GPU") and run.stderr.count("\n") == 1


def test_gpu_train_judges_by_the_goals():
    import gpu_train

    sizes = gpu_train.SIZES["full"]
    results = {
        ("ours", 16, True, False, False, False): {"seconds": 0.2, "peak_gb": 30.0},
        ("ours", 64, True, False, True, False): {"seconds": 0.5, "peak_gb": 41.0},
        ("ours", 64, False, False, True, False): {"seconds": 0.1, "peak_gb": 1.0},  # without the Eikonal term
        ("ours", 64, True, False, False, False): None,
        ("reference", 16, True, False, False, True): {"seconds": 1.0, "peak_gb": 60.0},
    }
    lines = gpu_train.verdict(sizes, results)
    assert "cases per second: 128.0 (goal >= 100: met)" in lines[0] and "0.69 h (goal < 1 h: met)" in lines[1]
    assert "41.0 GB (goal <= 40 GB: NOT met)" in lines[2] and "5.0 times the time, 2.0 times the memory" in lines[3]


@pytest.mark.slow
def test_train_step_prints_its_tables(repository):
    run = run_benchmark(
        repository,
        "train_step.py",
        "--model",
        "learnable_vec16x8_dim64_depth1_nb",
        "--surface",
        256,
        "--queries",
        96,
        "--eikonal",
        32,
        "--steps",
        1,
        "--only",
        "reference",
        "Q",
        "--small",
    )
    assert run.returncode == 0, run.stderr
    losses = [
        line.split("|")[6].strip()
        for line in run.stdout.splitlines()
        if "at the same 32" in line or line.startswith("| fused")
    ]
    assert len(losses) == 2 and float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
    assert run.stdout.count("\n| 384 |") == run.stdout.count("\n| 1536 |") == 1


def test_mapped_members_are_those_of_the_file_and_the_benchmark_runs(repository, tmp_path):
    import data_loading

    data_loading.write_ball(tmp_path / "a.npz", 200, 0)
    with np.load(tmp_path / "a.npz") as members:
        assert json.loads(str(members["meta"]))["classes"] == 10
        for name in ("surface_points", "near_sdf", "vol_labels", "surface_normals"):
            mapped = data_loading.map_member(tmp_path / "a.npz", name)
            assert isinstance(mapped, np.memmap) and np.array_equal(mapped, members[name])
    entry = data_loading.ListedCase("a", tmp_path / "a.npz", class_names=tuple("abcdefghij"), annotated=(True,) * 10)
    counts = {"surface": 50, "queries": 60, "eikonal": 5}
    items = [
        data_loading.make_dataset(way, [entry], counts)[3, 0]
        for way in ("memory cache", "memory-mapped", "plain reads")
    ]
    for name in items[0]:
        assert np.array_equal(items[0][name], items[1][name]) and np.array_equal(items[0][name], items[2][name])
    run = run_benchmark(
        repository,
        "data_loading.py",
        "--cases",
        3,
        "--rows",
        300,
        "--surface",
        100,
        "--queries",
        60,
        "--eikonal",
        20,
        "--batch_size",
        2,
        "--repeat",
        1,
        "--epochs",
        2,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("| memory-mapped |") == 2
