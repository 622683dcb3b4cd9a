"""Tunes decisions about labels on training hearts (offsets of class logits, thin classes that decide for themselves
where they are), for `reconstruct.py --calibration FILE`:

    python -m vecset.calibrate --checkpoint train/checkpoint-best.pth --csv cases/train.csv --output calibration.json

Why, and how: vecset/fields/decision_tuning.py. Give the hearts that the model was trained on, never those that it is
judged by, and the same --num_surface_points and --num_latents as to reconstruct.py. With --answers_csv it also finds
how wide intervals of several answers (main_ae.py --answer_noise) have to be: vecset/report/answer_intervals.py.
"""

import argparse
import functools
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if not __package__:  # run as a file: the repository's root in place of this folder, whose metrics/ would shadow others
    sys.path[:] = [ROOT] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import InputError, run_command, shown  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=user_path, required=True, help="checkpoint-best.pth of main_ae.py")
    parser.add_argument("--csv", type=user_path, required=True, help="train.csv of create_csv.py")
    parser.add_argument(
        "--data_path", type=user_path, help="folder that its files are relative to (default: the CSV's own)"
    )
    parser.add_argument("--output", type=user_path, required=True, help="JSON file to write")
    parser.add_argument(
        "--hearts", type=int, default=8, help="number of training hearts used, evenly chosen (default: 8)"
    )
    parser.add_argument(
        "--answers_csv",
        type=user_path,
        help="for a model of main_ae.py --answer_noise: hearts that training has not seen and no figure is to be given "
        "of; the intervals of reconstruct.py --samples are made so wide that 90 %% of these volumes lie in them",
    )
    parser.add_argument("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    parser.add_argument("--num_latents", type=int, help="as for reconstruct.py (default: as the model was trained)")
    parser.add_argument(
        "--refine_steps",
        type=int,
        help="find numbers for hearts whose latents are fitted to them, too, as reconstruct.py --refine does, by so "
        "many steps (default: not)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    for flag in ("hearts", "num_surface_points", "num_latents", "refine_steps"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag}", "at least 1", getattr(args, flag))
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from tqdm import tqdm

    from vecset.common.atomic import require_writable
    from vecset.data.listed_case import read_listed
    from vecset.fields.decision_tuning import write_decision_tuning
    from vecset.inference.arguments import opened_model
    from vecset.inference.decision_tuning_search import evenly_chosen, tune_decisions
    from vecset.inference.refinement import Refinement, require_logits
    from vecset.report.answer_intervals import left_out_of

    model = opened_model(args)
    require_writable(args.output.parent, "--output")
    cases = read_listed(args.csv, args.data_path or args.csv.parent)
    bar = functools.partial(tqdm, dynamic_ncols=True)
    pairs = []
    if args.answers_csv:
        if not model.answer_numbers:
            to_do = "leave --answers_csv out, or train with main_ae.py --answer_noise"
            raise InputError.because(args.checkpoint, "it gives one answer", to_do)
        held_out = read_listed(args.answers_csv, args.data_path or args.answers_csv.parent)
        check_held_out(cases, held_out, args.answers_csv)
        pairs = left_out_of(model, bar(held_out, unit="heart", desc="held-out hearts"))  # before the long work
    chosen = evenly_chosen(cases, args.hearts)
    failed = {}
    refine = Refinement(steps=args.refine_steps or 0)
    if refine:
        require_logits(model)
    tuning, table, record = tune_decisions(model, chosen, bar, failed, refine)
    print("\n".join(table))
    if pairs:
        tuning, told = with_interval(model, tuning, pairs)
        record["answers"] = told
        print(
            f"several answers: {told['inside_before']:.3f} of {told['structures']} volumes in their intervals; with "
            f"intervals round the one answer and the factor {tuning.answer_interval:.2f}, nine in ten"
        )
    write_decision_tuning(args.output, tuning, model.class_names, model.checkpoint_sha256, record)
    print(f"written: {args.output}")
    if failed:
        print(f"{len(failed)} of {len(chosen)} hearts failed, and the tuning is of the others:", file=sys.stderr)
        for case_id, reason in failed.items():
            print(f"  {shown(case_id)}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def check_held_out(cases, held_out, where):
    """Refuses hearts that are among `cases`: the same file, or a copy of the same name. Names alone do not tell."""
    from vecset.imaging.label_map import file_sha256

    by_name = {}
    for case in cases:
        by_name.setdefault(case.case_id, []).append(case.path)
    for heart in held_out:
        for path in by_name.get(heart.case_id, ()):
            if path.resolve() == heart.path.resolve() or file_sha256(path) == file_sha256(heart.path):
                to_do = "give hearts that are in no training, as val.csv of create_csv.py"
                raise InputError.because(where, f"{shown(heart.case_id)} is among the hearts of --csv, too", to_do)


def with_interval(model, tuning, pairs):
    """(the tuning with the factor of intervals that the held-out hearts of `left_out_of` ask for, what is recorded)."""
    import dataclasses

    from tqdm import tqdm

    from vecset.fields.answers import LEAST
    from vecset.report.answer_intervals import find_factor

    tuned = dataclasses.replace(model, decision_tuning=tuning)
    with tqdm(total=LEAST * len(pairs), unit="answer", desc="answers", dynamic_ncols=True) as bar:
        factor, record = find_factor(tuned, pairs, LEAST, bar.update)
    return dataclasses.replace(tuning, answer_interval=factor), record


if __name__ == "__main__":
    sys.exit(run_command(main))
