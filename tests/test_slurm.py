"""The Slurm scripts on a real Slurm: the cluster of tests/slurm_lab, two simulated nodes on this machine.

It is started where Slurm is installed, in CI (it installs Debian's packages) and where ../shared/slurm_lab says that
this is a machine for it; elsewhere these tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAB = Path(__file__).resolve().parent / "slurm_lab"
pytestmark = pytest.mark.slow
TINY = ("--device cpu --model learnable_vec16x8_dim32_depth1_nb --batch_size 1 --point_cloud_size 256 "
        "--near_points 128 --inside_points 128 --outside_points 128 --eikonal_points 32 "
        "--warmup_epochs 1 --num_workers 0 --grid_size 8").split()
FEW_POINTS = "--num_surface_points 2000 --num_vol_points 2000 --num_near_points 2000".split()


class Lab:
    """The running cluster: `run` a command against it, `submit` a job, `wait` for it, read its `log`."""

    def __init__(self, state):
        self.state = state
        cleared = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**cleared, "SLURM_LAB_STATE": str(state), "SLURM_LAB_HOSTS": "0", "PYTHON": sys.executable,
                            "VENV": "/no/such/venv",  # as CI's: the interpreter that is named goes before it
                            "SLURM_LAB_PORT": str(21000 + os.getpid() % 20000)}

    def run(self, *words, cwd=None, check=True):
        answer = subprocess.run(["bash", str(LAB / "in_lab.sh"), *(str(w) for w in words)], cwd=cwd, text=True,
                                capture_output=True, env=self.environment, check=False)
        if check:
            assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    def submit(self, *words, cwd):
        return self.run("sbatch", "--parsable", *words, cwd=cwd).stdout.strip()

    def facts(self, job):
        text = self.run("scontrol", "-o", "show", "job", job).stdout
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines() if line.strip()]

    def wait(self, job, seconds=180):
        """The facts of all tasks of a job once none is left to run."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            facts = self.facts(job)
            if all(f["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") for f in facts):
                return facts
            time.sleep(0.5)
        raise AssertionError(f"job {job} did not end: {self.facts(job)}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    installed = shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is not None
    asked_for = os.environ.get("CI") or (ROOT.parent / "shared" / "slurm_lab").is_dir()
    if not installed and not (asked_for and os.geteuid() == 0 and shutil.which("apt-get")):
        pytest.skip("Slurm is not installed here")
    lab = Lab(Path(f"/tmp/slab{os.getpid()}"))  # short: the sockets lie in it
    try:
        answer = subprocess.run(["bash", str(LAB / "start_slurm.sh")], capture_output=True, text=True, check=False,
                                env=lab.environment)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        yield lab
    finally:
        subprocess.run(["bash", str(LAB / "stop_slurm.sh")], env=lab.environment, capture_output=True, check=False)
        shutil.rmtree(lab.state, ignore_errors=True)


def command(name, *words):
    subprocess.run([sys.executable, str(ROOT / name), *(str(w) for w in words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    command("make_phantoms.py", "--output_dir", folder, "--num", "5", "--size", "80")
    return folder


@pytest.fixture(scope="module")
def cases(labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    command("prepare_data.py", "--input_dir", labels, "--output_dir", folder, *FEW_POINTS)
    command("create_csv.py", "--data_dir", folder)
    return folder


@pytest.mark.parametrize("name", ["run_data_sbatch.sh", "run_phase1_sbatch.sh"])
def test_slurm_accepts_the_scripts_as_they_are(lab, name, tmp_path):
    answer = lab.run("sbatch", "--test-only", ROOT / name, cwd=tmp_path)
    assert "to start at" in answer.stderr
    answer = lab.run("sbatch", "--test-only", "--partition=nowhere", ROOT / name, cwd=tmp_path, check=False)
    assert answer.returncode != 0


def test_slurm_accepts_the_whole_chain_and_a_refused_part_is_named(lab, labels, tmp_path):
    words = ["bash", ROOT / "submit_phase1.sh", "--input_dir", labels, "--output_dir", tmp_path / "out", "--dry_run"]
    answer = lab.run(*words, cwd=tmp_path)
    assert "dry run" in answer.stdout and answer.stderr.count("to start at") == 5
    answer = lab.run(*words, "--gpu_sbatch", "--partition=nowhere", cwd=tmp_path, check=False)
    assert answer.returncode == 2 and "Slurm refuses the job 'train'" in answer.stderr


def test_data_array_makes_every_case_and_names_what_is_missing(lab, labels, tmp_path):
    mine, submit = tmp_path / "labels", tmp_path / "submit"
    shutil.copytree(labels, mine)
    submit.mkdir()
    whole = (mine / "phantom_0002.nii.gz").read_bytes()
    (mine / "phantom_0002.nii.gz").write_bytes(whole[:3000])
    options = ["--input_dir", "../labels", "--output_dir", "../cases"]
    job = lab.submit("--array=0-2", "--cpus-per-task=1", ROOT / "run_data_sbatch.sh", *options, *FEW_POINTS, cwd=submit)
    states = [f["JobState"] for f in lab.wait(job)]
    assert sorted(states) == ["COMPLETED", "COMPLETED", "FAILED"], "the broken file fails its own task only"
    assert len(list((tmp_path / "cases").glob("*.npz"))) == 4
    assert sorted(p.name for p in submit.iterdir()) == [f"heart-data-{job}_{i}.log" for i in range(3)]

    summary = lab.run("bash", ROOT / "run_data_sbatch.sh", "--summary", *options, cwd=submit, check=False)
    assert summary.returncode == 1 and "4 of 5 case files are there" in summary.stdout
    assert re.search(r"phantom_0002.nii.gz \(share 1\): error: .*phantom_0002.nii.gz: expected", summary.stdout)
    again = summary.stdout.strip().splitlines()[-1].split()
    assert again[:2] == ["sbatch", "--array=1"]

    (mine / "phantom_0002.nii.gz").write_bytes(whole)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cases").glob("*.npz")}
    job = lab.submit("--cpus-per-task=1", *again[1:], cwd=submit)
    assert [f["JobState"] for f in lab.wait(job)] == ["COMPLETED"]
    summary = lab.run("bash", ROOT / "run_data_sbatch.sh", "--summary", *options, cwd=submit)
    assert summary.stdout.strip() == "5 of 5 case files are there"
    assert all((tmp_path / "cases" / name).stat().st_mtime_ns == when for name, when in before.items())


def test_an_array_with_gaps_needs_to_know_the_number_of_shares(lab, labels, tmp_path):
    job = lab.submit("--array=1,3", "--cpus-per-task=1", ROOT / "run_data_sbatch.sh", "--input_dir", labels,
                     "--output_dir", tmp_path / "cases", cwd=tmp_path)
    assert {f["JobState"] for f in lab.wait(job)} == {"FAILED"}
    assert "--tasks: the array has gaps" in (tmp_path / f"heart-data-{job}_1.log").read_text()


def test_usr1_in_mid_epoch_saves_requeues_and_ends_with_the_losses_of_an_undisturbed_run(lab, cases, tmp_path):
    epochs = ["--epochs", "60", "--eval_every", "60"]

    def start(name):
        return lab.submit("--cpus-per-task=1", ROOT / "run_phase1_sbatch.sh", "--data_path", cases, "--output_dir",
                          tmp_path / name, "--gpus", "2", *TINY, *epochs, cwd=tmp_path)

    calm, disturbed = start("calm"), start("disturbed")
    log = tmp_path / f"heart-phase1-{disturbed}.log"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.is_file() and re.search(r"epoch [2-9]\d*/60", log.read_text())):
        time.sleep(0.2)
    lab.run("scancel", "--batch", "--signal=USR1", disturbed)
    for job in (disturbed, calm):
        facts = lab.wait(job, 300)[0]
        assert facts["JobState"] == "COMPLETED", log.read_text()
    assert facts["Restarts"] == "0" and lab.facts(disturbed)[0]["Restarts"] == "1"
    text = log.read_text()
    assert "saved; requeued to go on" in text and text.count("== run_phase1_sbatch.sh") == 2, "the log is appended to"
    last = [json.loads((tmp_path / name / "checkpoint-last.json").read_text()) for name in ("calm", "disturbed")]
    assert last[0]["status"] == last[1]["status"] == "finished"
    assert last[0]["metrics"] == last[1]["metrics"]


def test_wrong_paths_fail_before_any_training_with_their_names_in_the_log(lab, cases, tmp_path):
    job = lab.submit(ROOT / "run_phase1_sbatch.sh", "--data_path", tmp_path, "--output_dir", tmp_path / "run",
                     cwd=tmp_path)
    assert lab.wait(job)[0]["JobState"] == "FAILED"
    assert "train.csv: no such file" in (tmp_path / f"heart-phase1-{job}.log").read_text()
    job = lab.submit("--export=ALL,PYTHON=/no/such/python", ROOT / "run_phase1_sbatch.sh", "--data_path", cases,
                     "--output_dir", tmp_path / "run", cwd=tmp_path)
    assert lab.wait(job)[0]["JobState"] == "FAILED"
    assert "expected Python 3.11 or newer, found none" in (tmp_path / f"heart-phase1-{job}.log").read_text()
    answer = lab.run("bash", ROOT / "run_phase1_sbatch.sh", "--dry_run", "--data_path", cases, "--output_dir",
                     tmp_path / "run", "--venv", tmp_path / "venv", check=False)
    assert answer.returncode == 2
    assert f"--venv: expected a virtual environment, found no {tmp_path}/venv/bin/python" in answer.stderr


def submit_chain(lab, labels, out, cwd):
    one_cpu = "--cpus-per-task=1"
    return lab.run("bash", ROOT / "submit_phase1.sh", "--input_dir", labels, "--output_dir", out, "--tasks", "2",
                   "--cpu_sbatch", one_cpu, "--gpu_sbatch", one_cpu, "--", "--gpus", "1", *TINY, "--epochs", "2",
                   "--eval_every", "2", cwd=cwd).stdout


def chain_states(lab, out):
    jobs = dict(line.split() for line in (out / "chain.txt").read_text().splitlines())
    return {name: {f["JobState"] for f in lab.wait(job, 300)} for name, job in jobs.items()}


def test_the_whole_chain_runs_and_is_safe_to_submit_twice(lab, tmp_path):
    labels, out = tmp_path / "labels", tmp_path / "out"
    command("make_phantoms.py", "--output_dir", labels, "--num", "3", "--size", "112")
    first = submit_chain(lab, labels, out, tmp_path)
    assert [line.split()[0] for line in first.splitlines()[:5]] == ["data", "summary", "check", "train", "reconstruct"]
    assert "is under way" in submit_chain(lab, labels, out, tmp_path)
    states = chain_states(lab, out)
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    assert all(state == {"COMPLETED"} for state in states.values()), logs
    assert (out / "reconstruction" / "metrics.csv").is_file()
    assert "3 of 3 case files are there" in logs


def test_when_one_part_fails_the_rest_is_cancelled(lab, labels, tmp_path):
    mine, out = tmp_path / "labels", tmp_path / "out"
    mine.mkdir()
    shutil.copy2(labels / "phantom_0000.nii.gz", mine)
    (mine / "broken.nii.gz").write_bytes(b"no image")
    submit_chain(lab, mine, out, tmp_path)
    states = chain_states(lab, out)
    assert states["summary"] == {"FAILED"} and "FAILED" in states["data"]
    assert states["check"] == states["train"] == states["reconstruct"] == {"CANCELLED"}
    assert not (out / "train").exists()
