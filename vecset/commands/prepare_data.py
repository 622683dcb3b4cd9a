"""Label maps -> case files: points on, near and in each heart, with their distances and classes.

Run again, it skips what is done (same label map, same options) and makes the rest. A label map that cannot be used is
reported in one line; the others continue, and the exit code is 1. Contents of a case file: docs/data.md.
"""

import argparse
import sys
from pathlib import Path

from vecset.common.arguments import CommandParser, user_path_text
from vecset.common.errors import InputError, run_command
from vecset.imaging.class_names import MOST_CLASSES, number_or_table, read_structure_table
from vecset.imaging.classes import SHIPPED_TABLES
from vecset.imaging.label_mapping import LabelMapping, preset_names
from vecset.imaging.structure_names import FILE_PRESETS


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser("prepare_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(flag, default, text, **kwargs):
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(flag, default=default, help=text, **kwargs)

    def old_name(flag, dest, **kwargs):
        parser.add_argument(flag, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kwargs)

    parser.add_argument(
        "--input_dir", required=True, type=user_path_text, help="folder of label maps: .nii.gz, .nii, .nrrd, .mha"
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="label maps in sub-folders, too; a case is named after its folders and file, as in sub-01_anat_NAME "
        "(default: only those directly in the folder)",
    )
    add(
        "--pattern",
        None,
        "only files with such a name, as '*_label.nii.gz' (default: all, but for scans beside label maps, "
        "NAME_image beside NAME_label)",
        metavar="GLOB",
    )
    parser.add_argument(
        "--output_dir", required=True, type=user_path_text, help="folder for the case files, NAME.npz each"
    )
    add(
        "--classes",
        10,
        "the structures 1..C of the project: their number, or their table, which is "
        + ", ".join(SHIPPED_TABLES)
        + ' or a JSON file [{"id": 1, "name": "LV", "aliases": ["left ventricle blood"], "colour": "#882255"}, ...]; '
        "label 0 is background",
        type=number_or_table,
        metavar="C|NAME|FILE",
    )
    add("--num_surface_points", 50000, "points on the surfaces, per heart", type=int)
    add("--num_vol_points", 50000, "points in the volume, half of them inside, per heart", type=int)
    add("--num_near_points", 50000, "points near the surfaces, per heart", type=int)
    add("--file_workers", 1, "processes, each making one heart at a time; 0: make them in this process", type=int)
    add("--start_idx", 0, "index of the first file in the naturally sorted list of all", type=int)
    add("--end_idx", None, "index after the last file (default: to the end)", type=int)
    add("--seed", 0, "seed of all random draws", type=int)
    parser.add_argument("--overwrite", action="store_true", help="make done files again (default: skip them)")
    add(
        "--label_mapping",
        None,
        "JSON file that maps the image's values to classes, or one of the presets "
        + ", ".join(preset_names())
        + " (default: values are class ids)",
        type=user_path_text,
        metavar="FILE",
    )
    add(
        "--structures",
        None,
        "--input_dir holds a folder for each scan, with a 0/1 file per structure, which are merged by their names: "
        + "; ".join(f"{name}: {about}" for name, about in FILE_PRESETS.items())
        + "; or a JSON file {file stem: class id or name}",
        type=user_path_text,
        metavar="NAME|FILE",
    )
    old_name("--label_map", dest="label_mapping", type=user_path_text)
    add("--annotated", None, "ids of the annotated classes, as 1,2,3 (default: all, or those in --label_mapping)")
    add(
        "--spacing_from",
        None,
        "which spacing to use where a header contradicts itself (default: refuse such files)",
        choices=("affine", "pixdim"),
    )
    add(
        "--geometry_from",
        None,
        "which of sform and qform places an image in space where a NIfTI header has both and they differ by more than "
        "half a voxel (default: refuse such files)",
        choices=("sform", "qform"),
    )
    add(
        "--sdf",
        "mesh",
        "distance: exact to the surface mesh, or from the voxel distance transform alone",
        choices=("mesh", "edt"),
    )
    add(
        "--class_floor",
        0.04,
        "smallest share of the surface, near and inside points that each present class gets; all classes "
        "together get at most half of the points this way",
        type=float,
    )
    parser.add_argument(
        "--sample_caps",
        action="store_true",
        help="also put points on the flat caps where the field of view truncates a structure (default: no)",
    )
    parser.add_argument(
        "--class_distances",
        action="store_true",
        help="also store the signed distance to each class at every point, for networks that learn these; the points "
        "stay the same (default: no)",
    )
    add(
        "--drop_islands",
        0.0,
        "drop connected components of a class that have fewer voxels than this share of its largest component "
        "(islands are reported below 0.01); 0: keep all",
        type=float,
        metavar="SHARE",
    )
    old_name("--drop_crumbs", dest="drop_islands", type=float)
    add(
        "--exclude_border_cut",
        None,
        "make no case file of a heart in which the field of view truncates one of these classes: ids as 1,2,3, "
        "or all (also where no value is given); none: make all",
        nargs="?",
        const="all",
        metavar="IDS",
    )
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options, with class lists as lists of ids. Raises InputError where a value is out of range."""
    args = get_parser().parse_args(argv)
    read_table(args)
    if not 1 <= args.classes <= MOST_CLASSES:
        raise InputError("--classes", f"1..{MOST_CLASSES}", args.classes)
    for name in ("num_surface_points", "num_vol_points", "num_near_points"):
        if getattr(args, name) < 2:
            raise InputError(f"--{name}", "at least 2", getattr(args, name))
    if not 0 <= args.class_floor <= 1:
        raise InputError("--class_floor", "a share from 0 to 1", args.class_floor)
    for name in ("file_workers", "seed"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name}", "0 or more", getattr(args, name))
    if not 0 <= args.drop_islands <= 1:
        raise InputError("--drop_islands", "a share from 0 to 1", args.drop_islands)
    if args.start_idx < 0 or (args.end_idx is not None and args.end_idx < args.start_idx):
        raise InputError("--start_idx and --end_idx", "0 <= start <= end", f"{args.start_idx} and {args.end_idx}")
    if args.structures and args.label_mapping:
        raise InputError.because(
            "--structures and --label_mapping", "they exclude each other: files or values have names"
        )
    args.annotated = _class_list("--annotated", args.annotated, args.classes)
    if args.exclude_border_cut == "all":
        args.exclude_border_cut = list(range(1, args.classes + 1))
    else:
        args.exclude_border_cut = _class_list("--exclude_border_cut", args.exclude_border_cut, args.classes)
    return args


def read_table(args: argparse.Namespace) -> None:
    """Takes the number of classes and their `table` (None: --classes is a number) from --classes, once."""
    if "table" not in args:
        args.table = None if isinstance(args.classes, int) else read_structure_table(args.classes)
        args.classes = args.classes if args.table is None else len(args.table)


def selection_of(args: argparse.Namespace):
    """The `Selection` of the label maps in --input_dir. InputError where options contradict each other, or
    --structures names no class."""
    from vecset.data.label_folder import Selection
    from vecset.data.structure_files import Structures

    others = [f"--{name}" for name in ("pattern", "recursive") if getattr(args, name)]
    if args.structures and others:
        raise InputError.because(
            "", f"--structures and {others[0]} exclude each other", f"with --structures leave out {others[0]}"
        )
    read_table(args)  # of options that are not checked yet
    structures = Structures.load(args.structures, args.classes, args.table) if args.structures else None
    return Selection(args.recursive, args.pattern, structures)


def _class_list(flag, text, classes):
    if text is None:
        return None
    try:
        ids = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ids = []
    if not ids or ids[0] < 1 or ids[-1] > classes:
        raise InputError(flag, f"class ids 1..{classes} with commas between", repr(text))
    return ids


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    from vecset.data.preparation import Options
    from vecset.data.prepare_folder import CaseMaker, prepare_folder

    selection = selection_of(args)
    make_case = CaseMaker(
        Path(args.output_dir),
        Options(
            num_surface_points=args.num_surface_points,
            num_vol_points=args.num_vol_points,
            num_near_points=args.num_near_points,
            seed=args.seed,
            sdf=args.sdf,
            class_floor=args.class_floor,
            sample_caps=args.sample_caps,
            class_distances=args.class_distances,
        ),
        classes=args.classes,
        mapping=LabelMapping.load(args.label_mapping, args.classes, args.table) if args.label_mapping else None,
        annotated=args.annotated,
        spacing_from=args.spacing_from,
        geometry_from=args.geometry_from,
        drop_islands=args.drop_islands,
        whole_classes=args.exclude_border_cut or [],
        overwrite=args.overwrite,
        structures=selection.structures,
        table=args.table,
    )
    failed = prepare_folder(args.input_dir, make_case, args.start_idx, args.end_idx, args.file_workers, selection)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
