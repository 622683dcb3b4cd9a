"""The names of a project's classes: which are refused where they are given, and how stored ones stay apart.

Within a project a class is its id. Names join what different files, checkpoints and data sets say, and they are the
keys and the file names of results, so no two classes may have the same one. A project may write its own table of
structures, a JSON list in which every id from 1 occurs once; `aliases` and `colour` may be left out:

    [{"id": 1, "name": "LV", "aliases": ["left ventricle blood"]}, {"id": 2, "name": "Plaque", "colour": "#AA3377"}]
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from vecset.common.arguments import user_path_text
from vecset.common.errors import InputError
from vecset.common.user_files import read_json
from vecset.imaging.classes import SHIPPED_TABLES, ClassNames, default_class_names
from vecset.imaging.structure_names import alias_key, class_of, name_key

# what tables and pages call rows of their own
RESERVED = ("background", "mean", "mean of classes", "mean of given", "mean of inferred", "outside", "union")
MOST_CLASSES = 255  # label maps and case files hold class ids in a byte
SHOWN = 12  # names that a message lists
TABLE_KEYS = ("id", "name", "aliases", "colour")
MOST_BYTES = 120  # of a name in UTF-8: it becomes a file name
# Names that Windows keeps for devices, with any suffix.
_DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))])


def cleaned_name(name: str) -> str:
    """The name in Unicode's composed form, without white space at its ends and with one space for each run within."""
    return " ".join(unicodedata.normalize("NFC", str(name)).split())


def file_name(class_name: str) -> str:
    """A class name as a file name: what is no letter, digit, dot, minus or underscore becomes an underscore."""
    return "".join(ch if ch.isalnum() or ch in "-_." else "_" for ch in class_name).lstrip(".") or "class"


def file_names(class_names: Sequence[str]) -> list[str]:
    """A file name for each class (C,), no two the same on a file system that takes large for small letters."""
    names = [file_name(name) for name in class_names]
    seen, apart = set(), []
    for c, name in enumerate(names, 1):
        if _file_key(name) in seen or _is_device(name):
            name = f"{name}_class_{c}"
        seen.add(_file_key(name))
        apart.append(name)
    return apart


def check_class_names(
    names: Mapping[int, str], where: object, to_do: str = "give each class a name of its own"
) -> None:
    """Raises InputError, naming `where`, for names {class id: name} that are empty, unreadable or reserved, and for two
    classes whose names are equal (case, white space and Unicode form do not count) or would give one file name."""
    seen, files = {}, {}
    for c, name in names.items():
        problem = _problem(name)
        if problem:
            raise InputError.because(where, f"the name of class {c}, {name!r}, {problem}", to_do)
        other = seen.setdefault(name_key(name), c)
        if other != c:
            raise InputError.because(
                where, f"classes {other} and {c} have the same name ({names[other]!r} and {name!r})", to_do
            )
        other = files.setdefault(_file_key(file_name(name)), c)
        if other != c:
            raise InputError.because(
                where,
                f"the names of classes {other} and {c} ({names[other]!r} and {name!r}) would give the same file name",
                to_do,
            )


def read_structure_table(source: Path | str) -> ClassNames:
    """The names (C,) of a shipped table ("heart10", "heart16") or of a project's own (a JSON file, form above), with
    their aliases and colours.

    Raises InputError, naming `source`, where there is no such file, where it is no such table, where the ids are not
    1..C, and where two structures have a name or an alias in common."""
    if str(source) in SHIPPED_TABLES and not Path(source).is_file():
        return ClassNames(SHIPPED_TABLES[str(source)])
    to_do = f"give a number, {', '.join(SHIPPED_TABLES)}, or a JSON list of structures"
    rows = read_json(source, "a JSON table of structures", to_do)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(source, 'a list of structures, as [{"id": 1, "name": "LV"}]', repr(rows)[:60], to_do)
    names, aliases, colours = {}, {}, {}
    for row in rows:
        c, name = row.get("id"), row.get("name")
        unknown = sorted(set(row) - set(TABLE_KEYS))
        if unknown:
            raise InputError.because(source, f"unknown keys {', '.join(unknown)}", f"keys are {', '.join(TABLE_KEYS)}")
        if not isinstance(c, int) or isinstance(c, bool) or not 1 <= c <= MOST_CLASSES:
            raise InputError.because(source, f"{name!r} has the id {c!r}", f"ids are 1..{MOST_CLASSES}")
        if c in names:
            raise InputError.because(source, f"id {c} is both {names[c]!r} and {name!r}", "give each structure its id")
        names[c] = cleaned_name(name) if isinstance(name, str) else name
        own, colour = row.get("aliases", []), row.get("colour")
        if not isinstance(own, list) or not all(isinstance(alias, str) and alias.strip() for alias in own):
            raise InputError.because(source, f"the aliases of {name!r} are {own!r}", "give a list of texts")
        if colour is not None and not (isinstance(colour, str) and re.fullmatch("#[0-9A-Fa-f]{6}", colour)):
            raise InputError.because(source, f"the colour of {name!r} is {colour!r}", 'give it as "#RRGGBB"')
        if own:
            aliases[names[c]] = own
        if colour:
            colours[names[c]] = colour.upper()
    check_class_names(names, source)
    lacking = sorted(set(range(1, max(names) + 1)) - set(names))
    if lacking:
        raise InputError.because(source, f"no structure has the id {lacking[0]}", f"number them 1..{len(names)}")
    table = ClassNames([names[c] for c in sorted(names)], aliases, colours)
    _check_aliases(table, source)
    return table


def number_or_table(text: str) -> int | str:
    """The value of --classes: a number, or what `read_structure_table` reads. As the type of an option."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else user_path_text(text)


def _check_aliases(table, source):
    """Raises InputError where two structures of a table have a name or an alias in common."""
    owner = {}
    for name in table:
        for text in (name, *table.aliases.get(name, ())):
            other, theirs = owner.setdefault(alias_key(text), (name, text))
            if other != name:
                raise InputError.because(
                    source,
                    f"{text!r} stands for {name} and for {other} ({theirs!r})",
                    "take it away from one of them, or make them one structure",
                )


def complete_class_names(given: Mapping[int, str], num_classes: int, where: object) -> list[str]:
    """(C,) names: those `given` {class id: name}, for the others the default ones. A default name that one of `given`
    has, or stands for (vecset/imaging/structure_names.py), would name a second class so: that one is `class_<id>`.

    Raises InputError as `check_class_names`."""
    check_class_names(given, where)
    taken = {name_key(name) for name in given.values()} | {name_key(class_of(n) or n) for n in given.values()}
    names = {}
    for c, default in enumerate(default_class_names(num_classes), 1):
        names[c] = given.get(c) or (f"class_{c}" if name_key(default) in taken else default)
    check_class_names(names, where)
    return list(names.values())


def distinct_names(class_names: Sequence[str]) -> list[str]:
    """The names (C,) of a stored file: as they are where all differ; a name that an earlier class or a row of the
    tables has gets the class id behind it, as in "RV (class 5)"."""
    seen, names = {name_key(name) for name in RESERVED}, []
    for c, name in enumerate(map(str, class_names), 1):
        if name_key(name) in seen or not name_key(name):
            name = f"{name} (class {c})".strip()
        seen.add(name_key(name))
        names.append(name)
    return names


def check_same_names(found: Sequence[str], expected: Sequence[str], where: object, whose: str, to_do: str) -> None:
    """Raises InputError, naming `where`, where the names `found` (C,) are not those `expected` (C,), which are `whose`,
    in their order; case, white space and Unicode form do not count."""
    if list(map(name_key, found)) != list(map(name_key, expected)):
        raise InputError(where, f"the classes of {whose} ({listed(expected)})", listed(found), to_do)


def listed(class_names: Sequence[str]) -> str:
    """'1 RV, 2 Myocardium, 3 LV'."""
    return ", ".join(f"{c} {name}" for c, name in enumerate(class_names, 1))


def table_text(names: Mapping[int, str]) -> str:
    """'1 LV, 3 Myocardium and 4 more'."""
    shown = ", ".join(f"{value} {name}" for value, name in sorted(names.items())[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _problem(name):
    """What is wrong with one name, in words, or None."""
    if not isinstance(name, str):
        return "is no text"
    if not name.isprintable():
        return "holds characters that cannot be seen"
    if not any(ch.isalnum() for ch in name):
        return "holds no letter and no digit"
    if name_key(name) in RESERVED:
        return f"is reserved ({', '.join(RESERVED)})"
    if _is_device(file_name(name)):
        return "is a name that Windows keeps for a device, so that no file can have it"
    if len(name.encode()) > MOST_BYTES:
        return f"is longer than {MOST_BYTES} bytes"
    return None


def _file_key(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_device(name):
    return name.split(".")[0].casefold() in _DEVICES
