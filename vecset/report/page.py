"""report.html: the results of a run as one file that opens from disk, without a network. No torch.

The table, a box plot per structure, the best, median and worst heart in slices and in 3D, the training curves. The
figures are read from metrics.csv and metrics.json in the output folder, the reconstructions from CASE/labels.nii.gz;
the truth comes from the caller."""

import json
from pathlib import Path

import nibabel
import numpy as np

from vecset.common.errors import InputError, describe_failure
from vecset.imaging.resampling import resample_nearest
from vecset.imaging.slice_picture import DIFFERENCE
from vecset.report.charts import NOT_COMPARED, SEEN, box_chart, scene_style, training_charts
from vecset.report.completion_section import completion_of
from vecset.report.figures import boxes, colours_of, read_figures, table, training_curves
from vecset.report.hearts import MAX_TRIANGLES, heart_content
from vecset.report.render import as_json, deflated, write_page
from vecset.report.samples import read_spread, volumes_shown

REPORT = "report.html"
_SETTINGS = {  # that the page shows, and the words for those whose key does not say it
    "checkpoint": None,
    "checkpoint_sha256": None,
    "model": None,
    "epoch": None,
    "input": None,
    "train_csv": None,
    "num_surface_points": "surface points",
    "num_latents": "latents",
    "latent_bits": "bits per number of the latents",
    "calibration": "decision tuning",
    "balance": None,
    "annotated": None,
    "given": None,
    "complete": None,
    "extend_mm": "decoded beyond the image (mm)",
    "samples": "samples of what is not seen whole",
    "seed": None,
    "spacing_from": None,
    "geometry_from": None,
    "device": None,
    "remark": None,
}


def write_html_report(output_dir, run_dir=None, truth_of=None, chosen=None, faults=None):
    """Writes report.html into `output_dir`, the folder of a finished reconstruct.py, and returns its path.

    `run_dir`: the training run's folder, for its curves; `truth_of(case_id)` -> (label map (X, Y, Z) u8, affine (4, 4)
    voxel -> mm), or None: reconstructions are shown alone; `chosen`: [(what, case_id)] of the hearts to show, by
    default the best, median and worst mean Dice; `faults`: a list that gets a line for each heart that cannot be shown
    (the page says so too), or None. InputError where the folder holds no figures."""
    output_dir = Path(output_dir)
    figures = read_figures(output_dir)
    colours = colours_of(figures)
    hearts, missed = [], []
    for what, case_id in chosen or best_median_worst(mean_dice(figures)):
        try:
            truth, affine = truth_of(case_id) if truth_of else (None, None)
            labels, affine = read_reconstruction(output_dir, case_id, truth, affine)
            dice = figures["hearts"].get(case_id, {}).get("mean_dice")
            rows = [row for (case, c), row in figures["rows"].items() if case == case_id and c is not None]
            inferred = [row["class_name"] for row in rows if row.get("observed") == "inferred"]
            title = {"what": what, "case_id": case_id, "mean_dice": [dice], "inferred": inferred}
            spread = read_spread(output_dir / case_id, {name: c for c, name in figures["classes"]})
            hearts.append(heart_content(title, truth, {"reconstruction": labels}, affine, colours, spread=spread))
        except Exception as error:
            missed.append(describe_failure(f"{REPORT}: {case_id}", error))
    try:
        completion = completion_of(run_dir, figures["settings"].get("checkpoint_sha256")) if run_dir else None
    except (InputError, OSError) as error:
        completion = None
        missed.append(describe_failure(f"{REPORT}: what it infers", error))
    try:
        curves = training_curves(run_dir) if run_dir else None
    except (OSError, ValueError) as error:
        curves = None
        missed.append(describe_failure(f"{REPORT}: the training curves of {run_dir}", error))
    if faults is not None:
        faults += missed
    path = output_dir / REPORT
    write_results_page(
        path,
        "report.html",
        title=f"Reconstruction: {output_dir.resolve().name}",
        remark=figures["settings"].get("remark"),
        runs=[{"name": "reconstruction", "settings": shown_settings(figures)}],
        classes=figures["classes"],
        colours=colours,
        boxes=boxes([figures], figures["cases"]),
        hearts=hearts,
        curves=curves,
        table=table(figures),
        completion=completion,
        samples=volumes_shown(output_dir, [heart["case_id"] for heart in hearts]),
        note="Not shown: " + "; ".join(missed) if missed else None,
    )
    return path


def mean_dice(figures: dict) -> dict[str, float | None]:
    """{case_id: mean Dice over its classes, or None}, in the order of metrics.csv."""
    return {case: figures["hearts"].get(case, {}).get("mean_dice") for case in figures["cases"]}


def best_median_worst(score: dict[str, float | None]) -> list[tuple[str, str]]:
    """[(what, case_id)] of up to three hearts, from {case_id: number or None}; ties in the order given."""
    order = sorted(score, key=lambda case: -(score[case] or 0.0))
    if len(order) < 3:
        return list(zip(("best", "worst") if len(order) == 2 else ("heart",), order))
    return [("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])]


def read_reconstruction(
    output_dir: str | Path, case_id: str, truth: np.ndarray | None = None, affine: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(label map u8, affine) of CASE/labels.nii.gz; on the truth's grid, by the nearest voxel, if that is another."""
    image = nibabel.load(Path(output_dir) / case_id / "labels.nii.gz")
    labels = np.asanyarray(image.dataobj).astype(np.uint8)
    if truth is None:
        return labels, image.affine
    if labels.shape == truth.shape and not _on_own_grid(output_dir, case_id):
        return labels, affine  # the truth's: a header that was kept as the source had it may have the wrong spacing
    return resample_nearest(labels, np.linalg.inv(image.affine) @ affine, truth.shape), affine


def _on_own_grid(output_dir, case_id):
    """Whether reconstruct.py --spacing or --extend made it: then the header is right, and the grid is not the
    source's."""
    try:
        result = json.loads((Path(output_dir) / case_id / "result.json").read_text(encoding="utf-8"))
        return any(result["made_from"].get(key) for key in ("spacing_mm", "extend_mm"))
    except (FileNotFoundError, KeyError):  # of an earlier version, which had no such option
        return False


def shown_settings(figures: dict) -> dict:
    """{words: value} of the settings of a run that the page shows."""
    stored = figures["settings"]
    words = {name: word or name.replace("_", " ") for name, word in _SETTINGS.items()}
    shown = {words[name]: stored[name] for name in _SETTINGS if stored.get(name) is not None}
    return {name: ", ".join(value) if isinstance(value, list) else value for name, value in shown.items()}


def write_results_page(
    path, template, *, title, runs, classes, colours, boxes, hearts, curves, difference=DIFFERENCE, note=None, **figures
):
    """Writes the page of one run or of two: what `template` shows of its own (`figures`), then box plots, hearts in
    slices and in 3D, training curves, settings.

    `runs`: [{name, settings}]; `classes`: [(id, name)]; `boxes`: of `vecset.report.figures.boxes`; `hearts`: of
    `heart_content`; `difference`: {kind: colour} of the slices' differences; `note`: on the hearts."""
    structures = [{"id": c, "name": name, "colour": colours[c - 1]} for c, name in classes]
    charts = training_charts(curves, classes, colours)
    data = {
        "classes": structures,
        "difference": difference,
        "runs": [run["name"] for run in runs],
        "boxes": boxes,
        "box_chart": box_chart(boxes, [run["name"] for run in runs], colours),
        "hearts": [{**heart, "surfaces": deflated(as_json(heart["surfaces"]))} for heart in hearts],
        "curves": charts,
        "scene": scene_style(),
        "not_compared": NOT_COMPARED,
        "seen": SEEN,
    }
    write_page(
        path,
        template,
        title=title,
        runs=runs,
        structures=structures,
        difference=list(difference.items()),
        metrics=boxes["metrics"],
        num_hearts=len(boxes["cases"]),
        hearts=hearts,
        hearts_note=note,
        charts=charts,
        max_triangles=MAX_TRIANGLES,
        data=data,
        **figures,
    )
