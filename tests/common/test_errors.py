"""Which errors become one line, and which keep their traceback."""

import errno
import io
import os
import sys

import pytest

import reconstruct
from vecset.common.errors import InputError, describe_failure, run_command, shown


def importing(name):
    return lambda argv: __import__(name) and None


@pytest.mark.parametrize(
    ("name", "package"), [("SimpleITK", "SimpleITK"), ("skimage", "scikit-image"), ("tensorboardX", "tensorboardX")]
)
def test_a_package_that_is_not_installed_is_one_line(name, package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    assert run_command(importing(name)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"the Python package {package} is not installed; run " in line
    assert line.endswith(f"-m pip install {package}\n")


@pytest.mark.parametrize("name", ["vecset.no_such_module", "make_phantoms_x", "scipy.no_such_part"])
def test_what_is_no_package_that_lacks_is_a_defect(name):
    with pytest.raises(ModuleNotFoundError):
        run_command(importing(name))


def test_reconstruct_asks_for_its_packages_before_it_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "checkpoint.pth").write_bytes(b"is not even read")
    assert (
        run_command(
            reconstruct.main,
            [
                "--checkpoint",
                str(tmp_path / "checkpoint.pth"),
                "--input",
                str(tmp_path),
                "--output_dir",
                str(tmp_path / "out"),
            ],
        )
        == 2
    )
    assert "package SimpleITK is not installed" in capsys.readouterr().err and not (tmp_path / "out").exists()


def caught(raiser):
    try:
        raiser()
    except Exception as error:
        return error


def a_defect():
    return {}["surface"]


def test_any_failure_is_one_line_that_names_file_and_place():
    line = describe_failure("a.nii.gz", caught(a_defect))
    assert line.startswith("a.nii.gz: KeyError: 'surface' (test_errors.py:") and line.endswith(")")
    assert describe_failure("a", caught(lambda: 1 // 0)).startswith("a: ZeroDivisionError: ")
    assert "\n" not in describe_failure("a", ValueError("one\n  two\r\nthree" * 200))
    assert describe_failure("a", InputError.because("b.npz", "is empty")) == "b.npz: is empty"
    assert describe_failure("a", AssertionError()) == "a: AssertionError"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 64. TiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_no_memory_has_its_own_advice(error):
    line = describe_failure("a.npz", error, "use fewer cells")
    assert line.startswith("a.npz: not enough memory") and line.endswith("; use fewer cells")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "another disk"),
        (errno.EACCES, "permissions"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "system's log"),
    ],
)
def test_an_error_of_the_disk_has_its_advice(code, words):
    assert words in describe_failure("a", OSError(code, os.strerror(code), "OUT/x"))
    assert describe_failure("a", OSError(code, os.strerror(code), "OUT/x")).startswith("a: OUT/x: ")
    assert describe_failure("a", OSError(code, os.strerror(code))).startswith("a: ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("heart \u2764\ufe0f  1 %#?.npz", "heart \u2764\ufe0f  1 %#?.npz"),
        ("a\nb\tc\x1b[2J", "a\\nb\\tc\\x1b[2J"),
        (os.fsdecode(b"caf\xe9.npz"), "caf\\xe9.npz"),
        ("a\u2028b", "a\\u2028b"),
        (" two  blanks ", " two  blanks "),
    ],
)
def test_a_name_is_shown_in_one_line_as_it_is(name, expected):
    assert shown(name) == expected
    assert str(InputError.because(f"x/{name}", "is empty")) == f"x/{expected}: is empty"


def test_a_terminal_of_ascii_ends_nothing(monkeypatch):
    """The word goes out escaped, on stdout and on stderr; the exit code is the command's own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def main(argv):
        print("caf\u00e9", os.fsdecode(b"\xff"))
        raise InputError.because("\u2764", "is empty")

    assert run_command(main) == 2
    out.flush(), err.flush()
    assert out.buffer.getvalue() == b"caf\\xe9 \\udcff\n" and err.buffer.getvalue() == b"error: \\u2764: is empty\n"


def test_a_stop_inside_compiled_code_is_a_stop():
    """numba makes a SystemError of it: a heart would be told as broken, and the stop forgotten."""

    def stopped():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise SystemError("CPUDispatcher(...) returned a result with an exception set") from stop

    with pytest.raises(KeyboardInterrupt):
        describe_failure("a", caught(stopped))
    assert describe_failure("a", SystemError("other")) == "a: SystemError: other"
