"""Distance to a mesh, triangle by triangle: the reference for the fast ones."""

import numpy as np


def brute_force(points, vertices, faces):
    """Distance from each point to each triangle, written out: plane where the foot lies inside, else the edges."""
    best = np.full(len(points), np.inf)
    for a, b, c in vertices[faces].astype(float):
        normal = np.cross(b - a, c - a)
        area2 = np.linalg.norm(normal)
        distance = np.full(len(points), np.inf)
        for p, q in ((a, b), (b, c), (c, a)):
            along = np.clip((points - p) @ (q - p) / max((q - p) @ (q - p), 1e-30), 0, 1)
            distance = np.minimum(distance, np.linalg.norm(points - p - along[:, None] * (q - p), axis=1))
        if area2 > 1e-12:
            normal /= area2
            inside = np.all([np.cross(q - p, points - p) @ normal >= 0 for p, q in ((a, b), (b, c), (c, a))], axis=0)
            distance = np.where(inside, np.minimum(distance, np.abs((points - a) @ normal)), distance)
        best = np.minimum(best, distance)
    return best
