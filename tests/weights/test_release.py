"""Released weights: half the numbers' bits, all that reconstruct.py needs, nothing that goes on training."""

import json

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases

import vecset
from vecset.common.errors import InputError, run_command
from vecset.data.listed_case import read_listed
from vecset.inference.model import load_model
from vecset.main_ae import main as train
from vecset.release import main as release
from vecset.weights import release as released_weights
from vecset.weights.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A folder as run_train.sh leaves it, of a tiny network and two classes."""
    from vecset.calibrate import main as calibrate
    from vecset.imaging.label_map import file_sha256

    root = tmp_path_factory.mktemp("run")
    write_ball_cases(root / "cases", train=2, val=1)
    assert train(tiny_arguments(root / "cases", root / "train", "--epochs", 2)) == 0
    best = root / "train" / "checkpoint-best.pth"
    words = ["--checkpoint", best, "--csv", root / "cases" / "train.csv", "--output", root / "calibration.json"]
    assert calibrate([str(w) for w in [*words, "--hearts", 1, "--num_surface_points", 64]]) in (0, 1)
    (root / "reconstruction").mkdir()
    figures = {"class_1": {"dice": 0.5, "assd_mm": 1.25, "n": 1}, "mean": {"dice": 0.5, "hd95_mm": None}}
    settings = {"checkpoint_sha256": file_sha256(best), "num_surface_points": 64, "seed": 0}
    metrics = {"settings": settings, "classes": figures, "hearts": {"val_0": {}}}
    (root / "reconstruction" / "metrics.json").write_text(json.dumps(metrics))
    return root


@pytest.fixture(scope="module")
def given_away(run_dir):
    path = run_dir / "weights" / "heart.pth"
    path.parent.mkdir()
    assert release(["--run_dir", str(run_dir), "--output", str(path), "--recipe", "tiny"]) == 0
    return path


def test_it_is_half_as_large_and_its_field_is_nearly_the_same(run_dir, given_away):
    trained = run_dir / "train" / "checkpoint-best.pth"
    assert given_away.stat().st_size < 0.5 * trained.stat().st_size  # no moments, and half the bits
    stored = load_checkpoint(given_away)
    kinds = {name: v.dtype for name, v in stored["model"].items() if v.is_floating_point()}
    assert kinds["to_outputs.1.weight"] == torch.float16 and kinds["point_embed.basis"] == torch.float32
    assert not {"optimizer", "random_state", "plan"} & set(stored)
    words = "data_path", "output_dir"
    assert not any(word in stored["args"] for word in words)  # of the machine that made it
    before = load_model(trained, num_surface_points=64, device="cpu")
    after = load_model(given_away, device="cpu")
    assert after.num_surface_points == 64 and after.class_names == before.class_names
    case = before.read(read_listed(run_dir / "cases" / "val.csv", run_dir / "cases")[0])
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    a, b = (
        model.network.decode(model.network.process_latents(model.encode(case, "a")), torch.from_numpy(points)[None])
        for model in (before, after)
    )
    torch.testing.assert_close(a, b, atol=5e-3, rtol=0)


def test_its_decision_tuning_comes_with_it_and_another_can_be_given(run_dir, given_away):
    of_file = load_model(run_dir / "train" / "checkpoint-best.pth", decision_tuning=run_dir / "calibration.json")
    own = load_model(given_away)
    np.testing.assert_array_equal(own.decision_tuning.offset_C, of_file.decision_tuning.offset_C)
    assert load_model(run_dir / "train" / "checkpoint-best.pth").decision_tuning is None
    with pytest.raises(InputError, match="the decision tuning of another checkpoint"):
        load_model(given_away, decision_tuning=run_dir / "calibration.json")


def test_the_card_says_what_it_was_made_from(run_dir, given_away):
    card = json.loads(given_away.with_suffix(".json").read_text())["card"]
    assert card["data"]["hearts"] == {"train": 2, "val": 1} and card["recipe"] == "tiny" and card["seed"] == 0
    assert card["figures"]["class_1"] == {"dice": 0.5, "assd_mm": 1.25} and card["figures"]["mean"] == {"dice": 0.5}
    assert card["steps"] and card["classes"] == load_checkpoint(given_away)["class_names"] and card["limits"]


def test_training_does_not_go_on_from_it_but_may_begin_with_it(run_dir, given_away, tmp_path, capsys):
    words = tiny_arguments(run_dir / "cases", tmp_path / "on", "--epochs", 3, "--resume", given_away)
    assert run_command(train, words) != 0
    assert "released weights hold no state of a training; start a new run from them: --init_from" in (
        capsys.readouterr().err
    )
    words = tiny_arguments(run_dir / "cases", tmp_path / "new", "--epochs", 2, "--init_from", given_away)
    assert run_command(train, words) == 0


def test_results_of_another_run_and_numbers_that_half_precision_cannot_hold_are_refused(run_dir, tmp_path, capsys):
    words = ["--run_dir", str(run_dir), "--output", str(tmp_path / "heart.bin")]
    assert run_command(release, words) != 0 and "ends in .pth" in capsys.readouterr().err
    other = tmp_path / "other"
    for part in ("train", "reconstruction"):
        (other / part).mkdir(parents=True)
    checkpoint = load_checkpoint(run_dir / "train" / "checkpoint-best.pth")
    checkpoint["model"] = {k: v.clone() for k, v in checkpoint["model"].items()}
    checkpoint["model"]["to_outputs.1.weight"][0, 0] = 1e6
    save_checkpoint(other / "train" / "checkpoint-best.pth", checkpoint)
    with pytest.raises(InputError, match="too large for half precision"):
        released_weights.write_release(tmp_path / "big.pth", checkpoint, {}, None, {})
    assert not (tmp_path / "big.pth").exists()
    for name in ("calibration.json", "reconstruction/metrics.json"):
        (other / name).write_bytes((run_dir / name).read_bytes())
    assert run_command(release, ["--run_dir", str(other), "--output", str(tmp_path / "o.pth")]) != 0
    assert "another checkpoint" in capsys.readouterr().err and not (tmp_path / "o.pth").exists()


def test_a_model_from_two_words_of_python(given_away, monkeypatch):
    monkeypatch.setattr(released_weights, "SHIPPED", given_away)
    assert vecset.load_heart_model(device="cpu").class_names == load_checkpoint(given_away)["class_names"]
    monkeypatch.setattr(released_weights, "SHIPPED", given_away.with_name("nowhere.pth"))
    with pytest.raises(InputError, match="the weights that come with the software are not there"):
        vecset.load_heart_model()
