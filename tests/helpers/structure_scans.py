"""Folders of scans with a file per structure, as TotalSegmentator writes them."""

import nibabel as nib
import numpy as np

AFFINE = np.diag([-1.0, -1.2, 0.9, 1.0])
TOTAL = {1: "heart_myocardium", 2: "heart_atrium_left", 3: "heart_ventricle_left"}


def heart(size=0.0):
    """(20, 22, 24) u8: a ball of the classes 1 to 3."""
    grid = np.indices((20, 22, 24)).transpose(1, 2, 3, 0)
    labels = (np.linalg.norm(grid - [10, 11, 12], axis=-1) < 7 + size).astype(np.uint8)
    labels[:, :, 12:] *= 2
    labels[:, 11:, :6] *= 3
    labels[:8] = np.where(labels[:8] > 0, 3, 0)
    return labels


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def scan(folder, labels=None, names=TOTAL, value=1):
    labels = heart() if labels is None else labels
    for c, name in names.items():
        save(folder / f"{name}.nii.gz", ((labels == c) * value).astype(np.uint8))
    return folder
