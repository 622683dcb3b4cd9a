#!/usr/bin/env python
"""What a step of the recipes' networks costs on a GPU, on random points, and what choosing latents costs. All surface
points are decoded here; the recipes decode a part of them (`--surface_loss_points`), so their steps are cheaper.

    python benchmarks/recipe_steps.py           a few minutes on the first GPU
    python benchmarks/recipe_steps.py --tiny    tiny models, also on a CPU: a smoke test, no timing

Needs torch 2.6 or newer, numpy and this repository. First table: farthest point sampling by the kernel of
vecset/models/farthest_points_cuda.py and by the loop it replaces, and whether they choose the same points. Second
table, the `gpu` recipe's network first: whole training steps (forward, losses, Eikonal decode, backward, clipping,
AdamW) in bfloat16 on a GPU, as they are, with compiled blocks (`--compile`), with the pass recorded as a CUDA graph
(vecset/engines/compiling.py, `GraphedPass`) and with both. "Of peak": operations per second over those of a large
matrix product, measured just before. Where a pass is recorded, its gradient is compared with that of one that is not.
"""

import argparse
import gc
import itertools
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import torch  # noqa: E402
from gpu_train import OneBatch, matrix_speed  # noqa: E402
from step_parts import CLASSES, Rows, human, random_batch, randomise_output, step_flop  # noqa: E402

from vecset.engines.compiling import GraphedPass  # noqa: E402
from vecset.engines.distributed import Ranks  # noqa: E402
from vecset.engines.loop import Monitor, StepOptions, forward_backward, train_one_epoch  # noqa: E402
from vecset.engines.losses import DEFAULT_WEIGHTS  # noqa: E402
from vecset.engines.optimizer import build_optimizer  # noqa: E402
from vecset.models import embedding  # noqa: E402
from vecset.models.autoencoder import build_model  # noqa: E402

OPTIONS = {
    "anchors": True,
    "rotary": True,
    "fps_class_gap": 2.0,
    "fps_density": "9:4,10:1.7,8:1.4",
    "decoder_layers": 1,
}
WIDE = "point_vec1024x32_dim512_depth8_nb"
STEPS = [  # model, cases, surface points, of them decoded (0: all), latents (None: all), compiled, CUDA graph
    (WIDE, 16, 8192, 0, None, False, False),
    (WIDE, 16, 8192, 0, None, False, True),
    (WIDE, 16, 8192, 0, None, True, False),
    (WIDE, 16, 8192, 0, None, True, True),
    (WIDE, 16, 8192, 1024, 512, False, False),  # as the recipe decodes, in its first epochs
    (WIDE, 16, 8192, 1024, 512, False, True),
    (WIDE, 16, 8192, 1024, 512, True, True),
    (WIDE, 16, 8192, 1024, None, False, True),
    ("point_vec1024x32_dim256_depth8_nb", 32, 8192, 0, None, False, False),
    ("point_vec1024x32_dim256_depth8_nb", 32, 8192, 0, None, False, True),
    ("point_vec512x32_dim128_depth4_nb", 8, 4096, 0, None, False, False),
    ("point_vec512x32_dim128_depth4_nb", 8, 4096, 0, None, False, True),
    ("point_vec1024x32_dim512_depth16_nb", 16, 8192, 0, None, False, False),
    ("point_vec1024x32_dim512_depth16_nb", 16, 8192, 0, None, False, True),
]
TINY = "point_vec32x8_dim64_depth1_nb"
TINY_STEPS = [
    (TINY, 2, 256, 0, None, False, False),
    (TINY, 2, 256, 0, 16, False, False),
    (TINY, 2, 256, 64, 16, False, True),
]
MOST_DIFFERENCE = 0.01  # of the gradients' norm, with and without a CUDA graph, in bfloat16


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choice_of_latents(device, rows, cases, points, counts):
    """Prints latents, milliseconds by `farthest_point_sampling` and by the loop (best of two), the same points?"""
    batch = random_batch(cases, points, 96, 0, device)
    points_BN3, classes_BN = batch["surface_points"], batch["surface_labels"] - 1
    density_C = build_model("point_vec8x4_dim64_depth1_nb", CLASSES, **OPTIONS).density_C.to(device)
    first_B = (points_BN3 - points_BN3.mean(1, keepdim=True)).square().sum(-1).argmax(1)
    ways = {
        "ours": lambda M: embedding.farthest_point_sampling(points_BN3, M, classes_BN, 2.0, density_C),
        "loop": lambda M: embedding._one_after_the_other(
            points_BN3, density_C[classes_BN].square(), classes_BN, 2.0, first_B, M
        ),
    }
    print(f"| latents of {points} points, {cases} cases | ours ms | loop ms | the same points |\n|---|---|---|---|")
    for M in counts:
        best, chosen = {}, {}
        for name, way in ways.items():
            way(M)  # compiles
            for _ in range(2):
                wait(device)
                began = time.perf_counter()
                chosen[name] = way(M)
                wait(device)
                best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
        same = "yes" if torch.equal(chosen["ours"], chosen["loop"]) else "NO"
        rows.write(table="choice of latents", latents=M, same=same == "yes", **{f"{n}_s": best[n] for n in best})
        print(f"| {M} | {1000 * best['ours']:.2f} | {1000 * best['loop']:.2f} | {same} |", flush=True)


def recorded_difference(one_pass, model, batch, options):
    """|gradient of the recorded pass - gradient of forward_backward|, over the norm of the latter."""
    gradients = []
    for way in (one_pass, forward_backward):
        model.zero_grad(set_to_none=True)
        way(model, batch, options, CLASSES, None, 1.0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone())
    model.zero_grad(set_to_none=True)
    return ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()


def measure(
    device, name, cases, surface, decoded, latents, compiled, graphed, queries, eikonal, steps, options=OPTIONS
):
    """The figures of a row, by name; three steps do not count. A recorded pass is recorded within those. options: of
    the network."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
    torch.manual_seed(0)
    model = build_model(name, CLASSES, **options).to(device)
    randomise_output(model)
    if latents:
        model.use_latents(latents)
    if compiled:
        torch._dynamo.reset()
        model.compile_blocks()
    step = StepOptions({**DEFAULT_WEIGHTS, "class": 5.0}, {"class_loss": "softmax"}, bf16=on_gpu, clip_grad=1.0)
    one_pass = GraphedPass() if graphed else forward_backward
    began = []

    def after_step(epoch, step, lr):
        if step == 3:
            wait(device)
            began.append(time.perf_counter())

    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    batch = random_batch(cases, surface, queries, eikonal, device, decoded=decoded)
    train_one_epoch(
        model,
        itertools.repeat(batch),
        OneBatch(3 + steps, cases),
        build_optimizer(model, 1e-5, 0.01, 0.95),
        lambda epoch: 1e-5,
        step,
        CLASSES,
        0,
        0,
        Monitor(Ranks(0, 1, device)),
        after_step,
        one_pass=one_pass,
    )
    wait(device)
    seconds = (time.perf_counter() - began[0]) / steps
    asked = queries + decoded - surface if decoded else queries  # step_flop adds all surface points
    flop = step_flop(name, surface, asked, eikonal, latents, **options)
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_per_step": seconds,
        "cases_per_second": cases / seconds,
        "flop_per_second": flop * cases / seconds,
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
    }
    if graphed:
        found["gradient_difference"] = recorded_difference(one_pass, model, batch, step)
    return found


def table_of_steps(device, rows, steps, counts, counted):
    """Prints the table; -> whether every recorded pass had the gradient of one that is not recorded."""
    peak, right = matrix_speed(counts["matrix"], device), True
    print(f"\nmatrix product {human(peak, 'FLOP/s')}\n")
    print(
        "| model | parameters | batch | surface points | decoded | latents | compiled | CUDA graph | ms per step "
        "| cases/s | speed | of peak | peak GB | gradient, graph or not |"
    )
    print("|---" * 14 + "|")
    for row in steps:
        name, cases, surface, decoded, latents, compiled, graphed = row
        keys = ("model", "cases", "surface_points", "decoded", "latents", "compiled", "graph")
        told = (decoded or "all", latents or "all", *("yes" if on else "no" for on in (compiled, graphed)))
        head = f"| {name} | %s | {cases} | {surface} | {' | '.join(map(str, told))} |"
        found, said = {}, ""
        if rows.late():
            said = "left out: the time is up"
        elif graphed and device.type != "cuda":
            said = "left out: CUDA graphs need a GPU"
        else:
            try:
                found = measure(device, *row, counts["queries"], counts["eikonal"], counted)
            except torch.OutOfMemoryError:
                said = "out of memory"
            except Exception as error:  # whatever a compiler or a recording can say: the rows behind it still count
                said = f"failed: {' '.join(str(error).split())[:200]}".replace("|", "/")
        rows.write(table="steps", **dict(zip(keys, row)), **found, matrix_flop_per_second=peak, note=said)
        if said:
            print(head % "" + f" {said} | | | | | |", flush=True)
            continue
        flop, memory, difference = (found.get(k) for k in ("flop_per_second", "peak_gb", "gradient_difference"))
        right &= difference is None or difference <= MOST_DIFFERENCE
        print(
            head % human(found["parameters"])
            + f" {1000 * found['seconds_per_step']:.1f} | {found['cases_per_second']:.0f} | "
            + (f"{human(flop, 'FLOP/s')} | {flop / peak:.0%} | " if flop else "- | - | ")
            + ("- | " if memory is None else f"{memory:.1f} | ")
            + ("- |" if difference is None else f"{difference:.1e} |"),
            flush=True,
        )
    return right


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models, on the GPU or on the CPU")
    parser.add_argument("--device", help="cuda, cuda:N or cpu (default: the GPU where there is one)")
    parser.add_argument("--steps", type=int, default=8, help="steps that count in every row (default: 8)")
    parser.add_argument("--minutes", type=float, default=10.0, help="no row begins after this time (default: 10)")
    parser.add_argument("--json", metavar="FILE", help="the rows, one JSON object a line, too")
    args = parser.parse_args(argv)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not args.tiny:
        print("error: no GPU found; --tiny runs on a CPU", file=sys.stderr)
        return 2
    rows = Rows(args.json, args.minutes)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: NOT A GPU FIGURE", end=", ")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    choice_of_latents(device, rows, *((2, 256, (16, 32)) if args.tiny else (32, 8192, (512, 1024))))
    counts = dict(zip(("queries", "eikonal", "matrix"), (96, 12, 256) if args.tiny else (2048, 128, 8192)))
    right = table_of_steps(device, rows, TINY_STEPS if args.tiny else STEPS, counts, args.steps)
    if rows.failed or not right:
        print("error: a row failed, or a recorded pass has another gradient (see the table)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
