#!/usr/bin/env python
"""Time and memory of the preparation, against the plain way, and how it grows with the heart's box.

    python benchmarks/prepare_speed.py                     phantoms of all sizes, five minutes
    python benchmarks/prepare_speed.py --slow              with the plain way in the same run: three minutes more
    python benchmarks/prepare_speed.py --workers           one worker against two, by the clock: two minutes more
    python benchmarks/prepare_speed.py --class_distances   with and without distances to each class alone: two minutes
    python benchmarks/prepare_speed.py --input FILE        your own label map

CPU seconds (one thread) and wall-clock seconds of the second run in a process (numba has compiled); peak memory of that
process, interpreter and libraries included.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

ROOT = str(Path(__file__).resolve().parents[1])
sys.path[0] = ROOT


def fast(path, classes, target, class_distances=False):
    """The preparation, from the file to the case file: (CPU s, s by the clock, voxels of the foreground's box)."""
    from vecset.data.case_file import write_case
    from vecset.data.preparation import Options, build_case
    from vecset.imaging.label_map import read_label_map

    cpu, clock = time.process_time(), time.perf_counter()
    case = build_case(read_label_map(path, classes), Options(class_distances=class_distances))
    write_case(target, case)
    return time.process_time() - cpu, time.perf_counter() - clock, int(np.prod(np.array(case.truth_crop.shape) - 4))


def plain(path, classes):
    """The reference: scipy's distance transform inside and outside of each class on the whole grid, marching cubes of
    each class on the whole grid, points from its triangles, distances looked up in the grids."""
    from scipy.ndimage import distance_transform_edt, map_coordinates
    from skimage.measure import marching_cubes

    from vecset.imaging.label_map import read_label_map

    cpu, clock = time.process_time(), time.perf_counter()
    label_map = read_label_map(path, classes)
    labels, spacing = label_map.labels, label_map.spacing_mm
    rng = np.random.default_rng(0)
    present = [c for c in range(1, classes + 1) if (labels == c).any()]
    number = 50000 // len(present)
    queries, grids = [], []
    for c in present:
        mask = labels == c
        grids.append(
            (distance_transform_edt(~mask, sampling=spacing) - distance_transform_edt(mask, sampling=spacing)).astype(
                np.float32
            )
        )
        vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5)
        corners = vertices[faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        chosen = corners[rng.choice(len(faces), number, p=area / area.sum())]
        weights = rng.dirichlet((1, 1, 1), number)
        points = (chosen * weights[..., None]).sum(1)
        queries += [points, points + rng.normal(0, 1, points.shape)]
    queries.append(rng.uniform(0, np.array(labels.shape) - 1, (50000, 3)))
    where = np.concatenate(queries).T
    np.stack([map_coordinates(grid, where, order=1) for grid in grids])
    return time.process_time() - cpu, time.perf_counter() - clock


def measure_one(path, classes):
    """Run in a process of its own, so that the peak is this heart's: prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        fast(path, classes, Path(folder) / "a.npz")
        cpu, clock, box = fast(path, classes, Path(folder) / "b.npz")
    # not ru_maxrss: across fork and exec that starts at the parent's
    with open("/proc/self/status") as status:
        peak_kb = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(cpu, clock, box, int(peak_kb) / 1024)


def row(name, path, classes):
    told = subprocess.run(
        [sys.executable, __file__, "--one", str(path), "--classes", str(classes)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    cpu, clock, box, peak = map(float, told.split())
    print(f"| {name} | {box / 1e6:.1f} | {cpu:.2f} | {clock:.2f} | {peak:.0f} | {cpu / box * 1e6:.3f} |", flush=True)
    return cpu


def throughput(folder, hearts):
    """Hearts per second by the clock of prepare_data.py with one worker and with two, in turns, the start of the
    workers taken out: the time of `hearts` label maps less that of two. Alone on the machine, or it means nothing."""
    from vecset.commands import make_phantoms

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_phantoms.main(
            [
                "--output_dir",
                str(folder / "maps"),
                "--num",
                str(hearts),
                "--size",
                "192",
                "--seed",
                "0",
                "--file_workers",
                "2",
            ]
        )

    def clock(workers, count):
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                str(Path(ROOT) / "prepare_data.py"),
                "--input_dir",
                str(folder / "maps"),
                "--output_dir",
                str(folder / "out"),
                "--file_workers",
                str(workers),
                "--end_idx",
                str(count),
                "--overwrite",
            ],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - start

    clock(2, 2)  # numba's cache, the files in memory
    rates = {1: [], 2: []}
    for _ in range(3):
        for workers in rates:
            rates[workers].append((hearts - 2) / (clock(workers, hearts) - clock(workers, 2)))
    one, two = (float(np.median(rates[w])) for w in (1, 2))
    print(
        f"one worker {one:.2f} hearts per second, two {two:.2f}: {two / one:.2f} times ({hearts} hearts of 192^3, "
        "median of three turns)"
    )


def class_distances(folder, hearts, size):
    """Hearts of size^3 without and with distances to each class, three times in turns: medians of the CPU seconds, of
    their ratio within a turn, and the sizes of the files."""
    from vecset.commands import make_phantoms

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_phantoms.main(
            ["--output_dir", str(folder / "maps"), "--num", str(hearts), "--size", str(size), "--seed", "0"]
        )
    print("| heart | CPU s without | with | times | MB without | with |\n|---|---|---|---|---|---|")
    for number, path in enumerate(sorted((folder / "maps").glob("*.nii.gz"))):
        files = {flag: folder / f"{flag}.npz" for flag in (False, True)}
        if number == 0:
            fast(path, 10, files[True], True)  # numba compiles
        turns = [[fast(path, 10, files[flag], flag)[0] for flag in files] for _ in range(3)]
        without, with_distances = np.median(turns, axis=0)
        times = np.median([b / a for a, b in turns])
        mb = [files[flag].stat().st_size / 1e6 for flag in files]
        print(
            f"| {path.name.removesuffix('.nii.gz')}, {size}^3 | {without:.2f} | {with_distances:.2f} | {times:.1f} | "
            f"{mb[0]:.2f} | {mb[1]:.2f} |",
            flush=True,
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="a label map instead of phantoms")
    parser.add_argument("--classes", type=int, default=10, help="number of classes (default: 10)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[128, 192, 256, 384],
        help="phantoms whose heart fills the image, voxels along an axis (default: 128 192 256 384); "
        "a heart of 1 mm in 256^3 always comes first",
    )
    parser.add_argument("--slow", action="store_true", help="the plain way too, on the 256^3 heart")
    parser.add_argument("--workers", action="store_true", help="one worker against two, last")
    parser.add_argument(
        "--class_distances",
        action="store_true",
        help="three hearts of the first size (128^3 by default) without and with distances to each class, nothing else",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        return measure_one(args.one, args.classes)
    if args.class_distances:
        with tempfile.TemporaryDirectory() as folder:
            class_distances(Path(folder), 3, args.sizes[0])
        return 0
    print("| heart | box, million voxels | CPU s | clock s | peak MB | CPU s per million |\n|---|---|---|---|---|---|")
    if args.input:
        row(Path(args.input).name, args.input, args.classes)
        return 0
    from vecset.commands import make_phantoms

    with tempfile.TemporaryDirectory() as folder:
        for name, size, more in [("256^3 at 1 mm", 256, ["--spacing", "1"])] + [(f"{n}^3", n, []) for n in args.sizes]:
            target = Path(folder) / name
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                make_phantoms.main(
                    ["--output_dir", str(target), "--num", "1", "--size", str(size), "--seed", "0", *more]
                )
            path = next(target.glob("*.nii.gz"))
            cpu = row(name, path, args.classes)
            if args.slow and more:
                slow, clock = plain(path, args.classes)
                again = row(name + ", again", path, args.classes)
                times = slow / np.mean([cpu, again])
                print(f"| {name}, plain way | | {slow:.1f} | {clock:.1f} | | {times:.0f} times |", flush=True)
        if args.workers:
            throughput(Path(folder), 14)
    return 0


if __name__ == "__main__":
    sys.exit(main())
