"""Distances between two sets of images, as feature vectors `[N, D]` float64 of one feature network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cyclegan.domains import DOMAINS

# Random halves that estimate KID's standard error.
SUBSETS = 100
# The least number of images in each set for that standard error.
FEWEST = 4
# The least number of images in each set for KID itself.
FEWEST_FOR_KID = 2
# k of precision and recall, as in Kynkäänniemi et al. 2019.
NEIGHBORS = 3
# Rows of a matrix of all pairs that are in memory at the same time.
ROWS = 512


@dataclass(frozen=True)
class Kid:
    """The kernel inception distance of two sets, and its standard error (NaN if a set has fewer than four vectors)."""

    value: float
    error: float


def lack_for_kid(counts: Mapping[str, int], split: str) -> str | None:
    """The reason why a split has no KID, such as `1 test image: no KID (needs 2)`; None if it has one.

    Args:
        counts: number of images of each domain in the split.
    """
    count = min(counts[domain] for domain in DOMAINS)
    if count >= FEWEST_FOR_KID:
        return None
    return f"{count} {split} image{'' if count == 1 else 's'}: no KID (needs {FEWEST_FOR_KID})"


def kid(features: np.ndarray, others: np.ndarray, seed: int = 0) -> Kid:
    """Kernel inception distance (Bińkowski et al. 2018): the unbiased squared MMD under k(x, y) = (x·y / D + 1)³.

    The estimate uses all vectors and not subsets: this gives the smallest variance and no randomness. It is unbiased
    and may therefore be below 0. The standard error is the standard deviation of the same estimate over `SUBSETS`
    random halves of both sets (Shao and Wu 1989, delete-half jackknife). It is rather too large for small sets.

    Args:
        features: [N, D]; N at least 2.
        others: [M, D]; M at least 2.
        seed: seed of the random halves.

    Raises:
        ValueError: a set has fewer than two vectors.
    """
    n, m = len(features), len(others)
    if min(n, m) < FEWEST_FOR_KID:
        raise ValueError(f"features: KID needs at least 2 vectors in each set, not {n} and {m}; add images")
    rng = np.random.default_rng(seed)
    # The first column selects all vectors, the others select the halves.
    chosen, chosen_others = _halves(n, rng), _halves(m, rng)
    within, within_others = _pair_sums(features, chosen), _pair_sums(others, chosen_others)
    between = _sums(features, others, chosen, chosen_others)
    sizes, other_sizes = chosen.sum(axis=0), chosen_others.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimates = (
            within / (sizes * (sizes - 1))
            + within_others / (other_sizes * (other_sizes - 1))
            - 2 * between / (sizes * other_sizes)
        )
    error = float(estimates[1:].std(ddof=1)) if min(n, m) >= FEWEST else float("nan")
    return Kid(float(estimates[0]), error)


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Fréchet distance of the normal distributions fitted to two sets (Dowson and Landau 1982; Heusel et al. 2017).

    It is |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½). With Σ = AAᵀ, the last trace is the sum of the singular values of
    A₁ᵀA₂. This avoids the root of an asymmetric, possibly singular matrix. The estimate is biased upwards, strongly if
    a set has fewer vectors than dimensions.

    Args:
        features: [N, D]; N at least 2.
        others: [M, D]; M at least 2.

    Raises:
        ValueError: a set has fewer than two vectors.
    """
    if min(len(features), len(others)) < 2:
        counts = f"{len(features)} and {len(others)}"
        raise ValueError(f"features: Fréchet distance needs at least 2 vectors in each set, not {counts}; add images")
    means = features.mean(axis=0), others.mean(axis=0)
    roots = [_root((x - mean) / np.sqrt(len(x) - 1)) for x, mean in zip((features, others), means, strict=True)]
    traces = sum(float(np.square(root).sum()) for root in roots)
    cross = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return float(np.square(means[0] - means[1]).sum()) + traces - 2 * cross


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Precision and recall of generated images (Kynkäänniemi et al. 2019).

    Each vector of a set is the center of a ball that reaches its k-th nearest neighbor in the set. Precision is the
    share of generated vectors inside a ball of the real set. Recall is the share of real vectors inside a ball of the
    generated set.

    Args:
        generated: [N, D], N > k.
        real: [M, D], M > k.
        neighbors: k.

    Returns:
        precision, recall, each in 0…1.

    Raises:
        ValueError: a set has at most k vectors.
    """
    if min(len(generated), len(real)) <= neighbors:
        counts = f"{len(generated)} and {len(real)}"
        raise ValueError(f"features: precision and recall need more than {neighbors} vectors in each set, not {counts}")
    return _covered(generated, real, neighbors), _covered(real, generated, neighbors)


def mean_distance(features: np.ndarray) -> float:
    """Diversity of a set: the mean cosine distance over all pairs, 0…2; 0 for one image."""
    n = len(features)
    if n < 2:
        return 0.0
    unit = unit_vectors(features)
    return 1 - (float(np.square(unit.sum(axis=0)).sum()) - float(np.square(unit).sum())) / (n * (n - 1))


def cosine_distance(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine distance of each row of `features` to the same row of `others`, both [N, D]: [N], 0…2."""
    return 1 - (unit_vectors(features) * unit_vectors(others)).sum(axis=1)


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """The vectors scaled to length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def _halves(count: int, rng: np.random.Generator) -> np.ndarray:
    """Selections of vectors, [count, 1 + SUBSETS] of 0 and 1: all of them, then random halves."""
    columns = [np.ones(count)]
    for _ in range(SUBSETS):
        column = np.zeros(count)
        column[rng.permutation(count)[: count // 2]] = 1
        columns.append(column)
    return np.stack(columns, axis=1)


def _kernel(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (features @ others.T / features.shape[1] + 1) ** 3


def _sums(features: np.ndarray, others: np.ndarray, chosen: np.ndarray, chosen_others: np.ndarray) -> np.ndarray:
    """The sum of the kernel over all chosen pairs, for each column of choices."""
    total = np.zeros(chosen.shape[1])
    for start in range(0, len(features), ROWS):
        part = slice(start, start + ROWS)
        total += (chosen[part] * (_kernel(features[part], others) @ chosen_others)).sum(axis=0)
    return total


def _pair_sums(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The sums of `_sums` within one set, without the pair of a vector and itself."""
    itself = (np.square(features).sum(axis=1) / features.shape[1] + 1) ** 3
    return _sums(features, features, chosen, chosen) - itself @ chosen


def _root(centered: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with RᵀR = XᵀX, for X [N, D]; X itself if N ≤ D."""
    count, dimensions = centered.shape
    return centered if count <= dimensions else np.asarray(np.linalg.qr(centered, mode="r"))


def _covered(features: np.ndarray, others: np.ndarray, neighbors: int) -> float:
    """The share of `features` that lies inside a ball of `others`; see `precision_recall`."""
    reach = np.concatenate(
        [
            # A vector is its own nearest neighbor at index 0, so index k is the k-th other vector.
            np.partition(_squared_distances(others[start : start + ROWS], others), neighbors, axis=1)[:, neighbors]
            for start in range(0, len(others), ROWS)
        ]
    )
    inside = [
        (_squared_distances(features[start : start + ROWS], others) <= reach).any(axis=1)
        for start in range(0, len(features), ROWS)
    ]
    return float(np.concatenate(inside).mean())


def _squared_distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs, [N, M]."""
    squares = np.square(features).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    return np.maximum(squares - 2 * features @ others.T, 0)
