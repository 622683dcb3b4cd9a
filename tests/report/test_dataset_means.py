"""Means of several data sets: those of each alone, in metrics.json and in the table."""

import numpy as np
import pytest

from vecset.metrics.overlap import score
from vecset.report import tables

NAMES = ["LV", "RV"]
OF = {"a0": "A", "a1": "A", "b0": "B"}


def rows_of(case_id, shift):
    """A ball of LV, of which the prediction is moved by `shift` voxels, and half a ball of RV, which B has not."""
    x = np.indices((20, 20, 20)) - 10
    truth = ((x**2).sum(0) < 40).astype(np.uint8)
    truth[:, :, 12:] *= 2
    annotated = [True, not case_id.startswith("b")]
    scores = score(truth, np.roll(truth, shift, 0), NAMES, annotated)
    return [{"case_id": case_id, **row} for row in scores]


def content(datasets):
    rows = [row for k, case_id in enumerate(OF) for row in rows_of(case_id, k)]
    hearts = {c: {"mean_dice": None} | ({"dataset": datasets[c]} if c in datasets else {}) for c in OF}
    return tables.report(rows, hearts, {})


def test_each_set_has_the_means_that_it_has_alone():
    found = content(OF)
    for name in "AB":
        ids = [c for c, dataset in OF.items() if dataset == name]
        rows = [row for k, case_id in enumerate(OF) if case_id in ids for row in rows_of(case_id, k)]
        alone = tables.report(rows, {case_id: {} for case_id in ids}, {})["classes"]
        assert found["datasets"][name] == alone
    assert found["datasets"]["B"]["RV"]["not_annotated"] == 1 and found["datasets"]["B"]["RV"]["dice"] is None


def test_the_table_has_a_line_for_each():
    found = content(OF)
    lines = {line[:15].strip(): line for line in tables.table_lines(found)}
    for name in "AB":
        dice = found["datasets"][name]["mean of classes"]["dice"]
        assert lines[f"mean of {name}"].split()[3] == f"{dice:.3f}"
    assert float(lines["mean of A"].split()[3]) > float(lines["mean of B"].split()[3]) + 0.01


@pytest.mark.parametrize("datasets", [{}, dict.fromkeys(OF, "A")])
def test_one_set_is_all(datasets):
    found = content(datasets)
    assert "datasets" not in found and not any("mean of A" in line for line in tables.table_lines(found))
