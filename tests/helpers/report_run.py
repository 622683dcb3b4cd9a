"""A run folder as reconstruct.py leaves it: made-up hearts (balls of C structures), reconstructed with known faults."""

import base64
import json
import zlib
from html.parser import HTMLParser

import numpy as np

from vecset.imaging.label_map import write_label_map
from vecset.metrics.overlap import mean_over_classes, score
from vecset.report import tables as report

SPACING_MM = (1.5, 1.2, 2.0)


def heart_labels(num_classes, seed=0, shape=(44, 48, 36)):
    """(X, Y, Z) u8: one ball, cut into C wedges round the vertical axis, and its affine (turned, flipped, oblique)."""
    turn = np.deg2rad(12)
    directions = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(np.array(SPACING_MM) * (-1, 1, 1))
    affine[:3, 3] = (30, -40, 55)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    offset_mm = (index - (np.array(shape) - 1) / 2) * SPACING_MM
    radius_mm = 22 + 2 * np.random.default_rng(seed).random()
    angle = np.arctan2(offset_mm[..., 1], offset_mm[..., 0]) / (2 * np.pi) + 0.5
    wedge = 1 + np.minimum((angle * num_classes).astype(int), num_classes - 1)
    return np.where(np.linalg.norm(offset_mm, axis=-1) < radius_mm, wedge, 0).astype(np.uint8), affine


def spoiled(labels, seed):
    """A reconstruction: moved by `seed` voxels, and with seed 2 without its last structure."""
    moved = np.roll(labels, seed, 0)
    return np.where(moved == labels.max(), 0, moved).astype(np.uint8) if seed == 2 else moved


def make_run(folder, num_classes=10, hearts=5, names=None, extra=0):
    """Writes the run; returns {case_id: (truth, affine)}. `extra`: voxels that all reconstructions are moved more."""
    names = names or [f"structure {c}" for c in range(1, num_classes + 1)]
    truths, rows, known = {}, [], {}
    for k in range(hearts):
        case = f"heart_{k}"
        truth, affine = heart_labels(num_classes, k)
        prediction = spoiled(truth, k + 1 + extra)
        (folder / case).mkdir(parents=True)
        write_label_map(folder / case / "labels.nii.gz", prediction, affine, names)
        scores = score(truth, prediction, names, spacing_mm=SPACING_MM)
        rows += report.table_rows(case, scores)
        known[case] = {"mean_dice": mean_over_classes(scores)}
        truths[case] = truth, affine
    report.write_csv(folder / "metrics.csv", rows)
    report.write_json(folder / "metrics.json", report.report(rows, known, {"input": "nowhere", "epoch": 3}))
    return truths


def make_training_log(folder, num_classes=10):
    """A log.txt with losses and validations, one value that was not finite, and a half line at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 2010, 10):
        loss = "nan" if step == 500 else 5 / step
        lines.append(
            {
                "kind": "train",
                "global_step": step,
                "loss": loss,
                "vol": 1 / step,
                "near": 2 / step,
                "lr": 1e-3,
                "epoch": 0,
                "step": step,
            }
        )
        if step % 200 == 0:
            dice = {f"dice_structure {c}": step / 2500 for c in range(1, num_classes + 1)}
            lines.append({"kind": "val", "global_step": step, "loss": 6 / step, "mean_dice": step / 2400, **dice})
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra')
    return folder


def page_data(path):
    """What an HTML page carries as JSON, the surfaces of its hearts inflated."""
    text = path.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="data">') + len('<script type="application/json" id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    for heart in data["hearts"]:
        heart["surfaces"] = json.loads(zlib.decompress(base64.b64decode(heart["surfaces"])))
    return data


def numbers(array):
    """The way back from `vecset.report.hearts.typed`: the numbers of an array of a page."""
    return np.frombuffer(base64.b64decode(array["bdata"]), np.dtype(array["dtype"]).newbyteorder("<"))


class _Tables(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tables, self.inside = {}, False

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            self.rows = self.tables[attributes.get("id") or attributes.get("data-metric") or len(self.tables)] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([])
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside and data.strip():
            self.rows[-1][-1].append(data.strip())


def page_tables(path):
    """{id or metric: rows of cells, each a list of its pieces of text} of the tables that are in an HTML page."""
    parser = _Tables()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.tables
