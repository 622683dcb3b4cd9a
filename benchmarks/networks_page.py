"""Rows of benchmarks/networks.py -> docs/networks.md: the verdict, the tables, and a picture of where networks differ.

The verdict follows one rule (`verdict`). Means are over seeds; nothing is decided before every row is there."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vecset.common.atomic import write_text
from vecset.imaging.classes import HEART_CLASSES, class_colours

BY_DICE, BY_CORONARY = 0.01, 0.03  # a network wins by so much
FINALISTS, FINAL_SEEDS = 2, 3
OURS = "A"


@dataclass(frozen=True)
class Network:
    """title: two or three words; flags: options of vecset/main_ae.py beside the recipe's; folder: part of the name of
    its results."""

    title: str
    folder: str
    flags: dict = field(default_factory=dict)


NETWORKS = {
    "A": Network("joint", "A"),
    "B": Network("per class", "B", {"network": "per_class"}),
    "C": Network("part latents", "C", {"network": "parts"}),
    "D": Network("joint, distances", "D", {"class_outputs": "distances"}),
    "D'": Network("joint, both", "Dprime", {"class_outputs": "both"}),
}
SHORT = {"Myocardium": "Myo", "Coronary": "Cor."}


def read_rows(*paths: Path) -> list[dict]:
    """The rows of JSON-lines files; of two with the same set, network and seed the later one. A last line that a kill
    has cut is left out."""
    rows = {}
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                if number == len(lines):
                    continue
                raise
            rows[row["set"], row["network"], row["seed"]] = row
    return list(rows.values())


# --- the verdict


def mean_of(rows: Iterable[dict], name: str, where: str = "plain") -> float | None:
    """Mean over rows of a figure; None where a row has none (its training failed, or its network has no such)."""
    values = [row[where].get(name) if row[where] else None for row in rows]
    return statistics.fmean(values) if values and None not in values else None


def verdict(rows: list[dict], sets: Mapping) -> str:
    """One sentence. sets: {name: Comparison} with `networks` and `seeds` of small and large.

    Five networks are compared on the small set. The two of highest mean Dice are compared on the large one. A network
    beats A where its mean Dice is higher by BY_DICE or its coronaries by BY_CORONARY, over seeds, and it does not lose
    by as much in the other. On the large set where A has all its seeds, else on the small one. Of several that beat A,
    the one with the highest mean Dice on the large set is chosen."""
    small, large = ([row for row in rows if row["set"] == name] for name in ("small", "large"))
    wanted = len(sets["small"].networks) * len(sets["small"].seeds) + FINALISTS * len(sets["large"].seeds)
    ranked = ranking(small, sets["small"])
    finalists = ranked[:FINALISTS] if len(small) == len(sets["small"].networks) * len(sets["small"].seeds) else []
    of_final = {n: [row for row in large if row["network"] == n] for n in finalists}
    done = len(small) + sum(map(len, of_final.values())) if finalists else len(small)
    if not finalists or any(len(found) < len(sets["large"].seeds) for found in of_final.values()):
        return f"not decided: the comparison has {done} of {wanted} rows"
    ours = [row for row in large if row["network"] == OURS]
    stage = large if len(ours) == len(sets["large"].seeds) else small
    ours = [row for row in stage if row["network"] == OURS]
    best = [n for n in ranking(large, sets["large"]) if n in finalists and n != OURS]
    for network in best:
        found = beats([row for row in stage if row["network"] == network], ours)
        if found:
            return f"{network} ({NETWORKS[network].title}) becomes the network of the recipes: {found}"
    return (
        f"A (joint) stays the network of the recipes: none is ahead by {BY_DICE} in mean Dice or {BY_CORONARY} in "
        "coronaries"
    )


def ranking(rows: list[dict], comparison) -> list[str]:
    """Networks by their mean Dice over seeds, best first; one without figures comes last."""
    found = {row["network"]: [] for row in rows}
    for row in rows:
        found[row["network"]].append(row)
    means = {network: mean_of(of, "dice") for network, of in found.items()}
    return sorted(means, key=lambda n: (means[n] is None, -(means[n] or 0)))


def beats(theirs: list[dict], ours: list[dict]) -> str:
    """By what `theirs` are better than `ours` by the rule of `verdict`, in words; "" where they are not."""
    pairs = [(mean_of(theirs, name), mean_of(ours, name)) for name in ("dice", "coronary")]
    if any(value is None for value in pairs[0]):
        return f"{ours[0]['network']} diverged" if pairs[0][0] is not None else ""
    dice, coronary = (round(a - b, 6) for a, b in pairs)
    ahead = dice >= BY_DICE or coronary >= BY_CORONARY
    behind = dice <= -BY_DICE or coronary <= -BY_CORONARY
    return f"{dice:+.3f} in mean Dice, {coronary:+.3f} in coronaries" if ahead and not behind else ""


# --- tables


def table_lines(rows: list[dict], sets: Mapping) -> list[str]:
    """Markdown: per set the means over seeds, then Dice per class and what each row cost."""
    lines = []
    for name, comparison in sets.items():
        found = sorted(
            (row for row in rows if row["set"] == name), key=lambda r: (list(NETWORKS).index(r["network"]), r["seed"])
        )
        if not found:
            continue
        lines += [
            f"### {comparison.train} + {comparison.unseen} hearts, {comparison.budget_s:g} CPU seconds of training"
            + ("" if name in ("small", "large") else " (toy sizes: the figures mean nothing)"),
            "",
            *_means(found),
            "",
            *_per_row(found),
            "",
        ]
    return lines[:-1] or ["No row yet."]


def _means(rows):
    head = ["network", "seeds", "mean Dice", "coronary", "union", "HD95 mm", "right components", "of coronaries"]
    head += ["tuned: mean", "tuned: coronary", "decode, CPU s", "overlap", "unclaimed", "gap", "parameters", "numbers"]
    table = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        first = own[0]
        table.append(
            [
                f"**{network}** {NETWORKS[network].title}",
                " ".join(str(row["seed"]) for row in own),
                *(_over_seeds(own, n, "plain") for n in ("dice", "coronary")),
                _number(mean_of(own, "union"), 3),
                _number(mean_of(own, "hd95_mm"), 1),
                *(_percent(mean_of(own, n)) for n in ("components", "coronary_components")),
                *(_over_seeds(own, n, "tuned") for n in ("dice", "coronary")),
                _number(_mean(own, "decode_cpu_s"), 1),
                *(_number(mean_of(own, f"{n}_voxels"), 0) for n in ("overlap", "unclaimed")),
                _number(_mean(own, "gap_voxels"), 0),
                _number(first.get("parameters"), 0),
                " x ".join(map(str, first["numbers"])) if "numbers" in first else "-",
            ]
        )
    return _markdown(head, table)


def _per_row(rows):
    head = ["network", "seed", *(SHORT.get(name, name) for name in HEART_CLASSES)]
    head += [
        "missed",
        "epochs",
        "steps",
        "CPU s per step: before",
        "in training",
        "CPU s: steps",
        "all",
        "wall s",
        "starts",
    ]
    table = []
    for row in rows:
        plain = row["plain"]
        dices = [plain["classes"].get(name) for name in HEART_CLASSES] if plain else [None] * len(HEART_CLASSES)
        table.append(
            [
                row["network"],
                row["seed"],
                *(_number(value, 3) for value in dices),
                plain["missed"] if plain else row["failure"],
                row["epochs"],
                row["steps"],
                _number(row["cost"]["cpu_s_per_step"], 2),
                _number(row["cpu_s_per_step"], 2),
                *(_number(row[name], 0) for name in ("train_cpu_s", "cpu_s", "wall_s")),
                row["starts"],
            ]
        )
    return _markdown(head, table)


def _mean(rows, name):
    values = [row.get(name) for row in rows]
    return statistics.fmean(values) if None not in values else None


def _over_seeds(rows, name, where):
    """The mean, and the values of the seeds where there are several."""
    mean = mean_of(rows, name, where)
    if mean is None or len(rows) == 1:
        return _number(mean, 3)
    return f"{mean:.3f} ({', '.join(f'{row[where][name]:.3f}' for row in rows)})"


def _number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value):
    return "-" if value is None else f"{100 * value:.0f} %"


def _markdown(head, table):
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(map(str, line))} |" for line in table),
    ]


# --- the page


def write_page(output_dir: Path, sets: Mapping, settings: Mapping, root: Path) -> str:
    """Brings docs/networks.md (below `root`), its picture and benchmarks/networks.jsonl up to date with the rows of
    OUT/rows.jsonl. settings: {(set, network): what counts}; rows made with others are left out. Returns what to say."""
    kept = root / "benchmarks" / "networks.jsonl"
    found = [row for row in read_rows(kept, output_dir / "rows.jsonl") if row["set"] in ("small", "large")]
    rows = [row for row in found if settings.get((row["set"], row["network"])) == row["settings"]]
    order = [*sets]
    rows.sort(key=lambda r: (order.index(r["set"]), list(NETWORKS).index(r["network"]), r["seed"]))
    write_text(kept, "".join(json.dumps(row) + "\n" for row in rows))
    page = root / "docs" / "networks.md"
    drawn = draw_picture(output_dir, rows, root / "docs" / "networks.png")
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"\A# .*", lambda match: f"# Which network: {verdict(rows, sets)}", text, count=1)
    text = _between(text, "rows", "\n".join([*table_lines(rows, sets), "", *machines(rows)]).strip())
    if drawn:
        text = _between(text, "picture", drawn)
    write_text(page, text)
    left_out = len(found) - len(rows)
    told = f"; {left_out} made with other settings left out" if left_out else ""
    return f"written: {page} ({len(rows)} rows{told})"


def machines(rows: list[dict]) -> list[str]:
    """Where and with what the rows were made, a line for each combination."""
    made = {}
    for row in rows:
        made.setdefault((row["machine"], row["torch"], row["commit"]), []).append(row["date"])
    return [
        f"{len(dates)} rows: {machine}, torch {torch}, commit {commit}, {min(dates)} to {max(dates)}.  "
        for (machine, torch, commit), dates in made.items()
    ]


def _between(text, name, content):
    """`text` with `content` between the markers of `name`."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if first not in text or last not in text:
        raise ValueError(f"docs/networks.md lacks the marker {first} or {last}")
    start, end = text.index(first) + len(first), text.index(last)
    return f"{text[:start]}\n{content}\n{text[end:]}"


# --- the picture


def draw_picture(output_dir: Path, rows: list[dict], target: Path) -> str:
    """Draws truth and networks at the slices of an unseen heart where they differ most; returns the Markdown of picture
    and caption, "" where the label maps of fewer than two networks are here.

    Of the small set where it is there, else of the large one, the lowest seed that all its networks have. The heart is
    the one whose mean Dice differ most between networks; the slices are those with the most voxels to which they give
    different labels."""
    for name in ("small", "large"):
        of_set = [row for row in rows if row["set"] == name and row["plain"]]
        for seed in sorted({row["seed"] for row in of_set}):
            own = {row["network"]: row for row in of_set if row["seed"] == seed}
            folders = {n: _results(output_dir, row) for n, row in own.items()}
            if len(own) >= 2 and all(folder.is_dir() for folder in folders.values()):
                return _draw(output_dir / name / "cases", own, folders, target)
    return ""


def _results(output_dir, row):
    folder = NETWORKS[row["network"]].folder
    return output_dir / row["set"] / f"{folder}-seed{row['seed']}-{row['settings'][:8]}" / "plain"


def most_different_heart(rows: Iterable[dict]) -> str:
    """The heart whose mean Dice differ most between rows."""
    hearts = [row["plain"]["hearts"] for row in rows]
    return max(hearts[0], key=lambda heart: max(h[heart] for h in hearts) - min(h[heart] for h in hearts))


def most_different_index(volumes: list[np.ndarray], plane: str) -> int:
    """The slice of `plane` with the most voxels to which the label maps (X, Y, Z) give different labels."""
    from vecset.imaging.slice_picture import PLANES

    differ = np.zeros(volumes[0].shape, bool)
    for volume in volumes[1:]:
        differ |= volume != volumes[0]
    others = tuple(a for a in range(3) if a != PLANES[plane])
    return int(differ.sum(others).argmax())


def _draw(cases, rows, folders, target):
    import nibabel

    from vecset.data.case_file import read_case

    heart = most_different_heart(rows.values())
    case = read_case(cases / f"{heart}.npz")
    truth, affine = case.truth_labels(), case.frame.affine
    maps = {n: np.asarray(nibabel.load(folders[n] / heart / "labels.nii.gz").dataobj) for n in NETWORKS if n in rows}
    titles = {n: f"{n}: {NETWORKS[n].title}\nmean Dice {rows[n]['plain']['hearts'][heart]:.3f}" for n in maps}
    planes = draw_comparison(target, truth, affine, maps, titles, case.class_names)
    row = next(iter(rows.values()))
    return (
        f"![Truth and networks at two slices of an unseen heart]({target.name})\n\n"
        f"{heart} of the {row['set']} set, seed {row['seed']}: the unseen heart whose mean Dice differ most between "
        f"networks, in the {' and the '.join(planes)} slice with the most voxels that they label differently. Black "
        "outlines: where the label is not the truth's."
    )


def draw_comparison(
    target: Path,
    truth: np.ndarray,
    affine: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Mapping[str, str],
    class_names: list[str],
    planes: tuple = ("axial", "coronal"),
) -> tuple:
    """Writes a PNG: a row per plane, a column for the truth and for each of `maps` ({name: label map (X, Y, Z)}), all
    cut alike, what differs from the truth outlined. Returns the planes."""
    from matplotlib.figure import Figure

    from vecset.report import pictures

    truth_ras, affine_ras = pictures.to_ras(truth, affine)
    volumes = {name: pictures.to_ras(volume, affine)[0] for name, volume in maps.items()}
    spacing_mm, colours = pictures.spacing_of(affine_ras), class_colours(class_names)
    compared = list(volumes.values()) if len(volumes) > 1 else [truth_ras, *volumes.values()]
    indices = {plane: most_different_index(compared, plane) for plane in planes}
    boxes = {
        plane: _box_of_slice([truth_ras, *volumes.values()], plane, indices[plane], spacing_mm) for plane in planes
    }
    ratios = [_height_over_width(boxes[plane], plane, spacing_mm) for plane in planes]
    width, columns, left, top = 2.3, 1 + len(volumes), 0.3, 0.5  # inches
    in_a_row = min(len(class_names), max(2, int((left + width * columns) / 1.15)))  # of the legend
    bottom = 0.14 + 0.28 * -(-len(class_names) // in_a_row)
    size = left + width * columns, width * sum(ratios) + top + bottom
    figure = Figure(figsize=size, facecolor="white")
    grid = figure.add_gridspec(
        len(planes),
        columns,
        height_ratios=ratios,
        left=left / size[0],
        right=1 - 0.03 / size[0],
        wspace=0.03,
        hspace=0.03,
        top=1 - top / size[1],
        bottom=bottom / size[1],
    )
    for row, plane in enumerate(planes):
        for column, (name, volume) in enumerate([("truth", truth_ras), *volumes.items()]):
            axes = figure.add_subplot(grid[row, column])
            pictures.draw_slices(axes, volume, plane, indices[plane], colours, spacing_mm, boxes[plane])
            if column:
                _outline(axes, volume, truth_ras, plane, indices[plane], spacing_mm)
            else:
                axes.set_ylabel(plane, fontsize=11)
            if row == 0:
                axes.set_title("truth\n" if name == "truth" else titles[name], fontsize=11, pad=4)
    figure.legend(
        handles=pictures.legend_patches(class_names, colours),
        loc="lower center",
        ncols=in_a_row,
        fontsize=11,
        frameon=False,
        handlelength=1.1,
        columnspacing=1.3,
        borderaxespad=0.3,
    )
    pictures.save_figure(figure, target, dpi=100)
    return planes


def _box_of_slice(volumes, plane, index, spacing_mm, margin_mm=4):
    """(3, 2) first and last voxel of what any of the volumes has in a slice, with a margin; all of the volume along the
    third axis."""
    from vecset.imaging.slice_picture import PLANES
    from vecset.report.pictures import foreground_box

    axis = PLANES[plane]
    slices = [np.expand_dims(np.take(volume, index, axis), axis) for volume in volumes]
    box = foreground_box(*slices, margin_mm=margin_mm, spacing_mm=spacing_mm)
    box[axis] = 0, volumes[0].shape[axis] - 1
    return box


def _height_over_width(box, plane, spacing_mm):
    from vecset.imaging.slice_picture import PLANES

    horizontal, vertical = (float((box[a, 1] - box[a, 0] + 1) * spacing_mm[a]) for a in range(3) if a != PLANES[plane])
    return vertical / horizontal


def _outline(axes, volume, truth, plane, index, spacing_mm):
    """Lines round the pixels of a slice whose label is not the truth's, along the pixels' edges."""
    from vecset.imaging.slice_picture import PLANES

    axis = PLANES[plane]
    differ = np.take(volume, index, axis) != np.take(truth, index, axis)  # (horizontal, vertical)
    h_mm, v_mm = (float(spacing_mm[a]) for a in range(3) if a != axis)
    padded = np.pad(differ, 1)
    lines = []
    for i, j in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):  # between pixels i - 1 and i
        lines.append([((i - 0.5) * h_mm, (j - 0.5) * v_mm), ((i - 0.5) * h_mm, (j + 0.5) * v_mm)])
    for i, j in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        lines.append([((i - 0.5) * h_mm, (j - 0.5) * v_mm), ((i + 0.5) * h_mm, (j - 0.5) * v_mm)])
    from matplotlib.collections import LineCollection

    # black with a white rim, to be seen on light and dark colours
    for colour, width in (("white", 2.2), ("black", 0.9)):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="round"), autolim=False)
