"""How far a run is, for the person who watches: a progress bar, a line every few steps, a line per validation."""

import time

from vecset.engines.logging import (
    RunLog,
    format_speed,
    format_values,
    peak_memory_gb,
    progress_bar,
    say,
    short_time,
)
from vecset.engines.saving import RunState
from vecset.engines.setup import Training
from vecset.imaging.slice_picture import slice_picture


def datasets_words(datasets: dict) -> str:
    """'A 0.9123 (40 cases), B 0.85 (4 cases) | ' of `Evaluator.evaluate`'s data sets; "" where there are none."""
    words = [
        f"{name} {'-' if row['mean_dice'] is None else format(row['mean_dice'], '.4g')} ({row['cases']} cases)"
        for name, row in datasets.items()
    ]
    return f"{', '.join(words)} | " if words else ""


class Progress:
    """Rank 0 says and logs it; on the other ranks nothing happens. `log`: a RunLog on rank 0, else None."""

    def __init__(self, training: Training, state: RunState, log: RunLog | None):
        self.training, self.state, self.log = training, state, log
        self._began = self._last_line = time.monotonic()
        self._first_step = self._last_step = state.global_step
        args, self._bar = training.args, None
        self._operations, self._peak = 0.0, training.peak()  # operations since the last line; None: not known
        self._steps = args.epochs * training.plan.steps_per_epoch
        if training.ranks.main:
            self._bar = progress_bar(min(self._steps, args.max_steps or self._steps), state.global_step)

    def step_done(self) -> None:
        new = self.training.step_operations(self.state.epoch, self.state.step - 1)
        self._operations = None if None in (new, self._operations) else self._operations + new
        if self._bar is not None:
            self._bar.update()

    def pause(self, seconds: float) -> None:
        """Takes time that was spent on saving or validation out of the next line's time per step."""
        self._last_line += seconds

    def train_line(self, means: dict, lr: float) -> None:
        """means: name -> mean since the line before."""
        state, plan, now = self.state, self.training.plan, time.monotonic()
        seconds, operations = now - self._last_line, self._operations
        step_seconds = seconds / max(state.global_step - self._last_step, 1)
        self._last_line, self._last_step, self._operations = now, state.global_step, 0.0
        if not self.training.ranks.main:
            return
        speed = {
            "lr": lr,
            "step_seconds": step_seconds,
            "cases_per_second": plan.per_step / step_seconds,
            "memory_gb": peak_memory_gb(self.training.ranks.device),
        }
        if operations is not None and seconds > 0:
            speed["flop_per_second"] = operations / seconds
            if self._peak:
                speed["mfu"] = speed["flop_per_second"] / self._peak
        pace = f"{step_seconds:.3g} s/step {speed['cases_per_second']:.3g} cases/s "
        pace += format_speed(speed, self.training.ranks.device)
        say(
            f"epoch {state.epoch + 1}/{self.training.args.epochs} step {state.step}/{plan.steps_per_epoch} | "
            f"{format_values(means)} | lr {lr:.3g} | {pace}| {speed['memory_gb']:.2f} GB | "
            f"{short_time(self._seconds_left(now))} left"
        )
        values = {**means, **self._weighted(means), **speed}
        self.log.record("train", state.global_step, values, epoch=state.epoch, step=state.step)

    def validation_line(self, results: dict, improved: bool, seconds: float) -> None:
        """results: as from `Evaluator.evaluate`."""
        if not self.training.ranks.main:
            return
        state, per_class = self.state, results["per_class"]
        datasets = results.get("datasets", {})
        numbers = {k: value for k, value in results.items() if k not in ("per_class", "slices", "datasets")}
        dice = {f"dice_{name}": row["dice"] for name, row in per_class.items() if row["dice"] is not None}
        say(
            f"epoch {state.epoch + 1}/{self.training.args.epochs} validation | {format_values(numbers)} | "
            f"{format_values(dice)} | {datasets_words(datasets)}{short_time(seconds)}"
            f"{' | best so far' if improved else ''}"
        )
        of_sets = {f"mean_dice_{k}": row["mean_dice"] for k, row in datasets.items() if row["mean_dice"] is not None}
        values = {**numbers, **self._weighted(numbers), **dice, **of_sets}
        more = {"datasets": datasets} if datasets else {}
        self.log.record("val", state.global_step, values, epoch=state.epoch, per_class=per_class, **more)
        picture = slice_picture(results["slices"], self.training.class_names)
        self.log.picture("val/slices", picture, state.global_step)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _weighted(self, means):
        """The losses among `means` as they enter the total, under names of their own."""
        weights = self.training.step_options.loss_weights
        return {f"weighted_{name}": weights[name] * value for name, value in means.items() if name in weights}

    def _seconds_left(self, now):
        """From the speed so far, validation and saving included."""
        args, state, spent = self.training.args, self.state, now - self._began
        steps = self._steps - (state.epoch * self.training.plan.steps_per_epoch + state.step)
        if args.max_steps:
            steps = min(steps, args.max_steps - state.global_step)
        left = steps * spent / max(state.global_step - self._first_step, 1)
        return min(left, 60 * args.max_minutes - spent) if args.max_minutes else left
