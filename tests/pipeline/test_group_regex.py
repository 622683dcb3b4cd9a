"""--group_regex of the main job and of the Slurm chain reaches create_csv.py, and is checked before any work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vecset.common.errors import run_command
from vecset.pipeline import main
from vecset.pipeline.job import Pipeline

ROOT = Path(__file__).resolve().parents[2]
REGEX = r"^(.+?)_frame\d+"
PHASES = [f"patient{p:03d}_frame{f}_gt" for p in (1, 2, 3) for f in ("01", "09")]


@pytest.fixture
def labels(tmp_path):
    """A folder of six files with the names of label maps, three patients twice."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in PHASES:
        (folder / f"{name}.nii.gz").write_bytes(b"")
    return folder


def splits_stage(tmp_path, *words):
    args = main.get_parser().parse_args([*words, "--recipe", "tiny", "--output_dir", str(tmp_path / "out")])
    return Pipeline(args, [], print).splits_stage()


def test_the_stage_of_the_splits_passes_it_on_and_runs_again_with_another_one(tmp_path):
    words = splits_stage(tmp_path, "--group_regex", REGEX).command(False)
    assert words[words.index("--group_regex") + 1] == REGEX
    without = splits_stage(tmp_path).options()
    assert "group_regex" not in without  # so that a split of an earlier version counts as done
    assert splits_stage(tmp_path, "--group_regex", REGEX).options() == {**without, "group_regex": REGEX}


@pytest.mark.parametrize(
    "words, said",
    [
        (("--group_regex", "(", "--input_dir", "LABELS"), "expected a regular expression"),
        (("--group_regex", r"case(\d+)", "--input_dir", "LABELS"), "no match"),
        (("--group_regex", "patient", "--input_dir", "LABELS"), "at least 2 patients among 6 label maps"),
        (("--group_regex", REGEX, "--overfit"), "no heart is held out"),
    ],
)
def test_one_that_cannot_work_is_refused_before_any_work(words, said, labels, tmp_path, capsys):
    words = [str(labels) if word == "LABELS" else word for word in words]
    out = tmp_path / "out"
    assert run_command(main.main, [*words, "--recipe", "tiny", "--output_dir", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1
    assert not (out / "cases").exists() and not (out / "stages").exists()


SBATCH = """#!/bin/sh
printf '%s\\n' "$*" >>"$FAKE/jobs"
echo 7
"""


@pytest.mark.slow
def test_the_slurm_chain_passes_it_on_and_says_where_it_is_lacking(labels, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FAKE": str(tmp_path), "PYTHON": sys.executable}

    def submit(*words):
        (tmp_path / "jobs").unlink(missing_ok=True)
        out = tmp_path / "out"
        return subprocess.run(
            ["bash", str(ROOT / "submit_phase1.sh"), "--input_dir", str(labels), "--output_dir", str(out), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = submit()
    assert done.returncode == 0 and f"--group_regex '{REGEX}'" in done.stderr, done.stderr
    assert "group_regex" not in (tmp_path / "jobs").read_text()
    done = submit("--group_regex", REGEX)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (check,) = [job for job in (tmp_path / "jobs").read_text().splitlines() if "--step check" in job]
    assert f"--group_regex '{REGEX}'" in check
    done = submit("--group_regex", "case")
    assert done.returncode == 2 and "no match" in done.stderr and not (tmp_path / "jobs").exists()
