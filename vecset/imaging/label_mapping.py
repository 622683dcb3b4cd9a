"""Label mappings: which label values of a data set are which class. JSON files; some ship in vecset/imaging/presets/.

    {
      "name": "MM-WHS",
      "values": {"205": {"class": 1, "name": "Myocardium"}, "420": {"class": 2, "name": "LA"}, "500": 3, "600": "RV"},
      "others": "refuse",
      "annotated": [1, 2, 3, 5]
    }

Each key of `values` is a value in the image. It is mapped to a class id, to one of the default class names of
--classes, or to an id and a name of your own. Several values may map to one class. No two classes may have the same
name: where one of your names is the default name of an id that the mapping leaves out, that id is called `class_<id>`.
`others` is what happens to values that are not listed: "refuse" (default) or "background". `annotated` are the ids that
the annotators looked for (default: those in `values`). `name` and `source` are comments. An object without `values` is
taken as `values` itself: {"1": "LV", "2": "Myocardium"}.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.user_files import read_json
from vecset.imaging.channels import refuse_scan
from vecset.imaging.class_names import cleaned_name, complete_class_names, listed
from vecset.imaging.classes import BACKGROUND, default_class_names
from vecset.imaging.structure_names import class_named, name_key

PRESETS = Path(__file__).parent / "presets"
KEYS = ("name", "values", "others", "annotated", "source")
OTHERS = ("refuse", "background")
TABLE_VALUES = 2**16  # label values below this are mapped by a table, larger ones by search


def preset_names() -> list[str]:
    """The names of the presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


@dataclass
class LabelMapping:
    """value_to_class: {image value: class id 1..C}; others: one of OTHERS; class_names (C,); annotated: class ids;
    text: the content in a canonical form, equal for equal mappings (stored in case files); preset: whether it ships
    with the software, and so stands for one data set; own_ids: {class id of the mapping as it was written: class id},
    where `for_classes` renumbered it."""

    value_to_class: dict
    others: str
    class_names: list
    annotated: list
    text: str
    preset: bool = False
    own_ids: dict = field(default_factory=dict)

    @classmethod
    def load(
        cls, source: "str | Path | LabelMapping", num_classes: int, table: Sequence[str] | None = None
    ) -> "LabelMapping":
        """The mapping of a JSON file or of the preset `source`; a LabelMapping is returned as it is. `table` (C,): the
        names of a project, which are then those of its classes; a preset is read to them by its names.

        Raises InputError where there is no such file, where its content is not a mapping to classes 1..num_classes, or
        where it names a class otherwise than `table`."""
        if isinstance(source, cls):
            return source
        path = Path(source)
        if not path.is_file() and (PRESETS / f"{source}.json").is_file():
            path = PRESETS / f"{source}.json"
        to_do = f"give a JSON file or one of the presets {', '.join(preset_names())}"
        content = read_json(path, "a JSON file of label values", to_do)
        return cls._parse(content, num_classes, path, table)

    @classmethod
    def _parse(cls, content, num_classes, path, table=None):
        if not isinstance(content, dict):
            raise _wrong(path, f"a label mapping is one JSON object, not a {type(content).__name__}")
        parts = content if "values" in content else {"values": content}
        unknown = sorted(set(parts) - set(KEYS))
        if unknown:
            raise _wrong(path, f"unknown keys {', '.join(unknown)}; a label mapping has {', '.join(KEYS)}")
        others = parts.get("others", "refuse")
        if others not in OTHERS:
            raise _wrong(path, f'"others" is "refuse" or "background", not {others!r}')
        if not isinstance(parts["values"], dict) or not parts["values"]:
            raise _wrong(path, f'"values" is an object that is not empty, not {parts["values"]!r}')
        value_to_class, given = {}, {}  # given: {class id: the name that an entry gives it}
        for key, target in parts["values"].items():
            value, class_id, name = _entry(key, target, num_classes, path, table, path.parent == PRESETS)
            if value in value_to_class:
                raise _wrong(path, f"value {value} is listed twice (as {key!r}, too)")
            value_to_class[value] = class_id
            if name is not None and name_key(given.setdefault(class_id, name)) != name_key(name):
                raise _wrong(path, f"class {class_id} has two names, {given[class_id]!r} and {name!r}")
        names = table if table is not None else complete_class_names(given, num_classes, path)
        defaults = table if table is not None else default_class_names(num_classes)
        for value, c in value_to_class.items():
            if c not in given and names[c - 1] != defaults[c - 1]:
                raise InputError.because(
                    path,
                    f"value {value} is mapped to class {c} without a name, and its default name {defaults[c - 1]} is "
                    "that of another class of this mapping",
                    f'name it: "{value}": {{"class": {c}, "name": "..."}}',
                )
        annotated = parts.get("annotated", sorted(set(value_to_class.values())))
        if not isinstance(annotated, list) or not all(isinstance(c, int) and 1 <= c <= num_classes for c in annotated):
            raise _wrong(path, f'"annotated" is a list of class ids 1..{num_classes}, not {annotated!r}')
        text = json.dumps([sorted(value_to_class.items()), others, names, annotated])
        return cls(value_to_class, others, names, sorted(set(annotated)), text, path.parent == PRESETS)

    def for_classes(self, class_names: Sequence[str]) -> "LabelMapping":
        """The same mapping to the ids of the classes of the same names in `class_names` (C,), those of a checkpoint.
        InputError where one of its classes is not among them."""
        ids = {}
        for c in sorted({*self.value_to_class.values(), *self.annotated}):
            ids[c] = class_named(self.class_names[c - 1], class_names)
            if ids[c] is None:
                raise InputError.because(
                    "--label_mapping",
                    f"{self.class_names[c - 1]} is no class of the checkpoint ({listed(class_names)})",
                    "give the mapping that its case files were made with",
                )
        return replace(
            self,
            value_to_class={value: ids[c] for value, c in self.value_to_class.items()},
            class_names=list(class_names),
            annotated=sorted({ids[c] for c in self.annotated}),
            own_ids=ids,
        )

    def apply(self, values: np.ndarray, path: Path | str) -> np.ndarray:
        """Class ids, u8, of image values (integers), same shape.

        Raises InputError naming `path` for values that are not listed, unless `others` makes them background, and for
        those of a scan.
        """
        found = values_in(values)
        refuse_scan(Path(path), found, self.value_to_class)
        unlisted = [int(v) for v in found if v != BACKGROUND and int(v) not in self.value_to_class]
        if unlisted and self.others == "refuse":
            shown = ", ".join(map(str, unlisted[:8])) + (f" and {len(unlisted) - 8} more" if unlisted[8:] else "")
            raise InputError.because(
                path,
                f"--label_mapping does not list its label values {shown}",
                "it is a preset for other files: leave it out, or give a file of your own"
                if self.preset
                else 'list them, or set "others" to "background"',
            )
        return apply_table(values, self.value_to_class, found)


def values_in(values: np.ndarray) -> np.ndarray:
    """The sorted distinct values of an array of whole numbers: what `numpy.unique` gives, a fifth of the time where
    they lie close together, as labels do."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, -1)
    if high - low >= TABLE_VALUES:
        return np.unique(values)
    seen, flat = np.zeros(high - low + 1, bool), values.ravel(order="K")
    for start in range(0, len(flat), 1 << 20):
        seen[flat[start : start + (1 << 20)].astype(np.intp) - low] = True
    return (np.flatnonzero(seen) + low).astype(values.dtype)


def apply_table(values: np.ndarray, value_to_class: Mapping[int, int], found: np.ndarray | None = None) -> np.ndarray:
    """Class ids, u8, of image values (integers), same shape; 0 for values that are not listed. found: their sorted set,
    where it is known."""
    found = values_in(values) if found is None else found
    classes = np.array([value_to_class.get(int(v), BACKGROUND) for v in found], np.uint8)
    low, high = int(found[0]), int(found[-1])
    if low >= 0 and high < TABLE_VALUES:
        table = np.zeros(high + 1, np.uint8)
        table[found.astype(np.int64)] = classes
        return table[values]
    return classes[np.searchsorted(found, values)]


def _entry(key, target, num_classes, path, table, by_name):
    """(image value, class id, the name that the entry gives the class or None) of one entry of `values`."""
    try:
        value = int(key)
    except ValueError:
        raise _wrong(path, f'the keys of "values" are whole numbers, not {key!r}') from None
    class_id, name = class_target(f"value {key}", target, num_classes, path, table, by_name)
    if value == BACKGROUND:
        raise _wrong(path, f"value {BACKGROUND} is background and cannot be mapped to class {class_id}")
    return value, class_id, name


def class_target(
    what: str,
    target: object,
    num_classes: int,
    path: Path | str,
    table: Sequence[str] | None = None,
    by_name: bool = False,
) -> tuple[int, str | None]:
    """(class id, the name that the entry gives the class or None) of one entry of a JSON file: an id, a default name,
    or {"class": id, "name": name}. what: the entry in words, for the message. table (C,): the names of a project, in
    place of the default ones; with `by_name` the name of an entry counts there, and not its id. Raises InputError for
    all else, and where id and name of an entry are two structures of the table."""
    name, defaults = None, default_class_names(num_classes) if table is None else table
    if isinstance(target, dict):
        unknown = sorted(set(target) - {"class", "name"})
        if unknown:
            raise _wrong(path, f'{what} has unknown keys {", ".join(unknown)}; an entry has "class" and "name"')
        target, name = target.get("class"), target.get("name")
        if name is not None and not isinstance(name, str):
            raise _wrong(path, f"the name of {what} is a text, not {name!r}")
        name = None if name is None else cleaned_name(name)
        if table is not None and name is not None:
            of_table = class_named(name, table)
            if of_table is None or (of_table != target and not by_name):
                said = "no structure" if of_table is None else f"structure {of_table} {table[of_table - 1]}"
                raise _wrong(
                    path, f"{what} is mapped to {name!r}, {said} of --classes ({listed(table)}), not {target!r}"
                )
            target, name = of_table, table[of_table - 1]
    elif isinstance(target, str) and class_named(target, defaults):
        target = class_named(target, defaults)
        name = defaults[target - 1]
    if not isinstance(target, int) or isinstance(target, bool) or not 1 <= target <= num_classes:
        allowed = f"a class id 1..{num_classes} (--classes) or one of {', '.join(defaults)}"
        raise _wrong(path, f"{what} must be mapped to {allowed}, not to {target!r}")
    return target, name


def _wrong(path, problem):
    return InputError.because(path, problem, "vecset/imaging/presets/ has examples")
