"""Case files -> train.csv, val.csv (and k folds, and test.csv): same seed, same split; a patient is in one set only.

    python create_csv.py --data_dir output/cases
    python create_csv.py --data_dir output/cases --folds 5 --group_regex '^(patient\\d+)_' --holdout test_cases.txt

Each CSV has the header case_id,file,group,missing_classes,border_classes; `file` is relative to --data_dir, which is
what training calls --data_path. splits.json beside them holds the seed, the options and the counts.
"""

import argparse
import sys

from vecset.common.arguments import CommandParser, user_path
from vecset.common.atomic import require_writable
from vecset.common.errors import run_command
from vecset.data.splits import split_folder


def get_parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")  # python -OO keeps no docstrings
    parser = CommandParser(
        "create_csv.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, type=user_path, help="folder of case files (*.npz)")
    parser.add_argument("--output_dir", type=user_path, help="folder for the CSVs (default: --data_dir)")
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
    if args.data_dir.is_dir():  # else it is mistyped, and nothing is made
        require_writable(args.output_dir or args.data_dir)
    broken = split_folder(
        args.data_dir,
        args.output_dir or args.data_dir,
        val_ratio=args.val_ratio,
        seed=args.seed,
        folds=args.folds,
        group_regex=args.group_regex,
        holdout=args.holdout,
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
