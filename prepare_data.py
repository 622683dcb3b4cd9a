#!/usr/bin/env python
"""Label maps -> case files: points on, near and in each heart, with their distances and classes.

Run again, it skips what is done (same label map, same options) and makes the rest. A file that is broken is told in
one line and the others go on; the exit code is 1 then. What a case file holds: docs/design.md.
"""

import argparse
import errno
import multiprocessing
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from vecset.common.atomic import remove_leftovers, require_writable  # noqa: E402
from vecset.common.errors import InputError, describe_os_error, run_command  # noqa: E402
from vecset.common.workers import end_pool, sigterm_as_interrupt, start_worker  # noqa: E402
from vecset.imaging.label_mapping import LabelMapping, preset_names  # noqa: E402

FAILED_SHOWN = 20
STALE_SHOWN = 10
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PREFIX = {"failed": "error: ", "excluded": "excluded: "}  # of a line about a file; vecset/cluster/shards.py reads it


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(flag, default, text, **kwargs):
        parser.add_argument(flag, default=default, help=f"{text} (default: {default})", **kwargs)

    parser.add_argument("--input_dir", required=True, help="folder of label maps: .nii.gz, .nii, .nrrd, .mha")
    parser.add_argument("--output_dir", required=True, help="folder for the case files, NAME.npz each")
    add("--classes", 10, "number of classes C; labels are 0 (background) and 1..C", type=int)
    add("--num_surface_points", 50000, "points on the surfaces, per heart", type=int)
    add("--num_vol_points", 50000, "points in the volume, half of them inside, per heart", type=int)
    add("--num_near_points", 50000, "points near the surfaces, per heart", type=int)
    add("--file_workers", 1, "hearts made at the same time, one process each; 0: in this process", type=int)
    add("--start_idx", 0, "index of the first file in the naturally sorted list of all", type=int)
    add("--end_idx", None, "index after the last file; none: to the end", type=int)
    add("--seed", 0, "seed of all draws", type=int)
    parser.add_argument("--overwrite", action="store_true", help="make done files again (default: skip them)")
    add(
        "--label_map",
        None,
        "JSON file of what the image's values stand for, or one of the presets "
        + ", ".join(preset_names())
        + "; none: values are class ids",
    )
    add("--annotated", None, "class ids that the annotators looked for, as 1,2,3; none: all, or those in --label_map")
    add(
        "--spacing_from",
        None,
        "which spacing holds where a header contradicts itself; none: refuse such files",
        choices=("affine", "pixdim"),
    )
    add(
        "--sdf",
        "mesh",
        "distance: exact to the surface mesh, or the voxel distance transform alone",
        choices=("mesh", "edt"),
    )
    add(
        "--class_floor",
        0.04,
        "least share of the surface, near and inside points for each present class; all floors "
        "together take at most half",
        type=float,
    )
    parser.add_argument(
        "--sample_caps",
        action="store_true",
        help="put points on the flat caps where the scan border cuts a structure, too (default: no)",
    )
    add(
        "--drop_crumbs",
        0.0,
        "drop the components of a class that have fewer voxels than this share of its largest "
        "one (crumbs are reported below 0.01); 0: keep all",
        type=float,
        metavar="SHARE",
    )
    add(
        "--exclude_border_cut",
        None,
        "make no case of a heart in which the scan border cuts one of these classes: ids "
        "as 1,2,3, or all (also where nothing follows); none: make all",
        nargs="?",
        const="all",
        metavar="IDS",
    )
    args = parser.parse_args(argv)
    if not 1 <= args.classes <= 255:
        raise InputError("--classes", "1..255", args.classes)
    for name in ("num_surface_points", "num_vol_points", "num_near_points"):
        if getattr(args, name) < 2:
            raise InputError(f"--{name}", "at least 2", getattr(args, name))
    if not 0 <= args.class_floor <= 1:
        raise InputError("--class_floor", "a share from 0 to 1", args.class_floor)
    if args.file_workers < 0 or args.seed < 0:
        raise InputError("--file_workers and --seed", "0 or more", f"{args.file_workers} and {args.seed}")
    if not 0 <= args.drop_crumbs <= 1:
        raise InputError("--drop_crumbs", "a share from 0 to 1", args.drop_crumbs)
    args.annotated = _class_list("--annotated", args.annotated, args.classes)
    if args.exclude_border_cut == "all":
        args.exclude_border_cut = list(range(1, args.classes + 1))
    else:
        args.exclude_border_cut = _class_list("--exclude_border_cut", args.exclude_border_cut, args.classes)
    return args


def _class_list(flag, text, classes):
    if text is None:
        return None
    try:
        ids = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ids = []
    if not ids or ids[0] < 1 or ids[-1] > classes:
        raise InputError(flag, f"class ids 1..{classes} with commas between", repr(text))
    return ids


def main(argv=None):
    args = parse_arguments(argv)
    from vecset.imaging.label_map import case_name, find_label_maps

    paths = find_label_maps(args.input_dir)
    total, names = len(paths), {case_name(path) for path in paths}
    if args.start_idx < 0 or (args.end_idx is not None and args.end_idx < args.start_idx):
        raise InputError("--start_idx and --end_idx", "0 <= start <= end", f"{args.start_idx} and {args.end_idx}")
    paths = paths[args.start_idx : args.end_idx]
    mapping = LabelMapping.load(args.label_map, args.classes) if args.label_map else None
    output_dir = Path(args.output_dir)
    require_writable(output_dir)
    remove_leftovers(output_dir)
    print(f"{len(paths)} of {total} label maps in {args.input_dir}", flush=True)
    job = Job(args, mapping, output_dir)
    before = _times(output_dir)
    try:
        with sigterm_as_interrupt():
            results = _run_all(job, paths, args.file_workers)
    finally:
        remove_leftovers(output_dir)  # of workers that were killed
    _tell_stale(results, before, _times(output_dir), names if args.start_idx == 0 else None)
    made_again = sum(results[p][0] == "made" and case_name(p) in before for p in paths)
    return _summary(
        results,
        paths,
        output_dir,
        made_again,
        "--overwrite" if args.overwrite else "options or label map changed, or a broken case file",
    )


def _times(folder):
    """{case name: time of its last change} of the case files in a folder."""
    return {path.name.removesuffix(".npz"): path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}


def _tell_stale(results, before, after, names):
    """Notes on case files that a training would take although no label map of now made them: those whose label map
    failed, and those that are none of `names`, the cases of all label maps (None: not looked at, as in all but the
    first share of a job array)."""
    from vecset.imaging.label_map import case_name

    failed = {case_name(path) for path, (state, _) in results.items() if state == "failed"}
    lines = [
        f"{name}.npz: old case file of a label map that failed"
        for name in before
        if name in failed and after.get(name) == before[name]
    ]
    lines += [
        f"{name}.npz: case file without a label map in --input_dir"
        for name in after
        if names is not None and name not in names
    ]
    more = [f"{len(lines) - STALE_SHOWN} more such case files"] if len(lines) > STALE_SHOWN else []
    for line in sorted(lines)[:STALE_SHOWN] + more:
        print(f"note: {line}", file=sys.stderr)


class Job:
    """All that a worker needs to make one file. `disk_full`: set once a write found no space; from then on files are
    only looked at, so that those that are done still count as skipped."""

    disk_full = False

    def __init__(self, args, mapping, output_dir):
        self.classes, self.spacing_from, self.mapping = args.classes, args.spacing_from, mapping
        self.output_dir, self.annotated, self.overwrite = output_dir, args.annotated, args.overwrite
        self.drop_crumbs, self.whole_classes = args.drop_crumbs, args.exclude_border_cut or []
        self.options = dict(
            num_surface_points=args.num_surface_points,
            num_vol_points=args.num_vol_points,
            num_near_points=args.num_near_points,
            seed=args.seed,
            sdf=args.sdf,
            class_floor=args.class_floor,
            sample_caps=args.sample_caps,
        )

    def request(self, options):
        """What decides the file's content besides the label map: kept in its meta and compared when run again.
        --exclude_border_cut is none of it: it decides whether there is a file, which the meta of one can tell, too."""
        return {
            **options.as_meta(),
            "classes": self.classes,
            "spacing_from": self.spacing_from,
            "label_map": self.mapping.text if self.mapping else None,
            "annotated": self.annotated,
            "drop_crumbs": self.drop_crumbs,
        }

    def __call__(self, path):
        """(state, lines): state 'made', 'skipped', 'excluded', 'failed', or 'full': failed since the disk is full.
        Never raises for what is wrong with one file."""
        try:
            return self._make(Path(path))
        except InputError as error:
            return "failed", [str(error)]
        except OSError as error:
            state = "full" if error.errno in DISK_FULL else "failed"
            return state, [f"{path}: {describe_os_error(error)}"]
        except MemoryError:
            return "failed", [f"{path}: not enough memory; use fewer --file_workers"]
        except Exception as error:  # a defect met on one file must not stop the other 997
            import traceback

            place = traceback.extract_tb(error.__traceback__)[-1]
            return "failed", [f"{path}: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"]

    def _make(self, path):
        from vecset.data.case_file import read_meta, write_case
        from vecset.data.preparation import Options, border_classes, build_case, warnings_of
        from vecset.geometry.surface import crop_foreground
        from vecset.imaging.label_map import case_name, drop_islands, file_sha256, read_label_map, some_of

        options = Options(**self.options)
        request = self.request(options)
        target = self.output_dir / f"{case_name(path)}.npz"
        if target.exists() and not self.overwrite:
            try:
                meta = read_meta(target)
            except InputError:
                meta = {}
            if meta.get("request") == request and meta.get("source_sha256") == file_sha256(path):
                cut = self.cut(meta["border_classes"])
                return self._exclude(path, target, cut, meta["class_names"]) if cut else ("skipped", [])
        if self.disk_full:
            raise OSError(errno.ENOSPC, "", f"not tried: {target}")
        label_map = read_label_map(path, self.classes, self.mapping, self.spacing_from)
        label_map = drop_islands(label_map, self.drop_crumbs)
        if self.whole_classes:
            cut = self.cut(border_classes(crop_foreground(label_map.labels, label_map.spacing_mm)))
            if cut:
                return self._exclude(path, target, cut, label_map.class_names)
        case = build_case(label_map, options, self.annotated)
        case.meta["request"] = request
        write_case(target, case)
        lines = warnings_of(case.meta)
        if label_map.as_background:
            lines.append(
                f"values {some_of(label_map.as_background)} counted as background "
                f"({sum(label_map.as_background.values())} voxels)"
            )
        return "made", [f"{path.name}: {line}" for line in lines]

    def cut(self, border):
        """Those of the class ids `border` that --exclude_border_cut names."""
        return [c for c in border if c in self.whole_classes]

    @staticmethod
    def _exclude(path, target, cut, class_names):
        """The result of a heart that is left out. A case file of an earlier run would be trained on, so it goes."""
        line = f"{path.name}: the scan border cuts " + ", ".join(class_names[c - 1] for c in cut)
        if target.exists():
            target.unlink(missing_ok=True)
            line += f"; {target.name} of an earlier run is removed"
        return "excluded", [line]


def _run_all(job, paths, workers):
    """{path: (state, lines)} for all paths, with progress. A worker that the system kills costs its own file only."""
    from tqdm import tqdm

    results = {}
    with tqdm(total=len(paths), unit="heart", desc="prepare", dynamic_ncols=True) as bar:

        def done(path, result):
            if result[0] == "full":
                job.disk_full, result = True, ("failed", result[1])
            results[path] = result
            for line in result[1]:
                bar.write(PREFIX.get(result[0], "note: ") + line, file=sys.stderr)
            bar.update()

        if workers == 0:
            for path in paths:
                done(path, job(path))
            return results
        suspects = _run_pool(job, paths, workers, done)
        while suspects:  # those in work when a process died: each alone, so that the one to blame is known
            path = suspects.pop(0)
            if _run_pool(job, [path], 1, done):
                done(
                    path,
                    (
                        "failed",
                        [
                            f"{path}: its process was killed, most likely for want of memory; use fewer "
                            "--file_workers or a machine with more memory"
                        ],
                    ),
                )
    return results


def _run_pool(job, paths, workers, done):
    """Runs `job` over `paths`; returns those that were in work each time that a worker process died."""
    waiting, suspects = list(paths), []
    context = multiprocessing.get_context("spawn")  # a fork of a process with running threads may hang
    while waiting:
        pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=start_worker)
        running = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running[pool.submit(job, waiting[0])] = waiting[0]  # raises BrokenProcessPool, too
                    waiting.pop(0)
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()  # raises BrokenProcessPool
                    done(running.pop(future), result)
        except BrokenProcessPool:
            suspects += running.values()
        finally:
            end_pool(pool, at_once=bool(running))  # an interrupt must not wait for hearts in work
    return suspects


def _summary(results, paths, output_dir, made_again=0, why=""):
    by_state = {
        state: [p for p in paths if results[p][0] == state] for state in ("made", "skipped", "excluded", "failed")
    }
    print(
        f"{output_dir}: "
        + ", ".join(f"{len(found)} {state}" for state, found in by_state.items() if found or state != "excluded")
        + (f"; {made_again} made again: {why}" if made_again else "")
    )
    failed = by_state["failed"]
    if failed:
        names = ", ".join(p.name for p in failed[:FAILED_SHOWN]) + (", ..." if len(failed) > FAILED_SHOWN else "")
        print(f"not made: {names}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
