import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import assert_same_state, epoch_gradients, make_run, records

from vecset.engines.evaluation import decode_grid
from vecset.engines.loop import Monitor, forward_losses, train_one_epoch
from vecset.engines.run import TrainingRun
from vecset.engines.saving import RunState, Saver, go_on_from
from vecset.items.dataset import grid_truth
from vecset.items.loader import collate, iterate_batches
from vecset.main_ae import main
from vecset.models.embedding import surface_features
from vecset.weights.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=5, val=3)


def train(data, output, *more):
    """5 cases, batch 2: 3 steps per epoch, the last of one case; 3 epochs, evaluation after each."""
    return main(tiny_arguments(data, output, "--epochs", 3, "--eval_every", 1, "--print_every", 1, *more))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never stopped."""
    output = tmp_path_factory.mktemp("whole")
    assert train(data, output) == 0
    return output


def test_same_seed_same_losses_to_the_last_bit(data, whole, tmp_path):
    assert train(data, tmp_path) == 0
    assert records(tmp_path) == records(whole) and len(records(whole)) == 9 + 3
    assert train(data, tmp_path / "other", "--seed", 1) == 0
    assert records(tmp_path / "other") != records(whole)


def test_workers_and_cache_change_no_loss(data, whole, tmp_path):
    assert train(data, tmp_path, "--num_workers", 2, "--cache", "none") == 0
    assert records(tmp_path) == records(whole)


def test_resume_in_mid_epoch_equals_not_stopping(data, whole, tmp_path, capsys):
    assert train(data, tmp_path, "--max_steps", 4) == 0
    state = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert (state["epoch"], state["step"], state["status"]) == (1, 1, "time is up")
    (tmp_path / "log.txt").open("a").write('{"global_step": 5, "kind": "train"}\n{"half a li')  # of a killed run
    assert train(data, tmp_path) == 0
    # --max_steps evaluates where it stops, and that may be the best there is
    assert_same_state(
        load_checkpoint(tmp_path / "checkpoint-last.pth"),
        load_checkpoint(whole / "checkpoint-last.pth"),
        but=("best_metric", "best_epoch"),
    )
    trained = [[r for r in records(o) if r["kind"] == "train"] for o in (tmp_path, whole)]
    assert trained[0] == trained[1]
    capsys.readouterr()
    assert train(data, tmp_path) == 0 and "finished: all 3 epochs are done" in capsys.readouterr().out


# step 6 is the last of an epoch
@pytest.mark.parametrize("at_step, name", [(4, "SIGUSR1"), (6, "SIGTERM"), (5, "SIGHUP")])
def test_a_signal_saves_and_the_run_goes_on_exactly(data, tmp_path, monkeypatch, at_step, name):
    model = ("--model", "learnable_vec8x4_dim32_depth1_kl")  # its latents are drawn at random in training
    assert train(data, tmp_path / "whole", *model) == 0
    after_step = TrainingRun._after_step

    def interrupting(run, *position):
        if run.state.global_step + 1 == at_step:
            os.kill(os.getpid(), getattr(signal, name))
        return after_step(run, *position)

    monkeypatch.setattr(TrainingRun, "_after_step", interrupting)
    heard = signal.signal(getattr(signal, name), signal.SIG_DFL)  # nohup may have started these tests
    assert train(data, tmp_path / "cut", *model) == 75
    assert signal.signal(getattr(signal, name), heard) == signal.SIG_DFL
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["status"] == "stopped"
    sidecar = json.loads((tmp_path / "cut" / "checkpoint-last.json").read_text())
    assert (sidecar["global_step"], sidecar["status"]) == (at_step, "stopped")
    monkeypatch.undo()
    assert train(data, tmp_path / "cut", *model) == 0
    one, other = (load_checkpoint(tmp_path / n / "checkpoint-last.pth") for n in ("whole", "cut"))
    assert_same_state(one, other)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_signal_during_validation_is_obeyed_and_the_validation_made_up_for(data, whole, tmp_path, monkeypatch):
    def decode_then_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return decode_grid(*arguments)

    monkeypatch.setattr("vecset.engines.evaluation.decode_grid", decode_then_signal)
    assert train(data, tmp_path) == 75
    monkeypatch.undo()
    assert [r["kind"] for r in records(tmp_path)] == 3 * ["train"]
    assert train(data, tmp_path) == 0
    assert_same_state(load_checkpoint(tmp_path / "checkpoint-last.pth"), load_checkpoint(whole / "checkpoint-last.pth"))
    assert records(tmp_path) == records(whole)


def test_timed_saving_in_mid_epoch(data, tmp_path, monkeypatch):
    seen = []
    save = Saver.save

    def saving(saver, *a, **k):
        seconds = save(saver, *a, **k)
        seen.append(
            (saver.state.epoch, saver.state.step, json.loads((tmp_path / "status.json").read_text())["global_step"])
        )
        return seconds

    monkeypatch.setattr(Saver, "save", saving)
    assert train(data, tmp_path, "--save_every_minutes", 0, "--max_steps", 2) == 0
    # who watches status.json sees what is saved; the last one is told when the run leaves
    assert seen == [(0, 1, 1), (0, 2, 1)]
    assert json.loads((tmp_path / "status.json").read_text())["global_step"] == 2


def test_a_line_tells_what_a_watcher_wants_to_know(data, tmp_path, capsys):
    assert train(data, tmp_path, "--max_steps", 1, "--normal_weight", "0.1", "--normal_points", 8) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("epoch 1/3 step 1/3"))
    for word in (
        "loss ",
        "vol ",
        "near ",
        "surface ",
        "eikonal ",
        "class ",
        "normal ",
        "lr ",
        "s/step",
        "cases/s",
        "GFLOP/s",
        "GB",
        "left",
    ):
        assert word in line, word


OPTIONAL = (
    "--normal_weight",
    "0.3",
    "--normal_points",
    8,
    "--balanced_weight",
    "0.5",
    "--truncated_weight",
    2,
    "--truncation",
    "0.2",
)


def test_optional_losses_are_logged_raw_and_weighted_and_kept_over_a_stop(data, tmp_path):
    words = (*OPTIONAL, "--epochs", 2, "--augment_rotation", 20, "--model", "learnable_vec8x4_dim32_depth1_kl")
    assert train(data, tmp_path / "whole", *words) == 0
    lines = list(records(tmp_path / "whole"))
    weights = {
        "vol": 1,
        "near": 10,
        "surface": 10,
        "eikonal": 0.001,
        "class": 1,
        "kl": 0.001,
        "normal": 0.3,
        "balanced": 0.5,
        "truncated": 2,
    }
    assert {line["kind"] for line in lines} == {"train", "val"}
    for line in lines:
        assert line["loss"] == pytest.approx(sum(w * line[name] for name, w in weights.items()), rel=1e-5)
        for name, weight in weights.items():
            assert line[f"weighted_{name}"] == pytest.approx(weight * line[name])
    assert train(data, tmp_path / "cut", *words, "--max_steps", 4) == train(data, tmp_path / "cut", *words) == 0
    trained = [[r for r in records(tmp_path / n) if r["kind"] == "train"] for n in ("whole", "cut")]
    assert trained[0] == trained[1]


def test_normal_loss_is_that_of_the_gradient_at_the_points(data, tmp_path):
    """Reference: the slope of every point by central differences of the decoded distance in float64."""
    run = make_run(data, tmp_path, *OPTIONAL)
    batch = collate([run.dataset[0, i] for i in (0, 1)])
    assert batch["normal_points"].shape == batch["normal_vectors"].shape == (2, 8, 3)
    np.testing.assert_allclose(batch["normal_vectors"].norm(dim=-1), 1, atol=1e-6)
    torch.testing.assert_close(batch["normal_vectors"], batch["normal_points"] / 0.8, atol=2e-3, rtol=0)  # of a ball
    values = forward_losses(run.model, batch, run.step_options, 3)[1]
    model = run.model.double()
    surface = surface_features(batch["surface_points"], batch["surface_labels"], 3).double()
    with torch.no_grad():
        context = model.process_latents(model.encode(surface))
        slopes = []
        for axis in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[axis] = 1e-5
            above, below = (model.decode(context, batch["normal_points"].double() + s)[0] for s in (step, -step))
            slopes.append((above - below) / 2e-5)
    expected = (torch.stack(slopes, -1) - batch["normal_vectors"]).square().sum(-1).mean()
    assert float(values["normal"][0] / values["normal"][1]) == pytest.approx(float(expected), rel=1e-4)
    assert float(values["eikonal"][0]) > 0


# --- averages


@pytest.mark.parametrize("model", ["learnable_vec8x4_dim32_depth1_nb", "learnable_vec8x4_dim32_depth1_kl"])
def test_accumulated_passes_have_the_gradient_of_the_joint_batch(data, tmp_path, model):
    options = (*OPTIONAL, "--model", model)
    joint = epoch_gradients(make_run(data, tmp_path, "--batch_size", 4, *options))
    parts = epoch_gradients(make_run(data, tmp_path, "--batch_size", 2, "--accum_iter", 2, *options))
    assert len(joint) == len(parts) == 2  # four cases, then one: the incomplete last group
    for one, other in zip(joint, parts):
        assert one.keys() == other.keys() and len(one) > 20
        for name in one:
            assert one[name].norm() > 0, name
            assert (one[name] - other[name]).norm() <= 1e-5 * one[name].norm(), name


def test_evaluation_is_a_mean_over_cases_and_dice_that_of_the_grid(data, tmp_path):
    run = make_run(data, tmp_path)
    whole = run.evaluator.evaluate(run.model)
    run.evaluator.batch_size = 1
    single = run.evaluator.evaluate(run.model)
    for name in ("loss", "near", "vol", "surface", "eikonal", "class", "iou_near", "iou_vol", "accuracy", "mean_dice"):
        assert whole[name] == pytest.approx(single[name], rel=1e-6, abs=1e-6), name
    assert whole["per_class"] == single["per_class"]
    assert [np.shape(planes) for planes in whole["slices"]] == [(3, 8, 8), (3, 8, 8)]
    losses, dice = [], []  # the obvious way
    run.model.eval()
    for index, entry in enumerate(run.evaluator.dataset.cases):
        batch = collate([run.evaluator.dataset[0, index]])
        losses.append(float(forward_losses(run.model, batch, run.step_options, 3)[0].detach()))
        with torch.no_grad():
            surface = surface_features(batch["surface_points"], batch["surface_labels"], 3)
            predicted = decode_grid(run.model, surface, 8)[0].numpy()
        truth = grid_truth(entry, 8)
        dice.append(
            [
                2 * ((truth == c) & (predicted == c)).sum() / ((truth == c).sum() + (predicted == c).sum())
                for c in (1, 2, 3)
            ]
        )
    assert whole["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert [c["dice"] for c in whole["per_class"].values()] == pytest.approx(list(np.mean(dice, 0)))


def test_the_draw_of_the_code_belongs_to_the_case_and_the_epoch(data, tmp_path):
    run = make_run(data, tmp_path, "--model", "point_vec8x4_dim32_depth1_kl")
    noise = [run.dataset[0, i]["code_noise"] for i in range(3)]
    assert noise[0].shape == (8, 4) and noise[0].dtype == np.float32
    flat = np.stack([*noise, run.dataset[1, 0]["code_noise"]]).reshape(4, -1)
    assert (np.abs(np.corrcoef(flat) - np.eye(4)) < 0.6).all()  # four streams, none twice
    assert np.array_equal(run.dataset[0, 1]["code_noise"], noise[1])
    assert "code_noise" not in run.evaluator.dataset[0, 0]
    batch = collate([run.dataset[0, i] for i in (0, 1)])
    surface = surface_features(batch["surface_points"], batch["surface_labels"], 3)
    latents = run.model.train()._encode(surface, batch["code_noise"])[0]
    mean = run.model.eval().encode(surface)
    scale = (latents - mean) / batch["code_noise"]
    assert (scale > 0).all()  # mean + deviation x the numbers of the case


@pytest.mark.parametrize("bottleneck", ["nb", "kl"])
def test_early_epochs_take_fewer_latents_and_validation_all(data, tmp_path, monkeypatch, bottleneck):
    from vecset.models.joint_network import VecSetAutoencoder

    seen, expand = [], VecSetAutoencoder.process_latents
    monkeypatch.setattr(
        VecSetAutoencoder,
        "process_latents",
        lambda self, latents, n=None: seen.append((self.training, latents.shape[1])) or expand(self, latents, n),
    )
    words = tiny_arguments(
        data,
        tmp_path,
        "--model",
        f"point_vec8x4_dim32_depth1_{bottleneck}",
        "--early_latents",
        3,
        "--early_share",
        0.5,
        "--epochs",
        4,
        "--eval_every",
        1,
    )
    assert main([*words, "--max_steps", "4"]) == 0  # stopped in the second epoch of three steps each
    assert main(words) == 0
    training = [count for trains, count in seen if trains]
    assert training == [3] * 6 + [8] * 6
    assert {count for trains, count in seen if not trains} == {8}


# --- what is not finite


def poison(monkeypatch, case_id, epoch):
    from vecset.items.dataset import CaseDataset

    read = CaseDataset.__getitem__

    def poisoned(dataset, key):
        item = read(dataset, key)
        if dataset.training and key[0] == epoch and dataset.cases[key[1]].case_id == case_id:
            item["query_sdf"] = item["query_sdf"] * np.float32("nan")
        return item

    monkeypatch.setattr(CaseDataset, "__getitem__", poisoned)


def test_a_step_that_is_not_finite_changes_no_weight(data, tmp_path, monkeypatch):
    poison(monkeypatch, "ball02", 0)
    run = make_run(data, tmp_path)
    bad = next(s for s in range(3) if 2 in run.plan.step_cases(0, s))
    states = []
    batches = iterate_batches(run.dataset, run.plan.keys(0, 0, 1))
    monitor = Monitor(run.ranks)
    start = [p.detach().clone() for p in run.model.parameters()]
    train_one_epoch(
        run.wrapped,
        batches,
        run.plan,
        run.optimizer,
        lambda e: 1e-3,
        run.step_options,
        3,
        0,
        0,
        monitor,
        lambda *p: states.append([p.detach().clone() for p in run.model.parameters()]) and False,
    )
    assert monitor.guard.first_bad_step() == bad
    for step, (before, after) in enumerate(itertools.pairwise([start, *states])):
        same = all(torch.equal(a, b) for a, b in zip(before, after))
        assert same == (step >= bad)  # frozen from the bad step on
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_a_run_that_is_not_finite_stops_with_a_name_and_keeps_its_checkpoint(data, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, "ball02", 1)
    assert train(data, tmp_path, "--print_every", 100) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: epoch 2, step ") and error.count("\n") == 1
    assert "ball02" in error and "near nan" in error and "checkpoint-last.pth is the last good" in error
    state = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert (state["epoch"], state["step"]) == (1, 0)
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "not finite"
    monkeypatch.undo()
    assert train(data, tmp_path) == 0  # the cause gone, it goes on


def test_a_validation_that_is_not_finite_ends_the_run_with_its_case(tmp_path, capsys):
    folder = write_ball_cases(tmp_path / "data", train=4, val=3)
    with np.load(folder / "ball05.npz") as members:
        arrays = dict(members)
    arrays["vol_sdf"][np.flatnonzero(arrays["vol_sdf"] > 0)] = np.inf
    np.savez(folder / "ball05.npz", **arrays)
    assert main(tiny_arguments(folder, tmp_path / "out", "--epochs", 2, "--eval_every", 1, "--batch_size", 1)) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: epoch 1, validation: a loss is not finite (cases ball05: loss inf vol inf")
    assert error.count("\n") == 1 and "ball04" not in error
    assert json.loads((tmp_path / "out" / "status.json").read_text())["status"] == "not finite"
    assert not (tmp_path / "out" / "checkpoint-best.pth").exists()


# --- other options at the next start


def test_options_that_make_it_another_run_are_refused(data, tmp_path, capsys):
    from vecset.common.errors import InputError

    assert train(data, tmp_path, "--max_steps", 4) == 0
    for more, message in (
        (("--model", "learnable_vec8x4_dim32_depth2_nb"), "model_config"),
        (("--seed", "3"), "--seed: expected 0"),
    ):
        with pytest.raises(InputError, match=message):
            train(data, tmp_path, *more)
    capsys.readouterr()
    assert train(data, tmp_path, "--weight_decay", "0.2", "--max_steps", "5") == 0
    assert "--weight_decay 0.05 -> 0.2" in capsys.readouterr().out
    groups = load_checkpoint(tmp_path / "checkpoint-last.pth")["optimizer"]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.2, 0.0]


def test_another_batch_size_goes_on_at_the_same_case(data, tmp_path):
    assert train(data, tmp_path, "--max_steps", 2) == 0  # four of five cases are done
    run = make_run(data, tmp_path, "--epochs", 3, "--batch_size", 3)
    state = go_on_from(run, load_checkpoint(tmp_path / "checkpoint-last.pth"), "x")
    assert (state.epoch, state.step) == (0, 1)  # three are counted as done, the fourth is seen twice


def test_a_class_that_no_training_case_was_annotated_for_is_known_to_nobody(tmp_path):
    folder = write_ball_cases(tmp_path / "data", missing=(2,), annotated=(1, 3))
    run = make_run(folder, tmp_path / "out")
    assert run.model.known_classes.tolist() == [True, False, True]
    checkpoint = Saver(run, RunState(), Monitor(run.ranks)).checkpoint()
    assert checkpoint["model"]["known_classes"].tolist() == [True, False, True]
    per_class = run.evaluator.evaluate(run.model)["per_class"]
    assert per_class["c2"]["cases"] == per_class["c2"]["invented"] == 0
