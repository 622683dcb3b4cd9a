#!/usr/bin/env python
"""Memory and hours of training per model size, computed and not measured: the tables of docs/cluster.md.

    python benchmarks/resources.py [--hearts 798] [--epochs 400] [--tflops 156] [--models NAME ...]

Memory in GB. Independent of the batch: weights in float32 (4 bytes per parameter) and their bfloat16 copies (2),
gradients (4), the copy of them that DDP sends (4, several ranks only) and AdamW's two moments (8, or 8 / ranks with
--shard optimizer). Per case: what a step keeps for its backward pass, counted on the CPU under bfloat16 autocast at
depth 1 and 2 and extrapolated linearly. Temporary buffers are in neither; `main_ae.py --dry_run` prints the peak of a
step. Hours: operations of the steps (vecset/models/operations.py) over the assumed speed; the default is half of the
312 TFLOP/s that NVIDIA states for dense bfloat16 on an A100.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import torch  # noqa: E402
from step_parts import random_batch, step_flop  # noqa: E402

from vecset.engines.loop import StepOptions, forward_losses  # noqa: E402
from vecset.engines.losses import DEFAULT_WEIGHTS  # noqa: E402
from vecset.models.autoencoder import build_model, parse_model_name  # noqa: E402

MODELS = (
    "learnable_vec512x32_dim512_depth12_nb",
    "learnable_vec512x16_dim768_depth24_nb",
    "learnable_vec1024x16_dim1024_depth12_nb",
    "learnable_vec1024x16_dim1024_depth24_nb",
    "learnable_vec1024x16_dim1536_depth24_nb",
    "learnable_vec1024x16_dim2048_depth32_nb",
)
# the network of the full-size recipe (docs/recipes.md), for --models: its memory per case takes long on a CPU
OPTIONS = {
    "point_vec1024x32_dim512_depth16_nb": {"anchors": True, "rotary": True, "fps_class_gap": 2.0, "decoder_layers": 1}
}


def parameters(name):
    """Number of parameters, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(name, 10, **OPTIONS.get(name, {})).parameters())


def state_gb(count, ranks, sharded):
    """GB per GPU for weights, their copies, gradients, DDP's buckets and moments of `count` parameters."""
    return count * (4 + 2 + 4 + (4 if ranks > 1 else 0) + 8 / (ranks if sharded else 1)) / 1e9


@dataclass
class Kept:
    """Bytes of the tensors that autograd keeps between forward and backward, parameters left out; each storage once."""

    model: torch.nn.Module
    storages: dict = field(default_factory=dict)

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage  # held, so that no other one gets its address
        return tensor.detach()  # the tensor itself would hold the graph that holds it, and nothing would ever be freed

    def count(self):
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        return sum(storage.nbytes() for address, storage in self.storages.items() if address not in own)


def kept_bytes(name, cases, counts, options=None):
    """What a step of `cases` cases keeps; counts: surface, query and Eikonal points of a case."""
    model = build_model(name, 10, **options or {})
    kept, weights = Kept(model), {**DEFAULT_WEIGHTS, "eikonal": 0.1}
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss = forward_losses(model, random_batch(cases, *counts), StepOptions(weights, bf16=True), 10)
    total = kept.count()
    del loss  # it holds the graph
    return total


def case_gb(name, counts=(8192, 3072, 1024)):
    """GB that one more case keeps: a straight line over the depth, taken at depth 1 and 2, and over the cases from two
    on (with a single one some copies are views)."""
    depth, options = parse_model_name(name)["depth"], OPTIONS.get(name)
    one, two = (
        kept_bytes(shallow, 3, counts, options) - kept_bytes(shallow, 2, counts, options)
        for shallow in (name.replace(f"_depth{depth}", f"_depth{d}") for d in (1, 2))
    )
    return (one + (two - one) * (depth - 1)) / 1e9


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearts", type=int, default=798, help="training hearts (default: 798)")
    parser.add_argument("--epochs", type=int, default=400, help="epochs (default: 400)")
    parser.add_argument("--tflops", type=float, default=156, help="assumed speed of one GPU (default: 156)")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="model names")
    args = parser.parse_args(argv)
    print(
        "| model | parameters | GB, 1 GPU | 4 GPUs | 4, sharded | 16, sharded | per case | checkpoint "
        "| TFLOP per case | hours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.models:
        count, flop = parameters(name), step_flop(name, 8192, 3072, 1024, **OPTIONS.get(name, {}))
        states = [state_gb(count, *way) for way in ((1, False), (4, False), (4, True), (16, True))]
        hours = args.hearts * args.epochs * flop / (4 * args.tflops * 1e12) / 3600
        print(
            f"| {name} | {count / 1e6:.0f} M | {' | '.join(f'{gb:.1f}' for gb in states)} | {case_gb(name):.2f} "
            f"| {count * 12 / 1e9:.1f} | {flop / 1e12:.2f} | {hours:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
