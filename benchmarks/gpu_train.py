#!/usr/bin/env python
"""The training step on a GPU: one command, one table, within eight minutes.

    python benchmarks/gpu_train.py                  the 425 M model of Phase 1 on the first GPU
    python benchmarks/gpu_train.py --tiny           a tiny model, also on a CPU: a smoke test, no timing

Needs torch 2.6 or newer, numpy and this repository; no data. Points are random; the step is that of vecset/engines
(forward, losses, backward, clipping, AdamW, the check for non-finite values). Rows: batch 2, 16 and 64, with and
without the Eikonal term, compiled and not, activations kept or recomputed (where keeping them runs out of memory, and
at the largest batch in any case), and the reference (plain attention everywhere, the Eikonal gradient at all points,
float32). MFU: useful work over the speed of a large matrix product, measured just before.
"""

import argparse
import contextlib
import itertools
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import torch  # noqa: E402
from step_parts import CLASSES, Rows, human, random_batch, randomise_output, reference_losses, step_flop  # noqa: E402

from vecset.engines.distributed import Ranks  # noqa: E402
from vecset.engines.loop import Monitor, StepOptions, forward_losses, train_one_epoch  # noqa: E402
from vecset.engines.losses import DEFAULT_WEIGHTS  # noqa: E402
from vecset.engines.optimizer import build_optimizer, gradient_norm, masked_step  # noqa: E402
from vecset.items.epoch_plan import MicroBatch  # noqa: E402
from vecset.models.autoencoder import build_model  # noqa: E402
from vecset.models.double_backward import check_double_backward  # noqa: E402

SIZES = {
    "full": dict(
        name="learnable_vec1024x16_dim1024_depth24_nb",
        surface=8192,
        queries=3072,
        eikonal=1024,
        batches=(2, 16, 64),
        reference_batches=(2, 16),
        matrix=8192,
    ),
    "tiny": dict(
        name="learnable_vec16x8_dim64_depth2_nb",
        surface=128,
        queries=96,
        eikonal=32,
        batches=(2, 4, 8),
        reference_batches=(2, 4),
        matrix=256,
    ),
}
HEARTS, EPOCHS = 798, 400  # of Phase 1
GOALS = {"cases_per_second": 100.0, "largest_batch_gb": 40.0, "hours": 1.0}


class OneBatch:
    """Stands in for an EpochPlan: `steps` steps of the same whole batch."""

    rank, accumulate = 0, 1

    def __init__(self, steps, cases):
        self.steps_per_epoch, self._micro = steps, MicroBatch(tuple(range(cases)), cases, 1.0)

    def micro_batches(self, epoch, step):
        return [self._micro]


class Bench:
    def __init__(self, sizes, device, steps):
        self.sizes, self.device, self.steps = sizes, device, steps
        self.ranks = Ranks(0, 1, device)
        torch.manual_seed(0)
        with device:
            self.model = build_model(sizes["name"], CLASSES)
        randomise_output(self.model)
        self.optimizer = build_optimizer(self.model, 1e-5, 0.05, 0.999)
        self.weights = DEFAULT_WEIGHTS
        self.peak = matrix_speed(sizes["matrix"], device)

    def batch(self, cases, eikonal=True):
        s = self.sizes
        return random_batch(cases, s["surface"], s["queries"], s["eikonal"] if eikonal else 0, self.device)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def ours(self, batch, steps, after_step):
        options = StepOptions(self.weights, bf16=self.device.type == "cuda", clip_grad=1.0)
        cases = len(batch["case_index"])
        train_one_epoch(
            self.model,
            itertools.repeat(batch),
            OneBatch(steps, cases),
            self.optimizer,
            lambda epoch: 1e-5,
            options,
            CLASSES,
            0,
            0,
            Monitor(self.ranks),
            after_step,
        )

    def reference(self, batch, steps, after_step):
        never = torch.zeros((), device=self.device)
        for step in range(steps):
            reference_losses(self.model, batch, self.weights)[0].backward()
            gradient_norm(self.model.parameters(), 1.0)
            masked_step(self.optimizer, never)
            self.optimizer.zero_grad(set_to_none=True)
            after_step(0, step + 1, 0)

    def row(self, way, cases, eikonal=True):
        """{'seconds' per step, 'peak_gb' or None}, or None where memory ran out. Two steps do not count."""
        began = []

        def after_step(epoch, step, lr):
            if step == 2:
                self.wait()
                began.append(time.perf_counter())

        on_gpu = self.device.type == "cuda"
        self.optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            way(self.batch(cases, eikonal), 2 + self.steps, after_step)
            self.wait()
        except torch.OutOfMemoryError:
            return None
        seconds = (time.perf_counter() - began[0]) / self.steps
        return {"seconds": seconds, "peak_gb": torch.cuda.max_memory_allocated(self.device) / 1e9 if on_gpu else None}


def matrix_speed(size, device):
    """FLOP/s of a square matrix product, bfloat16 on a GPU and float32 on a CPU."""
    on_gpu = device.type == "cuda"
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    for _ in range(2):
        times = 20
        if on_gpu:
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(times):
            a @ a
        if on_gpu:
            torch.cuda.synchronize(device)
    return 2 * size**3 * times / (time.perf_counter() - began)


def exactness(device):
    """(loss, gradient): relative differences of ours and the reference in float32 at the same Eikonal points."""
    torch.manual_seed(0)
    with device:
        model = build_model("learnable_vec16x8_dim128_depth2_nb", CLASSES)
    randomise_output(model)
    batch = random_batch(2, 256, 96, 32, device)
    weights = {**DEFAULT_WEIGHTS, "eikonal": 1.0}
    found = []
    for losses in (
        lambda: forward_losses(model, batch, StepOptions(weights), CLASSES)[0],
        lambda: reference_losses(model, batch, weights, all_points=False)[0],
    ):
        model.zero_grad()
        loss = losses()
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (loss, gradient), (reference_loss, reference_gradient) = found
    return abs(loss / reference_loss - 1), ((gradient - reference_gradient).norm() / reference_gradient.norm()).item()


def synchronizing_calls(bench):
    """How many calls inside three steps made the host wait for the GPU, by torch's own account."""

    def after_step(epoch, step, lr):
        if step == 1:  # the first step sets up
            torch.cuda.set_sync_debug_mode("warn")

    with warnings.catch_warnings(record=True) as counted:
        warnings.simplefilter("always")
        try:
            bench.ours(bench.batch(bench.sizes["batches"][0]), 4, after_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in counted if "synchroniz" in str(w.message).lower()]
    for warning in found[:5]:
        print(f"  waits: {warning.filename}:{warning.lineno}: {str(warning.message).splitlines()[0]}")
    return len(found)


def planned_rows(sizes, compiled, reference=True):
    """(words, batch, Eikonal term, compiled, recompute, reference) in the order of the table, most wanted first: with
    the Eikonal term as it is, recomputed and compiled (the largest batch first), the reference, without the term."""
    largest = sizes["batches"][-1]
    for eikonal in (True, False):
        for cases in sizes["batches"]:
            yield "ours", cases, eikonal, False, False, False
        yield "ours", largest, eikonal, False, True, False
        if compiled:
            for cases in reversed(sizes["batches"]):
                yield "ours", cases, eikonal, True, cases == largest, False
        if reference and eikonal:
            for cases in sizes["reference_batches"]:
                yield "reference", cases, True, False, False, True


def run_table(bench, rows, record):
    """Prints the table and writes its rows to `record` (Rows); returns the results by row."""
    sizes, results, compiled_for = bench.sizes, {}, None
    print("| step | batch | Eikonal | compiled | activations | s/step | cases/s | MFU | peak GB |\n" + "|---" * 9 + "|")
    for row in rows:
        words, cases, eikonal, compiled, recompute, reference = row
        head = (
            f"| {words} | {cases} | {'yes' if eikonal else 'no'} | {'yes' if compiled else 'no'} | "
            f"{'recomputed' if recompute else 'kept'} |"
        )
        told = dict(zip(("step", "cases", "eikonal", "compiled", "recompute", "reference"), row))
        if record.late():
            record.write(**told, note="left out: the time is up")
            print(f"{head} left out: the time is up | | | |", flush=True)
            continue
        bench.weights = DEFAULT_WEIGHTS if eikonal else {**DEFAULT_WEIGHTS, "eikonal": 0.0}
        bench.model.checkpoint_activations(recompute)
        if compiled and compiled_for != cases:
            torch._dynamo.reset()  # a graph of its own for every batch size, as a run has it
            bench.model.compile_blocks()
            compiled_for = cases
        try:
            result = bench.row(bench.reference if reference else bench.ours, cases, eikonal)
        except Exception as error:  # whatever a compiler can say: the rows behind it still count
            said = f"failed: {' '.join(str(error).split())[:200]}".replace("|", "/")
            record.write(**told, note=said)
            print(f"{head} {said} | | | |", flush=True)
            continue
        results[row] = result
        if result is None:
            record.write(**told, note="out of memory")
            print(f"{head} out of memory | | | |", flush=True)
            continue
        flop = step_flop(sizes["name"], sizes["surface"], sizes["queries"], sizes["eikonal"] if eikonal else 0)
        speed = cases / result["seconds"]
        figures = {"cases_per_second": speed, "mfu": flop * speed / bench.peak, "matrix_flop_per_second": bench.peak}
        record.write(**told, **result, **figures, note="")
        peak = "-" if result["peak_gb"] is None else f"{result['peak_gb']:.2f}"
        print(f"{head} {result['seconds']:.4f} | {speed:.2f} | {flop * speed / bench.peak:.1%} | {peak} |", flush=True)
    return results


def verdict(sizes, results):
    """Lines: the goals of Phase 1 against what was measured, with the Eikonal term."""
    good = {row: r for row, r in results.items() if r and row[2] and not row[5]}
    if not good:
        return ["no row with the Eikonal term ran"]
    best = max(good, key=lambda row: row[1] / good[row]["seconds"])
    speed = best[1] / good[best]["seconds"]
    largest = [r["peak_gb"] for row, r in good.items() if row[1] == sizes["batches"][-1]]
    hours = HEARTS * EPOCHS / speed / 3600

    def told(words, value, met, goal):
        return f"{words}: {value} (goal {goal}: {'met' if met else 'NOT met'})"

    lines = [
        told(
            "cases per second", f"{speed:.1f}", speed >= GOALS["cases_per_second"], f">= {GOALS['cases_per_second']:g}"
        ),
        told(
            f"{HEARTS} hearts x {EPOCHS} epochs, loading and validation left out",
            f"{hours:.2f} h",
            hours < GOALS["hours"],
            f"< {GOALS['hours']:g} h",
        ),
    ]
    if largest and min(largest) is not None:
        lines.append(
            told(
                f"memory at batch {sizes['batches'][-1]}",
                f"{min(largest):.1f} GB",
                min(largest) <= GOALS["largest_batch_gb"],
                f"<= {GOALS['largest_batch_gb']:g} GB",
            )
        )
    for row, r in results.items():
        ours = results.get(("ours", row[1], True, False, False, False))
        if row[5] and r and ours:
            more = "" if r["peak_gb"] is None else f", {r['peak_gb'] / ours['peak_gb']:.1f} times the memory"
            lines.append(f"reference at batch {row[1]}: {r['seconds'] / ours['seconds']:.1f} times the time{more}")
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the GPU or on the CPU")
    parser.add_argument("--device", help="cuda, cuda:N or cpu (default: the GPU where there is one)")
    parser.add_argument("--steps", type=int, default=5, help="steps that count in every row (default: 5)")
    parser.add_argument("--minutes", type=float, default=7.0, help="no row begins after this time (default: 7)")
    parser.add_argument("--no_compile", action="store_true", help="leave the compiled rows out")
    parser.add_argument("--no_reference", action="store_true", help="leave the rows of the reference out")
    parser.add_argument("--json", metavar="FILE", help="the rows, one JSON object a line, too")
    args = parser.parse_args(argv)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not args.tiny:
        print("error: no GPU found; --tiny runs on a CPU", file=sys.stderr)
        return 2
    record = Rows(args.json, args.minutes)
    sizes = SIZES["tiny" if args.tiny else "full"]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    if device.type == "cpu":
        print("NOT A GPU FIGURE: it ran on a CPU, in float32, with a tiny model.")
    check_double_backward(device)
    loss, gradient = exactness(device)
    print(
        f"float32 against the reference at the same Eikonal points: loss differs by {loss:.1e}, gradient by "
        f"{gradient:.1e} of its norm; the attention of the Eikonal decode is differentiable twice"
    )
    bench = Bench(sizes, device, args.steps)
    parameters = sum(p.numel() for p in bench.model.parameters())
    flop = step_flop(sizes["name"], sizes["surface"], sizes["queries"], sizes["eikonal"])
    print(
        f"{sizes['name']}: {human(parameters)} parameters, {sizes['surface']} surface points, {sizes['queries']} "
        f"queries, {sizes['eikonal']} Eikonal points; {human(flop, 'FLOP')} per case and step; matrix product "
        f"{human(bench.peak, 'FLOP/s')} ({'bfloat16' if device.type == 'cuda' else 'float32'})"
    )
    if device.type == "cuda":
        with contextlib.suppress(torch.OutOfMemoryError):
            print(f"calls inside three steps that made the host wait: {synchronizing_calls(bench)} (goal 0)")
    results = run_table(bench, planned_rows(sizes, not args.no_compile, not args.no_reference), record)
    for line in verdict(sizes, results) if device.type == "cuda" and not args.tiny else ():
        print(line)
    if device.type == "cpu":
        print("NOT A GPU FIGURE.")
    if record.failed:
        print("error: rows failed, see the table", file=sys.stderr)
    return 1 if record.failed else 0


if __name__ == "__main__":
    sys.exit(main())
