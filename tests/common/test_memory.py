"""What memory is left: of the machine, of a container, of the process; and the line that says what was too large.

And that freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

from vecset.common import memory
from vecset.common.errors import InputError
from vecset.common.memory import available_bytes, in_words, require_memory

GB = 10**9


def machine(folder, free=20_000_000, swap=1_000_000):
    (folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {free} kB\nSwapFree: {swap} kB\nHugePages: 0\n")
    return folder / "meminfo"


def ask(folder, membership="", **files):
    group = folder / "cgroup"
    (folder / "membership").write_text(membership)
    for path, text in files.items():
        target = group / path.replace("__", "/").replace("_DOT_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return available_bytes(machine(folder), group, folder / "membership", folder / "none")


def test_of_the_machine(tmp_path):
    assert ask(tmp_path) == 21_000_000 * 1024


def test_version_2_counts_what_is_cached_as_free(tmp_path):
    left = ask(
        tmp_path,
        "0::/job/step\n",
        job__memory_DOT_max=f"{8 * GB}\n",
        job__memory_DOT_current=f"{5 * GB}\n",
        job__memory_DOT_stat=f"anon {3 * GB}\ninactive_file {GB}\nactive_file {GB}\n",
        job__step__memory_DOT_max="max\n",
        job__step__memory_DOT_current="7\n",
    )
    assert left == 5 * GB


def test_version_1(tmp_path):
    left = ask(
        tmp_path,
        "4:cpu,cpuacct:/x\n9:memory:/x\n",
        memory__x__memory_DOT_limit_in_bytes=f"{2 * GB}\n",
        memory__x__memory_DOT_usage_in_bytes=f"{3 * GB}\n",
        memory__x__memory_DOT_stat=f"total_inactive_file {2 * GB}\n",
    )
    assert left == GB


def test_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda what: (3 * GB, 3 * GB))
    assert ask(tmp_path) == 3 * GB


def test_nothing_known_asks_nothing(tmp_path):
    assert available_bytes(tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d") is None


def test_the_line_has_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * GB)
    require_memory("heart.nii.gz", 2 * GB, "an image", "crop it")
    with pytest.raises(InputError) as caught:
        require_memory("heart.nii.gz", 64_000 * GB, "a grid of 9 x 9 x 9 voxels", "crop it")
    assert str(caught.value) == (
        "heart.nii.gz: a grid of 9 x 9 x 9 voxels takes about 64 TB of memory, 2 GB are free; crop it"
    )


def test_in_words():
    assert [in_words(n) for n in (7, 3e6, 1.5e9, 64e12)] == ["7 bytes", "3 MB", "1.5 GB", "64 TB"]


def test_here():
    assert available_bytes() is None or available_bytes() > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Pages that the system hands over, counted in a process of its own: 20 buffers of 100 MB, one after the other."""
    program = """
import resource, sys
from vecset.common.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(20):
    buffer = bytearray(100_000_000)
    buffer[:] = bytes(1) * 100_000_000
    del buffer
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize() / 100_000_000)
"""
    kept, handed_back = (
        float(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True).stdout)
        for how in ("kept", "as it is")
    )
    assert kept < 5 and handed_back > 15
