"""Long benchmarks that keep their rows in a folder and go on with them: two at once would write the same rows."""

import fcntl
from pathlib import Path

from vecset.common.errors import InputError


class one_at_a_time:
    """Context in which this process alone works in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        self._file = open(self.folder / ".lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError.because(self.folder, "another comparison works there", "wait for it, or stop it") from None

    def __exit__(self, *exc):
        self._file.close()
