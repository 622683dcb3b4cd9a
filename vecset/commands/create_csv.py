"""Case files -> train.csv, val.csv (and k folds, and test.csv): same seed, same split; a patient is in one set only.

    python create_csv.py --data_dir output/cases
    python create_csv.py --data_dir output/A --data_dir output/B --output_dir output/AB
    python create_csv.py --data_dir output/cases --folds 5 --group_regex '^(patient\\d+)_' --holdout test_cases.txt

Each CSV has the header case_id,file,group,missing_classes,border_classes; `file` is relative to --data_dir, which is
what training calls --data_path. splits.json beside them holds the seed, the options and the counts. With several data
sets, of whatever structures and numbers, a CSV has the columns dataset and data_path too, `file` is relative to the
latter, and splits.json lists the structures of them all (docs/datasets.md).
"""

import argparse
import sys

from vecset.common.arguments import CommandParser, user_path
from vecset.common.atomic import require_writable
from vecset.common.errors import InputError, run_command
from vecset.data.datasets import datasets_of_folders, read_datasets, split_datasets
from vecset.data.splits import find_case_files, split_folder


def get_parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")  # python -OO keeps no docstrings
    parser = CommandParser(
        "create_csv.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_dir",
        action="append",
        type=user_path,
        help="folder of case files (*.npz); several times for several data sets, each named as its folder",
    )
    parser.add_argument(
        "--datasets",
        type=user_path,
        metavar="FILE",
        help='in place of --data_dir: JSON file {name: {"folder": DIR, "weight": 1, "split": 0.2}}; weight: how often '
        "training draws each of its hearts per epoch; split: the share for validation (default: --val_ratio), or "
        "train, val or test for all of it",
    )
    parser.add_argument(
        "--output_dir", type=user_path, help="folder for the CSVs (default: --data_dir, where there is only one)"
    )
    parser.add_argument(
        "--val_ratio", type=float, default=0.2, help="share of the cases in val.csv, 0 to 1 (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another split (default: 0)")
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="also write train_fold{k}.csv and val_fold{k}.csv, k = 0 .. K-1 (default: none)",
    )
    parser.add_argument(
        "--group_regex",
        metavar="R",
        help="finds the patient in a case id: the first capture group, or the whole match; all cases of a patient go "
        "into one set; where names look like several scans of a patient, the one to give is told (default: each case "
        "is a patient of its own)",
    )
    parser.add_argument(
        "--holdout",
        type=user_path,
        metavar="FILE",
        help="case ids, one per line, or a CSV with a column case_id, with or without the suffix of a case file or "
        "label map: these cases go to test.csv only (default: none)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    if bool(args.data_dir) == bool(args.datasets):
        raise InputError.because("", "give --data_dir (once or several times) or --datasets")
    how = {name: getattr(args, name) for name in ("val_ratio", "seed", "folds", "group_regex", "holdout")}
    if args.datasets or len(args.data_dir) > 1:
        if not args.output_dir:
            raise InputError.because("", "several data sets need --output_dir", "give a folder for their CSVs")
        datasets = read_datasets(args.datasets) if args.datasets else datasets_of_folders(args.data_dir)
        for dataset in datasets:
            find_case_files(dataset.folder)  # a mistyped one is refused before anything is made
        require_writable(args.output_dir)
        return 1 if split_datasets(datasets, args.output_dir, **how) else 0
    data_dir = args.data_dir[0]
    if data_dir.is_dir():  # else it is mistyped, and nothing is made
        require_writable(args.output_dir or data_dir)
    return 1 if split_folder(data_dir, args.output_dir or data_dir, **how) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
