"""How much the synthetic hearts differ: the validation Dice of the training set's mean shape and of its nearest heart.

Where these two score high, a model can memorise the population. Hearts 0..T-1 of the seed train, the
next V validate (as `make_phantoms.py --num T+V` numbers them). Every heart is brought into the unit frame (centre =
middle of the union's bounding box in mm, scale = 0.95 / largest distance from it) and sampled on one grid of [-1, 1]^3.

    python benchmarks/phantom_population.py --num_train 64 --num_val 16
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from vecset.common.errors import run_command  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.phantom.phantom import PhantomOptions, make_phantom  # noqa: E402


def unit_labels(labels, affine, grid):
    """(grid^3) u8: the nearest label at the voxel centres of [-1, 1]^3 in the heart's unit frame."""
    points_mm = np.argwhere(labels) @ affine[:3, :3].T + affine[:3, 3]
    centre_mm = (points_mm.min(0) + points_mm.max(0)) / 2
    scale = 0.95 / np.sqrt(((points_mm - centre_mm) ** 2).sum(1).max())
    axis_unit = (np.arange(grid) + 0.5) * 2 / grid - 1
    inverse = np.linalg.inv(affine)
    index, inside = [], np.ones((grid,) * 3, bool)
    for d in range(3):  # the grid is a sum of three lines
        lines = [inverse[d, k] * (axis_unit / scale + centre_mm[k]) for k in range(3)]
        i = lines[0][:, None, None] + lines[1][None, :, None] + lines[2][None, None] + inverse[d, 3]
        i = np.rint(i).astype(int)
        inside &= (i >= 0) & (i < labels.shape[d])
        index.append(np.clip(i, 0, labels.shape[d] - 1))
    return np.where(inside, labels[tuple(index)], 0).astype(np.uint8)


def dice(a, b, classes):
    """(classes,) Dice of two label arrays; NaN where a class is in neither."""
    joint = np.bincount(a.ravel().astype(np.int64) * (classes + 1) + b.ravel(), minlength=(classes + 1) ** 2)
    joint = joint.reshape(classes + 1, classes + 1).astype(float)
    total = joint.sum(0) + joint.sum(1)
    with np.errstate(invalid="ignore"):
        return (2 * np.diag(joint) / total)[1:]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num_train", type=int, default=64, help="training hearts")
    parser.add_argument("--num_val", type=int, default=16, help="validation hearts")
    parser.add_argument("--size", type=int, default=128, help="voxels of each heart along an axis")
    parser.add_argument("--grid", type=int, default=128, help="voxels of the unit cube along an axis")
    parser.add_argument("--seed", type=int, default=0, help="seed of the population")
    args = parser.parse_args(argv)
    classes, total = len(HEART_CLASSES), args.num_train + args.num_val
    hearts, seconds, volumes_ml, spacing_mm, extents_mm = [], [], [], [], []
    for i in tqdm(range(total), desc="phantoms", unit="heart"):
        start = time.process_time()
        labels, affine = make_phantom(args.seed, i, PhantomOptions(size=(args.size,) * 3))
        seconds.append(time.process_time() - start)
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
        volumes_ml.append(np.bincount(labels.ravel(), minlength=classes + 1)[1:] * voxel_ml)
        spacing_mm.append(np.linalg.norm(affine[:3, 0]))
        at = np.argwhere(labels)
        extents_mm.append((np.ptp(at, axis=0) + 1) * spacing_mm[-1])
        hearts.append(unit_labels(labels, affine, args.grid))
    train, val = hearts[: args.num_train], hearts[args.num_train :]
    counts = np.zeros((classes + 1, *train[0].shape), np.uint16)
    for heart in train:
        for c in range(classes + 1):
            counts[c] += heart == c
    mean_shape = counts.argmax(0).astype(np.uint8)
    mean_dice = np.array([dice(mean_shape, v, classes) for v in val])
    mean_union = np.array([dice(mean_shape > 0, v > 0, 1)[0] for v in val])
    nearest_dice, nearest_union = [], []
    for v in tqdm(val, desc="nearest", unit="heart"):
        scores = np.array([dice(t, v, classes) for t in train])
        best = int(np.nanmean(scores, 1).argmax())
        nearest_dice.append(scores[best])
        nearest_union.append(dice(train[best] > 0, v > 0, 1)[0])
    nearest_dice = np.array(nearest_dice)
    volumes_ml = np.array(volumes_ml)
    print(
        f"{args.num_train} training, {args.num_val} validation hearts, seed {args.seed}, {args.size}^3, "
        f"unit grid {args.grid}^3"
    )
    print(f"{'class':<12}{'mean shape':>12}{'nearest':>10}{'ml mean':>10}{'min':>8}{'max':>8}")
    for c, name in enumerate(HEART_CLASSES):
        print(
            f"{name:<12}{np.nanmean(mean_dice[:, c]):>12.3f}{np.nanmean(nearest_dice[:, c]):>10.3f}"
            f"{volumes_ml[:, c].mean():>10.1f}{volumes_ml[:, c].min():>8.1f}{volumes_ml[:, c].max():>8.1f}"
        )
    print(f"{'mean':<12}{np.nanmean(mean_dice):>12.3f}{np.nanmean(nearest_dice):>10.3f}")
    print(f"{'union':<12}{mean_union.mean():>12.3f}{np.mean(nearest_union):>10.3f}")
    print(
        f"CPU s per heart: median {np.median(seconds):.2f}, most {np.sort(seconds)[-2]:.2f}; spacing "
        f"{min(spacing_mm):.3f} to {max(spacing_mm):.3f} mm; extent {np.min(extents_mm):.0f} to "
        f"{np.max(extents_mm):.0f} mm"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
