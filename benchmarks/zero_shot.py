#!/usr/bin/env python
"""Hearts that a network was never shown, and organs that it was never meant for: reconstructed as they are.

    python benchmarks/zero_shot.py --real DIR --output_dir OUT             weights/heart.pth
    python benchmarks/zero_shot.py --checkpoint CKPT [--calibration FILE] --output_dir OUT

| set | what | where |
|---|---|---|
| patients | fits of a shape model to the CT of twelve patients, seven structures | DIR/real/patients |
| whole heart | a raw label map of CT, seven structures, aorta and PA cut by the image | DIR/whole_heart_7class.nii.gz |
| phantoms | synthetic hearts of ten structures, of a seed that is not trained on | made here |
| hippocampus, circle_of_willis | other organs; structures count as those of a heart of the same ids | DIR/real |

Each set by reconstruct.py on its label maps' own grids, as a user calls it, and again with the latents of each heart
fitted to it (--refine_steps). Nothing lies beyond the image, so nothing is scored there. It goes on where it was
stopped; OUT/table.md has means over hearts of the mean over structures, with intervals of 95 % by bootstrap over
hearts, and CPU seconds per heart. Without DIR the phantoms alone.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from completion_table import with_interval  # noqa: E402
from cpu_time import run  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402
from networks_figures import read_csv  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads, usable_cores  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402

SETS = ("patients", "whole heart", "phantoms", "hippocampus", "circle_of_willis")
SEED = 900  # of the phantoms: no recipe uses it


def main(argv=None):
    parser = CommandParser("zero_shot.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=user_path, required=True, help="folder of results and table")
    add("--real", type=user_path, help="folder of real label maps (default: none)")
    add("--checkpoint", type=user_path, help="(default: the weights that come with the software)")
    add("--calibration", type=user_path, help="decision tuning of the checkpoint (default: its own, or none)")
    add("--num_surface_points", type=int, help="as for reconstruct.py")
    add("--num_latents", type=int, help="as for reconstruct.py")
    add("--sets", nargs="+", choices=SETS, default=SETS, help="these alone (default: all)")
    add("--refine_steps", type=int, default=60, help="of the second row of a set; 0: no such row (default: 60)")
    add("--phantoms", type=int, default=40, help="number of synthetic hearts (default: 40)")
    add("--size", type=int, default=128, help="their voxels along an axis (default: 128)")
    add("--most", type=int, help="label maps of a set at most, evenly chosen (default: all)")
    args = parser.parse_args(argv)
    for name, least in (("refine_steps", 0), ("phantoms", 1), ("size", 8), ("most", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    if args.real and not args.real.is_dir():
        raise InputError.because(args.real, "no such folder", "leave --real out for synthetic hearts alone")
    limit_threads()
    require_writable(args.output_dir)
    with one_at_a_time(args.output_dir):
        rows = [row for name in args.sets for row in rows_of(name, args)]
        text = table(rows)
        write_text(args.output_dir / "table.md", text)
        print(text)
    return 0


def rows_of(name: str, args) -> list[dict]:
    """The rows of a set, [] where its label maps are not there."""
    maps = label_maps(name, args)
    if not maps:
        print(f"{name}: no label maps, left out", file=sys.stderr)
        return []
    steps = [0, args.refine_steps] if args.refine_steps else [0]
    return [scored(name, maps, refined, args) for refined in steps]


def label_maps(name: str, args) -> list[Path]:
    if name == "phantoms":
        folder = args.output_dir / "phantoms" / "labels"
        made = {"output_dir": folder, "num": args.phantoms, "size": args.size, "seed": SEED}
        print("makes synthetic hearts", file=sys.stderr)
        run([ROOT / "make_phantoms.py", *flags({**made, "file_workers": usable_cores()})], log_of(args))
        found = sorted(folder.glob("*.nii.gz"))
    elif not args.real:
        return []
    elif name == "whole heart":
        found = [path for path in [args.real / "whole_heart_7class.nii.gz"] if path.is_file()]
    else:
        found = sorted((args.real / "real" / name).glob("*.nii.gz"))
    if args.most and len(found) > args.most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, args.most).astype(int)]
    return found


def log_of(args) -> Path:
    return args.output_dir / "log.txt"


def scored(name: str, maps: list[Path], refine_steps: int, args) -> dict:
    """One row: the set by reconstruct.py, made or found."""
    words = name.replace(" ", "_")
    folder = args.output_dir / words / (f"refined_{refine_steps}" if refine_steps else "encoded")
    chosen = args.output_dir / words / "maps"
    chosen.mkdir(parents=True, exist_ok=True)
    for path in maps:
        link = chosen / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    options = {name: getattr(args, name) for name in ("checkpoint", "calibration", "num_surface_points", "num_latents")}
    options |= {"refine_steps": refine_steps or None, "input": chosen, "output_dir": folder, "no_meshes": True}
    print(f"{name}: {len(maps)} label maps" + f", {refine_steps} steps each" * bool(refine_steps), file=sys.stderr)
    fresh = not folder.is_dir()  # a run that finds hearts made before says nothing about their time
    ended = run([ROOT / "reconstruct.py", *flags(options)], log_of(args))
    seconds = folder / "cpu_seconds.json"
    if fresh:
        write_text(seconds, json.dumps(ended.cpu_s / len(maps)) + "\n")
    return {
        "set": name,
        "steps": refine_steps,
        "rows": read_csv(folder / "metrics.csv"),
        "cpu_s": json.loads(seconds.read_text(encoding="utf-8")) if seconds.is_file() else None,
    }


def table(rows: list[dict]) -> str:
    """Markdown: figures of each row, then its structures."""
    lines = [
        "| set | hearts | latents | mean Dice | ASSD mm | union Dice | missed | CPU s per heart |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        hearts, union, missed = {}, [], 0
        for found in row["rows"]:
            if not found["dice"]:
                continue
            if found["class_id"]:
                hearts.setdefault(found["case_id"], []).append(
                    (float(found["dice"]), float(found["assd_mm"]) if found["assd_mm"] else np.nan)
                )
                missed += found["status"] == "missed"
            else:
                union.append(float(found["dice"]))
        means = np.array([np.nanmean(values, axis=0) for values in hearts.values()])
        seconds = f"{row['cpu_s']:.0f}" if row["cpu_s"] is not None else ""
        latents = f"fitted, {row['steps']} steps" if row["steps"] else "as encoded"
        lines.append(
            f"| {row['set']} | {len(means)} | {latents} | {with_interval(means[:, :1])} | {means[:, 1].mean():.2f} | "
            f"{np.mean(union):.3f} | {missed} | {seconds} |"
        )
    lines += ["", "| set | latents | Dice of each structure |", "|---|---|---|"]
    for row in rows:
        of_class: dict = {}
        for found in row["rows"]:
            if found["dice"] and found["class_id"]:
                of_class.setdefault(found["class_name"], []).append(float(found["dice"]))
        words = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in of_class.items())
        lines.append(f"| {row['set']} | {'fitted' if row['steps'] else 'as encoded'} | {words} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_command(main))
