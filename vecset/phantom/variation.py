"""Synthetic hearts made less alike, and more like label maps of real ones: deformed, with walls between their pools,
with vessels that end anywhere, with rough outlines, with the structures that a data set labels and no others.

Measured on label maps of real hearts (docs/log.md): 2 to 4 mm of background lie between pools whose walls nobody
labelled, where synthetic hearts touch; aorta and PA end where the field of view or the annotator ended them. What is
drawn depends on the random stream and the amount alone, and every number is drawn whether it is used or not.
"""

from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage
from scipy.linalg import expm

from vecset.common.compiled import njit
from vecset.phantom.precedence import AORTA, CORONARY, LA, LAA, LV, MYO, PA, PV, RA, RV
from vecset.phantom.sealing import close_rims

SVC, IVC = 11, 12  # of sixteen structures
VERSION = 2  # changes whenever the same options give another heart
STRETCH = 0.08  # standard deviation of the logarithm of the scale along an axis, of amount 1
SHEAR = 0.04  # likewise, of what mixes two axes
WAVES = 16  # plane waves of the smooth displacement
WAVELENGTH_MM = (50.0, 130.0)
DISPLACED_MM = (1.0, 3.0)  # standard deviation of the displacement along an axis
WALL_MM = (0.5, 3.5)
WALLED_SHARE = 0.8  # of the hearts have walls of background, of amount 1
CUT_SHARE = 0.6  # of the vessels that can be cut are
KEPT_SHARE = (0.15, 0.9)  # of the length of a cut vessel
ROUGH_SHARE = 0.5  # of the hearts have rough outlines
ROUGH_VOXELS = (0.2, 0.6)  # standard deviation of the displacement of rough outlines
THIN_WEIGHT = 1.6  # of coronaries where labels are weighed, for they are about as thin as the voxels
STILL_VOXELS = 4.0  # from coronaries, within which outlines are displaced less, and not at all beside them
CORONARIES = 2  # pieces that are kept
MOST_REMOVED = 0.5  # a wall that would take more of a structure than this is not made

# {pool, other structure: share of the hearts with walls that have one here}. Pools that open into each other have none
_WALLS = {
    (LA, RA): 0.85,
    (LA, AORTA): 0.85,
    (LA, PA): 0.85,
    (LA, MYO): 0.6,
    (RA, AORTA): 0.85,
    (RA, PA): 0.85,
    (RA, MYO): 0.6,
    (RV, AORTA): 0.85,
    (RV, LA): 0.85,
    (RV, MYO): 0.15,
    (AORTA, PA): 0.7,
    (LAA, PA): 0.85,
    (LAA, AORTA): 0.85,
    (LAA, MYO): 0.5,
    (PV, RA): 0.7,
    (PV, PA): 0.7,
    (PV, AORTA): 0.7,
    (PV, LAA): 0.7,
}
# Structures that a data set labels, and the share of the hearts of amount 1 that have these alone
_LABELLED = (
    ((MYO, LA, LV, RA, RV, AORTA, PA), 0.25),  # whole-heart CT and MR
    ((MYO, LA, LV, RA, RV), 0.06),
    ((MYO, LV, RV), 0.04),  # short-axis cine MR, of its structures
    ((MYO, LA, LV, RA, RV, AORTA, PA, LAA, PV), 0.1),  # no coronaries
)
_ROOTS = {AORTA: LV, PA: RV, SVC: RA, IVC: RA}  # what a vessel that can be cut begins at


@dataclass(frozen=True)
class Deformation:
    """A smooth map of the world that keeps `centre_mm` (3,) nearly where it is. A point of the deformed heart at p lay
    at `centre + inverse @ (p - centre) + displacement(p)`: (3, 3) inverse of the stretch, WAVES waves with their
    directions (W, 3) in radian per mm, phases (W,) and amplitudes (W, 3) in mm."""

    centre_mm: np.ndarray
    inverse: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitudes_mm: np.ndarray

    def source_of(self, points_mm: np.ndarray) -> np.ndarray:
        """(..., 3) where the points (..., 3) of the deformed heart lay before."""
        points_mm = np.asarray(points_mm, np.float64)
        moved = np.sin(points_mm @ self.waves.T + self.phases) @ self.amplitudes_mm
        return (points_mm - self.centre_mm) @ self.inverse.T + self.centre_mm + moved

    def target_of(self, points_mm: np.ndarray) -> np.ndarray:
        """(N, 3) where the points (N, 3) of the heart lie when it is deformed: the inverse of `source_of`, by Newton
        steps with the stretch alone as slope, which suffices as waves are long beside what they move."""
        points_mm = np.asarray(points_mm, np.float64)
        stretch = np.linalg.inv(self.inverse)
        found = (points_mm - self.centre_mm) @ stretch.T + self.centre_mm
        for _ in range(60):
            step = (points_mm - self.source_of(found)) @ stretch.T
            found = found + step
            if np.abs(step).max(initial=0.0) < 1e-4:
                break
        return found


def draw_deformation(rng: np.random.Generator, amount: float, centre_mm: np.ndarray) -> Deformation:
    """A Deformation of `amount` (0: none, 1: as real hearts differ beside synthetic ones) about `centre_mm` (3,)."""
    raw = rng.standard_normal((3, 3))
    logarithm = np.where(np.eye(3, dtype=bool), raw * STRETCH, (raw + raw.T) / np.sqrt(2) * SHEAR)
    directions = rng.standard_normal((WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths_mm = rng.uniform(*WAVELENGTH_MM, (WAVES, 1))
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    amplitudes = rng.standard_normal((WAVES, 3))
    sd_mm = rng.uniform(*DISPLACED_MM)
    # a sine of amplitude a has the variance a^2 / 2
    amplitudes *= amount * sd_mm / np.sqrt((amplitudes**2).sum(0) / 2)
    return Deformation(
        np.asarray(centre_mm, np.float64),
        expm(-amount * logarithm),
        directions * (2 * np.pi / lengths_mm),
        phases,
        amplitudes,
    )


def deform(
    labels: np.ndarray,
    affine: np.ndarray,
    deformation: Deformation,
    target_affine: np.ndarray,
    target_shape: tuple[int, int, int],
) -> np.ndarray:
    """`target_shape` u8: the label map `labels` (X, Y, Z) u8 with voxel -> mm `affine` (4, 4), deformed, on another
    grid. Each voxel gets the label with the largest sum of trilinear weights among the eight voxels round the place
    that it came from: half-way between two structures the border stays smooth, where the nearest voxel has steps.
    Coronaries weigh THIN_WEIGHT times as much."""
    # the place is smooth, so it is computed on every fourth voxel and interpolated between
    knots = [np.minimum(np.arange(0, n + 4, 4), n + 3) for n in target_shape]
    coarse = np.stack(np.meshgrid(*knots, indexing="ij"), axis=-1)
    source_mm = deformation.source_of(coarse @ target_affine[:3, :3].T + target_affine[:3, 3])
    inverse = np.linalg.inv(affine)
    source = np.ascontiguousarray((source_mm @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.float32))
    out = np.zeros(target_shape, np.uint8)
    factors = np.ones(256, np.float32)
    factors[CORONARY] = THIN_WEIGHT
    _sample(labels, source, factors, out)
    return out


@njit
def _sample(labels, source, factors, out):
    """Writes into `out` the labels at the places that `source` (A, B, C, 3) gives of every fourth voxel; the weights of
    each label times `factors` (256,)."""
    shape = labels.shape
    at = np.empty(3, np.float32)
    low = np.empty(3, np.int64)
    part = np.empty(3, np.float32)
    weights = np.zeros(256, np.float32)
    corners = np.empty(8, np.uint8)
    for i in range(out.shape[0]):
        u, fu = i // 4, np.float32(i % 4) / np.float32(4)
        for j in range(out.shape[1]):
            v, fv = j // 4, np.float32(j % 4) / np.float32(4)
            for k in range(out.shape[2]):
                w, fw = k // 4, np.float32(k % 4) / np.float32(4)
                inside = True
                for a in range(3):
                    c00 = source[u, v, w, a] * (1 - fu) + source[u + 1, v, w, a] * fu
                    c10 = source[u, v + 1, w, a] * (1 - fu) + source[u + 1, v + 1, w, a] * fu
                    c01 = source[u, v, w + 1, a] * (1 - fu) + source[u + 1, v, w + 1, a] * fu
                    c11 = source[u, v + 1, w + 1, a] * (1 - fu) + source[u + 1, v + 1, w + 1, a] * fu
                    at[a] = (c00 * (1 - fv) + c10 * fv) * (1 - fw) + (c01 * (1 - fv) + c11 * fv) * fw
                    low[a] = np.int64(np.floor(at[a]))
                    part[a] = at[a] - low[a]
                    inside &= 0 <= low[a] < shape[a] - 1
                if not inside:
                    continue
                first = labels[low[0], low[1], low[2]]
                same = True
                for corner in range(8):
                    x, y, z = corner & 1, (corner >> 1) & 1, corner >> 2
                    corners[corner] = labels[low[0] + x, low[1] + y, low[2] + z]
                    same &= corners[corner] == first
                if same:
                    out[i, j, k] = first
                    continue
                for corner in range(8):
                    x, y, z = corner & 1, (corner >> 1) & 1, corner >> 2
                    weights[corners[corner]] += factors[corners[corner]] * (
                        (part[0] if x else 1 - part[0])
                        * (part[1] if y else 1 - part[1])
                        * (part[2] if z else 1 - part[2])
                    )
                best, most = np.uint8(0), np.float32(-1.0)
                for corner in range(8):
                    label = corners[corner]
                    if weights[label] > most or (weights[label] == most and label < best):
                        best, most = label, weights[label]
                for corner in range(8):
                    weights[corners[corner]] = 0.0
                out[i, j, k] = best


def vary_labels(
    labels: np.ndarray, affine: np.ndarray, rng: np.random.Generator, amount: float, structures: int
) -> np.ndarray:
    """Labels (X, Y, Z) u8 with walls, cut vessels, rough outlines and fewer structures, each in a share of the hearts
    that grows with `amount`; `affine` (4, 4) voxel -> mm; `structures` 10 or 16 (whose LA and RV have walls of their
    own, which are left out with the other structures beyond the ten)."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    labels = labels.copy()
    draws = rng.random(2)
    mean_mm = rng.uniform(*WALL_MM)
    for (pool, other), share in _WALLS.items():
        drawn, wall_mm = rng.random(), mean_mm * rng.uniform(0.6, 1.4)
        has_wall = structures == 16 and {pool, other} & {LA, RV}
        if draws[0] < WALLED_SHARE * amount and drawn < share and not has_wall:
            _wall(labels, spacing_mm, pool, other, wall_mm)
    for vessel, root in _ROOTS.items():
        drawn, kept, tilt = rng.random(), rng.uniform(*KEPT_SHARE), rng.standard_normal(3)
        if drawn < CUT_SHARE * amount:
            _cut_vessel(labels, affine, vessel, root, kept, tilt)
    sd_voxel, stream = rng.uniform(*ROUGH_VOXELS), rng.spawn(1)[0]
    if draws[1] < ROUGH_SHARE * amount:
        labels = displace_outlines(labels, np.full(3, sd_voxel), stream, still=labels == CORONARY)
    if structures == 16:
        close_rims(labels)
    for c in range(1, structures + 1):
        _keep_largest_pieces(labels, c, CORONARIES if c == CORONARY else 1)
    drawn = rng.random() / amount
    for labelled, share in _LABELLED:
        if drawn < share:
            return np.where(np.isin(labels, labelled), labels, np.uint8(0))
        drawn -= share
    return labels


def displace_outlines(
    labels: np.ndarray, sd_voxel: np.ndarray, rng: np.random.Generator, still: np.ndarray | None = None
) -> np.ndarray:
    """Labels (X, Y, Z) whose outlines are displaced by a random field that is smooth over two voxels, of standard
    deviation `sd_voxel` (3,); `still` (X, Y, Z) bool: voxels that stay, and beside which the field begins at 0."""
    amount = 1.0
    if still is not None and still.any():
        amount = edt.edt(np.ascontiguousarray(~still), parallel=1) - 1
        amount = np.clip(amount / STILL_VOXELS, 0, 1, out=amount)
    index = np.indices(labels.shape, dtype=np.float32)
    for axis in range(3):
        wave = ndimage.gaussian_filter(rng.standard_normal(labels.shape, dtype=np.float32), 2.0)
        index[axis] += amount * wave * (sd_voxel[axis] / wave.std())
    index = np.rint(index).astype(np.int32)
    for axis in range(3):
        np.clip(index[axis], 0, labels.shape[axis] - 1, out=index[axis])
    return labels[tuple(index)]


def _box(mask, grow):
    """Slices round `mask` (X, Y, Z) bool, `grow` (3,) voxels larger; None where it is empty."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return None
    return [(max(s.start - g, 0), min(s.stop + g, n)) for s, g, n in zip(found[0], grow, mask.shape)]


def _wall(labels, spacing_mm, pool, other, wall_mm):
    """Makes `wall_mm` of background between two structures, half of it on each side; all on the pool's side beside the
    myocardium, which is a wall itself. In place."""
    grow = np.ceil(wall_mm / spacing_mm).astype(int) + 1
    boxes = [_box(labels == c, grow) for c in (pool, other)]
    if None in boxes:
        return
    both = [(max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(*boxes)]
    if any(low >= high for low, high in both):
        return
    part = labels[tuple(slice(*span) for span in both)]
    near_mm = wall_mm if other == MYO else wall_mm / 2
    removed = []
    for here, there in ((pool, other), (other, pool)):
        if here == MYO or not (part == there).any():
            continue
        away_mm = edt.edt(np.ascontiguousarray(part != there), anisotropy=tuple(spacing_mm), parallel=1)
        # distances are to the centres of voxels: the border is half a voxel nearer
        removed.append((here, (part == here) & (away_mm - spacing_mm.min() / 2 <= near_mm)))
    if any(mask.sum() > MOST_REMOVED * np.count_nonzero(labels == here) for here, mask in removed):
        return
    for here, mask in removed:
        part[mask] = 0
        if mask.any():
            _keep_largest_pieces(labels, here)


def _keep_largest_pieces(labels, class_id, kept=1):
    """Takes away all but the `kept` largest pieces of a class. In place."""
    mask = labels == class_id
    box = _box(mask, (0, 0, 0))
    if box is None:
        return
    box = tuple(slice(*span) for span in box)
    pieces, count = ndimage.label(mask[box], np.ones((3, 3, 3), bool))
    if count > kept:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        labels[box][(pieces > 0) & ~np.isin(pieces, np.argsort(sizes)[-kept:])] = 0


def _cut_vessel(labels, affine, vessel, root, kept, tilt):
    """Takes away what of `vessel` lies beyond a plane across it, so that about the share `kept` of it stays: the part
    that hangs together with where it leaves `root`. In place; nothing where one of the two is missing."""
    at = np.argwhere(labels == vessel)
    if not len(at) or not (labels == root).any():
        return
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    away_mm = edt.edt(np.ascontiguousarray(labels != root), anisotropy=tuple(spacing_mm), parallel=1)[tuple(at.T)]
    points_mm = at @ affine[:3, :3].T
    begin_mm = points_mm[away_mm <= np.quantile(away_mm, 0.02)].mean(0)
    axis = points_mm[away_mm <= np.quantile(away_mm, 0.3)].mean(0) - begin_mm
    axis = axis / (np.linalg.norm(axis) + 1e-6) + 0.3 * tilt / np.linalg.norm(tilt)
    along = (points_mm - begin_mm) @ axis
    stays = along <= np.quantile(along, kept)
    mask = np.zeros(labels.shape, bool)
    mask[tuple(at[stays].T)] = True
    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3), bool))
    of_root = pieces[tuple(at[stays][np.argmin(((points_mm[stays] - begin_mm) ** 2).sum(1))])]
    labels[(labels == vessel) & (pieces != of_root)] = 0
