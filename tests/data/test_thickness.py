"""Thickness of classes against shapes that are known, and what follows for latents."""

import numpy as np
import pytest
from helpers.ball_cases import ball_case, tiny_arguments, write_ball_cases

from vecset.data.case_file import write_case
from vecset.data.listed_case import read_split
from vecset.data.thickness import class_thickness_mm, density_of_thickness, fps_density
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint


def test_a_plate_that_the_border_cuts_has_its_thickness_in_mm():
    labels = np.zeros((20, 16, 12), np.uint8)
    labels[5:9] = 2
    thickness = class_thickness_mm(labels, (0.5, 3.0, 2.0), 3)
    assert thickness[1] == pytest.approx(4 * 0.5) and np.isnan(thickness[[0, 2]]).all()


def test_a_tube_and_a_ball_have_their_share_of_the_diameter():
    """Voxel faces of a disc are 4/pi of its outline, those of a ball 3/2 of its surface."""
    x, y, z = np.meshgrid(*[np.arange(60) - 29.5] * 3, indexing="ij")
    tube, ball = x**2 + y**2 < 12**2, x**2 + y**2 + z**2 < 24**2
    for shape, expected in ((tube, 12 * np.pi / 4), (ball, 16 * 2 / 3)):
        assert class_thickness_mm(shape.astype(np.uint8), (1, 1, 1), 1)[0] == pytest.approx(expected, rel=0.04)
    half = class_thickness_mm(tube[::2, ::2, ::2].astype(np.uint8), (2, 2, 2), 1)[0]
    assert half == pytest.approx(12 * np.pi / 4, rel=0.06)


def test_thin_classes_get_denser_latents_and_thick_ones_no_sparser():
    density = density_of_thickness([10.0, 10.0, 20.0, 1.0, 1e-6, np.nan])
    np.testing.assert_allclose(density, [1, 1, 1, 10**0.7, 8, 1])
    np.testing.assert_array_equal(density_of_thickness([np.nan] * 3), [1, 1, 1])


def test_auto_is_found_at_the_start_and_kept_when_a_run_goes_on(tmp_path):
    data = write_ball_cases(tmp_path / "cases", train=4, val=2, num_classes=5)
    cases = read_split(data / "train.csv", data)
    told = fps_density(cases, 5)
    assert {part.split(":")[0] for part in told.split(",")} == {"1", "5"}, "the ball's two caps are the thinnest"
    words = [
        w.replace("learnable", "point")
        for w in tiny_arguments(
            data,
            tmp_path / "run",
            "--anchors",
            "--fps_class_gap",
            2,
            "--fps_density",
            "auto",
            "--warmup_epochs",
            0,
            "--epochs",
            1,
        )
    ]
    assert main(words) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint-last.pth")["model_config"]["fps_density"] == told
    for entry in cases:  # other hearts, of another thickness
        write_case(entry.path, ball_case(1, num_classes=5, missing=(2,)))
    assert fps_density(cases, 5) != told
    assert main([*words[:-1], "2"]) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint-last.pth")["model_config"]["fps_density"] == told
