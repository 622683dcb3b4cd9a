"""Shape models of training hearts: principal components with gaps, and what is made of case files."""

import numpy as np
import pytest
import torch
from helpers.ball_cases import RADIUS, ball_case, write_ball_cases
from scipy import ndimage
from sklearn.decomposition import PCA

from vecset.common.errors import run_command
from vecset.data.case_file import read_case, write_case
from vecset.data.shape_model_file import read_shape_model, shape_model_of
from vecset.metrics.shape_model_building import STEP, build_shape_model, principal_components
from vecset.models.shape_model import CLIP
from vecset.shape_model import main


def low_rank(n=30, numbers=200, modes=3, seed=0):
    rng = np.random.default_rng(seed)
    return (0.02 * rng.normal(size=(n, modes)) @ rng.normal(size=(modes, numbers)) + 0.05).astype(np.float32)


def test_components_are_those_of_scikit_learn():
    values = low_rank() + np.random.default_rng(1).normal(0, 0.01, (30, 200)).astype(np.float32)
    mean, components, weights = principal_components(values, 4)
    pca = PCA(4).fit(values)
    np.testing.assert_allclose(mean, pca.mean_, atol=1e-6)
    sizes = np.sqrt(pca.explained_variance_)
    for found, wanted, size in zip(components, pca.components_, sizes):
        sign = np.sign(found @ wanted)
        np.testing.assert_allclose(found, sign * size * wanted, atol=1e-4)
    np.testing.assert_allclose(mean + weights @ components, pca.inverse_transform(pca.transform(values)), atol=1e-4)
    assert weights.std(0, ddof=1) == pytest.approx(np.ones(4), abs=1e-3)


def test_what_a_shape_lacks_is_filled_in_from_what_it_has():
    whole = low_rank()
    gaps = whole.copy()
    gaps[:12, 120:] = np.nan
    mean, components, weights = principal_components(gaps, 3)
    error = np.abs(mean + weights @ components - whole)[:12, 120:]
    without = np.abs(np.nanmean(gaps, 0) - whole)[:12, 120:]
    assert error.mean() < 0.1 * without.mean()
    assert np.isfinite(principal_components(np.full((4, 5), np.nan, np.float32), 2)[0]).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four balls in slabs; of the third, class 1 was not annotated."""
    folder = write_ball_cases(tmp_path_factory.mktemp("cases"), 4, 1)
    write_case(folder / "ball02.npz", ball_case(2, annotated=(2, 3)))
    return folder


def test_the_model_of_equal_hearts_is_that_heart(folder):
    arrays = build_shape_model([folder / f"ball0{i}.npz" for i in range(4)], 3, 8)
    model = shape_model_of(arrays)
    assert model.num_modes == 3 and arrays["known_C"].all()
    case = read_case(folder / "ball00.npz")
    classes = torch.tensor(case.surface_labels.astype(int) - 1)[None]
    fit = model.fit(torch.tensor(case.surface_points)[None], classes)
    # class 2 is the middle slab of the ball: distances near the axis are those to its two planes
    at = torch.tensor([[(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.15, 0.1, 0.0), (-0.3, 0.0, 0.2)]])
    found = model.distances(fit.to_model(at), torch.ones(1, 4).long(), fit.weights_BK)[0] / fit.scale_B
    np.testing.assert_allclose(found[0], np.maximum(np.abs(at[0, :, 0]) - RADIUS / 3, -CLIP), atol=0.04)
    for c in range(3):
        grid = model.table_VK[model.first_C[c] :][: model.cells_C3[c].prod(), 0].float().view(*model.cells_C3[c])
        index = (arrays["template_CT3"][c].astype(float) - arrays["low_C3"][c]) / STEP
        on_surface = ndimage.map_coordinates(grid.numpy(), index.T, order=1)
        assert np.abs(on_surface).mean() < 0.04, "template points lie on the surface"


def test_the_command_writes_a_file_and_refuses_what_it_cannot_use(folder, tmp_path, capsys):
    path = tmp_path / "shapes.npz"
    assert main(["--csv", str(folder / "train.csv"), "--output", str(path), "--modes", "2", "--hearts", "3"]) == 0
    assert "3 hearts, 2 modes" in capsys.readouterr().out
    _, names, record = read_shape_model(path)
    assert names == ["c1", "c2", "c3"] and record["cases"] == ["ball00", "ball01", "ball03"]
    for words, message in (
        (["--hearts", "2"], "a shape model: expected at least 3 training hearts, found 2"),
        (["--modes", "0"], "--modes: expected at least 1"),
        (["--csv", str(tmp_path / "no.csv")], "no.csv: no such file"),
    ):
        asked = ["--csv", str(folder / "train.csv"), "--output", str(tmp_path / "x.npz"), *words]
        assert run_command(main, asked) == 2 and message in capsys.readouterr().err
        assert not (tmp_path / "x.npz").exists()
