"""Label mappings whose names collide, with each other or with the default names of other ids."""

import json

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.label_mapping import LabelMapping, preset_names, values_in


def load(tmp_path, values, classes=10, **more):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"values": values, **more}))
    return LabelMapping.load(path, classes)


def named(c, name):
    return {"class": c, "name": name}


def test_a_name_that_is_the_default_of_an_unnamed_id_is_the_only_one(tmp_path):
    mapping = load(tmp_path, {"1": named(1, "RV"), "2": named(2, "Myocardium"), "3": named(3, "LV")})
    assert mapping.class_names[:6] == ["RV", "Myocardium", "LV", "RA", "class_5", "Aorta"]
    assert mapping.annotated == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"1": named(1, "RV"), "2": named(2, "rv ")}, "classes 1 and 2 have the same name"),
        ({"1": named(1, "RV"), "2": 5}, "value 2 is mapped to class 5 without a name"),
        ({"1": named(1, "RV"), "2": "RV"}, "classes 1 and 5 have the same name"),
        ({"1": named(1, "Right ventricle"), "2": 5}, "value 2 is mapped to class 5 without a name"),
        ({"1": named(1, "LA/1"), "2": named(2, "LA 1")}, "the same file name"),
        ({"1": named(1, "union")}, "reserved"),
        ({"1": named(1, "???")}, "no letter"),
        ({"1": named(1, "")}, "no letter"),
        ({"1": named(1, 7)}, "is a text"),
        ({"1": named(1, "aux")}, "Windows"),
        ({"1": named(2, "LA"), "2": named(2, "LV")}, "class 2 has two names"),
        ({"1": {"class": 1, "label": "RV"}}, "unknown keys label"),
        ({"1": named(1, "RV"), "2": named(4, "class_5")}, "classes 4 and 5 have the same name"),
    ],
)
def test_colliding_names_are_refused_where_they_are_given(tmp_path, values, words):
    with pytest.raises(InputError, match=words) as error:
        load(tmp_path, values)
    assert str(error.value).startswith(str(tmp_path / "map.json")) and "\n" not in str(error.value)


def test_names_are_stored_as_a_reader_sees_them(tmp_path):
    assert load(tmp_path, {"1": named(1, " Left  ventricle ")}).class_names[0] == "Left ventricle"


def test_a_target_by_another_name_of_the_class(tmp_path):
    mapping = load(tmp_path, {"7": "heart_ventricle_left", "8": "myocardium"})
    assert mapping.value_to_class == {7: 3, 8: 1} and mapping.class_names[:3] == ["Myocardium", "LA", "LV"]


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("classes", [7, 10, 12])
def test_presets_with_any_number_of_classes(preset, classes):
    names = LabelMapping.load(preset, classes).class_names
    assert names[0] == "Myocardium" and names[2] == "LV" and len(set(names)) == classes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_in_an_array_are_those_of_numpy(dtype, order):
    rng = np.random.default_rng(0)
    low = 0 if dtype is np.uint8 else -7
    for values in (
        rng.integers(low, 200, (130, 110, 90)),
        rng.choice([low, 3, 120], (4, 5)),
        np.zeros((0, 3)),
        np.full((2, 2), 5),
        rng.integers(-(2**30), 2**30, 300) if dtype in (np.int32, np.int64) else np.arange(3),
    ):
        values = np.asarray(values, dtype, order=order)[::-1]
        found = values_in(values)
        np.testing.assert_array_equal(found, np.unique(values))
        assert found.dtype == dtype
