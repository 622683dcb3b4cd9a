#!/usr/bin/env python
"""Dice against the size of the latents: one model with point queries, encoded with fewer and more of them.

    python benchmarks/compression.py --checkpoint C --val cases/val.csv --output_dir OUT
                                     [--hearts 8] [--latents 32 64 ...] [-- options of reconstruct.py]

M latents are M x (L + 3) numbers (L of the model's name, and the place). Beside them: their size in 16 bit, and that
of the label maps as compressed files.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *sys.path[1:]]

import numpy as np  # noqa: E402

from vecset.models.autoencoder import parse_model_name  # noqa: E402
from vecset.models.checkpoint import load_checkpoint  # noqa: E402


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True, help="val.csv of create_csv.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--hearts", type=int, default=8, help="how many of them, from the first (default: 8)")
    parser.add_argument(
        "--latents", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024], help="numbers of latents"
    )
    args = parser.parse_args(words)
    checkpoint = load_checkpoint(args.checkpoint)
    per_latent = parse_model_name(checkpoint["model_config"]["name"])["code_dim"] + 3
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with open(args.val, newline="", encoding="utf-8") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda row: row["case_id"])[: args.hearts]
    chosen = args.output_dir / "chosen.csv"
    with open(chosen, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    names = checkpoint["class_names"]
    print(f"| latents | numbers | kB in 16 bit | kB of the label map | mean Dice | {' | '.join(names)} | union |")
    print("|---|" + "---|" * (len(names) + 5), flush=True)
    for count in args.latents:
        out = args.output_dir / str(count)
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "reconstruct.py"),
                "--checkpoint",
                str(args.checkpoint),
                "--input",
                str(chosen),
                "--data_path",
                str(args.val.parent),
                "--output_dir",
                str(out),
                "--no_meshes",
                "--num_latents",
                str(count),
                *more,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        content = json.loads((out / "metrics.json").read_text())["classes"]
        size = np.mean([(out / row["case_id"] / "labels.nii.gz").stat().st_size for row in rows]) / 1000
        figures = [content[name]["dice"] for name in ("mean of classes", *names, "union")]
        cells = " | ".join("-" if value is None else f"{value:.3f}" for value in figures)
        print(
            f"| {count} | {count * per_latent} | {count * per_latent * 2 / 1000:.1f} | {size:.1f} | {cells} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
