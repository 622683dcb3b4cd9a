"""Which errors become one line, and which keep their traceback."""

import sys

import pytest

import reconstruct
from vecset.common.errors import run_command


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
