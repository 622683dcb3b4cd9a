"""The tables of structures: the ten are the first of the sixteen, and each has one colour and aliases of its own."""

import json

import pytest

from vecset.imaging.classes import (
    HEART16_CLASSES,
    HEART_CLASSES,
    STRUCTURES,
    TABLES,
    ClassNames,
    class_colours,
    default_class_names,
)


@pytest.mark.parametrize(("table", "number"), [("heart10", 10), ("heart16", 16)])
def test_ids_of_a_table_are_one_to_c(table, number):
    rows = json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == list(range(1, number + 1))
    assert all(set(row) <= {"id", "name", "aliases", "colour"} for row in rows)


def test_the_sixteen_begin_with_the_ten():
    assert HEART16_CLASSES[:10] == HEART_CLASSES == tuple(default_class_names(10))
    assert list(STRUCTURES) == list(HEART16_CLASSES)
    assert all(known["aliases"] for name, known in STRUCTURES.items() if name != "Reserved")


def test_no_alias_is_that_of_two_structures():
    words = [word for k in STRUCTURES.values() for word in {frozenset(alias.split()) for alias in k["aliases"]}]
    assert len(set(words)) == len(words)


def test_a_structure_has_its_colour_wherever_it_stands():
    ten = class_colours(10)
    assert class_colours(HEART_CLASSES) == class_colours(HEART16_CLASSES)[:10] == ten
    assert class_colours(["RV", "Myocardium", "LV"]) == [ten[4], ten[0], ten[2]]


def test_other_classes_have_the_colours_of_their_places():
    assert class_colours([f"class_{c}" for c in range(1, 41)]) == class_colours(40)
    assert class_colours([None, "LA"]) == class_colours(2)
    ten = class_colours(10)
    found = class_colours(["Tumour", "Myocardium", "Plaque"])  # the first place is that of the myocardium
    assert found[1:] == [ten[0], ten[2]] and found[0] not in ten[:3]


def test_colours_of_a_project():
    names = ClassNames(["Tumour", "LV"], colours={"Tumour": "#123456"})
    assert class_colours(names) == ["#123456", STRUCTURES["LV"]["colour"]]
    assert len(class_colours([f"class_{c}" for c in range(255)])) == 255
