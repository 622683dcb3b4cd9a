"""From a code to a label map: the field of one heart, decoded coarse to fine.

A label map voxel is background where the distance is >= 0, else the class of the largest logit. Most voxels of an image
are far from any surface, so a coarse grid of cells is decoded first, and only the cells that the surface or a class
border may cross are halved and decoded again, down to single voxels. Four safeguards:

1  A cell is left alone only if |distance| > L x half its diagonal, L = 1.25 x the largest gradient norm that finite
   differences show round it, two cells far, on its own grid (never less than the median of the grid).
2  A cell inside the heart is halved too where a neighbour through a face holds another class (one through an edge or a
   corner costs a tenth more queries and was not needed by the models tried, see 3), or where the lead of its largest logit
   could be lost within the cell at the slope seen between it and its neighbours.
3  Where a decoded voxel differs from a neighbour that was not decoded, that neighbour is decoded, and so on: a border
   that leaves the decoded zone is followed.
4  Half a percent of the voxels that were left alone is decoded. One that differs means that the bounds do not hold
   for this field (an untrained one, say), and the whole heart is decoded voxel by voxel. So it is where hardly any were
   left alone: noise looks like that, and half a percent of a few voxels is no check.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vecset.common.errors import InputError

COARSE_VOXELS = 8  # edge of the first cells, in voxels of the smallest spacing
LIPSCHITZ_MARGIN = 1.25
REACH = 5  # cells along each axis whose gradients count for the one in the middle
CLOSE_LOGITS = 1.0  # a lead below this (a factor e in odds) is never trusted over a whole cell
CHECKED_SHARE = 0.005
LEAST_SKIPPED = 0.1  # of the voxels; where coarse to fine leaves fewer alone, these are decoded, too
CHUNK = 8192  # activations that stay in the cache: a quarter less time than 32768 on a CPU of two cores


class HeartField:
    """The field of one heart: its code expanded once (latent stack, keys and values), then queried `chunk` points at a
    time, which bounds the memory. `queries` counts the points asked for, `fallbacks` the label maps that were decoded
    voxel by voxel in the end, because coarse to fine was not safe.

    model: `expand(latents_BML)` and `field(context, queries_BQ3)`, as in docs/design.md; latents_ML: (M, L) or (1, M, L).
    calibration: a `Calibration` (inference/calibration.py) that all values go through, or None."""

    def __init__(self, model, latents_ML, chunk=CHUNK, device=None, calibration=None):
        self.calibration = calibration
        self.model, self.chunk, self.device = model, int(chunk), torch.device(device or latents_ML.device)
        self.queries = self.fallbacks = 0
        latents_ML = latents_ML.to(self.device)
        with torch.inference_mode():
            self._context = model.process_latents(latents_ML if latents_ML.ndim == 3 else latents_ML.unsqueeze(0))

    @torch.inference_mode()
    def _query(self, points_unit):
        self.queries += len(points_unit)
        points_Q3 = torch.from_numpy(np.ascontiguousarray(points_unit, np.float32)).to(self.device)
        sdf_BQ, logits_BQC = self.model.decode(self._context, points_Q3.unsqueeze(0))
        if not (torch.isfinite(sdf_BQ).all() and torch.isfinite(logits_BQC).all()):
            raise InputError(
                "--checkpoint",
                "a model with finite outputs",
                "distances or logits that are not",
                "train again, or take an earlier checkpoint",
            )
        sdf_Q, logits_QC = sdf_BQ[0].float(), logits_BQC[0].float()
        return self.calibration.apply(sdf_Q, logits_QC) if self.calibration else (sdf_Q, logits_QC)

    def values(self, points_unit):
        """(Q, 3) points in unit -> distance (Q,) f32 in unit, logits (Q, C) f32."""
        starts = range(0, len(points_unit), self.chunk)
        parts = [self._query(points_unit[start : start + self.chunk]) for start in starts]
        return (
            np.concatenate([sdf.cpu().numpy() for sdf, _ in parts]),
            np.concatenate([logits.cpu().numpy() for _, logits in parts]),
        )

    def classes(self, indices, to_unit):
        """Distance (Q,) f32 in unit, best class (Q,) u8 (1..C) and its lead over the next (Q,) f32, at grid positions.

        `indices`: (Q,) flat indices of a grid; to_unit(indices) -> (Q, 3) points in unit, called per chunk."""
        sdf = np.empty(len(indices), np.float32)
        best = np.empty(len(indices), np.uint8)
        lead = np.empty(len(indices), np.float32)
        for start in range(0, len(indices), self.chunk):
            part = slice(start, start + self.chunk)
            sdf_Q, logits_QC = self._query(to_unit(indices[part]))
            if logits_QC.shape[1] > 1:
                two, order = logits_QC.topk(2, dim=1)
                best_Q, lead_Q = order[:, 0], two[:, 0] - two[:, 1]
            else:
                best_Q, lead_Q = torch.zeros_like(sdf_Q, dtype=torch.long), torch.full_like(sdf_Q, torch.inf)
            sdf[part], lead[part] = sdf_Q.cpu().numpy(), lead_Q.cpu().numpy()
            best[part] = (best_Q + 1).to(torch.uint8).cpu().numpy()
        return sdf, best, lead


def with_spacing(frame, spacing_mm):
    """The `Frame` of a cubic grid of `spacing_mm` along the axes of `frame`, over the same field of view."""
    old = frame.spacing_mm
    shape = np.maximum(np.ceil(np.array(frame.shape) * old / spacing_mm - 1e-6), 1).astype(int)
    affine = np.array(frame.affine)
    affine[:3, :3] *= spacing_mm / old
    affine[:3, 3] = frame.voxel_to_mm(0.5 * spacing_mm / old - 0.5)  # the outer corners of both first voxels meet
    return type(frame)(affine, shape, frame.centre_mm, frame.scale)


@dataclass
class Decoded:
    """labels (X, Y, Z) u8 on the grid; queries: points asked of the model; voxels: those of the grid inside the unit
    cube, what dense decoding would ask; skipped: those of them that coarse to fine left alone; checked, missed: how
    many of the skipped were decoded as a check, and how many of these differed; dense: whether the whole heart was
    decoded voxel by voxel in the end."""

    labels: np.ndarray
    queries: int
    voxels: int
    skipped: int = 0
    checked: int = 0
    missed: int = 0
    dense: bool = False


def decode_label_map(model, code, frame, chunk=CHUNK, device=None, coarse=COARSE_VOXELS, seed=0):
    """The label map of `code` (M, L) on `frame`'s grid: see `Decoded`. Voxels outside the unit cube are background.
    `coarse`: edge of the first cells in voxels, a power of two; 1 decodes densely. `seed`: of the check."""
    return decode_field(HeartField(model, code, chunk, device), frame, coarse, seed)


def decode_field(field, frame, coarse=COARSE_VOXELS, seed=0):
    """`decode_label_map` for a `HeartField`."""
    before = field.queries
    grid = _Grid(frame)
    box_labels = np.zeros(grid.shape, np.uint8)
    decoded = Decoded(np.zeros(frame.shape, np.uint8), 0, 0)
    if box_labels.size:
        evaluated = _coarse_to_fine(field, grid, coarse, box_labels) if coarse > 1 else None
        for flat, inside in grid.slabs():
            decoded.voxels += int(inside.sum())
            if evaluated is not None:
                outside = flat[~inside]
                box_labels.ravel()[outside], evaluated.ravel()[outside] = 0, True
        if evaluated is not None:
            decoded.skipped = evaluated.size - int(np.count_nonzero(evaluated))
            decoded.checked, decoded.missed = _check(field, grid, box_labels, ~evaluated, decoded.skipped, seed)
        decoded.dense = evaluated is None or decoded.missed > 0 or decoded.skipped < LEAST_SKIPPED * decoded.voxels
        if decoded.dense:
            field.fallbacks += evaluated is not None
            for flat, inside in grid.slabs():
                rest = inside if evaluated is None else inside & ~evaluated.ravel()[flat]  # the others are exact
                _decode_voxels(field, grid, flat[rest], box_labels)
        decoded.labels[grid.box] = box_labels
    decoded.queries = field.queries - before
    return decoded


class _Grid:
    """The voxels of `frame` in the box that holds the unit cube: `box` (slices of the whole grid), `shape`, and their
    positions in unit. Cells of a level with strides s cover s voxels along each axis; their centre is decoded."""

    def __init__(self, frame):
        corners_unit = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
        corners_voxel = frame.unit_to_voxel(corners_unit)
        first = np.maximum(np.ceil(corners_voxel.min(0) - 1e-6), 0).astype(int)
        last = np.minimum(np.floor(corners_voxel.max(0) + 1e-6), np.array(frame.shape) - 1).astype(int)
        self.shape = tuple(int(n) for n in np.maximum(last - first + 1, 0))
        self.box = tuple(slice(a, a + n) for a, n in zip(first, self.shape))
        self.axes_unit = frame.affine[:3, :3] * frame.scale  # column a: one voxel along axis a
        self.origin_unit = frame.voxel_to_unit(first.astype(np.float64))
        self.spacing_unit = frame.spacing_mm * frame.scale

    def strides(self, level):
        """(3,) voxels per cell: `level` along the finest axis, fewer where the spacing is larger, powers of two."""
        finest = self.spacing_unit.min()
        wanted = np.log2(level * finest / self.spacing_unit)
        return tuple(int(2 ** max(0, round(float(w)))) for w in wanted)

    def cells(self, strides):
        return tuple(-(-n // s) for n, s in zip(self.shape, strides))

    def half_diagonal_unit(self, strides):
        """Largest distance of a voxel centre in a cell from the cell's centre."""
        return float(np.linalg.norm((np.array(strides) - 1) / 2 * self.spacing_unit))

    def centres_unit(self, flat, cells, strides):
        """(Q, 3) f32 centres of the cells with flat index `flat` (Q,) in a level of `cells` (3,)."""
        index = np.stack(np.unravel_index(flat, cells), -1)
        voxel = index * np.array(strides) + (np.array(strides) - 1) / 2
        return (voxel @ self.axes_unit.T + self.origin_unit).astype(np.float32)

    def voxels_unit(self, flat):
        return self.centres_unit(flat, self.shape, (1, 1, 1))

    def slabs(self):
        """Slab by slab along the first axis: flat indices and, for each, whether the voxel is in the unit cube."""
        size = self.shape[1] * self.shape[2]
        for start in range(self.shape[0]):
            flat = np.arange(start * size, (start + 1) * size)
            yield flat, _in_cube(self.voxels_unit(flat))


def _in_cube(points_unit, margin=0.0):
    return (np.abs(points_unit) <= 1 + margin).all(-1)


def _decode_voxels(field, grid, flat, labels):
    sdf, best, _ = field.classes(flat, grid.voxels_unit)
    labels.ravel()[flat] = np.where(sdf < 0, best, 0)


def _coarse_to_fine(field, grid, coarse, labels):
    """Fills `labels`; returns a bool mask of the voxels that were decoded themselves."""
    level = coarse
    strides = grid.strides(level)
    cells = grid.cells(strides)
    half_unit = grid.half_diagonal_unit(strides)
    everything = np.arange(int(np.prod(cells)))
    parts = np.array_split(everything, max(1, len(everything) // (1 << 20)))
    active = np.concatenate([_in_cube(grid.centres_unit(p, cells, strides), half_unit) for p in parts])
    sdf = np.full(cells, np.inf, np.float32)
    best = np.zeros(cells, np.uint8)
    lead = np.full(cells, np.inf, np.float32)
    todo = everything[active]
    while True:
        new = field.classes(todo, lambda flat: grid.centres_unit(flat, cells, strides))
        for target, values in zip((sdf, best, lead), new):
            target.ravel()[todo] = values
        decoded = np.zeros(cells, bool)
        decoded.ravel()[todo] = True
        if max(strides) == 1:
            break
        step_unit = np.array(strides) * grid.spacing_unit
        half_unit = grid.half_diagonal_unit(strides)
        bound = _local_bound(sdf, decoded, step_unit)
        refine = decoded & ((np.abs(sdf) <= bound * half_unit) | _class_border(sdf, best, lead, half_unit, step_unit))
        level //= 2
        finer = grid.strides(level)
        factors = tuple(s // f for s, f in zip(strides, finer))
        strides, cells = finer, grid.cells(finer)
        refine, sdf, best, lead = (_split(array, factors, cells) for array in (refine, sdf, best, lead))
        todo = np.flatnonzero(refine)
        del refine
    np.copyto(labels, np.where(sdf < 0, best, 0))
    _follow_borders(field, grid, todo, labels, decoded)
    return decoded


def _split(array, factors, cells):
    """Every cell's value for the cells that it is split into; `cells` cuts what reaches beyond the grid."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            array = np.repeat(array, factor, axis)
    return np.ascontiguousarray(array[tuple(slice(n) for n in cells)])


def _local_bound(sdf, decoded, step_unit):
    """(X, Y, Z) f32: LIPSCHITZ_MARGIN x the largest gradient norm within REACH cells, or the median of all where that
    is larger. Norms by forward differences between decoded cells; the image axes are at right angles."""
    squares = np.zeros(sdf.shape, np.float32)
    with np.errstate(invalid="ignore"):
        for axis in range(3):
            pair = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
            after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
            slope = np.where(decoded[pair] & decoded[after], (sdf[after] - sdf[pair]) / np.float32(step_unit[axis]), 0)
            squares[pair] += slope**2
    norms = np.sqrt(squares, out=squares)
    least = np.median(norms[norms > 0]) if norms.any() else 0.0
    return LIPSCHITZ_MARGIN * np.maximum(ndimage.maximum_filter(norms, REACH, mode="nearest"), np.float32(least))


def _class_border(sdf, best, lead, half_unit, step_unit):
    """Bool per cell: inside, and a class border may cross it (safeguard 2)."""
    inside = sdf < 0
    where = ndimage.find_objects(inside.astype(np.uint8))
    border = np.zeros(sdf.shape, bool)
    if not where:
        return border
    around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where[0])
    inside, best, lead = inside[around], best[around], lead[around]
    faces = {"footprint": ndimage.generate_binary_structure(3, 1), "mode": "nearest"}
    highest = ndimage.maximum_filter(np.where(inside, best, 0), **faces)
    lowest = ndimage.minimum_filter(np.where(inside, best, 255), **faces)
    most = ndimage.maximum_filter(np.where(inside, lead, -np.inf), **faces)
    least = ndimage.minimum_filter(np.where(inside, lead, np.inf), **faces)
    with np.errstate(invalid="ignore"):  # one class: every lead is infinite
        change = LIPSCHITZ_MARGIN * np.maximum(most - lead, lead - least) * (half_unit / step_unit.min())
        border[around] = inside & ((highest != lowest) | (lead <= np.maximum(change, CLOSE_LOGITS)))
    return border


def _follow_borders(field, grid, decoded_flat, labels, decoded):
    """Safeguard 3: decodes voxels that differ from a decoded neighbour until there are none. `labels`,
    `decoded`: (X, Y, Z), both brought up to date."""
    flat_labels, flat_decoded = labels.ravel(), decoded.ravel()
    front = decoded_flat
    while len(front):
        found = []
        for part in np.array_split(front, max(1, len(front) // (1 << 20))):
            index = np.unravel_index(part, labels.shape)
            for axis in range(3):
                step = int(np.prod(labels.shape[axis + 1 :]))
                for sign, possible in ((-1, index[axis] > 0), (1, index[axis] < labels.shape[axis] - 1)):
                    here = part[possible]
                    there = here + sign * step
                    found.append(there[~flat_decoded[there] & (flat_labels[there] != flat_labels[here])])
        front = np.unique(np.concatenate(found))
        front = front[_in_cube(grid.voxels_unit(front))]
        _decode_voxels(field, grid, front, labels)
        flat_decoded[front] = True


def _check(field, grid, labels, left_alone, skipped, seed):
    """Safeguard 4: (voxels checked, how many of them differ). left_alone (X, Y, Z) bool; skipped: how many it holds."""
    wanted = int(np.ceil(CHECKED_SHARE * skipped))
    ranks = np.sort(np.random.default_rng(seed).choice(skipped, wanted, replace=False))  # among those left alone
    checked, before = [], 0
    for first, slab in enumerate(left_alone):  # not all at once: the list of what was left alone may be of 500 MB
        flat = np.flatnonzero(slab)
        low, high = np.searchsorted(ranks, (before, before + len(flat)))
        checked.append(flat[ranks[low:high] - before] + first * slab.size)
        before += len(flat)
    checked = np.concatenate(checked)
    sdf, best, _ = field.classes(checked, grid.voxels_unit)
    return wanted, int(np.count_nonzero(labels.ravel()[checked] != np.where(sdf < 0, best, 0)))
