"""Files that are whole or not there: written beside the target, flushed, then renamed onto it."""

import contextlib
import os
import re
import socket
import tempfile
import time
import uuid
from pathlib import Path

from vecset.common.errors import InputError

HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"
ABANDONED_AFTER_S = 2 * 24 * 3600


@contextlib.contextmanager
def atomic_path(target):
    """Yields a temporary path in the target's folder; on success it is flushed and renamed onto `target`.

    The temporary name ends like the target (`.nii.gz` writers look at it) and starts with a dot, so no stage that
    lists a folder takes it for a result. On any error it is removed and the old target stays as it was. After a
    SIGKILL the temporary file stays; `remove_leftovers` takes those away.
    """
    target = Path(target)
    temporary = target.with_name(f".tmp-{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:  # a write that finds the disk full does not say for which file
        if error.filename is None:
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder; the rename stands
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(target, text):
    """Writes `text` (UTF-8) to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder):
    """Makes `folder` where it is not there; InputError where it cannot be made or written to. Asked before hours of
    work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = "a file of that name" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise InputError(
            f"--output_dir {folder}",
            "a folder that can be written to",
            found,
            "give another one, or change its permissions or the disk",
        ) from None


def remove_leftovers(folder):
    """Removes temporary files whose writer is gone; returns how many. A file of a live process, or of another machine
    (whose processes cannot be asked) that is younger than two days, is left alone: its writer may be about to rename
    it."""
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
