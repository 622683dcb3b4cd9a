"""Images that are no label maps are told by their values, each with its own advice; label maps are left alone."""

import json

import nibabel as nib
import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.channels import NotALabelMap, labels_elsewhere
from vecset.imaging.label_map import read_label_map

SHAPE = (24, 24, 24)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def labels(*ids):
    """A cube of each id, (24, 24, 24) i16."""
    values = np.zeros(SHAPE, np.int16)
    for n, value in enumerate(ids):
        values[1 + 3 * n : 4 + 3 * n, 2:22, 2:22] = value
    return values


def scan(low=-1000, high=1500, kind=np.int16):
    return np.random.default_rng(0).integers(low, high, SHAPE).astype(kind)


def refused(path, classes=10, mapping=None):
    with pytest.raises(NotALabelMap) as caught:
        read_label_map(path, classes, mapping)
    return str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        scan(),
        scan(0, 1200),
        scan(0, 256, np.uint8),
        scan(-60, 60),
        scan().astype(np.float32) + 0.25,
        np.random.default_rng(0).normal(300, 90, SHAPE).astype(np.float32),
    ],
    ids=["CT", "MR", "eight bits", "small range", "fractions", "MR as float"],
)
def test_a_scan_is_called_a_scan(values, tmp_path):
    said = refused(write(tmp_path / "heart.nii.gz", values))
    assert "a scan and no label map" in said and said.endswith("give the folder of the label maps")


def test_a_scan_is_no_heart_under_a_mapping_that_drops_other_values(tmp_path):
    """Its voxels with the values 1 to 7 would be structures, the others background."""
    path = write(tmp_path / "heart.nii.gz", scan())
    assert "a scan and no label map" in refused(path, mapping="totalsegmentator_heartchambers")
    assert "a scan and no label map" in refused(path, mapping="mmwhs")


@pytest.mark.parametrize(
    "scan_name, label_name, pattern",
    [
        ("ct_1001_image", "ct_1001_label", "*_label.nii.gz"),
        ("sub-01_ct", "sub-01_dseg", "*_dseg.nii.gz"),
        ("sub-01_T1w", "sub-01_acq-x_dseg", ""),
        ("heart7", "heart7_seg", "*_seg.nii.gz"),
        ("heart7-CT", "heart7-segmentation", "*-segmentation.nii.gz"),
        ("patient001_frame01", "patient001_frame01_gt", "*_gt.nii.gz"),
        ("a", "b", ""),
    ],
)
def test_the_pattern_that_takes_the_label_maps_alone(scan_name, label_name, pattern, tmp_path):
    write(tmp_path / f"{label_name}.nii.gz", labels(1, 2, 3))
    said = refused(write(tmp_path / f"{scan_name}.nii.gz", scan()))
    assert ("--pattern" in said) == bool(pattern)
    if pattern:
        assert said.endswith(f"--pattern '{pattern}'")


@pytest.mark.parametrize("scans, maps", [("imagesTr", "labelsTr"), ("images", "labels"), ("image", "label")])
def test_the_folder_of_the_label_maps_is_named(scans, maps, tmp_path):
    write(tmp_path / maps / "la_007.nii.gz", labels(1, 2, 3))
    assert refused(write(tmp_path / scans / "la_007_0000.nii.gz", scan())).endswith(f"to be in {tmp_path / maps}")


def test_probabilities_and_smooth_masks(tmp_path):
    values = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    said = refused(write(tmp_path / "lv.nii.gz", values))
    assert "probabilities, or a mask that was resampled" in said and "above 0.5" in said


def test_masks_and_the_values_of_known_data_sets(tmp_path):
    said = refused(write(tmp_path / "mask.nii.gz", labels(255)))
    assert "a mask: its only value besides 0 is 255" in said
    (tmp_path / "map.json").write_text(said[said.index("{") :])
    assert set(np.unique(read_label_map(tmp_path / "mask.nii.gz", 10, tmp_path / "map.json").labels)) == {0, 1}
    path = write(tmp_path / "mmwhs.nii.gz", labels(205, 420, 500, 550, 600, 820, 850))
    assert refused(path).endswith("give --label_mapping mmwhs") and "MM-WHS" in refused(path)
    assert set(np.unique(read_label_map(path, 10, "mmwhs").labels)) == set(range(8))


def test_label_maps_are_left_alone(tmp_path):
    def said(values, classes=10, mapping=None):
        path = write(tmp_path / "heart.nii.gz", values)
        with pytest.raises(InputError) as caught:
            read_label_map(path, classes, mapping)
        assert not isinstance(caught.value, NotALabelMap)
        return str(caught.value)

    assert "--classes" in said(labels(1, 2, 3, 4, 5, 6, 7), classes=5)  # and not the preset of the same small numbers
    assert "--classes" in said(labels(1, 2, 13))
    whole_body = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16) % 118
    assert "--classes" in said(whole_body)
    assert "negative labels" in said(labels(-1, 1, 2))
    blurred = labels(1, 2, 3).astype(np.float32)
    blurred[0, 2:22, 2:22] = 0.5
    blurred[3, 2:22, 2:22] = 1.5
    assert "nearest neighbour" in said(blurred)
    many = {str(v): 1 + v % 10 for v in range(1, 401)}  # listed by hand: 400 regions are no scan
    (tmp_path / "map.json").write_text(json.dumps(many))
    regions = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16) % 401
    path = write(tmp_path / "regions.nii.gz", regions)
    assert read_label_map(path, 10, tmp_path / "map.json").labels.max() == 10


def test_nothing_beside_a_scan(tmp_path):
    assert labels_elsewhere(write(tmp_path / "heart.nii.gz", scan())) == ""
