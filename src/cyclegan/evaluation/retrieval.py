"""Whether an image can be found again among others by its features alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cyclegan.evaluation.distributions import ROWS, unit_vectors


def ranks(queries: np.ndarray, gallery: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """At which place each query finds what it seeks, when a gallery is ordered by cosine similarity.

    Args:
        queries: [N, D].
        gallery: [M, D].
        sought: [N], rows of the gallery.

    Returns:
        [N] int: 1 where the sought vector is the most similar one. Of equally similar vectors the sought one counts
        as the last, so that a gallery of equal vectors is no success.
    """
    places = np.empty(len(queries), int)
    for part, similarity in _similarities(queries, gallery):
        own = similarity[np.arange(len(similarity)), sought[part]]
        # Equal vectors may differ in the last bits, by the order of summation.
        places[part] = (similarity >= own[:, None] - 1e-12).sum(axis=1)
    return places


def nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Row of the most similar vector of the gallery [M, D], by cosine, for each query [N, D]: [N] int."""
    rows = np.empty(len(queries), int)
    for part, similarity in _similarities(queries, gallery):
        rows[part] = similarity.argmax(axis=1)
    return rows


def _similarities(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The cosine similarity of `ROWS` queries at a time with the whole gallery, and which queries these are."""
    vectors, others = unit_vectors(queries), unit_vectors(gallery).T
    for start in range(0, len(vectors), ROWS):
        part = slice(start, start + ROWS)
        yield part, vectors[part] @ others
