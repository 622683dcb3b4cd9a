"""A population of synthetic hearts in a folder: phantom_0000.nii.gz, ... and phantoms.json, its seed and options.

With defects, the hearts without them are in the sub-folder `clean`, by the same names, and defects.csv says what each
heart has. A heart counts as done where its own file, its clean one and its rows are there.
"""

import contextlib
import csv
import io
import json
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from vecset.common.atomic import atomic_path, remove_leftovers, write_text
from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.common.workers import map_files
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.phantom.defects import VERSION as DEFECTS_VERSION
from vecset.phantom.defects import Defect, add_defects, draws_any
from vecset.phantom.phantom import PhantomOptions, encode_nifti, make_phantom
from vecset.phantom.variation import VERSION as VARIATION_VERSION

POPULATION = "vecsetx-heart phantoms/4"  # changes whenever the same options give another heart
SIXTEEN_VERSION = 1  # changes whenever the same options give other cavae, sinus or walls to the same heart
SIDECAR = "phantoms.json"
NAME = re.compile(r"phantom_\d{4,}\.nii\.gz")
CLEAN = "clean"  # folder of the hearts without their defects
DEFECTS = "defects.csv"
COLUMNS = ("heart", "kind", "structure", "grade", "changed_voxels")


def make_population(
    folder: Path,
    count: int,
    seed: int,
    options: PhantomOptions,
    workers: int = 1,
    defects: dict[str, float] | None = None,
) -> int:
    """Makes those of the hearts 0 .. count-1 of the population `seed` that are not in `folder` yet, and prints how
    many. Returns how many failed. With one worker they are made in this process. `defects`: {kind: share of the hearts
    that get it} (defects.py). Raises InputError where `folder` holds phantoms of unknown origin."""
    defects = {kind: share for kind, share in (defects or {}).items() if share > 0}
    record = {"population": POPULATION, "seed": seed, **asdict(options), "class_names": HEART_CLASSES}
    if options.structures == 10:
        del record["structures"]  # the records of ten structures stay as they are
    else:
        record["class_names"], record["structures_version"] = HEART16_CLASSES, SIXTEEN_VERSION
    if options.variation:
        record["variation_version"] = VARIATION_VERSION
    else:
        del record["variation"]  # the records of hearts as they are drawn stay as they are
    if defects:
        record.update(defects=defects, defects_version=DEFECTS_VERSION)
    _prepare_folder(folder, json.loads(json.dumps(record)))
    rows = _read_rows(folder) if defects else {}

    def done(index):
        with_defect = draws_any(seed, index, defects)
        beside = not defects or _path(folder / CLEAN, index).exists()
        return _path(folder, index).exists() and beside and (not with_defect or _path(folder, index).name in rows)

    missing = [i for i in range(count) if not done(i)]

    def tell(index, result):
        from tqdm import tqdm

        error, made, lines = result
        if error is not None:
            tqdm.write(f"error: {error}", file=sys.stderr)
        for line in lines:
            tqdm.write(f"note: {_path(folder, index).name}: {line}", file=sys.stderr)
        if made:
            rows[_path(folder, index).name] = [_row(defect, record["class_names"]) for defect in made]
            _write_rows(folder, rows)
        return error

    # the first heart in this process: it compiles the rasteriser once and leaves it in the cache for the workers
    processes = min(workers, len(missing) - 1)
    results = map_files(
        partial(_make, folder, seed, options, defects),
        missing,
        processes if processes > 1 else 0,
        lambda index: (
            f"phantom {index}: its process was killed, most likely for want of memory; use fewer "
            "--file_workers or a machine with more memory",
            [],
            [],
        ),
        tell,
        here_first=True,
        desc="phantoms",
        unit="heart",
        smoothing=0.1,
        disable=not missing,
    )
    failed = sum(error is not None for error in results.values())
    made, there = len(missing) - failed, count - len(missing)
    print(f"{folder}: {made} hearts made, {there} were there, {failed} failed")
    if defects:
        _write_rows(folder, rows)  # also where no heart has a defect
        print(f"{folder / DEFECTS}: {sum(map(len, rows.values()))} defects in {len(rows)} hearts")
    return failed


def _path(folder, index):
    return folder / f"phantom_{index:04d}.nii.gz"


def _make(folder, seed, options, defects, index):
    """Writes one heart, with `defects` after its clean one. Returns None, or the InputError that says why it cannot be
    made; the Defects in it; and a line for each that cannot be made."""
    names = None if options.structures == 10 else HEART16_CLASSES
    made, lines = [], []
    try:
        labels, affine = make_phantom(seed, index, options)
    except InputError as error:
        return error, [], []
    if defects:
        _write(_path(folder / CLEAN, index), labels, affine, names)
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        labels, made, lines = add_defects(labels, spacing_mm, seed, index, defects)
    _write(_path(folder, index), labels, affine, names)
    return None, made, lines


def _write(path, labels, affine, names):
    content = encode_nifti(labels, affine, names)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _row(defect: Defect, class_names):
    return [defect.kind, class_names[defect.structure - 1], f"{defect.grade:.4f}", str(defect.voxels)]


def _read_rows(folder):
    """{name of the heart's file: its rows without that name} of defects.csv, for hearts whose files are there; none
    where the file is missing or not what `_write_rows` wrote."""
    rows = {}
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError, csv.Error):
        read = list(csv.reader((folder / DEFECTS).read_text(encoding="utf-8").splitlines()))
        if read[:1] == [list(COLUMNS)] and all(len(row) == len(COLUMNS) for row in read):
            for name, *row in read[1:]:
                if (folder / name).exists():
                    rows.setdefault(name, []).append(row)
    return rows


def _write_rows(folder, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([name, *row] for name in sorted(rows, key=natural_key) for row in rows[name])
    write_text(folder / DEFECTS, text.getvalue())


def _prepare_folder(folder, record):
    """Makes `folder` ready for hearts of `record`: removes the hearts that other options made, and only those."""
    folder.mkdir(parents=True, exist_ok=True)
    if "defects" in record:
        (folder / CLEAN).mkdir(exist_ok=True)
        remove_leftovers(folder / CLEAN)
    remove_leftovers(folder)
    sidecar = folder / SIDECAR
    there = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    if sidecar.exists():
        try:
            before = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != record:
            for path in there:
                path.unlink()
            if isinstance(before, dict) and "defects" in before:
                _remove_truths(folder, keep_folder="defects" in record)
    elif there:
        raise InputError.because(
            folder,
            "there are phantoms without phantoms.json, so not made by make_phantoms.py",
            "give another --output_dir or remove them",
        )
    write_text(sidecar, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _remove_truths(folder, keep_folder):
    """Removes what was made beside hearts with defects; the folder itself only where nothing else is in it."""
    (folder / DEFECTS).unlink(missing_ok=True)
    if (folder / CLEAN).is_dir():
        for path in (folder / CLEAN).iterdir():
            if NAME.fullmatch(path.name):
                path.unlink()
        if not keep_folder and not any((folder / CLEAN).iterdir()):
            (folder / CLEAN).rmdir()
