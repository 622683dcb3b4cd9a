"""vecset/report/answer_intervals.py: factors of intervals, and the factor in the file of python -m vecset.calibrate."""

import json

import numpy as np
import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.calibrate import check_held_out
from vecset.calibrate import main as calibrate
from vecset.common.errors import InputError
from vecset.data.listed_case import ListedCase
from vecset.fields.answers import factor_to, interval_of, interval_round
from vecset.inference import decision_tuning_search
from vecset.inference.inputs import find_hearts
from vecset.inference.model import load_model
from vecset.main_ae import main as train
from vecset.report import answer_intervals
from vecset.report.answer_intervals import factor_for_all, find_factor, left_out_of

NAMES = ["RA", "RV", "PA", "LV"]


def test_an_interval_lies_round_the_one_answer_by_quotients():
    volumes = np.geomspace(5.0, 20.0, 19)  # from half to twice their median of 10
    assert interval_of(volumes) == pytest.approx((5.0, 20.0))
    assert interval_round(30.0, volumes, 1.0) == pytest.approx((15.0, 60.0))
    assert interval_round(30.0, volumes, 2.0) == pytest.approx((7.5, 120.0))
    assert interval_round(0.0, volumes, 2.0) == pytest.approx((0.0, 20.0))
    assert interval_round(3.0, np.zeros(19), 2.0) == (0.0, 3.0)
    for truth, factor in ((60.0, 1.0), (15.0, 1.0), (120.0, 2.0), (7.5, 2.0), (30.0, 0.0), (30 * 2**0.5, 0.5)):
        assert factor_to(truth, 30.0, volumes) == pytest.approx(factor)
    assert factor_to(0.0, 30.0, volumes) == np.inf and factor_to(2.0, 1.0, np.ones(19)) == np.inf
    assert factor_to(0.0, 30.0, np.append(volumes[1:], 0.0)) == 0.0  # the interval begins at 0
    assert factor_to(15.0, 0.0, volumes) == 0.0 and factor_to(25.0, 0.0, volumes) == np.inf


def test_the_least_factor_is_the_one_that_is_found():
    """Against trying factors: the interval holds the truth with a little more, and not with a little less."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        volumes, one, truth = rng.lognormal(2, 0.4, 19), rng.lognormal(2, 0.3), rng.lognormal(2, 0.5)
        found = factor_to(truth, one, volumes)
        for factor, held in ((1.001 * found, True), (0.999 * found, False)):
            low, high = interval_round(one, volumes, factor)
            assert (low <= truth <= high) == held


@pytest.mark.parametrize("true_spread", [0.5, 1.0, 1.8])
def test_nine_in_ten_new_truths_lie_in_the_intervals(true_spread):
    """Answers that are all too small, and differ more or less than truths do."""
    rng = np.random.default_rng(0)

    def hearts(count):
        middle, scatter = rng.uniform(10, 90, (count, 1)), rng.uniform(0.05, 0.3, (count, 1))
        answers = 0.8 * middle * np.exp(scatter * rng.normal(size=(count, 39)))
        truths = middle[:, 0] * np.exp(true_spread * scatter[:, 0] * rng.normal(size=count))
        return list(zip(truths, middle[:, 0], answers))

    factor = factor_for_all([factor_to(*heart) for heart in hearts(2000)])
    assert factor == pytest.approx(true_spread, rel=0.1)
    ends = [(truth, *interval_round(one, answers, factor)) for truth, one, answers in hearts(2000)]
    assert np.mean([low <= truth <= high for truth, low, high in ends]) == pytest.approx(0.9, abs=0.025)
    assert factor_for_all([1.0, 3.0, 2.0]) == 3.0 and factor_for_all(range(1, 20)) == 18


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Balls in four slabs, and networks of a few steps, with several answers and with one."""
    folder = tmp_path_factory.mktemp("intervals")
    write_ball_cases(folder / "cases", 4, 18, num_classes=4, class_names=NAMES)
    how = ("--observe", "classes=0.5", "--epochs", 2)
    assert train(tiny_arguments(folder / "cases", folder / "train", *how, "--answer_noise", 3)) == 0
    assert train(tiny_arguments(folder / "cases", folder / "one", *how)) == 0
    return folder


def words(made, output, run="train", answers="val"):
    lists = ["--csv", made / "cases" / "train.csv", "--answers_csv", made / "cases" / f"{answers}.csv"]
    checkpoint = made / run / "checkpoint-last.pth"
    return [*map(str, ["--checkpoint", checkpoint, *lists, "--output", output, "--hearts", 2, "--device", "cpu"])]


def test_the_file_has_the_factor_and_the_model_knows_it(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answer_intervals, "factor_for_all", lambda factors: 1.7 + 0 * len(factors))
    path = tmp_path / "tuning.json"
    assert calibrate(words(made, path)) == 0
    assert "the factor 1.70, nine in ten" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["answer_interval"] == 1.7 and content["answers"]["samples"] == 19
    assert len(content["answers"]["hearts"]) == 18 and content["answers"]["structures"] >= 20
    assert 0 <= content["answers"]["inside_before"] <= 1
    checkpoint = made / "train" / "checkpoint-last.pth"
    assert load_model(checkpoint, device="cpu", decision_tuning=path).answer_interval == 1.7
    assert load_model(checkpoint, device="cpu").answer_interval is None
    path.write_text(json.dumps({**content, "answer_interval": 0}))
    with pytest.raises(InputError, match="answer_interval is 0.0, and must be above 0"):
        load_model(checkpoint, device="cpu", decision_tuning=path)


def test_answers_that_do_not_differ_have_no_factor(made):
    model = load_model(made / "train" / "checkpoint-last.pth", device="cpu")
    for layer in model.network.answer_noise.maps:
        layer.weight.zero_()
    pairs = left_out_of(model, find_hearts(made / "cases" / "val.csv", None))
    with pytest.raises(InputError, match="would need the factor inf, and 4 is the most"):
        find_factor(model, pairs)


def test_too_few_hearts_are_refused_before_the_tuning(made, tmp_path, monkeypatch, capsys):
    lines = (made / "cases" / "val.csv").read_text().splitlines(keepends=True)
    (made / "cases" / "few.csv").write_text("".join(lines[:2]))
    monkeypatch.setattr(decision_tuning_search, "tune_decisions", lambda *words: pytest.fail("the tuning began"))
    with pytest.raises(InputError, match="1 structures could be left out of 1 hearts; give more hearts: 20"):
        calibrate(words(made, tmp_path / "tuning.json", answers="few"))
    assert "held-out hearts" in capsys.readouterr().err and not (tmp_path / "tuning.json").exists()


def test_each_held_out_heart_is_read_once_and_each_answer_is_told(made, monkeypatch):
    model, read = load_model(made / "train" / "checkpoint-last.pth", device="cpu"), []
    load = type(model).read

    def counted(self, heart, *rest, **how):
        read.append((heart.case_id, how.get("given") is None))
        return load(self, heart, *rest, **how)

    monkeypatch.setattr(type(model), "read", counted)
    monkeypatch.setattr(answer_intervals, "factor_for_all", lambda factors: 1.0)
    entries, told = find_hearts(made / "cases" / "val.csv", None), []
    pairs = left_out_of(model, entries)
    assert [(name, whole) for name, whole in read] == [(entry.case_id, True) for entry in entries]
    assert len({left_out.name for left_out, _ in pairs}) > 1 and all(max(h.whole.frame.shape) <= 48 for _, h in pairs)
    find_factor(model, pairs, 19, lambda: told.append(1))
    assert len(told) == 19 * len(pairs)
    assert read[len(entries) :] == [(heart.entry.case_id, False) for _, heart in pairs]


def test_what_cannot_be_is_one_line(made, tmp_path):
    path = tmp_path / "tuning.json"
    with pytest.raises(InputError, match="it gives one answer"):
        calibrate(words(made, path, run="one"))
    with pytest.raises(InputError, match="is among the hearts of --csv, too; give hearts that are in no training"):
        calibrate(words(made, path, answers="train"))
    assert not path.exists()


def test_another_heart_of_the_same_name_is_held_out(made, tmp_path):
    def listed(path):
        return ListedCase("ball00", path)

    one, copy, other = (made / "cases" / "ball00.npz", tmp_path / "ball00.npz", tmp_path / "other.npz")
    copy.write_bytes(one.read_bytes())
    other.write_bytes((made / "cases" / "ball01.npz").read_bytes())
    check_held_out([listed(one)], [listed(other)], "val.csv")
    for same in (one, copy):
        with pytest.raises(InputError, match="val.csv: ball00 is among the hearts of --csv, too"):
            check_held_out([listed(one)], [listed(same)], "val.csv")
