"""What the files of an input say of their own classes before any heart is read: headers and lists of names alone.

So what a user asks for and no heart has is refused at once, in one line, and not once more for every heart.
"""

from collections.abc import Sequence

from vecset.common.errors import InputError
from vecset.data.case_classes import chosen_class, classes_by_names, not_annotated, refuse_not_annotated
from vecset.data.case_file import read_case
from vecset.data.listed_case import CASE_FILE, LABEL_MAP, LATENTS, SLICES, ListedCase
from vecset.imaging.class_names import table_text
from vecset.imaging.header_names import classes_told, names_in_file, refuse_other_numbers
from vecset.imaging.label_mapping import LabelMapping
from vecset.imaging.structure_names import is_automatic


def mapping_of(file: str | None, class_names: Sequence[str]) -> LabelMapping | None:
    """The mapping of --label_mapping, None without one; class_names (C,): of the checkpoint. Its ids may be those of
    its own data set, with names beside them; its names may be any of the checkpoint's. InputError where it cannot be
    read, or does not fit them: here, and not once for each heart."""
    if not file:
        return None
    try:
        mapping = LabelMapping.load(file, len(class_names))
    except InputError:  # names beyond the ten, or not in their order
        mapping = LabelMapping.load(file, len(class_names), class_names)
    mapping.for_classes(class_names)
    return mapping


def own_tables(
    heart: ListedCase, class_names: Sequence[str], label_mapping: LabelMapping | None = None
) -> list[dict[int, int]]:
    """The tables {id that its user knows: class id} of which one is that of the heart; which of them, its voxels
    decide. class_names (C,): of the checkpoint; `label_mapping`: as `load_heart` takes it. [] where the heart's file
    cannot be read: reading it later says why."""
    numbers, paths = {c: c for c in range(1, len(class_names) + 1)}, heart.files or (heart.path,)
    if heart.kind == LATENTS or not all(path.is_file() for path in paths):  # a pipe would be waited for
        return []
    try:
        if heart.kind == CASE_FILE:
            return [classes_by_names(read_case(heart.path, ()), class_names)[1]]
        if heart.kind not in (LABEL_MAP, SLICES):
            return [numbers]
        if label_mapping:
            return [label_mapping.for_classes(class_names).own_ids]
        named = [classes_told(names_in_file(path), class_names) for path in paths]
    except (InputError, OSError):
        return []
    return [numbers, *(table for table in named if table not in ({}, numbers))]


def check_chosen_in_tables(
    hearts: Sequence[ListedCase],
    class_names: Sequence[str],
    label_mapping: LabelMapping | None = None,
    annotated: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
) -> None:
    """Raises InputError where a class of `annotated` or `given`, ids or names as of `load_heart`, is in the table of no
    heart, and where in every heart one is given that is not annotated. Reads no further than it must."""
    asked = [(f"--{flag}", words) for flag, words in (("annotated", annotated), ("given", given)) if words]
    lacking = {flag: list(words) for flag, words in asked}
    example, agree = None, not (annotated and given)
    for heart in hearts if asked else ():
        for table in own_tables(heart, class_names, label_mapping):
            example = example or (heart, table)
            for flag, words in lacking.items():
                lacking[flag] = [word for word in words if chosen_class(word, table, class_names) is None]
            agree = agree or not not_annotated(given, annotated, table, class_names)
        if agree and not any(lacking.values()):
            return
    if example is None:
        return
    for flag, words in lacking.items():
        if words:
            own = {number: class_names[c - 1] for number, c in example[1].items()}
            others = f", {example[0].path.name} and the others" if len(hearts) > 1 else f", {example[0].path.name}"
            raise InputError.because(
                flag,
                f"{', '.join(words)}: no class of the input{others} ({table_text(own)})",
                "give ids or names of it",
            )
    if not agree:
        refuse_not_annotated(not_annotated(given, annotated, example[1], class_names), annotated)


def taken_by_number(
    hearts: Sequence[ListedCase], class_names: Sequence[str], label_mapping: LabelMapping | None = None
) -> str:
    """What to say of label maps that do not name their values, so that these are taken as the ids of `class_names`
    (C,); "" where there is none, or the ids have no names."""
    if label_mapping or all(map(is_automatic, class_names)):
        return ""
    paths = (path for heart in hearts if heart.kind in (LABEL_MAP, SLICES) for path in heart.files or (heart.path,))
    first = next((path for path in paths if _names_nothing(path)), None)
    taken = {c: name for c, name in enumerate(class_names, 1) if first and _is_taken(first, c, class_names)}
    if not taken:
        return ""
    return (
        f"{first.name} does not name its values; in such label maps they are taken as the ids of the checkpoint's "
        f"classes, {table_text(taken)}; if they are others, say so with --label_mapping"
    )


def _names_nothing(path):
    try:
        return path.is_file() and all(map(is_automatic, names_in_file(path).values()))
    except (InputError, OSError):  # reading it later says why
        return False


def _is_taken(path, value, class_names):
    """Whether the value of a file without names is taken as the id of a class of such names."""
    try:
        refuse_other_numbers(path, [value], class_names, "")
    except InputError:
        return False
    return True
