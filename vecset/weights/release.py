"""Weights that are given away: one small file with all that a user needs to reconstruct, and nothing of the training.

A released file is a checkpoint (vecset/weights/checkpoint.py) with its numbers in half precision and without optimizer
and random state, so it cannot be trained on with --resume; --init_from takes it. It has further keys:

    reading           {"num_surface_points", "num_latents"} that it is to be used with, where the user gives no others
    decision_tuning   what the file of python -m vecset.calibrate holds, for these weights
    card              what it was made from and by, its figures and limits; the JSON file beside it shows it too
"""

from pathlib import Path

import torch

from vecset.common.errors import InputError
from vecset.models.autoencoder import build_model
from vecset.weights.checkpoint import save_checkpoint

VERSION = 1  # of the form: higher when the same run gives another file
SHIPPED = Path(__file__).resolve().parents[2] / "weights" / "heart.pth"
_LEFT_OUT = ("optimizer", "random_state", "plan")
_PATHS = ("data_path", "output_dir", "csv_dir", "shape_model", "init_from", "resume", "log_dir")  # of another machine


def shipped_weights() -> Path:
    """The weights that come with the software. InputError where they are not there."""
    if not SHIPPED.is_file():
        raise InputError.because(
            SHIPPED, "the weights that come with the software are not there", "give a checkpoint: --checkpoint FILE"
        )
    return SHIPPED


def write_release(path: Path, checkpoint: dict, reading: dict, decision_tuning: dict | None, card: dict) -> float:
    """Writes the released form of `checkpoint` (as load_checkpoint gives it) to `path`, with its card beside it.
    Returns the largest change of a number by half precision, relative to the largest of its tensor. InputError where
    half precision cannot hold one."""
    learned = {name for name, _ in build_model(**checkpoint["model_config"]).named_parameters()}
    weights, worst = dict(checkpoint["model"]), 0.0
    for name in sorted(learned & set(weights)):  # what is not learned, as frequencies, stays exact
        tensor = weights[name]
        weights[name] = half = tensor.half()
        if tensor.numel():
            if not torch.isfinite(half).all():
                raise InputError.because(path, f"{name} is too large for half precision", "train again")
            most = float(tensor.float().abs().max())
            worst = max(worst, float((half.float() - tensor.float()).abs().max()) / most if most else 0.0)
    args = checkpoint.get("args") or {}
    args = dict(args if isinstance(args, dict) else vars(args))
    kept = {k: v for k, v in checkpoint.items() if k not in (*_LEFT_OUT, "format", "model", "args")}
    save_checkpoint(
        path,
        {
            **kept,
            "model": weights,
            "args": {name: value for name, value in args.items() if name not in _PATHS},
            "reading": reading,
            **({"decision_tuning": decision_tuning} if decision_tuning else {}),
            "card": card,
        },
    )
    return worst
