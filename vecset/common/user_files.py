"""Text files that users write or edit: JSON, CSV and lists. The one place that reads them.

A byte order mark and Windows line ends are read over. What cannot be read, or would be read as something else than what
stands there, is an InputError with the line: another encoding, a key that is given twice, NaN, columns that are
separated by semicolons or tabs.
"""

import codecs
import csv
import io
import json
from pathlib import Path

from vecset.common.errors import InputError, describe_os_error

SAVE_AS_UTF8 = 'save it as UTF-8 in your editor ("Save as", encoding UTF-8)'
SAVE_WITH_COMMAS = 'save it with commas between the columns (in a spreadsheet: "CSV UTF-8 (comma delimited)")'
WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
EXCEL = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods are zip archives, .xls is an OLE file
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_text(path: Path | str, kind: str, to_do: str = "") -> str:
    """The text of a file in UTF-8, without a byte order mark; line ends stay as they are.

    kind: what the file should be, as "a CSV of cases", for the message; to_do: what to do where there is no such file.
    Raises InputError where it is missing, cannot be read, or is not in UTF-8.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError.because(path, "no such file", to_do or f"expected {kind}") from None
    except IsADirectoryError:
        raise InputError(path, kind, "a folder", to_do) from None
    except OSError as error:
        raise InputError.because("", describe_os_error(error), to_do) from None
    if content.startswith(EXCEL):
        raise InputError(path, kind, "a spreadsheet or another zip archive", "save it as text (.csv, .json or .txt)")
    if content.startswith(WIDE) or b"\0" in content[:400]:
        named = 'UTF-16, which Windows editors call "Unicode"' if content.startswith(WIDE) else "null bytes"
        raise InputError(path, f"{kind} in UTF-8", named, SAVE_AS_UTF8)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}, which is none"
        raise InputError(path, f"{kind} in UTF-8", found, SAVE_AS_UTF8) from None


def read_json(path: Path | str, kind: str, to_do: str = "") -> object:
    """The content of a JSON file (`kind`, `to_do` as for `read_text`).

    Raises InputError where it is no JSON, with line and column; where an object has a key twice, of which one would be
    lost; and where a number is NaN or infinite, which JSON does not have.
    """
    text = read_text(path, kind, to_do)

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            values = " and ".join(json.dumps(value)[:60] for key, value in pairs if key == twice)
            raise InputError.because(path, f'"{twice}" is given twice ({values})', "keep one of them")
        return found

    def no_number(name):
        raise InputError.because(path, f"{name} is no number in JSON", "write a finite number")

    if not text.strip():
        raise InputError(path, kind, "an empty file", to_do)
    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError.because(path, f"not JSON at {where}: {_reason(error, text)}", f"expected {kind}") from None
    except RecursionError:
        raise InputError.because(path, "not JSON: too many brackets inside each other", f"expected {kind}") from None


def _reason(error, text):
    """What is wrong at the place of a JSONDecodeError, in a user's words where it is a usual mistake."""
    before, here = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if (here[:1] in ("}", "]") and before.endswith(",")) or (here[:1] == "," and here[1:].lstrip()[:1] in ("}", "]")):
        return "a comma before the closing bracket; remove it"
    if here[:2] in ("//", "/*") or here[:1] == "#":
        return "JSON has no comments; remove it"
    if here[:1] in ("'", "‘", "’", "“", "”", "„"):
        return 'text stands between straight double quotes "'
    if error.msg.startswith("Expecting ',' delimiter"):
        return "a comma is missing before it" if here else "the file ends too early"
    if error.msg.startswith("Expecting property name"):
        return 'a key between double quotes is missing, as in {"1": 2}' if here else "the file ends too early"
    if error.msg.startswith("Extra data"):
        return "the object has ended before it; remove what follows, or make it one object"
    return error.msg[:1].lower() + error.msg[1:] if here else "the file ends too early"


def read_rows(path: Path | str, columns: tuple[str, ...], kind: str, to_do: str = "") -> list[dict[str, str]]:
    """The rows of a CSV as {column: value}, in the order of the file. Left out are rows without any value, and spaces
    round the names of columns (values keep theirs: a file may be called so).

    columns: those that it must have. Raises InputError as `read_text` does, and where a column is missing or named
    twice, the columns are separated by something else than commas, or a row has more or fewer values than columns.
    """
    text = read_text(path, kind, to_do)
    first = next((line for line in text.splitlines() if line.strip()), "")
    for sign, name in SEPARATORS.items():
        if sign in first and not set(columns) <= set(_split(first)):
            raise InputError(path, f"{kind}, commas between its columns", f"{name} in its first line", SAVE_WITH_COMMAS)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(path, f"{kind}", f"no CSV ({error})", to_do) from None
    lines = [(number, row) for number, row in enumerate(lines, 1) if any(row)]
    if not lines:
        raise InputError(path, kind, "an empty file", to_do)
    header, rows = [name.strip() for name in lines[0][1]], lines[1:]
    while header and not header[-1]:  # a spreadsheet writes empty columns behind the last one
        header.pop()
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise InputError(path, f"a header with {' and '.join(columns)}", ",".join(header)[:80], to_do)
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError.because(path, f"the column {twice} is there twice", "keep one of them")
    for number, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise InputError(path, f"{len(header)} values in row {number}, as in its header", f"{len(row)}", to_do)
    return [dict(zip(header, row)) for _, row in rows]


def _split(line):
    return [value.strip() for value in next(csv.reader([line]), [])]
