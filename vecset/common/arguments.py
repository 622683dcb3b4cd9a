"""The command line of every command: a parser whose errors are one line, and paths as users write them.

What a shell did not do is done here, or said: `~` behind "=" is the home folder; an empty path, a `$NAME` that was not
replaced and the carriage return of a script with Windows line ends are refused.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vecset.common.errors import one_line

DASHES = "-‐‑‒–—−"  # word processors turn -- into others
LIKENESS = 0.6  # at least, from 0 to 1, for a suggestion
TYPES = {"int": "a whole number", "float": "a number", "count": "a whole number", "number": "a number"}
METAVARS = {"int": "N", "count": "N", "float": "X", "number": "X", "user_path": "PATH", "user_path_text": "PATH"}


def user_path_text(text: str) -> str:
    """A path of the command line, `~` and `~NAME` at its start replaced by the home folder. As the type of an option.
    Raises argparse.ArgumentTypeError where it cannot be what the user meant."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty path: is a variable of the shell not set?")
    first = text.split("/")[0]
    if text.startswith("file://"):
        raise argparse.ArgumentTypeError(f"{text}: give the path alone, without file://")
    if re.fullmatch(r"\$\w+|\$\{\w+\}", first) and not os.path.lexists(first):
        raise argparse.ArgumentTypeError(f"{text}: the shell did not replace {first}; use no single quotes round it")
    if not first.startswith("~"):
        return text
    found = os.path.expanduser(text) if os.environ.get("HOME") != "" else _expand_without_home(text)
    if found.startswith("~") and not os.path.lexists(found):
        who = f"there is no user {first[1:]}" if first[1:] else "this user has no home folder (HOME is not set)"
        raise argparse.ArgumentTypeError(f"{text}: {who}; give the whole path")
    return found


def _expand_without_home(text):
    """expanduser takes an empty HOME for the root folder; the user's entry in the system's list is right."""
    del os.environ["HOME"]
    try:
        return os.path.expanduser(text)
    finally:
        os.environ["HOME"] = ""


def user_path(text: str) -> Path:
    """`user_path_text` as a Path."""
    return Path(user_path_text(text))


def count(smallest: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `smallest`."""

    def count(text):
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value}: want a whole number of at least {smallest}")
        return value

    return count


def number(smallest: float, largest: float = float("inf")) -> Callable[[str], float]:
    """The type of an option that is a number from `smallest` to `largest`."""

    def number(text):
        value = float(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value:g}: want a number from {smallest:g} to {largest:g}")
        return value

    return number


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, "error: ...", with the option that was probably meant (exit code 2).
    Options are given by their whole names: the beginning of one may be a mistyped name of another.

    elsewhere(option) -> where an option that this command does not have is to be given, or ""; shown_required: names
    of options that the usage shows as required, because only few uses do without them. The values of options without
    a metavar are called by their type in the help.
    """

    def __init__(
        self, *words, elsewhere: Callable[[str], str] | None = None, shown_required: Sequence[str] = (), **options
    ):
        super().__init__(*words, **{"allow_abbrev": False, **options})
        self.elsewhere, self.shown_required, self._strangers = elsewhere, shown_required, []

    def parse_args(self, args=None, namespace=None):
        args = [str(word) for word in (sys.argv[1:] if args is None else args)]
        for word in args:
            if word.endswith("\r"):
                self.error(
                    f"{word.rstrip()!r} ends with a carriage return: the script that holds this command has Windows "
                    "line ends; convert it: sed -i 's/\\r$//' SCRIPT"
                )
        self._strangers = [word for word in args[: (args + ["--"]).index("--")] if self._is_strange(word)]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            unknown = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in unknown]  # in any locale
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._advice(unknown)}")
        return parsed

    def _is_strange(self, word):
        """Whether a word is written as an option and is none."""
        return word[:2] == "--" and not self.knows(word.split("=")[0])

    def _advice(self, unknown):
        """What to do about the first of the words that no option takes."""
        options = [word.split("=")[0] for word in unknown if word[:1] in DASHES]
        if not options:
            return "; a value stands behind the name of its option, and one with spaces in quotes"
        there = self.elsewhere(options[0]) if self.elsewhere else ""
        if there:
            return f"; {there}"
        meant = self.nearest(options[0])
        return f"; did you mean {meant}?" if meant else ""

    def nearest(self, word: str) -> str:
        """The option of this command whose name, or whose beginning, is written like `word`, or ""."""
        word = word.lstrip(DASHES).replace("-", "_").lower()
        best = (LIKENESS, "")
        for action in self._actions:
            for name in action.option_strings if action.help != argparse.SUPPRESS else ():
                if name[:2] == "--":
                    near = (difflib.SequenceMatcher(None, word, n).ratio() for n in (name[2:], name[2 : 2 + len(word)]))
                    best = max(best, (max(near), name))
        return best[1]

    def knows(self, option: str) -> bool:
        """Whether this command has the option, as "--name"."""
        return option in self._option_string_actions

    def error(self, message):
        if "arguments are required" in message and self._strangers:  # mistyped, so it only seems to be missing
            message = f"unrecognized arguments: {' '.join(self._strangers)}{self._advice(self._strangers)}"
        self.exit(2, f"error: {one_line(in_plain_words(message))}; options: {self.prog} --help\n")

    def format_usage(self):
        return self._with_names(super().format_usage)

    def format_help(self):
        return self._with_names(super().format_help)

    def _with_names(self, form):
        """The text that `form()` gives while values are called by their type and `shown_required` are required."""
        changed = []
        for action in self._actions:
            name = METAVARS.get(getattr(action.type, "__name__", ""))
            if action.metavar is None and action.choices is None and action.option_strings and name:
                changed.append((action, "metavar", None))
                action.metavar = name
            if action.dest in self.shown_required and not action.required:
                changed.append((action, "required", False))
                action.required = True
        try:
            return form()
        finally:
            for action, name, value in changed:
                setattr(action, name, value)


def in_plain_words(message: str) -> str:
    """A message of argparse in the words of the other errors."""
    message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
    found = re.search(r"invalid (\w+) value: (.*)$", message)
    if found and found[1] in TYPES:
        return f"{message[: found.start()]}expected {TYPES[found[1]]}, found {found[2]}"
    found = re.search(r"invalid choice: (.+) \(choose from (.*)\)$", message)
    if found:
        choices = [choice.strip("'\"") for choice in found[2].split(", ")]
        near = difflib.get_close_matches(found[1].strip("'\""), choices, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        return f"{message[: found.start()]}expected one of {', '.join(choices)}, found {found[1]}{advice}"
    if message.endswith("expected one argument"):
        option = message.split(":")[0].split("/")[-1]
        return f"{option} needs a value; one that begins with a dash is given as {option}=VALUE"
    return message
