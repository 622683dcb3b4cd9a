"""What several answers say of the volumes of structures that are not seen whole: OUT/samples.csv, the last lines."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh

from vecset.common.atomic import write_text

TABLE = "samples.csv"
COLUMNS = ("case_id", "class", "samples", "volume_ml", "median_ml", "low_ml", "high_ml", "true_ml")


def sample_rows(results: Sequence[dict]) -> list[dict]:
    """A row per heart and structure, of the hearts (contents of result.json) that have samples: COLUMNS; true_ml None
    where the truth is not known."""
    return [
        {"case_id": result["case_id"], "class": name, "samples": result["samples"]["number"]}
        | {column: volumes[column] for column in COLUMNS[3:]}
        for result in results
        if "samples" in result
        for name, volumes in result["samples"]["volumes"].items()
    ]


def volumes_shown(output_dir: Path, case_ids: Sequence[str]) -> list[dict]:
    """`sample_rows` of these hearts, in the folder of reconstruct.py, for the page."""
    results = []
    for case_id in case_ids:
        path = output_dir / case_id / "result.json"
        if path.is_file():
            results.append(json.loads(path.read_text(encoding="utf-8")))
    return sample_rows(results)


def write_table(path: Path, results: Sequence[dict]) -> None:
    """Writes `sample_rows` as CSV, atomically; an unknown truth is empty. Removes it where there are none."""
    rows = sample_rows(results)
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        numbers = {name: "" if row[name] is None else f"{row[name]:.4f}" for name in COLUMNS[3:]}
        writer.writerow({**row, **numbers})
    write_text(path, text.getvalue())


def read_spread(folder: Path, class_names: dict[str, int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{class id: (vertices (V, 3) in patient mm (RAS+), spread of the samples at each (V,) in mm)} of the meshes of a
    heart, in its folder of reconstruct.py --samples; {} where it has none. class_names: {name: id}."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    found = {}
    for name, volumes in result.get("samples", {}).get("volumes", {}).items():
        if "mesh" in volumes:
            mesh = trimesh.load(folder / volumes["mesh"], process=False)
            spread = mesh.metadata["_ply_raw"]["vertex"]["data"]["spread_mm"].ravel()
            to_ras = np.array([-1, -1, 1] if result["made_from"]["lps"] else [1, 1, 1])
            found[class_names[name]] = mesh.vertices * to_ras, spread
    return found


def sample_lines(results: Sequence[dict]) -> list[str]:
    """The volumes of one heart, or of several how wide their intervals are; and in how many the truth lies."""
    rows = sample_rows(results)
    if not rows:
        return []
    hearts = {row["case_id"] for row in rows}
    lines = []
    if len(hearts) == 1:
        lines += [
            f"{row['class']}: {row['volume_ml']:.1f} ml, 90 % of {row['samples']} samples from {row['low_ml']:.1f} "
            f"to {row['high_ml']:.1f} ml"
            for row in rows
        ]
    else:
        for name in dict.fromkeys(row["class"] for row in rows):
            mine = [row for row in rows if row["class"] == name]
            widths = [row["high_ml"] - row["low_ml"] for row in mine]
            lines.append(
                f"{name}: volume {np.mean([row['volume_ml'] for row in mine]):.1f} ml, its 90 % interval "
                f"{np.mean(widths):.1f} ml wide, means over {len(mine)} hearts"
            )
    known = [row for row in rows if row["true_ml"] is not None]
    if known:
        within = sum(row["low_ml"] <= row["true_ml"] <= row["high_ml"] for row in known)
        lines.append(f"the true volume lies in the 90 % interval for {within} of {len(known)} structures")
    return lines
