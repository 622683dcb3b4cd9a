"""What an interpreter lacks; and that requirements*.txt and pyproject.toml speak of the same packages."""

from vecset.common.requirements import minimum_versions, missing, pinned, release

PYPROJECT = """
[project]
dependencies = ["torch>=2.6", "scikit-image>=0.24"]
[project.optional-dependencies]
test = ["pytest>=8"]
"""
PINS = "# the program\ntorch==2.13.0\nscikit-image==0.26.0  # meshes\npytest==9.2.0\n"


def lacking(**versions):
    return missing(PINS, PYPROJECT, lambda name: versions.get(name.replace("-", "_")))


def test_only_what_is_absent_or_too_old_is_missing():
    assert lacking(torch="2.13.0+cpu", scikit_image="0.26.0", pytest="9.2.0") == []
    assert lacking(torch="2.6.0a0+nv25", scikit_image="0.24", pytest="8.0") == [], "newer than asked for is kept"
    assert lacking(torch="2.5.1", pytest="10.0") == ["torch==2.13.0", "scikit-image==0.26.0"]


def test_release_compares_numbers_not_letters():
    assert release("2.13.0+cpu") == (2, 13, 0) > release("2.6")


def test_both_lists_name_the_same_packages_and_every_pin_satisfies(repository):
    pins = dict(
        line.split("==")
        for name in ("requirements.txt", "requirements-test.txt")
        for line in pinned((repository / name).read_text())
    )
    lowest = minimum_versions((repository / "pyproject.toml").read_text())
    assert {name.lower() for name in pins} == set(lowest)
    assert all(release(version) >= lowest[name.lower()] for name, version in pins.items())
