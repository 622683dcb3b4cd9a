"""benchmarks/networks.py: the rule of decision, the tables, what counts as spent, a whole comparison of toy size."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import cpu_time  # noqa: E402
import networks  # noqa: E402
import networks_figures as results  # noqa: E402
import networks_page as page  # noqa: E402
import networks_sets as sets  # noqa: E402

from vecset.common.errors import InputError  # noqa: E402
from vecset.engines.argument_checks import check_arguments  # noqa: E402
from vecset.engines.arguments import parse_arguments  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.pipeline.options import flags  # noqa: E402


def figures(dice, coronary, hearts=("a", "b")):
    return {
        "dice": dice,
        "coronary": coronary,
        "union": 0.95,
        "classes": dict.fromkeys(HEART_CLASSES, dice),
        "hd95_mm": 2.25,
        "union_hd95_mm": 1.5,
        "missed": 0,
        "components": 0.875,
        "coronary_components": 0.5,
        "hearts": dict.fromkeys(hearts, dice),
        "cpu_s": 60.0,
    }


def fake_row(network="A", seed=0, dice=0.8, coronary=0.5, name="small", failure=None, **more):
    return {
        "set": name,
        "network": network,
        "seed": seed,
        "settings": sets.settings_of(sets.SETS[name], network),
        "date": "2026-11-27",
        "commit": "abc",
        "machine": "a machine",
        "torch": "2.13",
        "epochs": 90,
        "steps": 720,
        "starts": 1,
        "cost": {"cpu_s_per_step": 1.0},
        "wall_s": 400.0,
        "cpu_s": 740.0,
        "train_cpu_s": 720.0,
        "cpu_s_per_step": 1.0,
        "parameters": 1234567,
        "numbers": [256, 19],
        "decode_cpu_s": 5.25,
        "gap_voxels": 12.0,
        **({"failure": failure} if failure else {}),
        "plain": None if failure else figures(dice, coronary),
        "tuned": None if failure else figures(dice + 0.01, coronary + 0.1),
        **more,
    }


def small_rows(**dices):
    """Both seeds of all five; dices: {network: (mean Dice, coronary)}."""
    found = {"A": (0.80, 0.50), "B": (0.70, 0.50), "C": (0.75, 0.5), "D": (0.7, 0.5), "D'": (0.7, 0.5), **dices}
    return [
        fake_row(network, seed, dice + (0.001 if seed else -0.001), coronary)
        for (network, (dice, coronary)), seed in itertools.product(found.items(), (0, 1))
    ]


def large_rows(**dices):
    return [
        fake_row(network, seed, *values, name="large")
        for (network, values), seed in itertools.product(dices.items(), (0, 1, 2))
    ]


def decide(*rows):
    return page.verdict([row for part in rows for row in part], sets.SETS)


def test_nothing_is_decided_before_every_row_is_there():
    assert decide() == "not decided: the comparison has 0 of 16 rows"
    small = small_rows()
    assert decide(small[:-1]) == "not decided: the comparison has 9 of 16 rows"
    assert decide(small, large_rows(A=(0.8, 0.5), C=(0.9, 0.7))[:-1]) == "not decided: the comparison has 15 of 16 rows"
    of_others = large_rows(B=(0.9, 0.7), D=(0.9, 0.7))  # not the best two: they do not count
    assert decide(small, of_others) == "not decided: the comparison has 10 of 16 rows"


@pytest.mark.parametrize(
    ("theirs", "wins"),
    [
        ((0.8100, 0.500), True),
        ((0.8099, 0.500), False),
        ((0.8000, 0.530), True),
        ((0.8000, 0.529), False),
        ((0.8200, 0.471), True),
        ((0.8200, 0.470), False),  # loses by as much in the other
        ((0.7901, 0.600), True),
        ((0.7900, 0.600), False),
    ],
)
def test_a_network_wins_by_the_margins_and_not_by_less(theirs, wins):
    words = decide(small_rows(), large_rows(A=(0.80, 0.50), C=theirs))
    assert words.startswith("C (part latents) becomes" if wins else "A (joint) stays")


def test_where_a_is_not_among_the_best_two_the_small_set_compares_with_it():
    small = small_rows(B=(0.85, 0.5), D=(0.87, 0.5))
    words = decide(small, large_rows(B=(0.92, 0.6), D=(0.91, 0.6)))
    assert words.startswith("B (per class) becomes") and "+0.050 in mean Dice" in words
    small = small_rows(B=(0.805, 0.5), D=(0.806, 0.5))
    assert decide(small, large_rows(B=(0.92, 0.6), D=(0.91, 0.6))).startswith("A (joint) stays")
    with_a = large_rows(A=(0.90, 0.6), B=(0.92, 0.6), D=(0.91, 0.6))
    assert decide(small, with_a).startswith("B (per class) becomes")


def test_a_network_that_diverged_is_a_row_and_never_wins():
    small = small_rows()
    small[2] = fake_row("B", 0, failure="a loss or gradient was not finite")
    assert page.ranking(small, sets.SETS["small"])[-1] == "B"
    assert decide(small, large_rows(A=(0.8, 0.5), C=(0.9, 0.5))).startswith("C (part latents)")
    assert any("not finite" in line for line in page.table_lines(small, sets.SETS))


def test_tables_hold_every_row_and_their_columns_fit():
    rows = [*small_rows(), *large_rows(C=(0.9, 0.6))]
    rows[0]["plain"]["overlap_voxels"] = 1500.0
    lines = page.table_lines(rows, sets.SETS)
    tables = [list(of) for is_table, of in itertools.groupby(lines, lambda line: line.startswith("|")) if is_table]
    assert [len(t) - 2 for t in tables] == [5, 10, 1, 3]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    cells = [cell.strip() for cell in tables[0][2].split("|")[1:-1]]
    assert cells[:3] == ["**A** joint", "0 1", "0.800 (0.799, 0.801)"] and "88 %" in cells and "256 x 19" in cells
    assert "-" in cells, "one seed alone has overlaps: no mean is invented"
    assert page.table_lines([], sets.SETS) == ["No row yet."]


def test_of_two_rows_the_later_counts_and_a_cut_last_line_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(fake_row("A", 0, dice)) + "\n" for dice in (0.1, 0.2)) + '{"set": "sm')
    assert [row["plain"]["dice"] for row in page.read_rows(path, tmp_path / "none")] == [0.2]
    path.write_text('{"set"\n' + json.dumps(fake_row()) + "\n")
    with pytest.raises(ValueError):
        page.read_rows(path)


@pytest.fixture
def docs(tmp_path):
    """A root with the page and without rows."""
    for name in ("docs", "benchmarks", "out"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "docs" / "networks.md", tmp_path / "docs")
    return tmp_path


def test_the_page_gets_verdict_and_rows_and_keeps_its_words(docs):
    rows = [fake_row("A", 0), fake_row("C", 0, settings="other"), fake_row("B", 0, name="tiny")]
    (docs / "out" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = page.write_page(docs / "out", sets.SETS, sets.settings_of_sets(), docs)
    assert "1 rows; 1 made with other settings left out" in told
    text, before = ((root / "docs" / "networks.md").read_text() for root in (docs, ROOT))
    assert text.startswith("# Which network: not decided: the comparison has 1 of 16 rows\n")
    assert "a machine, torch 2.13, commit abc, 2026-11-27" in text
    words = [re.sub(r"<!-- rows -->.*<!-- end of rows -->|\A# .*?$", "", t, flags=re.S | re.M) for t in (text, before)]
    assert words[0] == words[1]
    # rows from elsewhere stay, and writing it again changes nothing
    (docs / "out" / "rows.jsonl").unlink()
    page.write_page(docs / "out", sets.SETS, sets.settings_of_sets(), docs)
    assert (docs / "docs" / "networks.md").read_text() == text


def test_the_committed_page_shows_the_committed_rows(docs):
    kept = ROOT / "benchmarks" / "networks.jsonl"
    rows = page.read_rows(kept)
    current = sets.settings_of_sets()
    assert [r for r in rows if current[r["set"], r["network"]] != r["settings"]] == [], "rows of other settings"
    if kept.is_file():
        shutil.copy(kept, docs / "benchmarks")
    page.write_page(docs / "out", sets.SETS, current, docs)
    assert (docs / "docs" / "networks.md").read_text() == (ROOT / "docs" / "networks.md").read_text()


@pytest.mark.parametrize("network", page.NETWORKS)
def test_all_networks_train_alike_and_their_learning_rate_reaches_its_end(network):
    of_a = sets.training_options(sets.SETS["small"], "A", 3, 50)
    ours = sets.training_options(sets.SETS["small"], network, 3, 50)
    assert ours == {**of_a, **page.NETWORKS[network].flags}
    assert (ours["epochs"], ours["eval_every"], ours["warmup_epochs"], ours["seed"]) == (50, 50, 2, 3)
    args = parse_arguments(["--data_path", "cases", "--output_dir", "train", *flags(ours)])
    check_arguments(args)
    assert args.max_minutes is None and args.max_steps is None


def test_settings_tell_sets_networks_and_budgets_apart():
    small = sets.SETS["small"]
    found = [sets.settings_of(sets.SETS[n], network) for n in ("small", "large") for network in page.NETWORKS]
    found.append(sets.settings_of(replace(small, budget_s=700.0), "A"))
    assert len(set(found)) == len(found)
    assert sets.settings_of(replace(small, seeds=(5,)), "A") == sets.settings_of(small, "A")


def test_what_all_starts_used_is_added_up():
    whole = {"wall_s": 60.0, "cpu_s": 110.0, "code": 0, "from": 0, "first": [10, 20.0], "last": [90, 100.0]}
    assert results.told_of([whole], 96) == {
        "steps": 96,
        "steps_done_again": 0,
        "starts": 1,
        "wall_s": 60.0,
        "cpu_s": 110.0,
        "train_cpu_s": 96.0,
        "cpu_s_per_step": 1.0,
    }
    stopped = {"wall_s": 10.0, "cpu_s": 56.0, "code": 130, "from": 0, "first": [10, 20.0], "last": [40, 50.0]}
    later = {"wall_s": 20.0, "cpu_s": 70.0, "code": 0, "from": 43, "first": [50, 15.0], "last": [90, 55.0]}
    found = results.told_of([stopped, later], 96)
    assert (found["steps_done_again"], found["starts"], found["wall_s"], found["cpu_s"]) == (0, 2, 30.0, 126.0)
    killed = {**stopped, "code": None}
    after = {**later, "from": 30, "first": [40, 15.0], "last": [90, 65.0]}
    found = results.told_of([killed, after], 96)
    assert found["steps_done_again"] == 10 and found["train_cpu_s"] == 106.0
    early = {"wall_s": 1.0, "cpu_s": 2.0, "code": 130, "from": 0, "first": None, "last": None}
    assert results.told_of([early, whole], 96)["cpu_s"] == 112.0


def test_costs_are_measured_in_turn_and_the_cheapest_round_counts(tmp_path, monkeypatch):
    comparison = replace(sets.SETS["small"], rounds=3, budget_s=100.0)
    run, asked = networks.Run(comparison, tmp_path), []
    run.folder.mkdir()
    prices = {"A": iter((1.2, 1.0, 1.1)), "C": iter((2.0, 2.0, 2.5))}

    def measure(network):
        asked.append(network)
        if network == "B":
            raise InputError.because("log", "it broke")
        if asked == ["A", "B", "C", "A"]:
            raise KeyboardInterrupt
        return {"cpu_s_per_step": next(prices[network]), "steps_per_epoch": 8}

    monkeypatch.setattr(run, "measure_steps", measure)
    with pytest.raises(KeyboardInterrupt):
        run.costs(["A", "B", "C"])
    found = run.costs(["A", "B", "C"])  # goes on with what is there
    assert asked == ["A", "B", "C", "A", "B", "A", "C", "A", "C"]
    assert {n: found[n]["cpu_s_per_step"] for n in "AC"} == {"A": 1.0, "C": 2.0}
    assert {n: found[n]["epochs"] for n in "AC"} == {"A": 12, "C": 6}  # of 8 steps: 96 and 96 CPU seconds
    assert "it broke" in str(found["B"])
    assert run.costs(["A"])["A"] == found["A"] and len(asked) == 9


def test_cpu_seconds_are_those_of_the_whole_family(tmp_path):
    """Parent and child burn known CPU times; both are counted, while they run and at the end."""
    burn = "import time\nwhile time.process_time() < {s}: pass\nprint('burnt', flush=True)\n"
    (tmp_path / "child.py").write_text(burn.format(s=0.6) + "import sys; sys.stdin.read()")
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, {str(tmp_path / 'child.py')!r}], stdin=subprocess.PIPE)\n"
        + burn.format(s=0.4)
        + "p.communicate(b'')\n"
    )
    seen = []
    child = cpu_time.Child([sys.executable, tmp_path / "parent.py"], tmp_path / "log")
    ended = child.wait(lambda line, child: seen.append(child.cpu_s()))
    assert len(seen) == 2 and 0.97 <= seen[-1] <= ended.cpu_s + 0.03 and ended.cpu_s >= 0.99
    assert ended.code == 0 and not ended.stopped and (tmp_path / "log").read_text() == "burnt\nburnt\n"


def test_a_command_that_fails_is_one_line_with_its_last_words(tmp_path):
    (tmp_path / "bad.py").write_text("print('error: no such heart'); raise SystemExit(2)")
    with pytest.raises(InputError, match=r"bad.py ended with exit code 2: error: no such heart; see"):
        cpu_time.run([tmp_path / "bad.py"], tmp_path / "log")


def test_gaps_are_background_between_two_structures_where_the_truth_has_heart():
    random = np.random.default_rng(0)
    labels, truth = (random.choice(4, size=(9, 8, 7), p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8) for _ in range(2))
    expected = 0
    padded = np.pad(labels, 1)
    for x, y, z in np.argwhere((labels == 0) & (truth > 0)):
        around = padded[x : x + 3, y : y + 3, z : z + 3]
        expected += len(set(around[around > 0].tolist())) > 1
    assert results.gap_voxels(labels, truth) == expected > 20


def test_outlines_go_round_what_differs():
    """A cross of five pixels has twelve edges, each on the border of two pixels in mm."""
    from matplotlib.figure import Figure

    truth = np.zeros((7, 6, 3), np.uint8)
    volume = truth.copy()
    volume[2:5, 3, 1] = volume[3, 2:5, 1] = 1
    axes = Figure().add_subplot()
    page._outline(axes, volume, truth, "axial", 1, (2.0, 1.5, 1.0))
    rim, lines = axes.collections
    assert len(rim.get_segments()) == 12
    segments = np.array(lines.get_segments())
    assert len(segments) == 12
    middles = segments.mean(1)
    assert middles[:, 0].min() == 1.5 * 2 and middles[:, 0].max() == 4.5 * 2
    assert middles[:, 1].min() == 1.5 * 1.5 and middles[:, 1].max() == 4.5 * 1.5


def test_heart_and_slice_of_the_picture_are_where_networks_differ_most():
    rows = [fake_row("A"), fake_row("B")]
    rows[0]["plain"]["hearts"], rows[1]["plain"]["hearts"] = {"a": 0.8, "b": 0.7}, {"a": 0.75, "b": 0.5}
    assert page.most_different_heart(rows) == "b"
    one, other = np.zeros((2, 5, 6, 7), np.uint8)
    other[1, 2:4, 3] = 1
    other[4, 4, 5] = 2
    assert page.most_different_index([one, other], "axial") == 3
    assert page.most_different_index([one, other], "sagittal") == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "there is nothing to do"),
        (["--set", "large"], "--networks is not given"),
        (["--tiny", "--report"], "mean nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(words, problem, tmp_path):
    with pytest.raises(InputError, match=problem):
        networks.main([*words, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def start(out, *words):
    command = [sys.executable, ROOT / "benchmarks" / "networks.py", "--tiny", "--output_dir", out, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_toy_comparison_of_all_networks_stopped_and_gone_on_with(tmp_path):
    out = tmp_path / "out"
    first = start(out, "--networks", "A")
    usage, last = [], None
    while not last and first.poll() is None:  # until the first line of the training
        time.sleep(0.02)
        usage = list(out.glob("tiny/A-seed0-*/usage.json"))
        last = json.loads(usage[0].read_text())[-1]["last"] if usage else None
    first.send_signal(signal.SIGTERM)
    told = first.communicate()
    assert first.returncode == 130 and "run the same command again to continue" in told[1], told
    assert not (out / "rows.jsonl").exists()
    (before,) = json.loads(usage[0].read_text())
    assert before["code"] == 75 and before["cpu_s"] > 0

    second = start(out)
    told = second.communicate()
    assert second.returncode == 0, told
    rows = page.read_rows(out / "rows.jsonl")
    assert [row["network"] for row in rows] == list(page.NETWORKS)
    assert rows[0]["starts"] == 2 and rows[0]["cpu_s"] > before["cpu_s"]
    for row in rows:
        assert row["steps"] == row["epochs"] * row["cost"]["steps_per_epoch"] and row["parameters"] > 1000
        assert (
            0 <= row["plain"]["dice"] <= 1 and len(row["plain"]["classes"]) == 10 and len(row["plain"]["hearts"]) == 2
        )
        assert row["decode_cpu_s"] > 0 and row["gap_voxels"] >= 0
        assert ("overlap_voxels" in row["plain"]) == (row["network"] != "A")
        assert row["numbers"] == [20, 7]
    assert len((out / "table.md").read_text().splitlines()) == 2 + 7 + 1 + 7

    third = start(out)
    told = third.communicate()
    assert third.returncode == 0 and told[0].count("done before") == 5, told
    assert page.read_rows(out / "rows.jsonl") == rows
