"""`python -m vecset.info`: plain words for each kind of file, one line for what is none."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.ball_cases import ball_case
from helpers.ball_shapes import ball_arrays
from helpers.formula_hearts import NAMES, make_case, make_heart, sphere_points, write_checkpoint, write_ply

from vecset import info
from vecset.data.case_file import write_case
from vecset.data.shape_model_file import write_shape_model
from vecset.imaging.label_map import write_label_map
from vecset.inference.latents import write_latents
from vecset.weights.checkpoint import save_checkpoint


def said(capsys, path):
    assert info.main([str(path)]) == 0
    return capsys.readouterr().out


def test_each_kind_of_file(tmp_path, capsys):
    labels, frame = make_heart(spacing_mm=0.9)
    case_path = make_case(tmp_path / "h.npz", annotated=range(1, 8))
    out = said(capsys, case_path)
    assert "a case file" in out and "30 x 32 x 28 voxels of 1 x 1 x 1 mm" in out and "surface points   600" in out
    assert "not annotated    class_8, class_9" in out and "class_2 0.7 ml" in out

    assert "class distances" not in out
    write_case(tmp_path / "d.npz", ball_case(class_distances=True))
    assert "  class distances  at every point, float16\n" in said(capsys, tmp_path / "d.npz")

    out = said(capsys, write_checkpoint(tmp_path / "c.pth"))
    assert "a checkpoint" in out and "9: class_1, class_2" in out and "learnable_vec4x4_dim32_depth1_nb" in out
    out = said(capsys, write_checkpoint(tmp_path / "r.pth", anchors=True, rotary=True))
    assert "--anchors --rotary\n" in out  # what --init_from wants again

    assert "  --observe  " not in out
    checkpoint = torch.load(tmp_path / "r.pth", weights_only=False)
    checkpoint["args"]["observe"] = "classes=0.25,cut=0,few=0.05"
    save_checkpoint(tmp_path / "o.pth", checkpoint)
    out = said(capsys, tmp_path / "o.pth")
    assert (
        "  --observe        classes 0.25, few 0.05: the share of hearts in training" in out
        and "; 0.7 seen whole" in out
    )

    write_label_map(tmp_path / "m.nii.gz", labels, frame.affine, NAMES)
    out = said(capsys, tmp_path / "m.nii.gz")
    assert "0.9 x 0.9 x 0.9 mm" in out and f"2 class_2: {(labels == 2).sum()}" in out

    write_ply(tmp_path / "p.ply", *sphere_points(50))
    assert "a point cloud with labels" in said(capsys, tmp_path / "p.ply")

    from vecset.data.case_file import read_case

    write_latents(tmp_path / "latents.npz", np.zeros((4, 3)), read_case(case_path), "h", NAMES, "ab" * 32)
    out = said(capsys, tmp_path / "latents.npz")
    assert (
        "the latents of one heart" in out
        and "latents          4 of 3 numbers, 32 bits per number; " in out
        and "abababababab" in out
    )

    np.savez(tmp_path / "old.npz", surface_points=np.zeros((9, 3), np.float32), surface_labels=np.eye(9))
    assert "older form" in said(capsys, tmp_path / "old.npz")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", b"words"),
        ("a.npz", b"no zip"),
        ("a.nii.gz", b"x"),
        ("a.ply", b"x"),
        ("a.pth", b"PK no"),
        ("missing.npz", None),
    ],
)
def test_anything_else_is_one_line(tmp_path, capsys, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert info.main([str(tmp_path / name)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and name in error[0]
    assert ("not a file that this program knows; give a case file" in error[0]) == (name == "a.txt")


def test_a_pipe_is_told_as_one(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert info.main([str(tmp_path / "pipe.nii.gz")]) == 2
    assert "is a pipe or a device, not a file" in capsys.readouterr().err


def test_the_state_of_the_run_is_what_the_run_last_said(tmp_path, capsys):
    """checkpoint-best was written while the run went on, whatever became of it."""
    path = write_checkpoint(tmp_path / "checkpoint-best.pth")
    save_checkpoint(path, {**torch.load(path), "status": "running"})
    assert "the run since    went on\n" in said(capsys, path)
    for status, shown in (("finished", "finished"), ("stopped", "stopped"), ("running", "at work, or ended without")):
        (tmp_path / "status.json").write_text(json.dumps({"status": status}))
        assert f"the run since    {shown}" in said(capsys, path)


def test_an_npz_of_something_else(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert info.main([str(tmp_path / "x.npz"), str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_as_a_command(tmp_path, repository):
    make_case(tmp_path / "h.npz")
    done = subprocess.run(
        [sys.executable, "-m", "vecset.info", tmp_path / "h.npz"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0 and "a case file" in done.stdout


def test_a_shape_model(tmp_path, capsys):
    path = tmp_path / "shapes.npz"
    write_shape_model(path, ball_arrays(unknown=(2,)), ["A", "B", "C", "D"], {"cases": ["a", "b", "c", "d"]})
    out = said(capsys, path)
    assert "a shape model of hearts" in out and "made from        4 hearts: a, b, c, ..." in out
    assert "modes            2" in out and "structures       A, B, D (1 more, in no heart)" in out
