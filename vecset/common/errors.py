"""Errors in what a user gave, in one line.

`InputError` is the only exception whose message is for the user: where, what is wrong, what to do. `run_command` is the
one place where it, or a package that is not installed, becomes a line on stderr and an exit code. Every other exception
is a defect of the software and keeps its traceback.
"""

import errno
import importlib.util
import sys
from collections.abc import Callable

_IMPORTED_AS = {"skimage": "scikit-image", "vtkmodules": "vtk"}  # name of a module: name of its package
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # asked to stop, saved; the same command continues (EX_TEMPFAIL of sysexits.h)


class InputError(Exception):
    """Bad input, in one line. Two forms:

    InputError(where, expected, found, to_do)    for two values: "x.csv: expected 10 classes, found 7; check --classes"
    InputError.because(where, problem, to_do)    for all else: "--init_from and --resume exclude each other"

    where: a file or a flag, or "" where the problem names it; to_do: what the user can do about it, or "".
    """

    def __init__(self, where: object, expected: object = "", found: object = "", to_do: str = "", problem: str = ""):
        self.where, self.expected, self.found, self.to_do = str(where), str(expected), str(found), str(to_do)
        self.problem = str(problem) or f"expected {self.expected}, found {self.found}"
        line = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.to_do:
            line += f"; {self.to_do}"
        super().__init__(" ".join(line.split()))

    @classmethod
    def because(cls, where: object, problem: str, to_do: str = "") -> "InputError":
        """The error with `problem`, a plain statement, in place of expected and found values."""
        return cls(where, to_do=to_do, problem=problem)

    def __reduce__(self):  # keeps the parts when the error is sent between processes
        return (type(self), (self.where, self.expected, self.found, self.to_do, self.problem))


def require_package(name: str) -> None:
    """Raises InputError where the module `name` is not installed. For packages that are needed only at the end of long
    work."""
    if importlib.util.find_spec(name) is None:
        raise _missing(name)


def _is_lacking(name):
    """Whether the module `name` belongs to a package that the program needs and that is not installed. Other modules
    that cannot be imported (one of ours, part of another version of a package) are a defect."""
    from vecset.common.requirements import package_names

    return _package(name).lower() in package_names() and importlib.util.find_spec(name) is None


def _package(module):
    return _IMPORTED_AS.get(module, module).replace("_", "-")


def _missing(name):
    package = _package(name)
    return InputError.because(
        "", f"the Python package {package} is not installed", f"run {sys.executable} -m pip install {package}"
    )


def describe_os_error(error: OSError) -> str:
    """One line for an OSError, with advice where the disk is full."""
    where = error.filename or "output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: no space left on the device or quota used up; free some space and run the same command again"
    return f"{where}: {error.strerror or error}"


def run_command(main: Callable, argv: list[str] | None = None, resumes: bool = True) -> int:
    """Runs a command's `main(argv)` and returns its exit code, 0 for None. InputError and OSError become one line on
    stderr. `resumes`: whether the same command, run again after Ctrl-C, continues where it stopped."""
    try:
        return main(argv) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if not _is_lacking(name):
            raise
        print(f"error: {_missing(name)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"stopped; run the same command again to {'continue' if resumes else 'start anew'}", file=sys.stderr)
        return 130
