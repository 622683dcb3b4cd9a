"""Places that the program is run in: clones with other settings, other folders, other terminals, other environments."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.prepare_runs import SMALL, make_maps

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.sh"))


def run(*words, cwd=None, drop=(), **environment):
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    for name in ("VENV", "PYTHON", "TRAINING_OPTIONS", *drop):
        cleared.pop(name, None)
    return subprocess.run(
        [str(w) for w in words], cwd=cwd, capture_output=True, text=True, env={**cleared, **environment}, check=False
    )


@pytest.fixture(scope="module")
def windows_clone(tmp_path_factory):
    """A clone as Git for Windows makes it by default (line ends CRLF, executable bits unknown)."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    folder = tmp_path_factory.mktemp("clone") / "repository"
    settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf", "-c", "core.fileMode=false"]
    done = run("git", *settings, "-c", "safe.directory=*", "clone", "-q", ROOT, folder)
    assert done.returncode == 0, done.stderr
    for script in folder.glob("*.sh"):
        script.chmod(0o644)
    return folder


def test_a_clone_of_windows_has_unix_line_ends(windows_clone):
    wrong = [
        p.name for p in windows_clone.rglob("*") if p.suffix in (".sh", ".py", ".json") and b"\r" in p.read_bytes()
    ]
    assert not wrong
    before = (ROOT / "docs" / "overview.png").read_bytes()
    assert (windows_clone / "docs" / "overview.png").read_bytes() == before


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "cluster.sh"])
def test_scripts_of_a_windows_clone_run(windows_clone, script):
    answer = run("bash", windows_clone / script, "--help", PYTHON=sys.executable)
    assert answer.returncode == 0 and answer.stdout and not answer.stderr


def test_a_zip_of_the_repository_has_unix_line_ends(windows_clone, tmp_path):
    words = ["archive", "--format=zip", "-o", tmp_path / "code.zip", "HEAD"]
    assert run("git", "-c", "core.autocrlf=true", *words, cwd=windows_clone).returncode == 0
    shutil.unpack_archive(tmp_path / "code.zip", tmp_path / "code")
    assert b"\r" not in (tmp_path / "code" / "run_train.sh").read_bytes()
    answer = run("bash", tmp_path / "code" / "environment.sh", "--help")
    assert answer.returncode == 0 and not answer.stderr


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed_are_not_given_to_files(tmp_path, closed):
    """Otherwise the next file that is opened takes the number, and lines for the user are written into it."""
    code = (
        "import os, sys; from vecset.common.streams import standard_streams; standard_streams(); "
        "f = open('data', 'wb', 0); print('a line'); print('another', file=sys.stderr); sys.stdin.read(0); "
        "os.write(1, b'from a library'); os.write(2, b'from a library'); f.write(b'data')"
    )
    answer = run("bash", "-c", f'{sys.executable} -c "{code}" {closed}', cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert answer.returncode == 0 and (tmp_path / "data").read_bytes() == b"data"


def test_progress_bars_do_not_fill_a_log(monkeypatch):
    from vecset.common import streams

    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    streams.standard_streams()
    assert "TQDM_MININTERVAL" not in os.environ
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    streams.standard_streams()
    assert os.environ["TQDM_MININTERVAL"] == "10"
    monkeypatch.setenv("TQDM_MININTERVAL", "1")
    streams.standard_streams()
    assert os.environ["TQDM_MININTERVAL"] == "1"


COMMANDS = {  # and an option of each that is a path
    "make_phantoms.py": "--output_dir",
    "prepare_data.py": "--output_dir",
    "create_csv.py": "--output_dir",
    "check_data_quality.py": "--report",
    "reconstruct.py": "--input",
    "vecset/main_ae.py": "--resume",
    "vecset/calibrate.py": "--csv",
    "vecset/complete.py": "--input",
    "vecset/info.py": "",
    "vecset/quality/rank.py": "--input",
    "vecset/pipeline/main.py": "--input_dir",
    "vecset/cluster/shards.py": "--logs",
}
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}  # a terminal that knows ASCII alone
PLACES = {
    "no environment": ["env", "-i"],
    "ASCII": ["env", *(f"{name}={value}" for name, value in ASCII.items())],
    "safe path, warnings are errors": ["env", "PYTHONSAFEPATH=1", "PYTHONWARNINGS=error"],
    "no docstrings": ["env", "PYTHONOPTIMIZE=2"],
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder for the bytecode of PYTHONOPTIMIZE=2, which no installation has: made once for all commands, and not
    left in the installation."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_odd_places(command, place, compiled, tmp_path):
    """Through a link to the script, too."""
    (tmp_path / "link.py").symlink_to(ROOT / command)
    words = [*PLACES[place]]
    if place == "no docstrings":
        words += [f"PYTHONPYCACHEPREFIX={compiled}", "PYTHONDONTWRITEBYTECODE="]
    answer = run(*words, sys.executable, "link.py", "--help", cwd=tmp_path)
    assert answer.returncode == 0 and not answer.stderr and COMMANDS[command] in answer.stdout
    assert "usage" in answer.stdout.lower() and [path.name for path in tmp_path.iterdir()] == ["link.py"]


@pytest.mark.parametrize("script", ["run_train.sh", "run_tests.sh", "environment.sh", "submit_phase1.sh"])
def test_scripts_run_through_a_link(script, tmp_path):
    (tmp_path / "link.sh").symlink_to(ROOT / script)
    answer = run("bash", "link.sh", "--help", cwd=tmp_path, PYTHON=sys.executable)
    assert answer.returncode == 0 and answer.stdout and not answer.stderr


def parsers():
    import importlib

    names = [path.stem for path in (ROOT / "vecset" / "commands").glob("[!_]*.py")]
    modules = [f"vecset.commands.{name}" for name in names] + [
        "vecset.calibrate",
        "vecset.complete",
        "vecset.info",
        "vecset.quality.rank",
        "vecset.pipeline.main",
    ]
    made = [importlib.import_module(name).get_parser() for name in modules]
    return [*made, importlib.import_module("vecset.engines.arguments").build_parser()]


@pytest.mark.parametrize("place", [{"COLUMNS": "1"}, {"COLUMNS": "wide", "TERM": ""}], ids=["narrow", "no width"])
def test_help_in_terminals_of_odd_widths(place, monkeypatch):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    for parser in parsers():
        assert "--help" in parser.format_help() and "usage" in parser.format_usage()


def test_every_option_that_is_a_path_knows_the_home_folder():
    """An option whose help speaks of a file or folder has the type that expands it."""
    from vecset.common.arguments import user_path, user_path_text

    plain = []
    for parser in parsers():
        for action in parser._actions:
            named = re.search(
                r"_(dir|path|csv)$|^(report|input|output|resume|init_from|label_mapping|files)$", action.dest
            )
            if named and action.type not in (user_path, user_path_text):
                plain.append((parser.prog, action.dest))
    assert not plain


SCRIPT_PATHS = {
    "run_data_sbatch.sh": (["--input_dir=~/none", "--output_dir", "x"], "found no folder {home}/none"),
    "run_phase1_sbatch.sh": (["--data_path", "~/none", "--output_dir", "x"], "found no folder {home}/none"),
    "submit_phase1.sh": (["--input_dir", "~/none", "--output_dir", "x"], "found '{home}/none'"),
    "run_train.sh": (["--input_dir=~/none", "--output_dir", "x"], "{home}/none: no such folder"),
}


@pytest.mark.parametrize("script", SCRIPT_PATHS)
def test_scripts_know_the_home_folder(script, tmp_path):
    words, told = SCRIPT_PATHS[script]
    answer = run("bash", ROOT / script, *words, cwd=tmp_path, PYTHON=sys.executable, HOME=str(tmp_path / "me"))
    assert answer.returncode == 2 and told.format(home=tmp_path / "me") in answer.stderr
    assert answer.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return make_maps(tmp_path_factory.mktemp("maps") / "labels", ["heart.nii.gz"])


def prepare(maps, folder, *before, words=(), **environment):
    command = [
        *before,
        sys.executable,
        *words,
        ROOT / "prepare_data.py",
        "--input_dir",
        maps,
        *SMALL,
        "--file_workers",
        "0",
        "--output_dir",
    ]
    return run(*command, "cases", cwd=folder, **environment)


SAME = {
    "optimized": {"words": ["-O"]},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "ASCII": ASCII,
    "no home, no user": {"drop": True},
    "no temporary folder": {"TMPDIR": "/no/such/folder"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
}


@pytest.fixture(scope="module")
def usual(maps, tmp_path_factory):
    """The case file as it is made in the usual place."""
    folder = tmp_path_factory.mktemp("usual")
    assert prepare(maps, folder).returncode == 0
    return (folder / "cases" / "heart.npz").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("place", SAME)
def test_case_files_are_the_same_everywhere(maps, usual, tmp_path, place):
    options = dict(SAME[place])
    before = ["env", "-i"] if options.pop("drop", False) else []
    answer = prepare(maps, tmp_path, *before, **options)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "cases" / "heart.npz").read_bytes() == usual


@pytest.mark.slow
def test_files_of_the_future_links_and_modules_that_lie_about(maps, tmp_path):
    labels = tmp_path / "links"
    labels.mkdir()
    for path in maps.glob("*.nii.gz"):
        copy = shutil.copy(path, tmp_path / f"later_{path.name}")
        os.utime(copy, (2**31, 2**31))
        (labels / path.name).symlink_to(copy)
    for name in ("random", "queue", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')\n")
    (tmp_path / "folder").symlink_to(labels)
    assert prepare(Path("folder"), tmp_path).returncode == 0
    again = prepare(Path("folder"), tmp_path)
    assert again.returncode == 0 and "0 made, 1 skipped" in again.stdout


def test_a_wrong_dash_is_understood_in_any_locale(tmp_path):
    for environment in ({}, ASCII):
        answer = run(sys.executable, ROOT / "create_csv.py", "--data_dir", "x", "—folds", "3", **environment)
        assert answer.returncode == 2 and "folds 3; did you mean --folds?" in answer.stderr


def test_a_program_in_a_path_with_a_colon_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "a:b"
    shutil.copytree(ROOT / "vecset", folder / "vecset", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_train.sh", folder)
    shutil.copy(ROOT / "environment.sh", folder)
    answer = run(sys.executable, folder / "vecset" / "pipeline" / "main.py", "--output_dir", tmp_path / "x")
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "move it to another folder" in answer.stderr
    answer = run("bash", folder / "run_train.sh", "--output_dir", tmp_path / "x")
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "path with a colon" in answer.stderr
    assert not (tmp_path / "x").exists()
