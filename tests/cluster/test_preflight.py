"""A node that cannot train says why; one that can is not refused."""

import pytest

from vecset.cluster.preflight import verdict


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (("12.8", "570.1", 4, 4), None),
        ((None, None, 0, 2), None),
        ((None, None, 0, 2, "cpu"), None),
        (
            ("13.0", "570.86.15", 0, 4),
            "driver 570.86.15 is too old for a torch built for CUDA 13.0, which needs 580 or newer; install a torch "
            "built for CUDA 12 into this Python: pip install --force-reinstall 'torch>=2.6' --index-url https://download.pytorch.org/whl/cu126",
        ),
        (("12.8", "470.8", 0, 4), "whl/cu118"),
        (("12.8", "440.33", 0, 1), "ask for a newer driver"),
        (("12.8", "525.60", 0, 1), "driver 525.60 is new enough for CUDA 12.8; ask Slurm for one"),
        ((None, "570.1", 0, 1), "built for CPUs only"),
        (("12.8", None, 0, 1, "cuda"), "no NVIDIA driver"),
        (("12.8", "570.1", 2, 4), "4 processes need a GPU each, and torch sees 2"),
        (("12.8", "470.8", 0, 4, "cpu"), None),
    ],
)
def test_verdict(facts, words):
    answer = verdict(*facts)
    assert answer is None if words is None else words in answer
