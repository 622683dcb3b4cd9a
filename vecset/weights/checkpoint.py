"""Checkpoints: whole or not there, readable without running code, enough for every later stage.

A checkpoint is a dict of tensors, numbers, strings, lists and dicts (docs/design.md):

    format, model, model_config, class_names      the network: build_model(**model_config).load_state_dict(model)
    optimizer, epoch, step, plan, random_state    where training stands: `step` optimizer steps of `epoch` are done
    args, best_metric, best_epoch, status, metrics   how it came about; status: 'running', 'stopped' or 'finished'

A JSON sidecar beside it (checkpoint-last.json) says the same without the tensors.
"""

import json
import os
import pickle
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import torch

from vecset.common.atomic import atomic_path, write_text
from vecset.common.errors import InputError

FORMAT = "vecsetx-heart checkpoint/1"
LAST, BEST = "checkpoint-last.pth", "checkpoint-best.pth"
_NOT_IN_SIDECAR = ("model", "optimizer", "random_state")
# Options whose key in `model_config` and `args` of a file is not their name: the keys of files never change.
STORED_KEYS = {"fps_class_gap": "class_gap", "fps_density": "latent_density"}


# What torch.load raises for bytes that torch.save did not write: its unpickler trusts them
UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, OSError, pickle.UnpicklingError, AttributeError, TypeError),
    *(ArithmeticError, AssertionError, MemoryError, struct.error),
)


class DamagedCheckpoint(InputError):
    """A file that was a checkpoint, or should be one, and is cut, overwritten or holds numbers that are not finite."""


def save_checkpoint(path: str | Path, checkpoint: dict) -> None:
    """Writes `checkpoint` to `path` atomically, then its sidecar. Raises OSError (no space left, ...) with the old
    file untouched."""
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        writer = _Writer(handle)
        try:
            torch.save({"format": FORMAT, **as_stored(checkpoint)}, writer)
        except RuntimeError:
            if writer.error:  # torch tells of its broken zip stream; the reason is this one
                raise writer.error from None
            raise
    write_sidecar(path, checkpoint)


def write_sidecar(path: str | Path, checkpoint: dict) -> None:
    plain = {k: v for k, v in as_stored(checkpoint).items() if k not in _NOT_IN_SIDECAR}
    text = json.dumps({"format": FORMAT, **plain}, indent=1, sort_keys=True)
    write_text(Path(path).with_suffix(".json"), text + "\n")


def as_stored(checkpoint: dict) -> dict:
    """`checkpoint` with the keys that files have (STORED_KEYS) in place of the options' names."""
    return _renamed(checkpoint, STORED_KEYS)


def as_named(checkpoint: dict) -> dict:
    """A checkpoint as it was stored, with the names of the options in place of the keys of files, and with every
    extension of the network: one that did not exist when the file was written is off."""
    from vecset.models.autoencoder import EXTENSIONS

    named = _renamed(checkpoint, {key: name for name, key in STORED_KEYS.items()})
    return {**named, "model_config": {**EXTENSIONS, **named["model_config"]}}


def _renamed(checkpoint, names):
    parts = {part: checkpoint[part] for part in ("model_config", "args") if part in checkpoint}
    for part, options in parts.items():
        options = vars(options) if isinstance(options, Namespace) else options
        parts[part] = {names.get(key, key): value for key, value in options.items()}
    return {**checkpoint, **parts}


def copy_checkpoint(source: str | Path, target: str | Path) -> None:
    """`target` becomes the same file as `source` (a hard link, so 5 GB cost nothing; a copy where there are no links).
    Both are only ever replaced, never written into."""
    source, target = Path(source), Path(target)
    for suffix in (".pth", ".json"):
        with atomic_path(target.with_suffix(suffix)) as temporary:
            try:
                os.link(source.with_suffix(suffix), temporary)
            except OSError:
                temporary.write_bytes(source.with_suffix(suffix).read_bytes())


class _Writer:
    """A file's write, remembering the OSError that torch's writer would swallow."""

    def __init__(self, handle):
        self._handle, self.error = handle, None

    def write(self, data):
        try:
            return self._handle.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self):
        self._handle.flush()


def load_checkpoint(path: str | Path, num_classes: int | None = None) -> dict:
    """The checkpoint at `path`, tensors on the CPU and read from the file when they are used (mmap). The file cannot
    run code: weights_only, and of classes only argparse.Namespace. Raises InputError where it is not a checkpoint of
    this software or has not `num_classes` classes, DamagedCheckpoint where it is not whole. Its checksums and weights
    are read once per process."""
    path = Path(path)
    to_do = "give a checkpoint-last.pth or checkpoint-best.pth that main_ae.py wrote"
    checkpoint = load_safely(path, to_do)
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        found = f"format {checkpoint.get('format')!r}" if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise InputError(path, f"a {FORMAT}", found, to_do)
    _require_whole(path, checkpoint, to_do)
    checkpoint = as_named(checkpoint)
    classes = checkpoint["model_config"]["num_classes"]
    if num_classes is not None and classes != num_classes:
        raise InputError(
            path,
            f"a checkpoint of {num_classes} classes",
            f"one of {classes}",
            "use the checkpoint that was trained on these classes",
        )
    return checkpoint


_known_whole = set()  # (path, bytes, modification time) of files that this process has read to the end


def _require_whole(path, checkpoint, to_do):
    """A file system that was full, or a node that died before it wrote its pages, can leave a file of the right length
    with zeros inside: its checksums tell."""
    status = path.stat()
    state = (path.resolve(), status.st_size, status.st_mtime_ns)
    if state in _known_whole:
        return
    problem = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                problem = archive.testzip() and "damaged (its content does not match its checksums)"
            except (zipfile.BadZipFile, EOFError) as error:
                problem = f"damaged ({error})"
    for part in ("model", "optimizer"):
        if problem is None and not _all_finite(checkpoint.get(part)):
            problem = f"damaged (numbers of its {part} are not finite)"
    if problem:
        raise DamagedCheckpoint.because(path, problem, to_do)
    _known_whole.add(state)


def _all_finite(value):
    if torch.is_tensor(value):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    return all(map(_all_finite, value)) if isinstance(value, list | tuple) else True


def require_checkpoint(
    path: str | Path, to_do: str = "give a checkpoint-last.pth or checkpoint-best.pth that main_ae.py wrote"
) -> None:
    """Raises InputError, with the advice `to_do`, where `path` is no file. Its content is not read."""
    path = Path(path)
    if not path.is_file():
        raise InputError.because(path, "this is a folder" if path.is_dir() else "no such file", to_do)


def load_safely(path: str | Path, to_do: str) -> object:
    """What torch.save wrote to `path`, tensors on the CPU (mapped from the file where its format allows). Nothing in
    the file can run: tensors and plain values, and of classes only argparse.Namespace. InputError, with the
    advice `to_do`, where it is no such file."""
    path = Path(path)
    require_checkpoint(path, to_do)
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise InputError.because(path, "no permission to read it", "change its permissions") from None
    except UNREADABLE as error:
        if not _is_torch_archive(path):  # torch's own words are about its formats
            raise DamagedCheckpoint.because(path, "not a checkpoint, or truncated", to_do) from None
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise DamagedCheckpoint.because(path, f"torch cannot read this checkpoint ({reason})", to_do) from None


def _is_torch_archive(path):
    """Whether torch.save could have written the file: a zip with its pickle inside. Other zips are npz files, say."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _of_earlier(model, state):
    """The weights of an earlier version that knew no `far_slope`, with the one that leaves the network as it was."""
    if getattr(model, "told_states", False) and "far_slope" not in state:
        return {**state, "far_slope": torch.zeros_like(model.far_slope)}
    return state


def model_from_checkpoint(
    checkpoint: dict, device: str | torch.device = "cpu", where: str | Path = "checkpoint"
) -> torch.nn.Module:
    """The trained network in eval mode on `device`. InputError, naming the file `where`, where the weights are not
    those of the network that this version builds."""
    from vecset.models.autoencoder import build_model

    try:
        model = build_model(**checkpoint["model_config"])
        model.load_state_dict(_of_earlier(model, checkpoint["model"]))
    except (RuntimeError, TypeError) as error:
        raise InputError.because(
            where,
            f"the weights do not fit {checkpoint['model_config'].get('name')} ({' '.join(str(error).split())[:200]})",
            "use the version that wrote it, or train again",
        ) from None
    return model.to(device).eval()
