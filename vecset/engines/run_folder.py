"""Which checkpoint a run goes on from, also where parts of its folder are gone or damaged.

    checkpoint-last whole                     that one
    damaged                                   refused, unless --resume names the folder's own checkpoint-best
    gone, checkpoint-best there               checkpoint-best: what came after it is trained again
    both gone, a log there                    a new run; the log is kept under another name
    checkpoint-best gone                      goes on; a later model becomes the best only where it beats the recorded
                                              figure, and at the end of the run the last model takes the empty place

So a model that was trained is never overwritten by one that is worse or belongs to another run.
"""

import json
import shlex
from argparse import Namespace
from pathlib import Path

from vecset.common.errors import InputError
from vecset.weights.checkpoint import (
    BEST,
    LAST,
    DamagedCheckpoint,
    copy_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_sidecar,
)


def starting_file(args: Namespace) -> Path | None:
    """The checkpoint that a run with these options starts from; None: a new run. Raises InputError where --resume is
    of another run than the checkpoint-best in the output folder, which would be overwritten."""
    last, best = (Path(args.output_dir) / name for name in (LAST, BEST))
    resumed = Path(args.resume) if args.resume else None
    own_best = resumed is not None and best.is_file() and resumed.resolve() == best.resolve()
    if last.is_file():
        return best if own_best and _is_damaged(last) else last
    if resumed is None:
        return best if best.is_file() else None
    if best.is_file() and not own_best and _best_of(resumed) != _best_of(best):
        raise InputError.because(
            f"--resume {resumed}",
            f"{best} is of another run, and would be overwritten",
            f"give another --output_dir, or go on from that one with --resume {_quoted(best)}",
        )
    return resumed


def load_start(path: Path, folder: str | Path) -> dict:
    """The checkpoint at `path`. Where it belongs to the run folder and is damaged, the InputError says what is left."""
    try:
        return load_checkpoint(path)
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint.because(error.where, error.problem, way_on(path, folder) or error.to_do) from None


def way_on(damaged: Path, folder: str | Path, purpose: str = "go on from there") -> str:
    """What to do about a damaged checkpoint of the run folder, as words for an InputError; "" for a file elsewhere."""
    folder = Path(folder)
    if damaged.resolve().parent != folder.resolve() or damaged.name not in (LAST, BEST):
        return ""
    other = folder / (BEST if damaged.name == LAST else LAST)
    found = _facts(other)
    if found is None:
        return "no other checkpoint of this run is whole: restore one, or train anew with another --output_dir"
    words = f"{other} is whole ({found}): add --resume {_quoted(other)} to {purpose}"
    if damaged.name == LAST and purpose == "go on from there":  # --resume is no option of the main job
        words += f", or remove {damaged.name} and run the same command again"
    return words


def start_notes(args: Namespace, path: Path | None, checkpoint: dict | None) -> list[str]:
    """What a user should know about where the run starts, one line each."""
    folder = Path(args.output_dir)
    last, best = folder / LAST, folder / BEST
    notes = []
    if path is None:
        return notes
    if path == last and args.resume and Path(args.resume).resolve() != last.resolve():
        notes.append(f"{last} is there and comes before --resume {args.resume}; a new run needs another --output_dir")
    if args.init_from and path == best:
        notes.append(f"{path} is there and comes before --init_from; a new run needs another --output_dir")
    if path == best:
        state = "damaged and will be replaced" if last.is_file() else "not there"
        again = _trained_again(folder, checkpoint)
        notes.append(f"{last} is {state}: the run goes on from {best}, {_position(checkpoint)}{again}")
    elif checkpoint["best_epoch"] is not None and not best.is_file():
        notes.append(
            f"{best} (epoch {checkpoint['best_epoch']}, Dice {checkpoint['best_metric']:.4g}) is not there: only a "
            "better model becomes the best one; if there is none, the model at the end of the run"
        )
    return notes


def fill_gaps(folder: str | Path, path: Path, checkpoint: dict) -> list[str]:
    """For a run with nothing left to train: makes the one of its two checkpoints that is gone from the other. -> notes
    about it."""
    last, best = (Path(folder) / name for name in (LAST, BEST))
    if path == best and not _there_and_whole(last):
        if not best.with_suffix(".json").is_file():
            write_sidecar(best, checkpoint)
        copy_checkpoint(best, last)
        return [f"{last} was made again from {best}"]
    if path == last and not best.is_file() and checkpoint["metrics"].get("mean_dice") is not None:
        dice = checkpoint["metrics"]["mean_dice"]
        save_checkpoint(best, {**checkpoint, "best_metric": dice, "best_epoch": checkpoint["epoch"]})
        return [f"{best} was made again from {last}: the model at the end of the run, Dice {dice:.4g}"]
    return []


def _is_damaged(path):
    try:
        load_checkpoint(path)
    except DamagedCheckpoint:
        return True
    return False


def _there_and_whole(path):
    return path.is_file() and not _is_damaged(path)


def _facts(path):
    """'epoch 4 of 8' of a whole checkpoint, or None."""
    try:
        checkpoint = load_checkpoint(path)
    except InputError:
        return None
    return f"epoch {checkpoint['epoch']} of {checkpoint['args'].get('epochs', '?')}"


def _best_of(path):
    checkpoint = load_checkpoint(path)
    return checkpoint["best_epoch"], checkpoint["best_metric"], checkpoint["model_config"]


def _position(checkpoint):
    step = f" and step {checkpoint['step']}" if checkpoint["step"] else ""
    return f"after epoch {checkpoint['epoch']}{step}"


def _trained_again(folder, checkpoint):
    """What is trained again, from what the folder still says about the run."""
    reached = checkpoint["epoch"]
    for name in ("status.json", Path(LAST).with_suffix(".json").name):
        try:
            reached = max(reached, int(json.loads((folder / name).read_text(encoding="utf-8"))["epoch"]))
        except (OSError, ValueError, KeyError, TypeError):  # these files only add to the message
            continue
    first = checkpoint["epoch"] + 1
    return f"; epochs {first} to {reached} are trained again" if reached >= first else ""


def _quoted(path):
    return shlex.quote(str(path))
