"""Synthetic ten-structure hearts as label maps: grid, header, and the defects of real ones as options.

Heart i of a seed depends on (seed, i) and the options alone, not on how many are made or by how many workers. The
shape itself depends on (seed, i) only: the options change the grid and add defects, never the heart.
"""

import gzip
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from scipy import ndimage

from vecset.common.errors import InputError
from vecset.phantom.anatomy import Heart, build_heart, draw_parameters, turn
from vecset.phantom.field import rasterise

MARGIN_MM = 3.0
SPECKS = 25
_SHAPE, _POSE, _MISSING, _CUT, _NOISE = range(5)  # purposes of a random stream


@dataclass(frozen=True)
class PhantomOptions:
    """size (3,) voxels or None: as many as the heart needs; spacing_mm (3,) or None: fitted to the heart;
    oblique_deg: largest angle between image and patient axes; flip: image axes (0..2) that run backwards;
    missing: class id -> fraction of the hearts that lack it; cut: fraction of each axis of the fitted field of view
    that is cut off; noise_mm: standard deviation of the displacement of the outlines (where not 0, SPECKS stray
    voxels are added, too)."""

    size: tuple[int, int, int] | None = (128, 128, 128)
    spacing_mm: tuple[float, float, float] | None = None
    oblique_deg: float = 0.0
    flip: tuple[int, ...] = ()
    missing: dict[int, float] = field(default_factory=dict)
    cut: float = 0.0
    noise_mm: float = 0.0


def heart_of(seed: int, index: int) -> Heart:
    """The `Heart` number `index` of the population `seed`."""
    return build_heart(draw_parameters(np.random.default_rng([seed, index, _SHAPE])))


def make_phantom(seed: int, index: int, options: PhantomOptions = PhantomOptions()) -> tuple[np.ndarray, np.ndarray]:
    """labels (X, Y, Z) uint8 and affine (4, 4), voxel -> mm. Raises InputError if the heart does not fit the grid."""
    heart = heart_of(seed, index)
    axes = _image_axes(np.random.default_rng([seed, index, _POSE]), options)
    affine, shape = _grid(heart.extent_mm, axes, options, f"phantom {index}")
    labels = seal(rasterise(heart.geometry, affine, shape))
    if options.cut:
        labels, affine = _cut(labels, affine, options, np.random.default_rng([seed, index, _CUT]))
    rng = np.random.default_rng([seed, index, _MISSING])
    for class_id, draw in enumerate(rng.random(10), start=1):
        if draw < options.missing.get(class_id, 0.0):
            labels[labels == class_id] = 0
    if options.noise_mm:
        labels = _wobble(
            labels,
            options.noise_mm / np.linalg.norm(affine[:3, :3], axis=0),
            np.random.default_rng([seed, index, _NOISE]),
        )
    return labels, affine


def encode_nifti(labels: np.ndarray, affine: np.ndarray) -> bytes:
    """The bytes of a .nii.gz (uint8, mm, qform and sform set); the same arrays give the same bytes."""
    image = nib.Nifti1Image(labels, affine)
    image.set_data_dtype(np.uint8)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def _image_axes(rng, options):
    """(3, 3): columns are the image axes in the patient."""
    axis = rng.standard_normal(3)
    angle = options.oblique_deg * rng.uniform(0.4, 1.0)
    axes = turn(axis / np.linalg.norm(axis), angle)
    for flipped in options.flip:
        axes[:, flipped] *= -1.0
    return axes


def _grid(extent_mm, axes, options, where):
    """Affine and shape of a grid along `axes`, centred on the heart."""
    along = extent_mm @ axes
    low, high = along.min(0) - MARGIN_MM, along.max(0) + MARGIN_MM
    need_mm = high - low
    if options.spacing_mm is None:
        shape = np.array(options.size)
        spacing = np.full(3, (need_mm / (shape * (1 - options.cut))).max())
        shape_full = np.rint(shape / (1 - options.cut)).astype(int)
    else:
        spacing = np.array(options.spacing_mm, float)
        shape_full = np.ceil(need_mm / spacing).astype(int)
        if options.size is not None:
            shape_full_wanted = np.rint(np.array(options.size) / (1 - options.cut)).astype(int)
            if (shape_full_wanted < shape_full).any():
                raise InputError(
                    where,
                    f"a field of view of at least {np.ceil(need_mm).astype(int).tolist()} mm",
                    f"{options.size} voxels of {spacing.tolist()} mm",
                    "leave out --size or --spacing, or give more voxels",
                )
            shape_full = shape_full_wanted
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ ((low + high) / 2) - affine[:3, :3] @ ((shape_full - 1) / 2)
    return affine, tuple(int(n) for n in shape_full)


def seal(labels: np.ndarray) -> np.ndarray:
    """Closes holes and removes islands of the rasterised heart, in place: enclosed background is given to its most
    frequent neighbour, and so is all of a structure but its largest piece (26-connected). A few voxels each."""
    background, count = ndimage.label(np.pad(labels == 0, 1, constant_values=True))  # piece 1 is the open
    if count > 1:
        _give_away(labels, background[1:-1, 1:-1, 1:-1] > 1)
    for _ in range(2):
        for class_id, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is None:
                continue
            pieces, count = ndimage.label(labels[box] == class_id, np.ones((3, 3, 3)))
            if count > 1:
                islands = np.zeros(labels.shape, bool)
                islands[box] = (pieces > 0) & (pieces != np.bincount(pieces.ravel())[1:].argmax() + 1)
                _give_away(labels, islands, keep_background=True)
    return labels


def _give_away(labels, mask, keep_background=False):
    """Gives voxels of `mask` the most frequent class among their six neighbours outside the mask, from outside in.
    With `keep_background` that class may be background."""
    mask = mask.copy()
    while mask.any():
        at = np.argwhere(mask)
        votes = np.zeros((len(at), 11), int)
        for axis in range(3):
            for step in (-1, 1):
                near = at.copy()
                near[:, axis] = np.clip(near[:, axis] + step, 0, labels.shape[axis] - 1)
                known = ~mask[tuple(near.T)]
                np.add.at(votes, (np.flatnonzero(known), labels[tuple(near[known].T)]), 1)
        if not keep_background:
            votes[:, 0] = 0
        ready = votes.sum(1) > 0
        if not ready.any():
            labels[mask] = 0
            return
        done = at[ready]
        labels[tuple(done.T)] = votes[ready].argmax(1)
        mask[tuple(done.T)] = False


def _cut(labels, affine, options, rng):
    """Crops to a smaller field of view at a random place."""
    shape = np.array(labels.shape)
    if options.size is not None:
        smaller = np.minimum(np.array(options.size), shape)
    else:
        smaller = np.maximum(1, np.rint(shape * (1 - options.cut)).astype(int))
    start = np.floor(rng.random(3) * (shape - smaller + 1)).astype(int)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return np.ascontiguousarray(labels[tuple(slice(s, s + n) for s, n in zip(start, smaller))]), affine


def _wobble(labels, sd_voxel, rng):
    """Displaces the outlines by a random field that is smooth over two voxels, standard deviation `sd_voxel` (3,), and
    adds a few stray voxels beside them."""
    index = np.indices(labels.shape, dtype=np.float32)
    for axis in range(3):
        wave = ndimage.gaussian_filter(rng.standard_normal(labels.shape, dtype=np.float32), 2.0)
        index[axis] += wave * (sd_voxel[axis] / wave.std())
    index = np.rint(index).astype(np.int32)
    for axis in range(3):
        np.clip(index[axis], 0, labels.shape[axis] - 1, out=index[axis])
    labels = labels[tuple(index)]
    shell = np.argwhere((labels == 0) & (ndimage.grey_dilation(labels, size=(7, 7, 7)) > 0))
    for at in shell[rng.permutation(len(shell))[:SPECKS]]:  # stray voxels beside the heart, as annotators leave them
        near = labels[tuple(slice(max(0, i - 3), i + 4) for i in at)]
        labels[tuple(at)] = near.max()
    return labels
