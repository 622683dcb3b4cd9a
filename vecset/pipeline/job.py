"""The stages of the main job for one set of arguments: their inputs, their results, and the commands that run."""

import functools
import os
import shlex
import sys
from pathlib import Path

from vecset.common.cores import usable_cores
from vecset.common.errors import InputError
from vecset.pipeline.earlier_results import move_aside, remove_made, remove_outdated_cases
from vecset.pipeline.earlier_stamps import in_present_form
from vecset.pipeline.launching import command, find_gpus, launcher_signals
from vecset.pipeline.options import (
    flags,
    own_model,
    own_shape_model,
    prepare_arguments,
    prepare_options,
    training_limits,
    training_options,
)
from vecset.pipeline.recipes import RECIPES, training_flags
from vecset.pipeline.stages import PACKAGE, Stage, constant, contents, listing

ROOT = PACKAGE.parent
# Where each stage's method version stands: beside the code that does the work
METHODS = {
    "phantoms": ("phantom/population.py", "POPULATION"),
    "prepare": ("data/preparation.py", "VERSION"),
    "splits": ("data/splits.py", "VERSION"),
    "quality": ("quality/case_checks.py", "VERSION"),
    "shapes": ("metrics/shape_model_building.py", "VERSION"),
    "train": ("engines/loop.py", "VERSION"),
    "calibrate": ("inference/decision_tuning_search.py", "VERSION"),
    "complete": ("report/completion.py", "VERSION"),
    "reconstruct": ("inference/settings.py", "VERSION"),
    "release": ("weights/release.py", "VERSION"),
}


class Pipeline:
    """The stages for one set of arguments. Paths: labels, cases, quality, train, reconstruction under OUT."""

    def __init__(self, args, training_words, say):
        self.args, self.say, self.training_words = args, say, training_words
        self.prepare_words = shlex.split(args.prepare_options)
        self.out = args.output_dir.resolve()
        self.labels = args.input_dir.resolve() if args.input_dir else self.out / "labels"
        self.cases, self.quality = self.out / "cases", self.out / "quality"
        self.train, self.reconstruction = self.out / "train", self.out / "reconstruction"
        self.shapes, self.calibration = self.out / "shape_model.npz", self.out / "calibration.json"
        self.released = self.out / "weights" / "heart.pth"
        self.completion = self.train / "completion" / "completion.json"  # report.html looks for it there
        self.gpus = find_gpus() if args.recipe in ("auto", "gpu") else 0
        self.ranks = max(1, self.gpus)
        self.recipe_name = args.recipe if args.recipe != "auto" else ("gpu" if self.gpus else "cpu")
        self.recipe = RECIPES[self.recipe_name]
        self.val_ratio = self.recipe.val_ratio if args.val_ratio is None else args.val_ratio
        self.file_workers = args.file_workers or self.recipe.file_workers or usable_cores()

    # --- files

    def label_maps(self) -> list[Path]:
        """The label maps, or with --structures the folders of the scans; none where there is no such folder yet or it
        has none."""
        from vecset.data.structure_files import find_sources  # here, so that --help needs no package

        try:
            return find_sources(self.labels, self.selection).paths
        except InputError:
            return []

    @functools.cached_property
    def selection(self):
        """The `Selection` of label maps in the input folder, by the options of prepare_data.py; of synthetic hearts
        all."""
        from vecset.commands.prepare_data import selection_of

        words = ["--classes", self.args.classes, *self.prepare_words] if self.args.input_dir else []
        return selection_of(prepare_arguments(words))

    def label_inputs(self) -> dict:
        """The inputs of the stage `prepare`: the label maps, or the structure files of each scan, by size and time."""
        structures = self.selection.structures
        if structures is None:
            return listing(self.label_maps(), self.labels)
        from vecset.data.structure_files import scan_listing

        return scan_listing(self.label_maps(), structures, self.labels)

    def case_files(self) -> list[Path]:
        return sorted(p for p in self.cases.glob("*.npz") if not p.name.startswith("."))

    def csv_files(self) -> list[Path]:
        return self.there(self.cases / "train.csv", self.cases / "val.csv")

    def training_hearts(self) -> int:
        """Rows of train.csv; 0 where there is none."""
        if not self.csv_files():
            return 0
        return sum(1 for _ in (self.cases / "train.csv").open(encoding="utf-8")) - 1

    def overfit(self) -> bool:
        """Whether training and validation hearts are the same: on request, or because there is only one."""
        return self.args.overfit or len(self.case_files()) == 1

    def infers(self) -> bool:
        """Whether the network is trained to infer what it does not see, and there are unseen hearts."""
        words = [str(word) for word in self.training_words]
        if self.overfit() or not ("observe" in self.recipe.train or any(w.startswith("--observe") for w in words)):
            return False
        return bool(training_options(self.words_without_shapes()).get("observe"))

    def has_shapes(self) -> bool:
        """Whether a shape model of the training hearts is made for the network: where the recipe has one, the network
        infers by points, and the user's words name no other. Fewer hearts than it needs are trained on without."""
        if self.recipe.shapes is None or not self.infers():
            return False
        least = constant(PACKAGE / METHODS["shapes"][0], "LEAST_HEARTS")
        enough = not self.csv_files() or self.training_hearts() >= least
        options = training_options(self.words_without_shapes())
        fits = options["anchors"] and options["model"].startswith("point")
        return enough and fits and own_shape_model(self.training_words) is None

    def patient_lines(self) -> list[str]:
        """What there is to say about patients that are on both sides of the split; see `vecset.data.splits`."""
        from vecset.common.user_files import read_json
        from vecset.data.splits import SIDECAR, patient_lines

        record = self.cases / SIDECAR
        return patient_lines(read_json(record, "the record of a split")) if record.is_file() else []

    @staticmethod
    def there(*paths: Path) -> list[Path]:
        """The paths, or none of them where one is no file."""
        return list(paths) if all(p.is_file() for p in paths) else []

    def listed_cases(self) -> dict:
        """Inputs of the stages after `splits`: the case files by size and time, the CSVs by content."""
        return {**listing(self.case_files(), self.cases), **contents(self.csv_files(), self.cases)}

    # --- stages

    def stages(self) -> list[Stage]:
        """The stages in order."""
        made = [] if self.args.input_dir else [self.phantoms_stage()]
        tuned = [] if self.overfit() else [self.calibrate_stage()]
        inferred = [self.complete_stage()] if self.infers() else []
        return [
            *made,
            self.prepare_stage(),
            self.splits_stage(),
            self.quality_stage(),
            *([self.shapes_stage()] if self.has_shapes() else []),
            self.train_stage(),
            *tuned,
            *inferred,
            self.reconstruct_stage(),
            *([self.release_stage()] if self.recipe.release and not self.overfit() else []),
        ]

    def stage(self, name: str, title: str, **rest) -> Stage:
        """A Stage with what all of them share."""
        path, constant_name = METHODS[name]
        return Stage(
            name,
            title,
            method=constant(PACKAGE / path, constant_name),
            translate=lambda stamp: in_present_form(stamp, name, self.recipe_name, self.training_hearts()),
            environment={
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                **launcher_signals(),
            },
            **rest,
        )

    def going_on(self) -> dict:
        """For stages that --keep_going is for. 1: some hearts failed, or the verdict is bad; other exit codes leave no
        result to continue with."""
        return {"accept": lambda exit_code: exit_code in (0, 1)} if self.args.keep_going else {}

    def phantoms_stage(self) -> Stage:
        options = {**self.recipe.phantoms, "seed": self.args.seed}
        return self.stage(
            "phantoms",
            f"synthetic hearts, {options['size']}^3 voxels",
            inputs=dict,
            options=lambda: options,
            outputs=self.label_maps,
            put_away=lambda old, wanted, whole: remove_made(self.label_maps(), old, self.labels, self.out),
            command=lambda resumed: command(
                "vecset.commands.make_phantoms",
                "--output_dir",
                self.labels,
                *flags({**options, "file_workers": self.file_workers}),
            ),
        )

    def prepare_stage(self) -> Stage:
        mapping = self.args.label_mapping
        if mapping is not None and Path(mapping).is_file():  # else the name of a preset, say: prepare_data.py decides
            mapping = Path(mapping).resolve()
        classes = self.args.classes if self.args.input_dir else self.recipe.classes or self.args.classes
        if isinstance(classes, str) and Path(classes).is_file():
            classes = Path(classes).resolve()
        options = {
            "classes": classes,
            **self.recipe.prepare,
            "seed": self.args.seed,
            "label_mapping": mapping,
        }
        return self.stage(
            "prepare",
            "case files from the label maps",
            inputs=self.label_inputs,
            options=lambda: prepare_options([*flags(options), *self.prepare_words]),
            defaults=lambda: prepare_options([]),
            outputs=self.case_files,
            put_away=lambda old, wanted, whole: remove_outdated_cases(
                self.case_files(), old, wanted, whole, self.cases
            ),
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

    def splits_stage(self) -> Stage:
        drawn = {"val_ratio": self.val_ratio, "seed": self.args.seed}
        if self.args.group_regex is not None:
            drawn["group_regex"] = self.args.group_regex
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

    def quality_stage(self) -> Stage:
        return self.stage(
            "quality",
            "quality of the case files",
            inputs=self.listed_cases,
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

    def shapes_stage(self) -> Stage:
        return self.stage(
            "shapes",
            "shape model of the training hearts",
            inputs=self.listed_cases,
            options=lambda: self.recipe.shapes,
            outputs=lambda: self.there(self.shapes),
            command=lambda resumed: command(
                "vecset.shape_model",
                "--csv",
                self.cases / "train.csv",
                "--output",
                self.shapes,
                *flags({**self.recipe.shapes, "file_workers": self.file_workers}),
            ),
        )

    def train_stage(self) -> Stage:
        return self.stage(
            "train",
            f"training, recipe {self.recipe_name}",
            inputs=lambda: {
                **self.listed_cases(),
                **self.shape_inputs(),
            },
            options=lambda: {**training_options(self.all_training_words()), "processes": self.ranks},
            defaults=lambda: training_options([]),
            limits=lambda: training_limits(self.all_training_words()),
            outputs=lambda: self.there(self.train / "checkpoint-best.pth", self.train / "checkpoint-last.pth"),
            put_away=self.move_training_aside,
            command=self.training_command,
        )

    def shape_inputs(self) -> dict:
        """The shape model that training uses, by content: this job's, or one that the user's words name."""
        own = own_shape_model(self.training_words)
        if own is not None:
            return {"--shape_model": next(iter(contents([own], own.parent).values()), None)}
        return contents(self.there(self.shapes), self.out) if self.has_shapes() else {}

    def calibrate_stage(self) -> Stage:
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

    def complete_stage(self) -> Stage:
        options = {**self.encoding(), "seed": self.args.seed}
        return self.stage(
            "complete",
            "what the network infers of parts that it does not see",
            inputs=lambda: {
                **listing([self.train / "checkpoint-best.pth"], self.train),
                **self.listed_cases(),
                **contents(self.there(self.calibration), self.out),
            },
            options=lambda: {name: value for name, value in options.items() if value is not None},
            outputs=lambda: self.there(self.completion),
            command=lambda resumed: command(
                "vecset.complete",
                "--checkpoint",
                self.train / "checkpoint-best.pth",
                "--input",
                self.cases / "val.csv",
                "--output_dir",
                self.completion.parent,
                "--calibration",
                self.calibration,
                *flags(options),
            ),
        )

    def reconstruct_stage(self) -> Stage:
        options = {**self.reconstruction_options(), "calibrated": not self.overfit()}
        return self.stage(
            "reconstruct",
            "reconstruction of the validation hearts",
            inputs=lambda: {
                **listing([self.train / "checkpoint-best.pth"], self.train),
                **self.listed_cases(),
                **contents(self.there(self.calibration), self.out),
                **(contents(self.there(self.completion), self.out) if self.infers() else {}),
            },
            options=lambda: {name: value for name, value in options.items() if value is not None},
            outputs=lambda: self.there(self.reconstruction / "metrics.csv", self.reconstruction / "metrics.json"),
            put_away=lambda old, wanted, whole: move_aside(self.reconstruction),
            command=self.reconstruct_command,
        )

    def release_stage(self) -> Stage:
        return self.stage(
            "release",
            "weights to give away",
            inputs=lambda: {
                **listing([self.train / "checkpoint-best.pth", self.reconstruction / "metrics.json"], self.out),
                **contents(self.there(self.calibration), self.out),
            },
            options=lambda: {"recipe": self.recipe_name},
            outputs=lambda: self.there(self.released, self.released.with_suffix(".json")),
            command=lambda resumed: command(
                "vecset.release",
                "--run_dir",
                self.out,
                "--output",
                self.released,
                *flags({"recipe": self.recipe_name}),
            ),
        )

    # --- options

    def encoding(self) -> dict:
        """How hearts are encoded: the same for decision tuning and for reconstruction."""
        return {flag: self.reconstruction_options().get(flag) for flag in ("num_surface_points", "num_latents")}

    def reconstruction_options(self) -> dict:
        """The recipe's, but for the number of latents where the user's words name another model."""
        return {**self.recipe.reconstruct, **({"num_latents": None} if own_model(self.training_words) else {})}

    def all_training_words(self) -> list:
        """The recipe's options and the user's words for the training command, which come last and win."""
        shapes = ["--shape_model", self.shapes] if self.has_shapes() else []
        return [*shapes, *self.words_without_shapes()]

    def words_without_shapes(self) -> list:
        """`all_training_words` but for the shape model that this job makes."""
        hearts = max(1, self.training_hearts())
        chosen = training_flags(
            self.recipe, self.training_words, hearts, self.ranks, self.args.seed, overfit=self.overfit()
        )
        return [*flags(chosen), *self.training_words]

    def training_command(self, resumed: bool) -> list:
        words = ["--data_path", self.cases, "--output_dir", self.train, *self.all_training_words()]
        if self.gpus > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.gpus}"]
            return [sys.executable, "-P", *launcher, PACKAGE / "main_ae.py", *words]
        return command("vecset.main_ae", *words)

    def reconstruct_command(self, resumed: bool) -> list:
        tuned = {} if self.overfit() else {"train_csv": self.cases / "train.csv", "calibration": self.calibration}
        return command(
            "vecset.commands.reconstruct",
            "--checkpoint",
            self.train / "checkpoint-best.pth",
            "--input",
            self.cases / "val.csv",
            "--output_dir",
            self.reconstruction,
            *flags({**tuned, **self.reconstruction_options(), "remark": self.recipe.remark or None}),
        )

    # --- done in this process

    def move_training_aside(self, old: dict, wanted: dict, whole: bool) -> None:
        moved = move_aside(self.train)
        if moved:
            self.say(f"  the earlier training run is kept in {moved}")

    def write_overfit_split(self) -> None:
        from vecset.data import splits  # numpy comes with it

        entries, broken = splits.read_entries(self.cases)
        if broken:
            raise broken[0]
        record = {"seed": self.args.seed, "val_ratio": None, "overfit": True, "cases": len(entries)}
        splits.write_splits(self.cases, {"train.csv": entries, "val.csv": entries}, record)
