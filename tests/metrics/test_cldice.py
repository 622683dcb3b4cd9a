"""Centre-line Dice: against counting voxels, on tubes whose shares are known, and which classes get it."""

from itertools import permutations, product

import numpy as np
import pytest
from helpers.tubes import tube
from scipy import ndimage

from vecset.data.thickness import class_thickness_mm
from vecset.imaging.label_map import read_label_map
from vecset.metrics.centre_line import centre_line
from vecset.metrics.cldice import CENTRE_LINES, THICKNESS, THIN_MM, centre_line_metrics, only_thin, thin_classes
from vecset.metrics.overlap import counted_value, score, summarise
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.report import tables
from vecset.report.figures import read_figures, table

SPACINGS_MM = [(1, 1, 1), (0.8, 0.8, 0.8), (0.7, 0.7, 2.5), (2.0, 0.8, 0.5)]
SIZE_MM = 68


def tube_mm(axis_points_mm, radius_mm, spacing_mm):
    return tube([int(SIZE_MM / s) for s in spacing_mm], axis_points_mm, radius_mm, spacing_mm)


def helix(start, stop, axis=2):
    """Points of a screw line, between two shares of it."""
    t = np.linspace(start, stop, 24)
    points = np.stack([24 + 14 * np.cos(7 * t), 24 + 14 * np.sin(7 * t), 8 + 32 * t], -1)
    return np.roll(points, axis - 2, -1)


def values(truth, prediction, spacing_mm=(1, 1, 1)):
    return tuple(centre_line_metrics(truth, prediction, spacing_mm)[name] for name in CENTRE_LINES)


def counted(truth, prediction):
    """As the paper defines it, voxel by voxel."""
    inside = []
    for of, mask in ((prediction, truth), (truth, prediction)):
        voxels = [tuple(p) for p in np.argwhere(centre_line(of))]
        inside.append(sum(bool(mask[p]) for p in voxels) / len(voxels))
    precision, sensitivity = inside
    return 2 * precision * sensitivity / (precision + sensitivity) if sum(inside) else 0, precision, sensitivity


@pytest.fixture(scope="module")
def heart():
    labels, affine = make_phantom(0, 1, PhantomOptions(size=(96, 96, 96)))
    return labels, np.linalg.norm(affine[:3, :3], axis=0)


def test_equals_counting_voxels_where_they_are_cubes(heart):
    labels, spacing_mm = heart
    for c in (8, 9, 10):
        for prediction in (np.roll(labels == c, 1, 0), ndimage.binary_erosion(labels == c), np.roll(labels == c, 2, 2)):
            found = values(labels == c, prediction, spacing_mm)
            assert found == pytest.approx(counted(labels == c, prediction), abs=1e-12)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_straight_tubes(spacing_mm):
    """Half of it, a gap in it, moved within the mask and out of it, thinner and thicker, a false branch."""
    a, b = np.array([10.0, 14, 12]), np.array([60.0, 50, 55])
    across = np.cross(b - a, [0, 0, 1]) / np.linalg.norm(np.cross(b - a, [0, 0, 1]))

    def at(share):
        return a + share * (b - a)

    truth = tube_mm((a, b), 3, spacing_mm)
    assert values(truth, truth, spacing_mm) == (1, 1, 1)
    ends = 6 / np.linalg.norm(b - a)  # a centre line ends up to two radii before its tube
    half = values(truth, tube_mm((a, at(0.5)), 3, spacing_mm), spacing_mm)
    assert half[1] == pytest.approx(1, abs=0.02) and half[2] == pytest.approx(0.5, abs=ends)
    broken = tube_mm((a, at(0.4)), 3, spacing_mm) | tube_mm((at(0.7), b), 3, spacing_mm)
    _, precision, sensitivity = values(truth, broken, spacing_mm)
    assert precision == pytest.approx(1, abs=0.02) and sensitivity == pytest.approx(0.7 + ends, abs=0.06)
    moved = tube_mm((a + 1.2 * across, b + 1.2 * across), 3, spacing_mm)
    assert min(values(truth, moved, spacing_mm)) > 0.97
    far = tube_mm((a + 7 * across, b + 7 * across), 3, spacing_mm)
    assert values(truth, far, spacing_mm) == (0, 0, 0)
    for radius_mm in (2, 4):
        other = tube_mm((a, b), radius_mm, spacing_mm)
        dice = 2 * (truth & other).sum() / (truth.sum() + other.sum())
        assert dice < 0.75 and values(truth, other, spacing_mm)[0] > 0.95
    branch = truth | tube_mm((at(0.5), at(0.5) + [25, -20, -15]), 3, spacing_mm)
    length, more = np.linalg.norm(b - a), np.linalg.norm([25, 20, 15]) - 3
    _, precision, sensitivity = values(truth, branch, spacing_mm)
    assert sensitivity == 1 and precision == pytest.approx(length / (length + more), abs=0.1)
    cldice, missing, one = values(branch, truth, spacing_mm)  # the branch is missing: the two change places
    assert (missing, one) == (1, precision) and cldice == pytest.approx(2 * precision / (1 + precision))


@pytest.mark.parametrize("axis", range(3))
def test_curved_tubes(axis):
    truth = tube((48,) * 3, helix(0, 1, axis), 2.5)
    assert values(truth, truth) == (1, 1, 1)
    cldice, precision, sensitivity = values(truth, tube((48,) * 3, helix(0, 0.75, axis), 2.5))
    assert precision > 0.99 and sensitivity == pytest.approx(0.75, abs=0.04)
    assert cldice == pytest.approx(2 * precision * sensitivity / (precision + sensitivity))


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_shares_are_of_mm_in_every_direction(spacing_mm):
    """Two arms of the same length, one along x and one along z: without either, half is missing. Voxels would say
    0.78 or 0.22 where they are 3.6 times as long in z."""
    corner, x, z = np.array([10.0, 35, 10]), [60.0, 35, 10], [10.0, 35, 60]
    truth = tube_mm((x, corner, z), 3, spacing_mm)
    for arm in (x, z):
        _, precision, sensitivity = values(truth, tube_mm((corner, arm), 3, spacing_mm), spacing_mm)
        assert precision > 0.98 and sensitivity == pytest.approx(0.5, abs=0.07)


def test_structures_of_one_voxel_and_of_one_voxel_across():
    one, other, line = np.zeros((3, 20, 20, 20), bool)
    one[3, 4, 5] = other[9, 9, 9] = line[2, 2, 2:12] = True
    assert values(one, one, (1, 1, 3)) == (1, 1, 1)
    assert values(one, other) == (0, 0, 0) and values(line, other) == (0, 0, 0)
    assert values(line, line, (1, 2, 3)) == (1, 1, 1)
    half = line.copy()
    half[2, 2, 7:] = False
    assert values(line, half) == (pytest.approx(2 / 3), 1, pytest.approx(0.5))
    assert values(line, half | one)[1] == pytest.approx(5 / 6)  # an island counts with its voxels


def test_a_structure_that_the_image_cuts():
    """It ends with the image, in truth and prediction alike; so it does in a larger image."""
    whole = tube((60, 30, 30), ([-20, 15, 15], [80, 14, 16]), 2.5)
    assert values(whole, whole) == (1, 1, 1)
    half = whole.copy()
    half[30:] = False
    _, precision, sensitivity = values(whole, half)
    assert precision > 0.98 and sensitivity == pytest.approx(0.5, abs=0.04)
    assert values(np.pad(whole, 4), np.pad(half, 4)) == values(whole, half)


def test_orientation_changes_little(heart):
    """Coronaries moved here and there by up to two voxels, which is as much as they are wide."""
    truth = heart[0] == 9
    rng, index = np.random.default_rng(0), np.indices(truth.shape)
    for k in range(3):
        noise = ndimage.gaussian_filter(rng.normal(size=truth.shape), 4)
        index[k] = np.clip(np.rint(index[k] + 0.7 * noise / noise.std()), 0, truth.shape[k] - 1)
    prediction = truth[tuple(index)]
    box = ndimage.find_objects((truth | prediction).astype(int))[0]
    found = []
    for axes, flips in product(permutations(range(3)), ((), (0,), (1, 2), (0, 1, 2))):
        found.append(values(*[np.flip(mask[box].transpose(axes), flips) for mask in (truth, prediction)]))
    assert np.ptp(found, axis=0).max() < 0.1 and np.std(found, axis=0)[0] < 0.02 and 0.4 < np.mean(found) < 0.6


def lines_and_blob(**without):
    """Label map: 1 a thin tube, 2 a ball, 3 another thin tube; classes given as 0 are left out."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[np.linalg.norm(np.indices(labels.shape) - 28.5 * np.ones((3, 1, 1, 1)), axis=0) < 9] = 2
    labels[tube(labels.shape, ([5, 5, 5], [5, 8, 35]), 1.3)] = 1
    labels[tube(labels.shape, ([12, 5, 5], [35, 8, 5]), 1.3)] = 3
    for c in without.get("classes", ()):
        labels[labels == c] = 0
    return labels


def rows_of(pairs, names=("a", "b", "c")):
    return [
        {"case_id": str(n), **row}
        for n, (truth, prediction) in enumerate(pairs)
        for row in score(truth, prediction, names, spacing_mm=(1, 1, 1))
    ]


def test_missed_spurious_and_absent_count_as_for_dice():
    whole, lacking = lines_and_blob(), lines_and_blob(classes=(1,))
    rows = rows_of([(whole, whole), (whole, lacking), (lacking, whole), (lacking, lacking)])
    ones = [row for row in rows if row["class_id"] == 1]
    assert [row["status"] for row in ones] == ["ok", "missed", "invented", "absent"]
    for name in CENTRE_LINES:
        assert [row[name] for row in ones] == [1, 0, 0, None]
        assert [counted_value(row, name) for row in ones] == [1, 0, 0, None]
    assert [row[THICKNESS] is None for row in ones] == [False, False, True, True]
    entry = summarise(rows)["a"]
    assert entry["cldice"] == pytest.approx(1 / 3) and entry["n"] == 3
    low, high = entry["cldice_ci95"]
    assert low == 0 and entry["cldice"] < high <= 1


def test_only_thin_classes_have_it():
    whole, lacking = lines_and_blob(), lines_and_blob(classes=(3,))
    rows = rows_of([(whole, whole), (whole, whole), (lacking, whole)])
    assert thin_classes(rows) == [1, 3]
    before = [dict(row) for row in rows]
    kept = only_thin(rows)
    assert rows == before  # they are copies
    for row in kept:
        expected = {1: 1, 3: 0 if row["case_id"] == "2" else 1}.get(row["class_id"])
        assert row["cldice"] == expected, row
    summary = summarise(rows)
    assert summary["c"]["cldice"] == pytest.approx(2 / 3) and summary["b"]["cldice"] is None
    assert summary["mean of classes"]["cldice"] == pytest.approx((1 + 2 / 3) / 2)
    assert summary["union"]["cldice"] is None
    # a thick one that a heart lacks: 0 in its row, nothing in the means
    no_ball = lines_and_blob(classes=(2,))
    rows = rows_of([(whole, whole), (no_ball, whole)])
    assert [row["cldice"] for row in rows if row["class_id"] == 2] == [None, 0]
    assert summarise(rows)["b"]["cldice"] is None
    # one that no truth has: nobody knows whether it is thin
    rows = rows_of([(lacking, whole)])
    assert thin_classes(rows) == [1] and summarise(rows)["c"]["cldice"] is None


def test_classes_that_nobody_looked_for_have_none():
    whole = lines_and_blob()
    rows = score(whole, whole, ("a", "b", "c"), [False, True, True], (1, 1, 1))
    assert rows[0]["cldice"] is None and rows[0][THICKNESS] is None and rows[2]["cldice"] == 1


def test_coronaries_alone_are_thin_in_a_heart(heart):
    labels, spacing_mm = heart
    names = [f"c{c}" for c in range(1, 11)]
    rows = score(labels, labels, names, None, spacing_mm)
    assert thin_classes(rows) == [9]
    thickness = [row[THICKNESS] for row in rows[:-1]]
    assert thickness[8] < THIN_MM / 1.8 and min(thickness[:8] + thickness[9:]) > THIN_MM * 1.4
    assert rows[-1][THICKNESS] is None and rows[8]["cldice"] == 1


def test_thickness_is_the_truths_whatever_the_prediction(heart):
    """And whatever margin of background it has."""
    labels, spacing_mm = heart
    names = [f"c{c}" for c in range(1, 11)]
    rng = np.random.default_rng(0)
    other = np.where(rng.random(labels.shape) < 0.001, 9, labels).astype(np.uint8)
    box = ndimage.find_objects((labels > 0).astype(int))[0]
    wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    expected = [row[THICKNESS] for row in score(labels, labels, names, None, spacing_mm)]
    assert [row[THICKNESS] for row in score(labels, other, names, None, spacing_mm)] == expected
    assert [row[THICKNESS] for row in score(labels[wider], labels[wider], names, None, spacing_mm)] == expected


@pytest.mark.slow
def test_brain_arteries_are_thin_and_chambers_are_not(real_heart):
    """Real labels, where they are on this machine."""
    folder = real_heart.parent / "real" / "circle_of_willis"
    heart = read_label_map(real_heart, 7)
    thickness_mm = class_thickness_mm(heart.labels, heart.spacing_mm, 7)
    assert thin_classes([{"class_id": c, THICKNESS: mm} for c, mm in enumerate(thickness_mm, 1)]) == []
    for path in sorted(folder.glob("*.nii.gz")):
        arteries = read_label_map(path, 15)
        rows = score(arteries.labels, arteries.labels, [f"c{c}" for c in range(1, 16)], None, arteries.spacing_mm)
        assert thin_classes(rows) == [c for c in range(1, 16) if (arteries.labels == c).any()]
        assert {row["cldice"] for row in rows[:-1]} <= {1, None}


def test_share_of_hearts_with_the_true_number_of_components():
    whole, lacking = lines_and_blob(), lines_and_blob(classes=(1,))
    broken = whole.copy()
    broken[:, :, 20][broken[:, :, 20] == 1] = 0
    rows = rows_of(
        [(whole, whole), (whole, whole), (whole, broken), (whole, lacking), (lacking, whole), (lacking, lacking)]
    )
    summary = summarise(rows)
    assert summary["a"]["true_components"] == pytest.approx(2 / 5) and summary["a"]["n"] == 5
    assert summary["b"]["true_components"] == 1
    low, high = summary["a"]["true_components_ci95"]
    assert 0 <= low < 0.4 < high <= 1
    assert summary["mean of classes"]["true_components"] == pytest.approx((2 / 5 + 1 + 1) / 3)
    limited = [{**row, "floor_components": row["truth_components"] and 1 + (row["case_id"] == "0")} for row in rows]
    assert summarise(limited)["a"]["floor_true_components"] == pytest.approx(4 / 5)


def test_columns_table_and_page(tmp_path):
    """New columns end metrics.csv, behind the baselines; beside Dice in the table and on the page, for thin classes."""
    whole = lines_and_blob()
    broken = whole.copy()
    broken[:, :, 20][broken[:, :, 20] == 1] = 0
    rows, names = [], ("a", "b", "c")
    for case, prediction in (("0", whole), ("1", broken)):
        scores, limit = (score(whole, other, names, spacing_mm=(1, 1, 1)) for other in (prediction, whole))
        rows += tables.table_rows(case, scores, {"mean_shape": scores, "nearest_heart": scores}, limit)
    tables.write_csv(tmp_path / "metrics.csv", rows)
    content = tables.report(rows, {"0": {}, "1": {}}, {})
    tables.write_json(tmp_path / "metrics.json", content)
    assert content["thin_classes"] == ["a", "c"] and content["classes"]["a"]["true_components"] == 0.5
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[-10:-8] == ["mean_shape_dice", "nearest_heart_dice"]
    assert header[-8:] == [*CENTRE_LINES, THICKNESS, *(f"floor_{name}" for name in CENTRE_LINES), "observed"]
    figures = read_figures(tmp_path)
    assert figures["rows"]["0", 2]["cldice"] is None and figures["rows"]["0", 1]["floor_cldice"] == 1
    shown = table(figures)
    columns = [c["name"] for c in shown["columns"]]
    assert columns[:2] == ["dice", "cldice"] and shown["columns"][1]["words"] == "clDice"
    assert [c["better"] for c in shown["columns"] if c["name"] in ("cldice", "true_components")] == [1, 1]
    cells = [row["cells"][1] for row in shown["rows"]]
    assert [cell["mean"] is None for cell in cells] == [False, True, False, False, True]
    assert cells[0]["floor"] == 1 and cells[0]["mean"] < 1 and cells[0]["interval"]
    lines = tables.table_lines(content)
    assert "clDice" in lines[0] and "true comp." in lines[0]
    thick = [row for row in rows if row["class_id"] in (2, "")]
    assert "clDice" not in tables.table_lines(tables.report(thick, {}, {}))[0]
