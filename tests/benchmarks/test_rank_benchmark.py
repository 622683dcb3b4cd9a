"""benchmarks/rank.py on a table that is made by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.classes import HEART_CLASSES
from vecset.imaging.label_map import write_label_map

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import rank as module  # noqa: E402


def test_the_area_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    suspicion, dirty = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.5
    pairs = [(a > b) + (a == b) / 2 for a in suspicion[dirty] for b in suspicion[~dirty]]
    assert module.roc_area(suspicion, dirty) == pytest.approx(np.mean(pairs))
    assert np.isnan(module.roc_area(suspicion, np.ones(40, bool)))


def test_figures_of_an_order(tmp_path, capsys):
    clean = np.zeros((12, 6, 6), np.uint8)
    clean[:4], clean[4:10] = 6, 9
    rows = ["rank,case_id,file,repair_score,leak,score"]
    names = "abcd"
    for n, voxels in enumerate((36, 72, 0, 0)):  # of the coronary that b has lost more of than a
        dirty = clean.copy()
        dirty[4 : 4 + voxels // 36] = 0
        (tmp_path / "maps" / "clean").mkdir(parents=True, exist_ok=True)
        write_label_map(tmp_path / "maps" / f"{names[n]}.nii.gz", dirty, np.eye(4), HEART_CLASSES)
        write_label_map(tmp_path / "maps" / "clean" / f"{names[n]}.nii.gz", clean, np.eye(4), HEART_CLASSES)
        rows.append(
            f"{n + 1},{names[n]},maps/{names[n]}.nii.gz,{0.02 if voxels else 0},{0.01 if n == 1 else ''},{0.1 * n}"
        )
    kinds = ["a.nii.gz,coronary_gaps,Coronary,0.5,36", "b.nii.gz,coronary_detached,Coronary,0.5,72"]
    (tmp_path / "maps" / "defects.csv").write_text("\n".join(["heart,kind,structure,grade,changed_voxels", *kinds]))
    words = ["--maps", str(tmp_path / "maps"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"rank\.csv: it is not there"):
        module.main(words)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rank.csv").write_text("\n".join(rows))
    assert module.main(words) == 0
    lost = [1 - (1 + 2 * kept / (kept + 6)) / 2 for kept in (5, 4)]
    said = capsys.readouterr().out.splitlines()
    # ranks of the truth 3, 4, 1.5, 1.5, of the order 4, 3, 2, 1
    rho = np.corrcoef([3, 4, 1.5, 1.5], [4, 3, 2, 1])[0, 1]
    assert said[2] == f"| rank | {rho:.3f} | -1.000 | 1.000 |"
    assert said[3] == f"| `score` alone | {-rho:.3f} | 1.000 | 0.000 |"
    assert said[7:] == [
        f"| coronary_detached | 1 | 1 | 0.03000 | {lost[1]:.5f} |",
        f"| coronary_gaps | 1 | 1 | 0.02000 | {lost[0]:.5f} |",
        "| none | 2 | 0 | 0.00000 | 0.00000 |",
    ]
