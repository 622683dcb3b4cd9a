"""The venae cavae: their stubs in the right atrium, which every heart has, and how they go on in a heart of sixteen.

SVC and IVC begin at the cut ends of the stubs, with the width that these have there. The SVC rises nearly straight on
the right of the ascending aorta and in front of the right pulmonary artery; the IVC sinks through the diaphragm. Both
give way to their neighbours, and end near the height of the top and of the bottom of the other structures.
"""

import numpy as np

from vecset.phantom.field import Geometry, fields_at, world_of
from vecset.phantom.precedence import AORTA, CORONARY, IVC, LA, LAA, LV, MYO, PA, PV, RA, RV, SVC
from vecset.phantom.tubes import Tube, cones, spline

# of the stubs, from inside the atrium to the cut end: in semi-axes of its body from its centre, and mm
SVC_STUB = ((0.0, -0.25, 0.55), (-0.1, -0.35, 0.95), (-0.2, -0.4, 1.3)), (9.5, 9.0, 8.5)
IVC_STUB = ((-0.05, -0.2, -0.6), (-0.15, -0.3, -0.95), (-0.2, -0.35, -1.18)), (11.0, 10.5, 10.5)
STEP_MM = 3.0
GAP_MM = 1.0  # from the wall of a cava to its neighbours
BEND_MM = 18.0  # over which a cava turns from the stub's direction to its own, and widens to its own radius
WIDEST_MM = {SVC: 11.0, IVC: 15.0}  # radius, in the world
LEAST_MM = {SVC: 22.0, IVC: 14.0}  # of its length, however near the end of the heart is


def stubs(ra_body: np.void) -> list[Tube]:
    """Both stubs, part of the right atrium; `ra_body`: its ellipsoid."""
    tubes = []
    for line, radii in (SVC_STUB, IVC_STUB):
        points, radii, _ = spline(ra_body["centre"] + ra_body["semi_axes"] * np.array(line), radii)
        tubes.append(Tube(RA, points, radii, end=True))
    return tubes


def venae_cavae(geometry: Geometry, ra_body: np.void, p: dict, lowest_mm: float, highest_mm: float) -> np.ndarray:
    """SEGMENT (N,): SVC and IVC in the world, from the ends of the stubs of `geometry`. `p`: radii, lengths and leans
    by name (sixteen.py). They end before `lowest_mm` and `highest_mm` of the world's z, unless they had less than
    LEAST_MM then."""
    size = 1 / np.linalg.norm(geometry.pose.turn[0])
    upper, lower = stubs(ra_body)
    rows = []
    for cls, stub, name, up in ((SVC, upper, "svc", 1.0), (IVC, lower, "ivc", -1.0)):
        end = world_of(stub.points[-2:], geometry.pose)
        tangent = (end[1] - end[0]) / np.linalg.norm(end[1] - end[0])
        own = np.array([p[f"{name}_lean_x"], p[f"{name}_lean_y"], up])
        own /= np.linalg.norm(own)
        count = int(np.ceil(p[f"{name}_length"] / STEP_MM))
        turned = np.clip(np.arange(count) * STEP_MM / BEND_MM, 0, 1)[:, None]
        steps = (1 - turned) * tangent + turned * own
        steps *= p[f"{name}_length"] / count / np.linalg.norm(steps, axis=1, keepdims=True)
        line = np.concatenate([end[1:], end[1] + np.cumsum(steps, axis=0)])
        along = np.clip(np.linspace(0, p[f"{name}_length"], count + 1) / BEND_MM, 0, 1)
        radii = np.minimum(size * ((1 - along) * stub.radii[-1] + along * p[f"{name}_radius"]), WIDEST_MM[cls])
        line = _give_way(line, radii, geometry)
        room = highest_mm - line[:, 2] if up > 0 else line[:, 2] - lowest_mm
        most = max(np.count_nonzero(np.cumprod(room > 0.5 * radii)), int(np.ceil(LEAST_MM[cls] / STEP_MM)) + 1)
        rows.append(_cut_tube(line[:most], radii[:most], cls, tangent))
    return np.concatenate(rows)


def _give_way(line, radii, geometry):
    """The line (N, 3), moved away from neighbours nearer than its radius and GAP_MM; its first two points stay."""
    neighbours = [MYO, LA, LV, RV, AORTA, PA, LAA, CORONARY, PV]
    steps = 0.5 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    free = np.clip(np.arange(len(line)) - 1, 0, 4)[:, None] / 4
    for _ in range(16):
        fields = fields_at((line + steps[:, None]).reshape(-1, 3), geometry, 25.0)[:, neighbours].min(1)
        value, *sides = fields.reshape(7, -1)
        slope = np.stack(sides[:3], 1) - np.stack(sides[3:], 1)
        slope[:, 2] = 0.0  # sideways: lengths stay
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
        line = line + free * np.clip(radii + GAP_MM - value, 0.0, 2.0)[:, None] * slope
        smooth = line.copy()
        smooth[1:-1] = 0.5 * line[1:-1] + 0.25 * (line[:-2] + line[2:])
        line = np.where(free > 0, smooth, line)
    return line


def _cut_tube(line, radii, cls, tangent):
    """SEGMENT (N - 1,) with flat ends: the first across `tangent`, where the stub is cut, the last across the line."""
    segments = cones(line, radii, cls)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    last = (line[-1] - line[-2]) / np.linalg.norm(line[-1] - line[-2])
    near_start, near_end = along[:-1] < 2.2 * radii[0], along[-1] - along[1:] < 2.2 * radii[-1]
    segments["start_cut"][near_start], segments["end_cut"][near_end] = True, True
    segments["start_normal"][near_start], segments["end_normal"][near_end] = -tangent, last
    segments["start_offset"][near_start], segments["end_offset"][near_end] = -tangent @ line[0], last @ line[-1]
    return segments
