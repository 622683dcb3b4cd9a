"""Which class of a heart is which: case files read to the classes of a checkpoint by name, and the classes of a heart
that a user names, by the ids of its own table or by their names."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import CLASS_DISTANCES, POINT_MEMBERS, TABLE_KEYS, Case, meta_of_names, names_of_meta
from vecset.imaging.class_names import listed, table_text
from vecset.imaging.structure_names import class_named

_LABELS = tuple(name for name, (kind, _) in POINT_MEMBERS.items() if kind == "u")  # members that hold class ids
_ID_LISTS = ("annotated_classes", "present_classes", "border_classes")


def classes_by_names(case: Case, class_names: Sequence[str]) -> tuple[Case, dict[int, int]]:
    """(the Case with the classes `class_names` (C,) of a checkpoint, {its own class id: class id there}), matched by
    name. Classes of the checkpoint that the case does not have are not annotated. The same Case where its classes are
    those of the checkpoint in their order. InputError as of `ids_by_names`."""
    ids = ids_by_names(case.meta, class_names, case.path)
    if list(ids.items()) == [(c, c) for c in range(1, len(class_names) + 1)] and case.num_classes == len(class_names):
        return dataclasses.replace(case, meta=_with_names(case.meta, class_names)), ids
    return renumbered(case, ids, class_names), ids


def ids_by_names(
    meta: dict,
    class_names: Sequence[str],
    path: Path | str | None,
    whose: str = "the checkpoint",
    to_do: str = "take a checkpoint that was trained on such cases",
) -> dict[int, int]:
    """{class id of a case file of `meta`: class id among `class_names` (C,), which are of `whose`}, matched by name,
    by the aliases on either side, and by what names stand for. Classes that nobody looked for in the case are left out
    where `class_names` lack them. InputError, naming `path`, where another one is lacking, or two are one class there.
    """
    own, ids, annotated = names_of_meta(meta), {}, set(meta["annotated_classes"])
    for c, name in enumerate(own, 1):
        aliases = getattr(own, "aliases", {}).get(name, ())
        found = next(filter(None, (class_named(text, class_names) for text in (name, *aliases))), None)
        if found is None and c not in annotated:
            continue
        if found is None:
            raise InputError(
                path,
                f"{whose}'s classes {', '.join(class_names)}",
                f"{', '.join(own)}: {name} is none of them",
                to_do,
            )
        twin = next((other for other in ids if ids[other] == found), None)
        if twin is not None:
            raise InputError.because(
                path,
                f"its classes {twin} {own[twin - 1]} and {c} {name} are both {class_names[found - 1]} of {whose}",
                "make it again with prepare_data.py, each class with a name of its own",
            )
        ids[c] = found
    return ids


def _with_names(meta, class_names):
    return {key: value for key, value in meta.items() if key not in TABLE_KEYS} | meta_of_names(class_names)


def renumbered(case: Case, ids: Mapping[int, int], class_names: Sequence[str]) -> Case:
    """The Case with the classes `class_names` (C,): ids[c] for each of its classes c. Those of its classes that have no
    id are lost; no point and no voxel may be of them. Those of C that are in no id are not annotated."""
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())  # one that is lacking has no voxel, for it was not annotated
    arrays = {name: table[array] if name in _LABELS else array for name, array in case.arrays.items()}
    for name in CLASS_DISTANCES:
        if name in arrays:
            far = np.full((len(arrays[name]), len(class_names)), ABSENT_DISTANCE, arrays[name].dtype)
            far[:, np.array(list(ids.values())) - 1] = arrays[name][:, np.array(list(ids)) - 1]
            arrays[name] = far
    meta = {**_with_names(case.meta, class_names), "classes": len(class_names)}
    for key in _ID_LISTS:
        if meta.get(key) is not None:
            meta[key] = sorted(ids[c] for c in meta[key] if c in ids)
    if meta.get("present_classes") is not None:
        meta["missing_classes"] = sorted({*range(1, len(class_names) + 1)} - {*meta["present_classes"]})
    if meta.get("voxels_per_class") is not None:
        voxels = [0] * len(class_names)
        for c, union in ids.items():
            voxels[union - 1] = meta["voxels_per_class"][c - 1]
        meta["voxels_per_class"] = voxels
    truth = None if case.truth_crop is None else table[case.truth_crop]
    return dataclasses.replace(case, arrays=arrays, meta=meta, truth_crop=truth)


def check_chosen(flag: str, chosen: Sequence[str], class_names: Sequence[str]) -> None:
    """Raises InputError for a name among `chosen` (ids as texts, and names) that is none of a checkpoint's."""
    for word in chosen:
        if not word.isdecimal() and class_named(word, class_names) is None:
            raise InputError.because(
                flag, f"{word} is no class of the checkpoint ({listed(class_names)})", "give its names, or ids"
            )


def chosen_class(word: str, table: Mapping[int, int], class_names: Sequence[str]) -> int | None:
    """The class id that `word`, an id (decimal) of a heart's `table` or a name, stands for; None where it has none."""
    c = table.get(int(word)) if word.isdecimal() else class_named(word, class_names)
    return c if c in table.values() else None


def not_annotated(
    given: Sequence[str], annotated: Sequence[str], table: Mapping[int, int], class_names: Sequence[str]
) -> list[str]:
    """Those of `given` (ids and names) that are among none of `annotated` by a heart's `table`."""
    known = {chosen_class(word, table, class_names) for word in annotated}
    return [word for word in given if chosen_class(word, table, class_names) not in known]


def refuse_not_annotated(lacking: Sequence[str], annotated: Sequence[str], where: object = "") -> None:
    """Raises InputError, naming the file `where`, where a class is to be given that is `lacking` among `annotated`."""
    if lacking:
        raise InputError.because(
            where,
            f"--given {','.join(lacking)} is not among --annotated {','.join(annotated)}, but what is given must have "
            "been looked for",
            f"add {','.join(lacking)} to --annotated",
        )


def chosen_classes(
    flag: str, chosen: Sequence[str], table: Mapping[int, int], class_names: Sequence[str], where: object
) -> list[int]:
    """The sorted class ids 1..C of the classes `chosen`, as `flag` gives them: ids (decimal) of the heart's own `table`
    {its id: class id}, or names. InputError, naming the file `where`, for one that the heart's table does not have."""
    ids = set()
    for word in chosen:
        c = chosen_class(word, table, class_names)
        if c is None:
            own = {number: class_names[mine - 1] for number, mine in table.items()}
            raise InputError.because(where, f"{flag} {word} is none of its classes ({table_text(own)})", "give these")
        ids.add(c)
    return sorted(ids)


def require_there(given: Sequence[int], present: Sequence[int], class_names: Sequence[str], where: object) -> None:
    """Raises InputError, naming `where`, where a class that is to be `given` (ids) is not `present` (ids)."""
    lacking = [f"{c} ({class_names[c - 1]})" for c in given if c not in present]
    if lacking:
        raise InputError.because(
            where, f"--given: class {', '.join(lacking)} is not there, it has no voxel", "give classes that are there"
        )


def require_annotated(present: Sequence[int], annotated: Sequence[int], class_names: Sequence[str], where: object):
    """Raises InputError, naming `where`, where a class that is there (`present`, ids) is not `annotated` (ids)."""
    unexpected = [c for c in present if c not in annotated]
    if unexpected:
        names = ", ".join(f"{c} ({class_names[c - 1]})" for c in unexpected)
        known = table_text({c: class_names[c - 1] for c in annotated}) or "none"
        raise InputError.because(
            where,
            f"class {names} is present but not annotated (annotated: {known})",
            'add it to --annotated, or to "annotated" in --label_mapping',
        )
