"""--compile where torch.compile does not work: one line before training."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import rank_environment

from vecset.common.errors import EXIT_BAD_INPUT, InputError
from vecset.engines.compiling import compile_error, is_compile_error, require_compiler


@pytest.mark.parametrize(
    "text, said, to_do",
    [
        ("InvalidCxxCompiler: No working C++ compiler found in x: (None, 'g++')\n\nSet TORCH", "No working", "g++"),
        (
            "C++ compile error\n\nCommand:\ng++ a\nfatal error: Python.h: No such file",
            "Python.h",
            "python3-dev",
        ),
        ("OSError: [Errno 28] No space left on device", "No space left", "TORCHINDUCTOR_CACHE_DIR"),
        ("something else\nand more", "something else", "; leave --compile out"),
        ("", "ValueError", "; leave --compile out"),
    ],
)
def test_the_line_names_the_cause_and_what_to_do(text, said, to_do):
    line = str(compile_error(ValueError(text)))
    assert line.startswith("--compile: torch.compile does not work here (") and "\n" not in line
    assert said in line and to_do in line and line.endswith("leave --compile out")


def test_only_errors_of_the_compiler_are_taken_for_one():
    assert is_compile_error(torch._dynamo.exc.TorchDynamoException("x")) and not is_compile_error(RuntimeError("x"))


def test_a_trial_that_fails_is_an_input_error(monkeypatch):
    def broken(function, **options):
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match="working triton installation.*; install the Triton"):
        require_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables, said",
    [
        ({"PATH": "{folder}"}, "No working C++ compiler"),
        ({"TORCHINDUCTOR_CACHE_DIR": "{folder}/file/cache"}, "Not a directory"),
    ],
    ids=["no compiler", "no cache"],
)
def test_training_ends_before_it_begins(repository, tmp_path, variables, said):
    data = write_ball_cases(tmp_path / "cases", train=2, val=1)
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "file").touch()
    given = {name: value.format(folder=tmp_path / "place") for name, value in variables.items()}
    environment = {**rank_environment(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **given}
    words = [sys.executable, str(repository / "vecset" / "main_ae.py")]
    words += tiny_arguments(data, tmp_path / "out", "--epochs", 2, "--compile")
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == EXIT_BAD_INPUT and said in answer.stderr and answer.stderr.count("\n") == 1
    assert not os.path.exists(tmp_path / "out")
