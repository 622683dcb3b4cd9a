"""A shape model for more structures than it was made for, that stays what it was for its own.

A network learns what the proposals of its shape model are worth. Another model, made of other hearts, has other modes,
and what was learned of them is lost. So mean and modes of the known structures stay. Each training heart that has new
ones is fitted by its known structures, as every heart is (`ShapeModel.fit`), and the distances to its new structures
are regressed on the weights of that fit: ridge regression, as hard as the error on hearts left out one by one is least.
What the weights leave of the new structures gets modes of its own, which are zero for the known ones. A heart of which
the known structures are seen has the same fit as before, to the last bits or so.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vecset.common.errors import InputError
from vecset.data.listed_case import ListedCase, read_as_listed
from vecset.data.shape_model_file import shape_model_of
from vecset.metrics.seen_heart import frame_matrix
from vecset.metrics.shape_model_building import (
    LEAST_HEARTS,
    TrainingHeart,
    grids_round,
    principal_components,
    template_of,
)
from vecset.models.shape_model import CLIP

FIT_POINTS = 4096  # of a heart's known structures
PENALTIES = 10.0 ** np.arange(-2, 5)  # of the regression, in squared weights, of which a heart has about one per mode


def widen_shape_model(
    sources: Sequence[ListedCase],
    arrays: dict[str, np.ndarray],
    names: Sequence[str],
    class_names: Sequence[str],
    modes: int,
    progress: Callable = lambda hearts: hearts,
    where: object = "--widen",
) -> tuple[dict[str, np.ndarray], list[ListedCase]]:
    """(arrays of a `ShapeModel` for the classes `class_names`, the hearts that it learned from). arrays, names: the
    model that is widened, as of `read_shape_model`; sources: training hearts `with_others`, of which those are used
    that have a new structure; modes: at most so many are added; `progress` wraps the list of hearts as
    they are worked on; where: names the model in messages. InputError where a structure is lost or none is new, and for
    fewer than LEAST_HEARTS."""
    lost = [name for name in names if name not in class_names]
    if lost:
        raise InputError.because(
            where,
            f"the cases of --csv do not have its structures {', '.join(lost[:4])}",
            "give cases with all of its structures to --csv",
        )
    old_C = np.isin(class_names, names)
    if old_C.all():
        raise InputError.because(where, "the cases of --csv have no structure that it lacks", "use it as it is")
    old = _among(arrays, [list(class_names).index(name) for name in names], len(class_names))
    model = shape_model_of(old)
    new = np.flatnonzero(~old_C) + 1
    hearts, places, weights, used = [], [], [], []
    for source in progress(with_others(sources, names)):
        heart = TrainingHeart(source, len(class_names))
        if np.isin(new, heart.classes).any():
            place, fitted = _fit(model, source)
            for found, one in zip((hearts, places, weights, used), (heart, place, fitted, source)):
                found.append(one)
    if len(hearts) < LEAST_HEARTS:
        what = f"at least {LEAST_HEARTS} hearts in --csv with structures that it lacks"
        raise InputError(where, what, len(hearts), "give more")
    weights = np.array(weights)

    grids = grids_round(hearts, places, len(class_names), float(arrays["step"]))
    tables, left = {}, []
    for c in new:
        values = np.full((len(hearts), np.prod(grids[c - 1].shape)), np.nan, np.float32)
        for row, heart, place in zip(values, hearts, places):
            if c in heart.classes:
                row[:] = heart.structures.distances(place, [c], grids[c - 1].points(), CLIP)[0]
        mean, loadings, remains = regressed(values, weights)
        tables[c] = np.column_stack([mean, loadings.T])
        left.append(remains)
    _, own, _ = principal_components(np.concatenate(left, 1), min(modes, len(hearts) - 1))
    ends = np.cumsum([part.shape[1] for part in left])[:-1]
    for c, part in zip(new, np.split(own, ends, 1)):
        tables[c] = np.column_stack([tables[c], part.T])
        old["cells_C3"][c - 1], old["low_C3"][c - 1] = grids[c - 1].shape, grids[c - 1].low
    for c in np.flatnonzero(old_C) + 1:
        rows = old["table_VK"][old["first_C"][c - 1] :][: old["cells_C3"][c - 1].prod()]
        tables[c] = np.pad(rows, ((0, 0), (0, len(own))))
    template = template_of(hearts, places, weights, len(class_names), old["template_CT3"].shape[1])
    sizes = old["cells_C3"].prod(1)
    return old | {
        "table_VK": np.concatenate([tables[c] for c in sorted(tables)]).astype(np.float16),
        "first_C": np.cumsum(sizes) - sizes,
        "template_CT3": np.where(old_C[:, None, None], old["template_CT3"], template),
        "known_C": old["known_C"] | np.isin(np.arange(1, len(old_C) + 1), new) & _shown(hearts, len(old_C)),
    }, used


def known_part(arrays: dict[str, np.ndarray], names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """(arrays, names) of a model without the structures that no heart of its training has: these can be added."""
    known = np.flatnonzero(arrays["known_C"])
    sizes = arrays["cells_C3"].prod(1)
    rows = [arrays["table_VK"][first : first + n] for first, n in zip(arrays["first_C"][known], sizes[known])]
    found = {name: arrays[name][known] for name in ("cells_C3", "low_C3", "template_CT3", "known_C")}
    sizes = sizes[known]
    table = {"table_VK": np.concatenate(rows), "first_C": np.cumsum(sizes) - sizes, "step": arrays["step"]}
    return found | table, [names[c] for c in known]


def with_others(cases: Sequence[ListedCase], names: Sequence[str]) -> list[ListedCase]:
    """The cases in which a structure was looked for that is none of `names`."""
    return [case for case in cases if any(np.array(case.annotated) & ~np.isin(case.class_names, names))]


def _shown(hearts, num_classes):
    """(C,) bool: the classes that a heart shows."""
    return np.isin(np.arange(1, num_classes + 1), [c for heart in hearts for c in heart.classes])


def _among(arrays, places, num_classes):
    """The arrays of a model with its classes at `places` (from 0) among so many; the others are not known."""
    sizes = arrays["cells_C3"].prod(1)
    rows = {place: arrays["table_VK"][first : first + n] for place, first, n in zip(places, arrays["first_C"], sizes)}
    nothing = np.full((8, arrays["table_VK"].shape[1]), CLIP, np.float16)
    found = {
        "cells_C3": np.full((num_classes, 3), 2),
        "low_C3": np.zeros((num_classes, 3), np.float32),
        "template_CT3": np.zeros((num_classes, *arrays["template_CT3"].shape[1:]), np.float16),
        "known_C": np.zeros(num_classes, bool),
    }
    for name, value in found.items():
        value[places] = arrays[name]
    sizes = found["cells_C3"].prod(1)
    table = np.concatenate([rows.get(c, nothing) for c in range(num_classes)])
    return found | {"table_VK": table, "first_C": np.cumsum(sizes) - sizes, "step": arrays["step"]}


def _fit(model, source):
    """(4, 4) mm -> model, and the weights (K,), of the fit to what it knows of a heart."""
    case = read_as_listed(source, ("frame", "surface_points", "surface_labels"))
    known = np.flatnonzero(np.append(False, model.known_C.numpy())[case.surface_labels])
    if not len(known):
        raise InputError.because(source.path, "none of the structures of --widen has a point", "leave it out")
    rows = known[np.linspace(0, len(known) - 1, min(len(known), FIT_POINTS)).astype(int)]
    points = torch.from_numpy(case.surface_points[rows].astype(np.float32))
    classes = torch.from_numpy(case.surface_labels[rows].astype(np.int64) - 1)
    fit = model.fit(points[None], classes[None])
    place = np.eye(4)
    place[:3, :3] = fit.scale_B[0].item() * fit.turn_B33[0].double().numpy()
    place[:3, 3] = fit.shift_B3[0].double().numpy()
    return place @ frame_matrix(case.frame), fit.weights_BK[0].numpy()


def regressed(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regression with intercept of `values` (n, F), rows of NaN where missing, on `weights` (n, K): intercept
    (F,), slopes (K, F), and what it leaves of each row when it learns from the others alone (n, F). Its penalty is the
    one of PENALTIES, or none but the mean, that leaves least so. Without rows: CLIP, no slopes, nothing left."""
    there = ~np.isnan(values[:, 0])
    left = np.where(there[:, None], 0, np.nan).astype(np.float32)
    left = np.broadcast_to(left, values.shape).copy()
    slopes = np.zeros((weights.shape[1], values.shape[1]), np.float32)
    n = there.sum()
    if n == 0:
        return np.full(values.shape[1], CLIP, np.float32), slopes, np.zeros_like(left)
    mean, centre = values[there].mean(0, dtype=np.float64), weights[there].mean(0, dtype=np.float64)
    away, x = values[there] - mean, weights[there] - centre
    if n < LEAST_HEARTS:
        left[there] = away
        return mean.astype(np.float32), slopes, left
    best = None
    products = x @ x.T
    for penalty in (np.inf, *PENALTIES):
        hat = np.zeros((n, n)) if np.isinf(penalty) else products @ np.linalg.inv(products + penalty * np.eye(n))
        others = (away - hat @ away) / (1 - 1 / n - np.diag(hat))[:, None]  # left out one by one, in closed form
        error = float(np.square(others).sum())
        if best is None or error < best[0]:
            best = error, penalty, others
    _, penalty, left[there] = best
    if np.isfinite(penalty):
        slopes = (x.T @ np.linalg.solve(products + penalty * np.eye(n), away)).astype(np.float32)
    return (mean - centre @ slopes).astype(np.float32), slopes, left
