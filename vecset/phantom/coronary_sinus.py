"""The coronary sinus: along the left atrioventricular groove behind, on the wall of the left atrium, into the right."""

import numpy as np

from vecset.phantom.anatomy import epicardial_point, onto_surface
from vecset.phantom.field import LV_EPI, RA_BODY, Geometry, fields_at, world_of
from vecset.phantom.precedence import RA, SINUS
from vecset.phantom.tubes import cones, spline

DEPTH_MM = -6.0  # of the groove on the atrium's side, from the base; the circumflex artery runs at 1 mm
LAST_DEG = 282.0  # where it leaves the groove, at the crux
MOUTH_MM = 5.0  # how deep in the right atrium its end lies, so that the atrium cuts it


def coronary_sinus(geometry: Geometry, frame: np.ndarray, p: dict, la_wall_mm: float) -> np.ndarray:
    """SEGMENT (N,) in the world. `p`: `sinus_start_deg` on the left ventricle's girth, from S towards U; and the radii
    `sinus_start_radius`, `sinus_end_radius` in mm (sixteen.py)."""
    epi = geometry.ellipsoids[LV_EPI]
    angles = np.linspace(p["sinus_start_deg"], LAST_DEG, 6)
    groove = world_of(np.array([epicardial_point(frame, epi, DEPTH_MM, d) for d in angles]), geometry.pose)
    radius = p["sinus_start_radius"]
    line = onto_surface(groove, geometry, la_wall_mm + 0.75 * radius, False)
    centre = world_of(geometry.ellipsoids[RA_BODY]["centre"][None], geometry.pose)[0]
    way = line[-1] + np.linspace(0, 1, 100)[:, None] * (centre - line[-1])
    mouth = way[np.argmax(fields_at(way, geometry)[:, RA] < -MOUTH_MM)]
    points, _, _ = spline(np.concatenate([line[1::3], mouth[None]]), np.zeros(len(line[1::3]) + 1), step=2.5)
    return cones(points, np.linspace(radius, p["sinus_end_radius"], len(points)), SINUS)
