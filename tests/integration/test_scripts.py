"""The scripts and commands themselves: syntax, help from any folder, clear refusals, no path of any site."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.ball_cases import write_ball_cases

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    [
        *ROOT.glob("*.sh"),
        *ROOT.glob("benchmarks/*.sh"),
        ROOT / ".ci" / "run",
        *(ROOT / "tests" / "integration" / "slurm_lab").glob("*.sh"),
    ]
)
SBATCH = ("run_data_sbatch.sh", "run_phase1_sbatch.sh")
COMMANDS = {
    "make_phantoms.py": "--spacing",
    "prepare_data.py": "--label_mapping",
    "create_csv.py": "--group_regex",
    "check_data_quality.py": "--report",
    "reconstruct.py": "--checkpoint",
    "vecset/main_ae.py": "--resume",
    "vecset/pipeline/main.py": "--keep_going",
}


def run(*words, cwd=None, **environment):
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    for name in ("VENV", "PYTHON", "TRAINING_OPTIONS"):
        cleared.pop(name, None)
    return subprocess.run(
        [str(w) for w in words], cwd=cwd, capture_output=True, text=True, env={**cleared, **environment}, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_bash_reads_it(script):
    answer = run("bash", "-n", script)
    assert answer.returncode == 0, answer.stderr
    assert b"\r" not in script.read_bytes(), "sbatch refuses CRLF"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    answer = run("shellcheck", "-x", script.name, cwd=script.parent)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("name", SBATCH)
def test_sbatch_lines_stand_before_the_first_command_and_name_no_site(name):
    lines = (ROOT / name).read_text().splitlines()
    assert lines[0].startswith("#!")
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    options = {re.match(r"#SBATCH --([a-z-]+)", line).group(1) for line in lines if line.startswith("#SBATCH")}
    assert {"open-mode", "requeue", "output", "time"} <= options
    assert not {"account", "partition", "mail-user"} & options
    output = next(line for line in lines if line.startswith("#SBATCH --output"))
    assert "/" not in output, "a log folder that is not there fails the job without a word"


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.parent == ROOT], ids=lambda p: p.name)
def test_no_path_of_any_site(path):
    text = path.read_text()
    assert not re.search(r"(?<![\w.$}])/(scratch|projappl|project|home|users|work|mnt|data|lustre|appl)\b", text)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("run_train.sh", "--input_dir LABELS"),
        ("run_tests.sh", "--fast"),
        ("run_data_sbatch.sh", "--tasks N"),
        ("run_phase1_sbatch.sh", "--stage_dir FOLDER"),
        ("submit_phase1.sh", "--gpu_sbatch"),
    ],
)
def test_help_of_every_script(script, word, tmp_path):
    answer = run("bash", ROOT / script, "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert word in answer.stdout
    assert "set -euo" not in answer.stdout, "help shows comments, not code"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run_train.sh", "--input_dir", "/no/such/folder"], "/no/such/folder: no such folder"),
        (
            ["run_train.sh", "--output_dir", "x", "--", "--data_path=y"],
            "--data_path=y behind --: this job sets that option itself",
        ),
        (["run_data_sbatch.sh", "--output_dir", "x"], "--input_dir: the folder of label maps is not named"),
        (["run_data_sbatch.sh", "--input_dir", "/no/such", "--output_dir", "x"], "found no folder /no/such"),
        (["run_data_sbatch.sh", "--input_dir"], "--input_dir needs a value"),
        (["run_phase1_sbatch.sh", "--data_path", "/no/such", "--output_dir", "x"], "found no folder /no/such"),
        (["run_phase1_sbatch.sh", "--output_dir", "x"], "--data_path: the folder of case files is not named"),
        (["run_phase1_sbatch.sh", "--data_path", ".", "--output_dir", "x"], "train.csv: no such file"),
        (["submit_phase1.sh", "--input_dir", "/no/such", "--output_dir", "x"], "found '/no/such'"),
        (["submit_phase1.sh", "--what"], "--what: not an option"),
        (
            ["run_data_sbatch.sh", "--input_dir", ".", "--output_dir=/dev/null/x"],
            "--output_dir: cannot create directory",
        ),
        (
            ["submit_phase1.sh", "--input_dir", ".", "--output_dir", "/dev/null/x"],
            "--output_dir: cannot create directory",
        ),
    ],
)
def test_wrong_paths_are_refused_in_one_line(words, message, tmp_path):
    answer = run("bash", ROOT / words[0], *words[1:], cwd=tmp_path, PYTHON=sys.executable)
    assert answer.returncode == 2
    assert message in answer.stderr and len(answer.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_missing_checkpoint_is_refused_before_anything_starts(tmp_path):
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("case_id,file\na,a.npz\n")
    answer = run(
        "bash",
        ROOT / "run_phase1_sbatch.sh",
        "--dry_run",
        "--data_path",
        tmp_path,
        "--output_dir",
        tmp_path / "run",
        "--init_from=/no/such.pth",
        PYTHON=sys.executable,
    )
    assert answer.returncode == 2 and "--init_from: no such checkpoint: /no/such.pth" in answer.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=2, val=1)


def dry_run(data, run_folder, *more, **environment):
    return run(
        "bash",
        ROOT / "run_phase1_sbatch.sh",
        "--dry_run",
        "--data_path",
        data,
        "--output_dir",
        run_folder,
        "--gpus",
        "2",
        *more,
        **{"PYTHON": sys.executable, **environment},
    )


@pytest.mark.slow
def test_dry_run_prints_the_configuration_and_the_command(data, tmp_path):
    answer = dry_run(data, tmp_path / "run", "--device", "cpu", "--epochs", "7")
    assert answer.returncode == 0, answer.stderr
    assert "torch 2" in answer.stdout and "dry run: all checks passed" in answer.stdout
    assert "2 training and 1 validation cases, 3 classes" in answer.stdout
    words = answer.stdout[answer.stdout.index("configuration:") :].split()
    assert {"epochs=7", "batch_size=2", "warmup_epochs=0.35", "shard=none"} <= set(words), "defaults and what follows"
    told = [
        answer.stdout.index(f"\n{word}")
        for word in ("host ", "repository ", "data ", "Python 3", "configuration:", "command:")
    ]
    assert answer.stdout.startswith("== run_phase1_sbatch.sh") and told == sorted(told)
    command = next(line for line in answer.stdout.splitlines() if line.startswith("command:"))
    assert "--standalone" in command and "--nproc_per_node=2" in command and command.endswith("--device cpu --epochs 7")


@pytest.mark.slow
def test_paths_and_training_options_may_come_from_the_environment(data, tmp_path):
    answer = run(
        "bash",
        ROOT / "run_phase1_sbatch.sh",
        "--dry_run",
        "--epochs",
        "7",
        PYTHON=sys.executable,
        DATA_PATH=str(data),
        OUTPUT_DIR=str(tmp_path / "run"),
        TRAINING_OPTIONS="--epochs 9 --batch_size 3",
    )
    assert answer.returncode == 0, answer.stderr
    assert f"data {data} -> run {tmp_path}/run" in answer.stdout
    words = set(answer.stdout[answer.stdout.index("configuration:") :].split())
    assert {"batch_size=3", "epochs=7"} <= words, "the command line comes last"


@pytest.mark.slow
def test_a_dry_run_refuses_what_training_would_refuse_later(data, tmp_path):
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"PK not a checkpoint")
    lacking = tmp_path / "lacking"
    shutil.copytree(data, lacking)
    (lacking / "ball01.npz").unlink()
    for where, words, message in [
        (data, ["--bacth_size", "4"], "unrecognized arguments: --bacth_size 4"),
        (data, ["--eikonal_points", "99999"], "--eikonal_points: expected at most the number of query points"),
        (data, ["--resume", torn], "torn.pth: not a checkpoint, or truncated"),
        (data, ["--model", "huge"], "huge"),
        (lacking, [], "train.csv: expected the file of case ball01, found no file"),
    ]:
        answer = dry_run(where, tmp_path / "run", *words)
        assert answer.returncode == 2 and message in answer.stderr.splitlines()[-1], answer.stderr
        assert "command:" not in answer.stdout


SPOOLED = """#!/bin/sh
# scontrol show job of an array with 4,000 tasks: more than a pipe holds
i=0
while [ $i -lt 4000 ]; do printf 'JobId=%s JobName=x\n   Command={}\n   WorkDir=/\n' $i; i=$((i + 1)); done
"""


@pytest.mark.parametrize("name", SBATCH)
def test_a_copy_in_the_spool_folder_asks_the_job_where_it_came_from(name, tmp_path):
    """As under plain sbatch; the repository lies behind a link with spaces, the array is a large one."""
    (tmp_path / "my scripts").mkdir()
    (tmp_path / "my scripts" / name).symlink_to(ROOT / name)
    spool, bin_folder = tmp_path / "spool", tmp_path / "bin"
    spool.mkdir()
    bin_folder.mkdir()
    shutil.copy2(ROOT / name, spool / "slurm_script")
    scontrol = bin_folder / "scontrol"
    scontrol.write_text(SPOOLED.format(f"{tmp_path}/my scripts/{name} --input_dir /else/{name}"))
    scontrol.chmod(0o755)
    job = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    answer = run("bash", spool / "slurm_script", "--help", **job)
    assert answer.returncode == 0 and name in answer.stdout, answer.stderr
    scontrol.write_text("#!/bin/sh\necho 'JobId=7'\necho '   Command=(null)'\n")  # sbatch < script
    answer = run("bash", spool / "slurm_script", "--help", **job)
    assert answer.returncode == 2 and f"give sbatch the path of its {name}" in answer.stderr


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_words_are_quoted_for_any_shell_in_any_locale(shell):
    words = ["/plain/path.x", "a b", "it's", "caf\u00e9", "$HOME", "*", "", "a\nb", "--x=1"]
    quoted = run("bash", "-c", '. "$0"; job_quote "$@"', ROOT / "cluster.sh", *words, LC_ALL="C").stdout
    assert quoted.startswith("/plain/path.x 'a b' "), "what needs no quotes has none"
    answer = run(shell, "-c", f"printf '%s|' {quoted}", LC_ALL="C")
    assert answer.stdout.split("|")[:-1] == words


def test_a_python_that_is_too_old_or_missing_is_named(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    answer = run("bash", ROOT / "run_tests.sh", PYTHON=str(old))
    assert answer.returncode == 2 and "expected Python 3.11 or newer, found Python 3.8.1" in answer.stderr
    answer = run("bash", ROOT / "run_tests.sh", PYTHON="/no/such/python")
    assert answer.returncode == 2 and "no such program" in answer.stderr


def test_setting_up_has_a_help_and_takes_nothing_else():
    answer = run("bash", ROOT / "environment.sh", "--help", PYTHON="/no/such/python")
    assert answer.returncode == 0 and "VENV" in answer.stdout and "PYTHON" in answer.stdout
    answer = run("bash", ROOT / "environment.sh", "--hlep", PYTHON="/no/such/python")
    assert answer.returncode == 2 and "--hlep: this script takes no arguments" in answer.stderr
