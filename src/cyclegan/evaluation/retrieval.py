"""Image retrieval by features: the rank of a wanted image, and the most similar image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cyclegan.evaluation.distributions import ROWS, unit_vectors


def ranks(queries: np.ndarray, gallery: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rank of each query's wanted vector in a gallery that is ordered by cosine similarity.

    Args:
        queries: [N, D].
        gallery: [M, D].
        wanted: [N], the row of the gallery that each query should find.

    Returns:
        [N] int; 1 if the wanted vector is the most similar one. Among equally similar vectors the wanted one ranks
        last: a gallery of equal vectors is no success.
    """
    result = np.empty(len(queries), int)
    for part, similarity in _similarities(queries, gallery):
        own = similarity[np.arange(len(similarity)), wanted[part]]
        # The order of summation may change the last bits of equal vectors.
        result[part] = (similarity >= own[:, None] - 1e-12).sum(axis=1)
    return result


def nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The row of the most similar vector (by cosine) of the gallery [M, D], for each query [N, D]: [N] int."""
    rows = np.empty(len(queries), int)
    for part, similarity in _similarities(queries, gallery):
        rows[part] = similarity.argmax(axis=1)
    return rows


def _similarities(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield `ROWS` queries at a time: their slice, and their cosine similarity with the whole gallery."""
    vectors, others = unit_vectors(queries), unit_vectors(gallery).T
    for start in range(0, len(vectors), ROWS):
        part = slice(start, start + ROWS)
        yield part, vectors[part] @ others
