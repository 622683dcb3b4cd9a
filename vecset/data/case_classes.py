"""Which class of a heart is which: case files read to the classes of a checkpoint by name, and the classes of a heart
that a user names, by the ids of its own table or by their names."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import CLASS_DISTANCES, POINT_MEMBERS, Case
from vecset.imaging.class_names import listed
from vecset.imaging.header_names import table_text
from vecset.imaging.structure_names import class_named

_LABELS = tuple(name for name, (kind, _) in POINT_MEMBERS.items() if kind == "u")  # members that hold class ids
_ID_LISTS = ("annotated_classes", "present_classes", "border_classes")


def classes_by_names(case: Case, class_names: Sequence[str]) -> tuple[Case, dict[int, int]]:
    """(the Case with the classes `class_names` (C,) of a checkpoint, {its own class id: class id there}), matched by
    name. Classes of the checkpoint that the case does not have are not annotated. The same Case where its classes are
    those of the checkpoint in their order. InputError where the checkpoint lacks one of its names, or two of them stand
    for one class there."""
    own, ids = case.class_names, {}
    for c, name in enumerate(own, 1):
        ids[c] = class_named(name, class_names)
        if ids[c] is None:
            raise InputError(
                case.path,
                f"the checkpoint's classes {', '.join(class_names)}",
                f"{', '.join(own)}: {name} is none of them",
                "take a checkpoint that was trained on such cases",
            )
        twin = next(other for other in ids if ids[other] == ids[c])
        if twin != c:
            raise InputError.because(
                case.path,
                f"its classes {twin} {own[twin - 1]} and {c} {name} are both {class_names[ids[c] - 1]} of the "
                "checkpoint",
                "make it again with prepare_data.py, each class with a name of its own",
            )
    if list(ids.values()) == list(range(1, len(class_names) + 1)):
        return dataclasses.replace(case, meta={**case.meta, "class_names": list(class_names)}), ids
    return _renumbered(case, ids, list(class_names)), ids


def _renumbered(case, ids, class_names):
    """The Case with class ids[c] for each of its classes c."""
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    arrays = {name: table[array] if name in _LABELS else array for name, array in case.arrays.items()}
    for name in CLASS_DISTANCES:
        if name in arrays:
            far = np.full((len(arrays[name]), len(class_names)), ABSENT_DISTANCE, arrays[name].dtype)
            far[:, np.array(list(ids.values())) - 1] = arrays[name]
            arrays[name] = far
    meta = {**case.meta, "classes": len(class_names), "class_names": class_names}
    for key in _ID_LISTS:
        if meta.get(key) is not None:
            meta[key] = sorted(ids[c] for c in meta[key])
    if meta.get("present_classes") is not None:
        meta["missing_classes"] = sorted({*range(1, len(class_names) + 1)} - {*meta["present_classes"]})
    if meta.get("voxels_per_class") is not None:
        voxels = [0] * len(class_names)
        for c, count in enumerate(meta["voxels_per_class"], 1):
            voxels[ids[c] - 1] = count
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
