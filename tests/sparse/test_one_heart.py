"""Slices of two hearts in one folder: what is evident is refused, and one heart never is, displaced slices included."""

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.geometry.contours import Plane
from vecset.sparse import one_heart
from vecset.sparse.one_heart import NEAR_MM, agreement, refuse_other_hearts, two_groups

RADII = np.array([45.0, 35.0, 40.0])
PIXEL_MM, PIXELS = 3.0, 60


def show(name, axes, at_mm, middle=(0, 0, 0), shift=(0, 0), classes=(1, 2, 3)):
    """(name, [a plane]) of an ellipsoid round `middle` with three structures along x, seen through at_mm + middle,
    along two of the patient's `axes`; `shift` mm in its plane; of the structures `classes` are labelled."""
    steps = np.eye(3)[:, list(axes)] * PIXEL_MM
    origin = np.array(middle, float) + at_mm - steps.sum(1) * PIXELS / 2
    places = np.indices((PIXELS, PIXELS)).reshape(2, -1).T @ steps.T + origin
    inner = (places - middle) / RADII
    labels = np.where((inner**2).sum(1) < 1, np.digitize(inner[:, 0], [-0.3, 0.3]) + 1, 0)
    labels = np.where(np.isin(labels, classes), labels, 0).astype(np.uint8)
    moved = origin + steps @ np.array(shift, float) / PIXEL_MM
    return name, [Plane(labels.reshape(PIXELS, PIXELS), moved, steps, name)]


def heart(name, middle=(0, 0, 0), shift_mm=0.0, seed=0):
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 7)
    shifts = shift_mm * np.stack([np.cos(angles), np.sin(angles)], 1)
    sa = [show(f"{name}sa{n}", (0, 1), (0, 0, z), middle, shifts[n]) for n, z in enumerate((-20, -10, 0, 10, 20))]
    long_axes = [
        show(f"{name}4ch", (0, 2), (0, 0, 0), middle, shifts[5]),
        show(f"{name}2ch", (1, 2), (0, 0, 0), middle),
    ]
    return [*sa, *long_axes]


@pytest.mark.parametrize(("shift_mm", "least", "most"), [(0, 0.97, 1), (6, 0.6, 0.95), (10, 0.4, 0.9)])
def test_one_heart_passes_also_with_displaced_slices(shift_mm, least, most):
    for seed in range(3):
        assert least <= refuse_other_hearts("x", heart("", shift_mm=shift_mm, seed=seed)) <= most


def test_hearts_that_contradict_each_other_are_refused():
    both = heart("a") + heart("b", middle=(40, 15, 10), shift_mm=3)
    with pytest.raises(InputError, match=r"^x: its files are not of one heart: ") as error:
        refuse_other_hearts("x", both)
    first, second = str(error.value).split("heart: ")[1].split(" contradict")[0].split(" and 5 more and ")
    assert {first[0], second[0]} == {"a", "b"} and second.endswith(" and 5 more")
    assert [name[0] for name in first.split(", ")] == [first[0]] * 2 and "a folder of its own" in str(error.value)
    mixed = heart("a")[:5] + heart("b", middle=(60, 10, 10))[5:]  # stack of one, long axes of the other
    with pytest.raises(InputError, match="contradict each other"):
        refuse_other_hearts("x", mixed)


def test_a_single_slice_that_is_displaced_by_its_own_width_passes():
    """Near the apex a slice shows little, and a few mm make it contradict all others; that of another heart does not
    fit wherever it is put."""
    tip = show("tip", (0, 1), (0, 0, 38.5), shift=(14, 0))
    views = [show("4ch", (0, 2), (0, 0, 0)), show("2ch", (1, 2), (0, 0, 0)), show("3ch", (0, 2), (0, 4, 0))]
    same, both = agreement([planes for _, planes in (tip, *views)], [_places(p) for _, p in (tip, *views)])
    assert same[0].sum() / both[0].sum() < one_heart.CONTRADICTION and both[0].sum() > one_heart.LEAST_MM2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_heart, "fits_displaced", lambda *of: False)
        with pytest.raises(InputError, match="tip"):
            refuse_other_hearts("x", [*views, tip])
    assert refuse_other_hearts("x", [*views, tip]) > 0.5
    with pytest.raises(InputError, match="contradict each other"):
        refuse_other_hearts("x", [*views, show("other", (0, 1), (0, 0, 0), middle=(45, 0, 0))])


def _places(planes):
    return one_heart._labelled(planes)


def test_hearts_that_lie_apart_are_refused():
    with pytest.raises(InputError, match=r"asa0, asa1 and 5 more and bsa0, bsa1 and 5 more lie more than 50 mm apart"):
        refuse_other_hearts("x", heart("a") + heart("b", middle=(300, 0, 0)))
    far = [show("sa1", (0, 1), (0, 0, -30)), show("sa2", (0, 1), (0, 0, 15))]  # one heart, few slices
    assert refuse_other_hearts("x", far) is None
    empty = ("empty", [Plane(np.zeros((5, 5), np.uint8), np.full(3, 900.0), np.eye(3)[:, :2], "empty")])
    assert refuse_other_hearts("x", [*far, empty]) is None and refuse_other_hearts("x", [empty]) is None


def test_two_stacks_of_two_hearts_are_refused():
    """As where each file is the stack of a patient, and --slices folder was given in place of file."""

    def stacks(middle, z):
        return [show("", (0, 1), (0, 0, n + z), middle)[1][0] for n in range(-30, 31, 10)]

    assert refuse_other_hearts("x", [("a", stacks((0, 0, 0), 0)), ("again", stacks((0, 0, 0), 2))]) > 0.85
    with pytest.raises(InputError, match="a.nii.gz and b.nii.gz contradict each other: of the places that both show"):
        refuse_other_hearts("x", [("a.nii.gz", stacks((0, 0, 0), 0)), ("b.nii.gz", stacks((45, 10, 1), 1))])


def test_structures_that_one_view_does_not_label_say_nothing():
    few = heart("a")[:5] + [show("4ch", (0, 2), (0, 0, 0), classes=(2,)), show("2ch", (1, 2), (0, 0, 0), classes=(2,))]
    assert refuse_other_hearts("x", few) > 0.97


def test_agreement_is_what_a_loop_over_pixels_finds(monkeypatch):
    monkeypatch.setattr(one_heart, "PIXELS", 10**6)  # all of them
    files = [planes for _, planes in (*heart("a")[::3], *heart("b", middle=(20, 5, 3))[1::3])]
    places = [one_heart._labelled(planes) for planes in files]
    same, both = np.zeros((2, len(files), len(files)))
    there = [set(np.unique(planes[0].labels)) for planes in files]
    for a, (at_mm, labels, area_mm2) in enumerate(places):
        assert area_mm2 == pytest.approx(PIXEL_MM**2)
        for b, (plane,) in enumerate(files):
            for place, label in zip(at_mm, labels) if a != b else ():
                i, j = (round(float((place - plane.origin_mm) @ step / PIXEL_MM**2)) for step in plane.steps_mm.T)
                near = abs(float((place - plane.origin_mm) @ plane.normal)) <= NEAR_MM
                if (
                    near
                    and 0 <= i < PIXELS
                    and 0 <= j < PIXELS
                    and label in there[b]
                    and plane.labels[i, j] in there[a]
                ):
                    both[[a, b], [b, a]] += area_mm2
                    same[[a, b], [b, a]] += area_mm2 * (plane.labels[i, j] == label)
    found = agreement(files, places)
    np.testing.assert_allclose(found[0], same)
    np.testing.assert_allclose(found[1], both)
    assert 0 < same.sum() < both.sum()


def test_groups_are_those_that_agree():
    member = np.array([0, 1, 0, 0, 1, 1])
    both = np.full((6, 6), 1000.0) - 1000 * np.eye(6)
    same = both * np.where(member[:, None] == member, 0.9, 0.2)
    group, within, between = two_groups(same, both)
    assert (group == (member == group[1])).all() or (group == (member == member[0])).all()
    np.testing.assert_allclose([*within, between], [0.9, 0.9, 0.2])
