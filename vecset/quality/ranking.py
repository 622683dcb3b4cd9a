"""Which label maps to look at first: those in which mending changes most, then those that a model reconstructs worse
than is usual for the structure.

What vecset/inference/label_repair.py mends is a fault that has a name, and clean maps seldom have one. So it comes
first, by how much of the structures it changes, and with it how much of the LV and its muscle a leak takes, which is
not mended, but seen (vecset/quality/anatomy.py). Where nothing of it is found, or was looked for, the reconstruction
decides. A structure is compared with itself in the other hearts, since a coronary is always drawn worse than a
ventricle. What is usual is the median of its Dice, and how far hearts differ from it the median absolute deviation:
neither is moved by the few dirty maps that are looked for, as mean and standard deviation would be.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vecset.common.errors import shown

SLACK = 2.0  # spreads below the usual Dice that are taken for chance
TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, of a normal distribution
LEAST_SPREAD = 0.01  # of Dice: where all hearts are alike, less is not worth a look
LEAK_WORDS = "LV: leaks through its muscle"
FEW_HEARTS = 10  # below, what is usual is hardly known
REPAIR_COLUMNS = ("repair_score", "repair_structure", "repair", "leak")
COLUMNS = ("rank", "case_id", "file", *REPAIR_COLUMNS, "score", "structure", "deviation", "dice", "usual_dice")


def one_less_mean(dice: Mapping[str, float | None]) -> float:
    """1 - mean over the structures whose Dice is known; 0 where there is none."""
    known = [value for value in dice.values() if value is not None]
    return 1 - float(np.mean(known)) if known else 0.0


@dataclass(frozen=True)
class Repair:
    """What mending changes in a label map. dice: {structure: Dice of the map with the mended one, None where it has no
    voxel of it}; changes: in words, "" where nothing is changed; tubes: whether vessels were looked at; leak:
    1 - mean Dice of the map with one whose leaks are closed, None where these were not looked for."""

    dice: Mapping[str, float | None]
    changes: str
    tubes: bool = True
    leak: float | None = None

    @property
    def score(self) -> float:
        """1 - mean Dice over the structures; 0 where nothing is changed."""
        return one_less_mean(self.dice)

    @property
    def structure(self) -> str | None:
        """The one that is changed most, None where nothing is."""
        changed = {name: dice for name, dice in self.dice.items() if dice is not None and dice < 1}
        return min(changed, key=changed.__getitem__, default=None)


@dataclass(frozen=True)
class MeasuredHeart:
    """dice: {structure: Dice of the reconstruction with the label map, None where the map has no voxel of it, or nobody
    looked for it}; repair: None where it was not looked for."""

    case_id: str
    file: str
    dice: Mapping[str, float | None]
    repair: Repair | None = None


@dataclass(frozen=True)
class RankedHeart:
    """score: of the reconstruction, the larger, the more suspicious, 0 where nothing is worse than usual; structure:
    the one that deviates most, its Dice `deviation` spreads below the usual one (all None in a heart without a
    structure); leak: how much larger `Repair.leak` is than usual, at least 0, None where it was not looked for."""

    heart: MeasuredHeart
    score: float
    structure: str | None
    deviation: float | None
    dice: float | None
    usual: float | None
    leak: float | None = None

    @property
    def found(self) -> float:
        """How much of the structures what mending changes and leaks are, 0 where there is none of it."""
        return (self.heart.repair.score if self.heart.repair else 0.0) + (self.leak or 0.0)

    @property
    def suspicious(self) -> bool:
        return self.found > 0 or self.score > 0


def usual_dice(hearts: Sequence[MeasuredHeart]) -> dict[str, tuple[float, float]]:
    """{structure: (median of its Dice, spread)} over the hearts that have it; the spread is that of a standard
    deviation where most hearts are normally distributed, and at least LEAST_SPREAD."""
    values: dict[str, list[float]] = {}
    for heart in hearts:
        for name, dice in heart.dice.items():
            if dice is not None:
                values.setdefault(name, []).append(dice)
    found = {}
    for name, mine in values.items():
        middle = float(np.median(mine))
        spread = TO_SIGMA * float(np.median(np.abs(np.array(mine) - middle)))
        found[name] = middle, max(spread, LEAST_SPREAD)
    return found


def usual_leak(hearts: Sequence[MeasuredHeart]) -> float:
    """The `Repair.leak` up to which one is usual: the median and SLACK spreads over the hearts where it is known."""
    leaks = np.array([heart.repair.leak for heart in hearts if heart.repair and heart.repair.leak is not None])
    if not len(leaks):
        return 0.0
    middle = np.median(leaks)
    return float(middle + SLACK * TO_SIGMA * np.median(np.abs(leaks - middle)))


def rank_hearts(hearts: Sequence[MeasuredHeart]) -> list[RankedHeart]:
    """The hearts, the most suspicious first: by `found`, and where that is equal by the score.

    The score is the mean over a heart's structures of how much lower their Dice is than usual, as far as that is more
    than SLACK spreads. So a defect of one structure is not outweighed by chance in the others, and of two defects the
    one that changes more of a structure comes first. Of equal scores, the lower Dice comes first."""
    usual, most_leak, found = usual_dice(hearts), usual_leak(hearts), []
    for heart in hearts:
        leak = heart.repair.leak if heart.repair else None
        leak = None if leak is None else max(0.0, leak - most_leak)
        known = {name: dice for name, dice in heart.dice.items() if dice is not None}
        if not known:
            found.append((0.0, RankedHeart(heart, 0.0, None, None, None, None, leak)))
            continue
        lower = {name: usual[name][0] - dice for name, dice in known.items()}
        deviation = {name: lower[name] / usual[name][1] for name in known}
        score = float(np.mean([max(0.0, lower[name] - SLACK * usual[name][1]) for name in known]))
        worst = max(deviation, key=deviation.__getitem__)
        row = RankedHeart(heart, score, worst, deviation[worst], known[worst], usual[worst][0], leak)
        found.append((float(np.mean(list(lower.values()))), row))
    found.sort(key=lambda pair: (-pair[1].found, -pair[1].score, -pair[0], pair[1].heart.case_id))
    return [row for _, row in found]


def rank_table(ranked: Sequence[RankedHeart], class_names: Sequence[str]) -> str:
    """A CSV with COLUMNS and the Dice of each structure; empty where it is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"dice_{name}" for name in class_names)])
    for n, row in enumerate(ranked, 1):
        judged = [row.structure or "", *(_number(v) for v in (row.deviation, row.dice, row.usual))]
        each = [_number(row.heart.dice.get(name)) for name in class_names]
        writer.writerow([n, row.heart.case_id, row.heart.file, *_repair_cells(row), _number(row.score), *judged, *each])
    return text.getvalue()


def _repair_cells(row):
    """Of REPAIR_COLUMNS, empty where it was not looked for. Three digits: a voxel is 1e-6 of a mean Dice."""
    repair = row.heart.repair
    if repair is None:
        return [""] * len(REPAIR_COLUMNS)
    leak = "" if row.leak is None else f"{row.leak:.3g}"
    return [f"{repair.score:.3g}", repair.structure or "", repair.changes, leak]


def _number(value):
    return "" if value is None else f"{value:.4f}"


def _beside(deviation):
    """How far a Dice lies from what is usual, in words."""
    return f"{abs(deviation):.1f} spreads {'below' if deviation >= 0 else 'above'}"


def rank_lines(ranked: Sequence[RankedHeart], most: int = 10) -> list[str]:
    """The first `most` hearts as a table, in lines: why each is where it is."""
    shown_ids = [shown(row.heart.case_id) for row in ranked[:most]]
    width = max([4, *map(len, shown_ids)])
    mended = any(row.heart.repair for row in ranked)
    lines = [
        f"rank  {'case':{width}s}  {'found     ' if mended else ''}score   "
        f"{'what is found, or ' if mended else ''}structure that deviates most"
    ]
    for n, (name, row) in enumerate(zip(shown_ids, ranked), 1):
        told = "no structure"
        if row.found:
            told = shown("; ".join(filter(None, [row.heart.repair.changes, LEAK_WORDS if row.leak else ""])))
        elif row.structure is not None:
            told = f"{shown(row.structure)}: Dice {row.dice:.3f}, usual {row.usual:.3f} ({_beside(row.deviation)})"
        found = f"{row.found:<8.2g}  " if mended else ""
        lines.append(f"{n:4d}  {name:{width}s}  {found}{row.score:.4f}  {told}")
    return lines


def usual_line(ranked: Sequence[RankedHeart]) -> str:
    """From which rank on nothing would be mended or leaks, and no structure is worse than usual, in words, or "" where
    each heart has something of it."""
    looked_for = any(row.heart.repair for row in ranked)
    found = sum(row.found > 0 for row in ranked)
    worse = sum(row.suspicious for row in ranked)
    lines, also = [], ""
    if looked_for and not found:
        lines.append("in no heart anything would be mended or leaks")
    elif looked_for and found < worse:
        lines.append(f"from rank {found + 1} on nothing would be mended or leaks")
    elif looked_for:
        also = "would be mended or leaks, and nothing "
    if not worse:
        lines.append("no heart is worse than usual (all scores are 0): the order says nothing of faults")
    elif worse < len(ranked):
        lines.append(f"from rank {worse + 1} on nothing {also}is worse than usual (score 0)")
    return "; ".join(lines)


def thick_slices_line(hearts: Sequence[MeasuredHeart]) -> str:
    """In how many maps the pieces of vessels were not looked at, though the rest was, or ""."""
    count = sum(heart.repair is not None and not heart.repair.tubes for heart in hearts)
    if not count:
        return ""
    return f"note: in {count} of {len(hearts)} maps pieces of vessels are not judged: slices too thick for it"


def few_hearts_line(hearts: Sequence[MeasuredHeart]) -> str:
    """What to say where the hearts are too few to know what is usual, or ""."""
    if len(hearts) >= FEW_HEARTS:
        return ""
    hearts_say = f"{len(hearts)} hearts say" if len(hearts) > 1 else "one heart says"
    return f"note: {hearts_say} little of what is usual; rank at least {FEW_HEARTS} together"
