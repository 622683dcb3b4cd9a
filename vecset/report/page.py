"""report.html: the results of a run as one file that opens from disk, without a network. No torch.

The table, a box plot per class, the best, median and worst heart in slices and in 3D, the training curves. The figures
are read from metrics.csv and metrics.json in the output folder, the reconstructions from CASE/labels.nii.gz; the truth
comes from the caller. What the page draws is embedded as JSON, its scripts (vecset/report/assets) with it; a content
security policy in the page forbids every request.
"""

import json
from pathlib import Path

import nibabel
import numpy as np

from vecset.common.atomic import write_text
from vecset.imaging.classes import class_colours
from vecset.imaging.resampling import resample_nearest
from vecset.imaging.slice_picture import BACKGROUND, BAD, DIFFERENCE, GOOD
from vecset.report.figures import boxes, read_figures, table, training_curves
from vecset.report.hearts import MARGIN_MM, MAX_TRIANGLES, heart_content

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = (
    "page.js",
    "table.js",
    "boxes.js",
    "curves.js",
    "slices.js",
    "scene.js",
    "camera.js",
    "surfaces.js",
    "main.js",
)
REPORT = "report.html"
_SHOWN_SETTINGS = (
    "checkpoint",
    "checkpoint_sha256",
    "model",
    "epoch",
    "input",
    "train_csv",
    "num_surface_points",
    "num_latents",
    "calibration",
    "balance",
    "seed",
    "spacing_from",
    "device",
)
_COLOUR_STEPS = 64  # of the scale of surface errors


def write_html_report(output_dir, run_dir=None, truth_of=None, chosen=None):
    """Writes report.html into `output_dir`, the folder of a finished reconstruct.py, and returns its path.

    `run_dir`: the training run's folder, for its curves; `truth_of(case_id)` -> (label map (X, Y, Z) u8, affine (4, 4)
    voxel -> mm), or None: reconstructions are shown alone; `chosen`: [(what, case_id)] of the hearts to show, by
    default the best, median and worst mean Dice. InputError where the folder holds no figures."""
    output_dir = Path(output_dir)
    figures = read_figures(output_dir)
    colours = class_colours(max(c for c, _ in figures["classes"]))
    hearts = []
    for what, case_id in chosen or best_median_worst(mean_dice(figures)):
        truth, affine = truth_of(case_id) if truth_of else (None, None)
        labels, affine = read_reconstruction(output_dir, case_id, truth, affine)
        title = {"what": what, "case_id": case_id, "mean_dice": [figures["hearts"].get(case_id, {}).get("mean_dice")]}
        hearts.append(heart_content(title, truth, {"reconstruction": labels}, affine, colours))
    content = {
        "kind": "report",
        "title": f"Reconstruction: {output_dir.resolve().name}",
        "runs": [{"name": "reconstruction", "settings": shown_settings(figures)}],
        "table": table(figures),
        "boxes": boxes([figures], figures["cases"]),
        "hearts": hearts,
        "curves": training_curves(run_dir) if run_dir else None,
    }
    path = output_dir / REPORT
    write_page(path, content, figures["classes"], colours)
    return path


def mean_dice(figures):
    """{case_id: mean Dice over its classes, or None}, in the order of metrics.csv."""
    return {case: figures["hearts"].get(case, {}).get("mean_dice") for case in figures["cases"]}


def best_median_worst(score):
    """[(what, case_id)] of up to three hearts, from {case_id: number or None}; ties in the order given."""
    order = sorted(score, key=lambda case: -(score[case] or 0.0))
    if len(order) < 3:
        return list(zip(("best", "worst") if len(order) == 2 else ("heart",), order))
    return [("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])]


def read_reconstruction(output_dir, case_id, truth=None, affine=None):
    """(label map u8, affine) of CASE/labels.nii.gz; on the truth's grid, by the nearest voxel, if that is another."""
    image = nibabel.load(Path(output_dir) / case_id / "labels.nii.gz")
    labels = np.asanyarray(image.dataobj).astype(np.uint8)
    if truth is None:
        return labels, image.affine
    if labels.shape == truth.shape and not _on_own_grid(output_dir, case_id):
        return labels, affine  # the truth's: a header that was kept as the source had it may have the wrong spacing
    return resample_nearest(labels, np.linalg.inv(image.affine) @ affine, truth.shape), affine


def _on_own_grid(output_dir, case_id):
    """Whether reconstruct.py --spacing made it: then the header is right, and the grid is not the source's."""
    try:
        result = json.loads((Path(output_dir) / case_id / "result.json").read_text(encoding="utf-8"))
        return bool(result["made_from"].get("spacing_mm"))
    except (OSError, ValueError, KeyError):
        return False


def shown_settings(figures):
    return {name: figures["settings"][name] for name in _SHOWN_SETTINGS if figures["settings"].get(name) is not None}


def write_page(path, content, classes, colours, kinds_of_difference=DIFFERENCE):
    """Writes one HTML file from `content` (for JSON), the style sheet and the scripts."""
    content = {
        **content,
        "classes": [{"id": c, "name": name, "colour": colours[c - 1]} for c, name in classes],
        "background": BACKGROUND,
        "good": GOOD,
        "bad": BAD,
        "difference": kinds_of_difference,
        "error_colours": error_colours(),
        "max_triangles": MAX_TRIANGLES,
        "margin_mm": MARGIN_MM,
    }
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")  # no </script> in a name
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "TITLE": _escaped(content["title"]),
        "STYLE": (ASSETS / "page.css").read_text(encoding="utf-8"),
        "DATA": data,
        "SCRIPT": scripts,
    }
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    head, *rest = page.split("{{")
    write_text(path, head + "".join(parts[p.split("}}", 1)[0]] + p.split("}}", 1)[1] for p in rest))


def error_colours():
    """Colours ('#RRGGBB') of the scale of surface errors, from none to the most: cividis, which looks the same to
    colour-blind people (Nunez and others 2018, "Optimizing colormaps with consideration for color vision deficiency").
    """
    from matplotlib import colormaps

    values = colormaps["cividis"](np.linspace(0, 1, _COLOUR_STEPS))[:, :3]
    return ["#{:02X}{:02X}{:02X}".format(*np.rint(255 * v).astype(int)) for v in values]


def _escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")
