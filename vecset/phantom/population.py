"""A population of synthetic hearts in a folder: phantom_0000.nii.gz, ... and phantoms.json, its seed and options."""

import json
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from vecset.common.atomic import atomic_path, remove_leftovers, write_text
from vecset.common.errors import InputError
from vecset.common.workers import map_files
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.phantom.phantom import PhantomOptions, encode_nifti, make_phantom

POPULATION = "vecsetx-heart phantoms/4"  # changes whenever the same options give another heart
SIXTEEN_VERSION = 1  # changes whenever the same options give other cavae, sinus or walls to the same heart
SIDECAR = "phantoms.json"
NAME = re.compile(r"phantom_\d{4,}\.nii\.gz")


def make_population(folder: Path, count: int, seed: int, options: PhantomOptions, workers: int = 1) -> int:
    """Makes those of the hearts 0 .. count-1 of the population `seed` that are not in `folder` yet, and prints how
    many. Returns how many failed. With one worker they are made in this process. Raises InputError where `folder`
    holds phantoms of unknown origin."""
    record = {"population": POPULATION, "seed": seed, **asdict(options), "class_names": HEART_CLASSES}
    if options.structures == 10:
        del record["structures"]  # the records of ten structures stay as they are
    else:
        record["class_names"], record["structures_version"] = HEART16_CLASSES, SIXTEEN_VERSION
    _prepare_folder(folder, json.loads(json.dumps(record)))
    missing = [i for i in range(count) if not _path(folder, i).exists()]

    def tell(index, error):
        if error is not None:
            from tqdm import tqdm

            tqdm.write(f"error: {error}", file=sys.stderr)
        return error

    # the first heart in this process: it compiles the rasteriser once and leaves it in the cache for the workers
    processes = min(workers, len(missing) - 1)
    results = map_files(
        partial(_make, folder, seed, options),
        missing,
        processes if processes > 1 else 0,
        lambda index: (
            f"phantom {index}: its process was killed, most likely for want of memory; use fewer "
            "--file_workers or a machine with more memory"
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
    return failed


def _path(folder, index):
    return folder / f"phantom_{index:04d}.nii.gz"


def _make(folder, seed, options, index):
    """Writes one heart. Returns None, or the InputError that says why it cannot be made."""
    try:
        names = None if options.structures == 10 else HEART16_CLASSES
        content = encode_nifti(*make_phantom(seed, index, options), names)
    except InputError as error:
        return error
    with atomic_path(_path(folder, index)) as temporary:
        temporary.write_bytes(content)
    return None


def _prepare_folder(folder, record):
    """Makes `folder` ready for hearts of `record`: removes the hearts that other options made, and only those."""
    folder.mkdir(parents=True, exist_ok=True)
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
    elif there:
        raise InputError.because(
            folder,
            "there are phantoms without phantoms.json, so not made by make_phantoms.py",
            "give another --output_dir or remove them",
        )
    write_text(sidecar, json.dumps(record, indent=1, sort_keys=True) + "\n")
