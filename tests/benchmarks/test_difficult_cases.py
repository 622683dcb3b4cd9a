"""benchmarks/difficult_cases.py makes hearts harder in the way that it says, and in the patient's place; it and
benchmarks/compression.py run through."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ball_cases import write_ball_cases

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import difficult_cases as ways  # noqa: E402

from vecset.data.case_file import read_case  # noqa: E402
from vecset.imaging.label_map import write_label_map  # noqa: E402
from vecset.models.autoencoder import build_model  # noqa: E402
from vecset.weights.checkpoint import save_checkpoint  # noqa: E402


def heart(flip=1):
    """A ball of radius 20 mm round (3, -8, 55) mm with class 1 below and 10 above, spacing 1 x 1.5 x 2 mm."""
    affine = np.diag([-1.0, 1.5, 2.0 * flip, 1.0])
    affine[:3, 3] = (33, -44, 55 - flip * 31)
    index = np.stack(np.meshgrid(np.arange(60), np.arange(50), np.arange(32), indexing="ij"), -1)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(mm - (3, -8, 55), axis=-1) < 20
    return (inside * np.where(mm[..., 2] < 55, 1, 10)).astype(np.uint8), affine


def centre_and_volume(labels, affine, c):
    where = np.argwhere(labels == c)
    return (where.mean(0) @ affine[:3, :3].T + affine[:3, 3], len(where) * abs(np.linalg.det(affine[:3, :3])))


@pytest.mark.parametrize("way", ["2 mm", "thick slices"])
def test_resampled_hearts_stay_where_they_are(way):
    labels, affine = heart()
    made, new, truth = ways.WAYS[way](labels, affine, None)
    assert truth is made
    spacing = np.linalg.norm(new[:3, :3], axis=0)
    assert spacing.tolist() == pytest.approx([2, 2, 2] if way == "2 mm" else [0.8, 0.8, 4])
    for c in (1, 10):
        (before, volume), (after, resampled) = centre_and_volume(labels, affine, c), centre_and_volume(made, new, c)
        assert np.abs(after - before).max() < 1.0 and resampled == pytest.approx(volume, rel=0.08)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_cut_is_on_the_side_of_the_head_whatever_the_axis(flip):
    labels, affine = heart(flip)
    made, new, _ = ways.cut(labels, affine, None)
    heights = [
        (np.argwhere(volume > 0) @ at[:3, :3].T + at[:3, 3])[:, 2] for volume, at in ((labels, affine), (made, new))
    ]
    assert heights[0].min() == heights[1].min()
    lost = (heights[0].max() - heights[1].max()) / (heights[0].max() - heights[0].min())
    assert lost == pytest.approx(1 / 6, abs=0.06)


def test_noise_is_at_borders_alone_and_truth_stays_clean():
    labels, affine = heart()
    noisy, _, truth = ways.noise(labels, affine, np.random.default_rng(0))
    changed = np.argwhere(noisy != labels)
    assert truth is labels and 0.02 < len(changed) / (labels > 0).sum() < 0.2
    for at in changed:
        around = labels[tuple(slice(max(0, a - 1), a + 2) for a in at)]
        assert noisy[tuple(at)] in around and len(np.unique(around)) > 1


def test_missing_and_turned():
    labels, affine = heart()
    made, _, truth = ways.missing(labels, affine, None)
    assert not (made == 10).any() and (made == 1).sum() == (labels == 1).sum() and truth is made
    made, new, _ = ways.turned(labels, affine, None)
    turn = new[:3, :3] @ np.linalg.inv(affine[:3, :3])
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert np.rad2deg(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(40)


def test_dice_leaves_out_what_is_in_neither():
    found, truth = np.array([1, 1, 2, 0]), np.array([1, 2, 2, 0])
    np.testing.assert_allclose(ways.dice(found, truth, 3), [2 / 3, 2 / 3, np.nan])


@pytest.mark.slow
def test_both_commands_run_through(tmp_path):
    data = write_ball_cases(tmp_path / "cases", train=1, val=2, class_names=["Myocardium", "LA", "LV"])
    (tmp_path / "labels").mkdir()
    for name in ("ball01", "ball02"):
        case = read_case(data / f"{name}.npz")
        write_label_map(tmp_path / "labels" / f"{name}.nii.gz", case.truth_labels(), case.frame.affine)
    torch.manual_seed(0)
    config = {"name": "point_vec8x4_dim32_depth1_nb", "num_classes": 3, "anchors": True}
    save_checkpoint(
        tmp_path / "c.pth",
        {
            "model": build_model(**config).state_dict(),
            "model_config": config,
            "class_names": ["Myocardium", "LA", "LV"],
            "epoch": 1,
            "step": 0,
            "args": {"point_cloud_size": 64, "balance": 0.5},
        },
    )

    def table(script, *words):
        answer = subprocess.run(
            [
                sys.executable,
                str(ROOT / "benchmarks" / script),
                "--checkpoint",
                str(tmp_path / "c.pth"),
                "--val",
                str(data / "val.csv"),
                *map(str, words),
                "--",
                "--device",
                "cpu",
            ],
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in answer.stdout.splitlines()]

    rows = table(
        "difficult_cases.py",
        "--labels",
        tmp_path / "labels",
        "--output_dir",
        tmp_path / "d",
        "--ways",
        "as they are",
        "noise",
    )
    assert [row[0] for row in rows] == ["2 hearts", "---", "as they are", "noise"] and len(rows[2]) == 6
    rows = table("compression.py", "--output_dir", tmp_path / "c", "--latents", 4, 16)
    assert [row[:2] for row in rows[2:]] == [["4", "28"], ["4", "28"], ["16", "112"], ["16", "112"]]
    assert [row[2] for row in rows[2::2]] == ["32.00"] * 2 and {len(row) for row in rows} == {len(rows[0])}
