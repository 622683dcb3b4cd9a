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
import datetime
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from cpu_time import ENVIRONMENT, THREADS, Child, must_end_well, run  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402
from networks_figures import figures_of, measure_decoding, read_csv, spent, told_of  # noqa: E402
from networks_page import NETWORKS, read_rows, table_lines, write_page  # noqa: E402
from networks_sets import SETS, VERSION, Comparison, settings_of, settings_of_sets, training_options  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.errors import EXIT_STOPPED, InputError, run_command  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402

NOT_FINITE = 3  # exit code of main_ae.py
STEP = re.compile(r"epoch (\d+)/\d+ step (\d+)/(\d+) \|")
RESUMED = re.compile(r"going on from .* global step (\d+)")
MAIN_AE = ROOT / "vecset" / "main_ae.py"


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


def training_words(run_of_rows, network: str, seed: int, epochs: int, output_dir: Path, more: dict) -> list:
    """The command of main_ae.py; `more`: further options of it, which change nothing of what is learned."""
    options = training_options(run_of_rows.comparison, network, seed, epochs)
    return [MAIN_AE, *flags({"data_path": run_of_rows.cases, "output_dir": output_dir, **options, **more})]


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


def read_json_file(path: Path, default):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


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
