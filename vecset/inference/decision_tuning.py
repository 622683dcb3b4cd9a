"""What decides about a label map: offsets for the class logits, and which thin classes say for themselves where they are.

Training draws thin classes far more often than their volume is, and decodes points that lie exactly on surfaces as
"inside", so the logits' odds are not those of a voxel. And a distance learned by L1 is the median of what may be: where
the place of a vessel of two voxels is not certain, the median says "outside" on most of it. Both are found on training
hearts, whose truth is known, and mended for all others:

    logit'_c    = logit_c + offset_c
    distance'   = min(distance, -margin_c / slope_c)   for the classes c that have a slope,
    margin_c    = logit'_c - max(0, logit'_others)     the lead over background (0) and over all other classes

slope: how steep the margin is where it is zero, logits per unit, so that distance' stays a distance there. Only the sign
matters for label maps. Figures: docs/log.md, 2026-11-26."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vecset.common.atomic import write_text
from vecset.common.errors import InputError

VERSION = 1  # of the method: higher when the same hearts and options give another file
FORMAT = "vecsetx-heart calibration 1"
OFFSETS = sorted(np.arange(-2.0, 1.01, 0.25).tolist(), key=abs)  # of two that are as good, the smaller
NEAR_VOXELS = 3  # of a class: there its mistakes are looked for more closely
LEAST_GAIN = 2e-4  # in the mean Dice; less is chance


@dataclass(frozen=True)
class Calibration:
    """offset_C, slope_C: (C,) f32 as above; slope 0: the class has none."""

    offset_C: np.ndarray
    slope_C: np.ndarray

    def apply(self, sdf_Q, logits_QC):
        """Tensors (Q,), (Q, C) -> the same, calibrated."""
        logits_QC = logits_QC + torch.from_numpy(self.offset_C).to(logits_QC)
        for c in np.flatnonzero(self.slope_C):
            sdf_Q = torch.minimum(sdf_Q, -margin(logits_QC, c) / float(self.slope_C[c]))
        return sdf_Q, logits_QC


def margin(logits_QC, c):
    """(Q,) lead of class number c (from 0) over background and all other classes."""
    others = torch.cat([logits_QC[:, :c], logits_QC[:, c + 1 :]], 1)
    return logits_QC[:, c] - (others.max(1).values.clamp_min(0) if others.shape[1] else 0.0)


# --- as a file


def write_calibration(path, calibration, class_names, checkpoint_sha256, record):
    """JSON to read and to load; record: more about how it was found."""
    content = {
        "format": FORMAT,
        "checkpoint_sha256": checkpoint_sha256,
        **record,
        "classes": {
            name: {"offset": round(float(o), 4), "slope": round(float(s), 3)}
            for name, o, s in zip(class_names, calibration.offset_C, calibration.slope_C)
        },
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_calibration(path, class_names, checkpoint_sha256):
    """The `Calibration` in a file. InputError where it is none, or one of another checkpoint."""
    to_do = "make it with python -m vecset.calibrate"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"] if isinstance(content, dict) else type(content).__name__
        if found != FORMAT:
            raise InputError(path, f"a {FORMAT}", repr(found), to_do)
        classes = content["classes"]
        values = np.array([[classes[name][key] for name in class_names] for key in ("offset", "slope")], np.float32)
        found = content["checkpoint_sha256"]
    except FileNotFoundError:
        raise InputError(path, f"a {FORMAT}", "no such file", to_do) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path, f"a {FORMAT} for {', '.join(class_names)}", f"{type(error).__name__}: {error}", to_do
        ) from None
    if found != checkpoint_sha256:
        raise InputError(path, "a calibration of this checkpoint", "that of another one", to_do)
    if not np.isfinite(values).all() or (values[1] < 0).any():
        raise InputError(path, "finite offsets, and slopes of 0 or more", "others", to_do)
    return Calibration(*values)


# --- how it is found


@dataclass
class Sample:
    """Voxels of one heart: truth (n,) u8; weight (n,), how many voxels each stands for; sdf (n,), logits (n, C)."""

    truth: np.ndarray
    weight: np.ndarray
    sdf: torch.Tensor
    logits: torch.Tensor


def draw_voxels(labels, rng, per_stratum=4000):
    """(flat indices (n,), weights (n,)) of voxels of a label map (X, Y, Z), drawn from strata: each class, what is within
    3 voxels of a class (the one with fewest voxels counts), and the rest; weight: size of the stratum over the number
    drawn from it."""
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


def dice_per_class(sample, offset_C, deciding):
    """(C,) Dice of one heart's sample under offsets and deciding classes (numbers from 0); NaN where a class is in
    neither truth nor prediction."""
    calibration = Calibration(
        np.asarray(offset_C, np.float32), np.isin(np.arange(len(offset_C)), list(deciding)).astype(np.float32)
    )
    sdf, logits = calibration.apply(sample.sdf, sample.logits)
    predicted = torch.where(sdf < 0, logits.argmax(1) + 1, 0).numpy()
    C = len(offset_C)
    both = np.bincount(sample.truth[sample.truth == predicted], sample.weight[sample.truth == predicted], C + 1)
    sizes = np.bincount(sample.truth, sample.weight, C + 1) + np.bincount(predicted, sample.weight, C + 1)
    with np.errstate(invalid="ignore"):
        return np.where(sizes[1:] > 0, 2 * both[1:] / sizes[1:], np.nan)


def fit(samples, annotated, progress=lambda classes: classes):
    """(offset_C, deciding): of all offsets in OFFSETS and sets of deciding classes the ones with the best mean Dice over
    the annotated classes, one class at a time, thinnest first, twice round. What gains less than LEAST_GAIN stays as it
    is. annotated: (hearts, C) bool; what was not annotated counts nowhere."""
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


def slopes(samples, fields, points_unit, offset_C, deciding, step_unit):
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
