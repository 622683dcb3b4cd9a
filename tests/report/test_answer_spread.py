"""vecset/report/answer_spread.py: factors of intervals, and the spread in the file of python -m vecset.calibrate."""

import json

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.calibrate import main as calibrate
from vecset.common.errors import InputError
from vecset.fields.answers import answer_numbers, interval_of
from vecset.inference.inputs import find_hearts
from vecset.inference.model import load_model
from vecset.main_ae import main as train
from vecset.report import answer_spread
from vecset.report.answer_spread import factor_of, find_spread, spread_of
from vecset.report.completion import UnseenHeart

NAMES = ["RA", "RV", "PA", "LV"]


def test_a_factor_widens_the_interval_to_the_truth():
    volumes = np.arange(19.0)  # the interval of 19 is the least and the largest, 0 and 18, round 9
    assert interval_of(volumes) == (0.0, 18.0)
    assert factor_of(volumes, 18.0) == 1.0 and factor_of(volumes, 0.0) == 1.0
    assert factor_of(volumes, 27.0) == 2.0 and factor_of(volumes, 4.5) == 0.5 and factor_of(volumes, 9.0) == 0.0
    skewed = np.append(np.arange(10.0), 9 + 3 * np.arange(1.0, 10))  # 0 to 36 round 9: each side has its own width
    assert factor_of(skewed, 36.0) == 1.0 and factor_of(skewed, 0.0) == 1.0 and factor_of(skewed, 22.5) == 0.5
    assert factor_of(np.ones(19), 1.0) == 0.0 and factor_of(np.ones(19), 2.0) == np.inf


@pytest.mark.parametrize("true_spread", [0.5, 1.0, 1.8])
def test_with_the_spread_nine_in_ten_new_truths_lie_in_the_intervals(true_spread):
    """Volumes that follow the numbers linearly, truths that differ more or less than the answers do."""
    rng = np.random.default_rng(0)

    def hearts(count, spread):
        middle = rng.uniform(10, 90, (count, 1))
        return middle + spread * 5 * rng.normal(size=(count, 39)), middle[:, 0] + true_spread * 5 * rng.normal(
            size=count
        )

    factors = [factor_of(*pair) for pair in zip(*hearts(2000, 1.0))]
    spread = spread_of(factors)
    assert spread == pytest.approx(true_spread, rel=0.1)
    ends = [(*interval_of(volumes), truth) for volumes, truth in zip(*hearts(2000, spread))]
    assert np.mean([low <= truth <= high for low, high, truth in ends]) == pytest.approx(0.9, abs=0.025)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Balls in four slabs, and networks of a few steps, with several answers and with one."""
    folder = tmp_path_factory.mktemp("spread")
    write_ball_cases(folder / "cases", 4, 18, num_classes=4, class_names=NAMES)
    how = ("--observe", "classes=0.5", "--epochs", 2)
    assert train(tiny_arguments(folder / "cases", folder / "train", *how, "--answer_noise", 3)) == 0
    assert train(tiny_arguments(folder / "cases", folder / "one", *how)) == 0
    return folder


def words(made, output, run="train", answers="val"):
    lists = ["--csv", made / "cases" / "train.csv", "--answers_csv", made / "cases" / f"{answers}.csv"]
    checkpoint = made / run / "checkpoint-last.pth"
    return [*map(str, ["--checkpoint", checkpoint, *lists, "--output", output, "--hearts", 2, "--device", "cpu"])]


def test_the_file_has_the_spread_and_answers_follow_it(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answer_spread, "SPREADS", (0.0, np.inf))  # a network of a few steps
    monkeypatch.setattr(answer_spread, "spread_of", lambda factors: 1.7 + 0 * len(factors))
    path = tmp_path / "tuning.json"
    assert calibrate(words(made, path)) == 0
    assert "with the spread 1.70, nine in ten" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["answer_spread"] == 1.7 and content["answers"]["samples"] == 19
    assert len(content["answers"]["hearts"]) == 18 and content["answers"]["structures"] >= 20
    assert 0 <= content["answers"]["inside_before"] <= 1
    checkpoint = made / "train" / "checkpoint-last.pth"
    plain, spread = load_model(checkpoint, device="cpu"), load_model(checkpoint, device="cpu", decision_tuning=path)
    heart = find_hearts(made / "cases" / "val.csv", None)[0]
    latents = plain.encode(plain.read(heart), heart.case_id)
    noise_K, places = answer_numbers(3, 1, heart.case_id, 0), np.zeros((1, 3), np.float32)
    tuned = spread.field(latents, noise_K=noise_K).values(places)
    wider = plain.field(latents, noise_K=np.float32(1.7) * noise_K).values(places)
    wider = spread.decision_tuning.apply(*map(torch.as_tensor, wider))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(tuned, wider))
    path.write_text(json.dumps({**content, "answer_spread": 0}))
    with pytest.raises(InputError, match="answer_spread is 0.0, and must be above 0"):
        load_model(checkpoint, device="cpu", decision_tuning=path)


def test_factors_are_those_of_the_volumes_that_were_left_out(made):
    """Against volumes counted here, of a model whose answers do not differ: each factor is 0 or infinite."""
    model = load_model(made / "train" / "checkpoint-last.pth", device="cpu")
    for layer in model.network.answer_noise.maps:
        layer.weight.zero_()
    hearts = [UnseenHeart(model, entry) for entry in find_hearts(made / "cases" / "val.csv", None)]
    with pytest.raises(InputError, match="answers would have to differ inf times as much"):
        find_spread(model, hearts)
    with pytest.raises(InputError, match="1 structures could be left out of 1 hearts"):
        find_spread(model, hearts[:1])


def test_what_cannot_be_is_one_line(made, tmp_path):
    path = tmp_path / "tuning.json"
    with pytest.raises(InputError, match="it gives one answer"):
        calibrate(words(made, path, run="one"))
    with pytest.raises(InputError, match="no case in both train and val"):
        calibrate(words(made, path, answers="train"))
    assert not path.exists()
