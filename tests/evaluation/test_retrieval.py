from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from cyclegan.evaluation.distributions import ROWS, unit_vectors
from cyclegan.evaluation.retrieval import nearest, ranks


def test_ranks_equal_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    queries, gallery, wanted = rng.normal(size=(9, 5)), rng.normal(size=(20, 5)), rng.integers(0, 20, 9)
    for n, place in enumerate(ranks(queries, gallery, wanted)):
        cosine = [q @ queries[n] / np.linalg.norm(q) for q in gallery]
        assert sorted(range(20), key=lambda i: -cosine[i]).index(wanted[n]) + 1 == place
        assert nearest(queries, gallery)[n] == int(np.argmax(cosine))


@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 300])
def test_rows_at_a_time_equal_all_at_once(count: int) -> None:
    rng = np.random.default_rng(1)
    queries, gallery, wanted = rng.normal(size=(count, 40)), rng.normal(size=(700, 40)), rng.integers(0, 700, count)
    # Some queries are near their wanted vector, some gallery vectors are equal, and one query is zero.
    queries[::3] = gallery[wanted[::3]] + 0.5 * queries[::3]
    gallery[1::10] = gallery[::10]
    queries[-1] = 0
    similarity = unit_vectors(queries) @ unit_vectors(gallery).T
    own = similarity[np.arange(count), wanted]
    np.testing.assert_array_equal(ranks(queries, gallery, wanted), (similarity >= own[:, None] - 1e-12).sum(axis=1))
    # The last bits decide between two equal vectors.
    np.testing.assert_array_equal(gallery[nearest(queries, gallery)], gallery[similarity.argmax(axis=1)])


@pytest.mark.parametrize("find", [lambda q, g: ranks(q, g, np.zeros(len(q), int)), nearest])
def test_memory_grows_with_the_images_and_not_with_their_pairs(
    find: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    vectors = np.random.default_rng(2).normal(size=(12 * ROWS, 4))
    tracemalloc.start()
    try:
        find(vectors, vectors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The similarity of all pairs would be twelve times as large as that of ROWS with all.
    assert peak < 3 * 8 * ROWS * len(vectors)


def test_ranks_ignore_the_length_of_vectors() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 5.0]])
    assert ranks(np.array([[0.1, 0.0], [3.0, 0.0]]), gallery, np.array([0, 1])).tolist() == [1, 2]


def test_a_gallery_of_equal_images_is_no_success() -> None:
    same = np.ones((6, 4))
    assert ranks(same, same, np.arange(6)).tolist() == [6] * 6
