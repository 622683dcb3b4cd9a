"""How many CPU cores this process may use: of the machine's, those that its affinity, its container and its Slurm job
allow. Standard library only.

    python vecset/common/cores.py     prints the number
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CGROUP, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(
    cgroup: Path = CGROUP, membership: Path = MEMBERSHIP, environment: Mapping[str, str] = os.environ
) -> int:
    """At least 1: the smallest of affinity (taskset, a cpuset), CPU quota (`docker run --cpus`, Kubernetes limits; a
    part of a core counts as one) and SLURM_CPUS_PER_TASK, which not every Slurm enforces.

    cgroup: where control groups are mounted; membership: the file that names this process's own groups.
    """
    limits = [allowed_cores()]
    quota = cpu_quota(cgroup, membership)
    if quota is not None:
        limits.append(max(1, math.ceil(quota - 0.01)))
    of_slurm = environment.get("SLURM_CPUS_PER_TASK", "")
    if of_slurm.isascii() and of_slurm.isdigit() and int(of_slurm):
        limits.append(int(of_slurm))
    return min(limits)


def allowed_cores() -> int:
    """Cores that this process may be scheduled on; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> float | None:
    """CPU time per time, in cores, that the control groups of this process allow (version 1 or 2; the smallest of the
    group and those round it), or None where there is no limit."""
    found = [
        _quota_v2(folder) if version == 2 else _quota_v1(folder)
        for folder, version in group_folders("cpu", cgroup, membership)
    ]
    return min((quota for quota in found if quota is not None), default=None)


def group_folders(controller: str, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> Iterator[tuple[Path, int]]:
    """(folder, version 1 or 2) of this process's control groups for a controller ('cpu', 'memory') and of those round
    them. Some do not exist: inside a container, its own group is often the root of what is mounted."""
    for line in _lines(membership):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            bases, version = [cgroup, cgroup / "unified"], 2
        elif controller in controllers.split(","):
            bases, version = [cgroup / controller, cgroup / controllers, cgroup / "cpu,cpuacct"], 1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for base in bases:
            for depth in range(len(parts) + 1):
                yield base.joinpath(*parts[:depth]), version


def _quota_v2(folder):
    """cpu.max: "200000 100000", microseconds of CPU time per microseconds; "max 100000": no limit."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    return _ratio(*words) if len(words) == 2 else None


def _quota_v1(folder):
    """The same in two files; a quota of -1: no limit."""
    words = [" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    return _ratio(*words)


def _ratio(quota, period):
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(quota) and int(period) else None


def _lines(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such group, or not for us: no limit is known
        return []


def limit_threads() -> None:
    """Lets numeric libraries start no more threads than `usable_cores`. They see the affinity by themselves, but not a
    quota, under which the threads of a large machine would wait for each other. A number that the user has set stays.
    To be called before numpy and torch are imported."""
    usable = usable_cores()
    if usable < allowed_cores():
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, str(usable))


if __name__ == "__main__":
    import argparse

    argparse.ArgumentParser(
        "cores.py", description="Prints the cores that this process may use.", allow_abbrev=False
    ).parse_args()
    print(usable_cores())
    sys.exit()
