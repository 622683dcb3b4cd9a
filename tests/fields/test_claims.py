"""Networks with class distances through reconstruct.py, and how often their distances disagree."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.fake_model import FormulaModel

import reconstruct
from vecset.calibrate import main as calibrate
from vecset.fields.claims import claims_line, count_claims
from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.imaging.frame import Frame
from vecset.inference.latents import read_latents
from vecset.main_ae import main as train


class TwoBalls(FormulaModel):
    """Distances to two balls that overlap, and a union that is `grown` larger than they are."""

    has_class_distances = True

    def __init__(self, grown=0.0):
        def distances(points):
            return torch.stack([(points - torch.tensor([x, 0.0, 0.0])).norm(dim=1) - 0.4 for x in (-0.25, 0.25)], 1)

        super().__init__(lambda p: distances(p).amin(1) - grown, lambda p: -100 * distances(p), 2)
        self.distances = distances

    def decode_fields(self, context, queries_BQ3):
        return (*self.decode(context, queries_BQ3), self.distances(queries_BQ3[0] - context[0]).unsqueeze(0))


def grid(size=20):
    spacing = 2 / size
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -1 + spacing / 2
    return Frame(affine, (size,) * 3, np.zeros(3), 1.0)


@pytest.mark.parametrize("grown", [0.0, 0.1])
def test_counts_are_those_of_a_loop_over_the_voxels(grown):
    model, frame = TwoBalls(grown), grid()
    field = HeartField(model, torch.zeros(1, 1, 3), chunk=1000)
    labels = decode_label_map(field, frame).labels
    overlaps = gaps = 0
    for index in np.argwhere(labels):
        distances = model.distances(torch.from_numpy(frame.voxel_to_unit(index[None])).float())[0]
        claims = int((distances < 0).sum())
        overlaps, gaps = overlaps + (claims == 2), gaps + (claims == 0)
        assert labels[tuple(index)] == 1 + int(distances.argmin())
    counts = count_claims(field, frame, labels, most=None)
    assert counts == {
        "heart_voxels": np.count_nonzero(labels),
        "looked_at": np.count_nonzero(labels),
        "overlaps": overlaps,
        "unclaimed": gaps,
    }
    assert overlaps > 20 and (gaps > 20) == (grown > 0)
    some = count_claims(field, frame, labels, most=300)
    assert some["looked_at"] == 300
    assert abs(some["overlaps"] / 300 - overlaps / counts["looked_at"]) < 0.1
    assert count_claims(field, frame, labels, most=300) == some


def test_of_an_empty_label_map_and_of_a_field_without_class_distances():
    field, frame = HeartField(TwoBalls(), torch.zeros(1, 1, 3)), grid()
    assert count_claims(field, frame, np.zeros(frame.shape, np.uint8))["looked_at"] == 0
    field.model.has_class_distances = False
    assert count_claims(field, frame, np.ones(frame.shape, np.uint8)) is None


def test_one_line_about_all_hearts():
    counts = [{"looked_at": 300, "overlaps": 3, "unclaimed": 0}, {"looked_at": 100, "overlaps": 1, "unclaimed": 2}]
    assert claims_line(counts) == (
        "class distances: several classes claim 1.00% of the hearts' voxels, none 0.50% (400 voxels looked at)"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--class_outputs", "distances"),
        ("--class_outputs", "both"),
        ("--network", "per_class", "--model", "point_vec26x16_dim64_depth2_nb"),
        ("--network", "parts", "--model", "point_vec26x16_dim64_depth2_kl"),
    ],
)
def test_a_trained_network_from_end_to_end(tmp_path, flags, capsys):
    """Trained, calibrated, reconstructed with label map, meshes and latents, and decoded again from these."""
    data = write_ball_cases(tmp_path / "data", train=4, val=1, class_distances=True)
    model = ("--model", "point_vec26x16_dim64_depth2_nb", "--anchors", "--rotary", *flags)
    points = ("--point_cloud_size", 240, "--near_points", 128, "--inside_points", 64, "--outside_points", 128)
    steps = ("--epochs", 60, "--lr", 3e-3, "--eval_every", 60)
    assert train(tiny_arguments(data, tmp_path / "train", *model, *points, *steps)) == 0
    checkpoint, tuning = tmp_path / "train" / "checkpoint-best.pth", tmp_path / "calibration.json"
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--num_latents", "32"]
    assert calibrate([*words, "--csv", str(data / "train.csv"), "--output", str(tuning), "--hearts", "2"]) == 0
    words += ["--calibration", str(tuning), "--mesh_cells", "24"]
    capsys.readouterr()
    out, again = tmp_path / "out", tmp_path / "again"
    inputs = ["--input", str(data / "val.csv"), "--train_csv", str(data / "train.csv"), "--latents"]
    assert reconstruct.main([*words, *inputs, "--output_dir", str(out)]) == 0
    told, result = capsys.readouterr().out, json.loads((out / "ball04" / "result.json").read_text())
    assert "class distances: several classes claim" in told
    assert ("note: 10 latents for each of 3 classes, 30 of 32 in all" in told) == ("--network" in flags)
    claims = result["decoding"]["claims"]
    assert claims["looked_at"] == claims["heart_voxels"] > 1000
    if "--network" in flags:
        assert claims["unclaimed"] == 0
    dice = {row["class_id"]: row["dice"] for row in result["scores"]}
    assert all(dice[c] > 0.75 for c in (1, 2, 3)), dice
    assert sorted(p.stem for p in (out / "ball04" / "meshes").glob("*.ply")) == ["c1", "c2", "c3"]
    latents, _ = read_latents(out / "ball04" / "latents.npz")
    assert latents.shape == (30 if "--network" in flags else 32, 19)
    stored = ["--latents", str(out / "ball04" / "latents.npz"), "--output_dir", str(again), "--no_meshes"]
    assert reconstruct.main([*words, *stored]) == 0
    maps = [np.asanyarray(nib.load(folder / "ball04" / "labels.nii.gz").dataobj) for folder in (out, again)]
    np.testing.assert_array_equal(*maps)
