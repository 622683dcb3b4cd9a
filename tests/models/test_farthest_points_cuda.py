"""The GPU's kernel for farthest point sampling against the loop: the same points in the same order. Where there is
Triton but no GPU, its interpreter runs the kernel; without Triton (PyTorch's CPU build) these tests are skipped."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest
import torch
from helpers.farthest_points import check

from vecset.models import embedding

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the kernel needs Triton, which comes with PyTorch's CUDA builds"
)


@needs_triton
@pytest.mark.gpu
def test_on_the_gpu():
    check("cuda")


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself is asked")
def test_in_tritons_interpreter():
    code = "from helpers.farthest_points import check; check('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_where_triton_builds_no_kernel_the_loop_does_it_and_says_so(monkeypatch):
    def refuse(*_):
        raise RuntimeError("Failed to find C compiler")

    name = "farthest_points_cuda"
    stand_in = types.SimpleNamespace(farthest_points=refuse)
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, f"vecset.models.{name}", stand_in)
    monkeypatch.setattr(sys.modules["vecset.models"], name, stand_in, raising=False)
    embedding._kernel.cache_clear()
    with pytest.warns(UserWarning, match="slow loop.*C compiler"):
        assert embedding._kernel(torch.device("cpu")) is None
    embedding._kernel.cache_clear()
