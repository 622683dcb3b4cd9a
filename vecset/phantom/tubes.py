"""Tubes: smooth centre lines with radii, and the segments of cones that they become in the world."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from vecset.phantom.field import SEGMENT, world_of

STEP_MM = 4.0  # between the samples of a centre line


@dataclass
class Tube:
    """A centre line in anatomy mm (N, 3) and its radii (N,). `start`/`end` say which ends are cut flat."""

    cls: int
    points: np.ndarray
    radii: np.ndarray
    start: bool = False
    end: bool = False
    start_tangent: np.ndarray | None = None  # shared by the two tubes that meet in a valve
    end_tangent: np.ndarray | None = None


def spline(points, radii, step=STEP_MM):
    """A smooth centre line through `points` (K, 3) with `radii` (K,), sampled every `step` mm: (N, 3), (N,), and the
    arc length of each of the K points as an index into the N."""
    points, radii = np.asarray(points, float), np.asarray(radii, float)
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    index, t = [0], [0.0]
    for k in range(len(knots) - 1):  # every given point stays a sample: valves and branches sit there
        n = max(1, int(np.ceil((knots[k + 1] - knots[k]) / step)))
        t += list(np.linspace(knots[k], knots[k + 1], n + 1)[1:])
        index.append(len(t) - 1)
    t = np.array(t)
    return CubicSpline(knots, points, bc_type="natural")(t), np.interp(t, knots, radii), index


def split(points, radii, at, first, second, tangent=None):
    """One centre line as two tubes that meet in a valve at sample `at`; its plane is across the line or `tangent`."""
    if tangent is None:
        tangent = points[at + 1] - points[at - 1]
        tangent /= np.linalg.norm(tangent)
    return [
        Tube(first, points[: at + 1], radii[: at + 1], end=True, end_tangent=tangent),
        Tube(second, points[at:], radii[at:], start=True, end=True, start_tangent=tangent),
    ]


def cones(points, radii, class_id):
    """SEGMENT (N - 1,) of a line (N, 3) with radii (N,) in the world, no end cut."""
    segments = np.zeros(len(points) - 1, SEGMENT)
    segments["start"], segments["end"] = points[:-1], points[1:]
    segments["start_radius"], segments["end_radius"] = radii[:-1], radii[1:]
    segments["class_id"] = class_id
    return segments


def tube_segments(tube, pose, size):
    """SEGMENT (N - 1,): the tube in the world, radii scaled by `size`, flat ends cut by their planes."""
    points = world_of(tube.points, pose)
    radii = tube.radii * size
    segments = cones(points, radii, tube.cls)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    for which, flat, given, end, near, sign in (
        ("start", tube.start, tube.start_tangent, 0, along[:-1] < 2.2 * radii[0], -1.0),
        ("end", tube.end, tube.end_tangent, -1, along[-1] - along[1:] < 2.2 * radii[-1], 1.0),
    ):
        if not flat:
            continue
        if given is None:
            tangent = points[-1] - points[-2] if end else points[1] - points[0]
        else:  # the tangent goes through the warp as two points do
            tangent = np.diff(world_of(tube.points[end] + np.outer((-1.0, 1.0), given), pose), axis=0)[0]
        normal = sign * tangent / np.linalg.norm(tangent)
        segments[f"{which}_cut"][near] = True
        segments[f"{which}_normal"][near] = normal
        segments[f"{which}_offset"][near] = normal @ points[end]
    return segments
