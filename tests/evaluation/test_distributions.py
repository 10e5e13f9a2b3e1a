"""Against independent implementations: double loops in plain Python, and SciPy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from cyclegan.evaluation import distributions
from cyclegan.evaluation.distributions import cosine_distance, frechet_distance, kid, mean_distance, precision_recall


def vectors(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift, 0)


def slow_kid(x: np.ndarray, y: np.ndarray) -> float:
    """Bińkowski et al. 2018, equation 4, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def slow_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The textbook formula, as pytorch-fid and the original code compute it."""
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    gap = x.mean(axis=0) - y.mean(axis=0)
    return float(gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def slow_share(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """Kynkäänniemi et al. 2019, algorithm 1, for one of the two metrics."""
    radii = [
        sorted(float(np.linalg.norm(a - b)) for j, b in enumerate(manifold) if j != i)[k - 1]
        for i, a in enumerate(manifold)
    ]
    hits = [any(np.linalg.norm(p - a) <= r for a, r in zip(manifold, radii, strict=True)) for p in points]
    return sum(hits) / len(hits)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 3), (9, 14, 5), (20, 7, 12)])
def test_kid_equals_the_double_loop(n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(n, d, 1), vectors(m, d, 2, shift=0.5)
    assert kid(x, y).value == pytest.approx(slow_kid(x, y), rel=1e-10)
    monkeypatch.setattr(distributions, "ROWS", 4)
    assert kid(x, y).value == pytest.approx(slow_kid(x, y), rel=1e-10)


def test_kid_is_unbiased_and_its_error_is_the_true_one() -> None:
    """Over many draws from two known distributions the estimates vary by the standard error that each reports."""
    d = 4
    estimates = [
        kid(vectors_of(rng, 40, d, 0.0), vectors_of(rng, 50, d, 0.4)) for rng in map(np.random.default_rng, range(300))
    ]
    values = np.array([estimate.value for estimate in estimates])
    errors = np.array([estimate.error for estimate in estimates])
    rng = np.random.default_rng(1000)
    large = kid(vectors_of(rng, 3000, d, 0.0), vectors_of(rng, 3000, d, 0.4))
    assert values.mean() == pytest.approx(large.value, abs=4 * (values.std() / np.sqrt(300) + large.error))
    # Terms of second order make the reported error slightly too large, never too small.
    assert 1 <= errors.mean() / values.std(ddof=1) < 1.3
    same = [
        kid(vectors_of(rng, 20, d, 0.0), vectors_of(rng, 20, d, 0.0)).value
        for rng in map(np.random.default_rng, range(300))
    ]
    assert min(same) < 0 < max(same)
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(300)


def vectors_of(rng: np.random.Generator, n: int, d: int, shift: float) -> np.ndarray:
    return rng.normal(size=(n, d)) + shift


def test_kid_of_very_few() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors in each set, not 1 and 5"):
        kid(vectors(1, 3, 0), vectors(5, 3, 1))
    assert np.isnan(kid(vectors(3, 3, 0), vectors(5, 3, 1)).error)
    assert np.isfinite(kid(vectors(4, 3, 0), vectors(4, 3, 1)).error)
    assert kid(vectors(6, 3, 0), vectors(6, 3, 1)) == kid(vectors(6, 3, 0), vectors(6, 3, 1))


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 5), (200, 300, 30)])
def test_frechet_equals_the_textbook_with_scipys_root(n: int, m: int, d: int) -> None:
    x, y = vectors(n, d, 1), vectors(m, d, 2, shift=0.3)
    assert frechet_distance(x, y) == pytest.approx(slow_frechet(x, y), rel=1e-7)


def test_frechet_is_safe_where_covariances_are_singular() -> None:
    """SciPy's root is inexact for fewer vectors than dimensions, so the expected values are known ones."""
    x = vectors(10, 50, 1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 50, rel=1e-9)
    assert frechet_distance(x, 3 * x - 2 * x.mean(axis=0)) == pytest.approx(
        4 * np.trace(np.cov(x, rowvar=False)), rel=1e-9
    )
    constant = np.ones((5, 50))
    assert frechet_distance(x, constant) == pytest.approx(slow_frechet_to_a_point(x, constant[0]), rel=1e-9)
    with pytest.raises(ValueError, match="at least 2 vectors in each set, not 1 and 10"):
        frechet_distance(x[:1], x)


def slow_frechet_to_a_point(x: np.ndarray, point: np.ndarray) -> float:
    return float(np.square(x.mean(axis=0) - point).sum() + np.trace(np.cov(x, rowvar=False)))


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_the_double_loop(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = vectors(25, 6, 3), vectors(30, 6, 4, shift=0.6)
    expected = slow_share(generated, real, k), slow_share(real, generated, k)
    assert 0 < expected[0] < 1 or 0 < expected[1] < 1
    assert precision_recall(generated, real, k) == expected
    monkeypatch.setattr(distributions, "ROWS", 7)
    assert precision_recall(generated, real, k) == expected


def test_precision_and_recall_of_known_sets() -> None:
    real = vectors(40, 6, 5)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real + 1000, real) == (0, 0)
    # Repetitions of one image are precise and cover almost nothing.
    precision, recall = precision_recall(np.repeat(real[:1], 40, axis=0), real)
    assert precision == 1
    assert recall <= 1 / 40
    with pytest.raises(ValueError, match="more than 3 vectors in each set, not 3 and 40"):
        precision_recall(real[:3], real)


def test_distances_between_directions() -> None:
    x = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    y = np.array([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine_distance(x, y), [0, 1, 1], atol=1e-12)
    many = vectors(12, 5, 6)
    pairs = [cosine_distance(many[i : i + 1], many[j : j + 1])[0] for i in range(12) for j in range(12) if i != j]
    assert mean_distance(many) == pytest.approx(np.mean(pairs), rel=1e-10)
    assert mean_distance(np.repeat(many[:1], 5, axis=0)) == pytest.approx(0, abs=1e-12)
    assert mean_distance(many[:1]) == 0
