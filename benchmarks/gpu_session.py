#!/usr/bin/env python
"""The parts of benchmarks/gpu_session.sh that are more than one command, and its record. Not called by hand.

data      the phantoms of a recipe, their case files and their split, by as many processes as are given
recipe    a recipe's network, trained in a given time and reconstructed on the unseen hearts
record    what a part has left, whole or cut off: a line of results.md and an entry of results.json
"""

import argparse
import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

from vecset.common.atomic import write_text  # noqa: E402
from vecset.common.cores import usable_cores  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402
from vecset.pipeline.recipes import RECIPES, training_flags  # noqa: E402

AIMS = {"mean_dice": 0.96, "coronary_dice": 0.85, "cases_per_second": 100.0, "peak_gb_at_64": 40.0}
MARGIN = 1.05  # what a step in a run takes over one on random points: its batch has to be drawn and copied
STARTING_S = 30  # of training's time: imports, reading the cases, two validations
AFTER_S = 100  # kept for decision tuning and reconstruction
SEED = 0


def command(module, *words):
    return [sys.executable, "-P", "-m", module, *map(str, words)]


def environment(**variables):
    """Of a command: it finds vecset in this repository, wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def run(words):
    """Runs a command; a failure ends this program with its exit code, after what the command has said."""
    done = subprocess.run(words, env=environment())
    if done.returncode:
        print(f"error: {' '.join(words[2:5])} ended with exit code {done.returncode}", flush=True)
        raise SystemExit(done.returncode)


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path):
    """The content, or {} where the file is not there or not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


# --- data


def make_data(args):
    """data.json at the end: seconds of each command, or the error."""
    recipe, work, seconds = RECIPES[args.recipe], args.work_dir, {}
    labels, cases, workers = work / "labels", work / "cases", {"file_workers": args.processes}
    split = {"val_ratio": recipe.val_ratio, "seed": SEED}
    commands = {
        "phantoms": ("make_phantoms", "--output_dir", labels, *flags({**recipe.phantoms, "seed": SEED, **workers})),
        "case_files": (
            "prepare_data",
            *("--input_dir", labels, "--output_dir", cases),
            *flags({**recipe.prepare, "seed": SEED, **workers}),
        ),
        "split": ("create_csv", "--data_dir", cases, "--output_dir", cases, *flags(split)),
    }
    found = {"error": "stopped"}
    try:
        for name, (module, *words) in commands.items():
            began = time.monotonic()
            run(command(f"vecset.commands.{module}", *words))
            seconds[name] = round(time.monotonic() - began, 1)
        found = {"seconds": seconds, "processes": args.processes, **recipe.phantoms}
    except SystemExit:
        found = {"error": f"{name} failed, see the log of the part recipe"}
    finally:
        write_json(work / "data.json", found)
    return 1 if "error" in found else 0


def wait_for_data(work, process_id):
    """The content of data.json, once it is there."""
    print(f"waiting for the case files in {work.name}", flush=True)
    while not (work / "data.json").is_file():
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            if not (work / "data.json").is_file():
                return {"error": "the process that makes the case files was ended"}
        time.sleep(0.2)
    return read_json(work / "data.json")


# --- the recipe's network


def fitted_epochs(seconds, seconds_per_step, steps_per_epoch, most):
    """How many epochs fit into `seconds` of training, its start and validations included: 2 to `most`."""
    return max(2, min(most, math.floor((seconds - STARTING_S) / (MARGIN * seconds_per_step * steps_per_epoch))))


def seconds_per_step(recipe, device):
    """Mean over the run's steps, measured on random points: with early latents, and with all."""
    import torch
    from recipe_steps import OPTIONS, measure

    from vecset.models.autoencoder import EXTENSIONS

    train = recipe.train
    density = OPTIONS["fps_density"] if train.get("fps_density") else ""
    options = {**{name: train.get(name, off) for name, off in EXTENSIONS.items()}, "fps_density": density}
    queries = sum(train[f"{group}_points"] for group in ("near", "inside", "outside"))
    early, share = train.get("early_latents"), train.get("early_share", 0.75)
    found = []
    for latents in dict.fromkeys((early, None)):
        row = (train["model"], train["batch_size"], train["point_cloud_size"], train.get("surface_loss_points", 0))
        points = (queries, train["eikonal_points"])
        steps = 12 if device == "cuda" else 2
        figures = measure(torch.device(device), *row, latents, False, False, *points, steps, options)
        found.append(figures["seconds_per_step"])
        print(f"{latents or 'all'} latents: {1000 * found[-1]:.1f} ms per step on random points", flush=True)
    return found[0] * share + found[1] * (1 - share) if early else found[0]


def train_and_reconstruct(args):
    began, work = time.monotonic(), args.work_dir
    recipe, device = RECIPES[args.recipe], "cpu" if args.cpu else "cuda"
    data = wait_for_data(work, args.data_process)
    if "error" in data:
        print(f"error: no case files: {data['error']}", file=sys.stderr)
        return 2
    cases, out = work / "cases", work / "train"
    with open(cases / "train.csv", newline="", encoding="utf-8") as file:
        hearts = sum(1 for _ in csv.DictReader(file))
    step = seconds_per_step(recipe, device)
    left = args.seconds - (time.monotonic() - began)
    seconds = min(args.train_seconds, left - AFTER_S)
    if seconds <= STARTING_S:
        print(f"error: {left:.0f} s are left, too few to train and reconstruct; give more --seconds", file=sys.stderr)
        return 2
    steps_per_epoch = math.ceil(hearts / min(recipe.train["batch_size"], hearts))
    epochs = fitted_epochs(seconds, step, steps_per_epoch, recipe.max_epochs)
    fitted = dataclasses.replace(recipe, heart_passes=epochs * hearts)
    probe = {"seconds": seconds, "seconds_per_step": step, "steps_per_epoch": steps_per_epoch, "epochs": epochs}
    write_json(work / "fitted.json", {**probe, "training_hearts": hearts})
    print(f"training: {epochs} epochs of {steps_per_epoch} steps are to fit into {seconds:.0f} s", flush=True)
    words = {**training_flags(fitted, [], hearts, 1, SEED), "max_minutes": seconds / 60}
    if args.cpu:
        words["device"] = "cpu"
    training = time.monotonic()
    run(command("vecset.main_ae", "--data_path", cases, "--output_dir", out, *flags(words)))
    write_json(work / "fitted.json", {**read_json(work / "fitted.json"), "training_s": time.monotonic() - training})

    reading = {name: recipe.reconstruct.get(name) for name in ("num_surface_points", "num_latents")}
    tuned, checkpoint = work / "calibration.json", out / "checkpoint-best.pth"
    words = flags({**reading, **recipe.calibrate, "seed": SEED, "device": device})
    run(
        command("vecset.calibrate", "--checkpoint", checkpoint, "--csv", cases / "train.csv", "--output", tuned, *words)
    )
    return reconstruct_in_shards(args, checkpoint, tuned, flags({**reading, "seed": SEED, "device": device}))


def reconstruct_in_shards(args, checkpoint, tuned, words):
    """The hearts of val.csv, dealt out to processes, since figures are computed on one core."""
    cases, folder = args.work_dir / "cases", args.work_dir / "reconstruction"
    with open(cases / "val.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    running = []
    for number in range(min(len(rows), args.processes)):
        shard = folder / f"shard_{number}"
        shard.mkdir(parents=True)
        with open(shard / "val.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows[number :: args.processes]])
        inputs = ("--checkpoint", checkpoint, "--input", shard / "val.csv", "--data_path", cases)
        outputs = ("--output_dir", shard / "hearts", "--calibration", tuned, "--no_meshes")
        line = command("vecset.commands.reconstruct", *inputs, *outputs, *words)
        running.append(subprocess.Popen(line, env=environment(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")))
    codes = [process.wait() for process in running]
    if any(codes):
        print(f"error: reconstruction ended with exit codes {codes}", file=sys.stderr)
    return max(codes, key=abs)


# --- the record


def of_tests(args):
    """Counts, from the lines that pytest -v prints as tests end."""
    outcomes = {}  # by test: the summary at the end names failed ones again
    for line in args.log.read_text(encoding="utf-8", errors="replace").splitlines():
        line = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if found := re.match(r"(?:\[gw\d+\] \[ *\d+%\] )?(PASSED|FAILED|ERROR|SKIPPED) (tests/.*?)(?: - .*)?$", line):
            outcomes[found[2].strip()] = found[1]
        elif found := re.match(r"(tests/.+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", line):
            outcomes[found[1]] = found[2]
    counts = {name: list(outcomes.values()).count(name.upper()) for name in ("passed", "failed", "error", "skipped")}
    failed = [test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no test ended"
    return {**counts, "failed_tests": failed}, told + ("".join(f"; {test}" for test in failed[:5]))


def of_recipe(args):
    from vecset.metrics.overlap import mean_over_classes
    from vecset.report import tables

    work = args.work_dir
    found = {"data": read_json(work / "data.json"), "fitted": read_json(work / "fitted.json")}
    log = work / "train" / "log.txt"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.is_file() else []
    validations = [line for line in lines if line["kind"] == "val"]
    found["training"] = {**read_json(work / "train" / "status.json"), "validations": validations}
    results = [read_json(path) for path in sorted(work.glob("reconstruction/shard_*/hearts/*/result.json"))]
    results = {result["case_id"]: result for result in results if result.get("scores")}
    told = []
    if validations:
        last = validations[-1]
        told.append(f"{last['global_step']} steps, validation Dice {last['mean_dice']:.3f}")
    if results:
        rows = [row for i, r in results.items() for row in tables.table_rows(i, r["scores"], None, r["floor"])]
        hearts = {
            i: {"mean_dice": mean_over_classes(r["scores"]), "decoding": r["decoding"]} for i, r in results.items()
        }
        figures = tables.report(rows, hearts, {})
        tables.write_csv(args.output_dir / "metrics.csv", rows)
        found["reconstruction"] = {"hearts": len(results), "classes": figures["classes"]}
        mean, coronary = (figures["classes"].get(name, {}).get("dice") for name in ("mean of classes", "Coronary"))
        told += [
            f"{len(results)} unseen hearts on their own grids",
            aim("mean Dice", mean, "mean_dice", args.cpu),
            aim("coronary", coronary, "coronary_dice", args.cpu),
        ]
    return found, ", ".join(told) or found["data"].get("error", "no figures yet")


def aim(words, value, name, no_aim, at_most=False):
    """'mean Dice 0.961 (aim 0.96: met)'; without the aim where tiny sizes make it meaningless."""
    text = f"{words} {'-' if value is None else f'{value:.3f}' if AIMS[name] < 1 else f'{value:.1f}'}"
    if no_aim or value is None:
        return text
    met = value <= AIMS[name] if at_most else value >= AIMS[name]
    return f"{text} (aim {AIMS[name]:g}: {'met' if met else 'NOT met'})"


def rows_of(args):
    rows = args.rows.read_text(encoding="utf-8").splitlines() if args.rows.is_file() else []
    return [json.loads(line) for line in rows if line.endswith("}")]


def of_gpu_train(args):
    rows = rows_of(args)
    failed = [row["note"] for row in rows if row["note"].startswith("failed")]
    good = [r for r in rows if r.get("cases_per_second") and r["eikonal"] and not r["reference"]]
    if not good:
        return {"rows": rows}, "; ".join(["no row ended", *failed[:1]])
    best = max(good, key=lambda row: row["cases_per_second"])
    told = [
        aim("cases/s", best["cases_per_second"], "cases_per_second", args.cpu),
        f"at batch {best['cases']}{', compiled' if best['compiled'] else ''}, MFU {best['mfu']:.1%}",
    ]
    memory = [r["peak_gb"] for r in good if r["cases"] == 64 and r["peak_gb"]]
    if memory:
        told.append(aim("GB at batch 64", min(memory), "peak_gb_at_64", args.cpu, at_most=True))
    if failed:
        told.append(f"{len(failed)} rows failed")
    return {"rows": rows}, ", ".join(told)


def of_recipe_steps(args):
    rows = rows_of(args)
    steps = [row for row in rows if row["table"] == "steps" and row.get("seconds_per_step")]
    failed = [row["note"] for row in rows if row.get("note", "").startswith("failed")]
    if not steps:
        return {"rows": rows}, "; ".join(["no row ended", *failed[:1]])
    first = {key: steps[0][key] for key in ("model", "cases", "surface_points", "decoded", "latents")}
    told = [
        ("compiled" if row["compiled"] else "")
        + (" and " if row["compiled"] and row["graph"] else "")
        + ("CUDA graph" if row["graph"] else "" if row["compiled"] else "as it is")
        + f" {1000 * row['seconds_per_step']:.1f}"
        for row in steps
        if all(row[key] == value for key, value in first.items())
    ]
    if failed:
        told.append(f"{len(failed)} rows failed")
    return {"rows": rows}, f"ms per step of {first['model']}: {', '.join(told)}"


def of_session(args):
    import torch

    on_gpu = torch.cuda.is_available() and not args.cpu
    device = torch.cuda.get_device_name(0) if on_gpu else "CPU: NOT A GPU FIGURE"
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = {
        "device": device,
        "memory_gb": torch.cuda.get_device_properties(0).total_memory / 1e9 if on_gpu else None,
        "cores": usable_cores(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": asked.stdout.strip() or None,
    }
    return found, f"{device}, {found['cores']} cores, torch {found['torch']}, Python {found['python']}"


PARTS = {
    "session": of_session,
    "tests": of_tests,
    "recipe": of_recipe,
    "gpu_train": of_gpu_train,
    "recipe_steps": of_recipe_steps,
}


def record(args):
    """Adds a part to results.json and results.md. Never fails on what a part has left: it says what it cannot read."""
    state = {0: "done", 124: "cut off", 137: "cut off", 143: "cut off"}.get(args.code, f"exit code {args.code}")
    if args.note:
        state, found, told = args.note, {}, ""
    else:
        try:
            found, told = PARTS[args.part](args)
        except Exception as error:  # a part that was cut off may have left anything, and later parts still count
            found, told = {}, f"cannot be read: {type(error).__name__}: {error}"
    path, table = args.output_dir / "results.json", args.output_dir / "results.md"
    entry = {"state": state, "seconds": args.seconds, "limit_s": args.limit, **found}
    write_json(path, {**read_json(path), args.part: entry})
    line = f"| {args.part} | {state} | {args.seconds} | {args.limit} | {told.replace('|', '/')} |"
    if args.part == "session":
        line = f"{told}\n\n| part | state | seconds | of at most | result |\n|---|---|---|---|---|"
    with open(table, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("data", "recipe", "record"):
        step = steps.add_parser(name)
        step.add_argument("--work_dir", type=Path, required=True)
        step.add_argument("--cpu", action="store_true")
        if name == "record":
            step.add_argument("--output_dir", type=Path, required=True)
            step.add_argument("--part", choices=PARTS, required=True)
            step.add_argument("--log", type=Path)
            step.add_argument("--rows", type=Path)
            step.add_argument("--code", type=int, default=0)
            step.add_argument("--seconds", type=int, default=0)
            step.add_argument("--limit", type=int, default=0)
            step.add_argument("--note", default="")
            continue
        step.add_argument("--recipe", choices=RECIPES, required=True)
        step.add_argument("--processes", type=int, required=True)
        if name == "recipe":
            step.add_argument("--data_process", type=int, required=True)
            step.add_argument("--seconds", type=float, required=True, help="of the whole part")
            step.add_argument("--train_seconds", type=float, required=True)
    args = parser.parse_args(argv)
    return {"data": make_data, "recipe": train_and_reconstruct, "record": record}[args.step](args)


if __name__ == "__main__":
    sys.exit(main())
