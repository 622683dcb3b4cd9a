"""What a file is, in plain words:   python -m vecset.info FILE [FILE ...]

Knows case files (prepare_data.py), checkpoints (main_ae.py), codes (reconstruct.py --latents), label maps and point
clouds with labels.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError, run_command

KINDS = "a case file (.npz), a checkpoint (.pth), codes (latents.npz), a label map or a point cloud with labels"


def main(argv=None):
    parser = argparse.ArgumentParser(
        "python -m vecset.info", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=KINDS)
    failed = 0
    for path in parser.parse_args(argv).files:
        try:
            print("\n".join(describe(path)))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 2
    return failed


def describe(path):
    """Lines about the file `path`. InputError where it is none of KINDS, or not whole."""
    from vecset.imaging.image_file import has_suffix

    if not path.is_file():
        raise InputError(path, KINDS, "a folder" if path.is_dir() else "no such file", "check the path")
    name = path.name.lower()
    if has_suffix(name):
        return _label_map(path)
    if name.endswith(".ply"):
        return _point_cloud(path)
    if name.endswith(".npz"):
        return _npz(path)
    return _checkpoint(path)


def _npz(path):
    from vecset.inference.point_cloud import is_point_cloud

    if is_point_cloud(path):
        return _point_cloud(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            members = set(archive.files)
    except Exception:
        members = set()
    return _codes(path) if "latents" in members else _case(path)


def _case(path):
    from vecset.data.case_file import GROUPS, read_case

    case = read_case(path)
    older = case.meta.get("schema") == "older form"
    lines = [
        f"{path}: a case file: one heart as points with distances and labels"
        + (" (older form, without frame and truth)" if older else "")
    ]
    for group in GROUPS:
        points = getattr(case, f"{group}_points")
        if points is not None:
            lines.append(f"  {group + ' points':<16} {len(points)}")
    names, meta = case.class_names, case.meta

    def listed(ids):
        return ", ".join(names[c - 1] for c in ids) or "none"

    lines.append(f"  {'classes':<16} {len(names)}: {', '.join(names)}")
    if meta.get("missing_classes"):
        lines.append(f"  {'missing':<16} {listed(meta['missing_classes'])}")
    unknown = np.flatnonzero(~case.annotated) + 1
    if len(unknown):
        lines.append(f"  {'not annotated':<16} {listed(unknown)}")
    if meta.get("border_classes"):
        lines.append(f"  {'cut by the scan':<16} {listed(meta['border_classes'])}")
    lines += _frame_lines(case.frame)
    if case.truth_crop is not None and case.frame is not None:
        ml = np.bincount(case.truth_crop.ravel(), minlength=len(names) + 1)[1:] * np.prod(case.frame.spacing_mm) / 1000
        lines.append(f"  {'truth':<16} {', '.join(f'{n} {v:.1f} ml' for n, v in zip(names, ml) if v)}")
    if meta.get("source_name"):
        lines.append(f"  {'made from':<16} {meta['source_name']}, SHA-256 {str(meta.get('source_sha256', ''))[:12]}...")
    if meta.get("sampling"):
        lines.append(f"  {'sampling':<16} seed {meta.get('seed')}, distances by {meta['sampling'].get('sdf')}")
    return lines


def _frame_lines(frame):
    if frame is None:
        return [f"  {'frame':<16} none: it cannot be put back into the patient's space"]
    spacing, shape = (" x ".join(f"{n:g}" for n in np.round(values, 4)) for values in (frame.spacing_mm, frame.shape))
    centre = ", ".join(f"{n:.1f}" for n in frame.centre_mm)
    return [
        f"  {'source grid':<16} {shape} voxels of {spacing} mm",
        f"  {'frame':<16} centre ({centre}) mm RAS, 1 unit = {1 / frame.scale:.1f} mm",
    ]


def _codes(path):
    from vecset.inference.latents import read_latents

    latents, case = read_latents(path)
    return [
        f"{path}: codes of one heart, that `reconstruct.py --latents` decodes with its checkpoint",
        f"  {'heart':<16} {case.meta['case_id']}",
        f"  {'code':<16} {latents.shape[0]} latents of {latents.shape[1]} numbers",
        f"  {'classes':<16} {case.num_classes}: {', '.join(case.class_names)}",
        f"  {'checkpoint':<16} SHA-256 {case.meta['checkpoint_sha256'][:12]}...",
        *_frame_lines(case.frame),
    ]


def _point_cloud(path):
    from vecset.imaging.classes import default_class_names
    from vecset.inference.point_cloud import read_point_cloud

    case = read_point_cloud(path, default_class_names(255))
    ids, counts = np.unique(case.surface_labels, return_counts=True)
    size = " x ".join(f"{n:.0f}" for n in np.ptp(case.frame.unit_to_mm(case.surface_points), axis=0))
    return [
        f"{path}: a point cloud with labels, that `reconstruct.py --input` takes",
        f"  {'points':<16} {len(case.surface_points)}, a box of {size} mm",
        f"  {'labels':<16} " + ", ".join(f"{c}: {n}" for c, n in zip(ids, counts)),
    ]


def _label_map(path):
    from vecset.imaging.image_file import read_image
    from vecset.imaging.label_table import read_names

    image = read_image(path)
    names, spacing = {}, " x ".join(f"{n:.4g}" for n in np.linalg.norm(image.affine[:3, :3], axis=0))
    if path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        names = read_names(nibabel.load(path).header)
    ids, counts = np.unique(image.values, return_counts=True)
    shown = [f"{c:g}{f' {names[int(c)]}' if int(c) in names else ''}: {n}" for c, n in zip(ids, counts) if c][:60]
    return [
        f"{path}: an image, that `prepare_data.py` takes as a label map where its values are whole numbers",
        f"  {'grid':<16} {' x '.join(map(str, image.values.shape))} voxels of {spacing} mm",
        f"  {'labels':<16} {'; '.join(shown) or 'none: it is empty'} (voxels)",
    ]


def _checkpoint(path):
    from vecset.models.autoencoder import option_words
    from vecset.models.checkpoint import load_checkpoint

    try:
        checkpoint = load_checkpoint(path)
    except InputError as error:
        raise InputError(path, KINDS, error.found, "check the path") from None
    config, names = checkpoint["model_config"], list(checkpoint["class_names"])
    numbers = sum(tensor.numel() for tensor in checkpoint["model"].values())
    training = checkpoint.get("args") or {}
    training = training if isinstance(training, dict) else vars(training)
    lines = [
        f"{path}: a checkpoint: a trained network and where its training stands",
        f"  {'model':<16} {config['name']}, {numbers / 1e6:.1f} million numbers",
        f"  {'classes':<16} {len(names)}: {', '.join(names)}",
        f"  {'training':<16} {checkpoint.get('epoch', '?')} epochs done, {checkpoint.get('status', 'state unknown')}",
    ]
    if checkpoint.get("best_metric") is not None:
        lines.append(
            f"  {'best so far':<16} mean Dice {checkpoint['best_metric']:.3f}, epoch {checkpoint.get('best_epoch')}"
        )
    if option_words(config):
        lines.insert(2, f"  {'model options':<16} {option_words(config)}")
    if training.get("point_cloud_size"):
        lines.append(f"  {'input':<16} {training['point_cloud_size']} surface points per heart")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
