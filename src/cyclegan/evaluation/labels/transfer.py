"""The accuracies that show whether translated images keep their class, for data with labels.

For direction AtoB, with labeled images of both domains:

- transfer_accuracy: trains a classifier on translated training images of A with their labels, and tests it on real
  test images of B. It shows the value of the translation to a user who has labels for A only.
- content_accuracy: trains a classifier on real training images of B with *their* labels, and tests it on translated
  test images of A. It shows whether they keep their content. It needs labels of the target.

Two baselines stand beside them:

- `identity`: the same without a translation; its transfer_accuracy is known as "source only".
- `supervised`: trained and tested on real images of B, which is about the upper limit.

The labels of B are used only to measure.
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
from cyclegan.system.progress_bar import progress_bar

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
        self.classes = sorted({name for labels in names.values() for name in labels})
        number = {name: n for n, name in enumerate(self.classes)}
        self._labels = {part: np.array([number[name] for name in labels]) for part, labels in names.items()}

    def __call__(self, domain: Domain, split: Split) -> tuple[Images, Images]:
        """The images [N, H, W, C] of a split and the numbers of their classes [N]."""
        images = self._dataset.images(domain, split)
        assert isinstance(images, np.ndarray), "params refuse labels for images of different sizes"
        return np.asarray(images), self._labels[domain, split]


def add_accuracies(
    metrics: dict[str, Any], translators: Mapping[Direction, Translator], dataset: PackedDataset, steps: int
) -> list[str]:
    """Add the accuracies to the metrics of an evaluation, and the classifier to its protocol.

    Returns:
        The names of the classes.
    """
    data = Labeled(dataset)
    for direction, values in accuracies(translators, data, steps).items():
        identity = metrics[direction].get("identity", {}) | values.pop("identity", {})
        metrics[direction] |= values | ({"identity": identity} if identity else {})
    metrics["protocol"]["classifier"] = {"network": DESCRIPTION, "steps": steps, "classes": len(data.classes)}
    return data.classes


def accuracies(
    translators: Mapping[Direction, Translator], data: Labeled, steps: int
) -> dict[Direction, dict[str, Any]]:
    """Train four classifiers on the train split, and test them on the test split.

    Args:
        translators: one for each direction.
        data: labeled images. The training images of one domain and their translations must fit into memory.
        steps: training steps of each classifier.

    Returns:
        For each direction `transfer_accuracy` and `content_accuracy` in 0…1, each with its binomial standard error
        (`…_se`), and the same under `identity` (if both domains have equal channels) and `supervised`. `confusion`
        holds the counts behind `content_accuracy`: a row for each true class, a column for each predicted one.
    """
    comparable = all(translator.channels == translator.channels_out for translator in translators.values())
    # The test images of each classifier, by its training images: real images of a domain, or translations.
    tests: dict[Domain | Direction, list[Domain | Direction]] = {
        "A": ["A", "B", "BtoA"] if comparable else ["A", "BtoA"],
        "B": ["B", "A", "AtoB"] if comparable else ["B", "AtoB"],
        "AtoB": ["B"],
        "BtoA": ["A"],
    }
    classifiers: dict[int, Classifier] = {}
    results: dict[tuple[str, str], tuple[float, float]] = {}
    confusions: dict[str, list[list[int]]] = {}
    for number, (trained_on, tested_on) in enumerate(tests.items(), 1):
        images, labels = _labeled(trained_on, "train", data, translators)
        channels = images.shape[-1]
        if channels not in classifiers:
            classifiers[channels] = Classifier(images.shape[1:], images.dtype, len(data.classes), steps)
        classifiers[channels].train(images, labels, f"classifier {number} of {len(tests)}, trained on {trained_on}")
        for test in tested_on:
            images, labels = _labeled(test, "test", data, translators)
            predicted = classifiers[channels].predict(images)
            share = float((predicted == labels).mean())
            results[trained_on, test] = share, binomial_error(share, len(labels))
            if test in DIRECTIONS:
                confusions[test] = confusion(labels, predicted, len(data.classes)).tolist()
    metrics: dict[Direction, dict[str, Any]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        metrics[direction] = _metric("transfer", *results[direction, target])
        metrics[direction] |= _metric("content", *results[target, direction])
        if comparable:
            identity = _metric("transfer", *results[source, target]) | _metric("content", *results[target, source])
            metrics[direction]["identity"] = identity
        metrics[direction]["supervised"] = _metric("transfer", *results[target, target])
        metrics[direction]["confusion"] = confusions[direction]
    return metrics


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each true class (row) were predicted as each class (column): [classes, classes]."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` images. One added hit and one added miss keep it above 0 at 0 and 1."""
    expected = (share * count + 1) / (count + 2)
    return math.sqrt(expected * (1 - expected) / count)


def _labeled(
    images_of: Domain | Direction, split: Split, data: Labeled, translators: Mapping[Direction, Translator]
) -> tuple[Images, Images]:
    """Real images of a domain, or the translations of a direction, and their classes."""
    if images_of == "A" or images_of == "B":
        return data(images_of, split)
    images, labels = data(DIRECTIONS[images_of][0], split)
    name = f"translating {split} images, {images_of}"
    with progress_bar(name, len(images), "image") as bar, translators[images_of].reporting(bar.update):
        return translators[images_of].translate(images), labels


def _metric(name: str, share: float, error: float) -> dict[str, float]:
    return {f"{name}_accuracy": share, f"{name}_accuracy_se": error}
