#!/usr/bin/env python
"""Many data sets, one model: what a small data set with more structures adds to a large one, and the other way round.

    python benchmarks/datasets.py --output_dir OUT            200 hearts of ten structures, 22 of fifteen, 20 unseen
    python benchmarks/datasets.py --tiny --output_dir OUT     toy sizes, for the test; its figures mean nothing

A has the ten structures, B these and SVC, IVC, RV wall, LA wall and coronary sinus. Four networks, of the same size:

    A          trained on A alone
    B          trained on B alone, as many steps as A+B
    A+B        trained on both, each heart of B several times per epoch (--weight)
    A then B   the network A, to which the five are added (--init_from): trained on A+B for half the epochs, at a fifth
               of the learning rate and with the shape model of A widened, so that what it has learned stays

Each is scored on hearts that none has seen, whose label maps have all fifteen structures, or the ten:

    ten        the ten are there and given, as in a heart of A
    fifteen    all are there and given
    inferred   all are there, the five are left out and inferred from the ten

Beside `inferred` stand the baselines of completion.py, which learn from B, the only hearts with the five. It goes on
where it was stopped: what is done is skipped. A scored heart is a line in OUT/rows.jsonl; OUT/table.md is written at
the end, with intervals of 95 % by bootstrap over hearts.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

from completion_table import BASELINES, Row, mean_of, read_records, with_interval  # noqa: E402
from cpu_time import run  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads, usable_cores  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402

VERSION = 3  # of the comparison: rows of another one do not count
TEN, FIVE = list(HEART_CLASSES), list(HEART16_CLASSES[10:15])
FIFTEEN = [*TEN, *FIVE]  # the sixteenth is reserved: nobody looked for it


@dataclass(frozen=True)
class Sizes:
    """One size of the comparison: numbers of hearts, voxels along an axis, the options of prepare_data.py and of
    main_ae.py, those of vecset/shape_model.py and vecset/calibrate.py, epochs of A, and every n-th voxel is scored."""

    ten: int = 200
    fifteen: int = 22
    unseen: int = 20
    size: int = 128
    epochs: int = 60
    every: int = 2
    prepare: dict = field(default_factory=dict)
    modes: int = 24
    tuned_on: int = 8
    train: dict = field(
        default_factory=lambda: {
            "model": "point_vec256x16_dim128_depth4_nb",
            "point_cloud_size": 2048,
            "anchors": True,
            "rotary": True,
            "fps_class_gap": 2,
            "fps_density": "auto",
            "batch_size": 8,
            "surface_loss_points": 512,
            "near_points": 512,
            "inside_points": 256,
            "outside_points": 256,
            "balance": 0.5,
            "augment_rotation": 20,
            "eikonal_points": 64,
            "class_loss": "softmax",
            "class_weight": 5,
            "optimizer": "muon",
            "lr": 5e-3,
            "beta2": 0.95,
            "weight_decay": 0.01,
            "num_workers": 1,
            "warmup_epochs": 2,
            "observe": "classes=0.4,few=0.05",
        }
    )


REAL = Sizes()
TINY = Sizes(
    ten=4,
    fifteen=3,
    unseen=1,
    size=64,
    epochs=2,
    every=4,
    prepare={"num_surface_points": 4000, "num_vol_points": 4000, "num_near_points": 4000},
    modes=2,
    tuned_on=2,
    train={
        **REAL.train,
        "model": "point_vec20x4_dim32_depth1_nb",
        "point_cloud_size": 256,
        "batch_size": 2,
        "surface_loss_points": 64,
        "near_points": 64,
        "inside_points": 32,
        "outside_points": 32,
        "eikonal_points": 16,
        "num_workers": 0,
        "warmup_epochs": 1,
    },
)
NETWORKS = ("A", "B", "A+B", "A then B")
BASELINE = "baselines of B"  # in the place of a network's name in the lines
FOLDERS = {"A": "A", "B": "B", "A+B": "AB", "A then B": "A_then_B"}


def main(argv=None):
    parser = CommandParser("datasets.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=user_path, required=True, help="folder of hearts, networks, rows and table")
    add("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="these alone (default: all)")
    add("--weight", type=int, default=4, help="how often each heart of B is drawn per epoch (default: 4)")
    add("--epochs", type=int, help=f"of A; the others' follow (default: {REAL.epochs})")
    add("--num_surface_points", type=int, default=8192, help="as for reconstruct.py (default: 8192)")
    add("--num_latents", type=int, default=512, help="as for reconstruct.py (default: 512)")
    add("--seed", type=int, default=0, help="of training (default: 0)")
    add("--tiny", action="store_true", help="toy sizes, whose figures mean nothing")
    args = parser.parse_args(argv)
    for name in ("weight", "epochs", "num_surface_points", "num_latents"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name}", "at least 1", getattr(args, name))
    limit_threads()  # before torch is imported
    keep_freed_memory()
    require_writable(args.output_dir)
    with one_at_a_time(args.output_dir):
        comparison = Comparison(args)
        comparison.make_hearts()
        for network in args.networks:
            comparison.train(network)
            comparison.score(network)
        print(comparison.write_table())
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """The four networks of one command line."""

    def __init__(self, args):
        self.args, self.sizes, self.folder = args, TINY if args.tiny else REAL, args.output_dir
        self.epochs = args.epochs or self.sizes.epochs
        self.log, self.rows_file = self.folder / "log.txt", self.folder / "rows.jsonl"
        content = {"version": VERSION, **vars(self.sizes), "epochs": self.epochs, "weight": args.weight}
        content |= {"points": args.num_surface_points, "latents": args.num_latents, "seed": args.seed}
        self.settings = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        if "A then B" in args.networks:
            before = args.networks[: args.networks.index("A then B")]
            if "A" not in before and not (self.folder / "A" / "tuning.json").is_file():
                raise InputError("--networks", "A before 'A then B', which begins with it", " ".join(args.networks))
        if any(record["settings"] != self.settings for record in read_records(self.rows_file)[0]):
            raise InputError.because(
                self.rows_file, "it has rows of other options", "give another --output_dir, or move this file elsewhere"
            )

    # --- hearts

    def make_hearts(self):
        """Label maps, case files and CSVs, made or found: each command skips what is done."""
        sizes, cases = self.sizes, self.folder / "cases"
        populations = {"A": (sizes.ten, 10, 0), "B": (sizes.fifteen, 16, 1)}
        populations |= {"unseen_ten": (sizes.unseen, 10, 2), "unseen": (sizes.unseen, 16, 2)}
        say(
            f"{sizes.ten} hearts of ten structures, {sizes.fifteen} of fifteen, {sizes.unseen} unseen (log: {self.log})"
        )
        workers, table = {"file_workers": usable_cores()}, self.folder / "fifteen.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(table, json.dumps([{"id": c, "name": name} for c, name in enumerate(FIFTEEN, 1)]) + "\n")
        for name, (num, structures, seed) in populations.items():
            maps = self.folder / "labels" / name
            made = {"output_dir": maps, "num": num, "size": sizes.size, "seed": seed, "structures": structures}
            self.command(ROOT / "make_phantoms.py", {**made, **workers})
            prepared = {"input_dir": maps, "output_dir": cases / name, **sizes.prepare, **workers}
            prepared["classes"] = "heart10" if structures == 10 else table
            self.command(ROOT / "prepare_data.py", prepared)
        for network, sets in {"A": ["A"], "B": ["B"], "A+B": ["A", "B"]}.items():
            of_val = "unseen_ten" if network == "A" else "unseen"
            listed = {name: {"folder": str(cases / name), "split": "train"} for name in sets}
            listed[of_val] = {"folder": str(cases / of_val), "split": "val"}
            if network == "A+B":
                listed["B"]["weight"] = self.args.weight
            out = self.split(network)
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / "datasets.json", json.dumps(listed, indent=1) + "\n")
            self.command(ROOT / "create_csv.py", {"datasets": out / "datasets.json", "output_dir": out})

    def split(self, network: str) -> Path:
        """The folder with the CSVs that a network is trained with."""
        return self.folder / "splits" / FOLDERS["A+B" if network == "A then B" else network]

    def command(self, script, options: dict):
        run([*([script] if isinstance(script, Path) else ["-m", script]), *flags(options)], self.log)

    # --- networks

    def train(self, network: str):
        """Trains to the end, or goes on; then tunes decisions on hearts of training."""
        folder, split = self.folder / FOLDERS[network], self.split(network)
        checkpoint = folder / "train" / "checkpoint-last.pth"
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "tuning.json").is_file():
            return
        say(f"trains {network}: {self.epochs_of(network)} epochs (log: {self.log})")
        began = time.monotonic()
        shapes, made = split / "shape_model.npz", {"modes": self.sizes.modes}
        if network == "A then B":
            shapes, made = folder / "shape_model.npz", {"widen": self.split("A") / "shape_model.npz"}
        if not shapes.is_file():
            self.command("vecset.shape_model", {"csv": split / "train.csv", "output": shapes, **made})
        options = {**self.sizes.train, "shape_model": shapes, "epochs": self.epochs_of(network)}
        options |= {"data_path": split, "output_dir": folder / "train", "seed": self.args.seed, "device": "cpu"}
        options |= {"eval_every": self.epochs_of(network), "grid_size": 16}
        if network == "A then B":
            options["init_from"] = self.folder / "A" / "train" / "checkpoint-last.pth"
            options["lr"] = options["lr"] / 5
        self.command(ROOT / "vecset" / "main_ae.py", options)
        tuned = {"checkpoint": checkpoint, "csv": split / "train.csv", "output": folder / "tuning.json"}
        tuned |= {"hearts": self.sizes.tuned_on, "device": "cpu", **self.at_inference()}
        self.command("vecset.calibrate", tuned)
        say(f"trained {network} in {(time.monotonic() - began) / 60:.1f} minutes")

    def at_inference(self) -> dict:
        if self.args.tiny:
            return {}
        return {"num_surface_points": self.args.num_surface_points, "num_latents": self.args.num_latents}

    def epochs_of(self, network: str) -> int:
        """Those of A for A and A+B, half for what is added later; of B, as many as make the steps of A+B."""
        if network == "B":
            hearts = self.sizes.ten + self.args.weight * self.sizes.fifteen
            return -(-self.epochs * self.steps(hearts) // self.steps(self.sizes.fifteen))
        return max(2, self.epochs // 2) if network == "A then B" else self.epochs

    def steps(self, hearts: int) -> int:
        return -(-hearts // self.sizes.train["batch_size"])  # the last batch of an epoch may be smaller

    # --- figures

    def score(self, network: str):
        """A line for each unseen heart and row that has none."""
        from vecset.inference.inputs import find_hearts
        from vecset.inference.model import load_model
        from vecset.report.completion import LeftOut, UnseenHeart, dice_by_name, infer

        records, whole = read_records(self.rows_file)
        if not whole:  # a kill has cut the last line
            write_text(self.rows_file, "".join(json.dumps(record) + "\n" for record in records))
        done = {(record["network"], record["row"], record["heart"]) for record in records}
        folder = self.folder / FOLDERS[network]
        model = load_model(
            folder / "train" / "checkpoint-last.pth",
            device="cpu",
            decision_tuning=folder / "tuning.json",
            **self.at_inference(),
        )
        names = list(model.class_names)
        five = LeftOut("inferred", tuple(names.index(name) + 1 for name in FIVE if name in names))
        everything = LeftOut("whole")
        rows = {"ten": ("unseen_ten", everything)}
        if five.hidden:
            rows |= {"fifteen": ("unseen", everything), "inferred": ("unseen", five)}
        for row, (data, left_out) in rows.items():
            for entry in find_hearts(self.folder / "cases" / data, None, say=say):
                if (network, row, entry.case_id) in done:
                    continue
                heart = UnseenHeart(model, entry, None, self.sizes.every)
                reason = heart.lacks(left_out)
                if reason:
                    raise InputError.because(entry.path, reason, "this benchmark needs hearts that have all structures")
                case = heart.case(left_out)
                dice = {"network": dice_by_name(heart.whole, infer(model, case, entry.case_id, say=say))}
                record = {"row": row, "heart": entry.case_id, "hidden": FIVE if left_out.hidden else []}
                self.keep({**record, "network": network, "dice": dice})
                if left_out.hidden and (BASELINE, row, entry.case_id) not in done:
                    answers = self.baselines.labels(heart, left_out)
                    dice = {name: dice_by_name(heart.whole, a, classes=five.hidden) for name, a in answers.items()}
                    self.keep({**record, "network": BASELINE, "dice": dice})

    def keep(self, record: dict):
        append_text(self.rows_file, json.dumps({**record, "pooled": {}, "settings": self.settings}) + "\n")
        for name, dice in record["dice"].items():
            shown = [dice.get(c) or 0.0 for c in record["hidden"] or dice]
            say(f"{record['network']}, {record['row']}, {record['heart']}: {name} {sum(shown) / len(shown):.3f}")

    @functools.cached_property
    def baselines(self):
        """Those that learn from B."""
        from baseline_answers import BaselineAnswers

        return BaselineAnswers(sorted((self.folder / "cases" / "B").glob("*.npz")), len(FIFTEEN))

    def write_table(self) -> str:
        text = "\n".join(table_of(read_records(self.rows_file)[0])) + "\n"
        write_text(self.folder / "table.md", text)
        return text


def table_of(records: list[dict]) -> list[str]:
    """Markdown: means of the ten and of the five per network, each of the five, and the paired difference to A."""
    found = {}
    for network in (*NETWORKS, BASELINE):
        mine = [record for record in records if record["network"] == network]
        found |= {(network, row): Row(row, mine) for row in ("ten", "fifteen", "inferred")}
    lines = ["| Dice of the ten | " + " | ".join(NETWORKS) + " |", "|---" * (1 + len(NETWORKS)) + "|"]
    alone = found["A", "ten"].dice("network", TEN)
    for row, words in (("ten", "hearts of ten"), ("fifteen", "hearts of fifteen")):
        cells = []
        for network in NETWORKS:
            table = found[network, row].dice("network", TEN)
            cell = with_interval(table)
            if row == "ten" and network != "A" and table is not None and alone is not None and len(table) == len(alone):
                cell += f"; less that of A {with_interval(table - alone, '+')}"
            cells.append(cell)
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    columns = [(network, "network", network) for network in NETWORKS[1:]]
    columns += [(BASELINE, name, name.replace("_", " ") + " of B") for name in BASELINES]
    for row, words in (("fifteen", "the five, given"), ("inferred", "the five, inferred from the ten")):
        shown = [c for c in columns if c[1] == "network" or row == "inferred"]
        lines += ["", f"| {words} | " + " | ".join(c[2] for c in shown) + " |", "|---" * (1 + len(shown)) + "|"]
        for names, title in [([name], name) for name in FIVE] + [(FIVE, "mean")]:
            tables = [found[network, row].dice(method, names) for network, method, _ in shown]
            if title == "mean":
                cells = [with_interval(table) for table in tables]
            else:
                cells = ["" if table is None else f"{mean_of(table):.3f}" for table in tables]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    hearts = max((len(row.records) for row in found.values()), default=0)
    return [f"{hearts} unseen hearts.", "", *lines]


if __name__ == "__main__":
    sys.exit(run_command(main))
