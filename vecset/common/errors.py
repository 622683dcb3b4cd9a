"""Errors in what a user gave, in one line.

`InputError` is the only exception whose message is for the user: where, what is wrong, what to do. `run_command` is the
one place where it, or a package that is not installed, becomes a line on stderr and an exit code. Every other exception
is a defect of the software and keeps its traceback.
"""

import contextlib
import errno
import importlib.util
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path

from vecset.common.signals import drop_lost_outputs, ending_as_interrupt, print_line
from vecset.common.streams import standard_streams

_IMPORTED_AS = {
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "vtkmodules": "vtk",
}  # name of a module: name of its package
EXIT_BAD_INPUT = 2
MODE = "VECSET_STARTED_AS_UTF8"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
SAID_LENGTH = 300  # of an error's own words in a line; some hold a whole table
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
        line = f"{shown(self.where)}: {self.problem}" if self.where else self.problem
        if self.to_do:
            line += f"; {self.to_do}"
        super().__init__(one_line(line))

    @classmethod
    def because(cls, where: object, problem: str, to_do: str = "") -> "InputError":
        """The error with `problem`, a plain statement, in place of expected and found values."""
        return cls(where, to_do=to_do, problem=problem)

    def __reduce__(self):  # keeps the parts when the error is sent between processes
        return (type(self), (self.where, self.expected, self.found, self.to_do, self.problem))


def shown(name: object) -> str:
    """A path or another name for a message: control characters (a line break too) and bytes that are no UTF-8 become
    escapes, such as `\\n` and `\\xff`."""
    return "".join(
        _escaped(sign) if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign for sign in str(name)
    )


def _escaped(sign):
    number = ord(sign)
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte of a file name that it cannot decode
        return f"\\x{number - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """The text in one line that any terminal shows as it is: see `shown`; line breaks become spaces."""
    return shown(re.sub(r"[ \t]*[\r\n]+[ \t]*", " ", text.strip()))


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


def describe_os_error(error: OSError, where: object = "") -> str:
    """One line for an OSError: the file that it names, else `where`; with advice where that is known."""
    where = shown(error.filename or where or "output")
    if error.errno in DISK_FULL:
        return f"{where}: no space left on the device or quota used up; free some space and run the same command again"
    advice = {
        errno.EROFS: "; give a folder on another disk",
        errno.EACCES: "; change its permissions, or give another folder",
        errno.ENAMETOOLONG: "; give it a shorter name",
        errno.EIO: "; the disk or its connection is at fault: look into the system's log",
        errno.ESTALE: "; the network disk has lost the file: run the same command again",
    }.get(error.errno, "")
    return f"{where}: {one_line(error.strerror or str(error) or type(error).__name__)}{advice}"


def describe_failure(where: object, error: BaseException, memory_advice: str = "use a machine with more memory") -> str:
    """Any failure as one line that begins with `where` (a file, a case), unless the error names a file of its own.

    InputError and OSError in their own words; no memory, with `memory_advice`; all else is a defect of the software:
    its type, its message and the place in the code. Raises KeyboardInterrupt where the error is one in disguise."""
    if isinstance(error, SystemError) and isinstance(error.__cause__, KeyboardInterrupt):
        raise KeyboardInterrupt from error  # a stop in the middle of compiled code, of which numba makes this
    name = shown(where)
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        line = describe_os_error(error, where)
        return line if line.startswith(name) else f"{name}: {line}"
    said = one_line(str(error))
    said = said if len(said) <= SAID_LENGTH else said[:SAID_LENGTH] + "..."
    if is_memory_error(error):
        return f"{name}: not enough memory{f' ({said})' if said else ''}; {memory_advice}"
    place = traceback.extract_tb(error.__traceback__)[-1:]
    at = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in place)
    return f"{name}: {type(error).__name__}: {said}{at}" if said else f"{name}: {type(error).__name__}{at}"


def is_memory_error(error: BaseException) -> bool:
    """Whether memory was not given, of the machine or of the GPU (torch has errors of its own for both)."""
    told = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("can't allocate memory" in told or "CUDA out of memory" in told))
    )


def read_names_as_utf8() -> None:
    """Starts the program anew, in Python's UTF-8 mode, where Python reads file names as ASCII (LC_ALL=C together with
    PYTHONUTF8=0): it could not write a name that it has read so. Nothing has been done by then."""
    if sys.getfilesystemencoding() == "ascii" and MODE not in os.environ:
        os.environ[MODE] = "1"  # once: an option -X utf8=0 would undo it
        os.environ["PYTHONUTF8"] = "1"  # of worker processes, too
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def names_survive() -> None:
    """Lets stdout and stderr write every name: what their encoding does not have becomes an escape. A terminal that
    knows ASCII alone, or a file name that is no UTF-8, would end the program in the middle of a message."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(ValueError):  # a stream that is closed: nothing is written to it
                stream.reconfigure(errors="backslashreplace")


def run_command(main: Callable, argv: list[str] | None = None, resumes: bool = True) -> int:
    """Runs a command's `main(argv)` and returns its exit code, 0 for None. InputError and OSError become one line on
    stderr; SIGTERM and SIGHUP end it like Ctrl-C. `resumes`: whether the same command, run again after Ctrl-C,
    continues where it stopped."""
    standard_streams()
    if argv is None:  # the command line
        read_names_as_utf8()
    names_survive()
    try:
        with ending_as_interrupt():
            return main(argv) or 0
    except InputError as error:
        print_line(f"error: {error}", sys.stderr)
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if not _is_lacking(name):
            raise
        print_line(f"error: {_missing(name)}", sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        return 1
    except OSError as error:
        print_line(f"error: {describe_os_error(error)}", sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print_line(f"stopped; run the same command again to {'continue' if resumes else 'start anew'}", sys.stderr)
        return 130
    finally:
        drop_lost_outputs()  # what is left in a buffer must not change the exit code
