"""Whether a picture can be found again among others by its features alone."""

from __future__ import annotations

import numpy as np

from cyclegan.evaluation.distributions import unit_vectors


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
    similarity = unit_vectors(queries) @ unit_vectors(gallery).T
    own = similarity[np.arange(len(queries)), sought]
    # Equal vectors may differ in the last bits, by the order of summation.
    return (similarity >= own[:, None] - 1e-12).sum(axis=1)


def nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Row of the most similar vector of the gallery [M, D], by cosine, for each query [N, D]: [N] int."""
    return (unit_vectors(queries) @ unit_vectors(gallery).T).argmax(axis=1)
