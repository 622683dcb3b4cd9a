"""Golden figures: from label maps to metrics.csv, a change that should alter no result alters none.

golden.json holds what commit 2a7695d makes. Label maps, case files and losses are equal to the last bit on the kind of
processor that made them; another one rounds differently, and there figures are compared within a tolerance.
"""

import csv
import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.engine_parts import records

from vecset.commands import create_csv, make_phantoms, prepare_data
from vecset.main_ae import main as train
from vecset.phantom.phantom import PhantomOptions, make_phantom

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
PHANTOMS = {  # seed, index, options
    "cube": (0, 0, dict(size=(64, 64, 64))),
    "another heart": (0, 1, dict(size=(64, 64, 64))),
    "another seed": (11, 0, dict(size=(48, 56, 64))),
    "given spacing": (0, 0, dict(size=None, spacing_mm=(1.5, 1.5, 3.0))),
    "oblique, flipped, cut": (3, 2, dict(size=(56, 56, 56), oblique_deg=25.0, flip=(0, 2), cut=0.2)),
    "missing, noise": (3, 2, dict(size=(56, 56, 56), missing={9: 1.0, 8: 1.0, 3: 0.5}, noise_mm=0.8)),
}
POINTS = ("--num_surface_points", "1500", "--num_vol_points", "1500", "--num_near_points", "1500")
TRAINING = (
    *("--model", "learnable_vec16x8_dim64_depth1_nb", "--batch_size", 2, "--point_cloud_size", 512),
    *("--near_points", 512, "--inside_points", 512, "--outside_points", 512, "--eikonal_points", 32),
    *("--lr", 0.003, "--epochs", 40, "--warmup_epochs", 4, "--eval_every", 40, "--print_every", 1),
    *("--grid_size", 16, "--num_workers", 0, "--device", "cpu"),
)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def rounds_differently(what):
    warnings.warn(
        f"{what}: not the golden bits (another processor rounds differently), compared by figures", stacklevel=2
    )


@pytest.mark.parametrize("name", PHANTOMS)
def test_label_maps(name):
    seed, index, options = PHANTOMS[name]
    labels, _ = make_phantom(seed, index, PhantomOptions(**options))
    if digest(labels) != GOLDEN["label_maps"][name]["sha256"]:
        rounds_differently(name)
        voxels = np.bincount(labels.ravel(), minlength=11)
        assert np.abs(voxels - GOLDEN["label_maps"][name]["voxels"]).max() <= 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three phantoms, their case files and the split."""
    folder = tmp_path_factory.mktemp("golden")
    labels, cases = str(folder / "labels"), str(folder / "cases")
    phantoms = ["--num", "3", "--size", "64", "--seed", "0", "--file_workers", "1"]
    assert make_phantoms.main(["--output_dir", labels, *phantoms]) == 0
    options = ["--classes", "10", *POINTS, "--seed", "0", "--file_workers", "0"]
    assert prepare_data.main(["--input_dir", labels, "--output_dir", cases, *options]) == 0
    split = ["--val_ratio", "0.34", "--seed", "0"]
    assert create_csv.main(["--data_dir", cases, "--output_dir", cases, *split]) == 0
    return folder


@pytest.mark.parametrize("case", GOLDEN["case_files"])
def test_case_files(folder, case):
    wanted = GOLDEN["case_files"][case]
    with np.load(folder / "cases" / f"{case}.npz") as archive:
        assert archive.files == list(wanted)
        for name, golden in wanted.items():
            array = archive[name]
            if digest(array) == golden["sha256"]:
                continue
            rounds_differently(f"{case}, {name}")
            if name == "meta":
                assert sorted(json.loads(str(array))) == golden["summary"]
                continue
            assert (str(array.dtype), list(array.shape)) == (golden["dtype"], golden["shape"]), name
            values = array.astype(np.float64)
            found = [values.sum(), np.abs(values).sum(), np.square(values).sum()]
            assert found == pytest.approx(golden["summary"], rel=1e-6, abs=1e-6 * golden["summary"][1]), name


@pytest.fixture(scope="module")
def trained(folder):
    words = ("--data_path", folder / "cases", "--output_dir", folder / "train", *TRAINING)
    assert train([str(word) for word in words]) == 0
    return folder


def losses(folder):
    return [[record["kind"], record["loss"]] for record in records(folder / "train")]


@pytest.mark.slow
def test_losses(trained):
    found, wanted = losses(trained), GOLDEN["losses"]
    assert [kind for kind, _ in found] == [kind for kind, _ in wanted] and len(wanted) == 41
    if found != wanted:
        rounds_differently("losses")
    for (_, loss), (_, golden) in zip(found[:10], wanted):
        assert loss == pytest.approx(golden, rel=1e-5)
    assert found[-1][1] == pytest.approx(wanted[-1][1], rel=1e-2)  # rounding grows from step to step


@pytest.mark.slow
def test_metrics(trained, repository):
    out = trained / "reconstruction"
    words = ("--checkpoint", trained / "train" / "checkpoint-last.pth", "--input", trained / "cases" / "val.csv")
    words += ("--output_dir", out, "--train_csv", trained / "cases" / "train.csv", "--no_meshes", "--device", "cpu")
    command = [sys.executable, repository / "reconstruct.py", *words]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    with open(out / "metrics.csv", newline="", encoding="utf-8") as handle:
        found, wanted = list(csv.DictReader(handle)), GOLDEN["metrics"]
    assert [list(row) for row in found] == [list(row) for row in wanted]
    same_losses = losses(trained) == GOLDEN["losses"]
    for row, golden in zip(found, wanted):
        for name, value in golden.items():
            of_model = not name.startswith(("floor_", "truth_", "mean_shape", "nearest_heart"))
            if name in ("case_id", "class_id", "class_name", "observed"):
                assert row[name] == value
            elif of_model and not same_losses:
                continue
            elif name == "status" or not value:
                assert row[name] == value, (golden["class_name"], name)
            else:
                assert float(row[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-4), (golden["class_name"], name)
    if not same_losses:
        rounds_differently("metrics of the model")
        assert float(found[-1]["dice"]) == pytest.approx(float(wanted[-1]["dice"]), abs=0.05)
