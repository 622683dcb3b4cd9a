"""How thick structures are, and how densely latents should lie on them.

At equal spacing over all surfaces a thin vessel gets few latents, each for many of its diameters, while a chamber gets
many that describe hardly any shape. So thin classes get more of them."""

import numpy as np

from vecset.data.listed_case import read_as_listed

_EXPONENT = 0.7  # near the factors that were found good by hand: 4 coronary, 2 pulmonary veins and appendage
_LARGEST = 8.0
_MOST_CASES = 40


def class_thickness_mm(labels: np.ndarray, spacing_mm: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) 2 V / A of each class in a label map, mm (NaN where it is absent): the thickness of a plate, half the
    diameter of a tube, a third of that of a ball, each as far as voxel faces tell (their area is up to 1.5 times the
    smooth surface's, much the same for all shapes). Faces on the border of the array do not count: there a structure is
    cut, not bounded."""
    labels = np.asarray(labels)
    volume_C = np.bincount(labels.ravel(), minlength=num_classes + 1)[1 : num_classes + 1] * np.prod(spacing_mm)
    area_C = np.zeros(num_classes + 1)
    for axis in range(3):
        before = np.moveaxis(labels, axis, 0)[:-1].ravel()
        after = np.moveaxis(labels, axis, 0)[1:].ravel()
        face = before != after
        count = np.bincount(before[face], minlength=num_classes + 1) + np.bincount(
            after[face], minlength=num_classes + 1
        )
        area_C += count[: num_classes + 1] * np.prod(np.delete(spacing_mm, axis))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(volume_C > 0, 2 * volume_C / area_C[1:], np.nan)


def density_of_thickness(thickness_C: np.ndarray) -> np.ndarray:
    """(C,) how many times as close latents should lie: (median thickness / own thickness)^0.7, from 1 to 8; 1 for a
    class whose thickness is not known (NaN)."""
    thickness_C = np.asarray(thickness_C, np.float64)
    known = np.isfinite(thickness_C) & (thickness_C > 0)
    if not known.any():
        return np.ones(len(thickness_C))
    ratio = np.median(thickness_C[known]) / np.where(known, thickness_C, np.inf)
    return np.where(known, ratio**_EXPONENT, 1.0).clip(1.0, _LARGEST)


def fps_density(cases: list, num_classes: int) -> str:
    """The value of --fps_density ("9:3.9,10:1.8") for `cases` (list of ListedCase): from the median thickness of
    each class over up to 40 of them, evenly chosen. Classes of factor 1 are left out."""
    chosen = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(len(cases), _MOST_CASES)).astype(int))]
    thickness = []
    for entry in chosen:
        case = read_as_listed(entry, ("frame", "truth")).require("frame", "truth_crop", purpose="--fps_density auto")
        thickness.append(class_thickness_mm(case.truth_crop, case.frame.spacing_mm, num_classes))
    thickness = np.array(thickness)
    known = np.isfinite(thickness).any(0)
    median_C = np.full(num_classes, np.nan)
    median_C[known] = np.nanmedian(thickness[:, known], 0)
    return ",".join(f"{c}:{factor:.1f}" for c, factor in enumerate(density_of_thickness(median_C), 1) if factor >= 1.05)
