"""Makes a population of synthetic ten-structure hearts as label maps.

    python make_phantoms.py --output_dir output/phantoms --num 80 --size 128 --seed 0

Writes phantom_0000.nii.gz, ... (uint8, RAS+ mm, qform and sform set) and phantoms.json with the options. Hearts that
are there already, made with the same options, are left alone; other options make all of them again.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import re
import sys
from pathlib import Path

from tqdm import tqdm

from vecset.common.atomic import atomic_path, remove_leftovers, write_text
from vecset.common.errors import InputError, run_command
from vecset.common.workers import sigterm_as_interrupt, start_worker
from vecset.imaging.classes import HEART_CLASSES
from vecset.phantom.phantom import PhantomOptions, encode_nifti, make_phantom

POPULATION = "vecsetx-heart phantoms/4"  # changes whenever the same options give another heart
NAME = re.compile(r"phantom_\d{4,}\.nii\.gz")


def get_args_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--num", type=int, default=80, help="number of hearts")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=None,
        help="voxels along the image axes, one number or three; by default 128, or with --spacing as "
        "many as the heart needs",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        default=None,
        help="voxel size in mm, one number or three; by default so that the heart fills the image",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the population")
    parser.add_argument(
        "--oblique",
        type=float,
        default=0.0,
        metavar="DEGREES",
        help="largest angle between image axes and patient axes, in degrees (drawn per heart)",
    )
    parser.add_argument(
        "--flip",
        type=int,
        nargs="+",
        default=[],
        choices=(0, 1, 2),
        metavar="AXIS",
        help="image axes (0, 1, 2) stored backwards; the patient stays as he is",
    )
    parser.add_argument(
        "--missing",
        nargs="+",
        default=[],
        metavar="CLASS[:SHARE]",
        help="structures (id or name) that a share (0 to 1, 0.5 where not given) of the hearts lacks",
    )
    parser.add_argument(
        "--cut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share (0 to 0.7) of each axis of the field of view that is cut off, at a random place",
    )
    parser.add_argument(
        "--label_noise",
        type=float,
        default=0.0,
        metavar="MM",
        help="standard deviation in mm by which the outlines wobble; there are stray voxels too then",
    )
    parser.add_argument("--file_workers", type=int, default=1, help="processes")
    return parser


def read_options(args):
    """PhantomOptions of the parsed arguments, or InputError."""

    def three(values, flag, low, high):
        if values is None:
            return None
        if len(values) not in (1, 3) or not all(low <= v <= high for v in values):
            raise InputError(flag, f"one or three numbers from {low} to {high}", values)
        return tuple(values) * 3 if len(values) == 1 else tuple(values)

    names = {name.lower(): c for c, name in enumerate(HEART_CLASSES, start=1)}
    missing = {}
    for item in args.missing:
        name, _, share = item.partition(":")
        class_id = names.get(name.lower(), int(name) if name.isdigit() else 0)
        try:
            share = float(share) if share else 0.5
        except ValueError:
            share = -1.0
        if not 1 <= class_id <= len(HEART_CLASSES) or not 0 <= share <= 1:
            raise InputError(
                "--missing", f"an id 1..10 or one of {', '.join(HEART_CLASSES)}, with :SHARE from 0 to 1", item
            )
        missing[class_id] = share
    if not 0 <= args.cut <= 0.7:
        raise InputError("--cut", "a share from 0 to 0.7", args.cut)
    if not 0 <= args.oblique <= 180:
        raise InputError("--oblique", "an angle from 0 to 180 degrees", args.oblique)
    if not 0 <= args.label_noise <= 20:
        raise InputError("--label_noise", "0 to 20 mm", args.label_noise)
    if args.num < 1:
        raise InputError("--num", "at least 1", args.num)
    if args.seed < 0:
        raise InputError("--seed", "0 or more", args.seed)
    if args.file_workers < 1:
        raise InputError("--file_workers", "at least 1", args.file_workers)
    size = three(args.size, "--size", 8, 1024)
    spacing = three(args.spacing, "--spacing", 0.1, 50.0)
    if size is None and spacing is None:
        size = (128, 128, 128)
    return PhantomOptions(
        size, spacing, args.oblique, tuple(sorted(set(args.flip))), missing, args.cut, args.label_noise
    )


def _make(task):
    folder, seed, index, options = task
    try:
        content = encode_nifti(*make_phantom(seed, index, options))
    except InputError as error:
        return index, error
    with atomic_path(folder / f"phantom_{index:04d}.nii.gz") as temporary:
        temporary.write_bytes(content)
    return index, None


def _prepare_folder(folder, record):
    """Makes `folder` ready for hearts of `record`: what other options made is removed, and only that."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    sidecar = folder / "phantoms.json"
    there = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    if sidecar.exists():
        try:
            before = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != record:
            for path in there:
                path.unlink()
    elif there:
        raise InputError(
            folder,
            "an empty folder or one that make_phantoms.py made",
            "phantoms without phantoms.json",
            "give another --output_dir or remove them",
        )
    write_text(sidecar, json.dumps(record, indent=1, sort_keys=True) + "\n")


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    options = read_options(args)
    record = {"population": POPULATION, "seed": args.seed, **vars(options), "class_names": HEART_CLASSES}
    _prepare_folder(args.output_dir, json.loads(json.dumps(record)))
    missing = [i for i in range(args.num) if not (args.output_dir / f"phantom_{i:04d}.nii.gz").exists()]
    tasks = [(args.output_dir, args.seed, i, options) for i in missing]
    failures = []
    if tasks:
        workers = min(args.file_workers, len(tasks) - 1)
        context = multiprocessing.get_context("spawn")
        with (
            sigterm_as_interrupt(),
            context.Pool(workers, start_worker) if workers > 1 else contextlib.nullcontext() as pool,
            tqdm(total=len(tasks), desc="phantoms", unit="heart", smoothing=0.1) as bar,
        ):
            # the first heart here: it compiles the rasteriser once and leaves it in the cache for the workers
            first, rest = tasks[:1], tasks[1:]
            for _, error in itertools.chain(map(_make, first), _spread(pool, rest)):
                bar.update()
                if error is not None:
                    failures.append(error)
                    tqdm.write(f"error: {error}", file=sys.stderr)
    made = len(tasks) - len(failures)
    print(f"{args.output_dir}: {made} hearts made, {args.num - len(tasks)} were there, {len(failures)} failed")
    return 1 if failures else 0


def _spread(pool, tasks):
    """Results of `tasks` as they come, from the pool or, without one, from this process. Starts when first asked."""
    yield from pool.imap_unordered(_make, tasks) if pool else map(_make, tasks)


if __name__ == "__main__":
    sys.exit(run_command(main))
