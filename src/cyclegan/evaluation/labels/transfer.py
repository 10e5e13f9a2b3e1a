"""Whether translated images keep their class, where the data has labels.

For direction AtoB, with labeled images of both domains:

- transfer_accuracy: a classifier is trained on translated training images of A and their labels, and tested on the
  real test images of B: what the translation is worth to someone who has labels for A only.
- content_accuracy: a classifier is trained on the real training images of B with *their* labels, and tested on the
  translated test images of A: whether these still show what they did. It needs labels of the target.

Beside them stand the same without a translation (`identity`; its transfer_accuracy is known as "source only") and with
labels of the target (`supervised`: trained and tested on real images of B), which is about the most that can be
expected. The labels of B are used for measuring only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cyclegan.data.loading.dataset import Images, PackedDataset
from cyclegan.domains import DIRECTIONS, DOMAINS, Direction, Domain, Split
from cyclegan.evaluation.labels.classifier import DESCRIPTION, Classifier
from cyclegan.models.translator import Translator

METRICS = ("transfer_accuracy", "content_accuracy")


class Labeled:
    """Images and classes of a packed data set.

    Args:
        dataset: labeled, and all images of one size.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        self._dataset = dataset
        splits: tuple[Split, ...] = ("train", "test")
        names = {(domain, split): dataset.labels(domain, split) or [] for domain in DOMAINS for split in splits}
        self.classes = sorted({name for some in names.values() for name in some})
        number = {name: n for n, name in enumerate(self.classes)}
        self._labels = {place: np.array([number[name] for name in some]) for place, some in names.items()}

    def __call__(self, domain: Domain, split: Split) -> tuple[Images, Images]:
        """Images [N, H, W, C] and their classes [N], as numbers."""
        images = self._dataset.images(domain, split)
        assert isinstance(images, np.ndarray), "params refuse labels for images of their own sizes"
        return np.asarray(images), self._labels[domain, split]


def add_accuracies(
    metrics: dict[str, Any], translators: Mapping[Direction, Translator], dataset: PackedDataset, steps: int
) -> None:
    """Measure them, and put them beside the other metrics of an evaluation, with how it was done."""
    data = Labeled(dataset)
    for direction, found in accuracies(translators, data, steps).items():
        unchanged = metrics[direction].get("identity", {}) | found.pop("identity", {})
        metrics[direction] |= found | ({"identity": unchanged} if unchanged else {})
    metrics["protocol"]["classifier"] = {"network": DESCRIPTION, "steps": steps, "classes": len(data.classes)}


def accuracies(
    translators: Mapping[Direction, Translator], data: Labeled, steps: int
) -> dict[Direction, dict[str, Any]]:
    """Train four classifiers on the train split, and test them on the test split.

    Args:
        translators: one for each direction.
        data: labeled images. The training images of a domain, and their translations, are held in memory.
        steps: for which each classifier is trained.

    Returns:
        for each direction `transfer_accuracy` and `content_accuracy` in 0…1, each with its binomial standard error
        (`…_se`), and the same under `identity` (where both domains have equal channels) and `supervised`.
    """
    comparable = all(translator.channels == translator.channels_out for translator in translators.values())
    # On which test images each classifier is tested, by its training images: real ones of a domain, or translations.
    tests: dict[Domain | Direction, list[Domain | Direction]] = {
        "A": ["A", "B", "BtoA"] if comparable else ["A", "BtoA"],
        "B": ["B", "A", "AtoB"] if comparable else ["B", "AtoB"],
        "AtoB": ["B"],
        "BtoA": ["A"],
    }
    classifiers: dict[int, Classifier] = {}
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for number, (trained_on, places) in enumerate(tests.items(), 1):
        images, labels = _labeled(trained_on, "train", data, translators)
        channels = images.shape[-1]
        if channels not in classifiers:
            classifiers[channels] = Classifier(images.shape[1:], images.dtype, len(data.classes), steps)
        classifiers[channels].train(images, labels, f"classifier {number} of {len(tests)}, trained on {trained_on}")
        for place in places:
            images, labels = _labeled(place, "test", data, translators)
            share = classifiers[channels].accuracy(images, labels)
            found[trained_on, place] = share, binomial_error(share, len(labels))
    metrics: dict[Direction, dict[str, Any]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        metrics[direction] = _metric("transfer", *found[direction, target])
        metrics[direction] |= _metric("content", *found[target, direction])
        if comparable:
            unchanged = _metric("transfer", *found[source, target]) | _metric("content", *found[target, source])
            metrics[direction]["identity"] = unchanged
        metrics[direction]["supervised"] = _metric("transfer", *found[target, target])
    return metrics


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` images; one more hit and one more miss keep it above 0 at 0 and 1."""
    expected = (share * count + 1) / (count + 2)
    return math.sqrt(expected * (1 - expected) / count)


def _labeled(
    what: Domain | Direction, split: Split, data: Labeled, translators: Mapping[Direction, Translator]
) -> tuple[Images, Images]:
    """Real images of a domain, or the translations of a direction, and their classes."""
    if what == "A" or what == "B":
        return data(what, split)
    images, labels = data(DIRECTIONS[what][0], split)
    return translators[what].translate(images), labels


def _metric(name: str, share: float, error: float) -> dict[str, float]:
    return {f"{name}_accuracy": share, f"{name}_accuracy_se": error}
