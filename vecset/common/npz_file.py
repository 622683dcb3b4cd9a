"""npz archives: what reading a damaged one raises, and whether what one says it holds fits into memory."""

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vecset.common.memory import require_memory

SURELY_FREE = 1 << 26  # bytes: for less, the system is not asked
# What numpy and zipfile raise for an archive that is cut, damaged, encrypted, or none
NPZ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def open_npz(path: Path | str) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz archive, without pickles. Raises one of NPZ_ERRORS where it is none or damaged; the file is closed then,
    too, which numpy alone leaves open."""
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
        yield archive


def require_members_fit(archive: np.lib.npyio.NpzFile, names: Iterable[str], path: Path | str) -> None:
    """Raises InputError where the members `names` of an open npz unpack to more bytes than memory is free."""
    sizes = {name: archive.zip.getinfo(f"{name}.npy").file_size for name in names}
    if sum(sizes.values()) > SURELY_FREE:
        require_memory(
            path,
            sum(sizes.values()),
            f"its content (most of it {max(sizes, key=sizes.get)})",
            "it is damaged, or meant for a machine with more memory",
        )


def member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """The array `name` of an open npz. Raises one of NPZ_ERRORS where it is damaged; numpy gives the bytes of a member
    that does not begin as an array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about headers in the style of Python 2
        array = archive[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array


def in_one_line(error: Exception) -> str:
    """What reading a damaged archive raised, for people."""
    if "Bad CRC-32" in str(error):
        return "its checksum is wrong: the data are damaged"
    return f"{type(error).__name__}: {error}"
