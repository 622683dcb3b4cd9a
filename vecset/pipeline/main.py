#!/usr/bin/env python3
"""From label maps to reconstructed hearts in one go: the main job.

    bash run_train.sh                                      synthetic hearts, results under output/demo/
    bash run_train.sh --input_dir LABELS --output_dir OUT  the same on your own label maps (.nii.gz, .nii, .nrrd, .mha)

Seven stages, each a command of its own that also works alone:
  1  make_phantoms.py        synthetic ten-structure hearts  -> OUT/labels/      (not with --input_dir)
  2  prepare_data.py         label maps                      -> OUT/cases/*.npz
  3  create_csv.py           training and validation hearts  -> OUT/cases/train.csv, val.csv
  4  check_data_quality.py   is the data right?              -> OUT/quality/     (a bad verdict ends the job)
  5  vecset/main_ae.py       training                        -> OUT/train/
  6  vecset/calibrate.py     what decides, on training hearts -> OUT/calibration.json (not with --overfit)
  7  reconstruct.py          the validation hearts           -> OUT/reconstruction/, and the table on the terminal
"""

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT)] + [p for p in sys.path if p not in (str(ROOT), str(Path(__file__).resolve().parent))]

from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.pipeline.recipes import RECIPES, flags  # noqa: E402
from vecset.pipeline.stages import Stage, Stamps, contents, listing, move_aside, run_stage  # noqa: E402

OWN_TRAINING_OPTIONS = ("--data_path", "--csv_dir", "--output_dir", "--resume", "--eval")
EPILOG = """\
Time: at most 20 minutes on two cores without arguments, installation included; training takes most of it and stops
after 11 minutes at the latest. Expect a progress bar with the time left at every stage, and at the end a table with the
Dice and IoU of each structure, beside what the mean shape and the nearest heart of the training set would score.
Measured times and figures: docs/log.md.

Run again, it goes on where it was stopped (Ctrl-C is fine), and says within seconds when all is done. A stage whose
inputs, options or code changed is done again, and so are the stages behind it; an earlier training run is then moved
to OUT/train.old-N, never deleted. A single label map is trained on and reconstructed itself (--overfit): that shows
how well the model can describe it, not how well it does on unseen hearts.

Everything behind `--` goes to the training command (python vecset/main_ae.py --help), for example
    bash run_train.sh --input_dir LABELS --output_dir OUT -- --epochs 400 --wandb offline
"""


def get_parser():
    parser = argparse.ArgumentParser(
        "run_train.sh",
        description=__doc__,
        epilog=EPILOG,
        usage="bash run_train.sh [options] [-- training options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input_dir",
        type=Path,
        metavar="LABELS",
        help="folder of label maps (default: none, synthetic hearts are made)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="OUT",
        default=ROOT / "output" / "demo",
        help="everything is written here (default: output/demo in the repository)",
    )
    parser.add_argument("--classes", type=int, default=10, help="number of structures, labels 1..C (default: 10)")
    parser.add_argument(
        "--label_map",
        metavar="FILE",
        help="JSON that maps your label values to 1..C, as prepare_data.py takes it (default: none)",
    )
    parser.add_argument(
        "--prepare_options",
        metavar="WORDS",
        default="",
        help='more options of prepare_data.py in one string, as "--annotated 1,2,3" (default: none)',
    )
    parser.add_argument(
        "--val_ratio",
        type=float,
        help="share of the hearts that are held back for validation, 0 to 1 (default: the recipe's, 0.2 "
        "or for cpu_long and gpu a sixth)",
    )
    parser.add_argument(
        "--overfit",
        action="store_true",
        help="train on all hearts and validate on the same ones (by itself with a single heart)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of hearts, points, split and training (default: 0)")
    parser.add_argument(
        "--recipe",
        choices=("auto", *RECIPES),
        default="auto",
        help="sizes of model and data; auto: gpu where PyTorch finds CUDA, else cpu; cpu_long: two "
        "hours on two cores instead of ten minutes; tiny: for tests, its figures mean nothing "
        "(default: auto)",
    )
    parser.add_argument(
        "--file_workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that make, prepare and check data (default: one per core, here %(default)s)",
    )
    parser.add_argument(
        "--keep_going",
        action="store_true",
        help="go on although some label maps could not be "
        "prepared, or although the quality verdict is bad; it is said again at the end",
    )
    return parser


def find_gpus():
    """Number of CUDA devices. PyTorch, which takes seconds to import, is only asked where a driver is there."""
    driver = any(Path(p).exists() for p in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if not driver and shutil.which("nvidia-smi") is None:
        return 0
    words = [sys.executable, "-c", "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return int(answer.stdout.split()[-1]) if answer.returncode == 0 else 0


class Pipeline:
    """The stages for one set of arguments. Paths: labels, cases, quality, train, reconstruction under OUT."""

    def __init__(self, args, training_words, say):
        self.args, self.say, self.training_words = args, say, training_words
        self.out = args.output_dir.resolve()
        self.labels = args.input_dir.resolve() if args.input_dir else self.out / "labels"
        self.cases, self.quality = self.out / "cases", self.out / "quality"
        self.train, self.reconstruction = self.out / "train", self.out / "reconstruction"
        self.calibration = self.out / "calibration.json"
        self.gpus = find_gpus() if args.recipe in ("auto", "gpu") else 0
        self.recipe_name = args.recipe if args.recipe != "auto" else ("gpu" if self.gpus else "cpu")
        self.recipe = RECIPES[self.recipe_name]
        self.val_ratio = self.recipe.val_ratio if args.val_ratio is None else args.val_ratio

    def label_maps(self):
        """The label maps; none where the folder is not there yet or has none."""
        from vecset.imaging.label_map import find_label_maps  # here, so that --help needs no package

        try:
            return find_label_maps(self.labels)
        except InputError:
            return []

    def case_files(self):
        return sorted(p for p in self.cases.glob("*.npz") if not p.name.startswith("."))

    def stages(self):
        """The stages in order."""
        python, args, recipe = sys.executable, self.args, self.recipe
        seed = {"seed": args.seed}
        # 1: some hearts failed, or the verdict is bad; anything else is no result that one could go on with
        going_on = {"accept": lambda exit_code: exit_code in (0, 1)} if args.keep_going else {}
        stages = []

        if not args.input_dir:
            options = {**recipe.phantoms, **seed}
            stages.append(
                Stage(
                    "phantoms",
                    f"synthetic hearts: {options['num']} at {options['size']}^3",
                    ROOT / "make_phantoms.py",
                    inputs=dict,
                    options=options,
                    outputs=self.label_maps,
                    put_away=lambda old, wanted: self.remove_made(self.label_maps(), old, self.labels),
                    command=lambda resumed: [
                        python,
                        ROOT / "make_phantoms.py",
                        "--output_dir",
                        self.labels,
                        *flags({**options, "file_workers": args.file_workers}),
                    ],
                )
            )

        more = shlex.split(args.prepare_options)
        prepare = {"classes": args.classes, **recipe.prepare, **seed}
        label_map = args.label_map and self.readable(args.label_map)
        stages.append(
            Stage(
                "prepare",
                "case files from the label maps",
                ROOT / "prepare_data.py",
                inputs=lambda: listing(self.label_maps(), self.labels),
                options={
                    **prepare,
                    "label_map": contents([label_map], label_map.parent) if label_map else args.label_map,
                    "prepare_options": more,
                },
                outputs=self.case_files,
                put_away=self.remove_outdated_cases,
                **going_on,
                command=lambda resumed: [
                    python,
                    ROOT / "prepare_data.py",
                    "--input_dir",
                    self.labels,
                    "--output_dir",
                    self.cases,
                    *flags({**prepare, "label_map": label_map or args.label_map, "file_workers": args.file_workers}),
                    *more,
                ],
            )
        )

        stages.append(
            Stage(
                "splits",
                "training and validation hearts",
                ROOT / "create_csv.py",
                inputs=lambda: listing(self.case_files(), self.cases),
                options={"val_ratio": self.val_ratio, "overfit": self.overfit(), **seed},
                outputs=self.csv_files,
                work=self.write_overfit_split if self.overfit() else None,
                command=lambda resumed: [
                    python,
                    ROOT / "create_csv.py",
                    "--data_dir",
                    self.cases,
                    "--output_dir",
                    self.cases,
                    "--val_ratio",
                    self.val_ratio,
                    "--seed",
                    args.seed,
                ],
            )
        )

        stages.append(
            Stage(
                "quality",
                "quality of the case files",
                ROOT / "check_data_quality.py",
                inputs=lambda: listing(self.case_files(), self.cases),
                options={},
                outputs=lambda: [p for p in self.quality.glob("*") if p.is_file()],
                **going_on,
                command=lambda resumed: [
                    python,
                    ROOT / "check_data_quality.py",
                    self.cases,
                    "--report",
                    self.quality,
                    "--file_workers",
                    args.file_workers,
                ],
            )
        )

        stages.append(
            Stage(
                "train",
                f"training, recipe {self.recipe_name}",
                ROOT / "vecset" / "main_ae.py",
                inputs=lambda: {**listing(self.case_files(), self.cases), **contents(self.csv_files(), self.cases)},
                options={
                    "words": self.training_words,
                    "recipe": str(recipe),
                    "gpus": self.gpus,
                    "classes": args.classes,
                    **seed,
                },
                outputs=lambda: self.there(self.train / "checkpoint-best.pth", self.train / "checkpoint-last.pth"),
                put_away=self.move_training_aside,
                command=self.training_command,
            )
        )

        if not self.overfit():
            stages.append(
                Stage(
                    "calibrate",
                    "calibration on training hearts",
                    ROOT / "vecset" / "calibrate.py",
                    inputs=lambda: {
                        **listing([self.train / "checkpoint-best.pth"], self.train),
                        **listing(self.case_files(), self.cases),
                        **contents(self.csv_files(), self.cases),
                    },
                    options={**self.encoding(), **seed},
                    outputs=lambda: self.there(self.calibration),
                    command=lambda resumed: [
                        python,
                        ROOT / "vecset" / "calibrate.py",
                        "--checkpoint",
                        self.train / "checkpoint-best.pth",
                        "--csv",
                        self.cases / "train.csv",
                        "--output",
                        self.calibration,
                        *flags({**self.encoding(), **seed}),
                    ],
                )
            )

        stages.append(
            Stage(
                "reconstruct",
                "reconstruction of the validation hearts",
                ROOT / "reconstruct.py",
                inputs=lambda: {
                    **listing([self.train / "checkpoint-best.pth"], self.train),
                    **listing(self.case_files(), self.cases),
                    **contents(self.csv_files(), self.cases),
                    **contents(self.there(self.calibration), self.out),
                },
                options={**self.reconstruction_options(), "calibrated": not self.overfit()},
                outputs=lambda: self.there(self.reconstruction / "metrics.csv", self.reconstruction / "metrics.json"),
                put_away=lambda old, wanted: move_aside(self.reconstruction),
                command=self.reconstruct_command,
            )
        )
        return stages

    def encoding(self):
        """How hearts are read: the same where the calibration is found and where it is used."""
        return {flag: self.reconstruction_options().get(flag) for flag in ("num_surface_points", "num_latents")}

    def own_model(self):
        """The name of the model that the user trains instead of the recipe's, or None."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--model")
        return parser.parse_known_args(self.training_words)[0].model

    def reconstruction_options(self):
        """The recipe's, but for the number of latents where the model has another name."""
        return {**self.recipe.reconstruct, **({"num_latents": None} if self.own_model() else {})}

    @staticmethod
    def there(*paths):
        return list(paths) if all(p.is_file() for p in paths) else []

    @staticmethod
    def readable(path):
        """The path as absolute; what is no file (the name of a preset, say) is left to prepare_data.py: None."""
        return Path(path).resolve() if Path(path).is_file() else None

    def csv_files(self):
        return self.there(self.cases / "train.csv", self.cases / "val.csv")

    def overfit(self):
        """Train and validate on the same hearts: asked for, or there is a single one."""
        return self.args.overfit or len(self.case_files()) == 1

    def remove_made(self, files, old, base):
        """Removes what an earlier run of a stage made, as its stamp lists it; refuses a folder with other files."""
        made = {str(self.out / path) for path in old.get("outputs", ())}
        strangers = [p for p in files if str(p) not in made] if old.get("state") != "running" else []
        if strangers:
            raise InputError(
                base,
                "only files that this command made",
                f"{strangers[0].name}",
                "give another --output_dir, or take that file away",
            )
        for path in files:
            path.unlink()

    def remove_outdated_cases(self, old, wanted):
        """Takes away the case files that have to be made again: those whose label map changed or went, and all of
        them where options or code changed."""
        from vecset.imaging.label_map import case_name

        files = self.case_files()
        made = {Path(path).name for path in old.get("outputs", ())}
        before = old.get("inputs", {})
        known = made | {f"{case_name(name)}.npz" for name in before}
        strangers = [p.name for p in files if p.name not in known]
        if strangers:
            raise InputError(
                self.cases,
                "only case files that this command made",
                strangers[0],
                "give another --output_dir, or take that file away",
            )
        same = old.get("code") == wanted["code"] and old.get("options") == wanted["options"]
        keep = {
            f"{case_name(name)}.npz" for name, state in wanted["inputs"].items() if same and before.get(name) == state
        }
        for path in files:
            if path.name not in keep:
                path.unlink()

    def move_training_aside(self, old, wanted):
        moved = move_aside(self.train)
        if moved:
            self.say(f"  the earlier training run is kept in {moved}")

    def write_overfit_split(self):
        from vecset.data import splits  # numpy comes with it

        entries, broken = splits.read_entries(self.cases)
        if broken:
            raise broken[0]
        record = {"seed": self.args.seed, "val_ratio": None, "overfit": True, "cases": len(entries)}
        splits.write_splits(self.cases, {"train.csv": entries, "val.csv": entries}, record)

    def training_command(self, resumed):
        hearts = sum(1 for _ in (self.cases / "train.csv").open(encoding="utf-8")) - 1
        options = {**self.recipe.training_options(hearts, max(1, self.gpus)), "seed": self.args.seed}
        if self.overfit():  # augmentation is for unseen hearts
            options["augment_rotation"] = None
        if self.own_model():  # which may have fewer latents than the recipe begins with
            options |= dict.fromkeys(("early_latents", "early_share"))
        if (self.own_model() or "").startswith("learnable"):  # what is for point queries alone
            options |= dict.fromkeys(("fps_class_gap", "fps_density"))
        words = [
            ROOT / "vecset" / "main_ae.py",
            "--data_path",
            self.cases,
            "--output_dir",
            self.train,
            *flags(options),
            *self.training_words,
        ]
        if self.gpus > 1:
            words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.gpus}", *words]
        return [sys.executable, *words]

    def reconstruct_command(self, resumed):
        baselines = {} if self.overfit() else {"train_csv": self.cases / "train.csv", "calibration": self.calibration}
        return [
            sys.executable,
            ROOT / "reconstruct.py",
            "--checkpoint",
            self.train / "checkpoint-best.pth",
            "--input",
            self.cases / "val.csv",
            "--output_dir",
            self.reconstruction,
            *flags({**baselines, **self.reconstruction_options()}),
        ]


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    training_words = []
    if "--" in words:
        cut = words.index("--")
        words, training_words = words[:cut], words[cut + 1 :]
    args = get_parser().parse_args(words)
    for word in training_words:
        if word.split("=")[0] in OWN_TRAINING_OPTIONS:
            raise InputError(
                word,
                "a training option that is yours to choose",
                "one that this job sets itself",
                "leave it out, or use vecset/main_ae.py directly",
            )
    if training_words:  # a mistyped one is told now and not after the data are prepared
        from vecset.engines.arguments import parse_arguments

        parse_arguments(["--data_path", "cases", "--output_dir", "train", *training_words])
    if args.val_ratio is not None and not 0 < args.val_ratio < 1:
        raise InputError("--val_ratio", "a share between 0 and 1", args.val_ratio)
    if args.input_dir and not args.input_dir.is_dir():
        raise InputError(args.input_dir, "a folder of label maps (.nii.gz, .nii, .nrrd, .mha)", "no such folder")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    log = args.output_dir / "run_train.log"

    def say(line, quiet=False):
        if not quiet:
            print(line, flush=True)
        with log.open("a", encoding="utf-8") as handle:
            handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    with (args.output_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                args.output_dir,
                "no other run in this folder",
                "one that is at work",
                "wait for it, or give another --output_dir",
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        return run(Pipeline(args, training_words, say))


def run(pipeline):
    """All stages in order, then the table. SIGTERM and SIGUSR1 stop it as Ctrl-C does, in words."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    stamps, say, start = Stamps(pipeline.out), pipeline.say, time.time()
    if pipeline.args.input_dir:
        from vecset.imaging.label_map import find_label_maps

        find_label_maps(pipeline.labels)  # a folder that cannot work is refused before anything is written
    done = []
    while len(done) < len(stages := pipeline.stages()):  # anew: what an earlier stage made decides about a later one
        done.append(run_stage(stages[len(done)], stamps, say, f"[{len(done) + 1}/{len(stages)}]"))
    for line in closing_lines(pipeline, shown=done[-1] == "done"):
        print(line)
    if set(done) == {"done before"}:
        say(f"all is done; results: {pipeline.out}")
    else:
        say(f"done in {(time.time() - start) / 60:.1f} min; results: {pipeline.out}")
    return 0


def closing_lines(pipeline, shown):
    """The table (unless reconstruct.py has just `shown` it), and whose figures these are."""
    from vecset.report.tables import table_lines

    content = json.loads((pipeline.reconstruction / "metrics.json").read_text(encoding="utf-8"))
    hearts = len(content["hearts"])
    lines = [] if shown else ["", *table_lines(content)]
    if pipeline.overfit():
        return lines + [
            f"These are the {hearts} training heart(s) themselves: the figures say what the model can "
            "describe, not how it does on unseen hearts."
        ]
    return lines + [f"{hearts} hearts that were never seen in training."]


if __name__ == "__main__":
    sys.exit(run_command(main))
