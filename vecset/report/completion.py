"""What a network infers of unseen hearts: parts of them are left out, inferred, and scored where the truth is known.

    heart = UnseenHeart(model, entry)               # an entry of vecset.inference.inputs.find_hearts
    case = heart.case(LeftOut("RA", (4,)))          # what the network may see, with a frame of its own
    labels = infer(model, case, entry.case_id)      # the way of reconstruct.py --given ... --complete
    dice = dice_by_name(heart.whole, labels)        # against the whole heart

A heart with a structure left out is read as reconstruct.py reads it: the others are taken out of its label map first.
So the truth of what is left out has no way into surface, frame, points or states.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vecset.common.draws import random_stream
from vecset.common.structure_state import State
from vecset.data.case_file import Case
from vecset.data.listed_case import ListedCase
from vecset.fields.heart_field import CHUNK
from vecset.imaging.frame import Frame
from vecset.inference.heart_result import decode_heart
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings
from vecset.items.observation import GROUPS, Observation
from vecset.metrics.overlap import is_union, joint_histogram, mean_defined, score
from vecset.metrics.thinned_case import every_nth

VERSION = 1  # of the method of `measure`: figures of another one are made again
WHOLE = "whole"
CUTS = (0.1, 0.2, 0.3)  # of the heart's volume, beyond the plane


@dataclass(frozen=True)
class LeftOut:
    """What is left out of a heart: the classes `hidden` (ids), or what lies beyond a plane, `cut` of the volume, or
    nothing."""

    name: str
    hidden: tuple[int, ...] = ()
    cut: float = 0.0

    @property
    def whole(self) -> bool:
        return not self.hidden and not self.cut


def choices(class_names: Sequence[str], annotated: np.ndarray | None = None) -> list[LeftOut]:
    """Nothing, each class alone, the groups of vecset/items/observation.py that have all their classes, and cuts. Only
    classes that were looked for (annotated (C,) bool, None: all), and only what leaves others."""
    known = [c for c in range(1, len(class_names) + 1) if annotated is None or annotated[c - 1]]
    found = [LeftOut(WHOLE)] + [LeftOut(class_names[c - 1], (c,)) for c in known if len(known) > 1]
    for name, members in GROUPS.items():
        ids = tuple(sorted(c for c in known if class_names[c - 1] in members))
        if len(ids) == len(members) < len(known):
            found.append(LeftOut(name, ids))
    return found + [LeftOut(f"cut{round(100 * share)}", cut=share) for share in CUTS]


class UnseenHeart:
    """One heart, of which parts are left out. annotated: as for `LoadedModel.read`; every: only every n-th voxel along
    each axis is decoded and scored (their centres stay where they are); seed: of the planes of cuts."""

    def __init__(
        self,
        model: LoadedModel,
        entry: ListedCase,
        annotated: Sequence[str] | None = None,
        every: int = 1,
        seed: int = 0,
    ):
        self.model, self.entry, self.annotated, self.every, self.seed = model, entry, annotated, every, seed

    @functools.cached_property
    def original(self) -> Case:
        """The `Case` with all that is there, on its own grid."""
        return self.model.read(self.entry, annotated=self.annotated).require(
            "truth_crop", "truth_origin", purpose="the truth of what is left out"
        )

    @functools.cached_property
    def whole(self) -> Case:
        """The same, of every n-th voxel."""
        return every_nth(self.original, self.every)

    @property
    def present(self) -> list[int]:
        """Ids of the classes that are there and were looked for."""
        there = np.unique(self.original.truth_crop)
        return [c for c in range(1, self.original.num_classes + 1) if c in there and self.original.annotated[c - 1]]

    def lacks(self, left_out: LeftOut) -> str:
        """Why nothing can be said of this heart, in words, or "": it does not have a structure that others are
        inferred from, or nothing else, or what is left out was not looked for."""
        names = self.original.class_names
        for c in left_out.hidden:
            if not self.original.annotated[c - 1]:
                return f"{names[c - 1]} was not annotated"
        for c in range(1, len(names) + 1):
            if self.original.annotated[c - 1] and c not in (*left_out.hidden, *self.present) and left_out.hidden:
                return f"it has no {names[c - 1]}, which others are inferred from"
        return "" if self.given(left_out) else "nothing of it is given"

    def given(self, left_out: LeftOut) -> list[int]:
        """Ids of the classes that are shown."""
        return [c for c in self.present if c not in left_out.hidden]

    def case(self, left_out: LeftOut) -> Case:
        """The `Case` that the network may see; `Case.whole` has the truth, for scoring."""
        if left_out.whole:
            return self.whole
        if left_out.cut:
            return cut_off(self.whole, *self.plane(left_out))
        names = [self.original.class_names[c - 1] for c in self.given(left_out)]
        return every_nth(self.model.read(self.entry, annotated=self.annotated, given=names), self.every)

    def plane(self, left_out: LeftOut) -> tuple[np.ndarray, float]:
        """(normal (3,), offset) in the unit of the whole heart: points x with normal . x > offset lie beyond. Of any
        direction, always the same for a heart and a seed."""
        rng = random_stream(self.seed, 0, self.entry.case_id, "plane of a cut")
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        voxels = np.argwhere(self.original.truth_crop) + self.original.truth_origin
        along = self.original.frame.voxel_to_unit(voxels) @ normal
        return normal, float(np.quantile(along, 1 - left_out.cut))

    def beyond(self, left_out: LeftOut) -> np.ndarray:
        """(X, Y, Z) bool on the grid of `whole`: the voxels beyond the plane."""
        normal, offset = self.plane(left_out)
        frame = self.whole.frame
        index = np.stack(np.meshgrid(*(np.arange(n) for n in frame.shape), indexing="ij"), -1)
        return frame.voxel_to_unit(index) @ normal > offset


def cut_off(case: Case, normal: np.ndarray, offset: float) -> Case:
    """The `Case` of which only points x with normal . x <= offset are seen: an open surface, as where a field of view
    ends. What has surface on both sides is cut, what lies beyond altogether is unknown."""
    labels = case.surface_labels
    observation = Observation(np.ones(case.num_classes, bool), half_space=(normal, offset))
    rows, places = observation.see(case.surface_points, labels)
    cut = np.zeros(case.num_classes, bool)
    cut[np.asarray(case.meta.get("border_classes", ()), int) - 1] = True
    states = observation.states(labels, case.annotated, cut, rows)
    ids = np.arange(1, case.num_classes + 1)
    meta = {
        **case.meta,
        "annotated_classes": ids[states != State.UNKNOWN].tolist(),
        "present_classes": ids[np.isin(states, (State.GIVEN, State.CUT))].tolist(),
        "border_classes": ids[states == State.CUT].tolist(),
    }
    frame = Frame.from_surface(case.frame.affine, case.frame.shape, case.frame.unit_to_mm(places))
    return _seen(case, frame, case.frame.unit_to_mm(places), labels[rows], meta, case)


def in_whole_frame(case: Case) -> Case:
    """What is seen of a heart, in the frame of the whole heart: it gives away where the rest lies and how large it
    is."""
    points_mm = case.frame.unit_to_mm(case.surface_points)
    return _seen(case, case.whole.frame, points_mm, case.surface_labels, case.meta, case.whole)


def _seen(case, frame, points_mm, labels, meta, whole):
    arrays = {"surface_points": frame.mm_to_unit(points_mm).astype(np.float32), "surface_labels": labels}
    return Case(case.path, arrays, frame, meta=meta, whole=whole)


def infer(
    model: LoadedModel, case: Case, case_id: str, chunk: int = CHUNK, say: Callable[[str], None] = lambda line: None
) -> np.ndarray:
    """(X, Y, Z) u8: what reconstruct.py draws of the case, with --complete where something of it is hidden."""
    settings = OutputSettings(meshes=False, complete=case.whole is not None)
    return decode_heart(model, settings, case_id, case, None, chunk, say).on_source


def with_given(labels: np.ndarray, truth: np.ndarray, given: Sequence[int], hidden: Sequence[int]) -> np.ndarray:
    """(X, Y, Z) u8: the given classes as `truth` has them, and of `labels` the hidden ones around them."""
    return np.where(np.isin(truth, given), truth, np.where(np.isin(labels, hidden), labels, 0)).astype(np.uint8)


def dice_by_name(
    whole: Case, labels: np.ndarray, region: np.ndarray | None = None, classes: Sequence[int] | None = None
) -> dict[str, float | None]:
    """{class name: Dice of labels (X, Y, Z) with the truth of `whole`}, None where neither has a voxel of the class;
    region (X, Y, Z) bool: counted there alone; classes: ids, those that were looked for where None."""
    truth = whole.truth_labels()
    if region is not None:
        truth, labels = np.where(region, truth, 0), np.where(region, labels, 0)
    classes = np.flatnonzero(whole.annotated) + 1 if classes is None else classes
    rows = score(truth, labels, whole.class_names, whole.annotated)
    return {row["class_name"]: row["dice"] for row in rows if not is_union(row) and row["class_id"] in classes}


def pooled_dice(whole: Case, labels: np.ndarray, region: np.ndarray | None = None) -> float | None:
    """The Dice of all classes together: twice the voxels that have the same class in both maps, by the voxels of any
    class in either. None where neither has one."""
    known = np.append(True, whole.annotated)
    pair = [np.where(known[m], m, 0) for m in (whole.truth_labels(), labels)]
    counts = joint_histogram(*(m if region is None else m[region] for m in pair), whole.num_classes)
    size = counts[1:].sum() + counts[:, 1:].sum()
    return float(2 * np.trace(counts[1:, 1:]) / size) if size else None


def measure(
    model: LoadedModel,
    hearts: Sequence[UnseenHeart],
    progress: Callable[[Sequence], Iterable] = lambda pairs: pairs,
    chunk: int = CHUNK,
) -> dict:
    """What the model infers of these hearts: of each structure and group left out, as a dict that JSON can hold.

    rows: left_out, hidden and given (class names), hearts (how many could be scored), dice (mean over the hidden
    classes of each one's mean over hearts), classes {hidden class: its mean}, given_dice (likewise, of what was given),
    given_before (of the same classes of the same hearts where nothing was left out), skipped {case_id: why}; figures
    that are undefined are None. hearts: case ids; whole {class: mean Dice where nothing is left out}. `progress` wraps
    the list of what is to be done."""
    annotated = hearts[0].original.annotated
    chosen = [choice for choice in choices(model.class_names, annotated) if not choice.cut]
    pairs = [(left_out, heart) for left_out in chosen for heart in hearts]
    skipped, dice = {choice.name: {} for choice in chosen}, {choice.name: {} for choice in chosen}
    for left_out, heart in progress(pairs):
        case_id = heart.entry.case_id
        reason = heart.lacks(left_out)
        if reason:
            skipped[left_out.name][case_id] = reason
            continue
        labels = infer(model, heart.case(left_out), case_id, chunk)
        dice[left_out.name][case_id] = dice_by_name(heart.whole, labels)
    rows, whole = [], dice[WHOLE]
    for left_out in chosen[1:]:
        mine = dice[left_out.name]
        hidden = [model.class_names[c - 1] for c in left_out.hidden]
        given = [name for c, name in enumerate(model.class_names) if annotated[c] and name not in hidden]
        classes = _means(mine.values(), hidden)
        rows.append(
            {
                "left_out": left_out.name,
                "hidden": hidden,
                "given": given,
                "hearts": len(mine),
                "dice": mean_defined(classes.values()),
                "classes": classes,
                "given_dice": mean_defined(_means(mine.values(), given).values()),
                "given_before": mean_defined(_means([whole[case_id] for case_id in mine], given).values()),
                "skipped": skipped[left_out.name],
            }
        )
    known = [name for name, looked_for in zip(model.class_names, annotated) if looked_for]
    return {"rows": rows, "hearts": list(whole), "whole": _means(whole.values(), known)}


def _means(of_hearts, names):
    """{class name: mean over hearts} of [{class name: Dice or None}]."""
    of_hearts = list(of_hearts)
    return {name: mean_defined(dice.get(name) for dice in of_hearts) for name in names}
