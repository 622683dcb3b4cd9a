"""What a label map says of its own values: their names in its header, and which classes they stand for.

NIfTI: the label table of Caret and Connectome Workbench in a header extension, which TotalSegmentator writes, too.
NRRD: the segments of 3D Slicer's `.seg.nrrd`. A name decides what a value is. Values are class ids only where no name
says otherwise: names that a program made up ("Segment_1") say nothing, and so do names of values without voxels.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vecset.common.errors import InputError
from vecset.imaging.class_names import listed, table_text
from vecset.imaging.classes import BACKGROUND, default_class_names
from vecset.imaging.image_file import read_nifti_header
from vecset.imaging.label_table import names_beside, read_names, read_segment_names
from vecset.imaging.structure_names import class_named, class_of, is_automatic, name_key


def names_in_header(path: Path | str) -> dict[int, str]:
    """{value: name} as the header of a NIfTI or NRRD file says, without background; {} where it names no values.

    Raises InputError where it gives one value two names. The file must be one that `read_image` can read."""
    name = Path(path).name.lower()
    if name.endswith((".nii.gz", ".nii")):
        return read_names(read_nifti_header(path), path)
    return read_segment_names(path) if name.endswith(".nrrd") else {}


class ValueNames(dict):
    """{value: name} of a label map; `source`: what says so, for messages."""

    source = "its header"


def names_in_file(path: Path | str) -> ValueNames:
    """The names of the values of a label map: those in its header, else those in a file beside it
    (vecset/imaging/label_table.py); empty where neither names any."""
    names = ValueNames(names_in_header(path))
    if not names:
        beside, source = names_beside(path)
        names.update(beside)
        names.source = source.name if source else names.source
    return names


def names_apart_from_numbers(path: Path | str, class_names: Sequence[str]) -> dict[int, str]:
    """{value: name} of those values that `path` (`names_in_file`) names otherwise than the class of that number is
    named; {} where none is."""
    names = names_in_file(path)
    return {
        value: name
        for value, name in names.items()
        if not _says_nothing(value, names, class_names) and class_named(name, class_names) != value
    }


def classes_by_name(
    path: Path | str, found: Iterable[int], names: Mapping[int, str], class_names: Sequence[str], to_do: str
) -> dict[int, int] | None:
    """{value: class id} by the `names` {value: name} of a file, or None where nothing says that its values are not the
    class ids. found: the values with voxels; class_names (C,) of the project.

    Raises InputError, with both tables and the advice `to_do`, where a name fits no class, or where some values have no
    name and those of the others say that values are not the ids."""
    found = [value for value in found if value != BACKGROUND]
    told = {value: names[value] for value in found if value in names and not _says_nothing(value, names, class_names)}
    by_name = {value: class_named(name, class_names) for value, name in told.items()}
    if all(by_name[value] == value for value in told):
        return None
    if None not in by_name.values() and len(told) == len(found):
        return by_name
    unfit = [value for value in told if by_name[value] is None]
    source = getattr(names, "source", ValueNames.source)
    lacking = {value: names.get(value, "without a name") for value in found if value not in told}
    why = f"no class is {table_text({v: told[v] for v in unfit})}" if unfit else f"what is {table_text(lacking)}?"
    raise InputError.because(
        path,
        f"{source} names its values {table_text(told)}, which does not fit the classes here, {listed(class_names)}: "
        + why,
        to_do,
    )


def classes_told(names: Mapping[int, str], class_names: Sequence[str]) -> dict[int, int]:
    """{value: class id} of all the `names` {value: name} of a file that name one of `class_names` (C,), with voxels or
    without; {} where they name none."""
    told = {v: class_named(name, class_names) for v, name in names.items() if not _says_nothing(v, names, class_names)}
    return {value: c for value, c in sorted(told.items()) if c is not None}


def names_apart_from_mapping(
    found: Iterable[int], names: Mapping[int, str], value_to_class: Mapping[int, int], class_names: Sequence[str]
) -> dict[int, str]:
    """The `names` {value: name} of those values with voxels that a label mapping makes another class than the name
    says, as far as a name says anything."""
    return {
        value: names[value]
        for value in found
        if value in names
        and value in value_to_class
        and not is_automatic(names[value])
        and class_named(names[value], class_names) != value_to_class[value]
    }


def refuse_other_numbers(path: Path | str, found: Iterable[int], class_names: Sequence[str], to_do: str) -> None:
    """Raises InputError where a file that names no values is to be read for a project whose names of the values `found`
    are others than the default ones: its numbers may be those of either table."""
    if all(map(is_automatic, class_names)):
        return
    defaults = default_class_names(len(class_names))
    other = [
        value
        for value in found
        if 1 <= value <= len(class_names)
        and name_key(class_names[value - 1]) != name_key(defaults[value - 1])
        and class_of(class_names[value - 1]) != defaults[value - 1]
    ]
    if other:
        raise InputError.because(
            path,
            f"it does not name its values; {other[0]} is {defaults[other[0] - 1]} by the default classes, but "
            f"{class_names[other[0] - 1]} by those here ({listed(class_names)})",
            to_do,
        )


def _says_nothing(value, names, class_names):
    """Whether the name of a value is one that a program made up, and is not that of a class here. Where the classes
    themselves have no names but `class_1`, `class_2`, ..., no name says anything."""
    if class_named(names[value], class_names) is not None:
        return False
    return is_automatic(names[value]) or all(map(is_automatic, class_names))
