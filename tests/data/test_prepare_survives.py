"""prepare_data.py against full disks, files that cannot be read, killed workers and kill -9: what is finished is whole
and is not made again, nothing is missing in the end, and what went wrong is said and counted."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.prepare_runs import Killer, children, command, contents, make_maps, run

import vecset.data.case_file as case_file
from vecset.data.case_file import read_case
from vecset.data.prepare_folder import make_all, print_summary


def times(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("[0-9]*.npz")}


def test_a_disk_that_is_full_for_one_file(tmp_path, capsys, monkeypatch):
    """A write that fails half way leaves no part of a file, and no other is begun: the rest is told and counted,
    what was done before counts as skipped, and all is made when run again."""
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(4)]), tmp_path / "out"
    assert run(source, out, "--start_idx", "2", "--end_idx", "3") == 0
    capsys.readouterr()
    write_array, calls = np.lib.format.write_array, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 26:  # within the second file
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_array(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(case_file.np.lib.format, "write_array", full)
        assert run(source, out) == 1
    told = capsys.readouterr()
    assert "1 made, 1 skipped, 2 failed" in told.out and "not made: 1.nii.gz, 3.nii.gz" in told.err
    errors = [line for line in told.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and all("no space left" in line for line in errors) and len(calls) == 26
    assert str(out / "1.npz") in errors[0] and f"not tried: {out / '3.npz'}" in errors[1]
    assert {p.name for p in out.iterdir()} == {"0.npz", "2.npz"}
    done = times(out)
    assert run(source, out) == 0 and "2 made, 2 skipped, 0 failed" in capsys.readouterr().out
    assert times(out) | done == times(out)


@pytest.mark.slow
def test_a_disk_that_is_really_full(repository, tmp_path):
    """A file system of its own, too small for all cases, with two workers; then a larger one."""
    source = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(6)])
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    size = 4096 + sum(len(d) for d in one_case(source, tmp_path).values())
    prepare = shlex.join(command(repository, source, disk, 2))
    script = (
        f"mount -t tmpfs -o size={3 * size + 8192} none {disk} || exit 77\n"
        f"{prepare}; echo code $?; cp -p {disk}/*.npz {kept}; ls -A {disk} > {kept}/list\n"
        f"mount -o remount,size=100m {disk}\n{prepare}; echo code $?\n"
        f"mkdir {kept}/all; cp -p {disk}/*.npz {kept}/all"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", script], capture_output=True, text=True
    )
    if "code" not in done.stdout:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 1", "code 0"]
    first = times(kept)
    assert 1 <= len(first) < 6 and set((kept / "list").read_text().split()) == set(first)  # nothing half written stays
    failed = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(failed) == 6 - len(first) and all("no space left" in line for line in failed)
    assert f"{len(first)} made, 0 skipped, {len(failed)} failed" in done.stdout
    assert f"{len(failed)} made, {len(first)} skipped, 0 failed" in done.stdout and "Traceback" not in done.stderr
    assert len(times(kept / "all")) == 6 and first.items() <= times(kept / "all").items()
    for name in times(kept / "all"):
        read_case(kept / "all" / name)


def one_case(source, folder):
    assert run(source, folder / "one", "--end_idx", "1") == 0
    return contents(folder / "one")


def test_files_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(3)]), tmp_path / "out"
    (source / "3.nii.gz").mkdir()
    (source / "4.mha").symlink_to(tmp_path / "nowhere.mha")
    (source / "5.nrrd").write_bytes(b"")
    from vecset.imaging import image_file

    def refuse(path, *mode):  # root may read everything, so the system's answer is played
        if path.name == "1.nii.gz":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        if path.name == "2.nii.gz":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open(path, *mode)

    monkeypatch.setattr(image_file, "open", refuse, raising=False)
    assert run(source, out) == 1
    told = capsys.readouterr()
    assert "1 made, 0 skipped, 5 failed" in told.out and set(contents(out)) == {"0.npz"}
    errors = [line for line in told.err.splitlines() if line.startswith("error:")]
    errors = {line.split(": ")[1].rsplit("/", 1)[1]: line for line in errors}
    assert {
        name: words in errors[name]
        for name, words in {
            "1.nii.gz": "no permission",
            "2.nii.gz": "Input/output error",
            "3.nii.gz": "this is a directory",
            "4.mha": "nowhere.mha, which does not exist",
            "5.nrrd": "broken or truncated",
        }.items()
    } == dict.fromkeys(errors, True)
    assert "not made: 1.nii.gz, 2.nii.gz, 3.nii.gz, 4.mha, 5.nrrd" in told.err


@pytest.mark.slow
def test_a_killed_worker_is_counted(tmp_path, capsys):
    """Killer kills the process that has a 2 in hand, each time."""
    paths = [tmp_path / f"{n}.nii.gz" for n in (1, 2, 3)]
    assert print_summary(make_all(Killer(), paths, 2), tmp_path) == 1
    told = capsys.readouterr()
    assert "2 made, 0 skipped, 1 failed" in told.out and "not made: 2.nii.gz" in told.err
    assert "its process was killed" in told.err and "use fewer --file_workers" in told.err


@pytest.mark.slow
def test_a_worker_killed_once_costs_nothing(repository, tmp_path):
    """The system takes one worker; those in work then are made in the end, and the exit code is 0."""
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(24)]), tmp_path / "out"
    process = subprocess.Popen(
        command(repository, source, out, 2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 120
    while not times(out) and time.time() < deadline and process.poll() is None:
        time.sleep(0.002)
    workers = children(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    told = process.communicate(timeout=120)
    made, skipped, failed = map(int, re.search(r"(\d+) made, (\d+) skipped, (\d+) failed", told[0]).groups())
    # skipped: one that the worker had finished and not yet said so
    assert process.returncode == 0 and made + skipped == 24 and skipped <= 1 and failed == 0, told
    assert {p.name for p in out.iterdir()} == {f"{n}.npz" for n in range(24)}


DRIVER = """
import os, signal, sys, zipfile
sys.path.insert(0, {root!r})
from vecset.commands import prepare_data
place, count = {place!r}, [0]

def deadly(function, name, after=False):
    def call(*arguments, **options):
        count[0] += place == name
        if place == name and count[0] == {when} and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **options)
        if place == name and count[0] == {when} and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call

zipfile.ZipFile.writestr = deadly(zipfile.ZipFile.writestr, "write")
os.fsync = deadly(os.fsync, "sync")
os.replace = deadly(deadly(os.replace, "before rename"), "after rename", after=True)
sys.exit(prepare_data.main({words!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, when, finished", [("write", 25, 1), ("sync", 3, 1), ("before rename", 2, 1), ("after rename", 2, 2)]
)
def test_killed_at_each_step_of_a_write(repository, tmp_path, place, when, finished):
    """kill -9 in the second file: in the midst of its bytes, before they are flushed, before and after the rename."""
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(3)]), tmp_path / "out"
    words = command(repository, source, out, 0)[2:]
    code = DRIVER.format(root=str(repository), place=place, when=when, words=words)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGKILL
    done = times(out)
    assert set(done) == {f"{n}.npz" for n in range(finished)}
    assert len(list(out.glob(".tmp-*"))) == 2 - finished
    for name in done:
        read_case(out / name)
    assert run(source, out) == 0
    assert {p.name for p in out.iterdir()} == {"0.npz", "1.npz", "2.npz"} and done.items() <= times(out).items()
    assert run(source, tmp_path / "other") == 0 and contents(out) == contents(tmp_path / "other")


@pytest.mark.slow
def test_killed_again_and_again(repository, tmp_path):
    """kill -9 of the whole group at six moments, each after another number of files: every file that is there is
    whole, none of them is made again, and the last run makes what is missing."""
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(24)]), tmp_path / "out"
    done = {}
    for more in (0, 1, 3, 4, 1, 2):
        process = subprocess.Popen(
            command(repository, source, out, 2),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.time() + 120
        while (not out.exists() or len(times(out)) < len(done) + more) and time.time() < deadline:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = times(out)
        assert done.items() <= now.items() and len(now) >= len(done) + more
        done = now
        for name in done:
            read_case(out / name)
    assert len(done) < 24
    last = subprocess.run(command(repository, source, out, 2), capture_output=True, text=True)
    assert last.returncode == 0 and f"{24 - len(done)} made, {len(done)} skipped, 0 failed" in last.stdout
    assert {p.name for p in out.iterdir()} == {f"{n}.npz" for n in range(24)} and done.items() <= times(out).items()
