"""numba's compiler with a cache on disk that never decides whether anything runs.

numba raises where it finds no place for its cache (code and HOME that cannot be written to), where the disk of the
cache is full, and where a file of the cache is damaged. Here each of these becomes a note on stderr, and the function
is compiled in memory. Machine code that is wrong may run all the same, so a stored function carries a checksum, and the
source and the types that it was made from: where the disk was full, numba's index may name the file of earlier code.
"""

import hashlib
import pickle
import sys
from collections.abc import Callable

import numba
from numba.core import caching
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

_told: set[str] = set()  # a cause is told once per process, not once per function


def njit(function: Callable | None = None, **options) -> Callable:
    """`numba.njit(cache=True, ...)`, as a decorator with or without options."""
    if function is None:
        return lambda decorated: njit(decorated, **options)
    compiled = numba.njit(**options)(function)
    try:
        compiled._cache = _Cache(function)
    except Exception as error:  # numba's RuntimeError where it finds no place, OSError where a place is refused
        nowhere = "no locator available" in str(error)  # whose text names the function, so that each would be told
        reason = "neither beside the code nor in HOME" if nowhere else _words(error)
        _tell(f"no folder for numba's cache can be written to ({reason})", "set NUMBA_CACHE_DIR to one")
    return compiled


class _CheckedImpl(caching.CompileResultCacheImpl):
    """What is stored of a compiled function: the stamp of its source, a SHA-256, and the bytes that it is of."""

    def reduce(self, result):
        data = dumps(super().reduce(result))
        return self.locator.get_source_stamp(), hashlib.sha256(data).digest(), data

    def rebuild(self, target_context, payload):
        stamp, digest, data = payload
        if stamp != self.locator.get_source_stamp():
            raise ValueError("it is of earlier code")
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("its checksum is wrong")
        return super().rebuild(target_context, pickle.loads(data))


class _Cache(caching.FunctionCache):
    """numba's cache of one function. What fails in it is told, and the function is compiled."""

    _impl_class = _CheckedImpl

    def load_overload(self, sig, target_context):
        try:
            result = super().load_overload(sig, target_context)
            if result is None or tuple(result.signature.args) == tuple(normalize_signature(sig)[0]):
                return result
            raise ValueError("it is of other types")
        except Exception as error:
            _tell(f"a file in {self.cache_path} cannot be used ({_words(error)})", "it is made again")
        try:
            self.flush()  # a damaged index would refuse what is saved next, too
        except Exception as error:
            _tell(f"{self.cache_path} cannot be written to ({_words(error)})", "set NUMBA_CACHE_DIR to another folder")
        return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _tell(f"{self.cache_path} cannot be written to ({_words(error)})", "set NUMBA_CACHE_DIR to another folder")


def _words(error):
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _tell(what, to_do):
    line = f"note: compiled code is not cached: {what}; nothing but time is lost; {to_do}"
    if line not in _told:
        _told.add(line)
        print(line, file=sys.stderr)
