"""submit_phase1.sh on a real Slurm: the whole chain, submitted twice, refused, failing, put right."""

import json
import re
import shutil
import subprocess

import pytest
from helpers.quality_mutations import sign_flipped
from helpers.slurm_cluster import (
    FEW_POINTS,
    LAB,
    ROOT,
    TINY,
    command,
    copy_repository,
    environment_of,
    make_cases,
    make_labels,
    processes_of,
    running_lab,
    text,
    wait_for,
)

from vecset.data.case_file import read_case, read_meta, write_case

pytestmark = pytest.mark.slow
PARTS = ["data", "summary", "check", "train", "reconstruct"]


@pytest.fixture(scope="module")
def lab():
    with running_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_labels(tmp_path_factory.mktemp("labels"))


def chain_words(labels, out, *more, training=("--epochs", "2", "--eval_every", "2"), repository=ROOT):
    one_cpu = "--cpus-per-task=1"
    return [
        "bash",
        str(repository / "submit_phase1.sh"),
        "--input_dir",
        str(labels),
        "--output_dir",
        str(out),
        *map(str, more),
        "--cpu_sbatch",
        one_cpu,
        "--gpu_sbatch",
        one_cpu,
        "--",
        "--gpus",
        "1",
        *TINY,
        *training,
    ]


def jobs_of(out):
    return dict(line.split() for line in (out / "chain.txt").read_text().splitlines())


def states(lab, jobs):
    return {name: {f["JobState"] for f in lab.wait(job, 300)} for name, job in jobs.items()}


def in_queue(lab):
    return lab.run("squeue", "--noheader", "--array", "--format=%i").stdout.split()


def test_the_whole_chain_runs_from_odd_folders_and_goes_on_after_a_stop(lab, tmp_path):
    """Blanks and letters beyond ASCII in every path, no environment for the jobs but what Slurm itself needs here. In
    mid-training the job is told to stop: it is requeued, and what waits for it waits on."""
    repository, labels, out = copy_repository(tmp_path / "a r\u00e9po"), tmp_path / "label maps", tmp_path / "the out"
    submit = tmp_path / "to submit"
    submit.mkdir()
    command("make_phantoms.py", "--output_dir", labels, "--num", "3", "--size", "112")
    (submit / "my map.json").write_text(json.dumps({"values": {str(i): i for i in range(1, 11)}}))
    words = chain_words(
        labels,
        out,
        "--tasks",
        "2",
        "--sbatch",
        "--export=SLURM_CONF,PATH,HOME",
        "--prepare_options",
        "--drop_islands 0.0001 --label_map 'my map.json'",
        repository=repository,
        training=("--epochs", "60", "--eval_every", "30", "--print_every", "1"),
    )
    first = lab.run(*words, cwd=submit).stdout
    assert [line.split()[0] for line in first.splitlines()[:5]] == PARTS
    again = lab.run(*words, cwd=submit).stdout
    assert "is under way" in again and all(job in again for job in jobs_of(out).values())

    jobs = jobs_of(out)
    train = submit / f"heart-phase1-{jobs['train']}.log"
    wait_for(lambda: re.search(r"epoch [2-9]\d*/60", text(train)), 300)
    found = environment_of(processes_of(jobs["train"])[0])
    assert found["OMP_NUM_THREADS"] == "1" and found["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert "expandable_segments" in found["PYTORCH_CUDA_ALLOC_CONF"] == found["PYTORCH_ALLOC_CONF"]
    lab.run("scancel", "--batch", "--signal=USR1", jobs["train"])

    ended = states(lab, jobs)
    logs = "".join(p.read_text() for p in submit.glob("*.log"))
    assert ended == {name: {"COMPLETED"} for name in PARTS}, logs
    assert lab.facts(jobs["train"])[0]["Restarts"] == "1" and "going on from" in text(train)
    assert (out / "reconstruction" / "metrics.csv").is_file()
    request = read_meta(out / "cases" / "phantom_0000.npz")["request"]
    assert request["drop_crumbs"] == 0.0001 and request["label_map"], request
    assert "3 of 3 case files are there" in logs


def test_998_hearts_are_50_tasks_and_two_submissions_at_once_are_one(lab, labels, tmp_path):
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(998):
        (many / f"heart{i:03d}.nii.gz").hardlink_to(labels / "phantom_0000.nii.gz")
    words = ["bash", str(LAB / "in_lab.sh"), *chain_words(many, out, "--sbatch", "--hold")]
    both = [
        subprocess.Popen(
            words, cwd=tmp_path, env=lab.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    said = sorted((process.communicate()[0] for process in both), key=lambda answer: "998 label maps" in answer)
    assert "nothing submitted" in said[0] or "is submitting for" in said[0], said
    assert "998 label maps in 50 shards" in said[1], said
    jobs = jobs_of(out)
    assert lab.facts(jobs["data"])[0]["ArrayTaskId"] == "0-49"
    assert len(in_queue(lab)) == 50 + 4
    again = lab.run(*chain_words(many, out), cwd=tmp_path).stdout
    assert "nothing submitted" in again and len(in_queue(lab)) == 50 + 4
    lab.run(*re.search(r"cancel all with: (scancel .*)", said[1])[1].split())
    assert states(lab, jobs) == {name: {"CANCELLED"} for name in PARTS}


def test_what_cannot_work_is_refused_before_anything_is_submitted(lab, labels, tmp_path):
    refused = [
        (("--bacth_size", "4"), "training options: unrecognized arguments: --bacth_size 4"),
        (("--init_from", "/no/such.pth"), "--init_from: no such checkpoint: /no/such.pth"),
        (("--output_dir", "x"), "--output_dir: not a training option here"),
    ]
    for training, message in refused:
        answer = lab.run(*chain_words(labels, tmp_path / "out", training=training), cwd=tmp_path, check=False)
        assert answer.returncode == 2 and message in answer.stderr, answer.stderr
        assert len(answer.stderr.strip().splitlines()) == 1
    words = chain_words(labels, tmp_path / "out")
    words[words.index("--gpu_sbatch") + 1] = "--partition=nowhere"
    answer = lab.run(*words, cwd=tmp_path, check=False)
    assert answer.returncode == 2 and "Slurm refused the job 'train'" in answer.stderr
    wait_for(lambda: not in_queue(lab), 60)
    assert not list((tmp_path / "out").glob("chain*.txt")) and not (tmp_path / "out" / "train").exists()


SLOW_SBATCH = """#!/bin/sh
case "$*" in *heart-summary*) sleep 4 ;; esac
exec {} "$@"
"""


def test_a_submission_that_is_cut_off_leaves_no_half_chain(lab, labels, tmp_path):
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SLOW_SBATCH.format(shutil.which("sbatch")))
    program.chmod(0o755)
    environment = {**lab.environment, "PATH": f"{program.parent}:{lab.environment['PATH']}"}
    process = subprocess.Popen(
        ["bash", str(LAB / "in_lab.sh"), *chain_words(labels, tmp_path / "out", "--sbatch", "--hold")],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline().startswith("data ")
    process.terminate()  # the second job is just being submitted
    assert process.wait(60) == 130
    wait_for(lambda: not in_queue(lab), 60)
    assert not list((tmp_path / "out").glob("chain*.txt"))


def test_when_one_part_fails_the_rest_is_cancelled_and_the_same_line_again_goes_on(lab, labels, tmp_path):
    mine, out = tmp_path / "labels", tmp_path / "out"
    mine.mkdir()
    for name in ("phantom_0000.nii.gz", "phantom_0001.nii.gz"):
        shutil.copy2(labels / name, mine)
    whole = (mine / "phantom_0001.nii.gz").read_bytes()
    (mine / "phantom_0001.nii.gz").write_bytes(b"no image")
    words = chain_words(mine, out, "--tasks", "2", "--prepare_options", " ".join(FEW_POINTS))
    lab.run(*words, cwd=tmp_path)
    ended = states(lab, jobs_of(out))
    assert ended["summary"] == {"FAILED"} and ended["data"] == {"COMPLETED", "FAILED"}
    assert ended["check"] == ended["train"] == ended["reconstruct"] == {"CANCELLED"}
    assert not (out / "train").exists()
    first = (out / "cases" / "phantom_0000.npz").stat().st_mtime_ns

    (mine / "phantom_0001.nii.gz").write_bytes(whole)
    lab.run(*words, cwd=tmp_path)
    jobs = jobs_of(out)
    assert states(lab, {name: jobs[name] for name in PARTS[:2]}) == {"data": {"COMPLETED"}, "summary": {"COMPLETED"}}
    assert (out / "cases" / "phantom_0000.npz").stat().st_mtime_ns == first, "what is done is not done again"
    lab.run("scancel", *jobs.values())


def test_no_training_where_the_quality_check_does_not_pass(lab, labels, tmp_path):
    out = tmp_path / "out"
    make_cases(labels, out / "cases")
    for path in (out / "cases").glob("*.npz"):
        case = read_case(path)
        sign_flipped(case)
        write_case(path, case)
    lab.run(*chain_words(labels, out, "--tasks", "1", "--prepare_options", " ".join(FEW_POINTS)), cwd=tmp_path)
    ended = states(lab, jobs_of(out))
    assert ended == {
        "data": {"COMPLETED"},
        "summary": {"COMPLETED"},
        "check": {"FAILED"},
        "train": {"CANCELLED"},
        "reconstruct": {"CANCELLED"},
    }
    assert not (out / "train").exists()
