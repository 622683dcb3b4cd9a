"""compare.html without a browser: pairs of hearts, their differences and intervals; what cannot be compared."""

import numpy as np
import pytest
from helpers.report_run import make_run, page_data, page_tables

import reconstruct
from vecset.common.errors import InputError, run_command
from vecset.report.compare import bootstrap_interval, comparison, paired, write_comparison
from vecset.report.figures import read_figures
from vecset.report.page import write_html_report
from vecset.report.render import number

RNG = np.random.default_rng(0)


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
    assert "required: --input" in capsys.readouterr().err


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
