"""Training with class distances and with a field per class, by the command: what is learned, kept, told and refused."""

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.ball_hearts import ball_heart_batch
from helpers.engine_parts import assert_same_state, records

from vecset.common.errors import run_command
from vecset.engines.loop import StepOptions, forward_losses
from vecset.engines.losses import DEFAULT_WEIGHTS, losses_of
from vecset.main_ae import main
from vecset.models.autoencoder import build_model
from vecset.models.embedding import surface_features
from vecset.models.labels import labels_of
from vecset.weights.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint

PARTS = ("--network", "parts", "--model", "point_vec12x4_dim32_depth2_nb", "--anchors", "--rotary")
FLAGS = {
    "distances": ("--class_outputs", "distances"),
    "both": ("--class_outputs", "both"),
    "per_class": ("--network", "per_class", *PARTS[2:]),
    "parts": PARTS,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2, class_distances=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLAGS)
def test_one_heart_is_learned(kind):
    """300 steps on one heart of three balls: the loss falls, and nearly all labels are right."""
    torch.manual_seed(0)
    network = kind if kind in ("per_class", "parts") else "joint"
    class_outputs = kind if network == "joint" else "logits"
    options = dict(anchors=True, rotary=True, network=network, class_outputs=class_outputs)
    model = build_model("point_vec24x8_dim64_depth2_nb", 3, **options)
    batch = ball_heart_batch(B=1, N=300, near=200, vol=400)
    batch["eikonal_points"] = batch["query_points"][:, ::20]
    weights = {name: DEFAULT_WEIGHTS[name] for name in losses_of(network, class_outputs)}
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        optimizer.zero_grad()
        loss, _, _ = forward_losses(model, batch, StepOptions(weights), 3)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0], (losses[0], losses[-1])
    surface = surface_features(batch["surface_points"], batch["surface_labels"], 3)
    with torch.no_grad():
        sdf, logits = model.decode(model.process_latents(model.encode(surface)), batch["query_points"])
    clear = batch["query_sdf"].abs() > 0.03
    labels, truth = labels_of(sdf, logits).long()[clear], batch["query_labels"][clear]
    assert (truth > 0).sum() > 50 and (labels == truth).double().mean() > 0.97
    for c in (1, 2, 3):
        assert (labels[truth == c] == c).double().mean() > 0.9


@pytest.mark.parametrize("kind", ["both", "parts"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, tmp_path, kind, capsys):
    flags = (*FLAGS[kind], "--epochs", 2, "--eval_every", 1)
    assert main(tiny_arguments(data, tmp_path / "whole", *flags)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags, "--max_steps", 1)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags)) == 0
    assert "note: options that differ" not in capsys.readouterr().out
    whole, cut = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("whole", "cut"))
    assert_same_state(whole, cut)
    logged = set().union(*(record.keys() for record in records(tmp_path / "whole")))
    assert {"class_near", "class_far"} <= logged if kind == "parts" else "class_distance" in logged


@pytest.mark.parametrize("kind", FLAGS)
def test_a_checkpoint_is_the_network_again(data, tmp_path, kind, capsys):
    folder = tmp_path / "run"
    assert main(tiny_arguments(data, folder, *FLAGS[kind], "--epochs", 2)) == 0
    stored = load_checkpoint(folder / "checkpoint-last.pth")
    model = model_from_checkpoint(stored)
    batch = ball_heart_batch()
    surface = surface_features(batch["surface_points"], batch["surface_labels"], 3)
    with torch.no_grad():
        fields = model.decode_fields(model.process_latents(model.encode(surface)), batch["query_points"])
    assert fields[2].shape == (2, 60, 3) and fields[2].std() > 0
    capsys.readouterr()
    # --eval needs no flag of the network, and takes no other one
    assert main(["--data_path", str(data), "--output_dir", str(folder), "--eval", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert f"{stored['metrics']['mean_dice']:.4g}" in told
    flags = ["--network", "joint", "--class_outputs", "logits"]
    assert run_command(main, ["--data_path", str(data), "--output_dir", str(folder), "--eval", *flags]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_a_run_from_before_these_options_goes_on(data, tmp_path, capsys):
    flags = ("--epochs", 2)
    assert main(tiny_arguments(data, tmp_path, *flags, "--max_steps", 1)) == 0
    stored = load_checkpoint(tmp_path / "checkpoint-last.pth")
    for name in ("network", "class_outputs"):
        stored["model_config"].pop(name), stored["args"].pop(name)
    stored["model_config"].pop("states"), stored["args"].pop("observe")
    for name in ("class_distance_weight", "class_near_weight", "class_far_weight", "class_distance_clip"):
        stored["args"].pop(name)
    for name in ("checkpoint-last.pth", "checkpoint-best.pth"):
        (tmp_path / name).unlink(missing_ok=True)
    save_checkpoint(tmp_path / "checkpoint-last.pth", stored)
    capsys.readouterr()
    assert main(tiny_arguments(data, tmp_path, *flags)) == 0
    told = capsys.readouterr()
    assert "options that differ" not in told.out and "going on from" in told.out


def test_cases_without_class_distances_are_refused(tmp_path, capsys):
    data = write_ball_cases(tmp_path / "data", train=2, val=1)
    for kind in ("both", "parts"):
        assert run_command(main, tiny_arguments(data, tmp_path / "out", *FLAGS[kind])) == 2
        said = capsys.readouterr().err
        assert "make it again with prepare_data.py --class_distances --overwrite" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (
            ("--network", "parts", "--class_outputs", "both"),
            "--class_outputs: --network parts has a distance per class",
        ),
        (("--network", "parts", "--normal_weight", "1"), "--normal_weight: --network parts has no such loss"),
        (PARTS[:2] + ("--model", "point_vec2x4_dim32_depth2_nb"), "at least a latent for each of 3 classes"),
        (PARTS + ("--early_latents", "2"), "--early_latents: expected at least a latent for each of 3 classes"),
        (PARTS[:2] + ("--model", "point_vec8x4_dim32_depth1_nb"), "--network parts needs two layers"),
    ],
)
def test_what_does_not_go_together_is_refused(data, tmp_path, flags, words, capsys):
    assert run_command(main, tiny_arguments(data, tmp_path / "out", *flags)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_has_no_effect_is_said(data, tmp_path, capsys):
    flags = (*PARTS, "--fps_class_gap", 2, "--fps_density", "auto", "--class_weight", 5, "--epochs", 2)
    assert main(tiny_arguments(data, tmp_path, *flags)) == 0
    told = capsys.readouterr().out
    assert "note: without effect with --network parts: --class_weight, --fps_class_gap, --fps_density" in told
    assert "point_vec12x4_dim32_depth2_nb --network parts, 4 latents for each of 3 classes: " in told
    config = load_checkpoint(tmp_path / "checkpoint-last.pth")["model_config"]
    assert (config["network"], config["fps_class_gap"], config["fps_density"]) == ("parts", 0.0, "")


def test_weights_of_another_network_are_refused(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "joint", "--epochs", 2)) == 0
    start = ("--init_from", tmp_path / "joint" / "checkpoint-last.pth")
    capsys.readouterr()
    for flags, words in (
        (("--class_outputs", "both"), "expected weights of a network with class_outputs both, found logits"),
        (("--network", "per_class"), "expected weights of a network with network per_class, found joint"),
    ):
        assert run_command(main, tiny_arguments(data, tmp_path / "new", *flags, *start)) == 2
        assert words in capsys.readouterr().err
