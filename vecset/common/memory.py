"""How much memory this process may still use, asked before much of it is allocated; and how its allocator keeps it.

Linux gives memory that it does not have and ends the process once it is written to, so no error would say what was too
large. Standard library only.
"""

import ctypes
import os
import resource
from pathlib import Path

from vecset.common.cores import CGROUP, MEMBERSHIP, group_folders
from vecset.common.errors import InputError

MEMINFO, STATM = Path("/proc/meminfo"), Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 1 << 28  # allocations up to here stay with the process


def available_bytes(
    meminfo: Path = MEMINFO, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP, statm: Path = STATM
) -> int | None:
    """The smallest of what the machine has free (swap included), what the control groups of this process leave
    (`docker run --memory`, Slurm) and what its own limit leaves (`ulimit -v`). None where the system does not say."""
    found = [_of_machine(meminfo), _of_groups(cgroup, membership), _of_process(statm)]
    return min((size for size in found if size is not None), default=None)


def require_memory(where: object, needed: int, purpose: str, to_do: str) -> None:
    """Raises InputError where `needed` bytes are not available: with both sizes, `purpose` (what they are for, as "a
    grid of 9 x 9 x 9 voxels") and the advice `to_do`."""
    available = available_bytes()
    if available is not None and needed > available:
        raise InputError.because(
            where, f"{purpose} takes about {in_words(needed)} of memory, {in_words(available)} are free", to_do
        )


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory that is freed for the next allocations, in place of handing blocks of 32 MB and more
    back to the system each time. Every step of a training allocates the same buffers again; the system would clear
    their pages each time, which took up to a third of a step (docs/log.md). The most memory in use grows by up to
    a quarter. -> whether it was set: another C library has no such setting, or no need of it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def in_words(num_bytes: float) -> str:
    """A size for people: '512 bytes', '1.5 MB', '128 TB'."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if unit != "bytes" else f"{int(num_bytes)} bytes"
        num_bytes /= 1000
    return f"{num_bytes:.4g} PB"


def _of_machine(meminfo):
    sizes = {}
    for line in _lines(meminfo):
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            sizes[name] = int(words[0]) * 1024
    return sizes["MemAvailable"] + sizes.get("SwapFree", 0) if "MemAvailable" in sizes else None


def _of_groups(cgroup, membership):
    """Of version 2 and version 1: the limit less what is used; what files are cached is given back when needed."""
    found = []
    for folder, version in group_folders("memory", cgroup, membership):
        limit, used, cached = (
            ("memory.max", "memory.current", ("inactive_file", "active_file"))
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
        )
        limit, used = (" ".join(_lines(folder / name)).strip() for name in (limit, used))
        if limit.isdigit() and used.isdigit():  # "max": no limit; version 1 has a number beyond all memory
            parts = dict(line.split() for line in _lines(folder / "memory.stat") if len(line.split()) == 2)
            given_back = sum(int(parts.get(name, 0)) for name in cached)
            found.append(max(0, int(limit) - max(0, int(used) - given_back)))
    return min(found, default=None)


def _of_process(statm):
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = " ".join(_lines(statm)).split()
    return max(0, limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")) if pages else limit


def _lines(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such file on this system, or not for us: no limit is known
        return []
