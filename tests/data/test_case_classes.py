"""Case files read to the classes of a checkpoint by name; classes that a user names."""

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE, State
from vecset.data.case_classes import check_chosen, chosen_classes, classes_by_names, require_annotated
from vecset.data.case_file import Case
from vecset.imaging.classes import ClassNames

CHECKPOINT = ["Myocardium", "LA", "LV", "RA"]


def case_of(names, labels=(1, 2, 2, 1), annotated=(1, 2), **meta):
    labels = np.array(labels, np.uint8)
    sdf = np.linspace(-1, 1, len(labels) * len(names), dtype=np.float16).reshape(len(labels), -1)
    crop = np.zeros((2, 2, 2), np.uint8)
    crop[0, 0] = labels[:2]
    arrays = {"surface_labels": labels, "near_other": labels * 0, "vol_class_sdf": sdf}
    meta = {"classes": len(names), "class_names": list(names), "annotated_classes": list(annotated), **meta}
    return Case(path="x.npz", arrays=arrays, truth_crop=crop, meta=meta)


def test_fewer_classes_in_another_order_are_renumbered():
    case = case_of(["Right atrium", "lv"], present_classes=[1, 2], border_classes=[2], voxels_per_class=[5, 7])
    found, ids = classes_by_names(case, CHECKPOINT)
    assert ids == {1: 4, 2: 3} and found.class_names == CHECKPOINT
    assert found.surface_labels.tolist() == [4, 3, 3, 4] and found.near_other.tolist() == [0, 0, 0, 0]
    assert found.surface_labels.dtype == np.uint8
    np.testing.assert_array_equal(found.vol_class_sdf[:, [3, 2]], case.vol_class_sdf)
    assert (found.vol_class_sdf[:, :2] == ABSENT_DISTANCE).all() and found.vol_class_sdf.dtype == np.float16
    assert found.truth_crop[0, 0].tolist() == [4, 3] and found.truth_crop.sum() == 7
    assert found.meta["voxels_per_class"] == [0, 0, 7, 5] and found.meta["missing_classes"] == [1, 2]
    assert found.states.tolist() == [State.UNKNOWN, State.UNKNOWN, State.CUT, State.GIVEN]
    assert case.meta["classes"] == 2 and case.surface_labels.tolist() == [1, 2, 2, 1]  # the first is as it was


def test_the_same_classes_stay_as_they_are():
    case = case_of(["myocardium", "Left atrium", "LV", "RA"])
    found, ids = classes_by_names(case, CHECKPOINT)
    assert ids == {c: c for c in range(1, 5)} and found.class_names == CHECKPOINT
    assert all(found.arrays[name] is case.arrays[name] for name in case.arrays)
    assert found.states.tolist() == [State.GIVEN, State.GIVEN, State.UNKNOWN, State.UNKNOWN]


def test_a_name_that_the_checkpoint_lacks_and_two_names_for_one_class():
    with pytest.raises(InputError, match=r"^x.npz: expected the checkpoint's .*LAA is none of them; take"):
        classes_by_names(case_of(["LV", "LAA"]), CHECKPOINT)
    with pytest.raises(InputError, match=r"^x.npz: its classes 1 LV and 3 left ventricle are both LV of the check"):
        classes_by_names(case_of(["LV", "LA", "left ventricle"]), CHECKPOINT)


def test_classes_that_nobody_looked_for_may_be_lacking_in_the_checkpoint():
    case = case_of(["Myocardium", "LA", "LAA", "PV"], present_classes=[1, 2], voxels_per_class=[5, 7, 0, 0])
    found, ids = classes_by_names(case, ["Myocardium", "LA"])
    assert ids == {1: 1, 2: 2} and found.num_classes == 2 and found.meta["annotated_classes"] == [1, 2]
    assert found.vol_class_sdf.shape[1] == 2 and found.meta["voxels_per_class"] == [5, 7]
    with pytest.raises(InputError, match="LAA is none of them"):
        classes_by_names(case_of(["LA", "LAA"]), ["Myocardium", "LA"])


def test_aliases_of_the_table_of_the_case_and_of_the_checkpoint():
    case = case_of(["Right chamber", "LA"], class_aliases={"Right chamber": ["RV"]})
    found, ids = classes_by_names(case, ["LA", "RV"])
    assert ids == {1: 2, 2: 1} and found.class_names == ["LA", "RV"] and "class_aliases" not in found.meta
    names = ClassNames(["LA", "Cavity"], {"Cavity": ["chamber right"]})
    found, ids = classes_by_names(case_of(["Right chamber", "LA"]), names)
    assert ids == {1: 2, 2: 1} and found.class_names.aliases == names.aliases


def test_classes_that_a_user_names():
    own = {205: 1, 420: 2, 7: 4}
    assert chosen_classes("--given", ["205", "RA", "myocardium"], own, CHECKPOINT, "x.nii") == [1, 4]
    for word in ("1", "LV", "0", "-1"):
        with pytest.raises(InputError, match=f"^x.nii: --given {word} is none of its classes .7 RA, 205 Myo"):
            chosen_classes("--given", [word], own, CHECKPOINT, "x.nii")
    check_chosen("--given", ["99", "left atrium"], CHECKPOINT)
    with pytest.raises(InputError, match="^--given: liver is no class of the checkpoint .1 Myocardium"):
        check_chosen("--given", ["LV", "liver"], CHECKPOINT)
    require_annotated([1, 2], [1, 2, 3], CHECKPOINT, "x.nii")
    with pytest.raises(InputError, match=r"^x.nii: class 4 \(RA\) is present but not annotated"):
        require_annotated([1, 4], [1, 2, 3], CHECKPOINT, "x.nii")
