"""reconstruct.py --samples: the formula's ball, whose radius a random number changes."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import NAMES, centred_ball, make_case, make_heart, run, write_checkpoint
from helpers.report_run import page_data

from vecset.fields.answers import answer_numbers
from vecset.fields.decision_tuning import DecisionTuning, write_decision_tuning
from vecset.imaging.label_map import file_sha256
from vecset.weights import checkpoint as checkpoint_file

N = 19


def spread_by_class(heart):
    """Ids of the reconstruction's structures on the page that have a spread; no other side has any."""
    truth, reconstruction = heart["surfaces"]["sides"]
    assert all(structure["spread"] is None for structure in truth)
    return {structure["class"] for structure in reconstruction if structure["spread"]}


@pytest.fixture
def several(workdir, monkeypatch):
    """Radius 0.7 + 0.05 of the first number; the second moves the heart along x."""
    model = centred_ball()
    model.noise_numbers = 2
    distance = model.distance
    state = {"noise": (0.0, 0.0)}

    def process_latents(latents_BML, noise_BK=None):
        noise = (0.0, 0.0) if noise_BK is None else tuple(float(x) for x in noise_BK[0])
        return {"noise": noise, "latents": latents_BML[:, 0]}

    def decode(context, queries_BQ3):
        state["noise"] = context["noise"]
        points = queries_BQ3[0].clone()
        points[:, 0] -= 0.02 * context["noise"][1]
        return (distance(points) - 0.05 * context["noise"][0])[None], model.logits(points)[None]

    model.process_latents, model.decode = process_latents, decode
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", lambda *args: model)
    return workdir


def result(workdir):
    return json.loads((workdir / "out" / "a" / "result.json").read_text())


def labels(workdir, name):
    return np.asanyarray(nib.load(workdir / "out" / "a" / name).dataobj)


def test_samples_differ_by_their_numbers_and_say_so_everywhere(several, capsys):
    make_case(several / "data" / "a.npz")
    assert run(several, "--given", "1,2", "--samples", N, cells=16) == 0
    said, content = capsys.readouterr().out, result(several)
    assert "not calibrated (without --calibration)" in said
    inferred, (truth, _) = NAMES[2:8], make_heart()
    maps = np.stack([labels(several, f"samples/{n:03d}.nii.gz") for n in range(1, N + 1)])
    volume = (maps > 0).sum((1, 2, 3))
    radius = np.array([0.7 + 0.05 * answer_numbers(2, n, "a", 0)[0] for n in range(1, N + 1)])
    assert np.corrcoef(volume, radius**3)[0, 1] > 0.99
    assert content["samples"]["number"] == N and list(content["samples"]["volumes"]) == [*inferred, NAMES[8]]
    for c, name in enumerate(NAMES, 1):
        if name in inferred:
            told, ml = content["samples"]["volumes"][name], (maps == c).sum((1, 2, 3)) / 1000
            assert (told["low_ml"], told["high_ml"]) == pytest.approx((ml.min(), ml.max()))
            assert told["true_ml"] == pytest.approx((truth == c).sum() / 1000)
            shares = labels(several, f"probability/{name}.nii.gz")
            np.testing.assert_allclose(shares, (maps == c).mean(0), atol=1e-6)
            mesh = trimesh.load(several / "out" / "a" / "meshes" / f"{name}_inferred.ply", process=False)
            spread = mesh.metadata["_ply_raw"]["vertex"]["data"]["spread_mm"]
            assert len(spread) == len(mesh.vertices) and 0.2 < np.median(spread) < 2
    page = page_data(several / "out" / "report.html")["hearts"][0]
    text = (several / "out" / "report.html").read_text()
    low, high = (content["samples"]["volumes"]["class_3"][f"{end}_ml"] for end in ("low", "high"))
    assert f"{low:.1f} to {high:.1f}" in text and "Volumes of what is not seen whole" in text
    assert page["has_spread"] and spread_by_class(page) == set(range(3, 9))
    with open(several / "out" / "samples.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["class"] for row in rows] == [*inferred, NAMES[8]] and {row["samples"] for row in rows} == {str(N)}
    assert "class_3: " in said and f"90 % of {N} samples from" in said
    assert "the true volume lies in the 90 % interval for" in said
    header = nib.load(several / "out" / "a" / "labels.nii.gz")
    assert np.array_equal(nib.load(several / "out" / "a" / "probability" / "class_3.nii.gz").affine, header.affine)
    names = set(content["files"])
    assert {"samples/001.nii.gz", "probability/class_3.nii.gz"} < names
    capsys.readouterr()
    assert run(several, "--given", "1,2", "--samples", N, cells=16) == 0
    assert "1 of 1 hearts were done before" in capsys.readouterr().out


def test_the_one_answer_is_the_same_with_and_without_samples_and_old_samples_go(several):
    make_case(several / "data" / "a.npz")
    assert run(several, "--given", "1,2", "--samples", N, "--no_meshes") == 0
    with_samples = labels(several, "labels.nii.gz")
    assert run(several, "--given", "1,2", "--no_meshes") == 0
    assert np.array_equal(labels(several, "labels.nii.gz"), with_samples)
    assert not (several / "out" / "a" / "samples").exists() and not (several / "out" / "samples.csv").exists()
    assert not (several / "out" / "a" / "probability").exists()


def test_where_all_is_seen_there_is_a_note_and_no_sample(several, capsys):
    make_case(several / "data" / "a.npz")
    assert run(several, "--samples", N, "--no_meshes") == 0
    said = capsys.readouterr()
    assert "all that is drawn of it is seen whole: no samples" in said.out + said.err
    assert "samples" not in result(several) and not (several / "out" / "a" / "samples").exists()


@pytest.mark.parametrize("number, words", [(18, "no interval of 90 %"), (256, "give fewer")])
def test_too_few_and_too_many_are_one_line(several, number, words, capsys):
    make_case(several / "data" / "a.npz")
    assert run(several, "--given", "1,2", "--samples", number) == 2
    said = capsys.readouterr().err
    assert "--samples: expected 19 to 255" in said and words in said and not (several / "out").exists()


def test_a_checkpoint_with_one_answer_has_no_samples(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    write_checkpoint(tmp_path / "checkpoint.pth", states=True)
    make_case(tmp_path / "data" / "a.npz")
    assert run(tmp_path, "--given", "1,2", "--samples", N) == 2
    assert "--samples: this checkpoint gives one answer" in capsys.readouterr().err


def test_a_real_network_gives_samples(tmp_path):
    """Untrained, through the command line."""
    (tmp_path / "data").mkdir()
    write_checkpoint(tmp_path / "checkpoint.pth", states=True, answer_noise=3)
    make_case(tmp_path / "data" / "a.npz")
    assert run(tmp_path, "--given", "1,2", "--samples", N, "--no_meshes", "--num_surface_points", 64) == 0
    assert result(tmp_path)["samples"]["number"] == N


def test_a_line_says_where_intervals_are_not_calibrated(several, capsys):
    make_case(several / "data" / "a.npz")
    sha256, zeros = file_sha256(several / "checkpoint.pth"), np.zeros(len(NAMES), np.float32)
    told = {}
    for name, factor in (("without.json", None), ("with.json", 1.5)):
        write_decision_tuning(several / name, DecisionTuning(zeros, zeros, factor), NAMES, sha256, {})
        flags = ("--given", "1,2", "--samples", N, "--no_meshes", "--calibration", several / name)
        assert run(several, *flags) == 0
        told[name] = [line for line in capsys.readouterr().out.splitlines() if "not calibrated" in line]
    assert told["with.json"] == []
    assert len(told["without.json"]) == 1 and "without.json has no factor" in told["without.json"][0]
    assert "vecset.calibrate --answers_csv" in told["without.json"][0]
