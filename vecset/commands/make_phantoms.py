"""Makes a population of synthetic hearts of ten or sixteen structures as label maps.

    python make_phantoms.py --output_dir output/phantoms --num 80 --size 128 --seed 0

Writes phantom_0000.nii.gz, ... (uint8, RAS+ mm, qform and sform set) and phantoms.json with the options. Run again
with the same options, it makes only the hearts that are missing; with other options it makes all of them again. With
--defects, clean/ holds the same hearts without them, and defects.csv says what each heart has.
"""

import argparse
import sys

from vecset.common.arguments import CommandParser, user_path
from vecset.common.errors import InputError, run_command
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.phantom.defect_kinds import KINDS


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default where there is one and the text does not name it."""

    def _get_help_string(self, action):
        if action.default in (None, []) or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "make_phantoms.py",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=_Help,
    )
    parser.add_argument("--output_dir", type=user_path, required=True, help="folder for the label maps")
    parser.add_argument("--num", type=int, default=80, help="number of hearts")
    parser.add_argument(
        "--structures",
        type=int,
        default=10,
        choices=(10, 16),
        help="16: the same hearts with SVC, IVC, RV_wall, LA_wall and Coronary_sinus, too (ids 11 to 15; 16 is "
        "reserved and never drawn), and names in the header",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=None,
        help="voxels along the image axes, one number or three (default: 128, or with --spacing as many as "
        "the heart needs)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        default=None,
        help="voxel size in mm, one number or three (default: so that the heart fills the image)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the population")
    parser.add_argument(
        "--oblique",
        type=float,
        default=0.0,
        metavar="DEGREES",
        help="largest angle between image axes and patient axes, in degrees (drawn per heart)",
    )
    parser.add_argument(
        "--flip",
        type=int,
        nargs="+",
        default=[],
        choices=(0, 1, 2),
        metavar="AXIS",
        help="image axes (0, 1, 2) that are stored backwards; the patient's position does not change",
    )
    parser.add_argument(
        "--missing",
        nargs="+",
        default=[],
        metavar="CLASS[:SHARE]",
        help="structures (id or name) that a share of the hearts lacks, from 0 to 1; 0.5 where not given",
    )
    parser.add_argument(
        "--cut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share (0 to 0.7) of each axis of the field of view that is cut off, at a random position",
    )
    parser.add_argument(
        "--label_noise",
        type=float,
        default=0.0,
        metavar="MM",
        help="standard deviation in mm of the noise added to the outlines; where not 0, stray voxels are added too",
    )
    parser.add_argument(
        "--variation",
        type=float,
        default=0.0,
        metavar="AMOUNT",
        help="0 to 1: how far hearts are deformed, and how many have walls of background between their pools, vessels "
        "that end anywhere, rough outlines, and seven structures or fewer, as real label maps have",
    )
    parser.add_argument(
        "--defects",
        nargs="+",
        default=[],
        metavar="KIND[:SHARE]",
        help=f"defects of real label maps ({', '.join(sorted(KINDS))}) that a share of the hearts gets, above 0 and "
        "up to 1; 1 where not given; how large is drawn per heart. The hearts without them go into clean/ in "
        "--output_dir, and defects.csv lists the defects",
    )
    parser.add_argument("--file_workers", type=int, default=1, help="processes")
    return parser


def read_options(args: argparse.Namespace):
    """The PhantomOptions of the parsed arguments. Raises InputError where one is out of range."""
    from vecset.phantom.phantom import PhantomOptions  # imports numba

    def three(values, flag, low, high):
        if values is None:
            return None
        if len(values) not in (1, 3) or not all(low <= v <= high for v in values):
            raise InputError(flag, f"one or three numbers from {low} to {high}", values)
        return tuple(values) * 3 if len(values) == 1 else tuple(values)

    class_names = HEART_CLASSES if args.structures == 10 else HEART16_CLASSES
    names = {name.lower(): c for c, name in enumerate(class_names, start=1)}
    missing = {}
    for item in args.missing:
        name, _, share = item.partition(":")
        class_id = names.get(name.lower(), int(name) if name.isdecimal() else 0)
        try:
            share = float(share) if share else 0.5
        except ValueError:
            share = -1.0
        if not 1 <= class_id <= len(class_names) or not 0 <= share <= 1:
            expected = f"an id 1..{len(class_names)} or one of {', '.join(class_names)}, with :SHARE from 0 to 1"
            beyond = class_id > len(class_names) or name.lower() in map(str.lower, HEART16_CLASSES)
            raise InputError("--missing", expected, item, "give --structures 16" if beyond and 0 <= share <= 1 else "")
        missing[class_id] = share
    if not 0 <= args.cut <= 0.7:
        raise InputError("--cut", "a share from 0 to 0.7", args.cut)
    if not 0 <= args.oblique <= 180:
        raise InputError("--oblique", "an angle from 0 to 180 degrees", args.oblique)
    if not 0 <= args.label_noise <= 20:
        raise InputError("--label_noise", "0 to 20 mm", args.label_noise)
    if not 0 <= args.variation <= 1:
        raise InputError("--variation", "an amount from 0 to 1", args.variation)
    for name, least in (("num", 1), ("seed", 0), ("file_workers", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    size = three(args.size, "--size", 8, 1024)
    spacing = three(args.spacing, "--spacing", 0.1, 50.0)
    if size is None and spacing is None:
        size = (128, 128, 128)
    return PhantomOptions(
        size,
        spacing,
        args.oblique,
        tuple(sorted(set(args.flip))),
        missing,
        args.cut,
        args.label_noise,
        args.structures,
        args.variation,
    )


def read_defects(items: list[str]) -> dict[str, float]:
    """{kind: share} of the words of --defects. Raises InputError where one is no kind, is named twice, or has no share
    above 0 and up to 1."""
    shares = {}
    for item in items:
        kind, _, share = item.partition(":")
        try:
            share = float(share) if share else 1.0
        except ValueError:
            share = -1.0
        if kind not in KINDS or not 0 < share <= 1:
            expected = f"one of {', '.join(sorted(KINDS))}, with :SHARE above 0 and up to 1"
            raise InputError("--defects", expected, item, "leave it out for none" if share == 0 else "")
        if kind in shares:
            raise InputError.because("--defects", f"{kind} is named twice", "name each kind once")
        shares[kind] = share
    return shares


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    from vecset.phantom.population import make_population

    options = read_options(args)
    defects = read_defects(args.defects)
    failed = make_population(args.output_dir, args.num, args.seed, options, args.file_workers, defects)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
