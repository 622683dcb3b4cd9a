"""The table of memory and hours in docs/cluster.md is what benchmarks/resources.py computes, and that is what torch
keeps."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import resources  # noqa: E402
from step_parts import random_batch  # noqa: E402

from vecset.engines.loop import StepOptions, forward_losses  # noqa: E402
from vecset.engines.losses import DEFAULT_WEIGHTS  # noqa: E402
from vecset.engines.optimizer import build_optimizer  # noqa: E402
from vecset.models.autoencoder import build_model  # noqa: E402

TINY, COUNTS = "learnable_vec32x8_dim128_depth{}_nb", (256, 96, 32)


def documented():
    """{model: cells of its row}"""
    lines = (ROOT / "docs" / "cluster.md").read_text().splitlines()
    rows = [
        [cell.strip().removesuffix(" (default)") for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| learnable_")
    ]
    return {row[0]: row for row in rows}


def test_the_documented_table_is_the_computed_one(monkeypatch, capsys):
    rows = documented()
    assert list(rows) == list(resources.MODELS)
    monkeypatch.setattr(
        resources, "case_gb", lambda name: float(rows[name][6])
    )  # minutes; the first is looked at below
    resources.main([])
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert printed[2:] == list(rows.values())


@pytest.mark.slow
def test_the_documented_memory_of_a_case_is_what_autograd_keeps():
    name = resources.MODELS[0]
    assert resources.case_gb(name) == pytest.approx(float(documented()[name][6]), abs=0.005)


def test_what_is_kept_grows_with_cases_and_depth_along_straight_lines():
    kept = {
        (depth, cases): resources.kept_bytes(TINY.format(depth), cases, COUNTS)
        for depth in (1, 2, 5)
        for cases in (2, 3, 4)
    }
    for depth in (1, 2, 5):
        two, three, four = (kept[depth, cases] for cases in (2, 3, 4))
        assert four - three == pytest.approx(three - two, rel=0.01)
    assert kept[5, 3] - kept[5, 2] == pytest.approx(resources.case_gb(TINY.format(5), COUNTS) * 1e9, rel=0.01)


def test_states_are_what_a_step_leaves_behind():
    torch.manual_seed(0)
    model = build_model(TINY.format(2), 10)
    optimizer = build_optimizer(model, 1e-3, 0.05, 0.999)
    batch = random_batch(1, *COUNTS)
    forward_losses(model, batch, StepOptions({**DEFAULT_WEIGHTS, "eikonal": 0.1}), 10)[0].backward()
    optimizer.step()
    tensors = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    held = sum(t.numel() * t.element_size() for t in tensors if t is not None)
    count = resources.parameters(TINY.format(2))
    assert held + 2 * count == pytest.approx(resources.state_gb(count, 1, False) * 1e9, rel=0.01)
