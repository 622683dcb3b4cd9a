#!/usr/bin/env python
"""How well `python -m vecset.quality.rank` puts label maps with defects first, in the order of their size.

    python make_phantoms.py --output_dir MAPS --num 60 --size 128 --seed 91 --defects leak:0.15 islands:0.15 \
        coronary_gaps:0.15 coronary_detached:0.15 pv_detached:0.15 laa_detached:0.15
    python -m vecset.quality.rank --checkpoint CKPT --calibration FILE --input MAPS --output_dir OUT
    python benchmarks/rank.py --maps MAPS --output_dir OUT

The truth is 1 - mean Dice over the structures of each map with the same heart without its defects. Prints Spearman's
correlation of it with the order, over all maps and over the dirty ones, and the area under the ROC curve for dirty or
clean; the same for the order by the reconstruction alone (column `score`); and per kind of defect, in how many maps
something was found, and how much of the structures, beside the truth.
"""

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from repair import dice, labels, read_defects  # noqa: E402
from scipy.stats import rankdata, spearmanr  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402


def main(argv=None):
    parser = CommandParser("rank.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=user_path, required=True, help="--output_dir of make_phantoms.py --defects")
    parser.add_argument("--output_dir", type=user_path, required=True, help="that of vecset.quality.rank")
    args = parser.parse_args(argv)
    table = args.output_dir / "rank.csv"
    if not table.is_file():
        raise InputError.because(table, "it is not there", "run python -m vecset.quality.rank on --maps to the end")
    with open(table, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    defects = read_defects(args.maps)
    for row in rows:
        path = args.maps / Path(row["file"]).name
        clean = args.maps / "clean" / path.name
        row["kinds"] = sorted({kind for kind, _ in defects.get(path.name, [])})
        row["truth"] = lost(labels(path), labels(clean)) if row["kinds"] else 0.0
    print("\n".join(table_of(rows)))
    return 0


def lost(dirty: np.ndarray, clean: np.ndarray) -> float:
    """1 - mean Dice over the structures of two label maps (X, Y, Z)."""
    there = [c for c in range(1, len(HEART_CLASSES) + 1) if (dirty == c).any() or (clean == c).any()]
    return 1 - float(np.mean([dice(dirty, clean, c) for c in there]))


def roc_area(suspicion: np.ndarray, dirty: np.ndarray) -> float:
    """Share of the pairs of a dirty and a clean map in which the dirty one has more `suspicion` (n,); equal ones count
    half. NaN where all are dirty, or none."""
    ranks, count = rankdata(suspicion), int(dirty.sum())
    pairs = count * (len(dirty) - count)
    return float(ranks[dirty].sum() - count * (count + 1) / 2) / pairs if pairs else float("nan")


def table_of(rows: list[dict]) -> list[str]:
    """Markdown: a row per order, then one per kind of defect. `rows`: of rank.csv, with `kinds` and `truth`."""
    truth = np.array([row["truth"] for row in rows])
    dirty = np.array([bool(row["kinds"]) for row in rows])
    found = np.array([float(row["repair_score"] or 0) + float(row["leak"] or 0) for row in rows])
    orders = {
        "rank": -np.array([float(row["rank"]) for row in rows]),
        "`score` alone": np.array([float(row["score"]) for row in rows]),
    }
    lines = [
        f"| order by | correlation, {len(rows)} maps | {dirty.sum()} dirty ones | area under ROC |",
        "|---|---|---|---|",
    ]
    for name, by in orders.items():
        rho = [spearmanr(by[mine], truth[mine])[0] for mine in (dirty | True, dirty)]
        lines.append(f"| {name} | {rho[0]:.3f} | {rho[1]:.3f} | {roc_area(by, dirty):.3f} |")
    lines += ["", "| defect | maps | found | found, mean | truth, mean |", "|---|---|---|---|---|"]
    kinds = sorted({kind for row in rows for kind in row["kinds"]})
    for kind in [*kinds, "none"]:
        mine = np.array([kind in (row["kinds"] or ["none"]) for row in rows])
        if mine.any():
            cells = [
                kind,
                mine.sum(),
                (found[mine] > 0).sum(),
                f"{found[mine].mean():.5f}",
                f"{truth[mine].mean():.5f}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
