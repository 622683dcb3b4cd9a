"""2,000 spoiled files through every reader of users' files: the right result, or one line that names the file.

A result is compared with what nibabel and SimpleITK make of the same file, where they read it. Nothing else may come
out: no other error, no warning, no print, no memory beyond a bound, no wait. A failing case is made again by its
number: `case_of(NUMBER)`.
"""

import gzip
import json
import resource
import signal
import sys
import time
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from helpers import fuzzed_files
from helpers.ball_cases import ball_case

from vecset.common import memory
from vecset.common.errors import InputError
from vecset.data.case_file import read_case, write_case
from vecset.data.listed_case import CASE_FILE, ListedCase, read_split
from vecset.imaging import file_content
from vecset.imaging.header_geometry import UNITS, farthest_shift
from vecset.imaging.label_map import read_label_map, write_label_map
from vecset.imaging.label_mapping import LabelMapping
from vecset.inference.inputs import load_heart
from vecset.sparse.point_cloud import is_point_cloud, read_point_cloud

SEED = 20261127
COUNTS = {  # of files of each kind: 2,000
    "nii": 340,
    "nii.gz": 340,
    "nrrd": 340,
    "mha": 300,
    "case.npz": 220,
    "cloud.npz": 120,
    "ply": 120,
    "csv": 110,
    "json": 110,
}
PARTS = 4
MAKERS = {
    "nii": fuzzed_files.nifti,
    "nii.gz": fuzzed_files.nifti_gz,
    "nrrd": fuzzed_files.nrrd,
    "mha": fuzzed_files.meta_image,
    "cloud.npz": fuzzed_files.cloud_npz,
    "ply": fuzzed_files.cloud_ply,
    "csv": fuzzed_files.table,
    "json": fuzzed_files.mapping,
}
FREE = 64 << 20  # bytes of memory that the readers are told are free
GROWTH = 600 << 20  # by which the process may grow over a part
SECONDS = 20  # for one file
NAMES = fuzzed_files.NAMES
OPTIONS = (dict(), dict(spacing_from="pixdim"), dict(geometry_from="sform"), dict(geometry_from="qform"))


def kind_of(number):
    for kind, count in COUNTS.items():
        if number < count:
            return kind
        number -= count
    raise IndexError(number)


def case_of(number, sound_case=None):
    """(kind, bytes, words that say what was changed, the rng after that) of file `number`."""
    rng, words, kind = np.random.default_rng([SEED, number]), [], kind_of(number)
    if kind == "case.npz":
        arrays = dict(sound_case)
        if rng.random() < 0.4:
            arrays["meta"] = fuzzed_files.odd_meta(rng, str(arrays["meta"]), words)
        return kind, fuzzed_files.arrays_to_npz(rng, arrays, words), words, rng
    return kind, MAKERS[kind](rng, words), words, rng


@pytest.fixture(scope="module")
def sound_cases(tmp_path_factory):
    """The folder of three case files, and the members of one of them."""
    folder = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate("abc"):
        case = ball_case(seed, rows=60)
        case.meta["class_names"] = NAMES
        write_case(folder / f"{name}.npz", case)
    with np.load(folder / "a.npz") as archive:
        return folder, {name: archive[name] for name in archive.files}


def read(kind, path, rng, folder):
    """What the project makes of the file: (result, the options it was read with)."""
    if kind in ("nii", "nii.gz", "nrrd", "mha"):
        options = OPTIONS[int(rng.choice([0, 0, 0, 1, 2, 3]))]
        return read_label_map(path, 3, **options), options
    if kind == "case.npz":
        is_point_cloud(path)
        whole = read_case(path)
        case = load_heart(ListedCase("x", path, CASE_FILE), NAMES)
        if case.truth_crop is not None and case.truth_origin is not None:
            case.truth_labels()
        return whole, {}
    if kind in ("cloud.npz", "ply"):
        is_point_cloud(path)
        return read_point_cloud(path, NAMES), {}
    if kind == "csv":
        return read_split(path, folder, 3), {}
    return LabelMapping.load(path, 3), {}


def data_start(path, kind):
    """The header of a NIfTI file, as it is."""
    data = gzip.decompress(path.read_bytes()) if kind.endswith("gz") else path.read_bytes()
    return data[: 540 if 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")) else 348]


def itk_read(path):
    """(values, affine in RAS+) by SimpleITK, None where it does not read the file."""
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if np.prod([float(n) for n in reader.GetSize()]) > 1e6:
            return None
        image = reader.Execute()
    except RuntimeError:
        return None
    if image.GetDimension() < 3 or image.GetNumberOfComponentsPerPixel() != 1:
        return None
    affine, n = np.eye(4), image.GetDimension()
    affine[:3, :3] = np.array(image.GetDirection()).reshape(n, n)[:3, :3] * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def check_image(kind, path, found, options):
    """Compares a LabelMap with what the libraries read, and what is written from it with itself."""
    shape = found.labels.shape
    if kind.startswith("nii"):
        try:
            image = nib.load(path)
            values = np.asanyarray(image.dataobj).reshape(shape)
        except Exception:
            image = None  # nibabel does not read it (a quaternion that is too long): ITK may
        if image is not None:
            np.testing.assert_array_equal(found.labels, np.rint(values).astype(int))
            code = int(image.header["xyzt_units"]) & 7
            scale = UNITS.get(code, (1.0, ""))[0]
            forms = [image.affine] if not options else [image.affine, image.header.get_sform(), _qform(image.header)]
            places = [np.diag([scale, scale, scale, 1]) @ form for form in forms if form is not None]
            if options.get("spacing_from"):
                places += [_spaced(p, np.array(image.header.get_zooms()[:3], float) * scale) for p in places]
            shift = min(farthest_shift(found.affine, place, shape) for place in places)
            assert shift <= 0.01, f"{shift} voxels from nibabel's place"
        placed = found.geometry["sform_code"] or found.geometry["qform_code"]
        start = data_start(path, kind)
        if len(start) in (348, 540):  # ITK adds the intercept where there is no slope, against the standard
            raw = (nib.Nifti1Header if len(start) == 348 else nib.Nifti2Header)(start, check=False)
            placed = placed and (np.nan_to_num(raw["scl_slope"]) != 0 or np.nan_to_num(raw["scl_inter"]) == 0)
    else:
        placed = True
    itk = itk_read(path)
    if itk is not None and itk[0].reshape(-1).shape == found.labels.reshape(-1).shape and placed and not options:
        np.testing.assert_array_equal(found.labels, np.rint(itk[0].reshape(shape)).astype(int))
        shift = farthest_shift(found.affine, itk[1], shape)
        unit = any("converted to mm" in note for note in found.notes) and not kind.startswith("nii")  # ITK leaves these
        assert unit or shift <= 0.5, f"{shift} voxels from ITK's place"
    out = path.with_name("out.nii.gz")
    geometry = json.loads(json.dumps(found.geometry, allow_nan=False))
    write_label_map(out, found.labels, found.affine, NAMES, geometry)
    places = [nib.load(out).affine]
    if not isinstance(nib.load(out), nib.Nifti2Image):  # ITK does not read NIfTI 2
        places.append(itk_read(out)[1])
    for place in places:
        assert farthest_shift(found.affine, place, shape) <= 0.05, "written at another place"


def _qform(header):
    """The qform with a quaternion of length 1 at most, where nibabel reads it then."""
    header = header.copy()
    bcd = np.array([header[f"quatern_{n}"] for n in "bcd"], float)
    if 1 < np.linalg.norm(bcd) < 1.01:
        for n, value in zip("bcd", bcd / np.linalg.norm(bcd) * (1 - 1e-7)):
            header[f"quatern_{n}"] = value
    try:
        return header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None


def _spaced(affine, spacing):
    with np.errstate(all="ignore"):
        affine = affine.copy()
        affine[:3, :3] *= spacing / np.linalg.norm(affine[:3, :3], axis=0)
    return affine


def check_result(kind, path, found, options, words, sound):
    if kind in ("nii", "nii.gz", "nrrd", "mha"):
        check_image(kind, path, found, options)
    elif kind == "case.npz":
        changed = " ".join(words)
        for name, array in found.arrays.items():
            if name not in changed and "at" not in changed:
                np.testing.assert_array_equal(array, sound[name])
    elif kind in ("cloud.npz", "ply"):
        points = found.frame.unit_to_mm(found.surface_points)
        assert np.isfinite(points).all() and 1 <= np.ptp(points, axis=0).max() <= 1000
        assert set(np.unique(found.surface_labels)) <= {1, 2, 3}
    elif kind == "csv":
        assert all(case.path.is_file() and len(case.class_names) == 3 for case in found)
    else:
        assert set(found.value_to_class.values()) <= {1, 2, 3} and len(found.class_names) == 3


def on_alarm(*_):
    raise TimeoutError(f"more than {SECONDS} s")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_spoiled_files(tmp_path, monkeypatch, capfd, sound_cases, part):
    folder, sound = sound_cases
    for module in (memory, file_content):
        monkeypatch.setattr(module, "available_bytes", lambda: FREE)
    before = signal.signal(signal.SIGALRM, on_alarm)
    started, grown, results, refused = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    failed = []
    try:
        for number in range(part, sum(COUNTS.values()), PARTS):
            kind, data, words, rng = case_of(number, sound)
            path = tmp_path / f"f{number}.{kind.removeprefix('case.').removeprefix('cloud.')}"
            path.write_bytes(data)
            sys.stderr.flush()
            capfd.readouterr()
            try:
                signal.alarm(SECONDS)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    try:
                        found, options = read(kind, path, rng, folder)
                    except InputError as error:
                        line, found = str(error), None
                        assert "\n" not in line and (path.name in line or kind == "csv"), f"the line is {line!r}"
                        refused += 1
                printed = capfd.readouterr()
                assert not printed.out and not printed.err, f"printed {printed.out[:200]}{printed.err[:200]}"
                if found is not None:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        check_result(kind, path, found, options, words, sound)
                    results += 1
            except Exception as error:
                failed.append(
                    f"seed {SEED} number {number} ({kind}; {', '.join(words)}): {type(error).__name__}: {error}"
                )
            finally:
                signal.alarm(0)
            for left in tmp_path.iterdir():
                left.unlink()
    finally:
        signal.signal(signal.SIGALRM, before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) * 1024
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:40])
    assert grown < GROWTH, f"the process grew by {grown >> 20} MiB"
    assert results > 80 and refused > 150, f"{results} results, {refused} refused: too few of one of them to mean much"
    assert time.monotonic() - started < 600
