"""The synthetic heart as anatomy: some fifty smooth parameters, and the ellipsoids and tubes that they describe.

Anatomy space is mm, RAS+ (x to the patient's right, y anterior, z superior), origin in the middle of the mitral
valve. Within it the heart frame has its axes along the left ventricle: A to the apex (left, anterior, inferior), S
from the left to the right ventricle, U up, so that A, S, U is left-handed as in a patient (A x S = -U). Sizes are those
of adults at end-diastole: left ventricle about 75 to 170 ml, wall 7 to 12 mm, atria 60 to 110 ml, aortic root 15 mm and
pulmonary trunk 12 mm in radius, coronaries 1.1 to 2 mm.

Two liberties make every structure one piece: the pulmonary veins share the smooth back wall of the left atrium (from
which they grow in the embryo), and the right coronary meets the circumflex at the crux.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from vecset.phantom.cavae import stubs
from vecset.phantom.field import (
    ELLIPSOID,
    LA_BODY,
    LV_EPI,
    MITRAL,
    PLANE,
    RA_BODY,
    RV_BODY,
    TRICUSPID,
    Geometry,
    Pose,
    union_at,
    world_of,
)
from vecset.phantom.precedence import AORTA, CORONARY, LA, LAA, LV, MYO, PA, PV, RA, RV
from vecset.phantom.tubes import Tube, cones, spline, split, tube_segments

# name: (mean, standard deviation); each is drawn from a normal law cut at two standard deviations.
PARAMETERS = {
    "axis_azimuth_deg": (43.0, 7.0),
    "axis_elevation_deg": (30.0, 7.0),
    "septum_roll_deg": (0.0, 7.0),
    "lv_radius": (24.8, 1.6),
    "lv_length": (78.0, 6.0),
    "lv_ellipticity": (1.0, 0.05),
    "wall": (9.2, 1.0),
    "rv_width": (43.0, 2.8),
    "rv_height": (40.0, 3.0),
    "rv_length": (48.0, 3.5),
    "rv_shift": (25.0, 2.5),
    "la_size": (1.02, 0.05),
    "la_width": (1.0, 0.07),
    "la_height": (1.0, 0.07),
    "la_shift": (0.0, 3.0),
    "ra_size": (0.98, 0.05),
    "ra_height": (1.0, 0.07),
    "ra_shift": (0.0, 3.0),
    "aorta_radius": (13.5, 1.3),
    "aorta_lean_x": (0.0, 3.5),
    "aorta_lean_y": (0.0, 3.5),
    "arch_height": (0.0, 4.0),
    "arch_depth": (0.0, 3.5),
    "descending_x": (0.0, 4.0),
    "descending_length": (0.0, 9.0),
    "pa_radius": (12.0, 1.0),
    "pa_lift": (0.0, 3.0),
    "pa_side": (0.0, 3.0),
    "pa_spread": (1.0, 0.1),
    "laa_length": (1.0, 0.12),
    "laa_radius": (1.05, 0.07),
    "laa_turn_deg": (0.0, 16.0),
    "pv_radius": (5.6, 0.5),
    "pv_left_turn_deg": (0.0, 12.0),
    "pv_right_turn_deg": (0.0, 12.0),
    "pv_spread": (1.0, 0.12),
    "coronary_radius": (1.72, 0.12),
    "diagonal_deg": (40.0, 9.0),
    "marginal_deg": (178.0, 12.0),
    "acute_deg": (-15.0, 10.0),
    "size": (1.04, 0.04),
    "turn_x_deg": (0.0, 10.0),
    "turn_y_deg": (0.0, 10.0),
    "turn_z_deg": (0.0, 10.0),
}
WARP_SD_MM, WARP_WAVELENGTH_MM = 2.2, 160.0  # 15 amplitudes: three waves, bending and stretching
TRANSLATION_SD_MM = 25.0
CUT_SD = 2.0
MAX_EXTENT_MM = 147.4  # so that 128 voxels of at most 1.2 mm hold the heart and a margin
THINNEST_MM, THICKEST_MM = 1.1, 2.0  # radius of a coronary: always more than 0.9 voxel of 1.2 mm


@dataclass
class Heart:
    """`geometry`: what the functions of field.py take; `extent_mm` (P, 3): points of the world that bound the heart;
    `parameters`: the numbers drawn; `ten_mm` (Q, 3): points that bound its ten structures alone."""

    geometry: Geometry
    extent_mm: np.ndarray
    parameters: dict
    ten_mm: np.ndarray


def draw_normal(rng: np.random.Generator, size: int | tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, cut at CUT_SD."""
    z = rng.standard_normal(size)
    while (np.abs(z) > CUT_SD).any():
        z = np.where(np.abs(z) > CUT_SD, rng.standard_normal(size), z)
    return z


def draw_parameters(rng: np.random.Generator) -> dict:
    """The numbers of one heart, by name: PARAMETERS, `waves` (3, 2, 3) mm and `translation` (3,) mm."""

    z = draw_normal(rng, len(PARAMETERS))
    p = {name: mean + sd * z[i] for i, (name, (mean, sd)) in enumerate(PARAMETERS.items())}
    waves = draw_normal(rng, (3, 2, 3)) * WARP_SD_MM
    for axis in range(3):
        waves[axis, 1, axis] = 0.0  # a cosine along its own axis only shifts
    p["waves"], p["translation"] = waves, draw_normal(rng, 3) * TRANSLATION_SD_MM
    return p


def build_heart(parameters: dict) -> Heart:
    """The `Heart` that `parameters` (of `draw_parameters`) describe."""
    p = parameters
    frame = heart_frame(p)
    ellipsoids, planes = _bodies(p, frame)
    tubes = _tubes(p, frame, ellipsoids)
    size = p["size"]
    for _ in range(4):  # again only where the heart is larger than the largest field of view
        pose = _pose(p, size)
        segments = np.concatenate([tube_segments(t, pose, size) for t in tubes])
        geometry = Geometry(pose, ellipsoids, planes, segments)
        coronaries = _coronaries(p, frame, geometry, size)
        ends = np.concatenate([coronaries["start"], coronaries["end"]])
        extent = np.concatenate([extent_of(geometry), ends - THICKEST_MM, ends + THICKEST_MM])
        longest = float(np.ptp(extent, axis=0).max())
        if longest <= MAX_EXTENT_MM:
            break
        size *= 0.998 * MAX_EXTENT_MM / longest  # coronaries and rounding do not shrink quite as much
    return Heart(geometry._replace(segments=np.concatenate([segments, coronaries])), extent, p, extent)


def turn(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3) rotation matrix about a unit axis (Rodrigues)."""
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.deg2rad(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * (k @ k)


def heart_frame(p):
    """(3, 3): rows A (to the apex), S (to the right ventricle), U (up) in anatomy space."""
    azimuth, elevation = np.deg2rad(p["axis_azimuth_deg"]), np.deg2rad(p["axis_elevation_deg"])
    a = np.array([-np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), -np.sin(elevation)])
    s = np.array([0.66, 0.74, 0.10])
    s = turn(a, p["septum_roll_deg"]) @ s
    s -= a * (a @ s)
    s /= np.linalg.norm(s)
    return np.stack([a, s, np.cross(s, a)])


def _bodies(p, frame):
    """ELLIPSOID (5,) and PLANE (2,) of the chambers, in the order of field.py's indices."""
    a_axis, s_axis, u_axis = frame
    r, length, wall = p["lv_radius"], p["lv_length"], p["wall"]
    centre_a = 0.25 * length  # the widest place of the left ventricle is a quarter of the way down
    long = length - centre_a
    rows = []

    def body(axes, centre, semi):
        rows.append((axes, centre, semi))

    body(frame, centre_a * a_axis, (long, r, r * p["lv_ellipticity"]))
    body(frame, centre_a * a_axis, (long + 0.75 * wall, r + wall, r * p["lv_ellipticity"] + wall))
    sheared = np.stack([a_axis, s_axis + 0.28 * a_axis, u_axis])  # the right ventricle leans towards the septum
    semi = (p["rv_length"], p["rv_width"], p["rv_height"])
    body(sheared, frame.T @ np.array([0.33 * length, p["rv_shift"], -3.0]), semi)

    semi = p["la_size"] * np.array([32.0 * p["la_width"], 22.0, 28.0 * p["la_height"]])
    reach = np.linalg.norm(semi * a_axis)
    body(np.eye(3), frame.T @ np.array([-0.72 * reach, -4.0, 7.0]) + [p["la_shift"], -2.0, 0.0], semi)
    semi = p["ra_size"] * np.array([24.5, 27.5, 31.0 * p["ra_height"]])
    reach = np.linalg.norm(semi * a_axis)
    body(np.eye(3), frame.T @ np.array([-0.60 * reach, 45.0, -6.0]) + [0.0, 0.0, p["ra_shift"]], semi)
    planes = np.array([(a_axis, 0.0), (turn(u_axis, 6.0) @ a_axis, 3.0)], PLANE)
    return np.array(rows, ELLIPSOID), planes


def _tubes(p, frame, ellipsoids):
    """Outflow tracts, great vessels, appendage and veins in anatomy space."""
    tubes = []
    la_centre, la_semi = ellipsoids[LA_BODY]["centre"], ellipsoids[LA_BODY]["semi_axes"]

    # Left outflow tract and aorta: root, ascending part, arch, descending part in front of the spine.
    r = p["aorta_radius"]
    valve = frame.T @ np.array([-5.0, 0.55 * p["lv_radius"], 0.5 * p["lv_radius"]])
    lean = np.array([p["aorta_lean_x"], p["aorta_lean_y"], 0.0])
    top = np.array([0.0, 0.0, p["arch_height"]])
    down = np.array([-21.0 + p["descending_x"], -52.0 - p["arch_depth"], 0.0])
    bottom = -34.0 - p["descending_length"]
    inside = frame.T @ (p["lv_radius"] * np.array([0.75, 0.15, 0.1]))
    line = [
        inside,
        valve,
        valve + [2, 2, 12] + 0.3 * lean,
        valve + [6, 3, 32] + lean + 0.4 * top,
        valve + [1, -10, 54] + lean + top,
        [0.5 * (valve[0] + down[0]) - 4, -31 - 0.6 * p["arch_depth"], valve[2] + 55 + p["arch_height"]],
        down + [0, 0, valve[2] + 30],
        down + [1, 1, valve[2] - 5],
        down + [5, 3, bottom],
    ]
    points, radii, index = spline(line, r * np.array([0.75, 0.92, 1.18, 1.02, 0.93, 0.86, 0.8, 0.78, 0.74]))
    tubes += split(points, radii, index[1], LV, AORTA)
    outflow = tubes[0]  # its wall: septum in front, the curtain between the valves behind
    tubes.append(Tube(MYO, outflow.points, outflow.radii + 4.0, end=True, end_tangent=outflow.end_tangent))

    # Right outflow tract over the septum, pulmonary trunk, and its two branches under the arch.
    r = p["pa_radius"]
    pulmonary = valve + [-19 + 0.5 * p["pa_side"], 20, 10]
    fork = valve + [-19 + p["pa_side"], -9, 37 + p["pa_lift"]]
    line = [
        pulmonary + [10, 9, -32],
        pulmonary + [3, 5, -13],
        pulmonary,
        pulmonary + [-2, -10, 14],
        fork,
        fork + [-13, -13, 4],
        fork + [-30 * p["pa_spread"], -24, 2],
    ]
    points, radii, index = spline(line, [1.3 * r, 1.15 * r, 1.05 * r, 1.06 * r, 0.98 * r, 0.84 * r, 0.76 * r])
    tubes += split(points, radii, index[2], RV, PA)
    points, radii, _ = spline(
        [fork, fork + [14, -6, 1], fork + [32, -8, -1], fork + [54 * p["pa_spread"], -13, -6]],
        [0.92 * r, 0.82 * r, 0.8 * r, 0.74 * r],
    )
    tubes.append(Tube(PA, points, radii, end=True))

    # Mitral inflow: the one way through the muscle that closes the base of the left ventricle.
    middle = frame.T @ np.array([0.0, -8.0, -7.0])
    line = [0.6 * la_centre + 0.4 * middle, middle, middle + frame.T @ np.array([14.0, 4.0, 3.0])]
    points, radii, index = spline(line, p["lv_radius"] * np.array([0.64, 0.68, 0.68]))
    tubes += split(points, radii, index[1], LA, LV, frame[0])

    # Left atrial appendage: from the left front of the atrium forward round the pulmonary trunk.
    bend = turn((0.0, 0.0, 1.0), p["laa_turn_deg"])
    root = la_centre + la_semi * np.array([-0.62, 0.35, 0.38])
    line = root + p["laa_length"] * np.array([(0, 0, 0), (-12, 7, 6), (-18, 19, 8), (-17, 31, 5)]) @ bend.T
    points, radii, _ = spline(line, p["laa_radius"] * np.array([8.5, 8.6, 8.2, 5.6]))
    tubes.append(Tube(LAA, points, radii))

    # Four pulmonary veins, and the back wall of the atrium that they share.
    r = p["pv_radius"]
    back = la_centre + la_semi * np.array([0.0, -0.80, 0.12])
    for side, key in ((-1.0, "pv_left_turn_deg"), (1.0, "pv_right_turn_deg")):
        corner = la_centre + la_semi * np.array([0.62 * side, -0.62, 0.12])
        bend = turn((0.0, 0.0, 1.0), side * p[key])
        for height, out in ((1.0, (25, -7, 8)), (-1.0, (22, -9, -5))):
            rise = np.array([0.0, 0.0, 8.5 * p["pv_spread"] * height * la_semi[2] / 26.0])
            mouth = corner + rise
            way = bend @ (np.array(out) * [side, 1.0, p["pv_spread"]])
            line = [back + 0.5 * (corner - back), mouth, mouth + 0.5 * way, mouth + way + [0, -2, 0]]
            points, radii, _ = spline(line, [1.1 * r, 1.15 * r, r, 0.92 * r])
            tubes.append(Tube(PV, points, radii, end=True))
        points, radii, _ = spline([back, corner], [1.15 * r, 1.2 * r])
        tubes.append(Tube(PV, points, radii))

    # Tricuspid inflow; venae cavae as short stubs and the right appendage, all part of the right atrium.
    ra_centre, ra_semi = ellipsoids[RA_BODY]["centre"], ellipsoids[RA_BODY]["semi_axes"]
    valve = frame.T @ np.array([2.0, p["rv_shift"] + 20.0, -5.0])
    points, radii, index = spline([ra_centre, valve, valve + 16.0 * frame[0] - 4.0 * frame[1]], [14.0, 15.0, 13.0])
    tubes += split(points, radii, index[1], RA, RV)
    tubes += stubs(ellipsoids[RA_BODY])
    line = ra_centre + ra_semi * np.array([(0.0, 0.3, 0.4), (-0.15, 0.75, 0.75), (-0.5, 1.0, 0.95)])
    points, radii, _ = spline(line, [12.0, 9.5, 6.0])
    tubes.append(Tube(RA, points, radii))
    return tubes


def _pose(p, size):
    x, y, z = np.eye(3)
    rotation = turn(z, p["turn_z_deg"]) @ turn(y, p["turn_y_deg"]) @ turn(x, p["turn_x_deg"])
    return Pose(np.ascontiguousarray(rotation.T / size), p["translation"], p["waves"], WARP_WAVELENGTH_MM)


def _sphere(n):
    """(n, 3) points spread over the unit sphere (Fibonacci)."""
    i = np.arange(n) + 0.5
    z, phi = 1 - 2 * i / n, np.pi * (1 + 5**0.5) * i
    return np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], 1)


def extent_of(geometry):
    """(P, 3) world points that bound the heart: on the ellipsoids where no plane cuts them, and round the tubes."""
    segments = geometry.segments
    sphere = _sphere(300)
    clouds = []
    for body, valve, sign in (
        (LV_EPI, MITRAL, 1),
        (RV_BODY, TRICUSPID, 1),
        (LA_BODY, MITRAL, -1),
        (RA_BODY, TRICUSPID, -1),
    ):
        e, plane = geometry.ellipsoids[body], geometry.planes[valve]
        points = np.linalg.solve(e["axes"], (sphere * e["semi_axes"]).T).T + e["centre"]
        clouds.append(world_of(points[sign * (points @ plane["normal"] - plane["offset"]) > -2], geometry.pose))
    directions = _sphere(60)
    for end in ("start", "end"):
        points = segments[end][:, None] + segments[f"{end}_radius"][:, None, None] * directions
        outside = np.einsum("spd,sd->sp", points, segments[f"{end}_normal"]) - segments[f"{end}_offset"][:, None]
        clouds.append(points[~(segments[f"{end}_cut"][:, None] & (outside > 1.0))])
    return np.concatenate(clouds)


def epicardial_point(frame: np.ndarray, epi: np.void, a: float, degrees: float) -> np.ndarray:
    """(3,) anatomy mm: on the outside `epi` (LV_EPI) of the left ventricle at depth a (mm from the base) and an angle
    from S towards U."""
    axis_a, semi = epi["centre"] @ frame[0], epi["semi_axes"]
    angle = np.deg2rad(degrees)
    girth = np.sqrt(max(1 - ((a - axis_a) / semi[0]) ** 2, 0.01))
    return frame.T @ np.array([a, girth * semi[1] * np.cos(angle), girth * semi[2] * np.sin(angle)])


def _coronaries(p, frame, geometry, size):
    """SEGMENT (M,): both coronary trees on the outer surface of everything else, in the world.

    A rough path along the grooves is drawn in the heart frame, brought into the world, and moved onto the surface."""
    epi, rv = geometry.ellipsoids[LV_EPI], geometry.ellipsoids[RV_BODY]
    on_lv = partial(epicardial_point, frame, epi)
    axis_a = epi["centre"] @ frame[0]
    semi = epi["semi_axes"]
    rv_centre, rv_semi = rv["centre"], rv["semi_axes"]

    def groove(a, sign):
        """The angle at which the right ventricle leaves the left one at depth a."""
        angles = sign * np.arange(20.0, 121.0, 2.0)
        points = np.stack([on_lv(a, d) for d in angles])
        local = (points - rv_centre) @ rv["axes"].T / rv_semi
        outside = np.flatnonzero((local**2).sum(1) > 1)
        return angles[outside[0]] if len(outside) else angles[-1]

    def on_rv(degrees):
        """A point of the right atrioventricular groove; the angle is from S towards U round the right ventricle."""
        angle = np.deg2rad(degrees)
        return frame.T @ np.array(
            [
                3.0,
                rv_centre @ frame[1] + 0.95 * rv_semi[1] * np.cos(angle),
                rv_centre @ frame[2] + 0.95 * rv_semi[2] * np.sin(angle),
            ]
        )

    root = geometry.segments[geometry.segments["class_id"] == AORTA][3]  # at the sinus

    def ostium(direction):
        """A world point just under the surface of the aortic root."""
        direction = np.asarray(direction, float)
        upward = root["end"] - root["start"]
        direction = direction - upward * (direction @ upward) / (upward @ upward)
        return root["start"] + (root["start_radius"] - 1.5) * direction / np.linalg.norm(direction)

    apex = 0.97 * (axis_a + semi[0])
    depths = np.linspace(10.0, apex - 7.0, 7)
    radius = p["coronary_radius"] * size / 1.04
    world = lambda points: world_of(np.array(points), geometry.pose)  # noqa: E731
    rows = []

    def vessel(path_mm, start_radius, end_radius, keep_last=False):
        line = onto_surface(path_mm, geometry, 0.35 * start_radius, keep_last)
        radii = np.clip(np.linspace(start_radius, end_radius, len(line)), THINNEST_MM, THICKEST_MM)
        rows.append(cones(line, radii, CORONARY))
        return line

    fork = world([on_lv(2.0, 95.0)])[0]
    left, right = ostium((-1.0, -0.15, 0.1)), ostium((0.45, 1.0, 0.1))
    main = vessel(np.stack([left, 0.5 * (left + fork), fork]), 1.15 * radius, 1.05 * radius)
    lad = vessel(
        np.concatenate([main[-1:], world([on_lv(a, groove(a, 1.0)) for a in depths] + [on_lv(apex, 0.0)])]),
        radius,
        0.68 * radius,
    )
    rca = vessel(
        np.concatenate(
            [[right], world([on_rv(d) for d in (62.0, 40.0, 15.0, -10.0, -35.0, -60.0)] + [on_lv(1.0, -72.0)])]
        ),
        1.05 * radius,
        0.75 * radius,
    )
    crux = rca[-1]
    around = world([on_lv(1.0, d) for d in (120.0, 150.0, 180.0, 210.0, 240.0, 265.0)])
    circumflex = vessel(np.concatenate([main[-1:], around, [crux]]), 0.92 * radius, 0.68 * radius, keep_last=True)
    vessel(
        np.concatenate([[crux], world([on_lv(a, groove(a, -1.0)) for a in np.linspace(12.0, apex - 16.0, 5)])]),
        0.78 * radius,
        0.66 * radius,
    )

    def nearest(line, point_mm):
        return line[np.argmin(((line - point_mm) ** 2).sum(1))][None]

    start = world([on_lv(16.0, groove(16.0, 1.0))])
    side = [groove(a, 1.0) + p["diagonal_deg"] * t for a, t in ((28.0, 0.6), (42.0, 0.9), (54.0, 1.1))]
    vessel(
        np.concatenate([nearest(lad, start), world([on_lv(a, d) for a, d in zip((28.0, 42.0, 54.0), side)])]),
        0.78 * radius,
        0.66 * radius,
    )
    lateral = p["marginal_deg"]
    vessel(
        np.concatenate(
            [
                nearest(circumflex, world([on_lv(1.0, lateral - 15.0)])),
                world([on_lv(15.0, lateral - 8), on_lv(32.0, lateral), on_lv(50.0, lateral + 6)]),
            ]
        ),
        0.78 * radius,
        0.66 * radius,
    )
    begin = world([on_rv(p["acute_deg"])])
    inner = np.deg2rad(p["acute_deg"] - 6.0)
    rv_a, rv_s, rv_u = frame @ rv_centre
    free_wall = [
        frame.T
        @ np.array(
            [a, rv_s - 0.28 * (a - rv_a) + k * rv_semi[1] * np.cos(inner), rv_u + k * rv_semi[2] * np.sin(inner)]
        )
        for a, k in ((16.0, 1.0), (32.0, 0.95), (48.0, 0.8))
    ]
    vessel(np.concatenate([nearest(rca, begin), world(free_wall)]), 0.78 * radius, 0.66 * radius)
    return np.concatenate(rows)


def onto_surface(path_mm, geometry, height_mm, keep_last):
    """A smooth line (N, 3) about 2 mm a step through the world, `height_mm` above the surface of the other structures;
    its first point (and its last, if `keep_last`) stays where it is."""
    line, _, _ = spline(path_mm, np.zeros(len(path_mm)), step=2.5)
    fixed = np.zeros(len(line), bool)
    fixed[0], fixed[-1] = True, keep_last
    for round_ in range(14):
        steps = 0.5 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
        value, *sides = union_at((line + steps[:, None]).reshape(-1, 3), geometry, 15.0).reshape(7, -1)
        slope = np.stack(sides[:3], 1) - np.stack(sides[3:], 1)
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
        move = np.clip(height_mm - value, -4.0, 4.0)[:, None] * slope
        line = np.where(fixed[:, None], line, line + move)
        if round_ < 11:
            smooth = line.copy()
            smooth[1:-1] = 0.5 * line[1:-1] + 0.25 * (line[:-2] + line[2:])
            line = np.where(fixed[:, None], line, smooth)
    return line
