"""Shared by all tests: one thread, no network, where the real heart lies when it is there; which tests run together;
and that those marked `gpu` are left out where there is none.

One thread, because these models and hearts are small and `run_tests.sh` starts a process per core.
"""

import os
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
REAL_HEART = ROOT.parent / "shared" / "data" / "whole_heart_7class.nii.gz"


def pytest_collection_modifyitems(items):
    of_a_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if of_a_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in of_a_gpu:
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes a file's tests share one, since they share its fixtures; so do all files that start a
    Slurm, whose namespaces are the machine's. Not by `--dist loadgroup`: pytest-xdist 3.8 with pytest 9.2 drops the
    groups without a word."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::")[0]
            return "slurm" if "test_slurm" in path else path

    return ByFile(config, log)


@pytest.fixture(scope="session")
def repository():
    return ROOT


@pytest.fixture(scope="session")
def real_heart():
    if not REAL_HEART.is_file():
        pytest.skip("the real label map is not on this machine")
    return REAL_HEART


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder with a checkpoint whose model is replaced by the formula of helpers.formula_hearts, and `data`."""
    from helpers.formula_hearts import make_workdir

    return make_workdir(tmp_path, monkeypatch)
