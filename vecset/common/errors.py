"""What a user did that cannot work, told in one line.

`InputError` is the only exception whose message is meant for the user: which file, what was expected, what was
found, what to do. `run_command` is the one place where it becomes a line on stderr and an exit code, as a package that
is not installed does; every other exception is a defect of the software and keeps its traceback.
"""

import errno
import importlib.util
import sys

_IMPORTED_AS = {"skimage": "scikit-image", "vtkmodules": "vtk"}  # name of a module: name of its package
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # asked to stop, saved; the same command goes on (EX_TEMPFAIL of sysexits.h)


class InputError(Exception):
    """Bad input from outside, told in one line. Two forms:

    InputError(where, expected, found, to_do)                where both are values: "x.csv: expected 10, found 7"
    InputError.because(where, problem, to_do)                all else: "--init_from and --resume exclude each other"

    where: a file, a flag, or "" where the problem names it; to_do: what the user can do about it, or "".
    """

    def __init__(self, where, expected="", found="", to_do="", problem=""):
        self.where, self.expected, self.found, self.to_do = str(where), str(expected), str(found), str(to_do)
        self.problem = str(problem) or f"expected {self.expected}, found {self.found}"
        line = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.to_do:
            line += f"; {self.to_do}"
        super().__init__(" ".join(line.split()))

    @classmethod
    def because(cls, where, problem, to_do=""):
        return cls(where, to_do=to_do, problem=problem)

    def __reduce__(self):  # crosses process pools with its parts intact
        return (type(self), (self.where, self.expected, self.found, self.to_do, self.problem))


def require_package(name):
    """Raises InputError where the Python package `name` is not installed: before long work that ends with it."""
    if importlib.util.find_spec(name) is None:
        raise _missing(name)


def _is_lacking(name):
    """Whether the module `name` is of a package that the program needs and that is not installed. All else that cannot
    be imported (a module of ours, a part of a package of another version) is a defect."""
    from vecset.common.requirements import package_names

    return _package(name).lower() in package_names() and importlib.util.find_spec(name) is None


def _package(module):
    return _IMPORTED_AS.get(module, module).replace("_", "-")


def _missing(name):
    package = _package(name)
    return InputError.because(
        "", f"the Python package {package} is not installed", f"run {sys.executable} -m pip install {package}"
    )


def describe_os_error(error):
    """One line for an OSError. A full disk is the one that every long job meets, so it gets its own words."""
    where = error.filename or "output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: no space left on the device or quota used up; free some space and run the same command again"
    return f"{where}: {error.strerror or error}"


def run_command(main, argv=None, resumes=True):
    """Runs a command's `main(argv) -> exit code or None` and returns the exit code; InputError becomes one line.
    `resumes`: whether the same command, run again after Ctrl-C, goes on where it was."""
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
        print(f"stopped; run the same command again to {'go on' if resumes else 'start anew'}", file=sys.stderr)
        return 130
