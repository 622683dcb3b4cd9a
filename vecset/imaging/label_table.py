"""Label tables: names and colours of classes, in the files and formats that viewers read.

NIfTI: a header extension of code 0 with a label table in the XML of Caret (Connectome Workbench), as TotalSegmentator
writes and reads it. NRRD: the fields of 3D Slicer's `.seg.nrrd`
(https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html).

Files beside a label map are read, too: nnU-Net's dataset.json, of both versions ({"labels": {"LV": 1}} and {"labels":
{"1": "LV"}}), in the folder of the label map or above a folder whose name begins with "labels" (labelsTr); and
for NAME.nii.gz ITK-SNAP's label descriptions, NAME.label or NAME.txt, 3D Slicer's colour table,
NAME_ColorTable.ctbl or NAME.ctbl, and BIDS's table, NAME.tsv. A single NAME.label that belongs to no image is for all
label maps of its folder, as are BIDS's dseg.tsv and a labels.txt that holds nothing but a table of ITK-SNAP or of
3D Slicer.
"""

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from vecset.common.atomic import atomic_path
from vecset.common.errors import InputError
from vecset.common.user_files import read_json, read_text
from vecset.imaging.classes import BACKGROUND, class_colours, rgb
from vecset.imaging.file_content import START
from vecset.imaging.header_geometry import LPS_TO_RAS
from vecset.imaging.image_file import SUFFIXES
from vecset.imaging.structure_names import name_key

EXTENSION_CODE = 0
DATASET, BIDS_TABLE, TEXT_TABLE = "dataset.json", "dseg.tsv", "labels.txt"
MOST_BYTES = 1 << 20  # of a text that may be a table
SNAP_FIRST_LINE = b"itk-snap label description file"
_SNAP_ROW = re.compile(r'^\s*(\d+)\s+\d+\s+\d+\s+\d+\s+\S+\s+\S+\s+\S+\s+"(.*)"\s*$')
# 3D Slicer: value, name, red, green, blue, opacity
_SLICER_ROW = re.compile(r"^\s*(\d+)\s+(.*?)\s+\d+\s+\d+\s+\d+\s+\d+\s*$")
_LABEL = re.compile(rb"<Label\b[^>]*?\bKey\s*=\s*[\"']([^\"']*)[\"'][^>]*>(.*?)</Label>", re.DOTALL)
_SEGMENT = re.compile(r"^Segment(\d+)_(Name|LabelValue|Layer)\s*:=(.*)$")


def name_extension(class_names: list[str | None]) -> nib.nifti1.Nifti1Extension:
    """The header extension with names and colours of the classes 1..C; one whose name is None is left out. The same
    names give the same bytes."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for c, (name, colour) in enumerate(zip(class_names, class_colours(class_names)), 1):
        if name is None:
            continue
        red, green, blue = (f"{value / 255:.6f}" for value in rgb(colour))
        ElementTree.SubElement(table, "Label", Key=str(c), Red=red, Green=green, Blue=blue, Alpha="1").text = str(name)
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    xml = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return nib.nifti1.Nifti1Extension(EXTENSION_CODE, xml)


def read_names(header: nib.Nifti1Header, where: Path | str = "the header") -> dict[int, str]:
    """{value: name} from the label table in an extension of a NIfTI header; {} where it has none. InputError, naming
    `where`, where one value has two names."""
    for extension in getattr(header, "extensions", ()):
        if b"<Label" in extension.content:
            found = _one_name_each(_label_table(extension.content.rstrip(b"\0")), where)
            if found:
                return found
    return {}


def _label_table(xml):
    """[(value, name)] as texts of the first label table; of one that is no sound XML, what can be told."""
    try:
        table = next(ElementTree.fromstring(xml).iter("LabelTable"), None)
        return [] if table is None else [(label.get("Key"), label.text) for label in table.iter("Label")]
    except ElementTree.ParseError:
        return [
            (
                key.decode("utf-8", "replace"),
                re.sub(r"^<!\[CDATA\[|\]\]>$", "", text.decode("utf-8", "replace").strip()),
            )
            for key, text in _LABEL.findall(xml)
        ]


def _one_name_each(pairs, where):
    """{value: name} of [(value, name)] as texts, without background; InputError where one value has two names."""
    names = {}
    for text, name in pairs:
        value, name = _whole(text), (name or "").strip()
        if value in (None, BACKGROUND):
            continue
        if name_key(names.setdefault(value, name)) != name_key(name):
            raise InputError.because(
                where,
                f"its header gives the value {value} two names, {names[value]!r} and {name!r}",
                "export it again, each structure with a value of its own",
            )
    return names


def _whole(text):
    """The whole number that `text` says, or None."""
    try:
        return int(float(text))
    except (TypeError, ValueError, OverflowError):
        return None


def read_segment_names(path: Path | str) -> dict[int, str]:
    """{value: name} of the segments in the header of a `.seg.nrrd`; {} where it has none. A single segment without a
    value, as older versions of 3D Slicer wrote it, has the value 1. In a file of layers (4D) the value is the number of
    the layer, from 1, as vecset/imaging/channels.py reads them. InputError where one value has two names."""
    with open(path, "rb") as handle:
        start = handle.read(START)
    header = start.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("utf-8", "replace")
    segments = {}
    for line in header.split("\n"):
        found = _SEGMENT.match(line)
        if found:
            segments.setdefault(int(found[1]), {})[found[2]] = found[3].replace("\\n", " ").strip()
    only = "1" if len(segments) == 1 else None
    found = [segment for _, segment in sorted(segments.items())]
    if re.search(r"^dimension:\s*4\s*$", header, re.MULTILINE):
        for n, segment in enumerate(found):
            layer = _whole(segment.get("Layer", n))
            segment["LabelValue"] = None if layer is None else layer + 1
    return _one_name_each([(segment.get("LabelValue", only), segment.get("Name")) for segment in found], path)


def names_beside(path: Path | str) -> tuple[dict[int, str], Path | None]:
    """({value: name}, the file that says so) for a label map, without background; ({}, None) where there is no such
    file. Raises InputError where it cannot be read."""
    folder, name = Path(path).parent, Path(path).name
    stem = next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)
    for suffix, read in _BESIDE.items():
        beside = folder / f"{stem}{suffix}"
        names = read(beside) if os.path.isfile(beside) else {}  # False for a name that is too long
        if names:
            return names, beside
    shared = [folder / BIDS_TABLE] if (folder / BIDS_TABLE).is_file() else _shared_descriptions(folder)
    for other in (*shared, *_text_tables(folder, name)):
        names = (_text_table if other.name.lower() == TEXT_TABLE else _BESIDE[other.suffix])(other)
        if names:
            return names, other
    above = [folder.parent] if folder.resolve().name.lower().startswith("labels") else []
    for place in (folder, *above):
        if (place / DATASET).is_file():
            names = _dataset_names(place / DATASET)
            if names:
                return names, place / DATASET
    return {}, None


def _snap_names(path):
    """{value: name} of ITK-SNAP's label descriptions; {} where `path` is another text. The rows are: value, red, green,
    blue, opacity, visibility, visibility in 3D, "name"."""
    with open(path, "rb") as handle:
        if SNAP_FIRST_LINE not in handle.read(400).lower():
            return {}
    rows = [_SNAP_ROW.match(line) for line in read_text(path, "ITK-SNAP's label descriptions").splitlines()]
    return {int(row[1]): row[2].strip() for row in rows if row and int(row[1]) != BACKGROUND}


def _slicer_names(path):
    """{value: name} of 3D Slicer's colour table, in which blanks of a name are underscores."""
    rows = [_SLICER_ROW.match(line) for line in read_text(path, "3D Slicer's colour table").splitlines()]
    return {int(row[1]): row[2].replace("_", " ").strip() for row in rows if row and int(row[1]) != BACKGROUND}


def _bids_names(path):
    """{value: name} of BIDS's table of labels, with the columns index and name; {} where `path` is another table."""
    lines = [line.split("\t") for line in read_text(path, "BIDS's table of labels").splitlines() if line.strip()]
    columns = [word.strip().lower() for word in lines[0]] if lines else []
    if not {"index", "name"} <= set(columns):
        return {}
    value, name = columns.index("index"), columns.index("name")
    rows = [(_whole(row[value]), row[name].strip()) for row in lines[1:] if len(row) > max(value, name)]
    return {v: text for v, text in rows if v not in (None, BACKGROUND)}


def _shared_descriptions(folder):
    """[NAME.label] where it is the only one of its folder and no label map has that name; else []."""
    names = [entry.name for entry in os.scandir(folder)]
    found = [name for name in names if name.lower().endswith(".label")]
    own = any(name.startswith(found[0][: -len("label")]) and name != found[0] for name in names) if found else True
    return [folder / found[0]] if len(found) == 1 and not own else []


def _text_tables(folder, name):
    """[labels.txt] where there is one; [] where it belongs to an image of that name."""
    names = [entry.name for entry in os.scandir(folder)]
    found = [other for other in names if other.lower() == TEXT_TABLE and (folder / other).is_file()]
    stem = TEXT_TABLE.removesuffix("txt")
    own = any(other.lower().startswith(stem) and other.lower().endswith(SUFFIXES) for other in names if other != name)
    return [folder / other for other in found[:1]] if not own else []


def _text_table(path):
    """{value: name} of a text in which every line is a row of one of the tables of ITK-SNAP and 3D Slicer, or a comment
    (#); {} for any other text, which is none of ours: whether it is one must not be guessed."""
    with open(path, "rb") as handle:
        start = handle.read(MOST_BYTES + 1)
    try:
        lines = start.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return {}
    rows = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for row_of, sign in ((_SNAP_ROW, None), (_SLICER_ROW, "_")):
        found = [row_of.match(line) for line in rows]
        if rows and all(found) and len(start) <= MOST_BYTES:
            names = {int(row[1]): (row[2].replace(sign, " ") if sign else row[2]).strip() for row in found}
            names.pop(BACKGROUND, None)
            return names if len({row[1] for row in found}) == len(rows) else {}
    return {}


def _dataset_names(path):
    """{value: name} of nnU-Net's dataset.json; {} where it says none. Regions of several values are left out."""
    content = read_json(path, "nnU-Net's description of a data set")
    labels = content.get("labels") if isinstance(content, dict) else None
    names = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if isinstance(value, str) and key.strip().isdigit():
            key, value = value, int(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and value != BACKGROUND:
            names[value] = key
    return names


_BESIDE = {  # endings behind the name of a label map: the reader of each, which gives {} for other texts
    ".label": _snap_names,
    ".txt": _snap_names,
    "_ColorTable.ctbl": _slicer_names,
    ".ctbl": _slicer_names,
    ".tsv": _bids_names,
}


def write_segmentation_nrrd(
    path: Path | str, labels: np.ndarray, affine: np.ndarray, class_names: list[str | None]
) -> None:
    """Writes labels (X, Y, Z) u8 as a `.seg.nrrd`, atomically: one layer, a segment with name and colour per class; one
    whose name is None has no segment. `affine` (4, 4): voxel -> mm RAS+."""
    import SimpleITK as sitk  # takes 0.2 s

    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.T))  # ITK's arrays are k, j, i
    lps = LPS_TO_RAS @ np.asarray(affine, np.float64)
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection((lps[:3, :3] / spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    fields = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    colours = class_colours(class_names)
    named = [(c, name, colours[c - 1]) for c, name in enumerate(class_names, 1) if name is not None]
    for n, (c, name, colour) in enumerate(named):
        segment = {
            "ID": f"Segment_{c}",
            "Name": str(name),
            "NameAutoGenerated": "0",
            "ColorAutoGenerated": "0",
            "Color": " ".join(f"{value / 255:.6f}" for value in rgb(colour)),
            "LabelValue": str(c),
            "Layer": "0",
            "Extent": extent,
        }
        fields.update({f"Segment{n}_{key}": value for key, value in segment.items()})
    for key, value in fields.items():
        image.SetMetaData(key, value)
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
