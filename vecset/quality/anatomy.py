"""Whether the truth of a case holds together as a heart does: pieces, contacts, and leaks through the muscle.

Structures are known by their names (vecset/imaging/structure_names.py). Nothing here makes a verdict bad: label maps of
real data sets have such defects, and who trains on them should know which hearts have what. Pieces and contacts are
counted with voxels that share a face, an edge or a corner. What the image cuts off is no defect:

- Pieces of a structure that reach the border of the image may be joined beyond it. They count as one.
- Where one of two structures does not reach the border, all of its surface is in the image, and so is the place where
  both should touch. A contact is looked for where that holds.
"""

from typing import NamedTuple

import edt
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from vecset.data.case_file import Case
from vecset.imaging.structure_names import BEGINS_AT, class_named
from vecset.quality.thresholds import CHECKS, FileReport

ONE_PIECE = ("Myocardium", "LA", "LV", "RA", "RV", "Aorta", "PA", "LAA")
# a structure, and the one that it touches in any heart
_BEGINNINGS = {name: BEGINS_AT[name] for name in ("LAA", "PV", "Coronary")}
CONTACTS = _BEGINNINGS | {"LA": "LV", "RA": "RV", "RV": "PA", "LV": "Aorta"}
BY_PIECE = ("Coronary", "PV")  # several pieces, each of which touches its structure in CONTACTS
VALVE_MM = 8.0  # the ventricle's rim at its two valves, where it may lie beside anything: as far from LA and aorta
VALVE_VOXELS = 2.0  # the same on coarse grids
CANAL_MM = 7.0  # a leak is narrower than a ball of this radius, the ventricle is wider
_TOUCHING = np.ones((3, 3, 3), bool)
_FACES = tuple((axis, step) for axis in range(3) for step in (-1, 1))


class _Heart(NamedTuple):
    """truth (X, Y, Z): a voxel wider than that of the case, so that every voxel has neighbours. ids: {name: class id or
    None}, there: of those, what is annotated and present; wider: {name: its box with a voxel round it}; sides: those of
    the truth at the border of the image."""

    truth: np.ndarray
    ids: dict
    there: dict
    wider: dict
    sides: list

    @classmethod
    def of(cls, case):
        truth = np.pad(case.truth_crop, 1)
        boxes = ndimage.find_objects(truth, case.num_classes)
        ids = {name: class_named(name, case.class_names) for name in (*ONE_PIECE, *BY_PIECE)}
        there = {name: c for name, c in ids.items() if c and case.annotated[c - 1] and boxes[c - 1]}
        wider = {name: tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[c - 1]) for name, c in there.items()}
        return cls(truth, ids, there, wider, _sides(case))

    @property
    def may_leak(self):
        """Whether a leak of the LV is looked for."""
        if not {"LV", "Myocardium", "LA", "Aorta"} <= set(self.there):
            return False
        return not _reaches_border(self.truth, self.wider["LV"], self.there["LV"], self.sides)


def check_anatomy(report: FileReport, case: Case) -> None:
    """Adds the checks of this module to `report`, for structures that are annotated and present, and their figures to
    the rows of the classes: pieces, contact, loose_pieces, leak."""
    heart = _Heart.of(case)
    truth, _, there, wider, sides = heart
    for name, c in there.items():
        box, row = wider[name], report.classes[c]
        part, count = ndimage.label(truth[box] == c, _TOUCHING)
        at_border = _at_border(part, box, truth.shape, sides)
        row["pieces"] = count
        if name != "PV":  # how many veins enter the atrium by themselves differs from patient to patient
            note = f"{len(at_border)} at the border of the image count as one" if len(at_border) > 1 else ""
            check = "coronary_pieces" if name == "Coronary" else "pieces"
            report.add(check, count - max(len(at_border) - 1, 0), c, note)
        other = CONTACTS.get(name)
        if other not in there:
            continue
        touching = part[ndimage.binary_dilation(truth[box] == there[other], _TOUCHING) & (part > 0)]
        row["contact"] = len(touching)
        whole = not at_border or not _reaches_border(truth, wider[other], there[other], sides)
        if whole:
            report.add("contact", len(touching), c, note=f"with {other}")
        if name in BY_PIECE and len(touching):  # else it is told as a contact that is not there
            row["loose_pieces"] = len(set(range(1, count + 1)) - set(touching.tolist()) - at_border)
            report.add("loose_pieces", row["loose_pieces"], c, note=f"of {count}, without contact with {other}")
    if heart.may_leak:
        bare = _bare_surface(heart, case.frame.spacing_mm)
        found_mm2, of_rv, lv = bare.areas_mm2, bare.of_rv, there["LV"]
        note = f"{found_mm2[~of_rv].sum():.0f} mm² beside background, {found_mm2[of_rv].sum():.0f} mm² beside RV"
        report.classes[lv]["leak"] = bare.share
        report.add("leak", bare.share, lv, note=note)


def without_leaks(case: Case) -> np.ndarray | None:
    """`case.truth_crop` (X, Y, Z) with the canals by which the LV leaks given to the muscle; None where a leak is not
    looked for. A canal is what no ball of CANAL_MM within the LV reaches, in one piece, and holds some of the surface
    that the check `leak` counts. It says how large a leak is; it is no good label map."""
    heart = _Heart.of(case)
    if not heart.may_leak:
        return None
    closed, spacing_mm = heart.truth.copy(), tuple(map(float, case.frame.spacing_mm))
    bare = _bare_surface(heart, case.frame.spacing_mm)
    deep = edt.edt(np.ascontiguousarray(bare.inside), anisotropy=spacing_mm, parallel=1) > CANAL_MM
    if bare.share > CHECKS["leak"].high and deep.any():
        away_mm = edt.edt(np.ascontiguousarray(~deep), anisotropy=spacing_mm, parallel=1)
        narrow, _ = ndimage.label(bare.inside & (away_mm > CANAL_MM), _TOUCHING)
        canals = np.setdiff1d(narrow[tuple(bare.places.T)], 0)
        closed[heart.wider["LV"]][np.isin(narrow, canals)] = heart.there["Myocardium"]
    return closed[1:-1, 1:-1, 1:-1]


def _sides(case):
    """(axis, -1 or 1) of the sides of the truth that lie at the border of the image."""
    low = [(axis, -1) for axis in range(3) if case.truth_origin[axis] == 0]
    stop = np.asarray(case.truth_origin) + case.truth_crop.shape
    return low + [(axis, 1) for axis in range(3) if stop[axis] == case.frame.shape[axis]]


def _at_border(part, box, shape, sides):
    """The set of values > 0 of `part`, which lies at `box` of the padded truth of `shape`, in the outermost voxels of
    the truth on the `sides`."""
    found = set()
    for axis, side in sides:
        at = (1 if side < 0 else shape[axis] - 2) - box[axis].start
        if 0 <= at < part.shape[axis]:
            found |= set(np.unique(part.take(at, axis)).tolist())
    return found - {0}


def _reaches_border(truth, box, class_id, sides):
    return bool(_at_border((truth[box] == class_id).astype(np.uint8), box, truth.shape, sides))


class _BareSurface(NamedTuple):
    """inside: (X, Y, Z) bool of the box of the LV, without its stray pieces; places (n, 3), areas_mm2 (n,), of_rv (n,)
    bool: the voxel and the size of each face beside background or RV, and whether it is the RV; share: of the whole
    surface."""

    inside: np.ndarray
    places: np.ndarray
    areas_mm2: np.ndarray
    of_rv: np.ndarray
    share: float


def _bare_surface(heart, spacing_mm):
    """The LV's surface that lies beside background or RV, far from LA and aorta, which are where it is open. Muscle is
    what should be there."""
    truth, box, lv, rv = heart.truth, heart.wider["LV"], heart.there["LV"], heart.ids["RV"]
    around = truth[box]
    part, _ = ndimage.label(around == lv, _TOUCHING)
    inside = part == np.bincount(part.ravel())[1:].argmax() + 1  # stray pieces are told as pieces
    face_mm2 = np.prod(spacing_mm) / np.asarray(spacing_mm)
    area_mm2, places, found_mm2, of_rv = 0.0, [], [], []
    for axis, step in _FACES:
        beside = np.roll(around, -step, axis)  # the box is a voxel wider, so that nothing comes round
        area_mm2 += face_mm2[axis] * np.count_nonzero(inside & (beside != lv))
        bare = np.argwhere(inside & ((beside == 0) | (beside == (rv or 0))))
        places.append(bare)
        found_mm2.append(np.full(len(bare), face_mm2[axis]))
        of_rv.append(beside[tuple(bare.T)] != 0)
    places, found_mm2, of_rv = np.concatenate(places), np.concatenate(found_mm2), np.concatenate(of_rv)
    reach_mm = max(VALVE_MM, VALVE_VOXELS * float(np.max(spacing_mm)))
    margin = np.ceil(reach_mm / np.asarray(spacing_mm)).astype(int)
    wider = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin))
    origin = np.array([s.start - w.start for s, w in zip(box, wider)])
    valves = np.argwhere(np.isin(truth[wider], [heart.there["LA"], heart.there["Aorta"]]))
    if len(places) and len(valves):
        away_mm, _ = cKDTree(valves * spacing_mm).query((places + origin) * spacing_mm)
        far = away_mm > reach_mm
        places, found_mm2, of_rv = places[far], found_mm2[far], of_rv[far]
    return _BareSurface(inside, places, found_mm2, of_rv, float(found_mm2.sum() / area_mm2))
