"""benchmarks/zero_shot.py: its table, and toy hearts from nothing to it."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.formula_hearts import write_checkpoint

from vecset.imaging.classes import HEART_CLASSES

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import zero_shot as module  # noqa: E402


def test_the_table_has_means_over_hearts_of_means_over_structures():
    def row(heart, c, dice, assd, status="ok"):
        name = f"class_{c}" if c else "union"
        return dict(case_id=heart, class_id=c, class_name=name, dice=dice, assd_mm=assd, status=status)

    rows = [
        row("a", "1", "0.8", "1.0"),
        row("a", "2", "0.6", "3.0"),
        row("a", "", "0.9", "9"),
        row("b", "1", "0.5", "2.0"),
        row("b", "2", "0", "", "missed"),
        row("b", "3", "", "", "absent"),
        row("b", "", "0.7", "9"),
    ]
    text = module.table([{"set": "patients", "steps": 0, "rows": rows, "cpu_s": 12.4}])
    line = next(line for line in text.splitlines() if line.startswith("| patients | 2 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "as encoded" and cells[3].startswith("0.475 [") and cells[4:] == ["2.00", "0.800", "1", "12"]
    assert "class_1 0.650, class_2 0.300" in text and "class_3" not in text


@pytest.mark.slow
def test_toy_hearts_to_the_table(tmp_path):
    write_checkpoint(
        tmp_path / "c.pth", classes=10, names=list(HEART_CLASSES), model_name="point_vec4x4_dim32_depth1_nb"
    )
    words = ["--output_dir", tmp_path / "out", "--checkpoint", tmp_path / "c.pth", "--phantoms", 2, "--size", 48]
    command = [sys.executable, ROOT / "benchmarks" / "zero_shot.py", *words, "--refine_steps", 1]
    for _ in range(2):  # the second time it is found
        made = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        assert "| phantoms | 2 | as encoded |" in made.stdout and "| phantoms | 2 | fitted, 1 steps |" in made.stdout
        assert "patients: no label maps, left out" in made.stderr
