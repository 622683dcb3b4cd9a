"""A shape model by formulas: balls whose radii go with two modes, so that the distances are linear in the weights."""

import numpy as np

from vecset.data.shape_model_file import shape_model_of
from vecset.models.shape_model import CLIP, ShapeModel

CENTRES = np.array([(0.0, 0.0, 0.0), (0.5, 0.1, 0.0), (-0.1, 0.55, 0.1), (0.1, -0.1, 0.6)])
RADII = np.array([0.3, 0.2, 0.2, 0.15])
MODES = np.array([(0.03, 0.03, 0.0, 0.02), (0.0, -0.02, 0.03, 0.02)])  # of the radii, a standard deviation each
STEP = 0.04


def radii(weights):
    return RADII + np.asarray(weights) @ MODES


def ball_arrays(unknown=()) -> dict:
    """Arrays of the model, as of `build_shape_model`; no training heart has the classes `unknown` (from 0)."""
    tables, cells, lows, templates = [], [], [], []
    rng = np.random.default_rng(0)
    for c, centre in enumerate(CENTRES):
        low = centre - RADII[c] - 0.1 - CLIP
        count = int(np.ceil(2 * (RADII[c] + 0.1 + CLIP) / STEP)) + 1
        axis = np.arange(count) * STEP
        points = low + np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        mean = np.linalg.norm(points - centre, axis=1) - RADII[c]
        tables.append(np.column_stack([mean, *(np.full(len(points), -mode[c]) for mode in MODES)]))
        cells.append((count,) * 3)
        lows.append(low)
        directions = rng.normal(size=(200, 3))
        templates.append(centre + RADII[c] * directions / np.linalg.norm(directions, axis=1, keepdims=True))
    sizes = np.prod(cells, 1)
    return {
        "table_VK": np.concatenate(tables).astype(np.float16),
        "first_C": np.cumsum(sizes) - sizes,
        "cells_C3": np.array(cells),
        "low_C3": np.array(lows, np.float32),
        "step": np.float32(STEP),
        "template_CT3": np.array(templates, np.float16),
        "known_C": ~np.isin(np.arange(len(CENTRES)), unknown),
    }


def ball_model(unknown=()) -> ShapeModel:
    return shape_model_of(ball_arrays(unknown))


def ball_points(weights, count=150, seed=0):
    """(C, count, 3) points on the balls with these weights of the modes, where the model has them."""
    directions = np.random.default_rng(seed).normal(size=(len(CENTRES), count, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return CENTRES[:, None] + radii(weights)[:, None, None] * directions
