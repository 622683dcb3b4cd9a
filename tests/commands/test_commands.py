"""Root scripts are thin, every command has its help by both names, and no flag that a command once had is gone."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "vecset" / "commands").glob("[!_]*.py"))
REQUIRED = {
    "prepare_data": ["--input_dir", "in", "--output_dir", "out"],
    "create_csv": ["--data_dir", "cases"],
    "check_data_quality": ["cases"],
    "make_phantoms": ["--output_dir", "out"],
    "reconstruct": ["--output_dir", "out"],
}
# every flag of the commands at commit 2a7695d with words that it takes; none: it is a switch
FLAGS = {
    "prepare_data": {
        "classes": "7",
        "num_surface_points": "300",
        "num_vol_points": "300",
        "num_near_points": "300",
        "file_workers": "0",
        "start_idx": "3",
        "end_idx": "5",
        "seed": "2",
        "overwrite": None,
        "label_map": "mmwhs",
        "annotated": "1,2",
        "spacing_from": "pixdim",
        "sdf": "edt",
        "class_floor": "0.1",
        "sample_caps": None,
        "drop_crumbs": "0.001",
        "exclude_border_cut": "all",
    },
    "create_csv": {
        "output_dir": "out",
        "val_ratio": "0.3",
        "seed": "2",
        "folds": "5",
        "group_regex": "x",
        "holdout": "test.txt",
    },
    "check_data_quality": {
        "report": "out",
        "file_workers": "2",
        "sample": "10",
        "exact": "10",
        "source_dir": "labels",
        "pictures": "0",
    },
    "make_phantoms": {
        "num": "3",
        "size": "32",
        "spacing": "2",
        "seed": "2",
        "oblique": "5",
        "flip": "0",
        "missing": "LAA",
        "cut": "0.1",
        "label_noise": "1",
        "file_workers": "2",
    },
    "reconstruct": {
        "checkpoint": "c.pth",
        "input": "cases",
        "data_path": "cases",
        "train_csv": "train.csv",
        "num_surface_points": "300",
        "num_latents": "8",
        "calibration": "decision.json",
        "chunk": "100",
        "mesh_cells": "32",
        "mesh_format": "stl",
        "lps": None,
        "spacing": "2",
        "latents": "latents.npz",
        "no_meshes": None,
        "spacing_from": "affine",
        "seed": "2",
        "device": "cpu",
        "overwrite": None,
        "compare": ["a", "b"],
        "run_dir": "run",
    },
}
RENAMED = {"label_map": "label_mapping", "drop_crumbs": "drop_islands"}


def parser_of(command):
    return importlib.import_module(f"vecset.commands.{command}").get_parser()


@pytest.mark.parametrize("command", COMMANDS)
def test_root_scripts_are_thin(command):
    tree = ast.parse((ROOT / f"{command}.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    kinds = [type(node).__name__ for node in tree.body[1:]]
    assert kinds == ["Import", "ImportFrom", "Expr", "ImportFrom", "ImportFrom", "If"], "imports and one call"
    assert f"vecset.commands.{command}" in {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_module_is_that_of_its_parser(command, monkeypatch):
    """That of the root script: tests/integration/test_places.py."""
    monkeypatch.setenv("COLUMNS", "100")
    words = [sys.executable, "-m", f"vecset.commands.{command}", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == parser_of(command).format_help() and "usage: " in done.stdout


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command in COMMANDS for flag in FLAGS[command]])
def test_every_flag_is_still_taken_under_its_old_name(command, flag):
    values, name = FLAGS[command][flag], RENAMED.get(flag, flag)
    words = [] if values is None else [values] if isinstance(values, str) else values
    found = vars(parser_of(command).parse_args([*REQUIRED[command], f"--{flag}", *words]))
    plain = vars(parser_of(command).parse_args(REQUIRED[command]))
    assert {key for key in plain if found[key] != plain[key]} == {name}
    renamed = vars(parser_of(command).parse_args([*REQUIRED[command], f"--{name}", *words]))
    assert renamed == found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_beginning_of_an_option_is_not_taken_for_it(command, capsys):
    parser = parser_of(command)
    names = [name for name in parser._option_string_actions if name[:2] == "--" and not parser.knows(name[:-1])]
    for name in names:
        with pytest.raises(SystemExit) as end:
            parser.parse_args([*REQUIRED[command], f"{name[:-1]}=1"])
        line = capsys.readouterr().err
        assert end.value.code == 2 and f"unrecognized arguments: {name[:-1]}=1" in line, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_new_names_only(command):
    shown = parser_of(command).format_help()
    for old, new in RENAMED.items():
        assert f"--{old} " not in shown and (old not in FLAGS[command] or f"--{new} " in shown)
