"""A heart that is seen in planes: a stack of thick slices, or several slices and stacks that cross. Between the planes,
and beyond them, everything is unknown.

What is seen are the contours of the structures in each plane (vecset/geometry/contours.py), as training sees the
surface in slices (vecset/items/observation.py). Each structure of which a plane shows something is cut: seen in part.
All others are unknown: they may lie between the planes. The frame is that of what is seen.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError, shown
from vecset.common.natural_order import natural_key
from vecset.data.case_classes import chosen_classes, require_there
from vecset.data.case_file import Case
from vecset.data.label_folder import ALL, NoLabelMaps, Selection, look_into, relative_name
from vecset.data.listed_case import SLICES, ListedCase
from vecset.data.preparation import Options
from vecset.data.sampling import allocate
from vecset.geometry.contours import Contours, Plane, plane_contours
from vecset.imaging.frame import Frame
from vecset.imaging.header_geometry import FARTHEST_MM, require_heart_size
from vecset.imaging.image_file import case_id
from vecset.imaging.label_map import LabelMap
from vecset.sparse.one_heart import refuse_other_hearts
from vecset.sparse.point_cloud import grid_round

FILE, FOLDER = "file", "folder"
WAYS = (FILE, FOLDER)  # what of the input is one heart
LEAST_RATIO = 1.5  # of the distance between the slices of a stack and the size of their pixels
MARGIN_MM = 15.0  # of the output grid round what is seen, where it is not a stack's own: more than a slice's distance
SAME_PLANE_MM, SAME_PLANE_COS = 0.5, 0.9998  # two files hardly show one plane twice, but one heart at two times


def slice_folders(
    folder: Path | str, selection: Selection = ALL, say: Callable[[str], None] = print
) -> list[ListedCase]:
    """The hearts of `folder` where each folder of label maps is one: the folder itself where it holds some, else its
    sub-folders, those of sub-folders too where `selection` is recursive. `selection.pattern`: of the files' names.
    `say` gets a line for each kind of file that is left out. InputError where no folder holds label maps."""
    folder = Path(folder)
    alone = Selection(False, selection.pattern)
    try:
        return [_heart(folder, folder, alone, say)]
    except NoLabelMaps as error:
        nothing = error
    hearts = []
    for path in sorted(_sub_folders(folder, selection.recursive), key=lambda p: natural_key(relative_name(p, folder))):
        try:
            hearts.append(_heart(path, folder, alone, say))
        except NoLabelMaps:
            continue
    if not hearts:
        words = nothing.problem.replace("no label maps in it", "neither it nor a folder in it holds label maps", 1)
        raise InputError.because(folder, words, "check --input")
    return hearts


def _sub_folders(folder, recursive):
    found = [p for p in folder.glob("**/" if recursive else "*/") if p != folder and p.is_dir()]
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _heart(path, folder, selection, say):
    found = look_into(path, selection)
    name = path.resolve().name if path == folder else case_id(relative_name(path, folder))
    for line in found.left_out:
        say(f"note: {shown(name)}: {line}")
    return ListedCase(name, path, SLICES, files=tuple(found.paths))


def planes_of(label_map: LabelMap) -> list[Plane]:
    """The slices of a label map, across its axis with the largest spacing, or with a single voxel. InputError where
    its voxels are nearly cubic, so that it is a volume, and where two axes have a single voxel."""
    shape, spacing_mm, path = np.array(label_map.labels.shape), label_map.spacing_mm, label_map.path
    single = np.flatnonzero(shape == 1)
    if len(single) > 1:
        raise InputError.because(path, f"{' x '.join(map(str, shape))} voxels: a line is no slice", "export it again")
    across = int(single[0]) if len(single) else int(spacing_mm.argmax())
    if not len(single) and spacing_mm[across] < LEAST_RATIO * np.delete(spacing_mm, across).max():
        told = " x ".join(f"{n:.4g}" for n in spacing_mm)
        raise InputError.because(
            path, f"its voxels are {told} mm: a volume, and no stack of slices", "leave out --slices for it"
        )
    steps_mm = label_map.affine[:3, :3]
    inner = [axis for axis in range(3) if axis != across]
    return [
        Plane(
            np.ascontiguousarray(np.take(label_map.labels, number, axis=across)),
            label_map.affine[:3, 3] + number * steps_mm[:, across],
            steps_mm[:, inner],
            path.name if len(single) else f"{path.name}, slice {number + 1}",
        )
        for number in range(shape[across])
    ]


def slices_case(
    where: Path,
    label_maps: Sequence[LabelMap],
    class_names: Sequence[str],
    num_points: int | None = None,
    spacing_mm: float = 1.0,
    given: Sequence[str] | None = None,
) -> Case:
    """The `Case` (no truth) of a heart that label maps show in planes. `where`: its file or folder, for messages.

    A single map keeps its own grid; of several the output grid has `spacing_mm` along the patient's axes and holds the
    contours and MARGIN_MM more. `num_points`: at least so many surface points (default: those of a case file). `given`:
    ids or names of the structures whose contours are shown; then `Case.whole` has all of them.
    InputError where one map is a single slice, or a volume; where two maps have other tables of values, show one plane
    twice, have no place, or are evidently of two hearts (vecset/sparse/one_heart.py); where no plane shows a structure,
    or --given one that no plane shows."""
    if len(label_maps) == 1 and where == label_maps[0].path and 1 in label_maps[0].labels.shape:
        raise InputError.because(
            where, "one slice only", "put the slices of a heart into one folder, and give it with --slices folder"
        )
    table = _one_table(where, label_maps, class_names)
    if len(label_maps) > 1:
        _require_places(label_maps)
    files = [(label_map.path.name, planes_of(label_map)) for label_map in label_maps]
    planes = [plane for _, mine in files for plane in mine]
    _refuse_planes_twice(where, planes)
    accord = refuse_other_hearts(where, files)
    if not any(plane.labels.any() for plane in planes):
        raise InputError.because(where, f"no structure in any of its {len(planes)} slices", "check the labels")
    contours = plane_contours(planes)
    if not len(contours.classes):
        raise InputError.because(
            where, "structures fill the slices to their rims, so that no contour lies inside", "use a larger image"
        )
    ends_mm = np.concatenate([contours.start_mm, contours.end_mm])
    require_heart_size(where, float(np.ptp(ends_mm, axis=0).max()), "check the places and units in the headers")
    if np.abs(ends_mm).max() > FARTHEST_MM:
        raise InputError.because(
            where, f"it lies {np.abs(ends_mm).max() / 1000:.4g} m from the origin", "repair the headers"
        )
    if where == label_maps[0].path:
        grid, geometry = (label_maps[0].affine, label_maps[0].labels.shape), label_maps[0].geometry
    else:
        grid, geometry = grid_round(ends_mm, spacing_mm, MARGIN_MM), None
    case = _case(where, contours, grid, class_names, num_points)
    case.planes, case.meta["slices"], case.meta["source_geometry"] = tuple(planes), {"planes": len(planes)}, geometry
    case.notes = [note for label_map in label_maps for note in _notes(label_map, where)]
    if given:
        chosen = chosen_classes("--given", given, table, class_names, where)
        require_there(chosen, np.unique(contours.classes), class_names, where)
        shown_alone = _case(where, contours.of(chosen), grid, class_names, num_points)
        shown_alone.planes, shown_alone.notes, shown_alone.whole = case.planes, case.notes, case
        shown_alone.meta.update(slices=case.meta["slices"], source_geometry=geometry)
        case = shown_alone
    case.notes.append(_told(case, len(planes), len(label_maps), accord))
    return case


def mark_as_slices(case: Case) -> Case:
    """The `Case` of labelled points (vecset/sparse/point_cloud.py) that lie in slices: what has points is cut, all else
    unknown, also where `case.whole` has what is hidden."""
    case.meta["slices"] = {"planes": None}
    case.meta.update(_states(case.surface_labels))
    if case.whole is not None:
        mark_as_slices(case.whole)
    return case


def _states(classes):
    seen = [int(c) for c in np.unique(classes)]
    return {"annotated_classes": seen, "present_classes": seen, "border_classes": seen}


def _case(where, contours: Contours, grid, class_names, num_points):
    """The Case of contours, with points at equal lengths along those of each class. The shares of the classes are
    those of a case file, with length in place of area."""
    affine, shape = grid
    frame = Frame.from_surface(affine, shape, np.concatenate([contours.start_mm, contours.end_mm]))
    options = Options()
    present = np.unique(contours.classes)
    lengths = [contours.length_mm[contours.classes == c].sum() for c in present]
    counts = allocate(max(num_points or 0, options.num_surface_points), np.array(lengths), options.class_floor)
    points_mm = np.concatenate([contours.evenly(c, n) for c, n in zip(present, counts)])
    names = list(class_names)
    return Case(
        path=where,
        arrays={
            "surface_points": frame.mm_to_unit(points_mm).astype(np.float32),
            "surface_labels": np.repeat(present, counts).astype(np.uint8),
        },
        frame=frame,
        meta={"classes": len(names), "class_names": names, **_states(present)},
    )


def _one_table(where, label_maps, class_names):
    """{id of the maps' own table: class id}. InputError where a value that two maps have is another class in each."""
    identity = {c: c for c in range(1, len(class_names) + 1)}
    used, whole = {}, {}
    for label_map in label_maps:
        own, there = label_map.own_ids or identity, set(np.unique(label_map.labels).tolist())
        whole.update(label_map.own_ids)
        for value, c in own.items():
            if c not in there:
                continue
            first, other = used.setdefault(value, (c, label_map))
            if first != c:
                raise InputError.because(
                    where,
                    f"value {value} is {class_names[first - 1]} in {other.path.name}, but {class_names[c - 1]} in "
                    f"{label_map.path.name}",
                    "give a --label_mapping that holds for all",
                )
    return {**whole, **{value: c for value, (c, _) in used.items()}} if whole else identity


def _require_places(label_maps):
    for label_map in label_maps:
        placed = label_map.geometry
        if placed and not (placed["sform_code"] or placed["qform_code"]):
            raise InputError.because(
                label_map.path,
                "its header states neither sform nor qform, so it has no place among the other slices",
                "export it with its affine",
            )


def _refuse_planes_twice(where, planes):
    """Raises InputError where two planes with labels are the same one."""
    seen = [plane for plane in planes if plane.labels.any()]
    normals = np.array([plane.normal for plane in seen]).reshape(-1, 3)
    middles = np.array([plane.to_mm([np.argwhere(plane.labels).mean(0)])[0] for plane in seen]).reshape(-1, 3)
    for n, plane in enumerate(seen):
        alike = np.abs(normals[n + 1 :] @ normals[n]) > SAME_PLANE_COS
        away = np.abs((middles[n + 1 :] - middles[n]) @ normals[n])
        twice = np.flatnonzero(alike & (away < SAME_PLANE_MM))
        if len(twice):
            raise InputError.because(
                where,
                f"{plane.name} and {seen[n + 1 + twice[0]].name} show the same plane",
                "give one label map of each plane, of one time: see --pattern",
            )


def _notes(label_map, where):
    return [note if where == label_map.path else f"{label_map.path.name}: {note}" for note in label_map.notes]


def _told(case, planes, files, accord):
    names = ", ".join(case.class_names[c - 1] for c in case.meta["present_classes"])
    of = f" of {files} files" if files > 1 else ""
    alike = (
        "" if accord is None else f"; where two files show one place, {accord:.0%} of it is the same structure in both"
    )
    return f"seen in {planes} slices{of}: {names}{alike}; between the slices everything is what the model makes of it"
