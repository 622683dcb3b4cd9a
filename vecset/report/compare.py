"""compare.html: two runs side by side on the hearts that both have. No torch, but where the truth is listed in a CSV.

The differences are paired: per heart and class, B's figure less A's. A structure that a run misses or invents counts as
`vecset.metrics.overlap.counted_value` says, as it does in each run's own means."""

from functools import partial
from pathlib import Path

import numpy as np

from vecset.common.atomic import require_writable
from vecset.common.errors import InputError, describe_failure
from vecset.imaging.slice_picture import DIFFERENCE
from vecset.metrics.overlap import counted_value
from vecset.report.figures import MEAN, UNION, boxes, colours_of, column, read_figures
from vecset.report.hearts import heart_content
from vecset.report.page import mean_dice, read_reconstruction, shown_settings, write_results_page

COMPARISON = "compare.html"
_RESAMPLES = 2000


def write_comparison(run_a, run_b, output_dir, truth_of=None, faults=None):
    """Writes compare.html into `output_dir` and returns its path. `run_a`, `run_b`: output folders of reconstruct.py;
    `truth_of`: as for `write_html_report`, by default the truths that the runs' metrics.json names, where they are
    still there; `faults`: a list that gets a line for each heart that cannot be shown (the page says so too), or None.
    InputError where the runs have other classes, or no heart in common."""
    folders = [Path(run_a), Path(run_b)]
    figures = [read_figures(folder) for folder in folders]
    if figures[0]["classes"] != figures[1]["classes"]:
        raise InputError(
            folders[1],
            f"the classes of {folders[0]} ({_listed(figures[0])})",
            _listed(figures[1]),
            "compare runs of one set of classes",
        )
    cases = [case for case in figures[0]["cases"] if case in set(figures[1]["cases"])]
    if not cases:
        raise InputError.because(folders[1], f"no heart in common with {folders[0]}", "reconstruct the same hearts")
    names = run_names(folders)
    colours = colours_of(figures[0])
    truth_of, note = (truth_of, None) if truth_of else stored_truths(figures)
    hearts, missed = [], []
    for what, case in chosen(figures, cases):
        try:
            hearts.append(_heart(what, case, folders, figures, names, truth_of, colours))
        except Exception as error:
            missed.append(describe_failure(f"{COMPARISON}: {case}", error))
    if faults is not None:
        faults += missed
    note = " ".join(filter(None, [note, "Not shown: " + "; ".join(missed) if missed else None])) or None
    kinds = (
        DIFFERENCE
        if truth_of
        else dict(zip(("same", f"in {names[0]} only", f"in {names[1]} only", "another structure"), DIFFERENCE.values()))
    )
    left_out = [
        f"{len(f['cases']) - len(cases)} of {name}" for f, name in zip(figures, names) if len(f["cases"]) > len(cases)
    ]
    output_dir = Path(output_dir)
    require_writable(output_dir)
    path = output_dir / COMPARISON
    write_results_page(
        path,
        "compare.html",
        title=f"{names[0]} and {names[1]}",
        runs=[
            {"name": name, "settings": {"folder": str(folder), **shown_settings(f)}}
            for name, folder, f in zip(names, folders, figures)
        ],
        classes=figures[0]["classes"],
        colours=colours,
        boxes=boxes(figures, cases),
        hearts=hearts,
        curves=None,
        difference=kinds,
        note=note,
        comparison=comparison(figures, cases),
        left_out=left_out,
    )
    return path


def _listed(figures):
    return ", ".join(name for _, name in figures["classes"])


def run_names(folders: list[Path]) -> list[str]:
    """['A: folder', 'B: folder'], with as much of the two paths as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = next((d for d in range(1, 1 + max(map(len, parts))) if parts[0][-d:] != parts[1][-d:]), 1)
    return [f"{letter}: {'/'.join(p[-depth:])}" for letter, p in zip("AB", parts)]


def chosen(figures: list[dict], cases: list[str]) -> list[tuple[str, str]]:
    """[(what, case_id)]: where B gains most mean Dice on A, the median change, and where it loses most."""
    first, second = (mean_dice(f) for f in figures)
    change = {case: (second[case] or 0.0) - (first[case] or 0.0) for case in cases}
    order = sorted(cases, key=lambda case: -change[case])
    if len(order) < 3:
        return [("heart", case) for case in order]
    return [
        ("most in favour of B", order[0]),
        ("median change", order[len(order) // 2]),
        ("most in favour of A", order[-1]),
    ]


def _hearts_of(settings):
    """The hearts of a run's input, chosen as that run chose them."""
    from vecset.data.label_folder import Selection
    from vecset.inference.inputs import find_hearts

    selection = Selection(bool(settings.get("recursive")), settings.get("pattern"))
    return find_hearts(settings["input"], settings.get("data_path"), selection, say=lambda line: None)


def stored_truths(figures):
    """(truth_of or None, a note for the reader or None), by the input that the runs' metrics.json names."""
    from vecset.imaging.label_mapping import LabelMapping

    reason = ""
    for mine in figures:
        settings = mine["settings"]
        num_classes = len(mine["classes"])
        try:
            mapping = settings.get("label_mapping")
            mapping = LabelMapping.load(mapping, num_classes) if mapping else None
            hearts = {h.case_id: h for h in _hearts_of(settings)}
        except (InputError, OSError, KeyError, TypeError) as error:
            reason = f", or cannot be read ({describe_failure('metrics.json', error)})"
            continue
        if all(case in hearts and hearts[case].path.is_file() for case in mine["cases"]):
            class_names = [name for _, name in mine["classes"]]
            return partial(_load_truth, hearts, class_names, settings, mapping), None
    named = figures[0]["settings"].get("input")
    return (
        None,
        f"The truth is not where the runs had it ({named}){reason}: the two reconstructions are compared alone.",
    )


def _load_truth(hearts, class_names, settings, mapping, case):
    from vecset.inference.inputs import load_truth

    how = settings.get("spacing_from"), settings.get("geometry_from"), mapping
    return load_truth(hearts[case], class_names, *how)


def _heart(what, case, folders, figures, names, truth_of, colours):
    truth, affine = truth_of(case) if truth_of else (None, None)
    first, first_affine = read_reconstruction(folders[0], case, truth, affine)
    second, _ = read_reconstruction(folders[1], case, first, first_affine)
    title = {"what": what, "case_id": case, "mean_dice": [mean_dice(f)[case] for f in figures]}
    return heart_content(title, truth, dict(zip(names, (first, second))), first_affine, colours)


def comparison(figures: list[dict], cases: list[str]) -> dict:
    """{metrics, rows: [{id, name, values: {metric: {a, b, difference, interval, higher, lower, equal, pairs}}}]} of the
    metrics that both runs have: means over the pairs (hearts in which both are defined), and how many hearts B is
    higher or lower in. The mean of classes is that of each heart, over its classes as in each
    run's own means: a structure that one run alone invents counts in that run's mean."""
    metrics = [m for m in figures[0]["metrics"] if m in figures[1]["metrics"]]
    ids = [c for c, _ in figures[0]["classes"]]
    values = {
        m: np.array([[[_counted(f, case, c, m) for c in (*ids, None)] for case in cases] for f in figures], np.float64)
        for m in metrics
    }  # (run, heart, class)
    rows = []
    for k, (c, name) in enumerate([*figures[0]["classes"], (None, UNION)]):
        rows.append({"id": c, "name": name, "values": {m: paired(*values[m][:, :, k]) for m in metrics}})
    means = {}
    for m in metrics:
        classes = values[m][:, :, :-1]
        defined = np.isfinite(classes)
        count = defined.sum(2)
        sums = np.where(defined, classes, 0).sum(2)
        means[m] = paired(*np.where(count > 0, sums / np.maximum(count, 1), np.nan))
    rows.insert(len(ids), {"id": None, "name": MEAN, "values": means})
    return {"metrics": [column(m) for m in metrics], "rows": rows}


def _counted(figures, case, class_id, metric):
    row = figures["rows"].get((case, class_id))
    value = None if row is None else row[metric] if metric.startswith("floor_") else counted_value(row, metric)
    return np.nan if value is None else value


def paired(a: np.ndarray, b: np.ndarray) -> dict:
    """Of two columns (hearts,), NaN where undefined: means, mean difference and its interval, counts."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if not len(a):
        return {
            "a": None,
            "b": None,
            "difference": None,
            "interval": None,
            "higher": 0,
            "lower": 0,
            "equal": 0,
            "pairs": 0,
        }
    change = b - a
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "difference": float(change.mean()),
        "interval": bootstrap_interval(change),
        "higher": int((change > 0).sum()),
        "lower": int((change < 0).sum()),
        "equal": int((change == 0).sum()),
        "pairs": len(change),
    }


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> list[float] | None:
    """[low, high]: the middle 95 % of the means of as many `values` (N,) drawn with replacement (percentile bootstrap,
    Efron 1979); None for fewer than two."""
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    return [float(q) for q in np.percentile(values[draws].mean(1), (2.5, 97.5))]
