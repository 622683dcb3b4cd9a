"""Synthetic hearts of ten or sixteen structures as label maps: grid, header, and the defects of real ones as options.

Heart i of a seed depends on (seed, i) and the options alone, not on how many are made or by how many workers. The
shape itself depends on (seed, i) only: the options change the grid and add defects, never the heart. With
sixteen structures it is the same heart: all but LA and RV, which give room to their walls, are as they are with ten.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
from scipy import ndimage

from vecset.common.errors import InputError
from vecset.imaging.label_table import name_extension
from vecset.phantom.anatomy import Heart, build_heart, draw_parameters, turn
from vecset.phantom.field import rasterise_parts
from vecset.phantom.sealing import seal, seal_sixteen
from vecset.phantom.sixteen import draw_parameters as draw_more
from vecset.phantom.sixteen import with_sixteen
from vecset.phantom.variation import deform, displace_outlines, draw_deformation, vary_labels

MARGIN_MM = 3.0
SPECKS = 25
WIDER = 1.04  # the room of a heart that is deformed: what bounds it are few points, between which it may bulge
FINER = 0.8  # of the voxel size: the raster of a heart that is deformed afterwards
_SHAPE, _POSE, _MISSING, _CUT, _NOISE, _BEYOND = range(6)  # purposes of a random stream
_VARIATION = 7  # 6 is that of defects.py


@dataclass(frozen=True)
class PhantomOptions:
    """size (3,) voxels or None: as many as the heart needs; spacing_mm (3,) or None: fitted to the heart;
    oblique_deg: largest angle between image and patient axes; flip: image axes (0..2) that run backwards;
    missing: class id -> fraction of the hearts that lack it; cut: fraction of each axis of the fitted field of view
    that is cut off; noise_mm: standard deviation of the displacement of the outlines (where not 0, SPECKS stray
    voxels are added, too); structures: 10 or 16; variation: 0 for hearts as they are drawn, up to 1 (variation.py)."""

    size: tuple[int, int, int] | None = (128, 128, 128)
    spacing_mm: tuple[float, float, float] | None = None
    oblique_deg: float = 0.0
    flip: tuple[int, ...] = ()
    missing: dict[int, float] = field(default_factory=dict)
    cut: float = 0.0
    noise_mm: float = 0.0
    structures: int = 10
    variation: float = 0.0


def heart_of(seed: int, index: int, structures: int = 10) -> Heart:
    """The `Heart` number `index` of the population `seed`, of 10 or 16 structures."""
    heart = build_heart(draw_parameters(np.random.default_rng([seed, index, _SHAPE])))
    if structures == 10:
        return heart
    return with_sixteen(heart, draw_more(np.random.default_rng([seed, index, _BEYOND])))


def make_phantom(seed: int, index: int, options: PhantomOptions = PhantomOptions()) -> tuple[np.ndarray, np.ndarray]:
    """labels (X, Y, Z) uint8 and affine (4, 4), voxel -> mm. Raises InputError if the heart does not fit the grid."""
    heart = heart_of(seed, index, options.structures)
    axes = _image_axes(np.random.default_rng([seed, index, _POSE]), options)
    if options.variation:
        labels, affine = _varied(heart, axes, seed, index, options)
    else:
        affine, shape = _grid(heart, axes, options, f"phantom {index}")
        labels = _rasterised(heart, affine, shape)
    if options.cut:
        labels, affine = _cut(labels, affine, options, np.random.default_rng([seed, index, _CUT]))
    rng = np.random.default_rng([seed, index, _MISSING])
    for class_id, draw in enumerate(rng.random(options.structures), start=1):
        if draw < options.missing.get(class_id, 0.0):
            labels[labels == class_id] = 0
    if options.noise_mm:
        labels = _wobble(
            labels,
            options.noise_mm / np.linalg.norm(affine[:3, :3], axis=0),
            np.random.default_rng([seed, index, _NOISE]),
        )
    return labels, affine


def encode_nifti(labels: np.ndarray, affine: np.ndarray, class_names: Sequence[str] | None = None) -> bytes:
    """The bytes of a .nii.gz (uint8, mm, qform and sform set), with a table of `class_names` in its header where they
    are given; the same arrays and names give the same bytes."""
    image = nib.Nifti1Image(labels, affine)
    if class_names is not None:
        image.header.extensions.append(name_extension(list(class_names)))
    image.set_data_dtype(np.uint8)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def _rasterised(heart, affine, shape):
    labels, beyond = rasterise_parts(heart.geometry, affine, shape)
    labels = seal(labels)
    return seal_sixteen(labels, beyond) if beyond.size else labels


def _varied(heart, axes, seed, index, options):
    """Labels and affine of a heart that is deformed on a raster of its own, and varied on the one that is asked for."""
    rng = np.random.default_rng([seed, index, _VARIATION])
    low, high = heart.ten_mm.min(0), heart.ten_mm.max(0)  # so that sixteen structures are deformed as ten are
    deformation = draw_deformation(rng, options.variation, (low + high) / 2)
    bounds = {}
    for name in ("extent_mm", "ten_mm"):
        points = deformation.target_of(getattr(heart, name))
        middle = (points.min(0) + points.max(0)) / 2
        bounds[name] = middle + WIDER * (points - middle)
    affine, shape = _grid(replace(heart, **bounds), axes, options, f"phantom {index}")
    spacing = FINER * np.linalg.norm(affine[:3, :3], axis=0)
    raster = _grid(heart, axes, PhantomOptions(None, tuple(spacing)), f"phantom {index}")
    labels = deform(_rasterised(heart, *raster), raster[0], deformation, affine, shape)
    return vary_labels(labels, affine, rng, options.variation, options.structures), affine


def _image_axes(rng, options):
    """(3, 3): columns are the image axes in the patient."""
    axis = rng.standard_normal(3)
    angle = options.oblique_deg * rng.uniform(0.4, 1.0)
    axes = turn(axis / np.linalg.norm(axis), angle)
    for flipped in options.flip:
        axes[:, flipped] *= -1.0
    return axes


def _grid(heart, axes, options, where):
    """Affine and shape of a grid along `axes`, centred on the heart. Where only the spacing is given, the voxels of a
    heart of sixteen structures are those of the same heart of ten, and more of them round it."""
    along, ten = heart.extent_mm @ axes, heart.ten_mm @ axes
    low, high = along.min(0) - MARGIN_MM, along.max(0) + MARGIN_MM
    need_mm = high - low
    before = after = np.zeros(3, int)
    if options.spacing_mm is None:
        shape = np.array(options.size)
        spacing = np.full(3, (need_mm / (shape * (1 - options.cut))).max())
        shape_full = np.rint(shape / (1 - options.cut)).astype(int)
    else:
        spacing = np.array(options.spacing_mm, float)
        shape_full = np.ceil(need_mm / spacing).astype(int)
        if options.size is None:
            before = np.ceil((ten.min(0) - along.min(0)) / spacing).astype(int)
            after = np.ceil((along.max(0) - ten.max(0)) / spacing).astype(int)
            low, high = ten.min(0) - MARGIN_MM, ten.max(0) + MARGIN_MM
            shape_full = before + np.ceil((high - low) / spacing).astype(int) + after
        else:
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
    affine[:3, 3] = axes @ ((low + high) / 2) - affine[:3, :3] @ ((shape_full - before - after - 1) / 2 + before)
    return affine, tuple(int(n) for n in shape_full)


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
    labels = displace_outlines(labels, sd_voxel, rng)
    shell = np.argwhere((labels == 0) & (ndimage.grey_dilation(labels, size=(7, 7, 7)) > 0))
    for at in shell[rng.permutation(len(shell))[:SPECKS]]:  # stray voxels beside the heart, as annotators leave them
        near = labels[tuple(slice(max(0, i - 3), i + 4) for i in at)]
        labels[tuple(at)] = near.max()
    return labels
