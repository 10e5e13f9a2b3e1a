"""How far two sets of images are apart, as sets of feature vectors `[N, D]` float64 from one feature network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cyclegan.domains import DOMAINS

SUBSETS = 100
"""Random halves from which KID's standard error is estimated."""
FEWEST = 4
"""Images of each set that these halves take."""
FEWEST_FOR_KID = 2
"""Images of each set that KID itself takes."""
NEIGHBORS = 3
"""k of precision and recall, as in Kynkäänniemi et al. 2019."""
ROWS = 512
"""Rows of a matrix of all pairs that are held in memory at once."""


@dataclass(frozen=True)
class Kid:
    """The kernel inception distance of two sets, and its standard error (NaN where a set has under four vectors)."""

    value: float
    error: float


def lack_for_kid(counts: Mapping[str, int], split: str) -> str | None:
    """Why a split has no KID, as `1 test image: no KID (needs 2)`; None where it has one.

    Args:
        counts: how many images of each domain are in the split.
    """
    count = min(counts[domain] for domain in DOMAINS)
    if count >= FEWEST_FOR_KID:
        return None
    return f"{count} {split} image{'' if count == 1 else 's'}: no KID (needs {FEWEST_FOR_KID})"


def kid(features: np.ndarray, others: np.ndarray, seed: int = 0) -> Kid:
    """Kernel inception distance (Bińkowski et al. 2018): the unbiased squared MMD under k(x, y) = (x·y / D + 1)³.

    Over all vectors rather than over subsets, so that it has the smallest variance and no chance in it; being unbiased,
    it may be below 0. The standard error is the standard deviation of the same estimate over `SUBSETS` random halves
    of both sets (Shao and Wu 1989, delete-half jackknife): rather too large than too small where the sets are few.

    Args:
        features: [N, D]; N at least 2.
        others: [M, D]; M at least 2.
        seed: of the random halves.

    Raises:
        ValueError: a set has fewer than two vectors.
    """
    n, m = len(features), len(others)
    if min(n, m) < FEWEST_FOR_KID:
        raise ValueError(f"KID needs two vectors on each side, not {n} and {m}")
    rng = np.random.default_rng(seed)
    # The first column is everything, the others are the halves.
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

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½). With Σ = AAᵀ, the last trace is the sum of the singular values of A₁ᵀA₂, so
    that no root of an unsymmetric, possibly singular matrix is taken. Biased upwards, strongly so where a set has
    fewer vectors than dimensions.

    Args:
        features: [N, D]; N at least 2.
        others: [M, D]; M at least 2.

    Raises:
        ValueError: a set has fewer than two vectors.
    """
    if min(len(features), len(others)) < 2:
        raise ValueError(f"the Fréchet distance needs two vectors on each side, not {len(features)} and {len(others)}")
    means = features.mean(axis=0), others.mean(axis=0)
    roots = [_root((x - mean) / np.sqrt(len(x) - 1)) for x, mean in zip((features, others), means, strict=True)]
    traces = sum(float(np.square(root).sum()) for root in roots)
    cross = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return float(np.square(means[0] - means[1]).sum()) + traces - 2 * cross


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Precision and recall of generated images (Kynkäänniemi et al. 2019).

    Around each vector of a set lies a ball that reaches its k-th nearest neighbor in the set. Precision is the share
    of generated vectors in some ball of the real ones; recall that of real vectors in some ball of the generated ones.

    Args:
        generated: [N, D]; N above k.
        real: [M, D]; M above k.
        neighbors: k.

    Returns:
        precision, recall, each in 0…1.

    Raises:
        ValueError: a set has no more than k vectors.
    """
    if min(len(generated), len(real)) <= neighbors:
        raise ValueError(f"precision and recall need more than {neighbors} vectors on each side")
    return _covered(generated, real, neighbors), _covered(real, generated, neighbors)


def mean_distance(features: np.ndarray) -> float:
    """How different the images of a set are: the mean cosine distance over all pairs, 0…2; 0 for one image."""
    n = len(features)
    if n < 2:
        return 0.0
    unit = unit_vectors(features)
    return 1 - (float(np.square(unit.sum(axis=0)).sum()) - float(np.square(unit).sum())) / (n * (n - 1))


def cosine_distance(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each vector [N, D] to the other of the same row, 1 - cosine, 0…2: [N]. Image against image."""
    return 1 - (unit_vectors(features) * unit_vectors(others)).sum(axis=1)


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """The vectors at length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def _halves(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 1 + SUBSETS] of 0 and 1: everything, then random halves."""
    columns = [np.ones(count)]
    for _ in range(SUBSETS):
        column = np.zeros(count)
        column[rng.permutation(count)[: count // 2]] = 1
        columns.append(column)
    return np.stack(columns, axis=1)


def _kernel(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (features @ others.T / features.shape[1] + 1) ** 3


def _sums(features: np.ndarray, others: np.ndarray, chosen: np.ndarray, chosen_others: np.ndarray) -> np.ndarray:
    """For each column of choices the sum of the kernel over all chosen pairs."""
    total = np.zeros(chosen.shape[1])
    for start in range(0, len(features), ROWS):
        part = slice(start, start + ROWS)
        total += (chosen[part] * (_kernel(features[part], others) @ chosen_others)).sum(axis=0)
    return total


def _pair_sums(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """As `_sums` within one set, without a vector's pair with itself."""
    itself = (np.square(features).sum(axis=1) / features.shape[1] + 1) ** 3
    return _sums(features, features, chosen, chosen) - itself @ chosen


def _root(centerd: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with RᵀR = XᵀX, for X [N, D]: X itself where it is as small."""
    count, dimensions = centerd.shape
    return centerd if count <= dimensions else np.asarray(np.linalg.qr(centerd, mode="r"))


def _covered(features: np.ndarray, others: np.ndarray, neighbors: int) -> float:
    """The share of `features` within the k-th neighbor's reach of some vector of `others`."""
    reach = np.concatenate(
        [
            # A vector is its own nearest neighbor, and is passed over.
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
    """[N, M]."""
    squares = np.square(features).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    return np.maximum(squares - 2 * features @ others.T, 0)
