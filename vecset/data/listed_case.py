"""The one record of a case that a folder or a CSV lists, and the reader of the CSVs of a split. No torch.

Splits, training, decision tuning and reconstruction all name their hearts by it. A CSV of several data sets has the
columns `dataset` and `data_path`, and its cases are read to the structures of them all, which splits.json beside it
lists (vecset/data/datasets.py).
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vecset.common.errors import InputError
from vecset.common.user_files import read_json, read_rows
from vecset.data.case_classes import ids_by_names, renumbered
from vecset.data.case_file import Case, names_of_meta, read_case, read_meta
from vecset.imaging.class_names import check_same_names, distinct_names
from vecset.imaging.classes import ClassNames

CASE_FILE, LABEL_MAP, POINT_CLOUD, LATENTS = "case file", "label map", "point cloud", "latents"
SIDECAR = "splits.json"  # beside the CSVs: what the split says of itself
SLICES = "slices"  # a folder, whose label maps show one heart in planes


@dataclass(frozen=True)
class ListedCase:
    """A case, its file, and what is known of it without reading its points.

    `kind`: what the file is, one of the names above. `files`: of SLICES, those of the folder `path`. Where they are
    read: `class_names` (C,) and `annotated` (C bools); `group` (patient); `missing_classes` and `border_classes`, ids
    of classes that are absent, or truncated by the field of view; `fingerprint` of the source, equal where two case
    files hold copies of one label map. Of a CSV of several data sets: `dataset`, the name of its own; and where it is
    read for training, `own_ids`: for each class of its file the id among `class_names`, those of all data sets, and 0
    for one that nobody looked for."""

    case_id: str
    path: Path
    kind: str = CASE_FILE
    class_names: tuple = ()
    annotated: tuple = ()
    group: str = ""
    missing_classes: tuple = ()
    border_classes: tuple = ()
    fingerprint: str = ""
    files: tuple[Path, ...] = ()
    dataset: str = ""
    own_ids: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def read_split(csv_path, data_path, num_classes=None, reason="--classes says") -> list[ListedCase]:
    """The cases of a CSV with header `case_id,file,...` (`file` relative to `data_path`), sorted by case_id, so that
    the order of lines changes nothing. All cases must have the same classes: `num_classes` of them where given (the
    error then names the `reason`), else as the first, and the same class names; those of a CSV of several data sets get
    the structures of them all. Raises InputError for a missing file, a duplicate, other classes, no case at all."""
    csv_path, data_path = Path(csv_path), Path(data_path)
    listed = read_listed(csv_path, data_path)
    union = read_union(csv_path.parent / SIDECAR) if any(case.dataset for case in listed) else None
    entries = [_entry(csv_path, case, union) for case in listed]
    expected = num_classes or entries[0].num_classes
    for entry in entries:
        if entry.num_classes != expected:
            told = reason if num_classes else "the others have"
            raise InputError(
                entry.path,
                f"{expected} classes, as {told}",
                f"{entry.num_classes}",
                "prepare all cases with the same --classes, or give --classes",
            )
        check_same_names(
            entry.class_names,
            entries[0].class_names,
            entry.path,
            entries[0].path.name,
            "prepare all cases with the same --label_mapping",
        )
    return entries


def read_listed(csv_path: Path | str, data_path: Path | str) -> list[ListedCase]:
    """The lines of a CSV with header `case_id,file,...`, sorted by case_id, with nothing but id and path: no file is
    opened, so that one that is broken or missing is met where it is used. InputError as `read_split` for the CSV."""
    csv_path, data_path = Path(csv_path), Path(data_path)
    lines = read_rows(csv_path, ("case_id", "file"), "a CSV of cases", "make it with create_csv.py")
    if not lines:
        raise InputError(csv_path, "at least one case", "none", "make it again with create_csv.py")
    for column, value_of in (("case_id", lambda line: line["case_id"]), ("file", _place)):
        values = Counter(map(value_of, lines))
        repeated = [value for value, times in values.items() if times > 1 or not value]
        if repeated:
            raise InputError(
                csv_path,
                f"a {column} of its own in every line",
                f"{str(repeated[0])!r} more than once or empty",
                "make it again with create_csv.py",
            )
    ordered = sorted(lines, key=lambda line: line["case_id"])
    return [
        ListedCase(
            line["case_id"],
            csv_path.parent / line["data_path"] / line["file"] if line.get("data_path") else data_path / line["file"],
            dataset=line.get("dataset") or "",
        )
        for line in ordered
    ]


def _place(line):
    """What tells the file of a line from those of the others; "" where it names none."""
    return line["file"] and os.path.join(line.get("data_path") or "", line["file"])


def read_union(sidecar: Path) -> ClassNames:
    """The structures (C,) of all data sets of a split, as its record (splits.json) lists them. InputError where there
    is no such record, or it lists none."""
    to_do = "make the split again with create_csv.py, and keep splits.json beside its CSVs"
    record = read_json(sidecar, "the record of a split of several data sets", to_do)
    rows = record.get("structures") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row.get("name") for row in rows):
        raise InputError.because(sidecar, "it lists no structures of several data sets", to_do)
    return ClassNames(
        [str(row["name"]) for row in rows],
        {row["name"]: row["aliases"] for row in rows if row.get("aliases")},
        {row["name"]: row["colour"] for row in rows if row.get("colour")},
    )


def table_of(entries: list[ListedCase], csv_folder: Path | str) -> list[str]:
    """(C,) class names of `entries` (`read_split`) of a CSV in `csv_folder`: `ClassNames` where their table has aliases
    or colours, those of the union for several data sets."""
    if any(entry.own_ids for entry in entries):
        return read_union(Path(csv_folder) / SIDECAR)
    return names_of_meta(read_meta(entries[0].path))


def read_as_listed(source: ListedCase | Path | str, members: Iterable[str] | None = None) -> Case:
    """The Case of a file, as of `read_case`; that of a CSV of several data sets with the classes of them all. Classes
    that its own data set does not have are not annotated.

    Raises InputError as `read_case`, and where the file has other classes than when it was listed."""
    if not isinstance(source, ListedCase):
        return read_case(source, members)
    case = read_case(source.path, members)
    if not source.own_ids:
        return case
    if case.num_classes != len(source.own_ids):
        raise InputError(
            source.path,
            f"{len(source.own_ids)} classes, as when it was listed",
            case.num_classes,
            "start again, and leave the case files as they are meanwhile",
        )
    ids = {c: union for c, union in enumerate(source.own_ids, 1) if union}
    return renumbered(case, ids, source.class_names)


def _entry(csv_path, case, union):
    """The case with classes and annotations, read from its file; union: the structures of all data sets, or None."""
    if not os.path.isfile(case.path):  # is_file() raises where the name is too long
        raise InputError(
            csv_path,
            f"the file of case {case.case_id}",
            f"no file {case.path}",
            "check --data_path, or make the CSV again with create_csv.py",
        )
    meta = read_meta(case.path)
    annotated, cut, own_ids = set(meta["annotated_classes"]), set(meta.get("border_classes", ())), ()
    if union is not None:
        to_do = "make the split again with create_csv.py"
        ids = ids_by_names(meta, union, case.path, f"the split of {csv_path.parent}", to_do)
        own_ids = tuple(ids.get(c, 0) for c in range(1, meta["classes"] + 1))
        annotated, cut = ({ids[c] for c in classes if c in ids} for classes in (annotated, cut))
        meta = {**meta, "classes": len(union), "class_names": union}
    return replace(
        case,
        class_names=tuple(distinct_names(meta["class_names"])),
        annotated=tuple(c in annotated for c in range(1, meta["classes"] + 1)),
        border_classes=tuple(sorted(cut)),
        fingerprint=str(meta.get("source_sha256", "")),
        own_ids=own_ids,
    )


def check_disjoint(training: list[ListedCase], validation: list[ListedCase], where: str | Path) -> None:
    """Refuses a case, by id or by file, that is in both splits: its validation figure would be a training figure."""
    for key in (lambda e: e.case_id, lambda e: e.path.resolve()):
        both = {key(e) for e in training} & {key(e) for e in validation}
        if both:
            raise InputError(
                where,
                "no case in both train and val",
                f"{sorted(map(str, both))[0]} ({len(both)} in all)",
                "make the CSVs again with create_csv.py",
            )
