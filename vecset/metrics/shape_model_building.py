"""The linear shape model of a set of training hearts (vecset/models/shape_model.py says what it is).

Hearts are laid on each other by turn, shift and scale, by the surfaces of all structures that they have, twice on their
own mean. Each structure's signed distances are then taken on a grid round all of its occurrences. Modes are principal
components of all structures' distances together, times their standard deviations.

A heart may lack structures, or not all may have been annotated: nobody has all structures in all hearts. Their
distances are filled in from those that it has, by the model itself, until that no longer changes them: expectation
maximisation for principal components with values missing (Roweis 1998; Tipping and Bishop 1999).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.workers import map_files
from vecset.data.listed_case import ListedCase, read_as_listed
from vecset.imaging.frame import UNIT_RADIUS
from vecset.metrics.baselines import crop_affine, read_truth
from vecset.metrics.seen_heart import Grid, Structures, Template, frame_matrix, frame_of, moved
from vecset.models.shape_model import CLIP

VERSION = 1  # of the method: models of another one are made again
STEP = 0.05  # of the grids, unit
TEMPLATE_STEPS, TEMPLATE_MOST = 32, 0.3  # points along the longest side of the grid that hearts are laid on; its reach
ROUNDS = 2
TEMPLATE_POINTS = 1024  # per structure
LEAST_HEARTS = 3
FILLINGS = 10  # at most, of what a heart lacks
FILLED = 1e-3  # unit: where no distance that is filled in changes by more, it is done


class TrainingHeart:
    """A training heart: its structures, those that it shows (C,), and mm -> the frame of all that it shows."""

    def __init__(self, source: Path | ListedCase, num_classes: int):
        case = read_truth(source)
        path = case.path
        if case.num_classes != num_classes:
            raise InputError(path, f"{num_classes} classes", case.num_classes, "give training hearts of one kind")
        self.source, affine = source, crop_affine(case)
        labels = np.where(np.append(True, case.annotated)[case.truth_crop], case.truth_crop, 0).astype(np.uint8)
        if not labels.any():
            raise InputError.because(path, "none of its annotated structures has a voxel", "leave it out")
        self.structures = Structures.of(labels, affine, UNIT_RADIUS / case.frame.scale)
        self.start = frame_matrix(frame_of(labels, affine))

    @property
    def classes(self) -> tuple:
        return tuple(sorted(self.structures.fields))


def build_shape_model(
    sources: Sequence[Path | ListedCase],
    num_classes: int,
    modes: int,
    file_workers: int = 1,
    progress: Callable = lambda hearts: hearts,
    step: float = STEP,
) -> dict[str, np.ndarray]:
    """The arrays of a `ShapeModel` by its buffers' names, from case files with frame and truth (`read_as_listed`). At
    most one mode fewer than there are hearts. file_workers: processes that read them; 1: this one; `progress` wraps
    lists of hearts as they are worked on afterwards; `step`: between the points of the grids (unit). InputError for
    fewer than LEAST_HEARTS, and for a file that cannot be used."""
    if len(sources) < LEAST_HEARTS:
        raise InputError("a shape model", f"at least {LEAST_HEARTS} training hearts", len(sources), "give more")
    read = partial(TrainingHeart, num_classes=num_classes)
    workers = 0 if file_workers == 1 else file_workers
    hearts = list(map_files(read, list(sources), workers, _killed, desc="hearts", unit="heart").values())
    places = _laid_on_each_other(hearts, progress)
    grids = grids_round(hearts, places, num_classes, step)
    ends = np.cumsum([0] + [int(np.prod(grid.shape)) for grid in grids])
    values = np.full((len(hearts), ends[-1]), np.nan, np.float32)
    for row, heart, place in zip(values, progress(hearts), places):
        for c in heart.classes:
            row[ends[c - 1] : ends[c]] = heart.structures.distances(place, [c], grids[c - 1].points(), CLIP)[0]
    mean, found, weights = principal_components(values, min(modes, len(hearts) - 1))
    return {
        "table_VK": np.column_stack([mean, found.T]).astype(np.float16),
        "first_C": ends[:-1].astype(np.int64),
        "cells_C3": np.array([grid.shape for grid in grids], np.int64),
        "low_C3": np.array([grid.low for grid in grids], np.float32),
        "step": np.float32(step),
        "template_CT3": template_of(hearts, places, weights, num_classes, TEMPLATE_POINTS),
        "known_C": np.isin(np.arange(1, num_classes + 1), [c for heart in hearts for c in heart.classes]),
    }


def _killed(source):
    path = getattr(source, "path", source)
    raise InputError.because(path, "the process that read it was killed (out of memory?)", "use fewer --file_workers")


def _laid_on_each_other(hearts, progress):
    """(4, 4) mm -> model of each heart."""
    classes = tuple(sorted({c for heart in hearts for c in heart.classes}))
    places = [heart.start for heart in hearts]
    for _ in range(ROUNDS):
        ends = [
            (at.min(0), at.max(0))
            for heart, place in zip(hearts, places)
            for at in (moved(place, vertices) for vertices in heart.structures.vertices_mm.values())
        ]
        low, high = np.min([low for low, _ in ends], 0), np.max([high for _, high in ends], 0)
        grid = Grid.over(low - TEMPLATE_MOST, high + TEMPLATE_MOST, TEMPLATE_STEPS)
        points = grid.points()
        totals, counts = np.zeros((len(classes), len(points))), np.zeros(len(classes))
        for heart, place in zip(hearts, places):
            rows = [classes.index(c) for c in heart.classes]
            totals[rows] += heart.structures.distances(place, heart.classes, points, TEMPLATE_MOST)
            counts[rows] += 1
        mean = (totals / counts[:, None]).astype(np.float32).reshape(len(classes), *grid.shape)
        template = Template(grid, mean)
        places = [
            template.align_some(heart.start, {c: heart.structures.vertices_mm[c] for c in heart.classes}, classes)
            for heart in progress(hearts)
        ]
    return places


def grids_round(hearts, places, num_classes, step=STEP):
    """Of each structure, a Grid of points `step` apart (unit) round it in all hearts; of one that no heart has, of
    eight points."""
    grids = []
    for c in range(1, num_classes + 1):
        found = [moved(p, h.structures.vertices_mm[c]) for h, p in zip(hearts, places) if c in h.classes]
        if not found:
            grids.append(Grid(np.zeros(3), step, (2, 2, 2)))
            continue
        low, high = np.min([at.min(0) for at in found], 0) - CLIP, np.max([at.max(0) for at in found], 0) + CLIP
        grids.append(Grid(low, step, tuple(int(n) for n in np.ceil((high - low) / step) + 1)))
    return grids


def principal_components(values: np.ndarray, modes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (F,), principal components times their standard deviations (modes, F), and the weights of each of n shapes
    (n, modes), of `values` (n, F) f32, in which NaN is missing. A column that is missing in all shapes is CLIP."""
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):
        total, count = np.where(missing, 0, values).sum(0, dtype=np.float64), (~missing).sum(0)
    average = np.where(count > 0, total / np.maximum(count, 1), CLIP).astype(np.float32)
    filled = np.where(missing, average, values)
    lacking = np.flatnonzero(missing.any(1))
    for _ in range(FILLINGS if len(lacking) else 1):
        mean, components, weights, noise = _components(filled, modes)
        change = 0.0
        for i in lacking:
            there = ~missing[i]
            seen = components[:, there].astype(np.float64)
            a = np.linalg.solve(seen @ seen.T + noise * np.eye(modes), seen @ (values[i, there] - mean[there]))
            fill = (mean[~there] + a.astype(np.float32) @ components[:, ~there]).clip(-CLIP, CLIP)
            change = max(change, float(np.abs(fill - filled[i, ~there]).max()))
            filled[i, ~there], weights[i] = fill, a
        if change < FILLED:
            break
    return mean, components, weights


def _components(values, modes):
    """(mean, components, weights, variance per number that the components leave) of values (n, F) without gaps."""
    n = len(values)
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    away = values - mean
    products = away @ away.T
    sizes, vectors = np.linalg.eigh(products.astype(np.float64))
    sizes, vectors = sizes[::-1][:modes].clip(0), vectors[:, ::-1][:, :modes]
    left = max(float(np.trace(products)) - float(sizes.sum()), 1e-12) / (n * values.shape[1])
    components = (vectors / np.sqrt(n - 1)).T.astype(np.float32) @ away
    return mean, components, vectors * np.sqrt(n - 1), left


def template_of(hearts, places, weights, num_classes, count):
    """(C, count, 3) f16: points on each structure's surface, of the heart with that structure whose weights
    are the least; of one heart for all that it has. 0 for a structure that no heart has."""
    order = np.argsort((weights**2).sum(1), kind="stable")
    order = sorted(order, key=lambda i: -len(hearts[i].classes))  # stable: those with all structures first
    points, rng = np.zeros((num_classes, count, 3), np.float16), np.random.default_rng(0)
    for c in range(1, num_classes + 1):
        chosen = next((i for i in order if c in hearts[i].classes), None)
        if chosen is None:
            continue
        case = read_as_listed(hearts[chosen].source, ("frame", "surface_points", "surface_labels"))
        rows = np.flatnonzero(case.surface_labels == c)
        if not len(rows):  # a structure of which the sampling has no point
            at = hearts[chosen].structures.vertices_mm[c]
        else:
            at = case.frame.unit_to_mm(case.surface_points[rows].astype(np.float64))
        at = moved(places[chosen], at)
        points[c - 1] = at[rng.choice(len(at), count, replace=len(at) < count)]
    return points
