"""A heart on every n-th voxel of its grid: decoded and scored in a fraction of the time."""

from dataclasses import replace

import numpy as np

from vecset.data.case_file import Case
from vecset.imaging.frame import Frame


def every_nth(case: Case, n: int) -> Case:
    """The `Case` with every n-th voxel of its grid along each axis, from the first on; the truth likewise. Points and
    unit stay."""
    if n == 1:
        return case
    affine = np.array(case.frame.affine)
    affine[:3, :3] *= n
    frame = Frame(affine, -(-np.array(case.frame.shape) // n), case.frame.centre_mm, case.frame.scale)
    truth = {}
    if case.truth_crop is not None:
        labels = np.ascontiguousarray(case.truth_labels()[::n, ::n, ::n])
        truth = {"truth_crop": labels, "truth_origin": np.zeros(3, int)}
    return replace(case, frame=frame, **truth, whole=case.whole and every_nth(case.whole, n))
