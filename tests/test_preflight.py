"""A node that cannot train says why; one that can is not refused."""

import pytest

from vecset.utils.preflight import verdict


@pytest.mark.parametrize(("facts", "words"), [
    (("12.8", "570.1", 4, 4), None),
    ((None, None, 0, 2), None),
    ((None, None, 0, 2, "cpu"), None),
    (("12.8", "470.8", 0, 4), "driver 470.8, too old for a torch built for CUDA 12.8"),
    ((None, "570.1", 0, 1), "found one for CPUs only"),
    (("12.8", None, 0, 1, "cuda"), "no NVIDIA driver"),
    (("12.8", "570.1", 2, 4), "found 2"),
    (("12.8", "470.8", 0, 4, "cpu"), None),
])
def test_verdict(facts, words):
    answer = verdict(*facts)
    assert answer is None if words is None else words in answer
