"""Whether translated pictures keep their class, where the data has labels.

For direction AtoB, with labelled pictures of both domains:

- transfer_accuracy: a classifier is trained on translated training pictures of A and their labels, and tested on the
  real test pictures of B: what the translation is worth to someone who has labels for A only.
- content_accuracy: a classifier is trained on the real training pictures of B with *their* labels, and tested on the
  translated test pictures of A: whether these still show what they did. It needs labels of the target.

Beside them stand the same without a translation (`identity`; its transfer_accuracy is known as "source only") and with
labels of the target (`supervised`: trained and tested on real pictures of B), which is about the most that can be
expected. The labels of B are used for measuring only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cyclegan.data.dataset import Images, PackedDataset
from cyclegan.domains import DIRECTIONS, DOMAINS, Direction, Domain, Split
from cyclegan.evaluation.classifier import DESCRIPTION, accuracy, train_classifier
from cyclegan.inference.translate import Translator

FIGURES = ("transfer_accuracy", "content_accuracy")


class Labelled:
    """Pictures and classes of a packed data set.

    Args:
        dataset: labelled, and all pictures of one size.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        self._dataset = dataset
        splits: tuple[Split, ...] = ("train", "test")
        names = {(domain, split): dataset.labels(domain, split) or [] for domain in DOMAINS for split in splits}
        self.classes = sorted({name for some in names.values() for name in some})
        number = {name: n for n, name in enumerate(self.classes)}
        self._labels = {place: np.array([number[name] for name in some]) for place, some in names.items()}

    def __call__(self, domain: Domain, split: Split) -> tuple[Images, Images]:
        """Pictures [N, H, W, C] and their classes [N], as numbers."""
        images = self._dataset.images(domain, split)
        assert isinstance(images, np.ndarray), "params refuse labels for pictures of their own sizes"
        return np.asarray(images), self._labels[domain, split]


def add_accuracies(
    metrics: dict[str, Any], translators: Mapping[Direction, Translator], dataset: PackedDataset, steps: int
) -> None:
    """Measure them, and put them beside the other figures of an evaluation, with how it was done."""
    data = Labelled(dataset)
    for direction, figures in accuracies(translators, data, steps).items():
        unchanged = metrics[direction].get("identity", {}) | figures.pop("identity", {})
        metrics[direction] |= figures | ({"identity": unchanged} if unchanged else {})
    metrics["protocol"]["classifier"] = {"network": DESCRIPTION, "steps": steps, "classes": len(data.classes)}


def accuracies(
    translators: Mapping[Direction, Translator], data: Labelled, steps: int
) -> dict[Direction, dict[str, Any]]:
    """Train four classifiers on the train split, and test them on the test split.

    Args:
        translators: one for each direction.
        data: labelled pictures. The training pictures of a domain, and their translations, are held in memory.
        steps: for which each classifier is trained.

    Returns:
        for each direction `transfer_accuracy` and `content_accuracy` in 0…1, each with its binomial standard error
        (`…_se`), and the same under `identity` (where both domains have equal channels) and `supervised`.
    """
    classes = len(data.classes)
    of_real = {domain: train_classifier(*data(domain, "train"), classes, steps) for domain in DOMAINS}
    figures: dict[Direction, dict[str, Any]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        translate = translators[direction].translate
        pictures, labels = data(source, "train")
        of_translated = train_classifier(translate(pictures), labels, classes, steps)
        pictures, labels = data(source, "test")
        figures[direction] = _figure("transfer", of_translated, *data(target, "test"))
        figures[direction] |= _figure("content", of_real[target], translate(pictures), labels)
        if translators[direction].channels == translators[direction].channels_out:
            figures[direction]["identity"] = _figure("transfer", of_real[source], *data(target, "test"))
            figures[direction]["identity"] |= _figure("content", of_real[target], pictures, labels)
        figures[direction]["supervised"] = _figure("transfer", of_real[target], *data(target, "test"))
    return figures


def _figure(name: str, classifier: Any, images: Images, labels: Images) -> dict[str, float]:
    share = accuracy(classifier, images, labels)
    return {f"{name}_accuracy": share, f"{name}_accuracy_se": math.sqrt(share * (1 - share) / len(labels))}
