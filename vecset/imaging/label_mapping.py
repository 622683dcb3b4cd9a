"""Which label values of a data set stand for which class: JSON files, some shipped in vecset/imaging/presets/.

    {
      "name": "MM-WHS",
      "values": {"205": {"class": 1, "name": "Myocardium"}, "420": {"class": 2, "name": "LA"}, "500": 3, "600": "RV"},
      "others": "refuse",
      "annotated": [1, 2, 3, 5]
    }

Each key of `values` is a value in the image; what it stands for is a class id, one of the default class names of
--classes, or both an id and a name of one's own. Several values may stand for one class. `others` says what values that
are not listed mean: "refuse" (default) or "background". `annotated`: the ids that the annotators looked for (default:
those in `values`). An object without `values` is taken as `values` itself: {"1": "LV", "2": "Myocardium"}.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.imaging.classes import default_class_names

PRESETS = Path(__file__).parent / "presets"


def preset_names():
    """The presets that are shipped, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


@dataclass
class LabelMapping:
    """value_to_class: image value -> class id 1..C; others: 'refuse' or 'background'; class_names (C,); annotated ids;
    text: the file's content in a fixed form, by which two mappings are compared."""

    value_to_class: dict
    others: str
    class_names: list
    annotated: list
    text: str

    @classmethod
    def load(cls, source, num_classes):
        """From a preset's name, a JSON file, or a mapping that is one already. Raises InputError where it is wrong."""
        if isinstance(source, cls):
            return source
        path = Path(source)
        if not path.is_file() and (PRESETS / f"{source}.json").is_file():
            path = PRESETS / f"{source}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                path,
                "a JSON file of label values",
                "no such file",
                f"give a file or one of the presets {', '.join(preset_names())}",
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(path, "a JSON file of label values", str(error), "see vecset/imaging/presets/") from None
        return cls._parse(content, num_classes, path)

    @classmethod
    def _parse(cls, content, num_classes, path):
        def wrong(expected, found):
            return InputError(path, expected, found, "see vecset/imaging/presets/ for examples")

        if not isinstance(content, dict):
            raise wrong("one JSON object", type(content).__name__)
        parts = content if "values" in content else {"values": content}
        unknown = set(parts) - {"name", "values", "others", "annotated", "source"}
        if unknown:
            raise wrong("keys name, values, others, annotated, source", ", ".join(sorted(unknown)))
        others = parts.get("others", "refuse")
        if others not in ("refuse", "background"):
            raise wrong("others to be refuse or background", repr(others))
        defaults = default_class_names(num_classes)
        by_name = {name.lower(): c for c, name in enumerate(defaults, 1)}
        names, value_to_class = list(defaults), {}
        if not isinstance(parts["values"], dict) or not parts["values"]:
            raise wrong("values to be an object that is not empty", repr(parts["values"]))
        for key, target in parts["values"].items():
            try:
                value = int(key)
            except ValueError:
                raise wrong("image values (whole numbers) as keys", repr(key)) from None
            name = None
            if isinstance(target, dict):
                target, name = target.get("class"), target.get("name")
            elif isinstance(target, str) and target.lower() in by_name:
                target = by_name[target.lower()]
            if not isinstance(target, int) or isinstance(target, bool) or not 1 <= target <= num_classes:
                raise wrong(
                    f"a class id 1..{num_classes} (--classes) or one of {', '.join(defaults)} for value {key}",
                    repr(target),
                )
            if value == 0:
                raise wrong("0 to stay background", f"0 -> {target}")
            if name:
                names[target - 1] = str(name)
            value_to_class[value] = target
        annotated = parts.get("annotated", sorted(set(value_to_class.values())))
        if not isinstance(annotated, list) or not all(isinstance(c, int) and 1 <= c <= num_classes for c in annotated):
            raise wrong(f"annotated to be a list of class ids 1..{num_classes}", repr(annotated))
        text = json.dumps([sorted(value_to_class.items()), others, names, annotated])
        return cls(value_to_class, others, names, sorted(set(annotated)), text)

    def apply(self, values, path):
        """Image values (integers) -> class ids, u8, same shape. Raises InputError for values that are not listed."""
        found = np.unique(values)
        classes = np.array([self.value_to_class.get(int(v), 0) for v in found], np.uint8)
        strange = [int(v) for v in found if v != 0 and int(v) not in self.value_to_class]
        if strange and self.others == "refuse":
            raise InputError(
                path,
                "only label values that --label_mapping lists",
                f"also {strange[:8]}",
                'list them, or say "others": "background" in it',
            )
        low, high = int(found[0]), int(found[-1])
        if low >= 0 and high < 2**16:
            table = np.zeros(high + 1, np.uint8)
            table[found.astype(np.int64)] = classes
            return table[values]
        return classes[np.searchsorted(found, values)]
