"""What a completion has to beat: three answers that know the training hearts, and see what the network sees.

mean_shape       the share of training hearts that have a structure at a point, cut at a threshold per structure
nearest_heart    the training heart whose given structures are most like the given ones (root mean square of distances)
posterior_shape  the posterior mean of a shape model of the signed distances (vecset/metrics/posterior_shape.py), cut at
                 a distance per structure

All three are chosen, aligned and conditioned by the given structures alone (vecset/metrics/seen_heart.py): those of the
training hearts are moved into the same coordinates by the same rule. The grid covers the box that holds every training
heart there, so structures beyond the unit cube of what is seen are inferred too. Thresholds of structures to infer are
those with the best mean Dice over training hearts that are left out in turn; 0.5 and 0 for the given ones.

A training heart is used where it has all given structures and where all structures to infer were annotated. A
structure that it lacks then counts as absent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from vecset.common.draws import draw_rows
from vecset.common.errors import InputError
from vecset.common.memory import require_memory
from vecset.imaging.frame import UNIT_RADIUS
from vecset.imaging.resampling import resample_nearest
from vecset.metrics.baselines import crop_affine, read_truth
from vecset.metrics.posterior_shape import fit
from vecset.metrics.seen_heart import (
    Grid,
    SeenHeart,
    Structures,
    Template,
    frame_matrix,
    frame_of,
    moved,
)

NAMES = ("mean_shape", "nearest_heart", "posterior_shape")
GRID = 48  # points along the longest side of the box of all training hearts
MOST = 0.1  # distances beyond it count as it: far from a structure, how far says little of its shape
TEMPLATE_GRID, TEMPLATE_MOST = 32, 0.3
MARGIN = 0.05  # round the box of all training hearts
ROUNDS = 2  # of aligning the training hearts on their own mean
NEAREST = 10  # training hearts that answers of `nearest_heart` are drawn from
LEAST_HEARTS = 3
SHARES = np.concatenate([np.arange(0.02, 0.1, 0.02), np.arange(0.1, 0.61, 0.05)])
DISTANCES = np.arange(-0.02, 0.121, 0.005)


@dataclass
class _Heart:
    """One training heart: its truth crop, (4, 4) voxel of the crop -> mm, (C,) bool annotated."""

    path: Path
    labels: np.ndarray
    affine: np.ndarray
    annotated: np.ndarray
    structures: Structures


class CompletionBaselines:
    """The baselines of one training set. paths: its case files, with frame and truth; `progress` wraps lists of hearts
    as they are worked on."""

    def __init__(self, paths: Sequence[Path], num_classes: int, progress: Callable = lambda hearts: hearts):
        self.paths, self.num_classes, self.progress = list(paths), num_classes, progress
        self._hearts = self._fitted = None

    def fit(self, given: Sequence[int], hidden: Sequence[int]) -> "FittedBaselines":
        """The baselines for hearts of which the classes `given` are seen and `hidden` are to be inferred. The last one
        is kept. InputError where too few training hearts have what is needed."""
        key = tuple(sorted(set(given))), tuple(sorted(set(hidden)))
        if self._fitted is None or (self._fitted.given, self._fitted.hidden) != key:
            self._fitted = None  # its memory first
            self._fitted = FittedBaselines(self.usable(*key), *key, self.progress)
        return self._fitted

    def read(self) -> list:
        """The training hearts; read once. InputError where one has other classes, no frame or no truth."""
        if self._hearts is None:
            hearts = []
            for path in self.progress(self.paths):
                case = read_truth(path)
                if case.num_classes != self.num_classes:
                    raise InputError(
                        path,
                        f"{self.num_classes} classes",
                        case.num_classes,
                        "give training hearts of the same classes",
                    )
                affine = crop_affine(case)
                labels = np.where(np.append(True, case.annotated)[case.truth_crop], case.truth_crop, 0).astype(np.uint8)
                structures = Structures.of(labels, affine, UNIT_RADIUS / case.frame.scale)
                hearts.append(_Heart(path, labels, affine, case.annotated, structures))
            self._hearts = hearts
        return self._hearts

    def usable(self, given: Sequence[int], hidden: Sequence[int]) -> list:
        """The training hearts that have all of `given` and were annotated for all of `hidden`."""
        hearts = [
            heart
            for heart in self.read()
            if set(given) <= set(heart.structures.fields) and heart.annotated[np.array(hidden) - 1].all()
        ]
        if len(hearts) < LEAST_HEARTS:
            raise InputError.because(
                "baselines",
                f"{len(hearts)} of {len(self.paths)} training hearts have the given classes "
                f"{', '.join(map(str, given))} and annotations of {', '.join(map(str, hidden))}, "
                f"at least {LEAST_HEARTS} are needed",
                "give other classes or other training hearts",
            )
        return hearts


class AlignedHearts:
    """Training hearts, aligned by their given structures, and their distances to all structures on one grid.

    given, hidden: class ids; hearts: the training hearts used; grid: `Grid` in `aligned`; template: what hearts are
    aligned on; places: of each heart the (4, 4) mm -> aligned; distances (T, classes, P) f32."""

    def __init__(self, hearts: list, given: tuple, hidden: tuple, progress: Callable = lambda hearts: hearts):
        self.hearts, self.given, self.hidden = hearts, given, hidden
        self.classes = given + hidden
        self._align_all(progress)
        self._measure(progress)

    @property
    def grid_size(self) -> int:
        return int(np.prod(self.grid.shape))

    def occupied(self, distances: np.ndarray) -> np.ndarray:
        """The part of a cell round each grid point that is inside, from its distance."""
        return np.clip(0.5 - distances / self.grid.step, 0, 1)

    def aligned(self, start: np.ndarray, structures: Structures) -> np.ndarray:
        """(4, 4) mm -> aligned, of the heart that `start` moves into the frame of its given structures."""
        return self.template.align(start, [structures.vertices_mm[c] for c in self.given])

    def _align_all(self, progress):
        keep = np.zeros(256, np.uint8)
        keep[list(self.given)] = self.given
        starts = places = [frame_matrix(frame_of(keep[h.labels], h.affine)) for h in progress(self.hearts)]
        for _ in range(ROUNDS):
            low, high = self._box(places, self.given)
            grid = Grid.over(low - TEMPLATE_MOST, high + TEMPLATE_MOST, TEMPLATE_GRID)
            points = grid.points()
            total = np.zeros((len(self.given), len(points)))
            for heart, place in zip(self.hearts, places):
                total += heart.structures.distances(place, self.given, points, TEMPLATE_MOST)
            mean = (total / len(self.hearts)).astype(np.float32).reshape(len(self.given), *grid.shape)
            self.template = Template(grid, mean)
            places = [self.aligned(start, h.structures) for h, start in zip(progress(self.hearts), starts)]
        self.places = places

    def _box(self, places, classes):
        boxes = [
            (moved_vertices.min(0), moved_vertices.max(0))
            for heart, place in zip(self.hearts, places)
            for c in classes
            if c in heart.structures.vertices_mm
            for moved_vertices in [moved(place, heart.structures.vertices_mm[c])]
        ]
        return np.min([low for low, _ in boxes], 0), np.max([high for _, high in boxes], 0)

    def _measure(self, progress):
        """distances (T, classes, P) f32 at the points of `grid`."""
        low, high = self._box(self.places, self.classes)
        self.grid = Grid.over(low - MARGIN, high + MARGIN, GRID)
        size = len(self.hearts) * len(self.classes) * self.grid_size * 4
        # besides: the share of each cell that is inside, for the mean shape
        require_memory("baselines", 3 * size, "a posterior shape model", "give fewer training hearts")
        points = self.grid.points()
        self.distances = np.empty((len(self.hearts), len(self.classes), len(points)), np.float32)
        for row, heart, place in zip(self.distances, progress(self.hearts), self.places):
            row[:] = heart.structures.distances(place, self.classes, points, MOST)


class FittedBaselines(AlignedHearts):
    """The baselines for one choice of given and hidden classes.

    thresholds_share, thresholds_distance: {class: cut}; model: the PosteriorShape; training_dice: {hidden class: mean
    Dice of mean_shape and posterior_shape over training hearts that are left out in turn, on the grid}."""

    def __init__(self, hearts: list, given: tuple, hidden: tuple, progress: Callable = lambda hearts: hearts):
        super().__init__(hearts, given, hidden, progress)
        shape = (len(hearts), len(self.classes), -1)
        flat = self.distances.reshape(len(hearts), -1)
        ends = len(given) * self.grid_size
        self._seen, self._unseen = slice(0, ends), slice(ends, None)
        self.model, held_out = fit(flat, self._seen, self._unseen)
        occupied = self.occupied(self.distances)
        self.shares = occupied.mean(0)
        self._choose_thresholds(flat.reshape(shape), occupied, held_out)

    def answer(self, seen: SeenHeart) -> "Answer":
        """The answers for one heart. ValueError where it sees other classes than these baselines are for."""
        if (seen.given, seen.hidden) != (self.given, self.hidden):
            raise ValueError(f"given {seen.given}, hidden {seen.hidden}: these are for {self.given}, {self.hidden}")
        return Answer(self, seen)

    def _choose_thresholds(self, distances, occupied, held_out):
        n, first = len(self.hearts), len(self.given)
        known = (distances[:, :first] < 0).any(1)
        self.thresholds_share = dict.fromkeys(self.given, 0.5)
        self.thresholds_distance = dict.fromkeys(self.given, 0.0)
        self.sample_thresholds = dict.fromkeys(self.given, 0.0)
        self.training_dice = {}
        for row, c in enumerate(self.hidden, first):
            truth = (distances[:, row] < 0) & ~known
            votes, total = occupied[:, row], occupied[:, row].sum(0)
            without = ((total - votes[i]) / (n - 1) for i in range(n))
            scores = [dice_at(-field, truth[i], known[i], -SHARES) for i, field in enumerate(without)]
            cut, mean_shape_dice = best_cut(scores)
            self.thresholds_share[c] = float(SHARES[cut])
            fields = (held_out.mean[i].astype(np.float32) @ distances[:, row] for i in range(n))
            scores = [dice_at(field, truth[i], known[i], DISTANCES) for i, field in enumerate(fields)]
            cut, posterior_dice = best_cut(scores)
            self.thresholds_distance[c] = float(DISTANCES[cut])
            self.training_dice[c] = mean_shape_dice, posterior_dice
            self.sample_thresholds[c] = self._unbiased_threshold(distances[:, row], truth, known, held_out)

    @staticmethod
    def _unbiased_threshold(distances, truth, known, held_out):
        """The cut at which one draw for each training heart, made without it, has the right volume on average."""
        rng = np.random.default_rng(0)
        volumes = np.zeros(len(DISTANCES))
        for i in range(len(distances)):
            z = rng.standard_normal(held_out.deviations[i].shape[1])
            field = (held_out.mean[i] + held_out.deviations[i] @ z).astype(np.float32) @ distances
            volumes += [np.count_nonzero(field[~known[i]] < cut) for cut in DISTANCES]
        return float(DISTANCES[np.abs(volumes - truth.sum()).argmin()])


def dice_at(field, truth, known, cuts):
    """Dice of {field < cut} outside `known` with `truth`, at each of `cuts`; NaN where neither has a point."""
    inside, ours = np.sort(field[truth]), np.sort(field[~known])
    overlap, sizes = (np.searchsorted(values, cuts, side="left") for values in (inside, ours))
    with np.errstate(invalid="ignore"):
        return 2 * overlap / (sizes + len(inside))


def best_cut(scores):
    """The number of the cut with the best mean over hearts, and that mean."""
    table = np.array(scores)
    defined = ~np.isnan(table)
    means = np.where(defined, table, 0).sum(0) / np.maximum(defined.sum(0), 1)
    return int(means.argmax()), float(means.max())


class Answer:
    """What the baselines say of one heart. `place` (4, 4): mm -> aligned."""

    def __init__(self, fitted: FittedBaselines, seen: SeenHeart):
        self.fitted, self.seen = fitted, seen
        frame = frame_of(seen.labels, seen.affine)
        structures = Structures.of(seen.labels, seen.affine, UNIT_RADIUS / frame.scale)
        self.place = fitted.aligned(frame_matrix(frame), structures)
        self._distances = structures.distances(self.place, fitted.given, fitted.grid.points(), MOST).ravel()

    def nearest(self) -> np.ndarray:
        """Numbers of the training hearts, the one with the most alike given structures first."""
        given = self.fitted.distances[:, : len(self.fitted.given)].reshape(len(self.fitted.hearts), -1)
        return np.argsort([float(((row - self._distances) ** 2).mean()) for row in given], kind="stable")

    def labels(self, name: str, whole: bool = False, every: int = 1) -> np.ndarray:
        """(X, Y, Z) u8 on the heart's own grid, or on every n-th voxel of it along each axis, from the first on: the
        one answer of baseline `name`, one of `NAMES`. The given structures are as given, and the others are inferred
        around them; whole: the baseline's own given structures, too."""
        fitted = self.fitted
        if name == "mean_shape":
            return self._from_scores(-fitted.shares, fitted.thresholds_share, -1, whole, every)
        if name == "nearest_heart":
            return self._from_heart(self.nearest()[0], whole, every)
        if name == "posterior_shape":
            shape = fitted.model.predict(self._distances)
            return self._from_scores(shape, fitted.thresholds_distance, 1, whole, every)
        raise ValueError(f"{name}: want one of {', '.join(NAMES)}")

    def samples(
        self, name: str, n: int, rng: np.random.Generator, whole: bool = False, every: int = 1
    ) -> Iterator[np.ndarray]:
        """n answers as `labels` gives one, in the order drawn: of mean_shape a training heart, of nearest_heart one of
        the `NEAREST` nearest (none twice where there are enough), of posterior_shape a draw from the posterior, cut
        where draws for training hearts have the right volume."""
        fitted = self.fitted
        if name == "posterior_shape":
            for shape in fitted.model.samples(self._distances, n, rng):
                yield self._from_scores(shape, fitted.sample_thresholds, 1, whole, every)
            return
        if name not in NAMES:
            raise ValueError(f"{name}: want one of {', '.join(NAMES)}")
        order = self.nearest()
        some = order[:NEAREST] if name == "nearest_heart" else np.sort(order)
        for row in rng.permutation(some[draw_rows(rng, len(some), n)]):
            yield self._from_heart(row, whole, every)

    def _grid(self, every):
        """The labels that are seen and the affine, of every n-th voxel."""
        return self.seen.labels[::every, ::every, ::every], self.seen.affine @ np.diag([every, every, every, 1.0])

    def _from_heart(self, row, whole, every=1):
        heart, (seen, affine) = self.fitted.hearts[row], self._grid(every)
        to_heart = np.linalg.inv(heart.affine) @ np.linalg.inv(self.fitted.places[row]) @ self.place @ affine
        keep = np.zeros(256, np.uint8)
        keep[list(self.fitted.hidden)] = self.fitted.hidden
        if whole:
            keep[list(self.fitted.given)] = self.fitted.given
        found = keep[resample_nearest(heart.labels, to_heart, seen.shape)]
        return found if whole else np.where(seen > 0, seen, found)

    def _from_scores(self, scores, thresholds, sign, whole, every=1):
        """The class with the lowest score less its cut, where that is below 0; scores (classes * P,) or (classes, P)
        on the grid, interpolated. sign: of the thresholds."""
        fitted, (seen, affine) = self.fitted, self._grid(every)
        scores = np.asarray(scores).reshape(len(fitted.classes), *fitted.grid.shape)
        best = np.zeros(seen.shape, np.float32)
        found = np.zeros(seen.shape, np.uint8)
        to_aligned = self.place @ affine
        first = 0 if whole else len(fitted.given)
        for c, field in zip(fitted.classes[first:], scores[first:]):
            self._put(c, field - np.float32(sign * thresholds[c]), to_aligned, best, found)
        return found if whole else np.where(seen > 0, seen, found)

    def _put(self, c, field, to_aligned, best, found):
        """Writes class c into `found` where its field (on the grid) is below `best`."""
        inside = np.argwhere(field < 0)
        if not len(inside):
            return
        grid = self.fitted.grid
        low, high = inside.min(0) - 1, inside.max(0) + 1  # beyond the cells of these points it is not below 0
        corners = grid.low + grid.step * np.array([[(low, high)[b >> a & 1][a] for a in range(3)] for b in range(8)])
        voxels = moved(np.linalg.inv(to_aligned), corners)
        start = np.maximum(np.floor(voxels.min(0)), 0).astype(int)
        stop = np.minimum(np.ceil(voxels.max(0)).astype(int) + 1, found.shape)
        if (stop <= start).any():
            return
        to_grid = np.diag([1 / grid.step] * 3 + [1.0])
        to_grid[:3, 3] = -grid.low / grid.step
        matrix = to_grid @ to_aligned
        values = ndimage.affine_transform(
            field,
            matrix[:3, :3],
            matrix[:3, :3] @ start + matrix[:3, 3],
            tuple(stop - start),
            order=1,
            mode="constant",
            cval=1.0,
            output=np.float32,
        )
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        better = values < best[box]
        best[box][better] = values[better]
        found[box][better] = c
