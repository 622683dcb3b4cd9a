"""Which names can be those of cases, and names that would be too long."""

import os

import pytest

from vecset.common.errors import InputError
from vecset.common.file_names import fitting_name, require_sound_name


@pytest.mark.parametrize(
    "name", ["①1", "10²3", "-x", " x ", 'it\'s "a" 50 %', "a;b#c?d&e", "{{ x }}", "a\\b", "❤️", "é", "é", "a:b,c"]
)
def test_sound(name):
    require_sound_name(f"folder/{name}.nii.gz")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (os.fsdecode(b"caf\xe9.nii.gz"), r"x/caf\\xe9.nii.gz: the name of this file is not UTF-8; rename it"),
        ("a\nb.nii.gz", r"x/a\\nb.nii.gz: .* line break"),
        ("a\x1b[2Jb.nii.gz", r"x/a\\x1b\[2Jb.nii.gz: .* control character"),
        ("a\u2028b", r"x/a\\u2028b: .* line break"),
    ],
)
def test_not_sound(name, words):
    with pytest.raises(InputError, match=words) as caught:
        require_sound_name(f"x/{name}")
    assert "\n" not in str(caught.value)


def test_python_without_utf8_is_told_as_that(monkeypatch):
    """LC_ALL=C PYTHONUTF8=0: the bytes of the name are UTF-8, but Python has not read them so."""
    with pytest.raises(InputError, match="set PYTHONUTF8=1"):
        require_sound_name("é.nii.gz".encode().decode("ascii", "surrogateescape"))


def test_a_long_name_fits():
    name = fitting_name("slices_", "é" * 120, ".png")
    other = fitting_name("slices_", "é" * 119 + "x", ".png")
    assert fitting_name("slices_", "é" * 20, ".png") == f"slices_{'é' * 20}.png"
    assert len(fitting_name("slices_", "é" * 125, ".png").encode()) <= 255 and name != other
    assert fitting_name("slices_", "a" * 250, ".png") != fitting_name("slices_", "a" * 251, ".png")
