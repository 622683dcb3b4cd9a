import subprocess
import sys

import numpy as np
import pytest

from vecset.common.draws import class_shares, draw_balanced_rows, draw_rows, random_stream, stable_seed


def test_stream_depends_on_each_part_of_its_key():
    first = random_stream(0, 1, "a", "near").random(4)
    assert np.array_equal(first, random_stream(0, 1, "a", "near").random(4))
    for other in ((1, 1, "a", "near"), (0, 2, "a", "near"), (0, 1, "b", "near"), (0, 1, "a", "inside")):
        assert not np.array_equal(first, random_stream(*other).random(4))
    assert stable_seed(1, 12) != stable_seed(11, 2)  # parts do not run into each other


def test_seed_is_the_same_in_another_process(repository):
    code = "from vecset.common.draws import stable_seed; print(stable_seed(3, 'x', 7))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77"},
    )
    assert int(run.stdout) == stable_seed(3, "x", 7)


@pytest.mark.parametrize("available, wanted", [(10, 4), (10, 10), (10, 34), (1, 3)])
def test_rows_are_repeated_only_where_they_have_to_be(available, wanted):
    counts = np.bincount(draw_rows(random_stream(0, 0, "", ""), available, wanted), minlength=available)
    assert counts.sum() == wanted and counts.max() - counts.min() <= 1


def test_rows_are_drawn_evenly():
    rng = random_stream(0, 0, "", "")
    counts = np.bincount(np.concatenate([draw_rows(rng, 50, 10) for _ in range(2000)]), minlength=50)
    assert abs(counts / 400 - 1).max() < 0.25  # 400 +- 18 expected


def test_shares_go_from_the_files_to_equal_ones():
    counts = [900, 0, 100]
    np.testing.assert_allclose(class_shares(counts, 0), [0.9, 0, 0.1])
    np.testing.assert_allclose(class_shares(counts, 1), [0.5, 0, 0.5])
    np.testing.assert_allclose(class_shares(counts, 0.5), [0.7, 0, 0.3])


def test_balanced_rows_keep_the_total_and_the_quota():
    rows = [np.arange(0, 900), np.arange(0), np.arange(900, 1000)]
    drawn = draw_balanced_rows(random_stream(0, 0, "", ""), rows, 401, 1.0)
    assert len(drawn) == 401
    small = drawn[drawn >= 900]
    assert len(small) in (200, 201) and set(small) == set(range(900, 1000))  # 100 rows, each twice or thrice
    large = drawn[drawn < 900]
    assert len(set(large)) == len(large)
