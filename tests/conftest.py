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
