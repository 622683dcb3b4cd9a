#!/usr/bin/env python3
"""Case files -> a verdict: every check with its threshold beside the figure, exit code 0 (PASS) or 1 (FAIL).

    python check_data_quality.py output/cases --report output/quality --file_workers 2
    python check_data_quality.py output/cases/heart_7.npz --report output/quality     # one file in detail

Each file is checked alone (signs, labels, numbers, frame), against the truth it carries (distances computed again by
other code, labels, walls, normals) and against the other files (copies, mirrored hearts, outliers).
--report writes report.html, report.json, files.csv (a row per file), classes.csv (a row per file and class), pictures.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # files side by side, not threads inside one

from tqdm import tqdm  # noqa: E402

from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.workers import ending, sigterm_as_interrupt, start_worker  # noqa: E402
from vecset.data.splits import find_case_files  # noqa: E402
from vecset.quality import case_checks as quality  # noqa: E402
from vecset.quality import exact as quality_exact  # noqa: E402
from vecset.quality.population import check_population  # noqa: E402
from vecset.quality.summary import checks_help, file_lines, summary_lines, verdict  # noqa: E402
from vecset.report.quality_page import write_report  # noqa: E402


def get_parser():
    parser = argparse.ArgumentParser(
        "check_data_quality.py",
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1] + "\n" + checks_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="DIR|FILE", help="folder of case files, or one case file (*.npz)")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write tables and pictures into this folder (default: none)"
    )
    parser.add_argument("--file_workers", type=int, default=1, metavar="N", help="files side by side (default: 1)")
    parser.add_argument(
        "--sample",
        type=int,
        default=3000,
        metavar="N",
        help="points of each group whose distance is computed again, per file (default: 3000)",
    )
    parser.add_argument(
        "--exact",
        type=int,
        default=0,
        metavar="N",
        help="also compute distance, sign and label at N "
        "points per file exactly, from a mesh and by search; seconds per file (default: 0)",
    )
    parser.add_argument(
        "--source_dir",
        type=Path,
        metavar="DIR",
        help="also compare truth and points with the label "
        "maps in this folder, read with nibabel or SimpleITK alone (default: none)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=6,
        metavar="N",
        help="files with slices of their own in the report, failed ones first (default: 6)",
    )
    return parser


def check_files(paths, workers, **options):
    """FileReports in the order of `paths`; `options` as of `quality.check_file`. A worker that the system kills costs
    its own file only."""
    check = partial(quality.check_file, **options)
    bar = partial(tqdm, desc="quality", unit="file", disable=None)
    if workers == 1 or len(paths) == 1:
        return [check(path) for path in bar(paths)]
    reports = {}
    with ending(ProcessPoolExecutor(workers, initializer=start_worker)) as pool:
        waiting = {pool.submit(check, path): path for path in paths}
        for done in bar(as_completed(waiting), total=len(waiting)):
            try:
                reports[waiting[done]] = done.result()
            except BrokenProcessPool:
                pass  # taken up below
    for path in bar([p for p in paths if p not in reports], desc="quality, again", leave=False):
        reports[path] = _alone(check, path)
    return [reports[path] for path in paths]


def _alone(check, path):
    """`check(path)` in a process of its own: where the file itself kills it, that is the finding."""
    with ending(ProcessPoolExecutor(1, initializer=start_worker)) as pool:
        try:
            return pool.submit(check, path).result()
        except BrokenProcessPool:
            report = quality.FileReport(path.name.removesuffix(".npz"), path.name)
            report.add("readable", 0, note="the process that checked it was killed (out of memory?)")
            return report


def main(argv=None):
    args = get_parser().parse_args(argv)
    for name in ("file_workers", "sample"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}", "at least 1", getattr(args, name))
    for name in ("exact", "pictures"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name}", "at least 0", getattr(args, name))
    if args.input.is_dir():
        paths = find_case_files(args.input)
    elif args.input.is_file():
        paths = [args.input]
    else:
        raise InputError(args.input, "a folder of case files or a case file", "no such file or folder")
    if args.source_dir:
        quality_exact.require_source_dir(args.source_dir)
    with sigterm_as_interrupt():
        reports = check_files(
            paths, min(args.file_workers, len(paths)), sample=args.sample, exact=args.exact, source_dir=args.source_dir
        )
    check_population(reports)
    single = args.input.is_file()
    print("\n".join(file_lines(reports[0]) if single else summary_lines(reports)))
    if args.report:
        write_report(args.report, args.input, reports, pictures=args.pictures, detailed=single)
        print(f"report: {args.report}")
    print(verdict(reports))
    return 0 if all(r.passed for r in reports) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, resumes=False))
