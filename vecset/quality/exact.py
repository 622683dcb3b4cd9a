"""Two slow checks on request: the exact distance to a surface mesh, and the source label map.

The mesh is marching cubes of the truth (scikit-image) without smoothing, the distance to its triangles is trimesh's,
the sign that of the voxels within that distance, the label that of the nearest foreground voxel. No code is shared with
the preparation. Its surface is smoothed by up to half a voxel, so the two may differ by that much.
"""

import gzip
import html
import io
import json
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from vecset.common.errors import InputError
from vecset.data.case_file import Case
from vecset.imaging.structure_names import class_of
from vecset.quality.thresholds import FileReport

# What nibabel and SimpleITK raise for a file that is missing, broken or of another kind, and numpy for its shape
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
)

# How units of length begin, and how many mm they have; "mm" and "millimetre" are before "m"
_UNITS = (("mm", 1.0), ("milli", 1.0), ("mic", 1e-3), ("um", 1e-3), ("cm", 10.0), ("centi", 10.0), ("m", 1e3))


def check_exact(report: FileReport, case: Case, count: int, seed: int = 0) -> None:
    """Adds the exact checks at `count` points of `case`, half of them near points, drawn by `seed`."""
    from skimage.measure import marching_cubes  # slow to import

    frame, rng = case.frame, np.random.default_rng([seed, 1])
    spacing_mm = frame.spacing_mm
    foreground = np.pad(case.truth_crop > 0, 1)
    vertices, faces, _, _ = marching_cubes(foreground.astype(np.float32), 0.5, method="lorensen")
    triangles_mm = ((vertices + (case.truth_origin - 1)) * spacing_mm)[faces]  # mm along the image axes
    chosen = {
        g: rng.permutation(len(case.arrays[f"{g}_points"]))[:n]
        for g, n in (("near", (count + 1) // 2), ("vol", count // 2))
    }
    points_voxel = frame.unit_to_voxel(np.concatenate([case.arrays[f"{g}_points"][i] for g, i in chosen.items()]))
    stored_mm = np.concatenate([case.arrays[f"{g}_sdf"][i] for g, i in chosen.items()]).astype(float) / frame.scale
    labels = np.concatenate([case.arrays[f"{g}_labels"][i] for g, i in chosen.items()])

    distance_mm = exact_distance(points_voxel * spacing_mm, triangles_mm)
    inside = sides(points_voxel, distance_mm, case)
    error = np.abs(stored_mm - np.where(inside, -distance_mm, distance_mm)) / spacing_mm.max()
    report.add("exact_mean", error.mean())
    report.add("exact_max", error.max())
    clear = distance_mm > 0.5 * spacing_mm.max()
    report.add("exact_sign", np.count_nonzero((stored_mm < 0)[clear] != inside[clear]))
    wrong = [i for i in np.flatnonzero(labels) if not _nearest_label(case, points_voxel[i], labels[i])]
    report.add("exact_label", len(wrong))


def exact_distance(points_mm: np.ndarray, triangles_mm: np.ndarray) -> np.ndarray:
    """(N,) exact distances in mm of `points_mm` (N, 3) to `triangles_mm` (F, 3, 3), from every triangle that can be the
    nearest."""
    from trimesh.triangles import closest_point

    centres = triangles_mm.mean(1)
    reach_mm = np.linalg.norm(triangles_mm - centres[:, None], axis=2).max()
    tree = cKDTree(centres)
    bound_mm = tree.query(points_mm)[0] + reach_mm  # no triangle is farther than its centre
    distances = np.empty(len(points_mm))
    for i, (point, bound) in enumerate(zip(points_mm, bound_mm)):
        near = tree.query_ball_point(point, bound)
        foot = closest_point(triangles_mm[near], np.broadcast_to(point, (len(near), 3)))
        distances[i] = np.linalg.norm(foot - point, axis=1).min()
    return distances


def sides(points_voxel: np.ndarray, distance_mm: np.ndarray, case: Case) -> np.ndarray:
    """(N,) bool: whether `points_voxel` (N, 3) are inside, given their `distance_mm` (N,) to the mesh.

    A voxel centre that is nearer to the point than the mesh lies on the point's side of it. Without such a voxel the
    point is within a voxel of the mesh, and the mask interpolated between voxels decides.
    """
    local = points_voxel - case.truth_origin + 1
    foreground = np.pad(case.truth_crop > 0, 1)
    centre = np.clip(np.rint(local).astype(int), 0, np.array(foreground.shape) - 1)  # the margin is background
    near_voxel = foreground[tuple(centre.T)]
    sure = (np.linalg.norm((local - np.rint(local)) * case.frame.spacing_mm, axis=1) < distance_mm) | (
        centre != np.rint(local)
    ).any(1)
    blend = ndimage.map_coordinates(foreground.astype(np.float32), local.T, order=1, mode="constant")
    return np.where(sure, near_voxel, blend > 0.5)


def _nearest_label(case, point_voxel, label):
    """Whether one of the foreground voxels nearest to the point (within a thousandth of a voxel) has `label`."""
    local = point_voxel - case.truth_origin
    low = np.maximum(np.rint(local).astype(int) - 3, 0)
    box = case.truth_crop[tuple(slice(a, max(a, b)) for a, b in zip(low, np.rint(local).astype(int) + 4))]
    voxels = np.argwhere(box)
    if not len(voxels):
        return False
    away = np.linalg.norm((voxels + low - local) * case.frame.spacing_mm, axis=1)
    nearest = voxels[away <= away.min() + 1e-3 * case.frame.spacing_mm.min()]
    return label in box[tuple(nearest.T)]


def check_source(report: FileReport, case: Case, source_dir: Path | str) -> None:
    """Adds the comparison of `case` with the label map in `source_dir` that its meta names.

    The label map is read with nibabel or SimpleITK alone. Its own affine is used, so that a wrong one in the case file
    shows as wrong labels at the points. Islands that were dropped on request are found here again: they must be gone
    from the truth, and nothing else may differ.
    """
    path = Path(source_dir) / str(case.meta.get("source_name"))
    request = case.meta.get("request") or {}
    try:
        if case.meta.get("structures"):
            path = path if path.is_dir() else Path(source_dir)  # the folder of one scan was given
            values, affine = _read_structures(path, case.meta["structures"]["files"], request)
        else:
            values, affine = _read_source(path, request.get("spacing_from"), request.get("geometry_from"))
            values = _one_number(values)
    except READ_ERRORS as error:
        report.add("source", 0, note=f"{path.name}: {type(error).__name__}: {error}")
        return
    if tuple(values.shape) != case.frame.shape:
        report.add("source", 0, note=f"{path.name} has shape {values.shape}, the case {case.frame.shape}")
        return
    report.add("source", 1, note=path.name)
    by_name = case.meta.get("values_by_name")
    classes, truth = _source_classes(values, request.get("label_map"), by_name), case.truth_labels()
    if not request.get("label_map") and not case.meta.get("structures"):
        _check_names(report, values, classes, _source_names(path), case.class_names)
    island_share = float(request.get("drop_crumbs") or 0)
    island = _islands(classes, island_share)
    if island_share:
        report.add("source_crumbs", np.count_nonzero(island), note="they were dropped on request")
    wrong = (classes != truth) & ~island
    if (island & (classes == truth)).any():
        wrong |= island & (classes == truth) & _islands(truth, island_share)
    report.add("source_labels", np.count_nonzero(wrong))
    classes[island] = truth[island]
    report.add("source_points", _wrong_at_points(case, classes, affine))


def _source_classes(values, mapping_text, by_name):
    """(X, Y, Z) u8 class ids of a label map's `values`; `mapping_text` (or None): `LabelMapping.text` of the case;
    `by_name` (or None): {value as text: [name, class id]} where names in the label map decided."""
    if not mapping_text and not by_name:
        return np.rint(values).astype(np.uint8)
    pairs = json.loads(mapping_text)[0] if mapping_text else [(int(value), c) for value, (_, c) in by_name.items()]
    classes = np.zeros(values.shape, np.uint8)
    for value, c in pairs:
        classes[values == value] = c
    return classes


def _check_names(report, values, classes, names, class_names):
    """Adds how many values with voxels the label map names (`names`: {value: name}) as another structure than the class
    that the case file has there. Names that no structure is known by do not count."""
    wrong = []
    for value in np.unique(values) if names else ():
        structure = class_of(names.get(int(value), ""))
        here = np.unique(classes[values == value])
        own = {class_of(class_names[c - 1]) for c in here if 0 < c <= len(class_names)}
        if value and structure and own - {None} and structure not in own:
            wrong.append(f"{value:g} {names[int(value)]}")
    if names:
        report.add("source_names", len(wrong), note=", ".join(wrong))


def _source_names(path):
    """{value: name} in the header of a label map; {} where it has none. Raises one of READ_ERRORS."""
    if path.name.lower().endswith(".nrrd"):
        import SimpleITK as sitk

        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        told = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.startswith("Segment")}
        names = {key.removesuffix("_Name"): name for key, name in told.items() if key.endswith("_Name")}
        if reader.GetNumberOfComponents() > 1:  # a layer for each segment
            order = sorted(names, key=lambda key: int(key.removeprefix("Segment")))
            return {int(told.get(f"{key}_Layer", n)) + 1: names[key] for n, key in enumerate(order)}
        return {int(told.get(f"{key}_LabelValue", 1)): name for key, name in names.items()}
    if path.name.lower().endswith(".mha"):
        return {}
    text = b" ".join(extension.content for extension in _read_nifti(path)[0].extensions)
    pairs = re.findall(r"Key=\"(\d+)\"[^>]*>(?:<!\[CDATA\[)?([^<\]]*)", text.decode("utf-8", "replace"))
    return {int(value): html.unescape(name) for value, name in pairs}


def _wrong_at_points(case, classes, affine):
    """Share of the inside points whose label is not that of `classes` (X, Y, Z) at their place; 1 where there are none.
    Points in background voxels are not counted: the surface is smooth."""
    wrong = total = 0
    for group in ("vol", "near"):
        points_mm = case.frame.unit_to_mm(case.arrays[f"{group}_points"])
        index = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), points_mm)).astype(int)
        seen = ((index >= 0) & (index < classes.shape)).all(1) & (case.arrays[f"{group}_labels"] > 0)
        here, stored = classes[tuple(index[seen].T)], case.arrays[f"{group}_labels"][seen]
        wrong, total = wrong + np.count_nonzero((here != stored) & (here > 0)), total + np.count_nonzero(here > 0)
    return wrong / total if total else 1.0


def _read_source(path, spacing_from, geometry_from=None):
    """Voxel values (X, Y, Z) and affine (4, 4) voxel -> mm RAS+ of a label map. Raises one of READ_ERRORS, also where
    its compressed data are damaged or its header contradicts itself and neither option decides."""
    if path.name.lower().endswith((".nrrd", ".mha")):
        return _read_itk_source(path)
    header, data = _read_nifti(path)
    values = np.asanyarray(nib.arrayproxy.ArrayProxy(io.BytesIO(data), header))
    return values, _nifti_affine(header, values.shape[:3], spacing_from, geometry_from)


def _read_nifti(path):
    """The header of a NIfTI file, with its extensions, and the file's bytes, unpacked."""
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.decompress(data)  # to its end, where the checksum is
    version_2 = 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
    return (nib.Nifti2Header if version_2 else nib.Nifti1Header).from_fileobj(io.BytesIO(data)), data


def _nifti_affine(header, shape, spacing_from, geometry_from):
    pixdim = np.abs(np.array(header["pixdim"][1:4], np.float64))
    b, c, d = (float(header[f"quatern_{n}"]) for n in "bcd")
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    qform, sform = np.eye(4), np.eye(4)
    if header["qform_code"] > 0:
        qform[:3, :3] = Rotation.from_quat([b, c, d, a]).as_matrix() * pixdim  # of length 1, whatever was stored
        qform[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
        qform[:3, 3] = [float(header[f"qoffset_{n}"]) for n in "xyz"]
    if header["sform_code"] > 0:
        sform[:3] = [header[f"srow_{n}"] for n in "xyz"]
    both = header["sform_code"] > 0 and header["qform_code"] > 0
    if header["sform_code"] > 0 and not (both and geometry_from == "qform"):
        affine = sform
    elif header["qform_code"] > 0:
        affine = qform
    else:
        affine = header.get_base_affine()
    if spacing_from == "pixdim":
        affine[:3, :3] *= pixdim / np.linalg.norm(affine[:3, :3], axis=0)
    if both and not geometry_from:
        if spacing_from:
            qform[:3, :3] *= np.linalg.norm(affine[:3, :3], axis=0) / pixdim
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape]), -1).reshape(-1, 3)
        apart = nib.affines.apply_affine(np.linalg.inv(affine) @ qform, corners) - corners
        if not np.abs(apart).max() <= 0.5:
            raise ValueError(f"sform and qform are up to {np.abs(apart).max():.3g} voxels apart")
    affine[:3] *= {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _read_itk_source(path):
    import SimpleITK as sitk

    with open(path, "rb") as handle:
        header = handle.read(1 << 16)
    image = sitk.ReadImage(str(path))
    corner, *along = [
        np.array(image.TransformIndexToPhysicalPoint(index)) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*(end - corner for end in along), corner])
    affine[:2] *= -1  # LPS -> RAS
    named = re.search(rb'(?im)^(?:(?:space )?units: *"?|DistanceUnits *= *(?:MET_DISTANCE_UNITS_)?)([a-z]+)', header)
    if named:
        unit = named[1].decode().lower()
        affine[:3] *= next((mm for start, mm in _UNITS if unit.startswith(start)), 1.0)
    values = sitk.GetArrayFromImage(image).T
    return np.moveaxis(values, 0, -1) if image.GetNumberOfComponentsPerPixel() > 1 else values, affine


def _read_structures(folder, files, request):
    """As `_read_source`, for a scan with a file per structure: {name: class id} in `folder`. A higher class id has the
    voxels that several files have."""
    merged = None
    for name, c in sorted(files.items(), key=lambda item: item[1]):
        values, affine = _read_source(folder / name, request.get("spacing_from"), request.get("geometry_from"))
        values = _one_number(values)
        merged = np.zeros(values.shape, np.uint8) if merged is None else merged
        merged[values != 0] = c
    return merged, affine


def _one_number(values):
    """`values` (X, Y, Z, ...) as (X, Y, Z): one-hot channels become their number, from 0 where every voxel is in
    one. ValueError where channels are not one-hot."""
    values = values.reshape(*values.shape[:3], -1)
    if values.shape[3] == 1:
        return values[..., 0]
    found = np.count_nonzero(values, axis=3)
    if found.max() > 1:
        raise ValueError(f"{values.shape[3]} channels that are not one-hot")
    return np.argmax(values != 0, axis=3) + ((found > 0) if found.min() == 0 else 0)


def _islands(classes, share):
    """(X, Y, Z) bool: voxels of components that have fewer voxels than `share` of the largest one of their class."""
    found = np.zeros(classes.shape, bool)
    for c in np.unique(classes) if share else ():
        parts, _ = ndimage.label(classes == c, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())
        found |= (c != 0) & (parts > 0) & (sizes < share * sizes[1:].max(initial=0))[parts]
    return found


def require_source_dir(source_dir: Path | str) -> None:
    """Raises InputError where `source_dir` is not a folder."""
    if not Path(source_dir).is_dir():
        raise InputError.because(
            "--source_dir", f"there is no folder {source_dir}", "give the folder of the label maps"
        )
