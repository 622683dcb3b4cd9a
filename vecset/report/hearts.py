"""One heart for the HTML pages: slices of label maps as PNG strips, and surfaces for the 3D view. No torch.

All that a heart is shown by comes from label maps (the truth's and the reconstructions'), in the same way for each, so
that a difference on the page is a difference of the label maps.

Surfaces: marching cubes of each class's mask and Taubin smoothing, as the data preparation does it, in patient mm.
The error at a vertex is its exact distance to the surface of the same class in the other label map. A surface with more
triangles than its share of `MAX_TRIANGLES` is thinned by vertex clustering: vertices of one cell of a cubic grid become
their mean (so does their error), triangles that collapse are dropped, and the cell grows until the share is met; small
structures keep all their triangles. (Rossignac and Borrel 1993, "Multi-resolution 3D approximations".)
"""

import base64
import io
import zlib

import numpy as np
from PIL import Image

from vecset.geometry.mesh_distance import MeshDistance
from vecset.geometry.surface import class_boxes, crop_foreground, mask_mesh
from vecset.geometry.surface_smoothing import taubin
from vecset.imaging.pictures import LEFT_UP, foreground_box, fullest_index, spacing_of, to_ras
from vecset.imaging.slice_picture import DIFFERENCE, PLANES, colour_table, difference_kinds, plane_image

MAX_TRIANGLES = 40_000  # of one label map's surfaces together
MAX_SLICES = 24  # of one plane
MAX_PIXELS = 400  # along one side of a slice; larger grids are shown by every second voxel, or third, ...
STEP_MM = 0.02  # that vertices are rounded to
ERROR_STEP_MM = 0.01  # that errors are rounded to
MARGIN_MM = 5.0  # round the heart on the slices


def pack(values):
    """Whole numbers (N,) or (N, K) as text for the page: differences along the first axis (int32), their bytes sorted
    by significance, deflated, base64. The page's `unpack` is the way back."""
    values = np.asarray(values, np.int64)
    differences = np.diff(values, axis=0, prepend=np.zeros_like(values[:1])).astype("<i4")
    planes = np.ascontiguousarray(differences.T).view(np.uint8).reshape(-1, 4).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)).decode()


def png(indices, table):
    """(H, W) u8 `indices` into `table` (K, 3) u8, K <= 256 -> a data: address of a PNG with a palette."""
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(table.tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def heart_content(title, truth, others, affine, colours, kinds_of_difference=DIFFERENCE):
    """What the page needs to show one heart, ready for JSON.

    `title`: dict that is passed on; `truth`: label map (X, Y, Z) u8, or None where it is not known; `others`: {name:
    label map on the same grid}; `affine` (4, 4) voxel -> mm; `colours`: '#RRGGBB' of classes 1..C."""
    sides = ({"truth": truth} if truth is not None else {}) | others
    return {
        **title,
        "sides": list(sides),
        "planes": _planes(sides, affine, colours, kinds_of_difference),
        "surfaces": _surfaces(sides, affine),
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
        strips = [
            {"name": name, "of": "classes", "png": png(_strip(volume, plane, indices), classes)}
            for name, volume in volumes.items()
        ]
        strips += [
            {
                "name": "difference" if len(names) == 2 else f"difference: {name}",
                "of": "difference",
                "png": png(
                    difference_kinds(_strip(volumes[names[0]], plane, indices), _strip(volumes[name], plane, indices)),
                    kinds,
                ),
            }
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


def _strip(volume, plane, indices):
    return np.concatenate([plane_image(volume, plane, i) for i in indices])


# --- surfaces


def _surfaces(sides, affine):
    """Per side a list of structures: class id, vertices in steps of STEP_MM from `origin_mm`, faces, error in steps of
    ERROR_STEP_MM (-1: the other label map has no such structure). The first side's error is against the second."""
    meshes = [class_surfaces(labels, affine) for labels in sides.values()]
    everything = [v for side in meshes for v, _ in side.values()]
    if not everything:
        return None
    origin_mm = np.floor(np.concatenate(everything).min(0))
    distances = {}
    content = []
    for number, side in enumerate(meshes):
        against = None if len(meshes) == 1 else 1 if number == 0 else 0
        shares = triangle_shares({c: len(faces) for c, (_, faces) in side.items()}, MAX_TRIANGLES)
        structures = []
        for c, (vertices, faces) in side.items():
            error_mm = None
            if against is not None:
                error_mm = np.full(len(vertices), -ERROR_STEP_MM)
                if c in meshes[against]:
                    if (against, c) not in distances:
                        distances[against, c] = MeshDistance(*meshes[against][c])
                    error_mm = distances[against, c].query(vertices)[0]
            vertices, faces, error_mm = thin_out(vertices, faces, error_mm, shares[c])
            structures.append(
                {
                    "class": c,
                    "vertices": pack(np.rint((vertices - origin_mm) / STEP_MM)),
                    "faces": pack(faces.ravel()),
                    "num_vertices": len(vertices),
                    "num_faces": len(faces),
                    "error": None if error_mm is None else pack(np.rint(error_mm / ERROR_STEP_MM)),
                }
            )
        content.append(structures)
    return {
        "origin_mm": origin_mm.tolist(),
        "step_mm": STEP_MM,
        "error_step_mm": ERROR_STEP_MM,
        "sides": content,
        "thinned": any(sum(len(f) for _, f in side.values()) > MAX_TRIANGLES for side in meshes),
    }


def class_surfaces(labels, affine):
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


def triangle_shares(counts, budget):
    """{class: most triangles it may keep}: one cap for all, as high as the budget allows; smaller ones keep theirs."""
    left, cap = budget, budget
    for n, count in enumerate(sorted(counts.values())):
        cap = left // (len(counts) - n)
        if count > cap:
            break
        left -= count
        cap = budget
    return {c: min(count, cap) for c, count in counts.items()}


def thin_out(vertices, faces, values, most_faces):
    """(vertices, faces, values) with at most `most_faces` triangles, by vertex clustering; `values` (V,) or None."""
    if len(faces) <= most_faces:
        return vertices, faces, values
    edge_mm = np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1).mean()
    cell_mm = edge_mm * max(1.0, 0.8 * np.sqrt(len(faces) / most_faces))
    while True:
        cells = np.floor((vertices - vertices.min(0)) / cell_mm).astype(np.int64)
        span = cells.max(0) + 1
        _, cluster = np.unique((cells[:, 0] * span[1] + cells[:, 1]) * span[2] + cells[:, 2], return_inverse=True)
        kept = cluster[faces]
        kept = kept[(kept[:, 0] != kept[:, 1]) & (kept[:, 1] != kept[:, 2]) & (kept[:, 2] != kept[:, 0])]
        kept = kept[np.sort(np.unique(np.sort(kept, axis=1), axis=0, return_index=True)[1])]
        if len(kept) <= most_faces:
            break
        cell_mm *= 1.1
    members = np.bincount(cluster)

    def mean(column):
        return np.bincount(cluster, column) / members

    merged = np.stack([mean(vertices[:, k]) for k in range(3)], axis=1)
    return merged, kept.astype(np.int32), None if values is None else mean(values)
