"""What a user did that cannot work, told in one line.

`InputError` is the only exception whose message is meant for the user: which file, what was expected, what was
found, what to do. `run_command` is the one place where it becomes a line on stderr and an exit code, as a package that
is not installed does; every other exception is a defect of the software and keeps its traceback.
"""

import errno
import importlib.util
import sys

EXIT_BAD_INPUT = 2


class InputError(Exception):
    """Bad input from outside: `where` (a file or flag), `expected`, `found`, and what `to_do` about it."""

    def __init__(self, where, expected, found, to_do=""):
        self.where, self.expected, self.found, self.to_do = str(where), str(expected), str(found), str(to_do)
        line = f"{self.where}: expected {self.expected}, found {self.found}"
        if self.to_do:
            line += f"; {self.to_do}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self):  # crosses process pools with its four parts intact
        return (type(self), (self.where, self.expected, self.found, self.to_do))


def require_package(name):
    """Raises InputError where the Python package `name` is not installed: before long work that ends with it."""
    if importlib.util.find_spec(name) is None:
        raise _missing(name)


def _missing(name):
    return InputError(sys.executable, f"the Python package {name}", "none", "install what requirements.txt names")


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
        if name in ("", "vecset"):
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
