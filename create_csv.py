#!/usr/bin/env python3
"""Case files -> train.csv, val.csv (and k folds, and test.csv): the same split for the same seed, patients never split.

    python create_csv.py --data_dir output/cases
    python create_csv.py --data_dir output/cases --folds 5 --group_regex '^(patient\\d+)_' --holdout test_cases.txt

Each CSV has the header case_id,file,group,missing_classes,border_classes; `file` is relative to --data_dir, which is
what training calls --data_path. splits.json beside them says the seed, the options and the counts.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tqdm import tqdm  # noqa: E402

from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.data import splits  # noqa: E402


def get_parser():
    parser = argparse.ArgumentParser(
        "create_csv.py",
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, type=Path, help="folder of case files (*.npz)")
    parser.add_argument("--output_dir", type=Path, help="where the CSVs go (default: the data folder itself)")
    parser.add_argument(
        "--val_ratio", type=float, default=0.2, help="share of the cases in val.csv, 0 to 1 (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split (default: 0)")
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="also write train_fold{k}.csv and val_fold{k}.csv, k = 0 .. K-1 (default: none)",
    )
    parser.add_argument(
        "--group_regex",
        metavar="R",
        help="finds the patient in a case id: the first capture group, "
        "or the whole match; cases of one patient stay in one set (default: each case is its own)",
    )
    parser.add_argument(
        "--holdout",
        type=Path,
        metavar="FILE",
        help="case ids, one per line, or a CSV with a column "
        "case_id, with or without the suffix of a case file or label map: they go to test.csv and "
        "nowhere else (default: none)",
    )
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    try:
        pattern = re.compile(args.group_regex) if args.group_regex is not None else None
    except re.error as error:
        raise InputError("--group_regex", "a regular expression", f"{args.group_regex!r} ({error})") from None
    entries, broken = splits.read_entries(
        args.data_dir, pattern, progress=lambda paths: tqdm(paths, desc="case files", unit="file", disable=None)
    )
    for error in broken:
        print(f"error: {error}", file=sys.stderr)
    if not entries:
        raise InputError(
            args.data_dir,
            "at least one whole case file",
            f"{len(broken)} broken ones",
            "make them again with prepare_data.py --overwrite",
        )
    for bundle in splits.clusters(entries):
        prints = [e.fingerprint for e in bundle]
        copies = [e.case_id for e in bundle if e.fingerprint and prints.count(e.fingerprint) > 1]
        if copies:
            print(f"warning: made from the same label map, so kept in one set: {', '.join(copies)}", file=sys.stderr)

    sets, rest = {}, entries
    if args.holdout:
        rest, test = splits.take_holdout(entries, splits.read_holdout(args.holdout), args.holdout)
        sets["test.csv"] = test
    sets["train.csv"], sets["val.csv"] = splits.split_train_val(rest, args.val_ratio, args.seed)
    if args.folds is not None:
        for k, (train, val) in enumerate(splits.split_folds(rest, args.folds, args.seed)):
            sets[f"train_fold{k}.csv"], sets[f"val_fold{k}.csv"] = train, val

    output_dir = args.output_dir or args.data_dir
    record = {
        "seed": args.seed,
        "val_ratio": args.val_ratio,
        "folds": args.folds,
        "group_regex": args.group_regex,
        "holdout": args.holdout.name if args.holdout else None,
        "cases": len(entries),
        "broken_files": sorted(Path(e.where).name for e in broken),
    }
    splits.write_splits(output_dir, sets, record)
    print(
        f"{len(entries)} cases, seed {args.seed} -> {output_dir}: "
        + ", ".join(f"{name} {len(cases)}" for name, cases in sets.items())
    )
    if broken:
        print(f"{len(broken)} case files are broken (named above) and in no set", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
