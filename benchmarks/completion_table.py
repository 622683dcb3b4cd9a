"""Lines of benchmarks/completion.py -> its tables in Markdown."""

import json
from pathlib import Path

import numpy as np

RESAMPLES = 2000  # of the hearts, for intervals of 95 %
BASELINES = ("mean_shape", "nearest_heart", "posterior_shape")
BEST = "posterior_shape"
# Mean Dice of the best single answer for what is left out of a synthetic heart where all other parameters and the pose
# are known; measured once, on six hearts at 96^3. Groups are means of their structures.
ORACLE = {
    "RA": 0.92,
    "Aorta": 0.77,
    "PA": 0.89,
    "LAA": 0.71,
    "PV": 0.81,
    "Coronary": 0.87,
    "right": 0.91,
    "left": 0.79,
    "vessels": 0.81,
}
PHANTOM = "phantom_"  # what the names of synthetic hearts begin with


def read_records(path: Path) -> tuple[list[dict], bool]:
    """(the lines of a JSON-lines file; whether the last one is whole: a kill may have cut it, and it is left out)."""
    if not path.is_file():
        return [], True
    records, lines = [], path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                return records, False
            raise
    return records, True


class Row:
    """The hearts of one row that could be scored."""

    def __init__(self, name: str, records: list[dict]):
        mine = [record for record in records if record["row"] == name]
        self.name, self.records = name, [record for record in mine if "skipped" not in record]
        self.skipped = len(mine) - len(self.records)
        self.hidden = self.records[0]["hidden"] if self.records else []
        self.cut = bool(self.records and self.records[0]["pooled"])

    def dice(self, method: str, classes: list[str]) -> np.ndarray | None:
        """(hearts, classes) of a method, NaN where a figure is undefined; None where it has none."""
        if not self.records or any(method not in record["dice"] for record in self.records):
            return None
        table = [[record["dice"][method].get(c) for c in classes] for record in self.records]
        return np.array(table, float)

    def numbers(self, key: str, method: str | None = None) -> np.ndarray | None:
        """(hearts, 1) of a figure that is no class's."""
        values = [record.get(key) if method is None else record.get(key, {}).get(method) for record in self.records]
        return None if not values or all(v is None for v in values) else np.array(values, float)[:, None]


def mean_of(table: np.ndarray, rows=slice(None)) -> np.ndarray:
    """The mean over classes of each one's mean over hearts, (...): of table (hearts, classes), of the hearts `rows`
    (..., hearts). NaN where no heart has a figure."""
    chosen = table[rows]
    defined = ~np.isnan(chosen)
    sums, counts = np.where(defined, chosen, 0).sum(-2), defined.sum(-2)
    per_class = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    known = ~np.isnan(per_class)
    return np.where(known, per_class, 0).sum(-1) / np.where(known.any(-1), np.maximum(known.sum(-1), 1), np.nan)


def interval(table: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of `mean_of`, hearts drawn with replacement."""
    rows = np.random.default_rng(0).integers(len(table), size=(RESAMPLES, len(table)))
    low, high = np.nanquantile(mean_of(table, rows), (0.025, 0.975))
    return float(low), float(high)


def number(table: np.ndarray | None) -> str:
    if table is None:
        return ""
    found = mean_of(table)
    return "-" if np.isnan(found) else f"{found:.3f}"


def with_interval(table: np.ndarray | None, sign: str = "") -> str:
    """The mean and its interval; without an interval where there is one heart."""
    if table is None or np.isnan(mean_of(table)):
        return number(table)
    told = f"{mean_of(table):{sign}.3f}"
    if len(table) > 1:
        low, high = interval(table)
        told += f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return told


def verdict(network: np.ndarray, others: list[np.ndarray | None]) -> str:
    """Whether the network is better than all baselines, by the means; for certain where the interval of its paired
    difference to each of them is above 0."""
    if any(other is None for other in others):
        return ""
    if not all(mean_of(network) > mean_of(other) for other in others):
        return "no"
    certain = len(network) > 1 and all(interval(network - other)[0] > 0 for other in others)
    return "yes" if certain else "yes, not for certain"


def table_of(records: list[dict], names: list[str], class_names: list[str]) -> list[str]:
    """The lines of all tables. names: of the rows, in order."""
    rows = [row for row in (Row(name, records) for name in names) if row.records]
    hidden = [row for row in rows if row.hidden]
    cuts = [row for row in rows if row.cut]
    whole = next((row for row in rows if not row.hidden and not row.cut), None)
    phantoms = all(record["heart"].startswith(PHANTOM) for record in records)
    lines = []
    if whole:
        lines += [*whole_lines(whole, class_names), ""]
    if hidden:
        lines += [*hidden_lines(hidden, whole, phantoms), ""]
        if any(len(row.hidden) > 1 for row in hidden):
            lines += [*member_lines([row for row in hidden if len(row.hidden) > 1]), ""]
    if cuts:
        lines += [*cut_lines(cuts, class_names), ""]
    return lines[:-1] if lines else ["No row is done."]


def head(*titles: str) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def line(*cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def whole_lines(row: Row, class_names: list[str]) -> list[str]:
    """Nothing left out: the network, and the one that was trained without --observe."""
    lines = ["**Nothing left out**: Dice of what is given.", ""]
    known = [c for c in class_names if c in row.records[0]["dice"]["network"]]
    lines += head("network", "hearts", "mean", *known)
    for method, title in (("network", "`--checkpoint`"), ("plain", "`--plain_checkpoint`")):
        table = row.dice(method, known)
        if table is not None:
            lines.append(
                line(title, len(table), with_interval(table), *(number(table[:, [i]]) for i in range(len(known))))
            )
    plain = row.dice("plain", known)
    if plain is not None:
        lines.append(
            line("difference", len(plain), with_interval(row.dice("network", known) - plain, "+"), *[""] * len(known))
        )
    return lines


def hidden_lines(rows: list[Row], whole: Row | None, phantoms: bool) -> list[str]:
    """Structures left out, the mean of what is left out; network in the frame of what is seen first."""
    lines = ["**Structures left out**: Dice of these alone.", ""]
    lines += head(
        "left out", "hearts", "network", "given pasted in", "whole heart's frame", "and pasted", "mean shape",
        "nearest heart", "posterior shape", "network - posterior", "oracle", "given", "given, loss",
        "better than all three", "given pasted in: better",
    )  # fmt: skip
    for row in rows:
        tables = {m: row.dice(m, row.hidden) for m in ("network", "network_pasted", *BASELINES)}
        posterior = tables[BEST]
        given, loss = given_figures(row, whole)
        lines.append(
            line(
                row.name,
                f"{len(row.records)}" + (f" ({row.skipped} lack a part)" if row.skipped else ""),
                with_interval(tables["network"]),
                *(
                    number(row.dice(f"network_{m}", row.hidden))
                    for m in ("pasted", "whole_frame", "whole_frame_pasted")
                ),
                *(number(tables[m]) for m in BASELINES),
                "" if posterior is None else with_interval(tables["network"] - posterior, "+"),
                f"{ORACLE[row.name]:.2f}" if phantoms and row.name in ORACLE else "",
                number(given),
                "" if loss is None else with_interval(loss, "+"),
                *(verdict(tables[m], [tables[b] for b in BASELINES]) for m in ("network", "network_pasted")),
            )
        )
    return lines


def given_figures(row: Row, whole: Row | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(Dice of given structures (hearts, classes), by how much it is less than where all is given)."""
    classes = sorted({c for record in row.records for c in record["given"]})
    if not classes:
        return None, None
    here = row.dice("network", classes)
    before = {record["heart"]: record for record in whole.records} if whole else {}
    if any(record["heart"] not in before for record in row.records):
        return here, None
    table = [[before[record["heart"]]["dice"]["network"].get(c) for c in classes] for record in row.records]
    return here, np.array(table, float) - here


def member_lines(rows: list[Row]) -> list[str]:
    """Every structure of the groups."""
    lines = ["**Each structure of the groups**", ""]
    lines += head("left out", "structure", "network", "given pasted in", *(m.replace("_", " ") for m in BASELINES),
                  "network - posterior", "better than all three", "given pasted in: better")  # fmt: skip
    for row in rows:
        for c in row.hidden:
            tables = {m: row.dice(m, [c]) for m in ("network", "network_pasted", *BASELINES)}
            best = tables[BEST]
            lines.append(
                line(
                    row.name,
                    c,
                    *(with_interval(t) if m == "network" else number(t) for m, t in tables.items()),
                    "" if best is None else with_interval(tables["network"] - best, "+"),
                    *(verdict(tables[m], [tables[b] for b in BASELINES]) for m in ("network", "network_pasted")),
                )
            )
    return lines


def cut_lines(rows: list[Row], class_names: list[str]) -> list[str]:
    """Hearts cut by a plane: what lies beyond it."""
    lines = ["**Cut by a plane**: Dice beyond it, counted there alone; of all voxels together, then of structures.", ""]
    titles = {"network_whole_frame": "whole heart's frame"}
    methods = ("network", "network_whole_frame", *BASELINES)
    lines += head("left out", "hearts", *(titles.get(m, m.replace("_", " ")) for m in methods), "network - posterior",
                  "better than all three", "seen side", "network, mean of structures", *class_names)  # fmt: skip
    for row in rows:
        table, pooled = row.dice("network", class_names), {m: row.numbers("pooled", m) for m in methods}
        best = pooled[BEST]
        lines.append(
            line(
                row.name,
                len(row.records),
                *(with_interval(pooled[m]) if m == "network" else number(pooled[m]) for m in methods),
                "" if best is None else with_interval(pooled["network"] - best, "+"),
                verdict(pooled["network"], [pooled[m] for m in BASELINES]),
                number(row.numbers("seen")),
                with_interval(table),
                *(number(table[:, [i]]) for i in range(len(class_names))),
            )
        )
    return lines
