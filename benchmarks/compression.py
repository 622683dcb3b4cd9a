#!/usr/bin/env python
"""Dice against the size of the latents: one model with point queries, encoded with fewer and more of them, and saved
in 32 and in 8 bits per number.

    python benchmarks/compression.py --checkpoint C --val cases/val.csv --output_dir OUT
                                     [--hearts 8] [--latents 32 64 ...] [--bits 32 16 8] [-- options of reconstruct.py]

M latents are M x (L + 3) numbers (L of the model's name, and the place). A row is a run of `reconstruct.py --latents
--latent_bits`, which decodes what it saves. bits: those saved per number, with the least values and steps. kB: of the
numbers alone; of latents.npz, which has the frame and the names too; of the label map as a compressed file. lost: mean
Dice in the first of --bits less that in these.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *sys.path[1:]]

import numpy as np  # noqa: E402

from vecset.models.autoencoder import parse_model_name  # noqa: E402
from vecset.weights.checkpoint import load_checkpoint  # noqa: E402


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
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[32, 8], choices=(32, 16, 8), help="bits per number (default: 32 8)"
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
    print(
        "| latents | numbers | bits | kB | kB of latents.npz | kB of the label map | mean Dice | lost "
        f"| {' | '.join(names)} | union |"
    )
    print("|---|" + "---|" * (len(names) + 8), flush=True)
    for count, bits in itertools.product(args.latents, args.bits):
        out = args.output_dir / f"{count}_{bits}"
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
                "--latents",
                "--latent_bits",
                str(bits),
                *more,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        content = json.loads((out / "metrics.json").read_text())["classes"]
        figures = [content[name]["dice"] for name in ("mean of classes", *names, "union")]
        if bits == args.bits[0]:
            first = figures[0]
        lost = "-" if None in (first, figures[0]) else f"{first - figures[0]:.4f}"
        told = [json.loads((out / row["case_id"] / "result.json").read_text())["latents_file"] for row in rows]
        stored = np.mean([file["bits_per_number"] for file in told])
        sizes = [stored * count * per_latent / 8, np.mean([file["bytes"] for file in told])]
        sizes.append(np.mean([(out / row["case_id"] / "labels.nii.gz").stat().st_size for row in rows]))
        cells = [str(count), str(count * per_latent), f"{stored:.2f}", *(f"{size / 1000:.1f}" for size in sizes)]
        mean, *classes = ("-" if value is None else f"{value:.3f}" for value in figures)
        print("| " + " | ".join([*cells, mean, lost, *classes]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
