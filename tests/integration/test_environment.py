"""environment.sh: half an environment, odd folders, the user's own settings of pip and Python. No network: pip is a
stand-in that writes the metadata of what it is asked for."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
PIP = """
import os, pathlib, sys
words = sys.argv[1:]
site = pathlib.Path(__file__).resolve().parents[1]
with open(os.environ["PIP_LOG_OF_TEST"], "a") as log:
    settings = {k: v for k, v in os.environ.items() if k in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT")}
    print(*words, settings, file=log)
if words[:2] == ["config", "list"]:
    print(os.environ.get("PIP_CONF_OF_TEST", ""))
if words[0] == "install":
    how = os.environ.get("PIP_DOES", "")
    if how == "fail":
        sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    if how == "nothing":
        sys.exit()
    wanted = [w for w in words if "=" in w and not w.startswith("-")]
    if "-r" in words:
        lines = pathlib.Path(words[words.index("-r") + 1]).read_text().splitlines()
        wanted += [w for w in lines if "==" in w and (how != "stop" or w < "q")]
    for line in wanted:
        name, version = line.replace(">=", "==").split("==")
        (site / name).mkdir(exist_ok=True)
        (site / name / "__init__.py").touch()
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "RECORD").write_text(f"{name}/__init__.py,,\\n{info.name}/METADATA,,\\n")
        needs = "Requires-Dist: needed>=1.0\\n" if name == "torch" else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{needs}")
    if how == "stop":
        os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A virtual environment in which all is installed, and its stamp."""
    venv = tmp_path_factory.mktemp("place") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = site_of(venv)
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(PIP)
    done = setup(venv, needed=True)
    assert done.returncode == 0, done.stderr
    return venv


def site_of(venv):
    return Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))


@pytest.fixture
def venv(whole, tmp_path):
    """A copy of it, at its own place."""
    copy = tmp_path / "venv"
    shutil.copytree(whole, copy, symlinks=True)
    for script in ("activate", "activate.csh", "activate.fish"):
        file = copy / "bin" / script
        file.write_text(file.read_text().replace(str(whole), str(copy)))
    return copy


def setup(venv, needed=False, cwd=None, words=(), **environment):
    log = Path(str(venv).rstrip("/") + ".log")
    log.write_text("")
    names = ("VENV", "PYTHON", "PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_CONFIG_FILE")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    if needed:  # what torch needs in turn, of no list
        site = site_of(venv)
        (site / "needed-1.0.dist-info").mkdir()
        (site / "needed-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: needed\nVersion: 1.0\n")
    given = {"VENV": str(venv), "PIP_LOG_OF_TEST": str(log), **environment}
    answer = subprocess.run(
        ["bash", str(ROOT / "environment.sh"), *words], cwd=cwd, capture_output=True, text=True, env={**kept, **given}
    )
    answer.pip = log.read_text()
    return answer


def remove(venv, name, what="*"):
    """Takes a package out of the environment, or only its modules."""
    site = site_of(venv)
    (site / name / "__init__.py").unlink()
    if what == "*":
        shutil.rmtree(next(site.glob(f"{name}-*.dist-info")))


def test_what_is_whole_is_ready_and_pip_is_not_asked(venv):
    answer = setup(venv)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"ready: {venv}/bin/python\n", "")
    assert answer.pip == ""


@pytest.mark.parametrize("what", ["*", "modules"])
def test_a_package_that_has_gone_is_named_and_installed_again(venv, what):
    remove(venv, "numpy", what)
    line = next(line for line in LINES if line.startswith("numpy="))
    answer = setup(venv, PIP_DOES="fail")
    assert answer.returncode == 2 and f"lacks, all or in part, what was installed there: {line}\n" in answer.stdout
    assert "No space left on device" in answer.stderr and answer.stderr.count("error:") == 1
    assert "ready" not in answer.stdout and not (venv / "vecsetx-heart.stamp").exists()
    answer = setup(venv)
    assert answer.returncode == 0 and f"install --disable-pip-version-check --force-reinstall --no-deps {line} " in (
        answer.pip
    )
    assert setup(venv).pip == ""


def test_what_a_package_needs_in_turn_counts(venv):
    shutil.rmtree(next(site_of(venv).glob("needed-*")))
    answer = setup(venv)
    assert answer.returncode == 0 and "what was installed there: needed>=1.0\n" in answer.stdout
    assert list(site_of(venv).glob("needed-1.0.dist-info"))


def test_an_install_that_was_interrupted_is_not_ready(venv):
    (venv / "vecsetx-heart.stamp").write_text("of other lists")
    for line in LINES:
        remove(venv, line.split("==")[0], "modules")
    assert setup(venv, PIP_DOES="stop").returncode == 2
    assert not (venv / "vecsetx-heart.stamp").exists()
    assert setup(venv).returncode == 0 and setup(venv).pip == ""


def test_pip_that_installs_elsewhere_without_a_word_is_found_out(venv):
    remove(venv, "scipy")
    answer = setup(venv, PIP_DOES="nothing")
    assert answer.returncode == 2 and "still lacks scipy==" in answer.stderr and "pip config list" in answer.stderr
    assert setup(venv, PIP_DOES="nothing").returncode == 2, "and again"


def test_variables_that_send_packages_elsewhere_do_not_count(venv, tmp_path):
    remove(venv, "scipy")
    answer = setup(venv, PIP_TARGET=str(tmp_path), PIP_PREFIX=str(tmp_path), PIP_USER="1", PIP_ROOT=str(tmp_path))
    assert answer.returncode == 0
    installs = [line for line in answer.pip.splitlines() if line.startswith("install")]
    assert len(installs) == 2 and all(line.endswith("{'PIP_USER': '0'}") for line in installs)


@pytest.mark.parametrize("setting", ["global.target='/elsewhere'", "install.prefix='/elsewhere'"])
def test_a_pip_conf_that_sends_packages_elsewhere_is_named(venv, setting):
    remove(venv, "scipy")
    answer = setup(venv, PIP_CONF_OF_TEST=f"global.index-url='https://x'\n{setting}")
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1
    assert f"({setting})" in answer.stderr and f"config unset {setting.split('=')[0]})" in answer.stderr
    assert "install" not in answer.pip.replace("install.", "")
    assert setup(venv, PIP_CONF_OF_TEST="global.index-url='https://x'").returncode == 0


def test_another_python_in_the_environment_is_left_out(venv, tmp_path):
    (tmp_path / "numpy").mkdir()
    answer = setup(venv, PYTHONHOME="/no/such/home", PYTHONPATH=str(tmp_path))
    assert answer.returncode == 0 and answer.stdout == f"ready: {venv}/bin/python\n"
    assert answer.stderr.startswith(f"note: PYTHONPATH={tmp_path} is not used") and answer.stderr.count("\n") == 1


def test_a_path_with_spaces_and_one_relative_to_here(venv, tmp_path):
    place = tmp_path / "my own place"
    place.mkdir()
    venv.rename(place / "venv")
    answer = setup(place / "venv", cwd=place, VENV="venv")
    assert answer.returncode == 0 and answer.stdout.endswith(f"ready: {place}/venv/bin/python\n")
    assert setup(place / "venv", HOME=str(place), VENV="~/venv").stdout == f"ready: {place}/venv/bin/python\n"
    python = setup(place / "venv", cwd=place, PYTHON="./venv/bin/python")
    assert python.stdout == f"ready: {place}/./venv/bin/python\n"


def test_a_path_with_a_colon_is_refused(tmp_path):
    answer = setup(tmp_path / "a:b", VENV=str(tmp_path / "a:b" / "venv"))
    assert answer.returncode == 2 and "cannot lie in a path with a colon" in answer.stderr
    assert answer.stderr.count("\n") == 1 and not (tmp_path / "a:b").exists()


def test_an_environment_that_was_moved_names_its_new_place(venv, tmp_path):
    tool = venv / "bin" / "tool"
    tool.write_text(f"#!{venv}/bin/python\nprint('tool')\n")
    tool.chmod(0o755)
    moved = tmp_path / "moved"
    venv.rename(moved)
    answer = setup(moved)
    assert answer.returncode == 0 and f"{moved} was moved here from {venv}" in answer.stdout
    told = subprocess.run(
        ["bash", "-c", f". '{moved}/bin/activate'; command -v python; '{moved}/bin/tool'"],
        capture_output=True,
        text=True,
    )
    assert told.stdout == f"{moved}/bin/python\ntool\n"
    assert setup(moved).stdout == f"ready: {moved}/bin/python\n"


def stand_in(folder, script, names=("python3", "python3.11", "python3.12", "python3.13", "python3.14")):
    """A folder of programs by these names that run a shell script."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_python_without_ensurepip_says_so_in_its_own_words(tmp_path):
    words = "The virtual environment was not created successfully because ensurepip is not available."
    script = f'case "$*" in *ensurepip*|"-m venv"*) echo "{words}"; exit 1 ;; esac; exec "{sys.executable}" "$@"'
    answer = setup(tmp_path / "venv", PATH=stand_in(tmp_path / "bin", script))
    assert answer.returncode == 2 and words in answer.stderr and "apt-get install python3-venv" in answer.stderr


def test_a_python_that_can_make_environments_is_preferred(tmp_path):
    script = (
        f'case "$*" in *ensurepip*) exit 1 ;; "-m venv"*) echo asked 1; exit 1 ;; esac; exec "{sys.executable}" "$@"'
    )
    stand_in(tmp_path / "bin", script)
    (tmp_path / "bin" / "python3.12").write_text(
        f'#!/bin/sh\ncase "$*" in "-m venv"*) echo asked 3.12; exit 1 ;; esac; exec "{sys.executable}" "$@"\n'
    )
    answer = setup(tmp_path / "venv", PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert answer.returncode == 2 and "asked 3.12" in answer.stderr


def test_without_a_python_that_is_new_enough_the_old_one_is_named(tmp_path):
    script = '[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1'
    answer = setup(tmp_path / "venv", PATH=stand_in(tmp_path / "bin", script))
    assert answer.returncode == 2 and "no Python 3.11 or newer found (python3 is Python 3.9.2)" in answer.stderr


def test_an_environment_of_an_old_python_is_kept_and_refused(venv):
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    (venv / "bin" / "python").chmod(0o755)
    answer = setup(venv)
    assert answer.returncode == 2 and "has Python 3.9.2, expected Python 3.11 or newer" in answer.stderr
    assert site_of(venv).is_dir()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.tex").write_text("years of work")
    answer = setup(tmp_path / "venv")
    assert answer.returncode == 2 and "is no virtual environment, and not empty" in answer.stderr
    assert (tmp_path / "venv" / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_an_environment_whose_python_is_gone_is_made_anew(venv):
    for link in ("python", "python3", Path(sys.executable).resolve().name):
        (venv / "bin" / link).unlink(missing_ok=True)
    (venv / "bin" / "python").symlink_to("/no/such/python3")
    answer = setup(
        venv, PIP_NO_INDEX="1", PIP_FIND_LINKS="/no/such", PIP_EXTRA_INDEX_URL="", PIP_CONFIG_FILE="/dev/null"
    )
    assert "its Python, /no/such/python3, is gone\nmaking the virtual environment" in answer.stdout
    assert answer.returncode == 2 and re.search("ERROR: .*torch", answer.stderr), "pip's own words"


@pytest.mark.slow
def test_an_environment_without_pip_is_given_one_and_keeps_its_packages(venv):
    shutil.rmtree(site_of(venv) / "pip")
    (venv / "vecsetx-heart.stamp").write_text("of other lists")
    own = site_of(venv) / "own.py"
    own.write_text("")
    answer = setup(
        venv, PIP_NO_INDEX="1", PIP_FIND_LINKS="/no/such", PIP_EXTRA_INDEX_URL="", PIP_CONFIG_FILE="/dev/null"
    )
    assert own.is_file() and (site_of(venv) / "pip").is_dir()
    assert "installing requirements.txt" in answer.stdout
