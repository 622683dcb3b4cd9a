"""The pose of a synthetic heart in numpy: the reference of the compiled warp, and what `world_of` inverts."""

import numpy as np

from vecset.phantom.field import Pose


def anatomy_of(points_mm: np.ndarray, pose: Pose) -> np.ndarray:
    """(N, 3) world mm -> anatomy mm: turned, then displaced by the waves along each axis."""
    local = (np.asarray(points_mm, np.float64) - pose.translation) @ pose.turn.T
    angle = local * (2 * np.pi / pose.wavelength)
    sine, cosine = pose.waves[:, 0], pose.waves[:, 1]
    return local + np.einsum("na,ad->nd", np.sin(angle), sine) + np.einsum("na,ad->nd", np.cos(angle) - 1, cosine)
