import numpy as np
import pytest
import torch

from vecset.engines.distributed import Ranks
from vecset.engines.loop import FiniteGuard, MetricSums, point_metrics

ONE = Ranks(0, 1, torch.device("cpu"))


def test_means_are_over_cases_not_over_batches():
    sums = MetricSums(ONE)
    sums.add({"loss": (torch.tensor(6.0), 3), "iou_near": (torch.tensor(0.5), torch.tensor(1))})
    sums.add({"loss": (torch.tensor(2.0), 1)})
    assert sums.read() == {"loss": 2.0, "iou_near": 0.5}
    assert sums.read() == {}  # reading starts anew


def test_guard_freezes_from_the_first_bad_step_on_and_remembers_it():
    guard = FiniteGuard(ONE)
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    assert guard.check({"loss": good, "gradient_norm": good}, 4) == 0 and guard.first_bad_step() is None
    assert guard.check({"loss": good, "gradient_norm": bad}, 5) == 1
    assert guard.check({"loss": good + 1, "gradient_norm": good}, 6) == 1
    assert guard.check({"loss": bad, "gradient_norm": good}, 7) == 1
    assert guard.first_bad_step() == 5 and guard.bad_values() == {"loss": 1.0, "gradient_norm": float("inf")}


def test_point_metrics_against_the_obvious_way():
    rng = np.random.default_rng(0)
    B, T, C = 3, 200, 4
    sdf, predicted = rng.normal(size=(2, B, T)).astype(np.float32)
    group = rng.integers(0, 4, (B, T))
    sdf[2][group[2] == 0] = predicted[2][group[2] == 0] = 1.0  # case 2: no near point is inside: not defined
    labels = np.where(sdf < 0, rng.integers(1, C + 1, (B, T)), 0)
    logits = rng.normal(size=(B, T, C)).astype(np.float32)
    annotated = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    found = point_metrics(
        {"sdf_BQ": torch.tensor(predicted), "logits_BQC": torch.tensor(logits)},
        [torch.tensor(sdf), torch.tensor(labels), torch.tensor(group)],
        torch.tensor(annotated),
    )
    iou = {"iou_near": [], "iou_vol": []}
    accuracy = []
    for b in range(B):
        for name, members in (("iou_near", [0]), ("iou_vol", [1, 2])):
            at = [t for t in range(T) if group[b, t] in members]
            either = [t for t in at if sdf[b, t] < 0 or predicted[b, t] < 0]
            if either:
                iou[name].append(sum(sdf[b, t] < 0 and predicted[b, t] < 0 for t in either) / len(either))
        known = [t for t in range(T) if labels[b, t] and annotated[b, labels[b, t] - 1]]
        accuracy.append(np.mean([logits[b, t].argmax() + 1 == labels[b, t] for t in known]))
    for name, values in {**iou, "accuracy": accuracy}.items():
        total, count = found[name]
        assert int(count) == len(values) and float(total) == pytest.approx(sum(values), abs=1e-6), name
    assert len(iou["iou_near"]) == 2
