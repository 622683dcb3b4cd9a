"""Pieces, contacts and leaks of a truth: against counts voxel by voxel, at the border of the image, on synthetic hearts
with and without defects."""

import csv

import numpy as np
import pytest
from helpers.prepared_phantoms import prepared
from helpers.slow_pieces import slow_contact, slow_pieces

from vecset.commands import check_data_quality
from vecset.data.case_file import Case
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.imaging.frame import Frame
from vecset.phantom.defects import KINDS, add_defects
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.quality.anatomy import CONTACTS, ONE_PIECE, check_anatomy, without_leaks
from vecset.quality.thresholds import FileReport

ID = {name: c for c, name in enumerate(HEART_CLASSES, 1)}
NAMED_BY = {  # the check that names a kind of defect
    "coronary_gaps": {"loose_pieces"},
    "coronary_detached": {"contact"},
    "pv_detached": {"contact"},
    "laa_detached": {"contact"},
    "leak": {"leak"},
    "islands": {"pieces", "coronary_pieces", "loose_pieces"},
}


def case_of(labels, spacing_mm=(1.0, 1.0, 1.0), margin=0, names=HEART_CLASSES, annotated=None):
    """A Case with a truth alone; `margin`: voxels of the image round it."""
    classes = len(names)
    meta = {"classes": classes, "class_names": list(names), "annotated_classes": annotated or [*range(1, classes + 1)]}
    shape = np.array(labels.shape) + 2 * margin
    frame = Frame(np.diag([*spacing_mm, 1.0]), shape, np.zeros(3), 1.0)
    return Case(None, {}, frame, labels, np.full(3, margin), meta)


def report_of(case):
    report = FileReport("heart", "heart.npz", class_names=case.class_names)
    report.classes = {c: {} for c in range(1, case.num_classes + 1)}
    check_anatomy(report, case)
    return report


def values(report, check):
    return {f["class_id"]: f["value"] for f in report.findings if f["check"] == check}


def missed(report):
    assert report.passed  # none of these makes a verdict bad
    return {f["check"] for f in report.failed("warn")}


def blobs(rng, shape, share=0.35):
    """Labels of few voxels each, so that structures have several pieces and touch here and there."""
    there = rng.random(shape) < share
    return np.where(there, rng.integers(1, 11, shape), 0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_and_contacts_inside_an_image_are_those_counted_voxel_by_voxel(seed):
    labels = blobs(np.random.default_rng(seed), (7, 6, 8), 0.25 + 0.1 * seed)
    report = report_of(case_of(labels, margin=2))
    pieces = values(report, "pieces") | values(report, "coronary_pieces")
    assert pieces == {ID[n]: len(slow_pieces(labels, ID[n])) for n in (*ONE_PIECE, "Coronary")}
    assert values(report, "contact") == {ID[a]: len(slow_contact(labels, ID[a], ID[b])) for a, b in CONTACTS.items()}
    for part in ("Coronary", "PV"):
        touching = slow_contact(labels, ID[part], ID[CONTACTS[part]])
        loose = sum(not piece & touching for piece in slow_pieces(labels, ID[part]))
        assert values(report, "loose_pieces")[ID[part]] == report.classes[ID[part]]["loose_pieces"] == loose
    assert report.classes[ID["PV"]]["pieces"] == len(slow_pieces(labels, ID["PV"])) and ID["PV"] not in pieces


@pytest.mark.parametrize("seed", range(6))
def test_pieces_at_the_border_count_as_one(seed):
    """On one side the truth ends where the image does."""
    labels = blobs(np.random.default_rng(10 + seed), (6, 7, 6))
    axis, low = seed % 3, seed < 3
    case = case_of(labels, margin=3)
    shape, origin = np.array(case.frame.shape), np.array(case.truth_origin)
    shape[axis] -= 3
    origin[axis] -= 3 * low
    case.frame, case.truth_origin = Frame(case.frame.affine, shape, np.zeros(3), 1.0), origin
    report = report_of(case)
    edge = 0 if low else labels.shape[axis] - 1
    cut = {n: [any(at[axis] == edge for at in p) for p in slow_pieces(labels, c)] for n, c in ID.items()}
    pieces = values(report, "pieces") | values(report, "coronary_pieces")
    assert pieces == {ID[n]: len(cut[n]) - max(sum(cut[n]) - 1, 0) for n in (*ONE_PIECE, "Coronary")}
    judged = {ID[a] for a, b in CONTACTS.items() if not (any(cut[a]) and any(cut[b]))}
    assert set(values(report, "contact")) == judged
    for part in ("Coronary", "PV"):
        touching = slow_contact(labels, ID[part], ID[CONTACTS[part]])
        loose = [not p & touching and not c for p, c in zip(slow_pieces(labels, ID[part]), cut[part])]
        assert values(report, "loose_pieces").get(ID[part], 0) == (sum(loose) if touching else 0)


def test_a_window_onto_a_sound_heart_shows_no_defect():
    """Whatever part of it the image shows: what seems apart hangs together beyond the border."""
    labels, affine = make_phantom(3, 0, PhantomOptions((72, 72, 72)))
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    rng = np.random.default_rng(0)
    judged = 0
    for _ in range(25):
        start, size = rng.integers(0, 40, 3), rng.integers(14, 50, 3)
        window = labels[tuple(slice(a, a + n) for a, n in zip(start, size))]
        report = report_of(case_of(window, spacing_mm))
        assert not missed(report), report.failed("warn")
        judged += len(report.findings)
    assert judged > 100


def test_structures_are_known_by_their_names_and_only_those_that_are_annotated_count():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:5, 2:5, 2:5], labels[7:10, 2:5, 2:5] = 1, 2  # apart
    names = ["heart_atrium_left", "pulmonary veins", "lung"]
    report = report_of(case_of(labels, names=names))
    assert values(report, "contact") == {2: 0} and missed(report) == {"contact"}
    assert "with LA" in report.failed("warn")[0]["note"]
    assert not report_of(case_of(labels, names=["thing", "pulmonary veins", "lung"])).failed("warn")
    labels[labels == 2] = 0  # there are no veins: they are missing, and no contact is
    assert not report_of(case_of(labels, names=names)).failed("warn")
    assert not report_of(case_of(labels, names=names, annotated=[1])).failed("warn")


def ventricle(hole):
    """LV in a cup of muscle, open to LA and aorta on one side; `hole`: side in voxels of a canal through the bottom."""
    labels = np.zeros((40, 24, 24), np.uint8)
    labels[4:24, 4:20, 4:20] = ID["Myocardium"]
    labels[8:24, 8:16, 8:16] = ID["LV"]
    labels[24:30, 8:12, 8:16], labels[24:30, 12:16, 8:16] = ID["LA"], ID["Aorta"]
    middle = slice(12 - hole // 2, 12 - hole // 2 + hole)
    labels[4:8, middle, middle] = ID["LV"]
    return labels


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.5, 0.8)])
def test_the_leak_is_the_share_of_the_surface_without_muscle(spacing_mm):
    labels = ventricle(3)
    report = report_of(case_of(labels, spacing_mm))
    x, y, z = spacing_mm
    sides = 2 * (16 * 8 * x * z + 16 * 8 * x * y) + 2 * 8 * 8 * y * z  # the canal's mouth takes what its end gives
    sides += 2 * (4 * 3 * x * z + 4 * 3 * x * y)
    assert values(report, "leak")[ID["LV"]] == pytest.approx(3 * 3 * y * z / sides)
    assert missed(report) == {"leak"} and f"{9 * y * z:.0f} mm² beside background" in report.failed("warn")[0]["note"]
    labels[1:4, 4:20, 4:20] = ID["RV"]
    report = report_of(case_of(labels, spacing_mm))
    assert values(report, "leak")[ID["LV"]] == pytest.approx(3 * 3 * y * z / sides)
    assert f"0 mm² beside background, {9 * y * z:.0f} mm² beside RV" in report.failed("warn")[0]["note"]


def test_no_leak_where_there_is_muscle_near_the_valves_or_where_they_are_not_known():
    assert values(report_of(case_of(ventricle(0))), "leak") == {ID["LV"]: 0}
    rim = ventricle(0)
    rim[20:24, 4:20, 4:8] = 0  # up to the side of the ventricle, 4 mm from its valves
    assert values(report_of(case_of(rim)), "leak") == {ID["LV"]: 0}
    for name in ("LA", "Aorta", "Myocardium"):  # its base may be open where they would be
        labels = ventricle(3)
        labels[labels == ID[name]] = 0
        assert not values(report_of(case_of(labels)), "leak")
    assert not values(report_of(case_of(ventricle(3)[8:])), "leak")  # cut by the border
    stray = ventricle(0)
    stray[1:3, 1:3, 1:3] = ID["LV"]
    assert missed(report_of(case_of(stray))) == {"pieces"}


def ball_with_a_canal(canal_mm, spacing_mm=(1.0, 1.25, 1.0)):
    """(labels, voxels of the canal (X, Y, Z) bool): an LV of radius 13 mm in a muscle of 20 mm, between LA and aorta,
    and a canal of radius `canal_mm` from it through the muscle along the last axis."""
    at = np.stack(np.meshgrid(*(np.arange(-26, 27, step) for step in spacing_mm), indexing="ij"), -1)
    away = np.linalg.norm(at, axis=-1)
    labels = np.zeros(away.shape, np.uint8)
    labels[away < 20] = ID["Myocardium"]
    labels[(np.abs(at[..., 0] + 22) < 3) & (away < 25)] = ID["LA"]
    labels[(np.abs(at[..., 1] - 22) < 3) & (away < 25)] = ID["Aorta"]
    canal = (np.hypot(at[..., 0], at[..., 1]) < canal_mm) & (at[..., 2] > 0) & (away < 20) & (away >= 13)
    labels[(away < 13) | canal] = ID["LV"]
    return labels, canal


@pytest.mark.parametrize("canal_mm", [2.0, 4.0])
def test_a_canal_through_the_muscle_is_closed_and_nothing_else(canal_mm):
    spacing_mm = (1.0, 1.25, 1.0)
    labels, canal = ball_with_a_canal(canal_mm)
    closed = without_leaks(case_of(labels, spacing_mm))
    assert set(np.unique(closed[closed != labels])) == {ID["Myocardium"]}
    assert (closed != labels)[canal].mean() > 0.85, "but its round foot in the ventricle"
    assert np.count_nonzero((closed != labels) & ~canal) < 0.1 * canal.sum()
    whole, _ = ball_with_a_canal(0.0)
    np.testing.assert_array_equal(without_leaks(case_of(whole, spacing_mm)), whole)
    labels[labels == ID["LA"]] = 0
    assert without_leaks(case_of(labels, spacing_mm)) is None
    small, _ = ball_with_a_canal(2.0)
    small[small == ID["LV"]] = ID["Myocardium"]
    small[24:29, 18:22, 24:] = ID["LV"]  # no ball of CANAL_MM is in it
    np.testing.assert_array_equal(without_leaks(case_of(small, spacing_mm, margin=1)), small)


@pytest.fixture(scope="module")
def hearts():
    made = [make_phantom(8, i, PhantomOptions((72, 72, 72))) for i in range(2)]
    return [(labels, np.linalg.norm(affine[:3, :3], axis=0)) for labels, affine in made]


def test_clean_hearts_have_none(hearts):
    for labels, spacing_mm in hearts:
        report = report_of(case_of(labels, spacing_mm))
        assert not missed(report) and len(values(report, "contact")) == 7
        assert {f["check"] for f in report.findings} == set.union(*NAMED_BY.values())


@pytest.mark.slow
def test_clean_hearts_of_the_usual_size_have_none_whole_or_cut():
    for options in (PhantomOptions(), PhantomOptions(cut=0.3), PhantomOptions(structures=16)):
        for index in range(3):
            labels, affine = make_phantom(9, index, options)
            names = HEART_CLASSES if options.structures == 10 else HEART16_CLASSES
            report = report_of(case_of(labels, np.linalg.norm(affine[:3, :3], axis=0), names=names))
            assert not missed(report), report.failed("warn")


@pytest.mark.parametrize("kind", KINDS)
def test_each_defect_is_named(hearts, kind):
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, (made,), _ = add_defects(labels, spacing_mm, 8, index, {kind: 1.0})
        report = report_of(case_of(changed, spacing_mm))
        assert missed(report) & NAMED_BY[kind], (made, missed(report))
        if kind.endswith("detached"):
            assert [f["class_id"] for f in report.failed("warn") if f["check"] == "contact"] == [made.structure]


@pytest.mark.slow
def test_the_check_passes_and_names_the_hearts_in_its_tables(tmp_path, capsys):
    flags = ("--size", "72", "--seed", "8", "--defects", "pv_detached", "laa_detached", "leak")
    prepared(tmp_path, *flags, num=2)
    assert check_data_quality.main([str(tmp_path / "cases"), "--report", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "PASS: 2 case files, " in said
    for heart in ("phantom_0000.npz", "phantom_0001.npz"):
        assert f"note {heart}: leak of LV = " in said
        (line,) = [row for row in said.split("\n") if row.startswith(f"note {heart}: contact of ")]
        assert "LAA" in line and "PV" in line and "= 0, want at least 1 voxel" in line
    assert "contact of " in (tmp_path / "report" / "report.html").read_text()
    with open(tmp_path / "report" / "files.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 and all({"contact", "leak"} <= set(row["noted"].split()) for row in rows)
    assert all(float(row["leak"]) > 0 and row["contact"] == "0" and row["verdict"] == "PASS" for row in rows)
    with open(tmp_path / "report" / "classes.csv", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["case_id"] == "phantom_0000"]
    contact = {row["class_name"]: row["contact"] for row in rows}
    assert contact["PV"] == contact["LAA"] == "0" and int(contact["LA"]) > 0 and contact["Myocardium"] == ""
    assert {row["class_name"]: row["pieces"] for row in rows}["LV"] == "1"
