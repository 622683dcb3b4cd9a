"""report.html without a browser: that what is embedded is what the label maps and tables say."""

import base64
import json
import re
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.report_run import (
    SPACING_MM,
    heart_labels,
    make_run,
    make_training_log,
    numbers,
    page_data,
    page_tables,
    spoiled,
)

from vecset.imaging.classes import class_colours
from vecset.imaging.label_map import write_label_map
from vecset.metrics.overlap import score
from vecset.report import tables as report
from vecset.report.charts import box_chart
from vecset.report.figures import better, boxes, metric_words, read_figures, status_words, training_curves
from vecset.report.figures import table as figures_table
from vecset.report.hearts import MAX_TRIANGLES
from vecset.report.page import REPORT, best_median_worst, read_reconstruction, write_html_report
from vecset.report.render import ASSETS, number

ROOT = Path(__file__).resolve().parents[2]


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


def test_every_loss_has_its_curve():
    from vecset.engines.losses import LOSSES
    from vecset.report.charts import LOSS_PARTS

    assert LOSS_PARTS == LOSSES
