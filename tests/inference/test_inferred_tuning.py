"""Decision tuning of what is inferred: which structures are left out, where their voxels lie, what the search finds
where the answer is known, and the way through the commands."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ball_cases import write_ball_cases
from helpers.fake_model import FormulaModel
from helpers.formula_hearts import write_checkpoint

from vecset import calibrate
from vecset.common.errors import InputError, run_command
from vecset.data.case_file import read_case, write_case
from vecset.data.listed_case import ListedCase
from vecset.fields.decision_tuning import DecisionTuning, read_decision_tuning, write_decision_tuning
from vecset.fields.heart_field import HeartField, without_barred
from vecset.inference.decision_tuning_samples import LEFT_OUT_HEARTS, DrawnHeart, Sample, draw_heart, what_to_hide
from vecset.inference.decision_tuning_search import Base, dice_per_class, dice_table, fit, offset_of_left_out
from vecset.inference.heart_result import decode_heart
from vecset.inference.inputs import find_hearts
from vecset.inference.model import load_model
from vecset.inference.settings import OutputSettings
from vecset.models.labels import labels_of

NAMES = ["RA", "RV", "PA", "LV"]
COMPLETED = OutputSettings(meshes=False, complete=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 2, 1, num_classes=4, class_names=NAMES)
    write_checkpoint(folder / "checkpoint.pth", classes=4, names=NAMES, states=True)
    return folder


@pytest.fixture(scope="module")
def model(data):
    return load_model(data / "checkpoint.pth", device="cpu")


def drawn(name, annotated, truth=None):
    annotated = np.array(annotated, bool)
    truth = np.append(0, np.flatnonzero(annotated) + 1) if truth is None else truth
    sample = Sample(np.uint8(truth), np.ones(len(truth)), None, None)
    return DrawnHeart(ListedCase(name, Path(name)), sample, None, None, annotated, ~annotated & False)


def test_what_is_left_out_of_which_hearts():
    both = [drawn(f"A{i}", [1, 1, 0, 0]) for i in range(3)] + [drawn(f"B{i}", [1, 1, 1, 1]) for i in range(6)]
    found = {}
    for heart, hidden in what_to_hide(both):
        assert (heart.annotated & ~hidden).any() and not (hidden & ~heart.annotated).any()
        found.setdefault(tuple((np.flatnonzero(hidden)).tolist()), []).append(heart.listed.case_id)
    assert found.pop((2, 3)) == [f"B{i}" for i in range(6)], "what A has not annotated, of every heart of B"
    assert set(found) == {(0,), (1,), (2,), (3,)} and all(len(names) == LEFT_OUT_HEARTS for names in found.values())
    assert {name[0] for name in found[(0,)]} == {"A", "B"} and {name[0] for name in found[(2,)]} == {"B"}
    assert what_to_hide([drawn("a", [1, 0])]) == [], "nothing would be left"
    assert what_to_hide([drawn("a", [1, 1], truth=[0, 1])]) == [], "what it lacks cannot be left out"
    lacking = [drawn("a", [1, 1, 1, 1], truth=[0, 1, 2, 3]), drawn("b", [1, 0, 0, 0])]
    found = [tuple(np.flatnonzero(hidden).tolist()) for _, hidden in what_to_hide(lacking)]
    assert found == [(1, 2), (0,), (1,), (2,)], "a class that no heart has, as the reserved one, is no reason to stop"
    assert what_to_hide([]) == []


def test_voxels_of_a_heart_with_something_left_out_lie_where_it_decodes_them(model, data):
    """The field is that of reconstruct.py --given --complete, and voxels of the whole map are found in its frame."""
    (entry,) = find_hearts(data / "val.csv")
    hidden = np.array([True, False, False, False])
    heart = draw_heart(model, entry, hidden)
    case = model.read(entry, given=NAMES[1:])
    decoded = decode_heart(model, COMPLETED, entry.case_id, case, None, 8192, lambda line: None)
    whole = case.whole
    assert abs(whole.frame.scale / case.frame.scale - 1) > 0.01, "else the frames are no different"
    voxels = np.rint(whole.frame.mm_to_voxel(case.frame.unit_to_mm(heart.places.astype(float)))).astype(int)
    np.testing.assert_array_equal(whole.truth_labels()[tuple(voxels.T)], heart.sample.truth)
    near = np.linalg.norm(heart.places, axis=1) <= model.inferred_radius_unit
    for found, expected in zip((heart.sample.sdf, heart.sample.logits), decoded.field.values(heart.places[near])):
        np.testing.assert_array_equal(found.numpy()[near], expected)
    assert (heart.sample.sdf.numpy()[~near] > 0).all() and (heart.sample.logits.numpy()[~near] < 0).all()
    assert heart.hidden.tolist() == hidden.tolist() and heart.present.all()
    assert heart.sample.weight.sum() == pytest.approx(whole.truth_crop.size)
    plain = draw_heart(model, entry)
    assert not plain.hidden.any() and len(plain.sample.truth) >= len(heart.sample.truth)


def test_what_may_not_be_drawn_takes_less_where_something_is_left_out_too(model, data, tmp_path):
    """LV was not annotated, RA is left out; the voxels are those of the label map that --complete makes without LV."""
    case = read_case(data / "ball02.npz")
    case.meta["annotated_classes"] = [1, 2, 3]
    case = replace(case, truth_crop=np.where(case.truth_crop == 4, 0, case.truth_crop).astype(np.uint8))
    write_case(tmp_path / "ball02.npz", case)
    heart = draw_heart(model, ListedCase("ball02", tmp_path / "ball02.npz"), np.array([True, False, False, False]))
    assert heart.raw is not None and heart.raw[2].tolist() == [True, True, True, False]
    for offset in (0.0, -3.0):
        sample = heart.with_left_out(offset).sample
        raw, numbers = heart.raw[0], (torch.tensor([0, 1, 2]), torch.tensor([3]))
        expected = without_barred(raw.sdf, raw.logits, *numbers, offset)
        assert torch.equal(sample.sdf, expected[0]) and torch.equal(sample.logits, expected[1])
    assert (labels_of(heart.sample.sdf, heart.sample.logits) != 4).all()


def sampled(shy, seed):
    """Voxels of two classes. The logits are right; the distance of the second is `shy` too far outside."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 3000).astype(np.uint8)
    logits = rng.normal(-3, 0.3, (3000, 2)).astype(np.float32)
    logits[truth > 0, truth[truth > 0] - 1] += 6
    sdf = np.where(truth == 0, 0.5, -0.5) + np.where(truth == 2, shy, 0.0)
    return Sample(truth, np.ones(3000), torch.from_numpy(sdf).float(), torch.from_numpy(logits))


def test_an_inferred_class_decides_for_itself_where_a_seen_one_need_not():
    seen, inferred = [sampled(0.0, 0)], [sampled(1.0, 1), sampled(0.0, 2)]
    known = [[True, True]]
    offset, deciding = fit(seen, known)
    assert not offset.any() and not deciding
    base = Base(offset, deciding, np.array([[False, True], [True, False]]))
    own, decides = fit(inferred, known * 2, base=base)
    assert decides == {1} and not own[0]
    lines, record = dice_table(inferred, known * 2, ["a", "b"], own, decides, base)
    assert record == {"mean_dice_before": 0.5, "mean_dice_after": 1.0}, "b was never drawn, a always"
    assert lines[1].split() == ["a", "0.00", "no", "1.000", "1.000"] and lines[2].split()[2:] == [
        "yes",
        "0.000",
        "1.000",
    ]
    tuning = DecisionTuning(offset, np.zeros(2), None, own, np.float32([0, 2]))
    mixed = tuning.for_heart(np.array([False, True]))
    found = mixed.apply(inferred[0].sdf, inferred[0].logits)[0]
    assert (found[torch.from_numpy(inferred[0].truth == 2)] < 0).all()
    np.testing.assert_array_equal(dice_per_class(inferred[0], *base.mixed(0, own, decides)), [1, 1])
    assert tuning.for_heart(np.zeros(2, bool)).slope_C.tolist() == [0, 0]
    same = DecisionTuning(offset, np.zeros(2))
    assert same.for_heart(np.ones(2, bool)) is same


def test_the_file_comes_back_and_half_of_the_numbers_are_refused(tmp_path):
    path, names = tmp_path / "c.json", ["a", "b"]
    numbers = [np.float32(v) for v in ([0, -1], [0, 20], [0.5, 1], [3, 0])]
    write_decision_tuning(path, DecisionTuning(*numbers[:2], 1.5, *numbers[2:]), names, "abc", {})
    back = read_decision_tuning(path, names, "abc")
    for found, given in zip((back.offset_C, back.slope_C, back.inferred_offset_C, back.inferred_slope_C), numbers):
        np.testing.assert_array_equal(found, given)
    assert back.answer_interval == 1.5
    content = json.loads(path.read_text())
    del content["classes"]["b"]["inferred_slope"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="inferred_slope"):
        read_decision_tuning(path, names, "abc")


def test_calibrate_tunes_what_is_inferred_and_reconstruction_uses_it(data, tmp_path, capsys):
    words = ["--checkpoint", data / "checkpoint.pth", "--csv", data / "train.csv", "--hearts", "2"]
    words += ["--output", tmp_path / "tuning.json", "--device", "cpu"]
    assert run_command(calibrate.main, [*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "inferred where it is left out, 8 times in all:" in said  # four classes, each of two hearts
    content = json.loads((tmp_path / "tuning.json").read_text())
    assert content["inferred"]["left_out"] == 8 and "inferred_offset" in content["classes"]["RA"]
    content["classes"]["RA"] |= {"inferred_offset": 40.0, "inferred_slope": 1.0}
    (tmp_path / "other.json").write_text(json.dumps(content))
    (entry,) = find_hearts(data / "val.csv")
    volumes = {}
    for name in ("tuning", "other"):
        model = load_model(data / "checkpoint.pth", device="cpu", decision_tuning=tmp_path / f"{name}.json")
        for given in (None, NAMES[1:]):
            case = model.read(entry, given=given)
            heart = decode_heart(model, COMPLETED, entry.case_id, case, None, 8192, lambda line: None)
            volumes[name, given is None] = int((heart.on_source == 1).sum())
    assert volumes["tuning", True] == volumes["other", True], "RA is seen: its own numbers hold"
    assert volumes["tuning", False] < volumes["other", False]


def test_what_is_not_drawn_takes_less_from_the_others():
    """A third class leads in half of what is the first one's, by 2; hearts of its own are right. Nobody annotated it in
    the first heart."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 3000).astype(np.uint8)
    logits = np.full((3000, 3), -3, np.float32)
    logits[truth > 0, truth[truth > 0] - 1] = 3
    taken = (truth == 1) & (rng.random(3000) < 0.5)
    logits[taken, 2] = 5
    sdf = np.where(truth == 0, 0.5, -0.5).astype(np.float32)
    sample = Sample(truth, np.ones(3000), torch.from_numpy(sdf), torch.from_numpy(logits))
    known = np.array([True, True, False])

    def field(points):
        return sdf[: len(points)], logits[: len(points)]

    one = DrawnHeart(ListedCase("a", Path("a")), sample, field, None, known, known & False, (sample, field, known))
    other = drawn("b", [1, 1, 1])
    assert (one.with_left_out(0.0).sample.sdf[torch.from_numpy(taken)] > 0).all()
    assert offset_of_left_out([one, other]) == -3.0, "the smallest that gives all of it back"
    assert (one.with_left_out(-3.0).sample.sdf[torch.from_numpy(taken)] < 0).all()
    np.testing.assert_array_equal(
        one.with_left_out(-3.0).field(np.zeros((9, 3)))[0], one.with_left_out(-3).sample.sdf[:9]
    )
    assert offset_of_left_out([other]) == 0.0 and offset_of_left_out([one]) == 0.0, "nobody knows of the third"
    assert other.with_left_out(-3.0) is other


def test_the_offset_of_what_is_not_drawn_comes_back_and_is_used(tmp_path):
    path, two = tmp_path / "c.json", np.float32([0, 0])
    write_decision_tuning(path, DecisionTuning(two, two, left_out_offset=-4.0), ["a", "b"], "abc", {})
    assert read_decision_tuning(path, ["a", "b"], "abc").left_out_offset == -4
    for wrong in ("1.0", "NaN"):
        bad = tmp_path / "bad.json"
        bad.write_text(path.read_text().replace("-4.0", wrong))
        with pytest.raises(InputError, match="left_out_offset|NaN"):
            read_decision_tuning(bad, ["a", "b"], "abc")
    network = FormulaModel(lambda p: p[:, 0] * 0 - 0.1, lambda p: torch.stack([p[:, 0] * 0, p[:, 0] + 1], 1), 2)
    points = np.float32([[-0.5, 0, 0], [0.5, 0, 0]])
    labels = {}
    for offset in (0.0, -1.0, -4.0):
        tuning = DecisionTuning(two, np.float32([0, 5]), left_out_offset=offset)
        field = HeartField(network, torch.zeros(1, 3), decision_tuning=tuning, drawn_C=np.array([True, False]))
        labels[offset] = labels_of(*map(torch.from_numpy, field.values(points))).tolist()
    assert labels == {0.0: [0, 0], -1.0: [1, 0], -4.0: [1, 1]}, "a deciding class that is not drawn decides nothing"
