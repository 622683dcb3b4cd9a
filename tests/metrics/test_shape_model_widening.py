"""A shape model that gets more structures: its own stay as they were, new ones follow from its fit."""

import numpy as np
import pytest
import torch
from helpers.ball_cases import RADIUS, ball_case, write_ball_cases
from sklearn.linear_model import Ridge

from vecset.common.errors import run_command
from vecset.data.case_file import read_case, write_case
from vecset.data.listed_case import read_split
from vecset.data.shape_model_file import read_shape_model, shape_model_of, write_shape_model
from vecset.metrics.shape_model_building import build_shape_model
from vecset.metrics.shape_model_widening import PENALTIES, known_part, regressed, widen_shape_model
from vecset.models.shape_model import CLIP
from vecset.shape_model import main

NEW = ["c1", "c2", "c3"]
OLD, PLACES = ["c3", "c1"], [2, 0]  # in another order


def only(arrays, classes):
    """The arrays of a model with these of its classes (from 0)."""
    first, sizes = arrays["first_C"], arrays["cells_C3"].prod(1)
    kept = {name: arrays[name][classes] for name in ("cells_C3", "low_C3", "template_CT3", "known_C")}
    table = np.concatenate([arrays["table_VK"][first[c] :][: sizes[c]] for c in classes])
    return kept | {"table_VK": table, "first_C": np.cumsum(sizes[classes]) - sizes[classes], "step": arrays["step"]}


def test_the_regression_is_that_of_hearts_left_out_one_by_one():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 4))
    truth = rng.normal(size=(4, 30)) * 0.02
    values = (0.05 + weights @ truth + rng.normal(0, 0.01, (12, 30))).astype(np.float32)
    values[3] = np.nan
    there = np.arange(12) != 3
    slow = {}
    for penalty in PENALTIES:
        left = np.full_like(values, np.nan)
        for i in np.flatnonzero(there):
            rest = there & (np.arange(12) != i)
            left[i] = values[i] - Ridge(penalty).fit(weights[rest], values[rest]).predict(weights[i : i + 1])[0]
        slow[penalty] = left
    best = min(slow, key=lambda penalty: np.nansum(slow[penalty] ** 2))
    mean, slopes, left = regressed(values, weights)
    np.testing.assert_allclose(left[there], slow[best][there], atol=1e-5)
    model = Ridge(best).fit(weights[there], values[there])
    np.testing.assert_allclose(slopes, model.coef_.T, atol=1e-5)
    np.testing.assert_allclose(mean, model.intercept_, atol=1e-5)
    assert np.isnan(left[3]).all() and np.nansum(left**2) < 0.3 * np.square(values - np.nanmean(values, 0))[there].sum()


def test_what_weights_do_not_say_is_left_to_the_mean():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 50)).astype(np.float32)
    mean, slopes, left = regressed(values, np.ones((8, 7)))
    assert not slopes.any()
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(left, (values - values.mean(0)) * 8 / 7, atol=1e-5)
    mean, slopes, left = regressed(np.full((3, 5), np.nan, np.float32), np.ones((3, 2)))
    assert (mean == np.float32(CLIP)).all() and not slopes.any() and not left.any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four balls in slabs; of the third, the middle slab was not annotated."""
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 4, 1)
    write_case(folder / "ball02.npz", ball_case(2, annotated=(1, 3)))
    return folder


@pytest.fixture(scope="module")
def old(folder):
    return only(build_shape_model([folder / f"ball0{i}.npz" for i in range(4)], 3, 2), PLACES)


@torch.no_grad()
def test_what_it_knew_stays_and_the_new_structure_is_where_it_belongs(folder, old):
    cases = read_split(folder / "train.csv", folder)
    wide, used = widen_shape_model(cases, old, OLD, NEW, 2)
    assert [case.case_id for case in used] == ["ball00", "ball01", "ball03"] and wide["known_C"].all()
    before, after = shape_model_of(old), shape_model_of(wide)
    assert before.num_modes == 2 and after.num_modes == 4
    for c, place in enumerate(PLACES):
        rows = slice(int(after.first_C[place]), int(after.first_C[place] + after.cells_C3[place].prod()))
        mine = slice(int(before.first_C[c]), int(before.first_C[c] + before.cells_C3[c].prod()))
        assert torch.equal(after.table_VK[rows, :3], before.table_VK[mine]) and not after.table_VK[rows, 3:].any()
        assert torch.equal(after.template_CT3[place], before.template_CT3[c])
    case = read_case(folder / "ball00.npz")
    seen = np.flatnonzero(case.surface_labels != 2)
    points = torch.tensor(case.surface_points[seen])[None]
    classes = torch.tensor(case.surface_labels[seen].astype(int) - 1)[None]
    first = before.fit(points, torch.where(classes == 2, 0, 1))
    fit = after.fit(points, classes)
    for one, other in zip(first[:3], fit[:3]):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(fit.weights_BK[:, :2], first.weights_BK, rtol=0, atol=1e-4)
    assert not fit.weights_BK[:, 2:].any(), "nothing that is seen says anything of the modes that were added"
    at = torch.tensor([[(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.15, 0.1, 0.0), (-0.3, 0.0, 0.2)]])
    found = after.distances(fit.to_model(at), torch.ones(1, 4).long(), fit.weights_BK)[0] / fit.scale_B
    np.testing.assert_allclose(found[0], np.maximum(np.abs(at[0, :, 0]) - RADIUS / 3, -CLIP), atol=0.04)


def test_a_structure_that_no_heart_of_the_model_has_can_be_added(folder, old):
    """As of a model of the hearts of one data set, with the structures of all of them."""
    unknown = build_shape_model([folder / f"ball0{i}.npz" for i in range(4)], 3, 2)
    kept, names = known_part(unknown | {"known_C": np.array([True, False, True])}, NEW)
    assert names == ["c1", "c3"] and shape_model_of(kept).num_modes == 2
    wide, used = widen_shape_model(read_split(folder / "train.csv", folder), kept, names, NEW, 1)
    assert wide["known_C"].all() and len(used) == 3
    np.testing.assert_array_equal(only(wide, [0, 2])["table_VK"][:, :3], kept["table_VK"])


def test_the_command_writes_a_file_and_refuses_what_it_cannot_use(folder, old, tmp_path, capsys):
    path, kept = tmp_path / "wider.npz", tmp_path / "kept.npz"
    write_shape_model(kept, old, OLD, {"cases": ["a"], "sources": ["b"]})
    words = ["--csv", str(folder / "train.csv"), "--widen", str(kept)]
    assert main([*words, "--output", str(path), "--modes", "1"]) == 0
    assert "3 hearts with new structures beside 1 of kept.npz, 3 modes" in capsys.readouterr().out
    _, names, record = read_shape_model(path)
    assert names == NEW and record["cases"] == ["a", "ball00", "ball01", "ball03"]
    assert record["sources"][0] == "b" and len(record["sources"]) == 4
    write_shape_model(tmp_path / "other.npz", old, ["c3", "x"], {})
    for words, message in (
        (["--widen", str(tmp_path / "other.npz")], "other.npz: the cases of --csv do not have its structures x"),
        (["--widen", str(path)], "wider.npz: the cases of --csv have no structure that it lacks; use it as it is"),
        (
            ["--widen", str(kept), "--hearts", "2"],
            "kept.npz: expected at least 3 hearts in --csv with structures that it lacks, found 2",
        ),
        (["--widen", str(tmp_path / "no.npz")], "no.npz: no such file; check the path"),
        (["--widen", str(folder / "train.csv")], "train.csv: not a shape model, or damaged"),
    ):
        asked = ["--csv", str(folder / "train.csv"), "--output", str(tmp_path / "x.npz"), *words]
        assert run_command(main, asked) == 2 and message in capsys.readouterr().err
        assert not (tmp_path / "x.npz").exists()
