"""The four states of a structure: every combination of present, annotated and cut."""

import itertools

import numpy as np
import pytest

from vecset.common.structure_state import STATE_WORDS, State, is_seen, states_of


def by_words(present, annotated, cut):
    """The rule, written out for one class."""
    if present and cut:
        return "cut"
    if present:
        return "given"
    return "absent" if annotated else "unknown"


def test_every_combination():
    rows = list(itertools.product((False, True), repeat=3))
    states = states_of(*(np.array(column) for column in zip(*rows)))
    assert states.dtype == np.int8
    assert [STATE_WORDS[State(s)] for s in states] == [by_words(*row) for row in rows]
    assert [bool(seen) for seen in is_seen(states)] == [row[0] for row in rows]


def test_nothing_is_cut_by_default():
    assert states_of([True, False, False], [True, True, False]).tolist() == [State.GIVEN, State.ABSENT, State.UNKNOWN]


def test_stored_numbers_stay():
    assert {state.name: int(state) for state in State} == {"GIVEN": 0, "ABSENT": 1, "UNKNOWN": 2, "CUT": 3}
    assert set(STATE_WORDS) == set(State)


@pytest.mark.parametrize("lengths", [(2, 3, 2), (2, 2, 3), (3, 2, None)])
def test_other_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="want"):
        states_of(*(n if n is None else [True] * n for n in lengths))
