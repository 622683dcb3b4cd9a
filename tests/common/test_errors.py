"""What becomes one line for the user, and what stays a traceback for us."""

import sys

import pytest

import reconstruct
from vecset.common.errors import run_command


def importing(name):
    return lambda argv: __import__(name) and None


@pytest.mark.parametrize("name", ["SimpleITK", "skimage", "matplotlib", "tensorboardX"])
def test_a_package_that_is_not_installed_is_one_line(name, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    assert run_command(importing(name)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"{name}, found none; install what requirements.txt names" in line


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
    assert "package SimpleITK, found none" in capsys.readouterr().err and not (tmp_path / "out").exists()
