"""Tubes round lines of straight pieces: masks whose centre line is known."""

from itertools import pairwise

import numpy as np


def tube(shape, axis_points_mm, radius_mm, spacing_mm=(1, 1, 1)):
    """(X, Y, Z) bool: the voxels whose centres are within radius_mm of the line through axis_points_mm."""
    grid_mm = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing_mm)], indexing="ij"), -1)
    return distance_to_line(grid_mm, axis_points_mm)[0] <= radius_mm


def distance_to_line(points, axis_points):
    """Distance of each point to the line, and how far along it the nearest place is."""
    best, along, done = np.full(points.shape[:-1], np.inf), np.zeros(points.shape[:-1]), 0.0
    for a, b in pairwise(np.asarray(axis_points, float)):
        t = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        distance = np.linalg.norm(points - a - t[..., None] * (b - a), axis=-1)
        length = np.linalg.norm(b - a)
        along = np.where(distance < best, done + t * length, along)
        best, done = np.minimum(best, distance), done + length
    return best, along
