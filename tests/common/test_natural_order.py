"""Names in natural order, whatever signs they hold."""

import pytest

from vecset.common.natural_order import natural_key


@pytest.mark.parametrize(
    "names",
    [
        ["heart_2", "heart_10", "heart_100"],
        ["01", "1", "2"],
        ["10²3", "①1", "①2", "①10"],
        ["٣", "٤"],
        ["x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_order(names):
    backwards = names[::-1]
    assert sorted(backwards, key=natural_key) == names


def test_all_kinds_of_names_have_one_order():
    names = ["1", "①1", "a", "²", "\udce9", "❤️ 3", "", "-", "0", "00", "٣"]
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)
