"""Training, resuming and evaluating where class names differ between files, or are equal within one."""

import json

import pytest
from helpers.ball_cases import ball_case, tiny_arguments, write_ball_cases

from vecset.calibrate import main as calibrate
from vecset.common.errors import EXIT_BAD_INPUT, run_command
from vecset.data.case_file import write_case
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint


def rename(folder, names, *files):
    for n, path in enumerate(sorted(folder.glob("*.npz"))):
        if not files or path.name in files:
            case = ball_case(n)
            case.meta["class_names"] = names
            write_case(path, case)


def one_line(capsys, arguments, start=main):
    capsys.readouterr()
    assert run_command(start, arguments) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.split("\r")[-1].split("heart/s]")[-1].lstrip()  # without a progress bar
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_names_that_differ_are_one_line_in_every_command(tmp_path, capsys):
    folder = write_ball_cases(tmp_path / "data", train=2, val=1)
    run, swapped = tmp_path / "run", ["c2", "c1", "c3"]
    assert main(tiny_arguments(folder, run, "--epochs", 2)) == 0
    rename(folder, swapped, "ball02.npz")  # the validation case
    expected = "ball02.npz: expected the classes of ball00.npz (1 c1, 2 c2, 3 c3), found 1 c2, 2 c1, 3 c3"
    assert expected in one_line(capsys, tiny_arguments(folder, tmp_path / "other"))
    rename(folder, swapped)
    error = one_line(capsys, tiny_arguments(folder, run, "--eval"))
    assert "ball02.npz: expected the classes of" in error and "(1 c1, 2 c2, 3 c3)" in error
    assert "class_names" in one_line(capsys, tiny_arguments(folder, run, "--epochs", 3))  # goes on from the checkpoint
    where = {"checkpoint": run / "checkpoint-last.pth", "csv": folder / "train.csv", "output": tmp_path / "c.json"}
    words = [word for name, path in where.items() for word in (f"--{name}", str(path))]
    assert calibrate([*words, "--device", "cpu"]) == 0  # reads hearts to the checkpoint's classes by name
    rename(folder, ["c2", "c1", "c4"])
    error = one_line(capsys, [*words, "--device", "cpu"], calibrate)
    assert "found c2, c1, c4: c4 is none of them" in error
    rename(folder, swapped)
    start = ["--init_from", run / "checkpoint-last.pth"]
    assert main(tiny_arguments(folder, tmp_path / "third", "--epochs", 2, *start)) == 0
    assert "its 3 classes are taken by name" in capsys.readouterr().out
    rename(folder, ["c2", "c1", "c4"])
    assert main(tiny_arguments(folder, tmp_path / "fourth", "--epochs", 2, *start)) == 0
    assert "its classes have other names (c1, c2, c3), each is taken by its number" in capsys.readouterr().out


def test_equal_names_of_older_case_files_all_count(tmp_path, capsys):
    folder = write_ball_cases(tmp_path / "data", train=2, val=1)
    arguments = ("--epochs", 2, "--eval_every", 1)
    assert main(tiny_arguments(folder, tmp_path / "apart", *arguments)) == 0
    rename(folder, ["RV", "LV", "RV"])
    assert main(tiny_arguments(folder, tmp_path / "equal", *arguments)) == 0
    capsys.readouterr()
    apart, equal = (load_checkpoint(tmp_path / name / "checkpoint-best.pth") for name in ("apart", "equal"))
    assert equal["best_metric"] == apart["best_metric"] == pytest.approx(equal["metrics"]["mean_dice"])
    assert list(equal["metrics"]["per_class"]) == ["RV", "LV", "RV (class 3)"]
    assert list(equal["metrics"]["per_class"].values()) == list(apart["metrics"]["per_class"].values())
    record = json.loads((tmp_path / "equal" / "log.txt").read_text().splitlines()[-1])
    assert {"dice_RV", "dice_LV", "dice_RV (class 3)"} <= record.keys()
    assert main(tiny_arguments(folder, tmp_path / "equal", "--eval")) == 0  # the checkpoint, and the files as they are
    assert "RV (class 3)" in capsys.readouterr().out
    assert main(tiny_arguments(folder, tmp_path / "equal", "--epochs", 3)) == 0
