"""The classes of a label map: ids, names and colours. Structures have the ids 1..C.

What is known of the structures of a heart stands in two tables, heart10.json and heart16.json of
vecset/imaging/structures: id, name, aliases, colour. An entry without aliases or colour has those of the other table.
Nothing else gives a name, an alias, a colour or an id to a structure.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

BACKGROUND = 0  # the label of everything that is no structure, in every label map, case file and output
BACKGROUND_COLOUR = "#F7F7F7"
TABLES = Path(__file__).parent / "structures"


def _shipped(table):
    return json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))


# The ten have the label order of ImageCAS-STACOM2025. Their colours are Paul Tol's "muted" qualitative scheme
# (https://personal.sron.nl/~pault/), safe for colour-blind readers, ordered so that neighbouring structures differ in
# lightness as well; the tenth is his "bright" blue. Those of the six more were searched on a grid, to be far from these
# and from each other. tests/report/test_hearts.py holds how far two colours must differ.
_TEN, _SIXTEEN = _shipped("heart10"), _shipped("heart16")
HEART_CLASSES = tuple(row["name"] for row in _TEN)
HEART16_CLASSES = tuple(row["name"] for row in _SIXTEEN)
RESERVED_CLASS = "Reserved"  # an id that the sixteen keep free: looked for, and in no heart
SHIPPED_TABLES = {"heart10": HEART_CLASSES, "heart16": HEART16_CLASSES}
STRUCTURES = {}  # {name: {"aliases": [...], "colour": "#RRGGBB"}}, in the order of the sixteen
for _row in (*_SIXTEEN, *_TEN):
    STRUCTURES[_row["name"]] = {**STRUCTURES.get(_row["name"], {}), **_row}
_BY_POSITION = (
    *(STRUCTURES[name]["colour"] for name in HEART_CLASSES),
    *("#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#EE8866", "#77AADD", "#FFAABB", "#AAAA00"),
)


class ClassNames(list):
    """The names (C,) of the classes 1..C, with what the table of a project adds: `aliases` {name: other names of it}
    and `colours` {name: '#RRGGBB'}, of those that have some."""

    def __init__(
        self,
        names: Sequence[str] = (),
        aliases: Mapping[str, Sequence[str]] | None = None,
        colours: Mapping[str, str] | None = None,
    ):
        super().__init__(names)
        self.aliases = {name: list(others) for name, others in (aliases or {}).items()}
        self.colours = dict(colours or {})


def default_class_names(num_classes: int) -> list[str]:
    """Names of the classes 1..C: the first C of HEART_CLASSES (label order of ImageCAS-STACOM2025) where C is at most
    10, else `class_1` .. `class_C`."""
    if num_classes <= len(HEART_CLASSES):
        return list(HEART_CLASSES[:num_classes])
    return [f"class_{c}" for c in range(1, num_classes + 1)]


def rgb(colour: str) -> tuple[int, int, int]:
    """'#RRGGBB' -> (red, green, blue), each 0..255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def class_colours(classes: int | Sequence[str | None]) -> list[str]:
    """C colours as '#RRGGBB' of C classes, or of those named `classes`: a structure has its own colour wherever it
    stands, and another class that of its place, or, where a structure has that, the next free one. After 20 the colours
    of the places repeat, darker."""
    names = [None] * classes if isinstance(classes, int) else list(classes)
    own = {name: known["colour"] for name, known in STRUCTURES.items()} | getattr(classes, "colours", {})
    taken = {own[name] for name in names if name in own}
    free = map(_of_place, range(len(names), len(names) + 2 * len(_BY_POSITION)))
    colours = []
    for c, name in enumerate(names):
        colour = own.get(name) or _of_place(c)
        if name not in own and colour in taken:
            colour = next((other for other in free if other not in taken), colour)
            taken.add(colour)
        colours.append(colour)
    return colours


def _of_place(c):
    red, green, blue = rgb(_BY_POSITION[c % len(_BY_POSITION)])
    shade = 0.7 ** (c // len(_BY_POSITION))
    return f"#{int(red * shade):02X}{int(green * shade):02X}{int(blue * shade):02X}"
