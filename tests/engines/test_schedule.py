import math

import pytest

from vecset.engines.optimizer import learning_rate, scaled_rate

PHASE_1 = dict(lr=1.0, min_lr=1e-3, warmup_epochs=20, epochs=400)


def test_warm_up_is_linear_from_zero():
    assert learning_rate(0, **PHASE_1) == 0
    assert learning_rate(5, **PHASE_1) == 0.25
    assert learning_rate(20 - 1e-9, **PHASE_1) == pytest.approx(1, abs=1e-9)


def test_cosine_runs_from_the_rate_to_the_minimum():
    assert learning_rate(20, **PHASE_1) == 1
    assert learning_rate(210, **PHASE_1) == pytest.approx((1 + 1e-3) / 2)  # half way
    assert learning_rate(115, **PHASE_1) == pytest.approx(1e-3 + (1 - 1e-3) * (1 + math.sqrt(0.5)) / 2)  # a quarter
    assert learning_rate(400, **PHASE_1) == pytest.approx(1e-3)
    assert learning_rate(500, **PHASE_1) == pytest.approx(1e-3)


def test_the_rate_at_epoch_107_of_800_is_96_percent():
    # docs: an earlier note blamed a plateau there on a rate 'already down to 24 %'
    assert learning_rate(107, lr=1, min_lr=0, warmup_epochs=0, epochs=800) == pytest.approx(0.956, abs=0.001)


def test_no_warm_up_and_nothing_but_warm_up():
    assert learning_rate(0, lr=2, min_lr=0, warmup_epochs=0, epochs=10) == 2
    assert learning_rate(1, lr=2, min_lr=0, warmup_epochs=1, epochs=1) == 2


def test_scaling_rule():
    assert scaled_rate(1e-3, 512) == pytest.approx(2e-3)
