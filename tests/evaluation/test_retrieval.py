from __future__ import annotations

import numpy as np

from cyclegan.evaluation.retrieval import nearest, ranks


def test_ranks_equal_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    queries, gallery, sought = rng.normal(size=(9, 5)), rng.normal(size=(20, 5)), rng.integers(0, 20, 9)
    for n, place in enumerate(ranks(queries, gallery, sought)):
        cosine = [q @ queries[n] / np.linalg.norm(q) for q in gallery]
        assert sorted(range(20), key=lambda i: -cosine[i]).index(sought[n]) + 1 == place
        assert nearest(queries, gallery)[n] == int(np.argmax(cosine))


def test_length_does_not_count() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 5.0]])
    assert ranks(np.array([[0.1, 0.0], [3.0, 0.0]]), gallery, np.array([0, 1])).tolist() == [1, 2]


def test_a_gallery_of_equal_pictures_is_no_success() -> None:
    same = np.ones((6, 4))
    assert ranks(same, same, np.arange(6)).tolist() == [6] * 6
