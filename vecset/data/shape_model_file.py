"""Files of shape models: the buffers of a `ShapeModel`, the names of its structures, and where it came from."""

import json
from pathlib import Path

import numpy as np

from vecset.common.atomic import atomic_path
from vecset.common.errors import InputError
from vecset.common.npz_file import NPZ_ERRORS, open_npz
from vecset.models.shape_model import ShapeModel

FORMAT = "vecsetx-heart shape model/1"
ARRAYS = ("table_VK", "first_C", "cells_C3", "low_C3", "step", "template_CT3", "known_C")
RECORDED = ("cases", "sources")  # lists of the hearts that it was made from: case ids, and SHA-256 of their label maps
_CHECK = "check the path, or make it again: python -m vecset.shape_model"
_TO_DO = "make it again: python -m vecset.shape_model"


def write_shape_model(path: str | Path, arrays: dict, class_names: list[str], record: dict) -> None:
    """record: plain values on how it was made (`RECORDED`). Whole or not there."""
    about = json.dumps({"format": FORMAT, "class_names": list(class_names), **record})
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, about=np.array(about), **{name: arrays[name] for name in ARRAYS})


def read_shape_model(path: str | Path) -> tuple[dict, list[str], dict]:
    """(arrays, class names, record). InputError where the file is no shape model or is damaged."""
    path = Path(path)
    if not path.is_file():
        raise InputError.because(path, "this is a folder" if path.is_dir() else "no such file", _CHECK)
    try:
        with open_npz(path) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: file[name] for name in ARRAYS}
    except NPZ_ERRORS:
        raise InputError.because(path, "not a shape model, or damaged", _CHECK) from None
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise InputError.because(path, "not a shape model of this version", _TO_DO)
    names = [str(name) for name in about.pop("class_names", [])]
    problem = _problem(arrays, len(names))
    if problem:
        raise InputError.because(path, f"damaged: {problem}", _TO_DO)
    return arrays, names, about


def _problem(arrays, classes):
    """What is wrong with the arrays of so many classes; "" where they fit together."""
    table, cells, first = arrays["table_VK"], arrays["cells_C3"], arrays["first_C"]
    if table.ndim != 2 or cells.shape != (classes, 3) or first.shape != (classes,) or (cells < 2).any():
        return "sizes of arrays do not fit together"
    sizes = cells.prod(1)
    if len(table) != sizes.sum() or (first != np.cumsum(sizes) - sizes).any():
        return "its table has not as many rows as its grids have points"
    template = arrays["template_CT3"]
    if template.ndim != 3 or template.shape[::2] != (classes, 3) or not template.shape[1]:
        return "its template has another size"
    if arrays["low_C3"].shape != (classes, 3) or arrays["known_C"].shape != (classes,) or not arrays["step"] > 0:
        return "sizes of arrays do not fit together"
    if not all(np.isfinite(arrays[name]).all() for name in ("table_VK", "low_C3", "template_CT3")):
        return "numbers are not finite"
    return ""


def sizes_of(arrays: dict) -> dict[str, int]:
    """The sizes of a `ShapeModel` that holds these arrays, besides the number of classes."""
    cells, columns = arrays["table_VK"].shape
    return {"cells": int(cells), "modes": int(columns) - 1, "template": int(arrays["template_CT3"].shape[1])}


def shape_model_of(arrays: dict) -> ShapeModel:
    model = ShapeModel(len(arrays["known_C"]), **sizes_of(arrays))
    model.load(arrays)
    return model
