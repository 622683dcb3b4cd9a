"""The tables and pages over all hearts of a reconstruction: metrics.csv, metrics.json, overview.png, report.html."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from vecset.common.errors import describe_failure
from vecset.imaging.classes import class_colours
from vecset.metrics.overlap import mean_over_classes
from vecset.report import tables
from vecset.report.page import REPORT, best_median_worst, read_reconstruction, write_html_report
from vecset.report.pictures import write_overview
from vecset.report.samples import TABLE as SAMPLES_TABLE

METRICS_CSV, METRICS_JSON, OVERVIEW = "metrics.csv", "metrics.json", "overview.png"
OVER_ALL = (METRICS_CSV, METRICS_JSON, SAMPLES_TABLE, OVERVIEW, REPORT)  # files that speak of all hearts of a run


def remove_results(output_dir: Path) -> list[str]:
    """Removes the tables and pages over all hearts from the folder of a reconstruction; returns the names of those
    that were there. For hearts that are about to be made again: tables must not speak of files that are gone."""
    there = [name for name in OVER_ALL if (output_dir / name).is_file()]
    for name in there:
        (output_dir / name).unlink()
    return there


def write_results(
    output_dir: Path,
    results: dict[str, dict],
    settings: dict,
    class_names: Sequence[str],
    truth_of: Callable,
    run_dir: Path,
    with_baselines: bool,
    datasets: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], list[str]]:
    """Writes tables and pages into `output_dir`; returns the lines for the terminal, and one for each heart's picture
    and each page that could not be made, which costs no other.

    results: {case_id: content of result.json} (vecset/inference/reconstruction.py); settings: kept in metrics.json;
    truth_of(case_id) -> (label map (X, Y, Z) u8, affine (4, 4) voxel -> mm); run_dir: of the training, whose curves are
    shown; datasets: {case_id: its data set} of hearts of several. Hearts without a truth have no figures; where none
    has one, nothing is written."""
    scored = {case_id: result for case_id, result in results.items() if result["scores"]}
    if not scored:
        return ["no truth in the input, hence no figures"], []
    rows = [
        row
        for case_id, result in scored.items()
        for row in tables.table_rows(
            case_id, result["scores"], result["baselines"] if with_baselines else None, result["floor"]
        )
    ]
    hearts = {
        case_id: {
            "mean_dice": mean_over_classes(result["scores"]),
            "decoding": result["decoding"],
            "nearest_heart_file": result["baselines"].get("nearest_heart_file") if with_baselines else None,
            **({"dataset": datasets[case_id]} if datasets.get(case_id) else {}),
        }
        for case_id, result in scored.items()
    }
    content = tables.report(rows, hearts, settings)
    tables.write_csv(output_dir / METRICS_CSV, rows)
    tables.write_json(output_dir / METRICS_JSON, content)
    chosen = best_median_worst({case_id: heart["mean_dice"] for case_id, heart in hearts.items()})
    lines, faults, pictures = tables.table_lines(content), [], []
    for what, case_id in chosen:
        title = f"{what}: {case_id}, mean Dice {hearts[case_id]['mean_dice'] or 0:.3f}"
        try:
            inferred = [class_names.index(name) + 1 for name in scored[case_id].get("inferred", ())]
            pictures.append(_picture(output_dir, title, case_id, truth_of) | {"inferred": inferred})
        except Exception as error:
            faults.append(describe_failure(f"{OVERVIEW}: {case_id}", error))
    try:
        if pictures:
            write_overview(output_dir / OVERVIEW, pictures, class_names, class_colours(class_names))
    except Exception as error:
        faults.append(describe_failure(output_dir / OVERVIEW, error))
    try:
        page = write_html_report(output_dir, run_dir, truth_of, chosen, faults)
        lines.append(f"to look at, in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    except Exception as error:
        faults.append(describe_failure(output_dir / REPORT, error))
    return lines, faults


def _picture(output_dir, title, case_id, truth_of):
    """One row of the overview: truth and reconstruction of a heart, on the truth's grid."""
    truth, affine = truth_of(case_id)
    prediction, _ = read_reconstruction(output_dir, case_id, truth, affine)
    return {"title": title, "truth": truth, "affine": affine, "prediction": prediction}
