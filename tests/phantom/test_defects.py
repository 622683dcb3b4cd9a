"""Defects of synthetic hearts: each does what its kind says, counted by slow code; the clean truth lies beside."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from helpers.slow_pieces import slow_contact, slow_pieces

from vecset.commands import make_phantoms
from vecset.common.errors import InputError
from vecset.data.label_folder import look_into
from vecset.imaging.classes import HEART_CLASSES
from vecset.phantom import defect_kinds, defects
from vecset.phantom.defects import KINDS, add_defects, contact, draws_any, pieces
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.phantom.precedence import AORTA, CORONARY, LA, LAA, LV, MYO, PV, RV

APART = {"coronary_detached": (CORONARY, AORTA), "pv_detached": (PV, LA), "laa_detached": (LAA, LA)}
GRIDS = {"cubes": PhantomOptions((72, 72, 72)), "odd": PhantomOptions(None, (1.6, 2.0, 2.6), 25.0, (0,))}


@pytest.fixture(scope="module", params=GRIDS)
def hearts(request):
    """Two hearts: [(labels, spacing_mm)]."""
    made = [make_phantom(6, i, GRIDS[request.param]) for i in range(2)]
    return [(labels, np.linalg.norm(affine[:3, :3], axis=0)) for labels, affine in made]


def test_pieces_and_contacts_are_those_counted_voxel_by_voxel():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.6):
        labels = (rng.random((6, 7, 5)) < share).astype(np.uint8) * rng.integers(1, 4, (6, 7, 5), np.uint8)
        for c in (1, 2, 3):
            assert pieces(labels, c) == len(slow_pieces(labels, c))
            found = contact(labels, c, c % 3 + 1)
            assert set(map(tuple, np.argwhere(found))) == slow_contact(labels, c, c % 3 + 1)
    assert pieces(labels, 9) == 0 and not contact(labels, 9, 1).any()


def changed_by(kind, labels, spacing_mm, index):
    """(labels with the defect, its row) of a heart that can have it."""
    before = labels.copy()
    changed, (made,), lines = add_defects(labels, spacing_mm, 6, index, {kind: 1.0})
    assert (labels == before).all() and not lines
    assert made.kind == kind and 0 < made.grade <= 1 and made.voxels == (changed != labels).sum() > 0
    return changed, made


@pytest.mark.parametrize("kind", APART)
def test_a_detached_structure_touches_no_longer(hearts, kind):
    part, whole = APART[kind]
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, made = changed_by(kind, labels, spacing_mm, index)
        assert slow_contact(labels, part, whole) and not slow_contact(changed, part, whole)
        assert made.structure == part and (changed == part).any()
        assert set(np.unique(labels[changed != labels])) == {part}  # a layer of the part, and nothing else


def test_gaps_make_more_pieces_of_the_coronaries(hearts):
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, _ = changed_by("coronary_gaps", labels, spacing_mm, index)
        assert len(slow_pieces(changed, CORONARY)) > len(slow_pieces(labels, CORONARY))
        assert set(np.unique(labels[changed != labels])) == {CORONARY}
        assert not changed[changed != labels].any()


def test_a_leak_goes_through_the_muscle(hearts):
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, made = changed_by("leak", labels, spacing_mm, index)
        new = changed != labels
        assert made.structure in (LV, RV) and (changed[new] == made.structure).all()
        beyond = set(np.unique(labels[new])) - {MYO}
        assert len(beyond) == 1 and beyond < {0, LV, RV}
        for c in (LV, RV, MYO):  # through a hole, and not by a piece of its own
            assert pieces(changed, c) == 1


def test_islands_lie_apart_from_everything(hearts):
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, made = changed_by("islands", labels, spacing_mm, index)
        wanted = max(1, round(defects.MOST_ISLANDS * made.grade))
        assert pieces(changed, made.structure) == 1 + wanted
        for c in set(range(1, 11)) - {made.structure}:
            assert (contact(changed, made.structure, c) == contact(labels, made.structure, c)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_grade_scales_the_size(kind):
    labels, affine = make_phantom(6, 1, PhantomOptions((72, 72, 72)))
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = []
    for grade in (0.05, 1.0):
        _, changed = KINDS[kind](labels, spacing_mm, grade, np.random.default_rng(4))
        sizes.append((changed != labels).sum())
    assert sizes[1] > 1.2 * sizes[0], sizes


def test_all_kinds_together_each_hold(hearts):
    for index, (labels, spacing_mm) in enumerate(hearts):
        changed, made, lines = add_defects(labels, spacing_mm, 6, index, dict.fromkeys(KINDS, 1.0))
        assert [d.kind for d in made] == list(KINDS) and not lines
        for part, whole in APART.values():
            assert not contact(changed, part, whole).any()
        island = made[-1]
        assert pieces(changed, island.structure) > max(1, round(defects.MOST_ISLANDS * island.grade))
        for kind in KINDS:  # the grade of one kind does not depend on the others
            assert changed_by(kind, labels, spacing_mm, index)[1].grade == {d.kind: d.grade for d in made}[kind]


def test_a_heart_that_lacks_the_structure_says_so():
    labels, affine = make_phantom(6, 0, PhantomOptions((40, 40, 40), missing={LA: 1.0, CORONARY: 1.0, MYO: 1.0}))
    shares = dict.fromkeys(set(KINDS) - {"islands"}, 1.0)
    changed, made, lines = add_defects(labels, np.linalg.norm(affine[:3, :3], axis=0), 6, 0, shares)
    assert (changed == labels).all() and not made
    assert len(lines) == 5 and "laa_detached cannot be made: the heart has no LA" in lines
    assert not add_defects(np.zeros((9, 9, 9), np.uint8), np.ones(3), 0, 0, {"islands": 1.0})[1]


def test_a_structure_that_would_be_gone_is_left_as_it_is():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:6, 2:10, 2:10], labels[6, 2:10, 2:10] = LA, LAA  # one layer, all of which touches
    changed, made, lines = add_defects(labels, np.ones(3), 0, 0, {"laa_detached": 1.0})
    assert (changed == labels).all() and not made and "nothing of LAA would be left" in lines[0]


def test_the_share_decides_how_many_hearts_have_a_defect():
    drawn = [draws_any(0, i, {"leak": 0.3}) for i in range(400)]
    assert 0.22 < np.mean(drawn) < 0.38
    assert all(draws_any(0, i, {"leak": 1.0}) for i in range(50)) and not draws_any(0, 0, {"leak": 0.0})


# ---- the command

SMALL = ["--num", "3", "--size", "40", "--seed", "4"]


def table(folder):
    with open(folder / "defects.csv", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three hearts with three kinds of defects, and a plain folder of the same hearts."""
    folder = tmp_path_factory.mktemp("defects")
    make_phantoms.main(["--output_dir", str(folder / "plain"), *SMALL])
    kinds = ["--defects", "islands", "pv_detached:0.5", "laa_detached"]
    make_phantoms.main(["--output_dir", str(folder / "dirty"), *SMALL, *kinds])
    return folder


def test_the_clean_truth_lies_beside_and_the_table_counts(made):
    rows = table(made / "dirty")
    assert {row["kind"] for row in rows} <= {"islands", "pv_detached", "laa_detached"} and len(rows) >= 6
    for path in sorted((made / "plain").glob("*.nii.gz")):
        assert (made / "dirty" / "clean" / path.name).read_bytes() == path.read_bytes()
        dirty, clean = (np.asarray(nib.load(p).dataobj) for p in (made / "dirty" / path.name, path))
        own = [row for row in rows if row["heart"] == path.name]
        assert sum(int(row["changed_voxels"]) for row in own) == (dirty != clean).sum() > 0
        assert all(row["structure"] in HEART_CLASSES and 0 < float(row["grade"]) <= 1 for row in own)
    plain = json.loads((made / "plain" / "phantoms.json").read_text())
    dirty = json.loads((made / "dirty" / "phantoms.json").read_text())
    assert {k: v for k, v in dirty.items() if k not in ("defects", "defects_version")} == plain
    assert sorted(p.name for p in (made / "plain").iterdir()) == [
        *(f"phantom_{i:04d}.nii.gz" for i in range(3)),
        "phantoms.json",
    ]


def test_prepare_data_does_not_take_the_clean_ones(made):
    assert [p.parent for p in look_into(made / "dirty").paths] == 3 * [made / "dirty"]


def test_a_heart_without_its_rows_or_its_truth_is_made_again(tmp_path, capsys):
    flags = ["--output_dir", str(tmp_path), *SMALL, "--defects", "islands", "laa_detached:0.5", "--missing", "LA:0.6"]
    make_phantoms.main(flags)
    first = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for lost in ("defects.csv", "clean/phantom_0001.nii.gz", "phantom_0002.nii.gz"):
        (tmp_path / lost).unlink()
        capsys.readouterr()
        make_phantoms.main(flags)
        assert f"{3 if lost == 'defects.csv' else 1} hearts made" in capsys.readouterr().out
        assert first == {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "defects.csv").write_text("heart,other\n1,2\n")  # not ours: as if it were lost
    make_phantoms.main(flags)
    assert (tmp_path / "defects.csv").read_bytes() == first[next(p for p in first if p.name == "defects.csv")]


def test_without_defects_again_the_folder_holds_plain_hearts(made, tmp_path):
    make_phantoms.main(["--output_dir", str(tmp_path), *SMALL, "--defects", "islands"])
    make_phantoms.main(["--output_dir", str(tmp_path), *SMALL])
    plain = {p.name: p.read_bytes() for p in (made / "plain").iterdir()}
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == plain


def test_a_line_names_what_cannot_be_made(tmp_path, capsys):
    make_phantoms.main(["--output_dir", str(tmp_path), *SMALL, "--defects", "pv_detached", "--missing", "PV:1"])
    said = capsys.readouterr()
    notes = [line for line in said.err.replace("\r", "\n").split("\n") if "cannot be made" in line]
    assert len(notes) == 3
    assert "note: phantom_0000.nii.gz: pv_detached cannot be made: the heart has no PV" in notes[0]
    assert table(tmp_path) == [] and "0 defects in 0 hearts" in said.out


BAD = [["hole"], ["leak:2"], ["leak:x"], ["leak", "leak:0.5"], ["leak:-0.1"], ["leak:0"], ["islands", "leak:0.0"]]


@pytest.mark.parametrize("words", BAD)
def test_bad_defects_are_named(tmp_path, words):
    with pytest.raises(InputError, match="--defects"):
        make_phantoms.main(["--output_dir", str(tmp_path / "out"), "--num", "1", "--defects", *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_same_bytes_with_any_number_of_workers_and_hearts(tmp_path):
    flags = ["--size", "40", "--seed", "4", "--defects", *KINDS]
    make_phantoms.main(["--output_dir", str(tmp_path / "one"), "--num", "4", *flags])
    make_phantoms.main(["--output_dir", str(tmp_path / "two"), "--num", "3", *flags, "--file_workers", "2"])
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.nii.gz")} for n in ("one", "two")
    )
    assert len(two) == 6 and two.items() < one.items()
    assert [r for r in table(tmp_path / "one") if "0003" not in r["heart"]] == table(tmp_path / "two")


def test_the_command_line_names_every_kind_in_its_order():
    assert tuple(KINDS) == defect_kinds.KINDS
