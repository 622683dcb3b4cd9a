#!/usr/bin/env python3
"""From label maps to reconstructed hearts in one command: the main job.

    bash run_train.sh                                      synthetic hearts, results under output/demo/
    bash run_train.sh --input_dir LABELS --output_dir OUT  your own label maps (.nii.gz, .nii, .nrrd, .mha)

Seven to ten stages, each a command that also works alone:
  1  phantoms     make_phantoms.py       synthetic ten-structure hearts -> OUT/labels/ (not with --input_dir)
  2  prepare      prepare_data.py        label maps -> OUT/cases/*.npz
  3  splits       create_csv.py          training and validation hearts -> OUT/cases/train.csv, val.csv
  4  quality      check_data_quality.py  checks of the case files -> OUT/quality/ (a bad verdict stops the job)
  5  shapes       vecset/shape_model.py  shape model of the training hearts -> OUT/shape_model.npz (recipes cpu and
                                         release, where the network is trained with --observe)
  6  train        vecset/main_ae.py      training -> OUT/train/
  7  calibrate    vecset/calibrate.py    decision tuning on training hearts -> OUT/calibration.json (not with --overfit)
  8  complete     vecset/complete.py     what the network infers -> OUT/train/completion/ (only with --observe)
  9  reconstruct  reconstruct.py         the validation hearts -> OUT/reconstruction/, and a table on the terminal
 10  release      vecset/release.py      weights to give away -> OUT/weights/heart.pth (only recipe release)
"""

import argparse
import fcntl
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the repository's root in place of this folder
    sys.path[:] = [str(ROOT)] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, user_path, user_path_text  # noqa: E402
from vecset.common.atomic import append_text, require_writable  # noqa: E402
from vecset.common.cores import usable_cores  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.signals import catch, print_line  # noqa: E402
from vecset.imaging.class_names import number_or_table, read_structure_table  # noqa: E402
from vecset.pipeline.job import METHODS, Pipeline  # noqa: E402
from vecset.pipeline.options import flags, training_options  # noqa: E402
from vecset.pipeline.output_folder import (  # noqa: E402
    holds_own_label_maps,
    output_of,
    record_input,
    require_same_hearts,
)
from vecset.pipeline.recipes import RECIPES  # noqa: E402
from vecset.pipeline.stages import PACKAGE, RedoRequest, Stamps, run_stage  # noqa: E402

OWN_TRAINING_OPTIONS = ("--data_path", "--csv_dir", "--output_dir", "--resume", "--eval")
OWN_PREPARE_OPTIONS = ("--input_dir", "--output_dir")
PRESETS = PACKAGE / "imaging" / "presets"
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


def other_place(option: str) -> str:
    """Where an option is to be given that this job does not have itself, or ""."""
    from vecset.commands.prepare_data import get_parser as of_prepare  # brings numpy
    from vecset.engines.arguments import build_parser as of_training  # brings torch

    if of_training().knows(option):
        return f"{option} is an option of training: give it behind --"
    return f'give it in --prepare_options "{option} ..."' if of_prepare().knows(option) else ""


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "run_train.sh",
        description=__doc__,
        epilog=EPILOG,
        usage="bash run_train.sh [options] [-- training options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        elsewhere=other_place,
    )
    parser.add_argument(
        "--input_dir",
        type=user_path,
        metavar="LABELS",
        help="folder of label maps (default: none, synthetic hearts are made)",
    )
    parser.add_argument(
        "--output_dir",
        type=user_path,
        metavar="OUT",
        default=DEFAULT_OUTPUT,
        help="folder for all results (default: output/demo"
        + (" in the repository" if IS_CHECKOUT else "")
        + "; with --input_dir output/NAME, NAME being that of the folder LABELS)",
    )
    parser.add_argument(
        "--classes",
        type=number_or_table,
        default=10,
        metavar="C|NAME|FILE",
        help="number of structures, labels 1..C, or their table, as of prepare_data.py (default: 10)",
    )
    parser.add_argument(
        "--label_mapping",
        type=user_path_text,
        metavar="FILE",
        help="JSON file that maps your label values to 1..C, as for prepare_data.py, or one of the presets "
        f"{', '.join(sorted(path.stem for path in PRESETS.glob('*.json')))} (default: none)",
    )
    parser.add_argument(  # its old name
        "--label_map",
        dest="label_mapping",
        type=user_path_text,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
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
        help="share of the hearts that is held out for validation, 0 to 1 (default: the recipe's, 0.2; for cpu_long "
        "and gpu one sixth)",
    )
    parser.add_argument(
        "--group_regex",
        metavar="R",
        help="finds the patient in the name of a label map without its suffix, as for create_csv.py: all scans of a "
        "patient are trained on, or all are held out (default: each is a patient of its own)",
    )
    parser.add_argument(
        "--overfit",
        action="store_true",
        help="train on all hearts and validate on the same ones (always so with a single heart)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of synthetic hearts, points, split and training (default: 0)"
    )
    parser.add_argument(
        "--recipe",
        choices=("auto", *RECIPES),
        default="auto",
        help="sizes of model and data; auto: gpu where PyTorch finds CUDA, else cpu; "
        + "; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())
        + " (default: auto)",
    )
    parser.add_argument(
        "--file_workers",
        type=int,
        metavar="FILE_WORKERS",
        help="processes that make, prepare and check data (default: one per core that this process may use, "
        f"here {usable_cores()}; 1 for the recipe tiny)",
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
        help="run a stage again although nothing changed; stages whose inputs change as a result follow. Stages: "
        f"{', '.join(METHODS)}; several with commas, or give the option several times (default: none)",
    )
    return parser


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


def check_label_mapping(words, own_labels):
    """Raises InputError, or exits, where prepare_data.py would refuse one of the options `words`."""
    from vecset.commands.prepare_data import parse_arguments, selection_of  # brings numpy
    from vecset.imaging.label_mapping import LabelMapping

    args = parse_arguments(["--input_dir", "labels", "--output_dir", "cases", *words])
    if args.label_mapping:
        LabelMapping.load(args.label_mapping, args.classes, args.table)
    given = [f"--{name}" for name in ("structures", "recursive", "pattern") if getattr(args, name)]
    if given and not own_labels:
        raise InputError.because(given[0], "it is for files of your own", "give their folder: --input_dir")
    selection_of(args)


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    training_words = []
    if "--" in words:
        cut = words.index("--")
        words, training_words = words[:cut], words[cut + 1 :]
    args = get_parser().parse_args(words)
    if os.pathsep in str(ROOT):  # the stages find the program through PYTHONPATH
        raise InputError.because(
            ROOT,
            f"the program lies in a path with {os.pathsep!r}, which separates folders",
            "move it to another folder",
        )
    check_words(training_words, OWN_TRAINING_OPTIONS, "behind --", "leave it out, or use vecset/main_ae.py directly")
    if args.val_ratio is not None and not 0 < args.val_ratio < 1:
        raise InputError("--val_ratio", "a share between 0 and 1", args.val_ratio)
    if args.group_regex is not None and args.overfit:
        raise InputError.because(
            "--group_regex", "with --overfit no heart is held out, so there is no split", "leave out one of them"
        )
    if args.file_workers is not None and args.file_workers < 1:
        raise InputError("--file_workers", "at least 1", args.file_workers)
    if args.input_dir and not args.input_dir.is_dir():
        raise InputError.because(
            args.input_dir, "no such folder", "give a folder of label maps (.nii.gz, .nii, .nrrd, .mha)"
        )
    if isinstance(args.classes, str):
        read_structure_table(args.classes)
    redo = stages_to_redo(args.redo)
    try:
        prepare_words = shlex.split(args.prepare_options)
    except ValueError as error:
        raise InputError.because("--prepare_options", f"{error} in {args.prepare_options!r}") from None
    check_words(prepare_words, OWN_PREPARE_OPTIONS, "in --prepare_options", "leave it out")
    # what is mistyped is reported now and not after other stages
    mapping = {} if args.label_mapping is None else {"label_mapping": args.label_mapping}
    if prepare_words or mapping:
        prepare_flags = flags({"classes": args.classes, **mapping})
        check_label_mapping([*prepare_flags, *prepare_words], own_labels=args.input_dir is not None)
    if training_words:
        training_options(training_words)
    by_name = args.input_dir is not None and args.output_dir is DEFAULT_OUTPUT  # no --output_dir was given
    if by_name:
        args.output_dir = output_of(args.input_dir, DEFAULT_OUTPUT.parent)
    require_same_hearts(args.output_dir, args.input_dir, by_name)
    require_writable(args.output_dir)
    log = args.output_dir / "run_train.log"

    def say(line, quiet=False):
        if not quiet:
            print_line(line)
        append_text(log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

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
        if by_name:
            earlier = holds_own_label_maps(DEFAULT_OUTPUT)  # where an earlier version wrote them
            more = f"; label maps of an earlier run went to {DEFAULT_OUTPUT}" if earlier else ""
            say(f"no --output_dir was given: the results go to {args.output_dir}{more}")
        pipeline = Pipeline(args, training_words, say)
        check_label_maps(pipeline)
        record_input(args.output_dir, args.input_dir)
        return run(pipeline, redo)


def with_own_options(error: InputError) -> InputError:
    """The error about label maps with its advice as this job takes it: options of prepare_data.py in
    --prepare_options."""
    option = r"(?:prepare_data\.py )?(--(?:structures [^\s,;]+|recursive))"
    problem, to_do = (re.sub(option, r"""--prepare_options="\1\"""", text) for text in (error.problem, error.to_do))
    return type(error).because(error.where, problem, to_do)


def check_label_maps(pipeline):
    """Of label maps of the user's own: raises InputError where there are none, or where they cannot be used, and says
    what there is to say about their patients."""
    if not pipeline.args.input_dir:
        return
    from vecset.data.label_folder import relative_name, require_apart
    from vecset.data.splits import check_patients
    from vecset.data.structure_files import find_sources
    from vecset.imaging.image_file import case_id

    require_apart(pipeline.labels, pipeline.out, pipeline.selection)
    try:
        label_maps = find_sources(pipeline.labels, pipeline.selection).paths  # before anything is written
    except InputError as error:
        raise with_own_options(error) from None
    names = [case_id(relative_name(path, pipeline.labels)) for path in label_maps]
    if not pipeline.args.overfit:
        for line in check_patients(names, pipeline.args.group_regex):
            pipeline.say(f"note: {line}")


def run(pipeline, redo=frozenset()):
    """All stages in order, those of `redo` in any case; then the table. SIGTERM, SIGHUP and SIGUSR1 stop it as Ctrl-C
    does, unless they are ignored from the start (nohup)."""
    catch([signal.SIGUSR1], signal.default_int_handler)
    stamps, say, start = Stamps(pipeline.out), pipeline.say, time.time()
    lacking = redo - {stage.name for stage in pipeline.stages()}
    if lacking:
        raise InputError.because(
            "--redo",
            f"this job has no stage {min(lacking)} (with --input_dir no phantoms; with --overfit no shapes, calibrate, "
            "complete and release; without --observe no shapes and complete; shapes only with the recipes cpu and "
            "release; release only with the recipe of that name)",
        )
    request, done = RedoRequest(stamps, redo), []
    while len(done) < len(stages := pipeline.stages()):  # anew: the results of one stage decide about later ones
        stage = stages[len(done)]
        done.append(run_stage(stage, stamps, say, f"[{len(done) + 1}/{len(stages)}]", redo=stage.name in request.left))
        request.done(stage.name)
        if stage.name == "splits" and not pipeline.overfit():
            for line in pipeline.patient_lines():  # create_csv.py prints it, but to the terminal alone
                say(f"  warning: {line}", quiet=done[-1] == "done")
    request.end()
    if stamps.other_code:
        say(
            f"note: another version of the program made these stages: {', '.join(stamps.other_code)}; its methods are "
            "the same, so their results are right and stay (--redo STAGE makes one again)"
        )
    for line in closing_lines(pipeline, shown=done[-1] == "done"):
        print_line(line)
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
    if pipeline.recipe.remark and not content["settings"].get("remark"):  # of an earlier version
        lines.append(pipeline.recipe.remark)
    if pipeline.overfit():
        return lines + [
            f"These are the {hearts} training heart(s) themselves: the figures say what the model can "
            "describe, not how it does on unseen hearts."
        ]
    both = pipeline.patient_lines()
    return lines + ([f"warning: {line}" for line in both] or [f"{hearts} hearts that were never seen in training."])


if __name__ == "__main__":
    sys.exit(run_command(main))
