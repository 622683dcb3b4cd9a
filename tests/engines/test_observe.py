"""--observe by the command: trained, resumed, evaluated, started from other weights, reconstructed."""

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import assert_same_state, records

from vecset.common.errors import run_command
from vecset.inference.model import load_model
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint

NAMES = ["RA", "RV", "PA", "LV"]
OBSERVE = ("--observe", "classes=0.4,right=0.2,cut=0.2,slices=0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), 4, 2, num_classes=4, class_names=NAMES, missing=(3,))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, tmp_path, capsys):
    flags = (*OBSERVE, "--epochs", 2, "--eval_every", 1)
    assert main(tiny_arguments(data, tmp_path / "whole", *flags)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags, "--max_steps", 1)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags, "--num_workers", 1)) == 0
    assert "going on from" in capsys.readouterr().out
    whole, cut = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("whole", "cut"))
    assert_same_state(whole, cut)
    assert whole["model_config"]["states"] is True and whole["model"]["state_embed"].abs().sum() > 0
    assert main(tiny_arguments(data, tmp_path / "plain", *flags[2:])) == 0
    plain = load_checkpoint(tmp_path / "plain" / "checkpoint-last.pth")
    assert "state_embed" not in plain["model"]
    assert records(tmp_path / "plain")[0]["loss"] != records(tmp_path / "whole")[0]["loss"]


def test_a_checkpoint_is_evaluated_and_encodes_by_the_states_of_a_heart(data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(tiny_arguments(data, folder, *OBSERVE, "--epochs", 2)) == 0
    stored = load_checkpoint(folder / "checkpoint-last.pth")
    capsys.readouterr()
    evaluate = ["--data_path", str(data), "--output_dir", str(folder), "--eval", "--device", "cpu"]
    assert main(evaluate) == 0
    assert f"{stored['metrics']['mean_dice']:.4g}" in capsys.readouterr().out
    assert run_command(main, [*evaluate, "--observe", ""]) == 2
    assert "was trained with it; leave it out" in capsys.readouterr().err
    model = load_model(folder / "checkpoint-last.pth", device="cpu")
    assert "--observe" in model.description
    case = model.read(data / "ball04.npz")
    assert case.states.tolist() == [0, 0, 1, 0]
    latents = model.encode(case)
    case.meta["annotated_classes"] = [1, 2, 4]
    assert case.states.tolist() == [0, 0, 2, 0] and not torch.equal(model.encode(case), latents)


def test_a_network_that_was_not_told_states_may_start_one_that_is(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "plain", "--epochs", 2)) == 0
    start = ("--init_from", tmp_path / "plain" / "checkpoint-last.pth", "--lr", "0", "--epochs", 2)
    capsys.readouterr()
    assert main(tiny_arguments(data, tmp_path / "told", *OBSERVE, *start)) == 0
    assert "which were not told the states of classes" in capsys.readouterr().out
    plain, told = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("plain", "told"))
    assert told["model"].pop("state_embed").abs().sum() == 0 and told["model"].pop("far_slope") == 1
    assert all(torch.equal(value, plain["model"][name]) for name, value in told["model"].items())
    back = ("--init_from", tmp_path / "told" / "checkpoint-last.pth", "--epochs", 2)
    assert run_command(main, tiny_arguments(data, tmp_path / "back", *back)) == 2
    assert "network with states False" in capsys.readouterr().err


def test_a_network_with_several_answers_starts_from_one_with_one_and_goes_on(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "one", *OBSERVE, "--epochs", 2)) == 0
    start = ("--init_from", tmp_path / "one" / "checkpoint-last.pth", "--answer_noise", 4)
    several = (*OBSERVE, *start, "--epochs", 2, "--eval_every", 1)
    assert main(tiny_arguments(data, tmp_path / "whole", *several)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *several, "--max_steps", 1)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *several, "--num_workers", 1)) == 0
    assert "going on from" in capsys.readouterr().out
    whole, cut = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("whole", "cut"))
    assert_same_state(whole, cut, ("best_metric", "best_epoch"))  # a run that is stopped validates once more
    assert whole["model"]["answer_noise.maps.0.weight"].abs().sum() > 0
    assert "--answer_noise 4" in load_model(tmp_path / "whole" / "checkpoint-last.pth", device="cpu").description


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--answer_noise", 4), "--answer_noise: without --observe"),
        ((*OBSERVE, "--answer_noise", 4, "--normal_weight", 1), "--normal_weight: --answer_noise has no such loss"),
        (("--observe", "all=1"), "--observe: expected KIND=PROBABILITY"),
        (("--observe", "left=1"), "--observe left: the cases have no class Myocardium"),
        ((*OBSERVE, "--network", "per_class", "--model", "point_vec8x4_dim32_depth1_nb"), "only --network joint"),
    ],
)
def test_what_cannot_be_is_one_line(data, tmp_path, flags, words, capsys):
    assert run_command(main, tiny_arguments(data, tmp_path / "out", *flags)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
