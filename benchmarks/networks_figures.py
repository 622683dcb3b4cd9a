"""The figures of a row of benchmarks/networks.py: what its training used, how its unseen hearts came out, decoding."""

import csv
import json
import statistics
import time
from pathlib import Path

import numpy as np

from vecset.metrics.overlap import COUNTED


def spent(segments: list[dict]) -> float:
    """CPU seconds of these starts."""
    return sum(segment["cpu_s"] for segment in segments)


def told_of(segments: list[dict], total: int) -> dict:
    """What all starts of a training run used, of `total` steps. train_cpu_s is of the steps alone, also of those that
    were done again after a kill: their number times the CPU seconds per step, measured between the first and the last
    line of every start."""
    measured = [s for s in segments if s["first"] and s["last"][0] > s["first"][0]]
    between = sum(s["last"][0] - s["first"][0] for s in measured)
    per_step = sum(s["last"][1] - s["first"][1] for s in measured) / between if between else None
    reached = [s["last"][0] if s["last"] else s["from"] for s in segments]
    steps = total if segments[-1]["code"] == 0 else max(reached)
    # a start that was asked to stop saved after its last line: the next one goes on from there
    ends = [max(pair) for pair in zip(reached, [*(s["from"] for s in segments[1:]), steps])]
    done = sum(end - s["from"] for s, end in zip(segments, ends))
    return {
        "steps": steps,
        "steps_done_again": done - steps,
        "starts": len(segments),
        "wall_s": round(sum(s["wall_s"] for s in segments), 1),
        "cpu_s": round(spent(segments), 1),
        "train_cpu_s": round(per_step * done, 1) if per_step else None,
        "cpu_s_per_step": round(per_step, 4) if per_step else None,
    }


def figures_of(folder: Path) -> dict:
    """What metrics.json, metrics.csv and result.json of a reconstruction say."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["classes"]
    mean, union = content["mean of classes"], content["union"]
    classes = {name: entry for name, entry in content.items() if name not in ("mean of classes", "union")}
    rows = read_csv(folder / "metrics.csv")
    of_classes = [row for row in rows if row["class_id"] and row["status"] in COUNTED]
    right = [row["components"] == row["truth_components"] for row in of_classes]
    thin = [r for r, row in zip(right, of_classes) if row["class_name"] == "Coronary"]
    hearts = {}
    for row in of_classes:
        hearts.setdefault(row["case_id"], []).append(float(row["dice"] or 0))
    found = {
        "dice": mean["dice"],
        "coronary": classes["Coronary"]["dice"],
        "union": union["dice"],
        "classes": {name: entry["dice"] for name, entry in classes.items()},
        "hd95_mm": mean["hd95_mm"],
        "union_hd95_mm": union["hd95_mm"],
        "missed": sum(row["status"] == "missed" for row in of_classes),
        "components": sum(right) / len(right),
        "coronary_components": sum(thin) / len(thin) if thin else None,
        "hearts": {case_id: round(sum(values) / len(values), 4) for case_id, values in hearts.items()},
    }
    return {**found, **claims_of(list(hearts), folder)}


def claims_of(case_ids: list[str], folder: Path) -> dict:
    """Voxels per heart that several structures claim (overlap) and that none does (unclaimed), by the counts that
    reconstruct.py keeps of networks with class distances (vecset/fields/claims.py); {} for others."""
    counts = []
    for case_id in case_ids:
        result = json.loads((folder / case_id / "result.json").read_text(encoding="utf-8"))
        counts.append(result["decoding"].get("claims"))
    if None in counts:
        return {}
    scale = [count["heart_voxels"] / max(count["looked_at"], 1) for count in counts]
    return {
        f"{ours}_voxels": round(statistics.fmean(s * count[theirs] for s, count in zip(scale, counts)), 1)
        for ours, theirs in (("overlap", "overlaps"), ("unclaimed", "unclaimed"))
    }


def measure_decoding(checkpoint: Path, hearts: Path, count: int, options: dict) -> dict:
    """CPU seconds to encode and to decode a heart on its own grid (this process's, all threads), and gap_voxels (see
    `gap_voxels`): means over the first `count` hearts of a CSV. Besides: parameters of the network, and numbers: how
    many latents a heart has and the numbers of each."""
    from vecset.common.cores import limit_threads

    limit_threads()
    from vecset.data.listed_case import read_listed
    from vecset.fields.decoding import decode_label_map
    from vecset.inference.model import load_model

    model = load_model(checkpoint, device="cpu", **options)
    entries = read_listed(hearts, hearts.parent)[:count]
    found = []
    for entry in [entries[0], *entries]:
        case = model.read(entry)
        began = time.process_time()
        latents = model.encode(case, entry.case_id)
        encoded = time.process_time()
        labels = decode_label_map(model.field(latents), case.frame).labels
        decoded = time.process_time()
        figures = {"encode_cpu_s": encoded - began, "decode_cpu_s": decoded - encoded}
        found.append({**figures, "gap_voxels": gap_voxels(labels, case.truth_labels())})
    del found[0]  # the first call of everything costs more
    means = {name: round(statistics.fmean(f[name] for f in found), 3) for name in found[0]}
    parameters = sum(p.numel() for p in model.network.parameters())
    return {"parameters": parameters, "numbers": list(latents.shape[1:]), **means}


def gap_voxels(labels: np.ndarray, truth: np.ndarray) -> int:
    """Number of voxels that are heart in `truth`, background in `labels`, and have two different classes of `labels`
    among their 26 neighbours. labels, truth: (X, Y, Z) u8."""
    from scipy import ndimage

    around = np.ones((3, 3, 3), bool)
    highest = ndimage.maximum_filter(labels, footprint=around)
    lowest = ndimage.minimum_filter(np.where(labels > 0, labels, 255).astype(np.uint8), footprint=around)
    return int(((truth > 0) & (labels == 0) & (highest > 0) & (highest != lowest)).sum())


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
