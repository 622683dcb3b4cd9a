#!/usr/bin/env python
"""How long report.html takes to write and to draw, and how large it is.

python benchmarks/html_report.py RECONSTRUCTION            a finished folder whose inputs are still there
python benchmarks/html_report.py --label_map heart.nii.gz  one heart against itself moved by two voxels, three times
python benchmarks/html_report.py ... --draw 3              and headless Chromium draws it, each time newly started
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from vecset.report.compare import stored_truths
from vecset.report.figures import read_figures
from vecset.report.page import write_html_report


def moved_copies(folder, label_map, classes):
    """A synthetic run in `folder`: three hearts, each `label_map` with its reconstruction moved by two voxels."""
    from vecset.imaging.classes import default_class_names
    from vecset.imaging.label_map import read_label_map, write_label_map
    from vecset.metrics.overlap import mean_over_classes, score
    from vecset.report import tables as report

    heart, names = read_label_map(label_map, classes), default_class_names(classes)
    rows, known = [], {}
    for case in ("a", "b", "c"):
        (folder / case).mkdir()
        moved = np.roll(heart.labels, 2, 0)
        write_label_map(folder / case / "labels.nii.gz", moved, heart.affine, names)
        scores = score(heart.labels, moved, names)
        rows += report.table_rows(case, scores)
        known[case] = {"mean_dice": mean_over_classes(scores)}
    report.write_csv(folder / "metrics.csv", rows)
    report.write_json(folder / "metrics.json", report.report(rows, known, {}))
    return lambda case: (heart.labels, heart.affine)


def draw(path, times):
    """Prints how long a newly started headless Chromium takes from opening the page until all is drawn, and how long
    it takes to draw it once more."""
    from headless_chromium import MISSING, Browser

    if MISSING:
        raise SystemExit(f"error: {MISSING}")
    ready = "!['', 'no', undefined].includes(document.documentElement.dataset.ready)"
    for number in range(times):
        seconds = []
        with Browser() as browser:
            browser.size(1400, 900)
            for _ in range(2):
                start = time.perf_counter()
                browser.open(path)
                browser.wait(ready)
                seconds.append(time.perf_counter() - start)
        print(f"drawn {number + 1}: {seconds[0]:.1f} s in a new browser, {seconds[1]:.1f} s again")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="output folder of reconstruct.py (default: none)")
    parser.add_argument("--label_map", type=Path, help="a label map instead of a folder (default: none)")
    parser.add_argument("--classes", type=int, default=10, help="classes of --label_map (default: 10)")
    parser.add_argument("--run_dir", type=Path, help="training run whose curves are shown (default: none)")
    parser.add_argument(
        "--draw", type=int, default=0, metavar="TIMES", help="open it in headless Chromium (default: 0)"
    )
    args = parser.parse_args(argv)
    if (args.folder is None) == (args.label_map is None):
        parser.error("give a folder or --label_map")
    with tempfile.TemporaryDirectory() as temporary:
        if args.label_map:
            args.folder = Path(temporary)
            truth_of, note = moved_copies(args.folder, args.label_map, args.classes), None
        else:
            truth_of, note = stored_truths([read_figures(args.folder)])
        print(note or "with truth", flush=True)
        for what in ("first", "second"):  # the first compiles, or loads what numba has compiled before
            wall, cpu = time.perf_counter(), time.process_time()
            path = write_html_report(args.folder, args.run_dir, truth_of)
            print(
                f"{what}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU, "
                f"{path.stat().st_size / 1e6:.2f} MB"
            )
        draw(path, args.draw)


if __name__ == "__main__":
    main()
