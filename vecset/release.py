"""Makes weights to give away of a finished run of run_train.sh:

    python -m vecset.release --run_dir output/release --output weights/heart.pth

One file in half precision with the network, its shape model, its decision tuning and how many points and latents to
use; heart.json beside it is the card: data, options, seed, code, figures on unseen hearts. `reconstruct.py` takes the
file as --checkpoint, and needs no --calibration.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if not __package__:  # run as a file: the repository's root in place of this folder, whose metrics/ would shadow others
    sys.path[:] = [ROOT] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402

FIGURES = ("dice", "hd95_mm", "assd_mm", "absolute_volume_error")
LIMITS = (
    "learned from synthetic hearts alone; nothing says how it does on hearts of disease",
    "where a vessel ends in the image, the network may continue it",
    "research software, no medical device",
)


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run_dir", type=user_path, required=True, help="--output_dir of run_train.sh")
    parser.add_argument("--output", type=user_path, required=True, help="file to write, as weights/heart.pth")
    parser.add_argument("--recipe", default="", help="name of the recipe that made it, for the card")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    from vecset.common.atomic import require_writable
    from vecset.common.user_files import read_json
    from vecset.fields.decision_tuning import read_decision_tuning
    from vecset.imaging.label_map import file_sha256
    from vecset.weights.checkpoint import BEST, load_checkpoint
    from vecset.weights.release import write_release

    run_dir = args.run_dir
    if args.output.suffix != ".pth":
        raise InputError("--output", "a file name that ends in .pth", args.output)
    trained, tuned = run_dir / "train" / BEST, run_dir / "calibration.json"
    told = run_dir / "reconstruction" / "metrics.json"
    checkpoint = load_checkpoint(trained)
    sha256 = file_sha256(trained)
    read_decision_tuning(tuned, checkpoint["class_names"], sha256)  # refuses what is none, or of another checkpoint
    tuning = read_json(tuned, "a decision tuning", "run run_train.sh to its end")
    metrics = read_json(told, "the figures of a reconstruction", "run run_train.sh to its end")
    settings = metrics["settings"]
    if settings.get("checkpoint_sha256") != sha256:
        raise InputError.because(told, "the figures of another checkpoint", "run run_train.sh to its end")
    reading = {name: settings[name] for name in ("num_surface_points", "num_latents") if settings.get(name)}
    card = {
        "name": args.output.stem,
        "recipe": args.recipe or None,
        "data": _data(run_dir),
        "classes": list(checkpoint["class_names"]),
        "epochs": checkpoint.get("epoch"),
        "steps": checkpoint.get("global_step"),
        "seed": settings.get("seed"),
        "commit": _commit(),
        "figures": {
            "hearts": len(metrics["hearts"]),
            "what": "hearts of the same kind, never trained on; means over hearts",
            **{name: _figures(values) for name, values in metrics["classes"].items()},
        },
        "limits": list(LIMITS),
        "licence": "MIT",
    }
    require_writable(args.output.parent, "--output")
    worst = write_release(args.output, checkpoint, reading, tuning, card)
    size = args.output.stat().st_size / 1e6
    print(f"written: {args.output} ({size:.1f} MB, half precision: numbers change by at most {worst:.1e} of the")
    print(f"largest of their tensor), and its card {args.output.with_suffix('.json')}")
    return 0


def _figures(values):
    return {name: round(values[name], 4) for name in FIGURES if isinstance(values.get(name), float)}


def _data(run_dir):
    """What the hearts were: the record of synthetic ones and how many, or that they were the user's own."""
    record = run_dir / "labels" / "phantoms.json"
    counts = {
        split: sum(1 for _ in (run_dir / "cases" / f"{split}.csv").open(encoding="utf-8")) - 1
        for split in ("train", "val")
    }
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else "label maps of the user's own"
    return {"hearts": counts, "made": made}


def _commit():
    """The commit of this checkout, with a mark where files differ from it; None outside a checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None if asked.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(run_command(main))
