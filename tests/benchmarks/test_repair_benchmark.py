"""benchmarks/repair.py on label maps that are mended by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.classes import HEART_CLASSES
from vecset.imaging.label_map import write_label_map

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import repair as module  # noqa: E402


def write(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, labels, np.eye(4), HEART_CLASSES)


def test_figures_of_each_kind(tmp_path, capsys):
    clean = np.zeros((12, 6, 6), np.uint8)
    clean[:4], clean[4:10, 2:4, 2:4] = 6, 9  # an aorta, and a coronary of 24 voxels that begins at it
    gap, half, mended = clean.copy(), clean.copy(), clean.copy()
    gap[6:8, 2:4, 2:4] = 0
    half[7:8, 2:4, 2:4] = 0
    for name, dirty, repaired in (("a", gap, clean), ("b", gap, half), ("c", half, gap)):
        write(tmp_path / "maps" / f"{name}.nii.gz", dirty)
        write(tmp_path / "maps" / "clean" / f"{name}.nii.gz", clean)
        write(tmp_path / "out" / name / "repaired.nii.gz", repaired)
    mended[11] = 1
    for name, repaired in (("d", clean), ("e", mended)):
        write(tmp_path / "maps" / f"{name}.nii.gz", clean)
        write(tmp_path / "out" / name / "repaired.nii.gz", repaired)
    rows = [f"{name}.nii.gz,coronary_gaps,Coronary,0.5,8" for name in "abc"]
    (tmp_path / "maps" / "defects.csv").write_text("\n".join(["heart,kind,structure,grade,changed_voxels", *rows]))
    words = ["--maps", str(tmp_path / "maps"), "--output_dir", str(tmp_path / "out")]
    assert module.main(words) == 0
    of_gap, of_half = 2 * 16 / (16 + 24), 2 * 20 / (20 + 24)
    before, after = (2 * of_gap + of_half) / 3, (1 + of_half + of_gap) / 3
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"| coronary_gaps | 3 | 1 | 3 | {before:.4f}, {after:.4f} | 2, 1 |",
        "| none | 2 | | | 1 changed | |",
    ]
    (tmp_path / "out" / "b" / "repaired.nii.gz").unlink()
    with pytest.raises(InputError, match=r"b/repaired\.nii\.gz: it is not there"):
        module.main(words)
