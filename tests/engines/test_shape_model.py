"""--shape_model by the command: trained, resumed, evaluated, started from other weights, encoded, refused."""

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.ball_shapes import ball_arrays
from helpers.engine_parts import assert_same_state

from vecset.common.errors import EXIT_BAD_INPUT, run_command
from vecset.data.case_file import read_case, write_case
from vecset.data.shape_model_file import write_shape_model
from vecset.inference.latent_codes import pack_latents
from vecset.inference.latents import write_latents
from vecset.inference.model import load_model
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint

SOURCE = "5" * 64  # of the label map of ball05
NAMES = ["RA", "RV", "PA", "LV"]
POINTS = ("--model", "point_vec8x4_dim32_depth1_nb", "--anchors", "--epochs", 2)
OBSERVE = ("--observe", "classes=0.5,cut=0.3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 4, 2, num_classes=4, class_names=NAMES, missing=(3,))
    case = read_case(folder / "ball05.npz")
    case.meta["source_sha256"] = SOURCE
    write_case(folder / "ball05.npz", case)
    return folder


@pytest.fixture(scope="module")
def shapes(data):
    write_shape_model(data / "shapes.npz", ball_arrays(), NAMES, {"cases": ["ball00", "ball01"]})
    return ("--shape_model", data / "shapes.npz")


def test_a_run_goes_on_is_evaluated_and_encodes_without_the_file(data, shapes, tmp_path, capsys):
    flags = (*POINTS, *OBSERVE, *shapes)
    assert main(tiny_arguments(data, tmp_path / "whole", *flags)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags, "--max_steps", 1)) == 0
    assert main(tiny_arguments(data, tmp_path / "cut", *flags, "--num_workers", 1)) == 0
    whole, cut = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("whole", "cut"))
    assert_same_state(whole, cut)
    assert whole["model"]["proposal_embed"].abs().sum() > 0
    assert torch.equal(whole["model"]["shape_model.table_VK"], torch.as_tensor(ball_arrays()["table_VK"]))
    capsys.readouterr()
    evaluate = ["--data_path", str(data), "--output_dir", str(tmp_path / "whole"), "--eval", "--device", "cpu"]
    assert main(evaluate) == 0 and f"{whole['metrics']['mean_dice']:.4g}" in capsys.readouterr().out
    model = load_model(tmp_path / "whole" / "checkpoint-last.pth", device="cpu")
    assert "--shape_model" in model.description
    case = model.read(data / "ball04.npz")
    latents = model.encode(case)
    case.meta["annotated_classes"] = [1, 2, 4]
    unknown = model.encode(case)
    assert not torch.equal(unknown, latents)
    rows = model.stored_rows
    assert rows and unknown[0, -rows:].any() and not latents[0, -rows:].any(), (
        "the fit is stored where it says something"
    )
    packed = pack_latents(unknown[0].numpy(), 8, model.latents_have_places, rows)
    write_latents(tmp_path / "a.npz", packed, case, "a", model.class_names, model.checkpoint_sha256)
    stored, _ = model.stored_latents(tmp_path / "a.npz")
    assert torch.equal(stored[0, -rows:], unknown[0, -rows:]) and not torch.equal(stored, unknown)


def test_weights_without_a_shape_model_may_start_one_with(data, shapes, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "plain", *POINTS, *OBSERVE)) == 0
    start = ("--init_from", tmp_path / "plain" / "checkpoint-last.pth", "--lr", "0")
    assert main(tiny_arguments(data, tmp_path / "told", *POINTS, *OBSERVE, *shapes, *start)) == 0
    plain, told = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("plain", "told"))
    assert plain["metrics"]["mean_dice"] == told["metrics"]["mean_dice"], "whole hearts are encoded as before"
    new = {"proposal_embed", "shape_model.table_VK", "proposed_distances.tell.0.weight"}
    assert set(told["model"]) - set(plain["model"]) >= new


def test_weights_say_where_they_had_another_shape_model(data, shapes, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "one", *POINTS, *OBSERVE, *shapes)) == 0
    start = ("--init_from", tmp_path / "one" / "checkpoint-last.pth")
    arrays = ball_arrays()
    for words, table in (
        ("", np.pad(arrays["table_VK"], ((0, 0), (0, 1)))),  # a mode more, of nothing that it knows
        ("its shape model is another, so what is inferred changes", arrays["table_VK"] + np.float16(0.01)),
    ):
        path = tmp_path / "other.npz"
        write_shape_model(path, arrays | {"table_VK": table}, NAMES, {"sources": ["0"]})
        capsys.readouterr()
        out = tmp_path / f"out{len(words)}"
        assert main(tiny_arguments(data, out, *POINTS, *OBSERVE, "--shape_model", path, *start)) == 0
        said = capsys.readouterr().out
        assert words in said and bool(words) == ("shape model is another" in said)


@pytest.mark.parametrize(
    "flags, message",
    [
        (POINTS, "--shape_model: without --observe all of the heart is seen"),
        ((*POINTS, *OBSERVE, "--model", "learnable_vec8x4_dim32_depth1_nb"), "--shape_model: proposals are points"),
        ((*POINTS, *OBSERVE, "--shape_model", "nowhere.npz"), "nowhere.npz: no such file; check the path"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(data, shapes, tmp_path, capsys, flags, message):
    assert run_command(main, tiny_arguments(data, tmp_path / "out", *shapes, *flags)) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_other_structures_and_validation_hearts_are_refused(data, tmp_path, capsys):
    path = tmp_path / "shapes.npz"
    for names, record, message in (
        (["RA", "RV", "PA", "LA"], {}, "expected the classes of the training cases"),
        (NAMES, {"cases": ["ball00", "ball04"]}, "made from 1 of the validation cases too, ball04 for example"),
        (NAMES, {"cases": ["a"], "sources": [SOURCE]}, "made from 1 of the validation cases too, ball05 for example"),
    ):
        write_shape_model(path, ball_arrays(), names, record)
        words = tiny_arguments(data, tmp_path / "out", *POINTS, *OBSERVE, "--shape_model", path)
        assert run_command(main, words) == EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_run_of_an_earlier_version_goes_on_with_its_network(data, shapes, tmp_path, monkeypatch):
    """Its decoder was not told the fit."""
    flags = (*POINTS, *OBSERVE, *shapes)
    with monkeypatch.context() as patch:
        patch.setattr("vecset.engines.setup._fit_at_queries", lambda args: False)
        assert main(tiny_arguments(data, tmp_path / "run", *flags, "--max_steps", 1)) == 0
    assert main(tiny_arguments(data, tmp_path / "run", *flags)) == 0
    stored = load_checkpoint(tmp_path / "run" / "checkpoint-last.pth")
    assert not stored["model_config"]["fit_at_queries"] and stored["epoch"] == 2


def test_weights_that_have_seen_a_validation_heart_are_told(data, tmp_path, capsys):
    """By its label map: its case id may be another. What the first weights have seen goes with those that follow."""
    other = write_ball_cases(tmp_path / "cases", 3, 2, num_classes=4, class_names=NAMES)
    case = read_case(other / "ball01.npz")
    case.meta["source_sha256"] = SOURCE
    write_case(other / "ball01.npz", case)
    assert main(tiny_arguments(other, tmp_path / "first", *POINTS)) == 0
    start = ("--init_from", tmp_path / "first" / "checkpoint-last.pth")
    capsys.readouterr()
    assert main(tiny_arguments(data, tmp_path / "second", *POINTS, *start)) == 0
    told = "was trained on 1 of the validation cases, ball05 for example: figures of these are of training"
    assert told in capsys.readouterr().out
    assert SOURCE in load_checkpoint(tmp_path / "second" / "checkpoint-last.pth")["sources"]
    assert main(tiny_arguments(other, tmp_path / "third", *POINTS, *start)) == 0
    assert "was trained on" not in capsys.readouterr().out
