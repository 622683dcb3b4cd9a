#!/usr/bin/env python
"""Where the time of a training step of the demo goes on a CPU, and what its floor is.

    python benchmarks/step_floor.py            the `cpu` recipe's step, two minutes
    python benchmarks/step_floor.py --tiny     toy sizes: a smoke test, no timing

The step is that of the recipe on random points: forward, losses, Eikonal decode, backward, clipping, the recipe's
optimizer. Its floor is the time that its floating point operations (vecset/models/operations.py) would take at the
speed of a large float32 matrix product, measured before and after. First table: seconds by number of threads,
precision, and whether freed memory stays with the process (vecset/common/memory.py); each row is a process of its own,
and the least of its steps counts. Second table: the operators of a step in one thread that take most of it, by
PyTorch's profiler. Third: CPU seconds of the optimizer alone, one thread: AdamW, Muon, and torch's Muon, which
multiplies numbers of 16 bit.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

from own_process import in_a_process  # noqa: E402

from vecset.common.memory import keep_freed_memory  # noqa: E402
from vecset.pipeline.recipes import RECIPES  # noqa: E402

MODEL_FLAGS = ("anchors", "rotary", "fps_class_gap")
DENSITY = "9:3"  # "auto" in the recipe, which reads it from the cases


def the_step(precision, tiny):
    """(one step, its floating point operations)."""
    import torch
    from step_parts import CLASSES, random_batch, randomise_output

    from vecset.engines.loop import StepOptions, forward_backward
    from vecset.engines.losses import DEFAULT_WEIGHTS, losses_of
    from vecset.engines.optimizer import build_optimizer, gradient_norm, masked_step
    from vecset.models.autoencoder import build_model
    from vecset.models.operations import pass_operations

    train = RECIPES["cpu"].train
    surface, decoded = train["point_cloud_size"], train["surface_loss_points"]
    queries = train["near_points"] + train["inside_points"] + train["outside_points"]
    cases, eikonal, name = train["batch_size"], train["eikonal_points"], train["model"]
    if tiny:
        surface, decoded, queries, cases, name = 64, 16, 64, 2, "point_vec16x4_dim64_depth1_nb"
    config = {"name": name, "num_classes": CLASSES, "fps_density": DENSITY, **{f: train[f] for f in MODEL_FLAGS}}
    torch.manual_seed(0)
    model = build_model(**config)
    randomise_output(model)
    batch = random_batch(cases, surface, queries, eikonal, decoded=decoded)
    weights = {n: DEFAULT_WEIGHTS[n] for n in losses_of("joint", "logits")} | {"class": train["class_weight"]}
    options = StepOptions(weights, {"class_loss": train["class_loss"]}, precision == "bf16", 1.0)
    optimizer = build_optimizer(model, 1e-3, train["weight_decay"], train["beta2"], name=train["optimizer"])
    parameters, never = list(model.parameters()), torch.zeros(())

    def step():
        forward_backward(model, batch, options, CLASSES, None, 1.0)
        gradient_norm(parameters, 1.0)
        masked_step(optimizer, never)
        optimizer.zero_grad(set_to_none=True)

    return step, pass_operations(config, cases, surface, queries + decoded, eikonal)


def measure(threads, precision, keep, tiny, steps, profile):
    """What one process finds out: seconds by the clock and CPU seconds of a step, page faults, the operations, the
    operators."""
    if keep:
        keep_freed_memory()
    import resource

    import torch

    torch.set_num_threads(threads)
    step, operations = the_step(precision, tiny)
    for _ in range(2):
        step()
    clock, cpu, faults = [], [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        began, used = time.perf_counter(), time.process_time()
        step()
        clock.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / steps
    found = {"clock": min(clock), "cpu": min(cpu), "faults": faults, "operations": operations, "operators": []}
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            for _ in range(steps):
                step()
        own = {event.key: event.self_cpu_time_total / 1e6 / steps for event in record.key_averages()}
        found["operators"] = sorted(own.items(), key=lambda item: -item[1])[:14]
        found["profiled"] = sum(own.values())
    return found


def optimizer_seconds(steps, tiny):
    """{optimizer: CPU seconds of its part of a step, one thread, the least}; torch's Muon where this torch has it."""
    import torch

    from vecset.engines.optimizer import build_optimizer
    from vecset.models.autoencoder import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    name = "point_vec16x4_dim64_depth1_nb" if tiny else RECIPES["cpu"].train["model"]
    model = build_model(name, 10, anchors=True, rotary=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    muon = build_optimizer(model, 1e-3, 0.01, 0.95, name="muon")
    matrices = [p for group in muon.parts["muon"].param_groups for p in group["params"]]
    measured = {"AdamW": build_optimizer(model, 1e-3, 0.01, 0.95), "Muon and AdamW": muon, "Muon": muon.parts["muon"]}
    if hasattr(torch.optim, "Muon"):
        measured["torch's Muon"] = torch.optim.Muon(matrices, lr=1e-3, adjust_lr_fn="match_rms_adamw")
    found = {}
    for name, optimizer in measured.items():
        seconds = []
        for _ in range(steps + 1):
            used = time.process_time()
            optimizer.step()
            seconds.append(time.process_time() - used)
        found[name] = min(seconds)
    return found


def product_speed(threads, size):
    """Floating point operations per second of a float32 matrix product, the best of ten."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--steps", type=int, default=8, help="steps per row (default: 8)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        settings = json.loads(args.one)
        called = product_speed if "size" in settings else measure if "threads" in settings else optimizer_seconds
        print(json.dumps(called(**settings)))
        return
    from vecset.engines.setup import cpu_has_bf16

    common = {"tiny": args.tiny, "steps": args.steps}
    size = 256 if args.tiny else 2048
    speeds = {threads: in_a_process(__file__, threads=threads, size=size) for threads in (1, 2)}
    rows = [(1, "fp32", False), (1, "fp32", True), (2, "fp32", True)]
    if cpu_has_bf16():
        rows += [(1, "bf16", True), (2, "bf16", True)]
    found = {
        row: in_a_process(
            __file__, threads=row[0], precision=row[1], keep=row[2], profile=row == (1, "fp32", True), **common
        )
        for row in rows
    }
    for threads in speeds:
        speeds[threads] = max(speeds[threads], in_a_process(__file__, threads=threads, size=size))
    operations = found[rows[0]]["operations"]
    print(f"{operations / 1e9:.1f} GFLOP per step; a float32 product of {size} x {size} matrices:")
    for threads, speed in speeds.items():
        print(f"  {threads} thread(s): {speed / 1e9:.0f} GFLOP/s, so the floor is {operations / speed:.3f} s")
    print("\n| threads | precision | freed memory | s per step | CPU s | page faults | times the floor |")
    print("|---|---|---|---|---|---|---|")
    for (threads, precision, keep), row in found.items():
        memory, times = "kept" if keep else "handed back", row["clock"] * speeds[threads] / operations
        print(
            f"| {threads} | {precision} | {memory} | {row['clock']:.3f} | {row['cpu']:.3f} | {row['faults']:.0f} | "
            f"{times:.2f} |"
        )
    profiled = found[(1, "fp32", True)]
    print("\n| operator (one thread, fp32) | ms per step | share |\n|---|---|---|")
    for name, seconds in profiled["operators"]:
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / profiled['profiled']:.0%} |")
    print("\n| optimizer (one thread) | CPU s per step |\n|---|---|")
    for name, seconds in in_a_process(__file__, steps=args.steps, tiny=args.tiny).items():
        print(f"| {name} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
