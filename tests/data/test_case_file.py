"""The case file: what is written comes back; nothing half-written; other schemas are told apart."""

import json

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.data.case_file import CLASS_DISTANCES, GROUPS, POINT_MEMBERS, Case, read_case, read_meta, write_case
from vecset.imaging.frame import Frame


def tiny_case(rng, classes=3):
    def points(n):
        return rng.uniform(-1, 1, (n, 3)).astype(np.float32)

    arrays = {
        "surface_points": points(5),
        "surface_normals": points(5).astype(np.float16),
        "surface_labels": np.array([1, 2, 3, 1, 2], np.uint8),
        "surface_sdf": np.zeros(5, np.float32),
        "surface_cap": np.zeros(5, bool),
        "vol_points": points(4),
        "vol_sdf": np.ones(4, np.float32),
        "vol_labels": np.zeros(4, np.uint8),
        "near_points": points(6),
        "near_sdf": np.ones(6, np.float32),
        "near_labels": np.zeros(6, np.uint8),
        "near_source": np.ones(6, np.uint8),
    }
    meta = {"classes": classes, "class_names": list("abc")[:classes], "annotated_classes": [1, 3]}
    crop = np.zeros((2, 3, 4), np.uint8)
    crop[1, 1, 1] = 2
    return Case(
        arrays=arrays,
        frame=Frame(np.diag([1, 2, 3, 1.0]), (5, 6, 7), (1, 2, 3), 0.01),
        truth_crop=crop,
        truth_origin=np.array([1, 2, 3]),
        meta=meta,
    )


def test_round_trip_and_same_bytes(tmp_path):
    case = tiny_case(np.random.default_rng(0))
    write_case(tmp_path / "a.npz", case)
    write_case(tmp_path / "b.npz", case)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = read_case(tmp_path / "a.npz")
    for name, array in case.arrays.items():
        np.testing.assert_array_equal(getattr(back, name), array)
        assert getattr(back, name).dtype == array.dtype
    np.testing.assert_array_equal(back.frame.affine, case.frame.affine)
    assert back.frame.shape == (5, 6, 7) and back.frame.scale == 0.01
    truth = back.truth_labels()
    assert truth.shape == (5, 6, 7) and truth[2, 3, 4] == 2 and truth.sum() == 2
    assert back.annotated.tolist() == [True, False, True]
    assert read_meta(tmp_path / "a.npz")["class_names"] == ["a", "b", "c"]
    only = read_case(tmp_path / "a.npz", members=("vol_points",))
    assert only.near_points is None and only.vol_points is not None and only.frame is None


def test_every_member_of_the_file_is_an_attribute_and_no_other_name_is():
    assert all(getattr(Case(), name) is None for name in POINT_MEMBERS)
    with pytest.raises(AttributeError):
        _ = Case().surface_point


def test_optional_near_other(tmp_path):
    """Without it the member is None; with it, it must have a row per near point and only classes that exist."""
    case = tiny_case(np.random.default_rng(0))
    write_case(tmp_path / "a.npz", case)
    assert read_case(tmp_path / "a.npz").near_other is None
    case.arrays["near_other"] = np.array([0, 0, 2, 3, 0, 0], np.uint8)
    write_case(tmp_path / "b.npz", case)
    np.testing.assert_array_equal(read_case(tmp_path / "b.npz").near_other, case.arrays["near_other"])
    for wrong, words in (
        (np.zeros(5, np.uint8), "row counts differ"),
        (np.full(6, 4, np.uint8), "class 4"),
        (np.zeros(6, np.float32), "want kind 'u'"),
    ):
        case.arrays["near_other"] = wrong
        with pytest.raises(ValueError, match=words):
            write_case(tmp_path / "c.npz", case)


def with_class_distances(case, dtype=np.float16, classes=3):
    for group in GROUPS:
        rows = len(case.arrays[f"{group}_points"])
        case.arrays[f"{group}_class_sdf"] = np.linspace(-1, 1, rows * classes, dtype=dtype).reshape(rows, classes)
    return case


def test_optional_class_distances(tmp_path):
    """All three or none, a column per class, a row per point."""
    case = tiny_case(np.random.default_rng(0))
    write_case(tmp_path / "plain.npz", case)
    plain = read_case(tmp_path / "plain.npz")
    assert all(getattr(plain, name) is None for name in CLASS_DISTANCES)
    with pytest.raises(InputError, match="plain.npz.*which the test needs.*--class_distances --overwrite"):
        plain.require_class_distances("the test")
    write_case(tmp_path / "a.npz", with_class_distances(case))
    back = read_case(tmp_path / "a.npz").require_class_distances("the test")
    for name in CLASS_DISTANCES:
        assert getattr(back, name).dtype == np.float16
        np.testing.assert_array_equal(getattr(back, name), case.arrays[name])
    assert read_case(tmp_path / "a.npz", ("vol_sdf",)).vol_class_sdf is None
    for name, wrong, words in (
        ("near_class_sdf", np.zeros((5, 3), np.float16), "row counts differ"),
        ("near_class_sdf", np.zeros((6, 4), np.float16), "want kind 'f' and shape .N, .*3"),
        ("vol_class_sdf", np.zeros(4, np.float16), "want kind 'f'"),
        ("surface_class_sdf", np.zeros((5, 3), np.int8), "want kind 'f'"),
    ):
        case = with_class_distances(tiny_case(np.random.default_rng(0)))
        case.arrays[name] = wrong
        with pytest.raises(ValueError, match=words):
            write_case(tmp_path / "c.npz", case)
    del case.arrays["surface_class_sdf"]
    with pytest.raises(ValueError, match="vol_class_sdf, near_class_sdf without surface_class_sdf"):
        write_case(tmp_path / "c.npz", case)
    members = dict(np.load(tmp_path / "a.npz"))
    del members["vol_class_sdf"]
    np.savez(tmp_path / "part.npz", **members)
    with pytest.raises(InputError, match="surface_class_sdf, near_class_sdf without vol_class_sdf"):
        read_case(tmp_path / "part.npz", ("vol_sdf",))


def test_older_form(tmp_path):
    one_hot = np.eye(10, dtype=np.float32)[[0, 2, 2]]
    np.savez(
        tmp_path / "old.npz",
        surface_points=np.zeros((3, 3), np.float32),
        surface_labels=one_hot,
        surface_normals=np.zeros((3, 3), np.float32),
        vol_points=np.zeros((2, 3), np.float32),
        vol_sdf=np.ones((2, 1), np.float32),
        vol_labels=np.eye(10, dtype=np.float32)[[4, 4]] * [[1], [0]],
        near_points=np.zeros((2, 3), np.float32),
        near_sdf=np.ones((2, 1), np.float32),
        near_labels=np.zeros((2, 10), np.float32),
    )
    case = read_case(tmp_path / "old.npz")
    assert case.surface_labels.tolist() == [1, 3, 3] and case.vol_labels.tolist() == [5, 0]
    assert case.vol_sdf.shape == (2,) and case.num_classes == 10 and case.meta["present_classes"] == [1, 3]
    with pytest.raises(InputError, match="surface_sdf.*surface loss.*prepare_data"):
        case.require("surface_sdf", purpose="the surface loss")
    with pytest.raises(InputError, match="frame"):
        case.truth_labels()


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("surface_labels", np.array([1, 300, 2]), "surface_labels holds 300, want whole numbers"),
        ("surface_labels", np.array([1, 1.5, 2]), "surface_labels holds 1.5"),
        ("near_labels", np.array(["a", "b"]), "near_labels is <U1"),
        ("near_labels", np.array([np.nan, 0]), "near_labels holds nan"),
        ("vol_sdf", np.zeros((2, 2)), "vol_sdf is float64 .2, 2., want .N,. or .N, 1."),
        ("frame_shape", np.array([3, 3, 3j]), "a sound frame, found its members are .*complex128"),
    ],
)
def test_older_form_of_other_numbers(tmp_path, name, value, words):
    members = dict(
        surface_points=np.zeros((3, 3), np.float32),
        surface_labels=np.array([1, 2, 2], np.uint8),
        vol_sdf=np.ones(2, np.float32),
        near_labels=np.zeros(2, np.uint8),
        frame_affine=np.eye(4),
        frame_shape=np.array([3, 3, 3]),
        frame_centre=np.zeros(3),
        frame_scale=np.float64(1),
    )
    np.savez(tmp_path / "old.npz", **members)
    assert read_case(tmp_path / "old.npz").surface_labels.tolist() == [1, 2, 2]
    np.savez(tmp_path / "old.npz", **{**members, name: value})
    with pytest.raises(InputError, match=words):
        read_case(tmp_path / "old.npz")


def test_wrong_files_are_named(tmp_path):
    case = tiny_case(np.random.default_rng(0))
    path = tmp_path / "a.npz"
    write_case(path, case)
    whole = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "label_map.nii.gz").write_bytes(b"\x1f\x8b1234")
    with pytest.raises(InputError, match="found a label map; make it with prepare_data") as caught:
        read_case(tmp_path / "label_map.nii.gz")
    assert "pickle" not in str(caught.value)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "nnunet.npz", probabilities=np.zeros((3, 4, 4, 4)))
    np.savez(tmp_path / "older_nnunet.npz", softmax=np.zeros((3, 4, 4, 4)))
    members = dict(np.load(path))
    members["meta"] = np.array(json.dumps({"schema": "vecsetx-heart/99", "classes": 3}))
    np.savez(tmp_path / "schema.npz", **members)
    for name, words in (
        ("cut", "whole case file"),
        ("text", "case file.*no npz archive"),
        ("other", "surface_points"),
        ("nnunet", "probabilities that nnU-Net writes.*label map"),
        ("older_nnunet", "probabilities that nnU-Net writes.*label map"),
        ("schema", "vecsetx-heart/99"),
        ("none", "no such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read_case(tmp_path / f"{name}.npz")
        assert f"{name}.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_case_is_never_written(tmp_path):
    case = tiny_case(np.random.default_rng(0))
    case.arrays["vol_labels"] = np.full(4, 7, np.uint8)
    with pytest.raises(ValueError, match="vol_labels holds class 7"):
        write_case(tmp_path / "a.npz", case)
    case = tiny_case(np.random.default_rng(0))
    case.arrays["surface_labels"] = np.zeros(5, np.uint8)
    with pytest.raises(ValueError, match="surface_labels holds class 0"):
        write_case(tmp_path / "a.npz", case)
    assert list(tmp_path.iterdir()) == []


def test_states_of_its_classes():
    """Given, absent, unknown and cut; what is there is what `meta` says, else what the surface points say."""
    case = tiny_case(np.random.default_rng(0), classes=4)
    case.meta |= {"class_names": list("abcd"), "annotated_classes": [1, 2, 4], "border_classes": [2]}
    for labels, present, states in (
        ([1, 2, 1, 1, 2], None, [State.GIVEN, State.CUT, State.UNKNOWN, State.ABSENT]),
        ([1, 4, 1, 1, 1], None, [State.GIVEN, State.ABSENT, State.UNKNOWN, State.GIVEN]),
        ([1, 1, 1, 1, 1], [1, 3], [State.GIVEN, State.ABSENT, State.GIVEN, State.ABSENT]),
    ):
        case.arrays["surface_labels"] = np.array(labels, np.uint8)
        case.meta["present_classes"] = present
        assert case.states.tolist() == states
