import hashlib

import numpy as np
import pytest
import torch
from helpers.ball_cases import RADIUS, ball_case, ball_class_sdf, ball_labels, write_ball_cases, write_csv

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import write_case
from vecset.data.listed_case import check_disjoint, read_split
from vecset.engines.losses import decoded_points
from vecset.items.dataset import QUERY_GROUPS, Augmentation, CaseDataset, PointCounts, grid_points_unit, grid_truth
from vecset.items.loader import collate, iterate_batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=3, val=1)


@pytest.fixture(scope="module")
def entries(folder):
    return read_split(folder / "train.csv", folder)


def dataset(entries, training=True, **options):
    counts = {name: options.pop(name) for name in ("decoded_surface", "normals") if name in options}
    return CaseDataset(entries, PointCounts(50, 20, 30, 40, eikonal=8, **counts), 7, training, **options)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_item_has_the_keys_of_the_design_and_agrees_with_the_field(entries):
    batch = collate([dataset(entries)[0, i] for i in range(2)])
    expected = {
        "surface_points": (50, 3),
        "surface_labels": (50,),
        "surface_sdf": (50,),
        "surface_normals": (50, 3),
        "query_points": (90, 3),
        "query_sdf": (90,),
        "query_labels": (90,),
        "query_group": (90,),
        "eikonal_points": (8, 3),
        "annotated": (3,),
        "case_index": (),
    }
    assert {k: tuple(v.shape[1:]) for k, v in batch.items()} == expected
    for name, value in batch.items():
        integer = name in ("surface_labels", "query_labels", "query_group", "case_index")
        assert value.dtype == (torch.int64 if integer else torch.bool if name == "annotated" else torch.float32), name
    points, sdf = batch["query_points"][0].numpy(), batch["query_sdf"][0].numpy()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1) - RADIUS, sdf, atol=1e-6)
    labels = np.where(sdf < 0, ball_labels(points.astype(float), 3), 0)
    assert (labels == batch["query_labels"][0].numpy()).mean() > 0.99  # the slab of a point is computed in float64
    group = batch["query_group"][0]
    assert group.bincount().tolist() == [20, 30, 40] and QUERY_GROUPS == ("near", "inside", "outside")
    assert (sdf[group == 1] < 0).all() and (sdf[group == 2] >= 0).all() and np.abs(sdf[group == 0]).max() < 0.3
    queries = {tuple(p) for p in points}
    assert all(tuple(p.numpy()) in queries for p in batch["eikonal_points"][0])
    assert len(queries) == 90 and len({tuple(p.numpy()) for p in batch["surface_points"][0]}) == 50  # no repeats


def digest(array):
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:12]


EVERYTHING = dict(decoded_surface=16, normals=6, noise_shape=(4, 2), balance=0.5)
GOLDEN = {
    True: {
        "surface_points": "2039f37a6044",
        "surface_labels": "3442f8257443",
        "surface_sdf": "98490bd77bf6",
        "surface_normals": "e99f4a427e59",
        "surface_decoded": "8f4688662e6f",
        "query_points": "df881a892fb9",
        "query_sdf": "d4d311fc5463",
        "query_labels": "06e17be26e82",
        "query_group": "a1813cd3083b",
        "eikonal_points": "0bad0905f825",
        "normal_points": "80971b33fb40",
        "normal_vectors": "1ebf0c085b15",
        "code_noise": "1222d05b1738",
        "annotated": "6d659e45c0a7",
        "case_index": "12ceaa6bd0c0",
    },
    False: {
        "surface_points": "62a84362e10a",
        "surface_labels": "3442f8257443",
        "surface_sdf": "98490bd77bf6",
        "surface_normals": "5160dfa04c50",
        "surface_decoded": "ab8cdadf3180",
        "query_points": "04404ff4f56a",
        "query_sdf": "95df1aafa7cb",
        "query_labels": "8f0bccb6e554",
        "query_group": "a1813cd3083b",
        "eikonal_points": "9858bc9f459a",
        "normal_points": "c10c887c8f1d",
        "normal_vectors": "d1ecfc9ed932",
        "annotated": "6d659e45c0a7",
        "case_index": "12ceaa6bd0c0",
    },
}
GOLDEN_AUGMENTED = {
    "surface_points": [1.0060453414916992, 7.380855083465576, -0.11256218701601028],
    "surface_normals": [1.1172611713409424, 8.196771621704102, -0.12500575184822083],
    "query_points": [-8.320219039916992, 4.674458980560303, 1.6873691082000732],
    "query_sdf": 8.806849479675293,
    "eikonal_points": [0.01911914348602295, -0.9083151817321777, 1.8756978511810303],
    "normal_points": [1.0606685876846313, -0.7896208167076111, -0.5191020965576172],
    "normal_vectors": [1.1779202222824097, -0.8769092559814453, -0.5764859318733215],
}


@pytest.mark.parametrize("training", [True, False])
def test_items_are_the_golden_ones_bit_for_bit(entries, training):
    item = dataset(entries, training, **EVERYTHING)[3, 1]
    assert {name: digest(array) for name, array in item.items()} == GOLDEN[training]


def test_augmented_items_are_the_golden_ones(entries):
    item = dataset(entries, augmentation=Augmentation(30, 0.2), **EVERYTHING)[3, 1]
    found = {name: item[name].sum(0).tolist() for name in GOLDEN_AUGMENTED}
    for name, wanted in GOLDEN_AUGMENTED.items():
        assert found[name] == pytest.approx(wanted, abs=1e-4), name


def test_draws_depend_on_epoch_and_case_alone(entries):
    items = dataset(entries)
    wanted = items[4, 1]
    fresh = dataset(entries, cache="none")
    fresh[9, 2], fresh[4, 0]
    assert same(wanted, fresh[4, 1])
    alone = dataset(entries[1:2])[4, 0]  # the same case as another rank may number it
    assert all(np.array_equal(wanted[k], alone[k]) for k in wanted if k != "case_index")
    assert not np.array_equal(wanted["surface_points"], items[5, 1]["surface_points"])
    assert not np.array_equal(wanted["query_points"], items[5, 1]["query_points"])


def test_a_case_that_is_in_an_epoch_again_has_other_draws(entries):
    cases = dataset(entries)
    first, again = cases[0, 1], cases[0, 1 + len(entries)]
    assert again["case_index"] == first["case_index"] == 1
    assert not np.array_equal(again["surface_points"], first["surface_points"])
    assert same(again, dataset(entries)[0, 1 + len(entries)])


def test_a_part_of_the_surface_is_decoded_and_all_of_it_read(entries):
    whole, part = (collate([dataset(entries, decoded_surface=n)[3, i] for i in range(2)]) for n in (None, 20))
    rows = part.pop("surface_decoded")
    assert rows.shape == (2, 20) and all(len(set(row.tolist())) == 20 for row in rows)
    assert all(torch.equal(part[name], whole[name]) for name in whole)
    for everything, some in zip(decoded_points(whole), decoded_points({**part, "surface_decoded": rows})):
        assert torch.equal(everything[:, :90], some[:, :90]) and some.shape[1] == 110
        for case in range(2):
            assert torch.equal(everything[case, 90:][rows[case]], some[case, 90:])
    assert not torch.equal(rows[0], rows[1])
    assert "surface_decoded" not in dataset(entries, decoded_surface=50)[3, 0]  # all of them: nothing to choose


def test_validation_draws_are_fixed_and_not_those_of_training(entries):
    items = dataset(entries, training=False, augmentation=Augmentation(30, 0.1))
    assert same(items[0, 1], items[5, 1])
    assert not np.array_equal(items[0, 1]["query_points"], dataset(entries)[0, 1]["query_points"])
    np.testing.assert_allclose(np.linalg.norm(items[0, 1]["surface_points"], axis=1), RADIUS, atol=1e-6)


def test_balance_gives_rare_classes_their_share(tmp_path):
    case = ball_case(rows=3000)
    rare = np.flatnonzero(case.arrays["surface_labels"] == 3)[30:]  # class 3 keeps 30 surface points of about 1,000
    keep = np.setdiff1d(np.arange(3000), rare)
    for name in list(case.arrays):
        if name.startswith(("surface", "near")):
            case.arrays[name] = case.arrays[name][keep]
    write_case(tmp_path / "a.npz", case)
    write_csv(tmp_path / "train.csv", ["a"])
    entry = read_split(tmp_path / "train.csv", tmp_path)

    def shares(balance):
        item = CaseDataset(entry, PointCounts(600, 300, 300, 40), 0, True, balance=balance)[0, 0]
        inside = item["query_labels"][item["query_group"] == 1]
        return np.bincount(item["surface_labels"], minlength=4)[1:] / 600, np.bincount(inside, minlength=4)[1:] / 300

    surface, _ = shares(0.0)
    assert surface[2] < 0.04
    surface, inside = shares(1.0)
    np.testing.assert_allclose(surface, 1 / 3, atol=0.002)
    np.testing.assert_allclose(inside, 1 / 3, atol=0.005)


def test_augmentation_moves_points_normals_and_distances_together(entries):
    plain, moved = dataset(entries)[2, 0], dataset(entries, augmentation=Augmentation(20, 0.2))[2, 0]
    matrix = np.linalg.lstsq(plain["surface_points"], moved["surface_points"], rcond=None)[0].T  # moved = M plain
    factor = np.cbrt(np.linalg.det(matrix.astype(float)))
    assert factor != pytest.approx(1, abs=1e-3) and 0.8 <= factor <= 1.2
    turn = matrix / factor
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    angle = np.rad2deg(np.arccos((np.trace(turn) - 1) / 2))
    assert 0.1 < angle <= 20
    np.testing.assert_allclose(moved["query_points"], plain["query_points"] @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(moved["surface_normals"], plain["surface_normals"] @ turn.T, atol=1e-3)
    np.testing.assert_allclose(moved["query_sdf"], plain["query_sdf"] * factor, atol=1e-5)
    sdf = np.linalg.norm(moved["query_points"], axis=1) - RADIUS * factor
    np.testing.assert_allclose(sdf, moved["query_sdf"], atol=1e-5)
    assert np.array_equal(plain["query_labels"], moved["query_labels"])


@pytest.fixture(scope="module")
def with_distances(tmp_path_factory):
    """The cases of `entries` with the distances to each class; class 2 of 3 is missing in ball02."""
    target = write_ball_cases(tmp_path_factory.mktemp("distances"), train=3, val=1, class_distances=True)
    write_case(target / "ball02.npz", ball_case(2, class_distances=True, missing=(2,)))
    return read_split(target / "train.csv", target)


def test_class_distances_come_with_the_same_draws(entries, with_distances):
    for training in (True, False):
        plain = dataset(entries, training, **EVERYTHING)[3, 1]
        item = dataset(with_distances, training, class_distances=True, **EVERYTHING)[3, 1]
        surface, query = item.pop("surface_class_sdf"), item.pop("query_class_sdf")
        assert same(plain, item) and same(plain, dataset(with_distances, training, **EVERYTHING)[3, 1])
        assert surface.dtype == query.dtype == np.float32
        assert surface.shape == (50, 3) and query.shape == (90, 3)
        for points, labels, found in (
            (item["surface_points"], np.zeros(50), surface),
            (item["query_points"], item["query_labels"], query),
        ):
            np.testing.assert_allclose(found, ball_class_sdf(points, labels, 3), atol=1e-5)
        assert (surface[np.arange(50), item["surface_labels"] - 1] == 0).all()
        inside = item["query_labels"] > 0
        assert np.array_equal(query.argmin(1)[inside] + 1, item["query_labels"][inside])
        assert np.array_equal(query < 0, item["query_labels"][:, None] == np.arange(1, 4))


def test_class_distances_scale_with_the_points_but_not_those_of_an_absent_class(with_distances):
    options = {"class_distances": True, "cache": "none"}
    plain = dataset(with_distances, **options)[2, 2]
    moved = dataset(with_distances, augmentation=Augmentation(20, 0.2), **options)[2, 2]
    factor = np.median(moved["query_sdf"] / plain["query_sdf"])
    assert factor != pytest.approx(1, abs=1e-2)
    for name in ("surface_class_sdf", "query_class_sdf"):
        np.testing.assert_allclose(moved[name][:, [0, 2]], plain[name][:, [0, 2]] * factor, rtol=1e-6)
        assert (moved[name][:, 1] == ABSENT_DISTANCE).all() and (plain[name][:, 1] == ABSENT_DISTANCE).all()
        assert moved[name].dtype == np.float32
    inside = moved["query_labels"] > 0
    assert np.array_equal(moved["query_class_sdf"].argmin(1)[inside] + 1, moved["query_labels"][inside])


def test_cases_without_class_distances_are_refused(entries):
    with pytest.raises(InputError, match="ball00.npz.*no distances to each class.*prepare_data.py --class_distances"):
        dataset(entries, class_distances=True).load()


def test_workers_change_nothing(entries):
    items = dataset(entries)
    items.load()
    keys = [[(e, i) for i in (2, 0)] for e in range(3)]
    for one, other in zip(iterate_batches(items, keys), iterate_batches(items, keys, num_workers=2)):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_cannot_be_read_ends_the_run_with_its_name(tmp_path, workers):
    write_ball_cases(tmp_path, train=3, val=1)
    items = dataset(read_split(tmp_path / "train.csv", tmp_path), cache="none")
    (tmp_path / "ball01.npz").write_bytes((tmp_path / "ball01.npz").read_bytes()[:5000])
    batches = iterate_batches(items, [[(0, 0)], [(0, 1)], [(0, 2)]], num_workers=workers)
    next(batches)
    with pytest.raises(InputError, match="ball01.npz"):
        next(batches)


def test_a_case_without_inside_points_is_refused(tmp_path):
    case = ball_case()
    case.arrays["vol_sdf"] = np.abs(case.arrays["vol_sdf"])
    case.arrays["vol_labels"] = np.zeros_like(case.arrays["vol_labels"])
    write_case(tmp_path / "a.npz", case)
    write_csv(tmp_path / "train.csv", ["a"])
    with pytest.raises(InputError, match="a.npz: expected inside points, found none"):
        dataset(read_split(tmp_path / "train.csv", tmp_path)).load()


# --- splits


def test_order_of_lines_changes_nothing(folder, tmp_path):
    write_csv(tmp_path / "train.csv", ["ball02", "ball00", "ball01"])
    assert read_split(tmp_path / "train.csv", folder) == read_split(folder / "train.csv", folder)


def write_lines(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text, message",
    [
        ("case_id,file\nx,x.npz\n", "the file of case x"),
        ("case_id,file\na,ball00.npz\na,ball01.npz\n", "'a' more than once"),
        ("case_id,file\na,ball00.npz\nb,ball00.npz\n", "'ball00.npz' more than once"),
        ("ball00,ball00.npz\n", "a header with case_id and file"),
        ("", "an empty file"),
        ("case_id,file\n", "at least one case, found none"),
    ],
)
def test_bad_splits_are_refused(folder, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_split(write_lines(tmp_path / "train.csv", text), folder)


def test_missing_csv_and_other_class_counts_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_split(tmp_path / "none.csv", folder)
    with pytest.raises(InputError, match="expected 10 classes, as --classes says, found 3"):
        read_split(folder / "train.csv", folder, num_classes=10)
    write_case(tmp_path / "four.npz", ball_case(num_classes=4))
    write_case(tmp_path / "three.npz", ball_case(num_classes=3))
    write_csv(tmp_path / "train.csv", ["four", "three"])
    with pytest.raises(InputError, match="three.npz: expected 4 classes, as the others have, found 3"):
        read_split(tmp_path / "train.csv", tmp_path)


def test_a_case_in_both_splits_is_refused(folder, entries, tmp_path):
    check_disjoint(entries, read_split(folder / "val.csv", folder), folder)
    with pytest.raises(InputError, match="in both train and val, found ball01"):
        check_disjoint(entries, entries[1:2], folder)
    renamed = read_split(write_lines(tmp_path / "val.csv", "case_id,file\nother,ball01.npz\n"), folder)
    with pytest.raises(InputError, match="ball01.npz"):
        check_disjoint(entries, renamed, folder)


# --- truth on a grid


def test_grid_truth_is_that_of_the_nearest_voxel(folder, entries):
    grid = 10
    truth = grid_truth(entries[0], grid)
    points = grid_points_unit(grid)
    assert points.shape == (1000, 3) and points.min() == -points.max() and points[1, 2] > points[0, 2]  # z fastest
    case = ball_case(0)
    whole = case.truth_labels()
    slow = []
    for point in points:  # reference: one point at a time on the whole map
        i, j, k = (int(round(v)) for v in case.frame.unit_to_voxel(point))
        slow.append(whole[i, j, k] if all(0 <= v < 24 for v in (i, j, k)) else 0)
    assert np.array_equal(truth, slow)
    inside = np.linalg.norm(points, axis=1) < RADIUS - 0.1
    assert (truth[inside] == ball_labels(points[inside].astype(float), 3)).mean() > 0.9 and not truth[0]
