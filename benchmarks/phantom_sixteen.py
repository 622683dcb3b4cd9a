"""The six structures of `make_phantoms.py --structures 16`: volumes, walls, contacts, and what the ten lose.

For each heart, on the grid of the sixteen: volume in ml and number of pieces (26-connected) of each structure; area of
contacts in mm^2; thickness of the walls, from each voxel on the outside of a wall to the nearest voxel of its pool; and
Dice of each of the ten between the hearts of ten and of sixteen structures of one seed. Then CPU seconds and memory of
both, each in a process of its own.

    python benchmarks/phantom_sixteen.py --num 20
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np  # noqa: E402
from own_process import in_a_process  # noqa: E402
from scipy import ndimage  # noqa: E402

from vecset.common.errors import run_command  # noqa: E402
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES  # noqa: E402
from vecset.phantom.field import rasterise  # noqa: E402
from vecset.phantom.phantom import PhantomOptions, heart_of, make_phantom  # noqa: E402
from vecset.phantom.sealing import seal  # noqa: E402

IDS = {name: c for c, name in enumerate(HEART16_CLASSES, 1)}
CONTACTS = [
    ("SVC", "RA"),
    ("IVC", "RA"),
    ("Coronary_sinus", "RA"),
    ("Coronary_sinus", "LA_wall"),
    ("RV_wall", "RV"),
    ("LA_wall", "LA"),
    ("LA", "PV"),
    ("LA", "LAA"),
    ("LA", "LV"),
    ("LA", "RA"),
    ("LA", "Aorta"),
    ("RV", "RA"),
    ("RV", "PA"),
    ("RV", "Aorta"),
]


def contacts_mm2(labels, spacing_mm):
    """(17, 17) area of the voxel faces between each two labels, of cubic voxels."""
    faces = np.zeros((17, 17))
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
        apart = a != b
        faces += np.bincount(a[apart] * np.int64(17) + b[apart], minlength=289).reshape(17, 17)
    return (faces + faces.T) * spacing_mm**2


def thickness_mm(labels, wall, pool, spacing_mm):
    """(N,) mm: from each voxel on the outside of `wall` to the nearest voxel of `pool`."""
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in ndimage.find_objects(labels)[wall - 1])
    labels = labels[box]
    depth = ndimage.distance_transform_edt(labels != pool, sampling=spacing_mm)
    outside = (labels != wall) & (labels != pool)
    return depth[(labels == wall) & ndimage.binary_dilation(outside)]


def pieces_of(labels):
    """(16,) number of pieces of each class."""
    boxes = ndimage.find_objects(labels, 16)
    return [
        0 if box is None else ndimage.label(labels[box] == c, np.ones((3, 3, 3)))[1] for c, box in enumerate(boxes, 1)
    ]


def cost(structures, size, num, seed):
    """CPU seconds of a heart (the median of `num`), and the process's peak memory in MB."""
    options, seconds = PhantomOptions(size=(size,) * 3, structures=structures), []
    make_phantom(seed, 0, options)  # compiles
    for i in range(num):
        start = time.process_time()
        make_phantom(seed, i, options)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num", type=int, default=20, help="hearts")
    parser.add_argument("--size", type=int, default=128, help="voxels of each heart along an axis")
    parser.add_argument("--seed", type=int, default=0, help="seed of the population")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(cost(**args.one)))
        return 0
    options = PhantomOptions(size=(args.size,) * 3, structures=16)
    volumes, pieces, contacts, walls, dice, spacings = [], [], [], {"RV_wall": [], "LA_wall": []}, [], []
    for i in range(args.num):
        labels, affine = make_phantom(args.seed, i, options)
        spacing = np.linalg.norm(affine[:3, 0])
        spacings.append(spacing)
        volumes.append(np.bincount(labels.ravel(), minlength=17)[1:] * spacing**3 / 1e3)
        pieces.append(pieces_of(labels))
        areas = contacts_mm2(labels, spacing)
        contacts.append([areas[IDS[a], IDS[b]] for a, b in CONTACTS] + [areas[0, IDS["LA"]] + areas[0, IDS["RV"]]])
        for wall, pool in (("RV_wall", "RV"), ("LA_wall", "LA")):
            found = thickness_mm(labels, IDS[wall], IDS[pool], spacing)
            walls[wall].append([found.mean(), *np.quantile(found, (0.05, 0.5, 0.95))])
        alone = seal(rasterise(heart_of(args.seed, i).geometry, affine, labels.shape))
        joint = np.bincount(labels.ravel() * np.int64(17) + alone.ravel(), minlength=289).reshape(17, 17)
        dice.append((2 * np.diag(joint) / (joint.sum(0) + joint.sum(1)).clip(1))[1:11])
    print(
        f"{args.num} hearts of seed {args.seed}, {args.size}^3, spacing {min(spacings):.2f} to {max(spacings):.2f} mm"
    )
    volumes, pieces, contacts, dice = np.array(volumes), np.array(pieces), np.array(contacts), np.array(dice)
    print(f"{'structure':<16}{'ml mean':>9}{'least':>8}{'most':>8}{'pieces':>8}{'Dice 10/16':>12}{'least':>9}")
    for c, name in enumerate(HEART16_CLASSES):
        shared = f"{dice[:, c].mean():>12.4f}{dice[:, c].min():>9.4f}" if c < len(HEART_CLASSES) else ""
        v = volumes[:, c]
        print(f"{name:<16}{v.mean():>9.1f}{v.min():>8.1f}{v.max():>8.1f}{pieces[:, c].max():>8}{shared}")
    print(f"{'contact':<28}{'mm^2 mean':>10}{'least':>8}{'most':>8}")
    for (a, b), found in zip([*CONTACTS, ("LA or RV", "background")], contacts.T):
        print(f"{a + ' - ' + b:<28}{found.mean():>10.0f}{found.min():>8.0f}{found.max():>8.0f}")
    print(f"{'wall mm':<12}{'mean':>7}{'least':>8}{'most':>8}   5 %, median, 95 % of the surface, means of hearts")
    for wall, rows in walls.items():
        rows = np.array(rows)
        print(
            f"{wall:<12}{rows[:, 0].mean():>7.2f}{rows[:, 0].min():>8.2f}{rows[:, 0].max():>8.2f}   "
            + ", ".join(f"{x:.2f}" for x in rows[:, 1:].mean(0))
        )
    for structures in (10, 16):
        row = in_a_process(__file__, structures=structures, size=args.size, num=args.num, seed=args.seed)
        print(f"{structures} structures: {row[0]:.2f} CPU s per heart, {row[1]:.0f} MB at most")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
