"""The case file: one heart as an npz, the only thing that passes from the data stage to every later one.

Keys, shapes and meanings are those of the table in docs/data.md. Members are stored without compression, so that a
loader reads them at the speed of the disk, but for `label_crop`, which shrinks fifty-fold and is read rarely. Zip
time stamps are fixed: the same heart gives the same bytes.
"""

import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vecset.common.atomic import atomic_path
from vecset.common.errors import InputError
from vecset.common.memory import require_memory
from vecset.common.npz_file import NPZ_ERRORS, in_one_line, member, open_npz, require_members_fit
from vecset.common.structure_state import states_of
from vecset.imaging.class_names import distinct_names
from vecset.imaging.classes import ClassNames, default_class_names
from vecset.imaging.frame import Frame

SCHEMA = "vecsetx-heart/1"

TABLE_KEYS = ("class_names", "class_aliases", "class_colours")  # of `meta`: the table of the classes
CLASSES = -1  # in a shape: the number of classes

# What each member must look like: dtype kinds allowed, trailing shape. Rows of one group agree.
POINT_MEMBERS = {
    "surface_points": ("f", (3,)),
    "surface_normals": ("f", (3,)),
    "surface_labels": ("u", ()),
    "surface_sdf": ("f", ()),
    "surface_cap": ("b", ()),
    "vol_points": ("f", (3,)),
    "vol_sdf": ("f", ()),
    "vol_labels": ("u", ()),
    "near_points": ("f", (3,)),
    "near_sdf": ("f", ()),
    "near_labels": ("u", ()),
    "near_source": ("u", ()),
    "near_other": ("u", ()),
    "surface_class_sdf": ("f", (CLASSES,)),
    "vol_class_sdf": ("f", (CLASSES,)),
    "near_class_sdf": ("f", (CLASSES,)),
}
PROBABILITIES = {"probabilities", "softmax"}  # what the arrays in nnU-Net's .npz files are called, versions 2 and 1
GROUPS = ("surface", "vol", "near")
CLASS_DISTANCES = tuple(f"{group}_class_sdf" for group in GROUPS)  # all or none; prepare_data.py --class_distances
OPTIONAL_MEMBERS = ("near_other", *CLASS_DISTANCES)  # near_other: earlier files of this schema lack it
_FRAME_MEMBERS = ("frame_affine", "frame_shape", "frame_centre", "frame_scale")
_TRUTH_MEMBERS = ("label_crop", "label_origin")


def _member(name: str) -> property:
    return property(lambda case: case.arrays.get(name), doc=f"`{name}`, or None: not read, or not in the file")


@dataclass
class Case:
    """One heart. Arrays as in docs/data.md (points in unit, distances in unit, negative inside); a member that the
    file does not have is None, and `require` turns that into a clear error where it is needed.

    `truth_crop` (X, Y, Z) u8 and `truth_origin` (3,) are `label_crop` and `label_origin` of the file. `whole`: where
    structures of a heart are hidden from this case, the case with all of them, whose truth is for scoring alone; it is
    not stored. `planes`: of a heart that is seen in slices, what they show, also of hidden structures; not stored."""

    path: Path | None = None
    arrays: dict = field(default_factory=dict)  # POINT_MEMBERS, those that were read
    frame: Frame | None = None
    truth_crop: np.ndarray | None = None
    truth_origin: np.ndarray | None = None
    meta: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)  # for the user, from reading its label map; not stored
    whole: "Case | None" = None
    planes: tuple = ()  # of vecset.geometry.contours.Plane

    surface_points = _member("surface_points")
    surface_normals = _member("surface_normals")
    surface_labels = _member("surface_labels")
    surface_sdf = _member("surface_sdf")
    surface_cap = _member("surface_cap")
    vol_points = _member("vol_points")
    vol_sdf = _member("vol_sdf")
    vol_labels = _member("vol_labels")
    near_points = _member("near_points")
    near_sdf = _member("near_sdf")
    near_labels = _member("near_labels")
    near_source = _member("near_source")
    near_other = _member("near_other")
    surface_class_sdf = _member("surface_class_sdf")
    vol_class_sdf = _member("vol_class_sdf")
    near_class_sdf = _member("near_class_sdf")

    @property
    def case_id(self) -> str:
        return self.path.name.removesuffix(".npz") if self.path else ""

    @property
    def num_classes(self) -> int:
        return int(self.meta["classes"])

    @property
    def class_names(self) -> list[str]:
        """(C,) names; `ClassNames` where the case file has a table with aliases or colours."""
        return names_of_meta(self.meta)

    @property
    def annotated(self) -> np.ndarray:
        """(C,) bool: which classes the annotators looked for. Only the others are masked in losses and metrics."""
        mask = np.zeros(self.num_classes, bool)
        mask[np.asarray(self.meta["annotated_classes"], int) - 1] = True
        return mask

    @property
    def in_slices(self) -> bool:
        """Whether it is seen in slices alone (`meta["slices"]`: {"planes": their number, None for points}), so that
        what lies between them, or beyond, is not known."""
        return self.meta.get("slices") is not None

    @property
    def has_states(self) -> bool:
        """Whether it is known which of its classes are there: latents of earlier versions do not say it."""
        return self.meta.get("present_classes") is not None or self.surface_labels is not None

    @property
    def states(self) -> np.ndarray:
        """(C,) i8 of `vecset.common.structure_state.State`: what is known of each class. What is there, and what the
        field of view truncates, says `meta`; files of earlier forms lack the first, and the surface points say it."""
        present = self.meta.get("present_classes")
        if present is None:
            self.require("surface_labels", purpose="the states of its classes")
            present = np.unique(self.surface_labels)
        masks = np.zeros((2, self.num_classes), bool)
        for mask, classes in zip(masks, (present, self.meta.get("border_classes", ()))):
            mask[np.asarray(classes, int) - 1] = True
        return states_of(masks[0], self.annotated, masks[1])

    def require(self, *members: str, purpose: str) -> "Case":
        """Refuses a case without one of `members` (names of attributes), saying what it is needed for."""
        missing = [m for m in members if getattr(self, m) is None]
        if missing:
            raise InputError(
                self.path,
                f"{', '.join(missing)} (needed for {purpose})",
                "a case file without",
                "run prepare_data.py --overwrite on its label map",
            )
        return self

    def require_class_distances(self, purpose: str) -> "Case":
        """Refuses a case without the signed distances to its classes, saying what they are needed for."""
        if any(getattr(self, member) is None for member in CLASS_DISTANCES):
            raise InputError.because(
                self.path,
                f"the case file has no distances to each class (*_class_sdf), which {purpose} needs",
                "make it again with prepare_data.py --class_distances --overwrite; the main job takes "
                "--prepare_options=--class_distances",
            )
        return self

    def truth_labels(self) -> np.ndarray:
        """(X, Y, Z) u8 label map on the whole source grid."""
        self.require("frame", "truth_crop", "truth_origin", purpose="the truth on the source grid")
        origin, end = np.asarray(self.truth_origin), np.asarray(self.truth_origin) + self.truth_crop.shape
        if (origin < 0).any() or (end > self.frame.shape).any():
            raise InputError.because(
                self.path,
                f"label_crop {self.truth_crop.shape} at {origin.tolist()} is not inside the grid {self.frame.shape}",
                "make it again with prepare_data.py --overwrite",
            )
        require_memory(
            self.path, math.prod(self.frame.shape), f"its grid {self.frame.shape}", "it is damaged; make it again"
        )
        labels = np.zeros(self.frame.shape, np.uint8)
        i, j, k = (int(n) for n in self.truth_origin)
        x, y, z = self.truth_crop.shape
        labels[i : i + x, j : j + y, k : k + z] = self.truth_crop
        return labels


def names_of_meta(meta: dict) -> list[str]:
    """(C,) names of the classes of a case file, from its `meta`, or of a checkpoint or record with the same keys: with
    aliases and colours where it has some."""
    names = distinct_names(meta["class_names"])
    aliases, colours = meta.get("class_aliases"), meta.get("class_colours")
    return ClassNames(names, aliases, colours) if aliases or colours else names


def meta_of_names(class_names: Sequence[str]) -> dict:
    """The entries of `meta` that `names_of_meta` reads."""
    values = list(class_names), getattr(class_names, "aliases", {}), getattr(class_names, "colours", {})
    return {key: value for key, value in zip(TABLE_KEYS, values) if value}


def write_case(path: str | Path, case: Case) -> None:
    """Writes `case` to `path` (.npz) atomically. The same case gives the same bytes. Raises ValueError where a member
    does not have its dtype and shape: a wrong case file must never come into being."""
    members = dict(case.arrays)
    members.update(
        frame_affine=np.asarray(case.frame.affine, np.float64),
        frame_shape=np.asarray(case.frame.shape, np.int32),
        frame_centre=np.asarray(case.frame.centre_mm, np.float64),
        frame_scale=np.float64(case.frame.scale),
        label_crop=np.asarray(case.truth_crop, np.uint8),
        label_origin=np.asarray(case.truth_origin, np.int32),
    )
    problem = _problem(members, case.meta.get("classes")) or _class_distances_problem(members)
    if problem:
        raise ValueError(f"{path}: {problem}")
    meta = {"schema": SCHEMA, **case.meta}
    members["meta"] = np.array(json.dumps(meta, sort_keys=True))
    # not ZipFile(temporary, ...): closing it after a full disk would raise a second time and hide the first error
    with atomic_path(path) as temporary, open(temporary, "wb") as handle, zipfile.ZipFile(handle, "w") as archive:
        for name, array in members.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if name == "label_crop" else zipfile.ZIP_STORED
            buffer = io.BytesIO()
            np.lib.format.write_array(
                buffer, np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array), allow_pickle=False
            )
            archive.writestr(info, buffer.getvalue(), compresslevel=4)


def read_meta(path: str | Path) -> dict:
    """The `meta` dict alone (fast: two small reads)."""
    return read_case(path, members=()).meta


def read_case(path: str | Path, members: Iterable[str] | None = None) -> Case:
    """Reads a case file: `members` names what is wanted of POINT_MEMBERS, 'frame' and 'truth' (None: everything).

    Takes the older form too (one-hot `surface_labels` (N, C), `*_sdf` (N, 1), no frame); what that form lacks is None.
    Raises InputError where the file is no case file, is truncated, or its members contradict each other.
    """
    path = Path(path)
    wanted = set(POINT_MEMBERS) | {"frame", "truth"} if members is None else set(members)
    unknown = wanted - set(POINT_MEMBERS) - {"frame", "truth"}
    if unknown:
        raise ValueError(f"no such members: {sorted(unknown)}")
    try:
        with open(path, "rb") as handle:
            is_zip = handle.read(2) == b"PK"
        if not is_zip:  # numpy would take it for a pickle and advise to load that
            from vecset.imaging.image_file import has_suffix  # brings nibabel, which training goes without

            raise InputError(
                path,
                "a whole case file (npz)",
                "a label map" if has_suffix(path) else "no npz archive",
                "make it with prepare_data.py",
            )
        with open_npz(path) as archive:
            names = set(archive.files)
            if names & PROBABILITIES:
                raise InputError.because(
                    path,
                    "these are the class probabilities that nnU-Net writes, not a case file",
                    "make a case file of the label map (.nii.gz) that it writes beside them, with prepare_data.py",
                )
            if "surface_points" not in names or "surface_labels" not in names:
                raise InputError(
                    path,
                    "a case file (npz with surface_points, surface_labels, ...)",
                    f"an npz with {', '.join(sorted(names)[:6]) or 'nothing'}",
                    "make case files with prepare_data.py",
                )
            groups = {"frame": _FRAME_MEMBERS, "truth": _TRUTH_MEMBERS}
            read = [n for name in wanted for n in groups.get(name, (name,)) if n in names]
            require_members_fit(archive, read, path)
            raw = {n: member(archive, n) for n in POINT_MEMBERS if n in names and n in wanted}
            meta = json.loads(str(member(archive, "meta"))) if "meta" in names else None
            if meta is None and "surface_labels" not in raw:
                raw_labels = member(archive, "surface_labels")
            else:
                raw_labels = raw.get("surface_labels")
            frame_raw = {n: member(archive, n) for n in _FRAME_MEMBERS if n in names} if "frame" in wanted else {}
            truth_raw = {n: member(archive, n) for n in _TRUTH_MEMBERS if n in names} if "truth" in wanted else {}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            path, "a case file", "no such file", "check the path or make it with prepare_data.py"
        ) from None
    except PermissionError:
        raise InputError(path, "a file that can be read", "no permission", "change its permissions") from None
    except NPZ_ERRORS as error:
        raise InputError(
            path,
            "a whole case file (npz)",
            in_one_line(error),
            "make it again with prepare_data.py --overwrite",
        ) from error

    if meta is None:
        raw, meta = _from_older_form(path, raw, raw_labels)
    elif not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        meta = meta if isinstance(meta, dict) else {}
        raise InputError(
            path,
            f"a case file of schema {SCHEMA}",
            f"schema {meta.get('schema')!r}",
            "make it again with prepare_data.py --overwrite, or use the version that wrote it",
        )
    problem = _problem(raw, meta.get("classes")) or _class_distances_problem(names) or _meta_problem(meta)
    if problem:
        raise InputError(path, "a consistent case file", problem, "make it again with prepare_data.py --overwrite")
    frame = None
    if len(frame_raw) == len(_FRAME_MEMBERS):
        try:
            if any(array.dtype.kind not in "uif" for array in frame_raw.values()):
                raise ValueError(f"its members are {', '.join(str(a.dtype) for a in frame_raw.values())}")
            frame = Frame(
                frame_raw["frame_affine"],
                frame_raw["frame_shape"],
                frame_raw["frame_centre"],
                float(frame_raw["frame_scale"]),
            )
        except NPZ_ERRORS as error:
            raise InputError(
                path, "a sound frame", str(error), "make it again with prepare_data.py --overwrite"
            ) from None
    problem = _truth_problem(truth_raw, meta["classes"])
    if problem:
        raise InputError(path, "a consistent case file", problem, "make it again with prepare_data.py --overwrite")
    return Case(
        path=path,
        arrays=raw,
        frame=frame,
        truth_crop=truth_raw.get("label_crop"),
        truth_origin=truth_raw.get("label_origin"),
        meta=meta,
    )


def _from_older_form(path, raw, labels):
    """One-hot labels to ids, (N, 1) distances to (N,), and the meta that can be told from the arrays alone."""
    raw = dict(raw)
    for name, array in {"surface_labels": labels, **raw}.items():
        problem = _older_problem(name, array)
        if problem:
            raise InputError(path, "a consistent case file", problem, "make it again with prepare_data.py")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all() or (labels.sum(1) > 1).any():
            raise InputError(
                path,
                "one-hot surface_labels of 0 and 1",
                "rows that are not one-hot",
                "make it again with prepare_data.py",
            )
        classes = labels.shape[1]
    else:
        classes = max(10, int(labels.max(initial=0)))
    for group in GROUPS:
        key = f"{group}_labels"
        if key in raw and raw[key].ndim == 2:  # a row of zeros is background
            raw[key] = np.where(raw[key].any(1), raw[key].argmax(1) + 1, 0)
        if key in raw:
            raw[key] = raw[key].astype(np.uint8)
        if f"{group}_sdf" in raw:
            raw[f"{group}_sdf"] = raw[f"{group}_sdf"].reshape(len(raw[f"{group}_sdf"]))
    ids = labels.argmax(1) + 1 if labels.ndim == 2 else labels
    present = sorted(int(c) for c in np.unique(ids) if c > 0)
    meta = {
        "schema": "older form",
        "classes": classes,
        "class_names": default_class_names(classes),
        "annotated_classes": list(range(1, classes + 1)),
        "present_classes": present,
        "missing_classes": [c for c in range(1, classes + 1) if c not in present],
    }
    return raw, meta


def _older_problem(name, array):
    """What is wrong with a member of the older form, in words, or None: its numbers could be of any type."""
    if array.dtype.kind not in "buif" or array.ndim not in (1, 2):
        return f"{name} is {array.dtype} {array.shape}"
    if name.endswith("_sdf") and array.size != len(array):
        return f"{name} is {array.dtype} {array.shape}, want (N,) or (N, 1)"
    whole = np.isin(array, np.arange(256)) if name.endswith("_labels") and array.dtype.kind != "b" else None
    if whole is not None and not whole.all():
        return f"{name} holds {array[~whole][0]}, want whole numbers 0..255"
    return None


def _meta_problem(meta):
    """What is wrong with the names and the annotated classes, in words, or None."""
    names, annotated = meta.get("class_names"), meta.get("annotated_classes")
    if not isinstance(names, list) or len(names) != meta["classes"] or not all(isinstance(n, str) for n in names):
        return f"meta says class_names = {names!r}, want {meta['classes']} names"
    if not isinstance(annotated, list) or not all(isinstance(c, int) and 1 <= c <= meta["classes"] for c in annotated):
        return f"meta says annotated_classes = {annotated!r}, want class ids 1..{meta['classes']}"
    return None


def _truth_problem(truth, classes):
    """What is wrong with the truth, in words, or None."""
    if len(truth) < len(_TRUTH_MEMBERS):
        return None
    crop, origin = truth["label_crop"], truth["label_origin"]
    if crop.dtype != np.uint8 or crop.ndim != 3 or origin.shape != (3,) or origin.dtype.kind not in "iu":
        return f"label_crop is {crop.dtype} {crop.shape} and label_origin {origin.dtype} {origin.shape}"
    if crop.max(initial=0) > classes:
        return f"label_crop holds class {crop.max()}, but there are {classes} classes"
    return None


def _class_distances_problem(names):
    """What is wrong where a file has some of CLASS_DISTANCES among its members `names`, in words, or None."""
    lacking = [n for n in CLASS_DISTANCES if n not in names]
    if 0 < len(lacking) < len(CLASS_DISTANCES):
        return f"{', '.join(n for n in CLASS_DISTANCES if n in names)} without {', '.join(lacking)}"
    return None


def _problem(members, classes):
    """What is wrong with the members, in words, or None."""
    if not isinstance(classes, int) or not 1 <= classes <= 255:
        return f"meta says classes = {classes!r}, want 1..255"
    for name, (kind, trailing) in POINT_MEMBERS.items():
        if name not in members:
            continue
        array = members[name]
        trailing = tuple(classes if length == CLASSES else length for length in trailing)
        if array.dtype.kind != kind or array.shape[1:] != trailing or array.ndim != 1 + len(trailing):
            return f"{name} is {array.dtype} {array.shape}, want kind '{kind}' and shape (N, *{trailing})"
        if kind == "u" and array.size and array.max() > classes:
            return f"{name} holds class {array.max()}, but there are {classes} classes"
        if name in ("surface_labels", "near_source") and array.size and array.min() < 1:
            return f"{name} holds class 0, but every surface belongs to a class 1..{classes}"
    for group in GROUPS:
        rows = {n: len(members[n]) for n in POINT_MEMBERS if n.startswith(group) and n in members}
        if len(set(rows.values())) > 1:
            return f"row counts differ: {rows}"
    return None
