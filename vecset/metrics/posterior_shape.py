"""A posterior shape model: principal components of many shapes, conditioned on the part of one shape that is seen.

A shape is F numbers (here: signed distances). Its model is x = mean + a Q + e, with K modes Q (K, F), each a principal
component times its standard deviation, a ~ N(0, 1) per mode, and e ~ N(0, noise) per number, as in probabilistic PCA
(Tipping and Bishop 1999). Of a shape whose numbers s are seen, the weights a are normal with

    covariance = noise M^-1,   mean = M^-1 Q_s (x_s - mean_s),   M = Q_s Q_s^T + noise 1

and what is not seen follows as mean_h + a Q_h (Albrecht, Luethi, Gerig and Vetter 2013, "Posterior shape models").

The number of modes and the noise are those that predict what is not seen best over held-out shapes (least mean squared
error of cross-validation). Neighbouring numbers of a shape err together, so the noise found is no error of a single
number: it says how far the seen ones can be relied on. The covariance is scaled by `spread` squared, so that the
variance it predicts for what is not seen equals the mean squared error over the held-out shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FOLDS = 5
NOISES = tuple(float(noise) for noise in 10 ** np.arange(-5, 1.1, 0.5))  # shares of the variance of all that is seen
_COLUMNS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class PosteriorShape:
    """values (n, F) f32: the shapes it was found from; mean (F,) f32; combine (n, K) f64: the modes are
    combine^T values; seen, hidden: which of the F (slices, or (F,) bool); noise: a variance; spread: factor of the
    posterior's standard deviations; gram_seen (K, K) f64: Q_s Q_s^T."""

    values: np.ndarray
    mean: np.ndarray
    combine: np.ndarray
    seen: slice | np.ndarray
    hidden: slice | np.ndarray
    noise: float
    spread: float
    gram_seen: np.ndarray

    @property
    def num_modes(self) -> int:
        return self.combine.shape[1]

    def weights(self, values_seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of one shape's seen numbers: mean (K,) and covariance (K, K) of the weights of its modes, f64. The covariance
        is that of the model; `spread` is not in it."""
        m = self.gram_seen + self.noise * np.eye(self.num_modes)
        away = np.asarray(values_seen, np.float64) - self.mean[self.seen]
        along = self.combine.T @ _times(self.values[:, self.seen], away)
        return np.linalg.solve(m, along), self.noise * np.linalg.inv(m)

    def predict(self, values_seen: np.ndarray) -> np.ndarray:
        """(F,) f32: the posterior mean, of what is seen too."""
        return self._shape(self.weights(values_seen)[0])

    def samples(self, values_seen: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """n draws from the posterior (without e), (F,) f32 each."""
        mean, covariance = self.weights(values_seen)
        factor = self.spread * np.linalg.cholesky(covariance)
        for _ in range(n):
            yield self._shape(mean + factor @ rng.standard_normal(len(mean)))

    def _shape(self, weights):
        return self.mean + (self.combine @ weights).astype(np.float32) @ self.values


@dataclass(frozen=True)
class HeldOut:
    """How each of n shapes is predicted without it, as sums of the other ones.

    mean (n, n): row i holds the weight of every shape in the prediction of shape i (its own and its fold's are 0);
    deviations: n arrays (n, K), one draw of shape i is (mean[i] + deviations[i] @ z) @ values, z ~ N(0, 1)."""

    mean: np.ndarray
    deviations: list


def fit(
    values: np.ndarray, seen: slice | np.ndarray, hidden: slice | np.ndarray, folds: int = FOLDS
) -> tuple[PosteriorShape, HeldOut]:
    """The model of n shapes, `values` (n, F) f32, for shapes of which the numbers `seen` are known and `hidden` are
    to be predicted. Raises ValueError for fewer than 3 shapes."""
    if len(values) < 3:
        raise ValueError(f"{len(values)} shapes: want 3 or more")
    gram_seen, gram_hidden = gram(values[:, seen]), gram(values[:, hidden])
    parts = [_Fold(gram_seen, gram_hidden, *rows) for rows in _folds(len(values), folds)]
    found = {
        (count, share): sum(part.squared_error(count, share) for part in parts)
        for count in _counts(min(part.combine.shape[1] for part in parts))
        for share in NOISES
    }
    count, share = min(found, key=found.get)
    variance = sum(part.variance(count, share) for part in parts)
    spread = float(np.sqrt(found[count, share] / variance)) if variance > 0 else 0.0
    held_out = HeldOut(np.zeros((len(values), len(values))), [None] * len(values))
    for part in parts:
        part.write_into(held_out, count, share, spread)
    combine = _modes(gram_seen + gram_hidden)[:, :count]
    return PosteriorShape(
        values=values,
        mean=values.mean(0, dtype=np.float64).astype(np.float32),
        combine=combine,
        seen=seen,
        hidden=hidden,
        noise=share * _variance_seen(gram_seen),
        spread=spread,
        gram_seen=combine.T @ gram_seen @ combine,
    ), held_out


def gram(rows: np.ndarray) -> np.ndarray:
    """(n, n) f64: the products of all pairs of rows (n, F), summed in f64."""
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], _COLUMNS_AT_ONCE):
        part = rows[:, start : start + _COLUMNS_AT_ONCE].astype(np.float64)
        total += part @ part.T
    return total


def _times(rows, vector):
    """(n,) f64: rows (n, F) f32 times a vector (F,), summed in f64."""
    steps = range(0, rows.shape[1], _COLUMNS_AT_ONCE)
    return sum(
        (rows[:, k : k + _COLUMNS_AT_ONCE].astype(np.float64) @ vector[k : k + _COLUMNS_AT_ONCE] for k in steps),
        np.zeros(len(rows)),
    )


def _modes(products):
    """(n, K) f64: how n shapes with the `products` (n, n) of all pairs add up to their modes, the largest first.

    Principal components times their standard deviations. There are far fewer shapes than numbers, so they are found
    from products (kernel PCA with a linear kernel, which is PCA)."""
    from sklearn.decomposition import KernelPCA  # slow to import, and not needed for training

    n = len(products)
    pca = KernelPCA(kernel="precomputed", eigen_solver="dense", remove_zero_eig=True).fit(products)
    most = pca.eigenvalues_.max(initial=0)
    vectors = pca.eigenvectors_[:, pca.eigenvalues_ > 1e-10 * most]
    return (vectors - vectors.mean(0)) / np.sqrt(n - 1)


def _folds(n, folds):
    from sklearn.model_selection import KFold

    return KFold(min(folds, n), shuffle=True, random_state=0).split(np.arange(n))


def _counts(most):
    """Numbers of modes to try: 1, 2, 3, 4, 6, 8, 12, 16, ... up to `most`."""
    steps = sorted({1, 2, 3, 4, most} | {k << e for k in (2, 3) for e in range(1, 12)})
    return [k for k in steps if k <= most] or [0]


def _variance_seen(gram_seen):
    """The variance of all seen numbers together, from the products (n, n) of shapes that need not be centred."""
    n = len(gram_seen)
    return float((np.trace(gram_seen) - gram_seen.sum() / n) / (n - 1)) or 1e-12


class _Fold:
    """One fold, from products of shapes alone: the modes of its training shapes are sums of these shapes."""

    def __init__(self, gram_seen, gram_hidden, train, test):
        self.train, self.test, self.hidden = train, test, gram_hidden
        seen, hidden = (g[np.ix_(train, train)] for g in (gram_seen, gram_hidden))
        self.combine = _modes(seen + hidden)  # its columns sum to 0, so that the products need not be centred
        self.gram_seen, self.gram_hidden = (self.combine.T @ g @ self.combine for g in (seen, hidden))
        self.along = (gram_seen[np.ix_(test, train)] - seen.mean(0)) @ self.combine
        self.variance_seen = _variance_seen(seen)

    def _m(self, count, share):
        noise = share * self.variance_seen
        return self.gram_seen[:count, :count] + noise * np.eye(count), noise

    def weights(self, count, share):
        """(tests, m): the weight of each training shape in the prediction of each test shape."""
        a = np.linalg.solve(self._m(count, share)[0], self.along[:, :count].T)
        return 1 / len(self.train) + (self.combine[:, :count] @ a).T

    def squared_error(self, count, share):
        """Over the test shapes, of what is hidden."""
        w = self.weights(count, share)
        cross = (w * self.hidden[np.ix_(self.test, self.train)]).sum()
        return (
            self.hidden[self.test, self.test].sum()
            - 2 * cross
            + np.einsum("ij,jk,ik", w, self.hidden[np.ix_(self.train, self.train)], w, optimize=True)
        )

    def variance(self, count, share):
        """What the posteriors of all test shapes predict for `squared_error`."""
        m, noise = self._m(count, share)
        return len(self.test) * noise * np.trace(np.linalg.solve(m, self.gram_hidden[:count, :count]))

    def write_into(self, held_out, count, share, spread):
        m, noise = self._m(count, share)
        held_out.mean[np.ix_(self.test, self.train)] = self.weights(count, share)
        deviations = np.zeros((len(held_out.mean), count))
        deviations[self.train] = spread * self.combine[:, :count] @ np.linalg.cholesky(noise * np.linalg.inv(m))
        for i in self.test:
            held_out.deviations[i] = deviations
