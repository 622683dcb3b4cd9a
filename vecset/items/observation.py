"""What of a heart the encoder may see: which structures, which half-space, which slices. And draws for training.

What is seen has a frame of its own: the rule of `Frame.from_surface`, applied to it. So where the rest of the heart
lies and how large it is cannot be read from the frame. The heart that a network is asked for does not depend on what is
seen. It is also asked what is round about, up to REACH_UNIT in that frame, where there is nothing: a network says
anything of places that it was never asked about, such as copies of the heart.
"""

from dataclasses import dataclass

import numpy as np

from vecset.common.errors import InputError
from vecset.common.structure_state import states_of
from vecset.imaging.frame import UNIT_RADIUS, middle_and_radius

# structures that are left out together, by their default names
GROUPS = {
    "chambers": ("LA", "LV", "RA", "RV"),
    "left": ("Myocardium", "LA", "LV", "Aorta", "LAA", "PV"),
    "right": ("RA", "RV", "PA"),
    "vessels": ("Aorta", "PA", "Coronary"),
}
KINDS = ("classes", *GROUPS, "cut", "slices", "few")
MOST_CLASSES = 5  # that are left out at random
MOST_FEW = 4  # structures of which `few` shows 1 to this many
REACH_UNIT = 3.0  # from the middle of what is seen: hearts lie within it, but for a tip where one small part is given
FAR_SHARE = 0.25  # of the outside points of an item that are drawn round about
CUT_SHARE = 0.1, 0.3  # of the heart's volume, beyond the plane
SLICE_SPACING_MM = 8.0, 12.0
SLICE_THICKNESS_MM = 1.5  # points of the surface that are this close together count as in one plane
LONGEST_SHIFT_MM = 6.0  # of a slice in its plane: breath holds differ


@dataclass(frozen=True, eq=False)
class Slices:
    """Planes in which a heart is seen.

    normals (K, 3) unit vectors; offsets (K,) unit: points x with normal . x = offset; half_thickness unit: how far from
    a plane a point may be; shifts (K, 3) unit, each in its plane: by how much what is seen there is displaced."""

    normals: np.ndarray
    offsets: np.ndarray
    half_thickness: float
    shifts: np.ndarray


@dataclass(frozen=True, eq=False)
class Observation:
    """What of a heart is seen. Coordinates are unit, those of the whole heart.

    given (C,) bool: the structures that are shown; half_space (normal (3,), offset): only points x with
    normal . x <= offset are seen; slices: only what lies in these planes is."""

    given: np.ndarray
    half_space: tuple[np.ndarray, float] | None = None
    slices: Slices | None = None

    @property
    def whole(self) -> bool:
        """Whether all is seen that there is."""
        return bool(self.given.all()) and self.half_space is None and self.slices is None

    def see(self, points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of surface points (N, 3) with class ids (N,): numbers of those that are seen (R,), in ascending order, and
        where they are seen (R, 3) f32. In slices a point is seen in the nearest plane, at its foot, displaced."""
        seen = self.given[labels.astype(np.int64) - 1]
        if self.half_space is not None:
            normal, offset = self.half_space
            seen &= _along(points, normal[None])[:, 0] <= offset
        rows = np.flatnonzero(seen)
        if self.slices is None:
            return rows, points[rows].astype(np.float32, copy=False)
        away = _along(points[rows], self.slices.normals) - self.slices.offsets.astype(points.dtype)  # (R, K)
        near, plane = np.nonzero(np.abs(away) <= self.slices.half_thickness)
        away = away[near, plane]
        order = np.lexsort((np.abs(away), near))  # where planes cross, the nearest first
        first = order[np.flatnonzero(np.diff(near[order], prepend=-1))]
        rows, plane, away = rows[near[first]], plane[first], away[first]
        places = points[rows] - away[:, None] * self.slices.normals[plane] + self.slices.shifts[plane]
        return rows, places.astype(np.float32)

    def states(self, labels: np.ndarray, annotated: np.ndarray, cut: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(C,) i8 `State` of every structure, for surface points with class ids `labels` (N,), of which `rows` are
        seen; annotated, cut (C,) bool: what was looked for, and what the field of view truncates. A structure of which
        nothing is seen is unknown, also where it was shown: it may lie beyond the half-space, or between the slices."""
        count = np.bincount(labels, minlength=len(annotated) + 1)[1:]
        seen = np.bincount(labels[rows], minlength=len(annotated) + 1)[1:]
        in_part = cut | (seen < count) | (self.slices is not None)
        return states_of(seen > 0, annotated & self.given & (count == 0), in_part)


def _along(points, directions):
    """(N, K) products of points (N, 3) and directions (K, 3). No matrix product: the threads of one would get in the
    way of training, beside which loader processes work."""
    axes, parts = points.T, directions.T.astype(points.dtype)
    return sum(axes[i][:, None] * parts[i] for i in range(3))


def frame_of_seen(points: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """(centre (3,) f32, factor) of the frame of what is seen at `points` (R, 3): x goes to (x - centre) * factor. The
    rule of `Frame.from_surface`, on points of the surface in place of its vertices."""
    centre, radius = middle_and_radius(points)
    return centre.astype(np.float32), np.float32(UNIT_RADIUS / max(radius, 1e-6))


def far_queries(
    surface_points: np.ndarray, surface_sdf: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` places (count, 3) f32 in the ball of REACH_UNIT, as many at each distance from the middle, and how far
    they lie (count, K) f32 from the regions that points of a heart's surface (N, 3) have the signed distances
    surface_sdf (N, K) to. Holds for places outside of the regions alone: |x - p| + sdf(p) is at least the distance of
    x, whatever p is, and equals it for p on the surface where x sees it. All in the frame of what is seen."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = (directions * rng.uniform(0, REACH_UNIT, (count, 1))).astype(np.float32)
    squares = sum(np.square(places[:, None, axis] - surface_points[None, :, axis]) for axis in range(3))
    away = np.sqrt(squares)  # (count, N)
    columns = [(away + column).min(1) for column in np.ascontiguousarray(surface_sdf.T)]
    return places, np.stack(columns, 1).astype(np.float32, copy=False)


@dataclass(frozen=True)
class ObservationDraws:
    """Draws observations: one of KINDS with its probability, else the whole heart.

    probabilities: kind -> probability; groups: kind -> class ids that are left out together."""

    probabilities: dict[str, float]
    groups: dict[str, tuple[int, ...]]

    def draw(
        self,
        rng: np.random.Generator,
        labels: np.ndarray,
        annotated: np.ndarray,
        inside: np.ndarray,
        unit_per_mm: float,
    ) -> Observation:
        """An observation of a heart with surface labels (N,) class ids, annotated (C,) bool, points inside it
        (V, 3), unit, and its frame's scale. Where nothing would be left to see, the whole heart is seen."""
        kind, left = None, rng.random()
        for name in KINDS:
            left -= self.probabilities.get(name, 0.0)
            if left < 0:
                kind = name
                break
        given = np.ones(len(annotated), bool)
        if kind == "cut":
            return Observation(given, half_space=_draw_half_space(rng, inside))
        if kind == "slices":
            return Observation(given, slices=_draw_slices(rng, inside, unit_per_mm))
        present = np.bincount(labels, minlength=len(annotated) + 1)[1:] > 0
        if kind == "few":
            choice = np.flatnonzero(annotated & present)
            shown = rng.choice(choice, min(1 + int(rng.integers(MOST_FEW)), len(choice)), replace=False)
            given = np.isin(np.arange(len(given)), shown)
        elif kind == "classes":
            choice = np.flatnonzero(annotated)
            number = 1 + int(rng.integers(min(MOST_CLASSES, len(choice))))
            given[rng.choice(choice, number, replace=False)] = False
        elif kind in self.groups:
            given[np.array(self.groups[kind]) - 1] = False
        return Observation(given if (given & present).any() else np.ones(len(annotated), bool))


def _direction(rng):
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _draw_half_space(rng, inside):
    """A plane of any direction with CUT_SHARE of the heart's volume beyond it."""
    normal, share = _direction(rng), rng.uniform(*CUT_SHARE)
    return normal, float(np.quantile(inside @ normal, 1 - share))


def _draw_slices(rng, inside, unit_per_mm):
    """A stack of parallel planes of any direction, and none to two planes along its axis through the middle of the
    heart; half of the draws are displaced, each plane by its own vector."""
    axis = _direction(rng)
    along = inside @ axis
    spacing = rng.uniform(*SLICE_SPACING_MM) * unit_per_mm
    stack = np.arange(along.min() + rng.random() * spacing, along.max(), spacing)
    normals, offsets = [axis] * len(stack), list(stack)
    across = np.linalg.svd(axis[None])[2][1:]  # two directions at right angles to the axis
    for _ in range(rng.integers(3)):
        angle = rng.uniform(0, np.pi)
        normal = np.cos(angle) * across[0] + np.sin(angle) * across[1]
        normals.append(normal)
        offsets.append(float(np.median(inside @ normal)))
    normals = np.array(normals)
    longest = LONGEST_SHIFT_MM * unit_per_mm * (rng.random() if rng.random() < 0.5 else 0.0)
    shifts = rng.normal(size=normals.shape)
    shifts -= (shifts * normals).sum(1, keepdims=True) * normals
    shifts *= longest * rng.random((len(normals), 1)) / np.linalg.norm(shifts, axis=1, keepdims=True)
    return Slices(normals, np.array(offsets), SLICE_THICKNESS_MM / 2 * unit_per_mm, shifts)


def parse_observe(text: str) -> dict[str, float]:
    """ "classes=0.5,cut=0.2" -> {"classes": 0.5, "cut": 0.2}: kinds of KINDS and their probabilities, at most 1 in all.
    InputError for other text."""
    found = {}
    for part in text.split(","):
        kind, sign, number = (word.strip() for word in part.partition("="))
        try:
            probability = float(number)
        except ValueError:
            probability = -1.0
        if not sign or kind not in KINDS or not 0 <= probability <= 1 or kind in found:
            raise InputError(
                "--observe",
                f"KIND=PROBABILITY,... with each of {', '.join(KINDS)} at most once and probabilities from 0 to 1",
                repr(part.strip()),
                'for example "classes=0.6,cut=0.2"',
            )
        found[kind] = probability
    if sum(found.values()) > 1 + 1e-9:
        raise InputError(
            "--observe",
            "probabilities of at most 1 in all",
            f"{sum(found.values()):g}",
            "the rest sees the whole heart",
        )
    return found


def observation_draws(text: str, class_names: list[str]) -> ObservationDraws | None:
    """The draws that `--observe TEXT` asks for with these classes; None for "". InputError where a group has a
    structure that is not among them."""
    if not text:
        return None
    probabilities, groups = parse_observe(text), {}
    for kind, names in GROUPS.items():
        if not probabilities.get(kind):
            continue
        missing = [name for name in names if name not in class_names]
        if missing:
            raise InputError.because(
                f"--observe {kind}", f"the cases have no class {' or '.join(missing)}", "leave this group out"
            )
        groups[kind] = tuple(class_names.index(name) + 1 for name in names)
    return ObservationDraws(probabilities, groups)
