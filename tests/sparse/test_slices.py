"""Hearts in planes: which slices a file holds, what is seen of an ellipsoid and of a phantom, what is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial import cKDTree

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.data.label_folder import Selection
from vecset.data.preparation import Options, build_case
from vecset.imaging.label_map import LabelMap, read_label_map, write_label_map
from vecset.inference.inputs import find_hearts, input_sha256, load_heart
from vecset.items.observation import Observation, Slices, frame_of_seen
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.sparse.slices import planes_of, slice_folders, slices_case

NAMES = ["Myocardium", "LA", "LV"]
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
MIDDLE, RADII = np.array([12.0, -30.0, 55.0]), np.array([30.0, 22.0, 40.0])


def ellipsoid(affine, shape):
    """Labels (X, Y, Z): 2 inside an ellipsoid along the patient's axes, 1 in its half x < 12."""
    mm = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inside = (((mm - MIDDLE) / RADII) ** 2).sum(-1) < 1
    return np.where(inside, np.where(mm[..., 0] < MIDDLE[0], 1, 2), 0).astype(np.uint8)


def stack(axes, spacing_mm, shape):
    """An affine whose grid is centred on the ellipsoid."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = MIDDLE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def as_label_map(labels, affine, name="heart.nii.gz"):
    return LabelMap(labels, affine, Path(name), "", NAMES, [1, 2, 3], affine)


@pytest.mark.parametrize("across", [0, 1, 2])
@pytest.mark.parametrize("axes", [np.eye(3), TURN, TURN * [-1, 1, -1]], ids=["along", "oblique", "flipped"])
def test_contours_of_a_stack_lie_on_the_ellipsoid(axes, across):
    """Whatever the axis of the slices: each point lies in a slice, and on the ellipsoid or on its inner wall."""
    spacing_mm, shape = np.full(3, 1.4), np.full(3, 70)
    spacing_mm[across], shape[across] = 10.0, 11
    affine = stack(axes, spacing_mm, shape)
    label_map = as_label_map(ellipsoid(affine, shape), affine)
    planes = planes_of(label_map)
    assert len(planes) == 11 and all(plane.labels.shape == (70, 70) for plane in planes)
    case = slices_case(label_map.path, [label_map], NAMES)
    points = case.frame.unit_to_mm(case.surface_points)
    voxel = case.frame.mm_to_voxel(points)
    assert np.abs(voxel[:, across] - voxel[:, across].round()).max() < 1e-3
    scaled = (points - MIDDLE) / RADII
    slope = np.linalg.norm(scaled / RADII, axis=1) / np.linalg.norm(scaled, axis=1)
    away = np.minimum(
        np.abs(np.linalg.norm(scaled, axis=1) - 1) / slope, np.abs(points[:, 0] - MIDDLE[0])
    )  # mm, to first order
    assert np.median(away) < 0.4 and np.quantile(away, 0.95) < 1.4
    assert case.states.tolist() == [State.CUT, State.CUT, State.UNKNOWN]
    assert case.frame.shape == tuple(shape) and np.allclose(case.frame.affine, affine)
    assert case.in_slices and case.truth_crop is None and case.whole is None
    np.testing.assert_allclose(np.linalg.norm(case.surface_points, axis=1).max(), 0.95, atol=0.01)
    assert "11 slices: Myocardium, LA" in case.notes[-1]


def test_contours_agree_with_the_surface_that_training_sees():
    """A phantom's slices against its surface near the same planes, as training shows it: places, shares of the
    classes, frame."""
    labels, affine = make_phantom(0, 1, PhantomOptions((64,) * 3))
    spacing_mm = np.linalg.norm(affine[:3, 2])
    every = int(round(10 / spacing_mm))
    thick = affine.copy()
    thick[:3, 2] *= every
    names = [f"c{c}" for c in range(1, 11)]
    whole, shown = (
        LabelMap(np.ascontiguousarray(part), at, Path("x.nii.gz"), "", names, list(range(1, 11)), at)
        for part, at in ((labels, affine), (labels[:, :, ::every], thick))
    )
    case, mine = build_case(whole, Options(50000, 2, 2)), slices_case(shown.path, [shown], names)
    planes, frame = planes_of(shown), case.frame
    normals = np.array([plane.normal for plane in planes])
    offsets = np.array([frame.mm_to_unit(plane.origin_mm) @ plane.normal for plane in planes])
    seen = Slices(normals, offsets, 0.75 * frame.scale, np.zeros((len(planes), 3)))
    rows, places = Observation(np.ones(10, bool), slices=seen).see(case.surface_points, case.surface_labels)
    theirs, their_labels = frame.unit_to_mm(places), case.surface_labels[rows]
    ours, our_labels = mine.frame.unit_to_mm(mine.surface_points), mine.surface_labels
    assert set(np.unique(their_labels)) == set(np.unique(our_labels)) == set(range(1, 11))
    for c in range(1, 11):
        a, b = theirs[their_labels == c], ours[our_labels == c]
        away = cKDTree(b).query(a)[0]  # where a surface is nearly parallel to the plane, much of it lies near the plane
        assert np.median(away) < 0.25 * spacing_mm and np.quantile(away, 0.95) < 1.25 * spacing_mm
        assert np.quantile(cKDTree(a).query(b)[0], 0.95) < spacing_mm  # these are few, and far from each other
        assert len(b) / len(ours) == pytest.approx(len(a) / len(theirs), abs=0.02)
    centre, factor = frame_of_seen(places)
    np.testing.assert_allclose(mine.frame.centre_mm, frame.unit_to_mm(centre), atol=0.3)
    assert mine.frame.scale == pytest.approx(frame.scale * float(factor), rel=0.01)


# --- folders of slices


def write_2d(path, labels, affine):
    """A 2D NIfTI: its header has two axes, its sform places it in 3D."""
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)


def slices_folder(folder, flat=False, count=5):
    """Some slices of the ellipsoid along z, one through its axis and across, each a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, z in enumerate(np.linspace(-30, 30, count)):
        affine = stack(np.eye(3), (1.4, 1.4, 8.0), (70, 66, 1))
        affine[2, 3] += z
        labels = ellipsoid(affine, (70, 66, 1))
        if flat:
            write_2d(folder / f"sa{n}.nii.gz", labels[..., 0], affine)
        else:
            write_label_map(folder / f"sa{n}.nii.gz", labels, affine)
    affine = stack(np.eye(3)[:, [0, 2, 1]], (1.4, 1.4, 8.0), (70, 80, 1))
    write_label_map(folder / "long.nii.gz", ellipsoid(affine, (70, 80, 1)), affine)
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_of_slices_is_one_heart(tmp_path, flat):
    folder = slices_folder(tmp_path / "anna", flat)
    (heart,) = find_hearts(folder, slices="folder")
    assert heart.case_id == "anna" and len(heart.files) == 6
    case = load_heart(heart, NAMES, slices="folder", spacing_mm=2.0)
    assert len(case.planes) == 6 and case.meta["slices"] == {"planes": 6}
    assert "; where two files show one place, 100% of it is the same structure in both; " in case.notes[-1]
    points = case.frame.unit_to_mm(case.surface_points)
    in_sa = np.abs(points[:, 2, None] - MIDDLE[2] - np.linspace(-30, 30, 5)).min(1) < 1e-3
    assert (in_sa | (np.abs(points[:, 1] - MIDDLE[1]) < 1e-3)).all() and 0.3 < in_sa.mean() < 0.9
    np.testing.assert_allclose(points.max(0), MIDDLE + RADII, atol=8.0)
    np.testing.assert_allclose(case.frame.spacing_mm, 2.0)
    first, last = (case.frame.voxel_to_mm(at) for at in (np.zeros(3), np.array(case.frame.shape) - 1))
    assert (first <= points.min(0) - 14.9).all() and (last >= points.max(0) + 14.9).all()
    given = load_heart(heart, NAMES, slices="folder", given=["LA"])
    assert given.states.tolist() == [State.UNKNOWN, State.CUT, State.UNKNOWN]
    assert given.whole.states.tolist() == [State.CUT, State.CUT, State.UNKNOWN]
    assert set(np.unique(given.surface_labels)) == {2} and given.frame.centre_mm[0] > case.frame.centre_mm[0] + 10
    before = input_sha256(heart)
    (folder / "long.nii.gz").rename(folder / "other.nii.gz")
    assert input_sha256(find_hearts(folder, slices="folder")[0]) != before


def test_stacks_and_slices_of_one_folder_belong_together(tmp_path):
    folder = slices_folder(tmp_path / "x", count=1)
    affine = stack(np.eye(3)[:, [2, 1, 0]], (1.4, 1.4, 9.0), (80, 60, 7))
    write_label_map(folder / "stack.nii.gz", ellipsoid(affine, (80, 60, 7)), affine)
    empty = affine.copy()
    empty[:3, 3] += [200, 0, 0]
    write_label_map(folder / "empty.nii.gz", np.zeros((80, 60, 1), np.uint8), empty)
    case = load_heart(find_hearts(folder, slices="folder")[0], NAMES, slices="folder")
    assert case.meta["slices"] == {"planes": 1 + 1 + 7 + 1}


def test_folders_of_hearts(tmp_path):
    for name in ("b", "a/inner"):
        slices_folder(tmp_path / name, count=2)
    (tmp_path / "b" / "notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    assert [h.case_id for h in slice_folders(tmp_path)] == ["b"]
    assert [h.case_id for h in slice_folders(tmp_path, Selection(True))] == ["a_inner", "b"]
    (heart,) = slice_folders(tmp_path, Selection(False, "sa*"))
    assert [p.name for p in heart.files] == ["sa0.nii.gz", "sa1.nii.gz"]
    (tmp_path / "list.csv").write_text("case_id,file\nfirst,a/inner\nsecond,b\n")
    found = find_hearts(tmp_path / "list.csv", slices="folder")
    assert [(h.case_id, len(h.files)) for h in found] == [("first", 3), ("second", 3)]
    (tmp_path / "list.csv").write_text("case_id,file\nfirst,a\n")
    with pytest.raises(InputError, match="no label maps directly in it"):
        find_hearts(tmp_path / "list.csv", slices="folder")
    with pytest.raises(InputError, match="neither it nor a folder in it holds label maps"):
        slice_folders(tmp_path / ".hidden")


# --- what is refused


def shifted_twin(folder):
    write_label_map(folder / "frame12.nii.gz", *_read(folder / "sa1.nii.gz"))


def _read(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def volume(folder):
    affine = stack(np.eye(3), (2, 2, 2.2), (40, 40, 40))
    write_label_map(folder / "ct.nii.gz", ellipsoid(affine, (40, 40, 40)), affine)


def line(folder):
    write_label_map(folder / "line.nii.gz", np.ones((1, 9, 1), np.uint8), np.diag([1, 1, 8, 1.0]))


def out_of_range(folder):
    labels = np.arange(81, dtype=np.uint8).reshape(9, 9, 1) % 8
    write_label_map(folder / "wrong.nii.gz", labels, np.diag([1, 1, 8, 1.0]))


def without_place(folder):
    image = nib.Nifti1Image(np.ones((9, 9, 1), np.uint8), None)
    image.header["pixdim"][1:4] = 1.4
    nib.save(image, folder / "lost.nii.gz")


def another_table(folder):
    labels, affine = _read(folder / "sa1.nii.gz")
    affine[2, 3] += 3
    write_label_map(folder / "named.nii.gz", labels, affine, ["LA", "Myocardium", None])


def another_heart(folder):
    for path in list(folder.glob("*.nii.gz")):
        labels, affine = _read(path)
        affine[:3, 3] += [60, 20, 3]
        write_label_map(folder / f"b_{path.name}", labels, affine)


REFUSED = {
    "another heart": (another_heart, r"its files are not of one heart: .* contradict each other: of the places"),
    "the same plane twice": (shifted_twin, "frame12.nii.gz and sa1.nii.gz show the same plane"),
    "a volume": (volume, r"ct.nii.gz: its voxels are 2 x 2 x 2.2 mm: a volume, and no stack of slices"),
    "a line": (line, "line.nii.gz: 1 x 9 x 1 voxels"),
    "another value": (out_of_range, "wrong.nii.gz: expected labels 0..3"),
    "no place": (without_place, "lost.nii.gz: its header states neither sform nor qform"),
    "another table": (another_table, "value 1 is Myocardium in long.nii.gz, but LA in named.nii.gz"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_slices_that_do_not_belong_together_are_refused(tmp_path, kind):
    folder = slices_folder(tmp_path / "anna", count=2)
    make, words = REFUSED[kind]
    make(folder)
    with pytest.raises(InputError, match=words) as error:
        load_heart(find_hearts(folder, slices="folder")[0], NAMES, slices="folder")
    assert "\n" not in str(error.value)


def test_a_single_file_must_be_a_stack_with_a_structure(tmp_path):
    path = slices_folder(tmp_path / "a", count=1) / "long.nii.gz"
    with pytest.raises(InputError, match="one slice only; put the slices of a heart into one folder"):
        load_heart(find_hearts(path)[0], NAMES, slices="file")
    affine = np.diag([1.4, 1.4, 10, 1])
    write_label_map(path, np.zeros((9, 9, 5), np.uint8), affine)
    with pytest.raises(InputError, match="no structure in any of its 5 slices"):
        load_heart(find_hearts(path)[0], NAMES, slices="file")
    write_label_map(path, np.ones((9, 9, 5), np.uint8), affine)
    with pytest.raises(InputError, match="fill the slices to their rims"):
        load_heart(find_hearts(path)[0], NAMES, slices="file")
    with pytest.raises(InputError, match="--given: class 3"):
        labels = np.zeros((9, 9, 5), np.uint8)
        labels[3:6, 3:6] = 1
        write_label_map(path, labels, affine)
        load_heart(find_hearts(path)[0], NAMES, slices="file", given=["LV"])


def test_a_2d_image_is_a_slice_only_where_slices_are_asked_for(tmp_path):
    folder = slices_folder(tmp_path / "a", flat=True, count=1)
    with pytest.raises(InputError, match="one slice"):
        read_label_map(folder / "sa0.nii.gz", 3)
    assert read_label_map(folder / "sa0.nii.gz", 3, as_slices=True).labels.shape == (70, 66, 1)
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(np.ones((9, 9), np.uint8)), str(tmp_path / "flat.mha"))
    with pytest.raises(InputError, match="no place in 3D"):
        read_label_map(tmp_path / "flat.mha", 3, as_slices=True)


@pytest.mark.parametrize("third", ["pixdim", "sform"])
def test_a_2d_header_may_leave_out_the_third_axis(tmp_path, third):
    """pixdim 0 along the axis that a 2D image has not, or a column of zeros in its sform."""
    path = slices_folder(tmp_path / "a", flat=True, count=1) / "sa0.nii.gz"
    image = nib.load(path)
    labels, affine = np.asanyarray(image.dataobj), image.affine
    out = nib.Nifti1Image(labels, affine)
    out.header["sform_code"], out.header["qform_code"] = 1, 0
    rows = affine.copy()
    if third == "sform":
        rows[:3, 2] = 0
    out.header["srow_x"], out.header["srow_y"], out.header["srow_z"] = rows[:3]
    out.header["pixdim"][3] = 0
    out.header["vox_offset"], out.header["magic"] = 352, b"n+1"
    with open(tmp_path / "flat.nii", "wb") as handle:
        handle.write(out.header.binaryblock + b"\0" * 4 + labels.tobytes(order="F"))
    found = read_label_map(tmp_path / "flat.nii", 3, as_slices=True)
    np.testing.assert_allclose(found.affine[:3, :2], affine[:3, :2], atol=1e-5)
    assert abs(found.affine[:3, 2] @ affine[:3, :2]).max() < 1e-4 and np.linalg.norm(found.affine[:3, 2]) > 0
