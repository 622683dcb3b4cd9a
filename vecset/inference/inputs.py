"""Files to hearts: case files, label maps, folders of them, the CSV of a split, point clouds with labels, slices,
stored latents."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vecset.common.draws import draw_balanced_rows, draw_rows, random_stream
from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.data.case_classes import (
    chosen_classes,
    classes_by_names,
    not_annotated,
    refuse_not_annotated,
    require_annotated,
    require_there,
)
from vecset.data.case_file import Case, read_case
from vecset.data.label_folder import ALL, NoLabelMaps, Selection, relative_name
from vecset.data.listed_case import CASE_FILE, LABEL_MAP, LATENTS, POINT_CLOUD, SLICES, ListedCase, read_listed
from vecset.data.structure_files import find_sources
from vecset.imaging.channels import check_thickness
from vecset.imaging.classes import default_class_names
from vecset.imaging.frame import UNIT_RADIUS, check_affine
from vecset.imaging.header_geometry import require_heart_size
from vecset.imaging.header_names import classes_told, names_apart_from_numbers, names_in_file
from vecset.imaging.image_file import SUFFIX_WORDS, case_id, case_name, has_suffix
from vecset.imaging.label_map import (
    LabelMap,
    LabelOutOfRange,
    file_sha256,
    read_label_map,
)
from vecset.imaging.label_mapping import LabelMapping
from vecset.inference.latents import FILE as LATENTS_FILE
from vecset.inference.latents import find_latents, read_latents
from vecset.sparse import slices as in_slices
from vecset.sparse.point_cloud import MARGIN_MM, is_point_cloud, read_point_cloud, with_given_points

LEAST_POINTS = 500  # of a case that is not encoded, but scored
CASE_MEMBERS = ("surface_points", "surface_labels", "frame", "truth")
FIELD_MEMBERS = (*(f"{kind}_{what}" for kind in ("near", "vol") for what in ("points", "sdf", "labels")), "near_source")
FIELD_POINTS = 20_000, 80_000  # in the volume and near surfaces, of a label map


def input_sha256(heart: ListedCase) -> str:
    """Of the file's bytes, or of the names and bytes of a folder's slices; InputError where it cannot be read."""
    if heart.kind == SLICES:
        parts = [(p.name, input_sha256(ListedCase("", p))) for p in heart.files]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    try:
        return file_sha256(heart.path)
    except FileNotFoundError:
        raise InputError.because(heart.path, "no file of this name", "check --input and --data_path") from None
    except OSError as error:
        raise InputError.because(
            heart.path,
            f"it cannot be read ({error.strerror or error})",
            "check its permissions, and the disk",
        ) from None


def find_hearts(
    source: Path | str,
    data_path: Path | None = None,
    selection: Selection = ALL,
    say: Callable = print,
    slices: str | None = None,
) -> list[ListedCase]:
    """The hearts of `source`: a case file, a label map, a folder (its case files where it has any, else its label
    maps, chosen by `selection`), or a CSV with columns case_id and file, relative to `data_path` (the CSV's folder
    where None). `say` gets a line for each kind of file in a folder that is left out. `slices`: None, or one of
    `vecset.sparse.slices.WAYS`; "folder": each folder of label maps is one heart, `source` itself where it holds some,
    else its sub-folders, or those that the CSV names. What is in the files is not looked at: `load_heart` refuses each
    that is none, so that the others can be used."""
    source = Path(source)
    name = source.name.lower()
    if slices == in_slices.FOLDER:
        return _slice_hearts(source, data_path, selection, say)
    if source.is_dir():
        cases = [p for p in source.glob("*.npz") if not p.name.startswith(".")]
        cases.sort(key=lambda p: natural_key(p.name))
        if cases:
            maps = sum(has_suffix(p.name) and not p.name.startswith(".") for p in source.iterdir())
            if maps:
                say(f"note: {maps} label maps left out, because {source} holds case files")
            return [_case_or_cloud(p) for p in cases]
        return _label_maps(source, selection, say)
    if not source.is_file():
        raise InputError.because(source, "no such file or folder", "check --input")
    if name.endswith(".csv"):
        return _listed_hearts(source, data_path)
    if name.endswith((".npz", ".ply")):
        return [_case_or_cloud(source)]
    if has_suffix(name):
        return [ListedCase(case_name(source), source, LABEL_MAP)]
    raise InputError(source, f"a name ending in .npz, .csv, .ply, {SUFFIX_WORDS}", source.name, "check --input")


def _listed_hearts(source, data_path):
    """The `ListedCase`s of a CSV, whose names can be those of folders."""
    hearts = read_listed(source, data_path or source.parent)
    wrong = [h.case_id for h in hearts if "/" in h.case_id or h.case_id.startswith(".")]
    if wrong:
        raise InputError.because(source, f"case_id {wrong[0]!r} cannot name a folder", "rename the case")
    return hearts


def _slice_hearts(source, data_path, selection, say):
    """The `ListedCase`s of folders of slices."""
    if source.is_dir():
        return in_slices.slice_folders(source, selection, say)
    if not source.is_file():
        raise InputError.because(source, "no such file or folder", "check --input")
    if not source.name.lower().endswith(".csv"):
        raise InputError.because(source, "a file, and no folder", "give --slices file, or the folder")
    hearts = []
    for listed in _listed_hearts(source, data_path):
        if not listed.path.is_dir():
            raise InputError.because(
                source, f"{listed.path} of case {listed.case_id} is no folder", "give folders, or --slices file"
            )
        found = in_slices.slice_folders(listed.path, Selection(False, selection.pattern), say)
        if found[0].path != listed.path:
            raise InputError.because(listed.path, "no label maps directly in it", "name the folders that hold them")
        hearts.append(replace(listed, kind=SLICES, files=found[0].files))
    return hearts


def _label_maps(folder, selection, say):
    """The `ListedCase`s of a folder of label maps, with errors that name the options of reconstruct.py."""
    try:
        found = find_sources(folder, selection)
    except NoLabelMaps as error:
        words = error.problem.replace("no label maps in it", "holds neither case files nor label maps", 1)
        raise InputError.because(folder, words, error.to_do.replace("--input_dir", "--input")) from None
    except InputError as error:
        if "--structures" not in error.to_do:
            raise
        raise InputError.because(folder, error.problem, f"{error.to_do}, and give the case files to --input") from None
    for line in found.left_out:
        say(f"note: {line}")
    return [ListedCase(case_id(relative_name(p, folder)), p, LABEL_MAP) for p in found.paths]


def _case_or_cloud(path):
    """The `ListedCase` of a case file or point cloud (.npz, .ply)."""
    return ListedCase(path.name[: -len(".npz")], path, POINT_CLOUD if is_point_cloud(path) else CASE_FILE)


def find_stored_latents(source: Path | str) -> list[ListedCase]:
    """The hearts of the latents in `source` (vecset/inference/latents.py), named as they were when they were
    encoded; a broken file in a folder by its own folder or name, so that it is refused where it is read, alone."""
    alone = not Path(source).is_dir()
    hearts = [ListedCase(_encoded_id(p, alone), p, LATENTS) for p in find_latents(source)]
    wrong = [h for h in hearts if "/" in h.case_id or h.case_id.startswith(".") or not h.case_id]
    if wrong:
        raise InputError.because(source, f"case_id {wrong[0].case_id!r} cannot name a folder", "check --latents")
    ids = [h.case_id for h in hearts]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise InputError.because(source, f"case_id {twice!r} occurs twice", "check --latents")
    return hearts


def _encoded_id(path, alone):
    try:
        return str(read_latents(path)[1].meta["case_id"])
    except (InputError, KeyError):
        if alone:
            raise
        # `LoadedModel.stored_latents` reads it again, and says what is wrong
        return path.resolve().parent.name if path.name == LATENTS_FILE else path.name.removesuffix(".npz")


def load_heart(
    heart: ListedCase,
    class_names: Sequence[str],
    seed: int = 0,
    num_surface_points: int | None = None,
    spacing_from: str | None = None,
    spacing_mm: float | None = None,
    geometry_from: str | None = None,
    label_mapping: LabelMapping | None = None,
    annotated: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    slices: str | None = None,
    with_field: bool = False,
) -> Case:
    """The `Case` of a heart, with at least surface points, their labels and the frame. A label map goes through the
    data preparation, as `prepare_data.py` would do it (`spacing_from`, `geometry_from` and `label_mapping` as there,
    the classes of the mapping and names in the file matched to `class_names`). A case file is read to `class_names` by
    name. `spacing_mm`: of the grid that a point cloud is given (1 mm where None). `annotated`: ids of the heart's own
    table, or names, of the classes that were looked for; None: what the file, the mapping or the names in the file say.
    Classes of `class_names` that the heart's own table does not have are not annotated. `given`: ids or names of the
    classes that are shown: the others are taken out of the label map (of a case file: its truth) before anything is
    made of it, so that surface, frame and points are those of what is given; the heart with all is `Case.whole`.
    `slices`: one of `vecset.sparse.slices.WAYS`, where the input shows planes, between which all is unknown.
    `with_field`: with points at which distances and labels are known, of label maps and case files.
    InputError where the heart has other classes, where a class of `given` is not there, for a case file with
    `annotated`, which it says itself, and for one with `given` that holds no label map."""
    path = heart.path
    if heart.kind == SLICES or (slices and heart.kind == LABEL_MAP):
        label_maps = [
            _read_labels(p, class_names, spacing_from, geometry_from, label_mapping, as_slices=True)
            for p in heart.files or (path,)
        ]
        return in_slices.slices_case(path, label_maps, class_names, num_surface_points, spacing_mm or 1.0, given)
    if heart.kind == LABEL_MAP:
        from vecset.data.preparation import Options, build_case

        label_map = _read_labels(heart.path, class_names, spacing_from, geometry_from, label_mapping)
        options = Options(seed=seed)
        if num_surface_points:  # the other points are not used here
            more = FIELD_POINTS if with_field else (2, 2)
            options = Options(max(options.num_surface_points, num_surface_points), *more, seed)
        table = label_map.own_ids or _own_numbers(class_names)
        if annotated:
            label_map.annotated = chosen_classes("--annotated", annotated, table, class_names, heart.path)
        if given:
            chosen = chosen_classes("--given", given, table, class_names, path)
            if annotated:
                refuse_not_annotated(not_annotated(given, annotated, table, class_names), annotated, path)
            whole = build_case(label_map, replace(options, num_surface_points=LEAST_POINTS))
            case = _of_what_is_given(label_map, chosen, options, whole)
        else:
            case = build_case(label_map, options)
        case.path, case.notes = path, label_map.notes
        case.meta["class_names"] = list(class_names)
        return case
    if heart.kind == POINT_CLOUD:
        margin_mm = in_slices.MARGIN_MM if slices else MARGIN_MM
        case = read_point_cloud(path, class_names, spacing_mm or 1.0, margin_mm)
        if annotated:
            numbers = _own_numbers(class_names)
            known = chosen_classes("--annotated", annotated, numbers, class_names, path)
            refuse_not_annotated(not_annotated(given or (), annotated, numbers, class_names), annotated, path)
            require_annotated(np.unique(case.surface_labels).tolist(), known, class_names, path)
            case.meta["annotated_classes"] = known
        if given:
            case = with_given_points(
                case, chosen_classes("--given", given, _own_numbers(class_names), class_names, path)
            )
        return in_slices.mark_as_slices(case) if slices else case
    if slices:
        raise InputError.because(
            path, "a case file holds the surface of a whole heart, and no slices", "give label maps to --slices"
        )
    if annotated:
        raise InputError.because(
            heart.path, "a case file says itself which classes were annotated", "leave out --annotated"
        )
    case = read_case(heart.path, (*CASE_MEMBERS, *(FIELD_MEMBERS if with_field else ()))).require(
        "surface_points", "surface_labels", "frame", purpose="reconstruction on the source grid"
    )
    check_affine(case.frame.affine, heart.path)
    if not np.isfinite(case.surface_points).all():
        raise InputError.because(
            heart.path, "its surface_points are not all finite", "make it again with prepare_data.py --overwrite"
        )
    require_heart_size(
        heart.path,
        2 * UNIT_RADIUS / case.frame.scale,
        "make it again with prepare_data.py from a label map whose header has its unit of length",
    )
    case, own_ids = classes_by_names(case, class_names)
    if not given:
        return case
    if case.truth_crop is None:
        raise InputError.because(
            path,
            "this case file holds no label map, from which classes could be hidden",
            "make it again with prepare_data.py --overwrite, or give the label map to --input",
        )
    from vecset.data.preparation import Options

    label_map = LabelMap(
        case.truth_labels(),
        np.array(case.frame.affine),
        path,
        str(case.meta.get("source_sha256", "")),
        list(class_names),
        list(case.meta["annotated_classes"]),
        np.array(case.frame.affine),
        case.meta.get("source_geometry"),
        source_name=str(case.meta.get("source_name") or path.name),
    )
    made = case.meta.get("sampling", {})
    kept = ("num_surface_points", "seed", "sdf", "class_floor", "sample_caps")
    options = Options(num_vol_points=2, num_near_points=2, **{key: made[key] for key in kept if key in made})
    chosen = chosen_classes("--given", given, own_ids, class_names, path)
    hidden = _of_what_is_given(label_map, chosen, options, case)
    hidden.path = path
    return hidden


def _of_what_is_given(label_map, given, options, whole):
    """The `Case` of a label map from which all classes but `given` (ids) are taken out first; `whole`: that of all."""
    from vecset.data.preparation import build_case

    require_there(given, np.unique(label_map.labels), label_map.class_names, label_map.path)
    labels = np.where(np.isin(label_map.labels, given), label_map.labels, 0).astype(np.uint8)
    check_thickness(label_map.path, labels)
    case = build_case(replace(label_map, labels=labels, annotated=given), options)
    case.whole = whole
    return case


def _own_numbers(class_names):
    """The table of a heart whose ids are those of the classes."""
    return {c: c for c in range(1, len(class_names) + 1)}


def _read_labels(path, class_names, spacing_from, geometry_from, label_mapping, as_slices=False):
    """`read_label_map`, whose errors name the checkpoint's classes, as there is no --classes here."""
    try:
        return read_label_map(
            path, len(class_names), label_mapping, spacing_from, class_names, geometry_from, as_slices
        )
    except LabelOutOfRange as error:
        expected = error.expected.replace(f" (--classes {len(class_names)})", ", the checkpoint's classes")
        raise InputError(
            error.where,
            expected,
            error.found,
            "check the file, or map its values with --label_mapping",
        ) from None


def draw_surface(
    case: Case, case_id: str, count: int, balance: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`count` surface points (count, 3) f32 in unit and their class ids (count,) i64, drawn as in training
    (`balance` as there: 0 as the file has them, 1 equal shares per class), always the same for a seed and a case."""
    rng = random_stream(seed, 0, case_id, "reconstruct surface")
    labels = np.asarray(case.surface_labels)
    if not len(labels):
        raise InputError.because(
            case.path, "it has no surface points", "make it again with prepare_data.py --overwrite"
        )
    if balance:
        rows = draw_balanced_rows(rng, [np.flatnonzero(labels == c) for c in np.unique(labels)], count, balance)
    else:
        rows = draw_rows(rng, len(labels), count)
    return case.surface_points[rows].astype(np.float32), labels[rows].astype(np.int64)


def names_that_decide(heart: ListedCase, class_names: Sequence[str]) -> dict:
    """What decides beside the numbers which class a label map's values are, and which were annotated; {} for other
    files and where nothing does: `value_names`, those names in its header that are not those of the numbers among
    `class_names`; `named_classes`, where fewer classes than these are named; `class_names`, where they are not the
    default ones. Of a folder of slices: `files`, {name: these of each file}."""
    if heart.kind == SLICES:
        each = {p.name: names_that_decide(ListedCase("", p, LABEL_MAP), class_names) for p in heart.files}
        return {"files": each} if any(each.values()) else {}
    if heart.kind != LABEL_MAP:
        return {}
    named = names_apart_from_numbers(heart.path, class_names)
    told = sorted(set(classes_told(names_in_file(heart.path), class_names).values()))
    own = list(class_names) != default_class_names(len(class_names))
    return (
        ({"value_names": named} if named else {})
        | ({"named_classes": told} if 0 < len(told) < len(class_names) else {})
        | ({"class_names": list(class_names)} if own else {})
    )


def load_truth(
    heart: ListedCase,
    class_names: Sequence[str],
    spacing_from: str | None = None,
    geometry_from: str | None = None,
    label_mapping: LabelMapping | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The true label map (X, Y, Z) u8 on the source grid, and its affine (4, 4) voxel -> mm, the spacing corrected."""
    if heart.kind == LABEL_MAP:
        label_map = read_label_map(
            heart.path, len(class_names), label_mapping, spacing_from, class_names, geometry_from
        )
        return label_map.labels, label_map.affine
    case, _ = classes_by_names(read_case(heart.path, ("frame", "truth")), class_names)
    return case.truth_labels(), case.frame.affine
