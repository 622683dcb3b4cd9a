"""The GPU's kernel for farthest point sampling against the loop: the same points in the same order. Where there is Triton
but no GPU, its interpreter runs the kernel; PyTorch's CPU build has no Triton, so there these tests are left out."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from vecset.models import embedding

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the kernel needs Triton, which comes with PyTorch's CUDA builds"
)

CASES = [  # points, samples, classes (0: no labels), gap, densities
    (37, 37, 0, 0.0, None),
    (300, 64, 3, 2.0, None),
    (1000, 128, 3, 2.0, (1.0, 4.0, 1.5)),
    (129, 40, 2, 0.3, (1.0, 2.0)),
]


def check(device):
    from vecset.models import farthest_points_cuda

    for N, M, classes, gap, densities in CASES:
        torch.manual_seed(N)
        points_BN3 = torch.rand(3, N, 3, device=device) * 2 - 1
        labels_BN = torch.randint(0, max(classes, 1), (3, N), device=device)
        stretch_BN = torch.tensor(densities or (1.0,) * max(classes, 1), device=device)[labels_BN].square()
        first_B = torch.tensor([0, N - 1, N // 2], device=device)
        ours = farthest_points_cuda.farthest_points(points_BN3, stretch_BN, labels_BN, gap, first_B, M)
        loop = embedding._one_after_the_other(points_BN3, stretch_BN, labels_BN, gap, first_B, M)
        assert torch.equal(ours, loop), (N, M, classes)
        assert all(len(set(row)) == M for row in ours.tolist())


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu():
    check("cuda")


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself is asked")
def test_in_tritons_interpreter():
    code = "from tests.test_farthest_points_cuda import check; check('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        text=True,
        capture_output=True,
        cwd=Path(__file__).resolve().parents[2],
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
