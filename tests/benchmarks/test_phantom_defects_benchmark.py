"""benchmarks/phantom_defects.py on one heart: every kind is made and named, and the clean heart is not."""

import re
import runpy
from pathlib import Path

from vecset.phantom.defects import KINDS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "phantom_defects.py"


def test_each_kind_is_counted(monkeypatch, capsys):
    monkeypatch.setattr("sys.path", ["benchmarks", *__import__("sys").path])  # the script replaces the first
    script = runpy.run_path(str(SCRIPT))
    assert script["main"](["--num", "1", "--size", "72"]) == 0
    said = capsys.readouterr().out
    assert "clean: 0 named; largest leak 0.00000" in said
    rows = re.findall(r"^(\w+) +made in +1, named in +1; another check in +0$", said, re.M)
    assert sorted(rows) == sorted(KINDS)
