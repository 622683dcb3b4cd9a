"""prepare_data.py --classes: a shipped table, a table of a project's own, and what is refused."""

import json

import pytest
from helpers.named_labels import balls, stored_as, write_nifti

from vecset.commands import prepare_data
from vecset.common.errors import InputError, run_command
from vecset.data.case_file import read_case
from vecset.imaging.class_names import number_or_table, read_structure_table
from vecset.imaging.classes import HEART16_CLASSES

SMALL = ["--num_surface_points", "60", "--num_vol_points", "60", "--num_near_points", "60", "--file_workers", "0"]
OWN = [
    {"id": 2, "name": "Myocardium"},
    {"id": 1, "name": "Right chamber", "aliases": ["RV"], "colour": "#12ab34"},
    {"id": 3, "name": "LV"},
]


def prepare(tmp_path, classes, *more, names=None):
    (tmp_path / "maps").mkdir(exist_ok=True)
    labels = stored_as(balls(5), {1: "RV", 2: "Myocardium", 3: "LV"})
    write_nifti(tmp_path / "maps" / "a.nii.gz", labels, names or {})
    command = ["--input_dir", str(tmp_path / "maps"), "--output_dir", str(tmp_path / "cases"), *SMALL, *more]
    code = run_command(prepare_data.main, [*command, "--classes", str(classes)])
    path = tmp_path / "cases" / "a.npz"
    return code, read_case(path) if path.exists() else None


@pytest.fixture
def table(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    return tmp_path / "own.json"


def test_a_table_of_ones_own_names_the_numbers(tmp_path, table, capsys):
    code, case = prepare(tmp_path, table)
    assert code == 0 and case.class_names == ["Right chamber", "Myocardium", "LV"]
    assert case.class_names.aliases == {"Right chamber": ["RV"]}
    assert case.class_names.colours == {"Right chamber": "#12AB34"}
    before = (tmp_path / "cases" / "a.npz").read_bytes()
    assert prepare(tmp_path, table)[0] == 0 and "0 made, 1 skipped" in capsys.readouterr().out
    table.write_text(json.dumps([*OWN[:2], {"id": 3, "name": "Left"}]))  # another table: made again
    code, case = prepare(tmp_path, table)
    assert case.class_names[2] == "Left" and (tmp_path / "cases" / "a.npz").read_bytes() != before


def test_names_in_the_file_and_presets_are_read_to_the_table(tmp_path, table):
    code, case = prepare(tmp_path, table, names={1: "RV", 2: "Myocardium", 3: "left ventricle"})
    assert code == 0 and "values_by_name" not in case.meta  # the alias says the same as the number
    code, by_preset = prepare(tmp_path, table, "--label_mapping", "acdc", "--overwrite")
    assert code == 0 and (by_preset.truth_crop == case.truth_crop).all()
    code, of_sixteen = prepare(tmp_path, "heart16", "--label_mapping", "acdc", "--overwrite")
    assert of_sixteen.class_names == list(HEART16_CLASSES)
    assert of_sixteen.meta["annotated_classes"] == of_sixteen.meta["present_classes"] == [1, 3, 5]


def test_the_ten_by_name_are_the_ten_by_number(tmp_path):
    labels = balls(5)
    (tmp_path / "maps").mkdir()
    write_nifti(tmp_path / "maps" / "a.nii.gz", labels, {})
    found = []
    for classes in ("10", "heart10"):
        command = ["--input_dir", str(tmp_path / "maps"), "--output_dir", str(tmp_path / classes), *SMALL]
        assert run_command(prepare_data.main, [*command, "--classes", classes]) == 0
        found.append((tmp_path / classes / "a.npz").read_bytes())
    assert found[0] == found[1]


def test_a_mapping_that_contradicts_the_table(tmp_path, table, capsys):
    (tmp_path / "map.json").write_text(json.dumps({"1": {"class": 2, "name": "RV"}, "2": 2, "3": 3}))
    assert prepare(tmp_path, table, "--label_mapping", str(tmp_path / "map.json"))[0] == 2
    told = capsys.readouterr().err
    assert "value 1 is mapped to 'RV', structure 1 Right chamber of --classes" in told and "not 2" in told


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "expected a list of structures"),
        ([], "expected a list of structures"),
        ([{"id": 1, "name": "A", "color": "#000000"}], "unknown keys color"),
        ([{"id": 0, "name": "A"}], "'A' has the id 0"),
        ([{"id": 1, "name": "A"}, {"id": 1, "name": "B"}], "id 1 is both 'A' and 'B'"),
        ([{"id": 1, "name": "A"}, {"id": 3, "name": "B"}], "no structure has the id 2"),
        ([{"id": 1, "name": "A"}, {"id": 2, "name": "a"}], "classes 1 and 2 have the same name"),
        ([{"id": 1}], "the name of class 1, None, is no text"),
        ([{"id": 1, "name": "A", "aliases": "x"}], "the aliases of 'A' are 'x'"),
        ([{"id": 1, "name": "A", "colour": "red"}], "the colour of 'A' is 'red'"),
        ([{"id": 1, "name": "A", "aliases": ["x y"]}, {"id": 2, "name": "Y X"}], "'Y X' stands for Y X and for A"),
    ],
)
def test_tables_that_are_none(tmp_path, rows, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=f"t.json: {message}"):
        read_structure_table(path)


def test_numbers_and_names_of_tables():
    assert number_or_table("16") == 16 and number_or_table("heart16") == "heart16"
    assert read_structure_table("heart16") == list(HEART16_CLASSES)
    with pytest.raises(InputError, match="^heart12: no such file; give a number, heart10, heart16, or a JSON list"):
        read_structure_table("heart12")
