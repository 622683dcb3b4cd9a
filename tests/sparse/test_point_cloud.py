"""Point clouds that are no heart in mm, or damaged: one line that names the file."""

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.sparse.point_cloud import is_point_cloud, read_point_cloud

NAMES = ["a", "b", "c"]


def ball(count=200, radius_mm=40.0, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return radius_mm * points / np.linalg.norm(points, axis=1, keepdims=True), np.arange(count) % 3 + 1


def write(path, points, labels, binary=True):
    if path.suffix == ".npz":
        np.savez(path, points_mm=points, labels=labels)
        return path
    names = ["x", "y", "z"]
    header = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", f"element vertex {len(points)}"]
    header += [f"property double {n}" for n in names] + ["property uchar label", "end_header", ""]
    rows = np.zeros(len(points), [(n, "<f8") for n in names] + [("label", "u1")])
    for n, column in zip(names, points.T):
        rows[n] = column
    rows["label"] = labels
    body = rows.tobytes() if binary else "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode() + b"\n"
    path.write_bytes("\n".join(header).encode() + body)
    return path


def with_point(value):
    points, labels = ball()
    points[7] = value
    return points, labels


CLOUDS = {
    "metre": (lambda: (ball()[0] / 1000, ball()[1]), "0.07949 mm long.*metres"),
    "micrometre": (lambda: (ball()[0] * 1000, ball()[1]), "mm is not its unit.*micrometres"),
    "one far": (lambda: with_point((1e9, 0, 0)), r"point number 7 \(1e\+09, 0, 0\) lies 1e\+09 mm from the others"),
    "largest number": (lambda: with_point((1e300, 0, 0)), "point number 7"),
    "nan": (lambda: with_point((np.nan, 0, 0)), "1 of its points are not finite, the first is number 7: nan, 0, 0"),
    "infinite": (lambda: with_point((0, -np.inf, 0)), "not finite.*-inf"),
    "far away": (lambda: (ball()[0] + 1e7, ball()[1]), r"1e\+04 m from the origin"),
    "all the same": (lambda: (np.ones((200, 3)), ball()[1]), "not all the same"),
    "label above": (lambda: (ball()[0], np.full(200, 4)), r"labels 1..3"),
    "label 0": (lambda: (ball()[0], np.zeros(200)), r"labels 1..3"),
}


@pytest.mark.parametrize("suffix", ["npz", "ply"])
@pytest.mark.parametrize("kind", CLOUDS)
def test_what_is_no_heart_in_mm_is_refused(tmp_path, kind, suffix):
    make, words = CLOUDS[kind]
    path = write(tmp_path / f"cloud.{suffix}", *make())
    with pytest.raises(InputError, match=words) as error:
        read_point_cloud(path, NAMES)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["npz", "ply"])
@pytest.mark.parametrize("radius_mm", [1.5, 40.0, 120.0])
def test_hearts_of_all_sizes_are_read(tmp_path, suffix, radius_mm):
    points, labels = ball(radius_mm=radius_mm)
    case = read_point_cloud(write(tmp_path / f"cloud.{suffix}", points, labels), NAMES)
    np.testing.assert_allclose(case.frame.unit_to_mm(case.surface_points), points, atol=1e-4)
    np.testing.assert_array_equal(case.surface_labels, labels)


@pytest.mark.parametrize("name", ["cloud.npz", "binary.ply", "ascii.ply"])
def test_truncated_anywhere_is_refused(tmp_path, name):
    path = write(tmp_path / name, *ball(), binary="ascii" not in name)
    whole = path.read_bytes()
    for length in (0, 10, 60, 140, 200, len(whole) // 2, len(whole) - 30, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        if name == "ascii.ply" and length == len(whole) - 1:
            continue  # the last line end
        with pytest.raises(InputError) as error:
            read_point_cloud(path, NAMES)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_npz_is_refused(tmp_path):
    path = write(tmp_path / "cloud.npz", *ball())
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert is_point_cloud(path)
    with pytest.raises(InputError, match="cloud.npz.*checksum"):
        read_point_cloud(path, NAMES)


def test_members_of_another_kind_are_refused(tmp_path):
    points, labels = ball()
    for members in (
        dict(points_mm=points.astype(str), labels=labels),
        dict(points_mm=points.astype(complex), labels=labels),
        dict(points_mm=points.ravel(), labels=labels),
        dict(points_mm=points, labels=labels[:-1]),
        dict(points_mm=points),
    ):
        np.savez(tmp_path / "cloud.npz", **members)
        with pytest.raises(InputError, match=r"cloud.npz: "):
            read_point_cloud(tmp_path / "cloud.npz", NAMES)


def test_a_header_with_more_vertices_than_bytes(tmp_path):
    path = write(tmp_path / "cloud.ply", *ball())
    path.write_bytes(path.read_bytes().replace(b"element vertex 200", b"element vertex 999999999999"))
    with pytest.raises(InputError, match="999999999999 vertices"):
        read_point_cloud(path, NAMES)
