"""One mesh per class, from the field and not from the voxels: smooth, watertight, outward, in patient mm (RAS+).

The field is decoded on a regular grid over the unit cube, coarse to fine, and again with all its values where two
labels meet. A point is in class c where all of these are negative: the distance, and the lead of each other class's
logit over that of c. Marching cubes on the labels says which grid edges the surface crosses and how the triangles hang
together; along an edge from inside to outside, the surface is where the first of those fields, each linear between the
two ends, crosses zero. (Marching cubes on their maximum, the obvious way, lets the surface cross too early wherever one
field decides inside and another outside: a vessel of 1.5 cells in radius on a wall lost 13 % of its volume, now 9 %.
A structure that thin is meshed again on a grid of half the cell, decoded near the structure alone.)

Where the image ends the meshes end, with a flat cap, as the label map does: what a model says of a vessel beyond the
scan is a guess, and a mesh with more in it than its label is no surface of that label.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes

from vecset.common.atomic import atomic_path
from vecset.common.memory import require_memory
from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.imaging.classes import rgb
from vecset.imaging.frame import Frame
from vecset.models.labels import labels_of

THIN_CELLS = 2.5  # a structure whose volume / area says a smaller radius than this gets a finer grid
FINER = 2
MOST_FINE = 4_000_000  # points of the finer grid: a structure that would need more is not thin, but scattered
CELL_BYTES = 28  # of memory per grid cell: measured 29 to 30
FINER_BYTES = 7  # on the finer grid, of which a zone alone is decoded: masks and row numbers
MESH_CELLS = 144  # over the unit cube: 1 mm in an adult heart
_LEAST_SHARE = 1e-3  # of an edge: no vertex comes closer to a grid point, so that no triangle degenerates


def mesh_grid(frame: Frame, cells: int = MESH_CELLS, cube_mm: tuple[np.ndarray, float] | None = None) -> Frame:
    """A `Frame` whose voxels are a regular grid over the unit cube of `frame`, or over the cube `cube_mm` (its middle
    (3,) and half its edge), along the patient's axes, in mm. Unit is that of `frame`."""
    middle_mm, half_mm = cube_mm or (frame.centre_mm, 1 / frame.scale)
    step_mm = 2 * half_mm / cells
    affine = np.diag([step_mm] * 3 + [1.0])
    affine[:3, 3] = middle_mm - half_mm + step_mm / 2
    return Frame(affine, (cells,) * 3, frame.centre_mm, frame.scale)


def cube_round(labels: np.ndarray, frame: Frame) -> tuple[np.ndarray, float] | None:
    """The cube (middle (3,), half its edge, in mm, along the patient's axes) that holds the labels (X, Y, Z) on the
    grid of `frame`, and two voxels more on every side; None where there are none."""
    found = ndimage.find_objects((labels > 0).astype(np.uint8))
    if not found:
        return None
    ends = np.array([[s.start - 2.5, s.stop + 1.5] for s in found[0]])  # (3, 2)
    corners_mm = frame.voxel_to_mm(np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3))
    low_mm, high_mm = corners_mm.min(0), corners_mm.max(0)
    return (low_mm + high_mm) / 2, float((high_mm - low_mm).max() / 2)


def class_meshes(
    field: HeartField,
    frame: Frame,
    cells: int = MESH_CELLS,
    cube_mm: tuple[np.ndarray, float] | None = None,
) -> dict[int, trimesh.Trimesh]:
    """{class id: trimesh.Trimesh} of the classes that are there. `field`: a HeartField; `cube_mm`: as of `mesh_grid`;
    vertices in mm.

    Watertight and outward. At the side of the image or of the cube, where the field ends, a structure is closed by
    a flat cap."""
    require_mesh_memory(cells)
    grid = mesh_grid(frame, cells, cube_mm)
    labels = decode_label_map(field, grid).labels
    index = np.flatnonzero(labels)
    beyond = _beyond_image(frame, _points_mm(grid, index)).max(1) > 0
    labels.ravel()[index[beyond]] = 0
    present = np.flatnonzero(np.bincount(labels.ravel()))
    band = np.flatnonzero(_meets_another(labels))
    if not len(band):
        return {}
    points_mm = _points_mm(grid, band)
    sdf, logits = field.values(grid.mm_to_unit(points_mm))
    sides = _beyond_image(frame, points_mm)
    row_of = np.full(labels.size, -1, np.int32)
    row_of[band] = np.arange(len(band))
    meshes = {}
    for c in present[present > 0]:
        mesh = _mesh(labels == c, lambda rows, c=c: _fields_of(sdf[rows], logits[rows], sides[rows], c), row_of, grid)
        if len(mesh.faces) and 2 * mesh.volume / mesh.area < THIN_CELLS * grid.spacing_mm[0]:
            finer = _finer_mesh(field, frame, labels == c, c, mesh_grid(frame, cells * FINER, cube_mm))
            mesh = mesh if finer is None else finer
        if len(mesh.faces):
            meshes[int(c)] = mesh
    return meshes


def require_mesh_memory(cells: int, bytes_per_cell: int = 0) -> None:
    """Raises InputError, with the size, where a grid of `cells` along each axis takes more memory than there is;
    bytes_per_cell: 0, of the first grid, which is decoded everywhere. Nothing is allocated."""
    require_memory(
        "",
        (bytes_per_cell or CELL_BYTES) * cells**3,
        f"a grid of {cells} x {cells} x {cells} cells for meshes",
        "give fewer --mesh_cells, leave the meshes out (--no_meshes), or use a machine with more memory",
    )


def _finer_mesh(field, frame, mine, c, grid):
    """The mesh of class c on a grid FINER times as fine, decoded only where the coarse one, `mine` (cells^3) bool, has
    it, and round about until all of its surface is found. None where that is more than MOST_FINE points, as for the
    noise of an untrained model: it would take minutes and gigabytes."""
    require_mesh_memory(grid.shape[0], FINER_BYTES)
    zone = (
        ndimage.binary_dilation(mine, ndimage.generate_binary_structure(3, 3))
        .repeat(FINER, 0)
        .repeat(FINER, 1)
        .repeat(FINER, 2)
    )
    inside = np.zeros(grid.shape, bool)
    row_of = np.full(inside.size, -1, np.int32)
    fields, number, todo = [], 0, np.flatnonzero(zone)
    while len(todo):
        if number + len(todo) > MOST_FINE:
            return None
        points_mm = _points_mm(grid, todo)
        sdf, logits = field.values(grid.mm_to_unit(points_mm))
        labels = labels_of(torch.from_numpy(sdf), torch.from_numpy(logits)).numpy()
        sides = _beyond_image(frame, points_mm)
        row_of[todo] = number + np.arange(len(todo))
        number += len(todo)
        fields.append(_fields_of(sdf, logits, sides, c))
        inside.ravel()[todo] = (labels == c) & (sides.max(1) <= 0)
        zone.ravel()[todo] = True
        box = _grown_box(inside)  # what touches the end of the zone may go on beyond it
        around = ndimage.binary_dilation(inside[box], ndimage.generate_binary_structure(3, 3)) & ~zone[box]
        index = np.argwhere(around) + [s.start for s in box]
        todo = np.ravel_multi_index(tuple(index.T), grid.shape)
    if not inside.any():
        return trimesh.Trimesh()
    fields = np.concatenate(fields)
    return _mesh(inside, lambda rows: fields[rows], row_of, grid)


def _grown_box(mask):
    """Slices of the box of a mask (X, Y, Z) and one more on each side, as far as there is one."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in found[0]) if found else (slice(0, 0),) * 3


def _points_mm(grid, flat):
    """(Q, 3) positions in mm of flat indices of a grid."""
    return grid.voxel_to_mm(np.stack(np.unravel_index(flat, grid.shape), -1))


def _beyond_image(frame, points_mm):
    """(Q, 6) f32 how far points lie beyond each side of the image, in voxels; negative before it. The sides are the
    outer faces of the first and last voxels."""
    index = frame.mm_to_voxel(points_mm)
    return np.concatenate([-0.5 - index, index - (np.array(frame.shape) - 0.5)], 1).astype(np.float32)


def _fields_of(sdf, logits, sides, c):
    """(Q, K) fields that are all negative inside class c: the distance, the other logits' lead over its own, and how
    far the point is beyond the six `sides` of the image."""
    return np.concatenate([sdf[:, None], np.delete(logits, c - 1, axis=1) - logits[:, c - 1 : c], sides], axis=1)


def _meets_another(labels):
    """Bool: one of the 26 neighbours has another label. At the side of the grid everything meets the background."""
    padded = np.pad(labels, 1)
    differs = ndimage.maximum_filter(padded, 3) != ndimage.minimum_filter(padded, 3)
    return differs[1:-1, 1:-1, 1:-1]


def _mesh(mine, fields_of, row_of, grid):
    """mine: (X, Y, Z) bool on `grid`; fields_of(rows) -> (n, K) fields; row_of: row of each flat grid index, or -1."""
    box = ndimage.find_objects(mine.astype(np.uint8))[0]
    low = np.array([s.start for s in box]) - 1
    block = np.pad(mine[box], 1).astype(np.float32)
    half_way, faces, _, _ = marching_cubes(block, 0.5, method="lorensen", allow_degenerate=False)
    # every vertex lies half way between two grid points; each is moved along its own edge, so nothing can tear
    ends = np.stack([np.floor(half_way), np.ceil(half_way)]).astype(np.int64)
    inside_first = block[tuple(ends[0].T)] > 0.5
    inner, outer = np.where(inside_first[:, None], ends, ends[::-1])
    share = np.full(len(half_way), 0.5)  # where the field ends at the side of the grid
    in_grid = ((outer + low >= 0) & (outer + low < mine.shape)).all(1)
    rows = [row_of[np.ravel_multi_index(tuple((end[in_grid] + low).T), mine.shape)] for end in (inner, outer)]
    share[in_grid] = _first_crossing(fields_of(rows[0]), fields_of(rows[1]))
    vertices = inner + (outer - inner) * share[:, None]
    mesh = trimesh.Trimesh(grid.voxel_to_mm(vertices + low), faces, process=False)
    if mesh.volume < 0:  # which way round marching cubes winds is its own affair
        mesh.invert()
    return mesh


def _first_crossing(inner, outer):
    """(V,) share of the way from the inner to the outer end at which the first of K fields becomes positive; `inner`
    and `outer` (V, K). The ends themselves are left out, so that triangles keep an area."""
    crosses = outer > inner
    share = np.where(crosses & (outer >= 0), -inner / np.where(crosses, outer - inner, 1), 1.0)
    return share.min(1).clip(_LEAST_SHARE, 1 - _LEAST_SHARE)


def as_lps(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh in the coordinates of ITK and 3D Slicer's files: x and y with the other sign (a half turn, so that the
    faces stay outward)."""
    turned = mesh.copy()
    turned.apply_transform(np.diag([-1.0, -1.0, 1.0, 1.0]))
    return turned


def scene_of(meshes: dict, class_names: Sequence[str], colours: Sequence[str]) -> trimesh.Scene:
    """A trimesh.Scene of {class id: mesh}: a node per class, named and coloured ('#RRGGBB' per class)."""
    scene = trimesh.Scene()
    for c, mesh in meshes.items():
        mesh = mesh.copy()
        base = [*rgb(colours[c - 1]), 255]
        material = trimesh.visual.material.PBRMaterial(
            name=class_names[c - 1], baseColorFactor=base, metallicFactor=0.0, roughnessFactor=0.6
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(mesh, node_name=class_names[c - 1], geom_name=class_names[c - 1])
    return scene


def write_mesh(path: Path, mesh: trimesh.Trimesh | trimesh.Scene) -> None:
    """Writes a mesh, or a scene (.glb), atomically; the suffix of `path` says as what (.ply, .stl, .obj, .glb)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_bytes(mesh.export(file_type=Path(path).suffix[1:])))


def _bytes(data):
    return data.encode() if isinstance(data, str) else data
