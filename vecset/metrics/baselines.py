"""What a reconstruction has to beat: the training set's mean shape, and the training heart that is nearest.

mean shape     at each point of the unit cube, the label (background included) that most training hearts have there
nearest heart  for each heart, the training heart with the best mean Dice to it: chosen with the truth at hand, so an
               upper bound of what looking up a training heart could give

Both are looked up in the heart's own frame, so they know its centre and size, and are scored on its own source grid.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.data.case_file import Case
from vecset.data.listed_case import ListedCase, read_as_listed
from vecset.imaging.resampling import resample_nearest
from vecset.metrics.overlap import mean_over_classes, score

SEARCH_GRID = 64  # per axis, over the unit cube
MEAN_GRID = 128
_CANDIDATES = 3  # nearest ones on the search grid; the best of them on the source grid counts
_VOXELS_AT_ONCE = 1 << 16


@dataclass
class TrainingTruths:
    """Truths of the training hearts on regular grids over the unit cube.

    paths: T case files; search (T, SEARCH_GRID^3) u8; mean_labels (MEAN_GRID^3,) u8, z fastest; num_classes."""

    paths: list
    search: np.ndarray
    mean_labels: np.ndarray
    num_classes: int
    sizes: np.ndarray = field(init=False, repr=False)  # (T, C + 1) search grid points per label

    def __post_init__(self):
        self.sizes = np.array([np.bincount(row, minlength=self.num_classes + 1) for row in self.search])


def fingerprint(paths: Sequence[Path]) -> str:
    """Changes when another training heart would be looked at: names, sizes and times of the files."""
    text = "\n".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in sorted(paths))
    return hashlib.sha256(text.encode()).hexdigest()


def read_truths(
    paths: Sequence[Path], num_classes: int, progress: Callable = lambda iterable: iterable
) -> TrainingTruths:
    """Reads the truths of case files into `TrainingTruths`. InputError where a case has no frame or no truth."""
    search = np.empty((len(paths), SEARCH_GRID**3), np.uint8)
    counts = np.zeros((num_classes + 1, MEAN_GRID**3), np.uint16)
    points = np.arange(MEAN_GRID**3)
    for row, path in enumerate(progress(paths)):
        case = read_truth(path)
        if case.num_classes != num_classes:
            raise InputError(path, f"{num_classes} classes", case.num_classes, "give a --train_csv of the same classes")
        counts[_on_unit_grid(case, MEAN_GRID), points] += 1
        search[row] = _on_unit_grid(case, SEARCH_GRID)
    return TrainingTruths(list(paths), search, counts.argmax(0).astype(np.uint8), num_classes)


def read_truth(source: Path | ListedCase) -> Case:
    """The `Case` with frame and truth alone, of a file, or as it is listed (`read_as_listed`)."""
    return read_as_listed(source, ("frame", "truth")).require(
        "frame", "truth_crop", "truth_origin", purpose="the baselines"
    )


def baseline_scores(truths: TrainingTruths, case: Case, class_names: Sequence[str]) -> dict:
    """{"mean_shape": rows, "nearest_heart": rows, "nearest_heart_file": name} for one `Case` with frame and truth;
    rows as `vecset.metrics.overlap.score` gives them, over the part of the source grid that lies in the unit cube."""
    to_unit, truth = _source_box(case)
    mean_grid = truths.mean_labels.reshape((MEAN_GRID,) * 3)
    mean_shape = resample_nearest(mean_grid, np.linalg.inv(_grid_to_unit(MEAN_GRID)) @ to_unit, truth.shape)
    result = {"mean_shape": score(truth, mean_shape, class_names, case.annotated)}
    closeness = _mean_dice(truths, _on_unit_grid(case, SEARCH_GRID), np.flatnonzero(case.annotated) + 1)
    best = -1.0
    for row in np.argsort(-closeness, kind="stable")[:_CANDIDATES]:
        other = read_truth(truths.paths[row])
        prediction = resample_nearest(other.truth_crop, np.linalg.inv(_crop_to_unit(other)) @ to_unit, truth.shape)
        rows = score(truth, prediction, class_names, case.annotated)
        value = mean_over_classes(rows) or 0.0
        if value > best:
            best = value
            result.update(nearest_heart=rows, nearest_heart_file=other.path.name)
    return result


class Baselines:
    """The baselines of one training set, whose truths are read when they are first needed (or by `read`).

    paths: the training hearts' case files; `fingerprint`: changes with them; `progress` wraps the list as it is
    read."""

    def __init__(self, paths: Sequence[Path], num_classes: int, progress: Callable = lambda paths: paths):
        self.paths, self.num_classes, self.progress = list(paths), num_classes, progress
        self.fingerprint = fingerprint(self.paths)
        self._truths = None

    def read(self) -> TrainingTruths:
        """The training truths; read once."""
        if self._truths is None:
            self._truths = read_truths(self.paths, self.num_classes, self.progress)
        return self._truths

    def scores(self, case: Case, class_names: Sequence[str]) -> dict:
        """As `baseline_scores`."""
        return baseline_scores(self.read(), case, class_names)


def _grid_to_unit(size):
    """(4, 4): index of a regular grid of cell centres over the unit cube -> unit."""
    matrix = np.diag([2 / size] * 3 + [1.0])
    matrix[:3, 3] = 1 / size - 1
    return matrix


def crop_affine(case: Case) -> np.ndarray:
    """(4, 4): voxel of the truth crop -> mm."""
    affine = np.array(case.frame.affine)
    affine[:3, 3] = case.frame.voxel_to_mm(np.asarray(case.truth_origin, np.float64))
    return affine


def _crop_to_unit(case):
    """(4, 4): voxel of the truth crop -> unit."""
    matrix, frame = crop_affine(case), case.frame
    matrix[:3, :3] *= frame.scale
    matrix[:3, 3] = frame.mm_to_unit(matrix[:3, 3])
    return matrix


def _source_box(case):
    """The source voxels that can lie in the unit cube: (4, 4) index in that box -> unit, and the truth there."""
    corners_unit = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    corners = case.frame.unit_to_voxel(corners_unit)
    low = np.maximum(np.ceil(corners.min(0)), 0).astype(int)
    high = np.minimum(np.floor(corners.max(0)), np.array(case.frame.shape) - 1).astype(int) + 1
    origin = np.asarray(case.truth_origin, int)
    low, high = np.minimum(low, origin), np.maximum(high, origin + case.truth_crop.shape)
    truth = np.zeros(high - low, np.uint8)
    truth[tuple(slice(o, o + n) for o, n in zip(origin - low, case.truth_crop.shape))] = case.truth_crop
    matrix = _crop_to_unit(case)
    matrix[:3, 3] = case.frame.voxel_to_unit(low.astype(np.float64))
    return matrix, truth


def _on_unit_grid(case, size):
    """(size^3,) u8: the truth at the cell centres of a regular grid over the unit cube."""
    return resample_nearest(
        case.truth_crop, np.linalg.inv(_crop_to_unit(case)) @ _grid_to_unit(size), (size,) * 3
    ).ravel()


def _mean_dice(truths, labels, class_ids):
    """(T,) mean Dice of `labels` (P,) u8 with each training heart on the search grid, over the classes in either."""
    overlap, defined = np.zeros(len(truths.paths)), np.zeros(len(truths.paths))
    in_both = np.zeros((len(class_ids), len(truths.paths)))
    where = np.flatnonzero(labels)
    for start in range(0, len(where), _VOXELS_AT_ONCE):
        part = where[start : start + _VOXELS_AT_ONCE]
        here, there = labels[part], truths.search[:, part]
        same = np.where(there == here, here, 0)
        for k, c in enumerate(class_ids):
            in_both[k] += np.count_nonzero(same == c, axis=1)
    for k, c in enumerate(class_ids):
        both_sizes = truths.sizes[:, c] + np.count_nonzero(labels == c)
        counts = both_sizes > 0
        overlap += np.where(counts, 2 * in_both[k] / np.maximum(both_sizes, 1), 0)
        defined += counts
    return overlap / np.maximum(defined, 1)
