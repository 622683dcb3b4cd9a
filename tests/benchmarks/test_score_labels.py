"""benchmarks/score_labels.py, which shares no code with what it checks, agrees with the metrics of reconstruct.py."""

import subprocess
import sys
from pathlib import Path

import SimpleITK as sitk
from helpers.formula_hearts import NAMES, make_case, make_heart, run

from vecset.imaging.label_map import write_label_map
from vecset.metrics.overlap import mean_over_classes, score

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import score_labels  # noqa: E402


def test_the_independent_scorer_agrees(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes") == 0
    truth, frame = make_heart()
    changed = truth.copy()
    changed[truth == 3] = 4
    (workdir / "truths").mkdir()
    write_label_map(workdir / "truths" / "a.nii.gz", changed, frame.affine)

    def scored(*paths):
        capsys.readouterr()
        assert score_labels.main([str(path) for path in paths]) == 0
        return capsys.readouterr().out

    expected = mean_over_classes(score(changed, truth, NAMES))
    files = workdir / "truths/a.nii.gz", workdir / "out/a/labels.nii.gz"
    for pair in ((workdir / "truths", workdir / "out"), files):
        assert f"mean Dice {expected:.4f} over 8 classes" in scored(*pair)
    sitk.WriteImage(sitk.ReadImage(str(workdir / "truths/a.nii.gz")), str(workdir / "truths/a.nrrd"))
    (workdir / "truths" / "a.nii.gz").unlink()
    assert f"mean Dice {expected:.4f} over 8 classes" in scored(workdir / "truths", workdir / "out")
    shifted = frame.affine.copy()
    shifted[0, 3] += 0.01
    write_label_map(workdir / "truths" / "a.nii.gz", truth, shifted)
    done = subprocess.run([sys.executable, score_labels.__file__, *files], capture_output=True, text=True)
    assert done.returncode != 0 and "affine" in done.stderr
