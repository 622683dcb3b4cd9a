"""Case files of four bodies: an ellipsoid of one size, a ball of any radius, a ball that is the smaller the larger that
one is, and a ball whose radius follows nothing."""

import numpy as np

from vecset.data.case_file import Case, write_case
from vecset.imaging.frame import Frame

INNER, LINKED, LOOSE, ELLIPSOID = 1, 2, 3, 4
NAMES = ["ball", "linked ball", "loose ball", "ellipsoid"]
UNIT_MM = 13.0
CENTRE_MM = np.array([7.0, -3.0, 40.0])
# centres in UNIT_MM, from that of the first ball
PLACES = {INNER: (0, 0, 0), LINKED: (1.9, 0, 0), LOOSE: (0, -1.9, 0.3), ELLIPSOID: (-0.2, 0.3, 1.7)}
SEMI_AXES = (1.0, 0.7, 0.5)  # of the ellipsoid, in UNIT_MM


def linked_mm(radius_mm):
    """The radius of the linked ball."""
    return 18 - 0.8 * radius_mm


def bodies_case(
    radius_mm,
    loose_mm,
    spacing=(2.0, 2.0, 2.0),
    turn_deg=0.0,
    order=(0, 1, 2),
    flip=(1, 1, 1),
    missing=(),
    annotated=(1, 2, 3, 4),
    turn_body_deg=0.0,
    size=1.0,
):
    """The Case (frame and truth alone) on an image of any axes; turn_body_deg: the bodies
    turned round z; size: factor of all lengths of theirs."""
    a = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag(np.array(flip, float)))[:, order] * np.array(spacing)
    shape = np.ceil(96 * size / np.array(spacing)).astype(int)
    middle_mm = CENTRE_MM + size * UNIT_MM * np.array([0.5, -0.5, 0.5])
    affine[:3, 3] = middle_mm - affine[:3, :3] @ ((shape - 1) / 2 + 0.3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    b = np.deg2rad(turn_body_deg)
    body = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    away = (index @ affine[:3, :3].T + affine[:3, 3] - CENTRE_MM) @ body / (size * UNIT_MM)
    balls_mm = {INNER: radius_mm, LINKED: linked_mm(radius_mm), LOOSE: loose_mm}
    radii = {ELLIPSOID: SEMI_AXES, **{c: r / UNIT_MM for c, r in balls_mm.items()}}
    labels = np.zeros(shape, np.uint8)
    for c in (LOOSE, LINKED, ELLIPSOID, INNER):
        if c not in missing:
            labels[np.linalg.norm((away - PLACES[c]) / radii[c], axis=-1) < 1] = c
    return Case(
        arrays={"surface_points": np.zeros((1, 3), np.float32), "surface_labels": np.ones(1, np.uint8)},
        frame=Frame(affine, shape, middle_mm, 0.95 / (2.6 * size * UNIT_MM)),
        truth_crop=labels,
        truth_origin=np.zeros(3, int),
        meta={
            "classes": 4,
            "class_names": NAMES,
            "annotated_classes": list(annotated),
            "centre_mm": CENTRE_MM.tolist(),
        },
    )


def write_bodies(path, radius_mm, loose_mm, **options):
    """The path of the case file of `bodies_case`."""
    write_case(path, bodies_case(radius_mm, loose_mm, **options))
    return path
