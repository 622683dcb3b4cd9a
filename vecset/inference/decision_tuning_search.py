"""Finds the decision tuning of a checkpoint on training hearts, whose truth is known.

Voxels are drawn from each heart and decoded once; offsets and deciding classes are then searched on what the model said
of them, one class at a time, for the best mean Dice.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vecset.common.draws import random_stream
from vecset.common.errors import InputError, describe_failure
from vecset.common.structure_state import is_seen
from vecset.data.listed_case import ListedCase
from vecset.fields.decision_tuning import DecisionTuning, margin
from vecset.inference.model import LoadedModel
from vecset.models.labels import labels_of

VERSION = 2  # of the method: higher when the same hearts and options give another file
OFFSETS = sorted(np.arange(-2.0, 1.01, 0.25).tolist(), key=abs)  # of two that are as good, the smaller
NEAR_VOXELS = 3  # of a class: there its mistakes are looked for more closely
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
) -> tuple[DecisionTuning, list[str], dict]:
    """(tuning, lines of a table of Dice before and after, record for the file) found on training hearts.

    model: without a tuning of its own. progress: wraps an iterable, with `unit` and `desc`, as tqdm does. failed: gets
    {case_id: the reason} of hearts that fail and are left out; None: such a heart raises. InputError where none is
    left."""
    used, samples, fields, places, annotated = [], [], [], [], []
    for listed in progress(cases, unit="heart", desc="calibrate"):
        try:
            sample, field, place, known = _sample_of(model, listed)
        except Exception as error:
            if failed is None:
                raise
            failed[listed.case_id] = describe_failure(listed.path, error)
            continue
        used.append(listed.case_id)
        samples.append(sample)
        fields.append(field)
        places.append(place)
        annotated.append(known)
    if not used:
        raise InputError.because("", f"none of the {len(cases)} hearts can be used ({_first(failed)})", "check --csv")
    offset_C, deciding = fit(samples, annotated, lambda classes: progress(classes, unit="class", desc="offsets"))
    slope_C = slopes(samples, fields, places, offset_C, deciding, SLOPE_STEP_UNIT)
    lines, record = dice_table(samples, annotated, model.class_names, offset_C, deciding)
    record |= {
        "hearts": used,
        "num_surface_points": model.num_surface_points,
        "num_latents": model.num_latents,
    }
    return DecisionTuning(offset_C, slope_C), lines, record


def _first(failed):
    return next(iter((failed or {}).values()), "there is none")


def _sample_of(model, listed):
    """(`Sample`, field, places (n, 3) unit, annotated (C,) bool) of a heart. InputError where it holds no truth."""
    case = model.read(listed)
    if case.truth_crop is None:
        raise InputError.because(listed.path, "it holds no true label map", "make it again with prepare_data.py")
    field = model.field(model.encode(case, listed.case_id), drawn_C=is_seen(case.states))  # as it is reconstructed
    truth = np.asarray(case.truth_crop)
    flat, weight = draw_voxels(truth, random_stream(model.seed, 0, listed.case_id, "calibrate"))
    index = np.stack(np.unravel_index(flat, truth.shape), -1) + np.asarray(case.truth_origin)
    places = case.frame.voxel_to_unit(index).astype(np.float32)
    sample = Sample(truth.ravel()[flat], weight, *map(torch.from_numpy, field.values(places)))
    return sample, field.values, places, case.annotated


@dataclass
class Sample:
    """Voxels of one heart: truth (n,) u8; weight (n,), how many voxels each stands for; sdf (n,), logits (n, C)."""

    truth: np.ndarray
    weight: np.ndarray
    sdf: torch.Tensor
    logits: torch.Tensor


def draw_voxels(labels: np.ndarray, rng: np.random.Generator, per_stratum: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """(flat indices (n,), weights (n,)) of voxels of a label map (X, Y, Z), drawn from strata: each class, what is
    within 3 voxels of a class (the one with fewest voxels counts), and the rest; weight: size of the stratum over the
    number drawn from it."""
    counts = np.bincount(labels.ravel())
    stratum = np.where(labels > 0, labels, 2 * len(counts)).astype(np.int32)
    for c in sorted((c for c in range(1, len(counts)) if counts[c]), key=lambda c: -counts[c]):
        mine = labels == c
        box = tuple(
            slice(max(0, s.start - NEAR_VOXELS), s.stop + NEAR_VOXELS)
            for s in ndimage.find_objects(mine.astype(np.uint8))[0]
        )
        near = ndimage.binary_dilation(mine[box], iterations=NEAR_VOXELS) & ~mine[box]
        stratum[box][near] = len(counts) + c
    flat, indices, weights = stratum.ravel(), [], []
    order = np.argsort(flat, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(flat[order])) + 1):
        drawn = rng.choice(rows, min(per_stratum, len(rows)), replace=False)
        indices.append(drawn)
        weights.append(np.full(len(drawn), len(rows) / len(drawn)))
    return np.concatenate(indices), np.concatenate(weights)


def dice_per_class(sample: Sample, offset_C: np.ndarray, deciding: frozenset) -> np.ndarray:
    """(C,) Dice of one heart's sample under offsets and deciding classes (numbers from 0); NaN where a class is in
    neither truth nor prediction."""
    slope_C = np.isin(np.arange(len(offset_C)), list(deciding)).astype(np.float32)  # the sign alone matters here
    tuning = DecisionTuning(np.asarray(offset_C, np.float32), slope_C)
    predicted = labels_of(*tuning.apply(sample.sdf, sample.logits)).numpy()
    C = len(offset_C)
    both = np.bincount(sample.truth[sample.truth == predicted], sample.weight[sample.truth == predicted], C + 1)
    sizes = np.bincount(sample.truth, sample.weight, C + 1) + np.bincount(predicted, sample.weight, C + 1)
    with np.errstate(invalid="ignore"):
        return np.where(sizes[1:] > 0, 2 * both[1:] / sizes[1:], np.nan)


def fit(
    samples: Sequence[Sample], annotated: Sequence, progress: Callable = lambda classes: classes
) -> tuple[np.ndarray, frozenset]:
    """(offset_C, deciding): of all offsets in OFFSETS and sets of deciding classes the ones with the best mean Dice
    over the annotated classes, one class at a time, thinnest first, twice round. What gains less than LEAST_GAIN stays
    as it is. annotated: (hearts, C) bool; what was not annotated counts nowhere."""
    C = samples[0].logits.shape[1]
    annotated = np.asarray(annotated, bool)

    def score(offset_C, deciding):
        dice = np.array([dice_per_class(sample, offset_C, deciding) for sample in samples])
        dice[~annotated] = np.nan
        known = np.isfinite(dice).any(0)
        return float(np.nanmean(dice[:, known], 0).mean())

    offset_C, deciding = np.zeros(C, np.float32), frozenset()
    best = score(offset_C, deciding)
    volume = sum(np.bincount(s.truth, s.weight, C + 1)[1:] for s in samples)
    order = [c for c in np.argsort(volume) if volume[c] > 0]
    for c in progress([*order, *order]):
        found = None
        for decides in (deciding - {c}, deciding | {c}):
            for value in OFFSETS:
                tried = offset_C.copy()
                tried[c] = value
                now = score(tried, decides)
                if now > (found[0] if found else best + LEAST_GAIN):
                    found = now, tried, decides
        if found:
            best, offset_C, deciding = found
    return offset_C, deciding


def slopes(
    samples: Sequence[Sample],
    fields: Sequence[Callable],
    points_unit: Sequence[np.ndarray],
    offset_C: np.ndarray,
    deciding: frozenset,
    step_unit: float,
) -> np.ndarray:
    """(C,) f32: the median slope of a deciding class's margin (logits per unit) where it is nearest to zero; 0 for the
    others. fields: per heart, points (Q, 3) unit -> (sdf, logits); points_unit: per heart the (n, 3) places of its
    sample; step_unit: of the differences."""
    slope_C = np.zeros(len(offset_C), np.float32)
    offsets = torch.from_numpy(np.asarray(offset_C, np.float32))
    for c in deciding:
        found = []
        for sample, field, places in zip(samples, fields, points_unit):
            if not (sample.truth == c + 1).any():
                continue
            closest = margin(sample.logits + offsets, c).abs().argsort()[:300].numpy()
            here = margin(sample.logits[closest] + offsets, c).numpy()
            square = 0.0
            for axis in range(3):
                moved = places[closest].copy()
                moved[:, axis] += step_unit
                there = margin(torch.from_numpy(field(moved)[1]) + offsets, c).numpy()
                square = square + ((there - here) / step_unit) ** 2
            found.append(np.sqrt(square))
        slope_C[c] = max(float(np.median(np.concatenate(found))), 1e-3)
    return slope_C


def dice_table(
    samples: Sequence[Sample],
    annotated: Sequence,
    class_names: Sequence[str],
    offset_C: np.ndarray,
    deciding: frozenset,
) -> tuple[list[str], dict]:
    """(lines, record): Dice of each class on these training hearts, before and after, and which are worse now: the
    search is for the best mean, and what one class gains another may lose."""
    means = []
    for setting in ((np.zeros_like(offset_C), frozenset()), (offset_C, deciding)):
        dice = np.array([dice_per_class(sample, *setting) for sample in samples])
        dice[~np.asarray(annotated, bool)] = np.nan
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
        lines.append(f"note: worse than untuned by more than {WORSE}, for the best mean: {', '.join(worse)}")
    return lines, {"mean_dice_before": round(means[0], 4), "mean_dice_after": round(means[1], 4)}
