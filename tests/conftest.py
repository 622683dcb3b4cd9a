"""Shared by all tests: two threads at most, no network, and where the real heart lies when it is there."""

import os
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "2")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
REAL_HEART = ROOT.parent / "shared" / "data" / "whole_heart_7class.nii.gz"


@pytest.fixture(scope="session")
def repository():
    return ROOT


@pytest.fixture(scope="session")
def real_heart():
    if not REAL_HEART.is_file():
        pytest.skip("the real label map is not on this machine")
    return REAL_HEART


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with a checkpoint whose model is replaced by the formula of helpers.formula_hearts, and `data`."""
    from helpers.formula_hearts import centred_ball, write_checkpoint

    from vecset.models import checkpoint

    monkeypatch.setattr(checkpoint, "model_from_checkpoint", lambda saved, device, where: centred_ball().to(device))
    (tmp_path / "data").mkdir()
    write_checkpoint(tmp_path / "checkpoint.pth")
    return tmp_path
