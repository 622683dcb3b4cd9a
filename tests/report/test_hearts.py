"""What the pages show of hearts: surfaces, errors, slices, marks and colours, against label maps and known shapes."""

import base64
import io

import numpy as np
import pytest
from helpers.report_run import SPACING_MM, heart_labels, numbers, spoiled
from PIL import Image
from skimage.color import rgb2lab

from vecset.imaging.classes import BACKGROUND_COLOUR, HEART16_CLASSES, class_colours, rgb
from vecset.imaging.slice_picture import DIFFERENCE, PLANES, colour_table, difference_kinds, plane_image
from vecset.report import hearts as hearts_module
from vecset.report.charts import ERROR_BANDS, error_scale
from vecset.report.hearts import (
    class_surfaces,
    heart_content,
    mark_places,
    slices_shown,
    surfaces,
    thin_out,
    triangle_shares,
    typed,
)
from vecset.report.pictures import to_ras

RNG = np.random.default_rng(0)


# Machado and others 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency": linear RGB seen
# without the first, second, third kind of cone
NO_CONE = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("lacks", NO_CONE)
@pytest.mark.parametrize(
    "colours, least",
    [
        (class_colours(3), 20),
        (class_colours(7), 15),
        (class_colours(10), 10),
        (class_colours(HEART16_CLASSES), 10),
        ([BACKGROUND_COLOUR, *DIFFERENCE.values()], 13),
    ],
    ids=["3 classes", "7 classes", "10 classes", "16 classes", "differences"],
)
def test_colour_blind_people_tell_the_colours_apart(lacks, colours, least):
    """The smallest distance between two of the colours in Lab (about 2.3 is just noticed by the normal eye)."""
    light = colour_table(colours[1:], colours[0]) / 255
    linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4) @ np.transpose(NO_CONE[lacks])
    linear = linear.clip(0, 1)
    seen = rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[None])[0]
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(colours), 1)]
    assert distance.min() > least


def test_forty_one_structures_have_a_colour_each():
    assert len(set(class_colours(41)) | {BACKGROUND_COLOUR}) == 42  # the page reads the structure from it


@pytest.mark.parametrize("dtype, low, high", [("i2", -(2**15), 2**15), ("u2", 0, 2**16), ("u4", 0, 2**32)])
def test_whole_numbers_come_back(dtype, low, high):
    values = RNG.integers(low, high, 500)
    array = typed(values.astype(float), dtype)
    assert array["dtype"] == dtype
    np.testing.assert_array_equal(numbers(array), values)


def surface(structure, surfaces):
    """vertices (V, 3) in mm, faces (F, 3) and errors (V,) in mm or None, as the page reads them."""
    steps = np.stack([numbers(structure[axis]) for axis in "xyz"], axis=1)
    error = structure["error"] and numbers(structure["error"]) * surfaces["error_step_mm"]
    faces = np.stack([numbers(structure[corner]) for corner in "ijk"], axis=1).astype(int)
    return surfaces["middle_mm"] + steps * surfaces["step_mm"], faces, error


def ball(radius_mm, spacing_mm=SPACING_MM, centre_mm=(5, -8, 30), flip=-1):
    affine = np.diag([flip * spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
    shape = np.ceil(2 * (radius_mm + 6) / np.array(spacing_mm)).astype(int)
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((shape - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    offset_mm = index @ affine[:3, :3].T + affine[:3, 3] - centre_mm
    return (np.linalg.norm(offset_mm, axis=-1) < radius_mm).astype(np.uint8), affine


@pytest.mark.parametrize("flip", [1, -1])
def test_surfaces_lie_in_the_patient_and_face_outward(flip):
    labels, affine = ball(15, flip=flip)
    ((c, (vertices, faces)),) = class_surfaces(labels, affine).items()
    assert c == 1
    radius_mm = np.linalg.norm(vertices - (5, -8, 30), axis=1)
    assert abs(radius_mm.mean() - 15) < 0.2 and radius_mm.std() < 0.4
    a, b, d = (vertices[faces[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, d)).sum() / 6
    assert abs(volume / (4 / 3 * np.pi * 15**3) - 1) < 0.05
    assert class_surfaces(np.zeros_like(labels), affine) == {}


def test_the_error_is_the_distance_to_the_other_surface_and_none_where_there_is_no_other():
    small, _affine = ball(12, (1, 1, 1))
    large = np.zeros_like(small)
    inner = ball(15, (1, 1, 1))[0]
    low = [(n - m) // 2 for n, m in zip(inner.shape, small.shape)]
    truth = np.zeros_like(inner)
    truth[tuple(slice(a, a + n) for a, n in zip(low, small.shape))] = small
    large, prediction_affine = inner.copy(), ball(15, (1, 1, 1))[1]
    large[1:3, 1:3, 1:3] = 2  # not in the truth
    content = heart_content({}, truth, {"reconstruction": large}, prediction_affine, class_colours(2))["surfaces"]
    for side, structures in enumerate(content["sides"]):
        for s in structures:
            vertices, faces, error = surface(s, content)
            assert faces.min() == 0 and faces.max() == len(vertices) - 1
            assert (vertices >= np.array(content["low_mm"]) - 0.02).all()
            assert (vertices <= np.array(content["high_mm"]) + 0.02).all()
            if s["class"] == 2:
                assert side == 1 and error is None
            else:
                assert abs(error.mean() - 3) < 0.15 and error.max() < 4
                assert abs(np.linalg.norm(vertices - (5, -8, 30), axis=1).mean() - (12, 15)[side]) < 0.2
    assert content["scale_mm"] == 4  # the round number above 95 % of errors of about 3 mm


def test_a_heart_wider_than_16_bits_reach_keeps_its_places():
    labels, affine = ball(30, (5, 5, 5))
    content = surfaces({"truth": labels}, affine @ np.diag([30, 30, 30, 1]))
    vertices, _, error = surface(content["sides"][0][0], content)
    assert error is None and content["step_mm"] > 0.02
    assert np.ptp(vertices, axis=0) == pytest.approx([1800] * 3, rel=0.1)


def test_large_surfaces_are_thinned_and_small_ones_are_not():
    assert triangle_shares({1: 10, 2: 500, 3: 900}, 700) == {1: 10, 2: 345, 3: 345}
    assert triangle_shares({1: 10, 2: 500, 3: 900}, 1000) == {1: 10, 2: 495, 3: 495}
    assert triangle_shares({1: 10, 2: 500}, 700) == {1: 10, 2: 500}
    labels, affine = ball(30, (1, 1, 1))
    vertices, faces = class_surfaces(labels, affine)[1]
    assert thin_out(vertices, faces, len(faces))[1] is faces
    thin, kept = thin_out(vertices, faces, 4000)
    assert 3000 < len(kept) <= 4000 < len(faces) and kept.max() == len(thin) - 1
    radius_mm = np.linalg.norm(thin - (5, -8, 30), axis=1)
    assert abs(radius_mm.mean() - 30) < 0.2 and np.abs(radius_mm - 30).max() < 1
    edges = np.sort(np.concatenate([kept[:, [0, 1]], kept[:, [1, 2]], kept[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).mean() > 0.999  # closed
    a, b, d = (thin[kept[:, k]] for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, d)).sum() / 6 > 0.97 * 4 / 3 * np.pi * 30**3  # and outward


def test_marks_stand_in_the_widest_place_of_each_region():
    values = np.zeros((20, 30), np.uint8)
    values[2:11, 3:12] = 4
    values[2:5, 20:29] = 4
    values[12:19, 2:9] = 2
    values[12:19, 9:20] = 3
    values[5, 25] = 1  # a single pixel has no room
    assert mark_places(values) == [[7, 6, 5, 4], [5, 15, 4, 2], [14, 15, 4, 3], [24, 3, 2, 4]]
    assert mark_places(np.zeros((4, 4), np.uint8)) == []


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_strips_are_the_slices_of_the_label_maps():
    truth, affine = heart_labels(4)
    prediction = spoiled(truth, 2)
    content = heart_content({"case_id": "x"}, truth, {"reconstruction": prediction}, affine, class_colours(4))
    assert content["case_id"] == "x" and content["sides"] == ["truth", "reconstruction"]
    volumes = [to_ras(v, affine)[0] for v in (truth, prediction)]
    tables = colour_table(class_colours(4)), colour_table(DIFFERENCE.values())
    for plane in content["planes"]:
        axis = PLANES[plane["name"]]
        assert [s["name"] for s in plane["strips"]] == ["truth", "reconstruction", "difference"]
        assert len(plane["at_mm"]) == 24 and all(np.diff(plane["at_mm"]) > 0)
        shown = np.stack([pixels(s["png"]).reshape(24, plane["height"], plane["width"], 3) for s in plane["strips"]])
        whole = [np.stack([plane_image(v, plane["name"], k) for k in range(v.shape[axis])]) for v in volumes]
        expected = [tables[0][whole[0]], tables[0][whole[1]], tables[1][difference_kinds(*whole)]]
        for k in (0, plane["start"], 23):  # the slice is one of the volume's, with the background round it cut away
            found = [
                n
                for n in range(len(whole[0]))
                if all(
                    shown[j, k][(shown[j, k] != tables[0][0]).any(-1)].shape
                    == expected[j][n][(expected[j][n] != tables[0][0]).any(-1)].shape
                    and (
                        shown[j, k][(shown[j, k] != tables[0][0]).any(-1)]
                        == expected[j][n][(expected[j][n] != tables[0][0]).any(-1)]
                    ).all()
                    for j in range(3)
                )
            ]
            assert found


def test_slices_shown_spread_over_the_foreground_and_hold_the_fullest():
    volume = np.zeros((100, 5, 5), np.uint8)
    volume[10:90] = 1
    shown = slices_shown([volume], 0, 41)
    assert len(shown) == 24 and shown[0] == 10 and shown[-1] == 89 and 41 in shown
    assert slices_shown([volume], 1, 2) == [0, 1, 2, 3, 4]


def test_large_grids_are_shown_by_every_nth_voxel(monkeypatch):
    monkeypatch.setattr(hearts_module, "MAX_PIXELS", 20)
    truth, affine = heart_labels(3)
    content = heart_content({}, truth, {"reconstruction": truth}, affine, class_colours(3))
    for plane in content["planes"]:
        assert plane["stride"] > 1 and max(plane["width"], plane["height"]) <= 20
        assert pixels(plane["strips"][0]["png"]).shape[0] == plane["height"] * len(plane["at_mm"])


def test_error_scale_grows_in_lightness():
    light = [rgb2lab(np.array([rgb(colour)], float)[None] / 255)[0, 0, 0] for _, colour in error_scale()]
    assert len(set(light)) == ERROR_BANDS and light == sorted(light)  # read without its colours, too


def test_the_quality_check_draws_with_the_same_code_and_colours():
    """A slice of its pictures, of the overview and of the page: pixel for pixel the same."""
    from matplotlib.figure import Figure

    from vecset.report import pictures, quality_pictures

    labels, affine = heart_labels(10)
    colours = class_colours(10)
    assert quality_pictures.draw_slices is pictures.draw_slices and quality_pictures.class_colours is class_colours
    content = heart_content({}, labels, {"reconstruction": spoiled(labels, 1)}, affine, colours)
    turned = [to_ras(volume, affine)[0] for volume in (labels, spoiled(labels, 1))]
    box = pictures.foreground_box(*turned, margin_mm=hearts_module.MARGIN_MM, spacing_mm=SPACING_MM)
    truth, other = (volume[tuple(slice(first, last + 1) for first, last in box)] for volume in turned)
    for plane in content["planes"]:
        height, index = plane["height"], pictures.fullest_index(truth, plane["name"])
        for strip in (0, 2):
            axes = Figure().add_subplot()
            if strip == 0:
                pictures.draw_slices(axes, truth, plane["name"], index, colours, SPACING_MM)
            else:
                pictures.draw_difference(axes, truth, other, plane["name"], index, SPACING_MM)
            start = plane["start"] * height
            shown = pixels(plane["strips"][strip]["png"])[start : start + height]
            np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), shown)
