"""Lists label maps by what a trained model finds wrong in them, the worst first, so that dirty labels are found.

    python -m vecset.quality.rank --checkpoint train/checkpoint-best.pth --input LABELS --output_dir OUT

Each heart is encoded and drawn as by reconstruct.py. First come the label maps in which --repair of reconstruct.py
changes most, or whose LV leaks; then those that are drawn worse than is usual over all hearts of the list, structure
by structure (vecset/quality/ranking.py). With --every 2 or more, the latter alone. OUT/rank.csv has a row per heart.
What is measured is kept in OUT/hearts.jsonl: run again after a stop, or with more hearts, only what is new or changed
is measured.
"""

import argparse
import functools
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if not __package__:  # run as a file: the repository's root in place of this folder, whose modules would shadow others
    sys.path[:] = [ROOT] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, count, user_path, user_path_text  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import InputError, describe_failure, run_command, shown  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402
from vecset.quality.ranking import (  # noqa: E402
    MeasuredHeart,
    Repair,
    few_hearts_line,
    one_less_mean,
    rank_hearts,
    rank_lines,
    rank_table,
    thick_slices_line,
    usual_line,
)

VERSION = 2  # of what is measured: lines of another one are measured again
TABLE, MEASURED = "rank.csv", "hearts.jsonl"
MEMORY_ADVICE = "give a larger --every, or use a machine with more memory"


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.quality.rank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=user_path, required=True, help="checkpoint-best.pth or -last.pth of main_ae.py")
    add(
        "--input",
        type=user_path,
        required=True,
        help="label maps or case files: a folder, a CSV of create_csv.py, or one file, as for reconstruct.py",
    )
    add("--output_dir", type=user_path, required=True, help=f"folder of {TABLE} and {MEASURED}")
    add("--data_path", type=user_path, help="folder of the files in a CSV (default: the CSV's own)")
    add("--recursive", action="store_true", help="for --input FOLDER: label maps in sub-folders, too (default: not)")
    add("--pattern", metavar="GLOB", help="for --input FOLDER: label maps of such names alone (default: all)")
    add(
        "--every",
        type=count(1),
        default=1,
        help="compare every n-th voxel along each axis, and mend nothing (default: 1, all of them)",
    )
    add("--calibration", type=user_path, help="file of python -m vecset.calibrate (default: without)")
    add("--num_surface_points", type=count(1), help="as for reconstruct.py (default: as in training)")
    add("--num_latents", type=count(1), help="as for reconstruct.py (default: as in training)")
    add("--label_mapping", type=user_path_text, metavar="FILE", help="as for reconstruct.py (default: names or ids)")
    add("--annotated", metavar="CLASSES", help="as for reconstruct.py (default: as the files say)")
    add("--spacing_from", choices=("affine", "pixdim"), help="as for reconstruct.py (default: refuse such files)")
    add("--geometry_from", choices=("sform", "qform"), help="as for reconstruct.py (default: refuse such files)")
    add("--seed", type=int, default=0, help="seed of the draw of surface points (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from vecset.common.atomic import remove_leftovers, require_writable, write_text
    from vecset.data.case_classes import check_chosen
    from vecset.data.label_folder import Selection
    from vecset.inference.arguments import classes_in_words, opened_model
    from vecset.inference.inputs import find_hearts
    from vecset.inference.own_tables import check_chosen_in_tables, mapping_of, taken_by_number
    from vecset.inference.settings import OutputSettings
    from vecset.weights.checkpoint import require_checkpoint

    require_checkpoint(args.checkpoint)
    model = opened_model(args)
    mapping = mapping_of(args.label_mapping, model.class_names)
    annotated = classes_in_words("--annotated", args.annotated)
    check_chosen("--annotated", annotated or (), model.class_names)
    settings = OutputSettings(
        meshes=False,
        spacing_from=args.spacing_from,
        geometry_from=args.geometry_from,
        label_mapping=mapping,
        annotated=annotated,
        repair=args.every == 1,  # pieces and gaps are not to be seen on a thinned grid
    )
    say = functools.partial(print, file=sys.stderr)
    hearts = find_hearts(args.input, args.data_path, Selection(args.recursive, args.pattern), say)
    check_chosen_in_tables(hearts, model.class_names, mapping, annotated)
    by_number = taken_by_number(hearts, model.class_names, mapping)
    if by_number:
        print(f"note: {by_number}")
    if not settings.repair:
        print(
            f"note: --every {args.every}: gaps, stray pieces and leaks are not looked for; the reconstruction decides"
        )
    require_writable(args.output_dir)
    remove_leftovers(args.output_dir)
    (args.output_dir / TABLE).unlink(missing_ok=True)  # of an earlier run, with other files or hearts
    measured, failed, known = measure_all(model, settings, hearts, args.output_dir, args.every)
    if known:
        print(f"{known} of {len(hearts)} hearts were measured before")
    if measured:
        ranked = rank_hearts(measured)
        write_text(args.output_dir / TABLE, rank_table(ranked, model.class_names))
        for note in (few_hearts_line(measured), thick_slices_line(measured)):
            if note:
                print(note)
        print("\n".join(rank_lines(ranked)))
        if usual := usual_line(ranked):
            print(usual)
        print(f"written: {args.output_dir / TABLE}")
    if failed:
        told = "and the others are ranked" if measured else "so there is nothing to rank"
        print(f"{failed} of {len(hearts)} hearts failed, {told}", file=sys.stderr)
    return 1 if failed else 0


def measure_all(model, settings, hearts, folder, every):
    """([`MeasuredHeart`] in the order of `hearts`, the number of those that failed, each told in one line, and the
    number of those that were measured before). What is measured is added to the folder's MEASURED at once."""
    from tqdm import tqdm

    from vecset.common.atomic import append_text
    from vecset.common.file_names import require_sound_name

    kept, found, failed, known = read_measured(folder / MEASURED), [], 0, 0
    with tqdm(hearts, unit="heart", desc="rank", dynamic_ncols=True) as bar:
        for heart in bar:
            try:
                require_sound_name(heart.path)
                key = key_of(model, settings, heart, every)
                if key in kept:
                    known += 1
                else:
                    dice, repair = measure(model, settings, heart, every, tqdm.write)
                    line = {"key": key, "dice": dice, "repair": asdict(repair) if repair else None}
                    append_text(folder / MEASURED, json.dumps(line) + "\n")
                    kept[key] = dice, repair
            except Exception as error:  # a defect met on one heart must not stop the others
                failed += 1
                reason = describe_failure(heart.path, error, MEMORY_ADVICE)
                tqdm.write(f"error: {shown(heart.case_id)}: {reason}", file=sys.stderr)
                continue
            found.append(MeasuredHeart(heart.case_id, str(heart.path), *kept[key]))
    return found, failed, known


def key_of(model, settings, heart, every):
    """Equal where the same would be measured: checkpoint, options, and the bytes of the heart's file. The case's name
    counts, for it seeds the draw of surface points."""
    from vecset.inference.inputs import input_sha256, names_that_decide
    from vecset.inference.settings import fingerprint, made_from

    return fingerprint(
        {
            "measured": VERSION,
            **made_from(model, settings),
            **names_that_decide(heart, model.class_names),
            "every": every,
            "case_id": heart.case_id,
            "input_sha256": input_sha256(heart),
        }
    )


def measure(model, settings, heart, every, say):
    """(`MeasuredHeart.dice` of a heart's label map and what reconstruct.py would draw of it, on every n-th voxel; the
    `Repair` of the map, None without settings.repair). InputError where it holds no label map."""
    import numpy as np

    from vecset.fields.heart_field import CHUNK
    from vecset.inference.heart_result import decode_heart, mended_map
    from vecset.inference.label_repair import changes_line, sees_tubes, tube_ids
    from vecset.metrics.overlap import is_union, score
    from vecset.metrics.thinned_case import every_nth
    from vecset.quality.anatomy import without_leaks

    case = model.read(
        heart,
        spacing_from=settings.spacing_from,
        geometry_from=settings.geometry_from,
        label_mapping=settings.label_mapping,
        annotated=settings.annotated,
    )
    if case.truth_crop is None:
        raise InputError.because(heart.path, "it holds no label map to compare with", "give label maps to --input")
    for note in case.notes:
        say(f"note: {heart.case_id}: {note}")
    case = every_nth(case, every)
    decoded = decode_heart(model, settings, heart.case_id, case, None, CHUNK, _unsaid)

    def dice_of(one, other):
        rows = score(one, other, model.class_names, case.annotated)
        return {row["class_name"]: row["dice"] for row in rows if not is_union(row)}

    dice = dice_of(case.truth_labels(), decoded.on_source)
    if not settings.repair:
        return dice, None
    mended, told = mended_map(decoded)
    truth, tubes = case.truth_labels(), sees_tubes(case.frame.spacing_mm)
    if not tubes:  # in thick slices vessels fall apart by themselves: that is no fault
        vessels = tube_ids(case.class_names)
        mended = np.where(np.isin(truth, vessels) | np.isin(mended, vessels), truth, mended)
        told = {name: one for name, one in told.items() if case.class_names.index(name) + 1 not in vessels}
    closed = without_leaks(case)
    leak = None if closed is None else one_less_mean(dice_of(case.truth_crop, closed))
    return dice, Repair(dice_of(truth, mended), changes_line(told), tubes, leak)


def _unsaid(line):
    """What reconstruct.py says of a drawn heart is about files that are not written here."""


def read_measured(path):
    """{key: (`MeasuredHeart.dice`, `Repair` or None)} of the lines of a file of `measure_all`. A line that a stop has
    cut off counts as not there, and is taken out of the file, so that the next line begins anew."""
    from vecset.common.atomic import write_text

    if not path.exists():
        return {}
    found, whole = {}, []
    text = path.read_bytes().decode("utf-8", "replace")
    for line in text.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            repair = entry.get("repair")  # lines of VERSION 1 have none
            found[entry["key"]] = dict(entry["dice"]), Repair(**repair) if repair else None
        except (ValueError, KeyError, TypeError):
            continue
        whole.append(line)
    if "".join(whole) != text or not text.endswith("\n"):
        write_text(path, "".join(f"{line.rstrip()}\n" for line in whole))
    return found


if __name__ == "__main__":
    sys.exit(run_command(main))
