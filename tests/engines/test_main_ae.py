import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.ball_cases import ball_case, tiny_arguments, write_ball_cases, write_csv
from helpers.engine_parts import epoch_gradients, make_run
from helpers.processes import rank_environment, torchrun

from vecset.common.errors import EXIT_BAD_INPUT, InputError, run_command
from vecset.data.case_file import write_case
from vecset.engines import arguments, losses
from vecset.engines.arguments import build_parser, parse_arguments
from vecset.engines.losses import DEFAULT_WEIGHTS
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint, model_from_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def test_defaults_are_those_of_the_phase_1_recipe():
    args = parse_arguments(["--data_path", "x", "--output_dir", "y"])
    expected = {
        "vol_weight": 1,
        "near_weight": 10,
        "surface_weight": 10,
        "eikonal_weight": 0.001,
        "blr": 1e-3,
        "warmup_epochs": 20,
        "epochs": 400,
        "point_cloud_size": 8192,
        "near_points": 1024,
        "inside_points": 1024,
        "outside_points": 1024,
        "eval_every": 5,
        "eikonal_points": 1024,
        "grid_size": 64,
        "model": "learnable_vec1024x16_dim1024_depth24_nb",
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert all(hasattr(args, f"{name}_weight") for name in DEFAULT_WEIGHTS)
    short = parse_arguments(["--data_path", "x", "--output_dir", "y", "--epochs", "10"])
    assert short.warmup_epochs == 0.5


@pytest.mark.parametrize("launcher", ["python", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_both_ways_to_start_work_from_another_folder(data, repository, tmp_path, launcher):
    (tmp_path / "data").mkdir()  # would shadow nothing, and must not be taken for vecset/data
    words = [str(repository / "vecset" / "main_ae.py"), *tiny_arguments(data, tmp_path / "out", "--epochs", 2)]
    start = [sys.executable] if launcher == "python" else torchrun(2)
    run = subprocess.run(
        [*start, *words], cwd=tmp_path, env=rank_environment(), capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out" / "status.json").read_text())["status"] == "finished"
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == [
        ".lock",
        "checkpoint-best.json",
        "checkpoint-best.pth",
        "checkpoint-last.json",
        "checkpoint-last.pth",
        "log.txt",
        "status.json",
    ]


def test_a_second_run_in_the_same_folder_is_refused(data, repository, tmp_path, capsys):
    """Two runs would overwrite each other's checkpoints in turn; the lock ends with the process that had it."""
    words = [
        sys.executable,
        str(repository / "vecset" / "main_ae.py"),
        *tiny_arguments(data, tmp_path / "out", "--epochs", 100000, "--num_workers", 1, "--print_every", 1),
    ]
    first = subprocess.Popen(
        words, env=rank_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert any(line.startswith("epoch ") for line in first.stdout)
        assert run_command(main, tiny_arguments(data, tmp_path / "out", "--epochs", 2)) == EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert "another run is at work in this folder" in error and error.count("\n") == 1
    finally:
        first.kill()  # SIGKILL: nothing of it has a chance to clean up, and its loader may live on for seconds
        first.wait()
    assert main(tiny_arguments(data, tmp_path / "out", "--epochs", 2, "--max_steps", 1)) == 0


def test_an_output_folder_that_is_a_file_is_one_line(data, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert run_command(main, tiny_arguments(data, tmp_path / "out")) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "there is a file of that name" in error and error.count("\n") == 1


def test_help_tells_every_flag_and_needs_nothing_but_torch_and_numpy(repository, tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['main_ae.py', '--help']\n"
        "try: runpy.run_path(sys.argv.pop(0) and path, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'scipy', 'skimage', 'nibabel', 'trimesh', 'numba', 'matplotlib', 'wandb', 'tensorboardX'}\n"
        "print('HEAVY', heavy & set(sys.modules))"
    )
    code = f"path = {str(repository / 'vecset' / 'main_ae.py')!r}\n" + code.replace("sys.argv.pop(0) and path", "path")
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=rank_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for action in (a for a in build_parser()._actions if a.help != argparse.SUPPRESS):
        assert action.option_strings[-1] in run.stdout
    assert "HEAVY set()" in run.stdout and "exit codes" in run.stdout.lower()


def test_old_flags_set_the_options_of_their_new_names(capsys):
    needed = ("--data_path", "x", "--output_dir", "y")
    old = parse_arguments([*needed, "--class_gap", "2", "--latent_density", "2:3"])
    new = parse_arguments([*needed, "--fps_class_gap", "2", "--fps_density", "2:3"])
    assert old == new and (new.fps_class_gap, new.fps_density) == (2.0, "2:3")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    told = capsys.readouterr().out
    assert "--fps_class_gap" in told and "--class_gap" not in told and "--latent_density" not in told


def test_wandb_alone_means_online():
    needed = ["--data_path", "x", "--output_dir", "y"]
    assert parse_arguments(needed).wandb == "disabled"
    assert parse_arguments([*needed, "--wandb"]).wandb == "online"
    assert parse_arguments([*needed, "--wandb", "--wandb_name", "z"]).wandb == "online"
    assert parse_arguments([*needed, "--wandb", "offline"]).wandb == "offline"


def test_log_tensorboard_and_wandb(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    pytest.importorskip("wandb")
    output = tmp_path / "out"
    assert (
        main(
            tiny_arguments(
                data,
                output,
                "--epochs",
                2,
                "--print_every",
                1,
                "--eval_every",
                1,
                "--log_dir",
                tmp_path / "curves",
                "--wandb",
                "offline",
            )
        )
        == 0
    )
    lines = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    train, val = ([line for line in lines if line["kind"] == kind] for kind in ("train", "val"))
    assert [line["global_step"] for line in train] == [1, 2, 3, 4] and len(val) == 2
    for name in ("loss", "vol", "near", "surface", "eikonal", "class", "iou_near", "iou_vol", "accuracy"):
        assert all(name in line for line in lines), name
    total = sum(train[0][f"weighted_{name}"] for name in ("vol", "near", "surface", "eikonal", "class"))
    assert train[0]["loss"] == pytest.approx(total, rel=1e-5)
    assert {"lr", "step_seconds", "cases_per_second", "flop_per_second", "memory_gb", "gradient_norm"} <= train[
        0
    ].keys()
    assert {"mean_dice", "dice_c1", "per_class"} <= val[0].keys()
    curves = b"".join(p.read_bytes() for p in (tmp_path / "curves").iterdir())
    for tag in (b"train/loss", b"train/lr", b"val/mean_dice", b"val/dice_c1", b"val/slices"):
        assert tag in curves
    (run,) = (output / "wandb").glob("offline-run-*")
    for _ in range(300):  # its service process writes behind
        written = b"".join(p.read_bytes() for p in run.glob("run-*.wandb"))
        if b"val/slices" in written:
            break
        time.sleep(0.1)
    for tag in (b"train/loss", b"train/lr", b"train/weighted_near", b"val/mean_dice", b"val/dice_c1", b"val/slices"):
        assert tag in written, tag
    assert len(list(run.glob("files/media/images/val/slices*.png"))) == 2  # one for each validation


def test_eval_prints_what_the_checkpoint_was_chosen_by(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path, "--epochs", 2, "--eval_every", 1)) == 0
    best = load_checkpoint(tmp_path / "checkpoint-best.pth")
    assert not model_from_checkpoint(best).training
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(tiny_arguments(data, tmp_path, "--eval")) == 0
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["mean_dice"] == best["best_metric"] and report["per_class"] == best["metrics"]["per_class"]
    assert "c1" in capsys.readouterr().out
    # what decides the figures comes from the checkpoint where no flag says otherwise
    assert main(["--data_path", str(data), "--output_dir", str(tmp_path), "--eval", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text()) == report
    assert main(["--data_path", str(data), "--output_dir", str(tmp_path), "--eval", "--grid_size", "9"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["per_class"] != report["per_class"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "eval.json"])
    assert main(tiny_arguments(data, tmp_path / "other", "--eval", "--resume", tmp_path / "checkpoint-last.pth")) == 0


def test_wandb_that_cannot_start_is_one_line(data, tmp_path, capsys, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured\nrun wandb login")

    monkeypatch.setattr(wandb, "init", refuse)
    assert run_command(main, tiny_arguments(data, tmp_path / "out", "--wandb", "online")) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "WANDB_API_KEY" in error and "api_key not configured" in error and error.count("\n") == 1


def test_dry_run_leaves_nothing(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "a" / "b", "--dry_run")) == 0
    out = capsys.readouterr().out
    assert "all is well" in out and "MB, written and read back" in out and not (tmp_path / "a").exists()


def test_resume_starts_a_new_folder_from_a_file(data, tmp_path, capsys):
    assert main(tiny_arguments(data, tmp_path / "one", "--epochs", 2, "--max_steps", 3)) == 0
    last = tmp_path / "one" / "checkpoint-last.pth"
    assert main(tiny_arguments(data, tmp_path / "two", "--epochs", 2, "--resume", last)) == 0
    assert "going on from" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "two" / "checkpoint-last.pth")["global_step"] == 4
    assert load_checkpoint(last)["global_step"] == 3
    assert main(tiny_arguments(data, tmp_path / "two", "--epochs", 2, "--resume", last)) == 0  # as a requeued job would
    out = capsys.readouterr().out
    assert "comes before --resume" in out and "finished" in out


def test_a_run_with_muon_goes_on_to_the_bit_and_keeps_its_optimizer(data, tmp_path, capsys):
    options = ("--epochs", 2, "--optimizer", "muon")
    assert main(tiny_arguments(data, tmp_path / "whole", *options)) == 0
    assert main(tiny_arguments(data, tmp_path / "parts", *options, "--max_steps", 3)) == 0
    assert run_command(main, tiny_arguments(data, tmp_path / "parts", "--epochs", 2)) == EXIT_BAD_INPUT
    assert "--optimizer: expected muon, which" in capsys.readouterr().err
    assert main(tiny_arguments(data, tmp_path / "parts", *options)) == 0
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("whole", "parts"))
    assert parts["global_step"] == whole["global_step"] == 4
    assert all(torch.equal(parts["model"][name], value) for name, value in whole["model"].items())
    momenta = whole["optimizer"]["muon"]["state"]
    assert momenta and whole["optimizer"]["adamw"]["state"]
    for number, state in momenta.items():
        assert torch.equal(parts["optimizer"]["muon"]["state"][number]["momentum_buffer"], state["momentum_buffer"])


@pytest.mark.parametrize(
    "more, message",
    [
        (("--model", "learnable_vec8_dim32_depth1_nb"), "--model: expected {learnable|point}_vec{M}"),
        (("--classes", "10"), "expected 10 classes, as --classes says, found 3"),
        (("--batch_size", "5"), "5 x 1 x 1 = 5 cases, found 4"),
        (("--num_workers", "100000"), "--num_workers: expected at most"),
        (("--eikonal_points", "49"), "at most the number of query points, found 49 of 48"),
        (
            ("--inside_points", "0", "--outside_points", "0"),
            "--vol_weight: there are no points for this loss (--inside_points or --outside_points)",
        ),
        (("--warmup_epochs", "400"), "--warmup_epochs: expected fewer than --epochs"),
        (("--precision", "tf32"), "--precision: expected auto, fp32 or bf16 on a CPU"),
        (("--normal_weight", "1", "--normal_points", "65"), "expected at most --point_cloud_size, found 65 of 64"),
        (("--surface_loss_points", "65"), "expected at most --point_cloud_size, found 65 of 64"),
        (("--model", "point_vec65x4_dim32_depth1_nb"), "--point_cloud_size: expected at least the 65 latents"),
        (("--rotary",), "--rotary: only latents with places (--anchors)"),
        (("--fps_class_gap", "1"), "--fps_class_gap: only point queries are chosen"),
        (("--fps_density", "4:2"), "--fps_density: expected CLASS:FACTOR,... with classes 1..3"),
        (("--early_latents", "4"), "--early_latents: the 8 queries of learnable_vec8x4_dim32_depth1_nb are learned"),
        (
            ("--early_latents", "9", "--model", "point_vec8x4_dim32_depth1_nb"),
            "--early_latents: expected at most the 8 latents of point_vec8x4_dim32_depth1_nb, found 9",
        ),
        (
            (
                "--near_points",
                "0",
                "--inside_points",
                "0",
                "--outside_points",
                "0",
                "--vol_weight",
                "0",
                "--near_weight",
                "0",
                "--eikonal_weight",
                "0",
                "--truncated_weight",
                "1",
            ),
            "--truncated_weight: there are no points",
        ),
        (("--init_from", "nowhere.pth"), "nowhere.pth: no such file"),
        (("--optimizer", "muon", "--shard", "optimizer"), "--shard optimizer: Muon's momentum cannot be sharded"),
        (("--device", "tpu"), "--device"),
        (("--fold", "3"), "train_fold3.csv"),
        (("--resume", "nowhere.pth"), "nowhere.pth: no such file"),
        (("--eval",), "--eval"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(data, tmp_path, capsys, more, message):
    assert run_command(main, tiny_arguments(data, tmp_path / "out", *more)) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_csv_of_another_class_count_is_refused(data, tmp_path, capsys):
    write_ball_cases(tmp_path / "data", train=2, val=2)
    write_case(tmp_path / "data" / "ball03.npz", ball_case(3, num_classes=4))
    assert run_command(main, tiny_arguments(tmp_path / "data", tmp_path / "out")) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "ball03.npz: expected 3 classes, as train.csv has, found 4" in error and error.count("\n") == 1
    assert main(tiny_arguments(data, tmp_path / "out", "--epochs", 2, "--max_steps", 1)) == 0
    other = write_ball_cases(tmp_path / "other", train=2, val=1, num_classes=5)
    assert run_command(main, tiny_arguments(other, tmp_path / "out", "--epochs", 2)) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "'num_classes': 5" in error and "'num_classes': 3" in error and error.count("\n") == 1  # its checkpoint


def test_train_and_val_overlap_only_on_purpose(tmp_path):
    folder = write_ball_cases(tmp_path, train=2, val=1)
    write_csv(folder / "val.csv", ["ball00", "ball01"])
    with pytest.raises(InputError, match="in both train and val"):
        main(tiny_arguments(folder, tmp_path / "out"))
    (folder / "splits.json").write_text('{"overfit": true}')
    assert main(tiny_arguments(folder, tmp_path / "out", "--epochs", 2)) == 0


def test_classes_that_were_not_annotated_teach_nothing(tmp_path):
    """The gradient of a class logit is zero where no case was annotated for it; missing anatomy is taught."""
    folder = tmp_path / "cases"
    write_ball_cases(folder, train=2, val=1, missing=(2,), annotated=(1, 2))
    for name in ("ball00", "ball01", "ball02"):
        case = ball_case(int(name[-1]), missing=(2, 3), annotated=(1, 2))
        write_case(folder / f"{name}.npz", case)
    gradient = epoch_gradients(make_run(folder, tmp_path / "out"))[0]["to_outputs.1.bias"]
    assert gradient[3] == 0 and torch.all(gradient[:3] != 0)  # distance, classes 1, 2 (missing), 3 (not annotated)


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['main_ae.py', '--help']\n"
        "from vecset import main_ae\n"
        "try:\n    main_ae.main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    assert tuple(losses.CLASS_LOSSES) == arguments.CLASS_LOSSES
