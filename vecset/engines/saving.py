"""What a run keeps in its output folder, and how it goes on from that.

The position is (epoch, step): `step` optimizer steps of `epoch` are done. Everything random is a function of the
position (vecset/common/draws.py), so position, weights and optimizer state are all that a checkpoint needs to go on
exactly.
"""

import fcntl
import json
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vecset.common.atomic import require_writable, write_text
from vecset.common.errors import InputError
from vecset.common.file_names import fitting_name
from vecset.data.case_file import meta_of_names
from vecset.engines.arguments import build_parser
from vecset.engines.distributed import Ranks, gather_objects
from vecset.engines.logging import say
from vecset.engines.loop import Monitor
from vecset.engines.optimizer import gather_state, load_state
from vecset.engines.run_folder import load_start, start_notes, starting_file
from vecset.engines.setup import Training
from vecset.imaging.class_names import distinct_names
from vecset.weights.checkpoint import BEST, LAST, copy_checkpoint, save_checkpoint

SAVING_SHARE = 0.02  # of the time, for checkpoints after an epoch; the timed ones come whatever they cost
# options that may change between two starts without a note: they do not change what is learned
_FREE = {
    "output_dir",
    "resume",
    "eval",
    "device",
    "num_workers",
    "print_every",
    "log_dir",
    "wandb",
    "wandb_project",
    "wandb_name",
    "save_every_minutes",
    "max_steps",
    "max_minutes",
    "cache",
    "data_path",
    "csv_dir",
    "dry_run",
    "init_from",
    "compile",
    "checkpoint_activations",
    "shard",
    "wait_for_ranks",
}


@dataclass
class RunState:
    """Where a run stands: `step` optimizer steps of `epoch` are done, `global_step` in all; and its best validation."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    best_metric: float | None = None
    best_epoch: int | None = None
    metrics: dict = field(default_factory=dict)  # of the last validation
    best_of_datasets: dict = field(default_factory=dict)  # {data set: [mean Dice, epoch]} of its best validation


def best_of_dataset(name: str) -> str:
    """The file of the checkpoint with the best mean Dice over the validation cases of a data set."""
    return fitting_name(f"{Path(BEST).stem}-", name, ".pth")


class Saver:
    """Writes checkpoints and status.json. All ranks hold one and call `save` together; rank 0 writes."""

    def __init__(self, training: Training, state: RunState, monitor: Monitor):
        self.training, self.state, self.monitor = training, state, monitor
        self.folder = Path(training.args.output_dir)
        self._saved, self._cost = time.monotonic(), None

    def checkpoint(self, status: str = "running") -> dict:
        training, state = self.training, self.state
        return {
            "model": training.model.state_dict(),
            "model_config": training.model_config,
            **meta_of_names(training.class_names),
            "optimizer": training.optimizer.state_dict(),
            "epoch": state.epoch,
            "step": state.step,
            "global_step": state.global_step,
            "random_state": torch.get_rng_state(),
            "args": vars(training.args),
            "plan": {
                "per_step": training.plan.per_step,
                "steps_per_epoch": training.plan.steps_per_epoch,
                "cases": training.cases_digest,
            },
            "sources": training.sources,
            "best_metric": state.best_metric,
            "best_epoch": state.best_epoch,
            "metrics": state.metrics,
            "best_of_datasets": state.best_of_datasets,
            "status": status,
        }

    def save(self, best: bool = False, status: str = "running", best_of: Sequence[str] = ()) -> float:
        """Rank 0 writes checkpoint-last, and makes it checkpoint-best too where `best`, and the best one of the data
        sets `best_of`. Never after a step that was not finite. -> the seconds that it took."""
        began = time.monotonic()
        if self.monitor.guard.first_bad_step() is None:  # all ranks know of the same bad step
            gather_state(self.training.optimizer)
            if self.training.ranks.main:
                save_checkpoint(self.folder / LAST, self.checkpoint(status))
                if best:
                    copy_checkpoint(self.folder / LAST, self.folder / BEST)
                for dataset in best_of:
                    copy_checkpoint(self.folder / LAST, self.folder / best_of_dataset(dataset))
                if status == "running":  # the others are written when the run leaves
                    self.write_status(status)
        self._saved = time.monotonic()
        self._cost = self._saved - began
        return self._cost

    def seconds_since_save(self) -> float:
        return time.monotonic() - self._saved

    def is_cheap(self) -> bool:
        """Whether saving now keeps its share of the time below SAVING_SHARE; by rank 0's clock, for all ranks alike."""
        cheap = self._cost is None or self._cost <= SAVING_SHARE * self.seconds_since_save()
        return gather_objects(cheap, self.training.ranks)[0]

    def write_status(self, status: str, **more) -> None:
        if not self.training.ranks.main:
            return
        record = {
            "status": status,
            "epoch": self.state.epoch,
            "step": self.state.step,
            "global_step": self.state.global_step,
            "epochs": self.training.args.epochs,
            "best_metric": self.state.best_metric,
            **more,
        }
        write_text(self.folder / "status.json", json.dumps(record) + "\n")

    def lacks_best(self) -> bool:
        """Whether checkpoint-best was written once and is gone."""
        return self.state.best_epoch is not None and not (self.folder / BEST).is_file()

    def last_good(self) -> str:
        """What is left after a step that was not finite, as a sentence."""
        last = self.folder / LAST
        return f"{last} is the last good checkpoint" if last.is_file() else "nothing had been saved yet"


def lock_folder(folder: str | Path, ranks: Ranks):
    """Makes the output folder and locks it: two runs would overwrite each other's checkpoints. The lock ends with rank
    0's process, however that ends; its loader processes do not inherit it. -> the open lock file, or None on other
    ranks. A file system without locks is not guarded."""
    require_writable(Path(folder))
    handle, busy = None, False
    if ranks.main:
        handle = open(Path(folder) / ".lock", "w", encoding="utf-8")  # noqa: SIM115, closed by the caller
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            busy = True
        except OSError:  # no locks here
            pass
    if gather_objects(busy, ranks)[0]:
        raise InputError.because(
            f"--output_dir {folder}",
            "another run is at work in this folder",
            "wait for it, or give another --output_dir",
        )
    return handle


# --- going on


def starting_point(args: Namespace, ranks: Ranks) -> tuple[Path | None, dict | None]:
    """(path, checkpoint) to start from, or (None, None); see engines/run_folder.py. Rank 0 says what is unusual."""
    path = starting_file(args)
    checkpoint = load_start(path, args.output_dir) if path else None
    if ranks.main:
        for note in start_notes(args, path, checkpoint):
            say(f"note: {note}")
    return path, checkpoint


def go_on_from(training: Training, checkpoint: dict, path: Path) -> RunState:
    """Loads a checkpoint's weights and optimizer into `training`, and torch's random state. -> where the run stands.
    Raises InputError where an option has changed that makes it another run; other changes are named."""
    if "optimizer" not in checkpoint:
        raise InputError.because(
            path,
            "released weights hold no state of a training",
            "start a new run from them: --init_from in place of it",
        )
    _check_same_run(training, checkpoint, path)
    known = training.model.known_classes.clone()  # by the training cases of now
    training.model.load_state_dict(checkpoint["model"])
    training.model.set_known_classes(known)
    groups = training.optimizer.param_groups
    flags = [{k: group[k] for k in ("weight_decay", "betas") if k in group} for group in groups]
    # a copy: the tensors of a mapped file must not outlive the file
    load_state(training.optimizer, _copied(checkpoint["optimizer"]))
    for group, flag in zip(training.optimizer.param_groups, flags):
        group.update(flag)
    torch.set_rng_state(checkpoint["random_state"])
    names = ("epoch", "step", "global_step", "best_metric", "best_epoch", "metrics")
    state = RunState(**{name: checkpoint[name] for name in names})
    state.best_of_datasets = dict(checkpoint.get("best_of_datasets", {}))
    state.step = _fitting_step(training, state, checkpoint["plan"])
    return state


def _check_same_run(training, checkpoint, path):
    stored = {**checkpoint, "class_names": distinct_names(checkpoint["class_names"])}
    for name, ours in (("model_config", training.model_config), ("class_names", training.class_names)):
        if stored[name] != ours:
            theirs = stored[name]
            if isinstance(ours, dict):  # only what differs
                differ = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
                theirs, ours = ({key: one.get(key) for key in differ} for one in (theirs, ours))
            raise InputError(
                path,
                f"a checkpoint of {name} {ours}",
                f"{theirs}",
                "give the options it was trained with, or another --output_dir",
            )
    now = vars(training.args)
    before = {**_defaults(now), **checkpoint["args"]}  # an option that did not exist then had its default
    for name, to_do in (
        ("seed", "give that seed, or another --output_dir"),
        ("optimizer", "give that one, or another --output_dir and --init_from"),
        ("freeze", "give these, or another --output_dir and --init_from"),
    ):
        if before[name] != now[name]:
            raise InputError(f"--{name}", f"{before[name]}, which {path} was trained with", now[name], to_do)
    changed = [f"--{k} {before.get(k)} -> {v}" for k, v in now.items() if k not in _FREE and before.get(k) != v]
    if changed and training.ranks.main:
        say(f"note: options that differ from {path}: {', '.join(changed)}")


def _defaults(options):
    parser = build_parser()
    return {name: parser.get_default(name) for name in options}


def _fitting_step(training, state, before):
    """The step inside the epoch, carried over to another number of ranks, batch size or list of cases."""
    plan = training.plan
    if state.step == before["steps_per_epoch"]:
        return plan.steps_per_epoch
    if before["cases"] != training.cases_digest and state.step:
        if training.ranks.main:
            say(f"note: the training cases have changed: epoch {state.epoch + 1} starts anew")
        return 0
    # the order of cases is the same, only cut otherwise: a few cases may be seen twice, none is left out
    return state.step if before["per_step"] == plan.per_step else state.step * before["per_step"] // plan.per_step


def _copied(value):
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value
