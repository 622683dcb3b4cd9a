"""A folder of label maps: which of its files are hearts, what each is called, and what is left out and why.

Scans that lie beside their label maps (NAME_image beside NAME_label) are no hearts. Whatever else looks like an image
is named as left out. Scans with one file per structure: vecset/data/structure_files.py.
"""

import fnmatch
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.imaging.image_file import SUFFIX_WORDS, case_id, case_name, has_suffix

NAMES_SHOWN = 5  # files that a line names
MOST_ENTRIES = 20_000  # of sub-folders that are looked at only to say what is in them
LEFTOVER = ".tmp-"  # begins the names of half-written files (vecset/common/atomic.py)
# The last word of the names of files that lie beside each other.
_LABEL_WORDS = [
    "label",
    "labels",
    "labelmap",
    "lab",
    "seg",
    "segmentation",
    "dseg",
    "gt",
    "mask",
    "masks",
    "annotation",
    "manual",
]
_OTHER_WORDS = {
    **dict.fromkeys(
        [
            "image",
            "img",
            "ct",
            "cta",
            "mr",
            "mri",
            "t1w",
            "t2w",
            "flair",
            "bold",
            "cine",
            "scan",
            "vol",
            "volume",
            "orig",
            "0000",
            "0001",
        ],
        "scan",
    ),
    **dict.fromkeys(["prob", "probs", "probseg", "probability", "probabilities", "softmax"], "probability map"),
    **dict.fromkeys(["uncertainty", "entropy", "variance", "confidence", "std"], "uncertainty map"),
}
_TWO_FILES = (".mhd", ".nhdr", ".hdr", ".hdr.gz")  # header here, voxels in another file
_VOXEL_FILES = (".raw", ".raw.gz", ".zraw", ".img", ".img.gz")
_OTHER_IMAGES = [
    ".mgz",
    ".mgh",
    ".vtk",
    ".vti",
    ".gipl",
    ".gipl.gz",
    ".nii.bz2",
    ".nii.xz",
    ".nii.zst",
    ".tif",
    ".tiff",
    ".mnc",
    ".mat",
    ".h5",
    ".hdf5",
    ".npy",
    ".dcm",
    ".ima",
]
_MESHES = (".stl", ".obj", ".ply", ".vtp", ".glb")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz")
_DICOM = (".dcm", ".ima")


class NoLabelMaps(InputError):
    """A folder holds no label maps."""


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are label maps. recursive: those in sub-folders too; pattern: of the file's name, as
    `*_label.nii.gz`; structures: the `Structures` where each scan is a folder with one file per structure, which
    `find_sources` (vecset/data/structure_files.py) lists."""

    recursive: bool = False
    pattern: str | None = None
    structures: object = None


ALL = Selection()


@dataclass
class LabelFolder:
    """paths: of the hearts, in natural order; left_out: a line for each kind of file that is no heart."""

    paths: list[Path]
    left_out: list[str] = field(default_factory=list)


def relative_name(path: Path, folder: Path | str | None) -> str:
    """The path of a label map relative to `folder`, with "/"; its own name where it does not lie in there, or is the
    folder itself."""
    path = Path(path)
    if folder is None or not path.is_relative_to(folder) or path == Path(folder):
        return path.name
    return path.relative_to(folder).as_posix()


def look_into(folder: Path | str, selection: Selection = ALL) -> LabelFolder:
    """The hearts of a folder, naturally sorted (2 before 10), and what is left out. Names that begin with a dot are
    left out.

    Raises InputError where there is no such folder, two label maps have one case name, or names that differ in case
    alone; NoLabelMaps where nothing is left, which says what else is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "this is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError.because(folder, problem, "check --input_dir")
    found = _label_files(folder, selection)
    if not found.paths:
        also = f"; found: {'; '.join(found.left_out)}" if found.left_out else ""
        to_do = "" if found.left_out else "check --input_dir"
        raise NoLabelMaps.because(folder, f"no label maps in it ({SUFFIX_WORDS}){also}", to_do)
    found.paths.sort(key=lambda p: natural_key(relative_name(p, folder)))
    _refuse_equal_names(folder, found.paths)
    return found


def _label_files(folder, selection):
    files = list(_files(folder, selection.recursive))
    images = [p for p in files if has_suffix(p.name)]
    lines = _other_files(folder, files)
    if selection.pattern is not None:
        paths = [p for p in images if _matches(relative_name(p, folder), selection.pattern)]
        others = [p for p in images if not _matches(relative_name(p, folder), selection.pattern)]
        lines += _line(folder, others, f"do not match --pattern {selection.pattern!r}", "file does", "files")
    else:
        paths, beside = _without_scans(images)
        for kind, others in beside.items():
            lines += _line(folder, others, f"{kind}s beside label maps, by their names", f"{kind}", f"{kind}s")
    if not selection.recursive:
        lines += _in_sub_folders(folder)
    return LabelFolder(paths, lines)


def _files(folder: Path, recursive: bool, most: int | None = None) -> Iterator[Path]:
    """The files of a folder, sorted; with `recursive` those of its sub-folders too, but for hidden ones. A folder that
    is met twice through links is read once. A folder that is named like an image is looked into with `recursive`; else
    it counts as a file, which cannot be read, and that is told. Raises OSError where a folder cannot be listed."""

    def fail(error):
        raise error

    seen, count = set(), 0
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names += [] if recursive else [f for f in folders if has_suffix(f)]
        folders[:] = sorted(f for f in folders if recursive and not f.startswith("."))
        for name in sorted(names):
            count += 1
            if most is not None and count > most:
                return
            if not name.startswith(LEFTOVER):
                yield Path(place) / name


def _matches(name, pattern):
    return fnmatch.fnmatchcase(name if "/" in pattern else name.rsplit("/", 1)[-1], pattern)


def require_apart(folder: Path, output_dir: Path, selection: Selection) -> None:
    """Raises InputError where sub-folders are read and results with label maps go into one of them: on the next run
    they would be hearts."""
    if selection.recursive and Path(output_dir).resolve().is_relative_to(Path(folder).resolve()):
        raise InputError.because(
            output_dir,
            f"it lies in {folder}, so that --recursive would take the results for label maps",
            "give an --output_dir outside",
        )


def _without_scans(images):
    """(label maps, {kind: files}) of image files: scans, probability and uncertainty maps that lie beside the label map
    of the same name. A file counts as one of these where its last word says so and the same name with a word for
    labels, or without a word, is there too; or where it lies in `images*` and a folder `labels*` lies beside."""
    images = [p for p in images if not p.name.startswith(".")]
    stems = {(p.parent, case_name(p).lower()) for p in images}
    folders = {}
    paths, beside = [], {}
    for path in images:
        rest, word = _last_word(case_name(path))
        kind = _OTHER_WORDS.get(word)
        paired = kind and any(
            (path.parent, name) in stems
            for name in (rest, *(f"{rest}{sign}{label}" for label in _LABEL_WORDS for sign in "_.-"))
        )
        if not paired and re.match(r"images?($|tr|ts|val|_)", path.parent.name.lower()):
            place = path.parent.parent
            if place not in folders:
                folders[place] = any(p.parent.parent == place and p.parent.name.lower()[:5] == "label" for p in images)
            kind, paired = "scan", folders[place]
        if paired:
            beside.setdefault(kind, []).append(path)
        else:
            paths.append(path)
    return paths, beside


def _last_word(stem):
    """(what comes before, last word) of a file's stem in small letters, parted by "_", "." or "-"."""
    found = re.fullmatch(r"(.+)[_.-]([a-z0-9]+)", stem.lower())
    return (found[1], found[2]) if found else (stem.lower(), "")


def _other_files(folder, files):
    """Lines about the files that look like images and are not read."""
    visible = [p for p in files if not p.name.startswith(".") and not has_suffix(p.name)]
    names = {p.name for p in files}
    hidden = [p for p in files if p.name.startswith(".") and has_suffix(p.name) and p.name[2:] not in names]
    headers = [p for p in visible if p.name.lower().endswith(_TWO_FILES)]
    told = {_stem(p) for p in headers}
    alone = [p for p in visible if p.name.lower().endswith(_VOXEL_FILES) and _stem(p) not in told]
    dicom = [p for p in visible if _is_dicom(p)]
    others = [p for p in visible if p.name.lower().endswith(tuple(_OTHER_IMAGES)) and p not in dicom]
    meshes = [p for p in visible if p.name.lower().endswith(_MESHES)]
    known = {*headers, *alone, *others, *dicom}
    archives = [
        p
        for p in visible
        if p.name.lower().endswith(_ARCHIVES) and p not in known and not p.name.lower().endswith(_VOXEL_FILES)
    ]
    return [
        *_line(folder, headers, "header and voxels are in two files: convert each to one .nii.gz"),
        *_line(folder, alone, "voxels without the header that describes them"),
        *_line(folder, others, "formats that are not read: convert them to .nii.gz"),
        *_line(folder, dicom, "DICOM: convert the segmentation to .nii.gz, with 3D Slicer for example"),
        *_line(folder, archives, "archives: unpack them"),
        *_line(folder, meshes, "surfaces, not label maps"),
        *_line(folder, hidden, "hidden: their names begin with a dot"),
    ]


def _is_dicom(path):
    """Whether a file is a DICOM file by its suffix or, where it has none or a number in its place, by its content."""
    suffix = path.suffix.lower()
    if suffix in _DICOM:
        return True
    if suffix.strip(".0123456789"):
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:  # it is no label map either, by its name
        return False


def _stem(path):
    return path.parent / path.name.lower().split(".gz")[0].rsplit(".", 1)[0]


def _line(folder, files, why, one="file", many="files"):
    """[one line that names the `files` and says why they are left out], [] where there are none."""
    if not files:
        return []
    names = sorted((relative_name(p, folder) for p in files), key=natural_key)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    count = f"{len(names)} {one if len(names) == 1 else many}"
    return [f"{count} left out ({why}): {', '.join(names[:NAMES_SHOWN])}{more}"]


def _in_sub_folders(folder):
    """Lines about label maps and DICOM files in the sub-folders of a folder that is read without them."""
    try:
        below = [p for p in _files(folder, True, MOST_ENTRIES) if p.parent != folder and not p.name.startswith(".")]
    except OSError as error:
        return [f"sub-folders not looked into: {error.strerror or error}"]
    images, _ = _without_scans([p for p in below if has_suffix(p.name)])
    lines = []
    if images:
        example = min((relative_name(p, folder) for p in images), key=natural_key)
        one = len(images) == 1
        lines.append(
            f"{len(images)} label map{'' if one else 's'} in sub-folders left out, such as {example}: give "
            "--recursive, or the folder itself"
        )
    dicom = [p for p in below if not has_suffix(p.name) and _is_dicom(p)]
    if dicom:
        lines.append(
            f"{len(dicom)} DICOM files in sub-folders left out, such as {relative_name(dicom[0], folder)}: convert the "
            "segmentation to .nii.gz"
        )
    elif not images:
        others = [p for p in below if p.name.lower().endswith((*_TWO_FILES, *_OTHER_IMAGES))]
        lines += [f"in sub-folders: {line}" for line in _other_files(folder, others)]
    return lines


def _refuse_equal_names(folder, paths):
    seen, alike = {}, {}
    for path in paths:
        name = relative_name(path, folder)
        case = case_id(name)
        other = seen.setdefault(case, name)
        if other != name:
            raise InputError.because(
                folder, f"{other} and {name} would both become {case}.npz", "rename or remove one of them"
            )
        same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", case).casefold())
        other = alike.setdefault(same, name)
        if other != name:
            raise InputError.because(
                folder,
                f"the names of {other} and {name} differ in capital letters or in their Unicode form alone, so that "
                "their case files would be one file on other systems",
                "rename or remove one of them",
            )
