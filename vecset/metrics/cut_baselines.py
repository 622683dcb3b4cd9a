"""What inferring the part of a heart beyond a plane has to beat: the answers of vecset/metrics/completion_baselines.py.

Training hearts are whole, aligned on each other by all structures. A cut heart is laid on them by the surfaces that it
shows, without the lid where it is cut. Beyond the plane its distances are unknown, and so they are near it: only grid
points that lie deeper than `MOST` on the seen side count, where what is beyond cannot be the nearest. Of each cut heart
these are others, so the shape model and the cuts of each structure are found for each heart.
"""

from collections.abc import Callable

import numpy as np

from vecset.imaging.frame import UNIT_RADIUS, middle_and_radius
from vecset.metrics.completion_baselines import (
    DISTANCES,
    MOST,
    NAMES,
    SHARES,
    AlignedHearts,
    Answer,
    CompletionBaselines,
    best_cut,
    dice_at,
)
from vecset.metrics.posterior_shape import fit
from vecset.metrics.seen_heart import SeenHeart, Structures

LID_VOXELS = 1.5  # surface that is this near to the plane is of the lid, or bent by it
STARTS = (1.0, 0.85, 0.7)  # scales that a part of a heart is first tried at: its own frame makes it too large


class CutBaselines:
    """The baselines of one training set for cut hearts of the classes `classes`."""

    def __init__(self, baselines: CompletionBaselines, classes: tuple, progress: Callable = lambda hearts: hearts):
        self.hearts = AlignedHearts(baselines.usable(classes, classes), tuple(classes), (), progress)

    def answer(self, labels: np.ndarray, affine: np.ndarray, normal: np.ndarray, offset_mm: float) -> "CutAnswer":
        """Of the heart with labels (X, Y, Z) u8 and affine (4, 4) voxel -> mm, of which points x (mm) with
        normal . x <= offset_mm are seen."""
        return CutAnswer(self.hearts, labels, affine, normal, offset_mm)


class CutAnswer(Answer):
    """What the baselines say of one cut heart: labels(name) is (X, Y, Z) u8, what is seen as it is, and the baseline's
    map beyond the plane."""

    def __init__(self, hearts: AlignedHearts, labels, affine, normal, offset_mm):
        affine = np.asarray(affine, np.float64)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), -1)
        self.beyond = (index @ affine[:3, :3].T + affine[:3, 3]) @ normal > offset_mm
        seen = np.where(self.beyond | ~np.isin(labels, hearts.classes), 0, labels).astype(np.uint8)
        given = tuple(c for c in hearts.classes if (seen == c).any())
        self.fitted = hearts
        self.seen = SeenHeart(seen, affine, given, tuple(c for c in hearts.classes if c not in given))
        lid_mm = LID_VOXELS * np.linalg.norm(affine[:3, :3], axis=0).max()
        self._place(normal, offset_mm, lid_mm)
        depth = hearts.grid.points() @ self.normal - self.offset
        self._known, self._unknown = depth < -MOST, depth >= -MOST
        distances = self.structures.distances(self.place, hearts.classes, hearts.grid.points(), MOST)
        self._distances = distances[:, self._known].ravel()
        self._thresholds()

    def _place(self, normal, offset_mm, lid_mm):
        """Structures, `place` (4, 4) mm -> aligned, and the plane there."""
        points = {}
        _, radius = middle_and_radius(np.argwhere(self.seen.labels) @ self.seen.affine[:3, :3].T)
        self.structures = Structures.of(self.seen.labels, self.seen.affine, radius)
        for c, vertices in self.structures.vertices_mm.items():
            kept = vertices[vertices @ normal <= offset_mm - lid_mm]
            if len(kept):
                points[c] = kept
        middle, radius = middle_and_radius(np.concatenate(list(points.values())))
        best = None
        for scale in STARTS:
            start = np.diag([scale * UNIT_RADIUS / radius] * 3 + [1.0])
            # the rest of a heart lies beyond the plane, so the middle of the whole is nearer to it
            start[:3, 3] = -start[0, 0] * (middle + (1 / scale - 1) * radius * normal)
            place = self.fitted.template.align_some(start, points, self.fitted.given)
            cost = self.fitted.template.distance(place, points, self.fitted.given)
            if best is None or cost < best[0]:
                best = cost, place
        self.place = best[1]
        linear = self.place[:3, :3]
        scale = np.cbrt(np.linalg.det(linear))
        self.normal = linear @ normal / scale
        self.offset = scale * offset_mm + self.normal @ self.place[:3, 3]

    def _thresholds(self):
        """The shape model, and the cuts with the best mean Dice beyond over training hearts that are left out in
        turn."""
        hearts, classes = self.fitted, self.fitted.classes
        count = len(hearts.hearts)
        seen = np.tile(self._known, len(classes))
        self.model, held_out = fit(hearts.distances.reshape(count, -1), seen, ~seen)
        self.shares = hearts.occupied(hearts.distances).mean(0)
        self.thresholds_share, self.thresholds_distance = {}, {}
        nothing = np.zeros(np.count_nonzero(self._unknown), bool)
        for row, c in enumerate(classes):
            distances = hearts.distances[:, row][:, self._unknown]
            truth, votes = distances < 0, hearts.occupied(distances)
            total = votes.sum(0)
            without = ((total - votes[i]) / (count - 1) for i in range(count))
            scores = [dice_at(-field, truth[i], nothing, -SHARES) for i, field in enumerate(without)]
            self.thresholds_share[c] = float(SHARES[best_cut(scores)[0]])
            fields = (held_out.mean[i].astype(np.float32) @ distances for i in range(count))
            scores = [dice_at(field, truth[i], nothing, DISTANCES) for i, field in enumerate(fields)]
            self.thresholds_distance[c] = float(DISTANCES[best_cut(scores)[0]])

    def nearest(self) -> np.ndarray:
        """Numbers of the training hearts, the one with the most alike seen part first."""
        known = self.fitted.distances[:, :, self._known].reshape(len(self.fitted.hearts), -1)
        return np.argsort([float(((row - self._distances) ** 2).mean()) for row in known], kind="stable")

    def labels(self, name: str) -> np.ndarray:
        """(X, Y, Z) u8 of baseline `name`, one of `NAMES`."""
        if name == "mean_shape":
            found = self._from_scores(-self.shares, self.thresholds_share, -1, True)
        elif name == "nearest_heart":
            found = self._from_heart(self.nearest()[0], True)
        elif name == "posterior_shape":
            found = self._from_scores(self.model.predict(self._distances), self.thresholds_distance, 1, True)
        else:
            raise ValueError(f"{name}: want one of {', '.join(NAMES)}")
        return np.where(self.beyond, found, self.seen.labels).astype(np.uint8)
