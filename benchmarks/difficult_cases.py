#!/usr/bin/env python
"""How a trained model reconstructs hearts that are harder than its training hearts: Dice per class, a row per
difficulty.

    python benchmarks/difficult_cases.py --checkpoint C --labels FOLDER --val cases/val.csv --output_dir OUT
                                         [--hearts 8] [-- options of reconstruct.py]

The same validation hearts, made harder one way at a time, go through `reconstruct.py` as label maps:

    as they are      for comparison
    missing          pulmonary veins and appendage are not in the label map (classes 10 and 8)
    cut              the image ends where a sixth of the heart's height is left above
    noise            a fifth of the voxels at class borders has a neighbour's label; scored against the clean labels
    2 mm             resampled to 2 mm
    thick slices     resampled to 0.8 x 0.8 x 4 mm
    turned           the patient turned by 40 degrees about an oblique axis, twice as far as training turns hearts

This script computes Dice itself, from the label maps that were written, on the grid of the input.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *sys.path[1:]]

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
from scipy import ndimage  # noqa: E402

from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.data.label_folder import look_into  # noqa: E402
from vecset.imaging.image_file import case_name  # noqa: E402
from vecset.items.dataset import rotation_matrix  # noqa: E402

MISSING, NOISE, CUT = (8, 10), 0.2, 1 / 6


def as_they_are(labels, affine, rng):
    return labels, affine, labels


def missing(labels, affine, rng):
    left = np.where(np.isin(labels, MISSING), 0, labels)
    return left, affine, left


def cut(labels, affine, rng):
    """Along the axis nearest to the patient's height, the side nearer to the head."""
    axis = int(np.abs(affine[2, :3]).argmax())
    where = np.flatnonzero((labels > 0).any(tuple(a for a in range(3) if a != axis)))
    length = where[-1] - where[0] + 1
    keep = [slice(None)] * 3
    if affine[2, axis] > 0:
        keep[axis] = slice(0, where[-1] + 1 - round(length * CUT))
    else:
        keep[axis] = slice(where[0] + round(length * CUT), None)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [s.start or 0 for s in keep]
    return labels[tuple(keep)], moved, labels[tuple(keep)]


def noise(labels, affine, rng):
    border = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    chosen = np.argwhere(border & (rng.random(labels.shape) < NOISE))
    there = (chosen + rng.integers(-1, 2, chosen.shape)).clip(0, np.array(labels.shape) - 1)
    noisy = labels.copy()
    noisy[tuple(chosen.T)] = labels[tuple(there.T)]
    return noisy, affine, labels


def resampled(labels, affine, spacing):
    """Nearest voxel on a grid of `spacing` mm along the same axes, over the same field of view."""
    old = np.linalg.norm(affine[:3, :3], axis=0)
    factor = np.array(spacing) / old
    shape = np.floor(np.array(labels.shape) / factor).astype(int)
    index = [
        np.rint((np.arange(n) + 0.5) * f - 0.5).astype(int).clip(0, m - 1)
        for n, f, m in zip(shape, factor, labels.shape)
    ]
    new = affine.copy()
    new[:3, :3] = affine[:3, :3] * factor
    new[:3, 3] += affine[:3, :3] @ (0.5 * factor - 0.5)
    return labels[np.ix_(*index)], new


def two_mm(labels, affine, rng):
    made, new = resampled(labels, affine, (2, 2, 2))
    return made, new, made


def thick_slices(labels, affine, rng):
    made, new = resampled(labels, affine, (0.8, 0.8, 4))
    return made, new, made


def turned(labels, affine, rng):
    turn = np.eye(4)
    turn[:3, :3] = rotation_matrix([1, 2, -1], np.deg2rad(40))
    return labels, turn @ affine, labels


WAYS = {
    "as they are": as_they_are,
    "missing": missing,
    "cut": cut,
    "noise": noise,
    "2 mm": two_mm,
    "thick slices": thick_slices,
    "turned": turned,
}


def dice(found, truth, classes):
    """(C,) NaN where a class is in neither."""
    rows = []
    for c in range(1, classes + 1):
        both, either = ((found == c) & (truth == c)).sum(), (found == c).sum() + (truth == c).sum()
        rows.append(2 * both / either if either else np.nan)
    return np.array(rows)


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--val", type=Path, required=True, help="val.csv of create_csv.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--hearts", type=int, default=8, help="how many of them, from the first (default: 8)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args(words)
    with open(args.val, newline="", encoding="utf-8") as handle:
        cases = sorted(row["case_id"] for row in csv.DictReader(handle))[: args.hearts]
    maps = {case_name(path): path for path in look_into(args.labels).paths}
    lost = [case for case in cases if case not in maps]
    if lost:
        raise InputError(
            args.labels,
            f"the label maps of all hearts of {args.val}",
            f"none of {lost[0]}",
            "give the folder that the case files were made from",
        )
    names = None
    for number, way in enumerate(args.ways):
        folder = args.output_dir / way.replace(" ", "_")
        (folder / "labels").mkdir(parents=True, exist_ok=True)
        truths = {}
        for case in cases:
            image = nib.load(maps[case])
            rng = np.random.default_rng([number, cases.index(case)])
            given, affine, truths[case] = WAYS[way](np.asanyarray(image.dataobj).astype(np.uint8), image.affine, rng)
            made = nib.Nifti1Image(given, affine)
            made.set_qform(affine, 1)
            made.set_sform(affine, 1)
            nib.save(made, folder / "labels" / f"{case}.nii.gz")
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "reconstruct.py"),
                "--checkpoint",
                str(args.checkpoint),
                "--input",
                str(folder / "labels"),
                "--output_dir",
                str(folder / "out"),
                "--no_meshes",
                *more,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        if names is None:
            from vecset.weights.checkpoint import load_checkpoint

            names = load_checkpoint(args.checkpoint)["class_names"]
            print(f"| {len(cases)} hearts | mean | {' | '.join(names)} | union |")
            print("|---|" + "---|" * (len(names) + 2), flush=True)
        found = {case: np.asanyarray(nib.load(folder / "out" / case / "labels.nii.gz").dataobj) for case in cases}
        table = np.array([dice(found[case], truths[case], len(names)) for case in cases])
        spurious = [
            int(sum((found[case] == c).sum() > 0 and not (truths[case] == c).any() for case in cases))
            for c in range(1, len(names) + 1)
        ]
        union = np.mean([dice(found[case] > 0, truths[case] > 0, 1)[0] for case in cases])
        cells = [
            f"spurious in {times}"
            if times
            else "absent"
            if not any((truths[case] == c).any() for case in cases)
            else f"{np.nanmean(table[:, c - 1]):.3f}"
            for c, times in enumerate(spurious, 1)
        ]
        present = np.array([not t for t in spurious]) & np.isfinite(table).any(0)
        print(
            f"| {way} | {np.nanmean(table[:, present], 0).mean():.3f} | {' | '.join(cells)} | {union:.3f} |", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
