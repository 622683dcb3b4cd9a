"""What is left out of a heart, what the network may see of the rest, and that the truth has no way into it."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.ball_cases import write_ball_cases
from helpers.formula_hearts import write_checkpoint
from helpers.report_run import make_run

from vecset import complete
from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.data.case_file import read_case, write_case
from vecset.inference.inputs import find_hearts
from vecset.inference.model import load_model
from vecset.report import completion
from vecset.report.completion import LeftOut, UnseenHeart
from vecset.report.completion_section import completion_of
from vecset.report.page import write_html_report

NAMES = ["RA", "RV", "PA", "LV"]
RA = LeftOut("RA", (1,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 1, 1, num_classes=4, class_names=NAMES)
    write_checkpoint(folder / "checkpoint.pth", classes=4, names=NAMES, states=True)
    return folder


@pytest.fixture(scope="module")
def model(data):
    model = load_model(data / "checkpoint.pth", device="cpu")
    with torch.no_grad():
        model.network.state_embed.normal_(0, 1)
    return model


def heart_of(model, folder, **options):
    return UnseenHeart(model, find_hearts(folder / "val.csv")[0], **options)


def test_choices():
    ten = ["Myocardium", "LA", "LV", "RA", "RV", "Aorta", "PA", "LAA", "Coronary", "PV"]
    found = {choice.name: choice.hidden for choice in completion.choices(ten)}
    assert list(found) == ["whole", *ten, "chambers", "left", "right", "vessels", "cut10", "cut20", "cut30"]
    assert found["chambers"] == (2, 3, 4, 5) and found["left"] == (1, 2, 3, 6, 8, 10) and found["PV"] == (10,)
    known = np.arange(1, 11) <= 7  # a group with a structure that nobody looked for is none
    assert [c.name for c in completion.choices(ten, known) if len(c.hidden) > 1] == ["chambers", "right"]
    assert [c.name for c in completion.choices(["A"]) if not c.cut] == ["whole"]
    assert [c.name for c in completion.choices(NAMES)] == ["whole", *NAMES, "right", "cut10", "cut20", "cut30"]


def test_the_truth_of_what_is_left_out_has_no_way_in(model, data, tmp_path):
    """The truth of the class that is left out is changed: frame, points, states and latents stay equal to the bit."""
    write_ball_cases(tmp_path, 1, 1, num_classes=4, class_names=NAMES)
    case = read_case(tmp_path / "ball01.npz")
    mine = np.argwhere(case.truth_crop == 1)
    case.truth_crop = case.truth_crop.copy()
    case.truth_crop[tuple(mine[::2].T)] = 0
    case.arrays["surface_points"] = case.surface_points + 0.01 * (case.surface_labels == 1)[:, None].astype(np.float32)
    write_case(tmp_path / "ball01.npz", case)
    first, second = (heart_of(model, folder) for folder in (data, tmp_path))
    assert not np.array_equal(first.whole.truth_crop, second.whole.truth_crop)
    seen, mutated = first.case(RA), second.case(RA)
    for name in ("surface_points", "surface_labels"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(mutated, name))
    np.testing.assert_array_equal(seen.frame.centre_mm, mutated.frame.centre_mm)
    assert seen.frame.scale == mutated.frame.scale and seen.states.tolist() == mutated.states.tolist() == [2, 0, 0, 0]
    assert torch.equal(model.encode(seen, "a"), model.encode(mutated, "a"))
    np.testing.assert_array_equal(completion.infer(model, seen, "a"), completion.infer(model, mutated, "a"))
    assert not torch.equal(model.encode(first.whole, "a"), model.encode(second.whole, "a"))


def test_what_lies_beyond_a_plane_has_no_way_in(model, data):
    heart = heart_of(model, data)
    left_out = LeftOut("cut30", cut=0.3)
    normal, offset = heart.plane(left_out)
    case, truth = heart.case(left_out), heart.whole.truth_labels()
    beyond = heart.beyond(left_out)
    assert (truth[beyond] > 0).sum() == pytest.approx(0.3 * (truth > 0).sum(), rel=0.02)
    index = np.argwhere(truth > 0)
    slow = [heart.whole.frame.voxel_to_unit(i) @ normal > offset for i in index]
    np.testing.assert_array_equal(beyond[tuple(index.T)], slow)
    points = heart.whole.frame.mm_to_unit(case.frame.unit_to_mm(case.surface_points))
    assert (points @ normal <= offset + 1e-5).all() and len(points) < len(heart.whole.surface_points)
    radius = np.linalg.norm(case.surface_points, axis=1).max()
    assert radius == pytest.approx(0.95, abs=1e-5)  # a frame of its own
    # states from the points that are left, one by one
    along = heart.whole.surface_points @ normal
    for c in range(1, 5):
        mine = along[heart.whole.surface_labels == c]
        expected = State.UNKNOWN if mine.min() > offset else State.CUT if mine.max() > offset else State.GIVEN
        assert case.states[c - 1] == expected
    moved = heart_of(model, data)
    far = moved.whole.surface_points @ normal > offset
    moved.whole.arrays["surface_points"] = (
        moved.whole.surface_points * np.where(far, 1.5, 1).astype(np.float32)[:, None]
    )
    again = completion.cut_off(moved.whole, normal, offset)
    np.testing.assert_array_equal(case.surface_points, again.surface_points)
    assert torch.equal(model.encode(case, "a"), model.encode(again, "a"))
    assert all(heart_of(model, data).plane(left_out)[0] == normal)
    assert not np.allclose(heart_of(model, data, seed=1).plane(left_out)[0], normal)


def test_the_same_map_as_reconstruct_writes(model, data, tmp_path):
    """`infer` is the way of reconstruct.py, to the voxel."""
    import nibabel

    import reconstruct

    write_checkpoint(tmp_path / "checkpoint.pth", classes=4, names=NAMES, states=True)
    words = [
        "--checkpoint",
        tmp_path / "checkpoint.pth",
        "--input",
        data / "ball01.npz",
        "--output_dir",
        tmp_path / "o",
    ]
    words += ["--given", "RV,PA,LV", "--complete", "--no_meshes", "--device", "cpu"]
    assert reconstruct.main([str(word) for word in words]) == 0
    written = np.asanyarray(nibabel.load(tmp_path / "o" / "ball01" / "labels.nii.gz").dataobj)
    same = load_model(tmp_path / "checkpoint.pth", device="cpu")
    heart = heart_of(same, data)
    found = completion.infer(same, heart.case(RA), "ball01")
    np.testing.assert_array_equal(found, written)


def test_every_nth_voxel_is_the_same_voxel(model, data):
    whole, third = (heart_of(model, data, every=n) for n in (1, 3))
    assert third.whole.frame.shape == (8, 8, 8)
    np.testing.assert_array_equal(third.whole.truth_labels(), whole.whole.truth_labels()[::3, ::3, ::3])
    np.testing.assert_allclose(third.whole.frame.voxel_to_unit([1, 2, 3]), whole.whole.frame.voxel_to_unit([3, 6, 9]))
    fine, coarse = (h.case(RA) for h in (whole, third))
    np.testing.assert_array_equal(fine.surface_points, coarse.surface_points)
    np.testing.assert_array_equal(
        completion.infer(model, coarse, "a"), completion.infer(model, fine, "a")[::3, ::3, ::3]
    )


def test_in_the_frame_of_the_whole_heart_the_same_points_are_seen(model, data):
    case = heart_of(model, data).case(RA)
    leaking = completion.in_whole_frame(case)
    assert leaking.frame.scale == case.whole.frame.scale != case.frame.scale
    np.testing.assert_allclose(
        leaking.frame.unit_to_mm(leaking.surface_points), case.frame.unit_to_mm(case.surface_points), atol=1e-4
    )
    assert leaking.states.tolist() == case.states.tolist()


def test_hearts_that_lack_what_others_are_inferred_from(model, tmp_path):
    write_ball_cases(tmp_path, 1, 1, num_classes=4, class_names=NAMES, missing=(3,))
    heart = heart_of(model, tmp_path)
    assert heart.lacks(RA) == "it has no PA, which others are inferred from"
    assert heart.lacks(LeftOut("PA", (3,))) == heart.lacks(LeftOut("whole")) == ""
    write_ball_cases(tmp_path, 1, 1, num_classes=4, class_names=NAMES, missing=(3,), annotated=[1, 2, 4])
    heart = heart_of(model, tmp_path)
    assert heart.lacks(LeftOut("all", (1, 2, 4))) == "nothing of it is given"
    assert heart.lacks(RA) == "" and heart.lacks(LeftOut("PA", (3,))) == "PA was not annotated"


def test_figures_against_counts_by_hand(model, data):
    heart = heart_of(model, data)
    truth = heart.whole.truth_labels()
    labels = np.roll(truth, 2, 0)
    region = np.arange(truth.size).reshape(truth.shape) % 3 == 0
    found = completion.dice_by_name(heart.whole, labels, region)
    for c, name in enumerate(NAMES, 1):
        a, b = (truth == c) & region, (labels == c) & region
        assert found[name] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    same = ((truth == labels) & (truth > 0) & region).sum()
    size = ((truth > 0) & region).sum() + ((labels > 0) & region).sum()
    assert completion.pooled_dice(heart.whole, labels, region) == pytest.approx(2 * same / size)
    pasted = completion.with_given(labels, truth, [2, 3, 4], [1])
    expected = np.where((truth > 1), truth, np.where(labels == 1, 1, 0))
    np.testing.assert_array_equal(pasted, expected)


# --- the command and the report


def test_figures_of_hearts_are_means_of_each_structure_over_hearts(model, data, tmp_path):
    write_ball_cases(tmp_path, 1, 2, num_classes=4, class_names=NAMES)
    entries = find_hearts(tmp_path / "val.csv")
    found = completion.measure(model, [UnseenHeart(model, entry, every=2) for entry in entries])
    assert [row["left_out"] for row in found["rows"]] == [*NAMES, "right"] and found["hearts"] == ["ball01", "ball02"]
    row = found["rows"][-1]
    hearts = [UnseenHeart(model, entry, every=2) for entry in entries]
    right = LeftOut("right", (1, 2, 3))
    each = [completion.dice_by_name(h.whole, completion.infer(model, h.case(right), h.entry.case_id)) for h in hearts]
    whole = [completion.dice_by_name(h.whole, completion.infer(model, h.whole, h.entry.case_id)) for h in hearts]
    for name in NAMES[:3]:
        assert row["classes"][name] == pytest.approx(np.mean([dice[name] for dice in each]))
    assert row["dice"] == pytest.approx(np.mean(list(row["classes"].values())))
    assert row["given"] == ["LV"] and row["given_dice"] == pytest.approx(np.mean([dice["LV"] for dice in each]))
    assert row["given_before"] == pytest.approx(np.mean([dice["LV"] for dice in whole]))


def test_the_command_and_its_section_in_the_report(data, tmp_path, capsys):
    run_dir = tmp_path / "train"
    run_dir.mkdir()
    write_checkpoint(run_dir / "checkpoint-best.pth", classes=4, names=NAMES, states=True)
    words = ["--checkpoint", run_dir / "checkpoint-best.pth", "--input", data / "val.csv", "--device", "cpu"]
    assert complete.main([str(word) for word in (*words, "--grid", 12)]) == 0
    said = capsys.readouterr().out
    assert "right" in said and "written" in said and "it guesses" not in said
    stored = json.loads((run_dir / "completion" / "completion.json").read_text())
    assert stored["settings"]["grid"] == [12, 12, 12] and len(stored["rows"]) == 5
    make_run(tmp_path / "out", num_classes=4)
    page = write_html_report(tmp_path / "out", run_dir).read_text()
    section = re.search(r'<section id="completion">.*?</section>', page, re.S)[0]
    assert '<a href="#completion">What it infers</a>' in page and section.count("data:image/png;base64") == 1
    assert [name for name in NAMES if f"<th>{name}</th>" in section] == NAMES and "12 × 12 × 12" in section
    assert "What it infers" not in write_html_report(tmp_path / "out", tmp_path).read_text()
    assert completion_of(run_dir, "another checkpoint") is None
    (run_dir / "completion" / "completion.json").write_text("{}")
    with pytest.raises(InputError, match="make it again"):
        completion_of(run_dir)
    faults = []
    page = write_html_report(tmp_path / "out", run_dir, faults=faults).read_text()
    assert len(faults) == 1 and "completion.json" in faults[0] and "Not shown" in page


def test_options_that_cannot_be(data):
    with pytest.raises(InputError, match="--hearts: expected at least 1"):
        complete.main(["--checkpoint", "x", "--input", "y", "--hearts", "0"])
