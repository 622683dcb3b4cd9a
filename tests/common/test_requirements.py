"""What an interpreter lacks; and that requirements*.txt and pyproject.toml speak of the same packages."""

from vecset.common import requirements
from vecset.common.requirements import declared, minimum_versions, missing, package_names, pinned, release

PYPROJECT = """
[project]
dependencies = ["torch>=2.6", "scikit-image>=0.24"]
[project.optional-dependencies]
test = ["pytest>=8"]
"""
PINS = "# the program\ntorch==2.13.0\nscikit-image==0.26.0  # meshes\npytest==9.2.0\n"


def lacking(**versions):
    return missing(
        pinned(PINS), minimum_versions(declared(PYPROJECT)), lambda name: versions.get(name.replace("-", "_"))
    )


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
    lowest = minimum_versions(declared((repository / "pyproject.toml").read_text()))
    assert {name.lower() for name in pins} == set(lowest) == package_names()
    assert all(release(version) >= lowest[name.lower()] for name, version in pins.items())


REQUIRES = ["torch>=2.6", "tensorboardX>=2.6; extra == 'tracking'", 'pytest>=8; extra == "test"']


def test_an_installed_package_says_itself_what_it_needs(tmp_path, monkeypatch, capsys):
    """No checkout beside it: lower bounds come from the metadata, the extras stand for the lists."""
    monkeypatch.setattr(requirements, "ROOT", tmp_path)
    monkeypatch.setattr(requirements.metadata, "requires", lambda package: REQUIRES)
    monkeypatch.setattr(requirements.metadata, "version", {"torch": "2.5.1", "pytest": "9.2"}.__getitem__)
    monkeypatch.setattr(requirements.metadata, "PackageNotFoundError", KeyError)
    assert package_names() == {"torch", "tensorboardx", "pytest"}
    assert requirements.main([]) == 0
    assert capsys.readouterr().out.split() == ["torch>=2.6", "tensorboardX>=2.6"]
    assert requirements.main(["requirements-test.txt"]) == 0 and capsys.readouterr().out == ""
