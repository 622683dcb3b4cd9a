"""Names of files that become names of cases, and so columns of CSVs, keys of JSON, folders and links."""

import hashlib
import os
import unicodedata
from pathlib import Path

from vecset.common.atomic import NAME_BYTES
from vecset.common.errors import InputError


def require_sound_name(path: Path | str) -> None:
    """Raises InputError where the file's name cannot be the name of a case: bytes that are no UTF-8, or control
    characters, a line break among them. Every other name can, whatever it holds."""
    name = Path(path).name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        try:
            os.fsencode(name).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError.because(path, "the name of this file is not UTF-8", "rename it") from None
        raise InputError.because(
            path,
            "Python runs without UTF-8 here, so the name of this file cannot be used",
            "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        ) from None
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in name):
        raise InputError.because(path, "the name of this file holds a line break or a control character", "rename it")


def fitting_name(start: str, name: str, end: str) -> str:
    """START + NAME + END, no longer than names of files may be: of a longer name the first part and a hash are kept."""
    whole = f"{start}{name}{end}"
    if len(os.fsencode(whole)) <= NAME_BYTES:
        return whole
    mark = "-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    while len(os.fsencode(f"{start}{name}{mark}{end}")) > NAME_BYTES:
        name = name[:-1]
    return f"{start}{name}{mark}{end}"
