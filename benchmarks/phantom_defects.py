"""How often the quality check names the defects that `make_phantoms.py --defects` draws, and what it says of clean
hearts.

For each kind: in how many hearts it was made, in how many of these the check that should name it does (KINDS below),
and in how many another check of anatomy does; for clean hearts, how many have any. The truth alone is checked, as
check_data_quality.py checks that of a case file.

    python benchmarks/phantom_defects.py --num 12 --size 64
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from vecset.common.errors import run_command  # noqa: E402
from vecset.data.case_file import Case  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.imaging.frame import Frame  # noqa: E402
from vecset.phantom.defects import add_defects  # noqa: E402
from vecset.phantom.phantom import PhantomOptions, make_phantom  # noqa: E402
from vecset.quality.anatomy import check_anatomy  # noqa: E402
from vecset.quality.thresholds import FileReport  # noqa: E402

KINDS = {  # the checks of which one should name it
    "coronary_gaps": {"coronary_pieces", "loose_pieces"},
    "coronary_detached": {"contact"},
    "pv_detached": {"contact"},
    "laa_detached": {"contact"},
    "leak": {"leak"},
    "islands": {"pieces", "coronary_pieces", "loose_pieces"},
}


def findings(labels, affine):
    """The checks of anatomy that labels (X, Y, Z) miss, and the FileReport."""
    names, count = list(HEART_CLASSES), len(HEART_CLASSES)
    meta = {"classes": count, "class_names": names, "annotated_classes": list(range(1, count + 1))}
    case = Case(None, {}, Frame(affine, labels.shape, np.zeros(3), 1.0), labels, np.zeros(3, int), meta)
    report = FileReport("heart", "heart.npz", class_names=names, classes={c: {} for c in range(1, count + 1)})
    check_anatomy(report, case)
    return {f["check"] for f in report.failed("warn")}, report


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--num", type=int, default=12, help="hearts")
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--seed", type=int, default=40, help="of the population")
    parser.add_argument(
        "--cut", type=float, default=0.0, help="share of each axis that is cut off, as make_phantoms.py"
    )
    parser.add_argument("--clean_only", action="store_true", help="no defects")
    args = parser.parse_args(argv)
    options = PhantomOptions((args.size,) * 3, cut=args.cut)
    hearts = [make_phantom(args.seed, i, options) for i in range(args.num)]
    clean = [findings(*heart) for heart in hearts]
    leaks = [report.worst("leak")["value"] for _, report in clean if report.worst("leak")]
    print(f"{args.num} hearts of seed {args.seed}, {args.size}^3, cut {args.cut:g}")
    print(f"clean: {sum(bool(found) for found, _ in clean)} named; largest leak {max(leaks, default=0):.5f} of the LV")
    for heart, (_, report) in enumerate(clean):
        for f in report.failed("warn"):
            print(f"  heart {heart}: {f['check']} of {HEART_CLASSES[f['class_id'] - 1]} = {f['value']:g} {f['note']}")
    for kind, checks in () if args.clean_only else KINDS.items():
        made = named = other = 0
        grades = []
        for i, (labels, affine) in enumerate(hearts):
            spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
            changed, rows, _ = add_defects(labels, spacing_mm, args.seed, i, {kind: 1.0})
            found = findings(changed, affine)[0] if rows else set()
            made += len(rows)
            named += bool(found & checks)
            other += bool(found - checks)
            if rows and not found & checks:
                grades.append(f"{rows[0].grade:.2f}")
        missed = f"; missed: grades {', '.join(grades)}" if grades else ""
        print(f"{kind:<18} made in {made:>3}, named in {named:>3}; another check in {other:>3}{missed}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
