"""What is refused, or said, of the classes of an input before any heart is read."""

import json
import os

import pytest
from helpers.formula_hearts import NAMES, make_case, make_heart, run, write_checkpoint

from vecset.common.errors import InputError
from vecset.data.case_classes import not_annotated
from vecset.data.listed_case import LABEL_MAP, ListedCase
from vecset.imaging.classes import HEART16_CLASSES, default_class_names
from vecset.imaging.label_map import write_label_map
from vecset.imaging.label_mapping import LabelMapping
from vecset.inference import own_tables
from vecset.inference.inputs import find_hearts, load_heart
from vecset.inference.own_tables import check_chosen_in_tables, mapping_of, taken_by_number

DEFAULT = default_class_names(9)


def errors(capsys):
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("error:")]


def write_map(path, names=None):
    truth, frame = make_heart()
    write_label_map(path, truth, frame.affine, names)
    return path


def test_a_class_that_no_heart_has_is_refused_before_any_is_read(workdir, capsys, monkeypatch):
    for name in "ab":
        make_case(workdir / "data" / f"{name}.npz")
    monkeypatch.setattr("vecset.inference.model.load_heart", lambda *arguments: pytest.fail("a heart was read"))
    assert run(workdir, "--given", "1,2,11") == 2
    (line,) = errors(capsys)
    assert line.startswith("error: --given: 11: no class of the input, a.npz and the others (1 class_1, ")
    assert not (workdir / "out").exists()


def test_ids_are_looked_for_in_the_table_of_each_kind_of_file(tmp_path):
    """An id of the mapping, of names in the header, of a case file with fewer classes; and a file that is broken."""
    named = find_hearts(write_map(tmp_path / "a.nii.gz", DEFAULT[::-1]))
    check_chosen_in_tables(named, DEFAULT, given=["1", "9"])
    with pytest.raises(InputError, match=r"--given: 11, liver: no class of the input, a.nii.gz \(1 "):
        check_chosen_in_tables(named, DEFAULT, given=["1", "11", "liver"])
    (tmp_path / "map.json").write_text(json.dumps({"205": {"class": 3, "name": "LV"}, "500": {"class": 2}}))
    mapping = LabelMapping.load(tmp_path / "map.json", 9)
    check_chosen_in_tables(named, DEFAULT, mapping, given=["2", "LV"])
    for flag in ("annotated", "given"):
        with pytest.raises(InputError, match=rf"--{flag}: 1: no class of the input"):
            check_chosen_in_tables(named, DEFAULT, mapping, **{flag: ["1", "3"]})
    few = find_hearts(make_case(tmp_path / "few.npz", names=NAMES[:8], annotated=range(1, 9)))
    with pytest.raises(InputError, match=r"--given: 9, class_9: no class of the input, few.npz"):
        check_chosen_in_tables(few, NAMES, given=["9", "class_9"])
    check_chosen_in_tables([*few, *find_hearts(make_case(tmp_path / "all.npz"))], NAMES, given=["9"])
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    broken = find_hearts(tmp_path / "broken.npz")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.nii.gz")
        broken += [ListedCase("pipe", tmp_path / "pipe.nii.gz", LABEL_MAP)]
    broken += [ListedCase("gone", tmp_path / "gone.nii.gz", LABEL_MAP)]
    check_chosen_in_tables(broken, NAMES, given=["77"])  # reading it says what is wrong
    assert taken_by_number(broken, DEFAULT) == ""


def test_no_more_is_read_than_needed(tmp_path, monkeypatch):
    hearts = [find_hearts(make_case(tmp_path / f"{name}.npz"))[0] for name in "abc"]
    read, seen = own_tables.own_tables, []
    monkeypatch.setattr(own_tables, "own_tables", lambda heart, *rest: seen.append(heart) or read(heart, *rest))
    check_chosen_in_tables(hearts, NAMES, given=["1"])
    assert seen == hearts[:1]
    check_chosen_in_tables(hearts, NAMES)
    assert seen == hearts[:1]


def test_given_must_be_annotated(workdir, capsys):
    path = write_map(workdir / "data" / "a.nii.gz")
    assert run(workdir, "--annotated", "class_5", "--given", "class_3,5") == 2
    (line,) = errors(capsys)
    assert line == (
        "error: --given class_3 is not among --annotated class_5, but what is given must have been looked for; "
        "add class_3 to --annotated"
    )
    words = dict(annotated=["5"], given=["class_3"])
    with pytest.raises(InputError, match="a.nii.gz: --given class_3 is not among --annotated 5"):
        load_heart(find_hearts(path)[0], NAMES, 0, 64, **words)
    table = {7: 3, 8: 5}
    assert not_annotated(["7", "class_5"], ["class_3", "8"], table, NAMES) == []
    assert not_annotated(["7", "8"], ["class_3"], table, NAMES) == ["8"]


def test_values_that_are_taken_by_number_are_told(workdir, capsys):
    """Once for a run; not where names in the file, or a mapping, decide, nor where the classes have no names."""
    write_checkpoint(workdir / "checkpoint.pth", names=DEFAULT)
    for name in "ab":
        write_map(workdir / "data" / f"{name}.nii.gz")
    assert run(workdir, "--no_meshes") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "does not name its values" in line]
    assert len(said) == 1 and said[0].startswith("note: a.nii.gz does not name its values; in such label maps they are")
    assert "1 Myocardium, 2 LA, 3 LV, " in said[0] and "--label_mapping" in said[0]
    hearts = find_hearts(workdir / "data")
    assert taken_by_number(hearts, NAMES) == ""
    (workdir / "map.json").write_text(json.dumps({"1": "Myocardium"}))
    assert taken_by_number(hearts, DEFAULT, LabelMapping.load(workdir / "map.json", 9)) == ""
    named = find_hearts(write_map(workdir / "named.nii.gz", DEFAULT))
    assert taken_by_number(named, DEFAULT) == "" and taken_by_number([*named, hearts[1]], DEFAULT).startswith("b.nii")
    other = [*DEFAULT[:2], "Heart", *DEFAULT[3:]]
    told = taken_by_number(hearts, other)  # value 3 is refused, as its default name is another one
    assert "2 LA, 4 " in told and "Heart" not in told


def test_a_mapping_may_name_any_structure_of_the_checkpoint(tmp_path):
    """Also one of more than ten, or of other names than the ten; ids of a data set of its own still have its names."""
    path, sixteen = tmp_path / "map.json", list(HEART16_CLASSES)
    path.write_text('{"values": {"7": "SVC", "1": "RV wall"}}')
    for names in (sixteen, sixteen[:13], ["Organ", "SVC", "RV_wall"]):
        found = mapping_of(str(path), names).for_classes(names)
        assert {v: names[c - 1] for v, c in found.value_to_class.items()} == {7: "SVC", 1: "RV_wall"}
    with pytest.raises(InputError, match="or one of Myocardium, RV, Left cavity, not to 'SVC'"):
        mapping_of(str(path), ["Myocardium", "RV", "Left cavity"])
    path.write_text('{"values": {"5": {"class": 1, "name": "RV"}, "3": {"class": 2, "name": "LV"}}}')
    found = mapping_of(str(path), sixteen).for_classes(sixteen)
    assert {v: sixteen[c - 1] for v, c in found.value_to_class.items()} == {5: "RV", 3: "LV"}
    assert mapping_of("", sixteen) is None
