"""Makes the linear shape model of a set of training hearts, for main_ae.py --shape_model FILE:

    python -m vecset.shape_model --csv cases/train.csv --output shape_model.npz

What it is: vecset/models/shape_model.py. How it is made: vecset/metrics/shape_model_building.py. Give training hearts
alone. About a second of one core per heart.

    python -m vecset.shape_model --csv cases/AC/train.csv --widen shape_model_of_A.npz --output wider.npz

keeps a model as it is for its structures, and adds those of other hearts: for main_ae.py --init_from a network that was
trained with it (vecset/metrics/shape_model_widening.py).
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
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402

MODES, ADDED_MODES = 32, 8
STEP_UNIT = (0.02, 0.2)


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.shape_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--csv", type=user_path, required=True, help="train.csv of create_csv.py")
    add("--data_path", type=user_path, help="folder that its files are relative to (default: the CSV's own)")
    add("--output", type=user_path, required=True, help="npz file to write")
    add("--widen", type=user_path, help="shape model to keep, and to add the other structures of these hearts to")
    add(
        "--modes",
        type=int,
        help=f"modes at most (default: {MODES}), with --widen those that are added (default: {ADDED_MODES}); "
        "hearts less one where that is less",
    )
    add(
        "--step",
        type=float,
        help=f"distance of the points of its grids, {STEP_UNIT[0]} to {STEP_UNIT[1]}, 1 being half the edge "
        "of the unit cube; a coarser model is smaller, and thin structures are lost in it (default: 0.05, with --widen "
        "that of the model)",
    )
    add("--file_workers", type=int, default=1, help="processes that read hearts (default: 1)")
    add("--hearts", type=int, help="number of training hearts used, evenly chosen (default: all)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    for flag in ("modes", "file_workers", "hearts"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag}", "at least 1", getattr(args, flag))
    if args.step is not None:
        if args.widen:
            raise InputError.because("--step", "with --widen the grids are those of the model", "leave it out")
        if not STEP_UNIT[0] <= args.step <= STEP_UNIT[1]:
            raise InputError("--step", f"{STEP_UNIT[0]} to {STEP_UNIT[1]}", args.step)
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from tqdm import tqdm

    from vecset.common.atomic import require_writable
    from vecset.data.case_file import read_meta
    from vecset.data.listed_case import read_split
    from vecset.data.shape_model_file import RECORDED, read_shape_model, sizes_of, write_shape_model
    from vecset.inference.decision_tuning_search import evenly_chosen
    from vecset.metrics.shape_model_building import STEP, build_shape_model
    from vecset.metrics.shape_model_widening import known_part, widen_shape_model, with_others

    require_writable(args.output.parent, "--output")
    kept = read_shape_model(args.widen) if args.widen else None
    cases = read_split(args.csv, args.data_path or args.csv.parent, None)
    first, record = cases[0], {}
    if kept:
        kept = (*known_part(kept[0], kept[1]), kept[2])
        cases = with_others(cases, kept[1])
    chosen = evenly_chosen(cases, args.hearts) if args.hearts else cases
    bar = functools.partial(tqdm, desc="laid on each other", unit="heart", dynamic_ncols=True)
    if kept:
        arrays, names, before = kept
        modes = ADDED_MODES if args.modes is None else args.modes
        arrays, chosen = widen_shape_model(chosen, arrays, names, first.class_names, modes, bar, args.widen)
        record = {name: list(before.get(name, ())) for name in RECORDED}
    else:
        arrays = build_shape_model(
            chosen, first.num_classes, args.modes or MODES, args.file_workers, bar, args.step or STEP
        )
    about = [(case.case_id, str(read_meta(case.path).get("source_sha256", ""))) for case in chosen]
    record = {name: [*record.get(name, ()), *mine] for name, mine in zip(RECORDED, zip(*about))}
    write_shape_model(args.output, arrays, list(first.class_names), record)
    sizes = sizes_of(arrays)
    megabytes = args.output.stat().st_size / 1e6
    hearts = f"{len(chosen)} hearts"
    if kept:
        hearts += f" with new structures beside {len(record['cases']) - len(chosen)} of {args.widen.name}"
    print(f"written: {args.output} ({hearts}, {sizes['modes']} modes, {megabytes:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
