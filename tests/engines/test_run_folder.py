"""Run folders of which parts are gone or damaged: the run goes on or is refused, and no trained model is lost."""

import hashlib
import json
import re
import shlex
import shutil

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import assert_same_state, records

from vecset.common.errors import EXIT_BAD_INPUT, run_command
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint, save_checkpoint

LAST, BEST = "checkpoint-last.pth", "checkpoint-best.pth"
EPOCHS, BEST_EPOCH = 6, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def words(data, folder, *more):
    return tiny_arguments(data, folder, "--epochs", EPOCHS, "--eval_every", 1, "--print_every", 1, *more)


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """A finished run of six epochs whose best model is that of the third."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        dice = iter((0.1, 0.2, 0.5, 0.4, 0.3, 0.2))
        evaluate = _with_dice(lambda: next(dice))
        patch.setattr("vecset.engines.evaluation.Evaluator.evaluate", evaluate)
        assert main(words(data, folder)) == 0
    assert load_checkpoint(folder / BEST)["epoch"] == BEST_EPOCH
    return folder


def _with_dice(value):
    from vecset.engines.evaluation import Evaluator

    original = Evaluator.evaluate

    def evaluate(self, model, interrupted=lambda: False):
        return {**original(self, model, interrupted), "mean_dice": value()}

    return evaluate


@pytest.fixture
def run(whole_run, tmp_path):
    return shutil.copytree(whole_run, tmp_path / "run")


def remove(folder, *names):
    for name in names:
        (folder / name).unlink()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(path):
    return load_checkpoint(path)["model"]


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def start(arguments, capsys):
    code = run_command(main, [str(word) for word in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_without_the_last_checkpoint_the_run_goes_on_from_the_best_one(data, run, whole_run, capsys, monkeypatch):
    remove(run, LAST, "checkpoint-last.json")
    log = (run / "log.txt").read_bytes()
    dice = iter((0.4, 0.3, 0.2))
    monkeypatch.setattr("vecset.engines.evaluation.Evaluator.evaluate", _with_dice(lambda: next(dice)))
    code, out, _ = start(words(data, run), capsys)
    assert code == 0
    assert f"{run / LAST} is not there: the run goes on from {run / BEST}, after epoch 3" in out
    assert "epochs 4 to 6 are trained again" in out
    assert_same_state(load_checkpoint(run / LAST), load_checkpoint(whole_run / LAST))
    assert digest(run / BEST) == digest(whole_run / BEST), "no later model was better"
    assert (run / "log.old-1.txt").read_bytes() == log and records(run) == records(whole_run)


def test_fewer_epochs_than_are_done_change_no_model_and_no_log(data, run, whole_run, capsys):
    remove(run, LAST, "checkpoint-last.json", "checkpoint-best.json")
    code, out, _ = start(words(data, run, "--epochs", 2), capsys)
    assert code == 0 and "finished: 3 epochs are done, more than --epochs 2" in out
    assert digest(run / BEST) == digest(whole_run / BEST) == digest(run / LAST)
    assert (run / "log.txt").read_bytes() == (whole_run / "log.txt").read_bytes()
    assert (run / "checkpoint-best.json").is_file() and (run / "checkpoint-last.json").is_file()


@pytest.mark.parametrize(
    "more, message",
    [
        (("--model", "learnable_vec8x4_dim64_depth1_nb"), "checkpoint-best.pth: expected a checkpoint of model_config"),
        (("--seed", 1), "--seed: expected 0"),
    ],
    ids=["another model", "another seed"],
)
def test_the_best_model_of_another_run_is_not_overwritten(data, run, capsys, more, message):
    remove(run, LAST, "checkpoint-last.json")
    before = {path.name: digest(path) for path in run.iterdir()}
    code, _, err = start(words(data, run, *more), capsys)
    assert code == EXIT_BAD_INPUT and message in err and err.count("\n") == 1
    assert {path.name: digest(path) for path in run.iterdir()} == before


def test_resume_of_another_run_does_not_overwrite_a_best_model(data, run, tmp_path, capsys):
    assert main(words(data, tmp_path / "other", "--epochs", 2)) == 0
    other = tmp_path / "other" / LAST
    shutil.copy(run / LAST, tmp_path / "own.pth")
    remove(run, LAST)
    best = digest(run / BEST)
    code, _, err = start(words(data, run, "--resume", other), capsys)
    assert code == EXIT_BAD_INPUT and "is of another run, and would be overwritten" in err and err.count("\n") == 1
    assert digest(run / BEST) == best
    code, out, _ = start(words(data, run, "--resume", tmp_path / "own.pth", "--epochs", 7), capsys)
    assert code == 0 and "global step 12" in out, "the same run's last checkpoint, kept elsewhere"


def test_init_from_does_not_begin_anew_over_a_best_model(data, run, capsys):
    remove(run, LAST, "checkpoint-last.json")
    code, out, _ = start(words(data, run, "--init_from", run / BEST), capsys)
    assert code == 0 and "comes before --init_from; a new run needs another --output_dir" in out
    assert "going on from" in out and load_checkpoint(run / LAST)["global_step"] == 2 * EPOCHS


def test_without_the_best_checkpoint_no_worse_model_becomes_the_best_before_the_end(data, run, capsys, monkeypatch):
    remove(run, BEST, "checkpoint-best.json")
    dice, there = iter((0.4, 0.45)), []

    def next_dice():
        there.append((run / BEST).exists())
        return next(dice)

    monkeypatch.setattr("vecset.engines.evaluation.Evaluator.evaluate", _with_dice(next_dice))
    code, out, _ = start(words(data, run, "--epochs", 8), capsys)
    assert code == 0 and "checkpoint-best.pth (epoch 3, Dice 0.5) is not there" in out
    assert there == [False, False] and "the last one takes its place" in out
    best = load_checkpoint(run / BEST)
    assert (best["epoch"], best["best_epoch"], best["best_metric"]) == (8, 8, 0.45), "it says what it is"
    assert same_weights(best["model"], weights(run / LAST))


def test_a_finished_run_without_the_best_checkpoint_has_one_again(data, run, capsys):
    remove(run, BEST, "checkpoint-best.json")
    code, out, _ = start(words(data, run), capsys)
    assert code == 0 and "finished" in out and f"{run / BEST} was made again from {run / LAST}" in out
    best = load_checkpoint(run / BEST)
    assert (best["epoch"], best["best_epoch"], best["best_metric"]) == (6, 6, 0.2)
    assert (run / "checkpoint-best.json").is_file()


def test_a_log_without_checkpoints_is_kept(data, run, capsys):
    remove(run, LAST, BEST)
    log = (run / "log.txt").read_bytes()
    code, out, _ = start(words(data, run, "--epochs", 2), capsys)
    assert code == 0 and "the whole log is kept as log.old-1.txt" in out
    assert (run / "log.old-1.txt").read_bytes() == log and load_checkpoint(run / LAST)["epoch"] == 2
    remove(run, LAST, BEST)
    assert start(words(data, run, "--epochs", 2), capsys)[0] == 0
    assert (run / "log.old-1.txt").read_bytes() == log and (run / "log.old-2.txt").is_file()


@pytest.mark.parametrize(
    "ending", [b'{"kind": "train", "global_st', b"\x00\x00\xff\xfe", b"12\n", b'[1]\n{"kind": 3}\n']
)
def test_a_cut_log_costs_no_other_line(data, run, whole_run, capsys, ending):
    with (run / "log.txt").open("ab") as handle:
        handle.write(ending)
    code, *_ = start(words(data, run, "--epochs", 7), capsys)
    assert code == 0 and records(run)[: len(records(whole_run))] == records(whole_run)
    assert json.loads((run / "log.txt").read_text().splitlines()[-1])["global_step"] == 14


def cut(path):
    path.write_bytes(path.read_bytes()[:20000])


def empty(path):
    path.write_bytes(b"")


def zeros_inside(path):
    """As a file system leaves a file whose length was written and whose pages were not."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2048] = bytes(2048)
    path.write_bytes(content)


def not_finite(path):
    checkpoint = load_checkpoint(path)
    model = {name: value.clone() for name, value in checkpoint["model"].items()}
    next(value for value in model.values() if value.is_floating_point()).view(-1)[0] = float("nan")
    save_checkpoint(path, {**checkpoint, "model": model})


DAMAGES = [cut, empty, zeros_inside, not_finite]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", ["resume", "remove"])
def test_a_damaged_last_checkpoint_names_the_way_on_and_it_works(data, run, whole_run, capsys, damage, way):
    damage(run / LAST)
    code, _, err = start(words(data, run, "--epochs", 7), capsys)
    assert code == EXIT_BAD_INPUT and err.count("\n") == 1
    assert str(run / LAST) in err and f"{run / BEST} is whole (epoch 3 of 6)" in err
    advice = shlex.split(re.search(r"add (--resume .+?) to go on", err)[1])
    if way == "remove":
        remove(run, re.search(r"remove (\S+) and run the same command again", err)[1])
        advice = []
    code, out, _ = start(words(data, run, "--epochs", 7, *advice), capsys)
    assert code == 0 and f"going on from {run / BEST}: epoch 4" in out
    assert "damaged and will be replaced" in out or way == "remove"
    assert load_checkpoint(run / LAST)["epoch"] == 7
    code, out, _ = start(words(data, run, "--epochs", 7, *advice), capsys)
    assert code == 0 and "finished" in out, "the same words again find the run whole"


def test_a_path_with_spaces_is_quoted_in_the_advice(data, run, tmp_path, capsys):
    folder = run.rename(tmp_path / "my run")
    empty(folder / LAST)
    _, _, err = start(words(data, folder), capsys)
    assert shlex.split(re.search(r"add (--resume .+?) to go on", err)[1]) == ["--resume", str(folder / BEST)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_two_damaged_checkpoints_say_so(data, run, capsys, damage):
    for name in (LAST, BEST):
        damage(run / name)
    before = {path.name: digest(path) for path in run.iterdir()}
    code, _, err = start(words(data, run), capsys)
    assert code == EXIT_BAD_INPUT and "no other checkpoint of this run is whole" in err and err.count("\n") == 1
    remove(run, LAST)
    code, _, err = start(words(data, run), capsys)
    assert code == EXIT_BAD_INPUT and str(run / BEST) in err and "no other checkpoint" in err
    assert all(digest(path) == before[path.name] for path in run.iterdir())


def test_resume_from_elsewhere_does_not_replace_a_damaged_run(data, run, tmp_path, capsys):
    """As a job has it that is queued again with the words of its first start."""
    shutil.copy(run / BEST, tmp_path / "first.pth")
    empty(run / LAST)
    code, _, err = start(words(data, run, "--resume", tmp_path / "first.pth"), capsys)
    assert code == EXIT_BAD_INPUT and str(run / LAST) in err


def test_eval_of_a_damaged_best_checkpoint_names_the_other(data, run, capsys):
    zeros_inside(run / BEST)
    code, _, err = start(words(data, run, "--eval"), capsys)
    assert code == EXIT_BAD_INPUT and err.count("\n") == 1
    advice = shlex.split(re.search(r"add (--resume .+?) to evaluate", err)[1])
    code, out, _ = start(words(data, run, "--eval", *advice), capsys)
    assert code == 0 and f"{run / LAST} (epoch 6)" in out
    remove(run, BEST)
    code, out, _ = start(words(data, run, "--eval"), capsys)
    assert code == 0 and f"{run / LAST} (epoch 6)" in out
