"""Arrays that are no volume of label values: read where nothing is left to guess, else the advice that is right."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from vecset.common.errors import InputError
from vecset.imaging.channels import as_volume, check_thickness
from vecset.imaging.label_map import read_label_map

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


@pytest.fixture
def labels():
    """(18, 20, 22) u8: nested boxes of the classes 1 to 3, background on the borders."""
    array = np.zeros((18, 20, 22), np.uint8)
    for c in (1, 2, 3):
        array[2 * c : -2 * c, 3 * c : -2 * c, 2 * c : -3 * c] = c
    return array


def one_hot(labels, classes, first=0):
    return np.stack([labels == c for c in range(first, classes + 1)], -1).astype(np.uint8)


def save(path, array):
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def as_components(array, kind):
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True)
    image.SetSpacing((2.0, 2.0, 3.0))
    return image if kind is None else sitk.Cast(image, kind)


def test_one_hot_channels_are_read_as_the_labels_that_they_stand_for(tmp_path, labels):
    plain = read_label_map(save(tmp_path / "plain.nii.gz", labels), 3)
    hot = one_hot(labels, 3)
    for name, array in {
        "channels": hot,
        "vector": hot[:, :, :, None, 1:],
        "scaled": hot * 255,
        "floats": hot.astype(np.float32),
        "no_background": hot[..., 1:],
        "bools": hot.astype(bool).astype(np.int16),
    }.items():
        found = read_label_map(save(tmp_path / f"{name}.nii.gz", array), 3)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.affine, plain.affine)
        words = " ".join(found.notes)
        assert "one-hot" in words and ("is background" in words) == (array.shape[-1] == 4), name
    assert not plain.notes


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_one_hot_components_of_other_formats(tmp_path, labels, suffix):
    for name, array in (("all", one_hot(labels, 3)), ("classes", one_hot(labels, 3, 1))):
        path = tmp_path / f"{name}{suffix}"
        sitk.WriteImage(as_components(array, None), str(path), useCompression=True)
        found = read_label_map(path, 3)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.spacing_mm, (2, 2, 3))
        assert "one-hot" in found.notes[-1]


def test_which_channel_is_background_is_never_guessed(labels):
    hot = one_hot(labels, 3)
    with pytest.raises(InputError, match=r"borders are in channel 4 .*which is background"):
        as_volume("x", np.roll(hot, -1, -1), 3)
    gap = hot.copy()
    gap[9, 9, 9] = 0
    with pytest.raises(InputError, match=r"1 voxels are in none, and channel 1 fills the image's borders"):
        as_volume("x", gap, 3)
    blank = hot.copy()
    blank[..., 0] = 0
    with pytest.raises(InputError, match=r"the first is empty"):
        as_volume("x", blank, 3)
    absent = one_hot(np.where(labels == 1, 0, labels), 3, 1)
    np.testing.assert_array_equal(as_volume("x", absent, 3)[0], np.where(labels == 1, 0, labels))


def test_what_looks_like_something_else_says_so(labels):
    hot, rng = one_hot(labels, 3), np.random.default_rng(0)
    soft = np.exp(4.0 * hot + rng.random(hot.shape))
    soft /= soft.sum(-1, keepdims=True)
    frames = np.stack([labels, np.roll(labels, 1, 0), np.zeros_like(labels)], -1)
    colours = np.array([[0, 0, 0], [200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)[labels]
    masks = np.stack([labels > 0, labels > 1, labels > 2], -1).astype(np.uint8)
    single = np.stack([labels > 0, np.zeros_like(labels)], -1).astype(np.uint8)
    rgb = np.zeros(labels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array, words in {
        "probabilities": (soft, ("class probabilities, with 4 channels;", "numpy.argmax(values, axis=-1)")),
        "single precision": (soft.astype(np.float32), ("class probabilities", "axis=-1")),
        "without background": (soft[..., 1:], ("probabilities, with 3 channels", "values.max(-1) > 0.5")),
        "first axis": (np.moveaxis(hot, -1, 0), ("one-hot, with 4 channels on axis 0", "axis=0", "affine of the scan")),
        "soft first axis": (np.moveaxis(soft, -1, 0), ("probabilities, with 4 channels on axis 0", "axis=0")),
        "frames": (frames, ("3 frames or layers; labels are in 1, 2;", "export one frame")),
        "colours": (colours, ("picture in colours", "export the labels themselves")),
        "structured colours": (rgb, ("picture in colours",)),
        "overlapping masks": (masks, ("3 masks, which overlap in", "--structures", "one frame")),
        "one frame labelled": (single, ("2 masks, of which only one holds voxels",)),
        "five axes": (np.zeros((4, 4, 4, 2, 2), np.uint8), ("5D",)),
        "two axes": (labels[:, :, 9], ("2D with shape (18, 20): one slice", "whole volume")),
        "no voxels": (labels[:0], ("no voxels",)),
    }.values():
        with pytest.raises(InputError) as error:
            as_volume("x.nii.gz", array, 3)
        for word in words:
            assert word in str(error.value)


def test_the_printed_numpy_lines_give_the_labels(labels):
    hot = one_hot(labels, 3).astype(np.float64)
    soft = 0.9 * hot + 0.025
    for array in (soft, np.moveaxis(soft, -1, 0), 0.9 * hot[..., 1:]):
        with pytest.raises(InputError) as error:
            as_volume("x", array, 3)
        line = str(error.value).split("3D image: ")[1].split(", with the affine")[0]
        np.testing.assert_array_equal(eval(line, {"numpy": np, "values": array}), labels)


def test_flat_images_and_flat_labels_get_the_advice_that_fits(labels):
    whole = np.zeros_like(labels)
    voxel, line, sheet, slab, few = (whole.copy() for _ in range(5))
    voxel[9, 9, 9] = 3
    line[2:12, 9, 9] = 3
    sheet[2:12, 3:9, 9] = 3
    slab[2:12, 3:9, 9:11] = 3
    few[2:4, 3:5, 9:11] = 3
    for array, words in {
        "one slice": (labels[:, :, 9:10], "one slice only (18 x 20 x 1 voxels): this is a 2D image or a localiser"),
        "sagittal": (labels[9:10], "one slice only (1 x 20 x 22 voxels)"),
        "two slices": (labels[:, :, 9:11], "2 slices only (18 x 20 x 2 voxels)"),
        "a column": (labels[9:10, 9:10], "no volume (1 x 1 x 22 voxels)"),
        "voxel": (voxel, "a single voxel is labelled, at 9, 9, 9 (i, j, k)"),
        "line": (line, "a line of voxels is all that is labelled (10 x 1 x 1)"),
        "sheet": (sheet, "one slice only is labelled: 10 of 22 along axis k"),
        "slab": (slab, "2 voxels thick along axis k (10 x 6 x 2)"),
        "few": (few, "8 voxels are all that is labelled, in a box of 2 x 2 x 2"),
    }.values():
        with pytest.raises(InputError) as error:
            check_thickness("x", array)
        assert words in str(error.value) and "at least 3 slices" in str(error.value)
    check_thickness("x", labels)
    check_thickness("x", labels[:, :, 9:12])  # three thick slices are a volume


def test_flat_maps_are_told_through_the_reader(tmp_path, labels):
    with pytest.raises(InputError, match="one slice only"):
        read_label_map(save(tmp_path / "slice.nii.gz", labels[:, :, 9:10]), 3)
    with pytest.raises(InputError, match="2D with shape"):
        read_label_map(save(tmp_path / "flat.nii.gz", labels[:, :, 9]), 3)
