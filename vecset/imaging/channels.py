"""Arrays that are no volume of label values: one-hot channels, probabilities, colours, frames over time, flat images;
and volumes whose values are those of a scan, of probabilities, of a mask, or of a known data set.

A one-hot map has a channel per class, and each voxel is in one of them. It is read where nothing is left to guess; all
else is refused with what it looks like and how it becomes a label map.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.user_files import read_json
from vecset.imaging.image_file import SUFFIXES, has_suffix

LEAST_SLICES = 3  # voxels along each axis, of the image and of what is labelled in it
MOST_CHANNELS = 256
AXES = "ijk"
FEW_VALUES = 20  # a label map with negative values has fewer different ones
MOST_LABELS = 256  # different values; label maps of whole bodies and brains have fewer
DENSE = 0.6  # of the numbers from the smallest to the largest value: scans hold more of them, label maps fewer
LEAST_SPAN = 150  # of dense values that are a scan's: whole-body label maps are dense up to 117
WHOLE_SHARE = 0.5  # of the voxels that are not 0: a resampled label map has more whole numbers, a scan fewer
_SIGNS = "_.-"
_ARGMAX = "save the class of each voxel as a 3D image: numpy.argmax(values, axis={axis}).astype('uint8')"
_ABOVE_HALF = (
    "save the class of each voxel as a 3D image: "
    "numpy.where(values.max({axis}) > 0.5, values.argmax({axis}) + 1, 0).astype('uint8')"
)


def as_volume(path: Path | str, values: np.ndarray, num_classes: int) -> tuple[np.ndarray, list[str]]:
    """(values (X, Y, Z), notes) of the array of an image file: without trailing axes of length 1; one-hot channels on
    the last axis become the values 1.., with a note that says so.

    Raises InputError for all other arrays, with what they look like and how to convert them."""
    if values.dtype.names:
        raise InputError.because(path, "a picture in colours", "export the labels themselves as a 3D image")
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 5 and values.shape[3] == 1:  # as ITK writes vectors
        values = values[:, :, :, 0]
    if 0 in values.shape:
        raise InputError.because(path, f"the image has no voxels: its shape is {values.shape}", "export it again")
    if values.ndim < 3:
        raise InputError(
            path, "a 3D label map", f"{values.ndim}D with shape {values.shape}: one slice", "export the whole volume"
        )
    if values.ndim > 4:
        raise InputError(
            path, "a 3D label map", f"{values.ndim}D with shape {values.shape}", "export one frame of it as a 3D image"
        )
    return (values, []) if values.ndim == 3 else _of_channels(path, values, num_classes)


def _of_channels(path, values, num_classes):
    """As `as_volume`, for values (X, Y, Z, N)."""
    shape = " x ".join(map(str, values.shape))
    kinds = {}
    for axis in (3, 0, 1, 2):  # channels are the last axis in NIfTI, the first one in many programs
        kinds[axis] = _kind(values, axis) if 1 < values.shape[axis] <= MOST_CHANNELS else None
        if kinds[axis] == "one-hot" and axis == 3:
            return _from_one_hot(path, values, num_classes)
        if kinds[axis] in ("one-hot", "probabilities"):
            whole = _sums_to_one(values, axis)
            what = "one-hot" if kinds[axis] == "one-hot" else "class probabilities"
            place = "" if axis == 3 else f" on axis {axis}, not on the last one"
            raise InputError.because(
                path,
                f"4D ({shape}): it looks like {what}, with {values.shape[axis]} channels{place}",
                (_ARGMAX if whole else _ABOVE_HALF).format(axis=axis if axis < 3 else -1)
                + ("" if axis == 3 else ", with the affine of the scan"),
            )
    count = values.shape[3]
    numbers = values.dtype.kind in "biu" or (np.isfinite(values).all() and not np.any(values % 1))
    if count in (3, 4) and values.dtype == np.uint8 and values.max() > num_classes:
        raise InputError.because(
            path,
            f"4D ({shape}): it looks like a picture in colours (red, green, blue)",
            "export the labels themselves as a 3D image",
        )
    if numbers and values.min() >= 0 and len(np.unique(values)) == 2:
        overlap = int(((values > 0).sum(3) > 1).sum())
        raise InputError.because(
            path,
            f"4D ({shape}): it looks like {count} masks, "
            + (f"which overlap in {overlap} voxels" if overlap else "of which only one holds voxels")
            + ", so that they are not one-hot",
            "of structures: save each as a file of its own (prepare_data.py --structures); of frames over time: export "
            "one frame as a 3D image",
        )
    filled = [str(n + 1) for n in range(count) if values[..., n].any()]
    held = "" if len(filled) == count else f"; labels are in {_few(filled) or 'none'}"
    raise InputError(
        path,
        "a 3D label map",
        f"4D ({shape}): {count} frames or layers{held}",
        "export one frame, or the labels without layers, as a 3D image",
    )


def _few(words):
    return ", ".join(words[:6]) + (" and others" if len(words) > 6 else "")


def _kind(values, axis):
    """'one-hot', 'probabilities' or None: what the channels on `axis` are."""
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        return None
    low, high = values.min(), values.max()
    if low < 0 or high <= 0:
        return None
    if values.dtype.kind == "f" and high <= 1 + 1e-3 and ((values > 1e-3) & (values < 1 - 1e-3)).any():
        return "probabilities" if values.sum(axis, dtype=np.float64).max() <= 1 + 1e-2 else None
    on = values == high
    if not (on | (values == 0)).all() or np.count_nonzero(on, axis=axis).max() > 1:
        return None
    others = tuple(a for a in range(values.ndim) if a != axis)
    return "one-hot" if np.count_nonzero(on.any(others)) > 1 else None


def _sums_to_one(values, axis):
    """Whether every voxel is in a channel: one of them is background then."""
    total = values.sum(axis, dtype=np.float64) / (values.max() if values.dtype.kind in "biu" else 1)
    return bool((np.abs(total - 1) < 1e-2).all())


def _from_one_hot(path, values, num_classes):
    """As `as_volume`, for one-hot values (X, Y, Z, N). Every voxel in a channel: the one on the image's borders is
    background, and must be the first. Otherwise the voxels in none are background."""
    on = values > 0
    count = on.shape[3]
    nowhere = ~on.any(3)
    border = np.ones(nowhere.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in nowhere.shape)] = False
    if not border.any():
        border[:] = True
    shares = np.append(on[border].mean(0), nowhere[border].mean())
    outside = int(shares.argmax())  # count: in no channel
    looks = f"it looks like one-hot, with {count} channels"
    if not nowhere.any() and outside == 0:
        return on.argmax(3).astype(np.uint16), [
            f"one-hot with {count} channels: the first, which fills the image's borders, is background; the others "
            f"became the values 1 to {count - 1}"
        ]
    if nowhere.any() and outside == count and not (count == num_classes + 1 and not on[..., 0].any()):
        labels = np.where(nowhere, 0, on.argmax(3) + 1).astype(np.uint16)
        return labels, [
            f"one-hot with {count} channels and none for background (voxels in no channel): they became the values 1 "
            f"to {count}"
        ]
    if not nowhere.any():
        why = f"but the image's borders are in channel {outside + 1} and not in the first, so which is background?"
    elif outside < count:
        why = (
            f"but {int(nowhere.sum())} voxels are in none, and channel {outside + 1} fills the image's borders, so "
            "which is background?"
        )
    else:
        why = "of which the first is empty: background, or a structure that is absent?"
    raise InputError.because(
        path, f"{looks}, {why}", "save the class of each voxel, 0 for background, as a 3D image: see numpy.argmax"
    )


def check_thickness(path: Path | str, labels: np.ndarray) -> None:
    """Raises InputError where an image (X, Y, Z), or what is labelled in it, has fewer than LEAST_SLICES voxels along
    an axis: it has no volume of which surfaces could be made. At least one voxel is labelled."""
    shape = " x ".join(map(str, labels.shape))
    flat = [n for n in labels.shape if n < LEAST_SLICES]
    least = f"at least {LEAST_SLICES} slices"
    if flat:
        if len(flat) == 1 and flat[0] == 1:
            what = f"one slice only ({shape} voxels): this is a 2D image or a localiser"
        elif len(flat) == 1:
            what = f"{flat[0]} slices only ({shape} voxels)"
        else:
            what = f"no volume ({shape} voxels)"
        raise InputError.because(path, what, f"export the whole volume: a heart needs {least}")
    ranges = []
    for axis in range(3):
        there = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))
        ranges.append((int(there[0]), int(there[-1])))
    sizes = [high - low + 1 for low, high in ranges]
    thin = [a for a in range(3) if sizes[a] < LEAST_SLICES]
    if not thin:
        return
    box = " x ".join(map(str, sizes))
    count = int(np.count_nonzero(labels))
    if count == 1:
        place = ", ".join(str(low) for low, _ in ranges)
        what = f"a single voxel is labelled, at {place} ({AXES[0]}, {AXES[1]}, {AXES[2]})"
    elif sizes.count(1) == 2:
        what = f"a line of voxels is all that is labelled ({box})"
    elif len(thin) > 1:
        what = f"{count} voxels are all that is labelled, in a box of {box}"
    elif sizes[thin[0]] == 1:
        low = ranges[thin[0]][0]
        what = f"one slice only is labelled: {low + 1} of {labels.shape[thin[0]]} along axis {AXES[thin[0]]}"
    else:
        what = f"what is labelled is {sizes[thin[0]]} voxels thick along axis {AXES[thin[0]]} ({box})"
    raise InputError.because(path, what, f"a heart needs {least} along each axis: check the labels, or remove the file")


class NotALabelMap(InputError):
    """An image that is something else than a label map."""


def refuse_scan(path: Path, found: np.ndarray, listed: Collection[int] = ()) -> None:
    """Raises NotALabelMap where the sorted different whole values `found` (n,) of an image are those of a scan, but for
    those that all are `listed` in a label mapping."""
    low, high, count = int(found[0]), int(found[-1]), len(found)
    span = high - low + 1
    is_scan = (
        (low < 0 and count > FEW_VALUES)
        or count > MOST_LABELS
        or (count > DENSE * span and span >= LEAST_SPAN and count > FEW_VALUES)
    )
    if is_scan and not set(found.tolist()) <= {0, *listed}:
        raise _scan(path, low, high, count)


def refuse_fractions(path: Path, values: np.ndarray, wrong: np.ndarray) -> None:
    """Raises NotALabelMap where float `values`, not whole at `wrong` (bools of the same shape), are probabilities or
    those of a scan."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        raise NotALabelMap.because(
            path,
            f"its values lie between 0 and 1 ({int(wrong.sum())} are neither): probabilities, or a mask that was "
            "resampled smoothly",
            "make a label map of it first: the most probable structure at each voxel, or 1 where a mask is above 0.5",
        )
    used = np.count_nonzero(values)
    if (low < 0 or high > MOST_LABELS) and np.count_nonzero(wrong) > (1 - WHOLE_SHARE) * used:
        raise _scan(path, low, high, len(np.unique(values)))


def other_labels(path: Path, found: np.ndarray, presets: Path) -> NotALabelMap | None:
    """The error for whole values `found` (n,), sorted, that are those of a preset of --label_mapping (a JSON file in
    the folder `presets`), or of a mask with one value; None for others."""
    used = [int(v) for v in found if v != 0]
    for file in sorted(presets.glob("*.json")):
        content = read_json(file, "a preset of --label_mapping")
        known = {int(value) for value in content["values"]}
        if len(used) > 1 and set(used) <= known and max(known) > MOST_LABELS:  # small numbers are those of any data set
            return NotALabelMap.because(
                path,
                f"its label values {', '.join(map(str, used))} are those of {content['name']}",
                f"give --label_mapping {file.stem}",
            )
    if len(used) == 1:
        example = json.dumps({str(used[0]): 1})
        return NotALabelMap.because(
            path,
            f"a mask: its only value besides 0 is {used[0]}",
            f"say which class that is in a JSON file for --label_mapping, as {example}",
        )
    return None


def _scan(path, low, high, count):
    return NotALabelMap.because(
        path,
        f"a scan and no label map: {count} different values from {low:g} to {high:g}",
        labels_elsewhere(path) or "give the folder of the label maps",
    )


def labels_elsewhere(path: Path) -> str:
    """Where the label map of a scan may be, by the names beside it, and how to take it alone; "" where none fits."""
    path = Path(path)
    folder = path.parent.resolve()
    found = re.fullmatch(r"(image|img|scan|volume)s?(.*)", folder.name, re.IGNORECASE)
    if found and folder.parent.is_dir():
        for other in sorted(folder.parent.iterdir()):
            if (
                re.fullmatch(rf"(label|seg|mask)\w*?{re.escape(found[2])}", other.name, re.IGNORECASE)
                and other.is_dir()
            ):
                return f"the label maps seem to be in {path.parent.parent / other.name}"
    stem = _stem(path.name)
    before = re.sub(rf"[{_SIGNS}][^{_SIGNS}]+$", "", stem)
    ends = set()
    for other in folder.iterdir():
        name = _stem(other.name)
        if name == stem or not has_suffix(other.name):
            continue
        for start in {stem, before}:
            if name.startswith(start) and name[len(start) :][:1] in tuple(_SIGNS):
                ends.add(other.name[len(start) :])
    labels = [end for end in sorted(ends) if re.match(rf"[{_SIGNS}][a-z]*(label|lab|seg|gt|mask|annot)", end, re.I)]
    if labels:
        return f"take the label maps alone: --pattern '*{labels[0]}'"
    return ""


def _stem(name):
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
