"""The decoded field of one heart: signed distance, class logits and labels at any point."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.fields.decision_tuning import DecisionTuning
from vecset.models.labels import LOGIT_UNIT, UNKNOWN_LOGIT, labels_of

CHUNK = 8192  # activations that stay in the cache: a quarter less time than 32768 on a CPU of two cores


class HeartField:
    """The field of one heart. Its latents go through the latent stack once; points are then decoded `chunk` at a time,
    which bounds the memory. `queries` counts the points decoded so far, `fallbacks` the label maps that had to be
    decoded voxel by voxel (vecset/fields/decoding.py).

    model: `process_latents(latents_BML)` and `decode(context, queries_BQ3)`, as in docs/design.md; one that decodes a
    query several times (`decoder_passes`) gets that many times fewer at once. latents_ML: (M, L) or (1, M, L);
    decision_tuning: applied to all values, or None. drawn_C: (C,) bool, the classes that may be drawn, all where None.
    Another class has UNKNOWN_LOGIT everywhere, and where its logit is the largest, tuned ones compared, there is
    background: the place is that class's, not that of the next best. radius_unit: of the ball round the middle of the
    frame in which the field holds, as that of a heart of which the frame has a part; None: in the unit cube. noise_K:
    (K,) numbers of one of several answers (vecset/models/answer_noise.py); None: the one answer."""

    def __init__(
        self,
        model: torch.nn.Module,
        latents_ML: torch.Tensor,
        chunk: int = CHUNK,
        device: torch.device | str | None = None,
        decision_tuning: DecisionTuning | None = None,
        drawn_C: np.ndarray | None = None,
        radius_unit: float | None = None,
        noise_K: np.ndarray | None = None,
    ):
        self.decision_tuning, self.radius_unit = decision_tuning, radius_unit
        self.model, self.device = model, torch.device(device or latents_ML.device)
        self.chunk = max(1, int(chunk) // getattr(model, "decoder_passes", 1))
        self.queries = self.fallbacks = 0
        self._drawn = self._barred = None  # numbers of classes, from 0
        if drawn_C is not None and not np.all(drawn_C):
            if decision_tuning:  # what may not be drawn does not decide where it is
                self.decision_tuning = replace(decision_tuning, slope_C=decision_tuning.slope_C * np.asarray(drawn_C))
            drawn = torch.from_numpy(np.asarray(drawn_C, bool)).to(self.device)
            self._drawn, self._barred = torch.nonzero(drawn).squeeze(1), torch.nonzero(~drawn).squeeze(1)
        latents_ML = latents_ML.to(self.device)
        with torch.inference_mode():
            latents_BML = latents_ML if latents_ML.ndim == 3 else latents_ML.unsqueeze(0)
            numbers = () if noise_K is None else (torch.from_numpy(noise_K[None]).to(self.device),)
            self._context = model.process_latents(latents_BML, *numbers)

    @property
    def has_class_distances(self) -> bool:
        """Whether the model gives a signed distance per class."""
        return getattr(self.model, "has_class_distances", False)

    def class_distances(self, points_unit: np.ndarray) -> np.ndarray:
        """(Q, 3) points in unit -> signed distances to the classes (Q, C) f32 in unit, as the model gives them, without
        the decision tuning; ABSENT_DISTANCE for classes that may not be drawn. For a model that
        `has_class_distances`."""
        parts = [
            self._on_device(points_unit[start : start + self.chunk]) for start in range(0, len(points_unit), self.chunk)
        ]
        self.queries += len(points_unit)
        with torch.inference_mode():
            distances = [self.model.decode_fields(self._context, points_BQ3)[2][0] for points_BQ3 in parts]
        distances_QC = torch.cat(distances).float()
        if self._barred is not None:
            distances_QC[:, self._barred] = ABSENT_DISTANCE
        return distances_QC.cpu().numpy()

    def _on_device(self, points_unit):
        """(1, Q, 3)"""
        return torch.from_numpy(np.ascontiguousarray(points_unit, np.float32)).to(self.device).unsqueeze(0)

    def _query(self, points_unit):
        return self._decide(*self._raw(points_unit))

    @torch.inference_mode()
    def _raw(self, points_unit):
        """Distances (Q,) and logits (Q, C) as the model gives them."""
        self.queries += len(points_unit)
        sdf_BQ, logits_BQC = self.model.decode(self._context, self._on_device(points_unit))
        if not (torch.isfinite(sdf_BQ).all() and torch.isfinite(logits_BQC).all()):
            raise InputError.because(
                "--checkpoint",
                "the model gives distances or logits that are not finite",
                "train again, or take an earlier checkpoint",
            )
        return sdf_BQ[0].float(), logits_BQC[0].float()

    def _decide(self, sdf_Q, logits_QC):
        """The same, tuned, and background where a class leads that may not be drawn."""
        if self.decision_tuning:
            sdf_Q, logits_QC = self.decision_tuning.apply(sdf_Q, logits_QC)
        return (sdf_Q, logits_QC) if self._barred is None else self._without_barred(sdf_Q, logits_QC)

    def _without_barred(self, sdf_Q, logits_QC):
        offset = self.decision_tuning.left_out_offset if self.decision_tuning else 0.0
        drawn, barred = (numbers.to(sdf_Q.device) for numbers in (self._drawn, self._barred))  # `labels_within`: CPU
        return without_barred(sdf_Q, logits_QC, drawn, barred, offset)

    def decided(self, values_QF: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of raw values (Q, 1 + C), distance and logits, what `at_positions` gives."""
        sdf_Q, logits_QC = self._decide(values_QF[:, 0], values_QF[:, 1:])
        lead_Q = torch.full_like(sdf_Q, torch.inf)
        if logits_QC.shape[1] > 1:
            largest, next_largest = logits_QC.topk(2, dim=1).values.T
            lead_Q = largest - next_largest
        return sdf_Q.cpu().numpy(), labels_of(sdf_Q, logits_QC).cpu().numpy(), lead_Q.cpu().numpy()

    def labels_within(self, values_QF: torch.Tensor, errors_QF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of raw values (Q, 1 + C), distance and logits, on the CPU, each known up to its error: labels (Q,) u8, and
        (Q,) bool where no values within the errors have another one."""
        sdf_Q, logits_QC = values_QF[:, 0], values_QF[:, 1:]
        error_Q, logit_error_Q = errors_QF[:, 0], errors_QF[:, 1:].amax(1)
        low_Q, high_Q = sdf_Q - error_Q, sdf_Q + error_Q  # of the distance by which it is decided
        if self.decision_tuning:  # a distance is the smaller of its own and of one by margins, each of two logits
            claimed_Q, logits_QC = self.decision_tuning.apply(torch.full_like(sdf_Q, torch.inf), logits_QC)
            slopes = self.decision_tuning.slope_C[self.decision_tuning.slope_C > 0]
            if len(slopes):
                away_Q = 2 * logit_error_Q / float(slopes.min())
                low_Q, high_Q = torch.minimum(low_Q, claimed_Q - away_Q), torch.minimum(high_Q, claimed_Q + away_Q)
        if self._barred is not None:  # and not below the lead of what may not be drawn
            lead_Q, logits_QC = self._without_barred(torch.full_like(sdf_Q, -torch.inf), logits_QC)
            away_Q = 2 * LOGIT_UNIT * logit_error_Q
            low_Q, high_Q = torch.maximum(low_Q, lead_Q - away_Q), torch.maximum(high_Q, lead_Q + away_Q)
        top_Q1 = logits_QC.argmax(1, keepdim=True)
        least_Q = (logits_QC - errors_QF[:, 1:]).gather(1, top_Q1).squeeze(1)
        others_Q = (logits_QC + errors_QF[:, 1:]).scatter(1, top_Q1, -torch.inf).amax(1)
        labels_Q = torch.where(low_Q >= 0, 0, top_Q1.squeeze(1) + 1).to(torch.uint8)
        return labels_Q, (low_Q >= 0) | ((high_Q < 0) & (least_Q > others_Q))

    def values(self, points_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Q, 3) points in unit -> distance (Q,) f32 in unit, logits (Q, C) f32."""
        starts = range(0, len(points_unit), self.chunk)
        parts = [self._query(points_unit[start : start + self.chunk]) for start in starts]
        return (
            np.concatenate([sdf.cpu().numpy() for sdf, _ in parts]),
            np.concatenate([logits.cpu().numpy() for _, logits in parts]),
        )

    def at_positions(
        self, flat: np.ndarray, to_unit: Callable[[np.ndarray], np.ndarray], raw: list | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(Q,) flat indices of a grid -> distance (Q,) f32 in unit, label (Q,) u8 (0: background), and the lead (Q,)
        f32 of the largest logit over the next (infinite for one class). to_unit(flat) -> (Q, 3) points, called per
        chunk. raw: gets, chunk after chunk, what the model gives before anything is decided, (q, 1 + C) f32."""
        sdf = np.empty(len(flat), np.float32)
        labels = np.empty(len(flat), np.uint8)
        lead = np.empty(len(flat), np.float32)
        for start in range(0, len(flat), self.chunk):
            part = slice(start, start + self.chunk)
            values = self._raw(to_unit(flat[part]))
            together = torch.cat([values[0].unsqueeze(1), values[1]], 1)
            if raw is not None:
                raw.append(together.cpu())
            sdf[part], labels[part], lead[part] = self.decided(together)
        return sdf, labels, lead


def without_barred(
    sdf_Q: torch.Tensor, logits_QC: torch.Tensor, drawn: torch.Tensor, barred: torch.Tensor, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (Q,) and logits (Q, C) with background where a class that may not be drawn leads, its logit plus
    `offset` compared. The lead, as a distance, is what the distance cannot be below, so that it is zero on that border,
    too. drawn, barred: numbers of classes, from 0."""
    lead_Q = logits_QC[:, barred].amax(1) + offset
    if len(drawn):
        lead_Q = lead_Q - logits_QC[:, drawn].amax(1)
    return torch.maximum(sdf_Q, LOGIT_UNIT * lead_Q), logits_QC.index_fill(1, barred, UNKNOWN_LOGIT)
