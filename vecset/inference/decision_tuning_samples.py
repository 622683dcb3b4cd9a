"""What a model says of voxels of training hearts whose truth is known, for the search of decision tuning: of whole
hearts, and of hearts from which structures are left out, as reconstruct.py --given --complete reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from vecset.common.draws import random_stream
from vecset.common.errors import InputError
from vecset.common.structure_state import is_seen
from vecset.data.case_file import Case
from vecset.data.listed_case import ListedCase
from vecset.fields.heart_field import without_barred
from vecset.inference.model import LoadedModel
from vecset.inference.refinement import NO_REFINEMENT, Refinement, refine_latents

NEAR_VOXELS = 3  # of a class: there its mistakes are looked for more closely
PER_STRATUM, PER_STRATUM_HIDDEN = 4000, 1500  # voxels of a stratum of `draw_voxels`
LEFT_OUT_HEARTS = 4  # of which a structure is left out alone


@dataclass
class Sample:
    """Voxels of one heart: truth (n,) u8; weight (n,), how many voxels each stands for; sdf (n,), logits (n, C)."""

    truth: np.ndarray
    weight: np.ndarray
    sdf: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class DrawnHeart:
    """A `Sample` with what it is of: `field`, points (Q, 3) unit -> (sdf, logits), and the `places` (n, 3) unit of the
    voxels there; annotated (C,) bool, and hidden (C,) bool: left out, and inferred. raw: of a heart of which classes
    may not be drawn, sample and field with all of them, and which may (C,) bool; else None."""

    listed: ListedCase
    sample: Sample
    field: Callable
    places: np.ndarray
    annotated: np.ndarray
    hidden: np.ndarray
    raw: tuple[Sample, Callable, np.ndarray] | None = None

    def with_left_out(self, offset: float) -> "DrawnHeart":
        """The same with this offset of classes that may not be drawn (`DecisionTuning.left_out_offset`)."""
        if self.raw is None:
            return self
        sample, field, drawn_C = self.raw
        numbers = [torch.from_numpy(np.flatnonzero(mine)) for mine in (drawn_C, ~drawn_C)]
        values = without_barred(sample.sdf, sample.logits, *numbers, offset)

        def barred(points_unit):
            found = without_barred(*map(torch.from_numpy, field(points_unit)), *numbers, offset)
            return tuple(value.numpy() for value in found)

        return replace(self, sample=Sample(sample.truth, sample.weight, *values), field=barred)

    @property
    def present(self) -> np.ndarray:
        """(C,) bool: the classes with a voxel. Each class is a stratum, so none of them is missed."""
        return np.isin(np.arange(1, len(self.annotated) + 1), self.sample.truth)


def draw_heart(
    model: LoadedModel, listed: ListedCase, hidden: np.ndarray | None = None, refine: Refinement = NO_REFINEMENT
) -> DrawnHeart:
    """hidden: (C,) bool, the classes that are left out, all of them present; None: none. refine: of a whole heart, how
    long its latents are fitted to it first. InputError where the heart holds no truth."""
    if hidden is None:
        case = judged = model.read(listed, with_field=bool(refine))
        if case.truth_crop is None:
            raise InputError.because(listed.path, "it holds no true label map", "make it again with prepare_data.py")
        drawn, radius_unit, per_stratum = is_seen(case.states), None, PER_STRATUM  # as it is reconstructed
        hidden = np.zeros(case.num_classes, bool)
    else:
        whole = model.read(listed)
        there = np.isin(np.arange(1, whole.num_classes + 1), whole.truth_crop)
        given = [name for name, mine in zip(model.class_names, there & ~hidden) if mine]
        case, per_stratum = model.read(listed, given=given), PER_STRATUM_HIDDEN
        judged: Case = case.whole
        drawn, radius_unit = is_seen(case.states) | hidden, model.inferred_radius_unit
    barred = not drawn.all()
    seen = None if barred else drawn
    latents = model.encode(case, listed.case_id)
    if refine:
        latents, _ = refine_latents(model, case, listed.case_id, latents, refine)
    field = model.field(latents, drawn_C=seen, radius_unit=radius_unit, inferred_C=hidden)
    truth = np.asarray(judged.truth_crop)
    flat, weight = draw_voxels(truth, random_stream(model.seed, 0, listed.case_id, "calibrate"), per_stratum)
    index = np.stack(np.unravel_index(flat, truth.shape), -1) + np.asarray(judged.truth_origin)
    places = judged.frame.voxel_to_unit(index)
    if judged is not case:  # the frame is that of what is seen
        places = case.frame.mm_to_unit(judged.frame.unit_to_mm(places))
    places = places.astype(np.float32)
    sample = Sample(truth.ravel()[flat], weight, *map(torch.from_numpy, field.values(places)))
    if radius_unit:  # beyond it there is background, as in a label map
        beyond = torch.from_numpy(np.linalg.norm(places, axis=1) > radius_unit)
        sample.sdf[beyond], sample.logits[beyond] = 1.0, -1.0
    raw = (sample, field.values, drawn) if barred else None
    return DrawnHeart(listed, sample, field.values, places, judged.annotated, hidden, raw).with_left_out(0.0)


def what_to_hide(hearts: Sequence[DrawnHeart]) -> list[tuple[DrawnHeart, np.ndarray]]:
    """What is left out of which whole hearts, to tune what is inferred, as (heart, hidden (C,) bool): of each heart
    what others have not annotated, as one of those is completed, and each class alone, of LEFT_OUT_HEARTS hearts. What
    a heart does not have cannot be left out of it, and what leaves nothing is not left out."""
    patterns = {tuple(heart.annotated) for heart in hearts}
    found = []
    for heart in hearts:
        sets = {tuple(heart.present & ~np.array(other)) for other in patterns}
        found += [(heart, np.array(hidden)) for hidden in sorted(sets) if any(hidden)]
    for c in range(len(hearts[0].annotated) if hearts else 0):
        mine = [heart for heart in hearts if heart.present[c]]
        for i in np.unique(np.linspace(0, len(mine) - 1, min(len(mine), LEFT_OUT_HEARTS)).astype(int)):
            found.append((mine[i], np.arange(len(mine[i].annotated)) == c))
    once = {(heart.listed.case_id, hidden.tobytes()): (heart, hidden) for heart, hidden in found}
    return [(heart, hidden) for heart, hidden in once.values() if (heart.present & ~hidden).any()]


def draw_voxels(
    labels: np.ndarray, rng: np.random.Generator, per_stratum: int = PER_STRATUM
) -> tuple[np.ndarray, np.ndarray]:
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
