"""The Slurm scripts on a real Slurm: accepted, found again from any folder, the data array, a request to stop."""

import re
import shutil

import pytest
from helpers.slurm_cluster import (
    FEW_POINTS,
    ROOT,
    copy_repository,
    last_state,
    make_cases,
    make_labels,
    running_lab,
    text,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab():
    with running_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_labels(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def cases(labels, tmp_path_factory):
    return make_cases(labels, tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("name", ["run_data_sbatch.sh", "run_phase1_sbatch.sh"])
def test_slurm_accepts_the_scripts_as_they_are(lab, name, tmp_path):
    answer = lab.run("sbatch", "--test-only", ROOT / name, cwd=tmp_path)
    assert "to start at" in answer.stderr
    answer = lab.run("sbatch", "--test-only", "--partition=nowhere", ROOT / name, cwd=tmp_path, check=False)
    assert answer.returncode != 0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("run_phase1_sbatch.sh", {"NumCPUs": "32", "TimeLimit": "1-12:00:00", "TresPerNode": "gres:gpu:a100:4"}),
        ("run_data_sbatch.sh", {"NumCPUs": "8", "ArrayTaskId": "0-49"}),
    ],
)
def test_what_the_scripts_ask_for_by_default(lab, name, wanted, tmp_path):
    job = lab.submit("--hold", ROOT / name, cwd=tmp_path)
    facts = lab.facts(job)[0]
    lab.run("scancel", job)
    wanted = {**wanted, "Requeue": "1", "NumNodes": "1"}
    assert {key: facts[key].removesuffix("-1") if key == "NumNodes" else facts[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", ["run_data_sbatch.sh", "run_phase1_sbatch.sh"])
def test_from_whatever_folder_and_by_whatever_path_the_repository_is_found(lab, name, tmp_path):
    """Slurm runs a copy in its spool folder. The log goes to the folder that sbatch was called from."""
    repository, submit = copy_repository(tmp_path / "a r\u00e9po"), tmp_path / "to  submit"
    submit.mkdir()
    (submit / "link").symlink_to(repository)
    for path, cwd in ((name, repository), (f"../a r\u00e9po/./{name}", submit), (f"link/{name}", submit)):
        job = lab.submit("--array=0-2" if "data" in name else "--nodes=1", path, "--help", cwd=cwd)
        logs = (
            [cwd / f"heart-data-{job}_{i}.log" for i in range(3)]
            if "data" in name
            else [cwd / f"heart-phase1-{job}.log"]
        )
        assert {f["JobState"] for f in lab.wait(job)} == {"COMPLETED"}, [text(log) for log in logs]
        assert all(f"{name} --" in text(log) for log in logs), "its --help"


def test_slurm_accepts_the_whole_chain_and_a_refused_part_is_named(lab, labels, tmp_path):
    words = ["bash", ROOT / "submit_phase1.sh", "--input_dir", labels, "--output_dir", tmp_path / "out", "--dry_run"]
    answer = lab.run(*words, cwd=tmp_path)
    assert "dry run" in answer.stdout and answer.stderr.count("to start at") == 5
    answer = lab.run(*words, "--prepare_options", "--annotated 99", cwd=tmp_path, check=False)
    assert answer.returncode == 2 and "--prepare_options: --annotated: expected class ids" in answer.stderr
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
    assert re.search(r"phantom_0002.nii.gz \(shard 1\): error: .*phantom_0002.nii.gz: broken", summary.stdout)
    again = summary.stdout.strip().splitlines()[-1].split()
    assert again[:2] == ["sbatch", "--array=1"]

    (mine / "phantom_0002.nii.gz").write_bytes(whole)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cases").glob("*.npz")}
    job = lab.submit("--cpus-per-task=1", *again[1:], cwd=submit)
    assert [f["JobState"] for f in lab.wait(job)] == ["COMPLETED"]
    summary = lab.run("bash", ROOT / "run_data_sbatch.sh", "--summary", *options, cwd=submit)
    assert summary.stdout.strip() == "5 of 5 case files are there"
    assert all((tmp_path / "cases" / name).stat().st_mtime_ns == when for name, when in before.items())


def test_an_array_with_gaps_needs_to_know_the_number_of_shards(lab, labels, tmp_path):
    job = lab.submit(
        "--array=1,3",
        "--cpus-per-task=1",
        ROOT / "run_data_sbatch.sh",
        "--input_dir",
        labels,
        "--output_dir",
        tmp_path / "cases",
        cwd=tmp_path,
    )
    assert {f["JobState"] for f in lab.wait(job)} == {"FAILED"}
    assert "--tasks: the array has gaps" in (tmp_path / f"heart-data-{job}_1.log").read_text()


def test_usr1_in_mid_epoch_saves_requeues_and_ends_with_the_losses_of_an_undisturbed_run(lab, cases, tmp_path):
    epochs = ["--epochs", "60", "--eval_every", "60"]

    here = ("--nodelist=node1", "--gres=gpu:a100:2")  # side by side on one node
    calm, _ = lab.train(cases, tmp_path / "calm", *epochs, gpus=2, cwd=tmp_path, sbatch=here)
    disturbed, log = lab.train(cases, tmp_path / "disturbed", *epochs, gpus=2, cwd=tmp_path, sbatch=here)
    wait_for(lambda: re.search(r"epoch [2-9]\d*/60", text(log)))
    assert lab.facts(calm)[0]["JobState"] == "RUNNING"
    lab.run("scancel", "--batch", "--signal=USR1", disturbed)
    for job in (disturbed, calm):
        assert lab.wait(job)[0]["JobState"] == "COMPLETED", text(log)
    assert [lab.facts(job)[0]["Restarts"] for job in (calm, disturbed)] == ["0", "1"]
    assert "asking Slurm to requeue the job" in text(log)
    assert text(log).count("== run_phase1_sbatch.sh") == 2, "the log is appended to"
    assert last_state(tmp_path / "calm") == last_state(tmp_path / "disturbed")
    assert last_state(tmp_path / "calm")[0] == "finished"


def test_wrong_paths_fail_before_any_training_with_their_names_in_the_log(lab, cases, tmp_path):
    job = lab.submit(
        ROOT / "run_phase1_sbatch.sh", "--data_path", tmp_path, "--output_dir", tmp_path / "run", cwd=tmp_path
    )
    assert lab.wait(job)[0]["JobState"] == "FAILED"
    assert "train.csv: no such file" in (tmp_path / f"heart-phase1-{job}.log").read_text()
    job = lab.submit(
        "--export=ALL,PYTHON=/no/such/python",
        ROOT / "run_phase1_sbatch.sh",
        "--data_path",
        cases,
        "--output_dir",
        tmp_path / "run",
        cwd=tmp_path,
    )
    assert lab.wait(job)[0]["JobState"] == "FAILED"
    assert "expected Python 3.11 or newer, found none" in (tmp_path / f"heart-phase1-{job}.log").read_text()
    answer = lab.run(
        "bash",
        ROOT / "run_phase1_sbatch.sh",
        "--dry_run",
        "--data_path",
        cases,
        "--output_dir",
        tmp_path / "run",
        "--venv",
        tmp_path / "venv",
        check=False,
    )
    assert answer.returncode == 2
    assert f"--venv: expected a virtual environment, found no {tmp_path}/venv/bin/python" in answer.stderr
