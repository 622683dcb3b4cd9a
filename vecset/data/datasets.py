"""Several data sets, each with structures of its own, and one split of them all.

Structures are their names (vecset/imaging/joined_names.py). The numbers of a data set mean what its case files say; the
union of all data sets is read by name. A structure that a data set does not have is not annotated there, which is not
the same as absent.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.common.user_files import read_json
from vecset.data.case_classes import ids_by_names
from vecset.data.case_file import names_of_meta, read_case, read_meta
from vecset.data.patients import find_patients
from vecset.data.same_hearts import same_hearts, shape_of, volumes_mm3
from vecset.data.splits import (
    case_files_bar,
    check_same_classes,
    clusters,
    compile_group_regex,
    dealing_order,
    patient_lines,
    patients_in_both,
    read_entries,
    read_holdout,
    take_holdout,
    write_splits,
)
from vecset.imaging.class_names import listed
from vecset.imaging.classes import HEART_CLASSES, default_class_names
from vecset.imaging.joined_names import union_of
from vecset.imaging.structure_names import name_key

SPLITS = ("train", "val", "test")  # what a data set may be as a whole
MOST_WEIGHT = 1000
KEYS = ("folder", "weight", "split")
SHOWN = 8  # cases that a line names


@dataclass(frozen=True)
class DataSet:
    """A folder of case files, and how it takes part. `weight`: how often each of its hearts is drawn per epoch of
    training; `split`: the share of it that is for validation, one of SPLITS for all of it, or None: --val_ratio."""

    name: str
    folder: Path
    weight: float = 1.0
    split: float | str | None = None


def datasets_of_folders(folders: Sequence[Path]) -> list[DataSet]:
    """The DataSets of several --data_dir, named as their folders. InputError where two have one name or one place."""
    found = [DataSet(Path(folder).resolve().name, Path(folder)) for folder in folders]
    _check_datasets(found, "--data_dir", "name the data sets in a file for --datasets")
    return found


def read_datasets(path: Path | str) -> list[DataSet]:
    """The DataSets of a JSON file {name: {"folder": ..., "weight": 1, "split": 0.2}}, or {name: folder}; a folder is
    relative to the file. InputError where it is none."""
    path = Path(path)
    to_do = 'write {"A": {"folder": "cases/A", "weight": 1, "split": 0.2}, "B": ...}'
    content = read_json(path, "a JSON file of data sets", to_do)
    if not isinstance(content, dict) or not content:
        raise InputError(path, "an object with a data set per name", repr(content)[:60], to_do)
    found = []
    for name, row in content.items():
        row = {"folder": row} if isinstance(row, str) else row
        if not isinstance(row, dict) or not isinstance(row.get("folder"), str) or not row["folder"].strip():
            raise InputError.because(path, f"data set {name!r} names no folder", to_do)
        unknown = sorted(set(row) - set(KEYS))
        if unknown:
            raise InputError.because(path, f"data set {name!r} has unknown keys {', '.join(unknown)}", to_do)
        weight, split = row.get("weight", 1.0), row.get("split")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MOST_WEIGHT:
            raise InputError.because(
                path, f"the weight of {name!r} is {weight!r}", f"give a number above 0, to {MOST_WEIGHT}"
            )
        share = isinstance(split, int | float) and not isinstance(split, bool) and 0 < split < 1
        if split is not None and split not in SPLITS and not share:
            raise InputError.because(
                path, f"the split of {name!r} is {split!r}", f"give a share between 0 and 1, or {', '.join(SPLITS)}"
            )
        folder = path.parent / os.path.expanduser(row["folder"])
        found.append(DataSet(name, folder, float(weight), float(split) if share else split))
    _check_datasets(found, path, "correct the file")
    return found


def _check_datasets(datasets, where, to_do):
    for dataset in datasets:
        if not dataset.name.strip() or any(sign in dataset.name for sign in "=,/\\\n\"'"):
            raise InputError.because(where, f"{dataset.name!r} is no name for a data set", to_do)
    folders, names = {}, {}
    for dataset in datasets:
        if folders.setdefault(dataset.folder.resolve(), dataset) is not dataset:
            raise InputError.because(where, f"two data sets have the folder {dataset.folder}", "give it once")
    for dataset in datasets:
        if names.setdefault(name_key(dataset.name), dataset) is not dataset:
            raise InputError.because(where, f"two data sets have the name {dataset.name}", to_do)


def split_datasets(
    datasets: Sequence[DataSet],
    output_dir: Path,
    val_ratio: float = 0.2,
    seed: int = 0,
    folds: int | None = None,
    group_regex: str | None = None,
    holdout: Path | None = None,
) -> list[InputError]:
    """Writes one split of all `datasets` into `output_dir`, and prints its sizes and what a user should know. Returns
    the errors of the files that are broken, which are in no set. Raises InputError where an option is wrong, a data set
    cannot be used, or no file is left."""
    if not 0 < val_ratio < 1:
        raise InputError("--val_ratio", "a number between 0 and 1", val_ratio)
    pattern = compile_group_regex(group_regex)
    own, tables, broken = {}, {}, []
    for dataset in datasets:
        entries, errors = read_entries(dataset.folder, pattern, case_files_bar(dataset.name))
        broken += errors
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
        if not entries:
            raise InputError.because(
                dataset.folder, f"all {len(errors)} case files are broken", "make them again with prepare_data.py"
            )
        check_same_classes(entries)
        meta = read_meta(entries[0].path)
        looked_for = {c for entry in entries for c, known in enumerate(entry.annotated, 1) if known}
        own[dataset.name], tables[dataset.name] = entries, (names_of_meta(meta), looked_for)
        if _names_by_default(meta):
            named = listed(entries[0].class_names)
            _say(
                f"{dataset.name}: its {meta['classes']} classes have the default names ({named}); "
                "if its label maps number others, prepare it again with --classes FILE"
            )
    union, lines = union_of(tables)
    for line in lines:
        _say(line)
    cases = [_in_union(entry, d.name, union) for d in datasets for entry in own[d.name]]
    cases = _named_apart(cases)
    cases = _with_same_hearts(cases, union)

    rest, test = cases, []
    if holdout:
        rest, test = take_holdout(cases, read_holdout(holdout), holdout)
    shares = {d.name: val_ratio if d.split is None else d.split for d in datasets}
    fixed, dealt = _fixed(clusters(rest), shares)
    test += [case for bundle, split in fixed if split == "test" for case in bundle]
    whole = {kind: [case for bundle, split in fixed if split == kind for case in bundle] for kind in SPLITS}
    train, val = _dealt(dealt, shares, seed)
    sets = {"test.csv": _sorted(test)} if test else {}
    sets["train.csv"], sets["val.csv"] = _sorted(whole["train"] + train), _sorted(whole["val"] + val)
    for k, (train, val) in enumerate(_dealt_folds(dealt, folds, seed) if folds is not None else ()):
        sets[f"train_fold{k}.csv"] = _sorted(whole["train"] + train)
        sets[f"val_fold{k}.csv"] = _sorted(whole["val"] + val)
    for name, entries in sets.items():
        if not entries:
            raise InputError.because(name, "no case is left for it", "give more hearts, or another split")
    for line in _lacking(sets, union):
        print(f"warning: {line}", file=sys.stderr)
    record = {
        "seed": seed,
        "val_ratio": val_ratio,
        "folds": folds,
        "group_regex": group_regex,
        "holdout": holdout.name if holdout else None,
        "cases": len(cases),
        "broken_files": sorted(str(e.where) for e in broken),
        "structures": [
            {"id": c, "name": name}
            | ({"aliases": union.aliases[name]} if name in union.aliases else {})
            | ({"colour": union.colours[name]} if name in union.colours else {})
            for c, name in enumerate(union, 1)
        ],
        "datasets": {d.name: _about(d, own[d.name], cases, union) for d in datasets},
    }
    if group_regex is None:
        record["patients"] = patients_in_both(sets) if find_patients([c.case_id for c in cases]) else None
    for line in patient_lines(record):
        print(f"warning: {line}", file=sys.stderr)
    write_splits(output_dir, sets, record)
    sizes = ", ".join(f"{name} {len(entries)}" for name, entries in sets.items())
    of_sets = ", ".join(f"{d.name} {len(own[d.name])}" for d in datasets)
    print(f"{len(cases)} cases ({of_sets}), {len(union)} structures, seed {seed} -> {output_dir}: {sizes}")
    if broken:
        print(f"{len(broken)} case files are broken (named above) and in no set", file=sys.stderr)
    return broken


def _say(line):
    print(f"note: {line}", file=sys.stderr)


def _names_by_default(meta):
    """Whether the classes are fewer than the ten and have the names of the first of them, and no option said so."""
    request = meta.get("request") or {}
    told = request.get("class_names") or request.get("label_map") or request.get("structures")
    fewer = meta["classes"] < len(HEART_CLASSES) and meta["class_names"] == default_class_names(meta["classes"])
    return fewer and not told and not meta.get("values_by_name")


def _in_union(entry, dataset, union):
    """The ListedCase with the ids of the union, of a data set whose name its group begins with."""
    meta = {**read_meta(entry.path)}
    ids = ids_by_names(meta, union, entry.path, "the split", "prepare it again as the other hearts of its data set")
    known = {ids[c] for c in meta["annotated_classes"]}
    return replace(
        entry,
        dataset=dataset,
        group=f"{dataset}/{entry.group}",
        class_names=tuple(union),
        annotated=tuple(c in known for c in range(1, len(union) + 1)),
        missing_classes=tuple(sorted({ids[c] for c in entry.missing_classes if c in ids} & known)),
        border_classes=tuple(sorted(ids[c] for c in entry.border_classes if c in ids)),
        own_ids=tuple(ids.get(c, 0) for c in range(1, meta["classes"] + 1)),
    )


def _named_apart(cases):
    """The cases, those whose id is in several data sets with the data set's name before it."""
    seen = {}
    for case in cases:
        seen.setdefault(case.case_id, set()).add(case.dataset)
    shared = {case_id for case_id, sets in seen.items() if len(sets) > 1}
    if not shared:
        return cases
    told = _some(sorted(shared))
    _say(f"{len(shared)} names of cases are in several data sets ({told}): that of the data set is put before")
    named = [replace(c, case_id=f"{c.dataset}_{c.case_id}") if c.case_id in shared else c for c in cases]
    ids = [case.case_id for case in named]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice:
        raise InputError.because(f"case {twice}", "two cases have this name", "rename one of the data sets")
    return named


def _with_same_hearts(cases, union):
    """The cases, those that are one heart with a fingerprint in common; says which these are."""
    copies = {}
    for case in cases:
        if case.fingerprint:
            copies.setdefault(case.fingerprint, []).append(case)
    for same in copies.values():
        if len(same) > 1:
            print(
                f"warning: made from the same label map, so kept in one set: {_some([c.case_id for c in same])}",
                file=sys.stderr,
            )
    of_file = [dict(enumerate(case.own_ids, 1)) for case in cases]
    ids = [{c: u for c, u in own.items() if u} for own in of_file]
    volumes = []
    for case, own in zip(cases, ids):
        read = read_case(case.path, ("frame",))
        volumes.append(volumes_mm3(read.meta, read.frame.affine, own) if read.frame else {})

    def shape(n):
        read = read_case(cases[n].path, ("frame", "truth")).require("truth_crop", purpose="finding hearts twice")
        return shape_of(read, ids[n])

    def known(i, j):
        return cases[i].group == cases[j].group or (
            len(cases[i].fingerprint) > 0 and (cases[i].fingerprint == cases[j].fingerprint)
        )

    found = same_hearts(volumes, shape, known)
    renamed = {}
    for i, j, apart in found:
        a, b = cases[i], cases[j]
        print(
            f"warning: {a.case_id} ({a.dataset}) and {b.case_id} ({b.dataset}) have nearly the same shape (they differ "
            f"by {apart:.1%}), so they are kept in one set",
            file=sys.stderr,
        )
        _join(renamed, a.fingerprint or f"alone {i}", b.fingerprint or f"alone {j}")
    return [replace(case, fingerprint=_root(renamed, case.fingerprint or f"alone {n}")) for n, case in enumerate(cases)]


def _root(parent, key):
    while parent.get(key, key) != key:
        key = parent[key]
    return key


def _join(parent, a, b):
    parent[_root(parent, b)] = _root(parent, a)


def _fixed(bundles, shares):
    """([(bundle, one of SPLITS)] of those that a data set puts somewhere as a whole, the other bundles)."""
    fixed, dealt = [], []
    for bundle in bundles:
        places = {shares[case.dataset]: case for case in bundle if shares[case.dataset] in SPLITS}
        if len(places) > 1:
            (a, one), (b, other) = list(places.items())[:2]
            raise InputError.because(
                f"case {one.case_id} of {one.dataset}",
                f"it is for {a}, and the same heart or patient is for {b}, as {other.case_id} of {other.dataset}",
                "give both data sets the same split, or move one of the two case files away",
            )
        if places:
            fixed.append((bundle, next(iter(places))))
        else:
            dealt.append(bundle)
    return fixed, dealt


def _strata(bundles, seed):
    """Lists of bundles, those of the same data sets in each, in the order in which they are dealt."""
    found = {}
    for bundle in dealing_order(bundles, seed):
        found.setdefault(tuple(sorted({case.dataset for case in bundle})), []).append(bundle)
    return [found[key] for key in sorted(found)]


def _dealt(bundles, shares, seed):
    """(train, val): of each data set its share is for validation, to within a bundle, and at least one where it has
    several bundles."""
    train, val = [], []
    for stratum in _strata(bundles, seed):
        owed, held = 0.0, []
        for bundle in stratum:
            share = sum(shares[case.dataset] for case in bundle)
            owed += share
            if owed >= len(bundle) / 2:
                held.append(bundle)
                owed -= len(bundle)
        if len(stratum) > 1:
            total = sum(shares[case.dataset] for bundle in stratum for case in bundle)
            if not held:
                held = [min(stratum, key=lambda b: abs(len(b) - total))]
            if len(held) == len(stratum):
                held.remove(max(held, key=len))
        of_val = {id(bundle) for bundle in held}
        for bundle in stratum:
            (val if id(bundle) in of_val else train).extend(bundle)
    return train, val


def _dealt_folds(bundles, folds, seed):
    """[(train, val)] of each fold: every case is in one val, and each data set is spread over the folds."""
    if folds < 2:
        raise InputError("--folds", "at least 2", folds)
    if len(bundles) < folds:
        raise InputError("the split", f"at least {folds} groups of cases for {folds} folds", f"{len(bundles)}")
    vals = [[] for _ in range(folds)]
    for stratum in _strata(bundles, seed):
        of_stratum = [0] * folds
        for bundle in sorted(stratum, key=len, reverse=True):  # stable
            k = min(range(folds), key=lambda f: (of_stratum[f], len(vals[f]), f))
            vals[k].extend(bundle)
            of_stratum[k] += len(bundle)
    cases = [case for bundle in bundles for case in bundle]
    held = [{case.case_id for case in val} for val in vals]
    return [([case for case in cases if case.case_id not in ids], val) for ids, val in zip(held, vals)]


def _lacking(sets, union):
    """A line for each pair of CSVs in which training has structures that validation has not annotated."""
    for name in [n for n in sets if n.startswith("train")]:
        other = name.replace("train", "val")
        lacking = [
            structure
            for c, structure in enumerate(union)
            if any(case.annotated[c] for case in sets[name]) and not any(case.annotated[c] for case in sets[other])
        ]
        if lacking:
            yield (
                f"{other}: no case has {', '.join(lacking)} annotated, which {name} has, so that validation says "
                "nothing about that; give these hearts a larger share for validation"
            )


def _about(dataset, entries, cases, union):
    """What splits.json says of a data set."""
    mine = [case for case in cases if case.dataset == dataset.name]
    return {
        "folder": os.path.abspath(dataset.folder),
        "weight": dataset.weight,
        "split": dataset.split,
        "cases": len(entries),
        "classes": {name: sum(case.annotated[c] for case in mine) for c, name in enumerate(union)},
        "ids": {str(c): union[u - 1] for c, u in enumerate(mine[0].own_ids, 1) if u},
    }


def _some(names):
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _sorted(cases):
    return sorted(cases, key=lambda case: natural_key(case.case_id))
