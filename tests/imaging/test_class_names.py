"""The names of a project's classes: refused where two are the same, apart where a stored file has equal ones."""

import pytest

from vecset.common.errors import InputError
from vecset.imaging.class_names import (
    MOST_BYTES,
    check_class_names,
    check_same_names,
    cleaned_name,
    complete_class_names,
    distinct_names,
    file_names,
)


@pytest.mark.parametrize(
    "pair",
    [
        ("RV", "RV"),
        ("RV", "rv"),
        ("RV", " RV "),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "straße"),
        ("ＲＶ", "RV"),
        ("LA/1", "LA 1"),
        ("LA:1", "la?1"),
        ("...a", "a"),
    ],
)
def test_names_that_are_equal_or_give_one_file_are_refused(pair):
    with pytest.raises(InputError, match="classes 1 and 3 .*give each class a name of its own"):
        check_class_names({1: pair[0], 2: "other", 3: pair[1]}, "map.json")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no letter"),
        ("  ", "no letter"),
        ("///", "no letter"),
        ("Union", "reserved"),
        ("background", "reserved"),
        ("mean of classes", "reserved"),
        ("NUL", "Windows"),
        ("com1.left", "Windows"),
        ("R\u200bV", "cannot be seen"),
        ("a\nb", "cannot be seen"),
        ("\ud800", "cannot be seen"),
        ("x" * (MOST_BYTES + 1), "longer"),
        (3, "no text"),
    ],
)
def test_names_that_cannot_be_used_are_refused(name, why):
    with pytest.raises(InputError, match=f"^map.json: the name of class 2, .*{why}"):
        check_class_names({2: name}, "map.json")


def test_sound_names_are_taken():
    check_class_names({1: "LV", 2: "left ventricle (wall)", 3: "心房", 4: "Ventrículo", 5: "LV 2", 6: "x" * 100}, "")


def test_a_default_name_that_a_given_one_has_is_not_used_again():
    assert complete_class_names({1: "RV", 2: "Myocardium", 3: "LV"}, 6, "")[3:] == ["RA", "class_5", "Aorta"]
    assert complete_class_names({1: "Left ventricle"}, 3, "") == ["Left ventricle", "LA", "class_3"]
    assert complete_class_names({}, 3, "") == ["Myocardium", "LA", "LV"]
    with pytest.raises(InputError, match="classes 4 and 5 have the same name"):
        complete_class_names({1: "RV", 4: "class_5"}, 5, "map.json")


def test_equal_names_of_a_stored_file_stay_apart():
    assert distinct_names(["RV", "LV", "rv", "union"]) == ["RV", "LV", "rv (class 3)", "union (class 4)"]
    assert distinct_names(["Myocardium", "LA"]) == ["Myocardium", "LA"]
    names = file_names(["LA/1", "LA 1", "con", "..", "LV"])
    assert names[0] == "LA_1" and names[4] == "LV" and len({name.casefold() for name in names}) == 5
    assert "con" not in names


def test_cleaned_name_keeps_what_a_reader_sees():
    assert cleaned_name("  left \u00a0 cafe\u0301\t") == "left caf\u00e9"


def test_other_names_and_another_order_are_told_with_both():
    check_same_names(["RV", "lv"], ["rv ", "LV"], "a.npz", "b.npz", "advice")
    with pytest.raises(InputError) as error:
        check_same_names(["LV", "RV"], ["RV", "LV"], "a.npz", "b.npz", "advice")
    assert str(error.value) == "a.npz: expected the classes of b.npz (1 RV, 2 LV), found 1 LV, 2 RV; advice"
