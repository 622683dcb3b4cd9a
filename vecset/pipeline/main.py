#!/usr/bin/env python3
"""From label maps to reconstructed hearts in one command: the main job.

    bash run_train.sh                                      synthetic hearts, results under output/demo/
    bash run_train.sh --input_dir LABELS --output_dir OUT  your own label maps (.nii.gz, .nii, .nrrd, .mha)

Seven stages, each a command that also works alone:
  1  phantoms     make_phantoms.py       synthetic ten-structure hearts -> OUT/labels/ (not with --input_dir)
  2  prepare      prepare_data.py        label maps -> OUT/cases/*.npz
  3  splits       create_csv.py          training and validation hearts -> OUT/cases/train.csv, val.csv
  4  quality      check_data_quality.py  checks of the case files -> OUT/quality/ (a bad verdict stops the job)
  5  train        vecset/main_ae.py      training -> OUT/train/
  6  calibrate    vecset/calibrate.py    decision tuning on training hearts -> OUT/calibration.json (not with --overfit)
  7  reconstruct  reconstruct.py         the validation hearts -> OUT/reconstruction/, and a table on the terminal
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
from vecset.pipeline.earlier_stamps import in_present_form  # noqa: E402
from vecset.pipeline.options import flags, own_model, prepare_options, training_limits, training_options  # noqa: E402
from vecset.pipeline.recipes import RECIPES, training_flags  # noqa: E402
from vecset.pipeline.stages import (  # noqa: E402
    PACKAGE,
    Stage,
    Stamps,
    constant,
    contents,
    listing,
    move_aside,
    run_stage,
)

# Where each stage's method version stands: beside the code that does the work
METHODS = {
    "phantoms": ("phantom/population.py", "POPULATION"),
    "prepare": ("data/preparation.py", "VERSION"),
    "splits": ("data/splits.py", "VERSION"),
    "quality": ("quality/case_checks.py", "VERSION"),
    "train": ("engines/loop.py", "VERSION"),
    "calibrate": ("inference/decision_tuning_search.py", "VERSION"),
    "reconstruct": ("inference/settings.py", "VERSION"),
}
OWN_TRAINING_OPTIONS = ("--data_path", "--csv_dir", "--output_dir", "--resume", "--eval")
OWN_PREPARE_OPTIONS = ("--input_dir", "--output_dir")
IS_CHECKOUT = (ROOT / "run_train.sh").is_file()
DEFAULT_OUTPUT = (ROOT if IS_CHECKOUT else Path()) / "output" / "demo"
EPILOG = """\
Time: at most 20 minutes on two cores without arguments, installation included. Most of it is training, which stops
after 11 minutes at the latest. Each stage shows a progress bar with the time left; at the end comes a table with the
Dice and IoU of each structure, beside those of the mean shape and of the nearest heart of the training set.
Measured times and figures: docs/log.md.

Run the same command again, and it continues where it was stopped (by Ctrl-C, too), or says within seconds that all is
done. A stage runs again when its options or inputs have changed, or when a new version of the software has another
method for it; the stages that use its results follow. An earlier training run is then moved to OUT/train.old-N, never
deleted. Other changes of the code are reported and change nothing: --redo STAGE runs a stage again.

A single label map is trained on and reconstructed itself (--overfit): that shows how well the model can describe it,
not how well it does on unseen hearts.

All options behind `--` go to the training command (python vecset/main_ae.py --help), for example
    bash run_train.sh --input_dir LABELS --output_dir OUT -- --epochs 400 --wandb offline
"""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_parser() -> argparse.ArgumentParser:
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
        default=DEFAULT_OUTPUT,
        help="folder for all results (default: output/demo " + ("in the repository)" if IS_CHECKOUT else "here)"),
    )
    parser.add_argument("--classes", type=int, default=10, help="number of structures, labels 1..C (default: 10)")
    parser.add_argument(
        "--label_mapping",
        metavar="FILE",
        help="JSON file that maps your label values to 1..C, or a preset, as for prepare_data.py (default: none)",
    )
    parser.add_argument("--label_map", dest="label_mapping", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--prepare_options",
        metavar="WORDS",
        default="",
        help='more options of prepare_data.py in one string, as "--annotated 1,2,3" (default: none)',
    )
    parser.add_argument(
        "--val_ratio",
        type=float,
        help="share of the hearts that is held out for validation, 0 to 1 (default: the recipe's, 0.2; for cpu_long "
        "and gpu one sixth)",
    )
    parser.add_argument(
        "--overfit",
        action="store_true",
        help="train on all hearts and validate on the same ones (always so with a single heart)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of synthetic hearts, points, split and training (default: 0)"
    )
    parser.add_argument(
        "--recipe",
        choices=("auto", *RECIPES),
        default="auto",
        help="sizes of model and data; auto: gpu where PyTorch finds CUDA, else cpu; cpu_long: two hours on two cores "
        "instead of ten minutes; tiny: for tests, its figures mean nothing (default: auto)",
    )
    parser.add_argument(
        "--file_workers",
        type=int,
        help="processes that make, prepare and check data (default: one per available core, "
        f"here {available_cores()}; 1 for the recipe tiny)",
    )
    parser.add_argument(
        "--keep_going",
        action="store_true",
        help="continue although some label maps could not be prepared, or although the quality verdict is bad; this "
        "is reported again at the end",
    )
    parser.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="STAGE",
        help="run a stage again although nothing changed, and then the stages that use its results: "
        f"{', '.join(METHODS)}; several with commas, or give the option several times (default: none)",
    )
    return parser


def find_gpus() -> int:
    """Number of CUDA devices. PyTorch, which takes seconds to import, is only asked where there is a driver."""
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
        self.prepare_words = shlex.split(args.prepare_options)
        self.out = args.output_dir.resolve()
        self.labels = args.input_dir.resolve() if args.input_dir else self.out / "labels"
        self.cases, self.quality = self.out / "cases", self.out / "quality"
        self.train, self.reconstruction = self.out / "train", self.out / "reconstruction"
        self.calibration = self.out / "calibration.json"
        self.gpus = find_gpus() if args.recipe in ("auto", "gpu") else 0
        self.ranks = max(1, self.gpus)
        self.recipe_name = args.recipe if args.recipe != "auto" else ("gpu" if self.gpus else "cpu")
        self.recipe = RECIPES[self.recipe_name]
        self.val_ratio = self.recipe.val_ratio if args.val_ratio is None else args.val_ratio
        self.file_workers = args.file_workers or self.recipe.file_workers or available_cores()

    # --- files

    def label_maps(self):
        """The label maps; none where there is no such folder yet or it has none."""
        from vecset.imaging.label_map import find_label_maps  # here, so that --help needs no package

        try:
            return find_label_maps(self.labels)
        except InputError:
            return []

    def case_files(self):
        return sorted(p for p in self.cases.glob("*.npz") if not p.name.startswith("."))

    def csv_files(self):
        return self.there(self.cases / "train.csv", self.cases / "val.csv")

    def training_hearts(self):
        """Rows of train.csv; 0 where there is none."""
        if not self.csv_files():
            return 0
        return sum(1 for _ in (self.cases / "train.csv").open(encoding="utf-8")) - 1

    def overfit(self):
        """Whether training and validation hearts are the same: on request, or because there is only one."""
        return self.args.overfit or len(self.case_files()) == 1

    @staticmethod
    def there(*paths):
        """The paths, or none of them where one is no file."""
        return list(paths) if all(p.is_file() for p in paths) else []

    def listed_cases(self):
        """Inputs of the stages after `splits`: the case files by size and time, the CSVs by content."""
        return {**listing(self.case_files(), self.cases), **contents(self.csv_files(), self.cases)}

    # --- stages

    def stages(self):
        """The stages in order."""
        made = [] if self.args.input_dir else [self.phantoms_stage()]
        tuned = [] if self.overfit() else [self.calibrate_stage()]
        return [
            *made,
            self.prepare_stage(),
            self.splits_stage(),
            self.quality_stage(),
            self.train_stage(),
            *tuned,
            self.reconstruct_stage(),
        ]

    def stage(self, name, title, **rest):
        """A Stage with what all of them share."""
        path, constant_name = METHODS[name]
        return Stage(
            name,
            title,
            method=constant(PACKAGE / path, constant_name),
            translate=lambda stamp: in_present_form(stamp, name, self.recipe_name, self.training_hearts()),
            environment={"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
            **rest,
        )

    def going_on(self):
        """For stages that --keep_going is for. 1: some hearts failed, or the verdict is bad; other exit codes leave no
        result to continue with."""
        return {"accept": lambda exit_code: exit_code in (0, 1)} if self.args.keep_going else {}

    def phantoms_stage(self):
        options = {**self.recipe.phantoms, "seed": self.args.seed}
        return self.stage(
            "phantoms",
            f"synthetic hearts, {options['size']}^3 voxels",
            inputs=dict,
            options=lambda: options,
            outputs=self.label_maps,
            put_away=lambda old, wanted, whole: self.remove_made(self.label_maps(), old, self.labels),
            command=lambda resumed: command(
                "vecset.commands.make_phantoms",
                "--output_dir",
                self.labels,
                *flags({**options, "file_workers": self.file_workers}),
            ),
        )

    def prepare_stage(self):
        mapping = self.args.label_mapping
        if mapping is not None and Path(mapping).is_file():  # else the name of a preset, say: prepare_data.py decides
            mapping = Path(mapping).resolve()
        options = {
            "classes": self.args.classes,
            **self.recipe.prepare,
            "seed": self.args.seed,
            "label_mapping": mapping,
        }
        return self.stage(
            "prepare",
            "case files from the label maps",
            inputs=lambda: listing(self.label_maps(), self.labels),
            options=lambda: prepare_options([*flags(options), *self.prepare_words]),
            defaults=lambda: prepare_options([]),
            outputs=self.case_files,
            put_away=self.remove_outdated_cases,
            **self.going_on(),
            command=lambda resumed: command(
                "vecset.commands.prepare_data",
                "--input_dir",
                self.labels,
                "--output_dir",
                self.cases,
                *flags({**options, "file_workers": self.file_workers}),
                *self.prepare_words,
            ),
        )

    def splits_stage(self):
        drawn = {"val_ratio": self.val_ratio, "seed": self.args.seed}
        return self.stage(
            "splits",
            "training and validation hearts",
            inputs=lambda: listing(self.case_files(), self.cases),
            options=lambda: {"overfit": self.overfit(), **({} if self.overfit() else drawn)},
            outputs=self.csv_files,
            work=self.write_overfit_split if self.overfit() else None,
            command=lambda resumed: command(
                "vecset.commands.create_csv", "--data_dir", self.cases, "--output_dir", self.cases, *flags(drawn)
            ),
        )

    def quality_stage(self):
        return self.stage(
            "quality",
            "quality of the case files",
            inputs=lambda: listing(self.case_files(), self.cases),
            options=lambda: self.recipe.quality,
            outputs=lambda: [p for p in self.quality.glob("*") if p.is_file()],
            **self.going_on(),
            command=lambda resumed: command(
                "vecset.commands.check_data_quality",
                self.cases,
                "--report",
                self.quality,
                *flags({**self.recipe.quality, "file_workers": self.file_workers}),
            ),
        )

    def train_stage(self):
        return self.stage(
            "train",
            f"training, recipe {self.recipe_name}",
            inputs=self.listed_cases,
            options=lambda: {**training_options(self.all_training_words()), "processes": self.ranks},
            defaults=lambda: training_options([]),
            limits=lambda: training_limits(self.all_training_words()),
            outputs=lambda: self.there(self.train / "checkpoint-best.pth", self.train / "checkpoint-last.pth"),
            put_away=self.move_training_aside,
            command=self.training_command,
        )

    def calibrate_stage(self):
        options = {**self.encoding(), **self.recipe.calibrate, "seed": self.args.seed}
        return self.stage(
            "calibrate",
            "decision tuning on training hearts",
            inputs=lambda: {**listing([self.train / "checkpoint-best.pth"], self.train), **self.listed_cases()},
            options=lambda: {name: value for name, value in options.items() if value is not None},
            outputs=lambda: self.there(self.calibration),
            command=lambda resumed: command(
                "vecset.calibrate",
                "--checkpoint",
                self.train / "checkpoint-best.pth",
                "--csv",
                self.cases / "train.csv",
                "--output",
                self.calibration,
                *flags(options),
            ),
        )

    def reconstruct_stage(self):
        options = {**self.reconstruction_options(), "calibrated": not self.overfit()}
        return self.stage(
            "reconstruct",
            "reconstruction of the validation hearts",
            inputs=lambda: {
                **listing([self.train / "checkpoint-best.pth"], self.train),
                **self.listed_cases(),
                **contents(self.there(self.calibration), self.out),
            },
            options=lambda: {name: value for name, value in options.items() if value is not None},
            outputs=lambda: self.there(self.reconstruction / "metrics.csv", self.reconstruction / "metrics.json"),
            put_away=lambda old, wanted, whole: move_aside(self.reconstruction),
            command=self.reconstruct_command,
        )

    # --- options

    def encoding(self):
        """How hearts are encoded: the same for decision tuning and for reconstruction."""
        return {flag: self.reconstruction_options().get(flag) for flag in ("num_surface_points", "num_latents")}

    def reconstruction_options(self):
        """The recipe's, but for the number of latents where the user's words name another model."""
        return {**self.recipe.reconstruct, **({"num_latents": None} if own_model(self.training_words) else {})}

    def all_training_words(self):
        """The recipe's options and the user's words for the training command, which come last and win."""
        hearts = max(1, self.training_hearts())
        chosen = training_flags(
            self.recipe, self.training_words, hearts, self.ranks, self.args.seed, overfit=self.overfit()
        )
        return [*flags(chosen), *self.training_words]

    def training_command(self, resumed):
        words = ["--data_path", self.cases, "--output_dir", self.train, *self.all_training_words()]
        if self.gpus > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.gpus}"]
            return [sys.executable, *launcher, PACKAGE / "main_ae.py", *words]
        return command("vecset.main_ae", *words)

    def reconstruct_command(self, resumed):
        tuned = {} if self.overfit() else {"train_csv": self.cases / "train.csv", "calibration": self.calibration}
        return command(
            "vecset.commands.reconstruct",
            "--checkpoint",
            self.train / "checkpoint-best.pth",
            "--input",
            self.cases / "val.csv",
            "--output_dir",
            self.reconstruction,
            *flags({**tuned, **self.reconstruction_options()}),
        )

    # --- earlier results

    def remove_made(self, files, old, base):
        """Removes what an earlier run of a stage made, as its stamp lists it. Raises InputError where the folder holds
        other files."""
        made = {str(self.out / path) for path in old.get("outputs", ())}
        strangers = [p for p in files if str(p) not in made] if old.get("state") != "running" else []
        if strangers:
            raise InputError.because(
                base,
                f"this command did not make {strangers[0].name}, and would remove it",
                "give another --output_dir, or move that file elsewhere",
            )
        for path in files:
            path.unlink()

    def remove_outdated_cases(self, old, wanted, whole):
        """Removes the case files that have to be made again: all of them (`whole`), or those whose label map changed
        or is gone."""
        from vecset.imaging.label_map import case_name

        files = self.case_files()
        made = {Path(path).name for path in old.get("outputs", ())}
        before = old.get("inputs", {})
        known = made | {f"{case_name(name)}.npz" for name in before}
        strangers = [p.name for p in files if p.name not in known]
        if strangers:
            raise InputError.because(
                self.cases,
                f"this command did not make {strangers[0]}, and would train on it",
                "give another --output_dir, or move that file elsewhere",
            )
        keep = {
            f"{case_name(name)}.npz"
            for name, state in wanted["inputs"].items()
            if not whole and before.get(name) == state
        }
        for path in files:
            if path.name not in keep:
                path.unlink()

    def move_training_aside(self, old, wanted, whole):
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


def command(module, *words):
    """The command line of a module. -P: what lies in the working directory is not imported."""
    return [sys.executable, "-P", "-m", module, *words]


def stages_to_redo(words) -> set:
    """Names of stages from the values of --redo. Raises InputError where there is no such stage."""
    names = {name.strip() for word in words for name in word.split(",")} - {""}
    for name in sorted(names - set(METHODS)):
        raise InputError.because("--redo", f"there is no stage {name}", f"choose from {', '.join(METHODS)}")
    return names


def check_words(words, own, where, to_do):
    """Raises InputError where one of `words` is an option that this job sets itself."""
    for word in words:
        if word.split("=")[0] in own:
            raise InputError.because(f"{word} {where}", "this job sets that option itself", to_do)


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    training_words = []
    if "--" in words:
        cut = words.index("--")
        words, training_words = words[:cut], words[cut + 1 :]
    args = get_parser().parse_args(words)
    check_words(training_words, OWN_TRAINING_OPTIONS, "behind --", "leave it out, or use vecset/main_ae.py directly")
    if args.val_ratio is not None and not 0 < args.val_ratio < 1:
        raise InputError("--val_ratio", "a share between 0 and 1", args.val_ratio)
    if args.file_workers is not None and args.file_workers < 1:
        raise InputError("--file_workers", "at least 1", args.file_workers)
    if args.input_dir and not args.input_dir.is_dir():
        raise InputError.because(
            args.input_dir, "no such folder", "give a folder of label maps (.nii.gz, .nii, .nrrd, .mha)"
        )
    redo = stages_to_redo(args.redo)
    try:
        prepare_words = shlex.split(args.prepare_options)
    except ValueError as error:
        raise InputError.because("--prepare_options", f"{error} in {args.prepare_options!r}") from None
    check_words(prepare_words, OWN_PREPARE_OPTIONS, "in --prepare_options", "leave it out")
    # a mistyped option is reported now and not after the data are prepared
    if prepare_words:
        prepare_options(["--classes", args.classes, *prepare_words])
    if training_words:
        training_options(training_words)
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
            raise InputError.because(
                args.output_dir,
                "another run is at work in this folder",
                "wait for it, or give another --output_dir",
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        return run(Pipeline(args, training_words, say), redo)


def run(pipeline, redo=frozenset()):
    """All stages in order, those of `redo` in any case; then the table. SIGTERM and SIGUSR1 stop it as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    stamps, say, start = Stamps(pipeline.out), pipeline.say, time.time()
    if pipeline.args.input_dir:
        from vecset.imaging.label_map import find_label_maps

        find_label_maps(pipeline.labels)  # raises InputError before anything is written
    lacking = redo - {stage.name for stage in pipeline.stages()}
    if lacking:
        raise InputError.because(
            "--redo",
            f"this job has no stage {min(lacking)} (with --input_dir no phantoms, with --overfit no calibrate)",
        )
    done = []
    while len(done) < len(stages := pipeline.stages()):  # anew: the results of one stage decide about later ones
        stage = stages[len(done)]
        done.append(run_stage(stage, stamps, say, f"[{len(done) + 1}/{len(stages)}]", redo=stage.name in redo))
    if stamps.other_code:
        say(
            f"note: the code has changed since these stages ran: {', '.join(stamps.other_code)}; "
            "their results are kept (--redo STAGE runs one again)"
        )
    for line in closing_lines(pipeline, shown=done[-1] == "done"):
        print(line)
    if set(done) == {"done before"}:
        say(f"all is done; results: {pipeline.out}")
    else:
        say(f"done in {(time.time() - start) / 60:.1f} min; results: {pipeline.out}")
    return 0


def closing_lines(pipeline, shown):
    """The table (unless reconstruct.py has just `shown` it), and which hearts it is about."""
    content = json.loads((pipeline.reconstruction / "metrics.json").read_text(encoding="utf-8"))
    hearts = len(content["hearts"])
    lines = []
    if not shown:
        from vecset.report.tables import table_lines  # brings numpy and scipy

        lines = ["", *table_lines(content)]
    if pipeline.overfit():
        return lines + [
            f"These are the {hearts} training heart(s) themselves: the figures say what the model can "
            "describe, not how it does on unseen hearts."
        ]
    return lines + [f"{hearts} hearts that were never seen in training."]


if __name__ == "__main__":
    sys.exit(run_command(main))
