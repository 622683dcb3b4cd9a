"""Cores that are allowed: by affinity, by the quota of a container (fake control groups), by Slurm."""

import os
import subprocess
import sys

import pytest

from vecset.common import cores
from vecset.common.cores import cpu_quota, usable_cores

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
V1 = "9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n0::/\n"
GROUPS = {
    "no limit": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
    "the group": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "round it": ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 2),
    "a container": ("0::/docker/abc\n", {"cpu.max": "50000 100000\n"}, 0.5),
    "of the host": ("0::/../../abc\n", {"cpu.max": "300000 100000\n"}, 3),
    "version 1": (
        V1,
        {f"cpu/docker/abc/{QUOTA}": "200000\n", f"cpu/docker/abc/{PERIOD}": "100000\n"},
        2,
    ),
    "version 1, mounted": (
        V1,
        {f"cpu,cpuacct/{QUOTA}": "100000\n", f"cpu,cpuacct/{PERIOD}": "50000"},
        2,
    ),
    "version 1, none": (V1, {f"cpu/{QUOTA}": "-1\n", f"cpu/{PERIOD}": "100000\n"}, None),
    "another controller": ("4:cpuset:/a\n", {"cpu.max": "100000 100000"}, None),
    "half a file": ("0::/a\n", {"a/cpu.max": "100000"}, None),
    "nothing mounted": ("0::/a\n", {}, None),
}


def fake_groups(folder, name):
    membership, files, quota = GROUPS[name]
    (folder / "membership").write_text(membership)
    for path, text in files.items():
        target = folder / "cgroup" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder / "cgroup", folder / "membership", quota


@pytest.mark.parametrize("name", GROUPS)
def test_quota_of_control_groups(tmp_path, name):
    cgroup, membership, quota = fake_groups(tmp_path, name)
    assert cpu_quota(cgroup, membership) == quota


def test_a_system_without_control_groups(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None


def test_the_smallest_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "allowed_cores", lambda: 64)
    none = (tmp_path / "none", tmp_path / "none")
    assert usable_cores(*none, {}) == 64
    assert usable_cores(*none, {"SLURM_CPUS_PER_TASK": "8"}) == 8
    for word in ("", "0", "many", "-1", "②", "128"):
        assert usable_cores(*none, {"SLURM_CPUS_PER_TASK": word}) == 64
    for name, expected in (("the group", 2), ("a container", 1), ("of the host", 3)):
        (folder := tmp_path / name).mkdir()
        assert usable_cores(*fake_groups(folder, name)[:2], {"SLURM_CPUS_PER_TASK": "8"}) == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_affinity_counts(repository):
    one = min(os.sched_getaffinity(0))
    words = [sys.executable, "-P", repository / "vecset" / "common" / "cores.py"]
    code = f"import os, subprocess; os.sched_setaffinity(0, {{{one}}}); subprocess.run({list(map(str, words))})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


def test_threads_are_limited_where_the_quota_is_below_the_affinity(monkeypatch):
    for variable in cores.THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    monkeypatch.setattr(cores, "allowed_cores", lambda: 64)
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    cores.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    cores.limit_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("2", "5")
    for variable in cores.THREAD_VARIABLES:
        monkeypatch.delenv(variable)
