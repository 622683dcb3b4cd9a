"""How much a point of training counts in a heart of which something is hidden.

Points of training lie where the surfaces of the truth are. Where a structure is hidden, that tells of it: a place is
drawn often in a heart whose structure is there, and seldom in one whose structure lies elsewhere. A network that learns
from points as they were drawn takes the structure to be likely there, and draws it too large (docs/log.md, 2026-11-28).

What a network learns to say at a place is right if how often it is asked there does not depend on what is hidden. So a
point x counts t(x) / s(x): s is how densely points were drawn there, t a density that follows from what is seen alone.
t is high near the surfaces that are seen, and elsewhere BASE times that of points spread evenly over the unit cube. A
heart of which nothing is hidden is learned from as before: all its points count 1.

Shapes: T points, N seen points.
"""

import numpy as np
import torch  # a container of a cluster may have no library with a tree for the search of neighbours

NEIGHBOURS = 8  # a density is so many points by the volume of the ball that reaches to the last of them
SEEN_POINTS = 2048  # at most, from which the density of what is seen is taken
BASE = 2.0
MOST = 3.0  # what a point counts: few points in much space would be most of the loss
CUBE = 8.0  # the unit cube's volume
LEAST_UNIT = 1e-3  # of a ball: points may lie on each other


def point_weights(points_T3: np.ndarray, seen_N3: np.ndarray) -> np.ndarray:
    """(T,) f32 of the points of training, in the frame of what is seen; seen_N3: the surface points that the encoder
    reads."""
    T = len(points_T3)
    seen_N3 = seen_N3[np.linspace(0, len(seen_N3) - 1, min(len(seen_N3), SEEN_POINTS)).round().astype(int)]
    drawn_T = density(points_T3, points_T3, T, NEIGHBOURS + 1)  # a point is its own nearest
    wanted_T = np.maximum(density(points_T3, seen_N3, T, NEIGHBOURS), BASE * T / CUBE)
    return np.minimum(wanted_T / drawn_T, MOST).astype(np.float32)


def density(places_T3: np.ndarray, points_N3: np.ndarray, count: int, neighbours: int) -> np.ndarray:
    """(T,) points per volume (unit^-3) at places, if there were `count` points spread as `points_N3` are."""
    neighbours = min(neighbours, len(points_N3))
    places, points = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (places_T3, points_N3))
    square_TN = torch.addmm(points.square().sum(1), places, points.T, alpha=-2)  # but for the places' own squares
    nearest_T = square_TN.topk(neighbours, largest=False, sorted=True).values[:, -1] + places.square().sum(1)
    away_T = nearest_T.clamp_min(LEAST_UNIT**2).sqrt().double().numpy()
    return neighbours / (4 / 3 * np.pi * away_T**3) * (count / len(points_N3))
