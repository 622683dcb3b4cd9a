"""What the bytes of an image file are, whatever its name says, and whether its compressed data are whole.

Readers of images take the first bytes that they need and stop. A checksum stands at the end, so data are read to their
end here.
"""

import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.memory import available_bytes, in_words

START = 1 << 20  # bytes: the header of a NRRD or MetaImage file is shorter than this
PIECE = 1 << 20  # bytes that are decompressed at once
GZIP_RATIO = 1032  # DEFLATE cannot compress better than this (zlib.net/zlib_tech.html)
MEMORY_SHARE = 2  # a label map needs its voxels in the file's type this many times, and COPIES bytes per voxel
COPIES = 3
DAMAGED = (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile)  # what the decompressors raise

GZIP, NIFTI, NRRD, META_IMAGE = "gzip", "NIfTI", "NRRD", "MetaImage"
_RENAME = {NIFTI: ".nii", NRRD: ".nrrd", META_IMAGE: ".mha"}
_DOWNLOAD = "download the file itself"
_CONVERT = "convert it to .nii.gz"
_SIGNATURES = (  # first bytes: what they are, what to do
    (b"PK\x03\x04", "a zip archive", "unpack it, and give the images in it"),
    (b"PK\x05\x06", "an empty zip archive", _DOWNLOAD),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and give the images in it"),
    (b"Rar!", "a rar archive", "unpack it, and give the images in it"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"\x1f\x9d", "compressed with compress", "unpack it with uncompress"),
    (b"\x89HDF", "an HDF5 file (as MINC 2 is)", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", "it has no geometry: export the image as .nii.gz"),
    (b"\x89PNG", "a PNG picture", "export the image in 3D as .nii.gz"),
    (b"\xff\xd8\xff", "a JPEG picture", "export the image in 3D as .nii.gz"),
    (b"%PDF", "a PDF document", _DOWNLOAD),
    (b"ply", "a PLY mesh or point cloud", "rename it to end in .ply"),
    (b"# vtk DataFile", "a VTK file", _CONVERT),
    (b"<VTKFile", "a VTK file", _CONVERT),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run git annex get (or datalad get)"),
)


def first_bytes(path: Path | str, opener=open) -> tuple[bytes, int]:
    """The first START bytes of a file, and its size. Raises InputError where there is no such file, it is none, it
    cannot be read, or it is empty. `opener`: as `open`."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError.because(path, "this is a directory, not a file", "give the files in it")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise InputError.because(path, "this is a pipe or a device, not a file", "copy it into a file")
        with opener(path, "rb") as handle:
            return handle.read(START), status.st_size
    except FileNotFoundError:
        if os.path.islink(path):
            raise InputError.because(path, *_dangling(os.readlink(path))) from None
        raise InputError.because(path, "no such file", "check the path") from None
    except PermissionError:
        raise InputError.because(path, "no permission to read the file", "change its permissions") from None
    except OSError as error:
        raise InputError.because(path, f"cannot be read ({error.strerror or error})", "check the path") from None


def _dangling(target):
    if "annex/objects" in target:
        return "a git-annex link whose file is not here", "run git annex get (or datalad get)"
    return f"a link to {target}, which does not exist", "restore that file, or remove the link"


def damaged(path: Path | str, kind: str, reason: str) -> InputError:
    """The error of an image of `kind` that is broken."""
    return InputError.because(path, f"broken or truncated {kind} image ({reason})", "copy or export it again")


def image_kind(start: bytes) -> str | None:
    """GZIP, NIFTI, NRRD or META_IMAGE by the first bytes of a file, else None."""
    if start[:2] == b"\x1f\x8b":
        return GZIP
    if _nifti_magic(start) in (b"n+1", b"ni1", b"n+2", b"ni2"):
        return NIFTI
    if start[:4] == b"NRRD":
        return NRRD
    lines = start[:2000].split(b"\n", 20)
    if any(line.split(b"=")[0].strip() in (b"ObjectType", b"NDims", b"DimSize") for line in lines if b"=" in line):
        return META_IMAGE
    return None


def _nifti_magic(start):
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    return start[344:347] if 348 in sizes else start[4:7] if 540 in sizes else None


def check_content(path: Path | str, start: bytes, expected: str, packed: bool) -> None:
    """Raises InputError where a file whose name says `expected` (NIFTI, NRRD, META_IMAGE), `packed` with gzip as a
    whole or not, is known to be something else by its first bytes, `start`: what it is, and what to do."""
    if not start:
        raise damaged(path, expected, "the file is empty")
    found, inner = image_kind(start), None
    if found == GZIP:
        inside = _unpacked_start(start)
        inner = image_kind(inside)
        if inner == GZIP:
            raise InputError.because(path, "compressed with gzip twice", "unpack it once (gzip -dc FILE > NEW.nii.gz)")
        if not packed and inner in _RENAME:
            raise InputError.because(
                path,
                f"a {inner} image that is compressed with gzip, which its name does not say",
                "rename it to end in .nii.gz" if inner == NIFTI else f"unpack it (gunzip), named {_RENAME[inner]}",
            )
        if inner not in (None, expected):
            raise InputError.because(
                path, f"a {inner} image, compressed with gzip", f"unpack it (gunzip), named {_RENAME[inner]}"
            )
        if inner is None:
            known = _known(inside)
            if known:
                raise InputError.because(path, f"{known[0]}, compressed with gzip: no {expected} image", known[1])
        return
    if found == NIFTI == expected and packed:
        raise InputError.because(
            path,
            "a NIfTI image that is not compressed, although its name says so",
            f"rename it to end in .nii, or compress it (gzip {Path(path).name.removesuffix('.gz')})",
        )
    if found is not None and found != expected:
        raise InputError.because(
            path, f"a {found} image by its content, not {expected}", f"rename it to end in {_RENAME[found]}"
        )
    known = None if found else _known(start)
    if known:
        raise InputError.because(path, f"{known[0]}, no {expected} image", known[1])


def _unpacked_start(start):
    try:
        return zlib.decompressobj(31).decompress(start, 4096)
    except zlib.error:
        return b""


def _known(start):
    """(what the bytes are, what to do) of a file that is no image, or None."""
    for signature, words, to_do in _SIGNATURES:
        if start.startswith(signature):
            return words, to_do
    if start[128:132] == b"DICM":
        return "a DICOM file", "convert the series to .nii.gz (dcm2niix, or 3D Slicer for segmentations)"
    if start[257:262] == b"ustar":
        return "a tar archive", "unpack it, and give the images in it"
    if _nifti_magic(start) is not None and len(start) >= 348:
        return "an Analyze 7.5 header (no NIfTI magic)", _CONVERT
    text = start[:1000].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML), as a server sends for a login or an error", f"{_DOWNLOAD}, logged in"
    if text.startswith(b"<?xml") or text.startswith(b"<error"):
        return "an XML document, as a server sends for an error", _DOWNLOAD
    if text.startswith(b'{"') or text.startswith(b"{\n"):
        return "JSON text, as a server sends for an error", _DOWNLOAD
    if not start.strip(b"\0"):
        return "nothing but zero bytes, as an interrupted copy leaves", "copy or download it again"
    return None


def check_size(path: Path | str, shape: tuple, dtype: np.dtype, most: int | None = None) -> int:
    """The bytes of voxels that a header describes. Raises InputError where they do not fit into memory, or are more
    than `most` bytes, which the file can hold; nothing is allocated."""
    voxels = math.prod(int(n) for n in shape)
    size = voxels * np.dtype(dtype).itemsize
    what = f"its header describes {' x '.join(str(int(n)) for n in shape)} voxels of {dtype} ({in_words(size)})"
    if most is not None and size > most:
        raise InputError.because(
            path, f"broken or truncated: {what}, more than a file of its length holds", "copy or export it again"
        )
    free = available_bytes()
    needed = MEMORY_SHARE * size + COPIES * voxels
    if free is not None and needed > free:
        raise InputError.because(
            path,
            f"{what}: reading it takes {in_words(needed)} of memory, {in_words(free)} are free",
            "check the header; if it is right, crop the image round the heart or use a machine with more memory",
        )
    return size


def pieces(handle, encoding: str, offset: int = 0) -> Iterator[bytes]:
    """The data of an open binary file from `offset` on to the file's end, decompressed and checked: `encoding` 'raw',
    'gzip' (several members are one stream) or 'zlib'. Raises one of DAMAGED where the data are cut or damaged,
    or where other bytes than zeros follow them."""
    handle.seek(offset)
    if encoding == "raw":
        yield from iter(lambda: handle.read(PIECE), b"")
    elif encoding == "gzip":
        stream = gzip.GzipFile(fileobj=handle, mode="rb")
        yield from iter(lambda: stream.read(PIECE), b"")
    else:
        stream = zlib.decompressobj()
        while not stream.eof:
            packed = stream.unconsumed_tail or handle.read(PIECE)
            if not packed:
                raise EOFError("the compressed data have no end")
            yield stream.decompress(packed, PIECE)
        if (stream.unused_data + handle.read(PIECE)).strip(b"\0"):
            raise ValueError("other bytes follow the compressed data")


def check_data(path: Path | str, kind: str, encoding: str, offset: int, size: int) -> None:
    """Raises InputError where the data from `offset` on are damaged, or are not `size` bytes. Zeros after them are
    padding."""
    length, extra = 0, False
    try:
        with open(path, "rb") as handle:
            for piece in pieces(handle, encoding, offset):
                extra = extra or bool(piece[max(size - length, 0) :].strip(b"\0"))
                length += len(piece)
    except DAMAGED as error:
        raise damaged(path, kind, in_one_line(error)) from error
    if length < size:
        raise damaged(path, kind, f"its header describes {size} bytes of voxels, {length} are there")
    if extra:
        raise damaged(path, kind, f"its header describes {size} bytes of voxels, {length} are there")


def in_one_line(error: Exception) -> str:
    """What a decompressor said, for people."""
    text = str(error)
    if "CRC" in text or "incorrect data check" in text:
        return "its checksum is wrong: the data are damaged"
    if isinstance(error, EOFError) or "end-of-stream" in text:
        return "the compressed data have no end"
    if "Not a gzipped file" in text:
        return "other bytes follow the compressed data"
    return f"{type(error).__name__}: {text}"
