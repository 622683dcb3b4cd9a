"""The three things that main_ae.py does: train, evaluate a checkpoint (--eval), and try everything once (--dry_run)."""

import json
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from vecset.common.atomic import remove_leftovers, write_text
from vecset.common.errors import EXIT_STOPPED, InputError
from vecset.engines.arguments import EVALUATION_OPTIONS, parse_arguments
from vecset.engines.distributed import Ranks, told_once, wait_for_all
from vecset.engines.evaluation import Evaluator
from vecset.engines.logging import RunLog, format_values, peak_memory_gb, say, short_time
from vecset.engines.loop import Monitor, NotFiniteError, train_one_epoch
from vecset.engines.optimizer import gather_state
from vecset.engines.run import TrainingRun
from vecset.engines.run_folder import fill_gaps, way_on
from vecset.engines.saving import RunState, Saver, go_on_from, lock_folder, starting_point
from vecset.engines.setup import Training, make_dataset, read_splits, set_up, step_options
from vecset.engines.stop import StopRequest
from vecset.imaging.class_names import check_same_names, distinct_names
from vecset.items.loader import iterate_batches
from vecset.weights.checkpoint import (
    BEST,
    LAST,
    DamagedCheckpoint,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)

_DRY_RUN_GRID = 32  # points per axis, at most


def train(args: Namespace, ranks: Ranks, stop: StopRequest) -> int:
    """Starts a run, or goes on with the one in the output folder. -> exit code."""
    with told_once(ranks.rank):
        path, checkpoint = starting_point(args, ranks)
        training = set_up(args, ranks)
        state = go_on_from(training, checkpoint, path) if checkpoint else RunState()
    run = TrainingRun(training, state, stop)
    if run.done:
        if ranks.main:
            say(f"{path}: {run.done}")
            for note in fill_gaps(args.output_dir, path, checkpoint):
                say(f"note: {note}")
        return 0
    with told_once(ranks.rank):
        lock = lock_folder(args.output_dir, ranks)
    log = None
    if ranks.main:
        remove_leftovers(args.output_dir)
        say(training.describe())
        if checkpoint:
            say(f"going on from {path}: epoch {state.epoch + 1}, step {state.step}, global step {state.global_step}")
        log = RunLog(
            args.output_dir,
            vars(args),
            state.global_step,
            args.log_dir,
            args.wandb,
            args.wandb_project,
            args.wandb_name,
            validates_first=state.step == training.plan.steps_per_epoch,
            keep=path != Path(args.output_dir) / LAST,
        )
    _load_cases(training)
    try:
        return run.train(log)
    finally:
        if log:
            log.close()
        if lock:
            lock.close()


def _load_cases(training: Training):
    """Fills the caches before any worker process is forked. The truths for validation are read in any case: a missing
    one should end the run now and not after five epochs."""
    began, evaluator = time.monotonic(), training.evaluator
    if training.args.cache == "memory":
        training.dataset.load()
        evaluator.dataset.load(evaluator.own)
    for index in evaluator.own:
        evaluator.truth(index)
    if training.ranks.main:
        say(f"read the cases in {short_time(time.monotonic() - began)}")


# --- --eval


def as_trained(argv: list[str] | None, args: Namespace) -> Namespace:
    """The arguments of --eval, where those that decide its figures have the checkpoint's values as defaults."""
    trained = _load_evaluated(args)[1]["args"]
    return parse_arguments(argv, {name: trained[name] for name in EVALUATION_OPTIONS if name in trained})


def _evaluated_checkpoint(args):
    if args.resume:
        return Path(args.resume)
    folder = Path(args.output_dir)
    path = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
    if path is None:
        raise InputError.because("--eval", f"there is no checkpoint in {folder}", "give --resume FILE")
    return path


def _load_evaluated(args, num_classes=None):
    """(path, checkpoint) of --eval."""
    path = _evaluated_checkpoint(args)
    try:
        return path, load_checkpoint(path, num_classes)
    except DamagedCheckpoint as error:
        to_do = way_on(path, args.output_dir, "evaluate that one") or error.to_do
        raise DamagedCheckpoint.because(error.where, error.problem, to_do) from None


def evaluate_checkpoint(args: Namespace, ranks: Ranks, stop: StopRequest) -> int:
    """One evaluation, printed and written to OUTPUT_DIR/eval.json. -> exit code."""
    with told_once(ranks.rank):
        _, validation = read_splits(args)
        path, checkpoint = _load_evaluated(args, validation[0].num_classes)
        check_same_names(
            validation[0].class_names,
            distinct_names(checkpoint["class_names"]),
            validation[0].path,
            path,
            "use the checkpoint that was trained on such cases",
        )
        for name in ("network", "class_outputs"):
            if getattr(args, name) != checkpoint["model_config"][name]:
                raise InputError(f"--{name}", checkpoint["model_config"][name], getattr(args, name), "leave it out")
        if bool(args.observe) != checkpoint["model_config"]["states"]:
            how = "without" if args.observe else "with"
            raise InputError.because("--observe", f"{path} was trained {how} it", "leave it out")
    evaluator = Evaluator(
        make_dataset(args, validation, training=False),
        ranks,
        step_options(args, ranks.device),
        checkpoint["class_names"],
        args.batch_size,
        args.grid_size,
        args.num_workers,
    )
    results = evaluator.evaluate(model_from_checkpoint(checkpoint, ranks.device, path), lambda: stop.asked)
    if results is None:
        return EXIT_STOPPED
    results.pop("slices")
    if ranks.main:
        numbers = {k: v for k, v in results.items() if isinstance(v, float)}
        say(f"{path} (epoch {checkpoint['epoch']}): {format_values(numbers)}")
        for line in _class_lines(results["per_class"]):
            say(f"  {line}")
        for dataset, row in results.get("datasets", {}).items():
            mean = "-" if row["mean_dice"] is None else f"{row['mean_dice']:.4g}"
            say(f"data set {dataset}, {row['cases']} cases: mean_dice {mean}")
            for line in _class_lines(row["per_class"]):
                say(f"  {line}")
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "eval.json", json.dumps({"checkpoint": str(path), **results}, indent=1) + "\n")
    return 0


def _class_lines(per_class):
    """A line per class that any case has looked for."""
    for name, row in per_class.items():
        dice = "     -" if row["dice"] is None else f"{row['dice']:6.3f}"
        yield (
            f"{name:12s} dice {dice}  cases {row['cases']}, absent {row['absent']}, missed {row['missed']}, "
            f"spurious {row['invented']}"
        )


# --- --dry_run


def dry_run(args: Namespace, ranks: Ranks, stop: StopRequest) -> int:
    """Reads every case, takes one optimizer step, evaluates one case per rank, writes and reads one checkpoint, and
    leaves nothing behind. -> exit code."""
    began = time.monotonic()
    with told_once(ranks.rank):
        training = set_up(args, ranks)
    if ranks.main:
        say(training.describe())
    for dataset in (training.dataset, training.evaluator.dataset):
        dataset.check_readable(range(ranks.rank, len(dataset), ranks.size))
    if ranks.main:
        say(f"all cases can be read ({short_time(time.monotonic() - began)})")
    monitor = Monitor(ranks)
    losses = _one_step(training, monitor)
    gather_state(training.optimizer)
    _evaluate_one_case(training)
    if ranks.main:
        say(f"one step: {format_values(losses)}; peak memory {peak_memory_gb(ranks.device):.2f} GB")
        size = _write_and_read(Saver(training, RunState(), monitor).checkpoint(), Path(args.output_dir))
        say(f"checkpoint: {size / 1e6:.1f} MB, written and read back")
        say(f"dry run: all is well ({short_time(time.monotonic() - began)})")
    wait_for_all(ranks)
    return 0


def _one_step(training, monitor):
    """The first optimizer step. -> its losses and metrics by name."""
    first = training.plan.micro_batches(0, 0)
    train_one_epoch(
        training.wrapped,
        iterate_batches(training.dataset, ([(0, i) for i in micro.indices] for micro in first)),
        training.plan,
        training.optimizer,
        lambda epoch: training.lr,
        training.step_options,
        len(training.class_names),
        0,
        0,
        monitor,
        lambda *position: True,
    )
    if monitor.guard.first_bad_step() is not None:
        cases = ", ".join(training.dataset.cases[i].case_id for micro in first for i in micro.indices)
        raise NotFiniteError(
            f"the first step is not finite (rank {training.ranks.rank}: cases {cases}: "
            f"{format_values(monitor.guard.bad_values())})"
        )
    return monitor.sums.read()


def _evaluate_one_case(training):
    args, ranks = training.args, training.ranks
    one_per_rank = training.evaluator.dataset.cases[: ranks.size]
    Evaluator(
        make_dataset(args, one_per_rank, training=False),
        ranks,
        training.step_options,
        training.class_names,
        args.batch_size,
        min(args.grid_size, _DRY_RUN_GRID),
    ).evaluate(training.model)


def _write_and_read(checkpoint, folder):
    """Writes a checkpoint into `folder`, reads it and takes it away, and the folder too where it is new. -> its size in
    bytes."""
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dry-run.pth"
    try:
        save_checkpoint(path, checkpoint)
        load_checkpoint(path, len(checkpoint["class_names"]))
        return path.stat().st_size
    finally:
        for leftover in (path, path.with_suffix(".json")):
            leftover.unlink(missing_ok=True)
        for new in made:
            with suppress(OSError):
                new.rmdir()
