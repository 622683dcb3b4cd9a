"""The Slurm scripts on a real Slurm: accepted, the data array, the whole chain, a request to stop."""

import json
import re
import shutil

import pytest
from slurm_cluster import (
    FEW_POINTS, ROOT, TINY, command, last_state, make_cases, make_labels, running_lab, text, wait_for)

from vecset.data.case_file import read_meta

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

    calm, _ = lab.train(cases, tmp_path / "calm", *epochs, gpus=2, cwd=tmp_path)
    disturbed, log = lab.train(cases, tmp_path / "disturbed", *epochs, gpus=2, cwd=tmp_path)
    wait_for(lambda: re.search(r"epoch [2-9]\d*/60", text(log)))
    lab.run("scancel", "--batch", "--signal=USR1", disturbed)
    for job in (disturbed, calm):
        assert lab.wait(job)[0]["JobState"] == "COMPLETED", text(log)
    assert [lab.facts(job)[0]["Restarts"] for job in (calm, disturbed)] == ["0", "1"]
    assert "saved; requeued to go on" in text(log)
    assert text(log).count("== run_phase1_sbatch.sh") == 2, "the log is appended to"
    assert last_state(tmp_path / "calm") == last_state(tmp_path / "disturbed")
    assert last_state(tmp_path / "calm")[0] == "finished"


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


def submit_chain(lab, labels, out, cwd, *more):
    one_cpu = "--cpus-per-task=1"
    return lab.run("bash", ROOT / "submit_phase1.sh", "--input_dir", labels, "--output_dir", out, "--tasks", "2", *more,
                   "--cpu_sbatch", one_cpu, "--gpu_sbatch", one_cpu, "--", "--gpus", "1", *TINY, "--epochs", "2",
                   "--eval_every", "2", cwd=cwd).stdout


def chain_states(lab, out):
    jobs = dict(line.split() for line in (out / "chain.txt").read_text().splitlines())
    return {name: {f["JobState"] for f in lab.wait(job, 300)} for name, job in jobs.items()}


def test_the_whole_chain_runs_and_is_safe_to_submit_twice(lab, tmp_path):
    labels, out = tmp_path / "labels", tmp_path / "out"
    command("make_phantoms.py", "--output_dir", labels, "--num", "3", "--size", "112")
    (tmp_path / "my map.json").write_text(json.dumps({"values": {str(i): i for i in range(1, 11)}}))
    options = ("--prepare_options", "--drop_crumbs 0.0001 --label_map 'my map.json'")
    first = submit_chain(lab, labels, out, tmp_path, *options)
    assert [line.split()[0] for line in first.splitlines()[:5]] == ["data", "summary", "check", "train", "reconstruct"]
    assert "is under way" in submit_chain(lab, labels, out, tmp_path)
    states = chain_states(lab, out)
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    assert all(state == {"COMPLETED"} for state in states.values()), logs
    assert (out / "reconstruction" / "metrics.csv").is_file()
    request = read_meta(out / "cases" / "phantom_0000.npz")["request"]
    assert request["drop_crumbs"] == 0.0001 and request["label_map"], request
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
