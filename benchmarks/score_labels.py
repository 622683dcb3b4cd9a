#!/usr/bin/env python
"""Dice of label maps against the truth. Independent of the rest on purpose: nibabel (SimpleITK) and numpy alone.

    python benchmarks/score_labels.py truth.nii.gz prediction.nii.gz
    python benchmarks/score_labels.py TRUTH_DIR PREDICTION_DIR

In folders, X.nii.gz (.nii, .nrrd, .mha) of the truth is compared with X.nii.gz or X/labels.nii.gz of the prediction; a
truth without a prediction is left out and named (reconstruct.py writes validation hearts only). Affines must agree
within 1e-4. A class in neither map is left out; in one of them only, its Dice is 0. The mean is over classes; with
folders, over the classes' means.
"""

import argparse
import sys
from pathlib import Path

import nibabel
import numpy as np

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def read(path):
    """Voxel values and affine to RAS+ mm."""
    if path.name.lower().endswith(SUFFIXES[2:]):
        import SimpleITK

        image = SimpleITK.ReadImage(str(path))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        return SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS
    image = nibabel.load(path)
    return np.asanyarray(image.dataobj), image.affine


def by_name(folder):
    """{name without the suffix: path} of the images in a folder."""
    return {
        p.name[: -len(s)]: p
        for p in sorted(folder.iterdir())
        for s in SUFFIXES
        if p.name.lower().endswith(s) and not p.name.startswith(".")
    }


def load(path):
    values, affine = read(path)
    labels = values.astype(np.int64)
    if values.ndim != 3 or (labels != values).any():
        sys.exit(f"error: {path}: not a 3D map of whole numbers")
    return labels, affine


def dice_per_class(truth_path, prediction_path):
    """{class: (Dice, voxels in truth, voxels in prediction)} for the classes in either map."""
    truth, affine = load(truth_path)
    prediction, other = load(prediction_path)
    if truth.shape != prediction.shape:
        sys.exit(f"error: {prediction_path}: shape {prediction.shape}, the truth has {truth.shape}")
    if np.abs(affine - other).max() > 1e-4:
        sys.exit(f"error: {prediction_path}: its affine differs from the truth's by {np.abs(affine - other).max():g}")
    found = {}
    for c in sorted(set(np.unique(truth)) | set(np.unique(prediction))):
        if c:
            t, p = truth == c, prediction == c
            found[int(c)] = 2 * np.count_nonzero(t & p) / (t.sum() + p.sum()), int(t.sum()), int(p.sum())
    return found


def pairs(truth, prediction):
    if truth.is_file():
        return [(truth.name, truth, prediction)], []
    here, there = by_name(truth), by_name(prediction)
    there.update({p.parent.name: p for p in prediction.glob("*/labels.nii.gz")})
    return [(n, here[n], there[n]) for n in here if n in there], [n for n in here if n not in there]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, help="label map, or folder of label maps")
    parser.add_argument("prediction", type=Path, help="label map, or folder of label maps")
    args = parser.parse_args(argv)
    for path in (args.truth, args.prediction):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    found, left_out = pairs(args.truth, args.prediction)
    if not found:
        sys.exit("error: no prediction belongs to any truth")
    per_class = {}
    for name, truth, prediction in found:
        scores = dice_per_class(truth, prediction)
        for c, (dice, in_truth, in_prediction) in scores.items():
            per_class.setdefault(c, []).append(dice)
            if len(found) == 1:
                print(f"class {c:3d}  Dice {dice:.4f}  voxels {in_truth} in truth, {in_prediction} in prediction")
        if len(found) > 1:
            print(f"{name}  mean Dice {np.mean([s[0] for s in scores.values()]):.4f} over {len(scores)} classes")
    if len(found) > 1:
        for c, values in sorted(per_class.items()):
            print(f"class {c:3d}  Dice {np.mean(values):.4f}  in {len(values)} hearts")
    mean = np.mean([np.mean(v) for v in per_class.values()])
    print(f"mean Dice {mean:.4f} over {len(per_class)} classes, {len(found)} hearts; affines agree")
    if left_out:
        print(f"without a prediction: {len(left_out)} ({', '.join(left_out[:5])}{', ...' * (len(left_out) > 5)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
