#!/usr/bin/env python
"""Memory and hours of training per model size, computed and not measured: the tables of docs/cluster.md.

    python benchmarks/resources.py [--hearts 798] [--epochs 400] [--tflops 156] [--models NAME ...]

Memory: what every GPU holds whatever the batch is, in float32: weights (4 bytes per parameter), gradients (4), the copy
of them that DDP sends (4, several ranks only) and AdamW's two moments (8, or 8 / ranks with --shard optimizer).
Activations come on top: `main_ae.py --dry_run` prints the peak of a step. Hours: operations of the steps
(step_parts.step_flop) over the speed that is assumed; the default is half of the 312 TFLOP/s that NVIDIA states for
dense bfloat16 on an A100.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import torch  # noqa: E402
from step_parts import step_flop  # noqa: E402

from vecset.models.autoencoder import build_model  # noqa: E402

MODELS = ("learnable_vec512x32_dim512_depth12_nb", "learnable_vec512x16_dim768_depth24_nb",
          "learnable_vec1024x16_dim1024_depth12_nb", "learnable_vec1024x16_dim1024_depth24_nb",
          "learnable_vec1024x16_dim1536_depth24_nb", "learnable_vec1024x16_dim2048_depth32_nb")


def parameters(name):
    """Number of parameters, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(name, 10).parameters())


def state_gb(count, ranks, sharded):
    """GB per GPU for weights, gradients, DDP's buckets and moments of `count` parameters."""
    return count * (4 + 4 + (4 if ranks > 1 else 0) + 8 / (ranks if sharded else 1)) / 1e9


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearts", type=int, default=798, help="training hearts (default: 798)")
    parser.add_argument("--epochs", type=int, default=400, help="default: 400")
    parser.add_argument("--tflops", type=float, default=156, help="assumed speed of one GPU (default: 156)")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="model names")
    args = parser.parse_args(argv)
    print("| model | parameters | GB, 1 GPU | GB, 4 GPUs | 4, sharded | 16, sharded | checkpoint GB "
          "| TFLOP per case | hours, 4 GPUs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        count, flop = parameters(name), step_flop(name, 8192, 3072, 1024)
        states = [state_gb(count, *way) for way in ((1, False), (4, False), (4, True), (16, True))]
        hours = args.hearts * args.epochs * flop / (4 * args.tflops * 1e12) / 3600
        print(f"| {name} | {count / 1e6:.0f} M | {' | '.join(f'{gb:.1f}' for gb in states)} | {count * 12 / 1e9:.1f} "
              f"| {flop / 1e12:.2f} | {hours:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
