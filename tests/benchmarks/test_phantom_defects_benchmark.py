"""benchmarks/phantom_defects.py on one heart: every kind is made and named, and the clean heart is not."""

import re
import sys
from pathlib import Path

from vecset.phantom.defects import KINDS

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import phantom_defects as module


def test_each_kind_is_counted(capsys):
    assert module.main(["--num", "1", "--size", "72"]) == 0
    said = capsys.readouterr().out
    assert "clean: 0 named; largest leak 0.00000" in said
    rows = re.findall(r"^(\w+) +made in +1, named in +1; another check in +0$", said, re.M)
    assert sorted(rows) == sorted(KINDS)
