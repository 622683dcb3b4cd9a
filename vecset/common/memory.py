"""How much memory this process may still take, so that a size can be refused before it is allocated."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit and use, of cgroups 2 and 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_bytes() -> int | None:
    """Bytes of memory that are free for this process: of the machine, or of its container where that is less. None
    where the system does not tell (no Linux)."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError, IndexError):
        pass
    for limit, used in _CGROUPS:
        try:
            free = int(limit.read_text()) - int(used.read_text())
        except (OSError, ValueError):  # no such cgroup, or "max": no limit
            continue
        found.append(max(free, 0) + _cached(limit.parent))
    return min(found) if found else None


def _cached(cgroup):
    """Bytes of files that a cgroup keeps in memory: counted as used, and given back when memory is needed."""
    try:
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    except (OSError, ValueError):
        return 0


def in_words(num_bytes: float) -> str:
    """A size for people: '512 bytes', '1.5 MB', '128 TB'."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if unit != "bytes" else f"{int(num_bytes)} bytes"
        num_bytes /= 1000
    return f"{num_bytes:.4g} PB"
