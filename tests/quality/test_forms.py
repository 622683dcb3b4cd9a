"""No false alarm on prepared label maps of other forms: 3, 12 and 41 classes, ten short-axis slices of 10 mm, oblique,
flipped and permuted grids. Mutations in each form are caught."""

import copy

import nibabel as nib
import numpy as np
import pytest
from helpers import quality_mutations as mutations
from helpers.prepared_phantoms import failed_after, prepare

from vecset.data.case_file import read_case
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.quality import case_checks as quality
from vecset.quality.population import check_population

PLAIN = {"size": (88, 88, 88)}
# pieces of each of the ten structures
PARTS = {12: (2, 2, 1, 1, 1, 1, 1, 1, 1, 1), 41: (8, 8, 4, 4, 4, 4, 4, 1, 1, 3)}


def ventricles(labels, affine):
    """Three classes as in a short-axis cine: 1 right ventricle, 2 myocardium, 3 left ventricle."""
    change = np.zeros(11, np.uint8)
    change[[5, 1, 3]] = 1, 2, 3
    return change[labels], affine


def split(labels, affine, number):
    """Structures cut into pieces by the octants round their medians: `number` classes in all."""
    pieces = np.zeros_like(labels)
    for c, parts in enumerate(PARTS[number], 1):
        index = np.argwhere(labels == c)
        octant = (index > np.median(index, axis=0)) @ [1, 2, 4]
        pieces[tuple(index.T)] = 1 + sum(PARTS[number][: c - 1]) + octant * parts // 8
    return pieces, affine


def short_axis(labels, affine):
    """Ten slices of 1.5 x 1.5 x 10 mm through the ventricles, by nearest neighbour; cut above and below."""
    spacing, new, shape = np.linalg.norm(affine[:3, :3], axis=0), np.array([1.5, 1.5, 10]), (140, 140, 10)
    middle = np.argwhere(np.isin(labels, (1, 3, 5))).mean(0)
    index = [
        np.rint(middle[a] + (np.arange(n) - (n - 1) / 2) * new[a] / spacing[a]).astype(int) for a, n in enumerate(shape)
    ]
    padded = np.pad(labels, 140)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3] / spacing * new
    return padded[np.ix_(*(i + 140 for i in index))], turned


def permuted(labels, affine):
    return labels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]


FORMS = {  # options of the phantom, what is done to it, number of classes
    "3 classes": (PLAIN, [ventricles], 3),
    "12 classes": (PLAIN, [lambda *m: split(*m, 12)], 12),
    "41 classes": ({"size": (112, 112, 112)}, [lambda *m: split(*m, 41)], 41),
    "41 classes, odd grid": (
        {"size": None, "spacing_mm": (1.2, 1.2, 3.0), "oblique_deg": 25.0, "flip": (0, 2)},
        [lambda *m: split(*m, 41)],
        41,
    ),
    "10 slices": ({"size": (128, 128, 128), "oblique_deg": 20.0}, [short_axis], 10),
    "10 slices, 3 classes": ({"size": (128, 128, 128), "oblique_deg": 20.0}, [ventricles, short_axis], 3),
    "oblique": ({**PLAIN, "oblique_deg": 40.0}, [], 10),
    "flipped": ({**PLAIN, "flip": (0,)}, [], 10),
    "permuted": ({**PLAIN, "flip": (1,)}, [permuted], 10),
}


# what another form shows too, or more of it
LONG = ("41 classes", "41 classes, odd grid", "10 slices", "flipped")


@pytest.mark.parametrize("form", [pytest.param(f, marks=[pytest.mark.slow] * (f in LONG)) for f in FORMS])
def test_good_label_maps_pass_and_bad_ones_fail(form, tmp_path):
    options, changes, classes = FORMS[form]
    (tmp_path / "labels").mkdir()
    for index in range(2):
        labels, affine = make_phantom(50, index, PhantomOptions(**options))
        for change in changes:
            labels, affine = change(labels, affine)
        assert labels.max() == classes or form == "10 slices"
        nib.save(nib.Nifti1Image(np.ascontiguousarray(labels), affine), tmp_path / "labels" / f"h{index}.nii.gz")
    paths = prepare(tmp_path, "--classes", str(classes))
    reports = [quality.check_file(p, exact=40, source_dir=tmp_path / "labels") for p in paths]
    check_population(reports)
    assert all(r.passed for r in reports), [r.failed() for r in reports]
    case = read_case(paths[0])
    for mutation, check in (
        (mutations.frame_shifted, "shift"),
        (mutations.five_percent_of_signs, "sign"),
        (mutations.half_voxel_bias, "bias"),
        (mutations.half_voxel_jump, "jump"),
        (mutations.labels_shuffled, "label_exact"),
        (mutations.normals_inward, "normals_outward"),
    ):
        assert check in failed_after(mutation, copy.deepcopy(case), tmp_path), mutation.__name__
