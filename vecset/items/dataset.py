"""Case files as training items: seeded draws of points, truth on a grid.

An item is a pure function of (epoch, case): see `vecset/common/draws.py`. A case that cannot be read ends the run with
its name; it is never replaced by another.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from vecset.common.draws import draw_balanced_rows, draw_rows, random_stream
from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import CLASS_DISTANCES
from vecset.data.listed_case import read_as_listed
from vecset.items.observation import FAR_SHARE, Observation, ObservationDraws, far_queries, frame_of_seen
from vecset.items.point_weights import point_weights

QUERY_GROUPS = ("near", "inside", "outside")  # the groups of query points, in the order of an item
ONE_ANSWER_SHARE = 0.3  # of the items train the one answer, that of zeros
_MEMBERS = (
    "surface_points",
    "surface_normals",
    "surface_labels",
    "surface_sdf",
    "vol_points",
    "vol_sdf",
    "vol_labels",
    "near_points",
    "near_sdf",
    "near_labels",
)
_READERS = 4  # threads that fill the cache: reading waits on the disk and on checksums, both outside the interpreter


@dataclass(frozen=True)
class PointCounts:
    """How many points of each kind an item has.

    surface                  surface points, the encoder's input
    near, inside, outside    query points of each group
    decoded_surface          of the surface points, those that are decoded; None: all
    eikonal                  of the query points, those that the Eikonal loss is taken at
    normals                  points of the outer surface that the normal loss is taken at
    """

    surface: int
    near: int
    inside: int
    outside: int
    decoded_surface: int | None = None
    eikonal: int = 0
    normals: int = 0

    def __post_init__(self):
        if self.eikonal > sum(self.queries.values()):
            raise ValueError(f"{self.eikonal} Eikonal points of {sum(self.queries.values())} query points")

    @property
    def queries(self) -> dict[str, int]:
        """group -> number of query points, in the order of QUERY_GROUPS."""
        return {group: getattr(self, group) for group in QUERY_GROUPS}


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training item: a rotation about a random axis by up to `rotation_deg` degrees, and a scaling
    by a factor from 1 - scaling to 1 + scaling."""

    rotation_deg: float = 0.0
    scaling: float = 0.0

    def apply(self, item: dict, rng: np.random.Generator) -> None:
        """Turns and scales the whole item, in place, about the middle of the unit cube; distances scale with the
        points, but for ABSENT_DISTANCE, which stands for a class that is not there."""
        if not (self.rotation_deg or self.scaling):
            return
        axis = rng.normal(size=3)
        angle = np.deg2rad(rng.uniform(-self.rotation_deg, self.rotation_deg))
        turn = rotation_matrix(axis, angle).astype(np.float32)
        factor = np.float32(rng.uniform(1 - self.scaling, 1 + self.scaling))
        for name in _PLACES:
            if name in item:
                item[name] = (item[name] @ turn.T) * factor
        item["surface_normals"] = item["surface_normals"] @ turn.T
        _scale_distances(item, factor)


_PLACES = ("surface_points", "query_points", "seen_points")


def _scale_distances(item, factor):
    """Scales the distances of an item, in place, but for ABSENT_DISTANCE."""
    for name in ("surface_sdf", "query_sdf"):
        item[name] = item[name] * factor
    if "surface_class_sdf" in item:
        absent = (item["surface_class_sdf"] == ABSENT_DISTANCE).all(0)
        scales = np.where(absent, np.float32(1), factor)
        for name in ("surface_class_sdf", "query_class_sdf"):
            item[name] = item[name] * scales


def _into_frame_of_seen(item, centre, factor):
    """Moves an item, in place, into the frame of what is seen (`frame_of_seen`)."""
    for name in _PLACES:
        item[name] = (item[name] - centre) * factor
    _scale_distances(item, factor)


def _ask_round_about(item, centre, factor, rng):
    """Puts places round about (`far_queries`) where an item in the frame of what is seen has the first FAR_SHARE of its
    outside points, in place; but for those in the case's own unit cube, of which its file knows the truth."""
    rows = np.flatnonzero(item["query_group"] == QUERY_GROUPS.index("outside"))
    rows = rows[: round(FAR_SHARE * len(rows))]
    known = item["surface_sdf"][:, None]
    if "surface_class_sdf" in item:
        known = np.concatenate([known, item["surface_class_sdf"]], 1)
    places, away = far_queries(item["surface_points"], known, len(rows), rng)
    beyond = (np.abs(places / factor + centre) > 1).any(1)
    rows, away = rows[beyond], away[beyond]
    item["query_points"][rows], item["query_sdf"][rows], item["query_labels"][rows] = places[beyond], away[:, 0], 0
    if "surface_class_sdf" in item:
        absent = (item["surface_class_sdf"] == ABSENT_DISTANCE).all(0)
        item["query_class_sdf"][rows] = np.where(absent, np.float32(ABSENT_DISTANCE), away[:, 1:])


class CaseDataset(torch.utils.data.Dataset):
    """Items of `cases` (list of ListedCase), by `dataset[epoch, index]`: a dict of numpy arrays. An index of n times
    the number of cases and more is the case of the rest, with draws of its own: it is in the epoch once more.

    surface_points, surface_normals (N, 3), surface_labels, surface_sdf (N,)    the encoder's input and its truth
    query_points (Q, 3), query_sdf, query_labels, query_group (Q,)              groups by index into QUERY_GROUPS
    annotated (C,) bool, case_index ()
    surface_decoded (S,)                    row numbers of the surface points that are decoded; absent: all are
    eikonal_points (E, 3)                   where the counts ask for them, as `normal_points`, `normal_vectors` (S, 3)
    surface_class_sdf (N, C), query_class_sdf (Q, C)    with `class_distances`: signed distances to each class
    code_noise (M, L) = noise_shape         unit normal numbers for the KL bottleneck, in training only
    answer_noise (2, K = answer_numbers)    for two answers of a network with several (models/answer_noise.py), in
                                            training only; zeros for ONE_ANSWER_SHARE of the items
    point_weights (T,)                      with `observations`: what the query points, then the decoded surface points
                                            count (items/point_weights.py); 1 each where all is seen
    states (C,) i64 `State`, seen_points (N, 3), seen_labels (N,)       with `with_states`: what the encoder is given in
                                            place of the surface points, and what it is told of every structure

    Points and distances are in unit, distances negative inside, normals outward. Real numbers are f32;
    labels, groups and indices i64. Eikonal points are some of the query points, normal points lie on the outer surface.

    training        True: draws differ per epoch, and the augmentation applies. False: always the draws of epoch 0, from
                    a stream of their own, without augmentation.
    balance         0: points are drawn uniformly from the file; 1: every class present has the same share of surface
                    points, of near points (by the surface they were offset from) and of inside points; mixed between.
    with_states     True: items say the states of the structures, and what is seen of the heart: all of it, or with
                    `observations` what is drawn for the item. The whole item is then in the frame of what is seen.
                    All other draws are the same as without.
    class_distances    True: items have the distances to each class, which case files have that were made with
                    `prepare_data.py --class_distances`. A class without voxels has ABSENT_DISTANCE everywhere. The
                    draws are the same as without.
    cache           'memory': arrays are kept after the first reading (3 MB per case at 3 x 50,000 points; distances to
                    ten classes take 3 MB more); call `load` before worker processes start and they share one copy.
                    'none': files are read at every access.
    """

    def __init__(
        self,
        cases: list,
        counts: PointCounts,
        seed: int,
        training: bool,
        *,
        balance: float = 0.0,
        augmentation: Augmentation | None = None,
        noise_shape: tuple[int, int] | None = None,
        cache: str = "memory",
        class_distances: bool = False,
        with_states: bool = False,
        observations: ObservationDraws | None = None,
        answer_numbers: int = 0,
    ):
        if cache not in ("memory", "none"):
            raise ValueError(f"cache {cache!r}: want 'memory' or 'none'")
        self.cases, self.counts, self.seed, self.training = list(cases), counts, seed, training
        self.balance, self.cache, self.class_distances = balance, cache, class_distances
        self.augmentation = augmentation if training else None
        self.noise_shape, self.answer_numbers = noise_shape if training else None, answer_numbers if training else 0
        self.with_states, self.observations = with_states, observations if training else None
        self._arrays = {}

    def __len__(self) -> int:
        return len(self.cases)

    def load(self, indices=None) -> None:
        """Reads the cases (all, or `indices`) into the cache, or, without a cache, checks that they can be read."""
        indices = range(len(self)) if indices is None else indices
        with ThreadPoolExecutor(_READERS) as pool:
            for index, arrays in zip(indices, pool.map(self._read, indices)):
                if self.cache == "memory":
                    self._arrays[index] = arrays

    def check_readable(self, indices) -> None:
        """Reads the cases and keeps nothing. Raises InputError for one that cannot be read."""
        with ThreadPoolExecutor(_READERS) as pool:
            for _ in pool.map(self._read, indices):
                pass

    def _case_arrays(self, index):
        arrays = self._arrays.get(index)
        if arrays is None:
            arrays = self._read(index)
            if self.cache == "memory":
                self._arrays[index] = arrays
        return arrays

    def _read(self, index):
        """The members of one file, and under `rows_GROUP` a list of arrays of rows to draw from: one of all rows of the
        group, or for balanced draws one per class."""
        members = _MEMBERS + (("near_source",) if self.balance else ())
        distances = CLASS_DISTANCES if self.class_distances else ()
        frame = ("frame",) if self.observations else ()
        case = read_as_listed(self.cases[index], members + distances + frame)
        case.require(*members, *frame, purpose="training")
        if distances:
            case.require_class_distances("this training")
            members += distances
        arrays = {name: getattr(case, name) for name in members}
        if frame:
            arrays["unit_per_mm"] = case.frame.scale
        rows = {
            "surface": np.arange(len(case.surface_sdf)),
            "near": np.arange(len(case.near_sdf)),
            "inside": np.flatnonzero(case.vol_sdf < 0),
            "outside": np.flatnonzero(case.vol_sdf >= 0),
        }
        for group, wanted in {"surface": self.counts.surface, **self.counts.queries}.items():
            if wanted and not len(rows[group]):
                raise InputError(case.path, f"{group} points", "none", "make it again with prepare_data.py --overwrite")
        classes = {}
        if self.balance:
            classes = {"surface": case.surface_labels, "near": case.near_source, "inside": case.vol_labels}
        for group, row in rows.items():
            arrays[f"rows_{group}"] = [row]
            if group in classes:
                labels = classes[group][row]
                arrays[f"rows_{group}"] = [row[labels == c] for c in np.unique(labels)]
        return arrays

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, draw = key
        again, index = divmod(draw, len(self.cases))
        case_id, arrays = self.cases[index].case_id, self._case_arrays(index)
        kind, epoch = ("train", epoch) if self.training else ("val", 0)

        def stream(purpose):
            return random_stream(self.seed, epoch, case_id, f"{purpose}, time {again + 1}" if again else purpose)

        def rows(group, wanted):
            available, rng = arrays[f"rows_{group}"], stream(f"{kind} {group}")
            if len(available) > 1:
                return draw_balanced_rows(rng, available, wanted, self.balance)
            return available[0][draw_rows(rng, len(available[0]), wanted)]

        counts = self.counts
        item = _surface_part(arrays, rows("surface", counts.surface))
        if counts.decoded_surface and counts.decoded_surface < counts.surface:
            rng = stream(f"{kind} decoded surface")
            item["surface_decoded"] = draw_rows(rng, counts.surface, counts.decoded_surface)
        item |= _query_part(arrays, {group: rows(group, wanted) for group, wanted in counts.queries.items() if wanted})
        if self.with_states:
            self._observe(item, arrays, self.cases[index], stream)
        if self.augmentation:
            self.augmentation.apply(item, stream("augmentation"))
        if counts.eikonal:
            chosen = draw_rows(stream(f"{kind} eikonal"), len(item["query_sdf"]), counts.eikonal)
            item["eikonal_points"] = item["query_points"][chosen]
        if counts.normals:
            item |= _normal_part(item, counts.normals, stream(f"{kind} normals"), self.cases[index].path)
        if self.noise_shape:
            item["code_noise"] = stream("code noise").standard_normal(self.noise_shape, dtype=np.float32)
        if self.answer_numbers:
            rng = stream("answers")
            several = rng.random() >= ONE_ANSWER_SHARE
            item["answer_noise"] = several * rng.standard_normal((2, self.answer_numbers), dtype=np.float32)
        if self.observations:
            item["point_weights"] = _weights(item)
        item["annotated"] = np.array(self.cases[index].annotated)
        item["case_index"] = np.int64(index)
        return item

    def _observe(self, item, arrays, listed, stream):
        """Adds what is seen to an item, and moves it all into the frame of that. stream(purpose): seeded draws."""
        labels, annotated = arrays["surface_labels"], np.array(listed.annotated)
        cut = np.isin(np.arange(1, len(annotated) + 1), listed.border_classes)
        seen = Observation(np.ones(len(annotated), bool))
        if self.observations:
            inside = arrays["vol_points"][arrays["vol_sdf"] < 0]
            seen = self.observations.draw(stream("observation"), labels, annotated, inside, arrays["unit_per_mm"])
        centre, factor = np.zeros(3, np.float32), np.float32(1)
        if seen.whole:
            item["states"] = seen.states(labels, annotated, cut, np.arange(len(labels))).astype(np.int64)
            item["seen_points"], item["seen_labels"] = item["surface_points"], item["surface_labels"]
        else:
            centre, factor = self._show(item, seen, arrays, annotated, cut, stream)
        if self.observations:
            _ask_round_about(item, centre, factor, stream("round about"))

    def _show(self, item, seen, arrays, annotated, cut, stream):
        """Adds a part of a heart to an item, and moves it into the frame of that: (centre, factor)."""
        labels = arrays["surface_labels"]
        rows, places = seen.see(arrays["surface_points"], labels)
        item["states"] = seen.states(labels, annotated, cut, rows).astype(np.int64)
        of_seen, rng, wanted = labels[rows], stream("seen surface"), self.counts.surface
        if self.balance:
            by_class = [np.flatnonzero(of_seen == c) for c in np.flatnonzero(np.bincount(of_seen))]
            drawn = draw_balanced_rows(rng, by_class, wanted, self.balance)
        else:
            drawn = draw_rows(rng, len(rows), wanted)
        item["seen_points"], item["seen_labels"] = places[drawn], of_seen[drawn].astype(np.int64)
        centre, factor = frame_of_seen(places)
        _into_frame_of_seen(item, centre, factor)
        return centre, factor


def _weights(item):
    surface = item["surface_points"]
    decoded = surface[item["surface_decoded"]] if "surface_decoded" in item else surface
    points_T3 = np.concatenate([item["query_points"], decoded])  # the order of engines/losses.py, `decoded_points`
    if np.array_equal(item["seen_points"], surface):
        return np.ones(len(points_T3), np.float32)
    return point_weights(points_T3, item["seen_points"])


def _surface_part(arrays, rows):
    part = {
        "surface_points": arrays["surface_points"][rows].astype(np.float32, copy=False),
        "surface_labels": arrays["surface_labels"][rows].astype(np.int64),
        "surface_sdf": arrays["surface_sdf"][rows].astype(np.float32, copy=False),
        "surface_normals": arrays["surface_normals"][rows].astype(np.float32),
    }
    if "surface_class_sdf" in arrays:
        part["surface_class_sdf"] = arrays["surface_class_sdf"][rows].astype(np.float32)
    return part


def _query_part(arrays, rows):
    """`rows`: group -> row numbers, in the order of QUERY_GROUPS."""
    part = {
        f"query_{name}": np.concatenate(
            [arrays[f"{'near' if group == 'near' else 'vol'}_{name}"][chosen] for group, chosen in rows.items()]
        )
        for name in ("points", "sdf", "labels", *(["class_sdf"] if "vol_class_sdf" in arrays else []))
    }
    part["query_labels"] = part["query_labels"].astype(np.int64)
    if "query_class_sdf" in part:
        part["query_class_sdf"] = part["query_class_sdf"].astype(np.float32)
    numbers = [QUERY_GROUPS.index(group) for group in rows]
    part["query_group"] = np.repeat(numbers, [len(chosen) for chosen in rows.values()])
    return part


def _normal_part(item, count, rng, path):
    """Of the item's surface points, `count` on the outer surface with their unit normals: on inner walls the union's
    distance has another slope."""
    outer = np.flatnonzero(item["surface_sdf"] == 0)
    if not len(outer):
        raise InputError(
            path,
            "surface points on the outer surface (surface_sdf 0)",
            "none",
            "make it again with prepare_data.py, or --normal_weight 0",
        )
    chosen = outer[draw_rows(rng, len(outer), count)]
    normals = item["surface_normals"][chosen]  # stored in 16 bit
    return {
        "normal_points": item["surface_points"][chosen],
        "normal_vectors": normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6),
    }


def rotation_matrix(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) rotation about `axis` by `angle` radians (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def grid_points_unit(grid_size: int) -> np.ndarray:
    """(grid_size^3, 3) float32: the cell centres of a regular grid over the unit cube [-1, 1]^3, z fastest."""
    centres = ((np.arange(grid_size) + 0.5) * (2 / grid_size) - 1).astype(np.float32)
    return np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), -1).reshape(-1, 3)


def grid_truth(entry, grid_size: int) -> np.ndarray:
    """(grid_size^3,) u8: the true label at each point of `grid_points_unit`, that of the nearest voxel of the case's
    truth crop. Points outside the crop, and outside the image, are background."""
    case = read_as_listed(entry, ("frame", "truth")).require(
        "frame", "truth_crop", "truth_origin", purpose="validation on a grid"
    )
    points_unit = grid_points_unit(grid_size)
    index, _ = case.frame.nearest_voxel(points_unit)
    index -= np.asarray(case.truth_origin, np.int64)
    within = ((index >= 0) & (index < np.array(case.truth_crop.shape))).all(1)
    labels = np.zeros(len(points_unit), np.uint8)
    labels[within] = case.truth_crop[tuple(index[within].T)]
    return labels
