"""Tuned decisions of a label map: offsets of the class logits, and thin classes that decide for themselves where they
are.

Training draws points of thin classes far more often than their volume is, so the odds of the logits are not those of a
voxel. And a distance learned by L1 is a median: where the place of a vessel of two voxels is uncertain, the median is
"outside" on most of it. Both are corrected by numbers that are found on training hearts, whose truth is known
(vecset/inference/decision_tuning_search.py), and hold for all hearts of that checkpoint:

    logit'_c    = logit_c + offset_c
    distance'   = min(distance, -margin_c / slope_c)   for the classes c that have a slope
    margin_c    = logit'_c - max(0, logit'_others)     the lead over background (0) and over all other classes

slope_c is how steeply the margin rises where it is zero, in logits per unit, so that distance' stays a distance there.
Only its sign matters for label maps. Figures: docs/log.md, 2026-11-26.

A structure that may not be drawn leaves background where its logit leads (vecset/fields/heart_field.py). Hearts in
which nobody annotated it have not taught its logit, so it leads too far there; the number `left_out_offset` is added to
it first.

A structure that is inferred has numbers of its own. Its place is less certain, so its median is "outside" more often.
And hearts in which nobody annotated it teach a distance to the union of the others, that is, that it is outside. Their
class logits say nothing of it (vecset/engines/losses.py), so it is these that may decide.

Latents that were fitted to their own heart (`reconstruct.py --refine`) may have numbers of their own, too: what the
fitted field says of thin structures is more certain.

Of a network that gives several answers the file may have the `answer_interval`, the factor with which the intervals of
volumes hold as many truths as they should (`interval_round`; it is found by vecset/report/answer_intervals.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vecset.common.atomic import write_text
from vecset.common.errors import InputError
from vecset.common.user_files import read_json

FORMAT = "vecsetx-heart calibration 1"  # of the file, which reconstruct.py takes by --calibration
MAKE_IT = "make it with python -m vecset.calibrate"


@dataclass(frozen=True)
class DecisionTuning:
    """offset_C, slope_C: (C,) f32 as above; slope 0: the class has none. answer_interval: None where
    it was not found. inferred_offset_C, inferred_slope_C: likewise, of structures that are inferred; None where they
    are those of structures that are seen. left_out_offset: of the logits of structures that may not be drawn.
    refined_offset_C, refined_slope_C: of hearts whose latents were fitted to them; None: as of others."""

    offset_C: np.ndarray
    slope_C: np.ndarray
    answer_interval: float | None = None
    inferred_offset_C: np.ndarray | None = None
    inferred_slope_C: np.ndarray | None = None
    left_out_offset: float = 0.0
    refined_offset_C: np.ndarray | None = None
    refined_slope_C: np.ndarray | None = None

    def for_refined(self) -> "DecisionTuning":
        """That of a heart whose latents were fitted to it, of which nothing is inferred."""
        if self.refined_offset_C is None:
            return self
        return replace(self, offset_C=self.refined_offset_C, slope_C=self.refined_slope_C)

    def for_heart(self, inferred_C: np.ndarray) -> "DecisionTuning":
        """That of a heart of which the classes of inferred_C (C,) bool are inferred."""
        if self.inferred_offset_C is None:
            return self
        return replace(
            self,
            offset_C=np.where(inferred_C, self.inferred_offset_C, self.offset_C),
            slope_C=np.where(inferred_C, self.inferred_slope_C, self.slope_C),
            inferred_offset_C=None,
            inferred_slope_C=None,
        )

    def apply(self, sdf_Q: torch.Tensor, logits_QC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (Q,) and logits (Q, C) -> the same, tuned."""
        logits_QC = logits_QC + torch.from_numpy(self.offset_C).to(logits_QC)
        for c in np.flatnonzero(self.slope_C):
            sdf_Q = torch.minimum(sdf_Q, -margin(logits_QC, c) / float(self.slope_C[c]))
        return sdf_Q, logits_QC


def margin(logits_QC: torch.Tensor, c: int) -> torch.Tensor:
    """(Q,) lead of class number c (from 0) over background and all other classes."""
    others = torch.cat([logits_QC[:, :c], logits_QC[:, c + 1 :]], 1)
    return logits_QC[:, c] - (others.max(1).values.clamp_min(0) if others.shape[1] else 0.0)


def write_decision_tuning(
    path: Path, tuning: DecisionTuning, class_names: Sequence[str], checkpoint_sha256: str, record: dict
) -> None:
    """Writes a JSON file, atomically; record: what else it says about how the values were found."""
    columns = {"offset": tuning.offset_C, "slope": tuning.slope_C}
    if tuning.inferred_offset_C is not None:
        columns |= {"inferred_offset": tuning.inferred_offset_C, "inferred_slope": tuning.inferred_slope_C}
    if tuning.refined_offset_C is not None:
        columns |= {"refined_offset": tuning.refined_offset_C, "refined_slope": tuning.refined_slope_C}
    content = {
        "format": FORMAT,
        "checkpoint_sha256": checkpoint_sha256,
        **record,
        "classes": {
            name: {key: round(float(values[c]), 4) for key, values in columns.items()}
            for c, name in enumerate(class_names)
        },
    }
    if tuning.left_out_offset:
        content["left_out_offset"] = tuning.left_out_offset
    if tuning.answer_interval is not None:
        content["answer_interval"] = round(tuning.answer_interval, 4)
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_decision_tuning(path: Path, class_names: Sequence[str], checkpoint_sha256: str) -> DecisionTuning:
    """The `DecisionTuning` in a file. InputError where it is no such file, or one of another checkpoint."""
    content = read_json(path, f"a {FORMAT}", MAKE_IT)
    tuning = decision_tuning_of(content, class_names, path)
    if content.get("checkpoint_sha256") != checkpoint_sha256:
        raise InputError.because(path, "the decision tuning of another checkpoint", MAKE_IT)
    return tuning


def decision_tuning_of(content: object, class_names: Sequence[str], where: Path) -> DecisionTuning:
    """The `DecisionTuning` in the content of such a file, which released weights hold too. InputError, naming `where`,
    where it is none."""
    try:
        found = content["format"] if isinstance(content, dict) else type(content).__name__
        if found != FORMAT:
            raise InputError(where, f"a {FORMAT}", repr(found), MAKE_IT)
        classes = content["classes"]
        kinds = ["", *(kind for kind in ("inferred_", "refined_") if _has(classes, class_names, kind))]
        keys = [f"{kind}{what}" for kind in kinds for what in ("offset", "slope")]
        values = np.array([[classes[name][key] for name in class_names] for key in keys], np.float32)
        factor = content.get("answer_interval")
        factor = None if factor is None else float(factor)
        left_out_offset = float(content.get("left_out_offset", 0.0))
        content["checkpoint_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError.because(
            where,
            f"not a {FORMAT} for {', '.join(class_names)} ({type(error).__name__}: {error})",
            MAKE_IT,
        ) from None
    if not np.isfinite(values).all() or (values[1::2] < 0).any():
        raise InputError.because(where, "offsets must be finite, and slopes 0 or more", MAKE_IT)
    if not -np.inf < left_out_offset <= 0:
        raise InputError.because(where, f"left_out_offset is {left_out_offset}, and must be 0 or less", MAKE_IT)
    if factor is not None and not 0 < factor < np.inf:
        raise InputError.because(where, f"answer_interval is {factor}, and must be above 0", MAKE_IT)
    more = {key.replace("_offset", "_offset_C").replace("_slope", "_slope_C"): row for key, row in zip(keys, values)}
    del more["offset"], more["slope"]
    return DecisionTuning(*values[:2], factor, left_out_offset=left_out_offset, **more)


def _has(classes, class_names, kind):
    return any(key.startswith(kind) for name in class_names for key in classes[name])
