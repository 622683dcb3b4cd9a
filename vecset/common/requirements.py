"""Which packages of requirements.txt an interpreter lacks. Standard library only: it runs before anything is installed.

    python vecset/common/requirements.py [LIST]     prints one pinned requirement a line: what has to be installed of
                                                   requirements.txt, or of requirements-test.txt

A package that is there satisfies when it is at least as new as pyproject.toml asks for, so that a Python which its
owner has put together (a container with its own build of torch, say) is used as it is and not rebuilt to our pins.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def release(version):
    """The numbers of a version, "2.13.0+cpu" -> (2, 13, 0); letters and what follows them are left out."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split("."))


def minimum_versions(pyproject_text):
    """{package in lower case: lowest release allowed} from pyproject.toml's dependencies and extras."""
    project = tomllib.loads(pyproject_text)["project"]
    lines = list(project["dependencies"])
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    return {name.strip().lower(): release(minimum) for name, minimum in (line.split(">=") for line in lines)}


def pinned(requirements_text):
    """The pinned lines "name==version" of requirements.txt, comments left out."""
    lines = (line.split("#")[0].strip() for line in requirements_text.splitlines())
    return [line for line in lines if line]


def installed_version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing(requirements_text, pyproject_text, version_of=installed_version):
    """The pinned lines whose package is absent or older than pyproject.toml asks for."""
    lowest = minimum_versions(pyproject_text)
    found = []
    for line in pinned(requirements_text):
        name, version = line.split("==")
        there = version_of(name)
        if there is None or release(there) < lowest.get(name.lower(), release(version)):
            found.append(line)
    return found


if __name__ == "__main__":
    name = sys.argv[1] if sys.argv[1:] else "requirements.txt"
    for line in missing((ROOT / name).read_text(), (ROOT / "pyproject.toml").read_text()):
        print(line)
