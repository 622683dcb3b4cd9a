"""A file that is written comes whole or not at all, under any name, and the error of a full disk names it."""

import errno
import os

import pytest

from vecset.common import atomic
from vecset.common.atomic import append_text, atomic_path, require_writable, write_text
from vecset.common.errors import InputError, describe_failure


@pytest.mark.parametrize("name", ["a" * 251 + ".npz", "é" * 125 + ".npz", "❤️" * 40 + ".nii.gz", "-", " a  b ", "a\\b"])
def test_any_name_that_the_disk_takes_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "x"


def test_a_temporary_name_ends_as_the_target_does(tmp_path):
    with atomic_path(tmp_path / ("a" * 244 + ".nii.gz")) as temporary:
        assert temporary.name.startswith(".tmp-") and temporary.name.endswith("a.nii.gz")
        temporary.write_bytes(b"")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("named", [False, True])
def test_an_error_of_the_disk_names_the_target(tmp_path, code, named):
    target = tmp_path / "case.npz"
    target.write_text("old")
    with pytest.raises(OSError) as caught, atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code), str(temporary)) if named else OSError(code, os.strerror(code))
    line = describe_failure(target, caught.value)
    assert line.startswith(f"{target}: ") and line.count(str(tmp_path)) == 1 and ".tmp-" not in line
    assert [p.name for p in tmp_path.iterdir()] == ["case.npz"] and target.read_text() == "old"


def test_a_writer_that_hides_a_full_disk(tmp_path, monkeypatch):
    """ITK and torch raise RuntimeError; whether the disk takes more says what it was."""
    with pytest.raises(RuntimeError, match="of the writer"), atomic_path(tmp_path / "x"):
        raise RuntimeError("a fault of the writer")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(atomic, "_error_of_disk", lambda temporary: full)
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "x"):
        raise RuntimeError("unknown file error")
    assert caught.value.filename == str(tmp_path / "x") and caught.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


def test_dev_full_is_told_by_writing_more():
    from pathlib import Path

    assert atomic._error_of_disk(Path("/dev/full")).errno == errno.ENOSPC


def test_a_folder_on_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match="no space left.*free some space"):
        require_writable(tmp_path)


def test_a_path_that_is_no_utf8_can_be_written_about(tmp_path):
    write_text(tmp_path / "page.html", f"<p>{os.fsdecode(b'caf' + bytes([0xE9]))}</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>caf\\udce9</p>"


def test_a_line_that_a_full_disk_does_not_take_names_the_file(tmp_path):
    append_text(tmp_path / "log.txt", "a\n")
    append_text(tmp_path / "log.txt", "b\n")
    assert (tmp_path / "log.txt").read_text() == "a\nb\n"
    with pytest.raises(OSError) as caught:
        append_text("/dev/full", "c\n")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/dev/full"
