"""Which classes of an input were looked for, by options, mapping, names in the file and case files: the others are
unknown, and masked in the figures."""

import json

import nibabel as nib
import numpy as np
import pytest
from helpers.formula_hearts import (
    CLASSES,
    NAMES,
    make_case,
    make_heart,
    metrics,
    run,
    sphere_points,
    write_checkpoint,
    write_ply,
)

from vecset.commands.reconstruct import parse_arguments
from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.imaging.label_map import write_label_map
from vecset.inference.inputs import find_hearts, load_heart

OWN = ["RV", "Myocardium", "LV", "RA", "LA", "Aorta", "PA", "LAA", "Coronary"]


def statuses(workdir, case_id="a"):
    return {row["class_name"]: row["status"] for row in metrics(workdir) if row["case_id"] == case_id}


def drawn(workdir, case_id="a"):
    return np.asanyarray(nib.load(workdir / "out" / case_id / "labels.nii.gz").dataobj)


def errors(capsys):
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("error:")]


def test_annotated_of_a_label_map_by_ids_and_names(workdir, capsys):
    truth, frame = make_heart()
    write_label_map(workdir / "data" / "a.nii.gz", truth, frame.affine)
    assert run(workdir, "--no_meshes") == 0
    assert statuses(workdir)["class_9"] == "absent"
    assert run(workdir, "--no_meshes", "--annotated", "1,2,3,4,5,6,class_7,8") == 0
    assert "done before" not in capsys.readouterr().out
    assert statuses(workdir)["class_9"] == "not annotated" and statuses(workdir)["class_8"] == "ok"
    made_from = json.loads((workdir / "out" / "a" / "result.json").read_text())["made_from"]
    assert made_from["annotated"] == ["1", "2", "3", "4", "5", "6", "8", "class_7"]
    assert run(workdir, "--no_meshes", "--annotated", "8,class_7,6,5,4,3,2,1") == 0
    assert "1 of 1 hearts were done before" in capsys.readouterr().out
    assert run(workdir, "--no_meshes", "--annotated", "1,2,3") == 1
    assert "class 4 (class_4), 5 (class_5)" in errors(capsys)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected ids or names"),
        ("1,,2", "expected ids or names"),
        ("liver", "liver is no class of the checkpoint"),
    ],
)
def test_a_wrong_list_is_one_line(workdir, capsys, text, words):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--annotated", text) == 2
    assert len(found := errors(capsys)) == 1 and words in found[0] and not (workdir / "out").exists()


def test_an_id_that_the_input_does_not_have_and_a_case_file(workdir, capsys):
    truth, frame = make_heart()
    (workdir / "maps").mkdir()
    write_label_map(workdir / "maps" / "a.nii.gz", truth, frame.affine)
    assert run(workdir, "--annotated", "1,77", source="maps") == 2
    assert errors(capsys)[0].startswith("error: --annotated: 77: no class of the input, a.nii.gz (1 class_1")
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--annotated", "1", source="data") == 1
    assert "a case file says itself which classes were annotated" in errors(capsys)[0]
    words = ["--checkpoint", "c.pth", "--output_dir", "out", "--latents", "x.npz", "--annotated", "1"]
    with pytest.raises(InputError, match="--annotated: stored latents say themselves what was annotated"):
        parse_arguments(words)


def test_ids_are_those_of_the_mapping_and_of_names_in_the_file(workdir):
    """A checkpoint with an order of its own; the mapping leaves Coronary out, and so does the header."""
    write_checkpoint(workdir / "checkpoint.pth", names=OWN)
    truth, frame = make_heart()
    default = {"Myocardium": 1, "LA": 2, "LV": 3, "RA": 4, "RV": 5, "Aorta": 6, "PA": 7, "LAA": 8}
    values = np.zeros_like(truth)
    for c, name in enumerate(OWN[:8], 1):
        values[truth == c] = default[name]
    values[values == 8] = 0  # no LAA
    (workdir / "map.json").write_text(json.dumps({str(value): name for name, value in default.items()}))
    write_label_map(workdir / "data" / "a.nii.gz", values, frame.affine)
    for how in ([], ["--annotated", "1,2,3,4,5,6,7"]):
        assert run(workdir, "--no_meshes", "--label_mapping", workdir / "map.json", *how) == 0
        found = statuses(workdir)
        assert found["Coronary"] == "not annotated" and found["PA"] == "ok"
        assert (found["LAA"] == "not annotated") == bool(how)
    write_label_map(workdir / "data" / "a.nii.gz", values, frame.affine, list(default))
    for how in ([], ["--annotated", "1,2,3,4,5,6,7"]):
        case = load_heart(find_hearts(workdir / "data")[0], OWN, 0, 64, annotated=how[1].split(",") if how else None)
        assert case.states[OWN.index("LAA")] == (State.UNKNOWN if how else State.ABSENT)
        assert case.states[OWN.index("Coronary")] == State.UNKNOWN
        assert (case.states == State.GIVEN).sum() == 7


def test_the_names_beside_a_label_map_are_part_of_what_it_is_made_from(workdir, capsys):
    truth, frame = make_heart()
    write_checkpoint(workdir / "checkpoint.pth", names=OWN)
    write_label_map(workdir / "data" / "a.nii.gz", truth, frame.affine)
    for count, status in ((9, "absent"), (8, "not annotated")):
        labels = {name: c for c, name in enumerate(OWN[:count], 1)}
        (workdir / "data" / "dataset.json").write_text(json.dumps({"labels": labels}))
        assert run(workdir, "--no_meshes") == 0 and "done before" not in capsys.readouterr().out
        assert statuses(workdir)["Coronary"] == status


def test_a_case_file_with_fewer_classes_in_another_order(workdir):
    """The same label map as from the case file of all classes; what it does not have is not annotated."""
    write_checkpoint(workdir / "checkpoint.pth", names=OWN)
    make_case(workdir / "data" / "a.npz", names=OWN)
    assert run(workdir, "--no_meshes") == 0
    whole = drawn(workdir)
    few = OWN[7::-1]
    make_case(workdir / "data" / "a.npz", names=few, annotated=range(1, 9), order=range(8, 0, -1))
    assert run(workdir, "--no_meshes") == 0
    np.testing.assert_array_equal(drawn(workdir), whole)
    assert statuses(workdir) == {**dict.fromkeys([*OWN[:8], "union"], "ok"), "Coronary": "not annotated"}
    assert (workdir / "out" / "report.html").is_file()  # which reads the truth again


def test_annotated_of_a_point_cloud(workdir, capsys):
    points, labels = sphere_points()
    write_ply(workdir / "cloud.ply", points, labels)
    heart = find_hearts(workdir / "cloud.ply")[0]
    assert load_heart(heart, NAMES).states[CLASSES - 1] == State.ABSENT
    case = load_heart(heart, NAMES, annotated=[str(c) for c in range(1, 9)])
    assert case.states.tolist() == [State.GIVEN] * 8 + [State.UNKNOWN]
    assert run(workdir, "--annotated", "1,2", source="cloud.ply") == 1
    assert "is present but not annotated" in errors(capsys)[0]
