"""Places that the program is run in: clones with other settings, other folders, other terminals, other environments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
