"""Case files -> a verdict: every check with its threshold beside the figure, exit code 0 (PASS) or 1 (FAIL).

    python check_data_quality.py output/cases --report output/quality --file_workers 2
    python check_data_quality.py output/cases/heart_7.npz --report output/quality     # one file in detail
    python check_data_quality.py output/AB/train.csv      # the files of a CSV, those of each data set by themselves

Each file is checked by itself (signs, labels, numbers, frame), against the truth it carries (distances computed again
by other code, labels, walls, normals) and against the other files (copies, mirrored hearts, outliers). No patient may
be in both train.csv and val.csv where these lie beside the files.
--report writes report.html, report.json, files.csv (a row per file), classes.csv (a row per file and class), pictures.
"""

import argparse
import sys

from vecset.common.arguments import CommandParser, user_path
from vecset.common.atomic import require_writable
from vecset.common.errors import InputError, run_command
from vecset.common.workers import one_thread

one_thread()  # before numpy is imported: files side by side, not threads inside one

from vecset.quality.summary import checks_help, file_lines, summary_lines, verdict  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")  # python -OO keeps no docstrings
    parser = CommandParser(
        "check_data_quality.py",
        description=summary,
        epilog=details + "\n" + checks_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "input",
        type=user_path,
        metavar="DIR|FILE",
        help="folder of case files, one case file (*.npz), or a CSV of create_csv.py",
    )
    parser.add_argument(
        "--report", type=user_path, metavar="DIR", help="write tables and pictures into this folder (default: none)"
    )
    parser.add_argument(
        "--file_workers", type=int, default=1, metavar="N", help="files checked at the same time (default: 1)"
    )
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
        help="also compute distance, sign and label at N points per file exactly, from a mesh and by search; takes "
        "seconds per file (default: 0)",
    )
    parser.add_argument(
        "--source_dir",
        type=user_path,
        metavar="DIR",
        help="also compare truth and points with the label maps in this folder, read with nibabel or SimpleITK alone "
        "(default: none)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=6,
        metavar="N",
        help="files whose slices are shown in the report, failed ones first (default: 6)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    for name, least in (("file_workers", 1), ("sample", 1), ("exact", 0), ("pictures", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    # here, for these take a second to import: not for --help or a wrong flag
    from vecset.data.listed_case import read_listed
    from vecset.data.splits import find_case_files
    from vecset.quality.check_folder import check_files
    from vecset.quality.exact import require_source_dir
    from vecset.quality.population import check_population
    from vecset.quality.split_check import check_split
    from vecset.report.quality_page import write_report

    listed = []
    if args.input.is_dir():
        paths = find_case_files(args.input)
    elif args.input.is_file():
        if args.input.name.lower().endswith(".csv"):
            listed = read_listed(args.input, args.input.parent)
        paths = [case.path for case in listed] or [args.input]
    else:
        raise InputError(args.input, "a folder of case files, a case file or a CSV", "no such file or folder")
    if args.report:
        require_writable(args.report, "--report")
    if args.source_dir:
        require_source_dir(args.source_dir)
    reports = check_files(paths, args.file_workers, sample=args.sample, exact=args.exact, source_dir=args.source_dir)
    for report, case in zip(reports, listed):
        report.case_id, report.file = case.case_id, str(case.path)
    check_population(reports, [case.dataset for case in listed] if listed else None)
    folder = args.input.parent if listed else args.input
    if folder.is_dir():
        check_split(reports, folder)
    single = args.input.is_file() and not listed
    print("\n".join(file_lines(reports[0]) if single else summary_lines(reports)))
    faults = []
    if args.report:
        faults = write_report(args.report, folder, reports, pictures=args.pictures, detailed=single)
        print(f"report: {args.report}")
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
    print(verdict(reports))
    return 0 if all(r.passed for r in reports) and not faults else 1


if __name__ == "__main__":
    sys.exit(run_command(main, resumes=False))
