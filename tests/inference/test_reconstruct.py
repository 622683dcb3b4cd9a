"""reconstruct.py from its command line, on formula hearts: a ball whose eight octants are the classes."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import trimesh
from helpers.formula_hearts import (
    CLASSES,
    MODEL,
    MODEL_FROM_CHECKPOINT,
    NAMES,
    make_case,
    make_heart,
    metrics,
    nine_class_ball,
    run,
    write_checkpoint,
)

from vecset.commands.reconstruct import get_parser
from vecset.common.errors import run_command
from vecset.data.listed_case import ListedCase
from vecset.fields.heart_field import CHUNK
from vecset.inference import inputs
from vecset.inference.latents import read_latents
from vecset.weights import checkpoint as checkpoint_file


def test_everything_that_comes_out(workdir, capsys):
    make_case(workdir / "data" / "straight.npz")
    make_case(workdir / "data" / "oblique.npz", spacing_mm=0.9, turn_deg=30, flip=(-1, 1, 1), annotated=range(1, 8))
    assert run(workdir, "--chunk", 1000, "--remark", "Of two balls.") == 0
    for name, grid in (("straight", {}), ("oblique", dict(spacing_mm=0.9, turn_deg=30, flip=(-1, 1, 1)))):
        truth, frame = make_heart(**grid)
        image = nib.load(workdir / "out" / name / "labels.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), truth)
        np.testing.assert_allclose(image.affine, frame.affine, atol=1e-5)
        assert image.header["qform_code"] > 0 and image.header["sform_code"] > 0
        meshes = sorted((workdir / "out" / name / "meshes").glob("*.ply"))
        assert [m.stem for m in meshes] == NAMES[:8]
        for c, path in enumerate(meshes, 1):
            mesh = trimesh.load(path)
            assert mesh.is_watertight and mesh.volume > 0
            middle_mm = frame.voxel_to_mm(np.argwhere(truth == c).mean(0))
            np.testing.assert_allclose(mesh.center_mass, middle_mm, atol=0.4)
    rows = metrics(workdir)
    assert list(rows[0])[:6] == ["case_id", "class_id", "class_name", "status", "dice", "iou"]
    assert float(rows[0]["floor_dice"]) > 0.9 and float(rows[0]["hd95_mm"]) == 0
    assert [r["case_id"] for r in rows] == ["oblique"] * 10 + ["straight"] * 10
    status = {(r["case_id"], r["class_name"]): (r["status"], r["dice"], r["iou"]) for r in rows}
    assert status["straight", "class_1"] == status["straight", "union"] == ("ok", "1.000000", "1.000000")
    assert status["straight", "class_9"] == ("absent", "", "")
    assert status["oblique", "class_8"] == ("not annotated", "", "")
    content = json.loads((workdir / "out" / "metrics.json").read_text())
    assert content["classes"]["class_8"]["n"] == 1 and content["classes"]["class_9"]["absent"] == 1
    assert content["classes"]["mean of classes"]["dice"] == 1 and content["settings"]["num_surface_points"] == 64
    assert (workdir / "out" / "overview.png").stat().st_size > 10000
    printed = capsys.readouterr().out
    assert "class_9" in printed and "not annotated" in printed and "nan" not in printed.lower()
    assert printed.splitlines().count("Of two balls.") == 1
    assert "<strong>Of two balls.</strong>" in (workdir / "out" / "report.html").read_text(encoding="utf-8")
    assert not list((workdir / "out").rglob(".tmp*"))


def test_a_second_run_does_only_what_changed(workdir, capsys):
    for name in "ab":
        make_case(workdir / "data" / f"{name}.npz")
    assert run(workdir) == 0
    made = workdir / "out" / "a" / "labels.nii.gz"
    first, table = made.stat().st_mtime_ns, (workdir / "out" / "metrics.csv").read_text()
    capsys.readouterr()
    assert run(workdir, "--chunk", 500) == 0  # the chunk changes no result
    assert made.stat().st_mtime_ns == first and "2 of 2 hearts were done before" in capsys.readouterr().out
    assert (workdir / "out" / "metrics.csv").read_text() == table

    (workdir / "out" / "b" / "meshes" / "class_3.ply").unlink()
    assert run(workdir) == 0
    assert made.stat().st_mtime_ns == first and "1 of 2" in capsys.readouterr().out
    assert (workdir / "out" / "b" / "meshes" / "class_3.ply").is_file()

    make_case(workdir / "data" / "b.npz", spacing_mm=0.8)  # another heart under the same name
    assert run(workdir) == 0 and "1 of 2" in capsys.readouterr().out

    for change in (
        lambda: run(workdir, "--seed", 1),
        lambda: run(workdir, "--overwrite"),
        lambda: write_checkpoint(workdir / "checkpoint.pth", seed=5) and run(workdir),
        lambda: run(workdir, "--no_meshes"),
    ):
        before = made.stat().st_mtime_ns
        assert change() == 0 and made.stat().st_mtime_ns > before
    assert not (workdir / "out" / "a" / "meshes").exists()  # nothing of an earlier run stays behind


def test_a_heart_that_fails_is_one_line_and_the_others_go_on(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    whole = make_case(workdir / "data" / "b.npz").read_bytes()
    (workdir / "data" / "b.npz").write_bytes(whole[: len(whole) // 2])
    make_case(workdir / "data" / "c.npz", names=[f"organ {n}" for n in range(CLASSES)])
    np.savez(workdir / "data" / "d.npz", surface_points=np.zeros((9, 3), np.float32), surface_labels=np.eye(9))
    make_case(workdir / "data" / "e.npz")
    assert run(workdir) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line and "it/s" not in line]
    errors = [line for line in errors if line.strip().startswith("error:")]
    assert [line.split(":")[1].strip() for line in errors] == ["b", "c", "d"]
    assert "whole case file" in errors[0] and "organ 1" in errors[1] and "frame" in errors[2]
    assert {r["case_id"] for r in metrics(workdir)} == {"a", "e"}
    assert sorted(p.name for p in (workdir / "out").iterdir() if p.is_dir()) == ["a", "e"]


def test_a_run_stopped_half_way_is_made_again(workdir, monkeypatch):
    make_case(workdir / "data" / "a.npz")

    def stop(path, mesh):
        raise KeyboardInterrupt

    monkeypatch.setattr("vecset.inference.heart_files.write_mesh", stop)
    assert run(workdir) == 130
    assert not (workdir / "out" / "a" / "result.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", lambda *a: nine_class_ball())
    assert run(workdir) == 0 and len(list((workdir / "out" / "a" / "meshes").iterdir())) == 8


def test_inputs_file_folder_and_csv(workdir):
    for name in ("h10", "h9"):
        make_case(workdir / "data" / f"{name}.npz")
    (workdir / "data" / "val.csv").write_text("case_id,file,group\nh9,h9.npz,g\n")
    assert [h.case_id for h in inputs.find_hearts(workdir / "data")] == ["h9", "h10"]
    assert [h.case_id for h in inputs.find_hearts(workdir / "data" / "h9.npz")] == ["h9"]
    assert [h.path for h in inputs.find_hearts(workdir / "data" / "val.csv")] == [workdir / "data" / "h9.npz"]
    (workdir / "val.csv").write_text("case_id,file\nh10,h10.npz\n")
    assert [h.case_id for h in inputs.find_hearts(workdir / "val.csv", workdir / "data")] == ["h10"]
    assert run(workdir, "--data_path", workdir / "data", source="val.csv") == 0
    assert [p.name for p in (workdir / "out").iterdir() if p.is_dir()] == ["h10"]


def test_baselines_stand_beside_the_model(workdir, capsys):
    make_case(workdir / "data" / "v.npz", spacing_mm=0.9)
    make_case(workdir / "data" / "t.npz", radius_mm=9.0)
    (workdir / "data" / "train.csv").write_text("case_id,file\nt,t.npz\n")
    (workdir / "data" / "val.csv").write_text("case_id,file\nv,v.npz\n")
    assert run(workdir, source="data/val.csv") == 0
    made = (workdir / "out" / "v" / "labels.nii.gz").stat().st_mtime_ns
    assert run(workdir, "--train_csv", workdir / "data" / "train.csv", source="data/val.csv") == 0
    assert (workdir / "out" / "v" / "labels.nii.gz").stat().st_mtime_ns == made  # added, nothing decoded again
    rows = {r["class_name"]: r for r in metrics(workdir)}
    for column in ("mean_shape_dice", "nearest_heart_dice"):
        assert float(rows["class_1"][column]) > 0.9 and rows["class_9"][column] == ""
    assert "nearest training heart Dice" in capsys.readouterr().out
    content = json.loads((workdir / "out" / "metrics.json").read_text())
    assert content["hearts"]["v"]["nearest_heart_file"] == "t.npz"
    assert content["classes"]["mean of classes"]["mean_shape_dice"] > 0.9
    assert run(workdir, "--train_csv", workdir / "data" / "train.csv", "--seed", "1", source="data/val.csv") == 0
    assert {r["class_name"]: r for r in metrics(workdir)}["class_1"]["mean_shape_dice"]  # made again, baselines with it
    assert run(workdir, "--train_csv", workdir / "data" / "train.csv", source="data/t.npz") == 2
    assert "the baselines would know the answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--input", "nowhere"], "no such file or folder"),
        (["--input", "checkpoint.pth"], "a name ending in .npz"),
        (["--input", "empty"], "neither"),
        (["--input", "missing.csv"], "no file"),
        (["--checkpoint", "nowhere.pth"], "no such file"),
        (["--checkpoint", "data/a.npz"], "checkpoint"),
        (["--checkpoint", "four.pth"], "9"),
        (["--device", "abacus"], "--device"),
        (["--chunk", "0"], "at least 1"),
        (["--checkpoint", "points.pth", "--num_surface_points", "3"], "at least the 4 latents"),
        (["--checkpoint", "points.pth", "--num_latents", "65"], "at least the 65 latents"),
        (["--output_dir", "checkpoint.pth"], "checkpoint.pth"),
    ],
)
def test_bad_input_is_one_clear_line(workdir, capsys, monkeypatch, arguments, complaint):
    make_case(workdir / "data" / "a.npz")
    (workdir / "empty").mkdir()
    (workdir / "missing.csv").write_text("case_id,file\nx,x.npz\n")
    write_checkpoint(workdir / "four.pth", classes=4)
    write_checkpoint(workdir / "points.pth", model_name=MODEL.replace("learnable", "point"))
    monkeypatch.chdir(workdir)
    assert run(workdir, *arguments) in (1, 2)
    errors = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and complaint in errors[0]
    assert not (workdir / "out").exists() or not list((workdir / "out").rglob("*.nii.gz"))


def test_points_are_drawn_as_in_training(workdir):
    case = inputs.load_heart(ListedCase("a", make_case(workdir / "data" / "a.npz")), NAMES)
    case.arrays["surface_labels"] = np.where(np.arange(600) < 6, 2, 1).astype(np.uint8)
    points, labels = inputs.draw_surface(case, "a", 100)
    again, _ = inputs.draw_surface(case, "a", 100)
    np.testing.assert_array_equal(points, again)
    assert points.shape == (100, 3) and points.dtype == np.float32 and labels.dtype == np.int64
    assert (inputs.draw_surface(case, "a", 100, balance=1.0)[1] == 2).sum() == 50 > (labels == 2).sum()
    assert len(np.unique(points, axis=0)) == 100
    assert not np.array_equal(points, inputs.draw_surface(case, "a", 100, seed=1)[0])
    assert len(inputs.draw_surface(case, "a", 1000)[0]) == 1000  # more than there are


@pytest.mark.parametrize(
    "name, options",
    [
        (MODEL, {}),
        pytest.param(
            MODEL.replace("learnable", "point"),
            dict(anchors=True, rotary=True, fps_class_gap=2.0),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_with_a_real_model_from_another_folder(tmp_path, repository, name, options):
    """The command as a user starts it, with an untrained network."""
    make_case(tmp_path / "a.npz")
    write_checkpoint(tmp_path / "c.pth", model_name=name, **options)
    done = subprocess.run(
        [
            sys.executable,
            repository / "reconstruct.py",
            "--checkpoint",
            "c.pth",
            "--input",
            "a.npz",
            "--output_dir",
            "out",
            "--mesh_cells",
            "16",
            "--device",
            "cpu",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a" / "labels.nii.gz").is_file() and "union" in done.stdout


def test_a_model_with_point_queries_takes_any_number_of_latents(workdir, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", MODEL_FROM_CHECKPOINT)
    make_case(workdir / "data" / "a.npz")
    write_checkpoint(workdir / "points.pth", model_name="point_vec4x4_dim32_depth1_nb", anchors=True)
    for wanted in (4, 9, 2):
        assert (
            run(workdir, "--checkpoint", workdir / "points.pth", "--num_latents", wanted, "--latents", "--no_meshes")
            == 0
        )
        assert "done before" not in capsys.readouterr().out, "another number is another result"
        assert read_latents(workdir / "out" / "a" / "latents.npz")[0].shape == (wanted, 4 + 3)
    assert run(workdir, "--num_latents", 5) == 2
    assert "--num_latents: the 4 queries of this model are learned, their number is fixed" in capsys.readouterr().err


def test_calibration_from_training_hearts_to_the_label_map(workdir, capsys, monkeypatch):
    """A model whose logit of one octant is 1.5 too large, which moves its walls by more than a voxel: the calibration
    finds that on the training heart, and the other heart comes back right."""
    from helpers.fake_model import FormulaModel

    from vecset import calibrate

    right = nine_class_ball()
    wrong = FormulaModel(right.distance, lambda p: right.logits(p) + 1.5 * (torch.arange(CLASSES) == 1), CLASSES)
    wrong.encode = lambda surface_BNF: torch.zeros(len(surface_BNF), 1, 3)
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", lambda checkpoint, device, where: wrong)
    make_case(workdir / "data" / "t.npz")
    make_case(workdir / "data" / "v.npz")
    for split, name in (("train", "t"), ("val", "v")):
        (workdir / "data" / f"{split}.csv").write_text(f"case_id,file\n{name},{name}.npz\n")
    assert run(workdir, source="data/val.csv") == 0
    before = next(float(r["dice"]) for r in metrics(workdir) if r["class_name"] == "class_2")
    words = [
        "--checkpoint",
        str(workdir / "checkpoint.pth"),
        "--csv",
        str(workdir / "data" / "train.csv"),
        "--output",
        str(workdir / "calibration.json"),
        "--device",
        "cpu",
    ]
    assert run_command(calibrate.main, words) == 0
    assert "class_2" in capsys.readouterr().out
    content = json.loads((workdir / "calibration.json").read_text())
    assert content["hearts"] == ["t"] and content["mean_dice_after"] > content["mean_dice_before"]
    assert -2 <= content["classes"]["class_2"]["offset"] <= -0.75  # what matters lies between the voxels' values
    assert run(workdir, "--calibration", workdir / "calibration.json", source="data/val.csv") == 0
    assert "done before" not in capsys.readouterr().out
    after = next(float(r["dice"]) for r in metrics(workdir) if r["class_name"] == "class_2")
    assert before < 0.9 and after > 0.99
    assert run(workdir, "--calibration", workdir / "nowhere.json", source="data/val.csv") == 2
    assert "nowhere.json: no such file" in capsys.readouterr().err
    assert run_command(calibrate.main, [*words, "--hearts", "0"]) == 2


def test_help_names_the_default_chunk():
    shown = get_parser().format_help()
    assert "--mesh_cells" in shown and f"default: {CHUNK}" in shown


def test_a_full_disk_leaves_no_half_a_heart(workdir, capsys, monkeypatch):
    import errno

    from vecset.inference import heart_files

    make_case(workdir / "data" / "a.npz")

    def full(path, mesh):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(heart_files, "write_mesh", full)
    assert run(workdir) == 1
    assert "no space left" in capsys.readouterr().err
    assert not (workdir / "out" / "a").exists()


def test_falling_back_is_said_per_heart_and_counted(workdir, capsys, monkeypatch):
    """Whether the input has a truth or not, and for the meshes too."""
    make_case(workdir / "data" / "a.npz")
    assert run(workdir) == 0 and "voxel by voxel" not in capsys.readouterr().out
    monkeypatch.setattr("vecset.fields.decoding._check", lambda *a: (100, 3))
    np.savez(
        workdir / "cloud.npz", points_mm=np.random.default_rng(0).normal(size=(300, 3)) * 9, labels=np.ones(300, int)
    )
    for source, case_id in (("data", "a"), ("cloud.npz", "cloud")):
        assert run(workdir, "--overwrite", source=source) == 0
        said = capsys.readouterr().out
        assert f"{case_id}: 3 of 100 voxels checked differ" in said and "1 of 1 hearts were decoded voxel by" in said
        decoding = json.loads((workdir / "out" / case_id / "result.json").read_text())["decoding"]
        assert decoding["dense"] and decoding["missed"] == 3 and decoding["fallbacks"] == 2
        assert "meshes or figures was decoded point by point" in said


def test_the_report_shows_the_truth_that_was_read_once(workdir, monkeypatch):
    """It is read again only where a heart was made by an earlier run."""
    read, load = [], inputs.load_truth
    monkeypatch.setattr(inputs, "load_truth", lambda heart, *rest: read.append(heart.case_id) or load(heart, *rest))
    make_case(workdir / "data" / "a.npz", turn_deg=30, flip=(-1, 1, 1))
    assert run(workdir, "--no_meshes") == 0
    assert read == []
    shown = [(workdir / "out" / name).read_bytes() for name in ("overview.png", "report.html")]
    assert run(workdir, "--no_meshes") == 0
    assert set(read) == {"a"}
    assert [(workdir / "out" / name).read_bytes() for name in ("overview.png", "report.html")] == shown
