"""The one record of a case that a folder or a CSV lists, and the reader of the CSVs of a split. No torch.

Splits, training, decision tuning and reconstruction all name their hearts by it.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from vecset.common.errors import InputError
from vecset.common.user_files import read_rows
from vecset.data.case_file import read_meta
from vecset.imaging.class_names import check_same_names, distinct_names

CASE_FILE, LABEL_MAP, POINT_CLOUD, LATENTS = "case file", "label map", "point cloud", "latents"
SLICES = "slices"  # a folder, whose label maps show one heart in planes


@dataclass(frozen=True)
class ListedCase:
    """A case, its file, and what is known of it without reading its points.

    `kind`: what the file is, one of the names above. `files`: of SLICES, those of the folder `path`. Where they are
    read: `class_names` (C,) and `annotated` (C bools); `group` (patient); `missing_classes` and `border_classes`, ids
    of classes that are absent, or truncated by the field of view; `fingerprint` of the source, equal where two case
    files hold copies of one label map."""

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

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def read_split(csv_path, data_path, num_classes=None, reason="--classes says") -> list[ListedCase]:
    """The cases of a CSV with header `case_id,file,...` (`file` relative to `data_path`), sorted by case_id, so that
    the order of lines changes nothing. All cases must have the same classes: `num_classes` of them where given (the
    error then names the `reason`), else as the first, and the same class names. Raises InputError for a missing file, a
    duplicate, other classes, no case at all."""
    csv_path, data_path = Path(csv_path), Path(data_path)
    listed = read_listed(csv_path, data_path)
    entries = [_entry(csv_path, case) for case in listed]
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
    csv_path = Path(csv_path)
    lines = read_rows(csv_path, ("case_id", "file"), "a CSV of cases", "make it with create_csv.py")
    if not lines:
        raise InputError(csv_path, "at least one case", "none", "make it again with create_csv.py")
    for column in ("case_id", "file"):
        values = Counter(line[column] for line in lines)
        repeated = [value for value, times in values.items() if times > 1 or not value]
        if repeated:
            raise InputError(
                csv_path,
                f"a {column} of its own in every line",
                f"{repeated[0]!r} more than once or empty",
                "make it again with create_csv.py",
            )
    ordered = sorted(lines, key=lambda line: line["case_id"])
    return [ListedCase(line["case_id"], Path(data_path) / line["file"]) for line in ordered]


def _entry(csv_path, case):
    """The case with classes and annotations, read from its file."""
    if not os.path.isfile(case.path):  # is_file() raises where the name is too long
        raise InputError(
            csv_path,
            f"the file of case {case.case_id}",
            f"no file {case.path}",
            "check --data_path, or make the CSV again with create_csv.py",
        )
    meta = read_meta(case.path)
    annotated = set(meta["annotated_classes"])
    return replace(
        case,
        class_names=tuple(distinct_names(meta["class_names"])),
        annotated=tuple(c in annotated for c in range(1, meta["classes"] + 1)),
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
