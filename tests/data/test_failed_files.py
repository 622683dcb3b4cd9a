"""Many files that fail for one reason: each has a short line, and the summary says the reason once."""

import pickle

import nibabel as nib
import numpy as np
import pytest
from helpers.prepare_runs import make_maps, run

from vecset.common.errors import InputError
from vecset.data.failed_files import SHORT, Failure, common_causes


def failure(name, problem, to_do="", where=None):
    path = f"/labels/{name}"
    return Failure.of(path, name, InputError.because(where or path, problem, to_do), "")


@pytest.mark.parametrize("workers", [0, 1])
def test_hearts_without_the_mapping_that_all_need(tmp_path, capsys, workers):
    source = make_maps(tmp_path / "in", ["good.nii.gz"])
    for n in range(4):
        array = np.zeros((20, 20, 20), np.int16)
        for i, value in enumerate((205, 420, 500, 550)[: 3 + n % 2]):
            array[4 + 3 * i : 7 + 3 * i, 4:16, 4:16] = value
        nib.save(nib.Nifti1Image(array, np.eye(4)), source / f"h{n}.nii.gz")
    (source / "cut.nii.gz").write_bytes((source / "h0.nii.gz").read_bytes()[:60])
    assert run(source, tmp_path / "out", workers=workers) == 1
    told = capsys.readouterr()
    lines = [line for line in told.err.replace("\r", "\n").splitlines() if "MM-WHS" in line]
    assert len(lines) == 5 and [line.count("--label_mapping mmwhs") for line in lines].count(1) == 2
    assert lines[1].startswith("error: h1.nii.gz: its label values 205, 420, 500, 550 are those of MM-WHS")
    assert lines[4] == (
        "4 hearts failed for the same reason, such as h0.nii.gz: its label values 205, 420, 500 are those of MM-WHS; "
        "give --label_mapping mmwhs"
    )
    assert "1 made, 0 skipped, 5 failed" in told.out and told.err.count("for the same reason") == 1


def test_only_one_reason_is_one():
    found = [
        failure("a.nii", "labels 0..10 expected, found 11, 12 and 3 more", "map them"),
        failure("b.nii", "labels 0..10 expected, found 13", "map them"),
        failure("c.nii", "the file is empty", "map them"),
        failure("d.nii", "labels 0..10 expected, found 11", "do something else"),
        failure("e.nii", "not JSON", "mend it", "/labels/dataset.json"),
        failure("f.nii", "not JSON", "mend it", "/labels/dataset.json"),
        failure("g.nii", "not JSON", "mend it"),
        Failure.of("/labels/h.nii", "h.nii", OSError(28, "", "/out/h.npz"), ""),
        Failure.of("/labels/i.nii", "i.nii", OSError(28, "", "/out/i.npz"), ""),
        "a line of another kind",
    ]
    lines = common_causes(found)
    assert [line.split(":")[0] for line in lines] == [
        f"2 hearts failed for the same reason, such as {name}.nii" for name in "aeh"
    ]
    assert lines[1].endswith("e.nii: /labels/dataset.json: not JSON; mend it")
    assert "no space left" in lines[2]


def test_short_lines_and_other_processes():
    long = failure("a.nii", "x" * 500, "shorten it")
    assert len(long.short) == len("a.nii: ") + SHORT and long.short.endswith("...")
    again = pickle.loads(pickle.dumps(long))
    assert (again, again.cause, again.short) == (long, long.cause, long.short)
    assert long == "/labels/a.nii: " + "x" * 500 + "; shorten it"
