#!/usr/bin/env python
"""What a step of the recipes' networks costs on a GPU, on random points, and what choosing latents costs. All surface
points are decoded here; the recipes decode a part of them (`--surface_loss_points`), so their steps are cheaper.

    python benchmarks/recipe_steps.py           about a minute on the first GPU
    python benchmarks/recipe_steps.py --tiny    tiny models, also on a CPU: a smoke test, no timing

Needs torch 2.6 or newer, numpy and this repository. First table: farthest point sampling by the kernel of
vecset/models/farthest_points_cuda.py and by the loop it replaces, and whether they choose the same points. Second
table: whole training steps (forward, losses, Eikonal decode, backward, clipping, AdamW) in bfloat16 on a GPU.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import torch  # noqa: E402
from gpu_train import OneBatch  # noqa: E402
from step_parts import CLASSES, human, random_batch, randomise_output, step_flop  # noqa: E402

from vecset.engines.distributed import Ranks  # noqa: E402
from vecset.engines.loop import Monitor, StepOptions, train_one_epoch  # noqa: E402
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
STEPS = [  # model, cases, surface points, latents (None: all), compiled
    ("point_vec512x32_dim128_depth4_nb", 8, 4096, None, False),
    ("point_vec1024x32_dim256_depth8_nb", 32, 8192, None, False),
    (WIDE, 16, 8192, 512, False),
    (WIDE, 16, 8192, None, False),
    (WIDE, 16, 8192, None, True),
    ("point_vec1024x32_dim512_depth16_nb", 16, 8192, None, False),
]
TINY_STEPS = [("point_vec32x8_dim64_depth1_nb", 2, 256, latents, False) for latents in (None, 16)]


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choice_of_latents(device, cases, points, counts):
    """Rows: latents, milliseconds by `farthest_point_sampling` and by the loop (best of two), the same points?"""
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
        print(f"| {M} | {1000 * best['ours']:.2f} | {1000 * best['loop']:.2f} | {same} |", flush=True)


def step_row(device, name, cases, surface, latents, compiled, queries, eikonal, steps):
    """One line of the table of steps; three steps do not count."""
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    model = build_model(name, CLASSES, **OPTIONS).to(device)
    randomise_output(model)
    if latents:
        model.use_latents(latents)
    if compiled:
        torch._dynamo.reset()
        model.compile_blocks()
    options = StepOptions({**DEFAULT_WEIGHTS, "class": 5.0}, {"class_loss": "softmax"}, bf16=on_gpu, clip_grad=1.0)
    began = []

    def after_step(epoch, step, lr):
        if step == 3:
            wait(device)
            began.append(time.perf_counter())

    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    train_one_epoch(
        model,
        itertools.repeat(random_batch(cases, surface, queries, eikonal, device)),
        OneBatch(3 + steps, cases),
        build_optimizer(model, 1e-5, 0.01, 0.95),
        lambda epoch: 1e-5,
        options,
        CLASSES,
        0,
        0,
        Monitor(Ranks(0, 1, device)),
        after_step,
    )
    wait(device)
    seconds = (time.perf_counter() - began[0]) / steps
    speed = human(step_flop(name, surface, queries, eikonal, latents, **OPTIONS) * cases / seconds, "FLOP/s")
    peak = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" if on_gpu else "-"
    return (
        f"| {name} | {human(sum(p.numel() for p in model.parameters()))} | {cases} | {surface} | {latents or 'all'} | "
        f"{'yes' if compiled else 'no'} | {1000 * seconds:.1f} | {cases / seconds:.0f} | {speed} | {peak} |"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models, on the GPU or on the CPU")
    parser.add_argument("--device", help="cuda, cuda:N or cpu (default: the GPU where there is one)")
    parser.add_argument("--steps", type=int, default=8, help="steps that count in every row (default: 8)")
    args = parser.parse_args(argv)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not args.tiny:
        print("error: no GPU found; --tiny runs on a CPU", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: NOT A GPU FIGURE", end=", ")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    choice_of_latents(device, *((2, 256, (16, 32)) if args.tiny else (32, 8192, (512, 1024))))
    print(
        "\n| model | parameters | batch | surface points | latents | compiled "
        "| ms per step | cases/s | speed | peak GB |"
    )
    print("|---" * 10 + "|")
    for row in TINY_STEPS if args.tiny else STEPS:
        try:
            print(step_row(device, *row, *((96, 12) if args.tiny else (2048, 128)), args.steps), flush=True)
        except torch.OutOfMemoryError:
            print(f"| {row[0]} | | {row[1]} | {row[2]} | {row[3] or 'all'} | | out of memory | | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
