"""Which classes the hearts of a folder hold: files of one structure each, classes that nobody labelled, copies."""

import numpy as np
import pytest

from vecset.commands import check_data_quality, prepare_data
from vecset.imaging.classes import RESERVED_CLASS
from vecset.imaging.label_map import write_label_map
from vecset.quality.population import check_population
from vecset.quality.summary import failure_lines, verdict
from vecset.quality.thresholds import FileReport

NAMES = ["Myocardium", "LA", "LV"]
ROWS = {"surface": 100, "near": 100, "vol": 100}


def heart(number, present, annotated=(1, 2, 3)):
    """The FileReport of a sound heart that has the classes `present`."""
    report = FileReport(f"heart_{number}", f"heart_{number}.npz", class_names=NAMES)
    report.add("readable", 1)
    report.facts = {
        "volumes_ml": {str(c): 10.0 * c for c in present},
        "centroids_mm": {str(c): [float(c), 0.0, 0.0] for c in present},
        "missing": [c for c in annotated if c not in present],
        "radius_mm": 50.0,
        "rows": ROWS,
        "source_sha256": str(number),
    }
    return report


def failed(reports, level="fail"):
    check_population(reports)
    return [(r.case_id, f["check"], f["class_id"]) for r in reports for f in r.failed(level)]


def test_hearts_of_one_class_each_fail_where_several_are_annotated():
    reports = [heart(n, [1]) for n in range(3)]
    assert failed(reports) == [(f"heart_{n}", "one_class", None) for n in range(3)]
    assert "FAIL: 3 of 3" in verdict(reports) and "one_class" in verdict(reports)
    assert "Myocardium alone" in failure_lines(reports[0])[0] and "--structures" in failure_lines(reports[0])[0]


def test_every_way_of_having_one_class():
    assert len(failed([heart(0, [1]), heart(1, [2]), heart(2, [3])])) == 3  # another one in each
    assert len(failed([heart(0, [2])])) == 1  # a folder of one
    mixed = [heart(n, [1]) for n in range(3)] + [heart(3, [1, 2, 3])]
    assert len(failed(mixed)) == 3  # one whole heart among them hides nothing


@pytest.mark.parametrize(
    "reports",
    [
        [heart(n, [2], annotated=[2]) for n in range(3)],  # only the atrium was looked for
        [heart(n, [1, 2, 3]) for n in range(3)],
        [heart(0, [1]), *(heart(n, [1, 2, 3]) for n in range(1, 4))],  # one odd heart is no habit
        [heart(n, [1, 3]) for n in range(3)],
    ],
)
def test_sound_folders_pass(reports):
    assert failed(reports) == []


def test_a_class_that_is_annotated_and_nowhere_is_noted_once():
    reports = [heart(0, [1, 3]), heart(1, [1]), heart(2, [1, 3])]
    assert failed(reports, "warn") == [("heart_0", "class_nowhere", 2)]
    assert "LA = 0" in failure_lines(reports[0], "warn")[0] and "--annotated" in failure_lines(reports[0], "warn")[0]
    assert failed([heart(0, [1, 3]), heart(1, [1, 2])], "warn") == []
    assert failed([heart(n, [1, 3], annotated=[1, 3]) for n in range(2)], "warn") == []
    assert failed([heart(0, [1, 3])], "warn") == []  # of one heart it is an absent structure


def test_masks_of_one_structure_taken_for_hearts_fail_the_check(tmp_path, capsys):
    grid = np.indices((20, 22, 24)).transpose(1, 2, 3, 0)
    (tmp_path / "labels").mkdir()
    for n, radius in enumerate((5, 6, 7)):
        mask = (np.linalg.norm(grid - [10, 11, 12], axis=-1) < radius).astype(np.uint8)
        write_label_map(tmp_path / "labels" / f"scan_{n}.nii.gz", mask, np.diag([1.0, 1.2, 0.9, 1]))
    points = [f"--num_{kind}_points=300" for kind in ("surface", "vol", "near")]
    common = ["--input_dir", str(tmp_path / "labels"), "--file_workers", "0", "--classes", "3", *points]
    assert prepare_data.main([*common, "--output_dir", str(tmp_path / "cases")]) == 0
    assert check_data_quality.main([str(tmp_path / "cases")]) == 1
    assert "one_class" in capsys.readouterr().out.splitlines()[-1]
    assert prepare_data.main([*common, "--output_dir", str(tmp_path / "own"), "--annotated", "1"]) == 0
    check_data_quality.main([str(tmp_path / "own")])
    assert "FAIL scan_0.npz: one_class" not in capsys.readouterr().out


def test_the_class_that_is_kept_free_is_not_noted():
    reports = [heart(n, [1, 3]) for n in range(3)]
    for report in reports:
        report.class_names = [NAMES[0], RESERVED_CLASS, NAMES[2]]
    assert failed(reports, "warn") == []
