"""One file per structure: a folder of masks for each scan, as TotalSegmentator writes them without --ml, merged
into one label map by the names of the files.

    LABELS/SCAN/heart_ventricle_left.nii.gz        or SCAN/segmentations/...; LABELS may also be the folder of one scan

A file that is there and all zero is a structure that is absent. A structure without a file was not annotated. Where
structures overlap, the one with the higher class id has the voxel: LAA before LA, coronaries before myocardium. The
overlaps are counted and told.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.common.user_files import read_json
from vecset.data.label_folder import ALL, LabelFolder, NoLabelMaps, Selection, look_into
from vecset.imaging.channels import check_thickness
from vecset.imaging.class_names import complete_class_names
from vecset.imaging.classes import HEART_CLASSES, ClassNames
from vecset.imaging.header_geometry import check_plausible, farthest_shift
from vecset.imaging.header_names import names_in_header
from vecset.imaging.image_file import case_name, has_suffix, read_image
from vecset.imaging.label_map import LabelMap, file_sha256, read_volume, some_of
from vecset.imaging.label_mapping import class_target
from vecset.imaging.structure_names import FILE_PRESETS, TOTALSEGMENTATOR, class_named, class_of, is_automatic, name_key

INNER = "segmentations"  # the folder in a scan's folder that TotalSegmentator's data set has
SAME_PLACE = 0.05  # voxels that the grids of a scan's files may lie apart: rounding of their headers
LOOKED_AT = 3  # files that are read to tell whether a folder holds one structure per file


@dataclass(frozen=True)
class Structures:
    """Which class a file of one structure stands for, by its name.

    by_name: {`name_key` of a file's stem: class id}, None: every usual spelling (`class_of`); class_names (C,);
    text: the content in a canonical form, equal for equal rules (stored in case files)."""

    by_name: dict | None
    class_names: list
    text: str
    is_table: bool = False  # whether a user wrote the names

    @classmethod
    def load(cls, source: Path | str, num_classes: int, table: Sequence[str] | None = None) -> "Structures":
        """The rule of a preset (FILE_PRESETS), or of a JSON file {file stem: class id, class name, or {"class": id,
        "name": name}}. `table` (C,): the names of a project, in place of the default ones. Raises InputError where it
        is neither, or names a class otherwise than `table`."""
        if str(source) in FILE_PRESETS and not Path(source).is_file():
            given = dict(enumerate(HEART_CLASSES[:num_classes], 1))
            names = complete_class_names(given, num_classes, "--structures") if table is None else table
            ids = {stem: class_named(name, names) for stem, name in TOTALSEGMENTATOR.items()}
            of_stems = {stem: c for stem, c in ids.items() if c is not None}
            by_name = of_stems if str(source) == "totalsegmentator" else None
            return cls(by_name, names, json.dumps([str(source), names]))
        to_do = f"give a JSON file or one of the presets {', '.join(FILE_PRESETS)}"
        content = read_json(source, "a JSON file of structures", to_do)
        if not isinstance(content, dict) or not content:
            raise InputError(source, 'an object that is not empty, as {"lv": 3}', repr(content)[:60], to_do)
        by_name, given = {}, {}
        for stem, target in content.items():
            class_id, name = class_target(f"file {stem!r}", target, num_classes, source, table)
            if name_key(stem) in by_name:
                raise InputError.because(source, f"the file {stem!r} is listed twice", "keep one of them")
            by_name[name_key(stem)] = class_id
            if name is not None and name_key(given.setdefault(class_id, name)) != name_key(name):
                raise InputError.because(source, f"class {class_id} has two names, {given[class_id]!r} and {name!r}")
        names = complete_class_names(given, num_classes, source) if table is None else table
        return cls(by_name, names, json.dumps([sorted(by_name.items()), names]), True)

    def class_id(self, path: Path, scan: Path) -> int | None:
        """The class id that the file at `path` of the folder `scan` stands for; None: another structure. The scan's
        name before or behind that of the structure (scan1_LV.nii.gz) does not count."""
        stem, name = _stem(path), name_key(scan.name)
        found = self._of_stem(stem)
        key = name_key(stem)
        if found is None and name and key.startswith(name):
            found = self._of_stem(stem[len(name) :].strip("_-. "))
        if found is None and name and key.endswith(name):
            found = self._of_stem(stem[: -len(name)].strip("_-. "))
        return found

    def _of_stem(self, stem):
        if self.by_name is not None:
            return self.by_name.get(name_key(stem))
        if isinstance(self.class_names, ClassNames):  # of a project, whose structures may be others
            return class_named(stem, self.class_names)
        structure = class_of(stem)
        return None if structure is None else class_named(structure, self.class_names)


def find_sources(folder: Path | str, selection: Selection = ALL) -> LabelFolder:
    """What becomes a case each: the label maps of `folder`, or with `selection.structures` the folders of its scans;
    and lines about what is left out.

    Raises InputError as `look_into`, and without structures where the folder holds one structure per file."""
    folder = Path(folder)
    if selection.structures is not None:
        scans = find_scans(folder, selection.structures)
        return LabelFolder(scans, folder_lines(scans, selection.structures))
    try:
        found = look_into(folder, selection)
    except NoLabelMaps as error:
        for scan in _subfolders(folder):
            named = [p for f in (scan, *_subfolders(scan)) for p in _images(f) if class_of(_stem(p))]
            if len({class_of(_stem(p)) for p in named}) > 1:
                raise InputError.because(
                    folder,
                    f"no label maps in it, but in {scan.name} files that are named like structures ({_few(named)})",
                    f"merge those of each scan with prepare_data.py {_advice(named)}",
                ) from error
        raise
    by_place = {}
    for path in found.paths:
        by_place.setdefault(path.parent, []).append(path)
    for place, paths in by_place.items():
        refuse_structure_files(place, paths)
        named = [p for p in _images(place / INNER) if class_of(_stem(p))] if (place / INNER).is_dir() else []
        if len(paths) == 1 and len({class_of(_stem(p)) for p in named}) > 1:  # a scan with its structures beside it
            raise InputError.because(
                place,
                f"{paths[0].name} lies beside {INNER}, with files that are named like structures ({_few(named)})",
                f"merge these with prepare_data.py {_advice(named)}; to use {paths[0].name}, give a folder of its own",
            )
    _refuse_structure_folders(folder, by_place)
    return found


def _refuse_structure_folders(folder, by_place):
    """Raises InputError where the folders of the label maps, {folder: paths}, are named as several structures, and the
    first file of each holds one value."""
    named = {class_of(place.name): paths[0] for place, paths in by_place.items() if class_of(place.name)}
    if len(named) > 1 and all(_holds_one_value(path) for path in list(named.values())[:LOOKED_AT]):
        raise InputError.because(
            folder,
            f"its sub-folders are named like structures ({_few([path.parent for path in named.values()])}), and their "
            "files hold one value only: they are no label maps of whole hearts",
            "move the files of each scan into a folder of its own (SCAN/STRUCTURE.nii.gz), and then merge those with "
            "prepare_data.py --structures names",
        )


def refuse_structure_files(folder: Path, paths: Iterable[Path]) -> None:
    """Raises InputError where `paths`, the label maps of `folder`, are named as several structures of one scan, and
    those of them that are looked at hold one value each."""
    alike = {}
    for path in paths:
        for structure, rest in _structure_and_rest(_stem(path)):
            alike.setdefault(rest, {}).setdefault(structure, path)
    for rest, found in alike.items():
        named = list(found.values())
        if len(named) > 1 and all(map(_holds_one_value, named[:LOOKED_AT])):
            first = "" if not rest else "move the files of each scan into a folder of its own, and then "
            raise InputError.because(
                folder,
                f"its files are named like structures of one scan ({_few(named)}), and each holds one value only: they "
                "are no label maps of whole hearts",
                f"{first}merge those of each scan with prepare_data.py {_advice(named)}",
            )


def _structure_and_rest(stem):
    """[(class name, what is left of the name)] for a stem that is a structure's name, or begins or ends with one."""
    if class_of(stem):
        return [(class_of(stem), "")]
    words = re.split(r"[_\-. ]+", stem)
    for count in range(min(4, len(words) - 1), 0, -1):
        for part, rest in ((words[-count:], words[:-count]), (words[:count], words[count:])):
            if class_of("_".join(part)):
                return [(class_of("_".join(part)), "_".join(rest))]
    return []


def _holds_one_value(path):
    """Whether a file has voxels of one value besides 0, or none. One that cannot be read says nothing: its own error
    follows."""
    try:
        return len(np.setdiff1d(read_image(path).values, [0])) <= 1
    except InputError:
        return False


def find_scans(folder: Path, structures: Structures) -> list[Path]:
    """The folders of scans in `folder`, naturally sorted, or `folder` itself where that is the folder of one scan.

    Raises InputError where it is both, or there is no such folder; NoLabelMaps where no folder has images."""
    folder = Path(folder)
    if not folder.is_dir():
        problem = "this is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError.because(folder, problem, "check --input_dir")
    inner = [f for f in _subfolders(folder) if f.name == INNER]
    if _named(folder, folder, structures) or (inner and _named(inner[0], folder, structures)):
        others = [f for f in _subfolders(folder) if f not in inner and _named(f, f, structures)]
        if others:
            raise InputError.because(
                folder,
                f"structure files lie in it and also in its sub-folder {others[0].name}: one scan, or several?",
                "give each scan a folder of its own",
            )
        return [folder.resolve()]
    scans = [f for f in _subfolders(folder) if _images(f) or any(map(_images, _subfolders(f)))]
    if not scans:
        raise NoLabelMaps.because(
            folder, "no sub-folder in it holds images, and none of its own files is a structure", "check --input_dir"
        )
    seen = {}
    for scan in scans:
        other = seen.setdefault(case_name(scan), scan)
        if other is not scan:
            raise InputError.because(
                folder, f"{other.name} and {scan.name} would both become {case_name(scan)}.npz", "rename one of them"
            )
    return scans


def scan_files(scan: Path, structures: Structures) -> dict[Path, int]:
    """{path: class id} of the structure files of a scan, in the order of class ids and names. They lie in its folder or
    in one sub-folder. Raises InputError where there are none, or two places or two files for the same structure."""
    places = [f for f in (scan, *_subfolders(scan)) if _named(f, scan, structures)]
    if not places:
        there = [p for f in (scan, *_subfolders(scan)) for p in _images(f)]
        raise InputError.because(
            scan,
            f"none of its files is named like a structure ({_few(there) or 'no images'})",
            "give their names in a JSON file: --structures FILE",
        )
    if len(places) > 1:
        names = " and ".join(f.name for f in places[:2])
        raise InputError.because(
            scan, f"structure files lie in {names}: one scan, or several?", "give each scan a folder of its own"
        )
    found = _named(places[0], scan, structures)
    stems = {}
    for path in found:
        other = stems.setdefault(name_key(_stem(path)), path)
        if other is not path:
            raise InputError.because(scan, f"{other.name} and {path.name} are the same structure", "remove one of them")
    return dict(sorted(found.items(), key=lambda item: (item[1], natural_key(item[0].name))))


def scan_sha256(scan: Path, structures: Structures) -> str:
    """Hex SHA-256 over the names and the bytes of a scan's structure files."""
    lines = [f"{file_sha256(path)} {path.name}\n" for path in scan_files(scan, structures)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_scan(
    scan: Path, structures: Structures, spacing_from: str | None = None, geometry_from: str | None = None
) -> LabelMap:
    """The LabelMap of a scan's folder. Options as of `read_label_map`.

    Raises InputError where a file cannot be read, has another grid than the first one, holds other values than 0 and
    one more, or names its value otherwise than itself; where one structure covers another one, and where all are
    empty."""
    files = scan_files(scan, structures)
    names, notes, labels, first, shown = structures.class_names, [], None, None, {}
    voxels, overlaps = {}, {}
    by_class = {}
    for path, c in files.items():
        by_class.setdefault(c, []).append(path)
    for c, paths in by_class.items():
        mask = None
        for path in paths:
            values, affine, image, said = read_volume(path, 1, spacing_from, geometry_from)
            if first is None:
                first, labels = (path, affine, image), np.zeros(values.shape, np.uint8)
            _require_grid(path, values.shape, affine, first[0], labels.shape, first[1])
            part = _mask(path, values, c, names)
            mask = part if mask is None else mask | part
            for line in said:
                shown.setdefault(line, []).append(path.name)
        voxels[c] = int(np.count_nonzero(mask))
        lower, counts = np.unique(labels[mask], return_counts=True)
        overlaps.update({(int(b), c): int(n) for b, n in zip(lower, counts) if b})
        labels[mask] = c
        if len(paths) > 1:
            notes.append(f"{names[c - 1]} is all of {_few(paths)}")
    notes += [line if len(who) == len(files) else f"{', '.join(who[:3])}: {line}" for line, who in shown.items()]
    for (below, above), count in overlaps.items():
        notes.append(
            f"{names[below - 1]} and {names[above - 1]} overlap in {count} voxels, which became {names[above - 1]} "
            "(the higher class id)"
        )
    for c, count in voxels.items():
        if count and not (labels == c).any():
            over = ", ".join(names[above - 1] for below, above in overlaps if below == c)
            raise InputError.because(
                scan, f"all {count} voxels of {names[c - 1]} lie in {over}", "check which file is which structure"
            )
    if structures.is_table:
        notes += _parts_lacking(files, scan, structures)
    if not labels.any():
        raise InputError.because(scan, "all of its structure files are empty", "remove it from the folder")
    check_thickness(scan, labels)
    check_plausible(scan, labels, first[1])
    return LabelMap(
        labels,
        first[1],
        scan,
        scan_sha256(scan, structures),
        list(names),
        sorted(by_class),
        first[2].affine,
        first[2].geometry,
        notes=notes,
        structures={
            "files": {str(path.relative_to(scan)): c for path, c in files.items()},
            "overlaps": [[below, above, count] for (below, above), count in overlaps.items()],
        },
    )


def _mask(path, values, class_id, class_names):
    """(X, Y, Z) bool of a file of one structure."""
    found = np.unique(values)
    found = [int(value) for value in found if value]
    if len(found) > 1 or any(value < 0 for value in found):
        raise InputError.because(
            path,
            f"it holds the values {some_of(found)}, but a mask of one structure holds 0 and one more",
            "give it another name if it is none; label maps of several structures go without --structures",
        )
    said = names_in_header(path).get(found[0], "") if found else ""
    other = None if is_automatic(said) else class_named(said, class_names)
    if other and other != class_id:
        raise InputError.because(
            path,
            f"its name stands for {class_names[class_id - 1]}, but its header says {said!r}",
            "rename the file, or export it again",
        )
    return values != 0


def _require_grid(path, shape, affine, first, first_shape, first_affine):
    """Raises InputError where two files of a scan have other grids."""
    if shape != first_shape:
        words = [" x ".join(map(str, s)) for s in (shape, first_shape)]
        problem = f"its grid of {words[0]} voxels is not that of {first.name} ({words[1]})"
    else:
        apart = farthest_shift(first_affine, affine, shape)
        if apart <= SAME_PLACE:
            return
        problem = f"its voxels lie up to {apart:.3g} voxels from those of {first.name}"
    raise InputError.because(
        path, problem, "resample all structures of a scan to one grid, with nearest neighbour, or export them again"
    )


def _parts_lacking(files, scan, structures):
    """Lines about classes of which a scan has some of the files in a user's table, and not all."""
    there, lines = {}, []
    for path, c in files.items():
        there.setdefault(c, []).append(path)
    for c, paths in there.items():
        listed = sum(1 for other in structures.by_name.values() if other == c)
        if listed > len(paths):
            lines.append(
                f"{structures.class_names[c - 1]} is made of {_few(paths)} alone: {listed - len(paths)} of the files "
                "that --structures lists for it are not there"
            )
    return lines


def folder_lines(scans: list[Path], structures: Structures) -> list[str]:
    """What a user should know about the folders of all scans: files that are left out, structures without a file."""
    left, having = {}, {}
    for scan in scans:
        for place in (scan, *_subfolders(scan)):
            named = _named(place, scan, structures)
            for path in _images(place):
                if path in named:
                    having.setdefault(named[path], set()).add(scan)
                else:
                    left.setdefault(_stem(path), set()).add(scan)
    lines = []
    if left:
        most = sorted(left.items(), key=lambda item: (-len(item[1]), natural_key(item[0])))
        lines.append("files of other structures or images, left out: " + some_of(f"{n} ({len(s)})" for n, s in most))
    names = structures.class_names
    nowhere = [name for c, name in enumerate(names, 1) if c not in having]
    if nowhere:
        lines.append(f"no scan has a file of {', '.join(nowhere)}: not annotated")
    for c, found in sorted(having.items()):
        if len(found) < len(scans):
            lacking = some_of(scan.name for scan in scans if scan not in found)
            lines.append(f"no file of {names[c - 1]} (not annotated there): {lacking}")
    return lines


def scan_listing(scans: Iterable[Path], structures: Structures, base: Path) -> dict:
    """{scan's folder relative to `base`: [[file, bytes, modification time in ns], ...]}: differs where one of its
    structure files was rewritten, removed or added. A folder that cannot be used has an empty list."""
    found = {}
    for scan in scans:
        try:
            files = sorted(scan_files(scan, structures))
        except InputError:  # the stage that reads it tells
            files = []
        states = [(path, path.stat()) for path in files]
        name = str(scan.relative_to(base)) if scan != base else scan.name
        found[name] = [[str(path.relative_to(scan)), s.st_size, s.st_mtime_ns] for path, s in states]
    return found


def _named(folder, scan, structures):
    """{path: class id} of the images in `folder` that are structures of `scan`."""
    found = {path: structures.class_id(path, scan) for path in _images(folder)}
    return {path: c for path, c in found.items() if c is not None}


def _images(folder):
    """The image files in a folder, naturally sorted; names that begin with a dot are left out."""
    found = [p for p in folder.iterdir() if has_suffix(p.name) and not p.name.startswith(".") and p.is_file()]
    return sorted(found, key=lambda p: natural_key(p.name))


def _subfolders(folder):
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")] if folder.is_dir() else []
    return sorted(found, key=lambda p: natural_key(p.name))


def _stem(path):
    name = case_name(path)
    return name[: -len(".seg")] if name.lower().endswith(".seg") else name


def _few(paths):
    return some_of(path.name for path in list(paths)[:12])


def _advice(paths):
    theirs = all(name_key(_stem(path)) in TOTALSEGMENTATOR for path in paths)
    return "--structures " + ("totalsegmentator" if theirs else "names")
