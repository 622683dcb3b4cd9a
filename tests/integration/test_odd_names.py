"""Names of files and folders that are unusual reach every output as they are, in any locale; those that cannot be names
of cases are refused alone."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import pytest
from helpers.prepare_runs import make_maps, run

from vecset import info
from vecset.commands import check_data_quality, create_csv
from vecset.common.errors import run_command
from vecset.data.case_file import read_meta
from vecset.data.listed_case import read_split

SOUND = [
    "①1",
    "10²3",
    "٣ heart",
    'it\'s a "heart", 50 %',
    " blank first",
    "-minus",
    "❤️ heart",
    "semi;colon#hash?&amp;",
    "a:b,c",
    "{{ x }}{% y %}",
    "a$b$c\\d",
    "é as one sign",
    "e\u0301 as two signs",
    "b" * 248,
]
REFUSED = ["new\nline", "\x1b[31mred", os.fsdecode(b"latin-\xe9")]
PLACES = [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with blanks, quotes and signs in its name: label maps and case files. And the exit code."""
    folder = tmp_path_factory.mktemp("names") / "it's #1 {x} 50% ❤ \\"
    folder.mkdir()
    make_maps(folder / "in", [f"{name}.nii.gz" for name in SOUND])
    for name in REFUSED:
        shutil.copy(folder / "in" / "-minus.nii.gz", folder / "in" / f"{name}.nii.gz")
    code = run(folder / "in", folder / "cases")
    assert run_command(create_csv.main, ["--data_dir", str(folder / "cases")]) == 0
    return folder, code


def test_a_name_costs_its_own_file_at_most(prepared, capsys):
    folder, code = prepared
    assert code == 1 and {p.stem for p in (folder / "cases").glob("*.npz")} == set(SOUND)
    assert run(folder / "in", folder / "cases") == 1  # again, for its words
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(REFUSED) and all("the name of this file " in line for line in errors)
    assert sum(line.endswith("; rename it") for line in errors) == 2  # once for each reason
    for shown in (r"new\nline.nii.gz: ", r"\x1b[31mred.nii.gz: ", r"latin-\xe9.nii.gz: "):
        assert sum(shown in line for line in errors) == 1
    for name in SOUND:
        assert read_meta(folder / "cases" / f"{name}.npz")["source_name"] == f"{name}.nii.gz"


def table(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_csv_and_json_have_the_names_as_they_are(prepared):
    cases = prepared[0] / "cases"
    rows = [row for name in ("train", "val") for row in table(cases / f"{name}.csv")]
    assert sorted(row["case_id"] for row in rows) == sorted(SOUND)
    assert all((cases / row["file"]).is_file() for row in rows)
    assert {e.case_id for n in ("train", "val") for e in read_split(cases / f"{n}.csv", cases)} == set(SOUND)
    assert json.loads((cases / "splits.json").read_text(encoding="utf-8"))["cases"] == len(SOUND)


def test_the_page_links_every_picture(prepared, tmp_path):
    names = [name for name in SOUND if set(name) & set("#$%{b")]
    (tmp_path / "c").mkdir()
    for name in names:
        shutil.copy(prepared[0] / "cases" / f"{name}.npz", tmp_path / "c")
    words = [str(tmp_path / "c"), "--report", str(tmp_path / "q"), "--pictures", "99", "--file_workers", "1"]
    assert run_command(check_data_quality.main, words) in (0, 1)
    page = (tmp_path / "q" / "report.html").read_text(encoding="utf-8")
    links = {unquote(link) for link in re.findall(r'<img src="(slices_[^"]*)"', page)}
    assert len(links) == len(names) and all((tmp_path / "q" / link).is_file() for link in links)
    assert sorted(row["case_id"] for row in table(tmp_path / "q" / "files.csv")) == sorted(names)


@pytest.mark.parametrize("place", PLACES)
def test_commands_in_places_without_utf8(prepared, repository, tmp_path, place):
    """The same bytes come out, whatever the locale, and no traceback."""
    cases = shutil.copytree(prepared[0] / "cases", tmp_path / "❤ cases")
    files = [str(cases / f"{name}.npz") for name in SOUND]
    commands = [
        [str(repository / "create_csv.py"), "--data_dir", str(cases)],
        ["-m", "vecset.info", *files],
    ]
    for words in commands:
        done = subprocess.run(
            [sys.executable, *words],
            env={**os.environ, **place, "PYTHONPATH": str(repository)},
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert done.stdout.count(b": a case file") == len(SOUND)
    for name in ("train.csv", "val.csv", "splits.json"):
        assert (cases / name).read_bytes() == (prepared[0] / "cases" / name).read_bytes()


def test_label_maps_are_described_whatever_their_names(prepared, capsys):
    files = [str(p) for p in sorted((prepared[0] / "in").iterdir())]
    assert run_command(info.main, files) == 0
    out = capsys.readouterr().out
    assert out.count(": an image") == len(files) and "\x1b" not in out


@pytest.mark.slow
def test_the_main_job_from_such_a_folder(repository, tmp_path):
    folder = tmp_path / "it's #1 {x} 50% ❤ \\"
    folder.mkdir()
    words = [sys.executable, repository / "make_phantoms.py", "--output_dir", folder / "ph", "--num", "6"]
    subprocess.run([*map(str, words), "--size", "48"], check=True, capture_output=True, timeout=300)
    (folder / "la bels").mkdir()
    names = ["①1", "a$b$c\\d", "a:b,c", "{{ x }}{% y %}", "<b>&amp;?#%20", "b" * 240]
    for path, name in zip(sorted((folder / "ph").glob("*.nii.gz")), names, strict=True):
        path.rename(folder / "la bels" / f"{name}.nii.gz")
    done = subprocess.run(
        ["bash", repository / "run_train.sh", "--recipe", "tiny", "--input_dir", "la bels", "--output_dir", "o ut"],
        cwd=folder,
        env={**os.environ, **PLACES[1], "PYTHON": sys.executable},
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    rows = table(folder / "o ut" / "reconstruction" / "metrics.csv")
    assert {row["case_id"] for row in rows} <= set(names)
