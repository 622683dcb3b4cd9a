"""Which label maps to look at first: those in which mending changes most, then those that a model reconstructs worse
than is usual for the structure.

What vecset/inference/label_repair.py mends is a fault that has a name, and clean maps seldom have one. So it comes
first, by how much of the structures it changes; it needs no other hearts. Where nothing would be mended, or was looked
for, the reconstruction decides. A structure is compared with itself in the other hearts, since a coronary is always
drawn worse than a ventricle. What is usual is the median of its Dice, and how far hearts differ from it the median
absolute deviation: neither is moved by the few dirty maps that are looked for, as mean and standard deviation would be.
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
FEW_HEARTS = 10  # below, what is usual is hardly known
REPAIR_COLUMNS = ("repair_score", "repair_structure", "repair")
COLUMNS = ("rank", "case_id", "file", *REPAIR_COLUMNS, "score", "structure", "deviation", "dice", "usual_dice")


@dataclass(frozen=True)
class Repair:
    """What mending changes in a label map. dice: {structure: Dice of the map with the mended one, None where it has no
    voxel of it}; changes: in words, "" where nothing is changed; tubes: whether gaps of vessels were looked for."""

    dice: Mapping[str, float | None]
    changes: str
    tubes: bool = True

    @property
    def score(self) -> float:
        """1 - mean Dice over the structures; 0 where nothing is changed."""
        known = [dice for dice in self.dice.values() if dice is not None]
        return 1 - float(np.mean(known)) if known else 0.0

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

    @property
    def repair_score(self) -> float:
        return self.repair.score if self.repair else 0.0


@dataclass(frozen=True)
class RankedHeart:
    """score: of the reconstruction, the larger, the more suspicious, 0 where nothing is worse than usual; structure:
    the one that deviates most, its Dice `deviation` spreads below the usual one (all None in a heart without a
    structure)."""

    heart: MeasuredHeart
    score: float
    structure: str | None
    deviation: float | None
    dice: float | None
    usual: float | None


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


def rank_hearts(hearts: Sequence[MeasuredHeart]) -> list[RankedHeart]:
    """The hearts, the most suspicious first: by `Repair.score`, and where that is equal by the score.

    The score is the mean over a heart's structures of how much lower their Dice is than usual, as far as that is more
    than SLACK spreads. So a defect of one structure is not outweighed by chance in the others, and of two defects the
    one that changes more of a structure comes first. Of equal scores, the lower Dice comes first."""
    usual, found = usual_dice(hearts), []
    for heart in hearts:
        known = {name: dice for name, dice in heart.dice.items() if dice is not None}
        if not known:
            found.append((0.0, RankedHeart(heart, 0.0, None, None, None, None)))
            continue
        lower = {name: usual[name][0] - dice for name, dice in known.items()}
        deviation = {name: lower[name] / usual[name][1] for name in known}
        score = float(np.mean([max(0.0, lower[name] - SLACK * usual[name][1]) for name in known]))
        worst = max(deviation, key=deviation.__getitem__)
        row = RankedHeart(heart, score, worst, deviation[worst], known[worst], usual[worst][0])
        found.append((float(np.mean(list(lower.values()))), row))
    found.sort(key=lambda pair: (-pair[1].heart.repair_score, -pair[1].score, -pair[0], pair[1].heart.case_id))
    return [row for _, row in found]


def rank_table(ranked: Sequence[RankedHeart], class_names: Sequence[str]) -> str:
    """A CSV with COLUMNS and the Dice of each structure; empty where it is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"dice_{name}" for name in class_names)])
    for n, row in enumerate(ranked, 1):
        judged = [row.structure or "", *(_number(v) for v in (row.deviation, row.dice, row.usual))]
        each = [_number(row.heart.dice.get(name)) for name in class_names]
        writer.writerow(
            [n, row.heart.case_id, row.heart.file, *_repair_cells(row.heart.repair), _number(row.score), *judged, *each]
        )
    return text.getvalue()


def _repair_cells(repair):
    """Of REPAIR_COLUMNS, empty where it was not looked for."""
    return ["", "", ""] if repair is None else [f"{repair.score:.3g}", repair.structure or "", repair.changes]


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
        f"rank  {'case':{width}s}  {'repair    ' if mended else ''}score   "
        f"{'what would be mended, or ' if mended else ''}structure that deviates most"
    ]
    for n, (name, row) in enumerate(zip(shown_ids, ranked), 1):
        told = "no structure"
        if row.heart.repair_score:
            told = shown(row.heart.repair.changes)
        elif row.structure is not None:
            told = f"{shown(row.structure)}: Dice {row.dice:.3f}, usual {row.usual:.3f} ({_beside(row.deviation)})"
        repair = f"{row.heart.repair_score:<8.2g}  " if mended else ""
        lines.append(f"{n:4d}  {name:{width}s}  {repair}{row.score:.4f}  {told}")
    return lines


def usual_line(ranked: Sequence[RankedHeart]) -> str:
    """From which rank on nothing would be mended and no structure is worse than usual, in words, or "" where each heart
    has something of it."""
    looked_for = any(row.heart.repair for row in ranked)
    mended = sum(row.heart.repair_score > 0 for row in ranked)
    worse = sum(row.heart.repair_score > 0 or row.score > 0 for row in ranked)
    found = [f"from rank {mended + 1} on nothing would be mended"] if mended and mended < len(ranked) else []
    if not worse:
        also = "no map would be mended, and " if looked_for else ""
        return f"{also}no heart is worse than usual (all scores are 0): the order says nothing of faults"
    if worse < len(ranked):
        found.append(f"from rank {worse + 1} on nothing is worse than usual (score 0)")
    return "; ".join(found)


def thick_slices_line(hearts: Sequence[MeasuredHeart]) -> str:
    """In how many maps the gaps of vessels were not looked for, though the rest was, or ""."""
    count = sum(heart.repair is not None and not heart.repair.tubes for heart in hearts)
    if not count:
        return ""
    return f"note: the voxels of {count} of {len(hearts)} maps are too large to look for gaps of vessels"


def few_hearts_line(hearts: Sequence[MeasuredHeart]) -> str:
    """What to say where the hearts are too few to know what is usual, or ""."""
    if len(hearts) >= FEW_HEARTS:
        return ""
    hearts_say = f"{len(hearts)} hearts say" if len(hearts) > 1 else "one heart says"
    return f"note: {hearts_say} little of what is usual; rank at least {FEW_HEARTS} together"
