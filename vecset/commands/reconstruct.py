"""A trained model and hearts in, reconstructed hearts out: label maps on their own grid, meshes in mm, figures.

    OUT/CASE/labels.nii.gz       the label map, on the grid and with the header geometry of the source image (or with
                                 --spacing, --extend), class names and colours in the header
    OUT/CASE/labels.seg.nrrd     the same for 3D Slicer: a segment with name and colour per class
    OUT/CASE/inferred.nii.gz     where --given or --complete infer something: 1 where a voxel's structure is inferred
    OUT/CASE/meshes/NAME.ply     a mesh per class, in the patient's mm (RAS+), watertight and outward;
                                 like the label map it ends where the image ends (or --extend)
    OUT/CASE/heart.glb           all meshes in one file, coloured
    OUT/CASE/latents.npz         with --latents: the latents of the heart, which --latents FILE decodes again
    OUT/CASE/samples/NNN.nii.gz, OUT/CASE/probability/NAME.nii.gz
                                 with --samples: the label map of every answer; the share of them with the structure
    OUT/CASE/result.json         this heart's figures, and what they were made from
    OUT/metrics.csv, .json       overlap, surface distances, volumes, topology per heart and class; means, counts
    OUT/samples.csv              with --samples: volumes of the structures that are not seen whole, with intervals
    OUT/overview.png             best, median and worst heart in three planes
    OUT/report.html              all of it in one page: tables, box plots, slices, surfaces in 3D, training curves

A second run skips the hearts that are done (same checkpoint, same input, same options). A heart that fails is
reported in one line; the others continue, and the exit code is 1.

    python reconstruct.py --compare A B --output_dir OUT    two such folders side by side: OUT/compare.html
"""

import argparse
import functools
import sys
from collections import Counter

from vecset.common.arguments import CommandParser, user_path, user_path_text
from vecset.common.atomic import remove_leftovers, require_writable
from vecset.common.cores import limit_threads
from vecset.common.errors import InputError, describe_failure, require_package, run_command, shown
from vecset.common.memory import keep_freed_memory
from vecset.common.structure_state import STATE_WORDS, State

LEAST = {"chunk": 1, "mesh_cells": 8, "num_surface_points": 1, "num_latents": 1}
SPACING_MM = (0.05, 50)
EXTEND_MM = (0.1, 500)
FAILED_SHOWN = 20
NOTES_SHOWN = 20
LATENT_BITS = (8, 16, 32)
SAMPLES = (19, 255)  # as vecset/fields/answers.py allows, which is imported late


def get_parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")  # python -OO keeps no docstrings
    parser = CommandParser(
        "reconstruct.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        shown_required=("checkpoint", "input"),
    )

    def add(flag, default, text, **kwargs):
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(flag, default=default, help=text, **kwargs)

    parser.add_argument(
        "--checkpoint",
        type=user_path,
        help="checkpoint-best.pth or -last.pth of main_ae.py (required, but for --compare)",
    )
    parser.add_argument(
        "--input",
        type=user_path,
        help="case file (.npz), label map (.nii.gz, .nii, .nrrd, .mha), folder of either, CSV of "
        "create_csv.py, or a point cloud with labels in mm, RAS+ (.ply with a vertex property label; "
        ".npz with points_mm and labels) (required, but for --compare and --latents FILE)",
    )
    parser.add_argument("--output_dir", required=True, type=user_path, help="folder of the results")
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="for --input FOLDER: label maps in sub-folders, too (default: only those directly in it)",
    )
    add(
        "--pattern",
        None,
        "for --input FOLDER: only label maps with such a file name, as '*_label.nii.gz' (default: all, but for scans "
        "beside label maps)",
        metavar="GLOB",
    )
    add("--data_path", None, "folder that the files in a CSV are relative to (default: the CSV's own)", type=user_path)
    add(
        "--train_csv",
        None,
        "CSV of the training hearts: adds what their mean shape and the nearest of them would score (default: without)",
        type=user_path,
    )
    add("--num_surface_points", None, "surface points that the encoder reads (default: as in training)", type=int)
    add(
        "--num_latents",
        None,
        "latents per heart, for models with point queries: more hold more detail, fewer make smaller files "
        "(default: as in training)",
        type=int,
    )
    add(
        "--calibration",
        None,
        "file of python -m vecset.calibrate: decisions about labels, tuned on training hearts (thin vessels gain "
        "most) (default: the sign of the distance and the largest logit)",
        type=user_path,
    )
    add("--chunk", 8192, "points decoded at once; fewer need less memory", type=int)
    add(
        "--mesh_cells",
        144,
        "grid cells along the edge of the unit cube (2.1 times the heart's radius) for the meshes",
        type=int,
    )
    add("--mesh_format", "ply", "file format of the meshes", choices=("ply", "stl", "obj"))
    parser.add_argument(
        "--lps", action="store_true", help="meshes per class in LPS mm, as 3D Slicer's files are (default: RAS mm)"
    )
    add(
        "--spacing",
        None,
        "voxel size (mm, cubic) of the label map written, over the source's field of view; figures are always on the "
        "source's grid (default: the source's own grid, 1 mm for point clouds and for folders of slices)",
        type=float,
    )
    parser.add_argument(
        "--latents",
        nargs="?",
        const=True,
        type=user_path,
        metavar="FILE",
        help="without a value: save latents.npz per heart (see --latent_bits); with FILE or a folder: decode it in "
        "place of --input (default: neither)",
    )
    add(
        "--latent_bits",
        None,
        "for --latents without a value: bits per number; below 32 the heart is decoded from the latents as they are "
        "saved, so its figures are those of the file (default: 8)",
        type=int,
        choices=LATENT_BITS,
    )
    parser.add_argument("--no_meshes", action="store_true", help="label maps and figures only (default: meshes too)")
    add(
        "--spacing_from",
        None,
        "which spacing of a label map to use where its header contradicts itself; case files hold the right one "
        "(default: refuse such files)",
        choices=("affine", "pixdim"),
    )
    add(
        "--geometry_from",
        None,
        "which of sform and qform places a label map where its header has both and they differ by more than half a "
        "voxel (default: refuse such files)",
        choices=("sform", "qform"),
    )
    add(
        "--label_mapping",
        None,
        "which values of a label map are which class, as for prepare_data.py; its classes are those of the same names "
        "in the checkpoint (default: by names in the file, else values are class ids)",
        type=user_path_text,
        metavar="FILE",
    )
    add(
        "--annotated",
        None,
        "which classes of label maps and point clouds were looked for: ids of the input's own table, as for "
        "prepare_data.py, or names, as 1,2,3 or LA,LV; the others are unknown, not absent. Case files say it "
        "themselves (default: those that --label_mapping or the names in the file have, else all)",
        metavar="CLASSES",
    )
    add(
        "--given",
        None,
        "show the model these classes alone, by ids of the input's own table or names, as 1,3,5 or LA,LV; the rest of "
        "the map is hidden from it, inferred, and the truth that its figures are about (default: all that is there)",
        metavar="CLASSES",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="infer and draw the classes that are unknown: those that were not annotated (default: what has no voxel "
        "in the input is not drawn)",
    )
    add(
        "--extend",
        None,
        "decode so far beyond the image, on every side: label map and meshes go on there, with the same voxels inside; "
        "figures are those of the image alone (default: they end where the image ends)",
        type=float,
        metavar="MM",
    )
    add(
        "--samples",
        None,
        "give so many answers for what is not seen whole, for a checkpoint of main_ae.py --answer_noise: a label map "
        "each, volumes with a 90 %% interval (result.json, samples.csv), maps of the probability of a voxel, and the "
        "spread of each surface in its mesh (default: the one answer alone)",
        type=int,
        metavar="N",
    )
    add(
        "--slices",
        None,
        "the label maps show planes, and between them all is unknown (cardiac MR): file, each file is the stack of one "
        "heart, or its labelled points; folder, all label maps of a folder are slices or stacks of one heart, in any "
        "direction, and --input is such a folder, a folder of them, or a CSV that names them (default: they show the "
        "whole heart)",
        choices=("file", "folder"),
    )
    add("--seed", 0, "seed of the draw of surface points", type=int)
    add("--device", "auto", "auto (CUDA where there is one), cpu, cuda, cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="make finished hearts again (default: skip them)")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        type=user_path,
        help="two output folders of this command: writes compare.html (figures and their differences, the same hearts "
        "paired, slices and surfaces side by side) into --output_dir, and nothing else (default: none)",
    )
    add(
        "--run_dir",
        None,
        "folder of the training run, whose curves report.html shows "
        "(default: the checkpoint's, where it has a log.txt)",
        type=user_path,
    )
    add("--remark", None, "what the table and report.html say above their figures (default: nothing)", metavar="TEXT")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.compare:
        from vecset.report.compare import write_comparison

        faults = []
        print(f"written: {write_comparison(*args.compare, args.output_dir, faults=faults)}")
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1 if faults else 0
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from vecset.data.case_classes import check_chosen
    from vecset.fields.claims import claims_line
    from vecset.imaging.label_mapping import LabelMapping
    from vecset.inference.inputs import find_hearts, find_stored_latents
    from vecset.inference.model import load_model
    from vecset.inference.own_tables import check_chosen_in_tables, taken_by_number
    from vecset.inference.reconstruction import Reconstruction
    from vecset.inference.settings import OutputSettings
    from vecset.report.samples import TABLE, sample_lines, write_table

    require_package("SimpleITK")  # writes the .seg.nrrd of every heart
    model = load_model(
        args.checkpoint,
        device=args.device,
        num_latents=args.num_latents,
        num_surface_points=args.num_surface_points,
        decision_tuning=args.calibration,
        seed=args.seed,
    )
    if model.latent_words:
        print(f"note: {model.latent_words}")
    mapping = LabelMapping.load(args.label_mapping, len(model.class_names)) if args.label_mapping else None
    if mapping:
        mapping.for_classes(model.class_names)  # refused here, not per heart
    for flag in ("annotated", "given"):
        check_chosen(f"--{flag}", getattr(args, flag) or (), model.class_names)
    if (args.given or args.complete or args.slices) and not model.told_states:
        print("note: this model was not trained to infer what it does not see (main_ae.py --observe); it guesses")
    elif args.slices and "slices" not in model.observed:
        print("note: this model was not trained on slices (main_ae.py --observe slices=...); it guesses between them")
    if args.samples and not model.answer_numbers:
        raise InputError.because(
            "--samples", "this checkpoint gives one answer", "train with main_ae.py --answer_noise, or leave it out"
        )
    settings = OutputSettings(
        meshes=not args.no_meshes,
        mesh_cells=args.mesh_cells,
        mesh_format=args.mesh_format,
        lps=args.lps,
        spacing_mm=args.spacing,
        spacing_from=args.spacing_from,
        geometry_from=args.geometry_from,
        latents=args.latents is True,
        latent_bits=args.latent_bits or LATENT_BITS[0],
        label_mapping=mapping,
        annotated=args.annotated,
        given=args.given,
        complete=args.complete,
        extend_mm=args.extend or 0.0,
        samples=args.samples or 0,
        slices=args.slices,
    )
    if args.latents not in (None, True):
        hearts = find_stored_latents(args.input)
    else:
        from vecset.data.label_folder import Selection, require_apart

        selection = Selection(args.recursive, args.pattern)
        require_apart(args.input, args.output_dir, selection)
        hearts = find_hearts(
            args.input,
            args.data_path,
            selection,
            lambda line: print(line, file=sys.stderr),
            args.slices,
        )
        check_chosen_in_tables(hearts, model.class_names, mapping, args.annotated, args.given)
        by_number = taken_by_number(hearts, model.class_names, mapping)
        if by_number:
            print(f"note: {by_number}")
    baselines = read_baselines(args, hearts, model.class_names) if args.train_csv else None
    require_writable(args.output_dir)
    remove_leftovers(args.output_dir)
    removed = []

    def remove_tables():
        from vecset.report.results import remove_results  # imports matplotlib

        removed.extend(remove_results(args.output_dir))

    how = baselines, args.chunk, args.overwrite, remove_tables
    try:
        outcome = Reconstruction(model, settings, args.output_dir, *how).run(hearts)
    except BaseException:  # an interrupt, too
        if removed:
            told = f"{', '.join(removed)} of {args.output_dir} spoke of hearts that this run was making again"
            print(f"note: {told}, and are removed; a run that ends writes them", file=sys.stderr)
        raise
    if outcome.skipped:
        print(f"{len(outcome.skipped)} of {len(hearts)} hearts were done before")
        print("".join(f"{line}\n" for line in earlier_notes([outcome.results[c] for c in outcome.skipped])), end="")
    if outcome.dense:  # also where there is no truth, and hence no report
        print(
            f"{outcome.dense} of {len(outcome.results)} hearts were decoded voxel by voxel: coarse to fine was not "
            "safe, or no gain, for them"
        )
    counts = [claims for result in outcome.results.values() if (claims := result["decoding"].get("claims"))]
    if counts:
        print(claims_line(counts))
    print("".join(f"{line}\n" for line in slices_lines(list(outcome.results.values()))), end="")
    print("".join(f"{line}\n" for line in unknown_lines(list(outcome.results.values()))), end="")
    write_table(args.output_dir / TABLE, list(outcome.results.values()))
    print("".join(f"{line}\n" for line in sample_lines(list(outcome.results.values()))), end="")
    faults = report(args, model, settings, hearts, outcome.results) if outcome.results else []
    if settings.latents and outcome.results:
        print("".join(f"{line}\n" for line in latents_lines(outcome.results.values(), settings.latent_bits)), end="")
    if outcome.failed:
        print(failed_line(outcome.failed, hearts), file=sys.stderr)
    return 1 if outcome.failed or faults else 0


def unknown_lines(results):
    """What the last lines say about structures that are unknown: what was left out, and what was inferred."""
    left, inferred = Counter(), Counter()
    hearts = {"left": 0, "inferred": 0}
    for result in results:
        inferred.update(mine := result.get("inferred", ()))
        unknown = [name for name, word in result.get("states", {}).items() if word == STATE_WORDS[State.UNKNOWN]]
        left.update(gone := [name for name in unknown if name not in mine])
        hearts["left"] += bool(gone)
        hearts["inferred"] += bool(mine)
    told = {
        key: ", ".join(f"{name} in {n}" for name, n in counts.items())
        for key, counts in (("left", left), ("inferred", inferred))
    }
    lines = []
    if left:
        lines.append(
            f"{hearts['left']} of {len(results)} hearts have structures that are unknown and are not drawn "
            f"({told['left']}); --complete infers them"
        )
    if inferred:
        lines.append(f"{hearts['inferred']} of {len(results)} hearts have inferred structures ({told['inferred']})")
    return lines


def slices_lines(results):
    """What the last lines say about hearts that were seen in slices: how well they agree with these."""
    each = [list(result["slices"]["dice"].values()) for result in results if result.get("slices", {}).get("dice")]
    if not each:
        return []
    mean = sum(sum(dice) / len(dice) for dice in each) / len(each)
    return [
        f"{len(each)} of {len(results)} hearts were compared with their slices: mean Dice in the slices {mean:.3f} "
        "(it says nothing of the heart between them)"
    ]


def latents_lines(results, bits):
    """What the last lines say about the latents of the hearts that are done."""
    files = [result["latents_file"] for result in results if "latents_file" in result]
    if not files:  # an earlier version made them
        return []
    kilobytes = sum(file["bytes"] for file in files) / len(files) / 1000
    numbers = max(file["latents"] * file["numbers"] for file in files)
    told = f"latents: {numbers} numbers in {max(file['bits_per_number'] for file in files):.1f} bits each, "
    told += f"{kilobytes:.1f} kB per heart (latents.npz)"
    return [told + ("; label maps and figures are decoded from what these files hold" if bits < 32 else "")]


def earlier_notes(results):
    """The notes about hearts that were done before, once more, as far as there are not too many; and how many hearts an
    earlier version made, which kept no notes."""
    notes = [f"note: {shown(result['case_id'])} (done before): {text}" for result in results for text in _notes(result)]
    lines = notes[:NOTES_SHOWN]
    if notes[NOTES_SHOWN:]:
        lines.append(f'and {len(notes) - NOTES_SHOWN} more notes about them: "notes" in result.json of each heart')
    unknown = sum("notes" not in result for result in results)
    if unknown:
        lines.append(f"an earlier version made {unknown} of them, and kept no notes about them; --overwrite tells them")
    return lines


def _notes(result):
    return result.get("notes", [])


def failed_line(failed, hearts):
    """The last line about the hearts that failed ({case_id: reason}): which they are. Each was told its reason."""
    names = ", ".join(map(shown, list(failed)[:FAILED_SHOWN]))
    more = f" and {len(failed) - FAILED_SHOWN} more" if len(failed) > FAILED_SHOWN else ""
    return f"{len(failed)} of {len(hearts)} hearts failed (reasons above): {names}{more}"


def parse_arguments(argv):
    """The checked arguments; `input` is the file of --latents where one is given."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.compare:
        return args
    stored_latents = None if args.latents in (None, True) else args.latents
    if args.latent_bits and args.latents is not True:
        raise InputError.because(
            "--latent_bits",
            "it says how --latents without a file saves latents",
            "leave it out, or give --latents without a file",
        )
    if stored_latents and (args.input or args.train_csv):
        raise InputError.because(
            "--latents",
            f"{stored_latents} excludes --input and --train_csv",
            "give --latents without a file to save latents",
        )
    args.input = stored_latents or args.input
    lacking = [f"--{flag}" for flag in ("checkpoint", "input") if getattr(args, flag) is None]
    if lacking:
        parser.error(f"the following arguments are required: {', '.join(lacking)}")
    for flag, least in LEAST.items():
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag}", f"at least {least}", value)
    if args.spacing is not None and not SPACING_MM[0] <= args.spacing <= SPACING_MM[1]:
        raise InputError("--spacing", "mm, 0.05 to 50", args.spacing)
    args.annotated, args.given = _classes("--annotated", args.annotated), _classes("--given", args.given)
    if args.annotated and stored_latents:
        raise InputError.because("--annotated", "stored latents say themselves what was annotated", "leave it out")
    if args.given and stored_latents:
        raise InputError.because(
            "--given",
            "stored latents hold a heart that was encoded before",
            "give the label map or case file to --input",
        )
    if args.extend is not None and not EXTEND_MM[0] <= args.extend <= EXTEND_MM[1]:
        raise InputError("--extend", f"mm, {EXTEND_MM[0]} to {EXTEND_MM[1]}", args.extend)
    if args.samples is not None and not SAMPLES[0] <= args.samples <= SAMPLES[1]:
        to_do = "fewer answers hold no interval of 90 %" if args.samples < SAMPLES[0] else "give fewer"
        raise InputError("--samples", f"{SAMPLES[0]} to {SAMPLES[1]}", args.samples, to_do)
    if args.slices and stored_latents:
        raise InputError.because(
            "--slices", "stored latents hold a heart that was encoded before", "give its slices to --input"
        )
    if args.slices and args.annotated:
        raise InputError.because(
            "--annotated",
            "with --slices it changes nothing: what no slice shows may lie between them, whoever looked for it",
            "leave it out",
        )
    if args.slices and args.train_csv:
        raise InputError.because(
            "--train_csv", "slices are no truth for the heart between them, so nothing is scored", "leave it out"
        )
    from vecset.weights.checkpoint import require_checkpoint

    require_checkpoint(args.checkpoint)
    return args


def _classes(flag, text):
    """The ids and names in '1,3,LV', each once, sorted; None for None. InputError where there is none, or a gap."""
    if text is None:
        return None
    words = [" ".join(word.split()) for word in text.split(",")]
    if not all(words):
        raise InputError(flag, "ids or names of classes with commas between, as 1,3,5 or LA,LV", repr(text))
    return tuple(sorted(set(words)))


def read_baselines(args, hearts, class_names):
    """The `Baselines` of --train_csv. InputError where its hearts have other classes than `class_names`, and where a
    heart to reconstruct is among them."""
    from tqdm import tqdm

    from vecset.data.listed_case import read_split
    from vecset.imaging.class_names import check_same_names
    from vecset.metrics.baselines import Baselines

    cases = read_split(args.train_csv, args.data_path or args.train_csv.parent, len(class_names))
    if any(case.dataset for case in cases):  # what one data set has not annotated would count as background
        raise InputError.because(
            args.train_csv,
            "it lists several data sets, and the baselines of --train_csv are those of one",
            "give a train.csv of a single data set with the checkpoint's classes, or leave --train_csv out",
        )
    check_same_names(
        cases[0].class_names, class_names, cases[0].path, args.checkpoint, "give a --train_csv of the same classes"
    )
    paths = [case.path for case in cases]
    trained = {path.resolve() for path in paths}
    known = [heart for heart in hearts if heart.path.resolve() in trained]
    if known:
        raise InputError.because(
            args.train_csv,
            f"{known[0].case_id} is to be reconstructed and among the training hearts",
            "leave out --train_csv: the baselines would know the answer",
        )
    return Baselines(
        paths, len(class_names), lambda p: tqdm(p, unit="heart", desc="training hearts", dynamic_ncols=True)
    )


def report(args, model, settings, hearts, results):
    """Writes tables and pages over all hearts, and prints the table. Returns what could not be shown, a line each,
    which it prints too."""
    from vecset.inference.inputs import load_truth
    from vecset.inference.settings import made_from
    from vecset.report.results import write_results

    by_id = {heart.case_id: heart for heart in hearts}
    truth_of = functools.cache(
        lambda c: load_truth(by_id[c], model.class_names, args.spacing_from, args.geometry_from, settings.label_mapping)
    )
    told = {
        **made_from(model, settings),
        "checkpoint": str(args.checkpoint),
        "model": model.description,
        "calibration": str(args.calibration or "") or None,
        "epoch": model.epoch,
        "input": str(args.input),
        "recursive": args.recursive,
        "pattern": args.pattern,
        "data_path": str(args.data_path or "") or None,
        "label_mapping": str(args.label_mapping or "") or None,
        "train_csv": str(args.train_csv or "") or None,
        "device": str(model.device),
        "chunk": args.chunk,
        "remark": args.remark,
    }
    run_dir = args.run_dir or args.checkpoint.parent
    try:
        lines, faults = write_results(
            args.output_dir, results, told, model.class_names, truth_of, run_dir, args.train_csv is not None
        )
    except OSError as error:  # of the tables; the hearts are made all the same
        lines, faults = [], [describe_failure(args.output_dir, error)]
    print("".join(f"{line}\n" for line in lines), end="")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return faults


if __name__ == "__main__":
    sys.exit(run_command(main))
