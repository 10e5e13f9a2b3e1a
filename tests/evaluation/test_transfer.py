"""The classifier and the accuracies, on drawn shapes: bright on dark in domain A, dark on bright in domain B."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.domains import Direction, DomainNames
from cyclegan.evaluation.labels.classifier import Classifier
from cyclegan.evaluation.labels.transfer import Labeled, accuracies, add_accuracies, binomial_error, confusion
from cyclegan.evaluation.protocol import Evaluation, evaluate
from cyclegan.models.translator import Translator
from cyclegan.params import read, validate
from cyclegan.project import Project
from cyclegan.report.confusion import write_confusions
from cyclegan.report.evaluation_report import draw, write_reports
from cyclegan.stages.evaluate import baselines, headlines
from cyclegan.training.device import prepare_device

CLASSES = ("bar", "post", "ring")
STEPS = 80


def shape(name: str, random: np.random.Generator) -> np.ndarray:
    """A horizontal line, a vertical line or a square at a random place in noise, [16, 16] uint8."""
    image = random.integers(0, 40, (16, 16))
    top, left = random.integers(1, 8, 2)
    bright = random.integers(150, 256)
    if name == "bar":
        image[top : top + 2, left : left + 7] = bright
    elif name == "post":
        image[top : top + 7, left : left + 2] = bright
    else:
        image[top : top + 7, left : left + 7] = bright
        image[top + 2 : top + 5, left + 2 : left + 5] = 20
    return image.astype(np.uint8)


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [3 * count, 16, 16, 1] and their labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), count)
    return np.stack([shape(CLASSES[label], random) for label in labels])[..., None], labels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Labeled data as users have it: one folder for each class, packed by stage `split`."""
    root = tmp_path_factory.mktemp("shapes")
    project = Project(root=root, home=root)
    for seed, (part, count) in enumerate({"train": 50, "val": 1, "test": 20}.items()):
        for domain in "AB":
            images, labels = shapes(count, 10 * seed + (domain == "B"))
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                file = project.raw / f"{part}{domain}" / CLASSES[label] / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[..., 0] if domain == "A" else 255 - image[..., 0]).save(file)
    tree = read(Path(__file__).parents[2] / "params.yaml")
    tree["data"] |= {"load_size": 16, "channels_A": 1, "channels_B": 1, "labels": "folders"}
    tree["model"] |= {"generator": "resnet", "patch_layers": 1}
    tree["train"] |= {"crop_size": 16}
    split(validate(tree).data, project)
    return PackedDataset.open(project.split)


def generator(change: Callable[[Any], Any]) -> Translator:
    image = keras.Input((None, None, 1))
    return Translator(keras.Model(image, keras.layers.Lambda(change)(image)), batch_size=64)


@pytest.fixture(scope="module")
def translators() -> dict[Direction, Translator]:
    """AtoB inverts the brightness, in which the domains differ. BtoA also swaps horizontal and vertical lines."""
    return {
        "AtoB": generator(lambda x: -x),
        "BtoA": generator(lambda x: -keras.ops.transpose(x, (0, 2, 1, 3))),
    }


@pytest.fixture(scope="module")
def evaluation(dataset: PackedDataset, translators: dict[Direction, Translator]) -> Evaluation:
    evaluation = evaluate(translators, dataset, "test")
    add_accuracies(evaluation.metrics, translators, dataset, STEPS)
    return evaluation


@pytest.mark.usefixtures("deterministic")
def test_the_classifier_learns_and_repeats_itself() -> None:
    """A second training ends in the same weights, in a new network and after other images."""
    prepare_device(seed=0, deterministic=True)
    images, labels = shapes(50, 1)
    first, other = (Classifier((16, 16, 1), np.dtype(np.uint8), 3, STEPS) for _ in range(2))
    first.train(images, labels, "first")
    others, classes = shapes(40, 2)
    assert (first.predict(others) == classes).mean() > 0.9
    weights = first.model.get_weights()
    other.train(255 - images, labels, "other images")
    assert not np.array_equal(other.model.get_weights()[0], weights[0])
    other.train(images, labels, "again")
    for one, again in zip(weights, other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("size", "seen", "strides"), [((130, 300), (32, 75), 1), ((64, 64), (64, 64), 2), ((32, 32), (32, 32), 1)]
)
def test_the_classifier_shrinks_large_images(size: tuple[int, int], seen: tuple[int, int], strides: int) -> None:
    classifier = Classifier((*size, 1), np.dtype(np.uint8), 2, steps=1)
    (first, second, *_) = (layer for layer in classifier.model.layers if isinstance(layer, keras.layers.Conv2D))
    assert first.input.shape[1:3] == seen
    assert first.strides == (strides, strides)
    assert second.strides == (1, 1)


def test_one_network_serves_all_four_classifiers_and_each_is_announced(
    dataset: PackedDataset,
    translators: dict[Direction, Translator],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []
    real = Classifier.__init__
    monkeypatch.setattr(Classifier, "__init__", lambda self, *args: (built.append(args), real(self, *args))[1])
    accuracies(translators, Labeled(dataset), steps=1)
    assert len(built) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("classifier")] == [
        f"classifier {number} of 4, trained on {name}: 1 steps"
        for number, name in enumerate(("A", "B", "AtoB", "BtoA"), 1)
    ]
    assert len([line for line in lines if line.startswith("translating ")]) == 4


def test_the_right_translation_is_worth_labels_of_the_target(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics["AtoB"]
    assert metrics["supervised"]["transfer_accuracy"] > 0.9
    for name in ("transfer_accuracy", "content_accuracy"):
        assert metrics[name] > 0.9
        assert metrics["identity"][name] < 0.7
        expected = (60 * metrics[name] + 1) / 62
        assert metrics[f"{name}_se"] == pytest.approx(math.sqrt(expected * (1 - expected) / 60))


@pytest.mark.parametrize(("share", "count", "error"), [(1.0, 1, 0.4714), (0.0, 60, 0.0163), (0.5, 10000, 0.005)])
def test_an_accuracy_always_has_an_error(share: float, count: int, error: float) -> None:
    """An accuracy of 0 or 1 over few images is uncertain too."""
    assert binomial_error(share, count) == pytest.approx(error, abs=5e-5)


def test_a_translation_that_changes_the_class_has_a_low_accuracy(evaluation: Evaluation) -> None:
    """The set of its outputs equals the target domain, so metrics of sets do not detect the change."""
    metrics = evaluation.metrics["BtoA"]
    assert metrics["supervised"]["transfer_accuracy"] > 0.9
    for name in ("transfer_accuracy", "content_accuracy"):
        # Only the squares keep their class, a third of the images.
        assert metrics[name] < 0.45


def test_the_identity_baseline_is_one_classifier_on_the_other_domain(evaluation: Evaluation) -> None:
    """Transfer accuracy of one direction is content accuracy of the other."""
    unchanged = {direction: evaluation.metrics[direction]["identity"] for direction in ("AtoB", "BtoA")}
    assert unchanged["AtoB"]["transfer_accuracy"] == unchanged["BtoA"]["content_accuracy"]
    assert unchanged["BtoA"]["transfer_accuracy"] == unchanged["AtoB"]["content_accuracy"]


def test_the_confusion_has_a_row_for_each_true_class(evaluation: Evaluation, tmp_path: Path) -> None:
    for direction in ("AtoB", "BtoA"):
        counts = np.array(evaluation.metrics[direction]["confusion"])
        assert counts.shape == (3, 3)
        assert np.trace(counts) / counts.sum() == evaluation.metrics[direction]["content_accuracy"]
    np.testing.assert_array_equal(confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2), [[1, 1], [0, 1]])
    write_confusions(tmp_path, evaluation.metrics, ["x", "y", "z"], DomainNames("day", "night"))
    assert {file.name for file in tmp_path.iterdir()} == {"AtoB.png", "BtoA.png"}
    write_confusions(tmp_path, {"AtoB": {}, "BtoA": {}}, [])
    assert list(tmp_path.iterdir()) == []


def test_the_accuracies_stand_beside_the_other_metrics(
    dataset: PackedDataset, translators: dict[Direction, Translator], evaluation: Evaluation, tmp_path: Path
) -> None:
    metrics = evaluation.metrics["AtoB"]
    assert {"cycle_l1", "change_l1"} < set(metrics)
    assert metrics["identity"]["change_l1"] == 0
    assert evaluation.metrics["protocol"]["classifier"]["classes"] == 3
    named = headlines(evaluation.metrics)
    for name in ("transfer_accuracy", "content_accuracy"):
        assert named[f"test_AtoB/{name}"] == metrics[name]
        assert baselines(evaluation.metrics)[f"test_AtoB/{name}"] == metrics["identity"][name]
    write_reports(tmp_path, evaluation, draw(translators, dataset, evaluation, 2), title="shapes", run={})
    page = " ".join((tmp_path / "report.html").read_text().split())
    row = page.split('<th scope="row">Trained on translations')[1].split("</tr>")[0]
    assert f">{metrics['transfer_accuracy']:.4f} ± {metrics['transfer_accuracy_se']:.4f}</td>" in row
    row = page.split('<th scope="row">Only real images')[1].split("</tr>")[0]
    assert f">{metrics['supervised']['transfer_accuracy']:.4f} ± " in row
    assert "a classifier of 3 classes" in page
    assert json.loads((tmp_path / "details.json").read_text())["AtoB"]["supervised"] == metrics["supervised"]
