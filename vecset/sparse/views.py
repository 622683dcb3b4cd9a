"""The standard views of cardiac MR, cut out of a whole heart's label map: two long axes and a stack across the short
axis.

What they need is in the label map: LA, LV, RA and RV. A valve's centre is the middle of the voxels of a ventricle that
are nearest to its atrium (within NEAREST_MM of the least distance). So walls that nobody labelled do no harm.

    long axis   from the mitral valve's centre to the apex: the voxel of LV or its myocardium farthest from that centre
    4ch         the plane through the long axis and the tricuspid valve's centre
    2ch         the plane through the long axis at right angles to 4ch (in the clinic it is about 60 degrees)
    sa1, sa2..  planes across the long axis, from half a distance behind the apical end of the ventricles to the mitral
                valve's centre, as a stack is planned in the clinic: the atria are seen in 2ch and 4ch alone

A view shows the label at each pixel's place; the thickness of a slice is not imitated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from vecset.common.errors import InputError
from vecset.imaging.structure_names import class_named

CHAMBERS = ("LA", "LV", "RA", "RV")
APART_MM = 10.0  # between planes across the short axis
PIXEL_MM = 1.5
NEAREST_MM = 2.0
RIM_MM = 10.0  # of a view round the heart
COARSE_MM = 1.5  # of the voxels that views are found by
LEAST_TURN = 0.2  # sine of the angle between the long axis and the way to the tricuspid valve


@dataclass(frozen=True, eq=False)
class View:
    """A plane of a heart. middle_mm (3,): a place in it; axes (3, 3): two unit vectors in it and its normal, as
    columns; low_mm, high_mm (2,): its extent along the first two, from middle_mm."""

    name: str
    middle_mm: np.ndarray
    axes: np.ndarray
    low_mm: np.ndarray
    high_mm: np.ndarray


def standard_views(
    labels: np.ndarray,
    affine: np.ndarray,
    class_names: Sequence[str],
    apart_mm: float = APART_MM,
    where: object = "",
) -> list[View]:
    """The views of a whole heart: 2ch, 4ch, then those across the short axis from the apex on. labels (X, Y, Z) u8;
    affine (4, 4) voxel -> mm. InputError, naming `where`, where it lacks one of the CHAMBERS, or is no heart."""
    ids = {name: class_named(name, class_names) for name in (*CHAMBERS, "Myocardium")}
    places = _places_mm(labels, affine)
    lacking = [name for name in CHAMBERS if not len(places.get(ids[name], ()))]
    if lacking:
        raise InputError.because(where, f"it has no {', '.join(lacking)}", "give whole hearts: views need all chambers")
    la, lv, ra, rv = (places[ids[name]] for name in CHAMBERS)
    mitral, tricuspid = _valve(lv, la), _valve(rv, ra)
    left = np.concatenate([lv, places.get(ids["Myocardium"], lv[:0])])
    apex = left[np.linalg.norm(left - mitral, axis=1).argmax()]
    axis = (apex - mitral) / np.linalg.norm(apex - mitral)
    across = tricuspid - mitral
    turned = across - (across @ axis) * axis
    if np.linalg.norm(turned) < LEAST_TURN * np.linalg.norm(across):
        raise InputError.because(where, "the tricuspid valve lies on the long axis of LV", "check its labels")
    turned /= np.linalg.norm(turned)  # to the right heart
    third = np.cross(axis, turned)
    heart = np.concatenate(list(places.values()))
    along = (np.concatenate([left, rv]) - mitral) @ axis
    stops = np.arange(along.max() - apart_mm / 2, -1e-6, -apart_mm)
    found = [
        _view("2ch", mitral, np.stack([third, axis, turned], 1), heart),
        _view("4ch", mitral, np.stack([axis, turned, third], 1), heart),
    ]
    for number, stop in enumerate(stops, 1):
        found.append(_view(f"sa{number}", mitral + stop * axis, np.stack([turned, third, axis], 1), heart))
    return found


def _view(name, middle_mm, axes, heart_mm):
    inner = (heart_mm - middle_mm) @ axes[:, :2]
    return View(name, middle_mm, axes, inner.min(0) - RIM_MM, inner.max(0) + RIM_MM)


def _places_mm(labels, affine):
    """{class id: (N, 3) mm} of every so many voxels, COARSE_MM apart or a little more."""
    steps = np.maximum(np.floor(COARSE_MM / np.linalg.norm(affine[:3, :3], axis=0) + 1e-6), 1).astype(int)
    index = np.argwhere(labels[tuple(slice(None, None, n) for n in steps)]) * steps
    ids, places = labels[tuple(index.T)], index @ affine[:3, :3].T + affine[:3, 3]
    return {int(c): places[ids == c] for c in np.unique(ids)}


def _valve(ventricle, atrium):
    away = cKDTree(atrium).query(ventricle)[0]
    return ventricle[away <= away.min() + NEAREST_MM].mean(0)


def cut_view(
    labels: np.ndarray, affine: np.ndarray, view: View, pixel_mm: float = PIXEL_MM, shift_mm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What a view shows of labels (X, Y, Z) with affine (4, 4): (I, J, 1) u8, the label of the voxel nearest to each
    pixel's centre, background beyond the image; and the affine (4, 4) that says where it lies, displaced by `shift_mm`
    (2,) along the view's axes (None: where it is)."""
    shape = np.ceil((view.high_mm - view.low_mm) / pixel_mm).astype(int) + 1
    pixels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * pixel_mm + view.low_mm
    places = view.middle_mm + pixels @ view.axes[:, :2].T
    voxel = np.rint((places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < labels.shape)).all(-1)
    shown = np.zeros((*shape, 1), np.uint8)
    shown[..., 0][inside] = labels[tuple(voxel[inside].T)]
    shift_mm = np.zeros(2) if shift_mm is None else np.asarray(shift_mm, float)
    at = np.eye(4)
    at[:3, :3] = view.axes * [pixel_mm, pixel_mm, pixel_mm]
    at[:3, 3] = view.middle_mm + view.axes[:, :2] @ (view.low_mm + shift_mm)
    return shown, at


def draw_shifts(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) unit vectors of random directions: times s mm, the shifts of views in their planes."""
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1)
