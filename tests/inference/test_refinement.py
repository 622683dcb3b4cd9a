"""--refine: latents that fit their own heart better, by a network that stays as it is; what it refuses."""

import json

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.formula_hearts import write_checkpoint

import reconstruct
from vecset import calibrate
from vecset.common.errors import run_command
from vecset.engines.losses import POINT_GROUPS
from vecset.fields.decision_tuning import DecisionTuning, read_decision_tuning, write_decision_tuning
from vecset.inference import refinement
from vecset.inference.inputs import FIELD_MEMBERS
from vecset.inference.model import LoadedModel, load_model
from vecset.inference.refinement import Refinement, refine_latents
from vecset.main_ae import main

NAMES = ["RA", "RV", "PA"]
MODEL = "point_vec16x8_dim32_depth1_nb"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 2, 1, num_classes=3, class_names=NAMES)
    words = [
        "--model",
        MODEL,
        "--anchors",
        "--class_loss",
        "softmax",
        "--epochs",
        150,
        "--lr",
        1e-2,
        "--eval_every",
        150,
    ]
    assert main(tiny_arguments(folder, folder / "train", *words)) == 0
    (folder / "checkpoint.pth").write_bytes((folder / "train" / "checkpoint-last.pth").read_bytes())
    return folder


@pytest.fixture(scope="module")
def model(data):
    return load_model(data / "checkpoint.pth", device="cpu")


def test_the_loss_of_points_that_were_not_fitted_falls_and_places_stay(model, data):
    case = model.read(data / "ball02.npz", with_field=True)
    latents = model.encode(case)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    refined, told = refine_latents(model, case, "ball02", latents, Refinement(steps=60))
    assert told["steps"] == 60 and told["kept"] and told["loss_after"] < 0.97 * told["loss_before"]
    assert refined.shape == latents.shape and not refined.requires_grad
    assert torch.equal(refined[..., -3:], latents[..., -3:]) and not torch.equal(refined, latents)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    again, _ = refine_latents(model, case, "ball02", latents, Refinement(steps=60))
    assert torch.equal(again, refined), "the same on every run"
    other, _ = refine_latents(model, case, "other", latents, Refinement(steps=60))
    assert not torch.equal(other, refined)


def test_points_have_their_own_truth_and_a_tenth_is_never_drawn(model, data):
    case = model.read(data / "ball02.npz", with_field=True)
    points = refinement._Points(case, model, "ball02")
    apart = {tuple(p) for p in points.held_out()[0][0].numpy()}
    known = {}
    for kind in ("near", "vol"):
        arrays = [np.asarray(case.arrays[f"{kind}_{what}"]) for what in ("points", "sdf", "labels")]
        known |= {tuple(p): (float(s), int(c), kind) for p, s, c in zip(arrays[0], arrays[1].ravel(), arrays[2])}
    for _ in range(3):
        at, (sdf, labels, group) = points.draw()
        assert at.shape == (1, refinement.NEAR + refinement.VOLUME, 3)
        for row in range(0, at.shape[1], 37):
            place = tuple(at[0, row].numpy())
            assert place not in apart
            distance, label, kind = known[place]
            name = "near" if kind == "near" else "inside" if distance < 0 else "outside"
            found = float(sdf[0, row]), int(labels[0, row]), POINT_GROUPS[int(group[0, row])]
            assert found == (pytest.approx(distance), label, name)


def test_thin_structures_have_as_many_points_as_others(model, data):
    case = model.read(data / "ball02.npz", with_field=True)
    source = np.asarray(case.arrays["near_source"]).copy()
    rare = np.flatnonzero(source == 2)
    source[rare[20:]] = 1
    case.arrays["near_source"] = source
    of = {tuple(p): int(c) for p, c in zip(case.arrays["near_points"], source)}
    points = refinement._Points(case, model, "ball02")
    at, _ = points.draw()
    drawn = np.bincount([of[tuple(p)] for p in at[0, : refinement.NEAR].numpy()], minlength=4)
    assert drawn[2] >= refinement.BALANCED * refinement.NEAR // 3


@torch.no_grad()
def test_a_class_that_nobody_annotated_gives_way_to_what_is_known(model, data):
    """Where it would lead inside a known structure there would be a hole; in the background nothing is known of it."""
    case = model.read(data / "ball02.npz", with_field=True)
    case.meta["annotated_classes"] = [1, 2]
    third = np.asarray(case.arrays["near_labels"]) == 3  # this map has it as a part of the second
    for name in ("near_labels", "vol_labels"):
        case.arrays[name] = np.where(np.asarray(case.arrays[name]) == 3, 2, case.arrays[name]).astype(np.uint8)
    latents = model.encode(case)
    refined, _ = refine_latents(model, case, "ball02", latents, Refinement(steps=60))
    points = np.asarray(case.arrays["near_points"], np.float32)[third]
    lead = []
    for code in (latents, refined):
        logits = model.field(code).values(points)[1]
        lead.append((logits[:, 2] - logits[:, 1]).mean())
    assert lead[1] < lead[0] - 0.05


def test_what_is_not_better_is_not_kept(model, data, monkeypatch):
    monkeypatch.setattr(refinement, "LEARNING_RATE", 1e30)
    case = model.read(data / "ball02.npz", with_field=True)
    latents = model.encode(case)
    refined, told = refine_latents(model, case, "ball02", latents, Refinement(steps=3))
    assert not told["kept"] and torch.equal(refined, latents)


def test_a_long_one_shows_its_progress(model, data, capsys, monkeypatch):
    case = model.read(data / "ball02.npz", with_field=True)
    latents = model.encode(case)
    refine_latents(model, case, "ball02", latents, Refinement(steps=3))
    assert "fits" not in capsys.readouterr().err
    monkeypatch.setattr(refinement, "SHOWN_FROM", (1.0, 3))
    refine_latents(model, case, "ball02", latents, Refinement(steps=3))
    assert "fits ball02" in capsys.readouterr().err


def test_seconds_are_kept(model, data):
    case = model.read(data / "ball02.npz", with_field=True)
    _, told = refine_latents(model, case, "ball02", model.encode(case), Refinement(seconds=0.5))
    assert told["steps"] >= 1 and told["seconds"] >= 0.5


def run(data, out, *words, source="val.csv"):
    base = ["--checkpoint", data / "checkpoint.pth", "--input", data / source, "--output_dir", out, "--device", "cpu"]
    return run_command(reconstruct.main, list(map(str, [*base, "--no_meshes", *words])))


def test_the_command_scores_better_says_what_it_did_and_saves_the_latents(data, tmp_path, capsys):
    assert run(data, tmp_path / "plain") == 0
    assert run(data, tmp_path / "fit", "--refine_steps", 80, "--latents") == 0
    plain, fit = (json.loads((tmp_path / name / "ball02" / "result.json").read_text()) for name in ("plain", "fit"))
    dice = [np.mean([row["dice"] for row in found["scores"] if row["class_name"] in NAMES]) for found in (plain, fit)]
    assert dice[1] > dice[0] + 0.03 and "refinement" not in plain
    assert fit["refinement"]["steps"] == 80 and fit["refinement"]["kept"]
    capsys.readouterr()
    assert run(data, tmp_path / "fit", "--refine_steps", 80, "--latents") == 0
    assert "1 of 1 hearts were done before" in capsys.readouterr().out
    words = ["--checkpoint", data / "checkpoint.pth", "--latents", tmp_path / "fit" / "ball02" / "latents.npz"]
    words += ["--output_dir", tmp_path / "stored", "--device", "cpu", "--no_meshes"]
    assert run_command(reconstruct.main, list(map(str, words))) == 0
    labels = [(tmp_path / name / "ball02" / "labels.nii.gz").read_bytes() for name in ("fit", "stored")]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--refine", "0"], "--refine: expected 0.1 to 3600 seconds, found 0"),
        (["--refine_steps", "0"], "--refine_steps: expected 1 to 100000 steps"),
        (["--refine", "5", "--refine_steps", "5"], "--refine: --refine_steps says how long, too; give one of them"),
        (["--refine", "5", "--given", "RA"], "--refine: with --given: what is hidden would be fitted as background"),
        (["--refine", "5", "--complete"], "--refine: with --complete"),
        (["--refine", "5", "--repair"], "--refine: with --repair: errors of the label map would be fitted, too"),
        (["--refine", "5", "--slices", "file"], "--refine: with --slices"),
    ],
)
def test_what_cannot_be_is_one_line(data, tmp_path, capsys, words, message):
    assert run(data, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_networks_without_logits_and_hearts_without_points_are_named(data, tmp_path, capsys):
    write_checkpoint(data / "d.pth", classes=3, names=NAMES, model_name=MODEL, anchors=True, class_outputs="distances")
    words = ["--checkpoint", data / "d.pth", "--input", data / "val.csv", "--output_dir", tmp_path / "o"]
    words += ["--device", "cpu", "--refine", 1]
    assert run_command(reconstruct.main, list(map(str, words))) == 2
    assert "--refine: it is for networks with class logits" in capsys.readouterr().err
    model = load_model(data / "checkpoint.pth", device="cpu")
    case = model.read(data / "ball02.npz")
    with pytest.raises(refinement.InputError, match=f"it has no {FIELD_MEMBERS[0]}, which --refine needs"):
        refine_latents(model, case, "a", model.encode(case), Refinement(steps=1))


def test_decisions_are_tuned_on_fitted_latents_and_used_for_them_alone(data, tmp_path, capsys, monkeypatch):
    words = ["--checkpoint", data / "checkpoint.pth", "--csv", data / "train.csv", "--hearts", "2", "--device", "cpu"]
    words += ["--output", tmp_path / "tuning.json", "--refine_steps", "20"]
    assert run_command(calibrate.main, [*map(str, words)]) == 0
    assert "latents fitted to their hearts, 20 steps" in capsys.readouterr().out
    content = json.loads((tmp_path / "tuning.json").read_text())
    assert content["refined"]["steps"] == 20 and 0 < content["refined"]["mean_dice_after"] <= 1
    assert {"refined_offset", "refined_slope"} <= content["classes"]["RA"].keys()
    content["classes"]["RA"]["refined_offset"] = 0.75  # to tell them apart
    (tmp_path / "tuning.json").write_text(json.dumps(content))
    used = []
    field = LoadedModel.field

    def recorded(self, *args, **words):
        used.append(field(self, *args, **words))
        return used[-1]

    monkeypatch.setattr(LoadedModel, "field", recorded)
    run = ["--checkpoint", data / "checkpoint.pth", "--calibration", tmp_path / "tuning.json", "--no_meshes"]
    run += ["--input", data / "val.csv", "--device", "cpu"]
    for more, offset in (([], content["classes"]["RA"]["offset"]), (["--refine_steps", 20], 0.75)):
        used.clear()
        out = tmp_path / f"out{len(more)}"
        assert run_command(reconstruct.main, [str(word) for word in [*run, "--output_dir", out, *more]]) == 0
        assert used[0].decision_tuning.offset_C[0] == pytest.approx(offset)


def test_a_file_with_numbers_for_fitted_latents_comes_back(tmp_path):
    numbers = [np.float32(v) for v in ([0, -1], [0, 20], [0.5, 1], [3, 0])]
    tuning = DecisionTuning(*numbers[:2], refined_offset_C=numbers[2], refined_slope_C=numbers[3])
    write_decision_tuning(tmp_path / "t.json", tuning, ["a", "b"], "abc", {})
    back = read_decision_tuning(tmp_path / "t.json", ["a", "b"], "abc")
    assert back.inferred_offset_C is None
    np.testing.assert_array_equal(back.refined_offset_C, numbers[2])
    np.testing.assert_array_equal(back.for_refined().slope_C, numbers[3])
    assert DecisionTuning(*numbers[:2]).for_refined().offset_C is numbers[0]
