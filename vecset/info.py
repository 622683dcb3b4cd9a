"""Describes files in plain words:   python -m vecset.info FILE [FILE ...]

Knows case files (prepare_data.py), checkpoints (main_ae.py), shape models (vecset.shape_model), latents (reconstruct.py
--latents), label maps and point clouds with labels.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = str(Path(__file__).resolve().parents[1])
if not __package__:  # run as a file: the repository's root in place of this folder, whose metrics/ would shadow others
    sys.path[:] = [ROOT] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.errors import EXIT_BAD_INPUT, InputError, describe_failure, run_command, shown  # noqa: E402
from vecset.common.npz_file import NPZ_ERRORS, open_npz  # noqa: E402

KINDS = (
    "a case file (.npz), a checkpoint (.pth), latents (latents.npz), a shape model (.npz), a label map or a point "
    "cloud with labels"
)
CHECKPOINTS = (".pth", ".pt", ".ckpt")
VALUES_SHOWN = 60  # of an image; a CT has thousands


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.info", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=user_path, metavar="FILE", help=KINDS)
    return parser


def main(argv: list[str] | None = None) -> int:
    code = 0
    for path in get_parser().parse_args(argv).files:
        try:
            print("\n".join(describe(path)))
        except Exception as error:  # a defect met on one file must not stop the others
            print(f"error: {describe_failure(path, error)}", file=sys.stderr)
            code = EXIT_BAD_INPUT
    return code


def describe(path: Path) -> list[str]:
    """Lines about the file `path`: what it is, then a fact per line. Raises InputError where it is none of KINDS or
    broken."""
    from vecset.imaging.image_file import has_suffix

    if not path.is_file():
        there = "is a pipe or a device, not a file" if path.exists() else "there is no such file"
        problem = "is a folder" if path.is_dir() else there
        raise InputError.because(path, problem, f"give {KINDS}")
    name = path.name.lower()
    if has_suffix(name):
        return _label_map(path)
    if name.endswith(".npz"):
        members = _members(path)
        kinds = {"points_mm": _point_cloud, "latents": _latents, "latent_codes": _latents, "template_CT3": _shape_model}
        return next((describe for member, describe in kinds.items() if member in members), _case)(path)
    return _point_cloud(path) if name.endswith(".ply") else _checkpoint(path)


def _members(path):
    """The names of the arrays in an npz; none where it is broken, and then the reader of case files says how."""
    try:
        with open_npz(path) as archive:
            return archive.files
    except NPZ_ERRORS:
        return []


def _lines(title, facts):
    """The title and a line per fact that is not empty."""
    return [shown(title)] + [f"  {name:<16} {value}" for name, value in facts.items() if value not in ("", None)]


def _case(path):
    from vecset.data.case_file import GROUPS, read_case

    case = read_case(path)
    names, meta = case.class_names, case.meta

    def listed(ids):
        return ", ".join(names[c - 1] for c in ids)

    points = {group: getattr(case, f"{group}_points") for group in GROUPS}
    facts = {
        **{f"{group} points": len(array) for group, array in points.items() if array is not None},
        "class distances": "" if case.vol_class_sdf is None else f"at every point, {case.vol_class_sdf.dtype}",
        "classes": f"{len(names)}: {', '.join(names)}",
        "missing": listed(meta.get("missing_classes", [])),
        "not annotated": listed(np.flatnonzero(~case.annotated) + 1),
        "truncated": listed(meta.get("border_classes", [])),
        **_frame(case.frame),
    }
    if case.truth_crop is not None and case.frame is not None:
        voxels = np.bincount(case.truth_crop.ravel(), minlength=len(names) + 1)[1:]
        ml = voxels * np.prod(case.frame.spacing_mm) / 1000
        facts["truth"] = ", ".join(f"{name} {volume:.1f} ml" for name, volume in zip(names, ml) if volume)
    if meta.get("source_name"):
        facts["made from"] = f"{meta['source_name']}, SHA-256 {str(meta.get('source_sha256', ''))[:12]}..."
    if meta.get("sampling"):
        facts["sampling"] = f"seed {meta.get('seed')}, distances by {meta['sampling'].get('sdf')}"
    older = " (older form, without frame and truth)" if meta.get("schema") == "older form" else ""
    return _lines(f"{path}: a case file: one heart as points with distances and labels{older}", facts)


def _frame(frame):
    if frame is None:
        return {"frame": "none: it cannot be mapped back to the patient's coordinates"}
    spacing, shape = (" x ".join(f"{n:g}" for n in np.round(values, 4)) for values in (frame.spacing_mm, frame.shape))
    centre = ", ".join(f"{n:.1f}" for n in frame.centre_mm)
    return {
        "source grid": f"{shape} voxels of {spacing} mm",
        "frame": f"centre ({centre}) mm RAS, 1 unit = {1 / frame.scale:.1f} mm",
    }


def _latents(path):
    from vecset.inference.latents import read_stored

    latents, packed, case = read_stored(path)
    bits = f"{packed.bits_per_number:.1f} bits" if packed else "32 bits"
    facts = {
        "heart": case.meta["case_id"],
        "latents": f"{latents.shape[0]} of {latents.shape[1]} numbers, {bits} per number; {path.stat().st_size} bytes",
        "classes": f"{case.num_classes}: {', '.join(case.class_names)}",
        "seen": "in slices, between which all is unknown" if case.in_slices else "",
        "checkpoint": f"SHA-256 {case.meta['checkpoint_sha256'][:12]}...",
        **_frame(case.frame),
    }
    return _lines(f"{path}: the latents of one heart; `reconstruct.py --latents` decodes them", facts)


def _shape_model(path):
    from vecset.data.shape_model_file import read_shape_model, sizes_of

    arrays, names, record = read_shape_model(path)
    sizes, cases = sizes_of(arrays), record.get("cases", [])
    known = [name for name, known in zip(names, arrays["known_C"]) if known]
    facts = {
        "made from": f"{len(cases)} hearts: {', '.join(cases[:3])}{', ...' if len(cases) > 3 else ''}",
        "modes": str(sizes["modes"]),
        "structures": ", ".join(known) + f" ({len(names) - len(known)} more, in no heart)" * (len(known) < len(names)),
        "grids": f"{sizes['cells']} points in all, {float(arrays['step']):.3g} apart",
    }
    return _lines(f"{path}: a shape model of hearts, for main_ae.py --shape_model", facts)


def _point_cloud(path):
    from vecset.imaging.classes import default_class_names
    from vecset.sparse.point_cloud import read_point_cloud

    case = read_point_cloud(path, default_class_names(255))
    ids, counts = np.unique(case.surface_labels, return_counts=True)
    size = " x ".join(f"{n:.0f}" for n in np.ptp(case.frame.unit_to_mm(case.surface_points), axis=0))
    facts = {
        "points": f"{len(case.surface_points)}, a box of {size} mm",
        "labels": ", ".join(f"{c}: {n}" for c, n in zip(ids, counts)),
    }
    return _lines(f"{path}: a point cloud with labels, an input of `reconstruct.py`", facts)


def _label_map(path):
    from vecset.imaging.header_names import names_in_file
    from vecset.imaging.image_file import read_image

    image = read_image(path)
    names = names_in_file(path)
    ids, counts = np.unique(image.values, return_counts=True)
    shown = [f"{c:g}{f' {names[int(c)]}' if int(c) in names else ''}: {n}" for c, n in zip(ids, counts) if c]
    spacing = " x ".join(f"{n:.4g}" for n in np.linalg.norm(image.affine[:3, :3], axis=0))
    facts = {
        "grid": f"{' x '.join(map(str, image.values.shape))} voxels of {spacing} mm",
        "labels": f"{'; '.join(shown[:VALUES_SHOWN]) or 'none: it is empty'} (voxels)",
    }
    return _lines(
        f"{path}: an image; if its values are whole numbers, `prepare_data.py` takes it as a label map", facts
    )


def _checkpoint(path):
    from vecset.imaging.class_names import distinct_names
    from vecset.models.autoencoder import option_words
    from vecset.weights.checkpoint import load_checkpoint

    try:
        checkpoint = load_checkpoint(path)
    except InputError as error:
        if path.suffix.lower() not in CHECKPOINTS:
            raise InputError.because(path, "not a file that this program knows", f"give {KINDS}") from None
        raise InputError.because(path, error.problem, f"give {KINDS}") from None
    config, names = checkpoint["model_config"], distinct_names(checkpoint["class_names"])
    parts = {False: 0, True: 0}  # by whether they are of the shape model
    for name, tensor in checkpoint["model"].items():
        parts[name.startswith("shape_model.")] += tensor.numel()
    shapes = f", and {parts[True] / 1e6:.1f} million of its shape model" if parts[True] else ""
    training = checkpoint.get("args") or {}
    training = training if isinstance(training, dict) else vars(training)
    points, best = training.get("point_cloud_size"), checkpoint.get("best_metric")
    facts = {
        "model": f"{config['name']}, {parts[False] / 1e6:.1f} million numbers{shapes}",
        "model options": option_words(config),
        "classes": f"{len(names)}: {', '.join(names)}",
        "--observe": _observed(training.get("observe")),
        "training": f"{checkpoint.get('epoch', '?')} epochs done when it was saved",
        "the run since": _run_state(path, checkpoint),
        "best so far": "" if best is None else f"mean Dice {best:.3f}, epoch {checkpoint.get('best_epoch')}",
        "input": f"{points} surface points per heart" if points else "",
    }
    return _lines(f"{path}: a checkpoint: a trained network and the state of its training", facts)


def _observed(text):
    """How often which part of a heart was hidden in training, from the text of --observe; "" where nothing was."""
    from vecset.items.observation import parse_observe

    shares = {kind: share for kind, share in parse_observe(text).items() if share} if text else {}
    if not shares:
        return ""
    told = ", ".join(f"{kind} {share:g}" for kind, share in shares.items())
    return f"{told}: the share of hearts in training that were seen in part; {1 - sum(shares.values()):.3g} seen whole"


def _run_state(path, checkpoint):
    """The state of the run that wrote a checkpoint: what the run last said, else what it was when it saved this one."""
    try:
        status = json.loads((path.parent / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):  # a checkpoint that was copied alone
        status = checkpoint.get("status", "state unknown")
        return "went on" if status == "running" else status
    return "at work, or ended without saying so" if status == "running" else status


if __name__ == "__main__":
    sys.exit(run_command(main))
