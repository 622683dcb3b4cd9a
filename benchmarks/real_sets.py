#!/usr/bin/env python
"""Four data sets that share little, one network: does each do as well as in a network of its own?

    python benchmarks/real_sets.py --real DIR --output_dir OUT            DIR: real label maps (below)
    python benchmarks/real_sets.py --tiny --output_dir OUT                toy sizes of synthetic hearts, for the test

| set | structures | learned from | scored on |
|---|---|---|---|
| whole_hearts | seven (Myocardium, LA, LV, RA, RV, aorta, PA) | DIR/draws, random hearts | DIR/patients |
| acdc | RV, myocardium, LV, in slices of 5 to 10 mm | the first four fifths of DIR/acdc | the others |
| hippocampus | two, of another organ | the first four fifths of DIR/hippocampus | the others |
| phantoms | ten | the first four fifths of 80 synthetic hearts | the others |

Nine networks of one size and of the same options: one of all sets together, and two of each. The first passes through
its set as often as the network of all does; the second (SET_longer) takes as many steps, so it sees each heart far more
often. A set is scored by reconstruct.py on its hearts' own grids, with the decisions of each network tuned on hearts of
training. It goes on where it was stopped. OUT/table.md has the mean Dice of each set, and the difference heart by heart
with an interval of 95 % by bootstrap over hearts.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from completion_table import with_interval  # noqa: E402
from cpu_time import run  # noqa: E402
from datasets import REAL as DATASETS  # noqa: E402
from datasets import TINY as TINY_DATASETS  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402
from networks_figures import read_csv  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads, usable_cores  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402

ALL = "all"
SETS = ("whole_hearts", "acdc", "hippocampus", "phantoms")
LONGER = "_longer"
NETWORKS = (ALL, *SETS, *(name + LONGER for name in SETS))
UNSEEN = {name: f"{name}_unseen" for name in SETS} | {"whole_hearts": "patients"}
HIPPOCAMPUS = [{"id": 1, "name": "Anterior hippocampus"}, {"id": 2, "name": "Posterior hippocampus"}]


def main(argv=None):
    parser = CommandParser("real_sets.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=user_path, required=True, help="folder of cases, networks, results and table")
    add("--real", type=user_path, help="folder of draws, patients, acdc and hippocampus (needed without --tiny)")
    add("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="these alone (default: every one)")
    add("--epochs", type=int, default=16, help="passes through each set (default: 16)")
    add("--seed", type=int, default=0, help="of training (default: 0)")
    add("--tiny", action="store_true", help="toy sizes, whose figures mean nothing")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        raise InputError("--epochs", "at least 1", args.epochs)
    if not args.tiny and not (args.real and args.real.is_dir()):
        raise InputError("--real", "the folder of real label maps, or --tiny", args.real)
    limit_threads()
    require_writable(args.output_dir)
    with one_at_a_time(args.output_dir):
        comparison = Comparison(args)
        comparison.make_hearts()
        for network in args.networks:
            comparison.train(network)
            comparison.score(network)
        text = comparison.table()
        write_text(args.output_dir / "table.md", text)
        print(text)
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """The networks of one command line."""

    def __init__(self, args):
        self.args, self.folder, self.log = args, args.output_dir, args.output_dir / "log.txt"
        sizes = TINY_DATASETS if args.tiny else DATASETS
        self.prepare, self.options = sizes.prepare, {k: v for k, v in sizes.train.items() if k != "observe"}
        self.at_inference = {} if args.tiny else {"num_surface_points": 8192, "num_latents": 512}
        settings = self.folder / "settings.json"
        mine = {"epochs": args.epochs, "seed": args.seed, "tiny": args.tiny, "real": str(args.real)}
        if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")) != mine:
            raise InputError.because(settings, "it has other options", "give another --output_dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(settings, json.dumps(mine) + "\n")

    def sources(self) -> dict:
        """{folder of cases: (folder of label maps, how many synthetic hearts to make there or 0, options of
        prepare_data.py)}."""
        table, labels, real = self.folder / "hippocampus.json", self.folder / "labels", self.args.real
        write_text(table, json.dumps(HIPPOCAMPUS) + "\n")
        if self.args.tiny:  # hearts in the place of everything
            there = {
                "whole_hearts": HEART_CLASSES[:7],
                "patients": HEART_CLASSES[:7],
                "acdc": ["Myocardium", "LV", "RV"],
            }
            found = {}
            for name in ("whole_hearts", "patients", "acdc", "hippocampus", "phantoms"):
                found[name] = (labels / name, 5, {})
                if name in there:
                    mapping = self.folder / f"{name}.json"
                    values = {str(HEART_CLASSES.index(structure) + 1): structure for structure in there[name]}
                    write_text(mapping, json.dumps({"values": values, "others": "background"}) + "\n")
                    found[name] = (labels / name, 5, {"label_mapping": mapping})
            return found
        seven = {"annotated": "1,2,3,4,5,6,7"}
        return {
            "whole_hearts": (real / "draws", 0, seven),
            "patients": (real / "patients", 0, seven),
            "acdc": (real / "acdc", 0, {"label_mapping": "acdc", "spacing_from": "pixdim"}),
            "hippocampus": (real / "hippocampus", 0, {"classes": table}),
            "phantoms": (labels / "phantoms", 80, {}),
        }

    def make_hearts(self):
        """Case files and CSVs, made or found: each command skips what is done."""
        workers, cases = {"file_workers": usable_cores()}, self.folder / "cases"
        say(f"makes case files (log: {self.log})")
        for seed, (name, (maps, num, options)) in enumerate(self.sources().items(), 10):
            if num:
                made = {"output_dir": maps, "num": num, "size": 64 if self.args.tiny else 112, "seed": seed}
                self.command(ROOT / "make_phantoms.py", {**made, **workers})
            prepared = {"input_dir": maps, **self.prepare, **options, **workers}
            if name not in ("whole_hearts", "patients"):  # the last fifth is not learned from
                last = 4 * len(list(maps.glob("*.nii.gz"))) // 5
                self.command(
                    ROOT / "prepare_data.py",
                    {**prepared, "output_dir": cases / UNSEEN[name], "start_idx": last},
                )
                prepared["end_idx"] = last
            self.command(ROOT / "prepare_data.py", {**prepared, "output_dir": cases / name})
        for network in (ALL, *SETS):
            listed = {}
            for name in SETS if network == ALL else (network,):
                listed[name] = {"folder": str(cases / name), "split": "train"}
                listed[UNSEEN[name]] = {"folder": str(cases / UNSEEN[name]), "split": "val"}
            split = self.folder / "splits" / network
            split.mkdir(parents=True, exist_ok=True)
            write_text(split / "datasets.json", json.dumps(listed, indent=1) + "\n")
            self.command(ROOT / "create_csv.py", {"datasets": split / "datasets.json", "output_dir": split})

    def split(self, network: str) -> Path:
        """The folder with the CSVs that a network is trained with."""
        return self.folder / "splits" / network.removesuffix(LONGER)

    def epochs_of(self, network: str) -> int:
        """Of a network that is trained longer, as many as make the steps of that of all."""
        if not network.endswith(LONGER):
            return self.args.epochs
        return -(-self.args.epochs * self.steps(ALL) // self.steps(network))

    def steps(self, network: str) -> int:
        """Of an epoch."""
        return -(-len(read_csv(self.split(network) / "train.csv")) // self.options["batch_size"])

    def scored(self, network: str) -> dict:
        """{case id: (set, file)} of the hearts that a network is scored on."""
        rows = read_csv(self.split(network) / "val.csv")
        return {row["case_id"]: (row["dataset"], row["file"]) for row in rows}

    def command(self, script, options: dict, well=(0,)):
        run([*([script] if isinstance(script, Path) else ["-m", script]), *flags(options)], self.log, well=well)

    def train(self, network: str):
        """Trains to the end, or goes on; then tunes decisions on hearts of training."""
        folder, split, epochs = self.folder / network, self.split(network), self.epochs_of(network)
        folder.mkdir(exist_ok=True)
        if (folder / "tuning.json").is_file():
            return
        say(f"trains {network}")
        options = {**self.options, "data_path": split, "output_dir": folder / "train", "epochs": epochs}
        options |= {"seed": self.args.seed, "device": "cpu", "eval_every": epochs, "grid_size": 16}
        self.command(ROOT / "vecset" / "main_ae.py", options)
        tuned = {"checkpoint": folder / "train" / "checkpoint-last.pth", "csv": split / "train.csv", "hearts": 16}
        tuned |= {"output": folder / "tuning.json", "device": "cpu", **self.at_inference}
        self.command("vecset.calibrate", tuned)

    def score(self, network: str):
        folder = self.folder / network
        options = {"checkpoint": folder / "train" / "checkpoint-last.pth", "calibration": folder / "tuning.json"}
        options |= {"input": self.split(network) / "val.csv", "output_dir": folder / "result"}
        options |= {"no_meshes": True, "device": "cpu", **self.at_inference}
        say(f"scores {network}")
        self.command(ROOT / "reconstruct.py", options)

    def table(self) -> str:
        """Markdown: each set in the network of all, in its own two, and the differences."""
        together = self.dice_of(ALL)
        head = (
            "| set | hearts | all together | alone, as many passes | difference | alone, as many steps | difference |"
        )
        lines = [head, "|---" * 7 + "|"]
        for name in SETS:
            cells = []
            for network in (name, name + LONGER):
                alone = self.dice_of(network)
                hearts = sorted(alone.keys() & together.keys())
                if not hearts:
                    cells += ["", ""]
                    continue
                a, b = (np.array([[found[heart]] for heart in hearts]) for found in (together, alone))
                cells += [with_interval(b), with_interval(a - b, "+")]
            mine = [value for (data, _), value in together.items() if data == UNSEEN[name]]
            if not any(cells):  # nothing to compare with
                continue
            of_all = with_interval(np.array(mine)[:, None]) if mine else ""
            lines.append("| " + " | ".join([name, str(len(mine)), of_all, *cells]) + " |")
        return "\n".join(lines) + "\n"

    def dice_of(self, network: str) -> dict:
        """{(set, file): mean Dice over the heart's structures}, {} where nothing is scored yet."""
        metrics, scored = self.folder / network / "result" / "metrics.csv", self.scored(network)
        found: dict = {}
        for row in read_csv(metrics) if metrics.is_file() else ():
            if row["dice"] and row["class_id"]:  # not the union
                found.setdefault(scored[row["case_id"]], []).append(float(row["dice"]))
        return {heart: float(np.mean(values)) for heart, values in found.items()}


if __name__ == "__main__":
    sys.exit(run_command(main))
