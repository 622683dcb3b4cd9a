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

from vecset.common.errors import InputError

HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"
ABANDONED_AFTER_S = 2 * 24 * 3600


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Context manager that yields a temporary path in the target's folder, and renames it onto `target` on success.

    The temporary name ends like the target, because writers choose the format by the suffix, and starts with a dot, so
    that no listing of the folder takes it for a result. On an error it is removed and the old target is kept. After a
    SIGKILL it is left; `remove_leftovers` removes such files.
    """
    target = Path(target)
    temporary = target.with_name(f".tmp-{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:  # the error of a write to a full disk does not name the file
        if error.filename is None:
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder; the file is renamed anyway
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(target: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 to `target`, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Makes `folder` where it does not exist. Raises InputError where it cannot be made or written to. To be called
    before long work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "there is a file of that name" if is_file else error.strerror
        raise InputError.because(
            f"--output_dir {folder}",
            f"the folder cannot be written to: {reason}",
            "give another one, or change its permissions",
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
