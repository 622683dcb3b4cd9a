"""The main job, whole, on tiny phantoms: every stage's files, the table, and nothing done twice."""

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.processes import UNDER_NOHUP

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
CLASSES = ("Myocardium", "LA", "LV", "RA", "RV", "Aorta", "PA", "LAA", "Coronary", "PV")


def environment():
    return {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def job(*words, check=True, root=ROOT):
    answer = subprocess.run(
        ["bash", str(root / "run_train.sh"), "--recipe", "tiny", *(str(w) for w in words)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        check=False,
    )
    if check:
        assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, job("--output_dir", out)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that a test may change; it is as finished as the original."""
    shutil.copytree(finished[0], tmp_path / "out", copy_function=shutil.copy2)
    return tmp_path / "out"


def test_all_ten_classes_are_in_the_table_and_each_stage_left_its_files(finished):
    out, answer = finished
    lines = answer.stdout.splitlines()
    for name in (*CLASSES, "mean of classes", "union"):
        assert any(line.startswith(name) for line in lines), name
    assert "mean shape Dice" in answer.stdout and "nearest training heart Dice" in answer.stdout
    assert "never seen in training" in answer.stdout
    remark = "These figures mean nothing: the recipe tiny is for tests."
    assert answer.stdout.count(remark) == 1
    assert f"<strong>{remark}</strong>" in (out / "reconstruction" / "report.html").read_text(encoding="utf-8")
    assert len(list((out / "labels").glob("*.nii.gz"))) == len(list((out / "cases").glob("*.npz"))) == 4
    for name in (
        "cases/train.csv",
        "cases/val.csv",
        "quality/report.json",
        "train/checkpoint-best.pth",
        "train/checkpoint-last.pth",
        "train/log.txt",
        "reconstruction/metrics.csv",
        "reconstruction/metrics.json",
        "reconstruction/overview.png",
    ):
        assert (out / name).stat().st_size > 0, name


def test_the_results_are_label_maps_on_the_hearts_own_grid(finished):
    out, _ = finished
    with (out / "cases" / "val.csv").open() as handle:
        cases = [row["case_id"] for row in csv.DictReader(handle)]
    for case in cases:
        truth = nib.load(out / "labels" / f"{case}.nii.gz")
        mine = nib.load(out / "reconstruction" / case / "labels.nii.gz")
        assert mine.shape == truth.shape and np.allclose(mine.affine, truth.affine, atol=1e-4)


def test_run_again_it_says_that_all_is_done_and_touches_nothing(finished):
    out, first = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    answer = job("--output_dir", out)
    assert "all is done" in answer.stdout and answer.stdout.count("done before") == 7
    table = [line for line in answer.stdout.splitlines() if line.startswith(CLASSES)]
    assert table and all(line in first.stdout for line in table)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")} == before


def test_changed_code_is_told_in_one_line_and_nothing_is_done_again(copy, tmp_path):
    repository = tmp_path / "repository"
    (repository / "vecset").mkdir(parents=True)
    shutil.copytree(ROOT / "vecset", repository / "vecset", dirs_exist_ok=True)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"):
        shutil.copy2(path, repository)
    assert "another version of the program" not in job("--output_dir", copy, root=repository).stdout, (
        "a copy is no change"
    )
    for name in ("vecset/common/errors.py", "vecset/main_ae.py"):
        with (repository / name).open("a") as handle:
            handle.write("# a comment\n")
    answer = job("--output_dir", copy, root=repository)
    assert answer.stdout.count("done before") == 7 and "all is done" in answer.stdout
    assert answer.stdout.count("another version of the program") == 1
    assert not (copy / "train.old-1").exists()


def test_options_that_change_no_result_do_nothing_again(copy):
    answer = job("--output_dir", copy, "--", "--wandb_project", "other", "--num_workers", "1", "--print_every", "3")
    assert answer.stdout.count("done before") == 7
    answer = job("--output_dir", copy, "--prepare_options", "--file_workers 2 --class_floor .04", "--", "--wandb")
    assert answer.stdout.count("done before") == 7


def test_a_folder_of_version_0_1_0_is_done_but_for_what_changed(copy):
    """Its stamps had another form, and the recipe made more hearts (tests/pipeline/stamps). Nothing is trained again;
    quality, decision tuning and reconstruction have another method (tests/pipeline/test_earlier_stamps.py) and are made
    anew."""
    for path in (copy / "stages").glob("*.json"):
        stamp = json.loads(path.read_text())
        earlier = json.loads((ROOT / "tests" / "pipeline" / "stamps" / "tiny" / path.name).read_text())
        assert "method" not in earlier
        path.write_text(json.dumps({**earlier, "inputs": stamp["inputs"], "outputs": stamp["outputs"]}))
    checkpoint = (copy / "train" / "checkpoint-best.pth").stat().st_mtime_ns
    answer = job("--output_dir", copy)
    assert answer.stdout.count("done before") == 4 and "method changed (5 -> " in answer.stdout, answer.stdout
    assert answer.stdout.count("method changed") == 3, answer.stdout
    assert (copy / "train" / "checkpoint-best.pth").stat().st_mtime_ns == checkpoint


def test_redo_does_a_stage_again_and_what_follows_from_it(copy):
    answer = job("--output_dir", copy, "--redo", "nonsense", check=False)
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "no stage nonsense" in answer.stderr
    checkpoint = (copy / "train" / "checkpoint-best.pth").stat().st_mtime_ns
    answer = job("--output_dir", copy, "--redo", "train,quality")
    assert answer.stdout.count("done before") == 3 and answer.stdout.count("--redo; it is done again") == 2
    assert (copy / "train.old-1" / "checkpoint-best.pth").stat().st_mtime_ns == checkpoint
    assert (copy / "train" / "checkpoint-best.pth").stat().st_mtime_ns > checkpoint
    assert (copy / "reconstruction.old-1").is_dir()
    assert job("--output_dir", copy).stdout.count("done before") == 7


def test_redo_of_preparation_makes_the_case_files_again(copy):
    before = {p.name: p.stat().st_mtime_ns for p in (copy / "cases").glob("*.npz")}
    process = subprocess.Popen(
        ["bash", str(ROOT / "run_train.sh"), "--recipe", "tiny", "--redo", "prepare", "--output_dir", str(copy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    for line in process.stdout:
        if line.startswith("[3/7]"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    after = {p.name: p.stat().st_mtime_ns for p in (copy / "cases").glob("*.npz")}
    assert before.keys() == after.keys() and all(after[name] > before[name] for name in before)


def test_a_changed_training_option_trains_afresh_and_keeps_the_old_run(copy):
    answer = job("--output_dir", copy, "--", "--epochs", "2")
    assert "options changed (epochs" in answer.stdout
    assert answer.stdout.count("done before") == 4, "data is not made again"
    assert (copy / "train.old-1" / "checkpoint-best.pth").is_file()
    assert json.loads((copy / "train" / "checkpoint-last.json").read_text())["args"]["epochs"] == 2


def test_only_the_hearts_that_changed_are_prepared_again(finished, tmp_path):
    labels, out = tmp_path / "labels", tmp_path / "out"
    shutil.copytree(finished[0] / "labels", labels, ignore=shutil.ignore_patterns("*.json"))
    job("--input_dir", labels, "--output_dir", out)
    names = sorted(p.name for p in (out / "cases").glob("*.npz"))
    before = {name: (out / "cases" / name).stat().st_mtime_ns for name in names}
    maps = sorted(labels.glob("*.nii.gz"))
    maps[0].unlink()
    image = nib.load(maps[1])
    labels_changed = np.asanyarray(image.dataobj).copy()
    labels_changed[labels_changed == 9] = 0
    nib.save(nib.Nifti1Image(labels_changed, image.affine), maps[1])
    answer = job("--input_dir", labels, "--output_dir", out)
    assert "inputs changed" in answer.stdout
    after = {p.name: p.stat().st_mtime_ns for p in (out / "cases").glob("*.npz")}
    assert sorted(after) == names[1:]
    assert [name for name in names[1:] if after[name] != before[name]] == [names[1]]


def test_a_single_heart_is_trained_on_and_reconstructed_itself(finished, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy2(finished[0] / "labels" / "phantom_0000.nii.gz", labels)
    answer = job("--input_dir", labels, "--output_dir", tmp_path / "out")
    assert "training heart(s) themselves" in answer.stdout and "not how it does on unseen hearts" in answer.stdout
    rows = [(tmp_path / "out" / "cases" / name).read_text() for name in ("train.csv", "val.csv")]
    assert rows[0] == rows[1] and rows[0].count("\n") == 2


def test_a_broken_label_map_stops_the_job_with_its_name_unless_told_to_go_on(finished, tmp_path):
    labels, out = tmp_path / "labels", tmp_path / "out"
    shutil.copytree(finished[0] / "labels", labels, ignore=shutil.ignore_patterns("*.json"))
    broken = labels / "phantom_0003.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    answer = job("--input_dir", labels, "--output_dir", out, check=False)
    assert answer.returncode != 0 and "phantom_0003.nii.gz" in answer.stderr
    assert len(list((out / "cases").glob("*.npz"))) == 3
    answer = job("--input_dir", labels, "--output_dir", out, "--keep_going")
    assert "accepted by --keep_going" in answer.stdout
    assert "phantom_0003" not in (out / "cases" / "train.csv").read_text() + (out / "cases" / "val.csv").read_text()


def test_stopped_in_training_it_goes_on_where_it_was(copy):
    """SIGTERM to the job in mid-training: saved, said, and finished by the same command."""
    words = [
        "bash",
        str(ROOT / "run_train.sh"),
        "--recipe",
        "tiny",
        "--output_dir",
        str(copy),
        "--",
        "--epochs",
        "60",
        "--eval_every",
        "60",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    deadline = time.time() + 120
    while time.time() < deadline and not (
        (copy / "train.old-1").exists() and (copy / "train" / "checkpoint-last.pth").is_file()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "run the same command again to continue" in output
    state = json.loads((copy / "train" / "checkpoint-last.json").read_text())
    assert state["status"] == "stopped" and state["epoch"] < 60
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "training, recipe tiny (continues)" in answer.stdout and "going on from" in answer.stdout
    assert not (copy / "train.old-2").exists(), "it is still the same run"


@pytest.mark.parametrize("moment", ["[2/7]", "[7/7]"], ids=["preparation", "reconstruction"])
def test_sigterm_in_any_stage_says_that_it_was_stopped_and_how_to_go_on(finished, copy, moment):
    stage = {"[2/7]": "prepare", "[7/7]": "reconstruct"}[moment]
    stamp = copy / "stages" / f"{stage}.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "state": "running"}))
    process = subprocess.Popen(
        ["bash", str(ROOT / "run_train.sh"), "--recipe", "tiny", "--output_dir", str(copy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    for line in process.stdout:
        if line.startswith(moment):
            break
    time.sleep(0.2)  # the command of the stage is starting
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "stopped; run the same command again to continue" and "exit code" not in errors
    assert json.loads(stamp.read_text())["state"] == "running"
    assert "done in" in job("--output_dir", copy).stdout


def test_a_training_folder_without_its_last_checkpoint_is_made_whole_and_nothing_is_trained_again(copy):
    best = (copy / "train" / "checkpoint-best.pth").read_bytes()
    for suffix in (".pth", ".json"):
        (copy / "train" / f"checkpoint-last{suffix}").unlink()
    answer = job("--output_dir", copy)
    assert "is not there: the run goes on from" in answer.stdout and answer.stdout.count("done before") == 6
    assert (copy / "train" / "checkpoint-best.pth").read_bytes() == best
    assert (copy / "train" / "checkpoint-last.pth").is_file() and not (copy / "train.old-1").exists()


def test_under_nohup_it_goes_on_when_the_terminal_is_closed(copy):
    words = [*UNDER_NOHUP, "bash", str(ROOT / "run_train.sh"), "--recipe", "tiny", "--redo", "train"]
    process = subprocess.Popen(
        [*words, "--output_dir", str(copy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("[5/7]") and "again" not in line:
            break
    for _ in range(3):  # to the job and all that it has started, as a terminal does
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(1)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "done in" in output, output
    assert json.loads((copy / "train" / "status.json").read_text())["status"] == "finished"


def test_a_folder_with_foreign_case_files_is_refused(finished, tmp_path):
    (tmp_path / "out" / "cases").mkdir(parents=True)
    (tmp_path / "out" / "cases" / "mine.npz").write_bytes(b"")
    answer = job("--input_dir", finished[0] / "labels", "--output_dir", tmp_path / "out", check=False)
    assert answer.returncode == 2 and "mine.npz" in answer.stderr
    assert (tmp_path / "out" / "cases" / "mine.npz").exists()


def test_two_jobs_in_one_folder_are_refused(finished, tmp_path):
    with (finished[0] / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        answer = job("--output_dir", finished[0], check=False)
    assert answer.returncode == 2 and "another run is at work" in answer.stderr
