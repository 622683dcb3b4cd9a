#!/usr/bin/env python
"""One training step against its reference (plain attention, the Eikonal gradient at all points, float32), on a CPU.

    python benchmarks/train_step.py                                  the sizes of benchmarks/RESULTS.md
    python benchmarks/train_step.py --model NAME --only M N Q        one model, some of the tables

Every row is a process of its own, one case. Seconds are those of a step, forward and backward, the least of --steps
after a warm-up step: CPU seconds of one thread, or wall-clock seconds with more (--threads). Memory is the process's
peak above that before the model was built. Both sides of a ratio are measured one after the other in the same run.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

from own_process import in_a_process  # noqa: E402

SIDES = {
    "ours": "fused attention, Eikonal term at {E} points",
    "same": "reference, Eikonal term at the same {E} points",
    "reference": "reference, Eikonal term at all {T} points",
}


def measure(side, name, surface, queries, eikonal, steps, threads):
    """{'seconds', 'peak_mb', 'loss', 'gradient'} of one side, in this process."""
    import torch
    from step_parts import CLASSES, random_batch, randomise_output, reference_losses

    from vecset.engines.loop import StepOptions, forward_losses
    from vecset.engines.losses import DEFAULT_WEIGHTS
    from vecset.models.autoencoder import build_model

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    model = build_model(name, CLASSES)
    randomise_output(model)
    batch = random_batch(1, surface, queries, eikonal)
    seconds = []
    for _ in range(1 + steps):
        model.zero_grad()
        began = clock()
        if side == "ours":
            loss = forward_losses(model, batch, StepOptions(DEFAULT_WEIGHTS), CLASSES)[0]
        else:
            loss = reference_losses(model, batch, all_points=side == "reference")[0]
        loss.backward()
        seconds.append(clock() - began)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    return {
        "seconds": min(seconds[1:]),
        "loss": loss.item(),
        "gradient": norm.item(),
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def against_the_reference(name, surface, queries, eikonal, steps, threads):
    rows = {
        side: in_a_process(
            __file__,
            side=side,
            name=name,
            surface=surface,
            queries=queries,
            eikonal=eikonal,
            steps=steps,
            threads=threads,
        )
        for side in SIDES
    }
    print(f"\n{name}: {surface} surface points, {queries} queries, batch 1, {threads} thread(s)")
    print("| step | s | peak MB | s / ours | MB / ours | loss | gradient norm |\n|---|---|---|---|---|---|---|")
    for side, words in SIDES.items():
        row, ours = rows[side], rows["ours"]
        print(
            f"| {words.format(E=eikonal, T=surface + queries)} | {row['seconds']:.2f} | {row['peak_mb']:.0f} | "
            f"{row['seconds'] / ours['seconds']:.2f} | {row['peak_mb'] / ours['peak_mb']:.2f} | {row['loss']:.7g} | "
            f"{row['gradient']:.6g} |",
            flush=True,
        )


def growth(letter, steps, small, threads):
    """How both sides grow with one of M, N, Q; the other two stay."""
    base = {"M": 64, "N": 512, "Q": 384} if small else {"M": 256, "N": 2048, "Q": 3072}
    dim, eikonal = (64, 128) if small else (256, 1024)
    print(
        f"\nwidth {dim}, depth 4, {eikonal} Eikonal points; {letter} grows, the others are "
        + ", ".join(f"{k} = {v}" for k, v in base.items() if k != letter)
    )
    print(f"| {letter} | ours: s, MB | reference: s, MB | ratio s, MB |\n|---|---|---|---|")
    for factor in (1, 2, 4):
        sizes = {**base, letter: base[letter] * factor}
        name = f"learnable_vec{sizes['M']}x16_dim{dim}_depth4_nb"
        rows = [
            in_a_process(
                __file__,
                side=side,
                name=name,
                surface=sizes["N"],
                queries=sizes["Q"],
                eikonal=eikonal,
                steps=steps,
                threads=threads,
            )
            for side in ("ours", "reference")
        ]
        (a, b), (c, d) = ((row["seconds"], row["peak_mb"]) for row in rows)
        print(f"| {sizes[letter]} | {a:.2f}, {b:.0f} | {c:.2f}, {d:.0f} | {c / a:.2f}, {d / b:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        nargs="*",
        default=["learnable_vec1024x16_dim256_depth4_nb", "learnable_vec1024x16_dim1024_depth4_nb"],
        help="models of the first tables (default: widths 256 and 1024)",
    )
    parser.add_argument("--surface", type=int, default=8192, help="surface points (default: 8192)")
    parser.add_argument("--queries", type=int, default=3072, help="query points (default: 3072)")
    parser.add_argument("--eikonal", type=int, default=1024, help="Eikonal points (default: 1024)")
    parser.add_argument("--steps", type=int, default=2, help="measured steps (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=["reference", "M", "N", "Q"],
        choices=("reference", "M", "N", "Q"),
        help="which tables (default: all)",
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes, a smoke test")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    for name in args.model if "reference" in args.only else ():
        against_the_reference(name, args.surface, args.queries, args.eikonal, args.steps, args.threads)
    for letter in "MNQ":
        if letter in args.only:
            growth(letter, args.steps, args.small, args.threads)


if __name__ == "__main__":
    main()
