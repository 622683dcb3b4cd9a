"""Pictures: orientation, colours, and the places of what is drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from vecset.imaging.classes import class_colours
from vecset.report.pictures import (
    DIFFERENCE,
    PLANES,
    draw_difference,
    draw_slices,
    foreground_box,
    fullest_index,
    in_plane_mm,
    save_figure,
    spacing_of,
    to_ras,
    write_overview,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_to_ras_keeps_every_voxel_at_its_place(order, flip):
    tilt = np.deg2rad(20)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag(np.array(flip) * (1.0, 2.0, 3.0)))[:, order]
    affine[:3, 3] = (4, -7, 90)
    volume = RNG.integers(0, 9, (4, 5, 6)).astype(np.uint8)
    ras, affine_ras = to_ras(volume, affine)
    axes = affine_ras[:3, :3] / spacing_of(affine_ras)
    assert (np.diag(axes) > 0.9).all()  # right, front, up
    for index in ((0, 0, 0), (1, 2, 3), tuple(n - 1 for n in ras.shape)):
        mm = affine_ras @ (*index, 1)
        source = np.rint(np.linalg.solve(affine, mm)[:3]).astype(int)
        assert ras[index] == volume[tuple(source)]


def rendered(figure, tmp_path):
    save_figure(figure, tmp_path / "p.png", dpi=100)
    return (imread(tmp_path / "p.png")[..., :3] * 255).round().astype(int)


def full_axes(width=2.0, height=2.0):
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0, 0, 1, 1))


def is_colour(pixel, colour):
    return tuple(pixel) == tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize(
    "plane, left, right, upper",
    [
        ("axial", (8, 5, 5), (2, 5, 5), (5, 8, 5)),
        ("coronal", (8, 5, 5), (2, 5, 5), (5, 5, 8)),
        ("sagittal", (5, 8, 5), (5, 2, 5), (5, 5, 8)),
    ],
)
def test_the_patients_right_or_front_is_on_the_left_and_up_is_up(tmp_path, plane, left, right, upper):
    labels = np.zeros((11, 11, 11), np.uint8)
    labels[left], labels[right], labels[upper] = 1, 2, 3
    colours = class_colours(3)
    figure, axes = full_axes(2.2, 2.2)
    draw_slices(axes, labels, plane, 5, colours, (1, 1, 1))
    picture = rendered(figure, tmp_path)
    assert picture.shape[:2] == (220, 220)
    assert is_colour(picture[110, 50], colours[0]) and is_colour(picture[110, 170], colours[1])
    assert is_colour(picture[50, 110], colours[2])


def test_points_fall_on_their_voxels(tmp_path):
    labels = np.zeros((9, 9, 5), np.uint8)
    labels[6, 2, 3] = 1
    spacing_mm = (1.0, 2.0, 3.0)
    figure, axes = full_axes()
    draw_slices(axes, labels, "coronal", 2, ["#FF0000"], spacing_mm)
    axes.plot(*in_plane_mm([[6, 2, 3]], "coronal", spacing_mm).T, "s", color="#0000FF", markersize=3)
    picture = rendered(figure, tmp_path)
    red, blue = (np.argwhere((picture == c).all(-1)).mean(0) for c in ((255, 0, 0), (0, 0, 255)))
    np.testing.assert_allclose(red, blue, atol=1.0)


def test_difference_has_a_colour_for_each_kind(tmp_path):
    truth = np.array([1, 1, 0, 1, 0], np.uint8).reshape(5, 1, 1)
    prediction = np.array([1, 0, 2, 2, 0], np.uint8).reshape(5, 1, 1)
    figure, axes = full_axes(5, 1)
    draw_difference(axes, truth, prediction, "axial", 0, (1, 1, 1))
    row = rendered(figure, tmp_path)[50]
    kinds = [list(DIFFERENCE.values())[k] for k in (0, 1, 2, 3)]
    for colour, x in zip(kinds, (450, 350, 250, 150)):  # index grows to the patient's right, the left of the picture
        assert is_colour(row[x], colour)
    assert sum(row[60]) > 720  # background


def test_the_fullest_slice_and_the_box():
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[2:8, 3:9, 2:12] = 1
    labels[4, 5, 7] = 2
    assert [fullest_index(labels, plane) for plane in PLANES] == [7, 5, 4]
    assert foreground_box(labels).tolist() == [[2, 7], [3, 8], [2, 11]]
    assert foreground_box(labels, margin_mm=4, spacing_mm=(1, 2, 4)).tolist() == [[0, 9], [1, 10], [1, 12]]
    assert foreground_box(np.zeros((3, 4, 5), np.uint8)).tolist() == [[0, 2], [0, 3], [0, 4]]


@pytest.mark.parametrize("classes, hearts", [(3, 3), (10, 1), (41, 2)])
def test_overview_is_written_whole(tmp_path, classes, hearts):
    labels = RNG.integers(0, classes + 1, (20, 24, 10)).astype(np.uint8)
    maps = [
        {"title": f"heart {k}", "truth": labels, "prediction": np.roll(labels, k, 0), "affine": np.diag([1, 1, 2, 1])}
        for k in range(hearts)
    ]
    write_overview(tmp_path / "overview.png", maps, [f"class_{c}" for c in range(classes)], class_colours(classes))
    assert [p.name for p in tmp_path.iterdir()] == ["overview.png"]
    picture = imread(tmp_path / "overview.png")
    assert picture.shape[1] > 1200 and picture[..., :3].std() > 0.1


def test_the_overview_marks_what_is_inferred(tmp_path, monkeypatch):
    """A line in the reconstruction alone, round the structures of that heart; the legend has the words."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:6, 2:10, 2:10], labels[6:10, 2:10, 2:10] = 1, 2
    heart = {"title": "a heart", "truth": labels, "prediction": labels, "affine": np.eye(4)}
    drawn = []
    monkeypatch.setattr("vecset.report.pictures.save_figure", lambda figure, path: drawn.append(figure))
    names, colours = ["LV", "RA", "PA"], class_colours(3)
    write_overview("x.png", [{**heart, "inferred": [2]}, {**heart, "inferred": [2, 3]}], names, colours)
    write_overview("x.png", [{**heart, "inferred": [1, 2]}, heart], names, colours)
    write_overview("x.png", [heart, heart], names, colours)
    words = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in drawn]
    more = [*DIFFERENCE, "line round it: inferred"]
    assert words[0] == ["LV", "RA (inferred)", "PA (inferred in 1 of 2)", *more]
    assert words[1] == ["LV (inferred in 1 of 2)", "RA (inferred in 1 of 2)", "PA", *more]
    assert words[2] == [*names, *DIFFERENCE]
    lines = [[len(axes.collections) for axes in figure.axes] for figure in drawn]
    assert lines[0] == [0, 1, 0] * 6  # the third structure has no voxel
    assert lines[1] == [0, 2, 0, 0, 2, 0, 0, 1, 0] + [0] * 9  # the sagittal slice shows one structure
    assert lines[2] == [0] * 18
    contour = drawn[0].axes[1].collections[0].get_paths()[0].vertices
    assert contour[:, 0].min() == pytest.approx(5.5) and contour[:, 0].max() == pytest.approx(9.5)
    assert contour[:, 1].min() == pytest.approx(1.5) and contour[:, 1].max() == pytest.approx(9.5)
