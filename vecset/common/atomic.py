"""Atomic files, complete or absent: written beside the target, flushed, then renamed onto it."""

import contextlib
import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from vecset.common.errors import DISK_FULL, InputError

HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:63] or "host"
ABANDONED_AFTER_S = 2 * 24 * 3600
NAME_BYTES = 255  # of a file's name, on every usual file system
PROBE_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Context manager that yields a temporary path in the target's folder, and renames it onto `target` on success.

    The temporary name ends like the target, because writers choose the format by the suffix, and starts with a dot, so
    that no listing of the folder takes it for a result. On an error it is removed and the old target is kept. After a
    SIGKILL it is left; `remove_leftovers` removes such files.

    An OSError from within names `target`, whether it named the temporary file or, as that of a write to a full disk,
    none. A writer's error of another kind (torch's and ITK's are RuntimeError) becomes the OSError of the disk where
    the disk takes no more.
    """
    target = Path(target)
    temporary = _temporary(target)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(target), None
        raise
    except InputError:
        raise
    except Exception as error:
        disk_error = _error_of_disk(temporary)
        if disk_error is None:
            raise
        disk_error.filename = str(target)
        raise disk_error from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder; the file is renamed anyway
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _temporary(target):
    """A name beside `target` that no other writer has, and no longer than names may be: of one that would be, the end
    is kept."""
    start = f".tmp-{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-"
    name = target.name
    while len(os.fsencode(start + name)) > NAME_BYTES:
        name = name[1:]
    return target.with_name(start + name)


def _error_of_disk(temporary):
    """The OSError of writing more into the file `temporary` (b"" into one that is not there); None where that works."""
    try:
        with open(temporary, "ab", buffering=0) as handle:
            for _ in range(PROBE_BYTES >> 16):
                handle.write(bytes(1 << 16))
            os.fsync(handle.fileno())
    except OSError as error:
        return error
    return None


def write_text(target: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 to `target`, atomically. A byte of a file name that is no UTF-8 becomes an escape."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def append_text(target: Path | str, text: str) -> None:
    """Adds `text` as UTF-8 to the end of `target`. An OSError names the file, which that of a full disk does not."""
    try:
        with open(target, "ab") as handle:
            handle.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        error.filename = str(target)
        raise


def require_writable(folder: Path, flag: str = "--output_dir") -> None:
    """Makes `folder`, which `flag` named, where it does not exist. Raises InputError where it cannot be made or written
    to, a full disk included. To be called before long work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(4096))
            handle.flush()
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        full = error.errno in DISK_FULL
        reason = "there is a file of that name" if is_file else error.strerror
        raise InputError.because(
            f"{flag} {folder}",
            f"the folder cannot be written to: {'no space left, or quota used up' if full else reason}",
            "free some space and run the same command again" if full else "give another one, or change its permissions",
        ) from None


def remove_leftovers(folder: Path | str) -> int:
    """Removes temporary files whose writer has ended; returns their number.

    Kept are files of a running process, and files of another machine that are younger than ABANDONED_AFTER_S, because
    its processes cannot be listed from here.
    """
    removed = 0
    for path in Path(folder).glob(".tmp-*-*-*"):
        host, pid = path.name.split("-")[1:3]
        with contextlib.suppress(OSError):
            if not pid.isdigit() or (
                _runs(int(pid)) if host == HOST else time.time() - path.stat().st_mtime < ABANDONED_AFTER_S
            ):
                continue
            path.unlink()
            removed += 1
    return removed


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
