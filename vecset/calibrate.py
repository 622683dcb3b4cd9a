"""Finds on training hearts what decides about label maps (offsets of class logits, thin classes that say for themselves
where they are), for `reconstruct.py --calibration FILE`:

    python -m vecset.calibrate --checkpoint train/checkpoint-best.pth --csv cases/train.csv --output calibration.json

Why, and what it does: vecset/inference/decision_tuning.py. Give the hearts that the model was trained on, never those that
it is judged by, and the same --num_surface_points and --num_latents as to reconstruct.py.
"""

import argparse
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
# also as a script: the repository root in place of this folder, whose data/ and utils/ would shadow other packages
sys.path[:] = [ROOT] + [p for p in sys.path if p not in (ROOT, str(Path(__file__).resolve().parent))]

from vecset.common.errors import InputError, run_command  # noqa: E402


def get_parser():
    parser = argparse.ArgumentParser(
        "python -m vecset.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint-best.pth of main_ae.py")
    parser.add_argument("--csv", type=Path, required=True, help="train.csv of create_csv.py")
    parser.add_argument("--data_path", type=Path, help="folder that its files are relative to (default: the CSV's own)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file that is written")
    parser.add_argument("--hearts", type=int, default=8, help="so many of them, evenly chosen (default: 8)")
    parser.add_argument("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    parser.add_argument("--num_latents", type=int, help="as for reconstruct.py (default: as the model was trained)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    for flag in ("hearts", "num_surface_points", "num_latents"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag}", "at least 1", getattr(args, flag))
    import numpy as np
    import torch
    from tqdm import tqdm

    import reconstruct
    from vecset.common.atomic import require_writable
    from vecset.common.draws import random_stream
    from vecset.data.listed_case import read_split
    from vecset.inference import decision_tuning as calibration
    from vecset.inference.decoding import HeartField
    from vecset.inference.inputs import load_heart

    words = [
        "--checkpoint",
        str(args.checkpoint),
        "--output_dir",
        str(args.output.parent),
        "--device",
        args.device,
        "--seed",
        str(args.seed),
    ]
    for flag in ("num_surface_points", "num_latents"):
        if getattr(args, flag):
            words += [f"--{flag}", str(getattr(args, flag))]
    reconstruction = reconstruct.Reconstruction(reconstruct.get_parser().parse_args(words))
    require_writable(args.output.parent)
    names = reconstruction.class_names
    entries = read_split(args.csv, args.data_path or args.csv.parent, len(names))
    chosen = [
        entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, min(len(entries), args.hearts)).astype(int))
    ]
    samples, fields, places, annotated = [], [], [], []
    for entry in tqdm(chosen, unit="heart", desc="calibrate", dynamic_ncols=True):
        case = load_heart(entry, names, args.seed, reconstruction.settings["num_surface_points"])
        if case.truth_crop is None:
            raise InputError(entry.path, "the truth of a training heart", "none", "make it again with prepare_data.py")
        with torch.inference_mode():
            field = HeartField(reconstruction.model, reconstruction.encode(entry, case), device=reconstruction.device)
        truth = np.asarray(case.truth_crop)
        flat, weight = calibration.draw_voxels(truth, random_stream(args.seed, 0, entry.case_id, "calibrate"))
        index = np.stack(np.unravel_index(flat, truth.shape), -1) + np.asarray(case.truth_origin)
        places.append(case.frame.voxel_to_unit(index).astype(np.float32))
        sdf, logits = field.values(places[-1])
        samples.append(calibration.Sample(truth.ravel()[flat], weight, torch.from_numpy(sdf), torch.from_numpy(logits)))
        fields.append(field.values)
        annotated.append(entry.annotated)
    offset_C, deciding = calibration.fit(
        samples, annotated, lambda classes: tqdm(classes, unit="class", desc="offsets", dynamic_ncols=True)
    )
    slope_C = calibration.slopes(samples, fields, places, offset_C, deciding, 0.005)
    table, record = dice_table(samples, annotated, names, offset_C, deciding)
    print("\n".join(table))
    record |= {
        "hearts": [entry.case_id for entry in chosen],
        **{key: reconstruction.settings[key] for key in ("num_surface_points", "num_latents")},
    }
    calibration.write_calibration(
        args.output,
        calibration.Calibration(offset_C, slope_C),
        names,
        reconstruction.settings["checkpoint_sha256"],
        record,
    )
    print(f"written: {args.output}")
    return 0


def dice_table(samples, annotated, names, offset_C, deciding):
    """(lines, record): Dice of each class on these training hearts, before and after."""
    import warnings

    import numpy as np

    from vecset.inference.decision_tuning import dice_per_class

    means = []
    for setting in ((np.zeros_like(offset_C), frozenset()), (offset_C, deciding)):
        dice = np.array([dice_per_class(sample, *setting) for sample in samples])
        dice[~np.asarray(annotated, bool)] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that none of them has
            means.append(np.nanmean(dice, 0))
    width = max(map(len, names))
    lines = [f"{'class':{width}s} offset  decides inside  Dice before  after   (these training hearts, voxels drawn)"]
    for c, name in enumerate(names):
        before, after = (f"{m[c]:.3f}" if np.isfinite(m[c]) else "-" for m in means)
        lines.append(
            f"{name:{width}s} {offset_C[c]:6.2f}  {'yes' if c in deciding else 'no':14s}  {before:11s}  {after}"
        )
    means = [float(np.nanmean(m)) for m in means]
    lines.append(f"{'mean':{width}s} {'':6s}  {'':14s}  {means[0]:<11.3f}  {means[1]:.3f}")
    return lines, {"mean_dice_before": round(means[0], 4), "mean_dice_after": round(means[1], 4)}


if __name__ == "__main__":
    sys.exit(run_command(main))
