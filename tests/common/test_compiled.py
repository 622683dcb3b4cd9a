"""Compiled code may be cached or not; it never decides whether anything runs."""

import importlib.util
import os
import subprocess
import sys

import pytest

SOURCE = """
from vecset.common.compiled import njit

@njit
def double(x):
    return {times} * x

@njit(inline="always")
def triple(x):
    return x + double(x)

if __name__ == "__main__":
    print(double(3), triple(3.0))
"""


def run(folder, repository, cache, times=2, prepare="", **more):
    (folder / "code.py").write_text(SOURCE.format(times=times))
    words = [sys.executable, str(folder / "code.py")]
    script = f'{prepare}\nexec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "x", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository), "NUMBA_CACHE_DIR": str(cache), **more},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_a_cache_is_used(tmp_path, repository):
    cache = tmp_path / "cache"
    assert run(tmp_path, repository, cache) == ("6 9.0", "")
    files = {p: p.stat().st_mtime_ns for p in cache.rglob("*.nb?")}
    assert len(files) == 5 and run(tmp_path, repository, cache) == ("6 9.0", "")
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.nb?")} == files


def damages():
    return {
        "empty": lambda data: b"",
        "cut": lambda data: data[: len(data) // 2],
        "no pickle": lambda data: b"\0garbage" * 50,
        "one byte": lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:],
        "other pickle": lambda data: b"\x80\x04N.",
    }


FAST = ("*.nbi", "cut"), ("*.nbc", "one byte")  # an index, and the data of a function


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        pytest.param(which, damage, marks=() if (which, damage) in FAST else pytest.mark.slow)
        for which in ("*.nbi", "*.nbc")
        for damage in damages()
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, repository, which, damage):
    cache = tmp_path / "cache"
    run(tmp_path, repository, cache)
    for path in cache.rglob(which):
        path.write_bytes(damages()[damage](path.read_bytes()))
    said, notes = run(tmp_path, repository, cache)
    assert said == "6 9.0" and "Traceback" not in notes
    assert all(line.startswith("note: compiled code is not cached: ") for line in notes.splitlines())
    assert run(tmp_path, repository, cache) == ("6 9.0", "")


def test_code_of_an_earlier_source_is_not_run(tmp_path, repository):
    """numba's index of now with its data file of before: what a disk that was full between the two leaves."""
    old, new = tmp_path / "old", tmp_path / "new"
    run(tmp_path, repository, old)
    assert run(tmp_path, repository, new, times=5)[0] == "15 18.0"
    for path in new.rglob("*.nbc"):
        path.write_bytes((old / path.relative_to(new)).read_bytes())
    said, notes = run(tmp_path, repository, new, times=5)
    assert said == "15 18.0" and "earlier code" in notes


def test_no_folder_can_be_written_to(tmp_path, repository):
    """Code, HOME and the cache that the user named: all three."""
    (tmp_path / "home").write_text("a file, so that no folder can be made in it; root may write anywhere else")
    (tmp_path / "__pycache__").write_text("as above")
    nowhere = str(tmp_path / "home" / "x")
    said, notes = run(tmp_path, repository, nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere)
    assert said == "6 9.0" and notes.count("\n") == 1 and "set NUMBA_CACHE_DIR" in notes


def test_the_cache_lies_on_a_full_disk(tmp_path, repository):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "code.py").write_text(SOURCE.format(times=2))
    script = (
        f"mount -t tmpfs -o size=16k none {disk} || exit 77; "
        f"head -c 1000000 /dev/zero >{disk}/filler 2>/dev/null; {sys.executable} {tmp_path}/code.py; echo code $?; "
        f"find {disk} -type f -name '*.nb*'"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository), "NUMBA_CACHE_DIR": str(disk / "numba")},
        timeout=300,
    )
    if "code" not in done.stdout:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["6 9.0", "code 0"], done
    assert "note: compiled code is not cached" in done.stderr and "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_compiled_function_uses_it(repository):
    """numba's own decorator stands in one module."""
    found = [
        str(path.relative_to(repository))
        for path in (repository / "vecset").rglob("*.py")
        if any(words in path.read_text(encoding="utf-8") for words in ("from numba import", "numba.njit", "numba.jit"))
    ]
    assert found == ["vecset/common/compiled.py"] and importlib.util.find_spec("numba")
