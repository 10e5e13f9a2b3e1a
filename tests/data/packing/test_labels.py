from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan import params
from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from refusals import Facts, holds

Build = Callable[..., params.Data]
Paint = Callable[..., Path]


def paint_apart(project: Project, paint: Paint, **folders: int) -> None:
    """Different images in each folder."""
    seed = 0
    for folder, count in folders.items():
        for n in range(count):
            seed += 1
            paint(project.raw / folder / f"{n}.png", seed)


def test_each_image_has_its_folders_class(project: Project, data: Build, paint: Paint) -> None:
    paint_apart(project, paint, **{"trainA/7": 5, "trainA/0/old": 3, "trainA/0": 4, "trainB/0": 6, "trainB/7": 5})
    split(data(labels="folders"), project)
    dataset = PackedDataset.open(project.split)
    assert set(dataset.manifest["label"]) == {"0", "7"}
    for domain in ("A", "B"):
        for part in ("train", "val", "test"):
            files = dict(zip(dataset.manifest["id"], dataset.manifest["file"], strict=True))
            expected = [files[name].split("/")[1] for name in dataset.ids(domain, part)]
            assert dataset.labels(domain, part) == expected
    summary = json.loads((project.reports / "split.json").read_text())
    assert [summary[domain]["classes"] for domain in "AB"] == [{"0": 7, "7": 5}, {"0": 6, "7": 5}]


def test_one_class_in_two_forms_of_unicode(project: Project, data: Build, paint: Paint) -> None:
    composed, decomposed = (unicodedata.normalize(form, "bäume") for form in ("NFC", "NFD"))
    folders = {"trainA/x": 5, f"trainA/{composed}": 5, "trainB/x": 5, f"trainB/{decomposed}": 5}
    paint_apart(project, paint, **folders)
    split(data(labels="folders"), project)
    assert set(PackedDataset.open(project.split).manifest["label"]) == {"x", composed}


def test_folders_are_no_labels_by_default(project: Project, data: Build, paint: Paint) -> None:
    paint_apart(project, paint, **{"trainA/7": 5, "trainA": 3, "trainB/0": 6})
    split(data(), project)
    dataset = PackedDataset.open(project.split)
    assert dataset.labels("A", "train") is None
    assert "classes" not in json.loads((project.reports / "split.json").read_text())["A"]


def test_both_halves_of_a_pair_have_one_class(project: Project, data: Build, paint: Paint) -> None:
    for n in range(12):
        paint(project.raw / "train" / "ab"[n % 2] / f"{n}.png", n, width=40, height=20)
    split(data(labels="folders"), project)
    dataset = PackedDataset.open(project.split)
    assert dataset.labels("A", "train") == dataset.labels("B", "train")
    assert set(dataset.labels("A", "train") or []) == {"a", "b"}


@pytest.mark.parametrize(
    ("folders", "facts"),
    [
        (
            {"trainA/x": 5, "trainA": 2, "trainB/x": 6},
            ["data.labels: folders", 2, 13, "trainA/0.png, trainA/1.png", "trainA/CLASS/", "data.labels: none"],
        ),
        (
            {"trainA/x": 5, "trainA/y": 5, "trainB/x": 6},
            ["data.labels: folders", "domain B lacks", 1, 2, ": y;", "data.labels: none"],
        ),
        (
            {"trainA/x": 5, **{f"trainB/{name}": 1 for name in "abcdefx"}},
            ["data.labels: folders", "domain A lacks", 6, 7, "a, b, c, d, e, …", "data.labels: none"],
        ),
        (
            {"trainA/x": 5, "trainB/x": 6},
            ["data.labels: folders", "one class", "x", "two", "data.labels: none"],
        ),
    ],
)
def test_missing_labels_are_refused(
    project: Project, data: Build, paint: Paint, folders: dict[str, int], facts: Facts
) -> None:
    paint_apart(project, paint, **folders)
    with pytest.raises(UserError) as refused:
        split(data(labels="folders"), project)
    message = str(refused.value)
    assert all(holds(message, fact) for fact in facts), message
    assert "\n" not in message
    assert not project.split.exists()
