"""The command line: one line per error, with the option that was meant; paths as users write them."""

import argparse
import ast
import os
import pwd
from pathlib import Path

import pytest

from vecset.common.arguments import CommandParser, user_path, user_path_text


def parser(**options):
    made = CommandParser("tool.py", **options)
    made.add_argument("--input_dir", type=user_path, required=True)
    made.add_argument("--num_cases", type=int, default=3)
    made.add_argument("--share", type=float)
    made.add_argument("--kind", choices=("mesh", "volume"))
    made.add_argument("--cases", dest="num_cases", type=int, help=argparse.SUPPRESS)
    return made


def told(words, capsys, **options):
    with pytest.raises(SystemExit) as end:
        parser(**options).parse_args(words)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1 and line.endswith("; options: tool.py --help\n")
    return line.removeprefix("error: ").removesuffix("; options: tool.py --help\n")


GIVEN = ["--input_dir", "x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*GIVEN, "--num_case_s", "3"], "unrecognized arguments: --num_case_s 3; did you mean --num_cases?"),
        ([*GIVEN, "--num", "3"], "unrecognized arguments: --num 3; did you mean --num_cases?"),
        (["--input", "x"], "unrecognized arguments: --input; did you mean --input_dir?"),
        ([*GIVEN, "--num-cases=3"], "unrecognized arguments: --num-cases=3; did you mean --num_cases?"),
        ([*GIVEN, "--Kind", "mesh"], "unrecognized arguments: --Kind mesh; did you mean --kind?"),
        ([*GIVEN, "—share", "3"], "unrecognized arguments: —share 3; did you mean --share?"),
        ([*GIVEN, "--zzz"], "unrecognized arguments: --zzz"),
        (["--input-dir", "x"], "unrecognized arguments: --input-dir; did you mean --input_dir?"),
        ([], "the following arguments are required: --input_dir"),
        ([*GIVEN, "y", "z"], "unrecognized arguments: y z; a value stands behind the name of its option, and one with"),
        ([*GIVEN, "--num_cases", "ten"], "--num_cases: expected a whole number, found 'ten'"),
        ([*GIVEN, "--share", "½"], "--share: expected a number, found '½'"),
        ([*GIVEN, "--kind", "meshes"], "--kind: expected one of mesh, volume, found 'meshes'; did you mean mesh?"),
        (["--input_dir", "--num_cases", "3"], "--input_dir needs a value; one that begins with a dash is given as"),
        (["--input_dir", "x\r"], "'x' ends with a carriage return: the script that holds this command has Windows"),
    ],
)
def test_errors_are_one_line(words, expected, capsys):
    line = told(words, capsys)
    assert line == expected or (line.startswith(expected) and len(expected) > 60)


def test_an_option_of_another_command_is_told_where_it_belongs(capsys):
    place = {"--shares": "give it behind --"}.get
    assert told([*GIVEN, "--shares=2"], capsys, elsewhere=place).endswith("--shares=2; give it behind --")


def test_values_behind_dashes_are_taken():
    found = parser().parse_args([*GIVEN, "--num_cases=-4", "--share=-.5"])
    assert (found.input_dir, found.num_cases, found.share) == (Path("x"), -4, -0.5)


def test_every_parser_wants_whole_names(repository):
    """Those that are no CommandParser, which never takes the beginning of a name, must say so themselves."""
    for path in sorted((repository / "vecset").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "argparse.ArgumentParser":
                assert any(word.arg == "allow_abbrev" for word in node.keywords), f"{path}:{node.lineno}"


def test_help_names_values_by_their_type_and_shows_what_is_required():
    made = parser(shown_required=("kind",))
    usage = " ".join(made.format_usage().split())
    assert usage == "usage: tool.py [-h] --input_dir PATH [--num_cases N] [--share X] --kind {mesh,volume}"
    assert made.parse_args(GIVEN).kind is None


def test_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    own = pwd.getpwuid(os.getuid())
    assert user_path("~") == tmp_path and user_path("~/a b/c") == tmp_path / "a b" / "c"
    assert user_path(f"~{own.pw_name}/a") == Path(own.pw_dir) / "a"
    assert parser().parse_args(["--input_dir=~/x"]).input_dir == tmp_path / "x"
    for plain in ("a~", "a/~/b", "./~", "-x", " a", "a$b"):
        assert user_path_text(plain) == plain
    (tmp_path / "~draft.nii.gz").write_bytes(b"")
    assert user_path_text("~draft.nii.gz") == "~draft.nii.gz"


@pytest.mark.parametrize("home", [None, ""])
def test_without_home_the_list_of_users_knows(monkeypatch, home):
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert user_path("~/x") == Path(pwd.getpwuid(os.getuid()).pw_dir) / "x"
    assert os.environ.get("HOME") == home


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an empty path: is a variable"),
        ("  ", "an empty path"),
        ("~no_such_user/x", "there is no user no_such_user"),
        ("$OUT/cases", "the shell did not replace \\$OUT"),
        ("${OUT}", "the shell did not replace"),
        ("file:///data/labels", "without file://"),
    ],
)
def test_paths_that_cannot_be_meant(text, expected):
    with pytest.raises(argparse.ArgumentTypeError, match=expected):
        user_path(text)


def test_a_folder_that_begins_with_a_dollar_sign_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$OUT").mkdir()
    assert user_path("$OUT/x") == Path("$OUT/x")
