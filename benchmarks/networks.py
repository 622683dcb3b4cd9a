#!/usr/bin/env python
"""Which network: five on the same synthetic hearts, points and CPU seconds of training, scored on unseen hearts.

    python benchmarks/networks.py --set small --output_dir OUT
    python benchmarks/networks.py --set large --networks A C --output_dir OUT
    python benchmarks/networks.py --report --output_dir OUT       docs/networks.md: verdict, tables, picture
    python benchmarks/networks.py --tiny --output_dir OUT         toy sizes, three minutes; its figures mean nothing

First the CPU seconds of a training step of each network are measured, in short runs in turn. From them follow the
epochs that fill the budget, so that the learning rate reaches the end of its schedule. A row is a network and a seed:
trained by vecset/main_ae.py, its decisions tuned by vecset/calibrate.py, the unseen hearts scored by reconstruct.py
without and with that tuning. A row that is done is one line in OUT/rows.jsonl, and OUT/table.md is written anew. It can
be stopped at any moment: the same command skips the rows that are done and goes on with the one that is half trained.
With --report, rows that benchmarks/networks.jsonl has from elsewhere count too, and it gets those of OUT.
"""

import argparse
import csv
import dataclasses
import datetime
import fcntl
import hashlib
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from cpu_time import Child, Ended  # noqa: E402
from networks_page import NETWORKS, read_rows, table_lines, write_page  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.cores import THREAD_VARIABLES  # noqa: E402
from vecset.common.errors import EXIT_STOPPED, InputError, run_command  # noqa: E402
from vecset.metrics.overlap import COUNTED  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402
from vecset.pipeline.recipes import Recipe, training_flags  # noqa: E402

VERSION = 1  # of the comparison: rows of another one do not count
THREADS = 2
ENVIRONMENT = {**dict.fromkeys(THREAD_VARIABLES, str(THREADS)), "OMP_WAIT_POLICY": "PASSIVE"}
NOT_FINITE = 3  # exit code of main_ae.py
STEP = re.compile(r"epoch (\d+)/\d+ step (\d+)/(\d+) \|")
RESUMED = re.compile(r"going on from .* global step (\d+)")
MAIN_AE = ROOT / "vecset" / "main_ae.py"


@dataclass(frozen=True)
class Comparison:
    """One size of the comparison.

    train, unseen   numbers of hearts
    networks        that are compared; none: those that --networks names
    seeds           of training; the hearts and their split are the same for all
    budget_s        CPU seconds of the training steps of a row
    recipe          sizes and options; epochs follow from the budget
    rounds          how often the cost of a training step is measured
    settle, steps   training steps before such a measurement, and in it
    decoded         number of unseen hearts on which decoding is measured
    """

    name: str
    train: int
    unseen: int
    networks: tuple
    seeds: tuple
    budget_s: float
    recipe: Recipe
    rounds: int = 3
    settle: int = 4
    steps: int = 12
    decoded: int = 4


# The options of the recipe `cpu` of 2026-11-27, written out: the recipe may change, what was compared does not
_CPU = Recipe(
    phantoms={"size": 128},
    prepare={},
    train={
        "model": "point_vec256x16_dim128_depth4_nb",
        "anchors": True,
        "rotary": True,
        "fps_class_gap": 2,
        "fps_density": "auto",
        "batch_size": 8,
        "point_cloud_size": 2048,
        "surface_loss_points": 512,
        "near_points": 512,
        "inside_points": 256,
        "outside_points": 256,
        "balance": 0.5,
        "augment_rotation": 20,
        "eikonal_points": 64,
        "class_loss": "softmax",
        "class_weight": 5,
        "lr": 5e-3,
        "beta2": 0.95,
        "weight_decay": 0.01,
        "num_workers": 1,
    },
    reconstruct={"num_surface_points": 8192},  # and as many latents as in training
    heart_passes=0,  # by the budget
    max_epochs=0,
    warmup_share=0.03,
)
_TINY = Recipe(
    phantoms={"size": 64},
    prepare={"num_surface_points": 4000, "num_vol_points": 4000, "num_near_points": 4000},
    train={
        **_CPU.train,
        "model": "point_vec20x4_dim32_depth2_nb",
        "batch_size": 1,
        "point_cloud_size": 256,
        "surface_loss_points": 64,
        "near_points": 64,
        "inside_points": 32,
        "outside_points": 32,
        "eikonal_points": 16,
        "num_workers": 0,
    },
    reconstruct={},
    heart_passes=0,
    max_epochs=0,
    warmup_share=0.03,
    calibrate={"hearts": 1},
)
SETS = {
    "small": Comparison("small", 64, 16, tuple(NETWORKS), (0, 1), 720.0, _CPU),
    "large": Comparison("large", 200, 40, (), (0, 1, 2), 3600.0, _CPU),
    "tiny": Comparison("tiny", 3, 2, tuple(NETWORKS), (0,), 2.0, _TINY, rounds=1, settle=1, steps=3, decoded=1),
}


def main(argv=None):
    args = parse_arguments(argv)
    if args.measure:
        print(json.dumps(measure_decoding(args.measure, args.hearts, args.decoded, json.loads(args.options))))
        return 0
    require_writable(args.output_dir)
    failed = []
    chosen = "tiny" if args.tiny else args.set
    if chosen:
        with one_at_a_time(args.output_dir):
            failed = Run(SETS[chosen], args.output_dir, args.networks, args.seeds, args.report).all_rows()
    if args.report:
        print(write_page(args.output_dir, SETS, settings_of_sets(), ROOT))
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


def parse_arguments(argv):
    parser = CommandParser("networks.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("small", "large"), help="64 + 16 hearts, or 200 + 40 hearts")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try everything; its figures mean nothing")
    parser.add_argument("--output_dir", type=user_path, help="folder of hearts, runs and rows")
    parser.add_argument(
        "--networks", nargs="+", choices=tuple(NETWORKS), help="which (default: all; large: no default)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="which seeds (default: 0 1; large: 0 1 2)")
    parser.add_argument(
        "--report", action="store_true", help="write docs/networks.md and benchmarks/networks.jsonl, after each row too"
    )
    for hidden in ("measure", "hearts"):
        parser.add_argument(f"--{hidden}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--decoded", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        return args
    if not args.output_dir:
        parser.error("the following arguments are required: --output_dir")
    if args.tiny and (args.set or args.report):
        raise InputError.because("--tiny", "its figures mean nothing", "leave out --set and --report")
    if not (args.tiny or args.set or args.report):
        raise InputError.because("", "there is nothing to do", "give --set small, --set large, --tiny or --report")
    if args.set == "large" and not args.networks:
        raise InputError.because("--set large", "--networks is not given", "name the best two of --set small")
    return args


class one_at_a_time:
    """Context in which this process alone works in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        self._file = open(self.folder / ".lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError.because(self.folder, "another comparison works there", "wait for it, or stop it") from None

    def __exit__(self, *exc):
        self._file.close()


def training_options(comparison: Comparison, network: str, seed: int, epochs: int) -> dict:
    """{flag: value} of main_ae.py: the recipe's, for so many epochs, with one validation, at the end."""
    recipe = dataclasses.replace(
        comparison.recipe, heart_passes=comparison.train * epochs, max_epochs=epochs, validations=1
    )
    return {
        **training_flags(recipe, [], comparison.train, 1, seed),
        "grid_size": 24,  # of the validation, which decides nothing here
        "device": "cpu",
        **NETWORKS[network].flags,
    }


def training_words(run_of_rows, network: str, seed: int, epochs: int, output_dir: Path, more: dict) -> list:
    """The command of main_ae.py; `more`: further options of it, which change nothing of what is learned."""
    options = training_options(run_of_rows.comparison, network, seed, epochs)
    return [MAIN_AE, *flags({"data_path": run_of_rows.cases, "output_dir": output_dir, **options, **more})]


def settings_of(comparison: Comparison, network: str) -> str:
    """What a row's figures depend on, as 16 hex digits: rows with others do not count."""
    recipe = comparison.recipe
    content = {
        "version": VERSION,
        "hearts": [comparison.train, comparison.unseen, recipe.phantoms, recipe.prepare],
        "budget_s": comparison.budget_s,
        "environment": ENVIRONMENT,
        "training": {k: v for k, v in training_options(comparison, network, 0, 1000).items() if k != "num_workers"},
        "reconstruct": [recipe.reconstruct, recipe.calibrate],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def settings_of_sets() -> dict:
    return {(name, network): settings_of(chosen, network) for name, chosen in SETS.items() for network in NETWORKS}


class Run:
    """The rows of one comparison in a folder."""

    def __init__(self, comparison: Comparison, output_dir: Path, networks=None, seeds=None, report=False):
        self.comparison, self.output_dir, self.report = comparison, output_dir, report
        self.folder = output_dir / comparison.name
        self.cases, self.rows_file = self.folder / "cases", output_dir / "rows.jsonl"
        # seed by seed: an unfinished table has the same seeds of all networks
        self.rows = [(n, s) for s in seeds or comparison.seeds for n in networks or comparison.networks]

    def all_rows(self) -> list[str]:
        """Makes what is missing; returns a line for each row that failed."""
        failed = []
        self.make_hearts()
        wanted = [row for row in self.rows if not self.is_done(*row)]
        costs = self.costs(list(dict.fromkeys(network for network, _ in wanted)))
        for number, (network, seed) in enumerate(self.rows, 1):
            where = f"[{number}/{len(self.rows)}] {self.comparison.name} {network} seed {seed}"
            if (network, seed) not in wanted:
                say(f"{where}: done before")
                continue
            try:
                if isinstance(costs[network], InputError):
                    raise costs[network]
                row = Row(self, network, seed, where, costs[network]).make()
            except InputError as error:
                failed.append(f"{where}: {error}")
                say(failed[-1])
                continue
            append_text(self.rows_file, json.dumps(row) + "\n")
            self.tell(where, row)
        return failed

    def costs(self, networks: list[str]) -> dict:
        """{network: CPU seconds of its training step and the epochs that fill the budget, or the InputError}.

        Other work on the machine makes a step dearer by some per cent. So the networks are measured in turn, in several
        rounds, and of a network's rounds the cheapest counts. Kept in files: seeds share a cost, and a run that goes on
        keeps its number of epochs."""
        found, files = {}, {n: self.folder / f"cost-{self.folder_name(n)}.json" for n in networks}
        for number in range(1, self.comparison.rounds + 1):
            for network, path in files.items():
                try:
                    rounds = read_json_file(path, [])
                    if len(rounds) < number and network not in found:
                        say(f"{self.comparison.name} {network}: cost of a training step, round {number}")
                        write_text(path, json.dumps([*rounds, self.measure_steps(network)]) + "\n")
                except InputError as error:
                    found[network] = error
        for network in networks:
            if network not in found:
                rounds = read_json_file(files[network], [])
                per_step, per_epoch = min(r["cpu_s_per_step"] for r in rounds), rounds[0]["steps_per_epoch"]
                epochs = max(2, round(self.comparison.budget_s / per_step / per_epoch))
                found[network] = {
                    "cpu_s_per_step": per_step,
                    "steps_per_epoch": per_epoch,
                    "epochs": epochs,
                    "rounds": rounds,
                }
        return found

    def measure_steps(self, network: str) -> dict:
        """One round: the first training steps of a network. cpu_s_per_step: the median of `samples`, CPU seconds of one
        step each; cpu_s: all that the round used. Raises InputError where training failed."""
        settle, wanted = self.comparison.settle, self.comparison.steps
        scratch, log = self.folder / "cost", self.folder / f"cost-{self.folder_name(network)}.txt"
        if scratch.exists():  # of a run that was stopped
            shutil.rmtree(scratch)
        seen, sizes = [], []

        def on_line(line, child):
            if step := STEP.search(line):
                sizes.append(int(step[3]))
                seen.append(child.cpu_s())
                if len(seen) == settle + wanted + 1:
                    child.ask_to_stop()  # it saves and leaves, without a validation

        words = training_words(self, network, 0, 10_000, scratch, {"print_every": 1})
        ended = run(words, log, on_line, (0, EXIT_STOPPED, NOT_FINITE))
        if len(seen) <= settle + 1:
            raise InputError.because(log, f"training ended after {len(seen)} steps", "see its last lines")
        samples = np.diff(seen[settle : settle + wanted + 1])
        per_step = float(np.median(samples))
        if per_step <= 0:
            raise InputError.because(log, "a training step took no measurable CPU time", "see its last lines")
        shutil.rmtree(scratch)
        return {
            "cpu_s_per_step": round(per_step, 4),
            "samples": [round(float(s), 3) for s in samples],
            "steps_per_epoch": sizes[0],
            "cpu_s": round(ended.cpu_s, 2),
        }

    def folder_name(self, network: str, seed: int | None = None) -> str:
        """Of what belongs to a network, or to a row, with the settings that it is made with."""
        of_seed = "" if seed is None else f"-seed{seed}"
        return f"{NETWORKS[network].folder}{of_seed}-{settings_of(self.comparison, network)[:8]}"

    def tell(self, where, row):
        write_text(self.output_dir / "table.md", "\n".join(table_lines(read_rows(self.rows_file), SETS)) + "\n")
        if self.report:
            write_page(self.output_dir, SETS, settings_of_sets(), ROOT)
        figures = row["plain"]
        told = f"mean Dice {figures['dice']:.3f}, coronary {figures['coronary']:.3f}" if figures else row["failure"]
        say(f"{where}: {told}; {row['steps']} steps, {row['cpu_s']:.0f} CPU s of training")

    def is_done(self, network, seed):
        wanted = self.comparison.name, network, seed, settings_of(self.comparison, network)
        rows = read_rows(self.rows_file)
        return any((r["set"], r["network"], r["seed"], r["settings"]) == wanted for r in rows)

    def make_hearts(self):
        """Label maps, case files and split, made or found: each command skips what is done."""
        recipe, unseen = self.comparison.recipe, self.comparison.unseen
        num = self.comparison.train + unseen
        phantoms = {"output_dir": self.folder / "phantoms", "file_workers": THREADS, **recipe.phantoms, "num": num}
        prepare = {"input_dir": self.folder / "phantoms", "output_dir": self.cases, "file_workers": THREADS}
        log = self.folder / "hearts.log"
        self.folder.mkdir(parents=True, exist_ok=True)
        say(f"{self.comparison.name}: {num} hearts in {self.folder} (log: {log})")
        run([ROOT / "make_phantoms.py", *flags(phantoms)], log)
        run([ROOT / "prepare_data.py", "--class_distances", *flags({**prepare, **recipe.prepare})], log)
        ratio = unseen / num
        run([ROOT / "create_csv.py", *flags({"data_dir": self.cases, "val_ratio": ratio, "seed": 0})], log)
        found = [len(read_csv(self.cases / name)) for name in ("train.csv", "val.csv")]
        if found != [self.comparison.train, unseen]:
            raise InputError(self.cases, f"{self.comparison.train} + {unseen} hearts", f"{found[0]} + {found[1]}")


class Row:
    """One network with one seed: from its training to its figures. Everything it makes lies in one folder."""

    def __init__(self, run_of_rows: Run, network: str, seed: int, where: str, cost: dict):
        self.run_of_rows, self.cost = run_of_rows, cost
        self.comparison, self.cases = run_of_rows.comparison, run_of_rows.cases
        self.network, self.seed, self.where = network, seed, where
        self.settings = settings_of(self.comparison, network)
        self.folder = run_of_rows.folder / run_of_rows.folder_name(network, seed)
        self.train_dir, self.log = self.folder / "train", self.folder / "log.txt"

    def make(self) -> dict:
        """The row. Raises InputError where a command failed, KeyboardInterrupt where this process was stopped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        usage, cost = self.train(), self.cost
        row = {
            "set": self.comparison.name,
            "network": self.network,
            "seed": self.seed,
            "settings": self.settings,
            "version": VERSION,
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            **machine(),
            "flags": NETWORKS[self.network].flags,
            "epochs": cost["epochs"],
            "cost": cost,
            **told_of(usage, cost["epochs"] * cost["steps_per_epoch"]),
            "plain": None,
            "tuned": None,
        }
        if usage[-1]["code"] == NOT_FINITE:
            return {**row, "failure": "a loss or gradient was not finite"}
        checkpoint = self.train_dir / "checkpoint-best.pth"
        options = self.comparison.recipe.reconstruct
        row |= self.decoding(checkpoint)
        row["plain"] = self.reconstruct(checkpoint, "plain", options)
        tuning = self.folder / "tuning.json"
        if not tuning.is_file():
            words = {"checkpoint": checkpoint, "csv": self.cases / "train.csv", "output": tuning, "device": "cpu"}
            run(["-m", "vecset.calibrate", *flags({**words, **options, **self.comparison.recipe.calibrate})], self.log)
        row["tuned"] = self.reconstruct(checkpoint, "tuned", {**options, "calibration": tuning})
        return row

    # --- training

    def train(self) -> list[dict]:
        """Trains to the end, or goes on with what is there; returns what every start used, the last one finished."""
        path, cost = self.folder / "usage.json", self.cost
        before = read_json_file(path, [])
        if before and before[-1]["code"] in (0, NOT_FINITE):
            return before
        total = cost["epochs"] * cost["steps_per_epoch"]
        say(
            f"{self.where}: {cost['cpu_s_per_step']:.3f} CPU s per step, {cost['epochs']} epochs of "
            f"{cost['steps_per_epoch']} steps{' (goes on)' if before else ''}; log: {self.log}"
        )
        # the step that this start goes on from; first and last step told, with the CPU seconds of this start at each
        now = {"wall_s": 0.0, "cpu_s": 0.0, "code": None, "from": 0, "first": None, "last": None}
        told = time.monotonic()

        def on_line(line, child):
            nonlocal told
            if resumed := RESUMED.search(line):
                now["from"] = int(resumed[1])
            if not (step := STEP.search(line)):
                return
            done = (int(step[1]) - 1) * int(step[3]) + int(step[2])
            cpu_s = child.cpu_s()
            now.update(wall_s=round(child.wall_s, 2), cpu_s=round(cpu_s, 2), last=[done, round(cpu_s, 3)])
            now["first"] = now["first"] or now["last"]
            write_text(path, json.dumps([*before, now]) + "\n")  # counts where this process is killed
            if time.monotonic() - told >= 30:
                told = time.monotonic()
                say(f"{self.where}: step {done} of {total}, {spent(before) + cpu_s:.0f} CPU s; {line.strip()}")

        often = max(1, min(10, total // 4))
        more = {"print_every": often, "save_every_minutes": 2}
        words = training_words(self.run_of_rows, self.network, self.seed, cost["epochs"], self.train_dir, more)
        ended = Child([sys.executable, *words], self.log, ENVIRONMENT).wait(on_line)
        now.update(wall_s=round(ended.wall_s, 2), cpu_s=round(ended.cpu_s, 2), code=ended.code)
        write_text(path, json.dumps([*before, now]) + "\n")
        must_end_well(ended, words, self.log, (0, NOT_FINITE))
        return [*before, now]

    # --- figures

    def decoding(self, checkpoint: Path) -> dict:
        """What `measure_decoding` finds, in a process of its own."""
        path = self.folder / "decoding.json"
        if not path.is_file():
            options = json.dumps(self.comparison.recipe.reconstruct)
            words = ["--measure", checkpoint, "--hearts", self.cases / "val.csv", "--options", options]
            found = []
            run(
                [Path(__file__), *words, "--decoded", self.comparison.decoded],
                self.log,
                lambda line, child: found.append(line) if line.startswith("{") else None,
            )
            write_text(path, found[-1] + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def reconstruct(self, checkpoint: Path, name: str, options: dict) -> dict:
        """Figures of the unseen hearts by reconstruct.py."""
        say(f"{self.where}: reconstructs the unseen hearts ({name})")
        out = self.folder / name
        words = {"checkpoint": checkpoint, "input": self.cases / "val.csv", "output_dir": out, "device": "cpu"}
        ended = run([ROOT / "reconstruct.py", *flags({**words, "no_meshes": True, **options})], self.log)
        return {**figures_of(out), "cpu_s": round(ended.cpu_s, 1)}


def spent(segments: list[dict]) -> float:
    """CPU seconds of these starts."""
    return sum(segment["cpu_s"] for segment in segments)


def told_of(segments: list[dict], total: int) -> dict:
    """What all starts of a training run used, of `total` steps. train_cpu_s is of the steps alone, also of those that
    were done again after a kill: their number times the CPU seconds per step, measured between the first and the last
    line of every start."""
    measured = [s for s in segments if s["first"] and s["last"][0] > s["first"][0]]
    between = sum(s["last"][0] - s["first"][0] for s in measured)
    per_step = sum(s["last"][1] - s["first"][1] for s in measured) / between if between else None
    reached = [s["last"][0] if s["last"] else s["from"] for s in segments]
    steps = total if segments[-1]["code"] == 0 else max(reached)
    # a start that was asked to stop saved after its last line: the next one goes on from there
    ends = [max(pair) for pair in zip(reached, [*(s["from"] for s in segments[1:]), steps])]
    done = sum(end - s["from"] for s, end in zip(segments, ends))
    return {
        "steps": steps,
        "steps_done_again": done - steps,
        "starts": len(segments),
        "wall_s": round(sum(s["wall_s"] for s in segments), 1),
        "cpu_s": round(spent(segments), 1),
        "train_cpu_s": round(per_step * done, 1) if per_step else None,
        "cpu_s_per_step": round(per_step, 4) if per_step else None,
    }


def figures_of(folder: Path) -> dict:
    """What metrics.json, metrics.csv and result.json of a reconstruction say."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["classes"]
    mean, union = content["mean of classes"], content["union"]
    classes = {name: entry for name, entry in content.items() if name not in ("mean of classes", "union")}
    rows = read_csv(folder / "metrics.csv")
    of_classes = [row for row in rows if row["class_id"] and row["status"] in COUNTED]
    right = [row["components"] == row["truth_components"] for row in of_classes]
    thin = [r for r, row in zip(right, of_classes) if row["class_name"] == "Coronary"]
    hearts = {}
    for row in of_classes:
        hearts.setdefault(row["case_id"], []).append(float(row["dice"] or 0))
    found = {
        "dice": mean["dice"],
        "coronary": classes["Coronary"]["dice"],
        "union": union["dice"],
        "classes": {name: entry["dice"] for name, entry in classes.items()},
        "hd95_mm": mean["hd95_mm"],
        "union_hd95_mm": union["hd95_mm"],
        "missed": sum(row["status"] == "missed" for row in of_classes),
        "components": sum(right) / len(right),
        "coronary_components": sum(thin) / len(thin) if thin else None,
        "hearts": {case_id: round(sum(values) / len(values), 4) for case_id, values in hearts.items()},
    }
    return {**found, **claims_of(list(hearts), folder)}


def claims_of(case_ids: list[str], folder: Path) -> dict:
    """Voxels per heart that several structures claim (overlap) and that none does (unclaimed), by the counts that
    reconstruct.py keeps of networks with class distances (vecset/fields/claims.py); {} for others."""
    counts = []
    for case_id in case_ids:
        result = json.loads((folder / case_id / "result.json").read_text(encoding="utf-8"))
        counts.append(result["decoding"].get("claims"))
    if None in counts:
        return {}
    scale = [count["heart_voxels"] / max(count["looked_at"], 1) for count in counts]
    return {
        f"{ours}_voxels": round(statistics.fmean(s * count[theirs] for s, count in zip(scale, counts)), 1)
        for ours, theirs in (("overlap", "overlaps"), ("unclaimed", "unclaimed"))
    }


def measure_decoding(checkpoint: Path, hearts: Path, count: int, options: dict) -> dict:
    """CPU seconds to encode and to decode a heart on its own grid (this process's, all threads), and gap_voxels (see
    `gap_voxels`): means over the first `count` hearts of a CSV. Besides: parameters of the network, and numbers: how
    many latents a heart has and the numbers of each."""
    from vecset.common.cores import limit_threads

    limit_threads()
    from vecset.data.listed_case import read_listed
    from vecset.fields.decoding import decode_label_map
    from vecset.inference.model import load_model

    model = load_model(checkpoint, device="cpu", **options)
    entries = read_listed(hearts, hearts.parent)[:count]
    found = []
    for entry in [entries[0], *entries]:
        case = model.read(entry)
        began = time.process_time()
        latents = model.encode(case, entry.case_id)
        encoded = time.process_time()
        labels = decode_label_map(model.field(latents), case.frame).labels
        decoded = time.process_time()
        figures = {"encode_cpu_s": encoded - began, "decode_cpu_s": decoded - encoded}
        found.append({**figures, "gap_voxels": gap_voxels(labels, case.truth_labels())})
    del found[0]  # the first call of everything costs more
    means = {name: round(statistics.fmean(f[name] for f in found), 3) for name in found[0]}
    parameters = sum(p.numel() for p in model.network.parameters())
    return {"parameters": parameters, "numbers": list(latents.shape[1:]), **means}


def gap_voxels(labels: np.ndarray, truth: np.ndarray) -> int:
    """Number of voxels that are heart in `truth`, background in `labels`, and have two different classes of `labels`
    among their 26 neighbours. labels, truth: (X, Y, Z) u8."""
    from scipy import ndimage

    around = np.ones((3, 3, 3), bool)
    highest = ndimage.maximum_filter(labels, footprint=around)
    lowest = ndimage.minimum_filter(np.where(labels > 0, labels, 255).astype(np.uint8), footprint=around)
    return int(((truth > 0) & (labels == 0) & (highest > 0) & (highest != lowest)).sum())


# --- commands


def run(words: list, log: Path, on_line=lambda line, child: None, well=(0,)) -> Ended:
    """A Python command to its end, its output in `log`. InputError where its exit code is not in `well`."""
    ended = Child([sys.executable, *words], log, ENVIRONMENT).wait(on_line)
    must_end_well(ended, words, log, well)
    return ended


def must_end_well(ended: Ended, words: list, log: Path, well: tuple) -> None:
    """Raises KeyboardInterrupt where this process was asked to stop, InputError where the command failed."""
    if ended.stopped:
        raise KeyboardInterrupt
    if ended.code not in well:
        name = next(Path(str(word)).name for word in words if word != "-m")
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1][:300]}" if lines else ""
        raise InputError.because(log, f"{name} ended with exit code {ended.code}{last}", "see its last lines")


def read_json_file(path: Path, default):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def commit() -> str:
    """The commit of this repository, with a + where files differ from it; "" where git cannot say."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""


def machine() -> dict:
    import torch

    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "machine": f"{cpu[1].strip() if cpu else platform.processor()}, {THREADS} threads",
        "torch": torch.__version__,
    }


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
