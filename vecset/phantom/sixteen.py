"""A heart of sixteen structures: the heart of ten, and what is drawn besides by random numbers of its own."""

import numpy as np

from vecset.phantom.anatomy import Heart, draw_normal, extent_of, heart_frame
from vecset.phantom.cavae import venae_cavae
from vecset.phantom.coronary_sinus import coronary_sinus
from vecset.phantom.field import LA_BODY, RA_BODY, RV_BODY
from vecset.phantom.precedence import LA, RV

# name: (mean, standard deviation), drawn as those of anatomy.py; radii and lengths in mm
PARAMETERS = {
    "svc_radius": (9.4, 0.6),
    "svc_length": (46.0, 5.0),
    "svc_lean_x": (-0.05, 0.06),
    "svc_lean_y": (0.0, 0.06),
    "ivc_radius": (11.8, 0.9),
    "ivc_length": (22.0, 3.0),
    "ivc_lean_x": (-0.12, 0.08),
    "ivc_lean_y": (-0.15, 0.08),
    "rv_wall": (3.3, 0.4),
    "la_wall": (2.8, 0.3),
    "sinus_start_deg": (212.0, 7.0),
    "sinus_start_radius": (3.4, 0.2),
    "sinus_end_radius": (5.0, 0.4),
}
HEIGHT_MM = 152.0  # of all, unless the ten structures are higher already


def draw_parameters(rng: np.random.Generator) -> dict:
    """The numbers of PARAMETERS of one heart, by name."""
    z = draw_normal(rng, len(PARAMETERS))
    return {name: mean + sd * z[i] for i, (name, (mean, sd)) in enumerate(PARAMETERS.items())}


def with_sixteen(heart: Heart, parameters: dict) -> Heart:
    """The same `Heart` with venae cavae, coronary sinus and walls, described by `parameters` (of `draw_parameters`)."""
    p, geometry = parameters, heart.geometry
    low, high = heart.extent_mm[:, 2].min(), heart.extent_mm[:, 2].max()
    spare = max(HEIGHT_MM - (high - low), 0.0)  # so that the image hardly becomes coarser for the venae cavae
    walls_mm = np.array([p["rv_wall"], p["la_wall"]])
    cavae = venae_cavae(geometry, geometry.ellipsoids[RA_BODY], p, low - 0.3 * spare, high + 0.7 * spare)
    sinus = coronary_sinus(geometry, heart_frame(heart.parameters), p, p["la_wall"])
    segments = np.concatenate([geometry.segments, cavae, sinus])
    whole = geometry._replace(segments=segments, walls_mm=walls_mm)
    extent = np.concatenate([heart.extent_mm, extent_of(_thickened(whole))])
    return Heart(whole, extent, {**heart.parameters, **p}, heart.extent_mm)


def _thickened(geometry):
    """The geometry with RV and LA as large as they are with their walls."""
    ellipsoids, segments = geometry.ellipsoids.copy(), geometry.segments.copy()
    for body, cls, wall_mm in zip((RV_BODY, LA_BODY), (RV, LA), geometry.walls_mm):
        ellipsoids["semi_axes"][body] += wall_mm
        for end in ("start_radius", "end_radius"):
            segments[end][segments["class_id"] == cls] += wall_mm
    return geometry._replace(ellipsoids=ellipsoids, segments=segments)
