#!/usr/bin/env python
"""How well `reconstruct.py --repair` mends defects that `make_phantoms.py --defects` drew, per kind of defect.

    python make_phantoms.py --output_dir MAPS --num 20 --size 128 --seed 81 --defects coronary_gaps
    python reconstruct.py --checkpoint CKPT --calibration FILE --input MAPS --output_dir OUT --repair --no_meshes
    python benchmarks/repair.py --maps MAPS --output_dir OUT

Counts, over the hearts with a defect of that kind, those whose structure is in as many pieces as in the clean heart
(26 neighbours), and those where it touches what it begins at; and the structure's Dice to the clean heart before and
after, with in how many it is better and worse. Hearts without a defect are counted where a voxel of them was changed.
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path[:] = [str(Path(__file__).resolve().parents[1]), *sys.path[1:]]

import numpy as np  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.imaging.image_file import read_image  # noqa: E402
from vecset.imaging.structure_names import BEGINS_AT  # noqa: E402
from vecset.inference.label_repair import touches  # noqa: E402
from vecset.phantom.defects import pieces  # noqa: E402


def main(argv=None):
    parser = CommandParser("repair.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=user_path, required=True, help="--output_dir of make_phantoms.py --defects")
    parser.add_argument("--output_dir", type=user_path, required=True, help="that of reconstruct.py --repair")
    args = parser.parse_args(argv)
    defects = read_defects(args.maps)
    found = []
    for path in sorted(args.maps.glob("*.nii.gz")):
        case_id = path.name.removesuffix(".nii.gz")
        repaired = args.output_dir / case_id / "repaired.nii.gz"
        if not repaired.is_file():
            raise InputError.because(repaired, "it is not there", "run reconstruct.py --repair on --maps to the end")
        clean = args.maps / "clean" / path.name
        maps = [labels(p) for p in (path, repaired, clean if clean.is_file() else path)]
        mine = defects.get(path.name, [])
        if not mine:
            found.append({"kind": "none", "changed": bool((maps[0] != maps[1]).any())})
        found += [{"kind": kind, **figures(*maps, structure)} for kind, structure in mine]
    if not found:
        raise InputError.because(args.maps, "it has no label maps (.nii.gz)", "run make_phantoms.py --defects first")
    print("\n".join(table_of(found)))
    return 0


def read_defects(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{file: [(kind, structure)]} of defects.csv; {} where there is none, for all hearts are clean."""
    path = folder / "defects.csv"
    if not path.is_file():
        return {}
    found: dict = {}
    with open(path, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            found.setdefault(row["heart"], []).append((row["kind"], row["structure"]))
    return found


def labels(path: Path) -> np.ndarray:
    return np.asarray(read_image(path).values).astype(np.uint8)


def figures(dirty: np.ndarray, repaired: np.ndarray, clean: np.ndarray, structure: str) -> dict:
    """Of one structure in three label maps (X, Y, Z): Dice to `clean` before and after, whether the number of pieces is
    that of `clean`, whether it touches what it begins at (None where that is nothing)."""
    c, root = HEART_CLASSES.index(structure) + 1, BEGINS_AT.get(structure)
    return {
        "before": dice(dirty, clean, c),
        "after": dice(repaired, clean, c),
        "pieces": pieces(repaired, c) == pieces(clean, c),
        "contact": touches(repaired, c, HEART_CLASSES.index(root) + 1) if root else None,
    }


def dice(one: np.ndarray, other: np.ndarray, c: int) -> float:
    return float(2 * ((one == c) & (other == c)).sum() / max(1, (one == c).sum() + (other == c).sum()))


def table_of(found: list[dict]) -> list[str]:
    """Markdown, a row per kind of defect."""
    lines = [
        "| defect | hearts | pieces right | contact | Dice before, after | better, worse |",
        "|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(one["kind"] for one in found):
        mine = [one for one in found if one["kind"] == kind]
        if kind == "none":
            lines.append(f"| none | {len(mine)} | | | {sum(one['changed'] for one in mine)} changed | |")
            continue
        contacts = [one["contact"] for one in mine if one["contact"] is not None]
        before, after = (np.array([one[when] for one in mine]) for when in ("before", "after"))
        cells = [kind, len(mine), sum(one["pieces"] for one in mine), sum(contacts) if contacts else ""]
        cells += [f"{before.mean():.4f}, {after.mean():.4f}", f"{(after > before).sum()}, {(after < before).sum()}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
