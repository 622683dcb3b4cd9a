"""Whether files of slices can be of one heart. Slices of two hearts that lie in one folder are a mistake that nothing
else would show: a heart would be made of both.

Two things are evident: parts of what is labelled lie apart; and two groups of files contradict each other at the places
that both show, each agreeing with itself. Hearts that lie in the same place and have about the same shape pass.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from vecset.common.errors import InputError, shown
from vecset.geometry.contours import Plane

APART_MM = 50.0  # between two parts of what is labelled: slices of a stack are up to about 12 mm apart
NEAR_MM = 2.5  # a plane shows the places that are so near to it
PIXELS = 1500  # of each file that are compared at most
LEAST_MM2 = 100.0  # of labelled pixels that two groups of files both show: less says nothing
# Shares of those pixels where two groups, and each group, show the same structure (docs/log.md, 2026-11-27, measures)
CONTRADICTION, ACCORD = 0.3, 0.7
DISPLACED_MM = (-8.0, -4.0, 0.0, 4.0, 8.0)  # along each axis of a plane
FITS = 0.5  # of those pixels, where one displaced file and the others show the same structure
NAMES_SHOWN = 2


def refuse_other_hearts(where: object, files: Sequence[tuple[str, Sequence[Plane]]]) -> float | None:
    """Raises InputError, naming `where`, where `files` (name, planes) are evidently not of one heart. Returns the share
    of labelled pixels of a file at which other files that show the place show the same structure (1: no slice is
    displaced), None where no two of them show a place."""
    files = [(name, [plane for plane in planes if plane.labels.any()]) for name, planes in files]
    files = [(name, planes) for name, planes in files if planes]
    if len(files) < 2:
        return None
    places = [_labelled(planes) for _, planes in files]
    first = _parts([at_mm for at_mm, _, _ in places])
    if not first.all():
        raise _refusal(where, files, first, f"lie more than {APART_MM:g} mm apart")
    same, both = agreement([planes for _, planes in files], places)
    if both.sum() < LEAST_MM2:
        return None
    group, within, between = two_groups(same, both)
    if between is not None and between < CONTRADICTION and min(within, default=1.0) > ACCORD:
        few = group if group.sum() <= len(files) / 2 else ~group
        if few.sum() == 1 and fits_displaced([planes for _, planes in files], places, int(few.argmax())):
            return float(same.sum() / both.sum())
        words = f"contradict each other: of the places that both show, {between:.0%} have one structure in both"
        raise _refusal(where, files, group, words)
    return float(same.sum() / both.sum())


def agreement(
    files: Sequence[Sequence[Plane]], places: Sequence[tuple[np.ndarray, np.ndarray, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """(same, both), each (F, F) mm2, symmetric, 0 on the diagonal: of the labelled pixels of two files that lie within
    NEAR_MM of a plane of the other, in its image, those that have the same structure there, and all. Structures that
    only one of the two has count as not annotated in the other: they say nothing. places: of each file (pixels (N, 3)
    mm, their class ids (N,), mm2 for each)."""
    same, both = np.zeros((2, len(files), len(files)))
    there = [np.unique(np.concatenate([[0], *(plane.labels.ravel() for plane in planes)])) for planes in files]
    for a, (at_mm, labels, area_mm2) in enumerate(places):
        for b, planes in enumerate(files):
            if a == b:
                continue
            nearest, found = np.full(len(at_mm), NEAR_MM), np.full(len(at_mm), -1)
            for plane in planes:
                away = np.abs((at_mm - plane.origin_mm) @ plane.normal)
                pixel = np.rint((at_mm - plane.origin_mm) @ np.linalg.pinv(plane.steps_mm).T).astype(int)
                mine = (away <= nearest) & ((pixel >= 0) & (pixel < plane.labels.shape)).all(1)
                found[mine], nearest[mine] = plane.labels[tuple(pixel[mine].T)], away[mine]
            both[a, b] = area_mm2 * np.count_nonzero(np.isin(labels, there[b]) & np.isin(found, there[a]))
            same[a, b] = area_mm2 * np.count_nonzero(found == labels)
    return same + same.T, both + both.T


def fits_displaced(
    files: Sequence[Sequence[Plane]], places: Sequence[tuple[np.ndarray, np.ndarray, float]], number: int
) -> bool:
    """Whether file `number` agrees with the others once it is displaced in its planes by up to DISPLACED_MM: the heart
    of one breath-hold lies elsewhere than that of another, and a small structure that is displaced by its own width
    contradicts all others. files, places: as of `agreement`."""
    planes, (at_mm, labels, area_mm2) = files[number], places[number]
    others = [n for n in range(len(files)) if n != number]
    first, second = (axis / np.linalg.norm(axis) for axis in planes[0].steps_mm.T)
    for along in (first * x + second * y for x in DISPLACED_MM for y in DISPLACED_MM):
        moved = [replace(plane, origin_mm=plane.origin_mm + along) for plane in planes]
        same, both = np.sum(
            [
                [table[0, 1] for table in agreement([moved, files[n]], [(at_mm + along, labels, area_mm2), places[n]])]
                for n in others
            ],
            0,
        )
        if both >= LEAST_MM2 and same / both >= FITS:
            return True
    return False


def two_groups(same: np.ndarray, both: np.ndarray) -> tuple[np.ndarray, list[float], float | None]:
    """((F,) bool: the two groups of files that contradict each other most, as far as they are found from the two files
    that do; the shares of `same` in `both` (`agreement`) within each group, where that says anything; that between
    them, None where it says nothing)."""
    a, b = np.unravel_index((both - same).argmax(), both.shape)
    group = _share(same[:, a], both[:, a]) >= _share(same[:, b], both[:, b])
    for _ in range(len(same)):
        group[a], group[b] = True, False
        mine = _share(same[:, group].sum(1), both[:, group].sum(1))
        found = mine >= _share(same[:, ~group].sum(1), both[:, ~group].sum(1))
        if (found == group).all():
            break
        group = found
    group[a], group[b] = True, False
    within = [
        same[np.ix_(part, part)].sum() / both[np.ix_(part, part)].sum()
        for part in (group, ~group)
        if both[np.ix_(part, part)].sum() >= LEAST_MM2
    ]
    shared = both[np.ix_(group, ~group)].sum()
    return group, within, same[np.ix_(group, ~group)].sum() / shared if shared >= LEAST_MM2 else None


def _share(same, both):
    """same / both, and a half where a file shows no place of the others: that says nothing."""
    return np.where(both > 0, same / np.maximum(both, 1e-9), 0.5)


def _labelled(planes):
    """(places (N, 3) mm of labelled pixels, evenly chosen, their class ids (N,), mm2 for each)."""
    at_mm = np.concatenate([plane.to_mm(np.argwhere(plane.labels)) for plane in planes])
    labels = np.concatenate([plane.labels[plane.labels > 0] for plane in planes])
    area_mm2 = np.concatenate([np.full(np.count_nonzero(p.labels), p.spacing_mm.prod()) for p in planes]).sum()
    chosen = np.linspace(0, len(at_mm) - 1, min(PIXELS, len(at_mm))).astype(int)
    return at_mm[chosen], labels[chosen].astype(int), area_mm2 / len(chosen)


def _parts(places_mm):
    """(F,) bool: the files that are joined to the first one by steps of at most APART_MM between labelled pixels."""
    trees = [cKDTree(at_mm) for at_mm in places_mm]
    joined = np.zeros(len(trees), bool)
    joined[0], waiting = True, [0]
    while waiting:
        tree = trees[waiting.pop()]
        for n in np.flatnonzero(~joined):
            if np.isfinite(tree.query(places_mm[n], distance_upper_bound=APART_MM)[0]).any():
                joined[n] = True
                waiting.append(n)
    return joined


def _refusal(where, files, group, words):
    def told(part):
        names = [shown(name) for (name, _), mine in zip(files, part) if mine]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return ", ".join(names[:NAMES_SHOWN]) + more

    return InputError.because(
        where,
        f"its files are not of one heart: {told(group)} and {told(~group)} {words}",
        "put the slices of each heart into a folder of its own (stacks of several hearts: --slices file)",
    )
