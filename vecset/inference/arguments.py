"""The flags of reconstruct.py, the checks that need several of them, and the model that they ask for."""

import argparse

from vecset.common.arguments import CommandParser, user_path, user_path_text
from vecset.common.errors import InputError

LEAST = {"chunk": 1, "mesh_cells": 8, "num_surface_points": 1, "num_latents": 1}
SPACING_MM = (0.05, 50)
EXTEND_MM = (0.1, 500)
LATENT_BITS = (8, 16, 32)
REFINE = {"refine": (0.1, 3600, "seconds"), "refine_steps": (1, 100_000, "steps")}
SAMPLES = (19, 255)  # as vecset/fields/answers.py allows, which is imported late


def build_parser(description: str) -> argparse.ArgumentParser:
    """description: the first line is the summary, what follows an empty line the details."""
    summary, _, details = description.partition("\n\n")
    parser = CommandParser(
        "reconstruct.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        shown_required=("input",),
    )

    def add(flag, default, text, **kwargs):
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(flag, default=default, help=text, **kwargs)

    parser.add_argument(
        "--checkpoint",
        type=user_path,
        help="checkpoint-best.pth or -last.pth of main_ae.py, or released weights (default: weights/heart.pth of the "
        "repository, where it is there)",
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
    add(
        "--num_surface_points",
        None,
        "surface points that the encoder reads (default: as in training, or as released weights say)",
        type=int,
    )
    add(
        "--num_latents",
        None,
        "latents per heart, for models with point queries: more hold more detail, fewer make smaller files "
        "(default: as in training, or as released weights say)",
        type=int,
    )
    add(
        "--calibration",
        None,
        "file of python -m vecset.calibrate: decisions about labels, tuned on training hearts (thin vessels gain "
        "most) (default: that of released weights, else the sign of the distance and the largest logit)",
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
    parser.add_argument(
        "--repair",
        action="store_true",
        help="also write the input's own label map (of a case file: the one that it holds) with stray pieces, gaps and "
        "lost contacts mended where the model says how: repaired.nii.gz, and what was changed in result.json "
        "(default: without)",
    )
    add(
        "--refine",
        None,
        "fit the latents of each heart to its own label map for so long, after they are encoded, while the network "
        "stays as it is (vecset/inference/refinement.py); how far that comes depends on the machine (default: not at "
        "all)",
        type=float,
        metavar="SECONDS",
    )
    add(
        "--refine_steps",
        None,
        "the same for so many steps in place of a time: the same latents on every run (default: not at all)",
        type=int,
        metavar="N",
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


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The checked arguments; `input` is the file of --latents where one is given."""
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
    if args.input is None:
        parser.error("the following arguments are required: --input")
    for flag, least in LEAST.items():
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag}", f"at least {least}", value)
    if args.spacing is not None and not SPACING_MM[0] <= args.spacing <= SPACING_MM[1]:
        raise InputError("--spacing", "mm, 0.05 to 50", args.spacing)
    args.annotated, args.given = (
        classes_in_words("--annotated", args.annotated),
        classes_in_words("--given", args.given),
    )
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
    for flag, other in (("--latents FILE", stored_latents), ("--given", args.given), ("--slices", args.slices)):
        if args.repair and other:
            raise InputError.because(
                "--repair", f"it mends a label map that is shown whole, not with {flag}", "leave one out"
            )
    _check_refining(args, stored_latents)
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
    from vecset.weights.release import shipped_weights

    if args.checkpoint is None:
        args.checkpoint = shipped_weights()
    require_checkpoint(args.checkpoint)
    return args


def _check_refining(args, stored_latents):
    asked = [flag for flag in REFINE if getattr(args, flag) is not None]
    if not asked:
        return
    if len(asked) > 1:
        raise InputError.because("--refine", "--refine_steps says how long, too", "give one of them")
    low, high, what = REFINE[asked[0]]
    if not low <= getattr(args, asked[0]) <= high:
        raise InputError(f"--{asked[0]}", f"{low} to {high} {what}", getattr(args, asked[0]))
    for flag, other, why in (
        ("--latents FILE", stored_latents, "stored latents hold no label map"),
        ("--slices", args.slices, "between slices nothing is known that latents could be fitted to"),
        ("--given", args.given, "what is hidden would be fitted as background"),
        ("--complete", args.complete, "what is unknown would be fitted as background"),
        ("--samples", args.samples, "what is unknown would be fitted as background"),
        ("--repair", args.repair, "errors of the label map would be fitted, too"),
    ):
        if other:
            raise InputError.because(f"--{asked[0]}", f"with {flag}: {why}", "leave one out")


def opened_model(args: argparse.Namespace):
    """The `LoadedModel` of a command's --checkpoint, --device, --num_latents, --num_surface_points, --seed, and
    --calibration where it has that. Errors: as `load_model`."""
    from vecset.inference.model import load_model  # imports torch

    return load_model(
        args.checkpoint,
        device=args.device,
        num_latents=args.num_latents,
        num_surface_points=args.num_surface_points,
        decision_tuning=getattr(args, "calibration", None),
        seed=args.seed,
    )


def classes_in_words(flag: str, text: str | None) -> tuple[str, ...] | None:
    """The ids and names in '1,3,LV', each once, sorted; None for None. InputError where there is none, or a gap."""
    if text is None:
        return None
    words = [" ".join(word.split()) for word in text.split(",")]
    if not all(words):
        raise InputError(flag, "ids or names of classes with commas between, as 1,3,5 or LA,LV", repr(text))
    return tuple(sorted(set(words)))
