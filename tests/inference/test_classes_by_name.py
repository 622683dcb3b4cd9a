"""reconstruct.py of label maps under a checkpoint whose classes have other names or another order than the defaults."""

import json

import numpy as np
import pytest
from helpers.formula_hearts import make_case, make_heart, metrics, run, write_checkpoint
from helpers.named_labels import write_nifti, write_nrrd

from vecset.imaging.class_names import file_names
from vecset.imaging.label_map import read_label_map, write_label_map

# the formula's octants 1..8 by the names of a checkpoint in an order of its own, and a ninth that no heart has
OWN = ["RV", "Myocardium", "LV", "RA", "LA", "Aorta", "PA", "LAA", "Coronary"]


@pytest.fixture
def own(workdir):
    write_checkpoint(workdir / "checkpoint.pth", names=OWN)
    return workdir


def dice(workdir):
    return {row["class_name"]: float(row["dice"]) for row in metrics(workdir) if row["dice"]}


def test_names_in_the_file_join_it_with_the_checkpoint(own, capsys):
    truth, frame = make_heart()
    default_order = {"Myocardium": 1, "LA": 2, "LV": 3, "RA": 4, "RV": 5, "Aorta": 6, "PA": 7, "LAA": 8}
    values = np.zeros_like(truth)
    for c, name in enumerate(OWN[:8], 1):
        values[truth == c] = default_order[name]
    names = list(default_order)
    write_label_map(own / "data" / "named.nii.gz", values, frame.affine, names)
    write_label_map(own / "data" / "same.nii.gz", truth, frame.affine, OWN)
    write_label_map(own / "data" / "bare.nii.gz", values, frame.affine)
    assert run(own, "--no_meshes") == 1
    said = capsys.readouterr()
    failed = [line for line in said.err.splitlines() if line.strip().startswith("error:")]
    assert len(failed) == 1 and "bare" in failed[0] and "does not name its values" in failed[0]
    assert "--label_mapping" in failed[0]
    rows = {row["case_id"]: {} for row in metrics(own)}
    for row in metrics(own):
        rows[row["case_id"]][row["class_name"]] = row["dice"]
    assert rows["named"] == rows["same"] and set(rows["named"]) == {*OWN, "union"}
    assert min(float(v) for v in rows["named"].values() if v) > 0.4
    back = read_label_map(own / "out" / "named" / "labels.nii.gz", 10)  # under the default classes, by names again
    assert back.by_name and set(np.unique(back.labels)) == set(range(9))


def test_a_mapping_joins_a_file_without_names(own, capsys):
    truth, frame = make_heart()
    write_label_map(own / "data" / "bare.nii.gz", truth, frame.affine)
    mapping = own / "map.json"
    mapping.write_text(json.dumps({str(c): name for c, name in enumerate(OWN[:8], 1)}))
    assert run(own, "--no_meshes", "--label_mapping", mapping) == 0
    assert min(dice(own).values()) > 0.4
    settings = json.loads((own / "out" / "metrics.json").read_text())["settings"]
    assert settings["label_mapping"] == str(mapping)
    mapping.write_text(json.dumps({"1": {"class": 1, "name": "Liver"}}))
    assert run(own, "--no_meshes", "--label_mapping", mapping) == 2
    assert "--label_mapping: Liver is no class of the checkpoint (1 RV" in capsys.readouterr().err


def test_another_table_in_the_header_is_another_heart(own, capsys):
    truth, _ = make_heart()
    names = dict(enumerate(OWN[:8], 1))
    path = write_nrrd(own / "data" / "a.seg.nrrd", truth, names)
    assert run(own, "--no_meshes") == 0
    assert run(own, "--no_meshes") == 0 and "1 of 1 hearts were done before" in capsys.readouterr().out
    names[1], names[2] = names[2], names[1]
    write_nrrd(path, truth, names)
    assert run(own, "--no_meshes") == 0 and "done before" not in capsys.readouterr().out
    assert dice(own)["RV"] == 0  # the formula has it where the file says Myocardium


def test_a_name_that_no_class_has(own, capsys):
    truth, _ = make_heart()
    write_nifti(own / "data" / "a.nii.gz", truth, {c: "liver" if c == 3 else OWN[c - 1] for c in range(1, 9)})
    assert run(own, "--no_meshes") == 1
    assert "no class is 3 liver" in capsys.readouterr().err


def test_equal_names_of_an_older_checkpoint_and_case_file_stay_apart(workdir):
    names = ["RV", "Myocardium", "LV", "RA", "RV", "LA/1", "LA 1", "nul", "union"]
    write_checkpoint(workdir / "checkpoint.pth", names=names)
    make_case(workdir / "data" / "a.npz", names=names)
    assert run(workdir) == 0
    rows = metrics(workdir)
    assert [row["class_name"] for row in rows] == [*names[:4], "RV (class 5)", *names[5:8], "union (class 9)", "union"]
    content = json.loads((workdir / "out" / "metrics.json").read_text())["classes"]
    assert len(content) == 9 + 2 and content["RV (class 5)"]["n"] == 1
    counted = [float(row["dice"]) for row in rows[:9] if row["dice"]]
    assert content["mean of classes"]["dice"] == pytest.approx(np.mean(counted)) and len(counted) == 8
    meshes = {path.stem for path in (workdir / "out" / "a" / "meshes").iterdir()}
    assert len(meshes) == 8 and meshes == set(file_names([row["class_name"] for row in rows[:8]]))
