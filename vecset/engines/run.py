"""One training run from wherever it stands to its end.

An epoch's evaluation belongs to its last step: a run stopped before or during it evaluates first when it goes on.
"""

import time

from vecset.common.errors import EXIT_STOPPED
from vecset.engines.distributed import gather_objects, wait_for_all
from vecset.engines.logging import RunLog, format_values, say
from vecset.engines.loop import Monitor, NotFiniteError, train_one_epoch
from vecset.engines.optimizer import learning_rate
from vecset.engines.progress import Progress
from vecset.engines.saving import RunState, Saver
from vecset.engines.setup import Training
from vecset.engines.stop import Decision, Limits, StopRequest
from vecset.items.loader import iterate_batches


class TrainingRun:
    """Trains epoch by epoch, validates, saves, and stops where the limits say so.

    training    what the run works with
    state       where it stands; a new run begins with RunState()
    stop        the request to stop that signals set
    """

    def __init__(self, training: Training, state: RunState, stop: StopRequest):
        self.training, self.state, self.stop = training, state, stop
        self.monitor = Monitor(training.ranks)
        self.decision = Decision.GO_ON
        self.improved_datasets = []  # by the last validation

    @property
    def done(self) -> str | None:
        """Why there is nothing to do, in words, or None."""
        args = self.training.args
        if self.state.epoch > args.epochs:
            return f"finished: {self.state.epoch} epochs are done, more than --epochs {args.epochs}"
        if self.state.epoch == args.epochs:
            return f"finished: all {args.epochs} epochs are done"
        if args.max_steps and self.state.global_step >= args.max_steps:
            return f"done: --max_steps {args.max_steps} reached"
        return None

    def train(self, log: RunLog | None) -> int:
        """Trains to the end or to a stop; returns the exit code. `log`: on rank 0, else None."""
        training, state, args = self.training, self.state, self.training.args
        self.saver = Saver(training, state, self.monitor)
        self.progress = Progress(training, state, log)
        self.limits = Limits(training.ranks, self.stop, args.save_every_minutes, args.max_minutes, args.max_steps)
        self.saver.write_status("running")
        batches = iterate_batches(
            training.dataset,
            training.plan.keys(state.epoch, state.step, args.epochs),
            args.num_workers,
            pin_memory=training.ranks.device.type == "cuda",
            tell=lambda note: say(f"note: {note}"),
        )
        while state.epoch < args.epochs and self.decision == Decision.GO_ON:
            self._train_epoch(batches)
            if self.decision == Decision.GO_ON:
                self._end_epoch()
        self.limits.finish()
        batches.close()
        self.progress.close()
        self._check_finite()
        return self._leave()

    def _train_epoch(self, batches):
        training = self.training
        train_one_epoch(
            training.wrapped,
            batches,
            training.plan,
            training.optimizer,
            self._rate,
            training.step_options,
            len(training.class_names),
            self.state.epoch,
            self.state.step,
            self.monitor,
            self._after_step,
            num_latents=training.latents_in(self.state.epoch),
        )

    def _rate(self, epoch):
        args, lr = self.training.args, self.training.lr
        return learning_rate(
            epoch, lr=lr, min_lr=min(args.min_lr, lr), warmup_epochs=args.warmup_epochs, epochs=args.epochs
        )

    def _after_step(self, epoch, step, lr):
        """Prints, saves and asks whether to stop; true: stop here."""
        self.state.step, self.state.global_step = step, self.state.global_step + 1
        self.progress.step_done()
        if self.state.global_step % self.training.args.print_every == 0:
            means = self.monitor.sums.read()
            self._check_finite()
            self.progress.train_line(means, lr)
        decision = self.limits.after_step(self.state.global_step, self.saver.seconds_since_save())
        if decision == Decision.SAVE:
            self._save()
            decision = Decision.GO_ON
        self.decision = decision
        return decision != Decision.GO_ON

    def _end_epoch(self):
        """Validates where it is time to, and moves on to the next epoch."""
        state, args = self.state, self.training.args
        state.step = self.training.plan.steps_per_epoch
        improved = False
        if (state.epoch + 1) % args.eval_every == 0 or state.epoch + 1 == args.epochs:
            improved = self._validate()
            if improved is None:
                self.decision = Decision.ASKED_TO_STOP
                return
        state.epoch, state.step = state.epoch + 1, 0
        if improved or self.improved_datasets or self.saver.is_cheap():
            self._save(improved)

    def _validate(self):
        """-> whether the best metric improved; None where it was interrupted by a request to stop."""
        self._check_finite()
        state, began = self.state, time.monotonic()
        try:
            results = self.training.evaluator.evaluate(self.training.model, lambda: self.stop.asked)
        except NotFiniteError as error:
            self.saver.write_status("not finite", where=str(error))
            raise NotFiniteError(f"epoch {state.epoch + 1}, {error}; {self.saver.last_good()}") from None
        if results is None:
            return None
        dice = results["mean_dice"]
        improved = dice is not None and (state.best_metric is None or dice > state.best_metric)
        if improved:
            state.best_metric, state.best_epoch = dice, state.epoch + 1
        self.improved_datasets = []
        for dataset, row in results.get("datasets", {}).items():
            dice, before = row["mean_dice"], state.best_of_datasets.get(dataset)
            if dice is not None and (before is None or dice > before[0]):
                state.best_of_datasets[dataset] = [dice, state.epoch + 1]
                self.improved_datasets.append(dataset)
        state.metrics = {name: value for name, value in results.items() if name != "slices"}
        self.progress.validation_line(results, improved, time.monotonic() - began)
        self.progress.pause(time.monotonic() - began)
        return improved

    def _save(self, best=False, status="running"):
        self.progress.pause(self.saver.save(best, status, self.improved_datasets))
        self.improved_datasets = []

    def _check_finite(self):
        """Ends the run, on all ranks alike, where a step since the last check was not finite."""
        number = self.monitor.guard.first_bad_step()
        if number is None:
            return
        plan, cases = self.training.plan, self.training.dataset.cases
        epoch, step = divmod(number, plan.steps_per_epoch)
        own = [cases[i].case_id for micro in plan.micro_batches(epoch, step) if micro.count for i in micro.indices]
        found = list(enumerate(gather_objects((own, self.monitor.guard.bad_values()), self.training.ranks)))
        # the gradient norm is bad on every rank: name those whose losses are
        bad = [
            (rank, (names, values))
            for rank, (names, values) in found
            if any(v != v or abs(v) == float("inf") for name, v in values.items() if name != "gradient_norm")
        ]
        where = "; ".join(
            f"rank {rank}: cases {', '.join(names)}: {format_values(values)}" for rank, (names, values) in bad or found
        )
        self.saver.write_status("not finite", where=where)
        raise NotFiniteError(
            f"epoch {epoch + 1}, step {step + 1}: a loss or gradient is not finite ({where}). No weight was changed by "
            f"it; {self.saver.last_good()}"
        )

    def _leave(self):
        """The last checkpoint, the last status, and the exit code."""
        state, ranks = self.state, self.training.ranks
        status, code, message = "finished", 0, ""
        if self.decision == Decision.ASKED_TO_STOP:
            status, code = "stopped", EXIT_STOPPED
            message = (
                f"asked to stop: saved at epoch {state.epoch + 1}, step {state.step}; the same command goes on there"
            )
        improved = False
        if self.decision == Decision.TIME_IS_UP:
            improved = self._validate()
            status, code = ("stopped", EXIT_STOPPED) if improved is None else ("time is up", 0)
            message = (
                f"time is up: saved at epoch {state.epoch + 1}, step {state.step}, global step {state.global_step}"
            )
        if code == 0 and not improved and self.saver.lacks_best():
            state.best_metric, state.best_epoch = state.metrics.get("mean_dice"), state.epoch
            improved = True
            if ranks.main:
                say("note: checkpoint-best.pth is gone and no later model was better: the last one takes its place")
        self._save(bool(improved), status)
        self.saver.write_status(status)
        if self.decision != Decision.GO_ON:
            wait_for_all(ranks)  # a rank that left now would make torchrun kill rank 0 in the middle of saving
        if ranks.main and message:
            say(message)
        return code
