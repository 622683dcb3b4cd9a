"""The posterior shape model against plain formulas on full covariances, scikit-learn's PCA and a loop over folds.

scikit-learn takes seconds to import, so it is imported in the tests, and not by every process that collects them.
"""

import numpy as np
import pytest

from vecset.metrics import posterior_shape
from vecset.metrics.posterior_shape import NOISES, PosteriorShape, fit


def shapes(n=12, numbers=30, rank=4, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return (
        3
        + rng.standard_normal((n, rank)) @ rng.standard_normal((rank, numbers))
        + noise * rng.standard_normal((n, numbers))
    ).astype(np.float32)


def by_full_covariance(training, count, noise, seen, hidden, values_seen):
    """Mean and covariance of the hidden numbers, by the textbook formula on the (F, F) covariance of the model."""
    from sklearn.decomposition import PCA

    mean = training.mean(0)
    pca = PCA(count, svd_solver="full").fit(training)
    q = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    full = q.T @ q
    gain = full[hidden][:, seen] @ np.linalg.inv(full[seen][:, seen] + noise * np.eye(len(seen)))
    return mean[hidden] + gain @ (values_seen - mean[seen]), full[hidden][:, hidden] - gain @ full[seen][:, hidden]


def model_of(training, count, noise, seen, hidden, spread=1.0):
    training = training.astype(np.float32)
    products = training.astype(np.float64) @ training.T
    gram_seen = training[:, seen].astype(np.float64) @ training[:, seen].T
    combine = posterior_shape._modes(products)[:, :count]
    return PosteriorShape(
        training, training.mean(0), combine, seen, hidden, noise, spread, combine.T @ gram_seen @ combine
    )


@pytest.mark.parametrize("count, noise", [(1, 0.3), (3, 0.02), (11, 1.0)])
def test_conditional_mean_and_covariance_are_those_of_the_full_covariance(count, noise):
    training, (heart,) = shapes(), shapes(1, seed=5)
    seen, hidden = np.arange(0, 30, 2), np.arange(1, 30, 2)
    expected, expected_cov = by_full_covariance(training.astype(np.float64), count, noise, seen, hidden, heart[seen])
    model = model_of(training, count, noise, seen, hidden)
    found = model.predict(heart[seen])[hidden]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    _, covariance = model.weights(heart[seen])
    q = model.combine.T @ training
    np.testing.assert_allclose(q[:, hidden].T @ covariance @ q[:, hidden], expected_cov, atol=2e-4)


def test_conditional_mean_is_scikit_learns_gaussian_process():
    """With all modes, the posterior is a Gaussian process over numbers whose kernel is the training covariance: a dot
    product of what each number was in the training shapes."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import DotProduct

    training, (heart,) = shapes(), shapes(1, seed=5)
    seen, hidden, noise = np.arange(0, 30, 2), np.arange(1, 30, 2), 0.1
    model = model_of(training, 11, noise, seen, hidden)
    columns = (training - training.mean(0)).T / np.sqrt(len(training) - 1)
    process = GaussianProcessRegressor(DotProduct(sigma_0=0.0, sigma_0_bounds="fixed"), alpha=noise, optimizer=None)
    process.fit(columns[seen], heart[seen] - training.mean(0)[seen])
    mean, covariance = process.predict(columns[hidden], return_cov=True)
    np.testing.assert_allclose(model.predict(heart[seen])[hidden], training.mean(0)[hidden] + mean, atol=2e-4)
    q = model.combine.T @ training
    np.testing.assert_allclose(q[:, hidden].T @ model.weights(heart[seen])[1] @ q[:, hidden], covariance, atol=2e-4)


def test_modes_are_scikit_learns_principal_components():
    from sklearn.decomposition import PCA

    training = shapes()
    q = posterior_shape._modes(training.astype(np.float64) @ training.T).T @ training
    pca = PCA(svd_solver="full").fit(training)
    expected = (pca.components_ * np.sqrt(pca.explained_variance_)[:, None])[: len(q)]
    assert len(q) == 11
    np.testing.assert_allclose(np.abs(q @ expected.T), np.diag(pca.explained_variance_[:11]), atol=1e-3)


def test_choice_by_cross_validation_equals_a_plain_loop(monkeypatch):
    from sklearn.model_selection import KFold

    training = shapes(15, rank=3, noise=0.3)
    seen, hidden = slice(0, 18), slice(18, None)
    columns_seen, columns_hidden = np.arange(18), np.arange(18, 30)
    monkeypatch.setattr(posterior_shape, "NOISES", NOISES[::3])
    errors, variances, predicted = {}, {}, {}
    for train, test in KFold(5, shuffle=True, random_state=0).split(training):
        part = training[train].astype(np.float64)
        total = part[:, columns_seen].var(0, ddof=1).sum()
        for count in (1, 2, 3, 4, 6, 8, 11):
            for share in NOISES[::3]:
                key = count, share
                for i in test:
                    mean, covariance = by_full_covariance(
                        part, count, share * total, columns_seen, columns_hidden, training[i, :18]
                    )
                    errors[key] = errors.get(key, 0) + ((mean - training[i, 18:]) ** 2).sum()
                    variances[key] = variances.get(key, 0) + np.trace(covariance)
                    predicted[key, i] = mean
    best = min(errors, key=errors.get)
    model, held_out = fit(training, seen, hidden)
    assert model.num_modes == best[0]
    assert model.noise == pytest.approx(best[1] * training[:, :18].var(0, ddof=1).sum(), rel=1e-4)
    assert model.spread == pytest.approx(np.sqrt(errors[best] / variances[best]), rel=1e-3)
    for i in range(15):
        np.testing.assert_allclose(held_out.mean[i] @ training[:, 18:], predicted[best, i], atol=1e-3)
        assert held_out.mean[i, i] == 0 and not held_out.deviations[i][i].any()


def test_samples_have_the_mean_and_covariance_of_the_posterior():
    training, (heart,) = shapes(), shapes(1, seed=5)
    seen, hidden = slice(0, 10), slice(10, None)
    model = model_of(training, 4, 0.5, seen, hidden, spread=1.5)
    drawn = np.array(list(model.samples(heart[seen], 4000, np.random.default_rng(0))))
    q = model.combine.T @ training
    expected = 1.5**2 * q.T @ model.weights(heart[seen])[1] @ q
    np.testing.assert_allclose(drawn.mean(0), model.predict(heart[seen]), atol=5 * np.sqrt(expected.max() / 4000))
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.1 * expected.max())
    again = np.array(list(model.samples(heart[seen], 3, np.random.default_rng(0))))
    np.testing.assert_array_equal(again, drawn[:3])


def test_what_the_seen_part_does_not_tell_is_the_mean_with_all_its_spread():
    rng = np.random.default_rng(1)
    told, untold = rng.standard_normal((2, 60))
    training = np.column_stack([np.outer(told, np.ones(20)), np.outer(untold, np.ones(20))]).astype(np.float32)
    model, _ = fit(training, slice(0, 20), slice(20, None))
    for value in (-1.5, 0, 2):
        drawn = np.array([s[20] for s in model.samples(np.full(20, value), 500, np.random.default_rng(2))])
        assert model.predict(np.full(20, value))[20] == pytest.approx(untold.mean(), abs=0.35)
        assert drawn.std() == pytest.approx(untold.std(), rel=0.2)
    linked = np.column_stack([training[:, :20], 2 * training[:, :20] + 1])
    model, _ = fit(linked, slice(0, 20), slice(20, None))
    assert model.predict(np.full(20, 1.2))[20] == pytest.approx(3.4, abs=0.02)
    assert np.std([s[20] for s in model.samples(np.full(20, 1.2), 50, np.random.default_rng(2))]) < 0.05


def test_equal_shapes_are_predicted_as_they_are_and_two_are_refused():
    same = np.tile(np.arange(6, dtype=np.float32), (5, 1))
    model, _ = fit(same, slice(0, 3), slice(3, None))
    np.testing.assert_allclose(model.predict(np.zeros(3)), np.arange(6), atol=1e-6)
    assert model.spread == 0
    with pytest.raises(ValueError, match="3 or more"):
        fit(same[:2], slice(0, 3), slice(3, None))
