"""From a label map to a case: crop, surfaces, distance field, frame, points. No torch.

`prepare_data.py` makes a case file with `build_case`; `reconstruct.py` uses it for an input that is a label map.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from vecset.common.errors import InputError
from vecset.data.case_classes import require_annotated
from vecset.data.case_file import Case
from vecset.data.class_distances import class_distance_members
from vecset.data.sampling import NEAR_SCALES_UNIT, Sampler, Triangles
from vecset.geometry.distance_field import METHODS, UnionField
from vecset.geometry.surface import CROP_PAD, Crop, UnionMesh, crop_foreground, inner_walls, union_mesh
from vecset.imaging.classes import BACKGROUND, RESERVED_CLASS
from vecset.imaging.components import components, without_islands
from vecset.imaging.frame import Frame
from vecset.imaging.label_map import LabelMap

VERSION = 2  # of the method: case files made by another one are made again
ISLAND_SHARE = 0.01  # an island has fewer voxels than this share of the largest component of its class
FAR_ISLAND = 0.01  # islands are far where they enlarge the frame's radius by more than this share


@dataclass(frozen=True)
class Options:
    """The options that decide the content of a case file, besides the label map.

    Numbers of points; `seed` of all draws; `sdf`: one of METHODS; `class_floor`: least share of the points of a present
    class; `sample_caps`: also draw points on flat caps; `near_scales_unit`: standard deviations of near offsets;
    `class_distances`: also the signed distance to each class, at the same points.
    """

    num_surface_points: int = 50000
    num_vol_points: int = 50000
    num_near_points: int = 50000
    seed: int = 0
    sdf: str = "mesh"
    class_floor: float = 0.04
    sample_caps: bool = False
    near_scales_unit: tuple = NEAR_SCALES_UNIT
    class_distances: bool = False

    def __post_init__(self):
        assert self.sdf in METHODS and 0 <= self.class_floor <= 1
        assert min(self.num_surface_points, self.num_vol_points, self.num_near_points) > 0

    def as_meta(self) -> dict:
        """The options and the version of the method, as JSON types."""
        meta = {**asdict(self), "near_scales_unit": list(self.near_scales_unit), "version": VERSION}
        if not self.class_distances:  # case files without them are those of before the option
            del meta["class_distances"]
        return meta


def case_rng(seed: int, name: str) -> np.random.Generator:
    """The generator of one case: it depends on seed and case name alone."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return np.random.default_rng(np.random.SeedSequence([int(seed), *np.frombuffer(digest, "<u4").tolist()]))


def build_case(label_map: LabelMap, options: Options = Options(), annotated: list[int] | None = None) -> Case:
    """The Case (path None) of a label map. `annotated`: class ids that the annotators looked for (default: those of
    `label_map`). Raises InputError where other classes are present, or where the field of view truncates all
    surfaces."""
    num_classes = len(label_map.class_names)
    annotated = sorted(label_map.annotated if annotated is None else annotated)
    crop = crop_foreground(label_map.labels, label_map.spacing_mm)
    affine = label_map.affine
    meta = describe(crop, num_classes, affine[:3, :3])
    require_annotated(meta["present_classes"], annotated, label_map.class_names, label_map.path)
    mesh = union_mesh(crop)
    if mesh.face_cap.all() and not options.sample_caps:
        raise InputError.because(
            label_map.path,
            "structures fill the image to its borders, so that no surface lies inside",
            "use an image with a larger field of view",
        )
    frame = frame_of_mesh(crop, mesh, affine)
    field = UnionField(crop, mesh, options.sdf)
    walls = inner_walls(crop)
    triangles = Triangles.of(mesh, walls, options.sample_caps, field.surface.vertex_normals)
    rng = case_rng(options.seed, label_map.name)
    sampler = Sampler(field, triangles, frame, rng, options.class_floor, options.near_scales_unit)
    arrays = {
        **sampler.surface(options.num_surface_points),
        **sampler.volume(options.num_vol_points),
        **sampler.near(options.num_near_points),
    }
    if options.class_distances:
        arrays |= class_distance_members(arrays, crop, mesh, walls, frame, num_classes)
    origin, truth = _truth(label_map.labels, crop)
    meta.update(
        class_names=list(label_map.class_names),
        spacing_mm=[float(s) for s in label_map.spacing_mm],
        annotated_classes=annotated,
        sampling={**options.as_meta(), "counts": sampler.counts},
        seed=options.seed,
        source_name=label_map.source_name or label_map.path.name,
        source_sha256=label_map.sha256,
        source_geometry=label_map.geometry,
        dropped_crumbs=label_map.dropped_islands,
    )
    if label_map.by_name:
        meta["values_by_name"] = {str(value): [name, c] for value, (name, c) in sorted(label_map.by_name.items())}
    if label_map.structures:
        meta["structures"] = label_map.structures
    return Case(arrays=arrays, frame=frame, truth_crop=truth, truth_origin=origin, meta=meta)


def frame_of_mesh(crop: Crop, mesh: UnionMesh, affine: np.ndarray) -> Frame:
    """The Frame of a heart, from the `UnionMesh` of its Crop; affine (4, 4) voxel of the image -> mm."""
    vertices_voxel = crop.local_mm_to_voxel(mesh.vertices_local_mm)
    return Frame.from_surface(affine, crop.image_shape, vertices_voxel @ affine[:3, :3].T + affine[:3, 3])


def _truth(labels, crop):
    """The part of the crop inside the image: its origin (3,) and its voxels u8."""
    low = np.maximum(crop.origin, 0)
    high = np.minimum(crop.origin + crop.labels.shape, labels.shape)
    return low, labels[tuple(slice(a, b) for a, b in zip(low, high))]


def describe(crop: Crop, num_classes: int, axes_mm: np.ndarray | None = None) -> dict:
    """The meta entries that the label map alone decides: present, missing and border classes, voxels, islands.
    `axes_mm`: see `islands`."""
    voxels = np.bincount(crop.labels.ravel(), minlength=num_classes + 1)[1 : num_classes + 1]
    present = [int(c) for c in np.flatnonzero(voxels) + 1]
    return {
        "classes": num_classes,
        "present_classes": present,
        "missing_classes": [c for c in range(1, num_classes + 1) if c not in present],
        "border_classes": border_classes(crop),
        "voxels_per_class": [int(v) for v in voxels],
        "crumbs": islands(crop, axes_mm),
    }


def border_classes(crop: Crop) -> list[int]:
    """Sorted ids of the classes with a voxel on the border of the image: truncated by the field of view."""
    border = set()
    for axis in range(3):
        first, last = CROP_PAD, crop.labels.shape[axis] - CROP_PAD - 1  # of the foreground, in the crop
        for index, image_index in ((first, 0), (last, crop.image_shape[axis] - 1)):
            if crop.origin[axis] + index == image_index:
                border |= set(np.unique(np.take(crop.labels, index, axis=axis)).tolist())
    return sorted(border - {BACKGROUND})


def islands(crop: Crop, axes_mm: np.ndarray | None = None) -> dict:
    """The islands that are left in a crop: {"classes": {id as text: [number, voxels]}, "grow_radius": share by which
    they enlarge the frame's radius, so that the heart is smaller in its frame}.

    Components are 26-connected. `axes_mm` (3, 3): steps of one voxel in mm, as columns (default: along the axes).
    """
    parts, _ = components(crop.labels)
    found, grow = {}, 0.0
    for c in np.unique(parts.label):
        sizes = parts.voxels[parts.label == c]
        small = sizes < ISLAND_SHARE * sizes.max()
        if small.any():
            found[str(c)] = [int(small.sum()), int(sizes[small].sum())]
    if found:
        axes_mm = np.diag(crop.spacing_mm) if axes_mm is None else axes_mm
        clean, _ = without_islands(crop.labels, ISLAND_SHARE)
        grow = float(_radius_mm(crop.labels, axes_mm) / _radius_mm(clean, axes_mm) - 1)
    return {"classes": found, "grow_radius": round(grow, 4)}


def _radius_mm(labels, axes_mm):
    """The radius of `Frame.from_surface` for labels (X, Y, Z), from voxel centres. The extremes of the box and the
    voxel farthest from its centre are ends of lines along the last axis, so that these are enough."""
    inside = labels > 0
    lines = np.argwhere(inside.any(axis=2))
    inside = inside[tuple(lines.T)]
    ends = [inside.argmax(1), labels.shape[2] - 1 - inside[:, ::-1].argmax(1)]
    points_mm = np.concatenate([np.column_stack([lines, end]) for end in ends]) @ np.asarray(axes_mm).T
    centre_mm = (points_mm.min(0) + points_mm.max(0)) / 2
    half_voxel_mm = np.linalg.norm(axes_mm, axis=0).max() / 2  # the radius of a single voxel
    return max(np.linalg.norm(points_mm - centre_mm, axis=1).max(), half_voxel_mm)


def warnings_of(meta: dict) -> list[str]:
    """What a user should know about a case, one line each, from its meta."""
    lines = []
    if meta.get("dropped_crumbs"):
        lines.append("islands dropped: " + _counts(meta, meta["dropped_crumbs"]))
    if meta["crumbs"]["classes"]:
        line = "islands kept: " + _counts(meta, meta["crumbs"]["classes"])
        if meta["crumbs"]["grow_radius"] > FAR_ISLAND:
            line += (
                f"; they make the frame's radius {meta['crumbs']['grow_radius']:.0%} larger and so the heart "
                f"smaller in it; if they are not anatomy, use --drop_islands {ISLAND_SHARE}"
            )
        lines.append(line)
    if meta["sampling"]["counts"].get("near_wrong_side"):
        lines.append(
            f"{meta['sampling']['counts']['near_wrong_side']} near points are not on the side they were drawn for"
        )
    absent = [meta["class_names"][c - 1] for c in meta["missing_classes"] if c in meta["annotated_classes"]]
    absent = [name for name in absent if name != RESERVED_CLASS]
    if absent:
        lines.append("annotated but absent: " + ", ".join(absent))
    if meta["border_classes"]:
        lines.append(
            "truncated by the field of view: " + ", ".join(meta["class_names"][c - 1] for c in meta["border_classes"])
        )
    return lines


def _counts(meta, islands_of):
    """'3 of LA (4 voxels), ...' for {class id as text: [number, voxels]}."""
    return ", ".join(
        f"{number} of {meta['class_names'][int(c) - 1]} ({voxels} voxels)" for c, (number, voxels) in islands_of.items()
    )
