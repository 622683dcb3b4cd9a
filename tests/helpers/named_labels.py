"""Label maps whose headers name their values, as other programs write them: a toy heart of balls, permuted at will."""

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from vecset.imaging.classes import HEART_CLASSES

SIZE = 24
_CENTRES = ((8, 8, 8), (16, 8, 8), (8, 16, 8), (16, 16, 8), (8, 8, 16), (16, 8, 16), (8, 16, 16), (16, 16, 16))


def balls(classes=5, radius=3.4):
    """(SIZE^3) u8: class c is a ball at the c-th place, 1..classes (at most 8)."""
    index = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1)
    labels = np.zeros((SIZE,) * 3, np.uint8)
    for c, centre in enumerate(_CENTRES[:classes], 1):
        labels[np.linalg.norm(index - centre, axis=-1) < radius] = c
    return labels


def stored_as(labels, names):
    """`labels` of the default classes with the values of a file: names {value: default class name}."""
    stored = np.zeros(labels.shape, np.int16)
    for value, name in names.items():
        stored[labels == HEART_CLASSES.index(name) + 1] = value
    return stored


def write_nifti(path, values, names, xml=None, code=0):
    """`names` {value: name} in an extension, in the form of TotalSegmentator; `xml`: other content of it."""
    image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    labels = "".join(
        f'<Label Key="{value}" Red="1.0" Green="0.0" Blue="0.0" Alpha="1"><![CDATA[{name}]]></Label>\n'
        for value, name in names.items()
    )
    xml = xml or (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
        f'<VolumeInformation Index="0">   <LabelTable>\n{labels}</LabelTable>  <StudyMetaDataLinkSet>  '
        "</StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation></CaretExtension>"
    )
    if names or code:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, xml.encode("utf-8")))
    nib.save(image, path)
    return path


def write_nrrd(path, values, names, **more):
    """`names` {value: name} as segments of 3D Slicer; more: other fields of every segment."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T).astype(np.uint8))
    for i, (value, name) in enumerate(names.items()):
        fields = {"ID": f"Segment_{i + 1}", "Name": name, "LabelValue": str(value), "Layer": "0", **more}
        for key, text in fields.items():
            image.SetMetaData(f"Segment{i}_{key}", text)
    sitk.WriteImage(image, str(path), True)
    return path


def write_layers(path, layers, names, told="layers"):
    """A `.seg.nrrd` with a layer of 0 and 1 for each segment; told: 'layers' or 'neither' their numbers nor values."""
    channels = np.ascontiguousarray(np.stack(layers, -1).transpose(2, 1, 0, 3)).astype(np.uint8)
    image = sitk.GetImageFromArray(channels, isVector=True)
    for i, name in enumerate(names):
        image.SetMetaData(f"Segment{i}_Name", name)
        if told == "layers":
            image.SetMetaData(f"Segment{i}_LabelValue", "1")
            image.SetMetaData(f"Segment{i}_Layer", str(i))
    sitk.WriteImage(image, str(path), True)
    return path
