"""reconstruct.py on slices: a ball whose octants are the classes, seen in a stack, in a folder of slices, by points."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.fake_model import ball
from helpers.formula_hearts import CLASSES, RADIUS_MM, make_case, run, sphere_points, write_ply

import reconstruct
from vecset.common.errors import run_command
from vecset.common.structure_state import State
from vecset.imaging.label_map import write_label_map
from vecset.inference.model import load_model
from vecset.info import describe
from vecset.weights import checkpoint as checkpoint_file

MIDDLE = np.array([5.0, -20.0, 60.0])


@pytest.fixture
def seen_ball(workdir, monkeypatch):
    """As `workdir`, with a model whose ball is that of the frame of a ball: radius 0.95."""
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", lambda saved, device, where: model(0.95).to(device))
    return workdir


def model(radius, told_states=False):
    made = ball(radius, num_classes=8)
    eight = made.logits
    made.logits = lambda points: torch.cat([eight(points), torch.full((len(points), 1), -99.0)], 1)
    made.num_classes = CLASSES
    made.encode = lambda surface_BNF, states_BC=None: surface_BNF.new_zeros(len(surface_BNF), 1, 3)
    made.told_states = told_states
    return made


def octants(affine, shape, hidden=()):
    """(X, Y, Z) u8 labels of the ball round MIDDLE."""
    mm = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3] - MIDDLE
    labels = 1 + (mm > 1e-6) @ np.array([1, 2, 4])
    labels[(np.linalg.norm(mm, axis=-1) >= RADIUS_MM) | np.isin(labels, hidden)] = 0
    return labels.astype(np.uint8)


def grid(across, thick_mm, number, pixel_mm=0.8, pixels=40):
    """(affine, shape) of a stack round the ball, its slices across an axis of the patient."""
    spacing, shape = np.full(3, pixel_mm), np.full(3, pixels)
    spacing[across], shape[across] = thick_mm, number
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = MIDDLE - spacing * (shape - 1) / 2
    return affine, tuple(shape)


def write_stack(path, across=2, thick_mm=4.0, number=7, hidden=()):
    affine, shape = grid(across, thick_mm, number)
    write_label_map(path, octants(affine, shape, hidden), affine)
    return affine, shape


def write_folder(folder):
    """A short stack of five slices and two slices along it, each a file."""
    folder.mkdir()
    write_stack(folder / "sa.nii.gz", 2, 4.0, 5)
    for axis in (0, 1):
        affine, shape = grid(axis, 6.0, 1)
        affine[axis, 3] += 0.3
        write_label_map(folder / f"long{axis}.nii.gz", octants(affine, shape), affine)


def result(workdir, case_id):
    return json.loads((workdir / "out" / case_id / "result.json").read_text())


def drawn(workdir, case_id):
    image = nib.load(workdir / "out" / case_id / "labels.nii.gz")
    return np.asanyarray(image.dataobj), image.affine


def test_a_stack_comes_on_its_own_grid(seen_ball, capsys):
    """Its structures are cut, the others unknown; nothing is scored but the agreement in its slices."""
    affine, shape = write_stack(seen_ball / "data" / "anna.nii.gz", hidden=[3])
    assert run(seen_ball, "--slices", "file") == 0
    said = capsys.readouterr().out
    labels, written = drawn(seen_ball, "anna")
    assert labels.shape == shape and np.allclose(written, affine, atol=1e-5)
    assert set(np.unique(labels)) == {0, 1, 2, 4, 5, 6, 7, 8}
    found = result(seen_ball, "anna")
    assert found["states"]["class_3"] == found["states"]["class_9"] == "unknown"
    assert {found["states"][f"class_{c}"] for c in (1, 2, 4, 5, 6, 7, 8)} == {"cut"}
    assert found["made_from"]["slices"] == "file" and found["scores"] == [] and found["inferred"] == []
    assert not (seen_ball / "out" / "metrics.csv").exists()
    assert found["slices"]["planes"] == 7
    dice = found["slices"]["dice"]
    assert set(dice) == {f"class_{c}" for c in (1, 2, 4, 5, 6, 7, 8)} and min(dice.values()) > 0.9
    truth = octants(affine, shape, [3])  # without a margin that cuts, the figure is the Dice of the label map itself
    for c in (1, 8):
        expected = 2 * ((labels == c) & (truth == c)).sum() / ((labels == c).sum() + (truth == c).sum())
        assert dice[f"class_{c}"] == pytest.approx(expected)
    assert "seen in 7 slices: class_1, class_2, class_4" in said
    assert f"mean Dice in the slices {np.mean(list(dice.values())):.3f} (it says nothing" in said
    assert "no truth in the input, hence no figures" in said and "class_3 in 1" in said
    assert "not trained to infer" in said
    assert run(seen_ball, "--slices", "file") == 0 and "1 of 1 hearts were done before" in capsys.readouterr().out


def test_a_folder_of_slices_comes_on_a_grid_round_them(seen_ball, capsys):
    write_folder(seen_ball / "data" / "anna")
    assert run(seen_ball, "--slices", "folder", "--spacing", 0.9) == 0
    labels, affine = drawn(seen_ball, "anna")
    assert np.allclose(np.diag(affine)[:3], 0.9) and (labels.shape * np.diag(affine)[:3] > 2 * (RADIUS_MM + 14)).all()
    assert (labels > 0).sum() * 0.9**3 == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.1)
    at = nib.affines.apply_affine(affine, np.argwhere(labels).mean(0))
    np.testing.assert_allclose(at, MIDDLE, atol=0.7)
    assert result(seen_ball, "anna")["slices"]["planes"] == 7
    assert "seen in 7 slices of 3 files" in capsys.readouterr().out
    first = result(seen_ball, "anna")["fingerprint"]
    (seen_ball / "data" / "anna" / "long1.nii.gz").unlink()
    assert run(seen_ball, "--slices", "folder", "--spacing", 0.9) == 0
    assert "done before" not in capsys.readouterr().out
    assert result(seen_ball, "anna")["slices"]["planes"] == 6 and result(seen_ball, "anna")["fingerprint"] != first


def test_given_hides_contours(seen_ball):
    """What --given hides is asked for, as everywhere, and compared in the slices."""
    write_stack(seen_ball / "data" / "anna.nii.gz")
    assert run(seen_ball, "--slices", "file", "--given", "1,2,5,8", "--no_meshes") == 0
    found = result(seen_ball, "anna")
    assert found["inferred"] == ["class_3", "class_4", "class_6", "class_7"]
    assert found["states"]["class_1"] == "cut" and found["states"]["class_3"] == "unknown"
    assert set(found["slices"]["dice"]) == {f"class_{c}" for c in range(1, 9)}
    marked = nib.load(seen_ball / "out" / "anna" / "inferred.nii.gz")
    labels, _ = drawn(seen_ball, "anna")
    np.testing.assert_array_equal(np.asanyarray(marked.dataobj) > 0, np.isin(labels, [3, 4, 6, 7]))


def test_points_in_slices_are_cut(seen_ball):
    points, labels = sphere_points()
    write_ply(seen_ball / "cloud.ply", points, np.where(labels == 4, 5, labels))
    shapes = {}
    for how in ((), ("--slices", "file")):
        assert run(seen_ball, "--no_meshes", "--overwrite", *how, source="cloud.ply") == 0
        found = result(seen_ball, "cloud")
        shapes[how] = drawn(seen_ball, "cloud")[0].shape
        assert found["states"]["class_1"] == ("cut" if how else "given")
        assert found["states"]["class_4"] == ("unknown" if how else "absent")
        assert ("slices" in found) == bool(how)
    assert found["slices"] == {"planes": None, "pixels": 0, "dice": {}}
    assert shapes["--slices", "file"] == tuple(n + 20 for n in shapes[()])


def test_what_goes_beyond_the_frame_of_what_is_seen_is_drawn(seen_ball, monkeypatch):
    """The slices may show a small part of the heart; saved latents know it, too."""
    monkeypatch.setattr(
        checkpoint_file, "model_from_checkpoint", lambda saved, device, where: model(1.4, True).to(device)
    )
    write_stack(seen_ball / "data" / "anna.nii.gz", number=9)
    assert run(seen_ball, "--slices", "file", "--latents", "--latent_bits", 32) == 0
    labels, affine = drawn(seen_ball, "anna")
    away = nib.affines.apply_affine(affine, np.argwhere(labels)) - MIDDLE
    assert np.linalg.norm(away, axis=1).max() > 1.3 * RADIUS_MM
    again = ["--checkpoint", str(seen_ball / "checkpoint.pth"), "--output_dir", str(seen_ball / "again")]
    again += ["--latents", str(seen_ball / "out" / "anna" / "latents.npz"), "--no_meshes", "--device", "cpu"]
    assert run_command(reconstruct.main, again) == 0
    decoded = np.asanyarray(nib.load(seen_ball / "again" / "anna" / "labels.nii.gz").dataobj)
    np.testing.assert_array_equal(decoded, labels)
    told = json.loads((seen_ball / "again" / "anna" / "result.json").read_text())
    assert told["states"] == result(seen_ball, "anna")["states"]
    assert told["slices"] == {"planes": 9, "pixels": 0, "dice": {}}
    assert any("in slices" in line for line in describe(seen_ball / "out" / "anna" / "latents.npz"))


def test_from_python(seen_ball):
    """A folder is read and encoded as reconstruct.py does it, under the folder's name."""
    write_folder(seen_ball / "data" / "anna")
    network = load_model(seen_ball / "checkpoint.pth", device="cpu")
    network.network.encode = lambda surface_BNF: surface_BNF[..., :3]
    case = network.read(seen_ball / "data" / "anna", slices="folder")
    assert case.states[0] == State.CUT
    np.testing.assert_array_equal(network.encode(case), network.encode(case, "anna"))
    assert (network.encode(case) != network.encode(case, "sa")).any()


REFUSED = {
    "annotated": (["--slices", "file", "--annotated", "1,2"], "--annotated: with --slices it changes nothing"),
    "train_csv": (["--slices", "file", "--train_csv", "x.csv"], "--train_csv: slices are no truth"),
    "a file": (["--slices", "folder"], "a file, and no folder; give --slices file, or the folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_options_that_do_not_go_together_are_refused(workdir, capsys, kind):
    options, words = REFUSED[kind]
    write_stack(workdir / "data" / "anna.nii.gz")
    assert run(workdir, *options, source="data/anna.nii.gz") == 2
    assert words in capsys.readouterr().err and not (workdir / "out" / "anna").exists()


def test_hearts_that_are_no_slices_fail_alone(seen_ball, capsys):
    write_stack(seen_ball / "data" / "anna.nii.gz")
    write_stack(seen_ball / "data" / "berta.nii.gz", thick_mm=0.9, number=30)
    assert run(seen_ball, "--slices", "file", "--no_meshes") == 1
    assert "berta.nii.gz: its voxels are 0.8 x 0.8 x 0.9 mm: a volume" in capsys.readouterr().err
    assert (seen_ball / "out" / "anna" / "result.json").exists() and not (seen_ball / "out" / "berta").exists()
    make_case(seen_ball / "case.npz")
    assert run(seen_ball, "--slices", "file", source="case.npz") == 1
    assert "a case file holds the surface of a whole heart" in capsys.readouterr().err
