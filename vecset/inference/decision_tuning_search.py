"""Finds the decision tuning of a checkpoint on training hearts, whose truth is known.

Voxels are drawn from each heart and decoded once (vecset/inference/decision_tuning_samples.py); offsets and deciding
classes are then searched on what the model said of them, one class at a time, for the best mean Dice. For a model that
was trained to infer (main_ae.py --observe) the numbers of inferred classes are searched likewise, on hearts from which
they are left out, while the other classes keep theirs.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vecset.common.errors import InputError, describe_failure
from vecset.data.listed_case import ListedCase
from vecset.fields.decision_tuning import DecisionTuning, margin
from vecset.inference.decision_tuning_samples import DrawnHeart, Sample, draw_heart, what_to_hide
from vecset.inference.model import LoadedModel
from vecset.inference.refinement import NO_REFINEMENT, Refinement
from vecset.models.labels import labels_of

VERSION = 4  # of the method: higher when the same hearts and options give another file
OFFSETS = sorted(np.arange(-2.0, 1.01, 0.25).tolist(), key=abs)  # of two that are as good, the smaller
LEFT_OUT_OFFSETS = (0.0, -0.5, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -16.0)
OFFSETS_INFERRED = sorted(np.arange(-2.0, 3.01, 0.25).tolist(), key=abs)
LEAST_GAIN = 2e-4  # in the mean Dice; less is chance
SLOPE_STEP_UNIT = 0.005
WORSE = 0.01  # of Dice, that a structure may lose without a word


def evenly_chosen(cases: Sequence[ListedCase], count: int) -> list[ListedCase]:
    """Up to `count` of `cases`, at even steps through the list; of several data sets as many of each, at least one, for
    a small one may have structures that the others lack."""
    of_sets = {}
    for case in cases:
        of_sets.setdefault(case.dataset, []).append(case)
    chosen = []
    for left, mine in zip(range(len(of_sets), 0, -1), sorted(of_sets.values(), key=len)):
        share = max(1, (count - len(chosen)) // left)
        rows = np.linspace(0, len(mine) - 1, min(len(mine), share)).astype(int)
        chosen += [mine[i] for i in np.unique(rows)]
    return chosen


def tune_decisions(
    model: LoadedModel,
    cases: Sequence[ListedCase],
    progress: Callable = lambda iterable, **words: iterable,
    failed: dict | None = None,
    refine: Refinement = NO_REFINEMENT,
) -> tuple[DecisionTuning, list[str], dict]:
    """(tuning, lines of a table of Dice before and after, record for the file) found on training hearts.

    refine: where it is some time or steps, numbers for hearts whose latents are fitted to them so long are found, too.

    model: without a tuning of its own. progress: wraps an iterable, with `unit` and `desc`, as tqdm does. failed: gets
    {case_id: the reason} of hearts that fail and are left out; None: such a heart raises. InputError where none is
    left."""
    failures = {} if failed is None else failed

    def drawn(wanted, desc, refine=NO_REFINEMENT):
        found = []
        for listed, hidden in progress(wanted, unit="heart", desc=desc):
            try:
                found.append(draw_heart(model, listed, hidden, refine))
            except Exception as error:
                if failed is None:
                    raise
                failures[listed.case_id] = describe_failure(listed.path, error)
        return found

    hearts = drawn([(listed, None) for listed in cases], "calibrate")
    if not hearts:
        raise InputError.because("", f"none of the {len(cases)} hearts can be used ({_first(failed)})", "check --csv")
    left_out_offset = offset_of_left_out(hearts)
    hearts = [heart.with_left_out(left_out_offset) for heart in hearts]
    samples, annotated = [heart.sample for heart in hearts], [heart.annotated for heart in hearts]
    offset_C, deciding = fit(samples, annotated, lambda classes: progress(classes, unit="class", desc="offsets"))
    tuning = DecisionTuning(offset_C, slopes(hearts, offset_C, deciding), left_out_offset=left_out_offset)
    lines, record = dice_table(samples, annotated, model.class_names, offset_C, deciding)
    record |= {
        "hearts": [heart.listed.case_id for heart in hearts],
        "num_surface_points": model.num_surface_points,
        "num_latents": model.num_latents,
    }
    if left_out_offset:
        lines.append(f"structures that nobody annotated in a heart and that are not drawn: offset {left_out_offset}")
    if refine:
        fitted = drawn([(listed, None) for listed in cases], "fitted", refine)
        fitted = [heart.with_left_out(left_out_offset) for heart in fitted]
        samples, annotated = [heart.sample for heart in fitted], [heart.annotated for heart in fitted]
        mine_C, mine = fit(samples, annotated, lambda classes: progress(classes, unit="class", desc="fitted"))
        tuning = replace(tuning, refined_offset_C=mine_C, refined_slope_C=slopes(fitted, mine_C, mine))
        more, record["refined"] = dice_table(samples, annotated, model.class_names, mine_C, mine)
        record["refined"] |= {"steps": refine.steps, "seconds": refine.seconds}
        lines += ["", f"latents fitted to their hearts, {refine.steps or refine.seconds} steps or seconds:", *more]
    if not model.told_states:
        return tuning, lines, record
    completed = drawn([(heart.listed, hidden) for heart, hidden in what_to_hide(hearts)], "left out")
    completed = [heart.with_left_out(left_out_offset) for heart in completed]
    if not completed:
        return tuning, lines, record
    samples, annotated = [heart.sample for heart in completed], [heart.annotated for heart in completed]
    base = Base(offset_C, deciding, np.array([heart.hidden for heart in completed]))
    own_C, own = fit(samples, annotated, lambda classes: progress(classes, unit="class", desc="inferred"), base)
    own_slope_C = np.where(base.inferred.any(0), slopes(completed, own_C, own, base), tuning.slope_C)
    tuning = replace(tuning, inferred_offset_C=own_C, inferred_slope_C=own_slope_C)
    more, record["inferred"] = dice_table(samples, annotated, model.class_names, own_C, own, base)
    record["inferred"]["left_out"] = len(completed)
    return tuning, [*lines, "", f"inferred where it is left out, {len(completed)} times in all:", *more], record


def offset_of_left_out(hearts: Sequence[DrawnHeart]) -> float:
    """Of LEFT_OUT_OFFSETS the one with which hearts lose least where structures of others were not annotated: the mean
    Dice, untuned, of what was annotated in them. 0 where no heart has such structures."""
    known = np.any([heart.annotated for heart in hearts], axis=0)
    lacking = [heart for heart in hearts if (known & ~heart.annotated).any()]
    if not lacking:
        return 0.0
    zeros, found = np.zeros(len(known), np.float32), []
    for offset in LEFT_OUT_OFFSETS:
        dice = [dice_per_class(heart.with_left_out(offset).sample, zeros, frozenset()) for heart in lacking]
        found.append(np.mean([np.nanmean(mine[heart.annotated]) for mine, heart in zip(dice, lacking)]))
    best = int(np.argmax(found))
    return LEFT_OUT_OFFSETS[best] if found[best] > found[0] + LEAST_GAIN else 0.0


def _first(failed):
    return next(iter((failed or {}).values()), "there is none")


def dice_per_class(sample: Sample, offset_C: np.ndarray, deciding: frozenset) -> np.ndarray:
    """(C,) Dice of one heart's sample under offsets and deciding classes (numbers from 0); NaN where a class is in
    neither truth nor prediction."""
    slope_C = np.isin(np.arange(len(offset_C)), list(deciding)).astype(np.float32)  # the sign alone matters here
    tuning = DecisionTuning(np.asarray(offset_C, np.float32), slope_C)
    predicted = labels_of(*tuning.apply(sample.sdf, sample.logits)).numpy()
    sizes = np.bincount(sample.truth, sample.weight, len(offset_C) + 1)
    return _dice(sample.truth, predicted, sample.weight, sizes)


@dataclass(frozen=True)
class Base:
    """What holds elsewhere where the numbers of inferred classes are searched for: offset_C and deciding as for `fit`,
    and inferred (hearts, C) bool."""

    offset_C: np.ndarray
    deciding: frozenset
    inferred: np.ndarray

    def mixed(self, row: int, offset_C: np.ndarray, deciding: frozenset) -> tuple[np.ndarray, frozenset]:
        """The numbers of one heart: those that are given for what is inferred there, else those of the base."""
        mine = self.inferred[row]
        other = frozenset(c for c in self.deciding if not mine[c])
        return np.where(mine, offset_C, self.offset_C), other | {c for c in deciding if mine[c]}


class OneClass:
    """Dice of one heart's sample as `dice_per_class` has it, for many offsets of one class c (from 0)."""

    def __init__(self, sample: Sample, offset_C: np.ndarray, deciding: frozenset, c: int):
        logits_QC = sample.logits.numpy() + np.asarray(offset_C, np.float32)
        logits_QC[:, c] = -np.inf
        self.c, self.top = c, logits_QC.argmax(1)
        self.largest = np.take_along_axis(logits_QC, self.top[:, None], 1)[:, 0]
        self.mine, self.inside = sample.logits.numpy()[:, c], sample.sdf.numpy() < 0
        decides_C = np.isin(np.arange(len(offset_C)), list(deciding))
        self.without = np.where(self.inside | (decides_C[self.top] & (self.largest > 0)), self.top + 1, 0)
        self.truth, self.weight, self.classes = sample.truth, sample.weight, len(offset_C)
        self.true_sizes = np.bincount(self.truth, self.weight, self.classes + 1)

    def dice(self, offset: float, decides: bool) -> np.ndarray:
        """(C,) as `dice_per_class`."""
        mine = self.mine + np.float32(offset)
        leads = (mine > self.largest) | ((mine == self.largest) & (self.c < self.top))
        inside = self.inside | (mine > 0) if decides else self.inside
        predicted = np.where(leads, np.where(inside, self.c + 1, 0), self.without)
        return _dice(self.truth, predicted, self.weight, self.true_sizes)


def _dice(truth, predicted, weight, true_sizes):
    right = truth == predicted
    both = np.bincount(truth[right], weight[right], len(true_sizes))
    sizes = true_sizes + np.bincount(predicted, weight, len(true_sizes))
    with np.errstate(invalid="ignore"):
        return np.where(sizes[1:] > 0, 2 * both[1:] / sizes[1:], np.nan)


def fit(
    samples: Sequence[Sample],
    annotated: Sequence,
    progress: Callable = lambda classes: classes,
    base: Base | None = None,
) -> tuple[np.ndarray, frozenset]:
    """(offset_C, deciding): of all offsets in OFFSETS and sets of deciding classes the ones with the best mean Dice
    over the annotated classes, one class at a time, thinnest first, twice round. What gains less than LEAST_GAIN stays
    as it is. annotated: (hearts, C) bool; what was not annotated counts nowhere. With a base the numbers are those of
    inferred classes; they begin as the base has them, and each counts in the hearts where it is inferred."""
    C = samples[0].logits.shape[1]
    annotated = np.asarray(annotated, bool)
    offset_C, deciding = (np.zeros(C, np.float32), frozenset()) if base is None else (base.offset_C, base.deciding)
    volume = sum(np.bincount(s.truth, s.weight, C + 1)[1:] for s in samples)
    if base is not None:
        volume = volume * base.inferred.any(0)
    order = [c for c in np.argsort(volume) if volume[c] > 0]
    for c in progress([*order, *order]):
        rows = [row for row in range(len(samples)) if base is None or base.inferred[row, c]]
        settings = [(offset_C, deciding) if base is None else base.mixed(row, offset_C, deciding) for row in rows]
        hearts = [OneClass(samples[row], *setting, c) for row, setting in zip(rows, settings)]

        def score(offset, decides, hearts=hearts, rows=rows):
            dice = np.array([heart.dice(offset, decides) for heart in hearts])
            dice[~annotated[rows]] = np.nan
            known = np.isfinite(dice).any(0)
            return float(np.nanmean(dice[:, known], 0).mean())

        best, chosen = score(offset_C[c], c in deciding) + LEAST_GAIN, None
        for decides in (False, True):
            for value in OFFSETS_INFERRED if base else OFFSETS:
                now = score(value, decides)
                if now > best:
                    best, chosen = now, (value, decides)
        if chosen:
            offset_C = offset_C.copy()
            offset_C[c] = chosen[0]
            deciding = deciding - {c} | ({c} if chosen[1] else frozenset())
    return offset_C, deciding


def slopes(
    hearts: Sequence[DrawnHeart], offset_C: np.ndarray, deciding: frozenset, base: Base | None = None
) -> np.ndarray:
    """(C,) f32: the median slope of a deciding class's margin (logits per unit) where it is nearest to zero; 0 for the
    others. With a base: in the hearts where it is inferred."""
    slope_C = np.zeros(len(offset_C), np.float32)
    for c in deciding:
        found = []
        for row, heart in enumerate(hearts):
            if not (heart.sample.truth == c + 1).any() or (base is not None and not base.inferred[row, c]):
                continue
            mine = offset_C if base is None else base.mixed(row, offset_C, deciding)[0]
            offsets = torch.from_numpy(np.asarray(mine, np.float32))
            closest = margin(heart.sample.logits + offsets, c).abs().argsort()[:300].numpy()
            here = margin(heart.sample.logits[closest] + offsets, c).numpy()
            square = 0.0
            for axis in range(3):
                moved = heart.places[closest].copy()
                moved[:, axis] += SLOPE_STEP_UNIT
                there = margin(torch.from_numpy(heart.field(moved)[1]) + offsets, c).numpy()
                square = square + ((there - here) / SLOPE_STEP_UNIT) ** 2
            found.append(np.sqrt(square))
        if found:
            slope_C[c] = max(float(np.median(np.concatenate(found))), 1e-3)
    return slope_C


def dice_table(
    samples: Sequence[Sample],
    annotated: Sequence,
    class_names: Sequence[str],
    offset_C: np.ndarray,
    deciding: frozenset,
    base: Base | None = None,
) -> tuple[list[str], dict]:
    """(lines, record): Dice of each class on these training hearts, before and after, and which are worse now: the
    search is for the best mean, and what one class gains another may lose. With a base: of inferred classes alone, and
    before is as the base has them."""
    counted = np.asarray(annotated, bool) if base is None else base.inferred
    before = (np.zeros_like(offset_C), frozenset()) if base is None else (base.offset_C, base.deciding)
    means = []
    for setting in (before, (offset_C, deciding)):
        settings = [setting if base is None else base.mixed(row, *setting) for row in range(len(samples))]
        dice = np.array([dice_per_class(sample, *mine) for sample, mine in zip(samples, settings)])
        dice[~counted] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of a class that none of the hearts has
            means.append(np.nanmean(dice, 0))
    width = max(map(len, class_names))
    lines = [f"{'class':{width}s} offset  decides inside  Dice before  after   (these training hearts, voxels drawn)"]
    for c, name in enumerate(class_names):
        before, after = (f"{m[c]:.3f}" if np.isfinite(m[c]) else "-" for m in means)
        lines.append(
            f"{name:{width}s} {offset_C[c]:6.2f}  {'yes' if c in deciding else 'no':14s}  {before:11s}  {after}"
        )
    lost = means[0] - means[1]
    worse = [f"{name} ({-lost[c]:.3f})" for c, name in enumerate(class_names) if lost[c] > WORSE]
    means = [float(np.nanmean(m)) for m in means]
    lines.append(f"{'mean':{width}s} {'':6s}  {'':14s}  {means[0]:<11.3f}  {means[1]:.3f}")
    if worse:
        than = "untuned" if base is None else "with the numbers of what is seen"
        lines.append(f"note: worse than {than} by more than {WORSE}, for the best mean: {', '.join(worse)}")
    return lines, {"mean_dice_before": round(means[0], 4), "mean_dice_after": round(means[1], 4)}
