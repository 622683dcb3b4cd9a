"""A real Slurm with two simulated nodes (tests/integration/slurm_lab), jobs on it, tiny hearts.

The cluster is started where Slurm is installed, in CI (it installs Debian's packages) and where ../shared/slurm_lab
says that this is a machine for it; elsewhere the tests are skipped.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests" / "integration" / "slurm_lab"
MACHINE_FOR_IT = (ROOT.parent / "shared" / "slurm_lab").is_dir()
TINY = [
    "--device",
    "cpu",
    "--model",
    "learnable_vec16x8_dim32_depth1_nb",
    "--batch_size",
    "1",
    "--point_cloud_size",
    "256",
    "--near_points",
    "128",
    "--inside_points",
    "128",
    "--outside_points",
    "128",
    "--eikonal_points",
    "32",
    "--warmup_epochs",
    "1",
    "--num_workers",
    "0",
    "--grid_size",
    "8",
]
FEW_POINTS = ["--num_surface_points", "2000", "--num_vol_points", "2000", "--num_near_points", "2000"]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


class Lab:
    """The running cluster: `run` a command against it, `submit` a job, `wait` for it."""

    def __init__(self, state, namespaces=False):
        self.state = state
        cleared = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {
            **cleared,
            "SLURM_LAB_STATE": str(state),
            "SLURM_LAB_HOSTS": "0",
            "PYTHON": sys.executable,
            "VENV": "/no/such/venv",  # as CI's: the interpreter that is named goes before it
            "SLURM_LAB_NETNS": str(int(namespaces)),
            "OMP_NUM_THREADS": "1",
            "SLURM_LAB_PORT": str(21000 + (2 * os.getpid() + 5 * namespaces) % 10000),
        }

    def run(self, *words, cwd=None, check=True):
        answer = subprocess.run(
            ["bash", str(LAB / "in_lab.sh"), *(str(w) for w in words)],
            cwd=cwd,
            text=True,
            capture_output=True,
            env=self.environment,
            check=False,
        )
        if check:
            assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    def submit(self, *words, cwd):
        return self.run("sbatch", "--parsable", *words, cwd=cwd).stdout.strip()

    def facts(self, job):
        text = self.run("scontrol", "-o", "show", "job", job).stdout
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines() if line.strip()]

    def wait(self, job, seconds=600):
        """The facts of all tasks of a job once none is left to run."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            facts = self.facts(job)
            if all(f["JobState"] in ENDED for f in facts):
                return facts
            time.sleep(0.5)
        raise AssertionError(f"job {job} did not end: {self.facts(job)}")

    def train(self, cases, run, *more, cwd, sbatch=(), gpus=1):
        """Submits run_phase1_sbatch.sh on the tiny model, `gpus` processes per node. -> (job, its log)"""
        job = self.submit(
            "--cpus-per-task=1",
            *sbatch,
            ROOT / "run_phase1_sbatch.sh",
            "--data_path",
            cases,
            "--output_dir",
            run,
            "--gpus",
            gpus,
            *TINY,
            *more,
            cwd=cwd,
        )
        return job, Path(cwd) / f"heart-phase1-{job}.log"


def skip(reason):
    """Skips the test, which the summary then lists; a failure where ../shared/slurm_lab says that it has to run."""
    assert not MACHINE_FOR_IT, reason
    pytest.skip(reason)


@contextlib.contextmanager
def running_lab(namespaces=False):
    installed = shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is not None
    asked_for = os.environ.get("CI") or MACHINE_FOR_IT
    if not installed and not (asked_for and os.geteuid() == 0 and shutil.which("apt-get")):
        skip("Slurm is not installed here, and cannot be by this user")
    lab = Lab(Path(f"/tmp/sl{'n' * namespaces}{os.getpid()}"), namespaces)  # short: the sockets lie in it
    if namespaces and not can_make_namespaces(lab.environment):
        skip("this machine lets nobody make network namespaces (root and iproute2 are needed)")
    try:
        answer = subprocess.run(
            ["bash", str(LAB / "start_slurm.sh")], capture_output=True, text=True, check=False, env=lab.environment
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        yield lab
    finally:
        subprocess.run(["bash", str(LAB / "stop_slurm.sh")], env=lab.environment, capture_output=True, check=False)
        shutil.rmtree(lab.state, ignore_errors=True)


def can_make_namespaces(environment):
    """Whether this user may; installs `ip` where the cluster's own packages may be installed, too."""
    if os.geteuid():
        return False
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if shutil.which("ip", path=path) is None and shutil.which("apt-get"):
        words = (
            "apt-get update -qq; "  # another apt-get is waited for, not failed on
            "apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends iproute2"
        )
        subprocess.run(["sh", "-c", words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if shutil.which("ip", path=path) is None:
        return False
    return (
        subprocess.run(
            ["unshare", "--net", "--uts", "--mount", "true"], env=environment, capture_output=True, check=False
        ).returncode
        == 0
    )


def copy_repository(folder):
    """What the jobs need of it, in a folder of another name."""
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh"), ROOT / "requirements.txt", ROOT / "pyproject.toml"):
        folder.mkdir(exist_ok=True)
        shutil.copy2(path, folder)
    shutil.copytree(ROOT / "vecset", folder / "vecset", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def environment_of(process):
    words = (Path("/proc") / str(process) / "environ").read_bytes().split(b"\0")
    return dict(word.decode(errors="replace").split("=", 1) for word in words if b"=" in word)


def command(name, *words):
    subprocess.run(
        [sys.executable, str(ROOT / name), *(str(w) for w in words)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def make_labels(folder, num=5, size=80):
    command("make_phantoms.py", "--output_dir", folder, "--num", num, "--size", size)
    return folder


def make_cases(labels, folder):
    command("prepare_data.py", "--input_dir", labels, "--output_dir", folder, *FEW_POINTS)
    command("create_csv.py", "--data_dir", folder)
    return folder


def undisturbed(cases, run, *more):
    """The same training in this shell, by one process. -> last_state(run)"""
    command("vecset/main_ae.py", "--data_path", cases, "--output_dir", run, *TINY, *more)
    return last_state(run)


def last_state(run):
    """(status, metrics of the last validation) of a run folder."""
    facts = json.loads((Path(run) / "checkpoint-last.json").read_text())
    return facts["status"], facts["metrics"]


def wait_for(what, seconds=180):
    """Waits until `what()` is true; returns it."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        value = what()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def text(path):
    return path.read_text(errors="replace") if path.is_file() else ""


def processes_of(job, rank=0, script="main_ae.py"):
    """Process ids of a job's training processes of this rank (not torchrun's own, not the loader's)."""
    wanted, found = {f"SLURM_JOB_ID={job}".encode(), f"RANK={rank}".encode()}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = set((folder / "environ").read_bytes().split(b"\0"))
        except OSError:  # it has just ended
            continue
        if wanted <= environment and any(word.endswith(script.encode()) for word in words[1:3]):
            found.append(int(folder.name))
    return found
