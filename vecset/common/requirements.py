"""Which packages that the program needs are missing from this interpreter. Uses the standard library only.

    python vecset/common/requirements.py [LIST]     prints what has to be installed of requirements.txt, or of
                                                    requirements-test.txt: one pinned requirement a line
    python vecset/common/requirements.py --whole    besides, of a virtual environment of our own: packages that lack
                                                    files which pip had installed, and what they need in turn
    python -m vecset.common.requirements            the same of an installed package, with its lower bounds

A package that is there is kept if it is at least as new as pyproject.toml asks for. So a Python that its owner has put
together (a container with its own build of torch, say) is used as it is.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of a checkout; an installed package has no pyproject.toml there
PACKAGE = "vecsetx-heart"
MAIN, TEST = "requirements.txt", "requirements-test.txt"
EXTRAS = {MAIN: ("", "tracking"), TEST: ("test",)}  # of an installed package: what stands for each list


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, "2.13.0+cpu" -> (2, 13, 0). Letters and what follows them are left out."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split("."))


def minimum_versions(lines: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """{package in lower case: lowest release allowed} of lines "name>=version"."""
    return {name.strip().lower(): release(minimum) for name, minimum in (line.split(">=") for line in lines)}


def declared(pyproject_text: str) -> list[str]:
    """The dependencies of pyproject.toml, those of its extras included."""
    project = tomllib.loads(pyproject_text)["project"]
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    return [line for group in groups for line in group]


def pinned(requirements_text: str) -> list[str]:
    """The lines "name==version" of requirements.txt, comments left out."""
    lines = (line.split("#")[0].strip() for line in requirements_text.splitlines())
    return [line for line in lines if line]


def installed_lines(name: str = MAIN) -> list[str]:
    """The lines "name>=version" that stand for the list `name` in an installed package."""
    wanted = []
    for line in metadata.requires(PACKAGE) or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
        if (extra.group(1) if extra else "") in EXTRAS[name]:
            wanted.append(requirement.strip())
    return wanted


def package_names() -> set[str]:
    """The packages that the program and its tests need, in lower case: of the checkout, or of the installed package."""
    if (ROOT / "pyproject.toml").is_file():
        return set(minimum_versions(declared((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
    return set(minimum_versions(installed_lines(MAIN) + installed_lines(TEST)))


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing(lines: Iterable[str], lowest: dict[str, tuple[int, ...]], version_of: Callable = installed_version) -> list:
    """Those of the lines "name==version" or "name>=version" whose package is absent or older than `lowest` allows."""
    found = []
    for line in lines:
        name, version = re.split("[=>]=", line)
        there = version_of(name)
        if there is None or release(there) < lowest.get(name.lower(), release(version)):
            found.append(line)
    return found


def unwhole(names: Iterable[str]) -> list[str]:
    """Requirements, a word each, that mend the packages `names` and what they depend on: those that are absent, and
    those that pip has listed as installed but whose modules are gone. A dependency that holds for some systems only
    counts where it is there."""
    found, waiting, seen = [], list(names), set()
    while waiting:
        name = waiting.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(key)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if not all(_is_there(package, file) for file in package.files or ()):
            found.append(f"{package.metadata['Name']}=={package.version}")
        for line in package.requires or ():
            requirement, _, marker = line.partition(";")
            other = re.match(r"[\w.-]+", requirement.strip()).group()
            if "extra" not in marker:
                waiting.append(other)
                if not marker and installed_version(other) is None:
                    found.append(re.sub(r"[\s()]", "", requirement))
    return sorted(set(found))


def _is_there(package, file):
    """Whether a file that pip has listed exists, if it is a module: others may be removed to save space."""
    return file.suffix not in (".py", ".so") or Path(package.locate_file(file)).is_file()


def main(argv: list[str] | None = None) -> int:
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser("requirements.py", description=about, allow_abbrev=False)
    parser.add_argument("list", nargs="?", choices=(MAIN, TEST), default=MAIN, help=f"which list (default: {MAIN})")
    parser.add_argument("--whole", action="store_true", help="also what is only there in part")
    args = parser.parse_args(argv)
    name = args.list
    if (ROOT / "pyproject.toml").is_file():
        lines = pinned((ROOT / name).read_text(encoding="utf-8"))
        lowest = minimum_versions(declared((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    else:
        lines = installed_lines(name)
        lowest = minimum_versions(lines)
    lacking = missing(lines, lowest)
    if args.whole:
        lacking += unwhole(re.split("[=>]=", line)[0] for line in lines)
    print("".join(f"{line}\n" for line in lacking), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
