"""One training run from wherever it stands to its end: when to print, evaluate, save and stop.

The position is (epoch, step): `step` optimizer steps of `epoch` are done. Everything random is a function of the
position (see vecset/common/draws.py), so position, weights and optimizer state are all that a checkpoint
needs to go on exactly.
An epoch's evaluation belongs to its last step: a run stopped before or during it evaluates first when it goes on.
"""

import hashlib
import json
import time
from pathlib import Path

import torch

from vecset.common.atomic import write_text
from vecset.common.errors import EXIT_STOPPED, InputError
from vecset.data.dataset import iterate_batches
from vecset.engines import stop as stop_words
from vecset.engines.distributed import Agreement, gather_objects, wait_for_all
from vecset.engines.logging import format_values, peak_memory_gb, progress_bar, say, short_time
from vecset.engines.loop import NotFiniteError, new_monitor, train_one_epoch
from vecset.engines.optimizer import gather_state, load_state
from vecset.engines.schedule import learning_rate
from vecset.imaging.slice_picture import slice_picture
from vecset.models.checkpoint import BEST, LAST, copy_checkpoint, load_checkpoint, save_checkpoint

SAVING_SHARE = 0.02  # of the time, for checkpoints after an epoch; the timed ones come whatever they cost
# options that may change between two starts without a word: they do not change what is learned
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
}


class TrainingRun:
    def __init__(
        self,
        args,
        ranks,
        stop,
        model,
        wrapped,
        optimizer,
        dataset,
        plan,
        evaluator,
        step_options,
        model_config,
        class_names,
        lr,
    ):
        self.args, self.ranks, self.stop = args, ranks, stop
        self.model, self.wrapped, self.optimizer = model, wrapped, optimizer
        self.dataset, self.plan, self.evaluator, self.step_options = dataset, plan, evaluator, step_options
        self.model_config, self.class_names, self.lr = model_config, list(class_names), lr
        self.folder = Path(args.output_dir)
        self.epoch = self.step = self.global_step = 0
        self.best_metric = self.best_epoch = None
        self.metrics = {}
        self.log = None
        self.monitor = new_monitor(ranks)
        self.agreement = Agreement(ranks)
        self.reason = stop_words.GO_ON
        self._save_seconds, self._asked_to_save = None, False
        self._cases = hashlib.sha256("\n".join(c.case_id for c in dataset.cases).encode()).hexdigest()[:16]

    # --- going on

    def go_on_from(self, checkpoint, path):
        """Takes over a checkpoint's weights, optimizer, position and best metric. Raises InputError where an option has
        changed that makes it another run; other changes are named."""
        self._check_same_run(checkpoint, path)
        known = self.model.known_classes.clone()  # by the cases of now
        self.model.load_state_dict(checkpoint["model"])
        self.model.set_known_classes(known)
        flags = [{k: g[k] for k in ("weight_decay", "betas")} for g in self.optimizer.param_groups]
        # a copy: the tensors of a mapped file must not outlive the file
        load_state(self.optimizer, _copied(checkpoint["optimizer"]))
        for group, flag in zip(self.optimizer.param_groups, flags):
            group.update(flag)
        self.epoch, self.step, self.global_step = (checkpoint[k] for k in ("epoch", "step", "global_step"))
        self.best_metric, self.best_epoch = checkpoint["best_metric"], checkpoint["best_epoch"]
        self.metrics = checkpoint["metrics"]
        torch.set_rng_state(checkpoint["random_state"])
        self._fit_position(checkpoint["plan"])

    def _check_same_run(self, checkpoint, path):
        for name, ours in (("model_config", self.model_config), ("class_names", self.class_names)):
            if checkpoint[name] != ours:
                raise InputError(
                    path,
                    f"a checkpoint of {name} {ours}",
                    f"{checkpoint[name]}",
                    "give the options it was trained with, or another --output_dir",
                )
        before, now = checkpoint["args"], vars(self.args)
        if before["seed"] != now["seed"]:
            raise InputError(
                "--seed",
                f"{before['seed']}, which {path} was trained with",
                now["seed"],
                "give that seed, or another --output_dir",
            )
        changed = [f"--{k} {before.get(k)} -> {v}" for k, v in now.items() if k not in _FREE and before.get(k) != v]
        if changed and self.ranks.main:
            say(f"note: options that differ from {path}: {', '.join(changed)}")

    def _fit_position(self, before):
        """Carries a position inside an epoch over to another number of ranks, batch size or list of cases."""
        if self.step == before["steps_per_epoch"]:
            self.step = self.plan.steps_per_epoch
        elif before["cases"] != self._cases and self.step:
            self.step = 0
            if self.ranks.main:
                say(f"note: the training cases have changed: epoch {self.epoch + 1} starts anew")
        elif before["per_step"] != self.plan.per_step:
            # the order of cases is the same, only cut otherwise: a few cases may be seen twice, none is left out
            self.step = self.step * before["per_step"] // self.plan.per_step

    @property
    def done(self):
        """Why there is nothing to do, in words, or None."""
        if self.epoch >= self.args.epochs:
            return f"finished: all {self.args.epochs} epochs are done"
        if self.args.max_steps and self.global_step >= self.args.max_steps:
            return f"done: --max_steps {self.args.max_steps} reached"
        return None

    # --- the run

    def train(self, log):
        """Trains to the end or to a stop; returns the exit code. `log` is a RunLog on rank 0, else None."""
        self.log, args = log, self.args
        self._started = self._saved = self._printed = time.monotonic()
        self._first_step = self._printed_step = self.global_step
        self._write_status("running")
        steps = args.epochs * self.plan.steps_per_epoch
        self._bar = progress_bar(min(steps, args.max_steps or steps), self.global_step) if self.ranks.main else None
        batches = iterate_batches(
            self.dataset,
            self.plan.keys(self.epoch, self.step, args.epochs),
            args.num_workers,
            pin_memory=self.ranks.device.type == "cuda",
        )
        while self.epoch < args.epochs and not self.reason:
            early = self.epoch < args.early_share * args.epochs
            self.model.use_latents(args.early_latents if early else None, training_only=True)
            train_one_epoch(
                self.wrapped,
                batches,
                self.plan,
                self.optimizer,
                self._rate,
                self.step_options,
                len(self.class_names),
                self.epoch,
                self.step,
                self.monitor,
                self._after_step,
            )
            if self.reason:
                break
            self.step = self.plan.steps_per_epoch
            improved = False
            if (self.epoch + 1) % args.eval_every == 0 or self.epoch + 1 == args.epochs:
                improved = self._evaluate()
                if improved is None:
                    self.reason = stop_words.ASKED_TO_STOP
                    break
            self.epoch, self.step = self.epoch + 1, 0
            if improved or self._saving_is_cheap():
                self._save(improved)
        self.agreement.finish()
        batches.close()
        if self._bar is not None:
            self._bar.close()
        self._check_finite()
        return self._leave()

    def _leave(self):
        if self.reason == stop_words.ASKED_TO_STOP:
            self._save(status="stopped")
            self._write_status("stopped")
            wait_for_all(self.ranks)  # a rank that left now would make torchrun kill rank 0 in the middle of saving
            if self.ranks.main:
                say(f"asked to stop: saved at epoch {self.epoch + 1}, step {self.step}; the same command goes on there")
            return EXIT_STOPPED
        if self.reason == stop_words.TIME_IS_UP:
            improved = self._evaluate()
            status = "stopped" if improved is None else "time is up"
            self._save(bool(improved), status=status)
            self._write_status(status)
            wait_for_all(self.ranks)
            if self.ranks.main:
                say(f"time is up: saved at epoch {self.epoch + 1}, step {self.step}, global step {self.global_step}")
            return EXIT_STOPPED if improved is None else 0
        self._save(status="finished")
        self._write_status("finished")
        return 0

    def _rate(self, epoch):
        args = self.args
        return learning_rate(
            epoch, lr=self.lr, min_lr=min(args.min_lr, self.lr), warmup_epochs=args.warmup_epochs, epochs=args.epochs
        )

    def _after_step(self, epoch, step, lr):
        """Prints, saves and asks whether to stop; true: stop here."""
        self.step, self.global_step = step, self.global_step + 1
        args, minutes = self.args, (time.monotonic() - self._started) / 60
        if self._bar is not None:
            self._bar.update()
        if self.global_step % args.print_every == 0:
            self._print_line(lr)
        # rank 0's clock decides about saving: all ranks take part in it where the optimizer is sharded
        due = (
            self.ranks.main
            and not self._asked_to_save
            and time.monotonic() - self._saved >= 60 * args.save_every_minutes
        )
        self._asked_to_save |= due
        wish = stop_words.SAVE if due else stop_words.GO_ON
        if self.stop.asked:
            wish = stop_words.ASKED_TO_STOP
        elif args.max_minutes and minutes >= args.max_minutes:
            wish = stop_words.TIME_IS_UP
        agreed = self.agreement.say(wish)
        self.reason = stop_words.GO_ON if agreed == stop_words.SAVE else agreed
        if not self.reason and args.max_steps and self.global_step >= args.max_steps:
            self.reason = stop_words.TIME_IS_UP
        if not self.reason and agreed == stop_words.SAVE:
            self._asked_to_save = False
            self._save()
        return bool(self.reason)

    # --- looking

    def _print_line(self, lr):
        sums, guard = self.monitor
        means = sums.read()
        self._check_finite()
        now, steps = time.monotonic(), self.global_step - self._printed_step
        step_seconds = (now - self._printed) / max(steps, 1)
        self._printed, self._printed_step = now, self.global_step
        if not self.ranks.main:
            return
        more = {
            "lr": lr,
            "step_seconds": step_seconds,
            "cases_per_second": self.plan.per_step / step_seconds,
            "memory_gb": peak_memory_gb(self.ranks.device),
        }
        say(
            f"epoch {self.epoch + 1}/{self.args.epochs} step {self.step}/{self.plan.steps_per_epoch} | "
            f"{format_values(means)} | lr {lr:.3g} | {step_seconds:.3g} s/step {more['cases_per_second']:.3g} cases/s "
            f"| {more['memory_gb']:.2f} GB | {short_time(self._seconds_left(now))} left"
        )
        self.log.record(
            "train", self.global_step, {**means, **self._weighted(means), **more}, epoch=self.epoch, step=self.step
        )

    def _weighted(self, means):
        """The losses among `means` as they enter the total, under names of their own."""
        weights = self.step_options.loss_weights
        return {f"weighted_{name}": weights[name] * value for name, value in means.items() if name in weights}

    def _seconds_left(self, now):
        """From the speed so far, validation and saving included."""
        args, spent = self.args, now - self._started
        steps = args.epochs * self.plan.steps_per_epoch - (self.epoch * self.plan.steps_per_epoch + self.step)
        if args.max_steps:
            steps = min(steps, args.max_steps - self.global_step)
        left = steps * spent / max(self.global_step - self._first_step, 1)
        return min(left, 60 * args.max_minutes - spent) if args.max_minutes else left

    def _check_finite(self):
        """Ends the run on all ranks alike if a step since the last look was not finite."""
        guard = self.monitor[1]
        number = guard.first_bad_step()
        if number is None:
            return
        epoch, step = divmod(number, self.plan.steps_per_epoch)
        own = [
            self.dataset.cases[i].case_id
            for micro in self.plan.micro_batches(epoch, step)
            if micro.count
            for i in micro.indices
        ]
        told = gather_objects((own, guard.bad_values()), self.ranks)
        bad = [
            (rank, cases, values)
            for rank, (cases, values) in enumerate(told)
            if any(v != v or abs(v) == float("inf") for k, v in values.items() if k != "gradient_norm")
        ]
        bad = bad or [(rank, cases, values) for rank, (cases, values) in enumerate(told)]
        parts = "; ".join(
            f"rank {rank}: cases {', '.join(cases)}: {format_values(values)}" for rank, cases, values in bad
        )
        self._write_status("not finite", where=parts)
        raise NotFiniteError(
            f"epoch {epoch + 1}, step {step + 1}: a loss or gradient is not finite ({parts}). No "
            f"weight was changed by it; {self._kept()}"
        )

    def _kept(self):
        last = self.folder / LAST
        return f"{last} is the last good checkpoint" if last.is_file() else "nothing had been saved yet"

    def _evaluate(self):
        """-> whether the best metric improved; None where it was interrupted by a request to stop."""
        self._check_finite()
        began = time.monotonic()
        try:
            results = self.evaluator.evaluate(self.model, lambda: self.stop.asked)
        except NotFiniteError as error:
            self._write_status("not finite", where=str(error))
            raise NotFiniteError(f"epoch {self.epoch + 1}, {error}; {self._kept()}") from None
        if results is None:
            return None
        slices, per_class = results.pop("slices"), results.pop("per_class")
        mean_dice = results["mean_dice"]
        improved = mean_dice is not None and (self.best_metric is None or mean_dice > self.best_metric)
        if improved:
            self.best_metric, self.best_epoch = mean_dice, self.epoch + 1
        self.metrics = {**results, "per_class": per_class}
        if self.ranks.main:
            dice = {f"dice_{name}": c["dice"] for name, c in per_class.items() if c["dice"] is not None}
            say(
                f"epoch {self.epoch + 1}/{self.args.epochs} validation | {format_values(results)} | "
                f"{format_values(dice)} | {short_time(time.monotonic() - began)}{' | best so far' if improved else ''}"
            )
            self.log.record(
                "val",
                self.global_step,
                {**results, **self._weighted(results), **dice},
                epoch=self.epoch,
                per_class=per_class,
            )
            self.log.picture("val/slices", slice_picture(slices, len(self.class_names)), self.global_step)
        self._printed += time.monotonic() - began  # not part of the step time
        return improved

    # --- saving

    def checkpoint(self, status="running"):
        return {
            "model": self.model.state_dict(),
            "model_config": self.model_config,
            "class_names": self.class_names,
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "random_state": torch.get_rng_state(),
            "args": vars(self.args),
            "plan": {
                "per_step": self.plan.per_step,
                "steps_per_epoch": self.plan.steps_per_epoch,
                "cases": self._cases,
            },
            "best_metric": self.best_metric,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "status": status,
        }

    def _save(self, best=False, status="running"):
        """Rank 0 writes checkpoint-last, and makes it checkpoint-best too where `best`. Never after a bad step. All
        ranks call it together: the shares of a sharded optimizer come to rank 0 here."""
        began = time.monotonic()
        if self.monitor[1].first_bad_step() is None:  # all ranks know of the same bad step
            gather_state(self.optimizer)
            if self.ranks.main:
                save_checkpoint(self.folder / LAST, self.checkpoint(status))
                if best:
                    copy_checkpoint(self.folder / LAST, self.folder / BEST)
                if status == "running":  # the others are written when the run leaves
                    self._write_status(status)
        self._saved = time.monotonic()
        self._save_seconds = self._saved - began
        self._printed += self._save_seconds

    def _saving_is_cheap(self):
        """By rank 0's clock, for all ranks alike."""
        cheap = self._save_seconds is None or (self._save_seconds <= SAVING_SHARE * (time.monotonic() - self._saved))
        return gather_objects(cheap, self.ranks)[0]

    def _write_status(self, status, **more):
        if self.ranks.main:
            write_text(
                self.folder / "status.json",
                json.dumps(
                    {
                        "status": status,
                        "epoch": self.epoch,
                        "step": self.step,
                        "global_step": self.global_step,
                        "epochs": self.args.epochs,
                        "best_metric": self.best_metric,
                        **more,
                    }
                )
                + "\n",
            )


def _copied(value):
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def starting_point(args, ranks):
    """(path, checkpoint) to start from, or (None, None): the output folder's own last checkpoint, else --resume."""
    last = Path(args.output_dir) / LAST
    if last.is_file():
        if args.resume and ranks.main and Path(args.resume).resolve() != last.resolve():
            say(f"note: {last} is there and comes before --resume {args.resume}; a new run needs another --output_dir")
        return last, load_checkpoint(last)
    if args.resume:
        return Path(args.resume), load_checkpoint(args.resume)
    return None, None
