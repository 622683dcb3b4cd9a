"""Which heart is trained on and which is held back: seeded, stratified by missing classes, groups kept whole.

The split depends on the case ids, their groups, their missing classes and the seed, and on nothing else: not on the
order in which a file system lists the files, not on the machine, not on Python's hash.
"""

import csv
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vecset.common.atomic import write_text
from vecset.common.errors import InputError
from vecset.common.file_names import require_sound_name
from vecset.common.natural_order import natural_key
from vecset.common.user_files import SAVE_WITH_COMMAS, SEPARATORS, read_json, read_text
from vecset.data.case_file import read_meta
from vecset.data.listed_case import SIDECAR, ListedCase, read_listed
from vecset.data.patients import EACH_ALONE, find_patients, straddling
from vecset.imaging.class_names import distinct_names, listed
from vecset.imaging.image_file import case_name
from vecset.imaging.structure_names import name_key

VERSION = 1  # of the method: higher when the same case files and options give other CSVs
FIELDS = ("case_id", "file", "group", "missing_classes", "border_classes")
DATASET_FIELDS = ("dataset", "data_path")  # more, where a split is of several data sets


def split_folder(
    data_dir: Path,
    output_dir: Path,
    val_ratio: float = 0.2,
    seed: int = 0,
    folds: int | None = None,
    group_regex: str | None = None,
    holdout: Path | None = None,
) -> list[InputError]:
    """Writes the CSVs of all case files in `data_dir` into `output_dir` and prints their sizes. Returns the errors of
    the files that are broken, which are in no set. Raises InputError where an option is wrong or no file is left."""
    pattern = compile_group_regex(group_regex)
    entries, broken = read_entries(data_dir, pattern, case_files_bar("case files"))
    for error in broken:
        print(f"error: {error}", file=sys.stderr)
    if not entries:
        raise InputError(
            data_dir,
            "at least one whole case file",
            f"{len(broken)} broken ones",
            "make them again with prepare_data.py --overwrite",
        )
    check_same_classes(entries)
    for bundle in clusters(entries):
        prints = [e.fingerprint for e in bundle]
        copies = [e.case_id for e in bundle if e.fingerprint and prints.count(e.fingerprint) > 1]
        if copies:
            print(f"warning: made from the same label map, so kept in one set: {', '.join(copies)}", file=sys.stderr)

    sets, rest = {}, entries
    if holdout:
        ids = own_ids_of_holdout(holdout, entries) or read_holdout(holdout)
        rest, sets["test.csv"] = take_holdout(entries, ids, holdout)
    sets["train.csv"], sets["val.csv"] = split_train_val(rest, val_ratio, seed)
    if folds is not None:
        for k, (train, val) in enumerate(split_folds(rest, folds, seed)):
            sets[f"train_fold{k}.csv"], sets[f"val_fold{k}.csv"] = train, val
    record = {
        "seed": seed,
        "val_ratio": val_ratio,
        "folds": folds,
        "group_regex": group_regex,
        "holdout": holdout.name if holdout else None,
        "cases": len(entries),
        "broken_files": sorted(Path(e.where).name for e in broken),
    }
    if group_regex is None:
        record["patients"] = patients_in_both(sets)
    for line in patient_lines(record):
        print(f"warning: {line}", file=sys.stderr)
    write_splits(output_dir, sets, record)
    sizes = ", ".join(f"{name} {len(cases)}" for name, cases in sets.items())
    print(f"{len(entries)} cases, seed {seed} -> {output_dir}: {sizes}")
    if broken:
        print(f"{len(broken)} case files are broken (named above) and in no set", file=sys.stderr)
    return broken


def case_files_bar(what: str) -> Callable:
    """A progress bar round a list of paths, for `read_entries`."""
    from tqdm import tqdm

    return partial(tqdm, desc=what, unit="file", disable=None)


def check_same_classes(entries: list[ListedCase]) -> None:
    """Raises InputError where a case has other class names than most of `entries`: class ids mean other structures."""
    most, _ = Counter(tuple(map(name_key, entry.class_names)) for entry in entries).most_common(1)[0]
    usual = next(entry for entry in entries if tuple(map(name_key, entry.class_names)) == most)
    others = [entry for entry in entries if tuple(map(name_key, entry.class_names)) != most]
    if others:
        more = f" (and {len(others) - 1} more)" if others[1:] else ""
        raise InputError(
            others[0].path,
            f"the classes of {usual.path.name} and most others ({listed(usual.class_names)})",
            f"{listed(others[0].class_names)}{more}",
            "prepare all hearts with the same --label_mapping and --classes, or move the file to another folder",
        )


def compile_group_regex(group_regex: str | None) -> re.Pattern | None:
    """The pattern of --group_regex. Raises InputError where it is no regular expression."""
    try:
        return re.compile(group_regex) if group_regex is not None else None
    except re.error as error:
        raise InputError("--group_regex", "a regular expression", f"{group_regex!r} ({error})") from None


def check_patients(case_ids: list[str], group_regex: str | None) -> list[str]:
    """Hours before the split: a line that names look like several scans of one patient and no --group_regex was given.

    Raises InputError where one was given, and does not fit the names, or finds one patient alone.
    """
    pattern = compile_group_regex(group_regex)
    if pattern is None:
        found = find_patients(case_ids)
        looks = f"names look like several scans of one patient ({found.example()})" if found else ""
        return [f"{looks}; {_group_advice(found.regex)}"] if found else []
    patients = {group_of(case, pattern) for case in case_ids}
    if len(patients) < 2 <= len(case_ids):
        raise InputError(
            f"--group_regex {group_regex!r}",
            f"at least 2 patients among {len(case_ids)} label maps",
            f"only {min(patients)!r}",
            "give a regex that tells the patients apart",
        )
    return []


def _group_advice(regex):
    return (
        f"give --group_regex '{regex}' to keep patients whole, or --group_regex '{EACH_ALONE}' where each case is a "
        "patient of its own"
    )


def patients_in_both(sets: dict[str, list[ListedCase]]) -> dict | None:
    """What the names of the cases say about patients whose scans are on both sides of a split; None where each name
    seems to be a patient of its own.

    sets: {file name: entries}. Keys: regex (the --group_regex that keeps the patients whole), example (two cases of
    one), patients (their number), several (of them, with more than one case), both: {"train.csv, val.csv": patients
    that have cases in both}.
    """
    ids = {name: [entry.case_id for entry in entries] for name, entries in sets.items()}
    found = find_patients(sorted({case for cases in ids.values() for case in cases}, key=natural_key))
    if found is None:
        return None
    pairs = [(n, n.replace("train", "val")) for n in ids if n.startswith("train")]
    pairs += [(n, "test.csv") for n in ids if n in ("train.csv", "val.csv") and "test.csv" in ids]
    return {
        "regex": found.regex,
        "example": found.example(),
        "patients": len(set(found.of.values())),
        "several": len(found.repeated),
        "both": {f"{a}, {b}": straddling(found, ids[a], ids[b]) for a, b in pairs},
    }


def patient_lines(record: dict) -> list[str]:
    """The lines for the user about `patients` in the record of a split (`SIDECAR`); none where there is nothing to
    say."""
    found = record.get("patients")
    if not found:
        return []
    looks = f"names look like several scans of one patient ({found['example']})"
    to_do = _group_advice(found["regex"])
    worst = max(found["both"].items(), key=lambda pair: len(pair[1]), default=("", ()))
    if not worst[1]:
        return [f"{looks}; in this split no patient is on both sides, by chance; {to_do}"]
    straddle = "; ".join(
        f"{len(names)} of {found['patients']} patients are in both {files.replace(', ', ' and ')}"
        for files, names in found["both"].items()
        if names and files == worst[0]
    )
    return [f"{looks}: {straddle}, so the validation figures are partly training figures; {to_do}"]


def find_case_files(folder: str | Path) -> list[Path]:
    """The case files (*.npz, hidden ones left out) directly in `folder`, naturally sorted. InputError if none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "a folder of case files (*.npz)", "no such folder", "make one with prepare_data.py")
    files = [p for p in folder.glob("*.npz") if not p.name.startswith(".") and p.is_file()]
    if not files:
        raise InputError(folder, "case files (*.npz)", "none", "make them with prepare_data.py")
    return sorted(files, key=lambda p: natural_key(p.name))


def group_of(case_id: str, group_regex: re.Pattern | None) -> str:
    """The group (patient) of a case: the first capture group of `group_regex`, or the whole match where it has none;
    without a regex the case itself. InputError where the regex does not match: guessing would split a patient."""
    if group_regex is None:
        return case_id
    match = group_regex.search(case_id)
    if match is None or (match.re.groups and match.group(1) is None):
        raise InputError(
            f"case {case_id}",
            f"a name that --group_regex {group_regex.pattern!r} matches",
            "no match",
            "give a regex that finds the patient in every case name",
        )
    return match.group(1) if match.re.groups else match.group(0)


def read_entries(data_dir, group_regex=None, progress=None):
    """(entries, broken): a ListedCase per readable case file of `data_dir`, in natural order, and the InputError
    of each other one. `group_regex` is a compiled pattern or None; `progress` wraps the list of paths."""
    entries, broken = [], []
    paths = find_case_files(data_dir)
    for path in progress(paths) if progress else paths:
        case_id = path.name.removesuffix(".npz")
        group = group_of(case_id, group_regex)
        try:
            require_sound_name(path)
            meta = read_meta(path)
        except InputError as error:
            broken.append(error)
            continue
        entries.append(
            ListedCase(
                case_id,
                path,
                class_names=tuple(distinct_names(meta["class_names"])),
                annotated=tuple(c in meta["annotated_classes"] for c in range(1, meta["classes"] + 1)),
                group=group,
                missing_classes=tuple(sorted(int(c) for c in meta.get("missing_classes", ()))),
                border_classes=tuple(sorted(int(c) for c in meta.get("border_classes", ()))),
                fingerprint=str(meta.get("source_sha256", "")),
            )
        )
    return entries, broken


def clusters(entries: list[ListedCase]) -> list[list[ListedCase]]:
    """The entries in indivisible bundles: one bundle per group, and groups that hold copies of the same label map
    (equal fingerprint) are one bundle as well, for a copy in both sets would leak. Order: that of their smallest id."""
    parent = {}

    def root(key):
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for entry in entries:
        group = root(("group", entry.group))
        if entry.fingerprint:
            parent[root(("copy", entry.fingerprint))] = group
    bundles = {}
    for entry in sorted(entries, key=lambda e: natural_key(e.case_id)):
        bundles.setdefault(root(("group", entry.group)), []).append(entry)
    return list(bundles.values())


def dealing_order(bundles, seed):
    """Bundles of one size with the same missing classes side by side, and within them in an order that only seed and
    ids decide."""

    def key(bundle):
        name = min(entry.case_id for entry in bundle)
        return len(bundle), _missing_in(bundle), hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), name

    return sorted(bundles, key=key)


def _missing_in(bundle):
    """The missing classes of a bundle, each as often as it is missing."""
    return tuple(sorted(c for entry in bundle for c in entry.missing_classes))


def split_train_val(
    entries: list[ListedCase], val_ratio: float, seed: int
) -> tuple[list[ListedCase], list[ListedCase]]:
    """(train, val), both naturally sorted; val has round(val_ratio * n) cases where no group is larger than one.

    Systematic sampling through the list sorted by missing classes: every stratum gives its share to within one case.
    InputError where one of the two sets would be empty."""
    if not 0 < val_ratio < 1:
        raise InputError("--val_ratio", "a number between 0 and 1", val_ratio)
    bundles = dealing_order(clusters(entries), seed)
    _need_bundles(bundles, 2, "train and val")
    val, owed = [], 0.0
    for bundle in bundles:
        owed += val_ratio * len(bundle)
        if owed >= len(bundle) / 2:
            val.append(bundle)
            owed -= len(bundle)
    target = val_ratio * len(entries)
    if not val:  # too few groups for the ratio: the one whose size comes closest
        val = [min(bundles, key=lambda b: abs(len(b) - target))]
    if len(val) == len(bundles):
        val.remove(min(bundles, key=lambda b: abs(len(b) - (len(entries) - target))))
    chosen = {entry.case_id for bundle in val for entry in bundle}
    return _sorted(e for e in entries if e.case_id not in chosen), _sorted(e for e in entries if e.case_id in chosen)


def split_folds(entries: list[ListedCase], folds: int, seed: int) -> list[tuple[list[ListedCase], list[ListedCase]]]:
    """[(train_0, val_0), ...]: every case is in exactly one val set. Bundles are dealt to the smallest fold so far,
    through the list sorted by missing classes; large bundles first, so that the folds come out even."""
    if folds < 2:
        raise InputError("--folds", "at least 2", folds)
    bundles = dealing_order(clusters(entries), seed)
    _need_bundles(bundles, folds, f"{folds} folds")
    vals, strata, lacking = ([kind() for _ in range(folds)] for kind in (list, dict, dict))
    order = sorted(range(len(bundles)), key=lambda i: (-len(bundles[i]), i))
    for i in order:
        missing = _missing_in(bundles[i])
        k = min(
            range(folds),
            key=lambda f: (len(vals[f]), sum(lacking[f].get(c, 0) for c in missing), strata[f].get(missing, 0), f),
        )
        vals[k].extend(bundles[i])
        strata[k][missing] = strata[k].get(missing, 0) + len(bundles[i])
        for c in missing:
            lacking[k][c] = lacking[k].get(c, 0) + 1
    result = []
    for val in vals:
        chosen = {entry.case_id for entry in val}
        result.append((_sorted(e for e in entries if e.case_id not in chosen), _sorted(val)))
    return result


def take_holdout(
    entries: list[ListedCase], case_ids: list[str], where: str | Path
) -> tuple[list[ListedCase], list[ListedCase]]:
    """(rest, test): the cases named in `case_ids` are the test set. InputError where one is not there, is named twice,
    or where a patient would be in the test set and in the rest (`where` is named in the message). An id may carry the
    suffix of the case file or of its label map."""
    known = {entry.case_id for entry in entries}
    case_ids = [c if c in known else case_name(c.removesuffix(".npz")) for c in case_ids]
    strangers = [c for c in case_ids if c not in known]
    if strangers:
        raise InputError(
            where,
            "case ids of the data folder",
            f"{len(strangers)} that are not there: {', '.join(strangers[:5])}",
            "correct the list",
        )
    test = set(case_ids)
    if len(test) < len(case_ids):
        raise InputError(where, "each case once", "a case that is named twice", "correct the list")
    for bundle in clusters(entries):
        inside = [e.case_id for e in bundle if e.case_id in test]
        if inside and len(inside) < len(bundle):
            left = next(e.case_id for e in bundle if e.case_id not in test)
            raise InputError(
                where,
                "whole groups (patients, and copies of one label map)",
                f"case {inside[0]} without {left} of the same group",
                f"add {left} to the list or take {inside[0]} away",
            )
    return [e for e in entries if e.case_id not in test], _sorted(e for e in entries if e.case_id in test)


def own_ids_of_holdout(path: Path, entries: list[ListedCase]) -> list[str]:
    """The ids that cases of a CSV of several data sets (`read_listed`) have among `entries`, found by their files;
    those of other data sets are left out, which is said. [] for any other list, and where none is found."""
    try:
        listed = [case for case in read_listed(path, path.parent) if case.dataset]
    except InputError:
        return []
    own = {entry.path.resolve(): entry.case_id for entry in entries}
    found = [own[case.path.resolve()] for case in listed if case.path.resolve() in own]
    if found and len(found) < len(listed):
        print(f"note: {path}: {len(found)} of its {len(listed)} cases are of this folder; the others are left out")
    return found


def read_holdout(path: str | Path) -> list[str]:
    """The case ids in a text file, one per line, or in the column `case_id` of a CSV. '#' starts a comment."""
    path = Path(path)
    text = read_text(path, "a text file or CSV with a case id per line (--holdout)")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    for sign, name in SEPARATORS.items():  # a name of a case may hold one of them
        parts = [part.strip(' "') for part in lines[0].split(sign)] if lines else []
        if len(parts) > 1 and (sign == "\t" or path.suffix.lower() == ".csv" or "case_id" in parts):
            raise InputError(path, "one case id per line, or commas between columns", f"{name}", SAVE_WITH_COMMAS)
    rows = [row for row in csv.reader(lines) if row]
    rows = [[cell.strip() for cell in row] for row in rows]
    column = 0
    if rows and "case_id" in rows[0]:
        column = rows[0].index("case_id")
        rows = rows[1:]
    elif rows and (path.suffix.lower() == ".csv" or len(rows[0]) > 1):
        raise InputError(
            path,
            "a CSV with a column case_id",
            f"the columns {', '.join(rows[0])}",
            "name the column, or give a text file with a case id per line",
        )
    ids = [row[column] for row in rows if len(row) > column and row[column]]
    if not ids:
        raise InputError(path, "at least one case id", "none")
    return ids


def write_splits(output_dir: str | Path, sets: dict[str, list[ListedCase]], record: dict) -> None:
    """Writes each of `sets` ({file name: entries}) as CSV and, last, `record` with their counts as splits.json.
    CSVs of an earlier run that this one no longer makes are removed: a stale fold would be trained on unnoticed."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    sidecar = output_dir / SIDECAR
    stale = []
    if sidecar.is_file():
        try:
            stale = [name for name in read_json(sidecar, SIDECAR)["sets"] if name not in sets]
        except (InputError, KeyError, TypeError):  # the record is written anew below, with all that it says
            stale = []
    several = any(entry.dataset for entries in sets.values() for entry in entries)
    for name, entries in sets.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS + (DATASET_FIELDS if several else ()))
        for entry in entries:  # case files lie directly in the data folder, so a name is a path relative to it
            classes = (" ".join(map(str, ids)) for ids in (entry.missing_classes, entry.border_classes))
            place = [entry.dataset, os.path.abspath(entry.path.parent)] if several else []
            writer.writerow([entry.case_id, entry.path.name, entry.group, *classes, *place])
        write_text(output_dir / name, text.getvalue())
    counts = {
        name: {"cases": len(entries), "groups": len({e.group for e in entries}), "missing": _missing_counts(entries)}
        | ({"datasets": dict(sorted(Counter(e.dataset for e in entries).items()))} if several else {})
        for name, entries in sets.items()
    }
    write_text(sidecar, json.dumps({**record, "sets": counts}, indent=1) + "\n")
    for name in stale:
        if re.fullmatch(r"(train|val)(_fold\d+)?\.csv|test\.csv", name):
            (output_dir / name).unlink(missing_ok=True)


def _missing_counts(entries):
    """{class id: in how many of `entries` it is missing}, classes in order, those never missing left out."""
    ids = sorted({c for entry in entries for c in entry.missing_classes})
    return {str(c): sum(c in entry.missing_classes for entry in entries) for c in ids}


def _need_bundles(bundles, least, what):
    if len(bundles) < least:
        raise InputError(
            "the split",
            f"at least {least} groups of cases for {what}",
            f"{len(bundles)}",
            "prepare more hearts, or give a --group_regex that tells the patients apart",
        )


def _sorted(entries):
    return sorted(entries, key=lambda e: natural_key(e.case_id))
