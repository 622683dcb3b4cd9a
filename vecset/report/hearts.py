"""One heart for the HTML pages: slices of label maps as PNG strips, and surfaces for the 3D view. No torch.

All that a heart is shown by comes from label maps (the truth's and the reconstructions'), in the same way for each, so
that a difference on the page is a difference of the label maps.

Surfaces: marching cubes of each class's mask and Taubin smoothing, as the data preparation does it, in patient mm. A
surface with more triangles than its share of `MAX_TRIANGLES` is thinned by edge collapses of least quadric error
(Garland and Heckbert 1997; fast-simplification); small structures keep all their triangles. The error at a vertex is
its exact distance to the surface of the same class in the other label map, which is not thinned for it. The spread of
samples at a vertex is that at the nearest vertex of the structure's mesh, where reconstruct.py has written it.
"""

import base64
import io
from collections.abc import Mapping
from types import MappingProxyType

import fast_simplification
import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import label

from vecset.geometry.mesh_distance import MeshDistance
from vecset.geometry.surface import class_boxes, crop_foreground, mask_mesh
from vecset.geometry.surface_smoothing import taubin
from vecset.imaging.slice_picture import DIFFERENCE, PLANES, colour_table, difference_kinds, plane_image
from vecset.report.pictures import LEFT_UP, foreground_box, fullest_index, spacing_of, to_ras

MAX_TRIANGLES = 24_000  # of one label map's surfaces together
MAX_SLICES = 24  # of one plane
MAX_PIXELS = 400  # along one side of a slice; larger grids are shown by every second voxel, or third, ...
STEP_MM = 0.02  # that vertices are rounded to; more only where 16 bits do not reach
ERROR_STEP_MM = 0.01  # that errors are rounded to
_SCALES_MM = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50)  # ends of the colour scale of errors
MARGIN_MM = 5.0  # round the heart on the slices


def png(indices: np.ndarray, table: np.ndarray) -> str:
    """(H, W) u8 `indices` into `table` (K, 3) u8, K <= 256 -> a data: address of a PNG with a palette."""
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(table.tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def heart_content(title, truth, others, affine, colours, kinds_of_difference=DIFFERENCE, spread=None):
    """What the page needs to show one heart, ready for JSON.

    `title`: dict that is passed on; `truth`: label map (X, Y, Z) u8, or None where it is not known; `others`: {name:
    label map on the same grid}; `affine` (4, 4) voxel -> mm; `colours`: '#RRGGBB' of classes 1..C;
    `spread`: of the last of `others`, as of `surfaces`."""
    sides = ({"truth": truth} if truth is not None else {}) | others
    return {
        **title,
        "sides": list(sides),
        "planes": _planes(sides, affine, colours, kinds_of_difference),
        "surfaces": surfaces(sides, affine, spread or {}),
        "has_spread": bool(spread),
    }


# --- slices


def _planes(sides, affine, colours, kinds_of_difference):
    """Per plane: the strips (one PNG each, its slices one below the other), the positions in mm, sizes and letters."""
    volumes = {name: to_ras(labels, affine)[0] for name, labels in sides.items()}
    affine_ras = to_ras(next(iter(sides.values())), affine)[1]
    spacing_mm = spacing_of(affine_ras)
    box = foreground_box(*volumes.values(), margin_mm=MARGIN_MM, spacing_mm=spacing_mm)
    stride = np.maximum(1, -(-(box[:, 1] - box[:, 0] + 1) // MAX_PIXELS))
    inside = tuple(slice(first, last + 1, step) for (first, last), step in zip(box, stride))
    first_mm = affine_ras[:3, :3] @ box[:, 0] + affine_ras[:3, 3]
    spacing_mm = spacing_mm * stride
    volumes = {name: v[inside] for name, v in volumes.items()}
    names = list(volumes)
    classes, kinds = colour_table(colours), colour_table(kinds_of_difference.values())
    planes = []
    for plane, axis in PLANES.items():
        start = fullest_index(volumes[names[0]], plane)
        indices = slices_shown(volumes.values(), axis, start)
        shown = {name: np.stack([plane_image(v, plane, i) for i in indices]) for name, v in volumes.items()}
        strips = [_strip(name, "classes", slices, classes) for name, slices in shown.items()]
        strips += [
            _strip(
                "difference" if len(names) == 2 else f"difference: {name}",
                "difference",
                difference_kinds(shown[names[0]], shown[name]),
                kinds,
            )
            for name in names[1:]
        ]
        horizontal, vertical = [a for a in range(3) if a != axis]
        shape = volumes[names[0]].shape
        direction = affine_ras[:3, axis] / np.linalg.norm(affine_ras[:3, axis])
        planes.append(
            {
                "name": plane,
                "letters": LEFT_UP[plane],
                "width": shape[horizontal],
                "height": shape[vertical],
                "mm": [float(spacing_mm[horizontal]), float(spacing_mm[vertical])],
                "strips": strips,
                "start": indices.index(start),
                "stride": int(stride.max()),
                "at_mm": [round(float(first_mm @ direction + i * spacing_mm[axis]), 1) for i in indices],
            }
        )
    return planes


def slices_shown(volumes, axis, start):
    """Up to MAX_SLICES indices along `axis`, evenly spread over the foreground of all `volumes`, `start` among them."""
    first, last = foreground_box(*volumes)[axis]
    wanted = np.unique(np.rint(np.linspace(first, last, min(MAX_SLICES, last - first + 1))).astype(int))
    wanted[np.abs(wanted - start).argmin()] = start
    return [int(i) for i in wanted]


def _strip(name, of, slices, table):
    """One picture of all `slices` (S, H, W) u8, and where its numbers or signs stand in each slice."""
    marked = slices if of == "classes" else np.where(slices > 1, slices, 0)  # no sign on what is the same
    return {
        "name": name,
        "of": of,
        "png": png(slices.reshape(-1, slices.shape[2]), table),
        "marks": [mark_places(one) for one in marked],
    }


def mark_places(values: np.ndarray, least: int = 2) -> list[list[int]]:
    """[[x, y, far, value]], the widest place first: of each connected region (4 neighbours) of one value > 0 in
    `values` (H, W) u8 the pixel that is farthest, `far` steps along rows and columns, from what is not the region; of
    several such pixels the one nearest to the region's middle. Regions with far < `least` are left out."""
    places = []
    regions = label(values, background=0, connectivity=1)
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        if min(s.stop - s.start for s in box) < 2 * least - 1:
            continue
        mask = regions[box] == number
        far = ndimage.distance_transform_cdt(np.pad(mask, 1), "taxicab")[1:-1, 1:-1]
        deepest = int(far.max())
        if deepest < least:
            continue
        middle = np.argwhere(mask).mean(0)
        pixels = np.argwhere(far == deepest)
        row, column = pixels[np.linalg.norm(pixels - middle, axis=1).argmin()] + (box[0].start, box[1].start)
        places.append([int(column), int(row), deepest, int(values[row, column])])
    return sorted(places, key=lambda place: -place[2])


# --- surfaces


def surfaces(
    sides: dict, affine: np.ndarray, spread: Mapping[int, tuple[np.ndarray, np.ndarray]] = MappingProxyType({})
) -> dict | None:
    """The surfaces of `sides` {name: label map}, ready for JSON; None where all label maps are empty. spread: {class
    id: (vertices (V, 3) of a mesh in patient mm, spread of the samples at each (V,) in mm)} of the last side.

    sides: per side a list of structures: class id, vertices `x`, `y`, `z` (V,) in steps of `step_mm` from `middle_mm`,
    corners `i`, `j`, `k` (F,) of the triangles, `error` (V,) in steps of `error_step_mm`, or None where the other label
    map has no such structure, `spread` likewise, or None where it is not known; all of them `typed`. The first side's
    error is against the second, the others' against the first. `low_mm`, `high_mm` (3,): the box that holds all;
    `scale_mm`: a round number that 95 % of the errors of the reconstructions lie below, `spread_scale_mm`: likewise."""
    meshes = [class_surfaces(labels, affine) for labels in sides.values()]
    everything = [v for side in meshes for v, _ in side.values()]
    if not everything:
        return None
    low_mm, high_mm = (fold([fold(v, axis=0) for v in everything], axis=0) for fold in (np.min, np.max))
    middle_mm = np.rint((low_mm + high_mm) / 2)
    step_mm = max(STEP_MM, float((high_mm - low_mm).max()) / 60_000)
    distances, content, errors_mm, spreads_mm = {}, [], [], []
    for number, side in enumerate(meshes):
        against = None if len(meshes) == 1 else 1 if number == 0 else 0
        budget = triangle_shares({c: len(faces) for c, (_, faces) in side.items()}, MAX_TRIANGLES)
        structures = []
        for c, mesh in side.items():
            vertices, faces = thin_out(*mesh, budget[c])
            steps = np.rint((vertices - middle_mm) / step_mm)
            error = None
            if against is not None and c in meshes[against]:
                if (against, c) not in distances:
                    distances[against, c] = MeshDistance(*meshes[against][c])
                error_mm = distances[against, c].query(vertices)[0]
                error = typed(np.minimum(np.rint(error_mm / ERROR_STEP_MM), 65_535), "u2")
                errors_mm += [error_mm] if number else []
            around = None
            if number == len(meshes) - 1 and c in spread:
                places_mm, at_mm = spread[c]
                spread_mm = at_mm[cKDTree(places_mm).query(vertices)[1]]
                around = typed(np.minimum(np.rint(spread_mm / ERROR_STEP_MM), 65_535), "u2")
                spreads_mm.append(spread_mm)
            corners = "u2" if len(vertices) < 65_536 else "u4"
            structures.append(
                {
                    "class": c,
                    **{axis: typed(steps[:, n], "i2") for n, axis in enumerate("xyz")},
                    **{corner: typed(faces[:, n], corners) for n, corner in enumerate("ijk")},
                    "error": error,
                    "spread": around,
                }
            )
        content.append(structures)
    return {
        "middle_mm": middle_mm.tolist(),
        "step_mm": step_mm,
        "error_step_mm": ERROR_STEP_MM,
        "low_mm": low_mm.tolist(),
        "high_mm": high_mm.tolist(),
        "scale_mm": _round_scale(errors_mm),
        "spread_scale_mm": _round_scale(spreads_mm),
        "sides": content,
        "thinned": any(sum(len(f) for _, f in side.values()) > MAX_TRIANGLES for side in meshes),
    }


def typed(values: np.ndarray, dtype: str) -> dict:
    """(N,) numbers as plotly's typed array: {dtype: 'i2', 'u2' or 'u4', bdata: base64 of the little-endian values}."""
    data = np.ascontiguousarray(values).astype(f"<{dtype}").tobytes()
    return {"dtype": dtype, "bdata": base64.b64encode(data).decode()}


def _round_scale(errors_mm):
    if not errors_mm:
        return 1
    high = np.percentile(np.concatenate(errors_mm), 95)
    return next((end for end in _SCALES_MM if end >= high), int(np.ceil(high / 10) * 10))


def class_surfaces(labels: np.ndarray, affine: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{class: (vertices (V, 3) f64 in patient mm, faces (F, 3) i32 wound outward)} of a label map (X, Y, Z) u8."""
    if not np.any(labels):
        return {}
    affine = np.asarray(affine, np.float64)
    crop = crop_foreground(np.asarray(labels, np.uint8), spacing_of(affine))
    surfaces = {}
    for c, box in class_boxes(crop.labels):
        marched = mask_mesh(crop.labels[box], c)
        low = np.array([s.start for s in box]) + crop.origin
        index = taubin(marched.vertices, marched.faces).astype(np.float64) + low
        faces = marched.faces if np.linalg.det(affine[:3, :3]) > 0 else np.ascontiguousarray(marched.faces[:, ::-1])
        surfaces[c] = index @ affine[:3, :3].T + affine[:3, 3], faces
    return surfaces


def triangle_shares(counts: dict[int, int], budget: int) -> dict[int, int]:
    """{class: most triangles it may keep}: one cap for all, as high as the budget allows; smaller ones keep theirs."""
    left, cap = budget, budget
    for n, count in enumerate(sorted(counts.values())):
        cap = left // (len(counts) - n)
        if count > cap:
            break
        left -= count
        cap = budget
    return {c: min(count, cap) for c, count in counts.items()}


def thin_out(vertices: np.ndarray, faces: np.ndarray, most_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """(vertices (V, 3) f64, faces (F, 3) i32) with at most `most_faces` triangles, by edge collapses."""
    if len(faces) <= most_faces:
        return vertices, faces
    origin = vertices.mean(0)  # the library reckons in f32
    thin, kept = fast_simplification.simplify((vertices - origin).astype(np.float32), faces, target_count=most_faces)
    return thin.astype(np.float64) + origin, kept.astype(np.int32)
