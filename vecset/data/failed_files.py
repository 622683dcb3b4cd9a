"""Files of a folder that failed: what each says, and what is said once where many failed for the same reason."""

import re
from collections.abc import Iterable
from pathlib import Path

from vecset.common.errors import InputError, describe_failure, shown

SHORT = 120  # characters of a problem that was told before
_NUMBERS = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_PATHS = re.compile(r"\S*/\S*")
_LISTS = re.compile(r"#(?:(?:, | and | x |\.\.)#)+(?: more)?")


class Failure(str):
    """The line about a file that failed. problem: without the file's name; to_do: what the user can do, or "";
    name: of the file in short lines; cause: equal for files that failed for the same reason, whatever numbers and names
    of their own they have."""

    problem: str
    to_do: str
    name: str

    @classmethod
    def of(cls, path: Path, name: str, error: BaseException, memory_advice: str) -> "Failure":
        """The failure of the file `path`, which short lines call `name`."""
        line = describe_failure(path, error, memory_advice)
        found = cls(line)
        found.name = shown(name)
        found.problem, found.to_do = line.removeprefix(f"{shown(path)}: "), ""
        if isinstance(error, InputError):
            where = "" if error.where == str(path) or not error.where else f"{shown(error.where)}: "
            found.problem, found.to_do = where + shown(error.problem), shown(error.to_do)
        return found

    @property
    def cause(self) -> tuple[str, str]:
        own = {self.name, Path(self.name).name}
        texts = (_PATHS.sub("/", _without(text, own)) for text in (self.problem, self.to_do))
        return tuple(_LISTS.sub("#", _NUMBERS.sub("#", text)) for text in texts)

    @property
    def short(self) -> str:
        """The line without advice, and no longer than SHORT characters and the name."""
        problem = self.problem if len(self.problem) <= SHORT else self.problem[: SHORT - 3] + "..."
        return f"{self.name}: {problem}"


def _without(text, names):
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "")
    return text


def common_causes(lines: Iterable[str]) -> list[str]:
    """One line for each reason that several files have, of the lines about all files that failed: how many files, the
    reason in the words of the first, and what to do. Most files first."""
    by_cause = {}
    for line in lines:
        if isinstance(line, Failure):
            by_cause.setdefault(line.cause, []).append(line)
    several = sorted((alike for alike in by_cause.values() if len(alike) > 1), key=len, reverse=True)
    return [
        f"{len(alike)} hearts failed for the same reason, such as {alike[0].name}: {alike[0].problem}"
        + (f"; {alike[0].to_do}" if alike[0].to_do else "")
        for alike in several
    ]
