#!/usr/bin/env python
"""What centre-line Dice costs per heart, in seconds of CPU, beside all other figures of a heart.

    python benchmarks/centre_lines.py                      synthetic hearts of 128^3 and 256^3 voxels
    python benchmarks/centre_lines.py --label_map heart.nii.gz --classes 7

The result is the truth with every label looked up one voxel aside. A row: voxels; the whole of `score` with spacing;
of it the thickness of all classes; the centre lines of those that are thin enough; what the centre lines of all classes
would take, and the same by scikit-image.
"""

import argparse
import sys
import time
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from vecset.imaging.label_map import read_label_map
from vecset.metrics import overlap
from vecset.metrics.centre_line import centre_line
from vecset.phantom.phantom import PhantomOptions, make_phantom


class Stopwatch:
    """Wraps a function and adds up its CPU seconds."""

    def __init__(self, function):
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments):
        start = time.process_time()
        try:
            return self.function(*arguments)
        finally:
            self.seconds += time.process_time() - start


def row(name, labels, spacing_mm, num_classes, repeats):
    """The line of the table: the least of `repeats`."""
    moved, names = np.roll(labels, 1, 0), [f"c{c}" for c in range(1, num_classes + 1)]
    found = []
    for _ in range(repeats):
        whole = Stopwatch(overlap.score)
        thickness, lines = Stopwatch(overlap._thickness_mm), Stopwatch(overlap.centre_line_metrics)
        with patch.object(overlap, "_thickness_mm", thickness), patch.object(overlap, "centre_line_metrics", lines):
            whole(labels, moved, names, None, spacing_mm)
        found.append((whole.seconds, thickness.seconds, lines.seconds))
    own, other = Stopwatch(centre_line), Stopwatch(skeletonize)
    for label_map in (labels, moved):
        for c, box in enumerate(ndimage.find_objects(label_map, num_classes), 1):
            if box is not None:
                own(label_map[box] == c)
                other(label_map[box] == c)
    cells = [f"{s:.2f}" for s in (*np.min(found, 0), own.seconds, other.seconds)]
    print(f"| {name} | {' x '.join(map(str, labels.shape))} | {' | '.join(cells)} |", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label_map", type=Path, help="a label map instead of synthetic hearts (default: none)")
    parser.add_argument("--classes", type=int, default=10, help="classes of --label_map (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, help="the least of so many runs is shown (default: 3)")
    args = parser.parse_args(argv)
    centre_line(np.ones((3, 3, 3), bool))  # compiled, or loaded
    print("| heart | voxels | all figures | thickness | clDice | clDice of all classes | by scikit-image |")
    print("|---|---|---|---|---|---|---|")
    if args.label_map:
        heart = read_label_map(args.label_map, args.classes)
        row(args.label_map.name, heart.labels, heart.spacing_mm, args.classes, args.repeats)
        return
    for size in (128, 256):
        labels, affine = make_phantom(0, 1, PhantomOptions(size=(size,) * 3))
        row("synthetic", labels, np.linalg.norm(affine[:3, :3], axis=0), 10, args.repeats)


if __name__ == "__main__":
    main()
