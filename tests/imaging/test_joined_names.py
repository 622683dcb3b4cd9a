"""Structures of several tables as one: what is one structure, which name it gets, what is said and refused."""

import pytest

from vecset.common.errors import InputError
from vecset.imaging.classes import ClassNames
from vecset.imaging.joined_names import union_of


def test_the_union_of_tables():
    union, lines = union_of(
        {
            "A": (ClassNames(["Cavity", "Plaque"], {"Cavity": ["LV"]}, {"Plaque": "#123456"}), {1, 2}),
            "B": (["Aorta", "left ventricle", "calcium"], {1, 2}),
            "C": (ClassNames(["Stone"], {"Stone": ["plaque"]}), {1}),
        }
    )
    assert union == ["LV", "Aorta", "Plaque"] and union.colours == {"Plaque": "#123456"}
    assert union.aliases == {"LV": ["Cavity", "left ventricle"], "Plaque": ["Stone"]}
    assert lines[0] == "one structure, LV: 'Cavity' in A, 'left ventricle' in B"
    assert lines[1] == "one structure, Plaque: 'Plaque' in A, 'Stone' in C"
    with pytest.raises(InputError, match="^data set A: its classes 1 LV and 2 left ventricle are one structure, LV; "):
        union_of({"A": (["LV", "left ventricle"], {1, 2})})
    with pytest.raises(InputError, match="^data set B: X fits P and Q of the other data sets"):
        union_of({"A": (["P", "Q"], {1, 2}), "B": (ClassNames(["X"], {"X": ["p", "q"]}), {1})})
