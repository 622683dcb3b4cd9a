"""report.html and compare.html without a browser: that what is embedded is what the label maps and tables say."""

import base64
import io
import json
import re
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.report_run import SPACING_MM, heart_labels, make_run, make_training_log, page_data, page_tables, spoiled
from PIL import Image
from skimage.color import rgb2lab

import reconstruct
from vecset.common.errors import InputError, run_command
from vecset.imaging.classes import BACKGROUND_COLOUR, class_colours, rgb
from vecset.imaging.label_map import write_label_map
from vecset.imaging.slice_picture import DIFFERENCE, PLANES, colour_table, difference_kinds, plane_image
from vecset.metrics.overlap import score
from vecset.report import hearts as hearts_module
from vecset.report import tables as report
from vecset.report.charts import ERROR_BANDS, box_chart, error_scale
from vecset.report.compare import bootstrap_interval, comparison, paired, write_comparison
from vecset.report.figures import better, boxes, metric_words, read_figures, status_words, training_curves
from vecset.report.figures import table as figures_table
from vecset.report.hearts import (
    MAX_TRIANGLES,
    class_surfaces,
    heart_content,
    mark_places,
    slices_shown,
    surfaces,
    thin_out,
    triangle_shares,
    typed,
)
from vecset.report.page import REPORT, best_median_worst, read_reconstruction, write_html_report
from vecset.report.pictures import to_ras
from vecset.report.render import ASSETS, number

RNG = np.random.default_rng(0)
ROOT = Path(__file__).resolve().parents[2]


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
        ([BACKGROUND_COLOUR, *DIFFERENCE.values()], 13),
    ],
    ids=["3 classes", "7 classes", "10 classes", "differences"],
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


def numbers(array):
    """The way back from `typed`."""
    return np.frombuffer(base64.b64decode(array["bdata"]), np.dtype(array["dtype"]).newbyteorder("<"))


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


def test_a_reconstruction_on_another_grid_is_brought_to_the_truths(tmp_path):
    from vecset.imaging.label_map import write_label_map

    truth, affine = heart_labels(3)
    fine = np.kron(truth, np.ones((2, 2, 2), np.uint8))
    fine_affine = affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine_affine[:3, 3] -= affine[:3, :3] @ (0.25, 0.25, 0.25)
    (tmp_path / "a").mkdir()
    write_label_map(tmp_path / "a" / "labels.nii.gz", fine, fine_affine)
    labels, back = read_reconstruction(tmp_path, "a", truth, affine)
    assert (labels == truth).mean() > 0.98 and (back == affine).all()
    moved = affine.copy()
    moved[:3, 3] += 3 * affine[:3, 0]  # as many voxels, elsewhere: told from a wrong header by what --spacing notes
    write_label_map(tmp_path / "a" / "labels.nii.gz", np.roll(truth, -3, 0), moved)
    assert (read_reconstruction(tmp_path, "a", truth, affine)[0] != truth).any()
    (tmp_path / "a" / "result.json").write_text('{"made_from": {"spacing_mm": 1.0}}')
    assert (read_reconstruction(tmp_path, "a", truth, affine)[0] == truth).all()


def test_best_median_and_worst():
    assert best_median_worst({"a": 0.1, "b": 0.9, "c": None, "d": 0.5}) == [
        ("best", "b"),
        ("median", "a"),
        ("worst", "c"),
    ]
    assert best_median_worst({"a": 0.1, "b": 0.9}) == [("best", "b"), ("worst", "a")]
    assert best_median_worst({"a": 0.1}) == [("heart", "a")]


def test_words_for_columns():
    assert metric_words("dice") == "Dice" and metric_words("hd95_mm") == "HD95 (mm)"
    assert metric_words("mean_shape_dice") == "Mean shape Dice" and metric_words("nsd_1mm") == "NSD at 1 mm"
    assert [better(m) for m in ("nsd_2mm", "assd_mm", "components")] == [1, -1, 0]


def test_training_curves(tmp_path):
    curves = training_curves(make_training_log(tmp_path))
    assert curves["train"]["global_step"][:3] == [10, 20, 30] and len(curves["train"]["loss"]) == 200
    assert curves["train"]["loss"][49] is None and curves["train"]["loss"][50] == pytest.approx(5 / 510, rel=1e-5)
    assert len(curves["val"]["dice_structure 3"]) == 10
    assert training_curves(tmp_path / "nowhere") is None


def test_report_holds_the_figures_and_asks_for_nothing(tmp_path):
    names = ["LV", "a<b>&</script>", "RA"]
    truths = make_run(tmp_path / "run", 3, names=names)
    path = write_html_report(tmp_path / "run", make_training_log(tmp_path / "train", 3), truths.get)
    assert path == tmp_path / "run" / REPORT
    data = page_data(path)
    figures = read_figures(tmp_path / "run")
    head, *rows = page_tables(path)["means"]
    assert [row[0][-1] for row in rows] == [*names, "mean of classes", "union"]
    dice = rows[1][head.index(["Dice"])]
    assert dice[0] == number(figures["summary"][names[1]]["dice"])
    assert dice[1] == " to ".join(map(number, figures["summary"][names[1]]["dice_ci95"]))
    assert {"hd95_mm", "assd_mm", "nsd_1mm"} <= {m["name"] for m in data["boxes"]["metrics"]}
    assert [c["title"] for c in data["curves"]] == [
        "Loss",
        "Parts of the training loss, unweighted",
        "Validation Dice",
        "Learning rate",
    ]
    assert data["hearts"][0]["case_id"] == "heart_0"
    assert [h["what"] for h in data["hearts"]] == ["best", "median", "worst"]
    statuses = {status for row in data["boxes"]["rows"] for status in row["status"][0]}
    assert "missed" in statuses  # heart_1 lacks its last structure
    text = path.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 3  # no name has ended one
    assert "default-src 'none'" in text
    own = re.sub(r'<script type="[^"]+" id="(data|plotly)">.*?</script>', "", text, flags=re.DOTALL)
    assert len(own) < 60_000 and not re.search(r"https?://", own)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(|@import|url\((?!#)", own)
    assert "/tmp" not in text and str(tmp_path) not in text


def test_words_of_the_page(tmp_path):
    """Stored keys keep their names; the page says resampling limit, spurious, decision tuning."""
    make_run(tmp_path, 3, hearts=2)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    stored["settings"] |= {"calibration": "tuned.json", "remark": "Of <three> hearts."}
    (tmp_path / "metrics.json").write_text(json.dumps(stored))
    path = write_html_report(tmp_path)
    assert ["spurious"] in page_tables(path)["means"][0]
    text = path.read_text(encoding="utf-8")
    assert "<dt>decision tuning</dt><dd>tuned.json</dd>" in text
    assert "<strong>Of &lt;three&gt; hearts.</strong>" in text
    assert report.table_lines(stored)[0] == "Of <three> hearts."
    assert metric_words("floor_dice") == "Resampling limit: Dice" and status_words("invented") == "spurious"
    assert not re.search("noise floor|invented in|calibration", re.sub(r"<script.*?</script>", "", text, flags=re.S))


def test_own_javascript_is_short_and_pages_carry_plotly_once(tmp_path):
    lines = sum(len(p.read_text().splitlines()) for p in ASSETS.glob("*.js"))
    assert lines <= 520
    make_run(tmp_path, 3, hearts=1)
    text = write_html_report(tmp_path).read_text(encoding="utf-8")
    code = text[text.index('id="plotly">') + len('id="plotly">') :].split("</script>")[0]
    assert "* plotly.js v" in zlib.decompress(base64.b64decode(code)).decode()[:200]
    assert text.count(code[:200]) == 1


def test_the_package_ships_what_its_pages_are_made_of():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "vecset.report"
    ]
    folder = ASSETS.parent
    files = {path for path in folder.rglob("*") if path.suffix in (".js", ".css", ".html")}
    assert files == {path for pattern in shipped for path in folder.glob(pattern)} and len(files) > 10


@pytest.mark.parametrize(
    "value, text",
    [(None, "–"), (0.0, "0.000"), (-0.0001, "0.000"), (-1.5, "−1.500"), (12.345, "12.3"), (99.96, "100"), (5, "5.000")],
)
def test_numbers_as_text(value, text):
    assert number(value) == text
    assert number(value, signed=True) == ("+" + text if value in (12.345, 99.96, 5) else text)


def test_box_chart_tells_by_place_filling_and_words(tmp_path):
    make_run(tmp_path, 3, hearts=3)
    figures = read_figures(tmp_path)
    chart = box_chart(boxes([figures, figures], figures["cases"]), ["A: x", "B: y"], class_colours(3))
    rows = [t for t in chart["traces"] if t["type"] == "box"]
    assert len(rows) == 2 * 4 and {t["meta"]["run"] for t in rows} == {0, 1}
    upper, lower = rows[0], rows[1]
    assert upper["y"][0] < lower["y"][0]  # the axis runs downwards
    assert upper["fillcolor"] != lower["fillcolor"] == "rgba(255,255,255,0)"
    crosses = [t for t in chart["traces"] if t["type"] == "scatter"]
    assert [t["marker"]["symbol"] for t in crosses] == ["x-thin"] * 2 and crosses[0]["meta"]["at"] == [(2, 1)]
    label = chart["layout"]["yaxis"]["ticktext"][2]
    assert label.startswith("3  structure 3") and "A: 1 missed; B: 1 missed" in label
    assert "heart_1 (missed)" in rows[4]["text"]


def test_error_scale_grows_in_lightness():
    light = [rgb2lab(np.array([rgb(colour)], float)[None] / 255)[0, 0, 0] for _, colour in error_scale()]
    assert len(set(light)) == ERROR_BANDS and light == sorted(light)  # read without its colours, too


def test_report_without_a_truth_or_a_training_run(tmp_path):
    make_run(tmp_path, 3, hearts=1)
    data = page_data(write_html_report(tmp_path))
    assert data["curves"] == [] and data["hearts"][0]["sides"] == ["reconstruction"]
    assert [s["name"] for s in data["hearts"][0]["planes"][0]["strips"]] == ["reconstruction"]
    assert data["hearts"][0]["surfaces"]["sides"][0][0]["error"] is None


def test_a_report_of_many_structures_is_small(tmp_path):
    truths = make_run(tmp_path, 41, hearts=4)
    size = write_html_report(tmp_path, None, truths.get).stat().st_size
    assert size < 6e6
    data = page_data(tmp_path / REPORT)
    for heart in data["hearts"]:
        for side in heart["surfaces"]["sides"]:
            assert 0 < sum(len(numbers(s["i"])) for s in side) <= MAX_TRIANGLES


def test_comparison_pairs_the_hearts(tmp_path):
    truths = make_run(tmp_path / "first" / "out", 3, hearts=5)
    make_run(tmp_path / "second" / "out", 3, hearts=4, extra=1)
    path = write_comparison(tmp_path / "first" / "out", tmp_path / "second" / "out", tmp_path, truths.get)
    data = page_data(path)
    runs = [read_figures(tmp_path / name / "out") for name in ("first", "second")]
    assert data["runs"] == ["A: first/out", "B: second/out"]
    assert data["boxes"]["cases"] == [f"heart_{k}" for k in range(4)]
    assert "1 of A: first/out" in path.read_text()
    rows = comparison(runs, data["boxes"]["cases"])["rows"]
    pairs = [[run["rows"][case, 1]["dice"] for run in runs] for case in data["boxes"]["cases"]]
    found = rows[0]["values"]["dice"]
    assert found["pairs"] == 4 and found["difference"] == pytest.approx(np.mean([y - x for x, y in pairs]))
    assert found["a"] == pytest.approx(np.mean([x for x, _ in pairs]))
    assert found["lower"] == sum(y < x for x, y in pairs)
    assert [r["name"] for r in rows][-2:] == ["mean of classes", "union"]
    mean = rows[-2]["values"]["dice"]
    assert mean["difference"] == pytest.approx(np.mean([r["values"]["dice"]["difference"] for r in rows[:3]]))
    shown = page_tables(path)["dice"]
    assert [row[0][-1] for row in shown[1:]] == [r["name"] for r in rows]
    assert shown[1][1:4] == [[number(found["a"])], [number(found["b"])], [number(found["difference"], True)]]
    assert shown[1][5] == ["▼ worse"] and shown[1][6:] == [[str(found["higher"])], [str(found["lower"])], ["0"], ["4"]]
    hd95 = page_tables(path)["hd95_mm"][1]
    assert hd95[5] == ["▼ worse"] and hd95[3][0].startswith("+")  # larger is worse there
    heart = data["hearts"][0]
    assert heart["sides"] == ["truth", "A: first/out", "B: second/out"] and len(heart["mean_dice"]) == 2
    assert [s["of"] for s in heart["planes"][0]["strips"]] == ["classes"] * 3 + ["difference"] * 2


def test_the_command_compares_two_folders(tmp_path, capsys):
    for name in ("a", "b"):
        make_run(tmp_path / name, 3, hearts=1)
    command = ["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(tmp_path / "c")]
    assert reconstruct.main(command) == 0
    assert (tmp_path / "c" / "compare.html").is_file() and "compare.html" in capsys.readouterr().out
    command[1] = str(tmp_path / "nowhere")
    assert run_command(lambda argv: reconstruct.main(command)) != 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(SystemExit):
        reconstruct.main(["--output_dir", str(tmp_path)])
    assert "--checkpoint, --input" in capsys.readouterr().err


def test_comparison_without_truth_says_so(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, 3, hearts=2, extra=name == "b")
    data = page_data(write_comparison(tmp_path / "a", tmp_path / "b", tmp_path))
    assert "not where the runs had it (nowhere)" in (tmp_path / "compare.html").read_text()
    assert list(data["difference"]) == ["same", "in A: a only", "in B: b only", "another structure"]
    assert [s["name"] for s in data["hearts"][0]["planes"][0]["strips"]] == ["A: a", "B: b", "difference"]


def test_what_cannot_be_compared_or_reported(tmp_path):
    make_run(tmp_path / "three", 3, hearts=1)
    make_run(tmp_path / "four", 4, hearts=1)
    make_run(tmp_path / "other", 3, hearts=1)
    for name in ("metrics.csv", "metrics.json"):
        path = tmp_path / "other" / name
        path.write_text(path.read_text().replace("heart_0", "heart_9"))
    with pytest.raises(InputError, match="four.*classes"):
        write_comparison(tmp_path / "three", tmp_path / "four", tmp_path)
    with pytest.raises(InputError, match="no heart in common"):
        write_comparison(tmp_path / "three", tmp_path / "other", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        write_html_report(tmp_path)
    (tmp_path / "three" / "metrics.csv").write_text("case_id,class_id\n1,2\n")
    with pytest.raises(InputError, match="metrics.csv"):
        write_html_report(tmp_path / "three")


def test_paired_and_its_interval():
    a, b = np.array([1, 2, np.nan, 4.0]), np.array([2, 2, 5, 3.0])
    found = paired(a, b)
    assert (found["pairs"], found["higher"], found["lower"], found["equal"]) == (3, 1, 1, 1)
    assert found["difference"] == pytest.approx(0) and found["a"] == pytest.approx(7 / 3)
    assert paired(np.array([np.nan]), np.array([1.0]))["difference"] is None
    values = RNG.normal(3, 1, 200)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(200)  # what theory says of many values
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)
    assert bootstrap_interval(values[:1]) is None


def test_the_resampling_limit_stands_beside_every_figure(tmp_path):
    """In the rows, in the means and on the page; for every figure that has one."""
    truth, affine = heart_labels(3)
    names = ["a", "b", "c"]
    scores, floor = (score(truth, spoiled(truth, by), names, spacing_mm=SPACING_MM) for by in (3, 1))
    rows = report.table_rows("h", scores, floor=floor)
    report.write_csv(tmp_path / "metrics.csv", rows)
    report.write_json(tmp_path / "metrics.json", report.report(rows, {"h": {"mean_dice": 0.5}}, {}))
    (tmp_path / "h").mkdir()
    write_label_map(tmp_path / "h" / "labels.nii.gz", spoiled(truth, 3), affine, names)
    page = page_tables(write_html_report(tmp_path, None, lambda case: (truth, affine)))["means"]
    table = figures_table(read_figures(tmp_path))
    with_floor = [
        k
        for k, c in enumerate(table["columns"])
        if not c["name"].startswith("truth_") and c["name"] not in ("absolute_volume_error", "true_components")
    ]
    assert {table["columns"][k]["name"] for k in with_floor} >= {
        "dice",
        "iou",
        "hd95_mm",
        "assd_mm",
        "nsd_1mm",
        "nsd_2mm",
        "volume_ml",
        "components",
        "euler_number",
    }
    for row, expected in zip(table["rows"], floor[:3]):
        for k in with_floor:
            name = table["columns"][k]["name"]
            assert row["cells"][k]["floor"] == pytest.approx(expected[name]), name
            shown = page[table["rows"].index(row) + 1][k + 1]
            assert f"limit {number(row['cells'][k]['floor'])}" in shown, name
    assert table["rows"][0]["cells"][0]["floor"] > table["rows"][0]["cells"][0]["mean"]


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


def test_every_loss_has_its_curve():
    from vecset.engines.losses import LOSSES
    from vecset.report.charts import LOSS_PARTS

    assert LOSS_PARTS == LOSSES
