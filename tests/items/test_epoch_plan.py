import itertools

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.items.epoch_plan import EpochPlan


@pytest.mark.parametrize("cases, batch, accumulation, ranks", [(7, 2, 1, 1), (8, 2, 2, 2), (13, 2, 2, 3), (9, 1, 2, 4)])
def test_every_case_once_per_epoch_and_the_mean_is_over_cases(cases, batch, accumulation, ranks):
    plans = [EpochPlan(cases, batch, accumulation, 0, rank, ranks) for rank in range(ranks)]
    value = np.random.default_rng(0).normal(size=cases)  # a stand-in for each case's loss
    seen = []
    for step in range(plans[0].steps_per_epoch):
        joint = plans[0].step_cases(3, step)
        rank_sums = []
        passes = {len(plan.micro_batches(3, step)) for plan in plans}
        assert len(passes) == 1  # DDP: every rank takes part in every pass
        for plan in plans:
            total = 0
            for micro in plan.micro_batches(3, step):
                assert micro.indices and micro.count in (0, len(micro.indices)) and len(micro.indices) <= batch
                seen += micro.indices if micro.count else ()
                total += micro.weight * value[list(micro.indices)].mean()
            rank_sums.append(total)
        assert np.mean(rank_sums) == pytest.approx(value[joint].mean(), abs=1e-12)
    assert sorted(seen) == list(range(cases))


def test_ranks_see_in_a_step_what_one_rank_with_the_joint_batch_sees():
    one = EpochPlan(21, 4, 2, seed=5)
    two = [EpochPlan(21, 2, 2, 5, rank, 2) for rank in range(2)]
    assert one.steps_per_epoch == two[0].steps_per_epoch
    for step in range(one.steps_per_epoch):
        shared = [i for plan in two for micro in plan.micro_batches(0, step) if micro.count for i in micro.indices]
        assert sorted(shared) == sorted(one.step_cases(0, step))


def test_keys_go_on_where_they_were_left():
    plan = EpochPlan(7, 2, 2, seed=1)
    whole = list(plan.keys(0, 0, 3))
    assert len(whole) == 3 * 4  # 2 passes, then one of 2 and one of 1 case
    first = list(itertools.chain.from_iterable(plan.micro_batches(0, s) for s in range(1)))
    assert list(EpochPlan(7, 2, 2, seed=1).keys(0, 1, 3)) == whole[len(first) :]


def test_order_changes_with_epoch_and_seed():
    orders = {tuple(EpochPlan(30, 1, seed=s).order(e)) for s in range(2) for e in range(2)}
    assert len(orders) == 4


def test_too_few_cases_for_batch_and_ranks():
    with pytest.raises(InputError, match="2 x 3 x 2 = 12 cases, found 11"):
        EpochPlan(11, 2, 2, 0, 0, 3)


def test_weights_of_data_sets_say_how_often_a_heart_is_drawn():
    sets = ["A"] * 6 + ["B"] * 3 + ["C"] * 4
    plan = EpochPlan(13, 2, 2, seed=1, weights={"A": 1, "B": 3, "C": 1.5}, sets=sets)
    assert plan.num_draws == 6 + 9 + 6 and plan.steps_per_epoch == 6
    seen_of_c = set()
    for epoch in range(3):
        cases = [i for step in range(6) for i in plan.step_cases(epoch, step)]
        times = np.bincount(cases, minlength=13)
        assert times[:6].tolist() == [1] * 6 and times[6:9].tolist() == [3] * 3
        assert sorted(times[9:]) == [1, 1, 2, 2]
        seen_of_c.add(tuple(times[9:]))
    assert len(seen_of_c) > 1  # others in another epoch
    draws = [draw for keys in plan.keys(0, 0, 1) for _, draw in keys]
    assert len(set(draws)) == len(draws) == 21 and max(draws) < 3 * 13
    again = EpochPlan(13, 2, 2, seed=1, weights={"A": 1, "B": 3, "C": 1.5}, sets=sets)
    assert list(again.keys(1, 2, 2)) == list(plan.keys(0, 0, 2))[len(list(plan.keys(0, 0, 1))) :][4:]
    with pytest.raises(InputError, match="found 3 draws with these weights"):
        EpochPlan(13, 4, weights={"A": 0.1, "B": 0.5, "C": 0.01}, sets=sets)


def test_weights_of_one_draw_each_case_once():
    plan = EpochPlan(5, 1, weights={"A": 1.0}, sets=["A"] * 5)
    assert sorted(plan.order(0)) == list(range(5))
