"""Several answers for what is not seen of a heart: label maps, volumes with an interval, how probable a class is at
each voxel, and how far a surface is from where the one answer has it.

An answer is the field of the same latents with other random numbers (vecset/models/answer_noise.py). Answers are
decoded one after the other, and nothing of one is kept but what `Answers` counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from vecset.common.draws import random_stream
from vecset.common.memory import require_memory
from vecset.imaging.frame import Frame

LEAST, MOST = 19, 255  # of one heart: fewer hold no interval of INTERVAL; counts per voxel are u8
INTERVAL = 0.9  # of truths lie in it, where answers are distributed as they are
SURFACE_MARGIN_MM = 10.0  # round vertices and an answer's voxels, where distances are made


def answer_numbers(count: int, number: int, case_id: str, seed: int) -> np.ndarray:
    """(count,) f32 unit normal numbers of answer `number` of a heart, the same for the same arguments."""
    return random_stream(seed, number, case_id, "answer").standard_normal(count, dtype=np.float32)


def interval_of(values: np.ndarray) -> tuple[float, float]:
    """The ends of the INTERVAL of answers (N,) with N >= LEAST: the quantiles at ranks q (N + 1), between which one
    more draw from the same distribution lies with probability INTERVAL."""
    ends = (1 - INTERVAL) / 2, (1 + INTERVAL) / 2
    low, high = np.quantile(values, ends, method="weibull")
    return float(low), float(high)


def interval_round(one: float, values: np.ndarray, factor: float) -> tuple[float, float]:
    """The ends of an interval round the volume `one` of the one answer: it reaches as far from it, by quotients, as
    `interval_of` the answers (N,) does from their median, to the power `factor`. The answers of a network may all be
    too small or too large, while their spread tells how certain it is. Where quotients say nothing, because `one` or
    the median is 0: `interval_of` the answers, and `one`."""
    low, high = interval_of(values)
    middle = float(np.median(values))
    if one <= 0 or middle <= 0:
        return min(low, one), max(high, one)
    return one * (low / middle) ** factor, one * (high / middle) ** factor


def factor_to(truth: float, one: float, values: np.ndarray) -> float:
    """The least `factor` of `interval_round` with which the interval holds `truth`; infinite where none does."""
    if truth == one:
        return 0.0
    low, high = interval_of(values)
    middle = float(np.median(values))
    if one <= 0 or middle <= 0:
        return 0.0 if min(low, one) <= truth <= max(high, one) else float("inf")
    end = (high if truth > one else low) / middle
    if end == 0:  # the interval begins at 0
        return 0.0
    if truth == 0 or end == 1:
        return float("inf")
    return float(np.log(truth / one) / np.log(end))


def require_answer_memory(frame: Frame, num_classes: int) -> None:
    """Raises InputError, with the size, where the counts of so many classes on the grid of `frame` take more memory
    than there is. Nothing is allocated."""
    shape = " x ".join(map(str, frame.shape))
    what = f"the probability maps of {num_classes} structures on {shape} voxels"
    require_memory(
        "--samples",
        (num_classes + 5) * int(np.prod(frame.shape)),
        what,
        "give a larger --spacing, crop the image round the heart, or use a machine with more memory",
    )


@dataclass
class Answers:
    """What is counted of the answers to one heart, for class ids `classes` on the grid of `frame`.

    volumes_ml: one row (K,) per answer; counts (K, X, Y, Z) u8: in how many answers a voxel is of the class; moved_mm:
    of classes with vertices, sums over the answers with that class of the signed distance of the vertices from its
    surface, and of its square, and the number of these answers."""

    frame: Frame
    classes: Sequence[int]
    vertices_mm: dict[int, np.ndarray] = field(default_factory=dict)
    volumes_ml: list = field(default_factory=list)

    def __post_init__(self):
        self.counts = np.zeros((len(self.classes), *self.frame.shape), np.uint8)
        self._moved = {c: [0, np.zeros(len(v)), np.zeros(len(v))] for c, v in self.vertices_mm.items()}

    def add(self, labels: np.ndarray) -> None:
        """One more answer, its label map (X, Y, Z) u8."""
        voxels = np.bincount(labels.ravel(), minlength=256)
        voxel_ml = float(np.prod(self.frame.spacing_mm)) / 1000
        self.volumes_ml.append([voxels[c] * voxel_ml for c in self.classes])
        for row, c in enumerate(self.classes):
            if not voxels[c]:
                continue
            mine = labels == c
            self.counts[row] += mine
            if c in self._moved:
                away = distance_from_surface(mine, self.frame, self.vertices_mm[c])
                moved = self._moved[c]
                moved[0], moved[1], moved[2] = moved[0] + 1, moved[1] + away, moved[2] + away**2

    def probabilities(self) -> Iterator[tuple[int, np.ndarray]]:
        """(class id, (X, Y, Z) f32 share of the answers in which a voxel is of the class), class by class."""
        for row, c in enumerate(self.classes):
            yield c, self.counts[row] / np.float32(len(self.volumes_ml))

    def volumes(self, one_ml: Sequence[float], factor: float | None = None) -> dict[int, dict[str, float]]:
        """{class id: median, low and high ml}. one_ml: of the one answer, in the order of `classes`; factor: of
        `interval_round`, which low and high then are; None: they are `interval_of` the answers."""
        told = {}
        for c, one, column in zip(self.classes, one_ml, np.array(self.volumes_ml).T):
            low, high = interval_of(column) if factor is None else interval_round(one, column, factor)
            told[c] = {"median_ml": float(np.median(column)), "low_ml": low, "high_ml": high}
        return told

    def spread_mm(self, class_id: int) -> np.ndarray | None:
        """(V,) f32 standard deviation over the answers of how far the class's surface is from each of its vertices, in
        mm; None where fewer than two answers have the class."""
        count, total, squares = self._moved[class_id]
        if count < 2:
            return None
        variance = (squares - total**2 / count) / (count - 1)
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def distance_from_surface(mask: np.ndarray, frame: Frame, points_mm: np.ndarray) -> np.ndarray:
    """(V,) f64 mm, signed distance of points (V, 3) from the surface of a mask (X, Y, Z) bool with voxels, negative
    inside: between voxel centres linear, to half a voxel exact."""
    index = frame.mm_to_voxel(points_mm)
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    margin = np.ceil(SURFACE_MARGIN_MM / frame.spacing_mm).astype(int)
    low = np.minimum([s.start for s in found], np.floor(index.min(0)).astype(int)) - margin
    high = np.maximum([s.stop for s in found], np.ceil(index.max(0)).astype(int) + 1) + margin
    low, high = np.maximum(low, 0), np.minimum(high, mask.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    padded = np.pad(mask[box], 1)  # where the image ends, the structure does
    away = ndimage.distance_transform_edt(~padded, frame.spacing_mm)
    away -= ndimage.distance_transform_edt(padded, frame.spacing_mm)
    # from centre to centre of the voxels on either side, so that the surface between them has +- half a step
    away -= np.sign(away) * frame.spacing_mm.min() / 2
    return ndimage.map_coordinates(away, (index - low + 1).T, order=1, mode="nearest")
