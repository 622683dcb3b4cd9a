"""Losses of the first steps and the validation of three tiny runs: what should not change them does not."""

import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import records

from vecset.main_ae import main

RUNS = {
    "learnable": ("--model", "learnable_vec8x4_dim32_depth1_nb"),
    "kl": (
        *("--model", "learnable_vec8x4_dim32_depth1_kl", "--augment_rotation", 20, "--augment_scale", 0.1),
        *("--normal_weight", 1, "--normal_points", 8, "--class_loss", "softmax", "--accum_iter", 2, "--batch_size", 1),
    ),
    "point": (
        *("--model", "point_vec16x8_dim32_depth1_nb", "--anchors", "--rotary", "--fps_class_gap", 2),
        *("--fps_density", "auto", "--decoder_layers", 1, "--early_latents", 8, "--early_share", 0.5),
        *("--surface_loss_points", 32, "--balance", 0.5, "--balanced_weight", 1, "--truncated_weight", 1),
    ),
}
GOLDEN = {
    "learnable": [
        1.2864362001419067,
        1.3639379739761353,
        1.3067474365234375,
        1.3945503234863281,
        1.3367483615875244,
        0.0,
    ],
    "kl": [2.9680060148239136, 3.0613393783569336, 3.006758213043213, 3.3389781713485718, 3.0096641778945923, 0.0],
    "point": [
        2.149613618850708,
        2.008767604827881,
        2.0741257667541504,
        2.1320009231567383,
        2.0670902729034424,
        0.23781718841679708,
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def curve(data, output, options):
    """Total losses of four steps and of the validation behind them, and its mean Dice."""
    words = ("--epochs", 2, "--print_every", 1, *options)
    assert main(tiny_arguments(data, output, *words)) == 0
    *steps, validation = records(output)
    return [*(step["loss"] for step in steps), validation["loss"], validation["mean_dice"]]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_the_golden_ones(data, tmp_path, name):
    found = curve(data, tmp_path, RUNS[name])
    assert found[:2] == pytest.approx(GOLDEN[name][:2], abs=1e-6)
    assert found[2:] == pytest.approx(GOLDEN[name][2:], rel=1e-4)  # of weights that rounding has moved
