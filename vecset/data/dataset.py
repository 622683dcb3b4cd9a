"""Case files as training items: seeded draws of points, truth on a grid.

An item is a pure function of (epoch, case): see `vecset/common/draws.py`. A case that cannot be read ends the run with
its name; it is never replaced by another.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from vecset.common.draws import draw_balanced_rows, draw_rows, random_stream
from vecset.common.errors import InputError
from vecset.data.case_file import read_case

QUERY_GROUPS = ("near", "inside", "outside")  # the groups of query points, in the order of an item
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


class CaseDataset(torch.utils.data.Dataset):
    """Items of `cases` (list of ListedCase), by `dataset[epoch, index]`: numpy arrays under the batch keys of
    docs/design.md, and where they are asked for `eikonal_points` (E, 3): a random subset of the item's query points;
    `surface_decoded` (S,): row numbers of the surface points that are decoded (without it: all);
    `normal_points` and `normal_vectors` (S, 3): of its surface points on the outer surface, with their unit normals;
    `code_noise` (M, L): unit normal numbers for the KL bottleneck (training only).

    training      True: draws differ per epoch, augmentation applies. False: the draws of epoch 0, always, from a stream
                  of their own, no augmentation.
    balance       0: points are drawn uniformly from the file; 1: every class present has the same share of surface
                  points, of near points (by the surface they were offset from) and of inside points; mixed between.
    cache         'memory': arrays are kept after the first reading (about 3 MB per case at 3 x 50,000 points); call
                  `load` before worker processes start and they share one copy. 'none': files are read at every access.
    rotation_deg  augmentation: rotation about a random axis by up to this angle (degrees).
    scaling       augmentation: scaling by a factor from 1 - scaling to 1 + scaling; distances scale along.
    num_eikonal, num_normals, noise_shape    E, S and (M, L); 0 and None leave the members out.
    """

    def __init__(
        self,
        cases,
        num_surface_points,
        num_near,
        num_inside,
        num_outside,
        seed,
        training,
        *,
        num_eikonal=0,
        num_decoded_surface=None,
        num_normals=0,
        noise_shape=None,
        balance=0.0,
        cache="memory",
        rotation_deg=0.0,
        scaling=0.0,
    ):
        if cache not in ("memory", "none"):
            raise ValueError(f"cache {cache!r}: want 'memory' or 'none'")
        self.cases = list(cases)
        self.num_surface_points, self.num_eikonal, self.num_normals = num_surface_points, num_eikonal, num_normals
        self.noise_shape = noise_shape if training else None
        self.num_decoded_surface = num_decoded_surface
        self.num_queries = dict(zip(QUERY_GROUPS, (num_near, num_inside, num_outside)))
        if num_eikonal > sum(self.num_queries.values()):
            raise ValueError(f"{num_eikonal} Eikonal points of {sum(self.num_queries.values())} query points")
        self.seed, self.training, self.balance, self.cache = seed, training, balance, cache
        self.rotation_deg, self.scaling = (rotation_deg, scaling) if training else (0.0, 0.0)
        self._arrays = {}

    def __len__(self):
        return len(self.cases)

    def load(self, indices=None):
        """Reads the cases (all, or `indices`) into the cache, or, without a cache, checks that they can be read."""
        indices = range(len(self)) if indices is None else indices
        with ThreadPoolExecutor(_READERS) as pool:
            for index, arrays in zip(indices, pool.map(self._read, indices)):
                if self.cache == "memory":
                    self._arrays[index] = arrays

    def _case_arrays(self, index):
        arrays = self._arrays.get(index)
        if arrays is None:
            arrays = self._read(index)
            if self.cache == "memory":
                self._arrays[index] = arrays
        return arrays

    def _read(self, index):
        """The members of one file and, per class, the rows that balanced draws choose from."""
        members = _MEMBERS + (("near_source",) if self.balance else ())
        case = read_case(self.cases[index].path, members).require(*members, purpose="training")
        arrays = {name: getattr(case, name) for name in members}
        rows = {
            "surface": np.arange(len(case.surface_sdf)),
            "near": np.arange(len(case.near_sdf)),
            "inside": np.flatnonzero(case.vol_sdf < 0),
            "outside": np.flatnonzero(case.vol_sdf >= 0),
        }
        for group, wanted in {"surface": self.num_surface_points, **self.num_queries}.items():
            if wanted and not len(rows[group]):
                raise InputError(case.path, f"{group} points", "none", "make it again with prepare_data.py --overwrite")
        classes = {"surface": case.surface_labels, "near": case.near_source, "inside": case.vol_labels}
        for group, row in rows.items():
            arrays[f"rows_{group}"] = [row]
            if self.balance and group in classes:
                labels = classes[group][row]
                arrays[f"rows_{group}"] = [row[labels == c] for c in np.unique(labels)]
        return arrays

    def __getitem__(self, key):
        epoch, index = key
        entry = self.cases[index]
        arrays = self._case_arrays(index)
        kind, epoch = ("train", epoch) if self.training else ("val", 0)

        def rows(group, wanted):
            rng = random_stream(self.seed, epoch, entry.case_id, f"{kind} {group}")
            available = arrays[f"rows_{group}"]
            if len(available) > 1:
                return draw_balanced_rows(rng, available, wanted, self.balance)
            return available[0][draw_rows(rng, len(available[0]), wanted)]

        chosen = rows("surface", self.num_surface_points)
        item = {
            "surface_points": arrays["surface_points"][chosen].astype(np.float32, copy=False),
            "surface_labels": arrays["surface_labels"][chosen].astype(np.int64),
            "surface_sdf": arrays["surface_sdf"][chosen].astype(np.float32, copy=False),
            "surface_normals": arrays["surface_normals"][chosen].astype(np.float32),
        }
        if self.num_decoded_surface and self.num_decoded_surface < self.num_surface_points:
            rng = random_stream(self.seed, epoch, entry.case_id, f"{kind} decoded surface")
            item["surface_decoded"] = draw_rows(rng, self.num_surface_points, self.num_decoded_surface)
        parts = [
            ("near" if group == "near" else "vol", rows(group, wanted))
            for group, wanted in self.num_queries.items()
            if wanted
        ]
        for name in ("points", "sdf", "labels"):
            item[f"query_{name}"] = np.concatenate([arrays[f"{source}_{name}"][chosen] for source, chosen in parts])
        item["query_labels"] = item["query_labels"].astype(np.int64)
        item["query_group"] = np.repeat(np.arange(len(QUERY_GROUPS)), list(self.num_queries.values()))
        if self.rotation_deg or self.scaling:
            self._augment(item, random_stream(self.seed, epoch, entry.case_id, "augmentation"))
        if self.num_eikonal:
            rng = random_stream(self.seed, epoch, entry.case_id, f"{kind} eikonal")
            item["eikonal_points"] = item["query_points"][draw_rows(rng, len(item["query_sdf"]), self.num_eikonal)]
        if self.num_normals:
            outer = np.flatnonzero(item["surface_sdf"] == 0)  # on inner walls the union's distance has another slope
            if not len(outer):
                raise InputError(
                    entry.path,
                    "surface points on the outer surface (surface_sdf 0)",
                    "none",
                    "make it again with prepare_data.py, or --normal_weight 0",
                )
            rng = random_stream(self.seed, epoch, entry.case_id, f"{kind} normals")
            chosen = outer[draw_rows(rng, len(outer), self.num_normals)]
            item["normal_points"] = item["surface_points"][chosen]
            normals = item["surface_normals"][chosen]  # stored in 16 bit
            item["normal_vectors"] = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
        if self.noise_shape:
            rng = random_stream(self.seed, epoch, entry.case_id, "code noise")
            item["code_noise"] = rng.standard_normal(self.noise_shape, dtype=np.float32)
        item["annotated"] = np.array(entry.annotated)
        item["case_index"] = np.int64(index)
        return item

    def _augment(self, item, rng):
        """Turns and scales the whole item about the middle of the unit cube; distances scale with the points."""
        axis = rng.normal(size=3)
        angle = np.deg2rad(rng.uniform(-self.rotation_deg, self.rotation_deg))
        turn = rotation_matrix(axis, angle).astype(np.float32)
        factor = np.float32(rng.uniform(1 - self.scaling, 1 + self.scaling))
        for name in ("surface_points", "query_points"):
            item[name] = (item[name] @ turn.T) * factor
        item["surface_normals"] = item["surface_normals"] @ turn.T
        for name in ("surface_sdf", "query_sdf"):
            item[name] = item[name] * factor


def rotation_matrix(axis, angle):
    """(3, 3) rotation about `axis` by `angle` radians (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def collate(items):
    """Items to a batch: every key stacked along a first axis B."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}


class _ReportingDataset(torch.utils.data.Dataset):
    """Hands a case's InputError on as an item: torch would wrap it in a worker's traceback and lose its type."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, key):
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _collate_or_error(items):
    return next((item for item in items if isinstance(item, InputError)), None) or collate(items)


def iterate_batches(dataset, keys, num_workers=0, pin_memory=False):
    """Batches for `keys`, an iterable of lists of (epoch, index). Workers are forked, so they share the cache that
    `dataset.load` filled. Raises a case's InputError here, in the training process."""
    loader = torch.utils.data.DataLoader(
        _ReportingDataset(dataset),
        batch_sampler=keys,
        collate_fn=_collate_or_error,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if num_workers else None,
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def grid_points_unit(grid_size):
    """(grid_size^3, 3) float32: the cell centres of a regular grid over the unit cube [-1, 1]^3, z fastest."""
    centres = ((np.arange(grid_size) + 0.5) * (2 / grid_size) - 1).astype(np.float32)
    return np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), -1).reshape(-1, 3)


def grid_truth(entry, grid_size):
    """(grid_size^3,) u8: the true label at each point of `grid_points_unit`, that of the nearest voxel of the case's
    truth crop. Points outside the crop, and outside the image, are background."""
    case = read_case(entry.path, ("frame", "truth")).require(
        "frame", "truth_crop", "truth_origin", purpose="validation on a grid"
    )
    points_unit = grid_points_unit(grid_size)
    index, _ = case.frame.nearest_voxel(points_unit)
    index -= np.asarray(case.truth_origin, np.int64)
    within = ((index >= 0) & (index < np.array(case.truth_crop.shape))).all(1)
    labels = np.zeros(len(points_unit), np.uint8)
    labels[within] = case.truth_crop[tuple(index[within].T)]
    return labels
